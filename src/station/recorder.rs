//! When a recording starts, pauses and stops, and what a press means: a pure state machine, no clock,
//! device or file.
//!
//! | input | Idle | Starting | Recording | Paused | Stopping | Fault |
//! |---|---|---|---|---|---|---|
//! | `Start` | Begin → Starting | already recording | already recording | paused | wait | Begin → Starting |
//! | `Stop` | not recording | End → Stopping | End → Stopping | End → Stopping | wait | not recording |
//! | `Pause` | not recording | Break → Paused | Break → Paused | paused | wait | not recording |
//! | `Pause`, in a pause for the lamp | - | - | - | Break | - | - |
//! | `Resume` | not recording | not paused | not paused | Continue → Starting | wait | not recording |
//! | `Mark` | not recording | Mark | Mark | paused | wait | not recording |
//! | `Pressed` | Begin → Starting | answered | answered | Continue → Starting | wait | Begin → Starting |
//! | `Pressed`, just after one that acted | - | answered | answered | Continue → Starting | - | Begin → Starting |
//! | `Pressed`, twice | Begin → Starting | Mark | Mark | Continue → Starting | wait | Begin → Starting |
//! | `Pressed`, press to stop | Begin → Starting | End → Stopping | End → Stopping | Continue → Starting | wait | Begin → Starting |
//! | `Pressed`, press to stop, near the end | Begin → Starting | Extend | Extend | Continue → Starting | wait | Begin → Starting |
//! | `Held` | not recording | End → Stopping | End → Stopping | End → Stopping | wait | not recording |
//! | `Held`, the press that started | not recording | - | - | - | wait | not recording |
//! | the end of the time | - | End → Stopping | End → Stopping | End → Stopping | - | - |
//! | the lamp is away for too long | - | Break → Paused | Break → Paused | - | - | - |
//! | the lamp is back, in a pause for it | - | - | - | Continue → Starting | - | - |
//! | `TakeUp` | Continue → Starting | already recording | already recording | paused | wait | Continue → Starting |
//! | `TakeUp`, paused | Rest → Paused | already recording | already recording | paused | wait | Rest → Paused |
//! | `Kept` | - | → Recording | → Recording | - | → Stopping | - |
//! | `Finished` | - | - | - | - | → Idle | → Idle |
//! | `Erased` | - | → Idle | → Idle | → Idle | → Idle | - |
//! | `Fault` | → Fault | Abandon → Fault | Abandon → Fault | Abandon → Fault | Abandon → Fault | - |
//!
//! Without room on the disk no recording begins in Idle and Fault, and the lamp says so. One that runs
//! goes on, also out of a pause.
//!
//! *A lamp that is needed and cannot be driven* shows nobody that something is captured (P9). No
//! recording begins then and none is resumed; one that runs is paused after [`LAMPLESS`], and one that
//! is taken up rests. It goes on by itself with the lamp, which is how a start of the box finds it: the
//! lamp's guard needs a moment. A pause for the lamp is on record as any other, except that one at a
//! take-up is part of the absence.
//!
//! *Presses.* The contact's bouncing is gone before ([`crate::panel::Debounce`]); what a press means is
//! decided here. It acts when the button goes down. A second one less than [`TOGETHER`] after a start
//! or a resume, whoever gave it, is the same one; where a press stops, so is one after the stop. A
//! press that changes nothing is answered: the lamp goes dark for a moment. Two presses within
//! [`TOGETHER`] set a mark. A hold stops, unless its own press has started the recording; a hold in a
//! pause resumes when it goes down and stops when it is one, and the lamp shows what is captured
//! between. Where a press stops ([`Button::PressToStop`]) there are no double presses, and near the end
//! a press extends; a hold stops there too.
//!
//! *Time.* A recording ends by itself once so much is recorded as [`Rules::maximum`] says; the lamp
//! warns for the last [`WARNING`]. Time in a pause is not recorded and does not count, but a pause that
//! lasts as long as a recording may ends the recording. A mark, and a press near the end, extend: at
//! least [`EXTENSION`] is left from then on.
//!
//! *A pause* ends the span; a resume begins the next one. A box that comes back from a power cut comes
//! back paused: nobody may be captured who was promised not to be. That the recording is paused is a
//! fact in its events.
//!
//! In Fault the spool does not keep bytes; a start tries again, and the keeper takes the recording up
//! by itself once it can (`TakeUp`). Sending what was recorded goes on in every state, also after the
//! end, and nothing here depends on it: it is not a state.
//!
//! Longer than most files: the table and the machine that it describes stand together.

