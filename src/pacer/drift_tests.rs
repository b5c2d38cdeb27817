//! The estimate against cards whose error is known; six hours of it are a matter of seconds.

use super::*;
use crate::pacer::sound::STEERED_IN;

/// Seconds that one step of the control loop covers.
const BLOCK: f64 = 0.02;

/// A small generator of even numbers in -1..1, the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

struct Found {
    /// The worst distance of sound from the monotonic clock, in ms, looked at with every block.
    worst_ms: f64,
    /// The estimate's largest error from 60 s after the start, or after a step, on; in ppm.
    off_ppm: f64,
}

/// Between two steps of a card that changes by steps.
const STEPS: f64 = 900.0;

/// The control loop as in `SoundPacer`, with a resampler that does exactly what it is told. Stamps have
/// 1 ms of jitter, are cut to whole milliseconds, and one in 500 is 30 ms late.
fn follow(seconds: f64, error_ppm: impl Fn(f64) -> f64, overruns: bool) -> Found {
    let mut drift = Drift::new(48_000);
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let (mut truth, mut media, mut frames) = (0.0_f64, 0.0_f64, 0_u64);
    let (mut worst, mut off_ppm, mut blocks) = (0.0_f64, 0.0_f64, 0_u64);
    while truth < seconds {
        let late = if noise.next() > 0.996 { 0.03 } else { 0.0 };
        let stamp = ((truth + 1e-3 * noise.next() + late) * 1e3).floor() * 1_000_000.0;
        let smoothed = drift.observe(stamp as i128, frames);
        let away = smoothed as f64 / 1e9 - media;
        let stretch = drift.stretch() + away / STEERED_IN;
        // Every so often samples are lost, which are put in as silence.
        let lost = overruns && blocks % 3_000 == 2_999;
        let length = if lost { 0.8 } else { BLOCK };
        let ppm = error_ppm(truth);
        frames += (length * 48_000.0) as u64;
        media += length * (1.0 + stretch);
        truth += length / (1.0 + ppm / 1e6);
        worst = worst.max((media - truth).abs());
        blocks += 1;
        if truth % STEPS >= 60.0 {
            off_ppm = off_ppm.max((drift.ppm().unwrap() - ppm).abs());
        }
    }
    Found {
        worst_ms: worst * 1e3,
        off_ppm,
    }
}

#[test]
fn sound_stays_with_the_clock_for_six_hours_whatever_the_card_does() {
    const HOURS: f64 = 6.0 * 3600.0;
    type Error = Box<dyn Fn(f64) -> f64>;
    let constant = |ppm: f64| -> Error { Box::new(move |_| ppm) };
    // How far off the estimate may be. Of a rate that wanders it is behind: by the slope of the
    // wander, half a ppm a second, times the memory of some twenty seconds that a steady one needs. A step of 200 ppm, which no crystal makes,
    // hides in the jitter and takes that memory to be learnt.
    let (steady, wandering, stepping) = (5.0, 20.0, 30.0);
    let cases: [(&str, f64, Error); 8] = [
        ("-1000 ppm", steady, constant(-1000.0)),
        ("-200 ppm", steady, constant(-200.0)),
        ("0 ppm", steady, constant(0.0)),
        ("+200 ppm", steady, constant(200.0)),
        ("+1000 ppm", steady, constant(1000.0)),
        (
            "steps between +-1000 and +-200 ppm",
            stepping,
            Box::new(|t| [1000.0, -200.0, 0.0, 200.0, -1000.0][(t / STEPS) as usize % 5]),
        ),
        (
            "+-50 ppm in ten minutes",
            wandering,
            Box::new(|t| 50.0 * (t / 600.0 * std::f64::consts::TAU).sin()),
        ),
        (
            "a box that warms up by 80 ppm and breathes",
            wandering,
            Box::new(|t| 80.0 * (1.0 - (-t / 1200.0).exp()) + 5.0 * (t / 97.0).sin()),
        ),
    ];
    for (name, within, error) in cases {
        for overruns in [false, true] {
            let found = follow(HOURS, &error, overruns);
            println!(
                "{name}, overruns {overruns}: worst {:.2} ms of 20, estimate off by {:.2} ppm of {within} at most, from 60 s after the start or a step on",
                found.worst_ms, found.off_ppm
            );
            assert!(found.worst_ms <= 20.0, "{name}: {} ms", found.worst_ms);
            assert!(found.off_ppm <= within, "{name}: {} ppm", found.off_ppm);
        }
    }
}

#[test]
fn nothing_is_told_before_it_is_known() {
    let mut drift = Drift::new(48_000);
    for n in 0..50 {
        drift.observe(n * 20_000_000, n as u64 * 960);
        assert_eq!(drift.ppm(), None, "after {n} blocks");
    }
}

#[test]
fn a_new_count_keeps_the_rate() {
    let mut drift = Drift::new(48_000);
    let stamp = |n: i128| n * 20_000_000 * 9_998 / 10_000;
    for n in 0..6_000 {
        drift.observe(stamp(n), n as u64 * 960);
    }
    drift.restart();
    let far = 3_600_000_000_000;
    assert_eq!(drift.observe(far, 6_000 * 960), far);
    let ppm = drift.ppm().unwrap();
    println!("{ppm:+.2} ppm of +200.04");
    assert!((ppm - 200.04).abs() < 1.0, "{ppm}");
}
