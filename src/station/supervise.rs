//! Which error means what: the one place that decides reactions.

use crate::source;
use std::time::Duration;

/// How long to wait before a device is opened again after `failures` failures in a row.
///
/// A camera that is plugged in again is used within two seconds, so that is the longest.
pub(super) fn reopen_after(error: &source::Error, failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_millis(1750);
    match error {
        // It was working a moment ago.
        source::Error::Stalled { .. } if failures <= 1 => Duration::ZERO,
        source::Error::Stalled { .. }
        | source::Error::Missing { .. }
        | source::Error::Elsewhere { .. }
        | source::Error::Vanished { .. }
        | source::Error::Busy { .. }
        | source::Error::Other { .. } => (FIRST * 2u32.pow(failures.clamp(1, 4) - 1)).min(LONGEST),
        // Only a person can change it, but that person need not restart the box afterwards.
        source::Error::NotPermitted { .. } | source::Error::CannotDo { .. } => LONGEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stalled_device_is_opened_at_once_and_nothing_waits_longer_than_two_seconds() {
        let device = || "camera".to_owned();
        let stalled = source::Error::Stalled {
            device: device(),
            waited_ms: 1000,
        };
        assert_eq!(reopen_after(&stalled, 1), Duration::ZERO);
        let missing = source::Error::Missing {
            device: device(),
            advice: String::new(),
            present: Vec::new(),
        };
        let waits: Vec<u64> = (1..7)
            .map(|n| reopen_after(&missing, n).as_millis() as u64)
            .collect();
        assert_eq!(waits, [250, 500, 1000, 1750, 1750, 1750]);
        assert!(reopen_after(&stalled, u32::MAX) < Duration::from_secs(2));
    }
}
