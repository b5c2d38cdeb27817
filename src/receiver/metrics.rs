//! The boxes and the receiver itself as OpenMetrics text, for Prometheus.

use super::fleet::Seen;
use super::listener::Stats;
use crate::media::health::{LATENESS_BOUNDS_US, Lateness, TrackHealth};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What the text is served as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counts beyond this cannot be right, and their sums must not overflow.
const MOST: u64 = 1 << 53;

type Labels = Vec<(&'static str, String)>;

/// One look at all that is measured.
#[derive(Debug)]
struct Look {
    boxes: Vec<Seen>,
    stats: Arc<Stats>,
}

/// The text.
pub fn text(boxes: Vec<Seen>, stats: Arc<Stats>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Look { boxes, stats }));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

fn of_box(seen: &Seen) -> Labels {
    vec![
        ("box", seen.box_id.to_string()),
        ("room", seen.room.clone()),
    ]
}

fn of_track(seen: &Seen, track: &TrackHealth) -> Labels {
    let mut labels = of_box(seen);
    labels.push(("track", track.track.0.to_string()));
    labels.push(("name", track.name.clone()));
    labels
}

/// One metric with the values it has now.
fn family<T>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, kind): (&str, &str, MetricType),
    values: impl IntoIterator<Item = (Labels, T)>,
    encode: impl Fn(MetricEncoder<'_>, T) -> fmt::Result,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in values {
        encode(metric.encode_family(&labels)?, value)?;
    }
    Ok(())
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels, f64)>,
) -> fmt::Result {
    let about = (name, help, MetricType::Gauge);
    family(encoder, about, values, |mut metric, value| {
        metric.encode_gauge(&value)
    })
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels, f64)>,
) -> fmt::Result {
    let about = (name, help, MetricType::Counter);
    family(encoder, about, values, |mut metric, value| {
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    })
}

fn histogram(mut metric: MetricEncoder<'_>, lateness: Lateness) -> fmt::Result {
    let bounds = LATENESS_BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
    let counts = lateness.counts.iter().map(|count| (*count).min(MOST));
    let buckets: Vec<_> = bounds.chain([f64::INFINITY]).zip(counts.clone()).collect();
    let sum = lateness.sum as f64 / 1e6;
    metric.encode_histogram::<NoLabelSet>(sum, counts.sum(), &buckets, None)
}

impl Collector for Look {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let e = &mut encoder;
        self.receiver(e)?;
        let all = |value: fn(&Seen) -> f64| self.boxes.iter().map(move |s| (of_box(s), value(s)));
        gauges(
            e,
            "hallcast_box_up",
            "1 while the box is connected and says how it is",
            all(|s| f64::from(u8::from(s.current))),
        )?;
        // What a box said that is gone is not how it is.
        let current = || self.boxes.iter().filter(|seen| seen.current);
        let each = |value: fn(&Seen) -> Option<f64>| {
            current().filter_map(move |seen| Some((of_box(seen), value(seen)?)))
        };
        gauges(
            e,
            "hallcast_box_recording",
            "1 while the box records",
            each(|s| Some(f64::from(u8::from(s.health.state == "recording")))),
        )?;
        gauges(
            e,
            "hallcast_box_fault",
            "1 while the box cannot keep what it captures",
            each(|s| Some(f64::from(u8::from(s.health.state == "fault")))),
        )?;
        gauges(
            e,
            "hallcast_box_spool_waiting_bytes",
            "Bytes that the archive does not hold yet",
            each(|s| s.health.waiting_bytes.map(|n| n as f64)),
        )?;
        gauges(
            e,
            "hallcast_box_spool_left_seconds",
            "What can still be recorded at the full rate",
            each(|s| s.health.seconds_left.map(|n| n as f64)),
        )?;
        gauges(
            e,
            "hallcast_box_sync_p99_seconds",
            "99 of 100 syncs to the disk take no longer",
            each(|s| s.health.sync_p99_ms.map(|n| n as f64 / 1e3)),
        )?;
        gauges(
            e,
            "hallcast_box_offers_waiting",
            "Names of chunks and segments that the uplink has not taken",
            each(|s| Some(s.health.offers_waiting as f64)),
        )?;
        gauges(
            e,
            "hallcast_box_resident_bytes",
            "Memory of the box's process",
            each(|s| Some(s.health.resident_bytes as f64)),
        )?;
        let alarms = current().flat_map(|seen| {
            seen.health.alarms.iter().map(|alarm| {
                let mut labels = of_box(seen);
                labels.push(("code", alarm.code.clone()));
                labels.push((
                    "track",
                    alarm.track.map_or_else(String::new, |t| t.0.to_string()),
                ));
                (labels, 1.0)
            })
        });
        gauges(
            e,
            "hallcast_box_alarm",
            "1 for each alarm that stands",
            alarms,
        )?;

