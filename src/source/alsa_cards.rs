//! Which sound cards are present, as `/proc/asound` names them.

use super::Error;
use crate::board::AlsaMicrophone;
use std::fs;

/// A capture device that is present.
struct Present {
    /// The card's number, as text.
    number: String,
    /// The card's id.
    id: String,
    device: u32,
    name: String,
}

/// The capture devices that are present; `None` where the system does not say.
fn present() -> Option<Vec<Present>> {
    let list = fs::read_to_string("/proc/asound/pcm").ok()?;
    // "00-01: Loopback PCM : Loopback PCM : playback 8 : capture 8"
    let lines = list.lines().filter(|line| line.contains(": capture"));
    let found = lines.filter_map(|line| {
        let (place, rest) = line.split_once(':')?;
        let (card, device) = place.split_once('-')?;
        let number = card.parse::<u32>().ok()?.to_string();
        let id = fs::read_to_string(format!("/proc/asound/card{number}/id")).ok()?;
        Some(Present {
            number,
            id: id.trim().into(),
            device: device.parse().ok()?,
            name: rest.split(':').next().unwrap_or("").trim().into(),
        })
    });
    Some(found.collect())
}

pub(super) fn is_present(asked: &AlsaMicrophone) -> bool {
    let is = |one: &Present| {
        (one.id == asked.card || one.number == asked.card) && one.device == asked.device
    };
    present().is_none_or(|present| present.iter().any(is))
}

/// `hw:CARD=Loopback,DEV=1 (Loopback PCM)` and so on.
pub(super) fn microphones() -> Vec<String> {
    let line = |one: &Present| format!("hw:CARD={},DEV={} ({})", one.id, one.device, one.name);
    present().unwrap_or_default().iter().map(line).collect()
}

pub(super) fn missing(device: String) -> Error {
    Error::Missing {
        device,
        advice: "Plug it in, or name one of those that are present.".into(),
        present: microphones(),
    }
}
