//! Samples at a card's rate to blocks of 1024 frames at 48 kHz, in media time.
//!
//! Media time counts from the span's start and follows the monotonic clock through the stamps of the
//! blocks: the card's rate is measured and its samples are resampled at the measured ratio, steered a
//! little so that a remaining distance goes away without being heard. The beginning is trimmed or
//! padded to the start and lost samples become exactly the missing silence. Only when stamps stay more
//! than [`TOLERANCE`] away the position is put right by adding silence or leaving samples out, which is
//! counted.

use super::drift::Drift;
use super::resample::{OUT_HZ, Resample};
use crate::media::{GapCause, MediaTime, Monotonic, Samples, Timescale};
use std::time::Duration;

/// Frames of one block: one AAC packet.
pub const BLOCK_FRAMES: usize = 1024;

/// How far the position may be from the stamps before it is put right.
pub const TOLERANCE: Duration = Duration::from_millis(20);

/// In how many seconds a distance from the stamps is steered away: 1 ms is 100 ppm, which nobody hears.
pub(super) const STEERED_IN: f64 = 10.0;

/// So many stamps in a row must be [`TOLERANCE`] away, to the same side, to be believed.
const BELIEVED: u32 = 3;

const NANOS: f64 = 1e9;

/// How a [`SoundPacer`] is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoundConfig {
    /// The span's start: media time zero.
    pub start: Monotonic,
    /// Samples per second that the card reports.
    pub rate_hz: u32,
    /// Channels that the card delivers, 1 or 2.
    pub channels: u32,
    /// Channels of the track, 1 or 2; it does not change within a span.
    pub track_channels: u32,
}

/// Why sound cannot be paced: these settings are of no use, ask the card for others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SoundError {
    /// A rate or a channel count outside the range.
    #[error(
        "{rate_hz} Hz with {channels} channels is outside 8000 to 192000 Hz and 1 to 2 channels"
    )]
    Settings {
        /// Samples per second.
        rate_hz: u32,
        /// Channels.
        channels: u32,
    },
    /// The resampler refused.
    #[error("the resampler refused: {0}")]
    Resampler(String),
}

/// 1024 frames of sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoundBlock<'a> {
    /// Media time of the first frame, in [`Timescale::SOUND`].
    pub start: MediaTime,
    /// Interleaved samples.
    pub samples: &'a [i16],
}

/// A stretch of silence that stands for sound that was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoundGap {
    /// Where it begins, in [`Timescale::SOUND`].
    pub start: MediaTime,
    /// Frames at 48 kHz.
    pub duration: u64,
    /// Why.
    pub cause: GapCause,
}

/// Counts since the span began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoundStats {
    /// Blocks given out.
    pub blocks: u64,
    /// Frames of silence put in, at 48 kHz.
    pub silence_frames: u64,
    /// Frames left out, at the card's rate.
    pub trimmed_frames: u64,
    /// How often the position was put right because the stamps were more than [`TOLERANCE`] away.
    pub corrections: u64,
    /// The largest distance between position and stamps that was seen, corrections included.
    pub farthest_off: Duration,
}

/// Makes blocks in media time out of samples.
#[derive(Debug)]
pub struct SoundPacer {
    config: SoundConfig,
    resample: Resample,
    /// At the card's rate, with the track's channels.
    input: Vec<i16>,
    /// At 48 kHz, with the track's channels.
    output: Vec<i16>,
    block: Vec<i16>,
    /// Frames at 48 kHz taken out of `output`.
    taken: u64,
    /// The card's clock.
    drift: Drift,
    /// Frames that the card counted, lost ones included.
    counted: u64,
    /// Stamps in a row that were too far away, negative where they were early.
    astray: i32,
    /// The next samples are placed exactly where their stamp says.
    align: bool,
    heard: bool,
    open_gap: Option<SoundGap>,
    gaps: Vec<SoundGap>,
    stats: SoundStats,
}

impl SoundPacer {
    /// A pacer for sound that starts at `config.start`.
    pub fn new(config: SoundConfig) -> Result<Self, SoundError> {
        check(config.rate_hz, config.track_channels)?;
        check(config.rate_hz, config.channels)?;
        let channels = config.track_channels as usize;
        Ok(Self {
            resample: Resample::new(config.rate_hz, channels)?,
            config,
            input: Vec::new(),
            output: Vec::new(),
            block: vec![0; BLOCK_FRAMES * channels],
            taken: 0,
            drift: Drift::new(config.rate_hz),
            counted: 0,
            astray: 0,
            align: true,
            heard: false,
            open_gap: None,
            gaps: Vec::new(),
            stats: SoundStats::default(),
        })
    }

