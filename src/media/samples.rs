//! One block of sound.

use super::Monotonic;

/// Interleaved 16-bit PCM with the capture time of its first sample.
///
/// Rate and channel count are the source's settings and do not change within a run of the device.
#[derive(Clone, Debug)]
pub struct Samples {
    /// When the first sample was captured, on the monotonic clock.
    pub captured: Monotonic,
    /// Sample frames that the device lost just before this block (an overrun); 0 when it is whole.
    pub lost_before: u64,
    /// The device's own samples, where they are finer than these, are not all one value: it hears
    /// something, even where these are silent.
    pub hears: bool,
    /// Interleaved samples; the buffer is recycled.
    pub data: Vec<i16>,
}
