//! When the media of an archived recording was captured: what a kill or a power cut took away.
//!
//! The test pattern burns the tick of the monotonic clock into each picture, so the archive itself says
//! at which instant each of its pictures was captured, whatever the box says of itself.

#![allow(dead_code, reason = "each test file uses its own part")]

use super::programs::outcome;
use hallcast::media::{Hash, Monotonic, Rate, Timescale, TrackId};
use hallcast::mp4::{Content, parse_segment};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The size and rate of `small-bench`'s pictures.
const WIDTH: usize = 320;
const HEIGHT: usize = 180;
const RATE: Rate = Rate::THIRTY;
const PRESENTER: TrackId = TrackId(1);

/// One track within a span, in nanoseconds of media time.
#[derive(Debug)]
pub struct Extent {
    pub start: i64,
    pub end: i64,
    init: Hash,
    bytes: Vec<u8>,
}

/// One span: what one run of the box's process gave.
#[derive(Debug)]
pub struct Span {
    pub number: u32,
    pub epoch: u64,
    pub tracks: BTreeMap<TrackId, Extent>,
    /// When its first and its last picture were captured, by what they show.
    pub pictures: Option<(Monotonic, Monotonic)>,
}

impl Span {
    /// Where a track ends, on the monotonic clock of the box's machine: everything captured before is
    /// there. None where it has nothing.
    pub fn end_of(&self, track: TrackId) -> Option<Monotonic> {
        let (first, _) = self.pictures?;
        let from_first = self.tracks.get(&track)?.end - self.tracks.get(&PRESENTER)?.start;
        Some(first.plus(Duration::from_nanos(from_first.max(0) as u64)))
    }

    /// The earliest end of a track.
    pub fn end(&self) -> Option<Monotonic> {
        let ends = self.tracks.keys().map(|track| self.end_of(*track));
        ends.min().flatten()
    }

    /// When its first picture was captured.
    pub fn begin(&self) -> Option<Monotonic> {
        self.pictures.map(|(first, _)| first)
    }
}

/// The spans of a recording of `small-bench` in the order of the timeline, from its archived objects.
///
/// Fails where a segment's number is missing, where anything is missing within a span, where a picture
/// cannot be decoded or carries no number, and where pictures run backwards. `around` is an instant of
/// the same clock within three days of the recording.
pub fn spans(folder: &Path, around: Monotonic) -> Vec<Span> {
    let mut spans: BTreeMap<u32, Span> = BTreeMap::new();
    for track in (1..=3).map(TrackId) {
        let Ok(listing) = fs::read_dir(folder.join(track.to_string())) else {
            continue;
        };
        let mut paths: Vec<_> = listing.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for (number, path) in paths.iter().enumerate() {
            let bytes = fs::read(path).unwrap();
            let segment = parse_segment(&bytes).unwrap();
            let (provenance, Content::Media(chunks)) = (segment.provenance, segment.content) else {
                panic!("{}: facts", path.display())
            };
            assert_eq!(
                provenance.key.sequence,
                number as u64,
                "{}: the number before it is missing",
                path.display()
            );
            let span = spans.entry(provenance.span).or_insert_with(|| Span {
                number: provenance.span,
                epoch: provenance.epoch,
                tracks: BTreeMap::new(),
                pictures: None,
            });
            assert_eq!(span.epoch, provenance.epoch, "a span is one run");
            let scale = Timescale::new(provenance.timescale).unwrap();
            let nanos = |units: u64| hallcast::media::MediaTime(units as i64).as_nanos(scale);
            let start = nanos(chunks[0].chunk.base_time);
            let extent = span.tracks.entry(track).or_insert_with(|| Extent {
                start,
                end: start,
                init: provenance.init.unwrap(),
                bytes: Vec::new(),
            });
            for chunk in &chunks {
                let (from, length) = (chunk.chunk.base_time, chunk.chunk.duration());
                assert!(
                    (nanos(from) - extent.end).abs() <= 1_000_000,
                    "{}: {} ms are missing before its chunk at {} ms",
                    path.display(),
                    (nanos(from) - extent.end) / 1_000_000,
                    nanos(from) / 1_000_000
                );
                extent.end = nanos(from + length);
            }
            extent.bytes.extend(&bytes);
        }
    }
    for span in spans.values_mut() {
        let Some(extent) = span.tracks.get(&PRESENTER) else {
            continue;
        };
        let numbers = numbers(folder, extent);
        assert!(
            numbers.is_sorted(),
            "span {}: pictures run backwards",
            span.number
        );
        let instant = |number: u32| Monotonic::from_nanos(RATE.tick_nanos(near(number, around)));
        span.pictures = Some((instant(numbers[0]), instant(*numbers.last().unwrap())));
    }
    spans.into_values().collect()
}

/// The numbers burnt into the pictures of a span.
fn numbers(folder: &Path, extent: &Extent) -> Vec<u32> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let init = fs::read(folder.join(format!("init/{}.mp4", extent.init))).unwrap();
    fs::write(file.path(), [&init[..], &extent.bytes].concat()).unwrap();
    let path = file.path().to_str().unwrap();
    let arguments =
        "-v error -xerror -f mp4 -i FILE -an -pix_fmt gray -fps_mode passthrough -f rawvideo -";
    let arguments: Vec<&str> = arguments
        .split(' ')
        .map(|word| if word == "FILE" { path } else { word })
        .collect();
    let decoded = outcome("ffmpeg", &arguments);
    assert!(
        decoded.status.success(),
        "{}",
        String::from_utf8_lossy(&decoded.stderr)
    );
    let read = |luma: &[u8]| hallcast::source::read_counter(luma, WIDTH, HEIGHT, WIDTH);
    decoded
        .stdout
        .chunks_exact(WIDTH * HEIGHT)
        .map(|luma| read(luma).expect("every picture carries its number"))
        .collect()
}

/// The tick whose low 24 bits are `number`, nearest to `around`.
fn near(number: u32, around: Monotonic) -> u64 {
    let round = 1_u64 << 24;
    let ticks = (u128::from(around.as_nanos()) * 30 / 1_000_000_000) as u64;
    let base = ticks - ticks % round + u64::from(number);
    let candidates = [base.checked_sub(round), Some(base), base.checked_add(round)];
    let nearest = candidates
        .into_iter()
        .flatten()
        .min_by_key(|tick| tick.abs_diff(ticks));
    nearest.unwrap()
}
