//! The devices a board can name: one type per back end.

use super::check;
use crate::media::{PixelFormat, Rate};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Where a track's pictures come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Camera {
    /// A camera or grabber that Linux drives (V4L2).
    V4l2(V4l2Camera),
    /// Colour bars with a counter and a flash each second.
    Pattern(PatternCamera),
    /// A film file, for development.
    Replay(ReplayCamera),
}

impl Camera {
    /// It encodes by itself.
    pub fn is_passthrough(&self) -> bool {
        match self {
            Self::V4l2(camera) => camera.pixels == Some(PixelFormat::H264),
            Self::Pattern(_) => false,
            Self::Replay(camera) => camera.passthrough,
        }
    }
}

/// Where the sound comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Microphone {
    /// A sound card (ALSA).
    Alsa(AlsaMicrophone),
    /// 440 Hz with a click each second.
    Tone(ToneMicrophone),
    /// The sound of a film file, for development.
    Replay(ReplayMicrophone),
}

impl Microphone {
    /// How many samples per second are asked of it.
    pub fn rate_hz(&self) -> u32 {
        match self {
            Self::Alsa(microphone) => microphone.rate_hz,
            Self::Tone(microphone) => microphone.rate_hz,
            Self::Replay(microphone) => microphone.rate_hz,
        }
    }

    /// How many channels are asked of it.
    pub fn channels(&self) -> u32 {
        match self {
            Self::Alsa(microphone) => microphone.channels,
            Self::Tone(microphone) => microphone.channels,
            Self::Replay(microphone) => microphone.channels,
        }
    }
}

impl fmt::Display for Microphone {
    /// What people call it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alsa(microphone) => f.write_str(&microphone.alsa_name()),
            Self::Tone(_) => f.write_str("the test tone"),
            Self::Replay(microphone) => write!(f, "{}", microphone.file.display()),
        }
    }
}

/// Where the button and the lamp are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PanelDevice {
    /// Lines of a GPIO chip.
    Gpio(GpioPanel),
    /// A button that the control socket presses; no lamp.
    Simulated(SimulatedPanel),
}

/// A V4L2 camera and what is asked of it; it may answer with the nearest it can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct V4l2Camera {
    /// The device; in a board never `/dev/videoN`.
    #[serde(deserialize_with = "check::camera_path")]
    pub device: PathBuf,
    /// Points per row; 1280 unless given.
    #[serde(default = "width", deserialize_with = "check::extent")]
    pub width: u32,
    /// Rows; 720 unless given.
    #[serde(default = "height", deserialize_with = "check::extent")]
    pub height: u32,
    /// Pictures per second; 30 unless given.
    #[serde(default = "rate", with = "check::rate")]
    pub rate: Rate,
    /// `YU12`, `NV12` or `YUYV`; unless given, whichever comes nearest to the rate. `H264`: the camera
    /// encodes, and its pictures are passed on as they are.
    #[serde(default, with = "check::pixels")]
    pub pixels: Option<PixelFormat>,
}

impl V4l2Camera {
    /// The camera at `device`, at 1280x720 and 30 pictures per second.
    pub fn at(device: impl Into<PathBuf>) -> Self {
        Self {
            device: device.into(),
            width: width(),
            height: height(),
            rate: rate(),
            pixels: None,
        }
    }
}

/// The test pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PatternCamera {
    /// Points per row; 1280 unless given.
    #[serde(default = "width", deserialize_with = "check::extent")]
    pub width: u32,
    /// Rows; 720 unless given.
    #[serde(default = "height", deserialize_with = "check::extent")]
    pub height: u32,
    /// Pictures per second; 30 unless given.
    #[serde(default = "rate", with = "check::rate")]
    pub rate: Rate,
}

impl Default for PatternCamera {
    fn default() -> Self {
        Self {
            width: width(),
            height: height(),
            rate: rate(),
        }
    }
}

/// A film as a camera.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ReplayCamera {
    /// A film that ffmpeg reads, or raw I420 pictures (`.yuv`).
    pub file: PathBuf,
    /// Points per row; the film's own unless given. Needed for raw pictures.
    #[serde(default, deserialize_with = "check::optional_extent")]
    pub width: Option<u32>,
    /// Rows; the film's own unless given. Needed for raw pictures.
    #[serde(default, deserialize_with = "check::optional_extent")]
    pub height: Option<u32>,
    /// Pictures per second; the film's own unless given. Needed for raw pictures.
    #[serde(default, with = "check::optional_rate")]
    pub rate: Option<Rate>,
    /// What happens at the film's end.
    #[serde(default)]
    pub at_end: AtEnd,
    /// Gives the film's H.264 at its own times, like a camera that encodes by itself.
    #[serde(default)]
    pub passthrough: bool,
}

/// A film's sound as a microphone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ReplayMicrophone {
    /// A film or sound file that ffmpeg reads.
    pub file: PathBuf,
    /// Samples per second; 48 000 unless given.
    #[serde(default = "rate_hz", deserialize_with = "check::sound_rate_hz")]
    pub rate_hz: u32,
    /// Channels; 2 unless given.
    #[serde(default = "channels", deserialize_with = "check::channels")]
    pub channels: u32,
    /// What happens at the film's end.
    #[serde(default)]
    pub at_end: AtEnd,
}

/// What a replayed film does at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtEnd {
    /// Starts again.
    #[default]
    Loop,
    /// Is over, like a camera that was unplugged.
    Stop,
}

