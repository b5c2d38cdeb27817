//! Sound and picture in step, with real drivers whose clocks are wrong, that fall silent, that are
//! pulled, and that compete with others for the processor: in the rig's guest, with the real programs.
//!
//! One generator feeds flashes into v4l2loopback cameras and clicks into snd-aloop cards at the same
//! instants of CLOCK_MONOTONIC; the offset is read from the decoded film, on the host.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]
#![cfg(all(
    feature = "v4l2",
    feature = "alsa",
    feature = "software",
    feature = "receiver"
))]

#[path = "drift/cards.rs"]
mod cards;
#[path = "drift/encoded.rs"]
mod encoded;
#[path = "drift/feeder.rs"]
mod feeder;
#[path = "drift/hog.rs"]
mod hog;
#[path = "drift/measure.rs"]
mod measure;
#[path = "drift/pulls.rs"]
mod pulls;
#[path = "drift/raw.rs"]
mod raw;
#[path = "drift/stops.rs"]
mod stops;
mod support;

use feeder::Clicks;
use hallcast::clock;
use hallcast::media::Monotonic;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::chance::spread;
use support::programs::{CaptureBox, alone, pause, soak, wait_until};
use support::rig;

/// Sound and picture may be so far apart.
const OFFSET_MS: f64 = 20.0;

// ---- in the guest ----

/// A place that is no file of the host: its spool and store are as quick as the guest.
fn guest_home() -> PathBuf {
    let home = PathBuf::from("/dev/shm/hallcast");
    fs::create_dir_all(&home).unwrap();
    home
}

/// A board whose presenter is the fed camera `number` and whose microphone is `card`.
fn board(home: &Path, name: &str, number: u32, card: &str) -> String {
    board_with(home, name, number, card, "")
}

/// The same, with more said of the camera.
fn board_with(home: &Path, name: &str, number: u32, card: &str, more: &str) -> String {
    let path = home.join(format!("{name}.toml"));
    let text = format!(
        "schema = 1\nname = \"{name}\"\n\
         [presenter.v4l2]\ndevice = \"/dev/v4l/by-path/fed-video{number}\"\n\
         width = 320\nheight = 180\nrate = \"30\"\n{more}\
         [microphone.alsa]\ncard = \"{card}\"\ndevice = 1\n[panel.simulated]\n"
    );
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn track<'a>(status: &'a Value, name: &str) -> &'a Value {
    let tracks = status["tracks"].as_array().unwrap();
    tracks.iter().find(|track| track["name"] == name).unwrap()
}

/// Waits until all devices are open, or until one is not.
fn wait_open(capture_box: &CaptureBox, open: bool) {
    wait_until(20, "the devices", || {
        let status = capture_box.status();
        let tracks = status["tracks"].as_array().unwrap();
        tracks.iter().all(|track| track["open"] == true) == open
    });
}

/// Leaves the film and the figures of a recording for the host.
fn leave(results: &Path, name: &str, film: &Path, figures: &Value) {
    fs::copy(film, results.join(format!("{name}.mp4"))).unwrap();
    let text = serde_json::to_vec_pretty(figures).unwrap();
    fs::write(results.join(format!("{name}.json")), text).unwrap();
}

fn figures(results: &Path, name: &str) -> Value {
    serde_json::from_slice(&fs::read(results.join(format!("{name}.json"))).unwrap()).unwrap()
}

/// A gap of the manifest, in seconds of media time.
struct Gap {
    track: String,
    start: f64,
    length: f64,
    cause: String,
}

/// The gaps of a recording, in order of their starts.
fn gaps(manifest: &Value) -> Vec<Gap> {
    let tracks = manifest["tracks"].as_array().unwrap();
    let gap = |gap: &Value| {
        let track = tracks.iter().find(|track| track["track"] == gap["track"]);
        let track = track.unwrap();
        let scale = track["segments"][0]["timescale"].as_f64().unwrap();
        Gap {
            track: track["name"].as_str().unwrap().into(),
            start: gap["start"].as_f64().unwrap() / scale,
            length: gap["duration"].as_f64().unwrap() / scale,
            cause: gap["cause"].as_str().unwrap().into(),
        }
    };
    let mut found: Vec<Gap> = manifest["gaps"]
        .as_array()
        .unwrap()
        .iter()
        .map(gap)
        .collect();
    found.sort_by(|a, b| a.start.total_cmp(&b.start));
    found
}

/// Says how late the pictures were written: that much of an offset is the feeder's.
fn tell_lateness(name: &str, written: &[(Monotonic, Duration)]) {
    let late: Vec<Duration> = written.iter().map(|(_, late)| *late).collect();
    println!(
        "{name}: {} pictures fed, late by {:?} ms (least, median, most)",
        late.len(),
        spread(&late)
    );
}

// ---- the measure ----

#[test]
fn flash_and_click_coincide_at_the_devices() {
    let name = "flash_and_click_coincide_at_the_devices";
    if rig::inside().is_none() {
        let _alone = alone();
        let results = tempfile::tempdir_in("/tmp").unwrap();
        rig::ran_in_the_guest(name, 120, results.path());
        return;
    }
    for (card, ppm) in [("Loopback", 0), ("Loop2", 1000)] {
        let pace = feeder::shift(card, ppm);
        let camera = feeder::camera(10);
        let sound = feeder::sound(card, pace, Clicks::Seconds);
        pause(1);
        let end = clock::now().plus(Duration::from_secs(soak(14, 60)));
        let eyes = std::thread::spawn(move || raw::flashes(10, end));
        let (clicks, heard_ppm) = raw::heard(card, end);
        let stamps = eyes.join().unwrap();
        let written = camera.end();
        tell_lateness(card, &written);
        // Where the host keeps the whole guest waiting, a picture is written late: that much is the feeder's.
        let in_time = |stamp: &f64| {
            let before = |(tick, late): &(Monotonic, Duration)| {
                let since = stamp - tick.as_nanos() as f64 / 1e9;
                (since >= 0.0).then(|| since.min(late.as_secs_f64()))
            };
            stamp - written.iter().rev().find_map(before).unwrap_or(0.0)
        };
        let flashes: Vec<f64> = stamps.iter().map(in_time).collect();
        let played = sound.end();
        let mut offsets = support::film::offsets_ms(&clicks, &flashes);
        println!(
            "{card}, told to be {:.2} ppm fast: {:.2} ppm as played, {heard_ppm:.2} as heard; \
             {} marks, click after flash by {offsets:.3?} ms; {} underruns",
            (pace - 1.0) * 1e6,
            played.clock.ppm(0.0, f64::MAX),
            offsets.len(),
            played.underruns,
        );
        assert!(offsets.len() >= 8, "{clicks:?} {flashes:?}");
        offsets.sort_by(f64::total_cmp);
        // Of ten marks one is left out on either side.
        let part = |tenths: usize| offsets[(offsets.len() - 1) * tenths / 10];
        assert!(part(5).abs() <= 1.0, "{offsets:?}");
        assert!(part(1) >= -2.0 && part(9) <= 2.0, "{offsets:?}");
    }
}
