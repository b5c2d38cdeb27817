//! What is plugged in: for people who choose, and for errors that say what there is instead.

use super::Error;
use crate::media::{PixelFormat, Rate};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A camera or grabber, or a device of which nothing else is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCamera {
    /// Its present node, such as `/dev/video0`.
    pub device: PathBuf,
    /// Its names that do not depend on the order of probing, the best first.
    pub names: Vec<PathBuf>,
    /// What it calls itself.
    pub name: String,
    /// The driver.
    pub driver: String,
    /// The bus and port that it is on, as sysfs has them.
    pub port: String,
    /// What it gives, format by format.
    pub offers: Vec<Offer>,
    /// Why it could not be asked.
    pub trouble: Option<Error>,
}

/// One format of a camera.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The driver's name for it.
    pub format: String,
    /// What it is here; none for one that cannot be used.
    pub pixels: Option<PixelFormat>,
    /// The sizes.
    pub sizes: Vec<Sizes>,
}

/// A size of a format, or a range of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Width and height of the smallest.
    pub smallest: (u32, u32),
    /// Width and height of the largest.
    pub largest: (u32, u32),
    /// The steps between these.
    pub step: (u32, u32),
    /// Pictures per second at the largest; of a range its ends. None where the driver does not say.
    pub rates: Vec<Rate>,
}

impl Sizes {
    /// Just this size.
    pub fn only(width: u32, height: u32, rates: Vec<Rate>) -> Self {
        Self {
            smallest: (width, height),
            largest: (width, height),
            step: (1, 1),
            rates,
        }
    }

    /// Whether this size is among them.
    pub fn holds(&self, width: u32, height: u32) -> bool {
        let on_step = |value: u32, low: u32, high: u32, step: u32| {
            (low..=high).contains(&value) && (value - low).is_multiple_of(step.max(1))
        };
        on_step(width, self.smallest.0, self.largest.0, self.step.0)
            && on_step(height, self.smallest.1, self.largest.1, self.step.1)
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((width, height), (widest, highest)) = (self.smallest, self.largest);
        write!(f, "{width}x{height}")?;
        if self.smallest != self.largest {
            let (x, y) = self.step;
            write!(f, " to {widest}x{highest} in steps of {x}x{y}")?;
        }
        Ok(())
    }
}

/// A sound card's capture device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundMicrophone {
    /// The card's id, which a board names.
    pub card: String,
    /// The card's present number.
    pub number: String,
    /// The card's PCM device.
    pub device: u32,
    /// What it calls itself.
    pub name: String,
    /// Names of the card that do not depend on the order of probing.
    pub names: Vec<PathBuf>,
    /// The bus and port that it is on, as sysfs has them.
    pub port: String,
    /// Samples per second, of the usual ones.
    pub rates_hz: Vec<u32>,
    /// The fewest and the most channels.
    pub channels: Option<(u32, u32)>,
    /// The formats of its samples that can be used.
    pub formats: Vec<String>,
    /// Why it could not be asked.
    pub trouble: Option<Error>,
}

impl FoundMicrophone {
    /// The device's name as ALSA writes it.
    pub fn alsa_name(&self) -> String {
        format!("hw:CARD={},DEV={}", self.card, self.device)
    }

    /// Its present node.
    pub fn node(&self) -> PathBuf {
        format!("/dev/snd/pcmC{}D{}c", self.number, self.device).into()
    }
}

/// The links in `folders` that lead to `device`, in the order of the folders.
#[cfg_attr(
    not(any(feature = "v4l2", feature = "alsa")),
    allow(dead_code, reason = "no back end that is built in has such names")
)]
pub(super) fn links(folders: &[&str], device: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in folders {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let links = entries
            .map(|entry| entry.path())
            .filter(|link| fs::canonicalize(link).is_ok_and(|target| target == device));
        let mut links: Vec<PathBuf> = links.collect();
        links.sort();
        found.append(&mut links);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_what_is_on_its_steps_and_says_so() {
        let range = Sizes {
            smallest: (32, 32),
            largest: (1920, 1080),
            step: (16, 2),
            rates: Vec::new(),
        };
        assert!(range.holds(1280, 720) && !range.holds(1281, 720) && !range.holds(16, 32));
        assert_eq!(range.to_string(), "32x32 to 1920x1080 in steps of 16x2");
        let one = Sizes::only(640, 480, Vec::new());
        assert!(one.holds(640, 480) && !one.holds(320, 240));
        assert_eq!(one.to_string(), "640x480");
    }

    #[test]
    fn links_to_a_device_are_found_folder_by_folder() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| fs::canonicalize(home.path()).unwrap().join(name);
        for folder in ["by-path", "by-id"] {
            fs::create_dir(at(folder)).unwrap();
        }
        fs::write(at("video0"), "").unwrap();
        fs::write(at("video1"), "").unwrap();
        let link = |from: &str, to: &str| std::os::unix::fs::symlink(at(to), at(from)).unwrap();
        link("by-id/cam", "video0");
        link("by-path/usb-1", "video0");
        link("by-path/usb-2", "video1");
        let folders = [at("by-path"), at("nowhere"), at("by-id")];
        let folders: Vec<&str> = folders.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            links(&folders, &at("video0")),
            [at("by-path/usb-1"), at("by-id/cam")]
        );
    }
}
