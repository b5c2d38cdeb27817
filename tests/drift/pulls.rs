//! Devices are pulled and put back, ten times in one recording: the presenter's camera, whose program
//! ends (v4l2loopback), the slides' camera (vivid, taken from its driver) and the microphone
//! (snd-aloop, the same). Flashes are the presenter's: vivid cannot be told to show any.

use super::feeder::{self, Clicks};
use super::measure::{Marks, beyond_half_a_picture, difference, flashes, lumas};
use super::support::chance::{Chance, Excuses, Stalls};
use super::support::film::Film;
use super::support::programs::{CaptureBox, Receiver, alone, pause, soak};
use super::support::rig;
use super::{Gap, OFFSET_MS, board, figures, gaps, guest_home, leave, track, wait_open};
use hallcast::clock;
use hallcast::media::Monotonic;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

const TRACKS: [&str; 3] = ["presenter", "slides", "microphone"];
/// Slate or silence is there, and the device that came back is in use, within this.
const PROMISE: f64 = 2.0;
/// Where the guest itself stood still, a gap may be so much longer: a few pictures of 30 in a second.
const BESIDE_A_STALL: f64 = 0.1;
/// In figures, what the guest stood still is counted by so much.
const TENTH: Duration = Duration::from_millis(100);
/// So far from the last picture is no other picture of the same camera, of 255.
const DIFFERENT: f64 = 20.0;

fn driver(name: &str, way: &str, device: &str) {
    fs::write(format!("/sys/bus/platform/drivers/{name}/{way}"), device).unwrap();
}

/// Both cameras and a microphone.
fn board_of_three(home: &Path) -> String {
    let path = board(home, "pulled", 10, "Loopback");
    let slides = "[slides.v4l2]\ndevice = \"/dev/v4l/by-path/platform-vivid.0-video-index0\"\n\
                  width = 320\nheight = 180\nrate = \"25\"\n";
    let text = fs::read_to_string(&path).unwrap() + slides;
    fs::write(&path, text).unwrap();
    path
}

fn record_and_pull(results: &Path) {
    let home = guest_home();
    let receiver = Receiver::start(&home);
    let pace = feeder::shift("Loopback", 0);
    let mut camera = Some(feeder::camera(10));
    let mut sound = Some(feeder::sound("Loopback", pace, Clicks::Seconds));
    let board = board_of_three(&home);
    let capture_box = CaptureBox::start(&home, "pulled", Some(&receiver), &["--board", &board]);
    wait_open(&capture_box, true);
    pause(4);
    let stalls = Stalls::watch();
    let recording = capture_box.record();
    let began = clock::now();
    pause(6);
    let mut chance = Chance::new("pulls");
    let since = |at: Monotonic| at.since(began).as_secs_f64();
    let mut pulls = Vec::new();
    let times = soak(10, 60);
    for n in 0..times {
        // Each at least three times in ten, in any order.
        let which = match n % 10 {
            9 => chance.below(3),
            n => (n + n / 3) % 3,
        } as usize;
        let away = Duration::from_millis(3000) + chance.within(2000);
        let pulled = clock::now();
        match which {
            0 => drop(camera.take()),
            1 => driver("vivid", "unbind", "vivid.0"),
            _ => driver("snd_aloop", "unbind", "snd_aloop.0"),
        }
        clock::sleep(away);
        let back = clock::now();
        match which {
            0 => camera = Some(feeder::camera(10)),
            1 => driver("vivid", "bind", "vivid.0"),
            _ => {
                drop(sound.take());
                driver("snd_aloop", "bind", "snd_aloop.0");
                sound = Some(feeder::sound("Loopback", pace, Clicks::Seconds));
            }
        }
        pulls.push(json!([TRACKS[which], since(pulled), since(back)]));
        wait_open(&capture_box, true);
        let reopened = clock::now();
        println!(
            "{} pulled at {:.2} s for {:.2} s, open again {:.2} s later",
            TRACKS[which],
            since(pulled),
            back.since(pulled).as_secs_f64(),
            reopened.since(back).as_secs_f64()
        );
        // Long enough for marks to be heard: a player needs 3 s to learn its card.
        clock::sleep(Duration::from_millis(8000) + chance.within(1500));
    }
    assert_eq!(capture_box.stop(), recording);
    let status = capture_box.status();
    let manifest = receiver.wait_complete(&recording, 60);
    drop(capture_box);
    let tenths = clock::now().since(began).as_millis() / TENTH.as_millis();
    let from = |n: u128| began.plus(TENTH * n as u32);
    let stood: Vec<f64> = (0..tenths)
        .map(|n| stalls.between(from(n), from(n + 1)).as_secs_f64())
        .collect();
    let figures = json!({
        "stood": stood,
        "began": began.as_nanos() as f64 / 1e9, "pulls": pulls, "status": status, "manifest": manifest,
    });
    leave(results, "pulls", &receiver.film(&recording), &figures);
}

/// What the film's zero is, in seconds after the recording was begun: flashes are at whole seconds of
/// the clock that `began` is of.
pub fn zero(flashes: &[f64], began: f64) -> f64 {
    let off = |flash: &f64| {
        let second = (flash + began).round();
        second - began - flash
    };
    super::measure::median(flashes.iter().map(off).collect()).unwrap()
}

