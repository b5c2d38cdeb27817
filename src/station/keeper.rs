//! The one thread that owns the spool and the recorder.
//!
//! Takes everything that happens ([`Input`]): what lanes give, syncs that ended, what the receiver
//! acknowledged, what people ask. Every decision comes from [`Recorder`](super::recorder); here it is
//! carried out: lanes are told to begin and end, facts are written, what is written or kept is
//! offered to the uplink. Nothing here waits for a network, and syncing waits on its own thread.
//!
//! Longer than most files: what the thread holds, its loop, and the end of a recording stand together.

mod abandoned;
mod commands;
mod panel;
mod reports;
mod requests;
mod room;
mod spans;
mod take_up;
mod telling;
mod watchdog;

pub use self::commands::NetworkCommand;

use self::abandoned::Abandoned;
use self::commands::Commands;
use self::panel::Shown;
use self::room::Order;
use self::telling::Telling;
use self::watchdog::Watchdog;
use super::alarms::{Alarms, Concern};
use super::control::{Reply, Request};
use super::custody::{Custody, Word};
use super::lane::{Command, LaneView, Take};
use super::past::{Past, Place};
use super::recorder::{Action, Input as Happening, Recorder, Refusal, Rules};
use super::status::Lateness;
use super::utc::Utc;
use crate::clock;
use crate::media::{
    BoxId, Event, Fact, LostReason, Monotonic, RecordingId, SegmentKey, Segmented, StartedBy,
    StopReason, TrackId, WallClock,
};
use crate::panel::{Press, SimulatedButton, Tell};
use crate::spool::{self, Room, Spool, SyncJob, SyncResult};
use crate::uplink::{Offer, Report};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

/// The longest the thread sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(1);
/// What the answer to who asked for a restart, or for the end of the recording before it, has to leave.
const ANSWERING: Duration = Duration::from_millis(200);

/// How long a lane may take to give out what it holds when a recording ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// Chunks whose way to the receiver is timed at once.
const TRAVELLING: usize = 256;

/// What the station's threads tell the keeper.
pub enum Input {
    /// A lane's next init, chunk or seal.
    Given(RecordingId, Segmented),
    /// A lane that was told to give its track up left these segments out, first to last.
    GivenUp(RecordingId, TrackId, u64, u64),
    /// Something worth knowing about the running recording.
    Noted(Event),
    /// A lane has given out all it held of a recording.
    Finished(RecordingId, TrackId),
    /// A sync ended, after so long.
    Synced(SyncResult, Duration),
    /// From the uplink.
    Report(Report),
    /// From the control socket.
    Request(Request, Sender<Reply>),
    /// From the panel's button, and when.
    Pressed(Press, Monotonic),
    /// The lamp's guard can be told now, or why there is none.
    Lamp(Result<Tell, String>),
    /// The process is asked to end: end the recording, then return.
    Terminate,
}

