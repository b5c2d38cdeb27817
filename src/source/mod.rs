//! Stage: pictures and samples out of devices.
//!
//! Takes a device as a board names it ([`crate::board`]); gives [`crate::media::Picture`]s and
//! [`crate::media::Samples`] with the capture time that the device states, the settings that it
//! reports after it was configured, and errors as a browser's `getUserMedia` would give them: which
//! device, the reason, what to do, and what the device offers instead.
//!
//! A back end is a [`crate::source::Source`]: one blocking device. [`crate::source::Pump`] gives it a
//! thread and one bounded ring, which drops the oldest when its reader is late (freshness comes before
//! completeness until the encoder). What does not belong here: choosing pictures for ticks (`pacer`),
//! converting formats (`encoder`), and deciding when to try a failed device again
//! (`station::supervise`).

mod error;
mod found;
mod pattern;
#[cfg_attr(
    not(any(feature = "v4l2", feature = "alsa")),
    allow(dead_code, reason = "no back end that is built in has ports")
)]
mod port;
mod pump;
mod slate;
mod tone;

#[cfg(feature = "alsa")]
mod alsa;
#[cfg(feature = "alsa")]
mod alsa_cards;
#[cfg(feature = "replay")]
mod replay;
#[cfg(feature = "replay")]
mod replay_encoded;
#[cfg(feature = "v4l2")]
mod v4l2;
#[cfg(feature = "v4l2")]
mod v4l2_offers;
#[cfg(feature = "v4l2")]
mod v4l2_ports;

pub use error::{CODES, Error};
pub use found::{FoundCamera, FoundMicrophone, Offer, Sizes};
pub use pattern::{Pattern, read_counter};
pub use port::Port;
pub use pump::{AudioPump, Block, PassingPump, Pump, Received, VideoPump};
pub use slate::slate;
pub use tone::Tone;

use crate::board::{Camera, Microphone};
use crate::media::{Picture, PictureLayout, PixelFormat, Rate, Samples};

/// One blocking device that was opened and configured.
pub trait Source: Send {
    /// What it delivers: [`Picture`] or [`Samples`].
    type Block: Block;

    /// What the device reports after it was configured; it does not change while it is open.
    fn settings(&self) -> <Self::Block as Block>::Settings;

    /// Waits for the next block, no longer than a bounded time (then [`Error::Stalled`]), and puts it
    /// into `into`, whose buffer is reused. After an error the source is of no more use: drop it.
    fn next(&mut self, into: &mut Self::Block) -> Result<(), Error>;

    /// What the device itself lost or damaged since it was opened.
    fn losses(&self) -> Losses {
        Losses::default()
    }
}

/// A camera that is open.
pub type VideoSource = Box<dyn Source<Block = Picture>>;

/// A microphone that is open.
pub type AudioSource = Box<dyn Source<Block = Samples>>;

/// What a camera reports after it was configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoSettings {
    /// How its pictures lie in memory.
    pub layout: PictureLayout,
    /// Pictures per second: the pacing rate, unless the configuration asks for another.
    pub rate: Rate,
}

/// What a microphone reports after it was configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioSettings {
    /// Samples per second and channel.
    pub rate_hz: u32,
    /// Channels in the blocks: 1 or 2.
    pub channels: u32,
}

/// What a device did not deliver, or delivered damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Pictures (or sample frames) that the device counted but did not hand over.
    pub lost: u64,
    /// Pictures that the device marked as damaged; they were skipped.
    pub damaged: u64,
}

/// Opens a camera, wherever it is. It blocks for as long as the device takes to answer.
pub fn open_camera(camera: &Camera) -> Result<VideoSource, Error> {
    open_camera_on(&Port::default(), camera)
}

/// Opens a camera again on the port where it was opened first. It blocks for as long as the device
/// takes to answer.
#[allow(unused_variables, reason = "back ends that features add have ports")]
pub fn open_camera_on(port: &Port, camera: &Camera) -> Result<VideoSource, Error> {
    match camera {
        Camera::Pattern(settings) => Ok(Box::new(Pattern::open(settings))),
        #[cfg(feature = "v4l2")]
        Camera::V4l2(settings) => Ok(Box::new(v4l2::V4l2::open(settings, port)?)),
        #[cfg(not(feature = "v4l2"))]
        Camera::V4l2(settings) => Err(Error::not_built(&settings.device.display(), "v4l2")),
        #[cfg(feature = "replay")]
        Camera::Replay(settings) if settings.passthrough => {
            Ok(Box::new(replay_encoded::ReplayEncoded::open(settings)?))
        }
        #[cfg(feature = "replay")]
        Camera::Replay(settings) => Ok(Box::new(replay::ReplayVideo::open(settings)?)),
        #[cfg(not(feature = "replay"))]
        Camera::Replay(settings) => Err(Error::not_built(&settings.file.display(), "replay")),
    }
}

/// The cameras that are present and what they offer; none in a program that was built without `v4l2`.
pub fn cameras() -> Option<Vec<FoundCamera>> {
    #[cfg(feature = "v4l2")]
    return Some(v4l2_offers::found());
    #[cfg(not(feature = "v4l2"))]
    return None;
}

/// The microphones that are present and what they offer; none in a program that was built without
/// `alsa`. Each card is opened for a moment, but for those that `leave` takes.
#[allow(
    unused_variables,
    reason = "the back end that a feature adds opens cards"
)]
pub fn microphones(leave: impl Fn(&FoundMicrophone) -> bool) -> Option<Vec<FoundMicrophone>> {
    #[cfg(feature = "alsa")]
    return Some(alsa::found(leave));
    #[cfg(not(feature = "alsa"))]
    return None;
}

/// What a camera will report once it is open, as far as its board says; `None` where only the device
/// knows. How its points are encoded is the device's choice.
pub fn expected(camera: &Camera) -> Option<VideoSettings> {
    let (width, height, rate) = match camera {
        Camera::Pattern(camera) => (camera.width, camera.height, camera.rate),
        Camera::V4l2(camera) => (camera.width, camera.height, camera.rate),
        Camera::Replay(camera) => (camera.width?, camera.height?, camera.rate?),
    };
    Some(VideoSettings {
        layout: PictureLayout::tight(width, height, PixelFormat::I420),
        rate,
    })
}

/// Opens a microphone, wherever it is. It blocks for as long as the device takes to answer.
pub fn open_microphone(microphone: &Microphone) -> Result<AudioSource, Error> {
    open_microphone_on(&Port::default(), microphone)
}

/// Opens a microphone again on the port where it was opened first. It blocks for as long as the device
/// takes to answer.
#[allow(unused_variables, reason = "back ends that features add have ports")]
pub fn open_microphone_on(port: &Port, microphone: &Microphone) -> Result<AudioSource, Error> {
    match microphone {
        Microphone::Tone(settings) => Ok(Box::new(Tone::open(settings))),
        #[cfg(feature = "alsa")]
        Microphone::Alsa(settings) => Ok(Box::new(alsa::Alsa::open(settings, port)?)),
        #[cfg(not(feature = "alsa"))]
        Microphone::Alsa(settings) => Err(Error::not_built(&settings.alsa_name(), "alsa")),
        #[cfg(feature = "replay")]
        Microphone::Replay(settings) => Ok(Box::new(replay::ReplayAudio::open(settings)?)),
        #[cfg(not(feature = "replay"))]
        Microphone::Replay(settings) => Err(Error::not_built(&settings.file.display(), "replay")),
    }
}
