//! What an earlier run left of a recording: where it stopped, on which clocks, and so for how long the
//! box was away.
//!
//! Read from the spool alone: the facts of the recording's last span, and the end of the last chunk
//! that was kept. A file's date is not asked: a wrong clock wrote it.

use crate::media::{
    Event, Fact, GapCause, GapLength, MediaTime, Monotonic, RecordingId, SegmentKey, Timescale,
    TrackId, WallClock,
};
use crate::mp4::{Content, parse_segment};
use crate::segmenter::read_facts;
use crate::source;
use crate::spool::Spool;
use std::collections::BTreeMap;
use std::time::Duration;

/// How far off a length may be that CLOCK_BOOTTIME measured within one boot.
const BOOT_ERROR: Duration = Duration::from_millis(1);

/// Where a span begins on the clocks that outlive a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// UTC, where it is known.
    pub(super) wall: Option<WallClock>,
    /// The boot, and the nanoseconds since, suspend included.
    pub(super) boot: Option<([u8; 16], u64)>,
}

/// The last span of a recording that is taken up again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Past {
    /// Where it begins.
    pub(super) start: Place,
    /// Nanoseconds of it that were kept.
    pub(super) kept_nanos: u64,
    /// Nanoseconds recorded in the spans before it.
    pub(super) before_nanos: u64,
    /// How much may be recorded, where the recording was extended.
    pub(super) extended: Option<Duration>,
    /// It ended with a pause that nobody has ended.
    pub(super) paused: bool,
}

impl Past {
    /// What the spool says; `None` for a recording without a span.
    pub(super) fn read(spool: &Spool, recording: RecordingId) -> Option<Self> {
        let state = spool.state(recording)?;
        let span = state.opened?.span;
        let mut past = Self::default();
        for &track in state.tracks.keys() {
            for bytes in latest_first(spool, recording, track) {
                if track == TrackId::EVENTS {
                    // The facts of a span begin with its `Span`.
                    if past.learn(&bytes, span) {
                        break;
                    }
                } else if !bytes.is_empty() {
                    let end = end_of(&bytes, span).map(|(end, scale)| end.as_nanos(scale));
                    let end = end.and_then(|nanos| u64::try_from(nanos).ok());
                    past.kept_nanos = past.kept_nanos.max(end.unwrap_or(0));
                    break;
                }
            }
        }
        Some(past)
    }

    /// Takes a batch of facts in, the latest first; true once the span's beginning was in it.
    fn learn(&mut self, segment: &[u8], wanted: u32) -> bool {
        let mut begun = false;
        for fact in read_facts(segment).unwrap_or_default().into_iter().rev() {
            match fact.event {
                Event::SpanPlaced { span, wall, .. } if span == wanted => {
                    self.start.wall.get_or_insert(wall);
                }
                Event::Span { wall, .. } if fact.span == wanted => {
                    let known = wall.filter(|wall| wall.uncertainty.is_some());
                    self.start.wall = self.start.wall.or(known);
                    begun = true;
                }
                Event::Run {
                    boot,
                    boot_nanos,
                    recorded_nanos,
                } if fact.span == wanted => {
                    self.start.boot = boot.map(|boot| (boot, boot_nanos));
                    self.before_nanos = recorded_nanos;
                }
                Event::Paused if fact.span == wanted => self.paused = true,
                Event::Extended { recorded_nanos } if fact.span == wanted => {
                    let most = Duration::from_nanos(recorded_nanos);
                    self.extended.get_or_insert(most);
                }
                _ => begun |= fact.span < wanted,
            }
        }
        begun
    }

    /// All that was recorded so far.
    pub(super) fn recorded(&self) -> Duration {
        Duration::from_nanos(self.before_nanos.saturating_add(self.kept_nanos))
    }

    /// How long the box was away until a span that starts at `next`: by the boot's clock where both are
    /// of one boot, else by UTC where it is known of both.
    pub(super) fn away(&self, next: &Place) -> GapLength {
        let kept = i64::try_from(self.kept_nanos).unwrap_or(i64::MAX);
        let known = |nanos: i64, error: Duration| GapLength::Known {
            nanos: u64::try_from(nanos).unwrap_or(0),
            uncertainty_nanos: u64::try_from(error.as_nanos()).unwrap_or(u64::MAX),
        };
        if let (Some((then, start)), Some((now, next))) = (self.start.boot, next.boot)
            && then == now
        {
            let since = Monotonic::from_nanos(next).offset_from(Monotonic::from_nanos(start));
            return known(since.saturating_sub(kept), BOOT_ERROR);
        }
        let error = |wall: WallClock| wall.uncertainty.map(|error| (wall.unix_nanos, error));
        match (self.start.wall.and_then(error), next.wall.and_then(error)) {
            (Some((start, first)), Some((next, second))) => {
                let nanos = next.saturating_sub(start).saturating_sub(kept);
                known(nanos, first.saturating_add(second))
            }
            _ => GapLength::Unknown,
        }
    }
}

