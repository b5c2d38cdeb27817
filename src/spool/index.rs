//! What the spool holds, as records tell it: a pure engine, fed the same way by writing and by recovery.

use super::record::{Opened, Record};
use crate::media::{Hash, LostReason, Range, Sequences, TrackId, TrackTotal};
use std::collections::BTreeMap;

/// Where a record's body lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The recording's log file, by number.
    pub file: u64,
    /// Offset of the body in it.
    pub at: u64,
}

/// One recording as the spool holds it.
#[derive(Debug, Default)]
pub struct RecordingState {
    /// The latest taking-up.
    pub opened: Option<Opened>,
    /// Its `End` fact is in the spool.
    pub ended: bool,
    /// The receiver's manifest is durable. Its segments are not listed here any more, unless
    /// [`Spool::load`](super::Spool::load) was asked for them; what is acknowledged is.
    pub complete: bool,
    /// Its tracks.
    pub tracks: BTreeMap<TrackId, TrackState>,
    pub(super) inits: BTreeMap<Hash, (Place, usize, TrackId)>,
    /// When it was complete, in seconds since 1970; 0 where the clock was not known.
    pub(super) completed_at: u32,
}

/// One track as the spool holds it.
#[derive(Debug, Default)]
pub struct TrackState {
    /// What the receiver holds durably.
    pub acknowledged: Sequences,
    /// What will never come, and why, ascending.
    pub lost: Vec<(Range, LostReason)>,
    /// The segments by sequence number.
    pub segments: BTreeMap<u64, SegmentState>,
    /// The acknowledgements whose records are kept: only these free anything.
    pub(super) recorded: Sequences,
}

/// One segment as the spool holds it.
#[derive(Debug, Default)]
pub struct SegmentState {
    /// The init its chunks need.
    pub init: Option<Hash>,
    /// Bytes written and still held; 0 once they are freed or lost.
    pub length: u64,
    /// The seal: length and hash of the whole segment.
    pub seal: Option<(u64, Hash)>,
    /// The seal and all it covers are kept.
    pub seal_kept: bool,
    /// Place and length of each chunk.
    pub(super) chunks: Vec<(Place, u64)>,
    /// When it was acknowledged, in seconds since 1970; 0 where that is not known.
    pub(super) acknowledged_at: u32,
}

/// The numbers below `end` that are not in `set`, as ranges.
fn outside(set: &Sequences, end: u64) -> Vec<Range> {
    let mut outside = Vec::new();
    let mut first = set.cumulative();
    for range in set.ranges().iter().take_while(|range| range.first < end) {
        let last = range.first - 1;
        outside.push(Range { first, last });
        first = range.last.saturating_add(1);
    }
    if first < end {
        let last = end - 1;
        outside.push(Range { first, last });
    }
    outside
}

impl SegmentState {
    /// Where its first chunk lies in the recording's log: what was written earlier comes before it,
    /// whatever its track.
    pub fn written_at(&self) -> (u64, u64) {
        let first = self.chunks.first();
        first.map_or((0, 0), |(place, _)| (place.file, place.at))
    }

    /// The bytes that the seal names are all here.
    pub fn is_whole(&self) -> bool {
        self.length > 0 && self.seal.is_some_and(|(length, _)| length == self.length)
    }

    /// Nothing of it can be given any more.
    pub(super) fn forget_bytes(&mut self) {
        (self.chunks, self.length) = (Vec::new(), 0);
    }
}

impl TrackState {
    /// Whether `sequence` will never come.
    pub fn is_lost(&self, sequence: u64) -> bool {
        let covers = |range: &Range| (range.first..=range.last).contains(&sequence);
        self.lost.iter().any(|(range, _)| covers(range))
    }

    /// The sequence number after the last one used.
    pub fn next_sequence(&self) -> u64 {
        let held = self.segments.last_key_value();
        let held = held.map_or(0, |(last, _)| last.saturating_add(1));
        let lost = self.lost.iter().map(|(range, _)| range.last);
        let lost = lost.max().map_or(0, |last| last.saturating_add(1));
        held.max(lost).max(self.acknowledged.end())
    }

    /// The segments whose bytes are here and that the receiver does not hold durably, in order.
    pub fn waiting(&self) -> impl Iterator<Item = (u64, &SegmentState)> {
        self.waiting_from(0)
    }

    /// Those of them that are not below `from`.
    pub fn waiting_from(&self, from: u64) -> impl Iterator<Item = (u64, &SegmentState)> {
        let from = from.max(self.acknowledged.cumulative());
        self.segments
            .range(from..)
            .filter(|(sequence, segment)| {
                segment.length > 0
                    && !self.acknowledged.contains(**sequence)
                    && !self.is_lost(**sequence)
            })
            .map(|(sequence, segment)| (*sequence, segment))
    }

