//! The box's uplink over segments made up for it: live chunks as long as the box's encoder makes them
//! at 4 Mbit/s, keyframes included, and a backfill that never ends.

#![allow(dead_code, reason = "each test that includes this uses a part of it")]

use crate::support::chance::Stalls;
use hallcast::clock::{self, TaskClock};
use hallcast::encoder::{self, Scene, Tick};
use hallcast::media::{
    AccessUnit, Hash, MediaTime, Monotonic, PictureLayout, PixelFormat, Rate, RecordingId,
    SegmentKey, Segmented, Timescale, TrackId, TrackKind,
};
use hallcast::mp4;
use hallcast::segmenter::{self, Cut, Segmenter};
use hallcast::uplink::congestion::Congestion;
use hallcast::uplink::identity::Identity;
use hallcast::uplink::quic::{Config, Stats, Uplink};
use hallcast::uplink::{Offer, Report, Source};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

const CHUNK: Duration = Duration::from_millis(250);
const SEGMENT: Duration = Duration::from_secs(2);
/// Pictures of a segment, 30 per second.
const PICTURES: u64 = 60;
/// Backfill segments offered and not durable.
const AHEAD: u64 = 8;
const LIVE: TrackId = TrackId(1);
const BACKFILL: TrackId = TrackId(2);

/// What the sender is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// An enrolled box's state.
    pub state: PathBuf,
    /// `address:port`.
    pub receiver: String,
    /// `floor`, `cubic` or `bbr`.
    pub congestion: String,
    /// Bytes of each picture of a segment.
    pub sizes: Vec<usize>,
    /// With a backfill beside live.
    pub backfill: bool,
    /// How long, and from when on it counts.
    pub seconds: u64,
    pub warm_up: u64,
    /// Where [`Outcome`] goes.
    pub outcome: PathBuf,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// From a live chunk's offer to the receiver's word that it has it, in milliseconds, in order.
    pub lateness_ms: Vec<f64>,
    /// Nanoseconds on the monotonic clock: the offer of each of these.
    pub offered_at: Vec<u64>,
    /// Live chunks that the receiver did not have in the end.
    pub missing: usize,
    /// Bytes of both kinds that the receiver said it has.
    pub live_bytes: u64,
    pub backfill_bytes: u64,
    /// The transport's smoothed round trip, every 100 ms.
    pub rtt_ms: Vec<f64>,
    /// Nanoseconds on the monotonic clock: each RECEIVED of live, each connection, and each end of one
    /// with its reason.
    pub received_at: Vec<u64>,
    pub connected_at: Vec<u64>,
    pub ended_at: Vec<(u64, String)>,
    /// Steps of the breaker.
    pub steps: Vec<u8>,
}

impl Outcome {
    /// The lateness that this share of live chunks does not exceed; one that never came counts as
    /// for ever.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let mut all = self.lateness_ms.clone();
        all.extend(std::iter::repeat_n(f64::INFINITY, self.missing));
        percentile(all, share)
    }

    /// Leaves out the chunks during which the machine stood still; gives how many.
    pub fn leave_out(&mut self, stalls: &Stalls) -> usize {
        let before = self.lateness_ms.len();
        let mut offered_at = self.offered_at.iter();
        self.lateness_ms.retain(|late| {
            let from = Monotonic::from_nanos(*offered_at.next().unwrap());
            let to = from.plus(Duration::from_secs_f64(late / 1e3));
            stalls.between(from, to).is_zero()
        });
        self.offered_at.clear();
        before - self.lateness_ms.len()
    }

    /// Puts another measurement of the same thing beside this one.
    pub fn add(&mut self, other: Self) {
        self.lateness_ms.extend(other.lateness_ms);
        self.missing += other.missing;
        self.live_bytes += other.live_bytes;
        self.backfill_bytes += other.backfill_bytes;
        self.rtt_ms.extend(other.rtt_ms);
        self.steps.extend(other.steps);
    }

    /// By how much the link's queue stretched the round trip, 95 of 100 times at most.
    pub fn queue_ms(&self, base_ms: f64) -> f64 {
        (percentile(self.rtt_ms.clone(), 0.95) - base_ms).max(0.0)
    }
}

