//! What a machine has: the strict parser of `boards/*.toml`, and which board this machine is.
//!
//! Takes a board file's text (compiled in, or from a path) and the text of the device tree's
//! `compatible`; gives a [`crate::board::Board`]. What does not belong here: where recordings go and who may do
//! what (site settings, `station`), and opening anything: hardware is probed by `source` and `panel`,
//! never believed.
//!
//! A board file holds one table per track and, below it, one per back end: `[presenter.v4l2]`,
//! `[slides.pattern]`, `[microphone.alsa]`, `[panel.gpio]`. Keys carry their units. Devices have
//! stable names only, because the numbers of `/dev/video0`, `card 1` and `gpiochip4` change with the
//! order of probing and even with a kernel's point release; the types hold any name all the same,
//! since a person at a command line may well mean `/dev/video2` for an afternoon.

mod check;
mod devices;

pub use devices::{
    ActiveLevel, AlsaMicrophone, AtEnd, Bias, Button, Camera, GpioPanel, Lamp, Line, Microphone,
    PanelDevice, PatternCamera, ReplayCamera, ReplayMicrophone, SimulatedPanel, ToneMicrophone,
    V4l2Camera,
};

use crate::settings;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Where Linux says which machine this is (NUL-separated, most specific first).
pub const COMPATIBLE_PATH: &str = "/sys/firmware/devicetree/base/compatible";

/// The boards that are compiled in: name and text.
pub const SHIPPED: &[(&str, &str)] = &[
    ("bench", include_str!("../../boards/bench.toml")),
    ("generic", include_str!("../../boards/generic.toml")),
    (
        "raspberry-pi-zero-2-w",
        include_str!("../../boards/raspberry-pi-zero-2-w.toml"),
    ),
    (
        "raspberry-pi-3",
        include_str!("../../boards/raspberry-pi-3.toml"),
    ),
    (
        "raspberry-pi-4",
        include_str!("../../boards/raspberry-pi-4.toml"),
    ),
    (
        "raspberry-pi-5",
        include_str!("../../boards/raspberry-pi-5.toml"),
    ),
];

/// What one machine has. A track that is absent is not recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Board {
    /// The version of this format: 1.
    #[serde(deserialize_with = "check::schema")]
    pub schema: u32,
    /// The board's name, which is also the file's stem.
    pub name: String,
    /// For people: which hardware this is, and on what it ran.
    #[serde(default)]
    pub description: String,
    /// Device-tree names by which the machine is recognised; none for a board chosen by hand.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// The camera that shows the lecturer.
    pub presenter: Option<Camera>,
    /// The camera or grabber that shows the slides.
    pub slides: Option<Camera>,
    /// The sound.
    pub microphone: Option<Microphone>,
    /// The button and the lamp.
    pub panel: Option<PanelDevice>,
}

/// Why there is no board. None of these heals by itself: stop, and let a person mend the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read, or says something that is not allowed.
    #[error(transparent)]
    File(#[from] settings::Error),
    /// It cannot be written as a file, such as by a path that is no text.
    #[error("this board cannot be written: {0}")]
    Text(String),
    /// No board of that name is compiled in.
    #[error(
        "there is no board `{name}`: choose one of {shipped}, or give the path of a .toml file"
    )]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names that exist.
        shipped: String,
    },
}

impl Board {
    /// Reads a board from `text`; `file` names it in errors, and its stem must be the board's name.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Error> {
        let board: Self = settings::parse(text, file)?;
        let stem = file
            .file_stem()
            .map_or(String::new(), |stem| stem.to_string_lossy().into_owned());
        if board.name != stem {
            let message = format!(
                "the name is `{}` but the file is `{stem}.toml`: they must be the same",
                board.name
            );
            return Err(settings::invalid(text, file, "name", message).into());
        }
        if let Some(PanelDevice::Gpio(panel)) = &board.panel
            && let Some((key, line)) = panel.used_twice()
        {
            let key = format!("panel.gpio.{key}");
            let message = format!("the line {line} has another use in this panel already");
            return Err(settings::invalid(text, file, &key, message).into());
        }
        Ok(board)
    }

    /// Whether it is a Raspberry Pi.
    pub fn is_raspberry_pi(&self) -> bool {
        let mut names = self.compatible.iter();
        names.any(|name| name.starts_with("raspberrypi,"))
    }

    /// The board as a file's text, which [`Board::parse`] reads back.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self).map_err(|error| Error::Text(error.to_string()))
    }

    /// Reads the board file at `path`.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::parse(&settings::read(path)?, path)
    }

    /// The board that is compiled in under `name`.
    pub fn shipped(name: &str) -> Result<Self, Error> {
        match SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            Some((name, text)) => Self::parse(text, Path::new(&format!("{name}.toml"))),
            None => {
                let names = SHIPPED.iter().map(|(name, _)| format!("`{name}`"));
                Err(Error::Unknown {
                    name: name.into(),
                    shipped: names.collect::<Vec<_>>().join(", "),
                })
            }
        }
    }

    /// The board a person asked for: a path (something with a `/` or ending in `.toml`) or a name.
    pub fn named(name_or_path: &str) -> Result<Self, Error> {
        if name_or_path.contains('/') || name_or_path.ends_with(".toml") {
            Self::load(Path::new(name_or_path))
        } else {
            Self::shipped(name_or_path)
        }
    }

    /// The board of the machine whose device tree says `compatible` (the bytes of
    /// [`COMPATIBLE_PATH`], empty where there is none): `generic` for one that is not known.
    pub fn detect(compatible: &str) -> Result<Self, Error> {
        for machine in compatible.split('\0').filter(|name| !name.is_empty()) {
            for (name, _) in SHIPPED {
                let board = Self::shipped(name)?;
                if board.compatible.iter().any(|known| known == machine) {
                    return Ok(board);
                }
            }
        }
        Self::shipped("generic")
    }
}
