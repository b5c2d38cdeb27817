//! Cards whose clocks are wrong: the box finds out by how much, and its sound stays with its pictures.

use super::feeder::{self, Clicks, Fed, Played, Written};
use super::measure::{Marks, beyond_half_a_picture};
use super::support::chance::Stalls;
use super::support::film::Film;
use super::support::programs::{CaptureBox, Receiver, alone, pause, soak};
use super::support::rig;
use super::{OFFSET_MS, board, figures, guest_home, leave, tell_lateness, track, wait_open};
use hallcast::clock;
use hallcast::media::Monotonic;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The first and the last minute of a film may differ by so much.
const WANDER_MS: f64 = 5.0;
/// The box's estimate may be so far from the truth.
const ESTIMATE_PPM: f64 = 5.0;

/// A host that keeps the guest waiting for longer shows in what is fed.
const STALL: Duration = Duration::from_millis(100);

/// Of how many seconds the box's estimate is.
const MEMORY: f64 = 60.0;

/// A hall, and how wrong its card is.
struct Hall {
    name: &'static str,
    card: &'static str,
    camera: u32,
    ppm: i32,
    seconds: u64,
}

/// All of them record at once.
fn halls() -> [Hall; 4] {
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
    ]
}

struct Running {
    hall: Hall,
    set: f64,
    camera: Fed<Written>,
    sound: Fed<Played>,
    capture_box: CaptureBox,
    recording: String,
    estimates: Vec<(u64, Value)>,
}

/// Records all of them; once more where the host kept the guest waiting, or a player fell behind: what is
/// played and filmed is not of one clock then.
fn record_the_halls(results: &Path) {
    for again in [true, false] {
        let stalls = Stalls::watch();
        let underruns = record_once(results);
        let (times, longest) = stalls.summary();
        println!(
            "the guest stood still for 20 ms or more {times} times, at most {longest:?}; {underruns} underruns"
        );
        if longest <= STALL && underruns == 0 {
            return;
        }
        if again {
            println!("once more");
        }
    }
}

/// Gives how often a player fell behind.
fn record_once(results: &Path) -> u64 {
    let home = guest_home().join("halls");
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home).unwrap();
    let receiver = Receiver::start(&home);
    let mut running = Vec::new();
    for hall in halls() {
        let set = feeder::shift(hall.card, hall.ppm);
        let camera = feeder::camera(hall.camera);
        let sound = feeder::sound(hall.card, set, Clicks::Seconds);
        let board = board(&home, hall.name, hall.camera, hall.card);
        let capture_box =
            CaptureBox::start(&home, hall.name, Some(&receiver), &["--board", &board]);
        wait_open(&capture_box, true);
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
    let (mut next, mut underruns) = (20, 0);
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
            underruns += end(results, &receiver, one, began);
        }
    }
    underruns
}

fn end(results: &Path, receiver: &Receiver, one: Running, began: Monotonic) -> u64 {
    let seconds = |at: Monotonic| at.as_nanos() as f64 / 1e9;
    let (began, ended) = (seconds(began), seconds(clock::now()));
    assert_eq!(one.capture_box.stop(), one.recording);
    let status = one.capture_box.status();
    let manifest = receiver.wait_complete(&one.recording, 60);
    drop(one.capture_box);
    let played = one.sound.end();
    tell_lateness(one.hall.name, &one.camera.end());
    // The card's own clock wanders by some ppm where its two ends round apart; the box's estimate is of
    // the time just past.
    let estimates: Vec<(u64, Value, f64, f64)> = one
        .estimates
        .into_iter()
        .map(|(at, said)| {
            let to = began + at as f64;
            let from = (to - MEMORY).max(began);
            let (truth, half) = (played.clock.ppm(from, to), (from + to) / 2.0);
            let wander = played.clock.ppm(half, to) - played.clock.ppm(from, half);
            (at, said, truth, wander)
        })
        .collect();
    let figures = json!({
        "set_ppm": one.set, "played_ppm": played.clock.ppm(began, ended), "underruns": played.underruns,
        "estimates": estimates, "status": status, "manifest": manifest,
    });
    let film = receiver.film(&one.recording);
    leave(results, one.hall.name, &film, &figures);
    played.underruns
}

#[test]
fn sound_and_picture_stay_together_with_cards_that_are_wrong() {
    if let Some(results) = rig::inside() {
        return record_the_halls(&results);
    }
    let _alone = alone();
    let results = tempfile::tempdir_in("/tmp").unwrap();
    let name = "cards::sound_and_picture_stay_together_with_cards_that_are_wrong";
    if !rig::ran_in_the_guest(name, 2 * (120 + soak(300, 1800)), results.path()) {
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
            "{}: told to be {:.2} ppm fast, {truth:.2} as played; (second, what the box says, what the card was in the minute before, and by how much it changed in it) {}",
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
            figures["underruns"] == 0,
            format!("{} underruns of the player", figures["underruns"]),
        );
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
            let truth = estimate[2].as_f64().unwrap();
            // In that minute the card itself was as much as this on either side of its mean.
            let wander = estimate[3].as_f64().unwrap().abs() / 2.0;
            let off = said.map(|said| (said - truth).abs());
            judge(
                at < 60 || off.is_some_and(|off| off <= ESTIMATE_PPM + wander),
                format!("after {at} s the box says {said:?} ppm, it is {truth:.2} +-{wander:.2}"),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
