//! Sound in, sound out: length, pitch, gaps and corrections.

use super::*;
use proptest::prelude::*;
use std::f64::consts::TAU;

const ORIGIN: u64 = 77_000_000_000;

fn at(nanos: i64) -> Monotonic {
    Monotonic::from_nanos((ORIGIN as i64 + nanos) as u64)
}

fn config(rate_hz: u32, channels: u32) -> SoundConfig {
    SoundConfig {
        start: at(0),
        rate_hz,
        channels,
        track_channels: channels,
    }
}

/// A card that plays a function of time, one block after the other.
struct Card<F> {
    rate_hz: u32,
    channels: u32,
    sound: F,
    /// The next frame, counted from the start.
    frame: i64,
}

impl<F: Fn(f64) -> i16> Card<F> {
    fn block(&mut self, frames: i64, lost_before: u64) -> Samples {
        self.frame += lost_before as i64;
        let seconds = |frame: i64| frame as f64 / f64::from(self.rate_hz);
        let data = (self.frame..self.frame + frames)
            .flat_map(|frame| {
                std::iter::repeat_n((self.sound)(seconds(frame)), self.channels as usize)
            })
            .collect();
        let captured = at(self.frame * 1_000_000_000 / i64::from(self.rate_hz));
        self.frame += frames;
        Samples {
            captured,
            lost_before,
            hears: false,
            data,
        }
    }
}

fn sine(seconds: f64) -> i16 {
    (12_000.0 * (TAU * 440.0 * seconds).sin()).round() as i16
}

/// All blocks that are ready, the first channel only; checks that they follow each other.
fn drain(pacer: &mut SoundPacer, heard: &mut Vec<i16>) {
    let channels = pacer.track_channels();
    while let Some(block) = pacer.next_block() {
        assert_eq!(block.start.0 as usize, heard.len(), "gapless");
        assert_eq!(block.samples.len(), BLOCK_FRAMES * channels);
        heard.extend(block.samples.iter().step_by(channels));
    }
}

/// Frequency and phase (in turns at media time zero) of a sine, by comparing the phases of its two
/// halves.
fn pitch(samples: &[i16], near_hz: f64) -> (f64, f64) {
    let phase = |from: usize, to: usize| {
        let (mut re, mut im) = (0.0, 0.0);
        for (n, sample) in samples.iter().enumerate().take(to).skip(from) {
            let angle = TAU * near_hz * n as f64 / 48_000.0;
            // A Hann window keeps the edges from biasing the phase.
            let window = 1.0 - (TAU * (n - from) as f64 / (to - from) as f64).cos();
            re += window * f64::from(*sample) * angle.cos();
            im -= window * f64::from(*sample) * angle.sin();
        }
        im.atan2(re) / TAU
    };
    let half = samples.len() / 2;
    let (first, second) = (phase(0, half), phase(half, 2 * half));
    let turns = second - first;
    let apart = (turns - turns.round()) / (half as f64 / 48_000.0);
    (near_hz + apart, first)
}

#[test]
fn a_sine_keeps_its_pitch_its_phase_and_its_length_at_any_rate() {
    for rate_hz in [
        8_000, 16_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000,
    ] {
        let mut pacer = SoundPacer::new(config(rate_hz, 2)).unwrap();
        let mut card = Card {
            rate_hz,
            channels: 2,
            sound: sine,
            frame: 0,
        };
        let mut heard = Vec::new();
        while card.frame < i64::from(rate_hz) * 10 {
            pacer.push(&card.block(i64::from(rate_hz) / 50, 0)).unwrap();
            drain(&mut pacer, &mut heard);
        }
        pacer.finish(at(10_000_000_000)).unwrap();
        drain(&mut pacer, &mut heard);
        assert_eq!(
            heard.len(),
            480_000_usize.div_ceil(1024) * 1024,
            "{rate_hz}"
        );
        assert_eq!(pacer.next_gap(), None, "{rate_hz}");
        let (hz, phase) = pitch(&heard[4_800..470_400], 440.0);
        assert!((hz - 440.0).abs() < 0.001, "{rate_hz}: {hz} Hz");
        // A sine is a cosine a quarter turn late; 4800 frames are a whole number of periods.
        let late_ms = (-0.25 - phase) / 0.44;
        assert!(late_ms.abs() < 0.012, "{rate_hz}: {late_ms} ms late");
        // No click anywhere: a 440 Hz sine of this size steps by at most 692 a sample.
        let largest = heard[100..470_400]
            .windows(2)
            .map(|pair| pair[0].abs_diff(pair[1]))
            .max();
        assert!(largest < Some(760), "{rate_hz}: {largest:?}");
    }
}

