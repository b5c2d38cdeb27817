//! The site's settings (`/etc/hallcast/box.toml`) and the command line's flags: two structs.
//!
//! Order: defaults < board < file < this machine's row of `fleet.csv` < flags. The board says what the
//! machine has; this says where things go and how good they shall be. One settings file is read: the one
//! that `--config` names, else the one in `/etc`, else the one on the boot partition.

use super::first_start::{self, Card};
use crate::board::{AlsaMicrophone, Board, Camera, GpioPanel, Microphone, PanelDevice, V4l2Camera};
use crate::media::{Rate, RateError};
use crate::settings::{self, Error, Written};
use crate::station::keeper::NetworkCommand;
use crate::station::recorder::{Button, Rules};
use rustls::pki_types::ServerName;
use serde::Deserialize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where an installed box keeps its settings.
pub const DEFAULT_FILE: &str = "/etc/hallcast/box.toml";
/// Where an installed box listens for `hallcast start`.
pub const DEFAULT_SOCKET: &str = "/run/hallcast/control.sock";

/// A room's name has no more letters.
const MOST_ROOM: usize = 100;

/// The settings file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct File {
    /// The board's name, or the path of its file from this file's folder; detected when absent.
    pub board: Option<String>,
    /// The room, for people.
    pub room: Option<String>,
    /// Where identity and spool are.
    pub state_directory: PathBuf,
    /// Where `hallcast start` and the other commands find the box.
    pub control_socket: PathBuf,
    /// The file that holds this machine's serial number; what the machine says itself unless given.
    pub serial_file: Option<PathBuf>,
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
            serial_file: None,
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
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Recording {
    /// A recording ends by itself after this many minutes, 1 to 1440.
    pub maximum_minutes: Written,
    /// A recording goes on after the box was away for so many minutes, 1 to 1440; after more it ends.
    pub resume_within_minutes: Written,
    /// What ends a recording at the button.
    pub button: Button,
    /// Recordings begin also when the board's lamp cannot be driven.
    pub allow_without_lamp: bool,
    /// What the receiver may command; nothing unless given.
    pub network_commands: Vec<NetworkCommand>,
}

impl Default for Recording {
    fn default() -> Self {
        Self {
            maximum_minutes: 240.into(),
            resume_within_minutes: 10.into(),
            button: Button::default(),
            allow_without_lamp: false,
            network_commands: Vec::new(),
        }
    }
}

/// How much is kept on the box, and for how long.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Spool {
    /// What the receiver holds stays on the box for so many days too, 1 to 365.
    pub retention_days: Written,
    /// Recordings take no more than so many GB, 1 to 100 000; what the disk has unless given.
    pub quota_gigabytes: Option<Written>,
    /// A recording's files are of so many KiB, 256 to 65 536. One leaves when all in it may leave: a
    /// small card is freed in smaller steps.
    pub file_kibibytes: Written,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            retention_days: 7.into(),
            quota_gigabytes: None,
            file_kibibytes: 65_536.into(),
        }
    }
}

/// How a picture track is made.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Video {
    /// Mean bit rate in kbit/s, 100 to 20 000; by the size of the pictures unless given (2.1 Mbit/s
    /// at 720p30).
    pub bit_rate_kbps: Option<Written>,
    /// Pictures per second; the device's own unless given.
    pub rate: Option<Written>,
}

/// How the sound track is made.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Audio {
    /// Bit rate in kbit/s, 32 to 320; 128 for two channels and 96 for one unless given.
    pub bit_rate_kbps: Option<Written>,
}

/// The flags of `hallcast run`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// The settings file [default: /etc/hallcast/box.toml, else box.toml on the boot partition]
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The boot partition, with box.toml and fleet.csv [default: /boot/firmware, else /boot]
    #[arg(long, value_name = "DIRECTORY")]
    pub boot_directory: Option<PathBuf>,
    /// The file that holds this machine's serial number [default: what the machine says]
    #[arg(long, value_name = "FILE")]
    pub serial_file: Option<PathBuf>,
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
    /// This machine's serial number, where it tells one.
    pub serial: Option<String>,
    /// What is wrong and does not keep the box from recording: alarms, and what they say.
    pub concerns: Vec<(&'static str, String)>,
    /// Where identity and spool are.
    pub state_directory: PathBuf,
    /// Where `hallcast start | stop | status` find the box.
    pub control_socket: PathBuf,
    /// Where to send recordings.
    pub receiver: Option<Receiver>,
    /// The longest recording, and what ends one at the button.
    pub rules: Rules,
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
    /// The button and the lamp.
    pub panel: Option<PanelDevice>,
    /// The board is a Raspberry Pi.
    pub raspberry_pi: bool,
    /// No recording begins while a lamp that the board has cannot be driven.
    pub lamp_needed: bool,
    /// What the receiver may command.
    pub network_commands: Vec<NetworkCommand>,
}