/// What the keeper works with; `station::pipeline` makes it.
pub struct Parts {
    /// What the box holds.
    pub custody: Custody,
    /// Syncs to run.
    pub syncs: Sender<SyncJob>,
    /// Where written and kept chunks are offered; none without a receiver.
    pub offers: Option<tokio::sync::mpsc::Sender<Offer>>,
    /// The lanes, one per track.
    pub lanes: Vec<LaneView>,
    /// This box.
    pub box_id: BoxId,
    /// The room, for people.
    pub room: Option<String>,
    /// Alarms that stand as long as this process runs, and what they say.
    pub concerns: Vec<(&'static str, String)>,
    /// The board's name.
    pub board: String,
    /// The longest recording, and what ends one at the button.
    pub rules: Rules,
    /// The board has a lamp: whether recordings need it.
    pub lamp_needed: Option<bool>,
    /// What the receiver may command.
    pub network_commands: Vec<NetworkCommand>,
    /// The longest absence of the box that a recording survives.
    pub resume_within: Duration,
    /// The longest time between two syncs.
    pub sync_interval: Duration,
    /// The machine's clock.
    pub wall: fn() -> WallClock,
}

/// The recording in hand.
struct Running {
    take: Arc<Take>,
    facts: Vec<Fact>,
    unfinished: BTreeSet<TrackId>,
    ending: Option<StopReason>,
    /// When lanes that have not finished by then are waited for no longer.
    patience: Option<Monotonic>,
    /// The events segment that holds the `End` fact.
    end: Option<SegmentKey>,
    /// The disk has refused sound or pictures for want of space: no more of them is written.
    full: bool,
    waiting: Vec<Sender<Reply>>,
    /// Where the span begins on the clocks that outlive the process.
    place: Place,
    /// When that was last put right.
    placed: Option<Monotonic>,
    /// The span before it, in a recording that was taken up.
    past: Option<Past>,
    /// The machine slept, or the recording was paused: the span ends here, and another one follows.
    broken: Option<Monotonic>,
    /// It is paused: that one begins when somebody resumes.
    held: bool,
    /// Nanoseconds of a paused span, once the lanes have given all of it.
    kept_nanos: Option<u64>,
    /// The span before an absence of which it is not known yet whether it was too long, where that is not `past`.
    unjudged: Option<Past>,
    /// Who wanted a recording while it was not known whether this one goes on rightly.
    wanted: Option<StartedBy>,
}

/// The keeper.
pub struct Keeper {
    parts: Parts,
    recorder: Recorder,
    running: Option<Running>,
    /// What the disk let down.
    abandoned: Abandoned,
    /// The last span of the recording that is about to be taken up.
    past: Option<Past>,
    utc: Utc,
    /// What the lanes were told of it.
    utc_told: Option<i64>,
    /// When the clocks were last looked at.
    looked: Option<Monotonic>,
    /// How long the machine had slept since it booted, when it was last looked at.
    slept: Duration,
    /// When the process started.
    started: Monotonic,
    boot: Option<[u8; 16]>,
    alarms: Alarms,
    /// The disk, when it was last looked at.
    room: Option<Room>,
    room_looked: Option<Monotonic>,
    /// The link's step down, and what each lane was told last.
    link: u8,
    orders: BTreeMap<TrackId, Order>,
    sync_times: Lateness,
    pipeline_times: Lateness,
    reachable: bool,
    /// Why the receiver is away, for people.
    uplink_error: Option<String>,
    terminating: bool,
    /// The board's lamp.
    shown: Shown,
    /// It shall end once nothing is recorded, from this instant on.
    restarting: Option<Monotonic>,
    /// The button of a board that has none.
    button: SimulatedButton,
    /// Who waits for a hold to take effect.
    holding: Vec<Sender<Reply>>,
    /// Chunks on their way: segment, the offset behind the chunk, when its first picture was captured.
    travelling: VecDeque<(SegmentKey, u64, Monotonic)>,
    lateness: BTreeMap<TrackId, Lateness>,
    telling: Telling,
    commands: Commands,
}

impl Keeper {
    /// A keeper that takes up what an earlier run left: offers what waits, ends or continues what is open.
    pub fn new(parts: Parts, recovered: &[spool::Recovered]) -> Self {
        let recorder = Recorder::new(parts.rules);
        let mut keeper = Self {
            parts,
            recorder,
            running: None,
            abandoned: Abandoned::default(),
            past: None,
            utc: Utc::default(),
            utc_told: None,
            looked: None,
            slept: spans::slept(),
            started: clock::now(),
            boot: clock::boot(),
            alarms: Alarms::default(),
            room: None,
            room_looked: None,
            link: 0,
            orders: BTreeMap::new(),
            sync_times: Lateness::default(),
            pipeline_times: Lateness::default(),
            reachable: false,
            uplink_error: None,
            terminating: false,
            shown: Shown::default(),
            restarting: None,
            button: SimulatedButton::new(),
            holding: Vec::new(),
            travelling: VecDeque::new(),
            lateness: BTreeMap::new(),
            telling: Telling::default(),
            commands: Commands::default(),
        };
        for (code, what) in &keeper.parts.concerns {
            keeper.alarms.raise(code, (None, None), what);
        }
        let now = clock::now();
        // One that is needed has to be heard of.
        let needed = keeper.parts.lamp_needed == Some(true);
        keeper.recorder.set_lamp(!needed, now);
        keeper.keep_time(now);
        keeper.take_up(recovered);
        keeper
    }

