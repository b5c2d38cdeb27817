//! Settings for what was found: a `box.toml`, and the file of a board where no known board fits.
//!
//! A board says what a machine has and the settings say the rest, so that the devices that were found are
//! a board: `machine.toml`, which `box.toml` names and which lies beside it wherever both are copied. It
//! keeps the panel and the device-tree names of the board that was detected.

use super::Level;
use super::look::Looked;
use crate::board::{AlsaMicrophone, Board, Camera, Microphone, PanelDevice, V4l2Camera};
use crate::encoder;
use crate::media::{PixelFormat, Rate};
use crate::panel::FoundChip;
use crate::source::{FoundCamera, FoundMicrophone, Sizes};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The name of a board that is made here.
const NAME: &str = "machine";
/// The size that is asked for where a camera offers more and the board names none.
const USUAL: (u32, u32) = (1280, 720);
/// Pictures of a lecturer that come more slowly than this look broken.
const SLOW: u32 = 24;
/// Words in the names of grabbers, whose signal is more likely the slides than the lecturer.
const GRABBERS: [&str; 5] = ["hdmi", "sdi", "capture", "grabber", "cam link"];

/// What is proposed.
#[derive(Debug)]
pub(super) struct Proposal {
    /// None where the board that is compiled in names what is there.
    board: Option<Board>,
    /// The board that `box.toml` names.
    named: String,
    /// What a person should know of it.
    notes: Vec<String>,
}

pub(super) fn propose(looked: &Looked) -> Result<Proposal, crate::station::Error> {
    let cameras = looked.cameras.as_deref();
    let microphones = looked.microphones.as_deref();
    let encodes = !encoder::names().0.is_empty();
    let proposal = choose(&looked.board, cameras, microphones, &looked.chips, encodes);
    if let Some(board) = &proposal.board {
        accepted(board).map_err(crate::station::Error::Refused)?;
    }
    Ok(proposal)
}

/// `encodes` says whether this program has an encoder of pictures.
fn choose(
    known: &Board,
    cameras: Option<&[FoundCamera]>,
    microphones: Option<&[(FoundMicrophone, Level)]>,
    chips: &[FoundChip],
    encodes: bool,
) -> Proposal {
    let mut notes = Vec::new();
    if cameras.is_none() || microphones.is_none() {
        notes.push("This program was built without a part that looks for devices.".into());
    }
    let (cameras, microphones) = (cameras.unwrap_or_default(), microphones.unwrap_or_default());
    let panel = panel(known, chips, &mut notes);
    if panel == known.panel && fits(known, cameras, microphones) {
        return Proposal {
            board: None,
            named: known.name.clone(),
            notes,
        };
    }
    let mut board = Board {
        name: NAME.into(),
        presenter: None,
        slides: None,
        microphone: None,
        panel,
        ..known.clone()
    };
    let limit = match &known.presenter {
        Some(Camera::V4l2(camera)) => (camera.width, camera.height),
        _ => USUAL,
    };
    let mut said = Vec::new();
    let mut taken: Vec<&str> = Vec::new();
    for found in cameras {
        let asked = match camera(found, limit, encodes) {
            Ok(asked) => asked,
            Err(why) => {
                notes.push(format!("{} was left out: {why}.", line(&found.name)));
                continue;
            }
        };
        // One camera may have several nodes.
        if !found.port.is_empty() && taken.contains(&found.port.as_str()) {
            continue;
        }
        let name = found.name.to_lowercase();
        let grabber = GRABBERS.iter().any(|word| name.contains(word));
        let track = match (grabber, &board.presenter, &board.slides) {
            (true, _, None) | (false, Some(_), None) => &mut board.slides,
            (_, None, _) => &mut board.presenter,
            (_, Some(_), Some(_)) => {
                notes.push(format!(
                    "{} was left out: two are named.",
                    line(&found.name)
                ));
                continue;
            }
        };
        *track = Some(Camera::V4l2(asked));
        taken.push(&found.port);
    }
    for (name, track) in [("presenter", &board.presenter), ("slides", &board.slides)] {
        let Some(Camera::V4l2(asked)) = track else {
            continue;
        };
        let found = cameras.iter().find(|one| one.names.contains(&asked.device));
        said.extend(found.map(|found| format!("{name}: {}", line(&found.name))));
    }
    let mut heard: Vec<&(FoundMicrophone, Level)> = microphones.iter().collect();
    // The first of equals stays first: those that are heard before those that are not, then USB.
    heard.sort_by_key(|(found, level)| {
        (
            level.silent || level.rms_dbfs.is_none(),
            !found.port.contains("usb"),
        )
    });
    for (found, _) in heard {
        let asked = microphone(found);
        let alone = Board {
            microphone: Some(Microphone::Alsa(asked.clone())),
            ..bare(known)
        };
        let name = format!("{} ({})", found.alsa_name(), line(&found.name));
        if let Err(why) = accepted(&alone) {
            notes.push(format!("{name} was left out: {}.", line(&why)));
        } else if found.trouble.is_some() {
            notes.push(format!("{name} was left out: it could not be asked."));
        } else if board.microphone.is_none() {
            said.push(format!("microphone: {name}"));
            board.microphone = alone.microphone;
        } else {
            notes.push(format!("{name} is there as well."));
        }
    }
    if said.is_empty() {
        notes.push("Nothing was found to record from: plug it in, and run this again.".into());
        return Proposal {
            board: None,
            named: known.name.clone(),
            notes,
        };
    }
    if board.presenter.is_some() && board.slides.is_some() {
        notes.push("Which camera shows the slides is a guess by their names.".into());
    }
    board.description = format!("as `hallcast devices` found it; {}", said.join("; "));
    Proposal {
        board: Some(board),
        named: format!("{NAME}.toml"),
        notes,
    }
}

