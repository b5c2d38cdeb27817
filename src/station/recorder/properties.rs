//! Random fingers, requests and troubles over hours of virtual time, against the table and the promise
//! of the lamp.
//!
//! What a press should do is looked up in the table by [`Reading`], which has no state of the recorder's.

use super::reading::Reading;
use super::tests::{name, outcome};
use super::*;
use crate::panel::{Debounce, Press};
use proptest::prelude::*;
use std::collections::BTreeMap;

const MAXIMUM: Duration = Duration::from_secs(30);

fn ms(ms: u64) -> Monotonic {
    Monotonic::from_nanos(ms * 1_000_000)
}

/// Something from outside.
#[derive(Clone, Debug)]
enum Step {
    /// A finger rests on the button for so long; its contact bounces so often at both ends.
    Touch(u64, u64),
    /// Somebody asks at the socket.
    Ask(usize),
    /// The disk: it refuses, or is taken up again.
    Disk(bool),
    Erase,
    /// Syncs hang from here on, or do not.
    Hang(bool),
    /// The lamp can be driven, or not.
    Lamp(bool),
    Room(bool),
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let wait = prop_oneof![4 => 0u64..900, 3 => 900u64..2500, 1 => 2500u64..20_000];
    let length = prop_oneof![4 => 20u64..400, 1 => 1900u64..2600];
    let step = prop_oneof![
        12 => (length, 0u64..5).prop_map(|(length, bounces)| Step::Touch(length, bounces)),
        6 => (0usize..5).prop_map(Step::Ask),
        1 => any::<bool>().prop_map(Step::Disk),
        1 => Just(Step::Erase),
        2 => any::<bool>().prop_map(Step::Hang),
        3 => any::<bool>().prop_map(Step::Lamp),
        1 => any::<bool>().prop_map(Step::Room),
    ];
    prop::collection::vec((wait, step), 1..60)
}

/// As the table calls it.
fn row(input: &Input) -> &'static str {
    match input {
        Input::Pressed(..) => "Pressed",
        Input::Held => "Held",
        Input::Start(..) => "Start",
        Input::Stop(_) => "Stop",
        Input::Pause => "Pause",
        Input::Resume => "Resume",
        Input::Mark => "Mark",
        Input::TakeUp { paused: true, .. } => "TakeUp, paused",
        Input::TakeUp { .. } => "TakeUp",
        Input::Kept => "Kept",
        Input::Finished => "Finished",
        Input::Erased => "Erased",
        Input::Fault => "Fault",
    }
}

/// The box around the recorder, as far as it matters.
struct Hall {
    recorder: Recorder,
    reading: Reading,
    /// The recordings that were begun and neither ended nor erased.
    open: Vec<RecordingId>,
    capturing: bool,
    hangs: bool,
    kept: Option<Monotonic>,
    /// Since when something has to be kept: the last chunk, or the beginning.
    due_since: Monotonic,
    kept_due: Option<Monotonic>,
    finished_due: Option<Monotonic>,
    /// What the disk holds of one that it let down: the recording, how much, its time, paused.
    abandoned: Option<Input>,
    /// Since when the lamp cannot be driven.
    lampless: Option<Monotonic>,
    next: u8,
}

impl Hall {
    fn feed(&mut self, input: Input, now: Monotonic) -> Result<(), TestCaseError> {
        let before = self.recorder.state();
        let result = self.recorder.handle(input, now);
        self.judge(row(&input), before, result, now)?;
        if (input, self.recorder.state()) == (Input::Erased, State::Idle) && before != State::Idle {
            self.open.pop();
            (self.capturing, self.kept_due, self.finished_due) = (false, None, None);
        }
        if input == Input::Finished {
            self.open.pop();
        }
        Ok(())
    }

    /// What the recorder does by itself.
    fn poll(&mut self, now: Monotonic) -> Result<(), TestCaseError> {
        let before = self.recorder.state();
        let end = match before {
            State::Starting(r) | State::Recording(r) => Some(r.due()),
            State::Paused(r) => Some(r.since.plus(MAXIMUM)),
            _ => None,
        };
        let gone = |lost: Monotonic| now.since(lost) >= LAMPLESS;
        let row = if end.is_some_and(|end| end <= now) {
            "the end of the time"
        } else if self.capturing && self.lampless.is_some_and(gone) {
            "the lamp is away for too long"
        } else if self.reading.is_for_lamp() && self.lampless.is_none() {
            "the lamp is back, in a pause for it"
        } else {
            prop_assert_eq!(self.recorder.poll(now), None);
            return Ok(());
        };
        let result = Ok(self.recorder.poll(now));
        self.judge(row, before, result, now)
    }