    /// Works until the process shall end.
    pub fn run(mut self, inputs: &Receiver<Input>) {
        let mut watchdog = Watchdog::default();
        loop {
            let now = clock::now();
            let due = [
                self.parts.custody.sync_at(),
                self.recorder.poll_at(),
                self.button.next(),
                self.telling_due(),
                self.lamp_due(),
                self.running.as_ref().and_then(|running| running.patience),
            ];
            let due = due
                .into_iter()
                .flatten()
                .fold(now.plus(IDLE), Monotonic::min);
            match inputs.recv_timeout(due.since(now)) {
                Ok(input) => self.handle(input),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if !self.turn(clock::now()) {
                return;
            }
            self.show(clock::now());
            self.feed(&mut watchdog);
        }
    }

    /// Carries out what is due; false when the process shall end.
    fn turn(&mut self, now: Monotonic) -> bool {
        // First: `now` is a moment old already, and what is to be done may wait for a disk.
        self.keep_time(now);
        if let Some(action) = self.recorder.poll(now) {
            self.act(action);
        }
        if self.terminating && !self.is_resting() {
            // What was taken up after it was asked to end; refused while one is ending.
            let _ = self.happen(Happening::Stop(StopReason::Shutdown));
        }
        self.lose_patience(now);
        self.keep_room(now);
        self.look_after_abandoned(now);
        let press = self.button.poll(now);
        // A press that is refused shows at the lamp.
        let _ = self.pressed(press, now);
        self.hear();
        while self.write_facts() {
            self.hear();
        }
        self.answer_commands();
        self.tell(now);
        let job = self.parts.custody.start_sync(now);
        if let Some(job) = job {
            // The syncing thread lives as long as the keeper.
            let _ = self.parts.syncs.send(job);
        }
        let is_busy = !self.is_resting() || self.running.is_some();
        if let Some(from) = self.restarting.as_mut().filter(|_| is_busy) {
            *from = now.plus(ANSWERING);
        }
        let is_due = !is_busy && self.restarting.is_some_and(|from| from <= now);
        let is_over = self.terminating && self.running.is_none();
        !(is_over || is_due)
    }

    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.parts.custody.spool()
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Given(recording, given) => self.keep(recording, &given),
            Input::GivenUp(recording, track, first, last) => {
                // Of one that was abandoned, or whose end is written, nothing more counts.
                let open = |running: &Running| running.end.is_none();
                if self.runs(recording) && self.running.as_ref().is_some_and(open) {
                    let (numbers, reason) = ((first, last), LostReason::NoSpace);
                    let outcome = self.parts.custody.lose(recording, track, numbers, reason);
                    self.check(recording, outcome);
                }
            }
            Input::Noted(event) => self.noticed(event),
            Input::Finished(recording, track) => {
                let ours = self.runs(recording);
                if let Some(running) = self.running.as_mut().filter(|_| ours) {
                    running.unfinished.remove(&track);
                    self.finish();
                }
            }
            Input::Synced(result, took) => {
                self.synced_in(took);
                for (recording, error) in self.parts.custody.synced(result) {
                    self.check(recording, Err(error));
                }
            }
            Input::Report(report) => self.report(&report),
            // What comes of a press the lamp tells.
            Input::Pressed(press, at) => drop(self.pressed(Some(press), at)),
            Input::Lamp(lamp) => self.lamp_is(lamp),
            Input::Request(request, reply) => self.request(request, reply),
            Input::Terminate => {
                self.terminating = true;
                let _ = self.happen(Happening::Stop(StopReason::Shutdown));
            }
        }
    }