    /// The card was opened again and reports these settings; its next samples are placed exactly
    /// where their stamp says.
    pub fn set_input(&mut self, rate_hz: u32, channels: u32) -> Result<(), SoundError> {
        check(rate_hz, channels)?;
        if rate_hz != self.config.rate_hz {
            let resample = Resample::new(rate_hz, self.track_channels())?;
            let position = MediaTime::from_nanos(self.position() as i64, Timescale::SOUND);
            self.flush_to(position.0)?;
            self.resample = resample;
            self.drift = Drift::new(rate_hz);
        }
        self.config.rate_hz = rate_hz;
        self.config.channels = channels;
        self.align = true;
        Ok(())
    }

    /// Takes samples; then [`SoundPacer::next_block`] until there is none.
    pub fn push(&mut self, samples: &Samples) -> Result<(), SoundError> {
        let frames = samples.data.len() / self.config.channels as usize;
        let stamp = i128::from(samples.captured.offset_from(self.config.start));
        let lost = i128::from(samples.lost_before.min(u64::from(u32::MAX)));
        let ahead = self.frames_in(stamp - self.position());
        let off = self.duration_of(ahead - lost);
        let mut missing = lost;
        let mut jumps = self.align;
        if !self.align {
            self.stats.farthest_off = self.stats.farthest_off.max(off);
            let side = (ahead - lost).signum() as i32;
            self.astray = match off > TOLERANCE {
                true if self.astray.signum() == -side => side,
                true => self.astray.saturating_add(side),
                false => 0,
            };
            // What was lost may be an estimate, by the same stamps.
            if self.astray.unsigned_abs() >= BELIEVED || (lost > 0 && off > TOLERANCE) {
                self.stats.corrections += 1;
                jumps = true;
            }
        }
        self.counted += lost as u64;
        if jumps {
            missing = ahead;
            self.astray = 0;
            self.drift.restart();
        }
        let smoothed = self.drift.observe(stamp, self.counted);
        self.counted += frames as u64;
        let leave_out = (-missing).clamp(0, frames as i128) as usize;
        self.stats.trimmed_frames += leave_out as u64;
        if leave_out == frames && missing < 0 {
            self.align = true;
            return Ok(());
        }
        if missing > 0 {
            let cause = match (self.heard, lost > 0) {
                (false, _) => GapCause::DeviceMissing,
                (true, true) => GapCause::Overrun,
                (true, false) => GapCause::DeviceStalled,
            };
            let first = !self.heard && self.duration_of(missing) <= TOLERANCE;
            self.silence(missing, cause, first)?;
        }
        self.close_gap();
        self.align = false;
        self.heard = true;
        let first = self.position() - (self.frames_nanos(leave_out as i128)) as i128;
        let away = (smoothed - first) as f64 / NANOS;
        self.resample
            .steer(self.drift.stretch() + away / STEERED_IN)?;
        self.take(&samples.data[leave_out * self.config.channels as usize..]);
        self.resample.advance(&mut self.input, &mut self.output)
    }

    /// Nothing was delivered up to `until` and nothing that was captured before it will be: fills up
    /// with silence, which becomes one gap together with what is filled up next.
    pub fn silence_until(&mut self, until: Monotonic, cause: GapCause) -> Result<(), SoundError> {
        let ahead = i128::from(until.offset_from(self.config.start)) - self.position();
        let missing = self.frames_in(ahead);
        if missing > 0 {
            self.align = true;
            self.silence(missing, cause, false)?;
        }
        Ok(())
    }

    /// The span ends at `end`: fills up to the first whole block that covers it, leaves out what lies
    /// beyond that (unless it was given out already), and gives out what the resampler still holds.
    pub fn finish(&mut self, end: Monotonic) -> Result<(), SoundError> {
        let end_nanos = end.offset_from(self.config.start).max(0);
        let ahead = i128::from(end_nanos) - self.position();
        if ahead > TOLERANCE.as_nanos() as i128 {
            self.silence_until(end, GapCause::DeviceStalled)?;
        }
        self.close_gap();
        let frames = MediaTime::from_nanos(end_nanos, Timescale::SOUND).0 as u64;
        let blocks = frames.div_ceil(BLOCK_FRAMES as u64);
        self.flush_to((blocks * BLOCK_FRAMES as u64) as i64)
    }