fn percentile(mut all: Vec<f64>, share: f64) -> f64 {
    all.sort_by(f64::total_cmp);
    let at = ((all.len() as f64 * share).ceil() as usize).clamp(1, all.len()) - 1;
    all[at]
}

/// What the box's own encoder makes of the third segment of a camera's picture at 4 Mbit/s, once its
/// rate control has settled: bytes of each picture.
pub fn encoded_sizes() -> Vec<usize> {
    let (width, height) = (1280, 720);
    let layout = PictureLayout::tight(width, height, PixelFormat::I420);
    let mut config = encoder::Config::new(Scene::Camera, layout, Rate::THIRTY);
    config.bit_rate = 4_000_000;
    let mut encoder = encoder::open_video(&config, layout, Rate::THIRTY).unwrap();
    let mut sizes = Vec::new();
    let mut noise = 1u32;
    for n in 0..3 * PICTURES {
        let mut picture = vec![128; layout.bytes()];
        for (row, line) in (0..).zip(picture.chunks_mut(width as usize).take(height as usize)) {
            for (x, point) in (0u32..).zip(line) {
                // A textured wall, a person who walks by, and the noise of a sensor.
                let walk = n as u32 * 3 % 900;
                let person = (walk..walk + 300).contains(&x) && row > 200;
                let at = if person {
                    (x - walk, row + 7)
                } else {
                    (x, row)
                };
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let texture = (at.0 / 5 * 37 + at.1 / 5 * 91) % 97;
                *point = (60 + texture + (noise >> 30)) as u8;
            }
        }
        let tick = Tick {
            time: MediaTime((n * u64::from(Rate::THIRTY.tick_units())) as i64),
            duration: Rate::THIRTY.tick_units(),
            captured: Monotonic::from_nanos(0),
            keyframe: n % PICTURES == 0,
        };
        sizes.push(encoder.encode(&picture, &tick).unwrap().data.len());
    }
    sizes.split_off(2 * PICTURES as usize)
}

/// The bytes that the uplink reads.
#[derive(Default)]
struct Segments {
    held: Mutex<BTreeMap<SegmentKey, Vec<u8>>>,
    init: Vec<u8>,
    sizes: Vec<usize>,
}

impl Source for Segments {
    fn segment(&self, key: SegmentKey, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        let held = self.held.lock().unwrap();
        let bytes = held.get(&key).ok_or(io::ErrorKind::NotFound)?;
        let at = offset as usize;
        Ok(bytes[at..at + length as usize].to_vec())
    }

    fn init(&self, _: &Hash) -> io::Result<Vec<u8>> {
        Ok(self.init.clone())
    }
}

impl Segments {
    fn new(sizes: &[usize]) -> Self {
        // Any codec's: nobody plays this.
        let init = mp4::audio_init(&[0x11, 0x90], 48_000, 2, Timescale::SOUND).unwrap();
        Self {
            init,
            sizes: sizes.to_vec(),
            ..Self::default()
        }
    }

    /// Makes a segment; gives where its chunks end.
    fn make(&self, key: SegmentKey, epoch: u64) -> Vec<u64> {
        let rate = Rate::THIRTY;
        let mut segmenter = Segmenter::new(segmenter::Config {
            recording: key.recording,
            track: key.track,
            epoch,
            span: 0,
            first_sequence: key.sequence,
            timescale: rate.timescale(),
            cut: Cut::pictures(rate, CHUNK, SEGMENT),
        });
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        let mut give = |given| {
            if let Segmented::Chunk(chunk) = given {
                bytes.extend(chunk.bytes);
                ends.push(bytes.len() as u64);
            }
        };
        segmenter.set_init(self.init.clone(), &mut give).unwrap();
        for (n, &size) in (0..PICTURES).zip(&self.sizes) {
            let number = key.sequence * PICTURES + n;
            let unit = AccessUnit {
                time: MediaTime((number * u64::from(rate.tick_units())) as i64),
                duration: rate.tick_units(),
                keyframe: n == 0,
                captured: Monotonic::from_nanos(0),
                data: vec![number as u8; size],
            };
            segmenter.push(unit, &mut give).unwrap();
        }
        segmenter.flush(&mut give).unwrap();
        self.held.lock().unwrap().insert(key, bytes);
        ends
    }

