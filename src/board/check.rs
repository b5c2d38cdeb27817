//! What a value in a board file may be: each function reads one and says what would be allowed.

use crate::media::{PixelFormat, Rate};
use crate::settings::Written;
use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};
use std::path::{Component, Path, PathBuf};

pub(super) fn schema<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let schema = Written::deserialize(from)?;
    schema.within(1..=1).ok_or_else(|| {
        D::Error::custom(format!(
            "schema {schema} is not known to this release: allowed is 1"
        ))
    })
}

/// A picture rate, as a text or a number.
pub(super) mod rate {
    use super::*;

    pub(in crate::board) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Rate, D::Error> {
        let rate = Written::deserialize(from)?;
        rate.text().parse().map_err(D::Error::custom)
    }

    pub(in crate::board) fn serialize<S: Serializer>(
        rate: &Rate,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(rate)
    }
}

/// The same where it may be absent.
pub(super) mod optional_rate {
    use super::*;

    pub(in crate::board) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Rate>, D::Error> {
        rate::deserialize(from).map(Some)
    }

    pub(in crate::board) fn serialize<S: Serializer>(
        rate: &Option<Rate>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        rate.map(|rate| rate.to_string()).serialize(to)
    }
}

/// What a camera gives, by V4L2's name.
pub(super) mod pixels {
    use super::*;

    pub(in crate::board) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PixelFormat>, D::Error> {
        match String::deserialize(from)?.as_str() {
            "YU12" => Ok(Some(PixelFormat::I420)),
            "NV12" => Ok(Some(PixelFormat::Nv12)),
            "YUYV" => Ok(Some(PixelFormat::Yuyv)),
            "H264" => Ok(Some(PixelFormat::H264)),
            other => Err(D::Error::custom(format!(
                "`{other}` is not allowed: `YU12`, `NV12`, `YUYV` or `H264`"
            ))),
        }
    }

    pub(in crate::board) fn serialize<S: Serializer>(
        pixels: &Option<PixelFormat>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let name = pixels.map(|pixels| match pixels {
            PixelFormat::I420 => "YU12",
            PixelFormat::Nv12 => "NV12",
            PixelFormat::Yuyv => "YUYV",
            PixelFormat::H264 => "H264",
        });
        name.serialize(to)
    }
}

/// Width or height: even, because 4:2:0 pictures have half as many colour points.
pub(super) fn extent<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let written = Written::deserialize(from)?;
    let points = written.within(16..=7680);
    let even = points.filter(|points| points.is_multiple_of(2));
    even.ok_or_else(|| {
        D::Error::custom(format!(
            "{written} is not allowed: an even number from 16 to 7680"
        ))
    })
}

pub(super) fn optional_extent<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    extent(from).map(Some)
}

fn within<'de, D: Deserializer<'de>>(from: D, low: u32, high: u32) -> Result<u32, D::Error> {
    let found = Written::deserialize(from)?;
    found.within(low..=high).ok_or_else(|| {
        D::Error::custom(format!(
            "{found} is not allowed: a number from {low} to {high}"
        ))
    })
}

pub(super) fn sound_rate_hz<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    within(from, 8000, 192_000)
}

pub(super) fn channels<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    within(from, 1, 32)
}

pub(super) fn period_ms<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    within(from, 2, 200)
}

pub(super) fn debounce_ms<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    within(from, 0, 100)
}

/// A camera's name that stays the same whatever was plugged in first.
pub(super) fn camera_path<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(from)?;
    let shown = path.display();
    if !path.starts_with("/dev") || path.components().any(|part| part == Component::ParentDir) {
        return Err(D::Error::custom(format!(
            "`{shown}` is not a device: a path below /dev, such as /dev/v4l/by-path/..."
        )));
    }
    if is_numbered(&path, "video") {
        return Err(D::Error::custom(format!(
            "`{shown}` is refused in a board: the number depends on the order of probing; name the \
             port (/dev/v4l/by-path/...) or a symlink that a udev rule makes (/dev/hallcast/...)"
        )));
    }
    Ok(path)
}

/// An ALSA card id, as `/proc/asound/cards` shows it in brackets.
pub(super) fn card_id<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let card = String::deserialize(from)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if card.chars().all(|c| c.is_ascii_digit()) || card.starts_with("hw:") {
        return Err(D::Error::custom(format!(
            "`{card}` is refused in a board: card numbers depend on the order of probing; name the \
             card's id, the word in brackets in /proc/asound/cards"
        )));
    }
    if card.len() > 15 || !card.chars().all(plain) {
        return Err(D::Error::custom(format!(
            "`{card}` is not a card id: up to 15 letters, digits or `_`, the word in brackets in \
             /proc/asound/cards"
        )));
    }
    Ok(card)
}

/// A GPIO chip's label, as `gpiodetect` shows it in brackets.
pub(super) fn chip_label<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let chip = String::deserialize(from)?;
    let path = Path::new("/dev").join(chip.trim_start_matches("/dev/"));
    if chip.is_empty() || chip.starts_with('/') || is_numbered(&path, "gpiochip") {
        return Err(D::Error::custom(format!(
            "`{chip}` is refused in a board: a chip's number changes between kernels; name its \
             label, the word in brackets that gpiodetect prints (pinctrl-bcm2711)"
        )));
    }
    Ok(chip)
}

/// Whether `path` is `/dev/<prefix><digits>`.
fn is_numbered(path: &Path, prefix: &str) -> bool {
    path.parent() == Some(Path::new("/dev"))
        && path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix(prefix))
            .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit()))
}