impl Config {
    /// The lines of button and lamp, where the board has some.
    pub fn lines(&self) -> Option<&GpioPanel> {
        match &self.panel {
            Some(PanelDevice::Gpio(lines)) => Some(lines),
            Some(PanelDevice::Simulated(_)) | None => None,
        }
    }
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
    /// Neither a camera nor a microphone.
    #[error(
        "{board}: this board names no camera and no microphone, so that nothing could be recorded: name one in it, or by --presenter, --slides or --microphone"
    )]
    NothingToRecord {
        /// The board's file, or its name.
        board: String,
    },
}

/// Settles the configuration from the flags, the file they name, the board that these name, and what the
/// list of the fleet says of this machine.
pub fn load(flags: &Flags) -> Result<Config, ConfigError> {
    let card = Card::find(flags.boot_directory.as_deref());
    let path = file(flags);
    let text = path.as_deref().map(settings::read).transpose()?;
    let named = path.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
    let (mut config, serial_file) = settle(&text.unwrap_or_default(), named, flags)?;
    let (serial, unread) = match first_start::serial(serial_file.as_deref()) {
        Err(error @ Error::Unreadable { .. }) => (None, Some(error)),
        serial => (serial?, None),
    };
    config.serial = serial;
    let settings = path.map_or("none".into(), |path| path.display().to_string());
    let serial = config.serial.as_deref().unwrap_or("not known");
    log::info!("settings: {settings}; serial number: {serial}");
    let row = match unread {
        Some(error) => Err(error),
        None => card.row(config.serial.as_deref()),
    };
    let row = match row {
        // A card's bad block, or a network card that is not there: nothing that a start mends by ending.
        Err(error @ Error::Unreadable { .. }) => Some(Err(format!(
            "{error}; then restart hallcast, which until then records without the list"
        ))),
        row => row?,
    };
    match row {
        None => {}
        Some(Ok(row)) => {
            if let Some(list) = &card.list {
                let (list, line) = (list.display(), row.line);
                log::info!("{list}:{line}: this machine stands in {}", row.room);
            }
            if flags.room.is_none() {
                config.room = Some(row.room);
            }
            if let (None, Some(address)) = (&flags.receiver, row.receiver) {
                config.receiver = Some(at(address, config.receiver.as_ref()));
            }
        }
        Some(Err(what)) => {
            log::warn!("{what}");
            config.concerns.push((first_start::NOT_IN_FLEET, what));
        }
    }
    Ok(config)
}

/// The settings file that counts, if there is one.
pub(super) fn file(flags: &Flags) -> Option<PathBuf> {
    match (&flags.config, Path::new(DEFAULT_FILE)) {
        (Some(named), _) => Some(named.clone()),
        // Not `exists`: a file that is there and cannot be looked at is an error, not an absence.
        (None, usual) if !is_absent(usual) => Some(usual.into()),
        (None, _) => Card::find(flags.boot_directory.as_deref()).settings,
    }
}

fn is_absent(path: &Path) -> bool {
    let found = path.metadata().map_err(|error| error.kind());
    found.is_err_and(|kind| kind == std::io::ErrorKind::NotFound)
}

/// Whether this is `host:port`.
pub(super) fn is_address(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        let is_name = !host.is_empty() && !host.contains(['/', '@', ' ']);
        is_name && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// That it is not.
pub(super) fn no_address(address: &str) -> String {
    format!("`{address}` is not host:port, such as receiver.example.org:4433")
}

/// Why this is no room's name, if it is none: it stands in requests, lists and on pages.
pub(super) fn no_room(room: &str) -> Option<&'static str> {
    let is_one = (1..=MOST_ROOM).contains(&room.trim().chars().count());
    let is_line = !room.contains(char::is_control);
    (!is_one || !is_line)
        .then_some("this is no room's name: one line of 1 to 100 letters; without one leave it out")
}

/// A board's file is looked for beside the settings file that names it, so that both are copied together.
fn beside(settings: &Path, board: &str) -> String {
    match settings.parent() {
        Some(folder) if board.contains('/') || board.ends_with(".toml") => {
            folder.join(board).display().to_string()
        }
        _ => board.to_owned(),
    }
}

/// A receiver at `address` instead of the file's: the name that belongs to another address goes with it.
fn at(address: String, file: Option<&Receiver>) -> Receiver {
    Receiver {
        address,
        name: None,
        segmentation_offload: file.is_none_or(|receiver| receiver.segmentation_offload),
    }
}

