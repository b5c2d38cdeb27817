//! The events track: one batch of facts is one chunk is one segment.

use super::Error;
use crate::media::{
    Chunk, Fact, MediaTime, Monotonic, Provenance, RecordingId, SegmentKey, Segmented, TrackId,
};
use crate::mp4::{Content, events_segment, parse_segment};
use crate::wire;

/// Units per second of the events track's timeline.
const NANOS: u32 = 1_000_000_000;

/// The facts in the bytes of a whole segment of an events track; `None` if they are none.
pub fn read_facts(segment: &[u8]) -> Option<Vec<Fact>> {
    match parse_segment(segment).ok()?.content {
        Content::Events(batch) => wire::event::decode(batch).ok(),
        Content::Media(_) => None,
    }
}

/// Numbers the batches of one span.
pub struct Events {
    recording: RecordingId,
    epoch: u64,
    span: u32,
    sequence: u64,
}

impl Events {
    /// The events of one span; its first batch is segment `first_sequence`.
    pub fn new(recording: RecordingId, epoch: u64, span: u32, first_sequence: u64) -> Self {
        Self {
            recording,
            epoch,
            span,
            sequence: first_sequence,
        }
    }

    /// The next batch's number.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Takes one batch of facts; `noted` is now, on the monotonic clock.
    pub fn push(
        &mut self,
        facts: &[Fact],
        noted: Monotonic,
        give: &mut impl FnMut(Segmented),
    ) -> Result<(), Error> {
        let mut cbor = Vec::new();
        facts
            .iter()
            .for_each(|fact| wire::event::encode(fact, &mut cbor));
        let at_nanos = facts.first().map_or(0, |fact| fact.at_nanos);
        let key = SegmentKey {
            recording: self.recording,
            track: TrackId::EVENTS,
            sequence: self.sequence,
        };
        let start = MediaTime(i64::try_from(at_nanos).unwrap_or(i64::MAX));
        let provenance = Provenance {
            key,
            epoch: self.epoch,
            span: self.span,
            start,
            timescale: NANOS,
            init: None,
        };
        let bytes = events_segment(&provenance, &cbor).map_err(|source| Error::Boxes {
            track: key.track,
            source,
        })?;
        give(Segmented::Chunk(Chunk {
            key,
            init: None,
            index: 0,
            start,
            duration: 0,
            captured: noted,
            bytes,
        }));
        give(Segmented::Seal(key));
        self.sequence += 1;
        Ok(())
    }
}
