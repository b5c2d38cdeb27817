//! The test tone: 440 Hz, and a click at each whole second of the monotonic clock.
//!
//! Sample `n` is captured `n` sample intervals after the clock's zero. 440 Hz has a whole number of
//! periods in a second, so one second of sound, click included, repeats.

use super::{AudioSettings, Error, Losses, Source};
use crate::board::ToneMicrophone;
use crate::clock;
use crate::media::{Monotonic, Samples};
use std::f64::consts::TAU;
use std::time::Duration;

/// The tone's frequency.
const TONE_HZ: u32 = 440;
/// The click's length: long enough to survive a codec, short enough to be found to a millisecond.
const CLICK: Duration = Duration::from_millis(4);
/// How much sound waits for a late reader before it is lost, as in a card's ring buffer.
const RING: Duration = Duration::from_millis(500);

/// The test tone as a microphone.
#[derive(Debug)]
pub struct Tone {
    settings: AudioSettings,
    /// Sample frames per block.
    period: u64,
    /// One second of one channel.
    second: Vec<i16>,
    next_sample: Option<u64>,
    lost: u64,
}

impl Tone {
    /// The tone at the rate asked for; channels beyond two are left out.
    pub fn open(settings: &ToneMicrophone) -> Self {
        Self {
            settings: AudioSettings {
                rate_hz: settings.rate_hz,
                channels: settings.channels.clamp(1, 2),
            },
            period: u64::from(settings.rate_hz * settings.period_ms / 1000).max(1),
            second: one_second(settings.rate_hz),
            next_sample: None,
            lost: 0,
        }
    }

    fn time_of(&self, sample: u64) -> Monotonic {
        let nanos = u128::from(sample) * 1_000_000_000 / u128::from(self.settings.rate_hz);
        Monotonic::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn sample_at(&self, time: Monotonic) -> u64 {
        let units = u128::from(time.as_nanos()) * u128::from(self.settings.rate_hz);
        u64::try_from(units / 1_000_000_000).unwrap_or(u64::MAX)
    }
}

impl Source for Tone {
    type Block = Samples;

    fn settings(&self) -> AudioSettings {
        self.settings
    }

    fn next(&mut self, into: &mut Samples) -> Result<(), Error> {
        let now = clock::now();
        let due = self.next_sample.unwrap_or_else(|| self.sample_at(now));
        let oldest = self.sample_at(now.minus(RING));
        let first = due.max(oldest);
        into.lost_before = first - due;
        self.lost += into.lost_before;
        self.next_sample = Some(first + self.period);
        into.captured = self.time_of(first);
        into.data.clear();
        let mut at = (first % u64::from(self.settings.rate_hz)) as usize;
        for _ in 0..self.period {
            for _ in 0..self.settings.channels {
                into.data.push(self.second[at]);
            }
            at = (at + 1) % self.second.len();
        }
        clock::sleep_until(self.time_of(first + self.period));
        Ok(())
    }

    fn losses(&self) -> Losses {
        Losses {
            lost: self.lost,
            damaged: 0,
        }
    }
}

fn one_second(rate_hz: u32) -> Vec<i16> {
    let click = (u128::from(rate_hz) * CLICK.as_millis() / 1000) as u32;
    let full = f64::from(i16::MAX);
    (0..rate_hz)
        .map(|n| {
            let turns = f64::from(n) / f64::from(rate_hz);
            let tone = 0.2 * full * (TAU * f64::from(TONE_HZ) * turns).sin();
            // A burst of 2 kHz: a codec keeps it, and nothing else in this sound is as loud.
            let burst = 0.7 * full * (TAU * 2000.0 * turns).cos();
            (tone + if n < click { burst } else { 0.0 }) as i16
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Block;

    #[test]
    fn blocks_follow_each_other_and_click_at_the_second() {
        let mut tone = Tone::open(&ToneMicrophone {
            rate_hz: 48_000,
            channels: 2,
            period_ms: 5,
        });
        // As if the last block had ended just before a whole second.
        let second = tone.sample_at(clock::now()) / 48_000 * 48_000;
        tone.next_sample = Some(second + 48_000 - 120);
        let mut samples = Samples::empty();
        let mut heard: Vec<(u64, i16)> = Vec::new();
        for n in 0..2 {
            tone.next(&mut samples).unwrap();
            assert_eq!(samples.data.len(), 480);
            let first = second + 48_000 - 120 + 240 * n;
            assert_eq!(samples.captured, tone.time_of(first));
            for (frame, pair) in (first..).zip(samples.data.chunks(2)) {
                assert_eq!(pair[0], pair[1]);
                heard.push((frame, pair[0]));
            }
        }
        let loud = heard.iter().find(|(_, level)| *level > 16_000).unwrap();
        assert_eq!(loud.0, second + 48_000);
    }

    #[test]
    fn a_late_reader_is_told_how_much_it_lost() {
        let mut tone = Tone::open(&ToneMicrophone::default());
        let mut samples = Samples::empty();
        let start = tone.sample_at(clock::now()) - 48_000;
        tone.next_sample = Some(start);
        tone.next(&mut samples).unwrap();
        let first = tone.next_sample.unwrap() - tone.period;
        assert!(samples.lost_before >= 24_000, "{}", samples.lost_before);
        assert_eq!(start + samples.lost_before, first);
    }
}