/// The configuration but for the serial number, and the file that it is in.
fn settle(
    text: &str,
    path: &Path,
    flags: &Flags,
) -> Result<(Config, Option<PathBuf>), ConfigError> {
    let file: File = settings::parse(text, path)?;
    let invalid = |key: &str, message: String| settings::invalid(text, path, key, message);
    let within = |key: &str, value: &Written, range: RangeInclusive<u32>, unit: &str| {
        let (low, high) = (range.start(), range.end());
        let message = format!("{value} is not from {low} to {high} {unit}");
        value.within(range).ok_or_else(|| invalid(key, message))
    };
    let settings_name_it = flags.board.is_none() && file.board.is_some();
    let named = match (&flags.board, &file.board) {
        (Some(name), _) => Some(name.clone()),
        (None, name) => name.as_deref().map(|name| beside(path, name)),
    };
    let board = match &named {
        Some(name) => Board::named(name),
        None => Board::detect(
            &std::fs::read_to_string(crate::board::COMPATIBLE_PATH).unwrap_or_default(),
        ),
    };
    let board = board.map_err(|error| match error {
        error if settings_name_it => invalid("board", error.to_string()).into(),
        error @ crate::board::Error::Unknown { .. } => ConfigError::Flag {
            flag: "--board",
            message: error.to_string(),
        },
        error => error.into(),
    })?;

    let raspberry_pi = board.is_raspberry_pi();
    let camera = |flag: &Option<PathBuf>, board: &Option<Camera>| match flag {
        Some(device) => Some(Camera::V4l2(V4l2Camera::at(device.clone()))),
        None => board.clone(),
    };
    let video = |name: &str, camera: Option<Camera>, settings: &Video| -> Result<_, ConfigError> {
        let key = format!("{name}.bit-rate-kbps");
        let kbps = settings.bit_rate_kbps.as_ref();
        let kbps = kbps.map(|kbps| within(&key, kbps, 100..=20_000, "kbit/s"));
        let kbps = kbps.transpose()?;
        let rate = settings.rate.as_ref().map(|rate| rate.text().parse());
        let rate: Option<Rate> = rate
            .transpose()
            .map_err(|error: RateError| invalid(&format!("{name}.rate"), error.to_string()))?;
        Ok(camera.map(|camera| VideoTrack {
            camera,
            bit_rate: kbps.map(|kbps| kbps * 1000),
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
    if presenter.is_none() && slides.is_none() && microphone.is_none() {
        let error = ConfigError::NothingToRecord {
            board: named.unwrap_or(board.name),
        };
        return Err(match settings_name_it {
            true => invalid("board", error.to_string()).into(),
            false => error,
        });
    }
    let kbps = file.microphone.bit_rate_kbps.as_ref();
    let kbps = kbps.map(|kbps| within("microphone.bit-rate-kbps", kbps, 32..=320, "kbit/s"));
    let kbps = kbps.transpose()?;
    let recording = &file.recording;
    let (most, away) = (&recording.maximum_minutes, &recording.resume_within_minutes);
    let most = within("recording.maximum-minutes", most, 1..=1440, "minutes")?;
    let away = within("recording.resume-within-minutes", away, 1..=1440, "minutes")?;
    let (days, kibibytes) = (&file.spool.retention_days, &file.spool.file_kibibytes);
    let days = within("spool.retention-days", days, 1..=365, "days")?;
    let kibibytes = within("spool.file-kibibytes", kibibytes, 256..=65_536, "KiB")?;
    let quota = file.spool.quota_gigabytes.as_ref();
    let quota = quota.map(|quota| within("spool.quota-gigabytes", quota, 1..=100_000, "GB"));
    let gigabytes = quota.transpose()?.unwrap_or(0);
    if let Some(message) = file.room.as_deref().and_then(no_room) {
        return Err(invalid("room", message.into()).into());
    }
    if let Some(message) = flags.room.as_deref().and_then(no_room) {
        let (flag, message) = ("--room", message.into());
        return Err(ConfigError::Flag { flag, message });
    }
    let name = file.receiver.as_ref().and_then(|far| far.name.as_deref());
    if let Some(name) = name.filter(|name| ServerName::try_from(*name).is_err()) {
        let message = format!("`{name}` is no name of a machine, such as receiver.example.org");
        return Err(invalid("receiver.name", message).into());
    }
    if let Some(receiver) = file
        .receiver
        .as_ref()
        .filter(|receiver| !is_address(&receiver.address))
    {
        return Err(invalid("receiver.address", no_address(&receiver.address)).into());
    }
    let receiver = match &flags.receiver {
        Some(address) if !is_address(address) => {
            return Err(ConfigError::Flag {
                flag: "--receiver",
                message: no_address(address),
            });
        }
        Some(address) => Some(at(address.clone(), file.receiver.as_ref())),
        None => file.receiver,
    };
    let config = Config {
        raspberry_pi,
        lamp_needed: !file.recording.allow_without_lamp,
        network_commands: file.recording.network_commands,
        board: board.name,
        room: flags.room.clone().or(file.room),
        serial: None,
        concerns: Vec::new(),
        state_directory: flags
            .state_directory
            .clone()
            .unwrap_or(file.state_directory),
        control_socket: flags.socket.clone().unwrap_or(file.control_socket),
        receiver,
        rules: Rules {
            maximum: Duration::from_secs(60 * u64::from(most)),
            button: file.recording.button,
        },
        resume_within: Duration::from_secs(60 * u64::from(away)),
        retention: Duration::from_secs(86_400 * u64::from(days)),
        quota_bytes: u64::from(gigabytes) * 1_000_000_000,
        spool_file_bytes: u64::from(kibibytes) << 10,
        presenter,
        slides,
        microphone: microphone.map(|microphone| AudioTrack {
            microphone,
            bit_rate: kbps.map(|kbps| kbps * 1000),
        }),
        panel: board.panel,
    };
    Ok((config, flags.serial_file.clone().or(file.serial_file)))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
