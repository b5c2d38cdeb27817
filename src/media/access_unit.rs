//! One encoded picture or audio packet.

use super::{MediaTime, Monotonic};

/// One encoded picture (ITU-T H.264 access unit, as length-prefixed NAL units without parameter
/// sets) or one audio packet (ISO/IEC 14496-3 raw data block).
///
/// Decode order is presentation order: no encoder here reorders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessUnit {
    /// Its place on the track's timeline, the encoder's delay already taken out.
    pub time: MediaTime,
    /// How long it is shown or heard, in units of the track's timescale.
    pub duration: u32,
    /// Decodes alone (an IDR picture; every audio packet).
    pub keyframe: bool,
    /// When what it shows was captured; for lateness figures only, never for the timeline.
    pub captured: Monotonic,
    /// The encoded bytes.
    pub data: Vec<u8>,
}