/// A board with nothing.
fn bare(known: &Board) -> Board {
    Board {
        name: NAME.into(),
        presenter: None,
        slides: None,
        microphone: None,
        panel: None,
        ..known.clone()
    }
}

/// Whether all that the board names is there and can do what it asks, and no camera besides.
fn fits(board: &Board, cameras: &[FoundCamera], microphones: &[(FoundMicrophone, Level)]) -> bool {
    let named = [&board.presenter, &board.slides].into_iter().flatten();
    let named: Vec<&V4l2Camera> = named
        .filter_map(|camera| match camera {
            Camera::V4l2(camera) => Some(camera),
            Camera::Pattern(_) | Camera::Replay(_) => None,
        })
        .collect();
    let is = |found: &FoundCamera, asked: &V4l2Camera| found.names.contains(&asked.device);
    let is_named = |found: &FoundCamera| named.iter().any(|asked| is(found, asked));
    let usable = |found: &&FoundCamera| found.offers.iter().any(|offer| offer.pixels.is_some());
    let all_named = cameras.iter().filter(usable).all(is_named);
    let all_there = named.iter().all(|asked| {
        let mut cameras = cameras.iter();
        cameras.any(|found| is(found, asked) && can(found, asked))
    });
    let sound = match &board.microphone {
        Some(Microphone::Alsa(named)) => {
            let mut microphones = microphones.iter();
            microphones.any(|(found, _)| found.card == named.card && found.device == named.device)
        }
        Some(_) | None => true,
    };
    all_named && all_there && sound
}

/// Whether the camera gives the size that is asked for, no slower; of one that could not be asked nobody
/// knows better than the board.
fn can(found: &FoundCamera, asked: &V4l2Camera) -> bool {
    // 30000/1001 does for 30.
    let longest = asked.rate.tick_nanos(1) / 100 * 101;
    let mut offers = found.offers.iter().filter(|offer| match asked.pixels {
        Some(pixels) => offer.pixels == Some(pixels),
        None => offer
            .pixels
            .is_some_and(|pixels| pixels != PixelFormat::H264),
    });
    let does = |sizes: &Sizes| {
        let mut rates = sizes.rates.iter();
        sizes.holds(asked.width, asked.height)
            && (sizes.rates.is_empty() || rates.any(|rate| rate.tick_nanos(1) <= longest))
    };
    found.trouble.is_some() || offers.any(|offer| offer.sizes.iter().any(does))
}