#[test]
fn lost_samples_become_exactly_the_missing_silence() {
    for rate_hz in [48_000, 44_100] {
        let mut pacer = SoundPacer::new(config(rate_hz, 1)).unwrap();
        let mut card = Card {
            rate_hz,
            channels: 1,
            sound: |_| 10_000,
            frame: 0,
        };
        let mut heard = Vec::new();
        let second = i64::from(rate_hz);
        pacer.push(&card.block(second, 0)).unwrap();
        // A quarter of a second is gone.
        pacer
            .push(&card.block(second, u64::from(rate_hz) / 4))
            .unwrap();
        drain(&mut pacer, &mut heard);
        let gap = SoundGap {
            start: MediaTime(48_000),
            duration: 12_000,
            cause: GapCause::Overrun,
        };
        assert_eq!(pacer.next_gap(), Some(gap), "{rate_hz}");
        let silent = heard.iter().filter(|s| s.unsigned_abs() < 5_000).count();
        // Half of the filter's slope at either end may fall on the wrong side.
        assert!(silent.abs_diff(12_000) <= 4, "{rate_hz}: {silent}");
        assert!(heard[47_990] > 9_000 && heard[60_010] > 9_000, "{rate_hz}");
        assert_eq!(pacer.stats().corrections, 0);
    }
}

#[test]
fn the_beginning_is_brought_to_the_start() {
    // From 100 ms before the start.
    let ramp = |seconds: f64| (seconds * 10_000.0).round() as i16;
    let mut card = Card {
        rate_hz: 48_000,
        channels: 1,
        sound: ramp,
        frame: -4_800,
    };
    let mut pacer = SoundPacer::new(config(48_000, 1)).unwrap();
    for _ in 0..50 {
        pacer.push(&card.block(960, 0)).unwrap();
    }
    let block = pacer.next_block().unwrap();
    assert_eq!(block.start, MediaTime::ZERO);
    // Through the filter, to one step of a sample.
    assert!(block.samples[0].abs() <= 1, "{}", block.samples[0]);
    assert!(
        block.samples[480].abs_diff(100) <= 1,
        "{}",
        block.samples[480]
    );
    assert_eq!(pacer.stats().trimmed_frames, 4_800);
    assert_eq!(pacer.next_gap(), None);

    // From 5 ms after it: silence, but no gap. From 50 ms after it: a gap.
    for (late, gap) in [(240, None), (2_400, Some(2_400))] {
        card.frame = late;
        let mut pacer = SoundPacer::new(config(48_000, 1)).unwrap();
        pacer.push(&card.block(48_000, 0)).unwrap();
        let block = pacer.next_block().unwrap();
        assert_eq!(block.samples[200], 0);
        assert_eq!(pacer.next_gap().map(|gap| gap.duration), gap);
        assert_eq!(pacer.stats().silence_frames, late as u64);
    }
}

