//! Recordings that the disk let down: they stay open in the spool with what was kept of them.
//!
//! Once the disk works again the latest goes on in a new span, and says for how long it was away. One
//! that may not go on (another runs, somebody has stopped it, or it was away for too long) is ended.

use super::{Keeper, Running};
use crate::clock;
use crate::media::{Monotonic, RecordingId, SegmentKey, StopReason};
use crate::spool;
use crate::station::control::Reply;
use crate::station::lane::Command;
use crate::station::past::{Past, is_too_long};
use crate::station::recorder::Input as Happening;
use std::time::Duration;

/// The disk is tried again after so long, then after twice as long each time, up to the last.
const FIRST: Duration = Duration::from_secs(2);
const LAST: Duration = Duration::from_secs(60);

/// What waits for the disk, the oldest first.
#[derive(Default)]
pub(super) struct Abandoned {
    recordings: Vec<Running>,
    due: Option<Monotonic>,
    wait: Duration,
}

impl Abandoned {
    /// The recording, if it is one of them.
    pub(super) fn find(&mut self, recording: RecordingId) -> Option<&mut Running> {
        let ours = |running: &&mut Running| running.take.recording == recording;
        self.recordings.iter_mut().find(ours)
    }

    /// Somebody wants the end of what was recorded.
    pub(super) fn end_all(&mut self, reason: StopReason) {
        for running in &mut self.recordings {
            running.ending.get_or_insert(reason);
        }
    }

    /// Bytes are kept: the next trouble is new.
    pub(super) fn is_well(&mut self) {
        self.wait = FIRST;
    }

    fn add(&mut self, running: Running, now: Monotonic) {
        self.recordings.push(running);
        self.due.get_or_insert(now.plus(self.wait.max(FIRST)));
    }
}

impl Keeper {
    /// Stops feeding the spool: it refuses the recording in hand.
    pub(super) fn abandon(&mut self) {
        for lane in &self.parts.lanes {
            lane.tell(Command::Drop);
        }
        let Some(mut running) = self.running.take() else {
            return;
        };
        let refusal =
            Reply::Refused("the spool cannot keep bytes; see the log and `hallcast status`".into());
        for reply in running.waiting.drain(..) {
            let _ = reply.send(refusal.clone());
        }
        self.abandoned.add(running, clock::now());
    }

    /// Tries again what the disk refused.
    pub(super) fn look_after_abandoned(&mut self, now: Monotonic) {
        if self.abandoned.due.is_none_or(|due| now < due) {
            return;
        }
        let wait = self.abandoned.wait.max(FIRST);
        (self.abandoned.due, self.abandoned.wait) = (None, (wait * 2).min(LAST));
        let mut left = std::mem::take(&mut self.abandoned.recordings);
        let mut still = Vec::new();
        // The latest first: only one can go on.
        while let Some(mut running) = left.pop() {
            match self.take_back(&mut running, now) {
                Ok(true) => {}
                Ok(false) => still.push(running),
                Err(error) => {
                    let recording = running.take.recording;
                    still.push(running);
                    match self.running {
                        Some(_) => self.say_refused(recording, &error),
                        // The alarm of the box stands.
                        None => log::warn!("recording {recording}: {error}"),
                    }
                }
            }
        }
        for running in still.into_iter().rev() {
            self.abandoned.add(running, now);
        }
    }

    /// Goes on with a recording, or ends it; true when nothing is left to do for it.
    fn take_back(&mut self, running: &mut Running, now: Monotonic) -> Result<bool, spool::Error> {
        let recording = running.take.recording;
        if self.spool().state(recording).is_none() {
            // It was erased.
            return Ok(true);
        }
        if running.end.is_some() {
            // The spool tries again after each sync, and says when it is kept.
            return Ok(false);
        }
        if !running.facts.is_empty() {
            let custody = &mut self.parts.custody;
            custody.write_facts(recording, &running.facts, now)?;
            running.facts.clear();
        }
        let past = Past::read(&self.spool(), recording).unwrap_or_default();
        let gap = past.away(&self.place_of(now));
        // Nobody was away in a pause.
        let away = !past.paused && is_too_long(gap, self.parts.resume_within);
        let over = self.running.is_some() || away;
        let reason = running.ending.or(over.then_some(StopReason::DiskFailed));
        if let Some(reason) = reason {
            log::info!("recording {recording} is ended ({reason:?}): the disk works again");
            let at = (running.take.span, past.kept_nanos);
            let end = self
                .parts
                .custody
                .end(recording, Vec::new(), at, reason, now)?;
            running.end = Some(end);
            return Ok(false);
        }
        log::info!("recording {recording} is taken up again: {gap:?}");
        self.go_on_from(recording, past);
        Ok(self.runs(recording))
    }

    /// A recording's end is kept: whether it was one of these.
    pub(super) fn abandoned_has_ended(&mut self, key: SegmentKey) {
        let recordings = &mut self.abandoned.recordings;
        let before = recordings.len();
        recordings.retain(|running| running.end != Some(key));
        if recordings.len() == before {
            return;
        }
        log::info!("recording {} is whole on the box", key.recording);
        let concern = (Some(key.recording), None);
        self.calm("spool", concern, "the recording is whole");
        if self.running.is_none() {
            self.calm("spool", (None, None), "bytes are kept again");
            // Refused in no state.
            let _ = self.happen(Happening::Finished);
        }
    }
}
