//! Seeded schedules over the real engines: spool, custody, session, fence and ingest, joined by a model
//! transport, over a disk and a store that forget.
//!
//! Each seed decides the network, the lectures and every fault: outages of a second to hours, moves to
//! another address, crashes of either end, disks and stores that fail, clocks that step, copies that
//! are restored. Then all faults end, everything has time to arrive, both ends crash once more, and the
//! [`History`] judges.
//!
//! A failing seed prints how to run it alone. `HALLCAST_SOAK` runs twenty times as many.
//!
//! Longer than most files: one loop moves both ends, the wire and time, so that a seed is one order of events.

mod carry;
mod faults;
mod flawed;
mod link;
mod machine;
mod shelf;
mod tests;

use self::faults::Fault;
use self::flawed::Flawed;
use self::link::{CONTROL, Pipe, Weather};
use self::machine::{BACKFILL, BOX, Lecture, Machine};
use self::shelf::{Out, Put, Shelf, Store};
use super::history::{Happening, History};
use super::random::Random;
use crate::media::{Hash, Monotonic, RecordingId, SegmentKey, WallClock};
use crate::spool::twin::TwinDisk;
use crate::uplink::{Action, Report};
use crate::wire::message::{Message, SegmentHash};
use crate::wire::stream::{self, SegmentHeader};
use crate::wire::{ErrorCode, framing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Virtual nanoseconds.
type Time = u64;

const SECOND: Time = 1_000_000_000;
const DAY: Time = 86_400 * SECOND;
/// A connection is given up after so long without a word.
const IDLE: Time = 15 * SECOND;

fn at(time: Time) -> Monotonic {
    Monotonic::from_nanos(time)
}

/// Faults that a schedule plants on purpose, to see that the checker finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// The receiver says DURABLE before its store has synced.
    AcknowledgeBeforeSync,
    /// The box never syncs a directory.
    NoDirectorySync,
    /// After a restart the box names segments one too low.
    ReusedSequence,
    /// The box believes one segment more than `Welcome` says.
    ResumeOffByOne,
    /// The box greets with a watermark that is one too high.
    WatermarkOffByOne,
    /// A seal is offered before it is kept.
    SealsNotKept,
    /// Recovery counts what it read as kept without syncing it.
    RecoveryDoesNotSync,
    /// The spool lets go on what the receiver said, before that is kept on the disk.
    ReleaseBeforeRecord,
}

enum Event {
    Fault(Fault),
    Chunk(u64),
    Synced(u64),
    Wake(u64),
    /// Of this unit.
    Start(u32),
    Dial(u64),
    Connected(u64, u64),
    LinkFree(u64),
    ToReceiver(u64, u64, Vec<u8>, bool),
    CutAtReceiver(u64, u64),
    ToBox(u64, Vec<u8>),
    Stopped(u64, u64, SegmentKey, ErrorCode),
    /// The box learns that the connection is gone.
    Closed(u64, Option<ErrorCode>),
    /// The receiver does.
    Silence(u64),
    Stored(Put),
    LateInit(u64, Hash),
    Sweep(u64, RecordingId),
    ReceiverStart(bool),
    RoomAgain(u32),
    /// The box lets go what may go, and will so many times more.
    Tidy(u64, u32),
}

#[derive(Default)]
struct Counts {
    outages: u64,
    hours_out: u64,
    moves: u64,
    power_cuts: u64,
    deaths_with_unkept: u64,
    kills: u64,
    receiver_crashes: u64,
    restored: u64,
    box_restored: u64,
    clones: u64,
    told_cloned: u64,
    clock_steps: u64,
    disk_faults: u64,
    events: u64,
    virtual_seconds: u64,
    machine: machine::Counts,
}

/// A machine with a card in it.
struct Unit {
    number: u32,
    history: History,
    disk: TwinDisk,
    epoch: u64,
    /// The run of its process; no other run of any unit has the same.
    run: u64,
    machine: Option<Machine>,
    lecture: Option<Lecture>,
    pipe: Option<Pipe>,
    dialling: bool,
    wake: Time,
    /// A [`Event::Tidy`] is to come in this run.
    tidying: bool,
    /// How far its clock is off.
    wall_offset: i64,
}

impl Unit {
    fn new(number: u32, run: u64, card: Copied, random: &mut Random) -> Self {
        Self {
            number,
            history: card.history,
            disk: card.disk,
            epoch: card.epoch,
            run,
            machine: None,
            lecture: card.lecture,
            pipe: None,
            dialling: false,
            wake: Time::MAX,
            tidying: false,
            wall_offset: -(random.between(0, 40 * DAY) as i64),
        }
    }

