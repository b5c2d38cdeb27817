//! Spans: where each begins on the clocks that outlive a process, and what ends one.
//!
//! Media time counts from a span's start and is never corrected. Where the span lies in UTC, and how
//! long the box was away before it, are facts that may come later, and again when the clock turns out to
//! have been wrong: [`Event::SpanPlaced`].

use super::{IDLE, Keeper, Running};
use crate::clock;
use crate::media::{
    Event, GapLength, Monotonic, Rate, RecordingId, SegmentKey, StartedBy, StopReason, WallClock,
};
use crate::station::lane::{Command, LaneView, Take};
use crate::station::past::{Past, Place, is_too_long};
use crate::station::recorder::Input as Happening;
use crate::station::utc::corrects;
use std::sync::Arc;
use std::time::Duration;

/// The clocks are looked at so often.
const LOOK: Duration = Duration::from_millis(250);
/// CLOCK_BOOTTIME gained so much on CLOCK_MONOTONIC: the machine slept.
const SLEPT: Duration = Duration::from_millis(500);
/// A box that does not know UTC for so long after its start says so.
const CLOCK_DUE: Duration = Duration::from_secs(60);
/// However often the clock is set, a span's place is put right no more often than this; and in the end.
const CORRECT: Duration = Duration::from_secs(10);

impl Keeper {
    /// Begins a recording, or the next span of one (`past` is the one before it).
    pub(super) fn begin(
        &mut self,
        recording: RecordingId,
        by: Option<StartedBy>,
        past: Option<Past>,
    ) {
        if let Some(take) = self.open_span(recording, by, past) {
            for lane in &self.parts.lanes {
                lane.tell(Command::Begin(take.clone()));
            }
        }
    }

    /// Opens the next span of a recording that is taken up and rests, unless it is open: nothing is captured
    /// in it.
    pub(super) fn rest(&mut self) {
        let in_hand = self.recorder.recorded(clock::now());
        let (Some((recording, _)), None) = (in_hand, &self.running) else {
            return;
        };
        let past = self.past.take();
        let Some(take) = self.open_span(recording, None, past) else {
            return;
        };
        if let Some(running) = &mut self.running {
            running.unfinished.clear();
            (running.broken, running.held) = (Some(take.start), true);
            running.kept_nanos = Some(0);
        }
        if past.is_some_and(|past| past.paused) {
            log::info!("recording {recording} is still paused");
            self.note(Event::Paused);
        } else {
            // No pause on record: a run after this one goes on by itself as well.
            log::info!("recording {recording} waits for the lamp");
        }
    }

    fn open_span(
        &mut self,
        recording: RecordingId,
        by: Option<StartedBy>,
        past: Option<Past>,
    ) -> Option<Arc<Take>> {
        let rhythm = self.parts.lanes.iter().find_map(LaneView::rhythm);
        let start = start_on_a_picture(clock::now(), rhythm);
        let place = self.place_of(start);
        let wall = place.wall.unwrap_or_else(|| WallClock {
            uncertainty: None,
            ..(self.parts.wall)()
        });
        let span = match self.parts.custody.begin(recording, wall.unix_nanos) {
            Ok(span) => span,
            Err(error) => {
                self.fault(&error);
                return None;
            }
        };
        let next = |lane: &LaneView| {
            let next = self.parts.custody.next_sequence(recording, lane.track);
            (lane.track, next)
        };
        let configured = || self.parts.lanes.iter().find_map(LaneView::rate);
        let take = Arc::new(Take {
            recording,
            epoch: self.parts.custody.epoch(),
            span,
            start,
            rate: rhythm
                .map(|(_, rate)| rate)
                .or_else(configured)
                .unwrap_or(Rate::THIRTY),
            first_sequences: self.parts.lanes.iter().map(next).collect(),
        });
        log::info!("recording {recording}, span {span}");
        let before = self.running.take();
        self.running = Some(Running {
            take: take.clone(),
            facts: Vec::new(),
            unfinished: self.parts.lanes.iter().map(|lane| lane.track).collect(),
            ending: None,
            patience: None,
            end: None,
            full: false,
            waiting: before.map(|running| running.waiting).unwrap_or_default(),
            place,
            placed: None,
            past,
            broken: None,
            held: false,
            kept_nanos: None,
            unjudged: None,
            wanted: None,
        });
        if let Some(by) = by {
            self.alarms.drop_all("away-too-long");
            let room = self.parts.room.clone();
            self.note(Event::Started {
                box_id: self.parts.box_id,
                by,
                room,
                title: None,
            });
        }
        let recorded = past.map_or(Duration::ZERO, |past| past.recorded());
        self.note(Event::Span {
            epoch: self.parts.custody.epoch(),
            wall: Some(wall),
            gap: past.map(|past| past.away(&place)),
        });
        self.note(Event::Run {
            boot: place.boot.map(|(boot, _)| boot),
            boot_nanos: place.boot.map_or(0, |(_, nanos)| nanos),
            recorded_nanos: u64::try_from(recorded.as_nanos()).unwrap_or(u64::MAX),
        });
        if let Some(most) = self.recorder.extended() {
            self.extend(most);
        }
        self.alarms
            .of_the_box()
            .into_iter()
            .for_each(|alarm| self.note(alarm));
        Some(take)
    }

