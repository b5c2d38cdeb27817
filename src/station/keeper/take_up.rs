//! What an earlier run left: offered again, continued or ended.

use super::Keeper;
use crate::clock;
use crate::media::{Event, Fact, LostReason, RecordingId, StopReason};
use crate::spool;
use crate::station::recorder::Input as Happening;

/// A recording goes on after a restart if the box was away for no longer: 10 minutes.
const RESUME_WITHIN_NANOS: i64 = 600 * 1_000_000_000;

impl Keeper {
    /// What an earlier run left: everything that the receiver lacks is offered again; of the
    /// recordings without an end, the latest is taken up and the others are ended.
    pub(super) fn take_up(&mut self, recovered: &[spool::Recovered]) {
        self.parts.custody.take_up(recovered);
        let mut open: Vec<((u64, i64), RecordingId)> = self
            .spool()
            .recordings()
            .filter(|(_, state)| !state.ended)
            // Without this record nobody was ever told that it had begun.
            .filter_map(|(id, state)| {
                state
                    .opened
                    .map(|opened| ((opened.epoch, opened.wall_nanos), id))
            })
            .collect();
        open.sort_unstable();
        let wall = clock::wall().unix_nanos;
        let latest = open.pop_if(|(_, recording)| !away_too_long(recovered, *recording, wall));
        for (_, recording) in open {
            log::info!("recording {recording} is over: the box was away for too long");
            self.end_unattended(recording, recovered);
        }
        let latest = latest.map(|(_, recording)| recording);
        if let Some(recording) = latest {
            let _ = self.happen(Happening::Resume(recording));
        }
        self.hear();
    }

    /// Ends a recording that nobody will take up.
    fn end_unattended(&mut self, recording: RecordingId, recovered: &[spool::Recovered]) {
        let state = self.spool().state(recording).and_then(|state| state.opened);
        let Some(opened) = state else { return };
        let facts = lost_facts(recovered, recording, opened.span);
        let (at, now) = ((opened.span, 0), clock::now());
        let reason = StopReason::AwayTooLong;
        let outcome = self.parts.custody.end(recording, facts, at, reason, now);
        self.check(outcome.map(drop));
    }
}

/// Whether the box was away longer than a recording survives. A clock that says that the last write
/// lies ahead was not set yet: nothing is known then, and the recording goes on.
fn away_too_long(recovered: &[spool::Recovered], recording: RecordingId, wall: i64) -> bool {
    let found = recovered.iter().find(|found| found.recording == recording);
    let written = found.and_then(|found| found.written_nanos);
    written.is_some_and(|written| wall.saturating_sub(written) > RESUME_WITHIN_NANOS)
}

/// What recovery could not find, as the facts that say so.
fn lost_facts(recovered: &[spool::Recovered], recording: RecordingId, span: u32) -> Vec<Fact> {
    let lost = recovered
        .iter()
        .filter(|found| found.recording == recording)
        .flat_map(|found| &found.lost);
    lost.map(|&(track, first, last)| Fact {
        span,
        at_nanos: 0,
        event: Event::Lost {
            track,
            first,
            last,
            reason: LostReason::Damaged,
        },
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_outlives_ten_minutes_and_an_unset_clock() {
        let minute = 60 * 1_000_000_000;
        let found = |written_nanos| spool::Recovered {
            recording: RecordingId([1; 16]),
            ended: false,
            damaged_bytes: 0,
            torn_bytes: 0,
            written_nanos,
            lost: Vec::new(),
            problems: Vec::new(),
        };
        for (written, wall, over) in [
            (Some(100 * minute), 110 * minute, false),
            (Some(100 * minute), 110 * minute + 1, true),
            (Some(100 * minute), 0, false),
            (None, 110 * minute, false),
        ] {
            assert_eq!(
                away_too_long(&[found(written)], RecordingId([1; 16]), wall),
                over,
                "{written:?} {wall}"
            );
        }
    }
}