#[test]
fn a_device_that_is_pulled_leaves_a_gap_and_comes_back_in_step() {
    if let Some(results) = rig::inside() {
        return record_and_pull(&results);
    }
    let _alone = alone();
    let results = tempfile::tempdir_in("/tmp").unwrap();
    let name = "pulls::a_device_that_is_pulled_leaves_a_gap_and_comes_back_in_step";
    if !rig::ran_in_the_guest(name, 300 + soak(0, 900), results.path()) {
        return;
    }
    let figures = figures(results.path(), "pulls");
    let path = results.path().join("pulls.mp4");
    let film = Film::open(&path);
    film.assert_decodes();
    let marks = Marks::of(&film);
    let began = figures["began"].as_f64().unwrap();
    let zero = zero(&flashes(&film), began);
    println!(
        "the film begins {zero:.3} s after it was asked for; click after flash, all: {:.2} ms",
        marks.all()
    );
    let found = gaps(&figures["manifest"]);
    for name in TRACKS {
        println!("{}", track(&figures["status"], name));
    }
    let pulls = figures["pulls"].as_array().unwrap();
    // How long the guest stood still between two seconds of the film.
    let stood = |from: f64, to: f64| -> f64 {
        let tenth = |at: f64| ((at + zero) * 10.0).max(0.0);
        let stood = figures["stood"].as_array().unwrap().iter();
        let within = stood.take(tenth(to).ceil() as usize);
        within
            .skip(tenth(from) as usize)
            .map(|stood| stood.as_f64().unwrap())
            .fold(0.0, |sum, stood| sum + stood)
    };
    let mut excuses = Excuses::among(pulls.len() as u64);
    let mut wrong = Vec::new();
    let mut of_pulls = 0;
    for (n, pull) in pulls.iter().enumerate() {
        let name = pull[0].as_str().unwrap();
        let at = |n: usize| pull[n].as_f64().unwrap() - zero;
        let (pulled, back) = (at(1), at(2));
        let next = pulls
            .get(n + 1)
            .map_or(f64::MAX, |next| next[1].as_f64().unwrap() - zero);
        let mine: Vec<&Gap> = found
            .iter()
            .filter(|gap| {
                gap.track == name && gap.start < back && gap.start + gap.length > pulled + 0.5
            })
            .collect();
        of_pulls += mine.len();
        let offset = marks.median(back + 2.0, next);
        let slate = match name {
            "presenter" => Some(slate(&path, 0, pulled)),
            "slides" => Some(slate(&path, 1, pulled)),
            _ => None,
        };
        let told: Vec<String> = mine
            .iter()
            .map(|gap| format!("{:.3} for {:.3} s, {}", gap.start, gap.length, gap.cause))
            .collect();
        println!(
            "{name}: away from {pulled:.3} to {back:.3} s; gaps {told:?}; the picture differs from the \
             last one by {slate:?} after {PROMISE} s; then click after flash {offset:.2?} ms"
        );
        let mut judge = |good: bool, what: &str| {
            if !good {
                wrong.push(format!("{name} at {pulled:.2} s: {what}"));
            }
        };
        judge(mine.len() == 1, "one gap");
        if let [gap] = mine[..] {
            judge(
                (gap.start - pulled).abs() <= 0.2,
                "the gap starts when it was pulled",
            );
            let late = gap.start + gap.length - back;
            let what = format!("{name} at {pulled:.2} s, open again after its return");
            judge(late >= -0.1, &format!("{what}: {late:.2} s"));
            excuses.judge(
                &what,
                Duration::from_secs_f64(late.max(0.0)),
                Duration::from_secs_f64(PROMISE),
                Duration::from_secs_f64(stood(back, back + late.max(0.0))),
            );
            judge(
                gap.cause == "device-missing",
                &format!("cause {}", gap.cause),
            );
        }
        judge(slate.is_none_or(|slate| slate > DIFFERENT), "slate");
        judge(
            offset.is_some_and(|offset| beyond_half_a_picture(offset) <= OFFSET_MS),
            &format!("afterwards {offset:?} ms apart"),
        );
    }
    let all: Vec<(&str, f64, f64)> = found
        .iter()
        .filter(|gap| gap.length > 0.0)
        .map(|gap| (gap.track.as_str(), gap.start, gap.length))
        .collect();
    println!("all gaps: {all:.3?}; {excuses}");
    // Every other gap would be one that nobody made, but for what the guest itself stood still.
    for (name, start, length) in all {
        let end = start + length;
        let pulled = pulls.iter().any(|pull| {
            let at = |n: usize| pull[n].as_f64().unwrap() - zero;
            pull[0] == name && start < at(2) && end > at(1) + 0.5
        });
        let stood = stood(start - 0.5, end + 0.5);
        if !pulled && length > stood + BESIDE_A_STALL {
            wrong.push(format!(
                "{name} at {start:.2} s: a gap of {length:.3} s, and nothing was pulled; the guest stood still {stood:.3} s"
            ));
        } else if !pulled {
            println!(
                "{name}: {length:.3} s at {start:.2} s, where the guest stood still {stood:.3} s"
            );
        }
    }
    assert!(
        wrong.is_empty() && of_pulls == pulls.len(),
        "{of_pulls} gaps; {wrong:#?}"
    );
    let spans: &Value = &figures["manifest"]["spans"];
    assert_eq!(spans.as_array().unwrap().len(), 1, "{spans}");
}

/// How far the picture of camera `stream` is, once the promised time has passed since `pulled`, from
/// what it was before: the mean difference of its points.
fn slate(path: &Path, stream: usize, pulled: f64) -> f64 {
    let before = lumas(path, stream, pulled - 0.2);
    let after = lumas(path, stream, pulled + PROMISE);
    difference(&before, &after)
}
