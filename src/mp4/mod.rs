//! Layer 1: ISO base media file format boxes (ISO/IEC 14496-12, -14, -15) as CMAF (ISO/IEC 23000-19).
//!
//! Takes access units, parameter sets and [`crate::media::Provenance`]; gives the bytes of inits,
//! chunks, segments and whole files, and reads the same bytes back. The segmenter writes with it, the
//! receiver and the station's export read and write with it.
//!
//! Everything here is pure: bytes in, bytes out; where a whole file is made, through a reader and a
//! writer that the caller owns. What does not belong here: when to cut a chunk (`segmenter`), where
//! bytes are kept, hashes, and anything about a codec beyond what a box must say of it.
//!
//! Reading is strict and by hand down to the leaf boxes: `mp4-atom` decodes nested boxes by
//! recursion, which a hostile sender could drive into the end of the stack; its leaf boxes and its
//! encoders are used.

mod boxes;
mod chunk;
mod init;
mod progressive;
mod provenance;
mod segment;
mod tables;

pub use chunk::{ParsedChunk, Sample, encode_chunk, parse_chunk};
pub use init::{ParsedInit, aac_codec_tag, audio_init, avc_codec_tag, parse_init, video_init};
pub use progressive::{ProgressiveTrack, SegmentSource, Written, write_progressive};
pub use provenance::{PROVENANCE_UUID, encode_provenance, parse_provenance};
pub use segment::{Content, MediaChunk, Segment, events_segment, parse_segment};

/// Why boxes could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not what they should be: refuse them.
    #[error("malformed MP4 at byte {at}: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where, counted from the start of the bytes given.
        at: usize,
    },
    /// The values cannot be written as boxes: a fault of the caller or of the encoder before it.
    #[error("cannot be written as MP4: {0}")]
    Unencodable(&'static str),
    /// A segment could not be fetched while a file was written.
    #[error("reading segment {segment} of track {track}: {source}")]
    Read {
        /// Index of the track in the list given.
        track: usize,
        /// Index of the segment in the track's list.
        segment: usize,
        /// What the reader said.
        source: std::io::Error,
    },
    /// A segment that was fetched does not parse, or changed between the two passes.
    #[error("segment {segment} of track {track}: {what}")]
    Segment {
        /// Index of the track in the list given.
        track: usize,
        /// Index of the segment in the track's list.
        segment: usize,
        /// What is wrong with it.
        what: String,
    },
    /// The file could not be written.
    #[error("writing the file: {0}")]
    Write(#[source] std::io::Error),
}
