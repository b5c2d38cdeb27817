//! What the pacer made up and left out, by reason, and how late it decided.

use crate::media::health;
use std::time::Duration;

/// Why a tick shows the picture of the tick before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepeatReason {
    /// The source is slower than the grid: the next picture belongs to a later tick.
    SlowerSource,
    /// No picture came in time: the device lost it, is late, or stalled.
    NoPicture,
    /// The first picture came after the grid's given start and stands in for the ticks before it.
    BeforeFirst,
}

/// Why a picture is in no tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The source is faster than the grid: another picture was nearer to the tick.
    FasterSource,
    /// It came after its tick had been decided.
    Late,
    /// It was captured before the grid's start.
    BeforeStart,
    /// It was not captured after the picture before it.
    OutOfOrder,
    /// It had to make room: the pacer was not polled between offers.
    NotPolled,
}

/// Counts since the grid began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Ticks with a picture of their own.
    pub emitted: u64,
    /// Ticks repeated because the source is slower.
    pub repeated_slower_source: u64,
    /// Ticks repeated because no picture came in time.
    pub repeated_no_picture: u64,
    /// Ticks before the first picture.
    pub repeated_before_first: u64,
    /// Pictures dropped because the source is faster.
    pub dropped_faster_source: u64,
    /// Pictures that came after their tick had been decided.
    pub dropped_late: u64,
    /// Pictures captured before the start.
    pub dropped_before_start: u64,
    /// Pictures not captured after the one before.
    pub dropped_out_of_order: u64,
    /// Pictures displaced because the pacer was not polled.
    pub dropped_not_polled: u64,
    /// Pictures that claimed to be captured after they arrived; in one of the other counts too.
    pub stamped_ahead: u64,
    /// How long after its tick each decision fell.
    pub lateness: Lateness,
}

impl Stats {
    /// Ticks decided: pictures and repeats together.
    pub fn ticks(&self) -> u64 {
        self.emitted + self.repeats()
    }

    /// Repeats of all reasons.
    pub fn repeats(&self) -> u64 {
        self.repeated_slower_source + self.repeated_no_picture + self.repeated_before_first
    }

    /// Drops of all reasons.
    pub fn drops(&self) -> u64 {
        self.dropped_faster_source
            + self.dropped_late
            + self.dropped_before_start
            + self.dropped_out_of_order
            + self.dropped_not_polled
    }

    /// Repeats, for people.
    pub fn repeats_by(&self) -> health::Repeats {
        health::Repeats {
            slower_source: self.repeated_slower_source,
            no_picture: self.repeated_no_picture,
            before_first: self.repeated_before_first,
        }
    }

    /// Drops, for people.
    pub fn drops_by(&self) -> health::Drops {
        health::Drops {
            faster_source: self.dropped_faster_source,
            late: self.dropped_late,
            before_start: self.dropped_before_start,
            out_of_order: self.dropped_out_of_order,
            not_polled: self.dropped_not_polled,
        }
    }

    pub(super) fn repeat(&mut self, reason: RepeatReason) {
        *match reason {
            RepeatReason::SlowerSource => &mut self.repeated_slower_source,
            RepeatReason::NoPicture => &mut self.repeated_no_picture,
            RepeatReason::BeforeFirst => &mut self.repeated_before_first,
        } += 1;
    }

    pub(super) fn drop(&mut self, reason: DropReason) {
        *match reason {
            DropReason::FasterSource => &mut self.dropped_faster_source,
            DropReason::Late => &mut self.dropped_late,
            DropReason::BeforeStart => &mut self.dropped_before_start,
            DropReason::OutOfOrder => &mut self.dropped_out_of_order,
            DropReason::NotPolled => &mut self.dropped_not_polled,
        } += 1;
    }
}

/// Buckets per doubling: a bucket is at most a quarter wider than the one below.
const STEPS: u32 = 4;
/// Buckets from 1 us to about 67 s.
const BUCKETS: usize = 26 * STEPS as usize;

/// A histogram of fixed size, of durations from 1 us to a minute, exact to 25 %.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lateness {
    buckets: [u64; BUCKETS],
    count: u64,
    sum: Duration,
    max: Duration,
}

impl Default for Lateness {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            count: 0,
            sum: Duration::ZERO,
            max: Duration::ZERO,
        }
    }
}

