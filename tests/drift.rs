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

#[path = "drift/feeder.rs"]
mod feeder;
#[path = "drift/measure.rs"]
mod measure;
#[path = "drift/raw.rs"]
mod raw;
mod support;

use feeder::{Clicks, Fed, Played};
use hallcast::clock;
use measure::{Marks, beyond_half_a_picture};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::chance::spread;
use support::film::Film;
use support::programs::{CaptureBox, Receiver, alone, pause, soak, wait_until};
use support::rig;

/// Sound and picture may be so far apart, and the first and the last minute of a film.
const OFFSET_MS: f64 = 20.0;
const WANDER_MS: f64 = 5.0;

// ---- in the guest ----

/// A place that is no file of the host: its spool and store are as quick as the guest.
fn guest_home() -> PathBuf {
    let home = PathBuf::from("/dev/shm/hallcast");
    fs::create_dir_all(&home).unwrap();
    home
}

/// A board whose presenter is the fed camera `number` and whose microphone is `card`.
fn board(home: &Path, name: &str, number: u32, card: &str) -> String {
    let path = home.join(format!("{name}.toml"));
    let text = format!(
        "schema = 1\nname = \"{name}\"\n\
         [presenter.v4l2]\ndevice = \"/dev/v4l/by-path/fed-video{number}\"\n\
         width = 320\nheight = 180\nrate = \"30\"\n\
         [microphone.alsa]\ncard = \"{card}\"\ndevice = 1\n[panel.simulated]\n"
    );
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn track<'a>(status: &'a Value, name: &str) -> &'a Value {
    let tracks = status["tracks"].as_array().unwrap();
    tracks.iter().find(|track| track["name"] == name).unwrap()
}

/// Leaves the film and the figures of a recording for the host.
fn leave(results: &Path, name: &str, film: Option<PathBuf>, figures: &Value) {
    if let Some(film) = film {
        fs::copy(film, results.join(format!("{name}.mp4"))).unwrap();
    }
    let text = serde_json::to_vec_pretty(figures).unwrap();
    fs::write(results.join(format!("{name}.json")), text).unwrap();
}

fn figures(results: &Path, name: &str) -> Value {
    serde_json::from_slice(&fs::read(results.join(format!("{name}.json"))).unwrap()).unwrap()
}

/// Says how late the pictures were written: that much of an offset is the feeder's.
fn tell_lateness(name: &str, late: &[Duration]) {
    println!(
        "{name}: {} pictures fed, late by {:?} ms (least, median, most)",
        late.len(),
        spread(late)
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
        let flashes = eyes.join().unwrap();
        tell_lateness(card, &camera.end());
        let played = sound.end();
        let offsets = support::film::offsets_ms(&clicks, &flashes);
        let least = offsets.iter().copied().fold(f64::MAX, f64::min);
        let most = offsets.iter().copied().fold(f64::MIN, f64::max);
        println!(
            "{card}, told to be {:.2} ppm fast: {:.2} ppm as played, {heard_ppm:.2} as heard; \
             {} marks, click after flash by {least:.3} to {most:.3} ms; {} underruns",
            (pace - 1.0) * 1e6,
            played.ppm,
            offsets.len(),
            played.underruns,
        );
        assert!(offsets.len() >= 8, "{clicks:?} {flashes:?}");
        assert!(least >= -2.0 && most <= 2.0, "{offsets:?}");
    }
}

// ---- cards whose clocks are wrong ----

/// A hall, and how wrong its card is.
struct Hall {
    name: &'static str,
    card: &'static str,
    camera: u32,
    ppm: i32,
    seconds: u64,
}

/// All of them record at once.
fn halls() -> [Hall; 5] {
    let hall = |name, card, camera, ppm, seconds| Hall {
        name,
        card,
        camera,
        ppm,
        seconds,
    };
    let (short, long) = (90, soak(300, 1800));
    [
        hall("slow-1000", "Loopback", 10, -1000, short),
        hall("slow-200", "Loop2", 11, -200, short),
        hall("fast-200", "Loop3", 12, 200, long),
        hall("fast-1000", "Loop4", 13, 1000, short),
        hall("fast-200-short", "Loop5", 14, 200, short),
    ]
}

struct Running {
    hall: Hall,
    set: f64,
    camera: Fed<Vec<Duration>>,
    sound: Fed<Played>,
    capture_box: CaptureBox,
    recording: String,
    estimates: Vec<(u64, Value)>,
}

