//! Gathers what this machine has.

use super::holders::Holders;
use super::{
    Camera, Chip, Disk, Encoder, Format, Level, Machine, Microphone, Report, Size, Speed, Used,
};
use crate::board::{self, AlsaMicrophone, Board};
use crate::encoder::{self, Scene};
use crate::media::{PictureLayout, PixelFormat, Rate};
use crate::panel::{self, FoundChip};
use crate::source::{self, FoundCamera, FoundMicrophone, Offer};
use crate::station::check::{devices, disk, encoder as encoding, running};
use crate::station::config::{self, Config};
use crate::station::{Error, Status};
use std::path::Path;

/// The sizes at which encoders are tried.
const SIZES: [(u32, u32); 3] = [(640, 480), (1280, 720), (1920, 1080)];
/// What the disk is measured with.
const BLOCK: usize = 256 << 10;

/// All that was found, before it is put into words.
pub(super) struct Looked {
    pub(super) compatible: String,
    pub(super) model: Option<String>,
    pub(super) board: Board,
    pub(super) cameras: Option<Vec<FoundCamera>>,
    pub(super) microphones: Option<Vec<(FoundMicrophone, Level)>>,
    pub(super) chips: Vec<FoundChip>,
    config: Result<Config, String>,
    running: Running,
    holders: Holders,
    encoders: Vec<Encoder>,
    disk: Disk,
}

/// Whether a box runs here.
enum Running {
    No,
    Yes(Box<Status>),
    /// One does, and says nothing to this user.
    Mute(String),
}

/// Looks at everything. Devices are opened for seconds; nothing is kept of what they give.
pub(super) fn look(flags: &config::Flags) -> Result<Looked, Error> {
    let compatible = std::fs::read_to_string(board::COMPATIBLE_PATH).unwrap_or_default();
    let board = Board::detect(&compatible).map_err(config::ConfigError::from)?;
    let config = config::load(flags).map_err(|error| error.to_string());
    let socket = match &config {
        Ok(config) => config.control_socket.clone(),
        Err(_) => flags
            .socket
            .clone()
            .unwrap_or(config::DEFAULT_SOCKET.into()),
    };
    let running = match running::status(&socket) {
        Ok(Some(status)) => Running::Yes(status),
        Ok(None) => Running::No,
        Err(why) => Running::Mute(why),
    };
    let ours = |found: &FoundMicrophone| !matches!(running, Running::No) && is_set(&config, found);
    let microphones = source::microphones(ours);
    let microphones = microphones
        .map(|found| listen(found, &running, ours))
        .transpose()?;
    let recording = match &running {
        Running::No => false,
        Running::Yes(status) => status.recording.is_some(),
        Running::Mute(_) => true,
    };
    Ok(Looked {
        model: model(),
        board,
        compatible,
        cameras: source::cameras(),
        microphones,
        chips: panel::chips(),
        // In turn: what is measured here would disturb what else is measured.
        disk: measure_disk(&config, flags, &running, recording),
        encoders: try_encoders(recording),
        config,
        running,
        holders: Holders::now(),
    })
}

/// What the machine calls itself: by the device tree, else by its firmware.
fn model() -> Option<String> {
    let places = [
        "/sys/firmware/devicetree/base/model",
        "/sys/class/dmi/id/product_name",
    ];
    let read = |place: &&str| std::fs::read_to_string(place).ok();
    let text = places.iter().find_map(read)?;
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!text.is_empty()).then(|| text.to_owned())
}

/// Whether the box is set to record from this one.
fn is_set(config: &Result<Config, String>, found: &FoundMicrophone) -> bool {
    let track = config
        .as_ref()
        .ok()
        .and_then(|config| config.microphone.as_ref());
    match track.map(|track| &track.microphone) {
        Some(board::Microphone::Alsa(set)) => {
            (set.card == found.card || set.card == found.number) && set.device == found.device
        }
        _ => false,
    }
}