#[test]
fn a_card_that_is_away_leaves_one_gap_and_comes_back_in_place() {
    let mut pacer = SoundPacer::new(config(44_100, 1)).unwrap();
    let ten = |_| 10_000;
    let mut card = Card {
        rate_hz: 44_100,
        channels: 1,
        sound: ten,
        frame: 0,
    };
    let mut heard = Vec::new();
    pacer.push(&card.block(44_100, 0)).unwrap();
    for ms in [1_500, 2_000, 2_500] {
        pacer
            .silence_until(at(ms * 1_000_000), GapCause::DeviceMissing)
            .unwrap();
        drain(&mut pacer, &mut heard);
    }
    assert_eq!(pacer.next_gap(), None, "it has not ended");
    // It comes back as another card, with samples from before the silence ended.
    pacer.set_input(16_000, 2).unwrap();
    let mut card = Card {
        rate_hz: 16_000,
        channels: 2,
        sound: ten,
        frame: 16_000 * 24 / 10,
    };
    pacer.push(&card.block(16_000, 0)).unwrap();
    pacer.finish(at(3_400_000_000)).unwrap();
    drain(&mut pacer, &mut heard);
    let gap = SoundGap {
        start: MediaTime(48_000),
        duration: 72_000,
        cause: GapCause::DeviceMissing,
    };
    assert_eq!(pacer.next_gap(), Some(gap));
    assert_eq!(pacer.next_gap(), None);
    assert_eq!(heard.len(), 163_200_usize.div_ceil(1024) * 1024);
    let loud = |at: usize| heard[at] > 9_000;
    assert!(loud(47_900) && !loud(48_100) && !loud(119_900) && loud(120_100) && loud(163_100));
}

/// A card that is `ppm` fast, at each second of true time, plays two sines, of 20 and 440 Hz, for so
/// long. Gives what is heard, and the pacer.
fn played(
    rate_hz: u32,
    ppm: impl Fn(f64) -> f64,
    seconds: i64,
    jitter_ns: i64,
) -> (Vec<i16>, SoundPacer) {
    let mut pacer = SoundPacer::new(config(rate_hz, 1)).unwrap();
    let length = rate_hz as usize / 50;
    let (mut heard, mut truth, mut block) = (Vec::new(), 0.0_f64, 0_i64);
    while truth < seconds as f64 {
        let real_hz = f64::from(rate_hz) * (1.0 + ppm(truth) / 1e6);
        let spread = (block * length as i64 * 7_919) % (2 * jitter_ns + 1) - jitter_ns;
        let stamp = (truth * 1e9) as i64 + spread * i64::from(block > 0);
        let sound = |n: usize| {
            let turns = (truth + n as f64 / real_hz) * TAU;
            (6_000.0 * ((20.0 * turns).sin() + (440.0 * turns).sin())).round() as i16
        };
        let samples = Samples {
            captured: at(stamp),
            lost_before: 0,
            hears: false,
            data: (0..length).map(sound).collect(),
        };
        pacer.push(&samples).unwrap();
        drain(&mut pacer, &mut heard);
        truth += length as f64 / real_hz;
        block += 1;
    }
    pacer.finish(at(seconds * 1_000_000_000)).unwrap();
    drain(&mut pacer, &mut heard);
    (heard, pacer)
}

/// How late the sine of 20 Hz is at most in any second; the largest jump from sample to sample; and the
/// largest bend, the difference of two jumps in a row: of a sine it is tiny, of any click it is not,
/// and a pitch that is steered by a thousandth changes it by a thousandth.
fn judged(heard: &[i16], seconds: usize) -> (f64, u16, i32) {
    let mut worst_ms = 0.0_f64;
    for second in 1..seconds - 1 {
        let part = &heard[second * 48_000..second * 48_000 + 4_800];
        let (mut re, mut im) = (0.0, 0.0);
        let angle = |n: usize| TAU * 20.0 * n as f64 / 48_000.0;
        for (n, sample) in part.iter().enumerate() {
            re += f64::from(*sample) * angle(n).sin();
            im += f64::from(*sample) * angle(n).cos();
        }
        worst_ms = worst_ms.max((im.atan2(re) / TAU / 20.0 * 1e3).abs());
    }
    let inner = &heard[4_800..(seconds - 1) * 48_000];
    let jump = inner.windows(2).map(|pair| pair[0].abs_diff(pair[1])).max();
    let bend = |three: &[i16]| {
        let [a, b, c] = [three[0], three[1], three[2]].map(i32::from);
        (a - 2 * b + c).abs()
    };
    let bend = inner.windows(3).map(bend).max();
    (worst_ms, jump.unwrap(), bend.unwrap())
}