    fn sealed(&self, key: SegmentKey) -> Offer {
        let held = self.held.lock().unwrap();
        let (length, hash) = (
            held[&key].len() as u64,
            *blake3::hash(&held[&key]).as_bytes(),
        );
        let hash = Hash(hash);
        Offer::Sealed { key, length, hash }
    }

    fn chunk(&self, key: SegmentKey, (offset, end): (u64, u64), live: bool) -> Offer {
        Offer::Chunk {
            key,
            kind: TrackKind::Video,
            init: Some(Hash(*blake3::hash(&self.init).as_bytes())),
            offset,
            length: (end - offset) as u32,
            live,
        }
    }
}

/// Does the job in this process.
pub fn run(job: &Job) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let outcome = runtime.block_on(work(job));
    std::fs::write(&job.outcome, serde_json::to_vec(&outcome).unwrap()).unwrap();
}

async fn work(job: &Job) -> Outcome {
    let identity = Identity::open(&job.state).unwrap();
    let epoch = identity.raise_epoch().unwrap();
    let mut config = Config::new(&job.receiver);
    config.congestion = match job.congestion.as_str() {
        "floor" => Congestion::Floor,
        "cubic" => Congestion::Cubic,
        "bbr" => Congestion::Bbr,
        other => panic!("{other}"),
    };
    // Each packet is lost or queued by itself.
    config.segmentation_offload = false;
    let (segments, stats) = (Arc::new(Segments::new(&job.sizes)), Arc::<Stats>::default());
    let uplink = Uplink {
        config,
        identity,
        epoch,
        source: segments.clone(),
        stats: stats.clone(),
    };
    let (offers, offered) = mpsc::channel(1024);
    let (reports, mut reported) = mpsc::channel(1024);
    let (_running, stop) = watch::channel(false);
    let feeding = async {
        let mut feeder = Feeder {
            recording: RecordingId([epoch as u8; 16]),
            epoch,
            segments,
            offers,
            travelling: BTreeMap::new(),
            backfilled: (0, 0),
            got: BTreeMap::new(),
            counts_from: clock::now().plus(Duration::from_secs(job.warm_up)),
            outcome: Outcome::default(),
        };
        feeder.offers.send(Offer::Ready).await.unwrap();
        feeder.feed(job, &stats, &mut reported).await;
        feeder.outcome
    };
    tokio::select! {
        outcome = feeding => outcome,
        () = uplink.run(offered, reports, stop) => panic!("the uplink ended"),
    }
}

struct Feeder {
    recording: RecordingId,
    epoch: u64,
    segments: Arc<Segments>,
    offers: mpsc::Sender<Offer>,
    /// Live chunks that the receiver does not have, and when they were offered.
    travelling: BTreeMap<(SegmentKey, u64), Monotonic>,
    /// Backfill segments offered, and durable.
    backfilled: (u64, u64),
    /// Bytes that the receiver has, by segment.
    got: BTreeMap<SegmentKey, u64>,
    counts_from: Monotonic,
    outcome: Outcome,
}

impl Feeder {
    fn key(&self, track: TrackId, sequence: u64) -> SegmentKey {
        let recording = self.recording;
        SegmentKey {
            recording,
            track,
            sequence,
        }
    }