    /// Notes how much may be recorded: a later run shall know it.
    pub(super) fn extend(&mut self, most: Duration) {
        let recorded_nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        self.note(Event::Extended { recorded_nanos });
    }

    /// Ends the span: what is captured from now on is not recorded.
    pub(super) fn pause(&mut self) {
        let now = clock::now();
        self.note(Event::Paused);
        let Some(running) = &mut self.running else {
            return;
        };
        log::info!("recording {} is paused", running.take.recording);
        running.held = true;
        // Whoever wanted another recording does not get one that begins in the pause.
        running.wanted = None;
        // Where the machine has just slept the lanes know their end already.
        if running.broken.is_none() {
            running.broken = Some(now);
            self.call_in(now);
        }
    }

    /// Goes on with a paused recording, once the lanes have given out what they held.
    pub(super) fn resume(&mut self) {
        if let Some(running) = &mut self.running {
            running.held = false;
            if running.unfinished.is_empty() {
                self.next_span();
            }
        }
    }

    /// Whether a segment of the running recording was captured in the span in hand, and that goes on.
    pub(super) fn is_of_this_span(&self, key: SegmentKey) -> bool {
        let Some(running) = self.running.as_ref().filter(|r| r.broken.is_none()) else {
            return false;
        };
        let first = running.take.first_sequences.get(&key.track);
        first.is_none_or(|first| key.sequence >= *first)
    }

    /// Where an instant lies on the clocks that outlive the process.
    pub(super) fn place_of(&self, instant: Monotonic) -> Place {
        let now = clock::now();
        let nanos = i64::try_from(clock::since_boot()).unwrap_or(i64::MAX);
        let nanos = nanos.saturating_add(instant.offset_from(now));
        let nanos = u64::try_from(nanos).unwrap_or(0);
        Place {
            wall: self.utc.at(instant),
            boot: self.boot.map(|boot| (boot, nanos)),
        }
    }

    /// Looks at the clocks: a step is noted, sleep ends a span, and UTC places a span once it is known.
    pub(super) fn keep_time(&mut self, now: Monotonic) {
        if self.looked.is_some_and(|looked| now.since(looked) < LOOK) {
            return;
        }
        self.looked = Some(now);
        if let Some(step) = self.utc.look((self.parts.wall)(), now) {
            log::warn!("the clock was set: {step:?}");
            self.note(step);
        }
        if self.utc.at(now).is_some() {
            self.calm("clock-unknown", (None, None), "UTC is known");
        } else if now.since(self.started) > CLOCK_DUE {
            let message = "nobody keeps the clock (no NTP, and no receiver that knows the time): dates are guesses until somebody does";
            self.alarm("clock-unknown", (None, None), message);
        }
        self.tell_utc(now);
        self.place_span(now, false);
        let slept = slept();
        if slept.saturating_sub(self.slept) > SLEPT {
            self.woke(now, slept.saturating_sub(self.slept));
        }
        self.slept = slept;
    }

    /// Tells the lanes what UTC is, once it is known and when it has changed by what people notice.
    fn tell_utc(&mut self, now: Monotonic) {
        let Some(wall) = self.utc.at(now) else {
            return;
        };
        let nanos = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        let zero = wall.unix_nanos.saturating_sub(nanos);
        let told = self.utc_told.map(|told| told.abs_diff(zero));
        if told.is_none_or(|off| off > 1_000_000_000) {
            self.utc_told = Some(zero);
            for lane in &self.parts.lanes {
                lane.tell(Command::Utc(zero));
            }
        }
    }

    /// Notes where the running span lies, as soon as that is known and whenever it was wrong. A recording
    /// that should not have been taken up ends when it is first known, not by a correction: a clock
    /// that is set wrong ends no lecture. `over`: it is the last chance to say it.
    pub(super) fn place_span(&mut self, now: Monotonic, over: bool) {
        let Some(running) = self.running.as_mut().filter(|r| r.end.is_none()) else {
            return;
        };
        let Some(wall) = self.utc.at(running.take.start) else {
            return;
        };
        let noted = running.place.wall.replace(wall);
        if let Some(noted) = noted {
            let soon = |at: Monotonic| now.since(at) < CORRECT;
            if !corrects(wall, noted) || (!over && running.placed.is_some_and(soon)) {
                running.place.wall = Some(noted);
                return;
            }
        }
        running.placed = Some(now);
        let gap = running.past.map(|past| past.away(&running.place));
        let whole = running.unjudged.map(|past| past.away(&running.place));
        let (recording, span) = (running.take.recording, running.take.span);
        match noted {
            None => log::info!("recording {recording}, span {span}: UTC is known now, {gap:?}"),
            Some(noted) => {
                let by = Duration::from_nanos(wall.unix_nanos.abs_diff(noted.unix_nanos));
                log::info!("recording {recording}, span {span}: its place was off by {by:?}");
            }
        }
        self.note(Event::SpanPlaced { span, wall, gap });
        if let Some(gap) = whole.or(gap).filter(|_| noted.is_none() && !over) {
            self.judge(recording, gap);
        }
    }

