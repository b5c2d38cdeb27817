//! The events track: one batch of facts is one chunk is one segment.

use super::Error;
use crate::media::{
    Chunk, MediaTime, Monotonic, Provenance, RecordingId, SegmentKey, Segmented, TrackId,
};
use crate::mp4::events_segment;

/// Units per second of the events track's timeline.
const NANOS: u32 = 1_000_000_000;

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

    /// Takes one batch of facts as CBOR, the first of them noted `at_nanos` after the span's start,
    /// which is `noted` on the monotonic clock.
    pub fn push(
        &mut self,
        cbor: &[u8],
        at_nanos: u64,
        noted: Monotonic,
        give: &mut impl FnMut(Segmented),
    ) -> Result<(), Error> {
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
        let bytes = events_segment(&provenance, cbor).map_err(|source| Error::Boxes {
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
