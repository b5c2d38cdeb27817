//! What a driver of button and lamp does, and which one a board gets.

use super::character::CharacterDevice;
use crate::board::{Button, Lamp};
use crate::media::Monotonic;
use std::time::Duration;

/// Opens the lines of a panel.
pub trait Driver {
    /// The button, with its edges.
    fn button(&self, button: &Button) -> Result<Box<dyn ButtonLine>, Error>;
    /// The lamp, dark; several lines show the same.
    fn lamp(&self, lamps: &[Lamp]) -> Result<Box<dyn LampLines>, Error>;
}

/// A button's line.
pub trait ButtonLine {
    /// Whether it is down now.
    fn is_down(&mut self) -> Result<bool, Error>;
    /// The next edge, oldest first; none within `patience`.
    fn edge(&mut self, patience: Duration) -> Result<Option<Edge>, Error>;
}

/// A lamp's lines.
pub trait LampLines {
    /// Lights them all, or darkens them.
    fn set(&mut self, lit: bool) -> Result<(), Error>;
}

/// A change of a button's level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// It went down.
    pub down: bool,
    /// When, as the kernel saw it.
    pub at: Monotonic,
}

/// Why a line cannot be used. All are tried again: a chip may come later, and a program that holds a
/// line may end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No chip has the label.
    #[error(
        "no GPIO chip is labelled `{wanted}`: there {}; name one of these in `panel.gpio.chip` of the board file, or load the chip's driver",
        are(.found)
    )]
    NoChip {
        /// The label.
        wanted: String,
        /// What there is.
        found: Vec<String>,
    },
    /// The chip has no such line.
    #[error(
        "GPIO chip `{chip}` has no line {line}: {has}; correct `line` in `[panel.gpio]` of the board file"
    )]
    NoLine {
        /// The chip's label.
        chip: String,
        /// The line.
        line: String,
        /// What it has.
        has: String,
    },
    /// Another program, or a driver in the kernel, holds the line.
    #[error(
        "line {line} of GPIO chip `{chip}` is used by `{consumer}`: end that program, or name another line in `[panel.gpio]` of the board file"
    )]
    Taken {
        /// The chip's label.
        chip: String,
        /// The line.
        line: String,
        /// Who holds it, as the kernel says.
        consumer: String,
    },
    /// The device may not be opened.
    #[error(
        "{device} cannot be opened (permission denied): give its group `gpio` read and write access (the udev rules of the package do), and this program that group"
    )]
    Denied {
        /// The device.
        device: String,
    },
    /// What was tried failed.
    #[error("{device}: {tried} failed: {why}; see `dmesg` and `gpioinfo`")]
    Failed {
        /// The device.
        device: String,
        /// What was tried.
        tried: String,
        /// What came of it.
        why: String,
    },
}

fn are(found: &[String]) -> String {
    match found {
        [] => "is none at all".into(),
        found => format!("are {}", found.join(", ")),
    }
}

/// The driver of a panel whose lines are on the chip labelled `chip`.
pub fn driver(chip: &str, raspberry_pi: bool) -> Box<dyn Driver> {
    #[cfg(feature = "rppal")]
    if raspberry_pi && is_header(chip) {
        return Box::new(super::raspberry_pi::RaspberryPi);
    }
    // Without it the kernel's own way works on a Raspberry Pi as well.
    let _ = raspberry_pi;
    Box::new(CharacterDevice { label: chip.into() })
}

/// Whether the label is that of a Raspberry Pi's own header; other chips may be wired to it.
#[cfg(feature = "rppal")]
fn is_header(chip: &str) -> bool {
    chip.starts_with("pinctrl-bcm") || chip == "pinctrl-rp1"
}

#[cfg(all(test, feature = "rppal"))]
mod tests {
    use super::*;

    #[test]
    fn another_chip_than_the_header_is_not_for_rppal() {
        for (chip, header) in [
            ("pinctrl-bcm2835", true),
            ("pinctrl-bcm2711", true),
            ("pinctrl-rp1", true),
            ("raspberrypi-exp-gpio", false),
            ("mcp23017", false),
        ] {
            assert_eq!(is_header(chip), header, "{chip}");
        }
    }
}
