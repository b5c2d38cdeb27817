//! What goes wrong in a schedule, and when.

use super::*;

#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
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
    /// The copy of the card is put into another machine, which runs for so long beside the first.
    Clone(Time),
    /// One of two machines with one card is put away.
    Retire,
    /// UTC steps at the box.
    Clock(i64),
}

impl World {
    /// What happens in this schedule, and when.
    pub(super) fn plan(&mut self) {
        self.at(0, Event::Start(0));
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
        if self.random.per_million(80_000) {
            self.plan_a_clone(until);
        }
        for _ in 0..self.random.between(0, 6) {
            let when = self.random.between(0, until + 5 * SECOND);
            let fault = self.any_fault();
            self.at(when, Event::Fault(fault));
        }
    }

    /// A card is copied during a lecture, and both go on with it.
    pub(super) fn plan_a_clone(&mut self, until: Time) {
        let copied = self.random.between(0, until);
        let back = copied + self.random.between(0, 20 * SECOND);
        self.at(copied, Event::Fault(Fault::Copy));
        let length = self.random.between(5, 120) * SECOND;
        self.at(back, Event::Fault(Fault::Clone(length)));
    }

    pub(super) fn any_fault(&mut self) -> Fault {
        let random = &mut self.random;
        // From a second to hours, as often of each size.
        let mut long = |most: u64| {
            let size = random.between(0, most);
            random.between(SECOND, SECOND << size)
        };
        let (out, away) = (long(13), long(9));
        let step = random.between(0, 2 * DAY) as i64 - DAY as i64;
        match random.between(0, 24) {
            20 => Fault::Erase,
            21..=22 => Fault::Clone(random.between(5, 120) * SECOND),
            23..=24 => Fault::Clock(step),
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

    pub(super) fn fault(&mut self, fault: Fault) {
        if self.tells {
            println!("{:>9} ms {fault:?}", self.now / 1_000_000);
        }
        match fault {
            Fault::Press(lecture) => self.press(lecture),
            _ if self.calm && !matches!(fault, Fault::Retire) => {}
            Fault::Outage(length) => {
                self.counts.outages += 1;
                self.counts.hours_out += length / (3600 * SECOND);
                self.down_until = self.down_until.max(self.now + length);
                if length >= IDLE {
                    for connection in self.connected() {
                        self.after(IDLE, Event::Closed(connection, None));
                        self.after(IDLE, Event::Silence(connection));
                    }
                }
            }
            Fault::Move => {
                self.counts.moves += 1;
                if let Some(connection) = self.unit.pipe.as_ref().map(|pipe| pipe.id) {
                    // The old connection still looks alive to the receiver.
                    self.after(IDLE, Event::Silence(connection));
                    self.closed(connection, None);
                }
            }
            Fault::PowerCut(away) => {
                self.counts.power_cuts += 1;
                self.box_dies(true);
                self.after(away, Event::Start(self.unit.number));
            }
            Fault::Kill(away) => {
                self.counts.kills += 1;
                self.box_dies(false);
                self.after(away, Event::Start(self.unit.number));
            }
            Fault::FailingSyncs(count) => {
                self.counts.disk_faults += 1;
                self.unit.disk.fail_syncs(count);
            }
            Fault::DiskFull(room, length) => {
                self.counts.disk_faults += 1;
                self.note(Happening::DiskFull);
                self.unit.disk.set_room(Some(room));
                self.after(length, Event::RoomAgain(self.unit.number));
            }
            Fault::ReceiverCrash(away) => self.receiver_dies(away, false),
            Fault::ReceiverRestored(away) => {
                let restored = self.store_copy.is_some();
                self.counts.restored += u64::from(restored);
                self.receiver_dies(away, restored);
            }
            Fault::FailingPuts(count) => self.shelf.failing_puts = count,
            Fault::BoxRestored(away) => {
                if self.other.is_none()
                    && self.retired.is_none()
                    && let Some(card) = self.card_copy.take()
                {
                    self.counts.box_restored += 1;
                    self.box_dies(true);
                    self.unit.disk = card.disk;
                    self.unit.disk.set_room(None);
                    self.note(Happening::BoxRestored);
                    self.unit.epoch = card.epoch;
                    self.after(away, Event::Start(self.unit.number));
                }
            }
            Fault::Erase => {
                if let Some(recording) = self.shelf.any_recording(&mut self.random) {
                    self.shelf.erase(recording);
                }
            }
            Fault::Copy => {
                self.store_copy = Some(self.shelf.snapshot());
                // A card that was ever in another place is not the same any more.
                if self.other.is_none() && self.retired.is_none() {
                    let mut history = self.unit.history.clone();
                    let recordings = history.recordings();
                    history.note(Happening::BoxCrashed);
                    history.note(Happening::Cloned {
                        recordings: recordings.clone(),
                    });
                    self.card_copy = Some(Copied {
                        disk: self.unit.disk.cut_power(0),
                        epoch: self.unit.epoch,
                        history,
                        recordings,
                        lecture: self.unit.lecture,
                    });
                }
            }
            Fault::Clone(length) => self.clone_box(length),
            Fault::Retire => self.retire(),
            Fault::Clock(step) => {
                self.counts.clock_steps += 1;
                self.unit.wall_offset += step;
            }
        }
    }

    /// The copy of the card goes into another machine.
    pub(super) fn clone_box(&mut self, length: Time) {
        if self.other.is_some() || self.retired.is_some() {
            return;
        }
        let Some(card) = self.card_copy.take() else {
            return;
        };
        self.counts.clones += 1;
        card.disk.set_room(None);
        let recordings = card.recordings.clone();
        self.note(Happening::Cloned { recordings });
        self.runs += 1;
        let number = self.unit.number + 1;
        self.other = Some(Unit::new(number, self.runs, card, &mut self.random));
        self.at(self.now, Event::Start(number));
        self.after(length, Event::Fault(Fault::Retire));
    }

    /// A person puts one of the two away, and starts the other one again.
    pub(super) fn retire(&mut self) {
        let Some(other) = self.other.take() else {
            return;
        };
        self.look_for_silence();
        self.box_dies(true);
        let gone = std::mem::replace(&mut self.unit, other);
        self.retired = Some(gone.history);
        self.look_for_silence();
        self.box_dies(false);
        self.after(SECOND, Event::Start(self.unit.number));
    }

    /// A box that has nothing to do but holds other bytes than the receiver must have told people.
    pub(super) fn look_for_silence(&mut self) {
        let Some(machine) = &self.unit.machine else {
            return;
        };
        if !machine.session.is_settled() || machine.alarms > 0 {
            return;
        }
        let wrong = machine.refused().find(|(key, hash)| {
            let stored = self.shelf.hash_of(*key);
            stored.is_some_and(|stored| stored != *hash)
        });
        if let Some((key, _)) = wrong {
            let text = format!("{key} is another one at the receiver, and nobody is told");
            self.wrong.push(text);
        }
    }

    pub(super) fn box_dies(&mut self, power: bool) {
        let Some(machine) = self.unit.machine.take() else {
            return;
        };
        let waits = machine.custody.sync_at().is_some() || machine.syncing.is_some();
        self.counts.deaths_with_unkept += u64::from(waits);
        drop(machine);
        if power {
            self.unit.disk = self.unit.disk.crash(self.random.next());
        }
        self.note(Happening::BoxCrashed);
        self.runs += 1;
        self.unit.run = self.runs;
        self.unit.tidying = false;
        self.unit.dialling = false;
        self.unit.wake = Time::MAX;
        if let Some(pipe) = self.unit.pipe.take() {
            self.after(IDLE, Event::Silence(pipe.id));
        }
    }

    pub(super) fn receiver_dies(&mut self, away: Time, restored: bool) {
        if !self.shelf.up {
            return;
        }
        self.counts.receiver_crashes += 1;
        self.shelf.crash(&mut self.random);
        self.after(away, Event::ReceiverStart(restored));
        for connection in self.connected() {
            let told = self.random.between(0, IDLE);
            self.after(told, Event::Closed(connection, None));
        }
    }
}
