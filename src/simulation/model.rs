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
//! Longer than most files: one loop carries out every fault, and each planted bug is shown to be found.

mod flawed;
mod link;
mod machine;
mod shelf;

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
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Virtual nanoseconds.
type Time = u64;

const SECOND: Time = 1_000_000_000;
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

#[derive(Clone, Copy, Debug)]
enum Fault {
    Outage(Time),
    Move,
    PowerCut(Time),
    Kill(Time),
    FailingSyncs(u32),
    DiskFull(usize, Time),
    ReceiverCrash(Time),
    ReceiverRestored(Time),
    FailingPuts(u64),
    BoxRestored(Time),
    Erase,
    Press(Lecture),
    /// A copy of the store and of the card is made.
    Copy,
}

enum Event {
    Fault(Fault),
    Chunk(u64),
    Synced(u64),
    Wake(u64),
    Start,
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
    RoomAgain,
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
    disk_faults: u64,
    events: u64,
    virtual_seconds: u64,
    machine: machine::Counts,
}

struct World {
    now: Time,
    turn: u64,
    events: BTreeMap<(Time, u64), Event>,
    random: Random,
    weather: Weather,
    bug: Option<Bug>,
    history: History,
    disk: TwinDisk,
    epoch: u64,
    /// Counts the runs of the box's process.
    run: u64,
    machine: Option<Machine>,
    lecture: Option<Lecture>,
    lectures: u64,
    pipe: Option<Pipe>,
    connections: u64,
    dialling: bool,
    wake: Time,
    down_until: Time,
    /// When what the receiver says arrives in order.
    last_word: BTreeMap<u64, Time>,
    shelf: Shelf,
    held_bytes: u64,
    wall_offset: i64,
    retention: Duration,
    /// Segments of the past that the box offers at once.
    window: usize,
    store_copy: Option<Store>,
    card_copy: Option<TwinDisk>,
    calm: bool,
    /// A [`Event::Tidy`] is to come in this run.
    tidying: bool,
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
        let mut world = Self {
            now: SECOND,
            turn: 0,
            events: BTreeMap::new(),
            weather,
            bug,
            history: History::with_backfill_bound(BACKFILL),
            disk: TwinDisk::default(),
            epoch: 0,
            run: 0,
            machine: None,
            lecture: None,
            lectures: 0,
            pipe: None,
            connections: 0,
            dialling: false,
            wake: Time::MAX,
            down_until: 0,
            last_word: BTreeMap::new(),
            shelf: Shelf::new(BOX, bug),
            held_bytes,
            wall_offset: 0,
            retention,
            window: [3, 16, 256][(seed % 3) as usize],
            store_copy: None,
            card_copy: None,
            calm: false,
            tidying: false,
            wrong: Vec::new(),
            counts: Counts::default(),
            tells: std::env::var_os("HALLCAST_SEED").is_some(),
            random,
        };
        world.plan();
        world
    }

    /// What happens in this schedule, and when.
    fn plan(&mut self) {
        self.at(0, Event::Start);
        let lectures = self.random.between(1, 3);
        let mut until = 0;
        let mut when = self.random.between(0, 3) * SECOND;
        for _ in 0..lectures {
            let chunk_every = [250, 400, 1000, 15_000][self.random.between(0, 3) as usize];
            let lecture = Lecture {
                chunk_every: Duration::from_millis(chunk_every),
                chunks_left: self.random.between(2, 40),
                most_bytes: [60, 400, 1500][self.random.between(0, 2) as usize],
            };
            self.at(when, Event::Fault(Fault::Press(lecture)));
            when += lecture.chunks_left * chunk_every * 1_000_000;
            until = when;
            when += self.random.between(0, 20) * SECOND;
        }
        for _ in 0..self.random.between(0, 6) {
            let when = self.random.between(0, until + 5 * SECOND);
            let fault = self.any_fault();
            self.at(when, Event::Fault(fault));
        }
    }

    fn any_fault(&mut self) -> Fault {
        let random = &mut self.random;
        // From a second to hours, as often of each size.
        let mut long = |most: u64| {
            let size = random.between(0, most);
            random.between(SECOND, SECOND << size)
        };
        let (out, away) = (long(13), long(9));
        match random.between(0, 20) {
            20 => Fault::Erase,
            0..=3 => Fault::Outage(out),
            4..=5 => Fault::Move,
            6..=8 => Fault::PowerCut(away),
            9..=10 => Fault::Kill(away),
            11 => Fault::FailingSyncs(random.between(1, 3) as u32),
            12 => Fault::DiskFull(random.between(0, 4000) as usize, away),
            13..=15 => Fault::ReceiverCrash(away),
            16 => Fault::FailingPuts(random.between(1, 6)),
            17 => Fault::ReceiverRestored(away),
            18 if random.per_million(300_000) => Fault::BoxRestored(away),
            _ => Fault::Copy,
        }
    }

    fn at(&mut self, time: Time, event: Event) {
        self.turn += 1;
        self.events.insert((time.max(self.now), self.turn), event);
    }

    fn after(&mut self, wait: Time, event: Event) {
        self.at(self.now + wait, event);
    }

    fn note(&mut self, happening: Happening) {
        self.history.note(happening);
    }

    fn step(&mut self) -> bool {
        let Some(((time, _), event)) = self.events.pop_first() else {
            return false;
        };
        self.now = time;
        self.counts.events += 1;
        self.happen(event);
        self.pump();
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Fault(fault) => self.fault(fault),
            Event::Chunk(run) if run == self.run => self.chunk(),
            Event::Synced(run) if run == self.run => {
                if let Some(machine) = &mut self.machine {
                    machine.synced(&self.disk, &mut self.history);
                }
            }
            Event::Wake(run) if run == self.run => self.wake = Time::MAX,
            Event::Chunk(_) | Event::Synced(_) | Event::Wake(_) => {}
            Event::Start => self.start(),
            Event::Dial(run) if run == self.run => self.dial(),
            Event::Dial(_) => {}
            Event::Connected(run, connection) => {
                self.dialling &= run != self.run;
                if run == self.run
                    && self.shelf.has(connection)
                    && let Some(machine) = &mut self.machine
                {
                    self.pipe = Some(Pipe::new(connection));
                    machine.reader = framing::MessageReader::new();
                    machine.session.connected(None, at(self.now));
                    self.history.note(Happening::Connected);
                } else if run == self.run {
                    self.redial();
                }
            }
            Event::LinkFree(connection) => {
                if let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.id == connection) {
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
                if let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.id == connection)
                    && let Some(machine) = &mut self.machine
                {
                    if pipe.stream_of(key) == Some(stream) {
                        pipe.reset(key);
                    }
                    machine.no_longer_live(Some(key));
                    self.history.note(Happening::Cut { key });
                    machine.session.stopped(key, code, at(self.now));
                }
            }
            Event::Closed(connection, code) => self.closed(connection, code),
            Event::Silence(connection) => self.shelf.drop_guest(connection),
            Event::Stored(put) => self.shelf.stored(put),
            Event::LateInit(connection, init) => self.shelf.init_is_late(connection, init),
            Event::Sweep(run, recording) => self.shelf.sweep(run, recording),
            Event::ReceiverStart(restored) => self.receiver_start(restored),
            Event::RoomAgain => self.disk.set_room(None),
            Event::Tidy(run, times) if run == self.run => {
                let wall = self.wall();
                if let Some(machine) = &mut self.machine {
                    machine.tidy(&self.disk, &mut self.history, wall);
                }
                self.tidying = times > 0;
                if self.tidying {
                    let wait = self.random.between(1, 60) * SECOND;
                    self.after(wait, Event::Tidy(run, times - 1));
                }
            }
            Event::Tidy(..) => {}
        }
    }

    fn fault(&mut self, fault: Fault) {
        if self.tells {
            println!("{:>9} ms {fault:?}", self.now / 1_000_000);
        }
        match fault {
            Fault::Press(lecture) => self.press(lecture),
            _ if self.calm => {}
            Fault::Outage(length) => {
                self.counts.outages += 1;
                self.counts.hours_out += length / (3600 * SECOND);
                self.down_until = self.down_until.max(self.now + length);
                if let Some(connection) = self.pipe.as_ref().map(|pipe| pipe.id)
                    && length >= IDLE
                {
                    self.after(IDLE, Event::Closed(connection, None));
                    self.after(IDLE, Event::Silence(connection));
                }
            }
            Fault::Move => {
                self.counts.moves += 1;
                if let Some(connection) = self.pipe.as_ref().map(|pipe| pipe.id) {
                    // The old connection still looks alive to the receiver.
                    self.after(IDLE, Event::Silence(connection));
                    self.closed(connection, None);
                }
            }
            Fault::PowerCut(away) => {
                self.counts.power_cuts += 1;
                self.box_dies(true);
                self.after(away, Event::Start);
            }
            Fault::Kill(away) => {
                self.counts.kills += 1;
                self.box_dies(false);
                self.after(away, Event::Start);
            }
            Fault::FailingSyncs(count) => {
                self.counts.disk_faults += 1;
                self.disk.fail_syncs(count);
            }
            Fault::DiskFull(room, length) => {
                self.counts.disk_faults += 1;
                self.note(Happening::DiskFull);
                self.disk.set_room(Some(room));
                self.after(length, Event::RoomAgain);
            }
            Fault::ReceiverCrash(away) => self.receiver_dies(away, false),
            Fault::ReceiverRestored(away) => {
                let restored = self.store_copy.is_some();
                self.counts.restored += u64::from(restored);
                self.receiver_dies(away, restored);
            }
            Fault::FailingPuts(count) => self.shelf.failing_puts = count,
            Fault::BoxRestored(away) => {
                if let Some(card) = self.card_copy.take() {
                    self.counts.box_restored += 1;
                    self.box_dies(true);
                    self.disk = card;
                    self.disk.set_room(None);
                    self.note(Happening::BoxRestored);
                    // The copy's epoch is older than what the receiver holds.
                    self.epoch = self.epoch.saturating_sub(2);
                    self.after(away, Event::Start);
                }
            }
            Fault::Erase => {
                if let Some(recording) = self.shelf.any_recording(&mut self.random) {
                    self.shelf.erase(recording);
                }
            }
            Fault::Copy => {
                self.store_copy = Some(self.shelf.snapshot());
                self.card_copy = Some(self.disk.cut_power(0));
            }
        }
    }

    fn press(&mut self, lecture: Lecture) {
        // One recording at a time.
        if self.machine.as_ref().is_none_or(Machine::is_recording) {
            return;
        }
        self.lectures += 1;
        let mut id = [0; 16];
        self.random.fill(&mut id);
        self.lecture = Some(lecture);
        if let Some(machine) = &mut self.machine {
            machine.begin(
                RecordingId(id),
                &mut self.history,
                &mut self.counts.machine,
                &mut self.random,
            );
        }
        let every = lecture.chunk_every.as_nanos() as Time;
        self.after(every, Event::Chunk(self.run));
    }

    fn chunk(&mut self) {
        let Some((lecture, machine)) = self.lecture.as_mut().zip(self.machine.as_mut()) else {
            return;
        };
        if lecture.chunks_left == 0 {
            machine.stop(&mut self.history, self.now);
            return;
        }
        lecture.chunks_left -= 1;
        machine.lanes_give(
            lecture,
            &mut self.history,
            &mut self.counts.machine,
            &mut self.random,
            self.now,
        );
        let every = lecture.chunk_every.as_nanos() as Time;
        self.after(every, Event::Chunk(self.run));
    }

    fn start(&mut self) {
        if self.machine.is_some() {
            return;
        }
        self.epoch += 1;
        let nonce = self.random.next();
        let (disk, recovering) = Flawed::new(self.disk.clone(), self.bug);
        let started = Machine::start(
            (disk, &self.disk),
            (self.epoch, nonce, self.retention, self.window),
            (&mut self.history, &mut self.counts.machine),
            self.bug,
            &mut self.random,
            self.now,
        );
        recovering.store(false, Ordering::Relaxed);
        match started {
            Ok(machine) => {
                self.machine = Some(machine);
                let every = self
                    .lecture
                    .map_or(SECOND, |lecture| lecture.chunk_every.as_nanos() as Time);
                self.after(every, Event::Chunk(self.run));
                self.redial();
            }
            Err(_) => {
                self.counts.machine.faults += 1;
                self.after(10 * SECOND, Event::Start);
            }
        }
    }

    /// The box's clock: it steps by a day now and then.
    fn wall(&mut self) -> WallClock {
        let day = 86_400 * SECOND;
        if self.random.per_million(100_000) {
            self.wall_offset += self.random.between(0, 2 * day) as i64 - day as i64;
        }
        WallClock {
            unix_nanos: 1_700_000_000_000_000_000 + self.wall_offset + self.now as i64,
            // It is not known before a time server or the receiver said it.
            uncertainty: (!self.random.per_million(100_000)).then_some(Duration::from_secs(1)),
        }
    }

    fn box_dies(&mut self, power: bool) {
        let Some(machine) = self.machine.take() else {
            return;
        };
        let waits = machine.custody.sync_at().is_some() || machine.syncing.is_some();
        self.counts.deaths_with_unkept += u64::from(waits);
        drop(machine);
        if power {
            self.disk = self.disk.crash(self.random.next());
        }
        self.note(Happening::BoxCrashed);
        self.run += 1;
        self.tidying = false;
        self.dialling = false;
        self.wake = Time::MAX;
        if let Some(pipe) = self.pipe.take() {
            self.after(IDLE, Event::Silence(pipe.id));
        }
    }

    fn receiver_dies(&mut self, away: Time, restored: bool) {
        if !self.shelf.up {
            return;
        }
        self.counts.receiver_crashes += 1;
        self.shelf.crash(&mut self.random);
        self.after(away, Event::ReceiverStart(restored));
        if let Some(connection) = self.pipe.as_ref().map(|pipe| pipe.id) {
            let told = self.random.between(0, IDLE);
            self.after(told, Event::Closed(connection, None));
        }
    }

    fn receiver_start(&mut self, restored: bool) {
        let copy = match restored {
            true => self.store_copy.clone(),
            false => None,
        };
        if copy.is_some() {
            self.note(Happening::ReceiverRestored);
        }
        self.shelf.start(copy);
        self.serve();
        self.list();
    }

    fn list(&mut self) {
        let (listing, wrong) = self.shelf.listing();
        self.wrong.extend(wrong);
        self.note(listing);
    }

    fn redial(&mut self) {
        let wait = self.random.between(SECOND / 4, 2 * SECOND);
        let reachable = self.now.max(self.down_until);
        if !std::mem::replace(&mut self.dialling, true) {
            self.at(reachable + wait, Event::Dial(self.run));
        }
    }

    fn dial(&mut self) {
        self.dialling = false;
        if self.pipe.is_some() || self.machine.is_none() {
            return;
        }
        if !self.shelf.up || self.down_until > self.now {
            return self.redial();
        }
        self.dialling = true;
        self.connections += 1;
        self.shelf.connect(self.connections, self.held_bytes);
        let round_trip = 2 * self.weather.delay.as_nanos() as Time;
        self.after(round_trip, Event::Connected(self.run, self.connections));
    }

    fn closed(&mut self, connection: u64, code: Option<ErrorCode>) {
        if self.pipe.as_ref().is_none_or(|pipe| pipe.id != connection) {
            return;
        }
        self.pipe = None;
        if let Some(machine) = &mut self.machine {
            machine.no_longer_live(None);
            machine
                .session
                .disconnected(code, "gone".into(), at(self.now));
        }
        self.redial();
    }

    fn reach_box(&mut self, connection: u64, bytes: &[u8]) {
        if self.pipe.as_ref().is_none_or(|pipe| pipe.id != connection) {
            return;
        }
        let Some(machine) = &mut self.machine else {
            return;
        };
        let mut input = bytes;
        while let Some(mut message) = machine.reader.next(&mut input).unwrap() {
            match &mut message {
                Message::Received(received) => {
                    let (key, offset) = (received.key, received.offset);
                    self.history.note(Happening::Received { key, offset });
                }
                Message::Error(error) => {
                    if let Some(key) = error.key {
                        machine.no_longer_live(Some(key));
                        self.history.note(Happening::Cut { key });
                    }
                }
                Message::Welcome(welcome) if self.bug == Some(Bug::ResumeOffByOne) => {
                    // With a hash that nobody told it: a number alone frees nothing.
                    let spool = machine.custody.spool();
                    for held in &mut welcome.recordings {
                        let known = spool.state(held.recording);
                        for track in &mut held.tracks {
                            let sequence = track.durable.cumulative();
                            let state = known.and_then(|known| known.tracks.get(&track.track));
                            let next = state.and_then(|state| state.segments.get(&sequence));
                            if let Some((_, hash)) = next.and_then(|next| next.seal) {
                                track.durable.insert(sequence);
                                track.hashes.push(SegmentHash { sequence, hash });
                            }
                        }
                    }
                }
                _ => {}
            }
            machine.session.received(message, at(self.now));
        }
    }

    /// Lets every engine do what it can do now.
    fn pump(&mut self) {
        self.serve();
        let Some(mut machine) = self.machine.take() else {
            return;
        };
        loop {
            machine.hear(&mut self.history, &mut self.counts.machine, self.now);
            let taken = self.pipe.as_mut().and_then(Pipe::taken);
            if let Some(key) = taken {
                machine.taken(key);
                continue;
            }
            match machine.session.next(at(self.now)) {
                Action::Wait(until) => {
                    let sync = machine.custody.sync_at();
                    let sync = sync.filter(|_| machine.syncing.is_none());
                    let due = until.into_iter().chain(sync).min();
                    self.wake_at(due.map(|due| due.as_nanos().max(self.now + 1)));
                    break;
                }
                action => {
                    if self.tells {
                        println!(
                            "{:>9} ms   {}",
                            self.now / 1_000_000,
                            format!("{action:?}").chars().take(170).collect::<String>()
                        );
                    }
                    self.perform(&mut machine, action)
                }
            }
        }
        if machine.syncing.is_none()
            && let Some(job) = machine.custody.start_sync(at(self.now))
        {
            machine.syncing = Some(job);
            let takes = self.random.between(SECOND / 1000, SECOND / 20);
            self.after(takes, Event::Synced(self.run));
        }
        let faulty = std::mem::take(&mut machine.faulty);
        self.machine = Some(machine);
        if faulty {
            // What `supervise` and systemd do: the process ends and is started again.
            self.counts.machine.faults += 1;
            self.box_dies(false);
            self.after(5 * SECOND, Event::Start);
        }
        self.transmit();
        self.serve();
    }

    fn wake_at(&mut self, due: Option<Time>) {
        if let Some(due) = due
            && due < self.wake
        {
            self.wake = due;
            self.at(due, Event::Wake(self.run));
        }
    }

    fn transmit(&mut self) {
        let (now, weather) = (self.now, self.weather);
        let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.busy) else {
            return;
        };
        let connection = pipe.id;
        if self.down_until > now {
            pipe.busy = true;
            self.at(self.down_until, Event::LinkFree(connection));
        } else if let Some(burst) = pipe.burst(now, &weather, &mut self.random) {
            pipe.busy = true;
            self.at(burst.free, Event::LinkFree(connection));
            let arrives = Event::ToReceiver(connection, burst.stream, burst.bytes, burst.fin);
            self.at(burst.at, arrives);
        }
    }

    /// Does what the receiver asks for.
    fn serve(&mut self) {
        for out in std::mem::take(&mut self.shelf.out) {
            match out {
                Out::Note(happening) => self.note(happening),
                Out::Say(connection, message) => {
                    let bytes = framing::encode(&message).unwrap();
                    let last = self.last_word.get(&connection).copied().unwrap_or(0);
                    let arrives = self.weather.arrival(self.now, &mut self.random).max(last);
                    self.last_word.insert(connection, arrives);
                    self.at(arrives, Event::ToBox(connection, bytes));
                }
                Out::Stop(connection, stream, key, code) => {
                    let arrives = self.weather.arrival(self.now, &mut self.random);
                    self.at(arrives, Event::Stopped(connection, stream, key, code));
                }
                Out::Close(connection, code) => {
                    let last = self.last_word.get(&connection).copied().unwrap_or(0);
                    let arrives = self.weather.arrival(self.now, &mut self.random).max(last);
                    self.at(arrives, Event::Closed(connection, Some(code)));
                }
                Out::Put(put) => {
                    let takes = self.random.between(SECOND / 1000, SECOND / 5);
                    self.after(takes, Event::Stored(put));
                }
                Out::Sweep(run, recording) => {
                    let takes = self.random.between(SECOND / 1000, SECOND);
                    self.after(takes, Event::Sweep(run, recording));
                }
                Out::AwaitInit(connection, init) => {
                    self.after(2 * SECOND, Event::LateInit(connection, init));
                }
            }
        }
    }

    /// Does what the session asks for.
    fn perform(&mut self, machine: &mut Machine, action: Action) {
        if let Action::Report(report) = &action {
            if let Report::Fenced { epoch } = report {
                self.epoch = self.epoch.max(*epoch) + 1;
                machine.session.set_epoch(self.epoch);
                let raised = Report::Raised { epoch: self.epoch };
                machine.report(&raised, &mut self.counts.machine);
            }
            machine.report(report, &mut self.counts.machine);
            if matches!(report, Report::Durable { .. } | Report::Complete { .. })
                && !std::mem::replace(&mut self.tidying, true)
            {
                let wait = self.random.between(1, 2_000) * SECOND / 1000;
                self.after(wait, Event::Tidy(self.run, 3));
            }
            return;
        }
        let Some(pipe) = &mut self.pipe else {
            return;
        };
        match action {
            Action::Control(mut message) => {
                if let (Message::Hello(hello), Some(Bug::WatermarkOffByOne)) =
                    (&mut message, self.bug)
                {
                    let tracks = hello.recordings.iter_mut().flat_map(|r| &mut r.tracks);
                    tracks.for_each(|track| track.next += 1);
                }
                pipe.write(CONTROL, &framing::encode(&message).unwrap(), false);
            }
            Action::SendInit { hash, priority } => {
                let stream = pipe.open(None, priority);
                let bytes = machine.custody.spool().read_init(&hash);
                match bytes {
                    Ok(Some(bytes)) => {
                        pipe.write(stream, &stream::init_stream(&hash, &bytes), true);
                        machine.session.init_read(hash, Ok(()));
                    }
                    Ok(None) => {}
                    Err(error) => machine.session.init_read(hash, Err(&error.into())),
                }
            }
            Action::Open {
                key,
                init,
                priority,
            } => {
                let stream = pipe.open(Some(key), priority);
                if priority <= 10 {
                    machine.no_longer_live(Some(key));
                }
                let key = renamed(self.bug, self.run, key);
                let head = stream::segment_head(&SegmentHeader { key, init });
                pipe.write(stream, &head, false);
            }
            Action::Write {
                key,
                offset,
                length,
                again,
            } => {
                let read = machine.custody.spool().read(key, offset, length.into());
                let Some(stream) = pipe.stream_of(key) else {
                    return;
                };
                match read {
                    Ok(bytes) => {
                        pipe.write(stream, &stream::chunk_head(length), false);
                        pipe.write(stream, &bytes, false);
                        pipe.await_taken(key);
                        machine.wrote(key, offset, length);
                        self.counts.machine.resumed += u64::from(again && offset == 0);
                        let bulk = pipe.priority(key) <= 10;
                        let may_go = |live: &SegmentKey| {
                            pipe.stream_of(*live).is_some() || machine.session.has_a_stream_left()
                        };
                        let waits = machine.waiting_live(self.now).filter(may_go);
                        if bulk && let Some(live) = waits {
                            self.wrong.push(format!(
                                "live {live} waits while {key} is sent at {}",
                                self.now / 1_000_000
                            ));
                        }
                        let named = renamed(self.bug, self.run, key);
                        self.history.note(Happening::Sent {
                            key: named,
                            offset,
                            bytes,
                            bulk,
                        });
                    }
                    Err(error) => {
                        pipe.reset(key);
                        let now = at(self.now);
                        machine.session.unreadable(key, &error.into(), now);
                    }
                }
            }
            Action::Finish { key, length, hash } => {
                if let Some(stream) = pipe.stream_of(key) {
                    pipe.write(stream, &stream::trailer(length, &hash), true);
                    pipe.await_taken(key);
                    let key = renamed(self.bug, self.run, key);
                    self.history.note(Happening::Trailer { key, length, hash });
                }
            }
            Action::Reprioritise { key, priority } => {
                pipe.set_priority(key, priority);
                machine.no_longer_live(Some(key));
                self.counts.machine.demoted += 1;
                self.history.note(Happening::Demoted { key });
            }
            Action::Reset { key } => {
                machine.no_longer_live(Some(key));
                self.history.note(Happening::Cut { key });
                if let Some(stream) = pipe.reset(key) {
                    let connection = pipe.id;
                    let arrives = self.weather.arrival(self.now, &mut self.random);
                    self.at(arrives, Event::CutAtReceiver(connection, stream));
                }
            }
            Action::Close { code, text } => {
                if code != ErrorCode::SILENT {
                    self.wrong.push(format!("the box closed: {code}: {text}"));
                }
                let connection = pipe.id;
                let arrives = self.weather.arrival(self.now, &mut self.random);
                self.at(arrives, Event::Silence(connection));
                // The caller holds the machine: told with the next event.
                self.at(self.now, Event::Closed(connection, Some(code)));
            }
            Action::Report(_) | Action::Wait(_) => {}
        }
    }

    /// Every fault ends; what was recorded has time to arrive. Then both ends crash once more.
    fn settle(&mut self) {
        let mut asked = false;
        loop {
            let quiet = !self.step() || self.is_quiet();
            let over = self.events.values().all(|event| {
                !matches!(
                    event,
                    Event::Fault(_) | Event::RoomAgain | Event::ReceiverStart(_)
                )
            });
            if over && !self.calm {
                self.calm = true;
                self.disk.fail_syncs(0);
                self.shelf.failing_puts = 0;
            }
            let recording = self.machine.as_ref().is_some_and(Machine::is_recording);
            if self.calm && quiet && !recording {
                if std::mem::replace(&mut asked, true) {
                    break;
                }
                // What a run could not end or make durable is taken up by the next one.
                self.box_dies(false);
                self.after(SECOND, Event::Start);
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
            let offset = 0;
            self.note(Happening::Read { key, offset, bytes });
        }
        self.counts.virtual_seconds += self.now / SECOND;
    }

    /// Nothing is under way, nothing waits to be sent but what is refused.
    fn is_quiet(&self) -> bool {
        let idle = self.machine.as_ref().is_some_and(|machine| {
            machine.custody.sync_at().is_none()
                && machine.syncing.is_none()
                && machine.session.is_settled()
        });
        idle && self.pipe.is_some()
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

/// Planted: after a restart a segment goes under the number before its own.
fn renamed(bug: Option<Bug>, run: u64, key: SegmentKey) -> SegmentKey {
    match bug {
        Some(Bug::ReusedSequence) if run > 0 => SegmentKey {
            sequence: key.sequence.saturating_sub(1),
            ..key
        },
        _ => key,
    }
}

/// One schedule and its verdict.
fn schedule(seed: u64, bug: Option<Bug>) -> (World, Vec<String>) {
    let mut world = World::new(seed, bug);
    world.settle();
    let mut wrong = std::mem::take(&mut world.wrong);
    wrong.extend(world.history.judge().err().unwrap_or_default());
    (world, wrong)
}

mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;

    /// In the usual run of the tests.
    const SCHEDULES: u64 = 10_000;

    /// The seeds to run: `HALLCAST_SEED` alone, else the first `count`, twenty times as many in a soak.
    fn seeds(count: u64) -> std::ops::Range<u64> {
        if let Ok(seed) = std::env::var("HALLCAST_SEED") {
            let seed: u64 = seed.parse().unwrap();
            return seed..seed + 1;
        }
        match std::env::var_os("HALLCAST_SOAK") {
            Some(_) => 0..20 * count,
            None => 0..count,
        }
    }

    /// What many schedules did together.
    #[derive(Default)]
    struct Sum {
        schedules: u64,
        failed: u64,
        figures: BTreeMap<&'static str, u64>,
    }

    impl Sum {
        fn add(&mut self, world: &World) {
            let (counts, history) = (&world.counts, world.history.counts());
            let (machine, shelf) = (&counts.machine, &world.shelf.counts);
            self.schedules += 1;
            for (name, figure) in [
                ("events", counts.events),
                ("virtual hours", counts.virtual_seconds),
                ("bytes recorded", history.bytes_segmented),
                ("bytes sent", history.bytes_sent),
                ("chunks", machine.chunks),
                ("segments", history.segments),
                ("recordings", machine.recordings),
                ("spans", machine.spans),
                ("connections", history.connections),
                ("outages", counts.outages),
                ("hours of outage", counts.hours_out),
                ("moves to another address", counts.moves),
                ("power cuts", counts.power_cuts),
                ("process kills", counts.kills),
                ("box deaths with bytes not kept", counts.deaths_with_unkept),
                ("receiver crashes", counts.receiver_crashes),
                (
                    "receiver crashes with objects not synced",
                    shelf.crashes_with_unsynced,
                ),
                ("older stores restored", counts.restored),
                ("older cards restored", counts.box_restored),
                ("disk faults", counts.disk_faults),
                ("spool errors", machine.faults),
                ("store failures", shelf.store_failures),
                ("segments resumed", machine.resumed),
                ("demotions", machine.demoted),
                ("forgot", machine.forgot),
                ("ahead", machine.ahead),
                ("conflicts", shelf.conflicts),
                ("epochs refused", shelf.fenced),
                ("half-open sessions displaced", shelf.displaced),
                ("streams stopped", shelf.refused),
                ("recordings erased", shelf.erased),
                ("erasures confirmed by the box", shelf.confirmed),
                ("segments lost", history.lost),
                ("segments released", history.released),
                ("listings", history.listings),
            ] {
                *self.figures.entry(name).or_default() += figure;
            }
        }
    }

    #[test]
    fn every_schedule_keeps_every_promise() {
        let began = crate::clock::now();
        let (seeds, next) = (seeds(SCHEDULES), AtomicU64::new(0));
        let sum = Mutex::new(Sum::default());
        let work = || {
            loop {
                let seed = seeds.start + next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end || sum.lock().unwrap().failed >= 5 {
                    return;
                }
                let run = std::panic::catch_unwind(|| schedule(seed, None));
                let wrong = match &run {
                    Ok((_, wrong)) => wrong.join("\n  "),
                    Err(_) => "it panicked, see above".into(),
                };
                let mut sum = sum.lock().unwrap();
                if !wrong.is_empty() {
                    sum.failed += 1;
                    println!("HALLCAST_SEED={seed} cargo test --lib simulation::model\n  {wrong}");
                }
                if let Ok((world, _)) = &run {
                    sum.add(world);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(work);
            }
        });
        let mut sum = sum.into_inner().unwrap();
        if let Some(seconds) = sum.figures.get_mut("virtual hours") {
            *seconds /= 3600;
        }
        let took = crate::clock::now().since(began).as_secs_f64();
        println!("{} schedules in {took:.1} s:", sum.schedules);
        for (name, figure) in &sum.figures {
            println!("{figure:>12} {name}");
        }
        assert_eq!(
            sum.failed, 0,
            "each failing seed is above with its one line"
        );
        if seeds.end - seeds.start >= SCHEDULES {
            // A schedule that does nothing proves nothing.
            let idle: Vec<_> = sum
                .figures
                .iter()
                .filter(|(name, figure)| **figure == 0 && **name != "conflicts")
                .collect();
            assert!(idle.is_empty(), "never happened: {idle:?}");
        }
    }

    /// Plants a fault and says after how many schedules the checker saw it.
    fn finds(bug: Bug, within: u64) {
        for seed in 0..within {
            // A planted fault may also run into an assertion of an engine.
            let run = std::panic::catch_unwind(|| schedule(seed, Some(bug)).1);
            let wrong = run.unwrap_or_else(|_| vec!["an engine panicked".into()]);
            if let Some(first) = wrong.first() {
                println!(
                    "the checker found {bug:?} in schedule {}: {first}",
                    seed + 1
                );
                return;
            }
        }
        panic!("{bug:?} was not found in {within} schedules");
    }

    #[test]
    fn the_checker_finds_an_acknowledgement_before_the_sync() {
        finds(Bug::AcknowledgeBeforeSync, 2_000);
    }

    #[test]
    fn the_checker_finds_a_directory_that_is_not_synced() {
        finds(Bug::NoDirectorySync, 200);
    }

    #[test]
    fn the_checker_finds_a_number_used_twice() {
        finds(Bug::ReusedSequence, 200);
    }

    #[test]
    fn the_checker_finds_a_resumption_that_is_off_by_one() {
        finds(Bug::ResumeOffByOne, 200);
    }

    #[test]
    fn the_checker_finds_a_watermark_that_is_off_by_one() {
        finds(Bug::WatermarkOffByOne, 200);
    }

    #[test]
    fn the_checker_finds_a_seal_that_is_not_kept() {
        finds(Bug::SealsNotKept, 200);
    }

    /// A recording leaves whole while that the receiver has it is written and not kept: a power cut
    /// takes that word, and the bytes are gone. (A single file of a recording that stays cannot leave
    /// so: its removal waits for the sync of facts restated behind that very record.)
    #[test]
    fn the_checker_finds_a_release_before_the_acknowledgement_is_recorded() {
        finds(Bug::ReleaseBeforeRecord, 2_000);
    }

    #[test]
    fn the_checker_finds_a_recovery_that_does_not_sync() {
        finds(Bug::RecoveryDoesNotSync, 2_000);
    }
}
