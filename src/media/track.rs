//! What a track is.

use super::{Hash, Rate, Timescale, TrackId};

/// What a track carries. Kinds not known here are kept untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrackKind {
    /// Facts about the recording.
    Events,
    /// Pictures.
    Video,
    /// Sound.
    Audio,
    /// A kind of a later release.
    Other(u16),
}

/// A track's codec and the parameters that players and people ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Codec {
    /// ITU-T H.264.
    H264 {
        /// Points per row.
        width: u32,
        /// Rows.
        height: u32,
        /// The pacing rate; none for a passthrough source.
        rate: Option<Rate>,
    },
    /// ISO/IEC 14496-3 AAC-LC.
    AacLc {
        /// Samples per second.
        sample_rate: u32,
        /// Channels, 1 or 2.
        channels: u8,
    },
}

/// One track of a recording, as its events track describes it in each span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackInfo {
    /// Its number in the recording.
    pub id: TrackId,
    /// `presenter`, `slides` or `microphone`.
    pub name: String,
    /// What it carries.
    pub kind: TrackKind,
    /// Its codec.
    pub codec: Codec,
    /// The codec's name in playlists (RFC 6381), such as `avc1.42c01f` or `mp4a.40.2`.
    pub codec_tag: String,
    /// Units per second of its timeline.
    pub timescale: Timescale,
    /// Mean bits per second it was configured for.
    pub bit_rate: u32,
    /// The init in use from here on.
    pub init: Hash,
    /// Spoken language (BCP 47), where known.
    pub language: Option<String>,
    /// The track that shows the same thing in another form.
    pub alternate_of: Option<TrackId>,
}