/// `within`: how far the estimate may be off at the end, in ppm.
fn a_card_is_followed(name: &str, seconds: i64, within: f64, ppm: impl Fn(f64) -> f64) {
    let clean = judged(&played(8_000, |_| 0.0, 20, 0).0, 20);
    let (heard, pacer) = played(8_000, &ppm, seconds, 1_000_000);
    let (worst_ms, jump, bend) = judged(&heard, seconds as usize);
    let (stats, found) = (pacer.stats(), pacer.ppm().unwrap());
    println!(
        "{name} for {seconds} s: worst {worst_ms:.3} ms of 20, estimate {found:+.2} ppm, largest jump {jump} (clean {}), largest bend {bend} (clean {}), {} corrections",
        clean.1, clean.2, stats.corrections
    );
    assert_eq!(
        heard.len() as i64,
        (seconds * 48_000 + 1_023) / 1_024 * 1_024
    );
    assert_eq!(
        (
            stats.corrections,
            stats.silence_frames,
            stats.trimmed_frames
        ),
        (0, 0, 0)
    );
    assert!(worst_ms <= 20.0, "{name}: {worst_ms} ms");
    let off = (found - ppm(seconds as f64)).abs();
    assert!(off <= within, "{name}: {found}");
    // Steering by a thousandth changes neither by one; rounding may.
    assert!(jump <= clean.1 + 1, "{name}: {jump}, clean {}", clean.1);
    assert!(bend <= clean.2 + 1, "{name}: {bend}, clean {}", clean.2);
}

#[test]
fn sound_of_a_card_that_is_off_stays_with_the_clock_and_does_not_click() {
    for ppm in [-1_000.0, -200.0, 0.0, 200.0, 1_000.0] {
        a_card_is_followed(&format!("{ppm:+} ppm"), 70, 5.0, |_| ppm);
    }
    if std::env::var_os("HALLCAST_SOAK").is_some() {
        a_card_is_followed("+200 ppm", 6 * 3_600, 5.0, |_| 200.0);
    }
}

#[test]
fn sound_of_a_card_that_steps_and_warms_up_stays_with_the_clock_and_does_not_click() {
    let steps = |t: f64| [1_000.0, -200.0, 0.0, 200.0, -1_000.0][(t / 120.0) as usize % 5];
    a_card_is_followed("steps of up to 2000 ppm", 11 * 60, 30.0, steps);
    let warms = |t: f64| 80.0 * (1.0 - (-t / 300.0).exp()) + 5.0 * (t / 97.0).sin();
    a_card_is_followed("a box that warms up", 11 * 60, 15.0, warms);
}

#[test]
fn one_late_stamp_is_not_believed_but_a_jump_is() {
    let mut pacer = SoundPacer::new(config(48_000, 1)).unwrap();
    for n in 0..500_i64 {
        let late = i64::from(n == 100) * 40_000_000 + i64::from(n >= 300) * 50_000_000;
        let samples = Samples {
            captured: at(n * 20_000_000 + late),
            lost_before: 0,
            hears: false,
            data: vec![1; 960],
        };
        pacer.push(&samples).unwrap();
        let expected = u64::from(n >= 302);
        assert_eq!(pacer.stats().corrections, expected, "block {n}");
    }
    // 50 ms of silence, less what steering had done by then.
    let silence = pacer.stats().silence_frames;
    println!("{silence} frames of silence for a jump of 2400");
    assert!((2_100..=2_410).contains(&silence), "{silence}");
}

