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
//!
//! Longer than most files: each thing refused is judged over the same record, and has a test here.

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
                if let Some(flight) = self.flights.get_mut(&key) {
                    flight.received = flight.received.max(offset);
                    if offset > flight.sent {
                        self.breach(format!("RECEIVED {offset} of {key}: never sent"));
                    }
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

    fn segmented(&mut self, key: SegmentKey, offset: u64, bytes: &[u8]) {
        self.counts.bytes_segmented += bytes.len() as u64;
        let used = self.trailers.contains_key(&key) || self.objects.contains_key(&key);
        let disputed = self.is_contested(key.recording);
        let lives = self.lives.entry(key).or_default();
        if offset == 0 {
            let kept = lives.iter().any(|life| life.kept > 0 || !life.closed);
            lives.push(Life::default());
            self.counts.segments += 1;
            if (used || kept) && !disputed {
                self.breach(format!("{key} is used for a second content"));
                return;
            }
        }
        let last = lives.last_mut();
        match last.filter(|life| !life.closed && life.content.len() as u64 == offset) {
            Some(life) => life.content.extend(bytes),
            None => self.breach(format!(
                "{key} is continued at {offset}, where it does not end"
            )),
        }
    }

    fn kept(&mut self, key: SegmentKey, bytes: u64) {
        let life = self.lives.get_mut(&key).and_then(|lives| lives.last_mut());
        match life.filter(|life| bytes <= life.content.len() as u64) {
            Some(life) => life.kept = life.kept.max(bytes),
            None => self.breach(format!(
                "{bytes} bytes of {key} are kept that were never made"
            )),
        }
    }

    fn restarted(
        &mut self,
        held: &[(SegmentKey, u64)],
        acknowledged: &[(RecordingId, TrackId, Sequences)],
    ) {
        let held: BTreeMap<_, _> = held.iter().copied().collect();
        let recorded: BTreeMap<_, _> = acknowledged
            .iter()
            .map(|(recording, track, durable)| ((*recording, *track), durable))
            .collect();
        let known: BTreeSet<RecordingId> = held
            .keys()
            .map(|key| key.recording)
            .chain(recorded.keys().map(|(recording, _)| *recording))
            .collect();
        let mut breaches = Vec::new();
        for (key, lives) in &mut self.lives {
            let has = held.get(key).copied().unwrap_or(0);
            let acknowledged = recorded
                .get(&(key.recording, key.track))
                .is_some_and(|durable| durable.contains(key.sequence));
            let excused = acknowledged
                || self.damaged.contains(&key.recording)
                || self.erased.contains(&key.recording)
                || self.disputed.contains(&key.recording)
                // All of it was released.
                || !known.contains(&key.recording) && self.released.contains(key)
                // Released, and then forgotten by a receiver whose store was restored.
                || self.receiver_restored && self.released.contains(key);
            let Some(life) = lives.last_mut() else {
                continue;
            };
            if has < life.kept && !excused {
                breaches.push(format!(
                    "a restart finds {has} bytes of {key}, {} were kept",
                    life.kept
                ));
            }
            if has > life.content.len() as u64 {
                breaches.push(format!("a restart finds {has} bytes of {key}: never made"));
            }
            // What recovery found it has made durable.
            life.kept = life.kept.max(has.min(life.content.len() as u64));
        }
        for ((recording, track), durable) in recorded {
            let total = self.lives.keys().filter(|key| {
                (key.recording, key.track) == (recording, track) && durable.contains(key.sequence)
            });
            for key in total {
                let heard = self.heard.get(&(recording, track));
                if !heard.is_some_and(|heard| heard.contains(key.sequence))
                    && !self.disputed.contains(&recording)
                {
                    breaches.push(format!("the box recorded {key} as durable: never said"));
                }
            }
        }
        self.breaches.extend(breaches);
    }

    /// Bytes that left must be what was segmented under that number most lately.
    fn compare(&mut self, who: &str, key: SegmentKey, offset: u64, bytes: &[u8]) {
        let lives = self.lives.get(&key).map_or(&[][..], Vec::as_slice);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let matches = |life: &Life| {
            let end = from.saturating_add(bytes.len());
            life.content.get(from..end) == Some(bytes)
        };
        if !lives.iter().rev().any(matches) {
            let length = bytes.len();
            self.breach(format!(
                "{who} {length} bytes of {key} from {offset} that were never segmented there"
            ));
        }
    }

    fn sent(&mut self, key: SegmentKey, offset: u64, bytes: &[u8], bulk: bool) {
        self.counts.bytes_sent += bytes.len() as u64;
        self.compare("the box sent", key, offset, bytes);
        if offset == 0 {
            self.flights.remove(&key);
        }
        let flight = self.flights.entry(key).or_default();
        flight.bulk |= bulk;
        if flight.sent != offset {
            let sent = flight.sent;
            self.breach(format!("{key}: {offset} follows byte {sent} on its stream"));
        }
        let end = offset + bytes.len() as u64;
        if let Some(flight) = self.flights.get_mut(&key) {
            flight.sent = end;
        }
        let open: Vec<u64> = self
            .flights
            .values()
            .filter(|flight| flight.bulk)
            .map(|flight| flight.sent.saturating_sub(flight.received))
            .filter(|bytes| *bytes > 0)
            .collect();
        let sum: u64 = open.iter().sum();
        if let Some(bound) = self.bound
            && bulk
            && sum > bound
            && open.len() > 1
        {
            self.breach(format!(
                "{sum} bytes of backfill are sent and not RECEIVED, more than {bound}"
            ));
        }
    }

    fn trailer(&mut self, key: SegmentKey, length: u64, hash: Hash) {
        let lives = self.lives.entry(key).or_default();
        let made = lives.last_mut().is_some_and(|life| {
            let kept = life.kept >= length;
            let same = life.hash(length) == Some(hash);
            kept && same
        });
        if !made && !self.disputed.contains(&key.recording) {
            self.breach(format!(
                "the trailer of {key} covers {length} bytes that are not kept, or not those segmented"
            ));
        }
        let before = self.trailers.insert(key, (length, hash));
        if before.is_some_and(|before| before != (length, hash))
            && !self.disputed.contains(&key.recording)
            && !self.damaged.contains(&key.recording)
        {
            self.breach(format!("{key} is used for two contents: two trailers left"));
        }
    }

    fn lost(&mut self, key: SegmentKey, reason: LostReason) {
        self.counts.lost += 1;
        let kept = self
            .lives
            .get(&key)
            .and_then(|lives| lives.last())
            .is_some_and(|life| life.kept > 0);
        let happened = match reason {
            // Without anything kept a crash is reason enough: a number was used and its bytes torn.
            LostReason::Damaged => {
                self.damaged.contains(&key.recording) || !kept && self.counts.box_crashes > 0
            }
            LostReason::NoSpace => self.disk_full,
            LostReason::ReceiverForgot => self.receiver_restored && self.released.contains(&key),
        };
        if !happened && !self.disputed.contains(&key.recording) {
            self.breach(format!(
                "{key} is LOST for a reason that never was: {reason:?}"
            ));
        }
        self.lost
            .entry((key.recording, key.track))
            .or_default()
            .insert(key.sequence);
    }

    fn store(&mut self, objects: &[Object], complete: Vec<RecordingId>) {
        self.counts.listings += 1;
        let excused = std::mem::take(&mut self.excused);
        let mut found = BTreeMap::new();
        for &(key, length, hash) in objects {
            if found.insert(key, (length, hash)).is_some() {
                self.breach(format!("the object {key} exists twice"));
            }
            let before = self.objects.get(&key);
            if before.is_some_and(|before| *before != (length, hash)) {
                self.breach(format!("the object {key} was altered"));
            }
            let disputed = self.is_contested(key.recording);
            let made = self.made((key, length, hash));
            if !made && !disputed {
                self.breach(format!(
                    "the object {key} of {length} bytes is not what was segmented and kept"
                ));
            }
        }
        for &(key, hash) in &self.owed.clone() {
            // A store without them may have taken the other's.
            let excused = self.receiver_restored && self.is_contested(key.recording);
            if found.get(&key).is_some_and(|object| object.1 != hash) && !excused {
                self.breach(format!(
                    "{key} was let go for an acknowledgement of other bytes"
                ));
            }
        }
        if excused {
            self.complete
                .retain(|recording| complete.contains(recording));
            for (&(recording, track), said) in &mut self.said {
                let mut left = Sequences::default();
                found
                    .keys()
                    .filter(|key| (key.recording, key.track) == (recording, track))
                    .filter(|key| said.contains(key.sequence))
                    .for_each(|key| left.insert(key.sequence));
                *said = left;
            }
        } else {
            let missing: Vec<_> = self
                .lives
                .keys()
                .filter(|key| self.was_said(**key) && !found.contains_key(*key))
                .filter(|key| !self.erased.contains(&key.recording))
                .copied()
                .collect();
            for key in missing {
                self.breach(format!("false DURABLE: the store does not hold {key}"));
            }
            let unlisted: Vec<_> = self
                .complete
                .iter()
                .filter(|recording| !complete.contains(recording))
                .copied()
                .collect();
            for recording in unlisted {
                self.breach(format!("false COMPLETE: {recording} has no manifest"));
            }
        }
        self.objects = found;
        self.listed_complete = complete.into_iter().collect();
        for recording in self
            .listed_complete
            .iter()
            .filter(|id| !self.is_contested(**id))
            .copied()
            .collect::<Vec<_>>()
        {
            if let Some(what) = self.incomplete(recording) {
                self.breach(format!("false COMPLETE: {what}"));
            }
        }
    }

    /// The first number of an ended recording that is neither stored nor LOST.
    fn incomplete(&self, recording: RecordingId) -> Option<String> {
        let Some(totals) = self.ended.get(&recording) else {
            return Some(format!("{recording} has not ended"));
        };
        for (&track, &total) in totals {
            for sequence in 0..total {
                let key = SegmentKey {
                    recording,
                    track,
                    sequence,
                };
                let lost = self.lost.get(&(recording, track));
                if !self.objects.contains_key(&key)
                    && !lost.is_some_and(|lost| lost.contains(sequence))
                {
                    return Some(format!("{key} is neither stored nor LOST"));
                }
            }
        }
        None
    }

    fn end_is_lost(&self, recording: RecordingId) -> bool {
        let totals = self.ended.get(&recording);
        let events = totals.and_then(|totals| totals.get(&TrackId::EVENTS));
        let lost = self.lost.get(&(recording, TrackId::EVENTS));
        let last = events.and_then(|total| total.checked_sub(1));
        lost.zip(last)
            .is_some_and(|(lost, last)| lost.contains(last))
    }

    /// The verdict over a run that has settled: every fault is over, everything had time to arrive,
    /// and the last listing was noted.
    pub fn judge(&mut self) -> Result<(), Vec<String>> {
        let mut found = std::mem::take(&mut self.breaches);
        if let Some(key) = self
            .objects
            .keys()
            .find(|key| self.erased.contains(&key.recording))
        {
            found.push(format!("{key} is stored after its recording was erased"));
        }
        let made: BTreeSet<RecordingId> = self
            .lives
            .iter()
            .filter(|(_, lives)| lives.iter().any(|life| life.kept > 0))
            .map(|(key, _)| key.recording)
            .collect();
        for recording in made {
            let excused = self.erased.contains(&recording) || self.is_contested(recording);
            if excused || self.receiver_restored && self.has_left(recording) {
                continue;
            }
            match self.incomplete(recording) {
                Some(what) => found.push(format!("not complete: {what}")),
                // Without its last fact nobody can know that it ended.
                None if self.end_is_lost(recording) => {}
                None if !self.listed_complete.contains(&recording) => {
                    found.push(format!("{recording} is all there and has no manifest"));
                }
                None => {}
            }
            let totals = self.ended.get(&recording).cloned().unwrap_or_default();
            for (key, lives) in &self.lives {
                let Some(life) = lives.last() else { continue };
                let beyond = totals
                    .get(&key.track)
                    .is_none_or(|total| key.sequence >= *total);
                if key.recording == recording && life.kept > 0 && beyond {
                    found.push(format!(
                        "{key} was kept and lies beyond the recording's end"
                    ));
                }
                // A segment that no crash cut is whole.
                if let Some((length, _)) = self.objects.get(key)
                    && key.recording == recording
                    && (*length < life.kept || !life.closed && *length < life.content.len() as u64)
                {
                    found.push(format!(
                        "the object {key} has {length} bytes of {}, {} of them kept",
                        life.content.len(),
                        life.kept
                    ));
                }
            }
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDING: RecordingId = RecordingId([7; 16]);
    const TRACK: TrackId = TrackId(1);

    fn key(sequence: u64) -> SegmentKey {
        SegmentKey {
            recording: RECORDING,
            track: TRACK,
            sequence,
        }
    }

    fn hash(bytes: &[u8]) -> Hash {
        Hash(*blake3::hash(bytes).as_bytes())
    }

    fn made(sequence: u64, content: &[u8]) -> [Happening; 4] {
        let (key, length) = (key(sequence), content.len() as u64);
        let bytes = content.to_vec();
        [
            Happening::Segmented {
                key,
                offset: 0,
                bytes: bytes.clone(),
            },
            Happening::Kept { key, bytes: length },
            Happening::Sent {
                key,
                offset: 0,
                bytes,
                bulk: false,
            },
            Happening::Trailer {
                key,
                length,
                hash: hash(content),
            },
        ]
    }

    fn durable(below: u64) -> Happening {
        Happening::Durable {
            recording: RECORDING,
            track: TRACK,
            durable: Sequences::below(below),
        }
    }

    fn store(objects: &[(u64, &[u8])], complete: bool) -> Happening {
        let object =
            |(sequence, bytes): &(u64, &[u8])| (key(*sequence), bytes.len() as u64, hash(bytes));
        Happening::Store {
            objects: objects.iter().map(object).collect(),
            complete: if complete { vec![RECORDING] } else { vec![] },
        }
    }

    fn ended(total: u64) -> Happening {
        Happening::Ended {
            recording: RECORDING,
            totals: vec![(TRACK, total)],
        }
    }

    fn verdict(happenings: impl IntoIterator<Item = Happening>) -> String {
        let mut history = History::with_backfill_bound(4);
        happenings.into_iter().for_each(|it| history.note(it));
        history.judge().err().unwrap_or_default().join("\n")
    }

    #[test]
    fn a_whole_recording_is_in_order() {
        let good = made(0, b"abc").into_iter().chain(made(1, b"de"));
        let rest = [
            durable(2),
            ended(2),
            store(&[(0, b"abc"), (1, b"de")], true),
            Happening::Released {
                key: key(0),
                recorded: true,
                hash: None,
            },
        ];
        assert_eq!(verdict(good.chain(rest)), "");
    }

    #[test]
    fn each_kind_of_breach_is_found() {
        let one = || made(0, b"abc").into_iter();
        let whole = |store: Happening| one().chain([durable(1), ended(1), store]);
        let restarted = |held| Happening::Restarted {
            held,
            acknowledged: vec![],
            trusted: vec![],
        };
        let lost = Happening::Lost {
            recording: RECORDING,
            track: TRACK,
            first: 0,
            last: 0,
            reason: LostReason::ReceiverForgot,
        };
        let cases: Vec<(&str, Vec<Happening>)> = vec![
            ("false DURABLE", whole(store(&[], false)).collect()),
            (
                "is not what was segmented",
                whole(store(&[(0, b"abd")], true)).collect(),
            ),
            (
                "twice",
                whole(store(&[(0, b"abc"), (0, b"abc")], true)).collect(),
            ),
            ("no manifest", whole(store(&[(0, b"abc")], false)).collect()),
            (
                "neither stored nor LOST",
                one()
                    .chain([ended(2), store(&[(0, b"abc")], true)])
                    .collect(),
            ),
            ("reason that never was", one().chain([lost]).collect()),
            (
                "never said durable",
                one()
                    .chain([Happening::Released {
                        key: key(0),
                        recorded: true,
                        hash: None,
                    }])
                    .collect(),
            ),
            (
                "recorded and kept",
                one()
                    .chain([
                        durable(1),
                        Happening::Released {
                            key: key(0),
                            recorded: false,
                            hash: None,
                        },
                    ])
                    .collect(),
            ),
            (
                "a restart finds 2 bytes",
                one()
                    .chain([Happening::BoxCrashed, restarted(vec![(key(0), 2)])])
                    .collect(),
            ),
            (
                "used for a second content",
                one()
                    .chain([Happening::BoxCrashed, restarted(vec![(key(0), 3)])])
                    .chain(made(0, b"xyz"))
                    .collect(),
            ),
            (
                "not kept",
                made(0, b"abc")
                    .into_iter()
                    .filter(|it| !matches!(it, Happening::Kept { .. }))
                    .collect(),
            ),
            (
                "never segmented there",
                one()
                    .chain([Happening::Read {
                        key: key(0),
                        offset: 1,
                        bytes: b"bx".to_vec(),
                    }])
                    .collect(),
            ),
            (
                "after its recording was erased",
                whole(store(&[(0, b"abc")], true))
                    .chain([Happening::Erased {
                        recording: RECORDING,
                    }])
                    .collect(),
            ),
        ];
        let other = Happening::Released {
            key: key(0),
            recorded: true,
            hash: Some(hash(b"xyz")),
        };
        let two_machines = whole(store(&[(0, b"abc")], true)).chain([
            Happening::Cloned {
                recordings: [RECORDING].into(),
            },
            other,
            store(&[(0, b"abc")], true),
        ]);
        let cases = cases
            .into_iter()
            .chain([("acknowledgement of other bytes", two_machines.collect())]);
        for (expected, happenings) in cases {
            let said = verdict(happenings);
            assert!(said.contains(expected), "`{expected}` is not in `{said}`");
        }
    }

    #[test]
    fn what_was_not_kept_may_begin_anew_and_what_is_erased_is_owed_to_nobody() {
        let torn = [
            Happening::Segmented {
                key: key(0),
                offset: 0,
                bytes: b"torn".to_vec(),
            },
            Happening::BoxCrashed,
            Happening::Restarted {
                held: vec![],
                acknowledged: vec![],
                trusted: vec![],
            },
        ];
        let again = made(0, b"abc").into_iter();
        let rest = [durable(1), ended(1), store(&[(0, b"abc")], true)];
        let erased = [
            Happening::Erased {
                recording: RECORDING,
            },
            store(&[], false),
        ];
        assert_eq!(
            verdict(torn.into_iter().chain(again).chain(rest).chain(erased)),
            ""
        );
    }

    #[test]
    fn backfill_has_a_bound() {
        let sent = |sequence: u64| Happening::Sent {
            key: key(sequence),
            offset: 0,
            bytes: b"abc".to_vec(),
            bulk: true,
        };
        let segmented = |sequence: u64| made(sequence, b"abc").into_iter().next();
        let both = || {
            segmented(0)
                .into_iter()
                .chain(segmented(1))
                .chain([sent(0)])
        };
        let heard = Happening::Received {
            key: key(0),
            offset: 3,
        };
        assert!(verdict(both().chain([sent(1)])).contains("more than 4"));
        assert_eq!(verdict(both().chain([heard, sent(1)])), "");
    }
}
