//! The box's process is stopped and goes on, again and again, while it records a known sequence.
//!
//! A click each 12 000 frames over a quiet tone: where each click lies in the decoded sound tells its
//! position to a sample or two (the codec's), and where the tone is missing, how much was lost. The
//! sound between is AAC; of its other samples nothing can be said.

use super::feeder::{self, Clicks};
use super::measure::{flashes, median};
use super::pulls::zero;
use super::support::chance::Chance;
use super::support::film::{Film, RATE};
use super::support::programs::{CaptureBox, Receiver, alone, pause, soak};
use super::support::rig;
use super::{board, figures, gaps, guest_home, leave, tell_lateness, track, wait_open};
use hallcast::clock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

/// Frames from click to click.
const EVERY: u64 = 12_000;
/// The box's period, as its board gives it.
const PERIOD: f64 = 0.020;
/// The card's ring holds at least so much.
const RING: f64 = 0.8;
/// How far a click may lie from where it belongs, in samples: half a millisecond, which is what
/// following a card whose clock has whole milliseconds leaves. And from one click to the next.
const SAMPLES: f64 = 24.0;
const STEP: f64 = 2.0;

/// Records and leaves what came of it. Where the player fell behind, the sequence itself was broken: then it is
/// done again, twice at most.
fn record_and_stop(results: &Path) {
    let home = guest_home();
    let receiver = Receiver::start(&home);
    let pace = feeder::shift("Loopback", 0);
    let camera = feeder::camera(10);
    let board = board(&home, "stopped", 10, "Loopback");
    let capture_box = CaptureBox::start(&home, "stopped", Some(&receiver), &["--board", &board]);
    let mut chance = Chance::new("stops");
    for _ in 0..3 {
        match record_once(results, &receiver, &capture_box, pace, &mut chance) {
            Ok(()) => break,
            Err(why) => println!("{why}"),
        }
    }
    drop(capture_box);
    tell_lateness("stops", &camera.end());
}

/// One stop of the process, in seconds of the film.
#[derive(Debug)]
struct Stop {
    at: f64,
    took: f64,
    /// How long the host kept the guest waiting around it.
    stood: f64,
}

impl Stop {
    /// Whether a gap (start, length) is this stop's.
    fn covers(&self, (start, length): (f64, f64)) -> bool {
        start < self.at + self.took + self.stood + 0.5 && start + length > self.at
    }
}

fn record_once(
    results: &Path,
    receiver: &Receiver,
    capture_box: &CaptureBox,
    pace: f64,
    chance: &mut Chance,
) -> Result<(), String> {
    let sound = feeder::sound("Loopback", pace, Clicks::Frames(EVERY));
    wait_open(capture_box, true);
    // The card's clock has to be learnt.
    pause(12);
    let late = feeder::Late::default();
    let _beats = feeder::beats(&late);
    let recording = capture_box.record();
    let began = clock::now();
    pause(5);
    let pid = Pid::from_raw(i32::try_from(capture_box.pid()).unwrap()).unwrap();
    let mut stops = Vec::new();
    let wanted = soak(20, 200);
    let (mut due, mut spare) = ((0..wanted).collect::<VecDeque<u64>>(), wanted / 2);
    while let Some(n) = due.pop_front() {
        let length = match n % 5 {
            4 => Duration::from_millis(1200) + chance.within(1300),
            _ => Duration::from_millis(50) + chance.within(750),
        };
        let from = clock::now();
        kill_process(pid, Signal::STOP).unwrap();
        clock::sleep(length);
        kill_process(pid, Signal::CONT).unwrap();
        let took = clock::now().since(from);
        clock::sleep(Duration::from_millis(1500) + chance.within(500));
        // Of a stop around which the host kept the guest waiting nobody knows how long it was: there is
        // another one of its kind.
        let around = Duration::from_millis(100);
        let (first, last) = (from.minus(around), from.plus(took + around));
        let late = late.lock().unwrap();
        let near = late
            .iter()
            .filter(|(due, late)| *due < last && due.plus(*late) > first);
        let stood: Duration = near.map(|(_, late)| *late).sum();
        if !stood.is_zero() && spare > 0 {
            spare -= 1;
            due.push_back(n);
        }
        let at = from.since(began);
        stops.push([at, took, stood].map(|time| time.as_secs_f64()));
    }
    assert_eq!(capture_box.stop(), recording);
    let status = capture_box.status();
    let manifest = receiver.wait_complete(&recording, 60);
    let underruns = sound.end().underruns;
    let figures = json!({
        "began": began.as_nanos() as f64 / 1e9, "stops": stops, "underruns": underruns,
        "status": status, "manifest": manifest,
    });
    leave(results, "stops", &receiver.film(&recording), &figures);
    if underruns > 0 {
        return Err(format!("the player fell behind {underruns} times"));
    }
    Ok(())
}

