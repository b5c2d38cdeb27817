//! Random fingers on the real line and random requests at the socket, against the recorder's table.
//!
//! What the box should be at any time is read from the table by the unit tests' own reading of it, out of the
//! instants of the inputs; two things the box does by itself (the first chunk is kept, the end is kept) are
//! taken from what it tells, where the table allows them. What the lamp should show at any time follows from
//! that by the rhythms of docs/status.md.
//!
//! One box leaves all bouncing to its own lock-out, the other has the kernel's filter before it as well.
//!
//! Inputs keep clear of the instants at which a press changes its meaning: by [`CLEAR`] of the second in
//! which two presses belong together, by 300 ms of a hold and by 150 ms of the lock-out. Nobody asks or presses
//! while a recording is starting or ending, but for the second press of two that ended it. All that is for
//! the tests in virtual time.

use super::lines::{Teller, Watcher, let_go, press};
use super::reading::Reading;
use super::support::chance::{Chance, Stalls};
use super::support::programs::CaptureBox;
use super::{FOLLOWS, state};
use hallcast::clock;
use hallcast::media::Monotonic;
use hallcast::station::{Reply, Request, ask};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

const TOGETHER: Duration = Duration::from_secs(1);
const HOLD: Duration = Duration::from_secs(2);
const LOCK_OUT: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_millis(150);
/// Clear of [`TOGETHER`] by so much.
const CLEAR: Duration = Duration::from_millis(200);
/// The lamp's stretches that are at least so long must be seen.
const LEGIBLE: Duration = Duration::from_millis(90);
/// Nobody sees less; and when exactly the first chunk was kept nobody knows.
const BRIEF: Duration = Duration::from_millis(45);
/// The box comes to rest by itself within.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest recording unless the settings say otherwise.
const MAXIMUM: Duration = Duration::from_secs(4 * 3600);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What the box should be from an instant on.
struct Entry {
    at: Monotonic,
    state: String,
    /// A press was answered then.
    answered: bool,
}

/// One box, with what it should be.
pub struct Hall<'a> {
    watcher: &'a Watcher,
    teller: Teller,
    socket: PathBuf,
    press_to_stop: bool,
    traces: &'static [&'static [u64]],
    reading: Reading,
    /// Where the reading's time begins.
    origin: Monotonic,
    entries: Vec<Entry>,
    /// What the box told and was taken into account.
    heard: usize,
    /// When a press or a request was the last ones.
    inputs: Vec<Monotonic>,
    /// The button may be touched again.
    free: Monotonic,
    /// The next input comes soon after the last.
    soon: bool,
    /// For people, when something is wrong.
    steps: Vec<String>,
}