use crate::media::{Monotonic, RecordingId, StartedBy, StopReason};
use crate::panel::Lamp;
use std::time::Duration;

/// A recording of which nothing was kept for so long is in trouble. The lamp's guard hears of it with the
/// keeper's next beat, and both together are less than 2 s (P9).
const UNKEPT: Duration = Duration::from_millis(1750);
/// A recording is paused once the lamp that it needs cannot be driven for so long: less than that takes
/// another guard. With what it takes to notice that one is frozen it is less than 2 s (P9).
const LAMPLESS: Duration = Duration::from_secs(1);
/// Presses this close together belong together.
pub const TOGETHER: Duration = Duration::from_secs(1);
/// The lamp warns for so long before a recording ends by itself; for half of one that is short.
pub const WARNING: Duration = Duration::from_secs(5 * 60);
/// What is left of a recording's time at least once it was extended, if a recording may be that long.
pub const EXTENSION: Duration = Duration::from_secs(30 * 60);
/// The lamp's answer to a press that changes nothing lasts so long: there is light between two.
const ANSWER: Duration = Duration::from_millis(150);

/// Where the recorder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is recorded; devices run and their pictures are discarded.
    Idle,
    /// A start was given; the first chunk is not kept yet.
    Starting(Running),
    /// The recording is running and is kept on the box.
    Recording(Running),
    /// The recording is open and nothing is captured.
    Paused(Running),
    /// The stages give out what they still hold.
    Stopping(Running),
    /// Bytes could not be kept.
    Fault,
}

/// The recording in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub recording: RecordingId,
    /// Since when it is captured, or paused, or stopping.
    since: Monotonic,
    /// How much of it was recorded before that.
    before: Duration,
    /// When a chunk of it was last kept, or nothing had to be.
    kept: Monotonic,
    /// How much of it may be recorded.
    most: Duration,
}

impl Running {
    /// The same, no longer captured.
    fn at_rest(self, now: Monotonic) -> Self {
        Self {
            since: now,
            before: self.before + now.since(self.since),
            ..self
        }
    }

    /// The same, captured again.
    fn going_on(self, now: Monotonic) -> Self {
        Self {
            since: now,
            kept: now,
            ..self
        }
    }

    /// When it will have lasted as long as it may, if it is captured until then.
    fn due(&self) -> Monotonic {
        self.since.plus(self.most.saturating_sub(self.before))
    }
}

/// What can happen to the recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Somebody wants a recording under this fresh id.
    Start(RecordingId, StartedBy),
    /// Somebody wants the end.
    Stop(StopReason),
    /// Nothing shall be captured until somebody resumes.
    Pause,
    /// The pause is over.
    Resume,
    /// This moment shall be found again.
    Mark,
    /// The button went down then; a recording that this starts has this fresh id.
    Pressed(RecordingId, Monotonic),
    /// The button has been down for a hold.
    Held,
    /// A recording that an earlier run, or a disk that failed, left open.
    TakeUp {
        /// The recording.
        recording: RecordingId,
        /// How much is recorded.
        recorded: Duration,
        /// How much of it may be, where it was extended.
        extended: Option<Duration>,
        /// It was paused then.
        paused: bool,
    },
    /// A chunk of the span in hand is kept.
    Kept,
    /// Every stage has given out what it held and the `End` fact is in the spool.
    Finished,
    /// The recording in hand was erased: nothing of it is kept any more.
    Erased,
    /// The spool cannot keep bytes.
    Fault,
}

