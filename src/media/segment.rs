//! Segments, their chunks, and the inits they need.

use super::{Hash, MediaTime, Monotonic, RecordingId, TrackId};
use std::fmt;

/// The name of a segment: one HLS segment, one QUIC stream, one archived object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentKey {
    /// The recording it belongs to.
    pub recording: RecordingId,
    /// The track within the recording.
    pub track: TrackId,
    /// Counts from 0 within the track over all spans, without holes.
    pub sequence: u64,
}

impl fmt::Display for SegmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.recording, self.track, self.sequence)
    }
}

/// What a segment's bytes say of themselves, so that an object found alone explains itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Recording, track and sequence.
    pub key: SegmentKey,
    /// The box's boot epoch when the segment was begun.
    pub epoch: u64,
    /// The span, counted from 0 within the recording.
    pub span: u32,
    /// Media time of its first access unit, counted from the span's start.
    pub start: MediaTime,
    /// Units per second of `start`.
    pub timescale: u32,
    /// The init that its chunks need; none for the events track.
    pub init: Option<Hash>,
}

/// The decoder's set-up of one track (an ISO BMFF `ftyp` + `moov`), named by its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Init {
    /// The track that uses it first.
    pub track: TrackId,
    /// BLAKE3 of `bytes`.
    pub hash: Hash,
    /// The archived bytes.
    pub bytes: Vec<u8>,
}

/// A CMAF chunk of one track: the smallest durable amount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The segment it continues.
    pub key: SegmentKey,
    /// The init that the segment needs; none for the events track.
    pub init: Option<Hash>,
    /// Counts from 0 within the segment. Chunk 0 carries the segment's provenance box in front.
    pub index: u32,
    /// Media time of its first access unit.
    pub start: MediaTime,
    /// How long it lasts, in units of the track's timescale.
    pub duration: u64,
    /// When the first picture or sample in it was captured.
    pub captured: Monotonic,
    /// The archived bytes: `moof` + `mdat`.
    pub bytes: Vec<u8>,
}

/// What the segmenter gives, in this order for each track: an init before its first user, the
/// chunks of a segment, then its seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segmented {
    /// Store and send this init before anything that names it.
    Init(Init),
    /// The next chunk of the track's open segment.
    Chunk(Chunk),
    /// No chunk of this segment follows.
    Seal(SegmentKey),
}
