//! How fast a card really counts, out of (stamp, frames) pairs.
//!
//! A Kalman filter with two states: how far the card's count is from the monotonic clock, and how much
//! that changes per second. Stamps may be off by some milliseconds each; a stamp far outside is pulled
//! in to where it can still be believed, and when stamps keep leaning to one side the rate has changed,
//! so that it is learnt anew.

/// How far a stamp is off, in seconds: standard deviation.
const STAMP_NOISE: f64 = 1e-3;

/// How much the card's rate wanders: variance per second. With 20 ms blocks the memory is about 20 s.
const WANDER: f64 = 1.25e-13;

/// How far a card's rate may be off before anything is known: standard deviation.
const RATE_PRIOR: f64 = 300e-6;

/// The estimate is told once it is known as well as this.
const KNOWN: f64 = 5e-6;

/// Stamps further out than so many standard deviations are pulled in.
const OUTLIER: f64 = 3.0;

/// Over how many seconds stamps must lean to one side, and how far, to say that the rate has changed.
const LEAN_SECONDS: f64 = 2.0;
const LEAN: f64 = 1.5e-3;

const NANOS: f64 = 1e9;

/// The card's clock against the monotonic one.
#[derive(Debug)]
pub(super) struct Drift {
    rate_hz: f64,
    /// Stamp, in nanoseconds, and frame count where counting began.
    origin: Option<(i128, u64)>,
    /// Seconds by the card's count since then.
    counted: f64,
    /// Seconds by which the monotonic clock is ahead of the card's count.
    offset: f64,
    /// Change of `offset` per counted second.
    slope: f64,
    /// Variance of the offset, covariance, variance of the slope.
    spread: [f64; 3],
    /// What stamps were off by of late.
    lean: f64,
}

impl Drift {
    /// Nothing is known of a card of this nominal rate.
    pub(super) fn new(rate_hz: u32) -> Self {
        Self {
            rate_hz: f64::from(rate_hz),
            origin: None,
            counted: 0.0,
            offset: 0.0,
            slope: 0.0,
            spread: [0.0, 0.0, RATE_PRIOR * RATE_PRIOR],
            lean: 0.0,
        }
    }

    /// The next pair begins a new count; the rate is kept.
    pub(super) fn restart(&mut self) {
        self.origin = None;
    }

    /// Frame number `frames` was captured at `stamp` (nanoseconds), as far as the stamp is right. Gives
    /// the smoothed instant of that frame.
    pub(super) fn observe(&mut self, stamp: i128, frames: u64) -> i128 {
        let Some((first_stamp, first_frame)) = self.origin else {
            self.origin = Some((stamp, frames));
            (self.counted, self.offset, self.lean) = (0.0, 0.0, 0.0);
            self.spread = [STAMP_NOISE * STAMP_NOISE, 0.0, self.spread[2]];
            return stamp;
        };
        let counted = frames.saturating_sub(first_frame) as f64 / self.rate_hz;
        let passed = (counted - self.counted).max(0.0);
        self.counted = counted;
        self.offset += self.slope * passed;
        let [offset, both, slope] = &mut self.spread;
        *offset += passed * (2.0 * *both + passed * *slope);
        *both += passed * *slope;
        *slope += WANDER * passed;

        let measured = (stamp - first_stamp) as f64 / NANOS - counted;
        let total = *offset + STAMP_NOISE * STAMP_NOISE;
        let limit = OUTLIER * total.sqrt();
        let surprise = (measured - self.offset).clamp(-limit, limit);
        let (to_offset, to_slope) = (*offset / total, *both / total);
        self.offset += to_offset * surprise;
        self.slope += to_slope * surprise;
        *slope -= to_slope * *both;
        *both -= to_offset * *both;
        *offset -= to_offset * *offset;

        self.lean += (surprise - self.lean) * (passed / LEAN_SECONDS).min(1.0);
        if self.lean.abs() > LEAN {
            *slope += RATE_PRIOR * RATE_PRIOR;
            self.lean = 0.0;
        }
        first_stamp + ((counted + self.offset) * NANOS).round() as i128
    }

    /// How much longer a second of the card lasts than a second, as a part of one.
    pub(super) fn stretch(&self) -> f64 {
        self.slope
    }

    /// By how many millionths the card counts too fast; none until it is known.
    pub(super) fn ppm(&self) -> Option<f64> {
        let known = self.origin.is_some() && self.spread[2] < KNOWN * KNOWN;
        known.then(|| (1.0 / (1.0 + self.slope) - 1.0) * 1e6)
    }
}

#[cfg(test)]
#[path = "drift_tests.rs"]
mod tests;
