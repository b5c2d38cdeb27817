//! One checker over everything that was segmented, kept, sent, acknowledged, stored and read.
//!
//! It believes no engine: DURABLE is believed when the object is found by every later listing of the
//! receiver's store, kept when every later restart of the box finds the bytes. So a world only has to
//! note what left the box or the receiver, and what is found after each crash and at the end.
//!
//! What it refuses:
//! * a DURABLE or COMPLETE that a later listing does not bear out;
//! * a release without a recorded and kept DURABLE (or an erasure);
//! * bytes let go for an acknowledgement of other bytes;
//! * an object twice, altered, or other than what was segmented;
//! * one sequence number for two contents, once anything of it was kept or its trailer left;
//! * a trailer that covers bytes that are not kept;
//! * anything kept that a restart does not find;
//! * a number of an ended recording that is neither stored nor LOST for a reason that happened;
//! * anything of an erased recording in the last listing;
//! * backfill beyond its bound.

mod claims;
mod judge;
#[cfg(test)]
mod tests;

use crate::media::{Hash, LostReason, RecordingId, SegmentKey, Sequences, TrackId};
use std::collections::{BTreeMap, BTreeSet};

/// An object as a listing of the receiver's store shows it.
pub type Object = (SegmentKey, u64, Hash);

/// Something that happened. Note it at the moment it becomes true for somebody else.
#[derive(Clone, Debug)]
pub enum Happening {
    /// The segmenter gave these bytes to the spool, `offset` bytes into the segment.
    Segmented {
        key: SegmentKey,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// The spool says that the segment's first `bytes` bytes are kept (`Notice::Kept`).
    Kept { key: SegmentKey, bytes: u64 },
    /// The box lost its power or its process.
    BoxCrashed,
    /// The box is back: what recovery found, as its spool's states say (after sealing). Segments that
    /// are held with no bytes are left out.
    Restarted {
        held: Vec<(SegmentKey, u64)>,
        acknowledged: Vec<(RecordingId, TrackId, Sequences)>,
        /// Of segments that are held and acknowledged, what their seals say.
        trusted: Vec<(SegmentKey, Hash)>,
    },
    /// A new connection stands: nothing is in flight.
    Connected,
    /// The box sent (or read, in order to send) these bytes of a segment.
    Sent {
        key: SegmentKey,
        offset: u64,
        bytes: Vec<u8>,
        /// Late or backfill: counts against the bound.
        bulk: bool,
    },
    /// The stream of a segment ended before its trailer.
    Cut { key: SegmentKey },
    /// What is left of the segment is late or backfill from now on.
    Demoted { key: SegmentKey },
    /// A trailer left the box.
    Trailer {
        key: SegmentKey,
        length: u64,
        hash: Hash,
    },
    /// The box says, as a durable fact or a message, that these will never come.
    Lost {
        recording: RecordingId,
        track: TrackId,
        first: u64,
        last: u64,
        reason: LostReason,
    },
    /// The recording is over; segments per track, the events track among them. The last word counts.
    Ended {
        recording: RecordingId,
        totals: Vec<(TrackId, u64)>,
    },
    /// The spool gave up its bytes of a segment. `recorded`: a power cut at the instant before would
    /// have found DURABLE for it (or its recording's erasure) on the disk. `hash` is what its seal said.
    Released {
        key: SegmentKey,
        recorded: bool,
        hash: Option<Hash>,
    },
    /// The box heard RECEIVED.
    Received { key: SegmentKey, offset: u64 },
    /// The receiver said DURABLE (or WELCOME, which repeats it).
    Durable {
        recording: RecordingId,
        track: TrackId,
        durable: Sequences,
    },
    /// The box heard DURABLE: what it sent of these is not in flight any more.
    Heard {
        recording: RecordingId,
        track: TrackId,
        durable: Sequences,
    },
    /// The receiver said COMPLETE.
    Complete { recording: RecordingId },
    /// The box greeted a receiver with this watermark: the first number not recorded as durable.
    Greeted {
        recording: RecordingId,
        track: TrackId,
        next: u64,
    },
    /// What a (re)started receiver finds in its store. The last one noted is the final state.
    Store {
        objects: Vec<Object>,
        /// Recordings with a manifest.
        complete: Vec<RecordingId>,
    },
    /// Somebody read these bytes of an archived object.
    Read {
        key: SegmentKey,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// The receiver's tombstone is durable.
    Erased { recording: RecordingId },
    /// The recording's bytes on the box's disk were damaged.
    Damaged { recording: RecordingId },
    /// The box's disk was full.
    DiskFull,
    /// The receiver's store was replaced by an older copy of itself.
    ReceiverRestored,
    /// The box's disk was replaced by an older copy of itself.
    BoxRestored,
    /// From now on another machine with a copy of the disk is about, which knows these recordings too:
    /// what becomes of them there is told to a history of its own.
    Cloned { recordings: BTreeSet<RecordingId> },
}

/// One content under a segment's number. A crash may take back what was not kept, and then the
/// number begins anew.
#[derive(Clone, Default)]
struct Life {
    content: Vec<u8>,
    kept: u64,
    /// The box crashed since it began: nothing is added, and its end may be missing.
    closed: bool,
    hashes: BTreeMap<u64, Hash>,
}

impl Life {
    fn hash(&mut self, length: u64) -> Option<Hash> {
        let bytes = self.content.get(..usize::try_from(length).ok()?)?;
        let made = || Hash(*blake3::hash(bytes).as_bytes());
        Some(*self.hashes.entry(length).or_insert_with(made))
    }
}

/// A stream of the present connection.
#[derive(Clone, Default)]
struct Flight {
    sent: u64,
    received: u64,
    bulk: bool,
}

/// What was noted, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub bytes_segmented: u64,
    pub bytes_sent: u64,
    pub segments: u64,
    pub box_crashes: u64,
    pub listings: u64,
    pub connections: u64,
    pub released: u64,
    pub lost: u64,
    pub demoted: u64,
}

/// The checker.
#[derive(Clone, Default)]
pub struct History {
    lives: BTreeMap<SegmentKey, Vec<Life>>,
    trailers: BTreeMap<SegmentKey, (u64, Hash)>,
    flights: BTreeMap<SegmentKey, Flight>,
    /// How far each segment was ever sent on the present connection.
    highs: BTreeMap<SegmentKey, u64>,
    /// Said durable and not excused by a restored store.
    said: BTreeMap<(RecordingId, TrackId), Sequences>,
    /// Ever said durable.
    heard: BTreeMap<(RecordingId, TrackId), Sequences>,
    complete: BTreeSet<RecordingId>,
    lost: BTreeMap<(RecordingId, TrackId), Sequences>,
    ended: BTreeMap<RecordingId, BTreeMap<TrackId, u64>>,
    released: BTreeSet<SegmentKey>,
    /// What the box let go, or will, on the receiver's word.
    owed: BTreeSet<(SegmentKey, Hash)>,
    objects: BTreeMap<SegmentKey, (u64, Hash)>,
    listed_complete: BTreeSet<RecordingId>,
    erased: BTreeSet<RecordingId>,
    damaged: BTreeSet<RecordingId>,
    /// Of a box whose disk was restored: numbers may have been used for two contents.
    disputed: BTreeSet<RecordingId>,
    /// Known to two machines: what is stored may be the other's.
    shared: BTreeSet<RecordingId>,
    disk_full: bool,
    receiver_restored: bool,
    /// The next listing may hold less than was said.
    excused: bool,
    /// The most bulk bytes sent and not RECEIVED.
    bound: Option<u64>,
    counts: Counts,
    breaches: Vec<String>,
}

impl History {
    /// Nothing happened yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks also that no more late and backfill data than this is sent and not RECEIVED, unless
    /// one chunk alone is more.
    pub fn with_backfill_bound(bound: u64) -> Self {
        Self {
            bound: Some(bound),
            ..Self::default()
        }
    }