    /// Of `durable`, what the receiver can really hold: a number that was used and whose trailer
    /// may have left.
    pub(super) fn possible(&self, durable: &Sequences) -> Sequences {
        let next = self.next_sequence();
        let mut possible = Sequences::default();
        let below = durable.cumulative().checked_sub(1);
        let below = below.map(|last| Range { first: 0, last });
        for range in below.into_iter().chain(durable.ranges().iter().copied()) {
            let end = range.last.saturating_add(1).min(next);
            // What is known to be there is not looked at again.
            let known = end.min(self.acknowledged.cumulative());
            if let Some(last) = known.checked_sub(1) {
                let first = range.first;
                possible.insert_range(Range { first, last });
            }
            let mut first = range.first.max(known);
            if first >= end {
                continue;
            }
            let open = self.segments.range(first..end).filter(|(sequence, held)| {
                held.length > 0 && !held.seal_kept && !self.acknowledged.contains(**sequence)
            });
            for (&sequence, _) in open {
                if let Some(last) = sequence.checked_sub(1) {
                    possible.insert_range(Range { first, last });
                }
                first = sequence + 1;
            }
            let last = end - 1;
            possible.insert_range(Range { first, last });
        }
        possible
    }

    /// Numbers that were used and that nothing can be given for: neither acknowledged nor lost, and
    /// without bytes; of a recording that has ended (`is_final`) also what is not as its seal says,
    /// because the `End` fact names that seal's hash.
    pub(super) fn missing(&self, is_final: bool) -> Vec<Range> {
        let mut covered = self.acknowledged.clone();
        self.lost
            .iter()
            .for_each(|(range, _)| covered.insert_range(*range));
        for (&sequence, segment) in self.segments.range(covered.cumulative()..) {
            if segment.length > 0 && (segment.is_whole() || !is_final) {
                covered.insert(sequence);
            }
        }
        outside(&covered, self.next_sequence())
    }

    /// Of what is acknowledged and not in `held`: the numbers that can be given again, and what
    /// cannot. What was freed in part is not what its seal says, and no part of it is given.
    pub(super) fn given_back(&self, held: &Sequences) -> (Vec<u64>, Vec<Range>) {
        let mut covered = held.clone();
        self.lost
            .iter()
            .for_each(|(range, _)| covered.insert_range(*range));
        let mut again = Vec::new();
        for (&sequence, segment) in &self.segments {
            let is_here = segment.length > 0
                && segment
                    .seal
                    .is_none_or(|(length, _)| length == segment.length);
            if is_here && self.acknowledged.contains(sequence) && !covered.contains(sequence) {
                covered.insert(sequence);
                again.push(sequence);
            }
        }
        let mut gone = Sequences::default();
        let outside = outside(&covered, self.acknowledged.end());
        outside
            .into_iter()
            .for_each(|range| gone.insert_range(range));
        (again, gone.within(&self.acknowledged).parts().collect())
    }

    /// Everything that was used is acknowledged or LOST.
    pub(super) fn is_settled(&self) -> bool {
        self.waiting().next().is_none() && self.missing(false).is_empty()
    }

    fn lose(&mut self, range: Range, reason: LostReason) {
        if range.last < range.first {
            return;
        }
        let known =
            |old: &(Range, LostReason)| old.0.first <= range.first && range.last <= old.0.last;
        if self.lost.iter().any(known) {
            return;
        }
        // With what touches it for the same reason it is one range: segment by segment the list stays
        // short.
        let mut all = range;
        self.lost.retain(|(old, why)| {
            let touches = *why == reason
                && old.first <= range.last.saturating_add(1)
                && range.first <= old.last.saturating_add(1);
            if touches {
                all.first = all.first.min(old.first);
                all.last = all.last.max(old.last);
            }
            !touches
        });
        let at = self.lost.partition_point(|(old, _)| old.first < all.first);
        self.lost.insert(at, (all, reason));
        for (_, segment) in self.segments.range_mut(range.first..=range.last) {
            segment.forget_bytes();
        }
    }

    fn acknowledge(&mut self, durable: &Sequences, at: u32) {
        let before = self.acknowledged.cumulative();
        self.acknowledged.merge(durable);
        // A restatement may bring the time that was not known before.
        let from = if durable.cumulative() > before {
            before
        } else {
            0
        };
        for (sequence, segment) in self.segments.range_mut(from..) {
            if segment.acknowledged_at == 0 && durable.contains(*sequence) {
                segment.acknowledged_at = at;
            }
        }
    }
}

impl RecordingState {
    /// The sequence number after the last one used on `track`.
    pub fn next_sequence(&self, track: TrackId) -> u64 {
        self.tracks.get(&track).map_or(0, TrackState::next_sequence)
    }

