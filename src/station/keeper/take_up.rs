//! What an earlier run left: offered again, continued or ended.

use super::Keeper;
use crate::clock;
use crate::media::{Event, Fact, GapLength, LostReason, Range, RecordingId, StopReason, TrackId};
use crate::spool::{self, RecordingState};
use crate::station::past::{Past, is_too_long, open_gaps};
use crate::station::recorder::Input as Happening;

impl Keeper {
    /// What an earlier run left: everything that the receiver lacks is offered again; of the
    /// recordings without an end, the latest is taken up and the others are ended.
    pub(super) fn take_up(&mut self, recovered: &[spool::Recovered]) {
        self.parts.custody.take_up(recovered);
        let mut open: Vec<(Option<(u64, i64)>, RecordingId)> = self
            .spool()
            .recordings()
            // An empty directory says nothing.
            .filter(|(_, state)| !state.ended && (state.opened.is_some() || holds_any(state)))
            .map(|(id, state)| {
                let opened = state.opened;
                (opened.map(|opened| (opened.epoch, opened.wall_nanos)), id)
            })
            .collect();
        open.sort_unstable();
        let here = self.place_of(clock::now());
        let within = self.parts.resume_within;
        let mut latest = None;
        while let Some((opened, recording)) = open.pop() {
            let past = Past::read(&self.spool(), recording);
            let gap = past.map_or(GapLength::Unknown, |past| past.away(&here));
            // Of one whose beginning is lost nobody knows which span would be the next.
            if opened.is_some() && latest.is_none() && !is_too_long(gap, within) {
                latest = Some((recording, past.unwrap_or_default()));
            } else {
                log::info!("recording {recording} is over: it is not taken up again ({gap:?})");
                self.say_away(recording, gap);
                self.end_unattended(recording, past.unwrap_or_default());
            }
        }
        if let Some((recording, past)) = latest {
            self.go_on_from(recording, past);
        }
        self.hear();
    }

    /// Takes a recording up in a new span; one that was paused stays so.
    pub(super) fn go_on_from(&mut self, recording: RecordingId, past: Past) {
        self.past = Some(past);
        let gaps = open_gaps(&self.spool(), recording);
        let _ = self.happen(Happening::TakeUp {
            recording,
            recorded: past.recorded(),
            extended: past.extended,
            paused: past.paused,
        });
        if let Some(running) = self
            .running
            .as_mut()
            .filter(|r| r.take.recording == recording)
        {
            running.facts.extend(gaps);
        }
    }

    /// A recording of an earlier run that could not be read, or made durable, until now: nobody goes on
    /// with it, so that it shall have an end.
    pub(super) fn end_later(&mut self, recording: RecordingId) {
        let ours = self.runs(recording) || self.waits(recording);
        if !ours && self.abandoned.find(recording).is_none() {
            let past = Past::read(&self.spool(), recording);
            self.end_unattended(recording, past.unwrap_or_default());
        }
    }

    /// Ends a recording that nobody will take up.
    fn end_unattended(&mut self, recording: RecordingId, past: Past) {
        let spool = self.spool();
        let (span, facts) = match spool.state(recording) {
            Some(state) if !state.ended => {
                let span = state.opened.map_or(0, |opened| opened.span);
                let mut facts = open_gaps(&spool, recording);
                facts.extend(lost_facts(state, span));
                (span, facts)
            }
            _ => return,
        };
        drop(spool);
        let (at, now) = ((span, past.kept_nanos), clock::now());
        let reason = StopReason::AwayTooLong;
        let outcome = self.parts.custody.end(recording, facts, at, reason, now);
        // What the disk refuses now the spool owes, and writes later.
        self.check(recording, outcome.map(drop));
    }
}

/// Whether any segment of it was ever here.
fn holds_any(state: &RecordingState) -> bool {
    state.tracks.values().any(|track| track.next_sequence() > 0)
}

/// What will never come, as the facts that say so.
fn lost_facts(state: &RecordingState, span: u32) -> Vec<Fact> {
    let fact = |(track, range, reason): (TrackId, Range, LostReason)| Fact {
        span,
        at_nanos: 0,
        event: Event::Lost {
            track,
            first: range.first,
            last: range.last,
            reason,
        },
    };
    state.lost().map(fact).collect()
}