    async fn feed(&mut self, job: &Job, stats: &Stats, reported: &mut mpsc::Receiver<Report>) {
        let clock = TaskClock::new();
        let begin = clock.now();
        let end = begin.plus(Duration::from_secs(job.seconds));
        let (mut next_chunk, mut next_rtt) = (begin, begin);
        let (mut sequence, mut chunk, mut ends) = (0, 0, Vec::new());
        while clock.now() < end {
            if job.backfill {
                self.backfill().await;
            }
            let now = clock.now();
            if now >= next_chunk {
                let key = self.key(LIVE, sequence);
                if chunk == 0 {
                    ends = self.segments.make(key, self.epoch);
                }
                let from = if chunk == 0 { 0 } else { ends[chunk - 1] };
                let offer = self.segments.chunk(key, (from, ends[chunk]), true);
                self.travelling.insert((key, ends[chunk]), now);
                self.offers.send(offer).await.unwrap();
                chunk += 1;
                if chunk == ends.len() {
                    self.offers.send(self.segments.sealed(key)).await.unwrap();
                    (sequence, chunk) = (sequence + 1, 0);
                }
                next_chunk = next_chunk.plus(SEGMENT / ends.len() as u32);
            }
            if now >= next_rtt {
                next_rtt = next_rtt.plus(Duration::from_millis(100));
                if let Some(rtt) = stats.snapshot().rtt.filter(|_| now >= self.counts_from) {
                    self.outcome.rtt_ms.push(rtt.as_secs_f64() * 1e3);
                }
            }
            tokio::select! {
                report = reported.recv() => self.hear(report.unwrap()),
                () = clock.sleep_until(next_chunk.min(next_rtt)) => {}
            }
        }
        let old = |at: &&Monotonic| **at >= self.counts_from && end.since(**at) > SEGMENT;
        self.outcome.missing = self.travelling.values().filter(old).count();
    }

    async fn backfill(&mut self) {
        while self.backfilled.0 < self.backfilled.1 + AHEAD {
            let key = self.key(BACKFILL, self.backfilled.0);
            let length = *self.segments.make(key, self.epoch).last().unwrap();
            for offset in (0..length).step_by(256 * 1024) {
                let end = (offset + 256 * 1024).min(length);
                let offer = self.segments.chunk(key, (offset, end), false);
                self.offers.send(offer).await.unwrap();
            }
            self.offers.send(self.segments.sealed(key)).await.unwrap();
            self.backfilled.0 += 1;
        }
    }

    fn hear(&mut self, report: Report) {
        let now = clock::now();
        let counts = now >= self.counts_from;
        match report {
            Report::Connected => self.outcome.connected_at.push(now.as_nanos()),
            Report::Disconnected { text, .. } => {
                self.outcome.ended_at.push((now.as_nanos(), text));
            }
            Report::Link { step } => self.outcome.steps.push(step),
            Report::Received { key, offset } => {
                let got = self.got.entry(key).or_insert(0);
                let more = offset.saturating_sub(*got);
                *got = offset.max(*got);
                if key.track == BACKFILL {
                    self.outcome.backfill_bytes += if counts { more } else { 0 };
                    return;
                }
                self.outcome.live_bytes += if counts { more } else { 0 };
                self.outcome.received_at.push(now.as_nanos());
                let there: Vec<_> = self
                    .travelling
                    .range((key, 0)..=(key, offset))
                    .map(|(chunk, at)| (*chunk, *at))
                    .collect();
                for (chunk, at) in there {
                    self.travelling.remove(&chunk);
                    if at >= self.counts_from {
                        let late = now.since(at).as_secs_f64() * 1e3;
                        self.outcome.lateness_ms.push(late);
                        self.outcome.offered_at.push(at.as_nanos());
                    }
                }
            }
            Report::Durable { track, durable, .. } => {
                let mut held = self.segments.held.lock().unwrap();
                held.retain(|key, _| key.track != track || !durable.contains(key.sequence));
                if track == BACKFILL {
                    self.backfilled.1 = durable.cumulative();
                }
            }
            _ => {}
        }
    }
}
