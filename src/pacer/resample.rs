//! From a card's rate to 48 kHz, without the resampler's delay, at a ratio that can be steered.
//!
//! A card at 48 kHz goes through the filter as well: its clock is off like any other's, and a way
//! around the filter that is left once steering begins would be heard as a click.

use super::sound::SoundError;
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{
    Adjustable, Async, FixedAsync, Indexing, Resampler, SincInterpolationParameters,
    SincInterpolationType, WindowFunction,
};

/// Samples per second of every sound track.
pub(super) const OUT_HZ: u32 = 48_000;

/// Frames made per call.
const CHUNK: usize = 512;

/// Length of the filter in frames at the card's rate.
const FILTER_LEN: usize = 128;

/// How far the ratio may be steered from the nominal one: 1 %, where cards are off by 0.02 %.
const STEERING: f64 = 1.01;

/// How far it is steered at most.
const MOST: f64 = 5e-3;

/// Interleaved samples in, interleaved samples out.
pub(super) struct Resample {
    inner: Async<f32>,
    channels: usize,
    /// Frames out per frame in: nominal, of the last call, and to be reached in the next call.
    nominal: f64,
    ratio: f64,
    target: f64,
    /// Frames at 48 kHz still to be thrown away: the filter's own delay.
    skip: usize,
    /// Frames at the card's rate that went in and have not come out.
    held: f64,
    from: Vec<f32>,
    to: Vec<f32>,
}

impl Resample {
    pub(super) fn new(rate_hz: u32, channels: usize) -> Result<Self, SoundError> {
        let parameters = SincInterpolationParameters {
            sinc_len: FILTER_LEN,
            f_cutoff: None,
            oversampling_factor: 256,
            interpolation: SincInterpolationType::Quadratic,
            window: WindowFunction::Blackman2,
        };
        let ratio = f64::from(OUT_HZ) / f64::from(rate_hz);
        let inner = Async::new_sinc(
            ratio,
            STEERING,
            &parameters,
            CHUNK,
            channels,
            FixedAsync::Output,
        )
        .map_err(|error| SoundError::Resampler(error.to_string()))?;
        // `output_delay` is one frame more than is measured, and cut instead of rounded.
        let skip = (FILTER_LEN as f64 / 2.0 * ratio - 1.0).round() as usize;
        Ok(Self {
            channels,
            nominal: ratio,
            ratio,
            target: ratio,
            skip,
            held: skip as f64 / ratio,
            from: Vec::with_capacity(inner.input_frames_max() * channels),
            to: vec![0.0; CHUNK * channels],
            inner,
        })
    }

    /// From the next call on a second of the card lasts `stretch` longer; the ratio glides there.
    pub(super) fn steer(&mut self, stretch: f64) -> Result<(), SoundError> {
        self.target = self.nominal * (1.0 + stretch.clamp(-MOST, MOST));
        self.inner
            .set_resample_ratio(self.target, true)
            .map_err(|error| SoundError::Resampler(error.to_string()))
    }

    /// Frames at 48 kHz per frame at the card's rate, as steered.
    pub(super) fn steered_ratio(&self) -> f64 {
        self.target
    }

    /// Frames at 48 kHz between the end of what came out and the end of what went in.
    pub(super) fn behind(&self) -> f64 {
        self.held * self.target - self.skip as f64
    }

    /// Moves what can be converted from the front of `input` to the end of `output`.
    pub(super) fn advance(
        &mut self,
        input: &mut Vec<i16>,
        output: &mut Vec<i16>,
    ) -> Result<(), SoundError> {
        let mut used = 0;
        loop {
            let wanted = self.inner.input_frames_next() * self.channels;
            let Some(samples) = input.get(used..used + wanted) else {
                break;
            };
            self.from.clear();
            self.from.extend(samples.iter().map(|s| f32::from(*s)));
            self.process(None, output)?;
            used += wanted;
        }
        input.drain(..used);
        Ok(())
    }

    /// Pushes `input` and what is still inside through, by adding silence, until `output` holds
    /// `wanted` samples at least.
    pub(super) fn flush(
        &mut self,
        input: &mut Vec<i16>,
        output: &mut Vec<i16>,
        wanted: usize,
    ) -> Result<(), SoundError> {
        self.advance(input, output)?;
        while output.len() < wanted {
            let frames = input.len() / self.channels;
            self.from.clear();
            self.from.extend(input.drain(..).map(f32::from));
            let full = self.inner.input_frames_next() * self.channels;
            self.from.resize(full, 0.0);
            self.process(Some(frames), output)?;
        }
        Ok(())
    }

    fn process(&mut self, partial: Option<usize>, output: &mut Vec<i16>) -> Result<(), SoundError> {
        let wrong = |error: &dyn std::fmt::Display| SoundError::Resampler(error.to_string());
        let channels = self.channels;
        let frames = self.from.len() / channels;
        let from =
            InterleavedSlice::new(&self.from[..], channels, frames).map_err(|e| wrong(&e))?;
        let mut to =
            InterleavedSlice::new_mut(&mut self.to[..], channels, CHUNK).map_err(|e| wrong(&e))?;
        let indexing = partial.map(|frames| Indexing::new().partial_len(frames));
        let (_, made) = self
            .inner
            .process_into_buffer(&from, &mut to, indexing.as_ref())
            .map_err(|e| wrong(&e))?;
        // The step from one frame to the next glides, reaching the new one with the last frame.
        let (before, after) = (1.0 / self.ratio, 1.0 / self.target);
        let went_out = made as f64 * 0.5 * (before + after) + 0.5 * (after - before);
        self.held += frames as f64 - went_out;
        self.ratio = self.target;
        let skipped = self.skip.min(made);
        self.skip -= skipped;
        // A cast from float to integer saturates: overshoot clips instead of wrapping.
        output.extend(
            self.to[skipped * channels..made * channels]
                .iter()
                .map(|sample| sample.round() as i16),
        );
        Ok(())
    }
}

impl std::fmt::Debug for Resample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resample")
            .field("channels", &self.channels)
            .field("ratio", &self.target)
            .finish()
    }
}
