//! The site's settings (`/etc/hallcast/box.toml`) and the command line's flags: two structs.
//!
//! Order: defaults < board < file < flags. The board says what the machine has; this says where
//! things go and how good they shall be.

use crate::board::{AlsaMicrophone, Board, Camera, Microphone, V4l2Camera};
use crate::media::Rate;
use crate::settings::{self, Error};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where an installed box keeps its settings.
pub const DEFAULT_FILE: &str = "/etc/hallcast/box.toml";
/// Where an installed box listens for `hallcast start`.
pub const DEFAULT_SOCKET: &str = "/run/hallcast/control.sock";

/// The settings file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct File {
    /// The board's name or path; detected when absent.
    pub board: Option<String>,
    /// The room, for people.
    pub room: Option<String>,
    /// Where identity and spool are.
    pub state_directory: PathBuf,
    /// Where `hallcast start | stop | status` find the box.
    pub control_socket: PathBuf,
    /// Where to send recordings; without it they stay on the box.
    pub receiver: Option<Receiver>,
    /// How recordings run.
    pub recording: Recording,
    /// How much is kept on the box, and for how long.
    pub spool: Spool,
    /// The presenter's track.
    pub presenter: Video,
    /// The slides' track.
    pub slides: Video,
    /// The microphone's track.
    pub microphone: Audio,
}

impl Default for File {
    fn default() -> Self {
        Self {
            board: None,
            room: None,
            state_directory: "/var/lib/hallcast".into(),
            control_socket: DEFAULT_SOCKET.into(),
            receiver: None,
            recording: Recording::default(),
            spool: Spool::default(),
            presenter: Video::default(),
            slides: Video::default(),
            microphone: Audio::default(),
        }
    }
}

/// Where recordings are sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Receiver {
    /// `host:port` (UDP).
    pub address: String,
    /// The name in the receiver's certificate; the host of `address` unless given.
    pub name: Option<String>,
    /// The kernel cuts what is sent into packets: less CPU, but some network drivers lose packets so.
    #[serde(default = "offload")]
    pub segmentation_offload: bool,
}

fn offload() -> bool {
    true
}

/// How recordings run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Recording {
    /// A recording ends by itself after this many minutes, 1 to 1440.
    pub maximum_minutes: u32,
    /// A recording goes on after the box was away for so many minutes, 1 to 1440; after more it ends.
    pub resume_within_minutes: u32,
}

impl Default for Recording {
    fn default() -> Self {
        Self {
            maximum_minutes: 240,
            resume_within_minutes: 10,
        }
    }
}

/// How much is kept on the box, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Spool {
    /// What the receiver holds stays on the box for so many days too, 1 to 365.
    pub retention_days: u32,
    /// Recordings take no more than so many GB, 1 to 100 000; what the disk has unless given.
    pub quota_gigabytes: Option<u32>,
    /// A recording's files are of so many KiB, 256 to 65 536. One leaves when all in it may leave: a
    /// small card is freed in smaller steps.
    pub file_kibibytes: u32,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            retention_days: 7,
            quota_gigabytes: None,
            file_kibibytes: 65_536,
        }
    }
}

/// How a picture track is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Video {
    /// Mean bit rate in kbit/s, 100 to 20 000; by the size of the pictures unless given (2.1 Mbit/s
    /// at 720p30).
    pub bit_rate_kbps: Option<u32>,
    /// Pictures per second; the device's own unless given.
    pub rate: Option<String>,
}

/// How the sound track is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Audio {
    /// Bit rate in kbit/s, 32 to 320; 128 for two channels and 96 for one unless given.
    pub bit_rate_kbps: Option<u32>,
}