    /// The next block that is complete.
    pub fn next_block(&mut self) -> Option<SoundBlock<'_>> {
        let samples = self.block.len();
        if self.output.len() < samples {
            return None;
        }
        self.block.copy_from_slice(&self.output[..samples]);
        self.output.drain(..samples);
        let start = MediaTime(self.taken as i64);
        self.taken += BLOCK_FRAMES as u64;
        self.stats.blocks += 1;
        Some(SoundBlock {
            start,
            samples: &self.block,
        })
    }

    /// The next gap that has ended.
    pub fn next_gap(&mut self) -> Option<SoundGap> {
        if self.gaps.is_empty() {
            return None;
        }
        Some(self.gaps.remove(0))
    }

    /// Counts so far.
    pub fn stats(&self) -> SoundStats {
        self.stats
    }

    /// By how many millionths the card counts too fast; none until it is known.
    pub fn ppm(&self) -> Option<f64> {
        self.drift.ppm()
    }

    fn track_channels(&self) -> usize {
        self.config.track_channels as usize
    }

    /// Media time, in nanoseconds, of the next frame that is put in.
    fn position(&self) -> i128 {
        let out = self.output.len() / self.track_channels();
        let waiting =
            (self.input.len() / self.track_channels()) as f64 * self.resample.steered_ratio();
        let frames = (self.taken + out as u64) as f64 + waiting + self.resample.behind();
        (frames * NANOS / f64::from(OUT_HZ)).round() as i128
    }

    /// Frames at the card's measured rate in `nanos`, rounded to the nearest.
    fn frames_in(&self, nanos: i128) -> i128 {
        (nanos as f64 / NANOS * f64::from(OUT_HZ) / self.resample.steered_ratio()).round() as i128
    }

    fn frames_nanos(&self, frames: i128) -> f64 {
        frames as f64 * self.resample.steered_ratio() * NANOS / f64::from(OUT_HZ)
    }

    fn duration_of(&self, frames: i128) -> Duration {
        Duration::from_nanos(self.frames_nanos(frames.abs()) as u64)
    }

    /// Puts in `frames` of silence at the card's rate; a gap, unless they only `align` what follows.
    fn silence(&mut self, frames: i128, cause: GapCause, align: bool) -> Result<(), SoundError> {
        let before = MediaTime::from_nanos(self.position() as i64, Timescale::SOUND);
        // In pieces: a long gap must not become one large buffer at the card's rate as well.
        let mut left = frames;
        while left > 0 {
            let piece = left.min(8192);
            let samples = self.input.len() + piece as usize * self.track_channels();
            self.input.resize(samples, 0);
            self.resample.advance(&mut self.input, &mut self.output)?;
            left -= piece;
        }
        let after = MediaTime::from_nanos(self.position() as i64, Timescale::SOUND);
        let duration = (after.0 - before.0) as u64;
        self.stats.silence_frames += duration;
        if align && self.open_gap.is_none() {
            return Ok(());
        }
        match &mut self.open_gap {
            Some(gap) => gap.duration += duration,
            None => {
                self.open_gap = Some(SoundGap {
                    start: before,
                    duration,
                    cause,
                });
            }
        }
        Ok(())
    }

    fn close_gap(&mut self) {
        self.gaps.extend(self.open_gap.take());
    }

    /// Appends `samples` to `input` with the track's number of channels.
    fn take(&mut self, samples: &[i16]) {
        match (self.config.channels, self.config.track_channels) {
            (1, 2) => self.input.extend(samples.iter().flat_map(|s| [*s, *s])),
            (2, 1) => self.input.extend(
                samples
                    .chunks_exact(2)
                    .map(|pair| ((i32::from(pair[0]) + i32::from(pair[1])) / 2) as i16),
            ),
            _ => self.input.extend_from_slice(samples),
        }
    }

    /// Brings `output` to end exactly at media time `end` (in frames at 48 kHz).
    fn flush_to(&mut self, end: i64) -> Result<(), SoundError> {
        let frames = (end - self.taken as i64).max(0) as usize;
        let samples = frames * self.track_channels();
        self.resample
            .flush(&mut self.input, &mut self.output, samples)?;
        self.input.clear();
        self.output.truncate(samples);
        Ok(())
    }
}

fn check(rate_hz: u32, channels: u32) -> Result<(), SoundError> {
    if (8000..=192_000).contains(&rate_hz) && (1..=2).contains(&channels) {
        return Ok(());
    }
    Err(SoundError::Settings { rate_hz, channels })
}

#[cfg(test)]
#[path = "sound_tests.rs"]
mod tests;
