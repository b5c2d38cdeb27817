//! What a picture track shows while its camera gives nothing, and what the recording is told of it.
//!
//! Takes which ticks of the span's grid have a picture of their own and which were not encoded; says
//! what the others show, and gives one gap for each fault, from the first tick that lacks its picture
//! to the first that has one again. Pure: no clock, device or picture.

use crate::media::{GapCause, Monotonic, Rate};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::time::Duration;

/// A camera that is open but gives nothing for longer than this leaves a gap in the recording's facts;
/// shorter, its last picture stays and counts as repeats. One that failed always leaves a gap.
pub(super) const GAP: Duration = Duration::from_secs(1);
/// After this the slate takes the place of the last picture.
const SLATE: Duration = Duration::from_millis(1500);
/// A slate that lasts so long raises an alarm.
const ALARM: Duration = Duration::from_secs(10);

/// A stretch of ticks for the recording's facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) first: u64,
    pub(super) ticks: u64,
    pub(super) cause: GapCause,
}

/// What a tick without a picture of its own shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// The last picture.
    Last,
    /// The slate.
    Slate,
}

/// The engine; ticks are counted from the span's start.
#[derive(Debug)]
pub(super) struct Absence {
    rate: Rate,
    /// The camera is not open.
    away: bool,
    missing: Option<Missing>,
    /// The first of the ticks that were not encoded.
    unencoded: Option<u64>,
}

/// The ticks since the last one with a picture of its own.
#[derive(Debug)]
struct Missing {
    first: u64,
    /// The camera was away during them.
    away: bool,
    /// The first one that shows the slate.
    slate: Option<u64>,
    /// The slate has lasted long enough for an alarm.
    overdue: bool,
}

impl Absence {
    /// At the start of a span; `away`: the camera is not open.
    pub(super) fn new(rate: Rate, away: bool) -> Self {
        Self {
            rate,
            away,
            missing: None,
            unencoded: None,
        }
    }

    /// The camera failed.
    pub(super) fn failed(&mut self) {
        self.away = true;
    }

    /// The camera is open again.
    pub(super) fn opened(&mut self) {
        self.away = false;
    }

    /// A tick has a picture of its own; the gap that it ends, if there was one.
    pub(super) fn has(&mut self, tick: u64) -> Option<Gap> {
        let missing = self.missing.take()?;
        let gap = Gap {
            first: missing.first,
            ticks: tick - missing.first,
            cause: match missing.away {
                true => GapCause::DeviceMissing,
                false => GapCause::DeviceStalled,
            },
        };
        let counts = missing.away || missing.slate.is_some() || self.last(gap.ticks) > GAP;
        counts.then_some(gap)
    }

    /// A tick has no picture of its own: what it shows. `picture`: there is a last one.
    pub(super) fn lacks(&mut self, tick: u64, picture: bool) -> Show {
        let missing = self.missing.get_or_insert(Missing {
            first: tick,
            away: false,
            slate: None,
            overdue: false,
        });
        missing.away |= self.away;
        let lasts = self.rate.tick_nanos(tick - missing.first);
        if picture && Duration::from_nanos(lasts) < SLATE {
            return Show::Last;
        }
        missing.slate.get_or_insert(tick);
        Show::Slate
    }

    /// The first tick that lacks its picture, while some do.
    pub(super) fn since(&self) -> Option<u64> {
        self.missing.as_ref().map(|missing| missing.first)
    }

    /// Whether this is the tick at which the slate has lasted too long: true once.
    pub(super) fn is_due(&mut self, tick: u64) -> bool {
        let Some(missing) = &mut self.missing else {
            return false;
        };
        let Some(slate) = missing.slate.filter(|_| !missing.overdue) else {
            return false;
        };
        missing.overdue = Duration::from_nanos(self.rate.tick_nanos(tick - slate)) >= ALARM;
        missing.overdue
    }

    /// No encoder took this tick: nothing of it is in the track.
    pub(super) fn not_encoded(&mut self, tick: u64) {
        self.unencoded.get_or_insert(tick);
    }

    /// This tick is in the track; the gap that it ends, if some before it are not.
    pub(super) fn encoded(&mut self, tick: u64) -> Option<Gap> {
        let first = self.unencoded.take()?;
        Some(Gap {
            first,
            ticks: tick - first,
            cause: GapCause::EncoderFailed,
        })
    }

    /// The span ends before `tick`: the gaps that are open end there.
    pub(super) fn end(&mut self, tick: u64) -> impl Iterator<Item = Gap> + use<> {
        [self.has(tick), self.encoded(tick)].into_iter().flatten()
    }

    fn last(&self, ticks: u64) -> Duration {
        Duration::from_nanos(self.rate.tick_nanos(ticks))
    }
}

