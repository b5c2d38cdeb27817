//! Which sound cards are present, as `/proc/asound` names them, and which port each is on.

use super::Error;
use super::found::{FoundMicrophone, links};
use super::port::{Choice, Found, Port, SYSFS, unit};
use crate::board::AlsaMicrophone;
use std::fs;
use std::path::Path;

/// A capture device that is present.
struct Present {
    /// The card's number, as text.
    number: String,
    /// The card's id.
    id: String,
    device: u32,
    name: String,
}

impl Present {
    fn is(&self, asked: &AlsaMicrophone) -> bool {
        (self.id == asked.card || self.number == asked.card) && self.device == asked.device
    }

    /// It as something to open by the name `at`; `None` where sysfs does not tell its port.
    fn found(&self, at: String) -> Option<Found> {
        let folder = Path::new(SYSFS).join(format!("class/sound/card{}", self.number));
        Some(Found {
            at,
            unit: unit(&folder, &format!("pcm{}", self.device), &self.name)?,
        })
    }
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

/// The card to open: what the configured name leads to, or what sits on the track's port.
pub(super) fn choose(asked: &AlsaMicrophone, port: &Port) -> Result<Choice, Error> {
    let present = present().unwrap_or_default();
    let named = present.iter().find(|one| one.is(asked));
    let name = asked.alsa_name();
    // Ids and numbers go by the order of plugging: it is opened by what it is called now.
    let at = |one: &Present| format!("hw:CARD={},DEV={}", one.id, one.device);
    let all = || {
        present
            .iter()
            .filter_map(|one| one.found(at(one)))
            .collect()
    };
    port.choose(&name, named.and_then(|one| one.found(name.clone())), all)
}

/// Whether the card is there, or the system does not say.
pub(super) fn is_present(asked: &AlsaMicrophone) -> bool {
    present().is_none_or(|present| present.iter().any(|one| one.is(asked)))
}

/// Whether this user may not open the card that is there by this name, of which ALSA's library says that it
/// does not exist.
pub(super) fn is_refused(name: &str) -> bool {
    let present = present().unwrap_or_default();
    let is_it = |one: &&Present| {
        let device = one.device;
        [&one.id, &one.number]
            .iter()
            .any(|card| name == format!("hw:CARD={card},DEV={device}"))
    };
    let node = present
        .iter()
        .find(is_it)
        .map(|one| format!("/dev/snd/controlC{}", one.number));
    let opened = node.map(fs::File::open);
    opened.is_some_and(|opened| {
        opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    })
}

/// `hw:CARD=Loopback,DEV=1 (Loopback PCM)` and so on.
pub(super) fn microphones() -> Vec<String> {
    let line = |one: &Present| format!("hw:CARD={},DEV={} ({})", one.id, one.device, one.name);
    present().unwrap_or_default().iter().map(line).collect()
}

/// The same, with their stable names and ports.
pub(super) fn found() -> Vec<FoundMicrophone> {
    let found = present().unwrap_or_default().into_iter().map(|one| {
        // udev names a card by the node of its mixer.
        let control = format!("/dev/snd/controlC{}", one.number);
        let card = Path::new(SYSFS).join(format!("class/sound/card{}/device", one.number));
        let port = fs::canonicalize(card).map_or(String::new(), |path| path.display().to_string());
        FoundMicrophone {
            names: links(&["/dev/snd/by-path", "/dev/snd/by-id"], Path::new(&control)),
            port: port.trim_start_matches("/sys/devices/").into(),
            card: one.id,
            number: one.number,
            device: one.device,
            name: one.name,
            rates_hz: Vec::new(),
            channels: None,
            formats: Vec::new(),
            trouble: None,
        }
    });
    found.collect()
}

/// `place` says where to plug it in, if that is known.
pub(super) fn missing(device: String, place: &str) -> Error {
    Error::Missing {
        device,
        advice: format!("Plug it in{place}, or name one of those that are present."),
        present: microphones(),
    }
}
