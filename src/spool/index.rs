//! What the spool holds, as records tell it: a pure engine, fed the same way by writing and by recovery.

use super::record::{Opened, Record};
use crate::media::{Hash, TrackId, TrackTotal};
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
    /// The receiver's manifest is durable.
    pub complete: bool,
    /// Its tracks.
    pub tracks: BTreeMap<TrackId, TrackState>,
    pub(super) inits: BTreeMap<Hash, (Place, usize)>,
}

/// One track as the spool holds it.
#[derive(Debug, Default)]
pub struct TrackState {
    /// What the receiver holds durably.
    pub acknowledged: Acknowledged,
    /// The segments by sequence number.
    pub segments: BTreeMap<u64, SegmentState>,
}

/// One segment as the spool holds it.
#[derive(Debug, Default)]
pub struct SegmentState {
    /// The init its chunks need.
    pub init: Option<Hash>,
    /// Bytes written.
    pub length: u64,
    /// The seal: length and hash of the whole segment.
    pub seal: Option<(u64, Hash)>,
    /// The seal and all it covers are kept.
    pub seal_kept: bool,
    /// Place and length of each chunk; emptied once acknowledged.
    pub(super) chunks: Vec<(Place, u64)>,
}

/// The segments of a track that the receiver holds durably: all below `next`, and `ranges`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// The first sequence number that is not covered.
    pub next: u64,
    /// Runs beyond it, first and last, ascending and apart.
    pub ranges: Vec<(u64, u64)>,
}

impl Acknowledged {
    /// Whether `sequence` is acknowledged.
    pub fn contains(&self, sequence: u64) -> bool {
        sequence < self.next
            || self
                .ranges
                .iter()
                .any(|&(first, last)| (first..=last).contains(&sequence))
    }

    /// Adds another acknowledgement; true when anything is new.
    pub fn merge(&mut self, next: u64, ranges: &[(u64, u64)]) -> bool {
        let mut runs = self.ranges.clone();
        runs.extend(ranges.iter().filter(|(first, last)| first <= last));
        runs.sort_unstable();
        let mut merged = Self {
            next: self.next.max(next),
            ranges: Vec::new(),
        };
        for (first, last) in runs {
            let after = last.saturating_add(1);
            if first <= merged.next {
                merged.next = merged.next.max(after);
            } else if let Some(open) = merged
                .ranges
                .last_mut()
                .filter(|open| first <= open.1.saturating_add(1))
            {
                open.1 = open.1.max(last);
            } else {
                merged.ranges.push((first, last));
            }
        }
        let changed = merged != *self;
        *self = merged;
        changed
    }
}

impl SegmentState {
    /// Offset and length of each chunk in the segment, in order.
    pub fn chunk_spans(&self) -> impl Iterator<Item = (u64, u64)> {
        self.chunks.iter().scan(0, |offset, &(_, length)| {
            let span = (*offset, length);
            *offset += length;
            Some(span)
        })
    }

    /// The bytes that the seal names are all here.
    pub fn is_whole(&self) -> bool {
        self.seal.is_some_and(|(length, _)| length == self.length)
    }
}

impl RecordingState {
    /// The sequence number after the last one used on `track`.
    pub fn next_sequence(&self, track: TrackId) -> u64 {
        let held = self.tracks.get(&track);
        let after = held
            .and_then(|track| track.segments.last_key_value())
            .map_or(0, |(last, _)| last + 1);
        after.max(held.map_or(0, |track| track.acknowledged.next))
    }

    /// The inits held.
    pub fn init_hashes(&self) -> impl Iterator<Item = Hash> {
        self.inits.keys().copied()
    }

    /// Takes a record in. A chunk that does not follow what is here is left out, false: behind
    /// damage nothing of that segment is of use.
    pub(super) fn apply(&mut self, record: &Record<'_>, place: Place) -> bool {
        match record {
            Record::Opened(opened) => self.opened = Some(*opened),
            Record::Init { hash, bytes, .. } => {
                self.inits.insert(*hash, (place, bytes.len()));
            }
            Record::Chunk {
                track,
                sequence,
                index,
                init,
                bytes,
            } => {
                let segment = self
                    .tracks
                    .entry(*track)
                    .or_default()
                    .segments
                    .entry(*sequence)
                    .or_default();
                let length = bytes.len() as u64;
                let (index, held) = (*index as usize, segment.chunks.len());
                if index == held {
                    segment.init = *init;
                    segment.chunks.push((place, length));
                    segment.length += length;
                } else if index < held && segment.chunks[index].1 == length {
                    // Written again after a failed sync.
                    segment.chunks[index].0 = place;
                } else {
                    return false;
                }
            }
            Record::Seal {
                track,
                sequence,
                length,
                hash,
            } => {
                let segment = self
                    .tracks
                    .entry(*track)
                    .or_default()
                    .segments
                    .entry(*sequence)
                    .or_default();
                segment.seal = Some((*length, *hash));
            }
            Record::Durable {
                track,
                next,
                ranges,
            } => {
                let track = self.tracks.entry(*track).or_default();
                track.acknowledged.merge(*next, ranges);
                for (sequence, segment) in &mut track.segments {
                    if track.acknowledged.contains(*sequence) {
                        segment.chunks = Vec::new();
                    }
                }
            }
            Record::Ended => self.ended = true,
            Record::Complete => self.complete = true,
        }
        true
    }

    /// What each track but the events track holds; the root is BLAKE3 over the segments' hashes.
    pub fn totals(&self) -> Vec<TrackTotal> {
        let media = self.tracks.iter().filter(|(id, _)| **id != TrackId::EVENTS);
        media
            .map(|(&track, state)| {
                let mut root = blake3::Hasher::new();
                let mut bytes = 0;
                for (length, hash) in state.segments.values().filter_map(|segment| segment.seal) {
                    root.update(&hash.0);
                    bytes += length;
                }
                let root = Hash(*root.finalize().as_bytes());
                TrackTotal {
                    track,
                    segments: self.next_sequence(track),
                    bytes,
                    root,
                }
            })
            .collect()
    }

    /// Bytes of segments that the receiver does not hold durably.
    pub fn waiting_bytes(&self) -> u64 {
        let waiting = |track: &TrackState| -> u64 {
            let open = track
                .segments
                .iter()
                .filter(|(sequence, _)| !track.acknowledged.contains(**sequence));
            open.map(|(_, segment)| segment.length).sum()
        };
        self.tracks.values().map(waiting).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn acknowledgements_in_any_order_mean_the_same(acks in prop::collection::vec((0u64..20, 0u64..40, 0u64..6), 0..12)) {
            let mut all = Acknowledged::default();
            let mut model = BTreeSet::new();
            for (next, first, more) in acks {
                all.merge(next, &[(first, first + more)]);
                model.extend(0..next);
                model.extend(first..=first + more);
            }
            for sequence in 0..60 {
                prop_assert_eq!(all.contains(sequence), model.contains(&sequence));
            }
            prop_assert!(!all.clone().merge(all.next, &all.ranges));
        }
    }

    #[test]
    fn a_run_to_the_end_of_numbers_does_no_harm() {
        let mut all = Acknowledged::default();
        assert!(all.merge(0, &[(5, u64::MAX), (9, 3)]));
        assert!(all.contains(u64::MAX) && !all.contains(4));
    }
}