/// Since when, for the slate's last line: the time of day where UTC is known (`utc` is what it was, in
/// Unix nanoseconds, at the monotonic clock's zero), else for how long.
pub(super) fn since_text(
    since: Monotonic,
    now: Monotonic,
    utc: Option<i64>,
    zone: Option<TimeZone>,
) -> String {
    let stamp = utc
        .map(|zero| i128::from(zero) + i128::from(since.as_nanos()))
        .and_then(|nanos| Timestamp::from_nanosecond(nanos).ok());
    match (stamp, zone) {
        (Some(stamp), Some(zone)) => stamp.to_zoned(zone).strftime("since %H:%M").to_string(),
        (Some(stamp), None) => stamp.strftime("since %H:%M UTC").to_string(),
        (None, _) => match now.since(since).as_secs() / 60 {
            0 => "for less than 1 min".into(),
            minutes => format!("for {minutes} min"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs ticks at 10 per second: `.` has a picture, `x` lacks it, `F` and `O`: the camera fails and
    /// is open again before the next tick. What was shown, and the gaps.
    fn run(away: bool, script: &str) -> (String, Vec<Gap>) {
        let mut absence = Absence::new(Rate::new(10, 1).unwrap(), away);
        let (mut shown, mut gaps, mut picture) = (String::new(), Vec::new(), false);
        let mut tick = 0;
        for what in script.chars() {
            match what {
                'F' => absence.failed(),
                'O' => absence.opened(),
                '.' => {
                    gaps.extend(absence.has(tick));
                    picture = true;
                    shown.push('p');
                }
                _ => shown.push(match absence.lacks(tick, picture) {
                    Show::Last => 'l',
                    Show::Slate => 's',
                }),
            }
            tick += u64::from(".x".contains(what));
        }
        gaps.extend(absence.end(tick));
        (shown, gaps)
    }

    fn gap(first: u64, ticks: u64, cause: GapCause) -> Gap {
        Gap {
            first,
            ticks,
            cause,
        }
    }

    use GapCause::{DeviceMissing as Missing, DeviceStalled as Stalled};

    #[test]
    fn a_camera_that_is_lost_shows_its_last_picture_then_the_slate_then_itself() {
        let x = |n| "x".repeat(n);
        let found = run(false, &format!("...F{}O{}...", x(20), x(3)));
        let shown = format!("ppp{}{}ppp", "l".repeat(15), "s".repeat(8));
        assert_eq!(found, (shown, vec![gap(3, 23, Missing)]));
        // Open, but it gives nothing: the same, for another cause; short, it is no gap.
        let found = run(false, &format!("..{}.{}.{}.", x(10), x(11), x(16)));
        let shown = format!(
            "pp{}p{}p{}sp",
            "l".repeat(10),
            "l".repeat(11),
            "l".repeat(15)
        );
        let gaps = vec![gap(13, 11, Stalled), gap(25, 16, Stalled)];
        assert_eq!(found, (shown, gaps));
    }

    #[test]
    fn one_that_failed_leaves_a_gap_however_short_and_none_if_no_tick_lacked_its_picture() {
        let (shown, gaps) = run(false, ".FO..FxO.");
        assert_eq!((shown.as_str(), gaps), ("ppplp", vec![gap(3, 1, Missing)]));
        // It fails twice before a picture comes: one fault.
        let (_, gaps) = run(false, ".FxxOxFxOx.x.");
        assert_eq!(gaps, [gap(1, 5, Missing)]);
    }

    #[test]
    fn one_that_is_missing_at_the_start_is_a_slate_from_tick_0_and_an_open_gap_ends_with_the_span()
    {
        let (shown, gaps) = run(true, "xxxOx.");
        assert_eq!((shown.as_str(), gaps), ("ssssp", vec![gap(0, 4, Missing)]));
        let (_, gaps) = run(true, "xxx");
        assert_eq!(gaps, [gap(0, 3, Missing)]);
        let (_, gaps) = run(false, "....Fxx");
        assert_eq!(gaps, [gap(4, 2, Missing)]);
    }

    #[test]
    fn the_alarm_is_due_once_when_the_slate_has_lasted_ten_seconds() {
        let mut absence = Absence::new(Rate::THIRTY, false);
        absence.has(0);
        absence.failed();
        let mut due = Vec::new();
        for tick in 1..1000 {
            absence.lacks(tick, true);
            due.extend(absence.is_due(tick).then_some(tick));
        }
        // 1.5 s of the last picture, then 10 s.
        assert_eq!(due, [1 + 45 + 300]);
        assert!(absence.has(1000).is_some());
        absence.lacks(1001, true);
        assert!(!absence.is_due(1001));
    }

    #[test]
    fn ticks_that_no_encoder_took_are_a_gap_of_their_own() {
        let mut absence = Absence::new(Rate::THIRTY, false);
        assert_eq!(absence.encoded(4), None);
        (5..8).for_each(|tick| absence.not_encoded(tick));
        assert_eq!(absence.encoded(8), Some(gap(5, 3, GapCause::EncoderFailed)));
        absence.not_encoded(9);
        let last: Vec<Gap> = absence.end(11).collect();
        assert_eq!(last, [gap(9, 2, GapCause::EncoderFailed)]);
    }

    proptest! {
        /// Gaps do not overlap, cover every slate, and no tick with a picture of its own.
        #[test]
        fn gaps_are_what_was_not_delivered(away: bool, script in "[.xxxxxFO]{0,200}") {
            let (shown, gaps) = run(away, &script);
            let shown: Vec<char> = shown.chars().collect();
            let mut covered = vec![false; shown.len()];
            for gap in gaps {
                for tick in gap.first..gap.first + gap.ticks {
                    prop_assert!(!std::mem::replace(&mut covered[tick as usize], true));
                }
            }
            for (covered, shown) in covered.into_iter().zip(shown) {
                prop_assert!(!covered || shown != 'p');
                prop_assert!(covered || shown != 's');
            }
        }
    }

    #[test]
    fn the_time_of_day_is_the_zone_s_or_marked_utc_or_a_length() {
        let since = Monotonic::from_nanos(60_000_000_000);
        let now = since.plus(Duration::from_secs(185));
        // 2026-06-01T08:41:30Z at the monotonic clock's 60 s.
        let utc = Some(1_780_303_290_000_000_000 - 60_000_000_000);
        let vienna = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        assert_eq!(
            since_text(since, now, utc, Some(vienna.clone())),
            "since 10:41"
        );
        assert_eq!(since_text(since, now, utc, None), "since 08:41 UTC");
        assert_eq!(since_text(since, now, None, Some(vienna)), "for 3 min");
        assert_eq!(since_text(since, since, None, None), "for less than 1 min");
    }
}
