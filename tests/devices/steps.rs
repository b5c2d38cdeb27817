//! The wall clock is set by days while a lecture is recorded: nothing of it moves, and its date is put
//! right in the end.

use super::guest_home;
use super::support::archive::facts;
use super::support::clocks;
use super::support::programs::{CaptureBox, Receiver, alone, pause, small_bench};
use super::support::rig;
use hallcast::clock;
use hallcast::media::{Event, Monotonic};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// A bare loop of short sleeps: it tells when the guest itself stood still.
struct Beat {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Beat {
    fn start() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let theirs = over.clone();
        let thread = thread::spawn(move || {
            let mut late = Vec::new();
            let mut due = clock::now();
            while !theirs.load(Ordering::Relaxed) {
                due = due.plus(Duration::from_millis(5));
                clock::sleep(due.since(clock::now()));
                let now = clock::now();
                late.push(now.since(due));
                due = due.max(now);
            }
            late
        });
        Self { over, thread }
    }

    /// How late it woke, each time.
    fn stop(self) -> Vec<Duration> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// What the wall clock says, as of the monotonic clock's zero.
fn offset() -> i64 {
    clock::wall().unix_nanos - clock::now().as_nanos() as i64
}

/// Seconds since 1970, so many days from the truth.
fn days_off(truth: i64, days: i64) -> String {
    let nanos = truth + clock::now().as_nanos() as i64;
    let (seconds, rest) = (nanos / SECOND + days * DAY, nanos % SECOND);
    format!("{seconds}.{rest:09}")
}

#[test]
fn steps_of_a_day_move_nothing_and_the_date_is_put_right() {
    let name = "steps::steps_of_a_day_move_nothing_and_the_date_is_put_right";
    if rig::inside().is_none() {
        let _alone = alone();
        let results = tempfile::tempdir_in("/tmp").unwrap();
        rig::ran_in_the_guest(name, 150, results.path());
        return;
    }
    let home = guest_home();
    let receiver = Receiver::start(&home);
    let board = small_bench(&home);
    let capture_box = CaptureBox::start(&home, "hall", Some(&receiver), &["--board", &board]);
    let truth = offset();
    // Its NTP server is wrong by a day, and then nobody keeps the clock.
    clocks::keep(&days_off(truth, 1));
    pause(1);
    let beat = Beat::start();
    let recording = capture_box.record();
    for days in [0, 1, 0, -1, 0] {
        pause(6);
        clocks::set(&days_off(truth, days));
    }
    pause(6);
    clocks::keep(&days_off(truth, 0));
    // What the NTP client calls right.
    let truth = offset();
    pause(2);
    assert_eq!(capture_box.stop(), recording);
    let late = beat.stop();
    let status = capture_box.status();
    let manifest = receiver.wait_complete(&recording, 60);
    let facts = facts(&receiver, &recording);

    let steps = facts.iter().filter_map(|fact| match fact.event {
        Event::ClockStepped { by_nanos, .. } => Some(by_nanos as f64 / SECOND as f64 / DAY as f64),
        _ => None,
    });
    // The last one puts right what `date` needed to start, if that is a step at all.
    let steps: Vec<f64> = steps.filter(|days| days.abs() > 0.5).collect();
    println!("steps, in days: {steps:?}");
    let expected = [-1.0, 1.0, -1.0, -1.0, 1.0];
    assert_eq!(steps.len(), expected.len(), "{steps:?}");
    for (step, expected) in steps.iter().zip(expected) {
        assert!((step - expected).abs() < 0.001, "{steps:?}");
    }

    // Where the span starts on the monotonic clock: the guest never slept.
    let start = facts.iter().find_map(|fact| match fact.event {
        Event::Run { boot_nanos, .. } => Some(Monotonic::from_nanos(boot_nanos)),
        _ => None,
    });
    let start = start.unwrap().as_nanos() as i64 + truth;
    let noted = |wall: hallcast::media::WallClock| (wall.unix_nanos - start) as f64 / 1e9;
    let first = facts.iter().find_map(|fact| match fact.event {
        Event::Span { wall, .. } => wall.filter(|wall| wall.uncertainty.is_some()),
        _ => None,
    });
    let placed: Vec<_> = facts
        .iter()
        .filter_map(|fact| match fact.event {
            Event::SpanPlaced { wall, .. } => Some(wall),
            _ => None,
        })
        .collect();
    let first = noted(first.expect("the wrong server's word"));
    assert!((first - DAY as f64).abs() < 1.0, "{first} s");
    assert_eq!(
        placed.len(),
        1,
        "only its keeper's word moves it: {placed:?}"
    );
    let said = placed[0].uncertainty.unwrap().as_secs_f64();
    println!(
        "the start was noted {first:.3} s off, in the end {:.4} s, +-{said:.4} s",
        noted(placed[0])
    );
    assert!(noted(placed[0]).abs() <= said);
    let span = &manifest["spans"][0];
    assert_eq!(manifest["spans"].as_array().unwrap().len(), 1);
    assert_eq!(span["start_uncertainty_ns"], (said * 1e9).round() as u64);
    let written = humantime::parse_rfc3339(span["start"].as_str().unwrap()).unwrap();
    let written = written.duration_since(std::time::UNIX_EPOCH).unwrap();
    let off = written.as_nanos() as i64 - start;
    // The manifest's date has milliseconds.
    assert!(off.unsigned_abs() as f64 / 1e9 <= said + 0.001, "{off} ns");

    let of = |key: &str| -> u64 {
        let tracks = status["tracks"].as_array().unwrap().iter();
        tracks.filter_map(|track| track[key].as_u64()).sum()
    };
    // Ticks before the first picture are of the start, when no step had been made yet.
    let tracks = status["tracks"].as_array().unwrap().iter();
    let first: u64 = tracks
        .filter_map(|track| track["repeats_by"]["before_first"].as_u64())
        .sum();
    let repeats = of("repeats") - first;
    let ticks: Vec<&Value> = status["tracks"].as_array().unwrap().iter().collect();
    let stalls: Vec<Duration> = late
        .into_iter()
        .filter(|late| *late > Duration::from_millis(15))
        .collect();
    // A stall may hold up the pattern as well as the pacer.
    let excused: u64 = stalls
        .iter()
        .map(|late| late.as_millis() as u64 / 33 + 2)
        .sum();
    println!(
        "gaps {}, repeats {repeats}, silence {}; the bare loop of sleeps was late {} times, at most {:?}, \
         which excuses {excused}",
        manifest["gaps"],
        of("silence"),
        stalls.len(),
        stalls.iter().max()
    );
    assert!(of("ticks") > 30 * 30, "{ticks:?}");
    assert!(repeats <= excused, "{ticks:?}");
    if stalls.iter().all(|late| *late < Duration::from_millis(500)) {
        assert_eq!(manifest["gaps"], json!([]));
    }
}