    fn is_on(&self, connection: u64) -> bool {
        let pipe = self.pipe.as_ref();
        pipe.is_some_and(|pipe| pipe.id == connection)
    }
}

/// A copy of a card, with all that it is witness of.
#[derive(Clone)]
struct Copied {
    disk: TwinDisk,
    epoch: u64,
    history: History,
    /// Of which it may know.
    recordings: BTreeSet<RecordingId>,
    lecture: Option<Lecture>,
}

struct World {
    now: Time,
    turn: u64,
    events: BTreeMap<(Time, u64), Event>,
    random: Random,
    weather: Weather,
    bug: Option<Bug>,
    /// The box that something happens to.
    unit: Unit,
    /// Another one with a copy of its card.
    other: Option<Unit>,
    /// One that was put away.
    retired: Option<History>,
    runs: u64,
    connections: u64,
    /// The unit of each connection.
    owners: BTreeMap<u64, u32>,
    down_until: Time,
    /// When what the receiver says arrives in order.
    last_word: BTreeMap<u64, Time>,
    shelf: Shelf,
    held_bytes: u64,
    retention: Duration,
    /// Segments of the past that the box offers at once.
    window: usize,
    store_copy: Option<Store>,
    card_copy: Option<Copied>,
    calm: bool,
    wrong: Vec<String>,
    counts: Counts,
    /// One seed alone says what happens.
    tells: bool,
}

