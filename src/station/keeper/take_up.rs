//! What an earlier run left: offered again, continued or ended.

use super::Keeper;
use crate::clock;
use crate::media::{Event, Fact, GapLength, LostReason, RecordingId, StopReason};
use crate::spool;
use crate::station::past::{Past, is_too_long};
use crate::station::recorder::Input as Happening;

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
        let here = self.place_of(clock::now());
        let within = self.parts.resume_within;
        let mut latest = None;
        while let Some((_, recording)) = open.pop() {
            let past = Past::read(&self.spool(), recording);
            let gap = past.map_or(GapLength::Unknown, |past| past.away(&here));
            if latest.is_none() && !is_too_long(gap, within) {
                latest = Some((recording, past.unwrap_or_default()));
            } else {
                log::info!("recording {recording} is over: it is not taken up again ({gap:?})");
                self.say_away(recording, gap);
                self.end_unattended(recording, past.unwrap_or_default(), recovered);
            }
        }
        if let Some((recording, past)) = latest {
            self.past = Some(past);
            let _ = self.happen(Happening::Resume(recording, past.recorded()));
        }
        self.hear();
    }

    /// Ends a recording that nobody will take up.
    fn end_unattended(
        &mut self,
        recording: RecordingId,
        past: Past,
        recovered: &[spool::Recovered],
    ) {
        let state = self.spool().state(recording).and_then(|state| state.opened);
        let Some(opened) = state else { return };
        let facts = lost_facts(recovered, recording, opened.span);
        let (at, now) = ((opened.span, past.kept_nanos), clock::now());
        let reason = StopReason::AwayTooLong;
        let outcome = self.parts.custody.end(recording, facts, at, reason, now);
        self.check(outcome.map(drop));
    }
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