/// The board's panel where its lines are there and free: a lamp that cannot be driven keeps a box from
/// recording. A chip that could not be asked may be the board's: what this user may not do, the service may.
fn panel(known: &Board, chips: &[FoundChip], notes: &mut Vec<String>) -> Option<PanelDevice> {
    let Some(PanelDevice::Gpio(gpio)) = &known.panel else {
        return known.panel.clone();
    };
    let simulated = Some(PanelDevice::Simulated(Default::default()));
    let Some(chip) = chips.iter().find(|chip| chip.label == gpio.chip) else {
        let chip = &gpio.chip;
        let unasked = chips.iter().find_map(|found| {
            let trouble = found.trouble.as_ref()?;
            Some(format!("{}: {}", found.device.display(), line(trouble)))
        });
        if let Some(unasked) = unasked {
            notes.push(format!(
                "The button and the lamp were not tried, and are as the board has them: {unasked}."
            ));
            return known.panel.clone();
        }
        notes.push(format!(
            "No button and no lamp: there is no GPIO chip labelled {chip}."
        ));
        return simulated;
    };
    let lamps = gpio.mirrors.iter().map(|lamp| &lamp.line);
    let lines = [&gpio.record_button.line, &gpio.lamp.line];
    for wired in lines.into_iter().chain(lamps) {
        let mut used = chip.used.iter();
        let used = used.find(|used| match wired {
            crate::board::Line::Offset(offset) => used.offset == *offset,
            crate::board::Line::Name(name) => used.name == *name,
        });
        if let Some(used) = used.filter(|used| !used.consumer.starts_with("hallcast")) {
            let by = line(&used.consumer);
            notes.push(format!(
                "No button and no lamp: line {wired} is in use by {by}."
            ));
            return simulated;
        }
    }
    known.panel.clone()
}

/// What to ask of this camera: the largest size up to `limit` that moves well.
fn camera(found: &FoundCamera, limit: (u32, u32), encodes: bool) -> Result<V4l2Camera, String> {
    if let Some(trouble) = &found.trouble {
        return Err(line(&trouble.to_string()));
    }
    let device = found.names.first().ok_or(
        "it has no name that stays; make one by a udev rule (SYMLINK+=\"hallcast/presenter\")",
    )?;
    let mut best: Option<(_, V4l2Camera)> = None;
    for offer in &found.offers {
        let Some(pixels) = offer.pixels else { continue };
        let encoded = pixels == PixelFormat::H264;
        for ((width, height), rate) in offer.sizes.iter().flat_map(|size| ways(size, limit)) {
            let beyond = width > limit.0 || height > limit.1;
            let area = u64::from(width) * u64::from(height);
            let slow = rate.num() < SLOW * rate.den();
            // What comes encoded is for a program that cannot encode.
            let order = if beyond { area } else { u64::MAX - area };
            let key = (encoded == encodes, slow, beyond, order, off(rate));
            if best.as_ref().is_none_or(|(least, _)| key < *least) {
                let camera = V4l2Camera {
                    width,
                    height,
                    rate,
                    pixels: encoded.then_some(pixels),
                    ..V4l2Camera::at(device.clone())
                };
                best = Some((key, camera));
            }
        }
    }
    let (_, best) = best.ok_or("it offers nothing that is usable here")?;
    Ok(best)
}

