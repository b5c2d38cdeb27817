//! When to try again: the only place that delays a retry.

use std::time::Duration;

/// Doubling delays with jitter, capped.
///
/// Each delay lies between half of its nominal value and all of it, so that a fleet of boxes does
/// not come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempts: u32,
}

impl Backoff {
    /// Nominal delays of `first`, twice that, and so on up to `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            attempts: 0,
        }
    }

    /// The delay before the next attempt. `random` is any random number.
    pub fn next(&mut self, random: u32) -> Duration {
        let nominal = self
            .first
            .saturating_mul(1u32.checked_shl(self.attempts).unwrap_or(u32::MAX))
            .min(self.cap);
        if nominal < self.cap {
            self.attempts += 1;
        }
        let half = nominal / 2;
        let jitter = half.as_nanos() * u128::from(random) / u128::from(u32::MAX);
        half.saturating_add(Duration::from_nanos(
            u64::try_from(jitter).unwrap_or(u64::MAX),
        ))
    }

    /// The next delay is the cap: it takes a person, and asking more often helps nobody.
    pub fn slow_down(&mut self) {
        while self.attempts < 32 && self.first.saturating_mul(1 << self.attempts.min(31)) < self.cap
        {
            self.attempts += 1;
        }
    }

    /// An attempt succeeded: the next delay is the first again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: Duration = Duration::from_millis(500);
    const CAP: Duration = Duration::from_secs(30);

    #[test]
    fn delays_double_up_to_the_cap_and_start_over() {
        let mut backoff = Backoff::new(FIRST, CAP);
        let found: Vec<u64> = (0..9)
            .map(|_| backoff.next(u32::MAX).as_millis() as u64)
            .collect();
        assert_eq!(
            found,
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]
        );
        backoff.reset();
        assert_eq!(backoff.next(0), FIRST / 2);
        backoff.slow_down();
        assert_eq!(backoff.next(u32::MAX), CAP);
    }

    proptest! {
        #[test]
        fn every_delay_is_within_its_bounds(randoms in prop::collection::vec(any::<u32>(), 1..80)) {
            let mut backoff = Backoff::new(FIRST, CAP);
            for (attempt, random) in randoms.into_iter().enumerate() {
                let nominal = FIRST.saturating_mul(1 << attempt.min(10)).min(CAP);
                let delay = backoff.next(random);
                prop_assert!(delay >= nominal / 2 && delay <= nominal, "{attempt}: {delay:?}");
            }
        }
    }
}
