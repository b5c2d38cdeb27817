//! From a card's rate to 48 kHz, without the resampler's delay.

use super::sound::SoundError;
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{
    Async, FixedAsync, Indexing, Resampler, SincInterpolationParameters, SincInterpolationType,
    WindowFunction,
};

/// Samples per second of every sound track.
pub(super) const OUT_HZ: u32 = 48_000;

/// Frames made per call.
const CHUNK: usize = 512;

/// Length of the filter in frames at the card's rate.
const FILTER_LEN: usize = 128;

/// How far the ratio may be steered from the nominal one: 1 %, where cards are off by 0.02 %.
const STEERING: f64 = 1.01;

/// Interleaved samples in, interleaved samples out.
pub(super) struct Resample {
    /// None where the rates are equal: samples pass untouched.
    filter: Option<Filter>,
    channels: usize,
}

struct Filter {
    inner: Async<f32>,
    /// Frames still to be thrown away: the filter's own delay.
    skip: usize,
    from: Vec<f32>,
    to: Vec<f32>,
}

impl Resample {
    pub(super) fn new(rate_hz: u32, channels: usize) -> Result<Self, SoundError> {
        if rate_hz == OUT_HZ {
            return Ok(Self {
                filter: None,
                channels,
            });
        }
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
        Ok(Self {
            filter: Some(Filter {
                // `output_delay` is one frame more than is measured, and cut instead of rounded.
                skip: (FILTER_LEN as f64 / 2.0 * ratio - 1.0).round() as usize,
                from: Vec::with_capacity(inner.input_frames_max() * channels),
                to: vec![0.0; CHUNK * channels],
                inner,
            }),
            channels,
        })
    }

    /// Moves what can be converted from the front of `input` to the end of `output`.
    pub(super) fn advance(
        &mut self,
        input: &mut Vec<i16>,
        output: &mut Vec<i16>,
    ) -> Result<(), SoundError> {
        let Some(filter) = &mut self.filter else {
            output.append(input);
            return Ok(());
        };
        let mut used = 0;
        loop {
            let wanted = filter.inner.input_frames_next() * self.channels;
            let Some(samples) = input.get(used..used + wanted) else {
                break;
            };
            filter.from.clear();
            filter.from.extend(samples.iter().map(|s| f32::from(*s)));
            filter.process(self.channels, None, output)?;
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
        if let Some(filter) = &mut self.filter {
            while output.len() < wanted {
                let frames = input.len() / self.channels;
                filter.from.clear();
                filter.from.extend(input.drain(..).map(f32::from));
                let full = filter.inner.input_frames_next() * self.channels;
                filter.from.resize(full, 0.0);
                filter.process(self.channels, Some(frames), output)?;
            }
        }
        if output.len() < wanted {
            output.resize(wanted, 0);
        }
        Ok(())
    }
}

impl Filter {
    fn process(
        &mut self,
        channels: usize,
        partial: Option<usize>,
        output: &mut Vec<i16>,
    ) -> Result<(), SoundError> {
        let wrong = |error: &dyn std::fmt::Display| SoundError::Resampler(error.to_string());
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
            .field("passes", &self.filter.is_none())
            .field("channels", &self.channels)
            .finish()
    }
}
