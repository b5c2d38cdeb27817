//! When a recording starts and stops: a pure state machine, no clock, device or file.
//!
//! | state     | `Start`           | `Stop`         | `Kept`      | `Finished` | `Erased` | `Fault`         |
//! |-----------|-------------------|----------------|-------------|------------|----------|-----------------|
//! | Idle      | Begin → Starting  | not recording  | -           | -          | -        | → Fault         |
//! | Starting  | already recording | End → Stopping | → Recording | -          | → Idle   | Abandon → Fault |
//! | Recording | already recording | End → Stopping | → Recording | -          | → Idle   | Abandon → Fault |
//! | Stopping  | wait              | stopping       | -           | → Idle     | → Idle   | Abandon → Fault |
//! | Fault     | Begin → Starting  | not recording  | -           | → Idle     | -        | -               |
//!
//! Without room on the disk a `Start` is refused in Idle and Fault, and the lamp says so.
//!
//! A press of the button while recording is answered and changes nothing; a hold stops. Reaching the
//! maximum length is a `Stop`. In Fault the spool does not keep bytes; a start tries again, and the
//! keeper takes the recording up by itself once it can (`Resume`, like a `Start`). Sending
//! what was recorded goes on in every state and is not a state of its own.

use crate::media::{Monotonic, RecordingId, StartedBy, StopReason};
use crate::panel::Lamp;
use std::time::Duration;

/// A recording of which nothing was kept for so long is in trouble (P9).
const UNKEPT: Duration = Duration::from_secs(2);

/// Where the recorder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is recorded; devices run and their pictures are discarded.
    Idle,
    /// A start was given; the first chunk is not kept yet.
    Starting(Running),
    /// The recording is running and is kept on the box.
    Recording(Running),
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
    /// When it was begun, or taken up after a restart.
    pub since: Monotonic,
    /// How much of it earlier runs had recorded.
    pub before: Duration,
    /// When a chunk of it was last kept.
    pub kept: Monotonic,
}

/// What can happen to the recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Somebody wants a recording under this fresh id.
    Start(RecordingId, StartedBy),
    /// A recording that an earlier run left open, with so much in it, is taken up again.
    Resume(RecordingId, Duration),
    /// Somebody wants the end.
    Stop(StopReason),
    /// A chunk of the recording is kept.
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
    /// The last recording is being finished; try again in a moment.
    #[error("the last recording is being finished; try again in a moment")]
    Stopping,
    /// The disk is too full.
    #[error(
        "the disk is too full for a new recording: free space, or wait until the receiver has taken what waits; see `hallcast status`"
    )]
    NoRoom,
}

/// The state machine.
#[derive(Debug)]
pub struct Recorder {
    state: State,
    maximum: Duration,
    /// There is room for a new recording.
    room: bool,
}

impl Recorder {
    /// An idle recorder whose recordings last at most `maximum`.
    pub fn new(maximum: Duration) -> Self {
        Self {
            state: State::Idle,
            maximum,
            room: true,
        }
    }

