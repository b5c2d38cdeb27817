//! What is recorded in a simulated hall, and how far it has come; it outlives every run of the box.

use crate::media::{Monotonic, Rate, RecordingId, SegmentKey, TrackId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How large access units are, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub rate: Rate,
    pub pictures: Pictures,
    pub sound: u64,
}

/// How large pictures are, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pictures {
    /// A keyframe, and every other one from so many to so many.
    Any { keyframe: u64, others: (u64, u64) },
    /// Each of a segment as here, times so many.
    Like(&'static [u64], u64),
}

impl Sizes {
    /// A few hundred bytes to a few KiB in a chunk of one picture, four a second.
    pub fn small() -> Self {
        Self {
            rate: "4".parse().unwrap(),
            pictures: Pictures::Any {
                keyframe: 3000,
                others: (100, 1500),
            },
            sound: 300,
        }
    }
}

/// Somebody presses the button at `from` and holds it at `until`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lecture {
    pub from: Monotonic,
    pub until: Monotonic,
    pub sizes: Sizes,
}

/// When a chunk was offered as live, and when the box heard that all of it was RECEIVED.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub key: SegmentKey,
    pub offered: Monotonic,
    pub received: Option<Monotonic>,
}

/// See the module.
pub(super) struct Plan {
    pub lectures: Vec<Lecture>,
    /// When the box's process ended last.
    pub gone: Monotonic,
    /// Recordings that began and are not COMPLETE at the receiver, as far as the box heard.
    pub incomplete: BTreeSet<RecordingId>,
    /// A recording runs.
    pub recording: bool,
    /// Recordings that begun.
    pub begun: u64,
    /// By segment, the end of each chunk that was offered live.
    pub chunks: BTreeMap<(SegmentKey, u64), Arrival>,
    /// Segments heard DURABLE, by recording and track, with the instant.
    pub durable: BTreeMap<(RecordingId, TrackId), Vec<(Monotonic, u64)>>,
    /// Connections that a receiver answered.
    pub connected: Vec<Monotonic>,
    /// Steps of the breaker.
    pub steps: Vec<(Monotonic, u8)>,
    /// Why connections ended, by code.
    pub ends: BTreeMap<String, u64>,
    pub breaches: Vec<String>,
    /// How far the box's clock is off.
    pub wall_off_by: i64,
    /// The receiver's store was replaced, and the box has not heard of it.
    pub restored: bool,
    /// Recordings that the box was told to erase.
    pub erased: u64,
}

impl Plan {
    pub fn new(now: Monotonic) -> Self {
        Self {
            lectures: Vec::new(),
            gone: now,
            incomplete: BTreeSet::new(),
            recording: false,
            begun: 0,
            chunks: BTreeMap::new(),
            durable: BTreeMap::new(),
            connected: Vec::new(),
            steps: Vec::new(),
            ends: BTreeMap::new(),
            breaches: Vec::new(),
            wall_off_by: 0,
            restored: false,
            erased: 0,
        }
    }

    /// The lecture that goes on at `now`.
    pub fn lecture(&self, now: Monotonic) -> Option<Lecture> {
        let on = |lecture: &&Lecture| lecture.from <= now && now < lecture.until;
        self.lectures.iter().find(on).copied()
    }

    /// When the next lecture begins or ends.
    pub fn next(&self, now: Monotonic) -> Monotonic {
        let times = self.lectures.iter().flat_map(|l| [l.from, l.until]);
        let later = times.filter(|at| *at > now).min();
        later.unwrap_or_else(|| now.plus(Duration::from_secs(24 * 3600)))
    }

    /// Everything was recorded, and every recording is COMPLETE.
    pub fn is_done(&self, now: Monotonic) -> bool {
        let over = self.lectures.iter().all(|lecture| lecture.until <= now);
        over && !self.recording && !self.restored && self.incomplete.is_empty()
    }
}