/// The flags of `hallcast run`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// The settings file [default: /etc/hallcast/box.toml where it exists]
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The board's name (bench, generic, raspberry-pi-4, ...) or the path of its .toml file
    #[arg(long)]
    pub board: Option<String>,
    /// The room, for people
    #[arg(long)]
    pub room: Option<String>,
    /// A camera for the presenter's track instead of the board's, such as /dev/video0
    #[arg(long)]
    pub presenter: Option<PathBuf>,
    /// A camera for the slides' track instead of the board's
    #[arg(long)]
    pub slides: Option<PathBuf>,
    /// A sound card instead of the board's, such as hw:Loopback,1
    #[arg(long)]
    pub microphone: Option<String>,
    /// Where identity and spool are
    #[arg(long)]
    pub state_directory: Option<PathBuf>,
    /// Where `hallcast start | stop | status` find the box
    #[arg(long)]
    pub socket: Option<PathBuf>,
    /// The receiver's address, host:port
    #[arg(long)]
    pub receiver: Option<String>,
}

/// One picture track, settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoTrack {
    /// The device.
    pub camera: Camera,
    /// Mean bits per second, where given.
    pub bit_rate: Option<u32>,
    /// The pacing rate; the device's own unless given.
    pub rate: Option<Rate>,
}

/// The sound track, settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioTrack {
    /// The device.
    pub microphone: Microphone,
    /// Bits per second, where given.
    pub bit_rate: Option<u32>,
}

/// Everything a box needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The board's name.
    pub board: String,
    /// The room, for people.
    pub room: Option<String>,
    /// Where identity and spool are.
    pub state_directory: PathBuf,
    /// Where `hallcast start | stop | status` find the box.
    pub control_socket: PathBuf,
    /// Where to send recordings.
    pub receiver: Option<Receiver>,
    /// The longest recording.
    pub maximum: Duration,
    /// The longest absence of the box that a recording survives.
    pub resume_within: Duration,
    /// How long what the receiver holds stays on the box.
    pub retention: Duration,
    /// The most that recordings may take; 0 for what the disk has.
    pub quota_bytes: u64,
    /// A file of the spool is followed by the next one beyond this many bytes.
    pub spool_file_bytes: u64,
    /// The presenter's track.
    pub presenter: Option<VideoTrack>,
    /// The slides' track.
    pub slides: Option<VideoTrack>,
    /// The microphone's track.
    pub microphone: Option<AudioTrack>,
}

/// Why there is no configuration; each is exit code 78.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The settings file.
    #[error(transparent)]
    File(#[from] Error),
    /// The board.
    #[error(transparent)]
    Board(#[from] crate::board::Error),
    /// A flag.
    #[error("{flag}: {message}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What is wrong and what is allowed.
        message: String,
    },
}

/// Settles the configuration from the flags, the file they name, and the board that these name.
pub fn load(flags: &Flags) -> Result<Config, ConfigError> {
    let path = flags.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let text = match (settings::read(&path), &flags.config) {
        (Ok(text), _) => text,
        (Err(Error::Unreadable { source, .. }), None)
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            String::new()
        }
        (Err(error), _) => return Err(error.into()),
    };
    settle(&text, &path, flags)
}