    /// Says whether there is room for a new recording: without, none begins, and the lamp says so.
    pub fn set_room(&mut self, room: bool) {
        self.room = room;
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// What the lamp shows at `now`, by what is known of the world. Of what a recording may show at
    /// once, a fault comes before a device that gives nothing, and that before the receiver.
    pub fn lamp(&self, world: World, now: Monotonic) -> Lamp {
        match self.state {
            State::Fault => Lamp::FastBlink,
            State::Idle if !self.room => Lamp::FastBlink,
            // The disk does not answer: what is captured is not being kept.
            State::Recording(running) if now.since(running.kept) > UNKEPT => Lamp::FastBlink,
            State::Recording(_) | State::Stopping(_) if world.attention => Lamp::DoubleWink,
            State::Recording(_) | State::Stopping(_) if world.reachable => Lamp::Solid,
            State::Recording(_) | State::Stopping(_) => Lamp::Wink,
            // Not solid yet: nothing is kept.
            State::Idle | State::Starting(_) if world.ready => Lamp::ShortBlink,
            State::Idle | State::Starting(_) => Lamp::Off,
        }
    }

    /// When [`Recorder::poll`] next has something to say.
    pub fn poll_at(&self) -> Option<Monotonic> {
        match self.state {
            State::Starting(running) | State::Recording(running) => Some(
                running
                    .since
                    .plus(self.maximum.saturating_sub(running.before)),
            ),
            _ => None,
        }
    }

    /// Ends a recording that has reached its maximum length.
    pub fn poll(&mut self, now: Monotonic) -> Option<Action> {
        let due = self.poll_at().is_some_and(|due| due <= now);
        due.then(|| {
            self.handle(Input::Stop(StopReason::MaximumLength), now)
                .ok()
                .flatten()
        })
        .flatten()
    }

    /// Takes an input in. `Ok(None)`: nothing is to be done.
    pub fn handle(&mut self, input: Input, now: Monotonic) -> Result<Option<Action>, Refusal> {
        let (next, action) = match (self.state, input) {
            (State::Idle | State::Fault, Input::Start(..)) if !self.room => {
                return Err(Refusal::NoRoom);
            }
            (State::Idle | State::Fault, Input::Start(recording, by)) => (
                State::Starting(Running {
                    recording,
                    since: now,
                    before: Duration::ZERO,
                    kept: now,
                }),
                Some(Action::Begin(recording, by)),
            ),
            (State::Idle | State::Fault, Input::Resume(recording, before)) => (
                State::Starting(Running {
                    recording,
                    since: now,
                    before,
                    kept: now,
                }),
                Some(Action::Continue(recording)),
            ),
            (State::Starting(_) | State::Recording(_), Input::Start(..) | Input::Resume(..)) => {
                return Err(Refusal::AlreadyRecording);
            }
            (State::Stopping(_), Input::Start(..) | Input::Resume(..) | Input::Stop(_)) => {
                return Err(Refusal::Stopping);
            }
            (State::Idle | State::Fault, Input::Stop(_)) => return Err(Refusal::NotRecording),
            (State::Starting(running) | State::Recording(running), Input::Stop(reason)) => {
                (State::Stopping(running), Some(Action::End(reason)))
            }
            (State::Starting(running) | State::Recording(running), Input::Kept) => (
                State::Recording(Running {
                    kept: now,
                    ..running
                }),
                None,
            ),
            (State::Stopping(_) | State::Fault, Input::Finished) => (State::Idle, None),
            (State::Starting(_) | State::Recording(_) | State::Stopping(_), Input::Fault) => {
                (State::Fault, Some(Action::Abandon))
            }
            (State::Starting(_) | State::Recording(_) | State::Stopping(_), Input::Erased) => {
                (State::Idle, None)
            }
            (State::Idle, Input::Fault) => (State::Fault, None),
            (state, Input::Kept | Input::Finished | Input::Erased | Input::Fault) => (state, None),
        };
        self.state = next;
        Ok(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: RecordingId = RecordingId([1; 16]);
    const SECOND: RecordingId = RecordingId([2; 16]);
    const HOUR: Duration = Duration::from_secs(3600);
    const WELL: World = World {
        ready: true,
        reachable: true,
        attention: false,
    };
    const AWAY: World = World {
        reachable: false,
        ..WELL
    };

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_nanos(seconds * 1_000_000_000)
    }

    fn started() -> Recorder {
        let mut recorder = Recorder::new(HOUR);
        recorder
            .handle(Input::Start(FIRST, StartedBy::Button), at(0))
            .unwrap();
        recorder
    }

    #[test]
    fn the_table_of_the_module_is_the_code() {
        let text = include_str!("recorder.rs");
        let running = Running {
            recording: FIRST,
            since: at(0),
            before: Duration::ZERO,
            kept: at(0),
        };
        let inputs = [
            Input::Start(SECOND, StartedBy::Socket),
            Input::Stop(StopReason::Button),
            Input::Kept,
            Input::Finished,
            Input::Erased,
            Input::Fault,
        ];
        for (name, state) in [
            ("Idle", State::Idle),
            ("Starting", State::Starting(running)),
            ("Recording", State::Recording(running)),
            ("Stopping", State::Stopping(running)),
            ("Fault", State::Fault),
        ] {
            let row = text
                .lines()
                .find(|line| line.starts_with(&format!("//! | {name} ")))
                .unwrap();
            let cells: Vec<&str> = row.split('|').skip(2).map(str::trim).collect();
            for (input, cell) in inputs.iter().zip(cells) {
                let mut recorder = Recorder {
                    state,
                    maximum: HOUR,
                    room: true,
                };
                let before = format!("{:?}", recorder.state());
                let found = match recorder.handle(*input, at(1)) {
                    Err(Refusal::AlreadyRecording) => "already recording".into(),
                    Err(Refusal::NotRecording) => "not recording".into(),
                    Err(Refusal::NoRoom) => "no room".into(),
                    Err(Refusal::Stopping) if matches!(input, Input::Stop(_)) => "stopping".into(),
                    Err(Refusal::Stopping) => "wait".into(),
                    Ok(action) => {
                        let after = format!("{:?}", recorder.state());
                        let word = |text: String| text.split(['(', ' ']).next().unwrap().to_owned();
                        let action = action
                            .map(|action| word(format!("{action:?} ")) + " ")
                            .unwrap_or_default();
                        if after == before && action.is_empty() {
                            "-".into()
                        } else {
                            format!("{action}→ {}", word(after))
                        }
                    }
                };
                assert_eq!(found, cell, "{name} on {input:?}");
            }
        }
    }

    #[test]
    fn the_lamp_is_solid_only_while_chunks_are_kept() {
        let mut recorder = started();
        assert_eq!(recorder.lamp(WELL, at(1)), Lamp::ShortBlink);
        recorder.handle(Input::Kept, at(1)).unwrap();
        assert_eq!(recorder.lamp(WELL, at(2)), Lamp::Solid);
        assert_eq!(recorder.lamp(AWAY, at(3)), Lamp::Wink);
        assert_eq!(recorder.lamp(WELL, at(4)), Lamp::FastBlink);
        recorder.handle(Input::Kept, at(5)).unwrap();
        assert_eq!(recorder.lamp(WELL, at(5)), Lamp::Solid);
        recorder.handle(Input::Fault, at(6)).unwrap();
        assert_eq!(recorder.lamp(WELL, at(6)), Lamp::FastBlink);
    }

    #[test]
    fn a_device_that_gives_nothing_shows_before_the_receiver_and_after_a_fault() {
        for world in [WELL, AWAY] {
            let world = World {
                attention: true,
                ..world
            };
            let mut recorder = Recorder::new(HOUR);
            assert_eq!(recorder.lamp(world, at(0)), Lamp::ShortBlink, "idle");
            let start = Input::Start(FIRST, StartedBy::Button);
            recorder.handle(start, at(0)).unwrap();
            assert_eq!(recorder.lamp(world, at(0)), Lamp::ShortBlink, "not kept");
            recorder.handle(Input::Kept, at(1)).unwrap();
            assert_eq!(recorder.lamp(world, at(1)), Lamp::DoubleWink);
            assert_eq!(recorder.lamp(world, at(4)), Lamp::FastBlink, "not kept");
            recorder.handle(Input::Kept, at(4)).unwrap();
            recorder.handle(Input::Fault, at(4)).unwrap();
            assert_eq!(recorder.lamp(world, at(4)), Lamp::FastBlink);
        }
    }

    #[test]
    fn without_room_nothing_begins_and_the_lamp_says_so_while_what_runs_goes_on() {
        let mut recorder = started();
        recorder.set_room(false);
        recorder.handle(Input::Kept, at(1)).unwrap();
        assert_eq!(recorder.lamp(WELL, at(1)), Lamp::Solid);
        let stop = Input::Stop(StopReason::Button);
        recorder.handle(stop, at(2)).unwrap();
        recorder.handle(Input::Finished, at(2)).unwrap();
        assert_eq!(recorder.lamp(WELL, at(3)), Lamp::FastBlink);
        let start = Input::Start(SECOND, StartedBy::Button);
        assert_eq!(recorder.handle(start, at(3)), Err(Refusal::NoRoom));
        recorder.set_room(true);
        assert!(recorder.handle(start, at(4)).is_ok());
    }

    #[test]
    fn a_recording_ends_at_its_maximum_length() {
        let mut recorder = started();
        assert_eq!(recorder.poll(at(3599)), None);
        assert_eq!(
            recorder.poll(at(3600)),
            Some(Action::End(StopReason::MaximumLength))
        );
        assert_eq!(recorder.poll(at(3600)), None);
    }

    #[test]
    fn the_maximum_length_counts_what_earlier_runs_recorded() {
        let mut recorder = Recorder::new(HOUR);
        let resume = Input::Resume(FIRST, Duration::from_secs(3000));
        recorder.handle(resume, at(100)).unwrap();
        assert_eq!(recorder.poll_at(), Some(at(700)));
        let mut recorder = Recorder::new(HOUR);
        recorder
            .handle(Input::Resume(FIRST, 2 * HOUR), at(100))
            .unwrap();
        assert_eq!(
            recorder.poll(at(100)),
            Some(Action::End(StopReason::MaximumLength))
        );
    }
}
