//! Cameras and microphones: opened as configured, and what they give in two seconds.

use super::running::Running;
use super::{Line, TRIAL};
use crate::board::{Camera, Microphone};
use crate::clock;
use crate::media::{Monotonic, Picture};
use crate::pacer::{Loudness, Meter};
use crate::source::{
    self, AudioPump, AudioSettings, Error, PassingPump, Pump, Received, VideoPump, VideoSettings,
};
use crate::station::config::{AudioTrack, Config, VideoTrack};
use crate::station::status::{Status, Track};
use std::time::Duration;

/// A device that does not open or give anything by then is given up.
const PATIENCE: Duration = Duration::from_secs(8);
/// A camera that gives less than this part of what it says is slow.
const SLOW: f64 = 0.9;
/// A card whose clock is off by more than this part is another card than it says.
const OFF: f64 = 0.01;
/// A peak above this clips sooner or later.
const LOUD: f64 = -0.5;

/// What was found, and what the encoder is tried with.
pub(super) struct Looked {
    pub(super) lines: Vec<Line>,
    /// The settings of each camera that opened.
    pub(super) layouts: Vec<(&'static str, VideoSettings)>,
    /// The last picture of each.
    pub(super) pictures: Vec<Shown>,
}

/// A picture of a camera.
pub(super) struct Shown {
    pub(super) track: &'static str,
    pub(super) settings: VideoSettings,
    pub(super) picture: Picture,
}

/// What a camera gave.
#[derive(Debug)]
struct Pictures {
    settings: VideoSettings,
    count: u64,
    lost: u64,
    /// From the capture of the first to that of the last.
    span: Duration,
    last: Option<Picture>,
}

/// What a microphone gave.
#[derive(Debug)]
pub(in crate::station) struct Sound {
    settings: AudioSettings,
    blocks: u64,
    lost: u64,
    /// Sample frames between the first and the last block, and how long those took.
    frames: u64,
    span: Duration,
    /// Of the last second.
    pub(in crate::station) loudness: Option<Loudness>,
    pub(in crate::station) silent: bool,
}

/// Tries all devices at once; those of a running box are asked of it.
pub(super) fn look(config: &Config, running: &Running) -> std::io::Result<Looked> {
    let mut looked = Looked {
        lines: Vec::new(),
        layouts: Vec::new(),
        pictures: Vec::new(),
    };
    match running {
        Running::No => {}
        Running::Yes(both) => {
            looked.lines = of_status(&both.0, &both.1);
            return Ok(looked);
        }
        Running::Mute(_) => return Ok(looked),
    }
    std::thread::scope(|scope| -> std::io::Result<()> {
        let mut cameras = Vec::new();
        for (name, track) in [("presenter", &config.presenter), ("slides", &config.slides)] {
            if let Some(track) = track {
                let camera = &track.camera;
                let trial = std::thread::Builder::new().spawn_scoped(scope, || try_camera(camera));
                cameras.push((name, track, trial?));
            }
        }
        let sound = config
            .microphone
            .as_ref()
            .map(|track| (track, try_microphone(&track.microphone)));
        for (name, track, trial) in cameras {
            let ended = |_| Err(fault("the trial ended early"));
            let mut seen = trial.join().unwrap_or_else(ended);
            looked.lines.push(judge_camera(name, track, &seen));
            if let Ok(pictures) = &mut seen {
                let settings = pictures.settings;
                looked.layouts.push((name, settings));
                looked
                    .pictures
                    .extend(pictures.last.take().map(|picture| Shown {
                        track: name,
                        settings,
                        picture,
                    }));
            }
        }
        if let Some((track, seen)) = sound {
            looked.lines.push(judge_microphone(track, &seen));
        }
        Ok(())
    })?;
    Ok(looked)
}

fn fault(reason: &str) -> Error {
    Error::Other {
        device: "the device".into(),
        what: "trying it".into(),
        reason: reason.into(),
    }
}

fn try_camera(camera: &Camera) -> Result<Pictures, Error> {
    let (name, own) = ("check camera", camera.clone());
    let open = move || source::open_camera(&own);
    if camera.is_passthrough() {
        let pump = PassingPump::start(name, open).map_err(|error| fault(&error.to_string()))?;
        watch(&pump)
    } else {
        let pump = VideoPump::start(name, open).map_err(|error| fault(&error.to_string()))?;
        watch(&pump)
    }
}

fn watch<const N: usize>(pump: &Pump<Picture, N>) -> Result<Pictures, Error> {
    let mut until = clock::now().plus(PATIENCE);
    let mut seen: Option<Pictures> = None;
    let mut first: Option<Monotonic> = None;
    loop {
        match pump.receive(until) {
            Received::Opened(settings) => {
                seen = Some(Pictures {
                    settings,
                    count: 0,
                    lost: 0,
                    span: Duration::ZERO,
                    last: None,
                });
            }
            Received::Block(picture) => {
                let Some(seen) = &mut seen else { continue };
                let began = *first.get_or_insert_with(|| {
                    until = clock::now().plus(TRIAL);
                    picture.captured
                });
                seen.count += 1;
                seen.span = picture.captured.since(began);
                if let Some(old) = seen.last.replace(picture) {
                    pump.recycle(old);
                }
                // One that is quick to deliver leaves no room for a deadline to pass.
                if clock::now() >= until {
                    break;
                }
            }
            Received::Failed(error) => return Err(error),
            Received::Timeout => break,
        }
    }
    let lost = pump.stats().losses.lost;
    let seen = seen.map(|seen| Pictures { lost, ..seen });
    seen.ok_or_else(|| fault("it did not open in time"))
}

/// Listens for two seconds.
pub(in crate::station) fn try_microphone(microphone: &Microphone) -> Result<Sound, Error> {
    let own = microphone.clone();
    let open = move || source::open_microphone(&own);
    let pump = AudioPump::start("check sound", open).map_err(|error| fault(&error.to_string()))?;
    let mut until = clock::now().plus(PATIENCE);
    let mut seen: Option<(Sound, Meter)> = None;
    let mut first: Option<Monotonic> = None;
    let mut last = 0;
    loop {
        match pump.receive(until) {
            Received::Opened(settings) => {
                let sound = Sound {
                    settings,
                    blocks: 0,
                    lost: 0,
                    frames: 0,
                    span: Duration::ZERO,
                    loudness: None,
                    silent: false,
                };
                // Of the last second: a click at opening is no level.
                let every = TRIAL / 2;
                seen = Some((
                    sound,
                    Meter::new(settings.rate_hz, settings.channels, every),
                ));
            }
            Received::Block(samples) => {
                let Some((sound, meter)) = &mut seen else {
                    continue;
                };
                let began = *first.get_or_insert_with(|| {
                    until = clock::now().plus(TRIAL);
                    samples.captured
                });
                meter.note(&samples.data);
                sound.blocks += 1;
                sound.lost += samples.lost_before;
                // The time of a block is that of its first sample: it does not count itself.
                sound.frames += last + samples.lost_before;
                last = samples.data.len() as u64 / u64::from(sound.settings.channels.max(1));
                sound.span = samples.captured.since(began);
                sound.loudness = meter.loudness().or(sound.loudness);
                sound.silent = meter.silent_for() >= TRIAL / 2;
                pump.recycle(samples);
                if clock::now() >= until {
                    break;
                }
            }
            Received::Failed(error) => return Err(error),
            Received::Timeout => break,
        }
    }
    seen.map(|(sound, _)| sound)
        .ok_or_else(|| fault("it did not open in time"))
}

/// What a person can do about a device that does not open.
fn advice(error: &Error) -> &'static str {
    match error {
        Error::Missing { .. } | Error::Elsewhere { .. } | Error::Vanished { .. } => {
            "plug it in, or name another one: `hallcast devices` lists what is there"
        }
        Error::Busy { .. } => "end the program that uses it (`fuser -v` names it)",
        Error::NotPermitted { .. } => {
            "run the check as root, or join the groups `video` and `audio`"
        }
        Error::CannotDo { .. } => "change the board's file to something that it offers",
        Error::Stalled { .. } | Error::Other { .. } => {
            "unplug it and plug it in again; if that does not help, try another cable or port"
        }
    }
}