    /// Ends a recording that the box was away from for too long.
    fn judge(&mut self, recording: RecordingId, gap: GapLength) {
        if is_too_long(gap, self.parts.resume_within) {
            self.say_away(recording, gap);
            let _ = self.happen(Happening::Stop(StopReason::AwayTooLong));
        }
    }

    /// Says why a recording ends that nobody stopped; until the next one begins.
    pub(super) fn say_away(&mut self, recording: RecordingId, gap: GapLength) {
        let GapLength::Known { nanos, .. } = gap else {
            return;
        };
        let message = format!(
            "recording {recording} has ended: the box was away for {} min, longer than recording.resume-within-minutes = {}; press to record again",
            nanos / 60_000_000_000,
            self.parts.resume_within.as_secs() / 60
        );
        // Of the box: the recording itself may be whole at the receiver at once, and people shall see this.
        self.alarm("away-too-long", (None, None), &message);
    }

    /// The machine slept for a while: nothing was captured, and the monotonic clock stood still.
    pub(super) fn woke(&mut self, now: Monotonic, asleep: Duration) {
        let Some(running) = &mut self.running else {
            return;
        };
        if running.ending.is_some() || running.broken.is_some() {
            return;
        }
        log::warn!(
            "the machine slept for {} ms: a new span begins",
            asleep.as_millis()
        );
        let gap = GapLength::Known {
            nanos: u64::try_from(asleep.as_nanos()).unwrap_or(u64::MAX),
            uncertainty_nanos: 0,
        };
        let recording = running.take.recording;
        if is_too_long(gap, self.parts.resume_within) {
            return self.judge(recording, gap);
        }
        running.broken = Some(now);
        self.call_in(now);
    }

    /// Tells the lanes to give out what they hold, up to `end`.
    pub(super) fn call_in(&mut self, end: Monotonic) {
        if let Some(running) = &mut self.running {
            running.patience = Some(end.plus(super::PATIENCE));
            for lane in &self.parts.lanes {
                if !lane.tell(Command::End(running.take.recording, end)) {
                    running.unfinished.remove(&lane.track);
                }
            }
        }
        self.finish();
    }

    /// Begins the span after one that was broken off, once the lanes have given out what they held.
    pub(super) fn next_span(&mut self) {
        let Some((end, running)) = self
            .running
            .as_ref()
            .and_then(|running| Some((running.broken?, running)))
        else {
            return;
        };
        if running.held {
            // The length of the pause is counted from where sound and pictures end.
            let kept =
                Past::read(&self.spool(), running.take.recording).map(|past| past.kept_nanos);
            if let Some(running) = &mut self.running {
                running.kept_nanos = running.kept_nanos.or(kept.filter(|kept| *kept > 0));
            }
            return;
        }
        let start = running.place;
        let is_unknown = |past: &Past| past.away(&start) == GapLength::Unknown;
        let unjudged = running.unjudged.or(running.past.filter(is_unknown));
        let past = Past {
            start: Place {
                wall: start.wall.or_else(|| self.utc.at(running.take.start)),
                ..start
            },
            kept_nanos: (running.kept_nanos)
                .unwrap_or_else(|| super::after(running.take.start, end)),
            before_nanos: running.past.map_or(0, |past| {
                u64::try_from(past.recorded().as_nanos()).unwrap_or(u64::MAX)
            }),
            ..Past::default()
        };
        let recording = running.take.recording;
        self.write_facts();
        if self.runs(recording) {
            self.begin(recording, None, Some(past));
            if let Some(running) = &mut self.running {
                running.unjudged = unjudged;
            }
        }
    }
}

/// How long the machine has slept since it booted.
pub(super) fn slept() -> Duration {
    // The smaller of two readings: a thread may be held up between the two clocks.
    let read = || {
        let now = clock::now();
        Duration::from_nanos(clock::since_boot().saturating_sub(now.as_nanos()))
    };
    read().min(read())
}

/// The next instant at which the first camera captures a picture: the grid then lies on its pictures,
/// and choosing the nearest one moves nothing. `now` when no camera has a rhythm.
fn start_on_a_picture(now: Monotonic, rhythm: Option<(Monotonic, Rate)>) -> Monotonic {
    let Some((last, rate)) = rhythm else {
        return now;
    };
    let age = now.since(last);
    if age > IDLE {
        return now;
    }
    let ticks = rate.ticks_covering(age + Duration::from_nanos(1));
    last.plus(Duration::from_nanos(rate.tick_nanos(ticks)))
}
