//! How a box is, as it tells its receiver every few seconds.
//!
//! Whole numbers only, so that two reports can be compared and nothing is lost on the way. Counts of a
//! track are those of the running recording, or of the last one, unless said otherwise.

use super::{RecordingId, TrackId};
use serde::{Deserialize, Serialize};
use std::ops::Add;

/// The most tracks, alarms and bytes of one text that a report carries: whoever takes a report from a
/// box holds no more for it than this.
pub const MOST_TRACKS: usize = 16;
/// See [`MOST_TRACKS`].
pub const MOST_ALARMS: usize = 32;
/// See [`MOST_TRACKS`]. A longer text is cut.
pub const MOST_TEXT: usize = 400;

/// The upper bounds of the lateness histogram's buckets, in microseconds; one more bucket holds the
/// rest.
pub const LATENESS_BOUNDS_US: [u64; 14] = [
    16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072,
];

/// How a box is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The recording being made now.
    pub recording: Option<RecordingId>,
    /// Sound levels of the tracks that have any.
    pub levels: Vec<Level>,
    /// Alarms that are raised now.
    pub alarms: Vec<Alarm>,
    /// Bytes in the spool that are not durable at the receiver.
    pub waiting_bytes: Option<u64>,
    /// Seconds that could still be recorded at the full rate.
    pub seconds_left: Option<u64>,
    /// `idle`, `starting`, `recording`, `stopping` or `fault`.
    pub state: String,
    /// The lamp's pattern.
    pub lamp: String,
    /// Seconds since the recording was begun or taken up.
    pub recording_seconds: Option<u64>,
    /// Each track and its device.
    pub tracks: Vec<TrackHealth>,
    /// How short of space the box is.
    pub spool_level: String,
    /// 99 of 100 syncs take no longer, in milliseconds.
    pub sync_p99_ms: Option<u64>,
    /// Names of chunks and segments that the uplink has not taken yet.
    pub offers_waiting: u64,
    /// Name and version of the program.
    pub software: String,
    /// Resident memory of the process, bytes.
    pub resident_bytes: u64,
}

/// The loudness of a track over the last chunk, in hundredths of a decibel below full scale
/// (0 is full scale, -6000 is -60 dB). Silence has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// The track.
    pub track: TrackId,
    /// The loudest sample.
    pub peak: i32,
    /// The root of the mean square.
    pub rms: i32,
}

/// Trouble that lasts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarm {
    /// Stable name, such as `presenter-missing`.
    pub code: String,
    /// The track concerned.
    pub track: Option<TrackId>,
    /// For people.
    pub message: String,
    /// Seconds since it was raised.
    pub seconds: Option<u64>,
}

/// A track and its device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrackHealth {
    /// The track.
    pub track: TrackId,
    /// `presenter`, `slides` or `microphone`.
    pub name: String,
    /// The device is open.
    pub open: bool,
    /// Pictures, or packets of 1024 samples.
    pub ticks: u64,
    /// Ticks filled with the picture before.
    pub repeats: Repeats,
    /// Pictures that no tick shows.
    pub drops: Drops,
    /// Gaps that are over.
    pub gaps: u64,
    /// How long they are together, in milliseconds.
    pub gap_ms: u64,
    /// How late ticks were decided; none for sound.
    pub lateness: Option<Lateness>,
    /// The card's error against this machine's clock, in hundredths of a millionth.
    pub ppm: Option<i32>,
    /// Times that sound was lost because nobody took it.
    pub xruns: u64,
    /// Samples of silence put in for what the card lost.
    pub silence: u64,
    /// Pictures or blocks that wait in the ring before the pacer.
    pub ring_waiting: u64,
    /// Pictures or blocks that the ring threw away since the process started.
    pub ring_dropped: u64,
    /// Pictures or samples that the device lost, by its own account, since the process started.
    pub device_lost: u64,
    /// Times that the track waited for the keeper since the process started.
    pub keeper_waits: u64,
}

/// Ticks that show the picture of the tick before, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeats {
    /// The camera is slower than the grid.
    pub slower_source: u64,
    /// No picture came in time.
    pub no_picture: u64,
    /// Ticks before the first picture.
    pub before_first: u64,
}

impl Add for Repeats {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            slower_source: self.slower_source + more.slower_source,
            no_picture: self.no_picture + more.no_picture,
            before_first: self.before_first + more.before_first,
        }
    }
}

/// Pictures in no tick, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// The camera is faster than the grid.
    pub faster_source: u64,
    /// It came after its tick had been decided.
    pub late: u64,
    /// It was captured before the track's start.
    pub before_start: u64,
    /// It was not captured after the picture before it.
    pub out_of_order: u64,
    /// It had to make room: the pacer was not asked in time.
    pub not_polled: u64,
}

impl Add for Drops {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            faster_source: self.faster_source + more.faster_source,
            late: self.late + more.late,
            before_start: self.before_start + more.before_start,
            out_of_order: self.out_of_order + more.out_of_order,
            not_polled: self.not_polled + more.not_polled,
        }
    }
}

/// From a tick to the decision which picture it shows, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lateness {
    /// Half are no later.
    pub p50: u64,
    /// 99 of 100 are no later.
    pub p99: u64,
    /// 999 of 1000 are no later.
    pub p999: u64,
    /// The latest.
    pub max: u64,
    /// The sum of all.
    pub sum: u64,
    /// How many are not above each of [`LATENESS_BOUNDS_US`] and above the one before it, and how many
    /// are above them all.
    pub counts: [u64; LATENESS_BOUNDS_US.len() + 1],
}

/// At most `most` bytes of a text, whole characters.
pub fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}
