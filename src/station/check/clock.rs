//! The machine's clock: who keeps it, and whether certificates can be judged by it.

use super::{Line, seconds};
use crate::media::WallClock;
use std::time::Duration;

/// Beyond this, times in recordings puzzle people.
const NOTICEABLE: Duration = Duration::from_secs(2);

/// A second reading: the receiver's clock less ours in nanoseconds, and how far off that may be.
pub(super) type Ahead = (i64, Option<Duration>);

/// Judges our clock. Certificates are believed to be of `passed` (seconds since 1970) or later,
/// whatever the clock says.
pub(super) fn judge(wall: WallClock, passed: Option<i64>, ahead: Option<Ahead>) -> Line {
    let now = wall.unix_nanos / 1_000_000_000;
    let mut found = format!("{} UTC, ", date_and_time(now));
    found += &match wall.uncertainty {
        Some(error) => format!("kept by an NTP client, off by {} at most", seconds(error)),
        None => "kept by nobody".into(),
    };
    let off = ahead.map(|(nanos, error)| {
        let by = Duration::from_nanos(nanos.unsigned_abs());
        let which = if nanos >= 0 { "behind" } else { "ahead of" };
        found += &format!("; {} {which} the receiver's", seconds(by));
        if error.is_none() {
            found += ", which nobody keeps either";
        }
        by
    });
    let next = "have an NTP client keep it (systemd-timesyncd, chrony); recordings work meanwhile, \
                their times of day may be wrong";
    if let Some(passed) = passed.filter(|passed| now < *passed) {
        found += &format!(
            "; that is before {}, which has passed: certificates are judged as of then",
            date_and_time(passed)
        );
        return Line::warn("clock", found, next);
    }
    if wall.uncertainty.is_none() {
        return Line::warn("clock", found, next);
    }
    if off.is_some_and(|by| by > NOTICEABLE) {
        let next = "find out which of the two is wrong: `timedatectl` on both machines";
        return Line::warn("clock", found, next);
    }
    Line::ok("clock", found)
}

/// `2026-11-23 04:05:06`.
pub(super) fn date_and_time(unix_seconds: i64) -> String {
    match jiff::Timestamp::from_second(unix_seconds) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => format!("{unix_seconds} s after 1970"),
    }
}

/// `2026-11-23`.
pub(super) fn date(unix_seconds: i64) -> String {
    date_and_time(unix_seconds)
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::station::check::Verdict;

    fn wall(unix_seconds: i64, error_ms: Option<u64>) -> WallClock {
        WallClock {
            unix_nanos: unix_seconds * 1_000_000_000,
            uncertainty: error_ms.map(Duration::from_millis),
        }
    }

    #[test]
    fn a_clock_is_judged_by_who_keeps_it_and_by_what_has_passed() {
        let now = 1_800_000_000;
        let kept = judge(
            wall(now, Some(20)),
            Some(now - 1),
            Some((-300_000_000, None)),
        );
        assert_eq!(kept.verdict, Verdict::Ok);
        assert_eq!(
            kept.found,
            "2027-01-15 08:00:00 UTC, kept by an NTP client, off by 20 ms at most; 300 ms ahead of \
             the receiver's, which nobody keeps either"
        );
        let error = Some(Duration::ZERO);
        for (wall, passed, ahead, says) in [
            (wall(now, None), None, None, "kept by nobody"),
            (
                wall(9, None),
                Some(now),
                None,
                "before 2027-01-15 08:00:00, which has passed",
            ),
            (
                wall(now, Some(1)),
                None,
                Some((3_000_000_000, error)),
                "3000 ms behind the receiver's",
            ),
        ] {
            let line = judge(wall, passed, ahead);
            assert_eq!(line.verdict, Verdict::Warn, "{line}");
            assert!(line.found.contains(says), "{line}");
            assert!(line.next.is_some());
        }
    }
}