fn judge_camera(name: &str, track: &VideoTrack, seen: &Result<Pictures, Error>) -> Line {
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => return Line::wrong(name, error.to_string(), advice(error)),
    };
    let layout = seen.settings.layout;
    let found = format!(
        "{}x{} {:?} at {}",
        layout.width, layout.height, layout.pixels, seen.settings.rate
    );
    let says = |rate: crate::media::Rate| f64::from(rate.num()) / f64::from(rate.den());
    if seen.count < 2 {
        let next = "unplug it and plug it in again; a grabber may have no signal at its input";
        return Line::wrong(name, format!("{found}: open, but gives no pictures"), next);
    }
    let rate = (seen.count - 1) as f64 / seen.span.as_secs_f64().max(0.001);
    let mut found = format!("{found}: {} pictures, {rate:.2} per second", seen.count);
    if seen.lost > 0 {
        found += &format!(", {} lost by the device", seen.lost);
    }
    let asked = source::expected(&track.camera);
    if let Some(asked) = asked.filter(|asked| {
        (asked.layout.width, asked.layout.height) != (layout.width, layout.height)
            || asked.rate != seen.settings.rate
    }) {
        let (width, height) = (asked.layout.width, asked.layout.height);
        found += &format!("; asked for {width}x{height} at {}", asked.rate);
        let next = "this is the nearest that it offers; name what you want in the board's file";
        return Line::warn(name, found, next);
    }
    if rate < SLOW * says(seen.settings.rate) {
        let next = "cameras give fewer pictures in poor light (exposure), and where two share a USB \
                    bus: turn the light on, use another port";
        return Line::warn(name, found, next);
    }
    if seen.lost > 0 {
        let next = "try another USB port or a shorter cable";
        return Line::warn(name, found, next);
    }
    Line::ok(name, found)
}