        let tracks =
            || current().flat_map(|s| s.health.tracks.iter().map(move |t| (of_track(s, t), t)));
        let every = |value: fn(&TrackHealth) -> Option<f64>| {
            tracks().filter_map(move |(labels, track)| Some((labels, value(track)?)))
        };
        gauges(
            e,
            "hallcast_track_open",
            "1 while the track's device is open",
            every(|t| Some(f64::from(u8::from(t.open)))),
        )?;
        counters(
            e,
            "hallcast_track_ticks",
            "Pictures, or packets of 1024 samples, of the recording",
            every(|t| Some(t.ticks as f64)),
        )?;
        let reasons = |of: fn(&TrackHealth) -> Vec<(&'static str, u64)>| {
            tracks().flat_map(move |(labels, track)| {
                of(track).into_iter().map(move |(reason, count)| {
                    let mut labels = labels.clone();
                    labels.push(("reason", reason.to_owned()));
                    (labels, count as f64)
                })
            })
        };
        counters(
            e,
            "hallcast_track_repeats",
            "Ticks that show the picture before",
            reasons(|t| {
                vec![
                    ("slower_source", t.repeats.slower_source),
                    ("no_picture", t.repeats.no_picture),
                    ("before_first", t.repeats.before_first),
                ]
            }),
        )?;
        counters(
            e,
            "hallcast_track_drops",
            "Pictures that no tick shows",
            reasons(|t| {
                vec![
                    ("faster_source", t.drops.faster_source),
                    ("late", t.drops.late),
                    ("before_start", t.drops.before_start),
                    ("out_of_order", t.drops.out_of_order),
                    ("not_polled", t.drops.not_polled),
                    ("ring", t.ring_dropped),
                    ("device", t.device_lost),
                ]
            }),
        )?;
        counters(
            e,
            "hallcast_track_gaps",
            "Gaps in the recording",
            every(|t| Some(t.gaps as f64)),
        )?;
        counters(
            e,
            "hallcast_track_gap_seconds",
            "How long they are together",
            every(|t| Some(t.gap_ms as f64 / 1e3)),
        )?;
        counters(
            e,
            "hallcast_track_xruns",
            "Times that sound was lost because nobody took it",
            every(|t| Some(t.xruns as f64)),
        )?;
        counters(
            e,
            "hallcast_track_silence_samples",
            "Silence put in for what the card lost",
            every(|t| Some(t.silence as f64)),
        )?;
        counters(
            e,
            "hallcast_track_keeper_waits",
            "Times that the track waited for the keeper",
            every(|t| Some(t.keeper_waits as f64)),
        )?;
        gauges(
            e,
            "hallcast_track_ring_waiting",
            "Pictures or blocks before the pacer",
            every(|t| Some(t.ring_waiting as f64)),
        )?;
        gauges(
            e,
            "hallcast_track_clock_error_ppm",
            "The card's error against the box's clock",
            every(|t| t.ppm.map(|ppm| f64::from(ppm) / 100.0)),
        )?;
        let lateness = tracks().filter_map(|(labels, track)| Some((labels, track.lateness?)));
        let about = (
            "hallcast_track_tick_lateness_seconds",
            "From a tick to the decision which picture it shows",
            MetricType::Histogram,
        );
        family(e, about, lateness, histogram)?;
        let levels = || {
            current().flat_map(|seen| {
                seen.health.levels.iter().filter_map(move |level| {
                    let track = seen.health.tracks.iter().find(|t| t.track == level.track)?;
                    Some((of_track(seen, track), level))
                })
            })
        };
        let decibel = |hundredths: i32| f64::from(hundredths) / 100.0;
        gauges(
            e,
            "hallcast_track_peak_dbfs",
            "The loudest sample of the last chunk; absent in silence",
            levels().map(|(l, level)| (l, decibel(level.peak))),
        )?;
        gauges(
            e,
            "hallcast_track_rms_dbfs",
            "How loud the last chunk is; absent in silence",
            levels().map(|(l, level)| (l, decibel(level.rms))),
        )
    }
}

impl Look {
    fn receiver(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let stats = &self.stats;
        for (name, help, count) in [
            (
                "sessions_admitted",
                "Connections whose box was let in",
                &stats.admitted,
            ),
            ("sessions_refused", "Connections refused", &stats.refused),
            (
                "segments",
                "Segments made durable, of sessions that are over",
                &stats.segments,
            ),
            (
                "segment_bytes",
                "Bytes of segments received, of sessions that are over",
                &stats.bytes,
            ),
            (
                "streams_refused",
                "Streams that left nothing, of sessions that are over",
                &stats.streams_refused,
            ),
            (
                "cloned",
                "Times that two processes with one box's key were found",
                &stats.cloned,
            ),
        ] {
            let value = count.load(Ordering::Relaxed) as f64;
            counters(
                e,
                &format!("hallcast_receiver_{name}"),
                help,
                [(Labels::new(), value)],
            )?;
        }
        Ok(())
    }
}