impl Lateness {
    pub(super) fn note(&mut self, lateness: Duration) {
        self.buckets[bucket(lateness)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(lateness);
        self.max = self.max.max(lateness);
    }

    /// The largest.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The upper end of the bucket below which `per_mille` thousandths of all lie; zero when there
    /// are none.
    pub fn quantile(&self, per_mille: u64) -> Duration {
        let wanted = (self.count * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (number, in_bucket) in self.buckets.iter().enumerate() {
            seen += in_bucket;
            if seen >= wanted {
                return upper_end(number).min(self.max);
            }
        }
        Duration::ZERO
    }

    /// Half of all are no later.
    pub fn p50(&self) -> Duration {
        self.quantile(500)
    }

    /// 99 of 100 are no later.
    pub fn p99(&self) -> Duration {
        self.quantile(990)
    }

    /// The figures, and how many decisions fell between the bounds of
    /// [`health::LATENESS_BOUNDS_US`].
    pub fn health(&self) -> health::Lateness {
        let micros = |late: Duration| u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        let mut counts = [0; health::LATENESS_BOUNDS_US.len() + 1];
        for (number, in_bucket) in self.buckets.iter().enumerate() {
            // The bounds are powers of two, and so no bucket lies on both sides of one.
            let end = micros(upper_end(number));
            let place = health::LATENESS_BOUNDS_US.partition_point(|bound| *bound < end);
            counts[place] += in_bucket;
        }
        health::Lateness {
            p50: micros(self.p50()),
            p99: micros(self.p99()),
            p999: micros(self.quantile(999)),
            max: micros(self.max),
            sum: micros(self.sum),
            counts,
        }
    }

    /// 999 of 1000 are no later.
    pub fn p999(&self) -> Duration {
        self.quantile(999)
    }
}

fn bucket(lateness: Duration) -> usize {
    let micros = u64::try_from(lateness.as_micros()).unwrap_or(u64::MAX);
    if micros == 0 {
        return 0;
    }
    let doubling = micros.ilog2();
    // How far into the doubling, in quarters of it.
    let step = ((micros - (1 << doubling)) * u64::from(STEPS)) >> doubling;
    ((doubling * STEPS) as usize + step as usize).min(BUCKETS - 1)
}

fn upper_end(bucket: usize) -> Duration {
    let (doubling, step) = (bucket as u32 / STEPS, bucket as u64 % u64::from(STEPS));
    let nanos = (1000_u64 << doubling) / u64::from(STEPS) * (u64::from(STEPS) + step + 1);
    Duration::from_nanos(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_quantile_is_never_too_small_and_at_most_a_quarter_too_large(micros in 1u64..60_000_000) {
            let value = Duration::from_micros(micros);
            let end = upper_end(bucket(value));
            prop_assert!(end >= value && end <= value * 5 / 4 + Duration::from_micros(1), "{value:?} {end:?}");
        }
    }

    #[test]
    fn the_coarse_histogram_loses_nothing_and_keeps_to_its_bounds() {
        let mut lateness = Lateness::default();
        for micros in [3, 15, 17, 1023, 1500, 100_000, 140_000, 9_000_000] {
            lateness.note(Duration::from_micros(micros));
        }
        let health = lateness.health();
        assert_eq!(health.counts, [2, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!((health.max, health.sum), (9_000_000, 9_242_558));

        let mut spread = Lateness::default();
        for (ms, times) in [(1, 980), (10, 18), (100, 2)] {
            (0..times).for_each(|_| spread.note(Duration::from_millis(ms)));
        }
        let health = spread.health();
        let close = |found: u64, ms: u64| (ms * 1000..=ms * 1250).contains(&found);
        assert!(close(health.p50, 1) && close(health.p99, 10), "{health:?}");
        assert!(close(health.p999, 100), "{health:?}");
    }

    #[test]
    fn quantiles_of_a_known_spread() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.p99(), Duration::ZERO);
        for ms in 1..=1000 {
            lateness.note(Duration::from_millis(ms));
        }
        let close = |found: Duration, ms: u64| {
            assert!(found >= Duration::from_millis(ms), "{found:?} {ms}");
            assert!(
                found <= Duration::from_millis(ms * 5 / 4 + 1),
                "{found:?} {ms}"
            );
        };
        close(lateness.p50(), 500);
        close(lateness.p99(), 990);
        close(lateness.p999(), 999);
        assert_eq!(lateness.max(), Duration::from_secs(1));
        lateness.note(Duration::from_secs(100_000));
        assert_eq!(lateness.max(), Duration::from_secs(100_000));
    }
}