/// Listens to all at once; the one that a running box has is asked of it.
fn listen(
    found: Vec<FoundMicrophone>,
    running: &Running,
    ours: impl Fn(&FoundMicrophone) -> bool,
) -> Result<Vec<(FoundMicrophone, Level)>, Error> {
    std::thread::scope(|scope| {
        let mut trials = Vec::new();
        for microphone in &found {
            let asked = AlsaMicrophone::at(&microphone.alsa_name());
            let asked = asked.filter(|_| microphone.trouble.is_none() && !ours(microphone));
            let trial = asked.map(|asked| {
                let listen = || devices::try_microphone(&board::Microphone::Alsa(asked));
                std::thread::Builder::new().spawn_scoped(scope, listen)
            });
            trials.push(trial.transpose()?);
        }
        let mut heard = Vec::new();
        for (microphone, trial) in found.iter().zip(trials) {
            let mut microphone = microphone.clone();
            let level = match trial.map(std::thread::ScopedJoinHandle::join) {
                Some(Ok(Ok(sound))) => Level {
                    peak_dbfs: sound.loudness.map(|level| level.peak_dbfs),
                    rms_dbfs: sound.loudness.map(|level| level.rms_dbfs),
                    silent: sound.silent,
                },
                Some(Ok(Err(error))) => {
                    microphone.trouble = Some(error);
                    Level::default()
                }
                None if ours(&microphone) => of_status(running),
                Some(Err(_)) | None => Level::default(),
            };
            heard.push((microphone, level));
        }
        Ok(heard)
    })
}

fn of_status(running: &Running) -> Level {
    let Running::Yes(status) = running else {
        return Level::default();
    };
    let track = status
        .tracks
        .iter()
        .find(|track| track.name == "microphone");
    let level = track.and_then(|track| track.level_dbfs);
    Level {
        peak_dbfs: level.map(|(peak, _)| peak),
        rms_dbfs: level.map(|(_, rms)| rms),
        silent: false,
    }
}

/// What each encoder is good for; not tried while the box needs the processor.
fn try_encoders(recording: bool) -> Vec<Encoder> {
    let (pictures, sound) = encoder::names();
    // The first that opens is the one that a box would take; so far there is one.
    let pictures = pictures.into_iter().map(|name| Encoder {
        name,
        of: "pictures",
        speeds: match recording {
            true => Vec::new(),
            false => SIZES.iter().map(|size| try_size(*size)).collect(),
        },
    });
    let sound = sound.into_iter().map(|name| Encoder {
        name,
        of: "sound",
        speeds: Vec::new(),
    });
    pictures.chain(sound).collect()
}