    /// What was noted so far, counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What is wrong so far; the end is not judged.
    pub fn breaches(&self) -> &[String] {
        &self.breaches
    }

    /// Takes what happened.
    pub fn note(&mut self, happening: Happening) {
        match happening {
            Happening::Segmented { key, offset, bytes } => self.segmented(key, offset, &bytes),
            Happening::Kept { key, bytes } => self.kept(key, bytes),
            Happening::BoxCrashed => {
                self.counts.box_crashes += 1;
                self.flights.clear();
                self.lives
                    .values_mut()
                    .filter_map(|lives| lives.last_mut())
                    .for_each(|life| life.closed = true);
            }
            Happening::Restarted {
                held,
                acknowledged,
                trusted,
            } => {
                self.owed.extend(trusted);
                self.restarted(&held, &acknowledged);
            }
            Happening::Connected => {
                self.counts.connections += 1;
                self.flights.clear();
                self.highs.clear();
            }
            Happening::Sent {
                key,
                offset,
                bytes,
                bulk,
            } => self.sent(key, offset, &bytes, bulk),
            Happening::Cut { key } => drop(self.flights.remove(&key)),
            Happening::Demoted { key } => {
                self.counts.demoted += 1;
                if let Some(flight) = self.flights.get_mut(&key) {
                    flight.bulk = true;
                }
            }
            Happening::Trailer { key, length, hash } => self.trailer(key, length, hash),
            Happening::Lost {
                recording,
                track,
                first,
                last,
                reason,
            } => {
                for sequence in first..=last {
                    let key = SegmentKey {
                        recording,
                        track,
                        sequence,
                    };
                    self.lost(key, reason);
                }
            }
            Happening::Ended { recording, totals } => {
                self.ended.insert(recording, totals.into_iter().collect());
            }
            Happening::Released {
                key,
                recorded,
                hash,
            } => {
                self.counts.released += 1;
                self.released.insert(key);
                self.owed.extend(hash.map(|hash| (key, hash)));
                if !recorded && !self.erased.contains(&key.recording) {
                    self.breach(format!(
                        "early release: {key} left the spool before DURABLE for it was recorded and kept"
                    ));
                }
                let heard = self.heard.get(&(key.recording, key.track));
                let heard = heard.is_some_and(|heard| heard.contains(key.sequence));
                if !heard && !self.erased.contains(&key.recording) {
                    self.breach(format!("early release: {key} was never said durable"));
                }
            }
            Happening::Received { key, offset } => {
                if offset > self.highs.get(&key).copied().unwrap_or(0) {
                    self.breach(format!("RECEIVED {offset} of {key}: never sent"));
                }
                // It may be said of an earlier stream of the same connection.
                if let Some(flight) = self.flights.get_mut(&key)
                    && offset <= flight.sent
                {
                    flight.received = flight.received.max(offset);
                }
            }
            Happening::Durable {
                recording,
                track,
                durable,
            } => {
                for said in [&mut self.said, &mut self.heard] {
                    said.entry((recording, track)).or_default().merge(&durable);
                }
            }
            Happening::Heard {
                recording,
                track,
                durable,
            } => {
                let of_it = self.flights.iter_mut().filter(|(key, _)| {
                    (key.recording, key.track) == (recording, track)
                        && durable.contains(key.sequence)
                });
                of_it.for_each(|(_, flight)| flight.received = flight.sent);
            }
            Happening::Complete { recording } => drop(self.complete.insert(recording)),
            Happening::Greeted {
                recording,
                track,
                next,
            } => {
                let said = self.heard.get(&(recording, track));
                let said = said.map_or(0, Sequences::cumulative);
                if next > said && !self.disputed.contains(&recording) {
                    self.breach(format!(
                        "the box's watermark of {recording}/{track} is {next}: {said} was said"
                    ));
                }
            }
            Happening::Store { objects, complete } => self.store(&objects, complete),
            Happening::Read { key, offset, bytes } => {
                if !self.shared.contains(&key.recording) {
                    self.compare("a reader got", key, offset, &bytes);
                }
            }
            Happening::Erased { recording } => {
                self.erased.insert(recording);
                self.complete.remove(&recording);
                self.said.retain(|(of, _), _| *of != recording);
            }
            Happening::Damaged { recording } => drop(self.damaged.insert(recording)),
            Happening::DiskFull => self.disk_full = true,
            Happening::ReceiverRestored => (self.receiver_restored, self.excused) = (true, true),
            Happening::Cloned { recordings } => self.shared.extend(recordings),
            Happening::BoxRestored => {
                self.disputed
                    .extend(self.lives.keys().map(|key| key.recording));
                self.lives
                    .values_mut()
                    .flatten()
                    .for_each(|life| life.closed = true);
            }
        }
    }