fn judge_microphone(track: &AudioTrack, seen: &Result<Sound, Error>) -> Line {
    const NAME: &str = "microphone";
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => return Line::wrong(NAME, error.to_string(), advice(error)),
    };
    let settings = seen.settings;
    let mut found = format!(
        "{}, {} Hz, {} channels: {} blocks",
        track.microphone, settings.rate_hz, settings.channels, seen.blocks
    );
    if seen.blocks < 2 {
        let next = "unplug it and plug it in again; if that does not help, try another port";
        return Line::wrong(NAME, format!("{found}: open, but gives no sound"), next);
    }
    let rate = seen.frames as f64 / seen.span.as_secs_f64().max(0.001);
    found += &format!(", {rate:.0} samples per second");
    match seen.loudness {
        Some(level) => {
            found += &format!(
                ", level {:.0} dBFS, peak {:.0}",
                level.rms_dbfs, level.peak_dbfs
            );
        }
        None => found += ", level none",
    }
    if seen.silent {
        let next = "unmute it, switch the transmitter on, or plug the cable in: a live microphone is \
                    never this quiet";
        return Line::warn(NAME, format!("{found}: digital silence"), next);
    }
    let asked = (track.microphone.rate_hz(), track.microphone.channels());
    if asked != (settings.rate_hz, settings.channels) {
        let (rate, channels) = asked;
        let found = format!("{found}; asked for {rate} Hz, {channels} channels");
        let next = "this is the nearest that it offers; name what you want in the board's file";
        return Line::warn(NAME, found, next);
    }
    if seen.lost > 0 {
        let found = format!("{found}; {} samples lost by the card", seen.lost);
        return Line::warn(NAME, found, "end other programs, or try another USB port");
    }
    if (rate / f64::from(settings.rate_hz) - 1.0).abs() > OFF {
        let next = "the card does not keep its rate: try another one";
        return Line::warn(NAME, found, next);
    }
    if seen.loudness.is_some_and(|level| level.peak_dbfs > LOUD) {
        let next = "turn the input down: it clips";
        return Line::warn(NAME, found, next);
    }
    Line::ok(NAME, found)
}

/// What a running box said of its devices, twice.
fn of_status(before: &Status, after: &Status) -> Vec<Line> {
    let counted = |track: &Track| {
        let earlier = before.tracks.iter().find(|old| old.name == track.name);
        track
            .delivered
            .saturating_sub(earlier.map_or(track.delivered, |old| old.delivered))
    };
    let lines = after.tracks.iter();
    lines
        .map(|track| judge_held(track, counted(track)))
        .collect()
}