fn record_the_halls(results: &Path) {
    let home = guest_home();
    let receiver = Receiver::start(&home);
    let mut running = Vec::new();
    for hall in halls() {
        let set = feeder::shift(hall.card, hall.ppm);
        let camera = feeder::camera(hall.camera);
        let sound = feeder::sound(hall.card, set, Clicks::Seconds);
        let board = board(&home, hall.name, hall.camera, hall.card);
        let capture_box =
            CaptureBox::start(&home, hall.name, Some(&receiver), &["--board", &board]);
        wait_until(20, "both devices", || {
            let status = capture_box.status();
            ["presenter", "microphone"]
                .iter()
                .all(|name| track(&status, name)["open"] == true)
        });
        running.push(Running {
            hall,
            set: (set - 1.0) * 1e6,
            camera,
            sound,
            capture_box,
            recording: String::new(),
            estimates: Vec::new(),
        });
    }
    pause(4); // until every card clicks
    for one in &mut running {
        one.recording = one.capture_box.record();
    }
    let began = clock::now();
    let mut next = 20;
    while !running.is_empty() {
        pause(1);
        let seconds = clock::now().since(began).as_secs();
        if seconds >= next {
            next += 20;
            for one in &mut running {
                let status = one.capture_box.status();
                let ppm = track(&status, "microphone")["ppm"].clone();
                one.estimates.push((seconds, ppm));
            }
        }
        let (over, on) = running
            .into_iter()
            .partition(|one: &Running| seconds >= one.hall.seconds);
        running = on;
        for one in over {
            end(results, &receiver, one);
        }
    }
}

fn end(results: &Path, receiver: &Receiver, one: Running) {
    assert_eq!(one.capture_box.stop(), one.recording);
    let status = one.capture_box.status();
    let manifest = receiver.wait_complete(&one.recording, 60);
    drop(one.capture_box);
    let played = one.sound.end();
    tell_lateness(one.hall.name, &one.camera.end());
    let figures = json!({
        "set_ppm": one.set, "played_ppm": played.ppm, "underruns": played.underruns,
        "estimates": one.estimates, "status": status, "manifest": manifest,
    });
    let film = receiver.film(&one.recording);
    leave(results, one.hall.name, Some(film), &figures);
}

#[test]
fn sound_and_picture_stay_together_with_cards_that_are_wrong() {
    if let Some(results) = rig::inside() {
        return record_the_halls(&results);
    }
    let _alone = alone();
    let results = tempfile::tempdir_in("/tmp").unwrap();
    let name = "sound_and_picture_stay_together_with_cards_that_are_wrong";
    if !rig::ran_in_the_guest(name, 120 + soak(300, 1800), results.path()) {
        return;
    }
    let mut wrong = Vec::new();
    for hall in halls() {
        let figures = figures(results.path(), hall.name);
        let film = Film::open(&results.path().join(format!("{}.mp4", hall.name)));
        let marks = Marks::of(&film);
        let minutes = marks.by(60.0);
        let truth = figures["played_ppm"].as_f64().unwrap();
        println!(
            "{}: told to be {:.2} ppm fast, {truth:.2} as played; the box says (second, ppm) {}",
            hall.name,
            figures["set_ppm"].as_f64().unwrap(),
            figures["estimates"]
        );
        let (first, last) = (marks.median(0.0, 60.0).unwrap(), {
            let end = marks.0.last().unwrap().0;
            marks.median(end - 60.0, f64::MAX).unwrap()
        });
        println!(
            "  {} marks; click after flash, median {:.2} ms, by the minute {minutes:.2?}, by 10 s {:.1?}; \
             beyond half a picture {:.2} ms; {} underruns; {}",
            marks.0.len(),
            marks.all(),
            marks.by(10.0),
            beyond_half_a_picture(marks.all()),
            figures["underruns"],
            track(&figures["status"], "microphone"),
        );
        println!("  {}", track(&figures["status"], "presenter"));
        let mut judge = |good: bool, what: String| {
            if !good {
                wrong.push(format!("{}: {what}", hall.name));
            }
        };
        judge(
            marks.0.len() as u64 + 6 >= hall.seconds,
            format!("{} marks", marks.0.len()),
        );
        judge(
            beyond_half_a_picture(marks.all()) <= OFFSET_MS,
            format!("{:.2} ms apart", marks.all()),
        );
        judge(
            (first - last).abs() <= WANDER_MS,
            format!("first minute {first:.2} ms, last {last:.2} ms"),
        );
        for estimate in figures["estimates"].as_array().unwrap() {
            let (at, said) = (estimate[0].as_u64().unwrap(), estimate[1].as_f64());
            let off = said.map(|said| (said - truth).abs());
            judge(
                at < 60 || off.is_some_and(|off| off <= 5.0),
                format!("after {at} s the box says {said:?} ppm, it is {truth:.2}"),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