impl<'a> Hall<'a> {
    /// A box that is idle, and how its button bounces, the worst last.
    pub fn new(
        capture_box: &CaptureBox,
        press_to_stop: bool,
        traces: &'static [&'static [u64]],
        watcher: &'a Watcher,
    ) -> Self {
        let socket = capture_box.home.join("control");
        let now = clock::now();
        let mut hall = Self {
            watcher,
            teller: Teller::start(socket.clone()),
            socket,
            press_to_stop,
            traces,
            reading: Reading::new(press_to_stop, MAXIMUM),
            origin: now,
            entries: Vec::new(),
            heard: 0,
            inputs: Vec::new(),
            free: now,
            soon: false,
            steps: Vec::new(),
        };
        hall.begin_anew();
        hall
    }

    /// What happened so far counts no longer; the box is idle.
    fn begin_anew(&mut self) {
        clock::sleep(TOGETHER);
        let now = clock::now();
        self.reading = Reading::new(self.press_to_stop, MAXIMUM);
        self.origin = now;
        self.entries = vec![Entry {
            at: now,
            state: "Idle".into(),
            answered: false,
        }];
        self.heard += self.teller.looks(self.heard).len();
        self.inputs.clear();
    }

    /// A random sequence, until the box is idle again; gives by how much each change of the lamp came
    /// late. What is wrong may be the machine's fault, which stood still for so long.
    pub fn sequence(
        &mut self,
        chance: &mut Chance,
        capture_box: &CaptureBox,
        stalls: &Stalls,
    ) -> Result<Vec<Duration>, (String, Duration)> {
        self.steps.clear();
        let (from, heard) = (clock::now(), self.heard);
        let outcome = self.play(chance, capture_box);
        let to = clock::now();
        let outcome = outcome.and_then(|()| self.judge(heard, from, to));
        outcome.map_err(|what| {
            let steps = self.steps.join("\n  ");
            let stood = stalls.between(from, to);
            if !stood.is_zero() {
                // Whatever it is now: let it come to rest.
                clock::sleep(HOLD);
                let _ = ask(&self.socket, &Request::Stop);
                self.begin_anew();
            }
            (format!("{what}, after\n  {steps}"), stood)
        })
    }

    fn play(&mut self, chance: &mut Chance, capture_box: &CaptureBox) -> Result<(), String> {
        for step in 0..3 + chance.below(4) {
            // Something should run to begin with.
            match chance.below(if step == 0 { 6 } else { 10 }) {
                0 => self.ask(chance, &[Request::Start])?,
                // Shorter than the lock-out.
                1 => self.touch(chance, 40..60)?,
                2..=4 => self.touch(chance, 120..500)?,
                5 => {
                    self.touch(chance, 120..150)?;
                    self.soon = true;
                    self.touch(chance, 120..500)?;
                }
                6 => self.touch(chance, 1200..1700)?,
                7 => self.touch(chance, 2300..2600)?,
                _ => self.ask(
                    chance,
                    match &*self.reading.state {
                        "Paused" => &[
                            Request::Resume,
                            Request::Resume,
                            Request::Mark,
                            Request::Start,
                        ],
                        "Idle" => &[
                            Request::Start,
                            Request::Stop,
                            Request::Mark,
                            Request::Resume,
                        ],
                        _ => &[
                            Request::Pause,
                            Request::Pause,
                            Request::Mark,
                            Request::Resume,
                        ],
                    },
                )?,
            }
            // After a request the button is free at once.
            let last = *self.inputs.last().unwrap_or(&self.origin);
            let soon = self.free > last && self.free.plus(CLEAR) < last.plus(TOGETHER - CLEAR);
            if self.reading.state == "Stopping" && self.press_to_stop && soon {
                clock::sleep_until(self.free);
                self.finger(chance, 120..150);
            }
            self.rest()?;
        }
        clock::sleep(FOLLOWS);
        let told = state(capture_box);
        let expected = self.reading.state.to_lowercase();
        if told != expected {
            return Err(format!("it ends {told} and not {expected}"));
        }
        // What is shown is looked at for a moment.
        clock::sleep(chance.within(1200));
        if self.reading.state != "Idle" {
            self.ask(chance, &[Request::Stop])?;
            self.rest()?;
        }
        Ok(())
    }

    /// Waits for a while, more often a short one.
    fn wait(&mut self, chance: &mut Chance) {
        let short = std::mem::take(&mut self.soon) || chance.below(3) > 0;
        let most = if short { 200 } else { 1500 };
        let at = clock::now().max(self.free).plus(chance.within(most));
        clock::sleep_until(self.clear(at));
        self.catch_up();
    }

    /// The first instant from `at` on that is clear of the second after each input.
    fn clear(&self, mut at: Monotonic) -> Monotonic {
        for input in &self.inputs {
            let due = input.plus(TOGETHER);
            if at.plus(CLEAR) > due && at < due.plus(CLEAR) {
                at = due.plus(CLEAR);
            }
        }
        at
    }

    /// A finger on the button for so many milliseconds.
    fn touch(&mut self, chance: &mut Chance, length: Range<u64>) -> Result<(), String> {
        self.rest()?;
        self.wait(chance);
        self.finger(chance, length);
        Ok(())
    }

    fn finger(&mut self, chance: &mut Chance, length: Range<u64>) {
        let length = ms(length.start + chance.below(length.end - length.start));
        // One that is shorter than its bouncing is none.
        let traces = match length < LOCK_OUT {
            true => &self.traces[..3],
            false => self.traces,
        };
        let mut trace = || traces[chance.below(traces.len() as u64) as usize];
        let pressed = press(trace());
        self.inputs.push(pressed);
        self.feed("Pressed", pressed);
        if length >= HOLD {
            clock::sleep_until(pressed.plus(HOLD));
            self.catch_up();
            self.feed("Held", pressed.plus(HOLD));
        }
        clock::sleep_until(pressed.plus(length));
        let up = let_go(trace());
        let held = up.since(pressed);
        let told = format!("          let go after {} ms", held.as_millis());
        self.steps.push(told);
        self.free = pressed.plus(held.max(LOCK_OUT) + LOCK_OUT + ms(150));
    }

    /// One of these requests.
    fn ask(&mut self, chance: &mut Chance, requests: &[Request]) -> Result<(), String> {
        self.rest()?;
        self.wait(chance);
        let request = &requests[chance.below(requests.len() as u64) as usize];
        let asked = clock::now();
        self.inputs.push(asked);
        let answer = ask(&self.socket, request).unwrap();
        let cell = self.feed(&format!("{request:?}"), asked);
        let refused = cell.starts_with(|first: char| first.is_lowercase());
        if refused == matches!(answer, Reply::Done { .. }) {
            return Err(format!("{request:?} is answered {answer:?}"));
        }
        Ok(())
    }

    /// Something happened: looks up what becomes of it.
    fn feed(&mut self, input: &str, at: Monotonic) -> String {
        let at = self.entries.last().map_or(at, |last| at.max(last.at));
        let cell = self.reading.take(input, at.since(self.origin));
        let answers = ["answered", "Mark", "Extend", "wait"].contains(&&*cell);
        self.entries.push(Entry {
            at,
            state: self.reading.state.clone(),
            answered: input == "Pressed" && answers,
        });
        let elapsed = at.since(self.origin).as_millis();
        self.steps.push(format!("{elapsed:>6} ms {input}: {cell}"));
        cell
    }

    /// Takes in what the box did by itself, as of the last instant at which it was told not to have.
    fn catch_up(&mut self) {
        let looks = self.teller.looks(self.heard.saturating_sub(1));
        self.heard = self.heard.saturating_sub(1) + looks.len();
        for pair in looks.windows(2) {
            let [(before, _, _), (_, _, told)] = pair else {
                continue;
            };
            let input = match (&*self.reading.state, &**told) {
                ("Starting", "recording") => "Kept",
                ("Stopping", "idle") => "Finished",
                _ => continue,
            };
            let was = self.reading.state.clone();
            let began = self.entries.iter().rposition(|entry| entry.state != was);
            let at = self.entries[began.map_or(0, |n| n + 1)].at.max(*before);
            self.reading.take(input, at.since(self.origin));
            // A press between that and the look that told it has changed nothing.
            let after = self.entries.partition_point(|entry| entry.at <= at);
            for entry in &mut self.entries[after..] {
                entry.state.clone_from(&self.reading.state);
            }
            let entry = Entry {
                at,
                state: self.reading.state.clone(),
                answered: false,
            };
            self.entries.insert(after, entry);
            let elapsed = at.since(self.origin).as_millis();
            self.steps.push(format!("{elapsed:>6} ms {input}"));
        }
    }

    /// Waits until the box will do nothing by itself.
    fn rest(&mut self) -> Result<(), String> {
        let until = clock::now().plus(PATIENCE);
        loop {
            self.catch_up();
            if !["Starting", "Stopping"].contains(&&*self.reading.state) {
                return Ok(());
            }
            if clock::now() > until {
                let (_, _, told) = self.teller.looks(self.heard - 1).pop().unwrap();
                return Err(format!(
                    "it is to be {} and says {told}",
                    self.reading.state
                ));
            }
            clock::sleep(ms(10));
        }
    }

    /// Whether box and lamps were what they should have been; by how much each change of the lamp came late.
    fn judge(&self, heard: usize, from: Monotonic, to: Monotonic) -> Result<Vec<Duration>, String> {
        for (asked, answered, told) in self.teller.looks(heard) {
            if asked < from || answered > to {
                continue;
            }
            let first = asked.minus(FOLLOWS);
            let before = self.entries.partition_point(|entry| entry.at <= first);
            let may = self.entries.iter().skip(before.saturating_sub(1));
            let mut may = may.take_while(|entry| entry.at <= answered);
            if !may.any(|entry| entry.state.to_lowercase() == told) {
                let elapsed = answered.since(self.origin).as_millis();
                return Err(format!("it told at {elapsed} ms that it is {told}"));
            }
        }
        let astray = self.watcher.astray(from, to);
        if astray > 0 {
            return Err(format!(
                "the mirror showed something else in {astray} samples"
            ));
        }
        let mut late = Vec::new();
        for (begin, end, lit) in self.stretches(from, to) {
            let elapsed = begin.since(self.origin).as_millis();
            let word = if lit { "lit" } else { "dark" };
            let changes = self.watcher.changes(begin, end.max(begin.plus(FOLLOWS)));
            let Some(n) = changes.iter().position(|(_, is)| *is == lit) else {
                return Err(format!("the lamp is not {word} at {elapsed} ms"));
            };
            let came = changes[n].0.since(begin);
            if came > FOLLOWS {
                return Err(format!("the lamp is {word} {came:?} after {elapsed} ms"));
            }
            late.push(came);
            let mut breaks = changes[n + 1..]
                .iter()
                .filter(|(at, is)| *is != lit && *at < end);
            let lasting = |(at, _): &&(Monotonic, bool)| {
                let back = changes.iter().find(|(back, is)| *is == lit && back > at);
                back.is_none_or(|(back, _)| back.since(*at) >= BRIEF)
            };
            if let Some((at, _)) = breaks.find(lasting) {
                let broken = at.since(self.origin).as_millis();
                return Err(format!(
                    "the lamp is {word} from {elapsed} ms, but not at {broken} ms"
                ));
            }
        }
        Ok(late)
    }

    /// What the lamp should show, as stretches of light and darkness that can be told.
    fn stretches(&self, from: Monotonic, to: Monotonic) -> Vec<(Monotonic, Monotonic, bool)> {
        let mut found: Vec<(Monotonic, Monotonic, bool)> = Vec::new();
        let mut at = from;
        while at < to {
            let next = at.plus(ms(1));
            match (self.shown(at), found.last_mut()) {
                (Some(lit), Some((_, end, is))) if lit == *is && *end == at => *end = next,
                (Some(lit), _) => found.push((at, next, lit)),
                (None, _) => {}
            }
            at = next;
        }
        // What began before `from` is not judged again, and what goes on after `to` not yet.
        found.retain(|(begin, end, _)| end.since(*begin) >= LEGIBLE && *begin > from && *end < to);
        found
    }

    /// What the lamp should show; nobody knows how far the first pattern of a box is.
    fn shown(&self, at: Monotonic) -> Option<bool> {
        let before = self.entries.partition_point(|entry| entry.at <= at);
        let past = &self.entries[..before];
        let now = past.last()?;
        let period = |entry: &Entry| match &*entry.state {
            "Recording" | "Stopping" => (0, 0),
            "Paused" => (500, 1000),
            _ => (100, 2000),
        };
        let (lit, whole) = period(now);
        if whole == 0 {
            let answered = past.iter().rev().find(|entry| entry.answered);
            return Some(answered.is_none_or(|entry| at.since(entry.at) >= ANSWER));
        }
        let other = past.iter().rposition(|entry| period(entry).1 != whole)?;
        let elapsed = at.since(past[other + 1].at).as_millis();
        Some(elapsed % whole < lit)
    }
}
