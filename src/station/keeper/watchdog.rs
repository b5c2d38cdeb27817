//! When the service manager hears that the box works: what it does not hear in time, it kills and
//! starts again.
//!
//! Takes the time and how far the lanes are; says whether to tell. While a recording runs, a lane whose
//! device is open has to get on, so that a box whose encoder or thread hangs is not one that works.
//! Without a recording it is enough that the keeper's loop goes round. A device that is away is known
//! to be away: starting again would not bring it.

use super::Keeper;
use crate::clock;
use crate::media::{Monotonic, TrackId};
use crate::station::recorder::State;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often it is told; a fraction of what it waits (WatchdogSec= of the unit).
const EVERY: Duration = Duration::from_secs(1);

/// What was seen when it was told last.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    told: Option<Monotonic>,
    seen: BTreeMap<TrackId, u64>,
}

impl Watchdog {
    /// Whether it is told now. `lanes` are those whose device is open, each with a count that grows as
    /// long as it works; none of them while nothing is recorded.
    fn feeds(&mut self, now: Monotonic, lanes: &[(TrackId, u64)]) -> bool {
        let is_due = self.told.is_none_or(|told| now >= told.plus(EVERY));
        // A count that was never seen, or begins again with another span, is a change as well.
        let get_on = |(track, count): &(TrackId, u64)| self.seen.get(track) != Some(count);
        if !is_due || !lanes.iter().all(get_on) {
            return false;
        }
        self.told = Some(now);
        self.seen = lanes.iter().copied().collect();
        true
    }
}

impl Keeper {
    /// Tells the service manager that the box works, when it does and that is due.
    pub(super) fn feed(&self, watchdog: &mut Watchdog) {
        let records = matches!(
            self.recorder.state(),
            State::Starting(_) | State::Recording(_)
        );
        let lanes: Vec<_> = (self.parts.lanes.iter())
            .filter(|_| records)
            .filter_map(|lane| Some((lane.track, lane.work()?)))
            .collect();
        if watchdog.feeds(clock::now(), &lanes)
            && let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Watchdog])
        {
            log::warn!("the service manager cannot be told that the box works: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAMERA: TrackId = TrackId(1);
    const SOUND: TrackId = TrackId(3);

    fn at(ms: u64) -> Monotonic {
        Monotonic::default().plus(Duration::from_millis(ms))
    }

    #[test]
    fn without_a_recording_the_loop_is_enough() {
        let mut watchdog = Watchdog::default();
        let told = (0..4000).filter(|ms| watchdog.feeds(at(*ms), &[]));
        assert_eq!(told.collect::<Vec<_>>(), [0, 1000, 2000, 3000]);
    }

    #[test]
    fn every_lane_that_is_open_has_to_get_on() {
        let mut watchdog = Watchdog::default();
        assert!(watchdog.feeds(at(0), &[(CAMERA, 1), (SOUND, 1)]));
        assert!(!watchdog.feeds(at(1000), &[(CAMERA, 30), (SOUND, 1)]));
        assert!(!watchdog.feeds(at(9000), &[(CAMERA, 270), (SOUND, 1)]));
        // It hung, and goes on.
        assert!(watchdog.feeds(at(9500), &[(CAMERA, 285), (SOUND, 2)]));
        // Its device is lost, and no longer counted.
        assert!(watchdog.feeds(at(10_500), &[(CAMERA, 300)]));
        assert!(!watchdog.feeds(at(11_500), &[(CAMERA, 300)]));
    }

    #[test]
    fn another_span_counts_from_the_start_and_a_new_lane_is_given_time() {
        let mut watchdog = Watchdog::default();
        assert!(watchdog.feeds(at(0), &[(CAMERA, 900)]));
        assert!(watchdog.feeds(at(1000), &[(CAMERA, 3), (SOUND, 0)]));
        assert!(!watchdog.feeds(at(2000), &[(CAMERA, 33), (SOUND, 0)]));
    }
}
