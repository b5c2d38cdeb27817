//! How loud the captured sound is, and whether it is any sound at all.
//!
//! Levels are decibels relative to full scale as AES17-2020 has them for peaks: 0 dB is the largest
//! sample. The root mean square is against the same, so that a full sine reads -3.01 dB.
//!
//! Digital silence is what a muted microphone or a dead input gives: every sample of a channel is the
//! same to the last bit, on all channels. The noise of a quiet room moves more than that, if need be
//! below the 16 bits that are measured here: a card that has more says so ([`Meter::heard`]).

use std::time::Duration;

/// Samples that lie no farther apart are the same: a converter's last bit may toggle.
const SAME: u16 = 1;

/// Full scale.
const FULL: f64 = 32_768.0;

/// The loudest sample and the root mean square of a stretch of sound, in dB below full scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loudness {
    /// The loudest sample.
    pub peak_dbfs: f64,
    /// The root of the mean square.
    pub rms_dbfs: f64,
}

/// Measures samples as they come from the card.
#[derive(Debug)]
pub struct Meter {
    rate_hz: u32,
    channels: usize,
    /// Frames of a stretch: levels are given once each.
    every: u64,
    frames: u64,
    peak: u16,
    squares: f64,
    last: Option<Loudness>,
    /// The lowest and the highest sample of each channel since it moved last.
    range: Vec<(i16, i16)>,
    /// Frames in which no channel has moved.
    still: u64,
}

impl Meter {
    /// A meter for a card with these settings, which gives levels once for each `every`.
    pub fn new(rate_hz: u32, channels: u32, every: Duration) -> Self {
        let every = every.as_nanos() * u128::from(rate_hz) / 1_000_000_000;
        Self {
            rate_hz: rate_hz.max(1),
            channels: channels.max(1) as usize,
            every: u64::try_from(every).unwrap_or(u64::MAX).max(1),
            frames: 0,
            peak: 0,
            squares: 0.0,
            last: None,
            range: Vec::new(),
            still: 0,
        }
    }

    /// Takes interleaved samples; true when the levels are new.
    pub fn note(&mut self, samples: &[i16]) -> bool {
        let mut new = false;
        for frame in samples.chunks_exact(self.channels) {
            if self.moves(frame) {
                self.range.clear();
                self.range
                    .extend(frame.iter().map(|sample| (*sample, *sample)));
                self.still = 0;
            }
            self.still += 1;
            for sample in frame {
                self.peak = self.peak.max(sample.unsigned_abs());
                self.squares += f64::from(*sample) * f64::from(*sample);
            }
            self.frames += 1;
            if self.frames >= self.every {
                self.last = self.measured();
                (self.frames, self.peak, self.squares) = (0, 0, 0.0);
                new = true;
            }
        }
        new
    }

    /// What came last is no digital silence, whatever its 16 bits say.
    pub fn heard(&mut self) {
        self.range.clear();
        self.still = 0;
    }

    /// The levels of the last whole stretch; none before it, and none where every sample is zero.
    pub fn loudness(&self) -> Option<Loudness> {
        self.last
    }

    /// For how long there has been digital silence, up to the last sample.
    pub fn silent_for(&self) -> Duration {
        Duration::from_nanos(self.still.saturating_mul(1_000_000_000) / u64::from(self.rate_hz))
    }

    /// Widens the ranges by a frame; true when a channel left what counts as the same.
    fn moves(&mut self, frame: &[i16]) -> bool {
        if self.range.len() != frame.len() {
            return true;
        }
        let mut moves = false;
        for ((low, high), sample) in self.range.iter_mut().zip(frame) {
            (*low, *high) = ((*low).min(*sample), (*high).max(*sample));
            moves |= high.abs_diff(*low) > SAME;
        }
        moves
    }

    fn measured(&self) -> Option<Loudness> {
        let mean = self.squares / (self.frames as f64 * self.channels as f64);
        (self.peak > 0).then(|| Loudness {
            peak_dbfs: 20.0 * (f64::from(self.peak) / FULL).log10(),
            rms_dbfs: 10.0 * (mean / (FULL * FULL)).log10(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::TAU;

    const RATE: u32 = 48_000;
    const QUARTER: Duration = Duration::from_millis(250);

    fn meter(channels: u32) -> Meter {
        Meter::new(RATE, channels, QUARTER)
    }

    /// Noise of about so many steps of the converter, as a generator of the textbooks gives it.
    fn noise(frames: usize, steps: f64) -> Vec<i16> {
        let mut state = 1_u64;
        let mut even = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as f64 / (1_u64 << 31) as f64 - 0.5
        };
        let one = |_| (steps * (even() + even() + even()) * 2.0).round() as i16;
        (0..frames).map(one).collect()
    }

    #[test]
    fn a_sine_of_half_of_full_scale_reads_six_and_nine_decibels_down() {
        let sine: Vec<i16> = (0..24_000)
            .map(|n| (16_384.0 * (TAU * f64::from(n) / 48.0).sin()).round() as i16)
            .collect();
        let mut meter = meter(1);
        assert!(!meter.note(&sine[..11_999]));
        assert_eq!(meter.loudness(), None);
        assert!(meter.note(&sine[11_999..]));
        let found = meter.loudness().unwrap();
        assert!((found.peak_dbfs + 6.02).abs() < 0.01, "{found:?}");
        assert!((found.rms_dbfs + 9.03).abs() < 0.01, "{found:?}");
        meter.note(&[i16::MIN; 12_000]);
        assert_eq!(meter.loudness().unwrap().peak_dbfs, 0.0);
    }

    #[test]
    fn a_muted_microphone_is_silent_and_a_quiet_room_is_not() {
        let seconds = |samples: &[i16]| {
            let mut meter = meter(1);
            let mut longest = Duration::ZERO;
            for block in samples.chunks(960) {
                meter.note(block);
                longest = longest.max(meter.silent_for());
            }
            longest.as_secs_f64()
        };
        let frames = 20 * RATE as usize;
        for (name, samples, silent) in [
            ("zeros", vec![0; frames], true),
            ("an offset", vec![-37; frames], true),
            (
                "the last bit",
                (0..frames).map(|n| (n / 7 % 2) as i16).collect(),
                true,
            ),
            // -90 dBFS is one step: a room behind a converter of 16 bits is never quieter than some.
            ("noise of 1 step", noise(frames, 1.0), false),
            ("noise of 3 steps", noise(frames, 3.0), false),
        ] {
            let longest = seconds(&samples);
            let rms = samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / frames as f64;
            println!(
                "{name}: silent for {longest:.3} s at the longest, {:.1} dBFS",
                10.0 * (rms / (FULL * FULL)).log10()
            );
            assert_eq!(longest >= 10.0, silent, "{name}");
            assert!(silent || longest < 0.1, "{name}");
        }
    }

    #[test]
    fn one_channel_that_sounds_is_enough_and_sound_ends_silence_at_once() {
        let mut meter = meter(2);
        let hum = |n: usize| [0, (n % 50) as i16];
        let samples: Vec<i16> = (0..48_000).flat_map(hum).collect();
        meter.note(&samples);
        assert!(meter.silent_for() < Duration::from_millis(1));
        meter.note(&[0; 96_000]);
        assert!(meter.silent_for() >= Duration::from_secs(1));
        meter.note(&[0, 5]);
        assert!(meter.silent_for() < Duration::from_millis(1));
        meter.note(&[0; 96_000]);
        meter.heard();
        assert_eq!(meter.silent_for(), Duration::ZERO);
        meter.note(&[0; 96_000]);
        assert!(meter.silent_for() >= Duration::from_secs(1));
    }
}
