//! Stage: pictures and samples to access units.
//!
//! Takes pictures on the pacer's grid and blocks of 48 kHz samples, each with its media time; gives
//! [`crate::media::AccessUnit`]s whose times have the encoder's delay taken out, and the parameters
//! that an init needs. One `VideoEncoder` or `AudioEncoder` per track.
//!
//! What does not belong here: when a picture or a keyframe is due, resampling and silence (`pacer`), boxes (`segmenter`).
//!
//! Which encoder: `open_video` walks a table in order and takes the first that opens. A hardware
//! encoder is one more file and one more row before the software; a camera that encodes by
//! itself needs none: [`Passthrough`] makes access units of what it gives.

#[cfg(feature = "software")]
mod aac;
mod candidates;
#[cfg(feature = "software")]
mod convert;
mod passthrough;
#[cfg(feature = "software")]
mod software;

pub use candidates::{names, open_audio, open_video};
pub use passthrough::{Parsed, Passed, Passthrough, Refused, parse_annex_b};

use crate::media::{AccessUnit, MediaTime, Monotonic, PictureLayout, Rate};

/// What is in the pictures of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scene {
    /// A camera's view of people and rooms.
    #[default]
    Camera,
    /// Slides or a screen: large still areas, sharp edges, sudden changes.
    Slides,
}

/// What an encoder of pictures is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to expect in the pictures.
    pub scene: Scene,
    /// Mean bits per second, from 50 000 to 100 000 000.
    pub bit_rate: u32,
    /// Threads of a software encoder, at least 1. One takes the least CPU time in total.
    pub threads: u16,
}

impl Config {
    /// The defaults for pictures of this size and rate: 0.075 bits per point (2.1 Mbit/s at 720p30,
    /// 4.7 Mbit/s at 1080p30), one thread.
    pub fn new(scene: Scene, layout: PictureLayout, rate: Rate) -> Self {
        let points = u64::from(layout.width) * u64::from(layout.height);
        let per_second = points * u64::from(rate.num()) / u64::from(rate.den());
        let bit_rate = (per_second * 75 / 1000).clamp(LEAST_BIT_RATE.into(), MOST_BIT_RATE.into());
        Self {
            scene,
            bit_rate: bit_rate as u32,
            threads: 1,
        }
    }
}

/// The lowest bit rate of pictures.
pub const LEAST_BIT_RATE: u32 = 50_000;
const MOST_BIT_RATE: u32 = 100_000_000;

/// What an encoder of sound is told once. Samples come 48 000 per second.
#[derive(Clone, Copy, Debug)]
pub struct AudioConfig {
    /// 1 or 2.
    pub channels: u8,
    /// Bits per second, from 16 000 to 320 000.
    pub bit_rate: u32,
}

impl AudioConfig {
    /// The defaults: 96 kbit/s for one channel, 128 kbit/s for two.
    pub fn new(channels: u8) -> Self {
        let bit_rate = if channels == 1 { 96_000 } else { 128_000 };
        Self { channels, bit_rate }
    }
}

/// Why an encoder does not open or a picture was not encoded; one variant per reaction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The source's pictures or samples, or the configuration, are not what any encoder takes: stop
    /// and tell people.
    #[error("cannot be encoded: {0}")]
    Unsupported(String),
    /// No encoder opens: stop and tell people.
    #[error("no encoder for {what}: {}", tried_text(.tried))]
    NoEncoder {
        /// What was to be encoded.
        what: String,
        /// Each encoder's name and why it did not open.
        tried: Vec<(&'static str, String)>,
    },
    /// The buffer does not hold a whole picture or block: skip it, the next may be whole.
    #[error("a picture or block of {found} where {expected} are needed")]
    Short {
        /// Bytes or samples needed.
        expected: usize,
        /// Bytes or samples given.
        found: usize,
    },
    /// The encoder failed: degrade to the next one.
    #[error("encoder {encoder}: {reason}")]
    Failed {
        /// Its name.
        encoder: &'static str,
        /// What it said.
        reason: String,
    },
}

fn tried_text(tried: &[(&'static str, String)]) -> String {
    if tried.is_empty() {
        return "this program was built without one (cargo feature `software`)".into();
    }
    let each = tried
        .iter()
        .map(|(name, reason)| format!("{name}: {reason}"));
    each.collect::<Vec<_>>().join("; ")
}

/// What an encoder has given since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Access units given.
    pub units: u64,
    /// Those of them that decode alone.
    pub keyframes: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Stats {
    #[cfg(feature = "software")]
    fn count(&mut self, unit: &AccessUnit) {
        self.units += 1;
        self.keyframes += u64::from(unit.keyframe);
        self.bytes += unit.data.len() as u64;
    }
}

/// Where a picture stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Its place on the track's timeline.
    pub time: MediaTime,
    /// How long it is shown, in units of the track's timescale.
    pub duration: u32,
    /// When it was captured.
    pub captured: Monotonic,
    /// A segment begins with it.
    pub keyframe: bool,
}

/// H.264's sequence and picture parameter sets: NAL units without start code or length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSets {
    /// The sequence parameter set.
    pub sps: Vec<u8>,
    /// The picture parameter set.
    pub pps: Vec<u8>,
}

/// An encoder of one track's pictures to H.264.
pub trait VideoEncoder: Send {
    /// Encodes one picture, laid out as was said at opening, to one access unit: length-prefixed NAL
    /// units (four bytes each, ISO/IEC 14496-15) without parameter sets. Pictures come in order of
    /// time. The access unit is a keyframe if it was asked for, and the first one always.
    fn encode(&mut self, picture: &[u8], tick: &Tick) -> Result<AccessUnit, Error>;

    /// The parameter sets in use: none before the first picture, and to be asked again after every
    /// keyframe, with which they may change.
    fn parameters(&self) -> Option<&ParameterSets>;

    /// Changes the mean bit rate from the next keyframe on; clamped to what [`Config`] allows.
    fn set_bit_rate(&mut self, bits_per_second: u32);

    /// Its name in logs and alarms.
    fn name(&self) -> &'static str;

    /// What it gave so far.
    fn stats(&self) -> Stats;
}

/// An encoder of one track's sound to AAC-LC at 48 kHz.
pub trait AudioEncoder: Send {
    /// Samples per channel that [`AudioEncoder::encode`] takes at once, and of each packet.
    fn block(&self) -> usize;

    /// Encodes one block of interleaved samples; `time` is that of its first sample, `captured` when
    /// that was captured. `give` receives access units whose times have the encoder's delay taken
    /// out; those that would begin before the span's start are not given.
    fn encode(
        &mut self,
        block: &[i16],
        time: MediaTime,
        captured: Monotonic,
        give: &mut dyn FnMut(AccessUnit),
    ) -> Result<(), Error>;

    /// Gives what the encoder still holds, so that the last samples taken are heard.
    fn finish(&mut self, give: &mut dyn FnMut(AccessUnit)) -> Result<(), Error>;

    /// The AudioSpecificConfig (ISO/IEC 14496-3) for the init.
    fn parameters(&self) -> &[u8];

    /// The delay that is taken out, in samples.
    fn delay(&self) -> u32;

    /// Its name in logs and alarms.
    fn name(&self) -> &'static str;

    /// What it gave so far.
    fn stats(&self) -> Stats;
}
