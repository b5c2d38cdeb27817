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
/// What is noted is put right where it is off by more than this, or can be known better by more.
const WORTH: Duration = Duration::from_millis(100);

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

/// Whether `wall` puts right what was `noted` of the same instant: it is off by more than it said and
/// by more than the new word may be off itself; or it is known far better now.
pub(super) fn corrects(wall: WallClock, noted: WallClock) -> bool {
    let (Some(error), Some(said)) = (wall.uncertainty, noted.uncertainty) else {
        return wall.uncertainty.is_some();
    };
    let off = Duration::from_nanos(wall.unix_nanos.abs_diff(noted.unix_nanos));
    off > said.max(error).max(WORTH) || (said > error * 4 && said.saturating_sub(error) > WORTH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    #[test]
    fn what_was_noted_is_put_right_only_where_it_was_wrong_or_far_less_well_known() {
        let word = |ms: i64, error: Option<u64>| WallClock {
            unix_nanos: 1000 * SECOND + ms * 1_000_000,
            uncertainty: error.map(Duration::from_millis),
        };
        for (noted, later, right) in [
            ((0, None), (0, Some(900)), true),
            ((0, None), (5000, None), false),
            ((0, Some(20)), (86_400_000, None), false),
            ((0, Some(20)), (86_400_000, Some(20)), true),
            ((0, Some(20)), (-86_400_000, Some(20)), true),
            // Off, but by less than a tenth of a second; or by no more than was said.
            ((0, Some(20)), (99, Some(5)), false),
            ((0, Some(300)), (299, Some(250)), false),
            // Off, but by no more than the new word may be off itself.
            ((0, Some(20)), (500, Some(500)), false),
            // Not off, but known better.
            ((0, Some(900)), (100, Some(20)), true),
            ((0, Some(900)), (100, Some(300)), false),
            ((0, Some(100)), (10, Some(1)), false),
        ] {
            let of = |(ms, error)| word(ms, error);
            assert_eq!(corrects(of(later), of(noted)), right, "{noted:?} {later:?}");
        }
    }

    /// A word of the clock: after how many seconds, what its keeper says (by how many days it is wrong,
    /// how far off it may be, how much of that it is off), or what it was set to by hand.
    type Word = (u64, Option<(i64, i64, i64)>, i64);

    fn words() -> impl Strategy<Value = Vec<Word>> {
        let kept = (-1..=1i64, 1..800i64, -100..=100i64);
        let word = (1..600u64, proptest::option::of(kept), -90_000..90_000i64);
        proptest::collection::vec(word, 1..100)
    }

    proptest! {
        /// A clock is set again and again, by days and by hairs, by its keeper or by hand. What is noted of
        /// a span's start is then as right as its keeper's last word, in no more facts than there are
        /// days and some for what became known better.
        #[test]
        fn the_noted_start_is_as_right_as_the_last_word(words in words()) {
            let truth = |seconds: u64| (1_800_000_000 + seconds as i64) * SECOND;
            let (mut utc, mut noted, mut facts) = (Utc::default(), None::<WallClock>, 0);
            let (mut seconds, mut last_days, mut changes) = (0, None, 0);
            for (later, kept, by_hand) in words {
                seconds += later;
                let days = kept.map(|(days, ..)| days);
                let wall = match kept {
                    Some((days, error_ms, per_cent)) => WallClock {
                        unix_nanos: truth(seconds) + days * DAY + error_ms * per_cent * 10_000,
                        uncertainty: Some(Duration::from_millis(error_ms as u64)),
                    },
                    None => WallClock {
                        unix_nanos: truth(seconds) + by_hand * SECOND,
                        uncertainty: None,
                    },
                };
                utc.look(wall, at(seconds));
                if let Some(wall) = utc.at(at(0))
                    && noted.is_none_or(|noted| corrects(wall, noted))
                {
                    (noted, facts) = (Some(wall), facts + 1);
                }
                if days.is_some() && days != last_days {
                    (last_days, changes) = (days, changes + 1);
                }
                if let (Some(noted), Some(days)) = (noted, last_days) {
                    let off = noted.unix_nanos.abs_diff(truth(0) + days * DAY);
                    let error = utc.at(at(0)).and_then(|wall| wall.uncertainty).unwrap();
                    let may = noted.uncertainty.unwrap().max(error).max(WORTH) + error;
                    prop_assert!(u128::from(off) <= may.as_nanos(), "{off} {may:?}");
                }
            }
            prop_assert!(facts <= 3 * changes, "{facts} facts, {changes} changes");
        }
    }
}