/// A sound card and what is asked of it; it may answer with the nearest it can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AlsaMicrophone {
    /// The card's id; in a board never its number.
    #[serde(deserialize_with = "check::card_id")]
    pub card: String,
    /// The PCM device of that card; 0 unless given.
    #[serde(default)]
    pub device: u32,
    /// Samples per second; 48 000 unless given.
    #[serde(default = "rate_hz", deserialize_with = "check::sound_rate_hz")]
    pub rate_hz: u32,
    /// Channels; 2 unless given.
    #[serde(default = "channels", deserialize_with = "check::channels")]
    pub channels: u32,
    /// Milliseconds of sound per block; 20 unless given.
    #[serde(default = "period_ms", deserialize_with = "check::period_ms")]
    pub period_ms: u32,
}

impl AlsaMicrophone {
    /// The device of an ALSA name such as `hw:Loopback,1` or `hw:1`; `None` for any other text.
    pub fn at(name: &str) -> Option<Self> {
        let place = name
            .strip_prefix("plughw:")
            .or_else(|| name.strip_prefix("hw:"))?;
        let (card, device) = place.split_once(',').unwrap_or((place, "0"));
        let card = card.strip_prefix("CARD=").unwrap_or(card);
        let device = device.strip_prefix("DEV=").unwrap_or(device);
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if card.is_empty() || !card.chars().all(plain) {
            return None;
        }
        Some(Self {
            card: card.to_owned(),
            device: device.parse().ok()?,
            rate_hz: rate_hz(),
            channels: channels(),
            period_ms: period_ms(),
        })
    }

    /// The device's name as ALSA writes it.
    pub fn alsa_name(&self) -> String {
        format!("hw:CARD={},DEV={}", self.card, self.device)
    }
}

/// The test tone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ToneMicrophone {
    /// Samples per second; 48 000 unless given.
    #[serde(default = "rate_hz", deserialize_with = "check::sound_rate_hz")]
    pub rate_hz: u32,
    /// Channels; 2 unless given.
    #[serde(default = "channels", deserialize_with = "check::channels")]
    pub channels: u32,
    /// Milliseconds of sound per block; 20 unless given.
    #[serde(default = "period_ms", deserialize_with = "check::period_ms")]
    pub period_ms: u32,
}

impl Default for ToneMicrophone {
    fn default() -> Self {
        Self {
            rate_hz: rate_hz(),
            channels: channels(),
            period_ms: period_ms(),
        }
    }
}

/// Button and lamp on lines of one GPIO chip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GpioPanel {
    /// The chip's label.
    #[serde(deserialize_with = "check::chip_label")]
    pub chip: String,
    /// The button that starts and stops.
    pub record_button: Button,
    /// The lamp that shows capture.
    pub lamp: Lamp,
    /// More lamps that show the same, such as a door sign.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Lamp>,
}

impl GpioPanel {
    /// The lamp and its mirrors.
    pub fn lamps(&self) -> Vec<Lamp> {
        let all = std::iter::once(&self.lamp).chain(&self.mirrors);
        all.cloned().collect()
    }

    /// A line that is named twice, and the key that names it the second time.
    pub(super) fn used_twice(&self) -> Option<(&'static str, &Line)> {
        let mut used = vec![&self.record_button.line];
        let lamps = std::iter::once(("lamp", &self.lamp));
        let mirrors = self.mirrors.iter().map(|mirror| ("mirrors", mirror));
        for (key, lamp) in lamps.chain(mirrors) {
            if used.contains(&&lamp.line) {
                return Some((key, &lamp.line));
            }
            used.push(&lamp.line);
        }
        None
    }
}

/// A line of a chip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a line's number on the chip, or its name as `gpioinfo` shows it"
)]
pub enum Line {
    /// Its number on the chip.
    Offset(u32),
    /// Its name.
    Name(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offset(offset) => write!(f, "{offset}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A push button on a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Button {
    /// The line.
    pub line: Line,
    /// The level of a pressed button.
    pub active: ActiveLevel,
    /// The pull resistor that the chip is asked for.
    #[serde(default)]
    pub bias: Bias,
    /// The kernel reports a level once it has lasted so long: a disturbance on a long wire is no press, and
    /// each press acts so much after the contact's last bounce. Bouncing itself needs none of it. 0 to 100 ms,
    /// 5 unless given.
    #[serde(default = "debounce_ms", deserialize_with = "check::debounce_ms")]
    pub debounce_ms: u32,
}

/// A lamp on a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Lamp {
    /// The line.
    pub line: Line,
    /// The level that lights it.
    pub active: ActiveLevel,
}

/// Which level means pressed or lit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActiveLevel {
    /// 0 V.
    Low,
    /// The supply voltage.
    High,
}

/// A pull resistor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bias {
    /// Towards the supply.
    PullUp,
    /// Towards 0 V.
    PullDown,
    /// None, or one on the board itself.
    #[default]
    Off,
}

/// A panel without hardware; it has no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatedPanel {}

fn width() -> u32 {
    1280
}

fn height() -> u32 {
    720
}

fn rate() -> Rate {
    Rate::new(30, 1).unwrap_or_else(|_| unreachable!("30 is from 1 to 240"))
}

fn rate_hz() -> u32 {
    48_000
}

fn channels() -> u32 {
    2
}

fn period_ms() -> u32 {
    20
}

fn debounce_ms() -> u32 {
    5
}