#[test]
fn channels_are_made_to_fit_the_track() {
    for (channels, track_channels, frame, expected) in [
        (1, 2, vec![500], [500, 500]),
        (2, 1, vec![1_000, 2_000], [1_500, 1_500]),
        (2, 2, vec![1_000, -2_000], [1_000, -2_000]),
    ] {
        let mut pacer = SoundPacer::new(SoundConfig {
            track_channels,
            ..config(48_000, channels)
        })
        .unwrap();
        let samples = Samples {
            captured: at(0),
            lost_before: 0,
            hears: false,
            data: frame.repeat(4_800),
        };
        pacer.push(&samples).unwrap();
        let block = pacer.next_block().unwrap();
        for (found, expected) in block.samples[800..].iter().zip(expected) {
            assert!(found.abs_diff(expected) <= 1, "{found} {expected}");
        }
    }
}

#[test]
fn settings_that_are_of_no_use_are_refused() {
    for (rate_hz, channels) in [(0, 1), (7_999, 1), (48_000, 0), (48_000, 3), (384_000, 2)] {
        assert!(SoundPacer::new(config(rate_hz, channels)).is_err());
    }
}

#[test]
fn buffers_stop_growing() {
    let mut pacer = SoundPacer::new(config(44_100, 2)).unwrap();
    let mut card = Card {
        rate_hz: 44_100,
        channels: 2,
        sound: sine,
        frame: 0,
    };
    let mut capacities = Vec::new();
    for _ in 0..1_000 {
        pacer.push(&card.block(882, 0)).unwrap();
        while pacer.next_block().is_some() {}
        capacities.push((pacer.input.capacity(), pacer.output.capacity()));
    }
    assert!(capacities[50..].windows(2).all(|pair| pair[0] == pair[1]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a card does, media time has no hole, and its end is where the monotonic clock says.
    #[test]
    fn any_card_gives_sound_of_the_right_length(
        rate_hz in prop::sample::select(vec![16_000_u32, 44_100, 48_000, 96_000]),
        steps in prop::collection::vec((1i64..4_000, prop_oneof![4 => Just(0u64), 1 => 1u64..5_000], -30_000_000i64..30_000_000), 1..60),
        first in -48_000i64..48_000,
    ) {
        let mut pacer = SoundPacer::new(config(rate_hz, 1)).unwrap();
        let mut card = Card { rate_hz, channels: 1, sound: sine, frame: first };
        let mut heard = Vec::new();
        let mut gaps = Vec::new();
        for (frames, lost, jitter) in steps {
            let mut samples = card.block(frames, lost);
            samples.captured = Monotonic::from_nanos((samples.captured.as_nanos() as i64 + jitter) as u64);
            pacer.push(&samples).unwrap();
            drain(&mut pacer, &mut heard);
            gaps.extend(std::iter::from_fn(|| pacer.next_gap()));
        }
        let end = (card.frame * 1_000_000_000 / i64::from(rate_hz)).max(0);
        pacer.finish(at(end)).unwrap();
        drain(&mut pacer, &mut heard);
        gaps.extend(std::iter::from_fn(|| pacer.next_gap()));
        let frames = (end as u64 * 48_000 + 500_000_000) / 1_000_000_000;
        // A stamp that is off may have called for blocks past the end, which were given out already.
        let expected = frames.div_ceil(1024) * 1024;
        let found = heard.len() as u64;
        prop_assert!((expected..=expected + 3 * 1024).contains(&found), "{found} {expected}");
        let mut reached = 0;
        for gap in gaps {
            prop_assert!(gap.start.0 >= reached, "gaps are in order and apart");
            reached = gap.start.0 + gap.duration as i64;
        }
    }
}