    /// Whether the table says the same.
    fn judge(
        &mut self,
        row: &str,
        before: State,
        result: Result<Option<Action>, Refusal>,
        now: Monotonic,
    ) -> Result<(), TestCaseError> {
        let recorded = self.recorder.recorded(now);
        let found = outcome(before, result, &self.recorder, now);
        let elapsed = now.since(ms(0));
        let expected = self.reading.take(row, elapsed);
        prop_assert_eq!(
            &found,
            &expected,
            "{} at {:?} in {}",
            row,
            now,
            name(before)
        );
        prop_assert_eq!(name(self.recorder.state()), &self.reading.state);
        if let Some((_, recorded)) = recorded {
            prop_assert_eq!(recorded, self.reading.length(elapsed));
        }
        if let Ok(Some(action)) = result {
            self.act(action, before, now)?;
        }
        Ok(())
    }

    fn act(&mut self, action: Action, before: State, now: Monotonic) -> Result<(), TestCaseError> {
        match action {
            Action::Begin(recording, _) => {
                // What the disk let down is ended then.
                if self.abandoned.take().is_some() {
                    self.open.pop();
                }
                prop_assert!(!self.capturing && self.open.is_empty(), "two recordings");
                self.open.push(recording);
            }
            Action::Continue(recording) | Action::Rest(recording) => {
                prop_assert!(!self.capturing, "two spans at once");
                prop_assert_eq!(&self.open[..], &[recording]);
            }
            Action::Break
            | Action::End(_)
            | Action::Abandon
            | Action::Mark(_)
            | Action::Extend(_) => {}
        }
        match action {
            Action::Begin(..) | Action::Continue(_) => {
                (self.capturing, self.kept, self.due_since) = (true, None, now);
                self.kept_due = Some(now.plus(Duration::from_millis(400)));
            }
            Action::Mark(_) | Action::Extend(_) => prop_assert!(self.capturing),
            Action::Rest(_) | Action::Break => (self.capturing, self.kept_due) = (false, None),
            Action::End(_) => {
                (self.capturing, self.kept_due) = (false, None);
                if matches!(before, State::Paused(_)) {
                    self.due_since = now;
                }
                self.finished_due = Some(now.plus(Duration::from_millis(300)));
            }
            Action::Abandon => {
                (self.capturing, self.kept_due, self.finished_due) = (false, None, None);
                // One that was ending ends; what runs or is paused is taken up.
                self.abandoned = match before {
                    State::Starting(r) | State::Recording(r) | State::Paused(r) => {
                        Some(Input::TakeUp {
                            recording: r.recording,
                            recorded: self.reading.recorded,
                            extended: Some(r.most),
                            paused: matches!(before, State::Paused(_)),
                        })
                    }
                    _ => None,
                };
                if self.abandoned.is_none() {
                    self.open.pop();
                }
            }
        }
        Ok(())
    }