    /// What will never come: track, range, reason.
    pub fn lost(&self) -> impl Iterator<Item = (TrackId, Range, LostReason)> {
        self.tracks.iter().flat_map(|(&id, track)| {
            let each = track.lost.iter();
            each.map(move |&(range, reason)| (id, range, reason))
        })
    }

    pub(super) fn segment(&self, track: TrackId, sequence: u64) -> Option<&SegmentState> {
        self.tracks.get(&track)?.segments.get(&sequence)
    }

    fn segment_mut(&mut self, track: TrackId, sequence: u64) -> &mut SegmentState {
        let track = self.tracks.entry(track).or_default();
        track.segments.entry(sequence).or_default()
    }

    /// Takes a chunk in. One that does not follow what is here is left out: behind damage nothing of
    /// that segment is of use, and what is lost stays lost.
    pub(super) fn apply_chunk(
        &mut self,
        (track, sequence, index): (TrackId, u64, u32),
        init: Option<Hash>,
        length: u64,
        place: Place,
    ) {
        let of = self.tracks.entry(track).or_default();
        if of.is_lost(sequence) {
            return;
        }
        let segment = of.segments.entry(sequence).or_default();
        let (index, held) = (index as usize, segment.chunks.len());
        if index == held {
            segment.init = init;
            segment.chunks.push((place, length));
            segment.length += length;
        } else if index < held && segment.chunks[index].1 == length {
            // Written again after a failed sync.
            segment.chunks[index].0 = place;
        }
    }

    pub(super) fn apply_init(&mut self, track: TrackId, hash: Hash, length: usize, place: Place) {
        self.inits.insert(hash, (place, length, track));
    }

    /// Takes a record in.
    pub(super) fn apply(&mut self, record: &Record<'_>, place: Place) {
        match record {
            Record::Opened(opened) => self.opened = Some(*opened),
            Record::Init { track, hash, bytes } => {
                self.apply_init(*track, *hash, bytes.len(), place);
            }
            Record::Chunk {
                track,
                sequence,
                index,
                init,
                bytes,
            } => {
                let of = (*track, *sequence, *index);
                self.apply_chunk(of, *init, bytes.len() as u64, place);
            }
            Record::Seal {
                track,
                sequence,
                length,
                hash,
            } => self.segment_mut(*track, *sequence).seal = Some((*length, *hash)),
            Record::Final { sequence, bytes } => {
                let (events, length) = (TrackId::EVENTS, bytes.len() as u64);
                self.apply_chunk((events, *sequence, 0), None, length, place);
                let hash = Hash(*blake3::hash(bytes).as_bytes());
                self.segment_mut(events, *sequence).seal = Some((length, hash));
                self.ended = true;
            }
            Record::Durable { track, durable, at } => {
                let track = self.tracks.entry(*track).or_default();
                track.acknowledge(durable, *at);
            }
            Record::Forgot { track, held, lost } => {
                self.complete = false;
                let track = self.tracks.entry(*track).or_default();
                track.acknowledged = held.clone();
                for (sequence, segment) in &mut track.segments {
                    if !held.contains(*sequence) {
                        segment.acknowledged_at = 0;
                    }
                }
                for &range in lost {
                    track.lose(range, LostReason::ReceiverForgot);
                }
            }
            Record::Lost {
                track,
                range,
                reason,
            } => self.tracks.entry(*track).or_default().lose(*range, *reason),
            Record::Seals { track, seals } => {
                for &(sequence, length, hash) in seals {
                    self.segment_mut(*track, sequence).seal = Some((length, hash));
                }
            }
            Record::Ended => self.ended = true,
            Record::Complete { at } => (self.complete, self.completed_at) = (true, *at),
            Record::Index(_) | Record::Other(_) => {}
        }
    }

    /// What each track but the events track holds; the root is BLAKE3 over the hashes of the
    /// segments that are not lost.
    pub fn totals(&self) -> Vec<TrackTotal> {
        let media = self.tracks.iter().filter(|(id, _)| **id != TrackId::EVENTS);
        media
            .map(|(&track, state)| {
                let mut root = blake3::Hasher::new();
                let mut bytes = 0u64;
                for (sequence, segment) in &state.segments {
                    let given = state.acknowledged.contains(*sequence) || !state.is_lost(*sequence);
                    if let Some((length, hash)) = segment.seal.filter(|_| given) {
                        root.update(&hash.0);
                        bytes = length.saturating_add(bytes);
                    }
                }
                let root = Hash(*root.finalize().as_bytes());
                TrackTotal {
                    track,
                    segments: state.next_sequence(),
                    bytes,
                    root,
                }
            })
            .collect()
    }

    /// Bytes of segments that the receiver does not hold durably.
    pub fn waiting_bytes(&self) -> u64 {
        let waiting = |track: &TrackState| -> u64 {
            track.waiting().map(|(_, segment)| segment.length).sum()
        };
        self.tracks.values().map(waiting).sum()
    }
}