fn settle(text: &str, path: &Path, flags: &Flags) -> Result<Config, ConfigError> {
    let file: File = settings::parse(text, path)?;
    let board = match flags.board.as_ref().or(file.board.as_ref()) {
        Some(name) => Board::named(name)?,
        None => Board::detect(
            &std::fs::read_to_string(crate::board::COMPATIBLE_PATH).unwrap_or_default(),
        )?,
    };
    let invalid = |key: &str, message: String| settings::invalid(text, path, key, message);

    let camera = |flag: &Option<PathBuf>, board: &Option<Camera>| match flag {
        Some(device) => Some(Camera::V4l2(V4l2Camera::at(device.clone()))),
        None => board.clone(),
    };
    let video = |name: &str, camera: Option<Camera>, settings: &Video| -> Result<_, ConfigError> {
        if let Some(kbps) = settings
            .bit_rate_kbps
            .filter(|kbps| !(100..=20_000).contains(kbps))
        {
            return Err(invalid(
                &format!("{name}.bit-rate-kbps"),
                format!("{kbps} is not from 100 to 20000 kbit/s"),
            )
            .into());
        }
        let rate = settings.rate.as_deref().map(str::parse::<Rate>).transpose();
        let rate = rate.map_err(|error| invalid(&format!("{name}.rate"), error.to_string()))?;
        Ok(camera.map(|camera| VideoTrack {
            camera,
            bit_rate: settings.bit_rate_kbps.map(|kbps| kbps * 1000),
            rate,
        }))
    };
    let presenter = video(
        "presenter",
        camera(&flags.presenter, &board.presenter),
        &file.presenter,
    )?;
    let slides = video("slides", camera(&flags.slides, &board.slides), &file.slides)?;

    let microphone = match &flags.microphone {
        Some(name) => {
            let message = format!(
                "`{name}` is not an ALSA device: write hw:CARD,DEVICE, such as hw:Loopback,1"
            );
            let device = AlsaMicrophone::at(name).ok_or(ConfigError::Flag {
                flag: "--microphone",
                message,
            })?;
            Some(Microphone::Alsa(device))
        }
        None => board.microphone,
    };
    let kbps = file.microphone.bit_rate_kbps;
    if let Some(kbps) = kbps.filter(|kbps| !(32..=320).contains(kbps)) {
        return Err(invalid(
            "microphone.bit-rate-kbps",
            format!("{kbps} is not from 32 to 320 kbit/s"),
        )
        .into());
    }

    let minutes = file.recording.maximum_minutes;
    if !(1..=1440).contains(&minutes) {
        return Err(invalid(
            "recording.maximum-minutes",
            format!("{minutes} is not from 1 to 1440 minutes"),
        )
        .into());
    }
    let within = file.recording.resume_within_minutes;
    if !(1..=1440).contains(&within) {
        return Err(invalid(
            "recording.resume-within-minutes",
            format!("{within} is not from 1 to 1440 minutes"),
        )
        .into());
    }
    let days = file.spool.retention_days;
    if !(1..=365).contains(&days) {
        return Err(invalid(
            "spool.retention-days",
            format!("{days} is not from 1 to 365 days"),
        )
        .into());
    }
    let gigabytes = file.spool.quota_gigabytes;
    if let Some(gigabytes) = gigabytes.filter(|quota| !(1..=100_000).contains(quota)) {
        return Err(invalid(
            "spool.quota-gigabytes",
            format!("{gigabytes} is not from 1 to 100000 GB"),
        )
        .into());
    }
    let kibibytes = file.spool.file_kibibytes;
    if !(256..=65_536).contains(&kibibytes) {
        return Err(invalid(
            "spool.file-kibibytes",
            format!("{kibibytes} is not from 256 to 65536 KiB"),
        )
        .into());
    }
    let is_address = |address: &str| {
        address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
    };
    let expected =
        |address: &str| format!("`{address}` is not host:port, such as receiver.example.org:4433");
    if let Some(receiver) = file
        .receiver
        .as_ref()
        .filter(|receiver| !is_address(&receiver.address))
    {
        return Err(invalid("receiver.address", expected(&receiver.address)).into());
    }
    let receiver = match &flags.receiver {
        Some(address) if !is_address(address) => {
            return Err(ConfigError::Flag {
                flag: "--receiver",
                message: expected(address),
            });
        }
        Some(address) => Some(Receiver {
            address: address.clone(),
            name: None,
            segmentation_offload: (file.receiver.as_ref())
                .is_none_or(|receiver| receiver.segmentation_offload),
        }),
        None => file.receiver,
    };
    Ok(Config {
        board: board.name,
        room: flags.room.clone().or(file.room),
        state_directory: flags
            .state_directory
            .clone()
            .unwrap_or(file.state_directory),
        control_socket: flags.socket.clone().unwrap_or(file.control_socket),
        receiver,
        maximum: Duration::from_secs(60 * u64::from(minutes)),
        resume_within: Duration::from_secs(60 * u64::from(within)),
        retention: Duration::from_secs(86_400 * u64::from(days)),
        quota_bytes: u64::from(gigabytes.unwrap_or(0)) * 1_000_000_000,
        spool_file_bytes: u64::from(kibibytes) << 10,
        presenter,
        slides,
        microphone: microphone.map(|microphone| AudioTrack {
            microphone,
            bit_rate: kbps.map(|kbps| kbps * 1000),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(text: &str, flags: &Flags) -> Result<Config, String> {
        settle(text, Path::new("box.toml"), flags).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_the_board() {
        let text = "board = \"bench\"\nroom = \"Hall 1\"\n[presenter]\nrate = \"25\"";
        let config = settled(text, &Flags::default()).unwrap();
        assert_eq!(
            (config.room.as_deref(), config.board.as_str()),
            (Some("Hall 1"), "bench")
        );
        assert!(
            matches!(config.presenter, Some(VideoTrack { camera: Camera::Pattern(_), rate: Some(rate), .. }) if rate.num() == 25)
        );
        let flags = Flags {
            room: Some("Hall 2".into()),
            presenter: Some("/dev/video7".into()),
            microphone: Some("hw:Loopback,1".into()),
            ..Flags::default()
        };
        let config = settled(text, &flags).unwrap();
        assert_eq!(config.room.as_deref(), Some("Hall 2"));
        assert!(
            matches!(config.presenter.unwrap().camera, Camera::V4l2(camera) if camera.device == Path::new("/dev/video7"))
        );
        assert!(
            matches!(config.microphone.unwrap().microphone, Microphone::Alsa(card) if card.card == "Loopback")
        );
    }

    #[test]
    fn wrong_settings_name_file_line_key_and_what_is_allowed() {
        for (text, message) in [
            ("rooom = \"x\"", "box.toml:1: `rooom`: unknown key `rooom`"),
            (
                "board = \"bench\"\n[presenter]\nbit-rate-kbps = 99",
                "box.toml:3: `presenter.bit-rate-kbps`: 99 is not from 100 to 20000 kbit/s",
            ),
            (
                "board = \"bench\"\n[slides]\nrate = \"fast\"",
                "box.toml:3: `slides.rate`: `fast` is not a picture rate",
            ),
            (
                "board = \"bench\"\n[microphone]\nbit-rate-kbps = 1000",
                "box.toml:3: `microphone.bit-rate-kbps`",
            ),
            (
                "board = \"bench\"\n[recording]\nmaximum-minutes = 0",
                "box.toml:3: `recording.maximum-minutes`: 0 is not from 1 to 1440",
            ),
            (
                "board = \"bench\"\n[recording]\nresume-within-minutes = 1441",
                "box.toml:3: `recording.resume-within-minutes`: 1441 is not from 1 to 1440",
            ),
            (
                "board = \"bench\"\n[spool]\nretention-days = 0",
                "box.toml:3: `spool.retention-days`: 0 is not from 1 to 365 days",
            ),
            (
                "board = \"bench\"\n[spool]\nquota-gigabytes = 0",
                "box.toml:3: `spool.quota-gigabytes`: 0 is not from 1 to 100000 GB",
            ),
            (
                "board = \"bench\"\n[spool]\nfile-kibibytes = 255",
                "box.toml:3: `spool.file-kibibytes`: 255 is not from 256 to 65536 KiB",
            ),
            (
                "board = \"bench\"\n[receiver]\naddress = \"there\"",
                "box.toml:3: `receiver.address`: `there` is not host:port",
            ),
            (
                "board = \"toaster\"",
                "there is no board `toaster`: choose one of `bench`",
            ),
        ] {
            let found = settled(text, &Flags::default()).unwrap_err();
            assert!(found.starts_with(message), "{found}\n{message}");
        }
        let flags = Flags {
            board: Some("bench".into()),
            microphone: Some("mic".into()),
            ..Flags::default()
        };
        assert!(
            settled("", &flags)
                .unwrap_err()
                .starts_with("--microphone: `mic` is not an ALSA device")
        );
    }
}