    /// P9, at any instant.
    fn judge_lamp(&self, now: Monotonic) -> Result<(), TestCaseError> {
        let world = World {
            ready: true,
            reachable: true,
            attention: false,
        };
        let lamp = self.recorder.lamp(world, now);
        let stopping = matches!(self.recorder.state(), State::Stopping(_));
        let fresh = now.since(self.due_since) <= UNKEPT;
        let says_kept = [
            Lamp::Solid,
            Lamp::Wink,
            Lamp::DoubleWink,
            Lamp::TripleWink,
            Lamp::Answer,
        ];
        if says_kept.contains(&lamp) {
            let kept = stopping || self.capturing && self.kept.is_some();
            prop_assert!(fresh && kept, "{lamp:?} at {now:?}");
        }
        if self.capturing || stopping {
            let kept = self.kept.is_some() || stopping;
            let shown = match lamp {
                Lamp::FastBlink => !fresh,
                Lamp::ShortBlink => fresh && !kept,
                lamp => kept && says_kept.contains(&lamp),
            };
            prop_assert!(shown, "captured under {lamp:?} at {now:?}");
        }
        // Nothing is captured where nobody sees it.
        let gone = |lost: Monotonic| now.since(lost) > Duration::from_secs(2);
        let unseen = self.capturing && self.lampless.is_some_and(gone);
        prop_assert!(!unseen, "captured without a lamp at {now:?}");
        let paused = matches!(self.recorder.state(), State::Paused(_));
        prop_assert_eq!(paused, lamp == Lamp::SlowBlink);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_sequence_of_presses_ends_where_the_table_says(
        steps in steps(),
        to_stop in any::<bool>(),
    ) {
        let button = if to_stop { Button::PressToStop } else { Button::HoldToStop };
        let rules = Rules { maximum: MAXIMUM, button };
        let mut hall = Hall {
            recorder: Recorder::new(rules),
            reading: Reading::new(to_stop, MAXIMUM),
            open: Vec::new(),
            capturing: false,
            hangs: false,
            kept: None,
            due_since: ms(0),
            kept_due: None,
            finished_due: None,
            abandoned: None,
            lampless: None,
            next: 0,
        };
        let mut finger = Debounce::new();
        let mut edges: BTreeMap<u64, bool> = BTreeMap::new();
        let mut asked = Vec::new();
        let mut clock = 0;
        for (wait, step) in steps {
            clock += wait;
            if let Step::Touch(length, bounces) = step {
                for (from, level) in [(clock, true), (clock + length, false)] {
                    for bounce in 0..=2 * bounces {
                        edges.insert(from + bounce * 3, level == (bounce % 2 == 0));
                    }
                }
                // The next one comes after the finger has left.
                clock += length + 40;
            } else {
                asked.push((clock, step));
            }
        }
        asked.reverse();
        let end = ms(clock + 100_000);
        let mut now = ms(0);
        let nanos = |now: &Monotonic| now.as_nanos() / 1_000_000;
        loop {
            let edge = edges.first_key_value().map(|(at, _)| ms(*at));
            let ask = asked.last().map(|(at, _)| ms(*at));
            let dues = [edge, ask, finger.next(), hall.recorder.poll_at(), hall.kept_due, hall.finished_due];
            let Some(due) = dues.iter().flatten().min().copied().filter(|due| *due < end) else {
                break;
            };
            // What is due at once names an instant that is over.
            now = now.max(due);
            hall.judge_lamp(now)?;
            hall.next = hall.next.wrapping_add(1);
            let fresh = RecordingId([hall.next; 16]);
            if hall.recorder.poll_at().is_some_and(|due| due <= now) {
                hall.poll(now)?;
            } else if hall.kept_due == Some(now) {
                hall.kept_due = Some(now.plus(Duration::from_millis(250)));
                if !hall.hangs {
                    hall.feed(Input::Kept, now)?;
                    (hall.kept, hall.due_since) = (Some(now), now);
                }
            } else if hall.finished_due == Some(now) {
                hall.finished_due = hall.hangs.then(|| now.plus(Duration::from_millis(250)));
                if !hall.hangs {
                    hall.feed(Input::Finished, now)?;
                }
            } else if ask == Some(now) {
                match asked.pop().unwrap().1 {
                    Step::Ask(0) => hall.feed(Input::Start(fresh, StartedBy::Socket), now)?,
                    Step::Ask(1) => hall.feed(Input::Stop(StopReason::Socket), now)?,
                    Step::Ask(2) => hall.feed(Input::Pause, now)?,
                    Step::Ask(3) => hall.feed(Input::Resume, now)?,
                    Step::Ask(_) => hall.feed(Input::Mark, now)?,
                    Step::Disk(true) if hall.recorder.state() != State::Idle => hall.feed(Input::Fault, now)?,
                    Step::Disk(false) if hall.recorder.state() == State::Fault => {
                        if let Some(taken_up) = hall.abandoned.take() {
                            hall.feed(taken_up, now)?;
                        }
                    }
                    Step::Disk(_) => {}
                    Step::Erase => hall.feed(Input::Erased, now)?,
                    Step::Hang(hangs) => hall.hangs = hangs,
                    Step::Lamp(lamp) => {
                        hall.lampless = (!lamp).then(|| hall.lampless.unwrap_or(now));
                        hall.reading.lamp = lamp;
                        hall.recorder.set_lamp(lamp, now);
                    }
                    Step::Room(room) => {
                        hall.reading.room = room;
                        hall.recorder.set_room(room);
                    }
                    Step::Touch(..) => unreachable!(),
                }
            } else {
                let press = match edges.first_entry().filter(|edge| *edge.key() == nanos(&now)) {
                    Some(edge) => finger.edge(edge.remove(), now),
                    None => finger.poll(now),
                };
                match press {
                    Some(Press::Down) => hall.feed(Input::Pressed(fresh, now), now)?,
                    Some(Press::Held) => hall.feed(Input::Held, now)?,
                    None => {}
                }
            }
            hall.judge_lamp(now)?;
        }
        // Whatever was left alone for longer than a recording and a pause may last is over.
        prop_assert!(!hall.capturing);
    }
}