    fn breach(&mut self, text: String) {
        self.breaches.push(text);
    }

    /// The recordings of which anything was segmented.
    pub fn recordings(&self) -> BTreeSet<RecordingId> {
        self.lives.keys().map(|key| key.recording).collect()
    }

    /// Whether these bytes were segmented and kept under that number.
    pub fn made(&mut self, (key, length, hash): Object) -> bool {
        let lives = self.lives.get_mut(&key).into_iter().flatten();
        let mut made = lives.map(|life| life.hash(length) == Some(hash) && life.kept >= length);
        made.any(|made| made)
    }

    /// The box let all of it go, and remembers nothing of it: a receiver that then loses it by an older
    /// store has it from nobody.
    fn has_left(&self, recording: RecordingId) -> bool {
        let of_it = self.lives.iter();
        let mut of_it = of_it.filter(|(key, _)| key.recording == recording);
        of_it.all(|(key, lives)| {
            self.released.contains(key) || lives.iter().all(|life| life.kept == 0)
        })
    }

    /// What is stored under a number may be of another machine, or of an earlier life of this one.
    fn is_contested(&self, recording: RecordingId) -> bool {
        self.disputed.contains(&recording) || self.shared.contains(&recording)
    }

    fn was_said(&self, key: SegmentKey) -> bool {
        let said = self.said.get(&(key.recording, key.track));
        said.is_some_and(|said| said.contains(key.sequence))
    }
}