/// What the lamp depends on beside the recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    /// Some device is open.
    pub ready: bool,
    /// The receiver is reachable, or none is configured.
    pub reachable: bool,
    /// A camera or the microphone gives nothing: somebody should look.
    pub attention: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin this recording.
    Begin(RecordingId, StartedBy),
    /// Take this recording up in a new span.
    Continue(RecordingId),
    /// Take this recording up without capturing anything.
    Rest(RecordingId),
    /// End the span, and capture nothing.
    Break,
    /// Note a mark, and where it extends the recording how much may be recorded now.
    Mark(Option<Duration>),
    /// Note how much may be recorded now.
    Extend(Duration),
    /// End the running recording.
    End(StopReason),
    /// Stop feeding the spool; the recording stays open in it until the disk works again.
    Abandon,
}

/// Why a request changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A recording is running.
    #[error("already recording")]
    AlreadyRecording,
    /// Nothing is running.
    #[error("not recording")]
    NotRecording,
    /// The recording is paused.
    #[error("paused: `hallcast resume` goes on with the recording, `hallcast stop` ends it")]
    Paused,
    /// It is not.
    #[error("not paused")]
    NotPaused,
    /// The last recording is being finished; try again in a moment.
    #[error("the last recording is being finished; try again in a moment")]
    Stopping,
    /// The disk is too full.
    #[error(
        "the disk is too full for a new recording: free space, or wait until the receiver has taken what waits; see `hallcast status`"
    )]
    NoRoom,
    /// The lamp cannot be driven.
    #[error(
        "the lamp cannot be driven, and nobody shall be recorded without one: see the alarm `lamp` in `hallcast status`, or set recording.allow-without-lamp"
    )]
    NoLamp,
}

/// What stops a recording at the button.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Button {
    /// A hold: a brush against it ends no lecture.
    #[default]
    HoldToStop,
    /// A press.
    PressToStop,
}

/// What the site decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The longest recording.
    pub maximum: Duration,
    /// What stops one at the button.
    pub button: Button,
}

/// The state machine.
#[derive(Debug)]
pub struct Recorder {
    state: State,
    rules: Rules,
    /// There is room for a new recording.
    room: bool,
    /// Since when the lamp cannot be driven, where it is needed.
    lampless: Option<Monotonic>,
    /// The pause is for the lamp: it is over with that.
    for_lamp: bool,
    /// When a start or a resume, or a press that stopped, took effect: presses soon after are the same one.
    acted: Option<Monotonic>,
    /// When a press was answered that may be the first of two.
    pressed: Option<Monotonic>,
    /// The recording was not started by the press that is down, nor since: its hold stops.
    hold_stops: bool,
    /// When a press was answered that changed nothing.
    answered: Option<Monotonic>,
}

impl Recorder {
    /// An idle recorder.
    pub fn new(rules: Rules) -> Self {
        Self {
            state: State::Idle,
            rules,
            room: true,
            lampless: None,
            for_lamp: false,
            acted: None,
            pressed: None,
            hold_stops: true,
            answered: None,
        }
    }

    /// Says whether there is room for a new recording: without, none begins, and the lamp says so.
    pub fn set_room(&mut self, room: bool) {
        self.room = room;
    }

