//! The grid of ticks: tick n = start + n x den / num, in integers, so that no error adds up.

use crate::media::{Monotonic, Rate};
use std::time::Duration;

/// A start and a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    start: Monotonic,
    rate: Rate,
}

impl Grid {
    /// A grid whose tick 0 is at `start`.
    pub fn new(start: Monotonic, rate: Rate) -> Self {
        Self { start, rate }
    }

    /// The instant of tick 0.
    pub fn start(&self) -> Monotonic {
        self.start
    }

    /// When tick `n` is, to the nanosecond below.
    pub fn time_of(&self, n: u64) -> Monotonic {
        self.start
            .plus(Duration::from_nanos(self.rate.tick_nanos(n)))
    }

    /// Half-way from tick `n` to the next. What was captured before it is nearer to tick `n`; taking
    /// the middle of the two rounded instants, no nanosecond is nearer to neither or to both.
    pub fn boundary_after(&self, n: u64) -> Monotonic {
        let (this, next) = (self.time_of(n), self.time_of(n + 1));
        this.plus(next.since(this) / 2)
    }
}
