//! What the spool holds, as records tell it: a pure engine, fed the same way by writing and by recovery.

use super::record::{Opened, Record};
use crate::media::{Hash, Sequences, TrackId, TrackTotal};
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
    pub acknowledged: Sequences,
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
        after.max(held.map_or(0, |track| track.acknowledged.cumulative()))
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
            Record::Durable { track, durable } => {
                let track = self.tracks.entry(*track).or_default();
                track.acknowledged.merge(durable);
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