    /// Says whether the lamp can be driven or is not needed: without, nothing is captured for long.
    pub fn set_lamp(&mut self, lamp: bool, now: Monotonic) {
        let since = self.lampless.unwrap_or(now);
        self.lampless = (!lamp).then_some(since);
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// The recording in hand, and how much of it is recorded at `now`: pauses and absences do not count.
    pub fn recorded(&self, now: Monotonic) -> Option<(RecordingId, Duration)> {
        match self.state {
            State::Starting(running) | State::Recording(running) => {
                Some((running.recording, running.before + now.since(running.since)))
            }
            State::Paused(running) | State::Stopping(running) => {
                Some((running.recording, running.before))
            }
            State::Idle | State::Fault => None,
        }
    }

    /// How much of the recording in hand may be recorded, where that is more than the rules say.
    pub fn extended(&self) -> Option<Duration> {
        match self.state {
            State::Starting(running)
            | State::Recording(running)
            | State::Paused(running)
            | State::Stopping(running) => {
                Some(running.most).filter(|most| *most > self.rules.maximum)
            }
            State::Idle | State::Fault => None,
        }
    }

    /// What the lamp shows at `now`, by what is known of the world. Of what a recording may show at
    /// once, a fault comes first, then the answer to a press, then the end that is near, a device that
    /// gives nothing, and the receiver.
    pub fn lamp(&self, world: World, now: Monotonic) -> Lamp {
        match self.state {
            State::Fault => Lamp::FastBlink,
            State::Idle if !self.room => Lamp::FastBlink,
            State::Paused(_) => Lamp::SlowBlink,
            // The disk does not answer: what is captured is not being kept.
            State::Starting(running) | State::Recording(running) | State::Stopping(running)
                if now.since(running.kept) > UNKEPT =>
            {
                Lamp::FastBlink
            }
            State::Recording(_) | State::Stopping(_) if self.answers(now) => Lamp::Answer,
            State::Recording(running) if self.is_near_end(&running, now) => Lamp::TripleWink,
            State::Recording(_) | State::Stopping(_) if world.attention => Lamp::DoubleWink,
            State::Recording(_) | State::Stopping(_) if world.reachable => Lamp::Solid,
            State::Recording(_) | State::Stopping(_) => Lamp::Wink,
            // Not solid yet: nothing is kept.
            State::Idle | State::Starting(_) if world.ready => Lamp::ShortBlink,
            State::Idle | State::Starting(_) => Lamp::Off,
        }
    }

    fn answers(&self, now: Monotonic) -> bool {
        self.answered.is_some_and(|at| now.since(at) < ANSWER)
    }

    fn is_near_end(&self, running: &Running, now: Monotonic) -> bool {
        let warning = WARNING.min(self.rules.maximum / 2);
        now.plus(warning) >= running.due()
    }

    /// When [`Recorder::poll`] next has something to do.
    pub fn poll_at(&self) -> Option<Monotonic> {
        let answered = self.answered.map(|at| at.plus(ANSWER));
        [self.end_due(), self.lamp_due(), answered]
            .into_iter()
            .flatten()
            .min()
    }

    /// When the time of the recording, or of its pause, is over.
    fn end_due(&self) -> Option<Monotonic> {
        match self.state {
            State::Starting(running) | State::Recording(running) => Some(running.due()),
            State::Paused(running) => Some(running.since.plus(self.rules.maximum)),
            State::Idle | State::Stopping(_) | State::Fault => None,
        }
    }

    /// When a recording is paused for the lamp, or goes on with it.
    fn lamp_due(&self) -> Option<Monotonic> {
        match self.state {
            State::Starting(_) | State::Recording(_) => {
                self.lampless.map(|since| since.plus(LAMPLESS))
            }
            State::Paused(running) => {
                (self.for_lamp && self.lampless.is_none()).then_some(running.since)
            }
            State::Idle | State::Stopping(_) | State::Fault => None,
        }
    }

    /// Ends a recording that has reached its maximum length, or was paused for as long; pauses one for
    /// want of the lamp, and goes on with it.
    pub fn poll(&mut self, now: Monotonic) -> Option<Action> {
        self.answered = self.answered.filter(|_| self.answers(now));
        let is_due = |due: Option<Monotonic>| due.is_some_and(|due| due <= now);
        if is_due(self.end_due()) {
            let end = Input::Stop(StopReason::MaximumLength);
            return self.handle(end, now).ok().flatten();
        }
        if !is_due(self.lamp_due()) {
            return None;
        }
        let (next, action) = match self.state {
            State::Starting(running) | State::Recording(running) => {
                self.for_lamp = true;
                (State::Paused(running.at_rest(now)), Action::Break)
            }
            State::Paused(running) => {
                let action = Action::Continue(running.recording);
                (State::Starting(running.going_on(now)), action)
            }
            State::Idle | State::Stopping(_) | State::Fault => return None,
        };
        self.state = next;
        Some(action)
    }

    /// Takes an input in. `Ok(None)`: nothing is to be done.
    pub fn handle(&mut self, input: Input, now: Monotonic) -> Result<Option<Action>, Refusal> {
        use State::{Fault, Idle, Paused, Recording, Starting, Stopping};
        let (next, action) = match (self.state, input) {
            (_, Input::Pressed(fresh, at)) => return self.press(fresh, at.min(now), now),
            (_, Input::Held) => return self.hold(now),
            (Idle | Fault, Input::Start(..)) if !self.room => return Err(Refusal::NoRoom),
            (Idle | Fault, Input::Start(..)) if self.lampless.is_some() => {
                return Err(Refusal::NoLamp);
            }
            (Idle | Fault, Input::Start(recording, by)) => {
                (self.acted, self.pressed, self.hold_stops) = (Some(now), None, false);
                let running = Running {
                    recording,
                    since: now,
                    before: Duration::ZERO,
                    kept: now,
                    most: self.rules.maximum,
                };
                (Starting(running), Some(Action::Begin(recording, by)))
            }
            (
                Idle | Fault,
                Input::TakeUp {
                    recording,
                    recorded,
                    extended,
                    paused,
                },
            ) => {
                let running = Running {
                    recording,
                    since: now,
                    before: recorded,
                    kept: now,
                    most: self.rules.maximum.max(extended.unwrap_or_default()),
                };
                self.for_lamp = !paused && self.lampless.is_some();
                match paused || self.for_lamp {
                    true => (Paused(running), Some(Action::Rest(recording))),
                    false => (Starting(running), Some(Action::Continue(recording))),
                }
            }
            (Stopping(_), Input::Start(..) | Input::TakeUp { .. } | Input::Stop(_))
            | (Stopping(_), Input::Pause | Input::Resume | Input::Mark) => {
                return Err(Refusal::Stopping);
            }
            (Starting(_) | Recording(_), Input::Start(..) | Input::TakeUp { .. }) => {
                return Err(Refusal::AlreadyRecording);
            }
            (Paused(running), Input::Pause) if self.for_lamp => {
                // Whoever asks for it does not want it to be over with the lamp.
                self.for_lamp = false;
                (Paused(running), Some(Action::Break))
            }
            (Paused(_), Input::Start(..) | Input::TakeUp { .. } | Input::Pause | Input::Mark) => {
                return Err(Refusal::Paused);
            }
            (Idle | Fault, Input::Stop(_) | Input::Pause | Input::Resume | Input::Mark) => {
                return Err(Refusal::NotRecording);
            }
            (Starting(running) | Recording(running), Input::Stop(reason)) => {
                self.acted = None;
                (Stopping(running.at_rest(now)), Some(Action::End(reason)))
            }
            (Paused(running), Input::Stop(reason)) => {
                self.acted = None;
                let running = Running {
                    kept: now,
                    ..running
                };
                (Stopping(running), Some(Action::End(reason)))
            }
            (Starting(running) | Recording(running), Input::Pause) => {
                self.for_lamp = false;
                (Paused(running.at_rest(now)), Some(Action::Break))
            }
            (Starting(_) | Recording(_), Input::Resume) => return Err(Refusal::NotPaused),
            (Paused(_), Input::Resume) if self.lampless.is_some() => return Err(Refusal::NoLamp),
            (Paused(running), Input::Resume) => {
                (self.acted, self.pressed, self.hold_stops) = (Some(now), None, true);
                let action = Action::Continue(running.recording);
                (Starting(running.going_on(now)), Some(action))
            }
            (Starting(_) | Recording(_), Input::Mark) => {
                return Ok(Some(Action::Mark(self.extend(now))));
            }
            (Starting(running) | Recording(running), Input::Kept) => (
                Recording(Running {
                    kept: now,
                    ..running
                }),
                None,
            ),
            (Stopping(running), Input::Kept) => (
                Stopping(Running {
                    kept: now,
                    ..running
                }),
                None,
            ),
            (Stopping(_) | Fault, Input::Finished) => (Idle, None),
            (Starting(_) | Recording(_) | Paused(_) | Stopping(_), Input::Fault) => {
                self.acted = None;
                (Fault, Some(Action::Abandon))
            }
            (Starting(_) | Recording(_) | Paused(_) | Stopping(_), Input::Erased) => {
                self.acted = None;
                (Idle, None)
            }
            (Idle, Input::Fault) => (Fault, None),
            (state, Input::Kept | Input::Finished | Input::Erased | Input::Fault) => (state, None),
        };
        self.state = next;
        Ok(action)
    }

    /// The button went down at `pressed`, which is heard of at `now`: a disk may have held that up. What
    /// belongs together is told by the finger.
    fn press(
        &mut self,
        fresh: RecordingId,
        pressed: Monotonic,
        now: Monotonic,
    ) -> Result<Option<Action>, Refusal> {
        let soon = |at: Option<Monotonic>| at.is_some_and(|at| pressed.since(at) < TOGETHER);
        let (same, second) = (soon(self.acted), soon(self.pressed.take()));
        self.hold_stops |= !same;
        match self.state {
            State::Idle | State::Stopping(_) if same => Ok(None),
            State::Idle | State::Fault | State::Paused(_) => {
                let input = match self.state {
                    State::Paused(_) => Input::Resume,
                    _ => Input::Start(fresh, StartedBy::Button),
                };
                let action = self.handle(input, now)?;
                self.acted = Some(pressed);
                Ok(action)
            }
            State::Stopping(_) => {
                self.answered = Some(now);
                Err(Refusal::Stopping)
            }
            State::Starting(running) | State::Recording(running) => {
                let to_stop = self.rules.button == Button::PressToStop && !same;
                if to_stop && !self.is_near_end(&running, now) {
                    let stopped = self.handle(Input::Stop(StopReason::Button), now);
                    self.acted = Some(pressed);
                    return stopped;
                }
                self.answered = Some(now);
                if to_stop {
                    self.acted = Some(pressed);
                    return Ok(self.extend(now).map(Action::Extend));
                }
                if second {
                    return self.handle(Input::Mark, now);
                }
                let may_be_first = self.rules.button == Button::HoldToStop && !same;
                self.pressed = may_be_first.then_some(pressed);
                Ok(None)
            }
        }
    }

    /// The button was held.
    fn hold(&mut self, now: Monotonic) -> Result<Option<Action>, Refusal> {
        match self.state {
            State::Starting(_) | State::Recording(_) | State::Paused(_) if !self.hold_stops => {
                Ok(None)
            }
            _ => self.handle(Input::Stop(StopReason::Button), now),
        }
    }

    /// Sees to it that something is left of the time; how much may be recorded now, if that is more.
    fn extend(&mut self, now: Monotonic) -> Option<Duration> {
        let (State::Starting(running) | State::Recording(running)) = &mut self.state else {
            return None;
        };
        let recorded = running.before + now.since(running.since);
        let wanted = recorded + EXTENSION.min(self.rules.maximum);
        (wanted > running.most).then(|| {
            running.most = wanted;
            wanted
        })
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod tests;