/// The sizes of a range that are worth asking for, each with the rate nearest to the usual one.
fn ways(sizes: &Sizes, limit: (u32, u32)) -> Vec<((u32, u32), Rate)> {
    let usual = V4l2Camera::at("/dev/any").rate;
    let rate = sizes.rates.iter().copied().min_by_key(|rate| off(*rate));
    let mut ways = vec![sizes.largest, sizes.smallest];
    if sizes.holds(limit.0, limit.1) {
        ways.push(limit);
    }
    // What a board may say: H.264 wants even numbers.
    let even = |points: u32| (16..=7680).contains(&points) && points.is_multiple_of(2);
    ways.retain(|(width, height)| even(*width) && even(*height));
    let rate = rate.unwrap_or(usual);
    ways.into_iter().map(|size| (size, rate)).collect()
}

/// How far from the usual rate.
fn off(rate: Rate) -> u64 {
    let usual = V4l2Camera::at("/dev/any").rate;
    rate.tick_nanos(1).abs_diff(usual.tick_nanos(1))
}

/// What to ask of this sound card.
fn microphone(found: &FoundMicrophone) -> AlsaMicrophone {
    let (fewest, most) = found.channels.unwrap_or((1, 2));
    let rates = found.rates_hz.iter().copied();
    AlsaMicrophone {
        card: found.card.clone(),
        device: found.device,
        rate_hz: rates
            .min_by_key(|rate| rate.abs_diff(48_000))
            .unwrap_or(48_000),
        channels: 2.clamp(fewest, most.max(fewest)),
        period_ms: 20,
    }
}

/// Whether the program itself would take this board's file.
fn accepted(board: &Board) -> Result<(), String> {
    let text = board.to_toml().map_err(|error| error.to_string())?;
    let name = PathBuf::from(format!("{}.toml", board.name));
    Board::parse(&text, &name).map_or_else(|error| Err(error.to_string()), |_| Ok(()))
}

/// What others wrote, as a part of one line: a device's name may hold anything.
fn line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars()
        .map(plain)
        .collect::<String>()
        .trim()
        .to_owned()
}

impl Proposal {
    /// Each file's name and text.
    fn files(&self) -> Result<Vec<(&'static str, String)>, String> {
        let mut settings = String::from(
            "# Proposed by `hallcast devices --propose` for this machine. Read it, copy all files beside it \
             to\n# /etc/hallcast as well, and run `hallcast check`.\n",
        );
        for note in &self.notes {
            settings += &format!("# {}\n", line(note));
        }
        settings += &format!("board = {:?}\n", self.named);
        settings += "\n# The room, for people.\n# room = \"Hall 1\"\n\n# Where recordings are sent; without \
                     it they stay on the box.\n# [receiver]\n# address = \"receiver.example.org:4433\"\n";
        let mut files = vec![("box.toml", settings)];
        if let Some(board) = &self.board {
            let head = "# What this machine has. Names stay as long as nobody moves a plug.\n";
            let text = board.to_toml().map_err(|error| error.to_string())?;
            files.push(("machine.toml", format!("{head}{text}")));
        }
        Ok(files)
    }

    /// Writes them; nothing that is there is overwritten.
    pub(super) fn write(&self, directory: &Path) -> Result<Vec<PathBuf>, String> {
        let failed = |path: &Path, error: std::io::Error| {
            let next = match error.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    "name another directory: nothing is overwritten"
                }
                _ => "name a directory in which this user may write",
            };
            format!("{}: {error}; {next}", path.display())
        };
        fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
        let files = self.files()?;
        let paths: Vec<PathBuf> = files.iter().map(|(name, _)| directory.join(name)).collect();
        if let Some(path) = paths.iter().find(|path| path.exists()) {
            return Err(failed(path, std::io::ErrorKind::AlreadyExists.into()));
        }
        for ((_, text), path) in files.iter().zip(&paths) {
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).open(path);
            let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
            written.map_err(|error| failed(path, error))?;
        }
        Ok(paths)
    }
}

#[cfg(test)]
#[path = "propose_tests.rs"]
mod tests;