/// Judges a device that the running box holds and that delivered `count` blocks during the trial.
fn judge_held(track: &Track, count: u64) -> Line {
    let name = track.name.as_str();
    if let Some(error) = &track.error {
        let next =
            "the box tries again by itself once it is there; `hallcast devices` lists what is";
        return Line::wrong(name, error.as_str(), next);
    }
    let mut found = format!("held by the running box: {}", track.settings);
    if !track.open {
        return Line::warn(
            name,
            format!("{found}: not open yet"),
            "check again in a moment",
        );
    }
    let per_second = count as f64 / TRIAL.as_secs_f64();
    found += &format!(", {per_second:.0} deliveries per second");
    if let Some((peak, rms)) = track.level_dbfs {
        found += &format!(", level {rms:.0} dBFS, peak {peak:.0} when it last recorded");
    }
    if count == 0 {
        let next = "unplug it and plug it in again";
        return Line::wrong(name, format!("{found}: it gives nothing"), next);
    }
    Line::ok(name, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::{Microphone, PatternCamera, ToneMicrophone};
    use crate::media::{PictureLayout, PixelFormat, Rate};
    use crate::station::check::Verdict;

    fn pictures(width: u32, rate: u32, count: u64, lost: u64) -> Pictures {
        Pictures {
            settings: VideoSettings {
                layout: PictureLayout::tight(width, 720, PixelFormat::Yuyv),
                rate: Rate::new(rate, 1).unwrap(),
            },
            count,
            lost,
            span: TRIAL,
            last: None,
        }
    }

    #[test]
    fn a_camera_is_judged_by_what_it_was_asked_and_what_it_gave() {
        let track = VideoTrack {
            camera: Camera::Pattern(PatternCamera::default()),
            bit_rate: None,
            rate: None,
        };
        for (seen, verdict, says) in [
            (
                pictures(1280, 30, 61, 0),
                Verdict::Ok,
                "61 pictures, 30.00 per second",
            ),
            (pictures(1280, 30, 31, 0), Verdict::Warn, "15.00 per second"),
            (
                pictures(640, 30, 61, 0),
                Verdict::Warn,
                "asked for 1280x720 at 30",
            ),
            (
                pictures(1280, 25, 51, 0),
                Verdict::Warn,
                "asked for 1280x720 at 30",
            ),
            (
                pictures(1280, 30, 61, 3),
                Verdict::Warn,
                "3 lost by the device",
            ),
            (
                pictures(1280, 30, 0, 0),
                Verdict::Wrong,
                "gives no pictures",
            ),
        ] {
            let line = judge_camera("presenter", &track, &Ok(seen));
            assert_eq!(line.verdict, verdict, "{line}");
            assert!(line.found.contains(says), "{line}");
            assert_eq!(line.next.is_some(), verdict != Verdict::Ok);
        }
        let missing = Error::Missing {
            device: "/dev/v4l/by-path/x".into(),
            advice: "Plug it in.".into(),
            present: vec![],
        };
        let line = judge_camera("presenter", &track, &Err(missing));
        assert_eq!(line.verdict, Verdict::Wrong);
        assert!(line.found.contains("not found"), "{line}");
    }

    #[test]
    fn a_microphone_is_judged_by_its_rate_and_its_level() {
        let track = AudioTrack {
            microphone: Microphone::Tone(ToneMicrophone::default()),
            bit_rate: None,
        };
        let sound = |frames: u64, peak: f64, silent: bool, lost: u64| Sound {
            settings: AudioSettings {
                rate_hz: 48_000,
                channels: 2,
            },
            blocks: frames / 960,
            lost,
            frames,
            span: TRIAL,
            loudness: (!silent).then_some(Loudness {
                peak_dbfs: peak,
                rms_dbfs: peak - 3.0,
            }),
            silent,
        };
        for (seen, verdict, says) in [
            (
                sound(96_000, -12.0, false, 0),
                Verdict::Ok,
                "48000 samples per second, level -15",
            ),
            (
                sound(96_000, -12.0, true, 0),
                Verdict::Warn,
                "digital silence",
            ),
            (
                sound(90_000, -12.0, false, 0),
                Verdict::Warn,
                "45000 samples",
            ),
            (sound(96_000, 0.0, false, 0), Verdict::Warn, "peak 0"),
            (
                sound(96_000, -12.0, false, 9),
                Verdict::Warn,
                "9 samples lost",
            ),
            (sound(0, -12.0, false, 0), Verdict::Wrong, "gives no sound"),
            (
                Sound {
                    settings: AudioSettings {
                        rate_hz: 48_000,
                        channels: 1,
                    },
                    ..sound(96_000, -12.0, false, 0)
                },
                Verdict::Warn,
                "1 channels: 100 blocks, 48000 samples per second, level -15 dBFS, peak -12; asked for \
                 48000 Hz, 2 channels",
            ),
        ] {
            let line = judge_microphone(&track, &Ok(seen));
            assert_eq!(line.verdict, verdict, "{line}");
            assert!(line.found.contains(says), "{line}");
        }
    }

    #[test]
    fn what_a_running_box_holds_is_taken_from_its_word() {
        let track = |open, error: Option<&str>| Track {
            name: "slides".into(),
            open,
            settings: "1280x720".into(),
            error: error.map(Into::into),
            ..Track::default()
        };
        assert_eq!(judge_held(&track(true, None), 60).verdict, Verdict::Ok);
        assert_eq!(judge_held(&track(false, None), 0).verdict, Verdict::Warn);
        assert_eq!(judge_held(&track(true, None), 0).verdict, Verdict::Wrong);
        let gone = track(false, Some("not found"));
        assert_eq!(judge_held(&gone, 0).verdict, Verdict::Wrong);
    }
}