/// The first sample of each click: where what was played lies best on what is heard. The encoder may make
/// a click's first waves weaker, so that a mere threshold would find it a wave or half a wave late.
fn clicks(samples: &[i16]) -> Vec<usize> {
    let burst = feeder::burst();
    let fits = |at: usize| -> f64 {
        let heard = samples[at..].iter().map(|sample| f64::from(*sample));
        heard
            .zip(&burst)
            .map(|(heard, played)| heard * played)
            .sum()
    };
    let mut found: Vec<usize> = Vec::new();
    for (at, sample) in samples.iter().enumerate() {
        let fresh = found.last().is_none_or(|last| at > last + 4800);
        if fresh && i32::from(*sample).abs() > 20_000 {
            let around = at.saturating_sub(burst.len())..(at + burst.len()).min(samples.len());
            let best = around.max_by(|one, other| fits(*one).total_cmp(&fits(*other)));
            found.push(best.unwrap_or(at));
        }
    }
    found
}

/// Stretches without the tone, of a length that no wave of it has: first sample and length.
fn silences(samples: &[i16]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut began = None;
    for (at, sample) in samples.iter().enumerate() {
        match (sample.unsigned_abs() < 400, began) {
            (true, None) => began = Some(at),
            (false, Some(from)) => {
                if at - from >= RATE as usize / 200 {
                    found.push((from, at - from));
                }
                began = None;
            }
            _ => {}
        }
    }
    found
}

/// Where clicks belong between two samples, by where most of them lie: those that must be heard, and those
/// at the edges of a gap (`near`), which may be. What lies in a gap (`lost`) is neither.
fn places(
    clicks: &[usize],
    within: std::ops::Range<usize>,
    lost: impl Fn(f64) -> bool,
    near: impl Fn(f64) -> bool,
) -> (usize, usize) {
    let every = EVERY as usize;
    let (mut sure, mut unsure) = (0, 0);
    for place in (clicks[0] % every..within.end).step_by(every) {
        let at = place as f64 / f64::from(RATE);
        match within.contains(&place) {
            true if near(at) => unsure += 1,
            true if !lost(at) => sure += 1,
            _ => {}
        }
    }
    (sure, unsure)
}

/// How far each click lies from where most of them put it. A codec's window across the edge of a gap
/// (`near`) smears what is in it: clicks there tell nothing.
fn deviations(clicks: &[usize], near: impl Fn(f64) -> bool) -> Vec<f64> {
    let first = clicks[0] as f64;
    let every = EVERY as f64;
    let off = |click: &usize| {
        let turns = (*click as f64 - first) / every;
        ((turns - turns.round()) * every).round()
    };
    let whole = clicks
        .iter()
        .filter(|click| !near(**click as f64 / f64::from(RATE)));
    let off: Vec<f64> = whole.map(off).collect();
    let middle = median(off.clone()).unwrap_or(0.0);
    off.iter().map(|off| off - middle).collect()
}