    /// Runs the recorder and carries out what it says.
    fn happen(&mut self, happening: Happening) -> Result<(), Refusal> {
        if let Some(action) = self.recorder.handle(happening, clock::now())? {
            self.act(action);
        }
        Ok(())
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Begin(recording, by) => self.begin(recording, Some(by), None),
            Action::Continue(recording) if self.runs(recording) => self.resume(),
            Action::Continue(recording) => {
                let past = self.past.take();
                self.begin(recording, None, past);
            }
            Action::Rest(_) => {
                // Before the first word of the lamp's guard, most often the next moment goes on with it, and
                // needs no span of its own before.
                let paused = self.past.is_some_and(|past| past.paused);
                if paused || self.shown.is_known {
                    self.rest();
                }
            }
            Action::Break => {
                self.rest();
                self.pause();
            }
            Action::Mark(extended) => {
                self.note(Event::Mark);
                extended.into_iter().for_each(|most| self.extend(most));
            }
            Action::Extend(most) => self.extend(most),
            Action::End(reason) => {
                log::info!("the recording is ending ({reason:?})");
                self.rest();
                let Some(running) = &mut self.running else {
                    return;
                };
                running.ending = Some(reason);
                match running.broken {
                    // The lanes know their end already.
                    Some(_) => self.finish(),
                    None => self.call_in(clock::now()),
                }
            }
            Action::Abandon => self.abandon(),
        }
    }

    fn keep(&mut self, recording: RecordingId, given: &Segmented) {
        // What a lane still gives of an abandoned recording is not kept, and nobody was told it was.
        if !self.takes(recording) {
            return;
        }
        let mut outcome = self.parts.custody.append(recording, given);
        if matches!(outcome, Err(spool::Error::NoSpace { .. })) {
            // What may go makes room; without, the recording ends with what was kept.
            self.look_at_room();
            if !self.takes(recording) {
                return;
            }
            outcome = self.parts.custody.append(recording, given);
        }
        match outcome {
            Ok(end) => {
                if let Segmented::Chunk(chunk) = given {
                    self.written_after(chunk.captured);
                }
                if let (Segmented::Chunk(chunk), Some(end), true) = (given, end, self.reachable) {
                    self.travelling.push_back((chunk.key, end, chunk.captured));
                    if self.travelling.len() > TRAVELLING {
                        self.travelling.pop_front();
                    }
                }
            }
            Err(error @ spool::Error::NoSpace { .. }) => self.is_full(&error),
            Err(error) => self.check(recording, Err(error)),
        }
    }

    /// Carries out what custody asks for, until it asks for nothing.
    fn hear(&mut self) {
        while let Some(word) = self.parts.custody.next_word() {
            match word {
                Word::Offer(offer) => self.offer(offer),
                Word::Kept(key) => {
                    if self.runs(key.recording) && key.track != TrackId::EVENTS {
                        if self.is_of_this_span(key) {
                            // `Kept` is refused in no state.
                            let _ = self.happen(Happening::Kept);
                        }
                        self.abandoned.is_well();
                        self.calm("spool", (None, None), "bytes are kept again");
                    }
                }
                Word::Sealed(key) => {
                    let end = self.running.as_ref().and_then(|running| running.end);
                    if end == Some(key) {
                        self.ended();
                    }
                    self.abandoned_has_ended(key);
                }
                Word::Fact(recording, event) if self.runs(recording) => self.note(event),
                Word::Fact(recording, event) => {
                    // One that goes on or ends later says it then.
                    if let Some(open) = self.abandoned.find(recording) {
                        open.facts
                            .push(fact(open.take.span, open.take.start, event));
                    }
                }
                Word::Erased(recording) => self.erased(recording),
                Word::TakenUp(recording) => self.end_later(recording),
                Word::Alarm {
                    recording,
                    code,
                    track,
                    message,
                } => self.alarm(code, (Some(recording), track), &message),
            }
        }
    }

    /// A recording was erased at the receiver: if it is the running one, it is over.
    fn erased(&mut self, recording: RecordingId) {
        self.alarms.forget(recording);
        if !self.runs(recording) && !self.waits(recording) {
            return;
        }
        log::warn!("the running recording was erased at the receiver: it is over");
        for lane in &self.parts.lanes {
            lane.tell(Command::Drop);
        }
        let waiting = self.running.take().map(|running| running.waiting);
        for reply in waiting.unwrap_or_default() {
            let _ = reply.send(Reply::Refused("the recording was erased".into()));
        }
        let _ = self.happen(Happening::Erased);
    }

    /// Whether sound and pictures of this recording are still written.
    fn takes(&self, recording: RecordingId) -> bool {
        let takes = |running: &Running| {
            running.take.recording == recording && running.end.is_none() && !running.full
        };
        self.running.as_ref().is_some_and(takes)
    }

    /// Whether this is the recording in hand.
    fn runs(&self, recording: RecordingId) -> bool {
        let ours = |running: &Running| running.take.recording == recording;
        self.running.as_ref().is_some_and(ours)
    }

    /// Whether this recording waits for the first word of the lamp's guard.
    fn waits(&self, recording: RecordingId) -> bool {
        let in_hand = self.recorder.recorded(clock::now());
        self.running.is_none() && in_hand.is_some_and(|(ours, _)| ours == recording)
    }

    fn offer(&self, offer: Offer) {
        if let Some(offers) = &self.parts.offers {
            // The uplink ends only with the process; what it misses then is offered at the next start.
            let _ = offers.blocking_send(offer);
        }
    }

    /// The `End` fact is kept: the recording is over.
    fn ended(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        let recording = running.take.recording;
        let _ = self.happen(Happening::Finished);
        log::info!("recording {recording} is whole on the box");
        for reply in running.waiting {
            let _ = reply.send(Reply::Done {
                recording: recording.to_string(),
            });
        }
        let wanted = running.wanted.filter(|_| !self.terminating);
        if let (Some(StopReason::AwayTooLong), Some(by)) = (running.ending, wanted) {
            log::info!("a start was asked for while the old recording ran: it begins now");
            let _ = self.start(by);
        }
    }

    /// Ends the recording without the lanes that do not finish.
    fn lose_patience(&mut self, now: Monotonic) {
        let due = |running: &&mut Running| running.patience.is_some_and(|due| due <= now);
        let Some(running) = self.running.as_mut().filter(due) else {
            return;
        };
        running.patience = None;
        for track in std::mem::take(&mut running.unfinished) {
            log::error!("track {track} did not finish in time: its last part is missing");
        }
        self.finish();
    }

    /// Goes on once every lane has given out what it held: with the `End` fact, or with the next span.
    fn finish(&mut self) {
        let Some(running) = &mut self.running else {
            return;
        };
        if !running.unfinished.is_empty() || running.end.is_some() {
            return;
        }
        let reason = running.ending;
        self.place_span(clock::now(), true);
        let Some(reason) = reason else {
            return self.next_span();
        };
        let Some(running) = &mut self.running else {
            return;
        };
        let (recording, span, start) = (
            running.take.recording,
            running.take.span,
            running.take.start,
        );
        let facts = running.facts.clone();
        let now = clock::now();
        let at = (span, after(start, now));
        match self.parts.custody.end(recording, facts, at, reason, now) {
            Ok(key) => {
                if let Some(running) = &mut self.running {
                    running.facts.clear();
                    running.end = Some(key);
                }
            }
            Err(error) => self.fault(&error),
        }
    }

    /// Raises an alarm: in the log, in the status, and as a fact of the recording it concerns.
    fn alarm(&mut self, code: &str, concern: Concern, message: &str) {
        if let Some(event) = self.alarms.raise(code, concern, message) {
            log::warn!("{code}: {message}");
            self.note_of(concern, event);
        }
    }

    /// Ends an alarm, if it stands.
    fn calm(&mut self, code: &str, concern: Concern, message: &str) {
        if let Some(event) = self.alarms.clear(code, concern, message) {
            log::info!("{code}: {message}");
            self.note_of(concern, event);
        }
    }

    fn note_of(&mut self, concern: Concern, event: Event) {
        if concern.0.is_none_or(|recording| self.runs(recording)) {
            self.note(event);
        }
    }

    /// What a lane or the panel noticed: its alarms stand until it takes them back.
    fn noticed(&mut self, event: Event) {
        let noted = match &event {
            // The button's, which is tried again and again: it is logged here, when it comes and goes.
            Event::Alarm {
                code,
                track: None,
                raised,
                message,
            } => {
                return match raised {
                    true => self.alarm(code, (None, None), message),
                    false => self.calm(code, (None, None), message),
                };
            }
            Event::Alarm {
                code,
                track,
                raised: true,
                message,
            } => self.alarms.raise(code, (None, *track), message),
            Event::Alarm {
                code,
                track,
                message,
                ..
            } => self.alarms.clear(code, (None, *track), message),
            _ => Some(event),
        };
        noted.into_iter().for_each(|event| self.note(event));
    }

    /// Adds a fact to the running recording; without one it is only logged by whoever noticed it.
    fn note(&mut self, event: Event) {
        self.count_gaps(&event);
        // Nothing follows the `End` fact.
        if let Some(running) = self
            .running
            .as_mut()
            .filter(|running| running.end.is_none())
        {
            running
                .facts
                .push(fact(running.take.span, running.take.start, event));
        }
    }

    /// Facts of one turn of the loop are one segment of the events track; false when there are none.
    fn write_facts(&mut self) -> bool {
        let Some(running) = self
            .running
            .as_mut()
            .filter(|running| !running.facts.is_empty())
        else {
            return false;
        };
        let recording = running.take.recording;
        let facts = std::mem::take(&mut running.facts);
        let custody = &mut self.parts.custody;
        let outcome = custody.write_facts(recording, &facts, clock::now());
        let written = outcome.is_ok();
        if !written {
            // They are written with the next ones.
            running.facts = facts;
        }
        self.check(recording, outcome.map(drop));
        written
    }

    /// Looks at what the spool said of a recording: only the one in hand is given up for it.
    fn check(&mut self, recording: RecordingId, outcome: Result<(), spool::Error>) {
        match outcome {
            Ok(()) => {}
            // The spool owes what it did not write, and tries again.
            Err(error @ spool::Error::NoSpace { .. }) => {
                log::warn!("{error}");
                self.look_at_room();
            }
            // It has left the spool, or was sealed without the lane: the disk is not to blame.
            Err(error @ (spool::Error::NotHeld { .. } | spool::Error::OutOfOrder { .. })) => {
                log::warn!("recording {recording}: {error}");
            }
            Err(error) if self.runs(recording) => self.fault(&error),
            Err(error) => self.say_refused(recording, &error),
        }
    }

    /// The spool refused something of a recording that does not run: whoever asked asks again.
    fn say_refused(&mut self, recording: RecordingId, error: &spool::Error) {
        log::error!("recording {recording}: {error}");
        self.alarm("spool", (Some(recording), None), &error.to_string());
    }

    fn fault(&mut self, error: &spool::Error) {
        log::error!("{error}");
        self.alarm("spool", (None, None), &error.to_string());
        let _ = self.happen(Happening::Fault);
    }
}

fn fact(span: u32, start: Monotonic, event: Event) -> Fact {
    Fact {
        span,
        at_nanos: after(start, clock::now()),
        event,
    }
}

fn after(start: Monotonic, now: Monotonic) -> u64 {
    u64::try_from(now.since(start).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