/// Whether a recording does not survive a gap: only if it was certainly longer than `within`.
pub(super) fn is_too_long(gap: GapLength, within: Duration) -> bool {
    match gap {
        GapLength::Unknown => false,
        GapLength::Known {
            nanos,
            uncertainty_nanos,
        } => u128::from(nanos.saturating_sub(uncertainty_nanos)) > within.as_nanos(),
    }
}

/// The gaps that were open when the last span was cut off: of each device whose alarm stood then, from
/// the alarm to the end of what was kept of its track.
pub(super) fn open_gaps(spool: &Spool, recording: RecordingId) -> Vec<Fact> {
    let Some(span) = spool.state(recording).and_then(|state| state.opened) else {
        return Vec::new();
    };
    let span = span.span;
    // The last word on each track: since when it gives nothing, and why.
    let mut last = BTreeMap::<TrackId, Option<(u64, GapCause)>>::new();
    for bytes in latest_first(spool, recording, TrackId::EVENTS) {
        let facts = read_facts(&bytes).unwrap_or_default();
        for fact in facts.iter().rev().filter(|fact| fact.span == span) {
            if let Event::Alarm {
                code,
                track: Some(track),
                raised,
                ..
            } = &fact.event
                && let Some(cause) = cause_of(code)
            {
                let word = raised.then_some((fact.at_nanos, cause));
                last.entry(*track).or_insert(word);
            }
        }
        let begins = |fact: &Fact| fact.span == span && matches!(fact.event, Event::Span { .. });
        if facts.iter().any(begins) {
            break;
        }
    }
    let gap = |(track, word): (TrackId, Option<(u64, GapCause)>)| {
        let (at_nanos, cause) = word?;
        let mut segments = latest_first(spool, recording, track);
        let (end, scale) = segments.find_map(|bytes| end_of(&bytes, span))?;
        let start = MediaTime::from_nanos(i64::try_from(at_nanos).ok()?, scale);
        let duration = u64::try_from(end.0.checked_sub(start.0)?).ok()?;
        (duration > 0).then_some(Fact {
            span,
            at_nanos,
            event: Event::Gap {
                track,
                start,
                duration,
                cause,
            },
        })
    };
    last.into_iter().filter_map(gap).collect()
}

/// Why a device gives nothing while the alarm of this code stands; `None` for other alarms.
fn cause_of(code: &str) -> Option<GapCause> {
    let (_, kind) = code.split_once('-')?;
    source::CODES.contains(&kind).then_some(match kind {
        "stalled" => GapCause::DeviceStalled,
        _ => GapCause::DeviceMissing,
    })
}

/// What can be read of a track, the latest segment first.
fn latest_first(
    spool: &Spool,
    recording: RecordingId,
    track: TrackId,
) -> impl Iterator<Item = Vec<u8>> {
    let held = spool
        .state(recording)
        .and_then(|state| state.tracks.get(&track));
    let segments = held.into_iter().flat_map(|held| held.segments.iter().rev());
    segments.filter_map(move |(&sequence, segment)| {
        let key = SegmentKey {
            recording,
            track,
            sequence,
        };
        spool.read(key, 0, segment.length).ok()
    })
}