#[test]
fn a_process_that_is_stopped_loses_only_what_it_says_and_no_position() {
    if let Some(results) = rig::inside() {
        return record_and_stop(&results);
    }
    let _alone = alone();
    let results = tempfile::tempdir_in("/tmp").unwrap();
    let name = "stops::a_process_that_is_stopped_loses_only_what_it_says_and_no_position";
    if !rig::ran_in_the_guest(name, 480 + soak(0, 1800), results.path()) {
        return;
    }
    let figures = figures(results.path(), "stops");
    let film = Film::open(&results.path().join("stops.mp4"));
    let samples = film.samples();
    // What stands before the first and after the last tick is no silence of a stop.
    let margin = RATE as usize / 5;
    let silences: Vec<(f64, f64)> = silences(&samples[..samples.len() - margin])
        .into_iter()
        .filter(|(from, _)| *from > margin)
        .map(|(from, length)| (from as f64, length as f64))
        .map(|(from, length)| (from / f64::from(RATE), length / f64::from(RATE)))
        .collect();
    let zero = zero(&flashes(&film), figures["began"].as_f64().unwrap());
    let seconds = |value: &Value| value.as_f64().unwrap();
    let stops = figures["stops"].as_array().unwrap().iter();
    let stops: Vec<Stop> = stops
        .map(|stop| Stop {
            at: seconds(&stop[0]) - zero,
            took: seconds(&stop[1]),
            stood: seconds(&stop[2]),
        })
        .collect();
    let gaps: Vec<(f64, f64)> = gaps(&figures["manifest"])
        .iter()
        .filter(|gap| gap.track == "microphone")
        .inspect(|gap| assert_eq!(gap.cause, "overrun", "at {}", gap.start))
        .map(|gap| (gap.start, gap.length))
        .collect();
    let edge = |at: f64| {
        let near = |edge: f64| (at - edge).abs() < 0.05;
        gaps.iter()
            .any(|(start, length)| near(*start) || near(start + length))
    };
    let clicks = clicks(&samples);
    let off = deviations(&clicks, edge);
    let worst = off.iter().fold(0.0, |most: f64, off| most.max(off.abs()));
    // Of a stop that the card's ring was too short for it held all but the gap.
    let gap_of = |stop: &Stop| {
        let within = |gap: &&(f64, f64)| stop.covers(**gap);
        let own: Vec<_> = gaps.iter().filter(within).collect();
        assert!(own.len() <= 1, "{stop:?} has {own:?}");
        own.first().map(|(_, length)| *length)
    };
    let (undisturbed, disturbed): (Vec<_>, Vec<_>) =
        stops.iter().partition(|stop| stop.stood == 0.0);
    let held = undisturbed
        .iter()
        .filter_map(|stop| Some(stop.took - gap_of(stop)?));
    let held: Vec<f64> = held.collect();
    let ring = median(held.clone()).unwrap_or(0.0);
    println!("stops {undisturbed:.3?}, and while the host disturbed them {disturbed:.3?}");
    println!("so the card's ring held {held:.3?} s");
    println!("gaps recorded (start, length) {gaps:.3?}");
    println!("silences found (start, length) {silences:.3?}");
    println!(
        "{} clicks, off by at most {worst} samples: {off:?}",
        off.len()
    );
    println!(
        "{} underruns; {}",
        figures["underruns"],
        track(&figures["status"], "microphone")
    );
    assert_eq!(figures["underruns"], 0, "the sequence itself was broken");

    // Not only where they are: a click that is missing is sound that is.
    let within = margin..samples.len() - margin;
    let heard = clicks.iter().filter(|at| within.contains(at)).count();
    let lost = |at: f64| {
        let in_it = |(start, length): &(f64, f64)| (*start..start + length).contains(&at);
        gaps.iter().any(in_it)
    };
    let (sure, unsure) = places(&clicks, within, lost, edge);
    println!("{heard} clicks heard where there are {sure}, and {unsure} more at the edges of gaps");
    assert!(
        (sure..=sure + unsure).contains(&heard),
        "{heard} clicks of {sure} to {}",
        sure + unsure
    );

    let near = |a: f64, b: f64| (a - b).abs() <= PERIOD;
    assert!(ring >= RING, "stops of {RING} s cost sound");
    assert!(held.len() > 2, "too few stops are beyond the ring");
    assert!(held.iter().all(|held| near(*held, ring)), "{held:.3?}");
    for stop in &undisturbed {
        let lost = gap_of(stop);
        assert!(
            lost.is_some() || stop.took <= ring + PERIOD,
            "{stop:?} without a gap"
        );
    }
    for stop in &disturbed {
        let lost = gap_of(stop).unwrap_or(0.0);
        let most = (stop.took + stop.stood - ring).max(0.0) + PERIOD;
        assert!(lost <= most, "{stop:?}: {lost:.3} s");
    }
    for gap in &gaps {
        let of_a_stop = stops.iter().any(|stop| stop.covers(*gap));
        assert!(of_a_stop, "{gap:.3?}, and nothing was stopped");
    }
    let whole = gaps.len() == silences.len()
        && gaps
            .iter()
            .zip(&silences)
            .all(|(gap, silence)| near(gap.0, silence.0) && near(gap.1, silence.1));
    assert!(whole, "gaps {gaps:.3?}, silences {silences:.3?}");
    assert!(
        worst <= SAMPLES,
        "a click is {worst} samples from its place"
    );
    let step = off.windows(2).map(|pair| (pair[1] - pair[0]).abs());
    let step = step.fold(0.0, f64::max);
    println!("from click to click at most {step} samples");
    assert!(step <= STEP, "a step of {step} samples");
}
