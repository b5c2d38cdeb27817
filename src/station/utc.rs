//! What the box knows of UTC: an annotation, from two sources, that moves no sample.
//!
//! Takes readings of the machine's clock and the receiver's word; tells what UTC was at an instant of
//! the monotonic clock, and whether the machine's clock stepped. The machine's clock counts while an
//! NTP client keeps it (the kernel then states its error); else the receiver's, as WELCOME brings it.
//! Once known, UTC stays known: the monotonic clock carries it on, and the uncertainty grows.

use crate::media::{Event, Monotonic, WallClock};
use std::time::Duration;

/// The rate by which a crystal may be off: 100 parts per million, one in this many.
const DRIFT: u32 = 10_000;
/// An NTP client slews less than this between two looks; what is more is a step.
const STEP: i64 = 100_000_000;

/// The engine.
#[derive(Debug, Default)]
pub(super) struct Utc {
    known: Option<Reading>,
    /// The machine's clock when it was last looked at, kept or not.
    looked: Option<(Monotonic, i64)>,
}

/// UTC at an instant.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Monotonic,
    unix_nanos: i64,
    error: Duration,
}

impl Utc {
    /// Takes the machine's clock in, as it is at `now`; a step of it is a fact worth noting.
    pub(super) fn look(&mut self, wall: WallClock, now: Monotonic) -> Option<Event> {
        if let Some(error) = wall.uncertainty {
            self.known = Some(Reading {
                at: now,
                unix_nanos: wall.unix_nanos,
                error,
            });
        }
        let (before, expected) = self.looked.replace((now, wall.unix_nanos))?;
        let by_nanos = wall
            .unix_nanos
            .saturating_sub(expected)
            .saturating_sub(now.offset_from(before));
        let stepped = by_nanos.unsigned_abs() > STEP.unsigned_abs();
        stepped.then_some(Event::ClockStepped { wall, by_nanos })
    }

    /// Takes the receiver's clock in, as it was at `at`. It counts where it is the better word.
    pub(super) fn hear(&mut self, wall: WallClock, at: Monotonic) {
        let Some(error) = wall.uncertainty else {
            return;
        };
        let known = self.at(at).and_then(|known| known.uncertainty);
        if known.is_none_or(|known| error < known) {
            self.known = Some(Reading {
                at,
                unix_nanos: wall.unix_nanos,
                error,
            });
        }
    }

    /// UTC at `instant`, if it is known at all.
    pub(super) fn at(&self, instant: Monotonic) -> Option<WallClock> {
        let known = self.known?;
        let away = instant.offset_from(known.at);
        let drift = Duration::from_nanos(away.unsigned_abs()) / DRIFT;
        Some(WallClock {
            unix_nanos: known.unix_nanos.saturating_add(away),
            uncertainty: Some(known.error.saturating_add(drift)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;
    const DAY: i64 = 86_400 * SECOND;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_nanos(seconds * SECOND as u64)
    }

    fn wall(seconds: i64, error_ms: Option<u64>) -> WallClock {
        WallClock {
            unix_nanos: seconds * SECOND,
            uncertainty: error_ms.map(Duration::from_millis),
        }
    }

    #[test]
    fn a_clock_that_nobody_keeps_is_no_utc_and_its_steps_are_facts() {
        let mut utc = Utc::default();
        assert_eq!(utc.look(wall(5, None), at(10)), None);
        assert_eq!(utc.look(wall(7, None), at(12)), None, "it goes on evenly");
        let stepped = Event::ClockStepped {
            wall: wall(86_408, None),
            by_nanos: DAY,
        };
        assert_eq!(utc.look(wall(86_408, None), at(13)), Some(stepped));
        assert_eq!(utc.look(wall(86_409, None), at(14)), None, "once");
        let back = utc.look(wall(10, None), at(15));
        assert!(matches!(back, Some(Event::ClockStepped { by_nanos, .. }) if by_nanos == -DAY));
        assert_eq!(utc.at(at(15)), None);
    }

    #[test]
    fn what_becomes_known_holds_for_what_was_before_and_ages() {
        let mut utc = Utc::default();
        utc.look(wall(100, None), at(0));
        assert!(utc.look(wall(1_800_000_000, Some(20)), at(600)).is_some());
        // 600 s earlier, 100 ppm of which are 60 ms.
        assert_eq!(utc.at(at(0)), Some(wall(1_799_999_400, Some(80))));
        assert_eq!(utc.at(at(600)), Some(wall(1_800_000_000, Some(20))));
        // The client dies: known still, ever less well.
        utc.look(wall(1_800_001_000, None), at(1600));
        assert_eq!(utc.at(at(1600)), Some(wall(1_800_001_000, Some(120))));
    }

    #[test]
    fn the_receiver_s_word_counts_where_it_is_the_better_one() {
        let mut utc = Utc::default();
        utc.hear(wall(1000, None), at(0));
        assert_eq!(utc.at(at(0)), None, "it does not know either");
        utc.hear(wall(1000, Some(50)), at(0));
        assert_eq!(utc.at(at(1)).unwrap().unix_nanos, 1001 * SECOND);
        utc.look(wall(2000, Some(5)), at(1));
        utc.hear(wall(1001, Some(50)), at(1));
        assert_eq!(utc.at(at(1)), Some(wall(2000, Some(5))));
    }
}