/// Where a segment of sound or pictures of this span ends, and in which units.
fn end_of(bytes: &[u8], span: u32) -> Option<(MediaTime, Timescale)> {
    let segment = parse_segment(bytes).ok()?;
    let scale = Timescale::new(segment.provenance.timescale)?;
    let Content::Media(chunks) = segment.content else {
        return None;
    };
    let last = &chunks
        .last()
        .filter(|_| segment.provenance.span == span)?
        .chunk;
    let end = last.base_time.checked_add(last.duration())?;
    Some((MediaTime(i64::try_from(end).ok()?), scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{AccessUnit, Rate, Segmented};
    use crate::segmenter::{Config, Cut, Segmenter};
    use crate::spool::{self, LocalDisk};
    use crate::station::custody::{self, Custody};
    use std::sync::{Arc, Mutex};

    const RECORDING: RecordingId = RecordingId([5; 16]);
    const SECOND: u64 = 1_000_000_000;
    const BOOT: [u8; 16] = [1; 16];

    fn wall(seconds: i64, error_ms: Option<u64>) -> WallClock {
        WallClock {
            unix_nanos: seconds * SECOND as i64,
            uncertainty: error_ms.map(Duration::from_millis),
        }
    }

    fn place(utc: Option<i64>, boot: u8, boot_seconds: u64) -> Place {
        Place {
            wall: utc.map(|seconds| wall(seconds, Some(20))),
            boot: Some(([boot; 16], boot_seconds * SECOND)),
        }
    }

    fn custody(directory: &std::path::Path) -> Custody {
        let config = spool::Config::new(directory);
        let (spool, _) = Spool::open(Arc::new(LocalDisk), config).unwrap();
        Custody::new(Arc::new(Mutex::new(spool)), 1, custody::Config::default())
    }

    /// `pictures` of a 25th of a second each, as the span's next segments.
    fn record(custody: &mut Custody, span: u32, pictures: i64) {
        let rate: Rate = "25".parse().unwrap();
        let track = TrackId(1);
        let mut segmenter = Segmenter::new(Config {
            recording: RECORDING,
            track,
            epoch: 1,
            span,
            first_sequence: custody.next_sequence(RECORDING, track),
            timescale: rate.timescale(),
            cut: Cut::pictures(rate, Duration::from_millis(250), Duration::from_secs(2)),
        });
        let mut given: Vec<Segmented> = Vec::new();
        segmenter
            .set_init(vec![1; 9], &mut |one| given.push(one))
            .unwrap();
        for n in 0..pictures {
            let unit = AccessUnit {
                time: MediaTime(n * 3600),
                duration: 3600,
                keyframe: n % 50 == 0,
                captured: Monotonic::default(),
                data: vec![7; 20],
            };
            segmenter.push(unit, &mut |one| given.push(one)).unwrap();
        }
        for one in &given {
            custody.append(RECORDING, one).unwrap();
        }
    }

    fn note(custody: &mut Custody, span: u32, events: Vec<Event>) {
        let fact = |event| Fact {
            span,
            at_nanos: 0,
            event,
        };
        let facts: Vec<Fact> = events.into_iter().map(fact).collect();
        custody
            .write_facts(RECORDING, &facts, Monotonic::default())
            .unwrap();
    }

    fn opening(wall: WallClock, boot_seconds: u64, recorded_nanos: u64) -> Vec<Event> {
        vec![
            Event::Span {
                epoch: 1,
                wall: Some(wall),
                gap: None,
            },
            Event::Run {
                boot: Some(BOOT),
                boot_nanos: boot_seconds * SECOND,
                recorded_nanos,
            },
        ]
    }

    #[test]
    fn the_past_is_read_from_facts_and_the_last_chunk_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut custody = custody(directory.path());
        assert_eq!(custody.begin(RECORDING, 0).unwrap(), 0);
        note(&mut custody, 0, opening(wall(1, None), 10, 0));
        record(&mut custody, 0, 100);
        let past = Past::read(&custody.spool(), RECORDING).unwrap();
        assert_eq!(past.kept_nanos, 4 * SECOND);
        assert_eq!(
            past.start,
            Place {
                wall: None,
                ..place(None, 1, 10)
            }
        );

        // UTC became known, twice said: the last word counts. Then a second span.
        for seconds in [999, 1000] {
            let placed = Event::SpanPlaced {
                span: 0,
                wall: wall(seconds, Some(20)),
                gap: None,
            };
            note(&mut custody, 0, vec![placed, Event::Mark]);
        }
        let past = Past::read(&custody.spool(), RECORDING).unwrap();
        assert_eq!(past.start, place(Some(1000), 1, 10));
        assert_eq!(custody.begin(RECORDING, 0).unwrap(), 1);
        let recorded = past.recorded().as_nanos() as u64;
        note(&mut custody, 1, opening(wall(3, None), 70, recorded));
        let past = Past::read(&custody.spool(), RECORDING).unwrap();
        assert_eq!(
            past.start,
            place(None, 1, 70),
            "of the last span, not of the first"
        );
        assert_eq!((past.kept_nanos, past.before_nanos), (0, recorded));
        record(&mut custody, 1, 25);
        let past = Past::read(&custody.spool(), RECORDING).unwrap();
        // Three whole chunks of seven pictures; four pictures were never a chunk.
        assert_eq!(
            past.recorded(),
            Duration::from_nanos(recorded + 21 * SECOND / 25)
        );
    }

    #[test]
    fn a_gap_that_was_open_when_the_power_went_is_told_afterwards() {
        let directory = tempfile::tempdir().unwrap();
        let mut custody = custody(directory.path());
        custody.begin(RECORDING, 0).unwrap();
        note(&mut custody, 0, opening(wall(1, None), 10, 0));
        let mut alarm = |code: &str, track: u8, raised: bool, seconds: u64| {
            let fact = Fact {
                span: 0,
                at_nanos: seconds * SECOND,
                event: Event::Alarm {
                    code: code.into(),
                    track: Some(TrackId(track)),
                    raised,
                    message: String::new(),
                },
            };
            custody
                .write_facts(RECORDING, &[fact], Monotonic::default())
                .unwrap();
        };
        // It was away and came back; it is away again. The microphone was, and is there; the slides'
        // camera shows a slate, of which nothing was kept.
        alarm("presenter-vanished", 1, true, 0);
        alarm("presenter-vanished", 1, false, 1);
        alarm("presenter-no-signal", 1, true, 1);
        alarm("presenter-missing", 1, true, 3);
        alarm("microphone-stalled", 3, true, 1);
        alarm("microphone-stalled", 3, false, 2);
        alarm("slides-busy", 2, true, 1);
        record(&mut custody, 0, 100);
        let gap = Event::Gap {
            track: TrackId(1),
            start: MediaTime(3 * 90_000),
            duration: 90_000,
            cause: GapCause::DeviceMissing,
        };
        let found = open_gaps(&custody.spool(), RECORDING);
        let facts: Vec<_> = found
            .into_iter()
            .map(|fact| (fact.span, fact.event))
            .collect();
        assert_eq!(facts, [(0, gap)]);
        // Of the last span alone.
        custody.begin(RECORDING, 0).unwrap();
        note(&mut custody, 1, opening(wall(3, None), 70, 0));
        record(&mut custody, 1, 25);
        assert_eq!(open_gaps(&custody.spool(), RECORDING), []);
    }

    #[test]
    fn the_gap_is_told_by_the_boot_or_by_utc_or_not_at_all() {
        let known = |nanos: u64, uncertainty_nanos: u64| GapLength::Known {
            nanos,
            uncertainty_nanos,
        };
        let ms = 1_000_000;
        let unset = Place {
            wall: Some(wall(50, None)),
            boot: None,
        };
        for (start, next, gap) in [
            // One boot: exact, whatever the wall clock says.
            (
                place(None, 1, 10),
                place(None, 1, 100),
                known(80 * SECOND, ms),
            ),
            (
                place(Some(5), 1, 10),
                place(Some(86_400), 1, 100),
                known(80 * SECOND, ms),
            ),
            // Two boots: UTC, with both errors.
            (
                place(Some(1000), 1, 10),
                place(Some(1610), 2, 5),
                known(600 * SECOND, 40 * ms),
            ),
            (
                place(Some(1000), 1, 10),
                place(Some(900), 2, 5),
                known(0, 40 * ms),
            ),
            // UTC of one of them, or of none.
            (
                place(Some(1000), 1, 10),
                place(None, 2, 5),
                GapLength::Unknown,
            ),
            (
                place(None, 1, 10),
                place(Some(1610), 2, 5),
                GapLength::Unknown,
            ),
            (unset, place(Some(1610), 2, 5), GapLength::Unknown),
        ] {
            let past = Past {
                start,
                kept_nanos: 10 * SECOND,
                ..Past::default()
            };
            assert_eq!(past.away(&next), gap, "{start:?} {next:?}");
        }
    }

    #[test]
    fn a_recording_ends_only_if_the_gap_was_certainly_too_long() {
        let within = Duration::from_secs(600);
        for (seconds, error, over) in [
            (600, 0, false),
            (601, 0, true),
            (601, 2, false),
            (700, 20, true),
        ] {
            let gap = GapLength::Known {
                nanos: seconds * SECOND,
                uncertainty_nanos: error * SECOND,
            };
            assert_eq!(is_too_long(gap, within), over, "{seconds} {error}");
        }
        assert!(!is_too_long(GapLength::Unknown, within));
    }
}