impl World {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut random = Random::new(seed);
        let weather = Weather::of(&mut random);
        let held_bytes = random.between(12_000, 60_000);
        let retention = [0, 30, 86_400][random.between(0, 2) as usize];
        let retention = Duration::from_secs(retention);
        let empty = Copied {
            disk: TwinDisk::default(),
            epoch: 0,
            history: History::with_backfill_bound(BACKFILL),
            lecture: None,
            recordings: BTreeSet::new(),
        };
        let unit = Unit::new(0, 0, empty, &mut random);
        let mut world = Self {
            now: SECOND,
            turn: 0,
            events: BTreeMap::new(),
            weather,
            bug,
            unit,
            other: None,
            retired: None,
            runs: 0,
            connections: 0,
            owners: BTreeMap::new(),
            down_until: 0,
            last_word: BTreeMap::new(),
            shelf: Shelf::new(BOX, bug),
            held_bytes,
            retention,
            window: [3, 16, 256][(seed % 3) as usize],
            store_copy: None,
            card_copy: None,
            calm: false,
            wrong: Vec::new(),
            counts: Counts::default(),
            tells: std::env::var_os("HALLCAST_SEED").is_some(),
            random,
        };
        world.plan();
        world
    }

    fn at(&mut self, time: Time, event: Event) {
        self.turn += 1;
        self.events.insert((time.max(self.now), self.turn), event);
    }

    fn after(&mut self, wait: Time, event: Event) {
        self.at(self.now + wait, event);
    }

    fn note(&mut self, happening: Happening) {
        self.unit.history.note(happening);
    }

    fn histories(&mut self) -> impl Iterator<Item = &mut History> {
        let others = self.other.as_mut().map(|unit| &mut unit.history);
        let copied = self.card_copy.as_mut().map(|card| &mut card.history);
        let others = others.into_iter().chain(&mut self.retired).chain(copied);
        [&mut self.unit.history].into_iter().chain(others)
    }

    fn note_all(&mut self, happening: &Happening) {
        self.histories()
            .for_each(|history| history.note(happening.clone()));
    }

    /// What the receiver said on a connection.
    fn note_said(&mut self, connection: Option<u64>, happening: Happening) {
        let Some(connection) = connection else {
            return self.note_all(&happening);
        };
        let owner = self.owners.get(&connection).copied();
        match &mut self.other {
            Some(other) if Some(other.number) == owner => other.history.note(happening),
            _ if Some(self.unit.number) == owner => self.note(happening),
            _ => self.retired.iter_mut().for_each(|history| {
                history.note(happening.clone());
            }),
        }
    }

    fn step(&mut self) -> bool {
        let Some(((time, _), event)) = self.events.pop_first() else {
            return false;
        };
        self.now = time;
        self.counts.events += 1;
        self.turn_to(&event);
        self.happen(event);
        self.pump();
        true
    }

    /// Makes the unit that the event is about the present one.
    fn turn_to(&mut self, event: &Event) {
        let Some(other) = &mut self.other else {
            return;
        };
        let is_its = match event {
            Event::Fault(_) => self.random.per_million(500_000),
            Event::Chunk(run)
            | Event::Synced(run)
            | Event::Wake(run)
            | Event::Dial(run)
            | Event::Connected(run, _)
            | Event::Tidy(run, _) => *run == other.run,
            Event::Start(unit) | Event::RoomAgain(unit) => *unit == other.number,
            Event::LinkFree(connection)
            | Event::ToBox(connection, _)
            | Event::Stopped(connection, ..)
            | Event::Closed(connection, _) => other.is_on(*connection),
            _ => false,
        };
        if is_its {
            std::mem::swap(&mut self.unit, other);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Fault(fault) => self.fault(fault),
            Event::Chunk(run) if run == self.unit.run => self.chunk(),
            Event::Synced(run) if run == self.unit.run => {
                if let Some(machine) = &mut self.unit.machine {
                    machine.synced(&self.unit.disk, &mut self.unit.history);
                }
            }
            Event::Wake(run) if run == self.unit.run => self.unit.wake = Time::MAX,
            Event::Chunk(_) | Event::Synced(_) | Event::Wake(_) => {}
            Event::Start(unit) if unit == self.unit.number => self.start(),
            Event::Start(_) => {}
            Event::Dial(run) if run == self.unit.run => self.dial(),
            Event::Dial(_) => {}
            Event::Connected(run, connection) => {
                self.unit.dialling &= run != self.unit.run;
                if run == self.unit.run
                    && self.shelf.has(connection)
                    && let Some(machine) = &mut self.unit.machine
                {
                    self.unit.pipe = Some(Pipe::new(connection));
                    machine.reader = framing::MessageReader::new();
                    let clock = Some(machine.wall);
                    machine.session.connected(clock, at(self.now));
                    self.unit.history.note(Happening::Connected);
                } else if run == self.unit.run {
                    self.redial();
                }
            }
            Event::LinkFree(connection) => {
                if let Some(pipe) = self.unit.pipe.as_mut().filter(|pipe| pipe.id == connection) {
                    pipe.busy = false;
                }
            }
            Event::ToReceiver(connection, stream, bytes, fin) => {
                if self.down_until > self.now {
                    let later = self.down_until + self.weather.delay.as_nanos() as Time;
                    self.at(later, Event::ToReceiver(connection, stream, bytes, fin));
                } else if stream == CONTROL {
                    self.shelf.control(connection, &bytes);
                } else {
                    self.shelf.stream(connection, stream, bytes, fin);
                }
            }
            Event::CutAtReceiver(connection, stream) => self.shelf.cut(connection, stream),
            Event::ToBox(connection, bytes) => {
                if self.down_until > self.now {
                    let later = self.down_until + self.weather.delay.as_nanos() as Time;
                    self.at(later, Event::ToBox(connection, bytes));
                } else {
                    self.reach_box(connection, &bytes);
                }
            }
            Event::Stopped(connection, stream, key, code) => {
                if let Some(pipe) = self.unit.pipe.as_mut().filter(|pipe| pipe.id == connection)
                    && let Some(machine) = &mut self.unit.machine
                {
                    if pipe.stream_of(key) == Some(stream) {
                        pipe.reset(key);
                    }
                    machine.no_longer_live(Some(key));
                    self.unit.history.note(Happening::Cut { key });
                    machine.session.stopped(key, code, at(self.now));
                }
            }
            Event::Closed(connection, code) => self.closed(connection, code),
            Event::Silence(connection) => self.shelf.drop_guest(connection),
            Event::Stored(put) => self.shelf.stored(put),
            Event::LateInit(connection, init) => self.shelf.init_is_late(connection, init),
            Event::Sweep(run, recording) => self.shelf.sweep(run, recording),
            Event::ReceiverStart(restored) => self.receiver_start(restored),
            Event::RoomAgain(unit) if unit == self.unit.number => self.unit.disk.set_room(None),
            Event::RoomAgain(_) => {}
            Event::Tidy(run, times) if run == self.unit.run => {
                let wall = self.wall();
                if let Some(machine) = &mut self.unit.machine {
                    machine.wall = wall;
                    machine.tidy(&self.unit.disk, &mut self.unit.history);
                }
                self.unit.tidying = times > 0;
                if self.unit.tidying {
                    let wait = self.random.between(1, 60) * SECOND;
                    self.after(wait, Event::Tidy(run, times - 1));
                }
            }
            Event::Tidy(..) => {}
        }
    }

    fn press(&mut self, lecture: Lecture) {
        // One recording at a time.
        if self.unit.machine.as_ref().is_none_or(Machine::is_recording) {
            return;
        }
        let mut id = [0; 16];
        self.random.fill(&mut id);
        self.unit.lecture = Some(lecture);
        let wall = self.wall();
        if let Some(machine) = &mut self.unit.machine {
            machine.wall = wall;
            machine.begin(
                RecordingId(id),
                &mut self.unit.history,
                &mut self.counts.machine,
                &mut self.random,
            );
        }
        let every = lecture.chunk_every.as_nanos() as Time;
        self.after(every, Event::Chunk(self.unit.run));
    }

    fn chunk(&mut self) {
        let Some((lecture, machine)) = self.unit.lecture.as_mut().zip(self.unit.machine.as_mut())
        else {
            return;
        };
        if lecture.chunks_left == 0 {
            machine.stop(&mut self.unit.history, self.now);
            return;
        }
        lecture.chunks_left -= 1;
        machine.lanes_give(
            lecture,
            &mut self.unit.history,
            &mut self.counts.machine,
            &mut self.random,
            self.now,
        );
        let every = lecture.chunk_every.as_nanos() as Time;
        self.after(every, Event::Chunk(self.unit.run));
    }

    fn start(&mut self) {
        if self.unit.machine.is_some() {
            return;
        }
        self.raise_epoch_past(0);
        let nonce = self.random.next();
        let wall = self.wall();
        let (disk, recovering) = Flawed::new(self.unit.disk.clone(), self.bug);
        let started = Machine::start(
            (disk, &self.unit.disk),
            (self.unit.epoch, nonce, self.retention, self.window),
            wall,
            (&mut self.unit.history, &mut self.counts.machine),
            self.bug,
            &mut self.random,
            self.now,
        );
        recovering.store(false, Ordering::Relaxed);
        match started {
            Ok(machine) => {
                self.unit.machine = Some(machine);
                let every = self
                    .unit
                    .lecture
                    .map_or(SECOND, |lecture| lecture.chunk_every.as_nanos() as Time);
                self.after(every, Event::Chunk(self.unit.run));
                self.redial();
            }
            Err(_) => {
                self.counts.machine.faults += 1;
                self.after(10 * SECOND, Event::Start(self.unit.number));
            }
        }
    }

    /// The box's clock. It may not be known before a time server or the receiver said it.
    fn wall(&mut self) -> WallClock {
        WallClock {
            unix_nanos: 1_700_000_000_000_000_000 + self.unit.wall_offset + self.now as i64,
            uncertainty: (!self.random.per_million(100_000)).then_some(Duration::from_secs(1)),
        }
    }

    /// As the identity does: no two copies get the same.
    fn raise_epoch_past(&mut self, held: u64) {
        let step = (1 << 32) + self.random.between(0, u64::from(u32::MAX));
        self.unit.epoch = self.unit.epoch.max(held) + step;
    }

    /// The connections that stand as the boxes see it.
    fn connected(&self) -> Vec<u64> {
        let units = [&self.unit].into_iter().chain(&self.other);
        let pipes = units.filter_map(|unit| unit.pipe.as_ref());
        pipes.map(|pipe| pipe.id).collect()
    }

    fn receiver_start(&mut self, restored: bool) {
        let copy = match restored {
            true => self.store_copy.clone(),
            false => None,
        };
        if copy.is_some() {
            self.note_all(&Happening::ReceiverRestored);
        }
        self.shelf.start(copy);
        self.serve();
        self.list();
    }

    fn list(&mut self) {
        let (objects, complete, wrong) = self.shelf.listing();
        self.wrong.extend(wrong);
        let strange = objects
            .iter()
            .filter(|object| !self.histories().any(|history| history.made(**object)))
            .map(|(key, ..)| format!("{key} was made by no box"));
        let strange: Vec<String> = strange.collect();
        self.wrong.extend(strange);
        for history in self.histories() {
            let known = history.recordings();
            let objects = objects
                .iter()
                .filter(|object| known.contains(&object.0.recording));
            let complete = complete.iter().filter(|id| known.contains(id));
            let (objects, complete) = (objects.copied().collect(), complete.copied().collect());
            history.note(Happening::Store { objects, complete });
        }
    }

    fn redial(&mut self) {
        let wait = self.random.between(SECOND / 4, 2 * SECOND);
        self.redial_after(wait);
    }

    fn redial_after(&mut self, wait: Time) {
        let reachable = self.now.max(self.down_until);
        if !std::mem::replace(&mut self.unit.dialling, true) {
            self.at(reachable + wait, Event::Dial(self.unit.run));
        }
    }

    fn dial(&mut self) {
        self.unit.dialling = false;
        if self.unit.pipe.is_some() || self.unit.machine.is_none() {
            return;
        }
        if !self.shelf.up || self.down_until > self.now {
            return self.redial();
        }
        self.unit.dialling = true;
        self.connections += 1;
        self.owners.insert(self.connections, self.unit.number);
        self.shelf.connect(self.connections, self.held_bytes);
        let round_trip = 2 * self.weather.delay.as_nanos() as Time;
        self.after(
            round_trip,
            Event::Connected(self.unit.run, self.connections),
        );
    }

    fn closed(&mut self, connection: u64, code: Option<ErrorCode>) {
        if self
            .unit
            .pipe
            .as_ref()
            .is_none_or(|pipe| pipe.id != connection)
        {
            return;
        }
        self.unit.pipe = None;
        if let Some(machine) = &mut self.unit.machine {
            machine.no_longer_live(None);
            machine
                .session
                .disconnected(code, "gone".into(), at(self.now));
        }
        if code == Some(ErrorCode::CLONED) {
            self.counts.told_cloned += 1;
            return self.redial_after(30 * SECOND);
        }
        self.redial();
    }

    /// Every fault ends; what was recorded has time to arrive. Then both ends crash once more.
    fn settle(&mut self) {
        let mut asked = false;
        loop {
            let quiet = !self.step() || self.is_quiet();
            let over = self.events.values().all(|event| {
                !matches!(
                    event,
                    Event::Fault(_) | Event::RoomAgain(_) | Event::ReceiverStart(_)
                )
            });
            if over && !self.calm {
                self.calm = true;
                self.unit.disk.fail_syncs(0);
                self.shelf.failing_puts = 0;
            }
            let recording = self
                .unit
                .machine
                .as_ref()
                .is_some_and(Machine::is_recording);
            let quiet = quiet && self.other.is_none();
            if self.calm && quiet && !recording {
                if std::mem::replace(&mut asked, true) {
                    break;
                }
                self.look_for_silence();
                // What a run could not end or make durable is taken up by the next one.
                self.box_dies(false);
                self.after(SECOND, Event::Start(self.unit.number));
            }
            if self.now > 200 * 3600 * SECOND || self.counts.events > 400_000 {
                self.wrong.push("it never settles".into());
                break;
            }
        }
        self.box_dies(true);
        self.receiver_dies(0, false);
        self.start();
        self.shelf.start(None);
        self.serve();
        self.list();
        let read: Vec<_> = self
            .shelf
            .objects()
            .map(|(key, bytes)| (key, bytes.to_vec()))
            .collect();
        for (key, bytes) in read {
            let (offset, recording) = (0, key.recording);
            let read = Happening::Read { key, offset, bytes };
            self.histories()
                .filter(|history| history.recordings().contains(&recording))
                .for_each(|history| history.note(read.clone()));
        }
        self.counts.virtual_seconds += self.now / SECOND;
    }

    /// Nothing is under way, nothing waits to be sent but what is refused.
    fn is_quiet(&self) -> bool {
        let idle = self.unit.machine.as_ref().is_some_and(|machine| {
            machine.custody.sync_at().is_none()
                && machine.syncing.is_none()
                && machine.session.is_settled()
        });
        idle && self.unit.pipe.is_some()
            && self.events.iter().all(|(_, event)| {
                matches!(
                    event,
                    Event::Wake(_)
                        | Event::Silence(_)
                        | Event::LinkFree(_)
                        | Event::Tidy(..)
                        | Event::LateInit(..)
                        | Event::Chunk(_)
                )
            })
    }
}

/// One schedule and its verdict.
fn schedule(seed: u64, bug: Option<Bug>) -> (World, Vec<String>) {
    let mut world = World::new(seed, bug);
    world.settle();
    let mut wrong = std::mem::take(&mut world.wrong);
    wrong.extend(world.unit.history.judge().err().unwrap_or_default());
    if let Some(gone) = &world.retired {
        wrong.extend(gone.breaches().iter().cloned());
    }
    (world, wrong)
}