fn try_size((width, height): (u32, u32)) -> Speed {
    let layout = PictureLayout::tight(width, height, PixelFormat::I420);
    let measured = match Rate::new(30, 1) {
        Ok(rate) => {
            encoding::measure(Scene::Camera, None, layout, rate).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    Speed {
        size: format!("{width}x{height}"),
        rate: "30".into(),
        times: measured.as_ref().ok().map(|speed| speed.times),
        error: measured.err(),
    }
}

fn measure_disk(
    config: &Result<Config, String>,
    flags: &config::Flags,
    running: &Running,
    recording: bool,
) -> Disk {
    let usual = || flags.state_directory.clone();
    let state = match config {
        Ok(config) => config.state_directory.clone(),
        Err(_) => usual().unwrap_or_else(|| config::File::default().state_directory),
    };
    let directory = disk::existing(&state.join("spool"));
    let mut found = Disk {
        directory,
        ..Disk::default()
    };
    let rate = config.as_ref().map_or(0, disk::bytes_per_second);
    if recording {
        if let Running::Yes(status) = running {
            found.free_bytes = status.spool.free_bytes;
            found.hours_left = status.spool.hours_left;
            found.fdatasync_p99_ms = status.spool.sync_ms.map(|(_, p99, _)| p99 as f64);
        }
        found.trouble = Some("not tried while a recording is written".into());
        return found;
    }
    match disk::measure(&found.directory, BLOCK) {
        Ok(measured) => {
            let at = (measured.syncs.len() * 99).div_ceil(100).saturating_sub(1);
            let p99 = measured.syncs.get(at);
            found.fdatasync_p99_ms = p99.map(|p99| p99.as_secs_f64() * 1000.0);
            found.write_bytes_per_second = Some(measured.bytes_per_second);
            if let Ok(space) = measured.space {
                let hours = |rate: u64| space.free as f64 / rate as f64 / 3600.0;
                found.free_bytes = Some(space.free);
                found.total_bytes = Some(space.total);
                found.hours_left = (rate > 0).then(|| hours(rate));
            }
        }
        Err(error) => found.trouble = Some(error.to_string()),
    }
    found
}

impl Looked {
    /// It as people and programs are told.
    pub(super) fn report(&self) -> Report {
        let names = self.compatible.split('\0').filter(|name| !name.is_empty());
        let cameras = self.cameras.as_ref();
        let microphones = self.microphones.as_ref();
        Report {
            machine: Machine {
                model: self.model.clone(),
                compatible: names.map(str::to_owned).collect(),
                board: self.board.name.clone(),
                why: why(&self.compatible, &self.board),
            },
            running: match &self.running {
                Running::No => None,
                Running::Yes(status) => Some(status.state.clone()),
                Running::Mute(why) => Some(why.clone()),
            },
            settings_error: self.config.as_ref().err().cloned(),
            not_built: not_built(),
            cameras: cameras.map(|found| found.iter().map(|one| self.camera(one)).collect()),
            microphones: microphones.map(|found| {
                let all = found
                    .iter()
                    .map(|(one, level)| self.microphone(one, *level));
                all.collect()
            }),
            chips: self.chips.iter().map(|one| self.chip(one)).collect(),
            encoders: self.encoders.clone(),
            disk: self.disk.clone(),
            proposed: Vec::new(),
        }
    }

    fn camera(&self, found: &FoundCamera) -> Camera {
        Camera {
            device: found.device.clone(),
            names: found.names.clone(),
            name: found.name.clone(),
            driver: found.driver.clone(),
            port: found.port.clone(),
            formats: found.offers.iter().map(format).collect(),
            held_by: self
                .box_holds(&found.device)
                .or_else(|| self.holders.of(&found.device)),
            trouble: found.trouble.as_ref().map(ToString::to_string),
        }
    }

    /// The track of the running box that this camera is set for.
    fn box_holds(&self, device: &Path) -> Option<String> {
        let (Ok(config), Running::Yes(status)) = (&self.config, &self.running) else {
            return None;
        };
        let tracks = [("presenter", &config.presenter), ("slides", &config.slides)];
        let track = tracks.into_iter().find(|(_, track)| match track {
            Some(config::VideoTrack {
                camera: board::Camera::V4l2(camera),
                ..
            }) => std::fs::canonicalize(&camera.device).is_ok_and(|at| at == device),
            _ => false,
        });
        let (name, _) = track?;
        let open = status
            .tracks
            .iter()
            .any(|track| track.name == name && track.open);
        open.then(|| format!("the running box, for its {name} track"))
    }

    fn chip(&self, found: &FoundChip) -> Chip {
        let used = found.used.iter().map(|line| Used {
            line: line.offset,
            name: line.name.clone(),
            by: line.consumer.clone(),
        });
        let mut used: Vec<Used> = used.collect();
        // On a Raspberry Pi the box drives its lamp past the kernel, which then knows of nobody.
        for line in self.box_lines(&found.label) {
            if !used.iter().any(|known| known.line == line) {
                used.push(Used {
                    line,
                    name: String::new(),
                    by: "the running box".into(),
                });
            }
        }
        Chip {
            device: found.device.clone(),
            label: found.label.clone(),
            lines: found.lines,
            used,
            trouble: found.trouble.clone(),
        }
    }

    /// The lines of the chip with this label that the running box is set to use.
    fn box_lines(&self, label: &str) -> Vec<u32> {
        let panel = match (&self.config, &self.running) {
            (Ok(config), Running::Yes(_)) => config.lines(),
            _ => None,
        };
        let Some(panel) = panel.filter(|panel| panel.chip == label) else {
            return Vec::new();
        };
        let mirrors = panel.mirrors.iter().map(|lamp| &lamp.line);
        let lines = [&panel.record_button.line, &panel.lamp.line];
        let lines = lines.into_iter().chain(mirrors);
        let numbers = lines.filter_map(|line| match line {
            board::Line::Offset(offset) => Some(*offset),
            board::Line::Name(_) => None,
        });
        numbers.collect()
    }

    fn microphone(&self, found: &FoundMicrophone, level: Level) -> Microphone {
        let boxed = !matches!(self.running, Running::No) && is_set(&self.config, found);
        let holder = match boxed {
            true => Some("the running box, for its microphone track".to_owned()),
            false => self.holders.of(&found.node()),
        };
        let busy = matches!(&found.trouble, Some(source::Error::Busy { .. }));
        Microphone {
            device: found.alsa_name(),
            card: found.card.clone(),
            number: found.number.clone(),
            name: found.name.clone(),
            names: found.names.clone(),
            port: found.port.clone(),
            rates_hz: found.rates_hz.clone(),
            channels: found.channels,
            formats: found.formats.clone(),
            held_by: holder.or_else(|| busy.then(|| "another program".to_owned())),
            // That it is busy is said by who holds it.
            trouble: found
                .trouble
                .as_ref()
                .filter(|_| !busy)
                .map(ToString::to_string),
            level,
        }
    }
}

fn format(offer: &Offer) -> Format {
    let size = |sizes: &source::Sizes| Size {
        size: sizes.to_string(),
        rates: sizes.rates.iter().map(Rate::to_string).collect(),
    };
    Format {
        format: offer.format.clone(),
        usable: offer.pixels.is_some(),
        sizes: offer.sizes.iter().map(size).collect(),
    }
}

/// Why the machine is taken for this board.
fn why(compatible: &str, board: &Board) -> String {
    let mut names = compatible.split('\0').filter(|name| !name.is_empty());
    let Some(first) = names.clone().next() else {
        return format!(
            "this machine has no device tree ({})",
            board::COMPATIBLE_PATH
        );
    };
    match names.find(|name| board.compatible.iter().any(|known| known == name)) {
        Some(known) => format!("the device tree says `{known}`"),
        None => format!("no board is known for `{first}`, which the device tree says"),
    }
}

/// What is left out of this program.
fn not_built() -> Vec<&'static str> {
    let features = [
        ("v4l2", cfg!(feature = "v4l2")),
        ("alsa", cfg!(feature = "alsa")),
        ("rppal", cfg!(feature = "rppal")),
        ("software", cfg!(feature = "software")),
    ];
    let missing = features.into_iter().filter(|(_, built)| !built);
    missing.map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_built_in_is_not_told_as_absent() {
        assert_eq!(source::cameras().is_none(), not_built().contains(&"v4l2"));
        let microphones = source::microphones(|_| true);
        assert_eq!(microphones.is_none(), not_built().contains(&"alsa"));
        let (pictures, _) = encoder::names();
        assert_eq!(pictures.is_empty(), not_built().contains(&"software"));
    }

    #[test]
    fn the_board_is_given_with_its_reason() {
        let reason = |compatible: &str| {
            let board = Board::detect(compatible).unwrap();
            (why(compatible, &board), board.name)
        };
        let (why, board) = reason("raspberrypi,4-model-b\0brcm,bcm2711\0");
        assert_eq!(board, "raspberry-pi-4");
        assert_eq!(why, "the device tree says `raspberrypi,4-model-b`");
        let (why, board) = reason("radxa,rock-5b\0rockchip,rk3588\0");
        assert_eq!(board, "generic");
        assert!(why.contains("`radxa,rock-5b`"), "{why}");
        assert!(reason("").0.contains("no device tree"));
    }
}
