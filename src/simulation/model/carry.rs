//! Does what the engines ask for: bytes and words go over the link, offers to the session.

use super::*;

impl World {
    pub(super) fn reach_box(&mut self, connection: u64, bytes: &[u8]) {
        if self
            .unit
            .pipe
            .as_ref()
            .is_none_or(|pipe| pipe.id != connection)
        {
            return;
        }
        let Some(machine) = &mut self.unit.machine else {
            return;
        };
        let mut input = bytes;
        while let Some(mut message) = machine.reader.next(&mut input).unwrap() {
            match &mut message {
                Message::Received(received) => {
                    let (key, offset) = (received.key, received.offset);
                    self.unit.history.note(Happening::Received { key, offset });
                }
                Message::Durable(said) => self.unit.history.note(Happening::Heard {
                    recording: said.recording,
                    track: said.track,
                    durable: said.durable.clone(),
                }),
                Message::Error(error) => {
                    if let Some(key) = error.key {
                        machine.no_longer_live(Some(key));
                        self.unit.history.note(Happening::Cut { key });
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
    pub(super) fn pump(&mut self) {
        self.serve();
        let Some(mut machine) = self.unit.machine.take() else {
            return;
        };
        loop {
            machine.hear(&mut self.unit.history, &mut self.counts.machine, self.now);
            let taken = self.unit.pipe.as_mut().and_then(Pipe::taken);
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
            self.after(takes, Event::Synced(self.unit.run));
        }
        let faulty = std::mem::take(&mut machine.faulty);
        self.unit.machine = Some(machine);
        if faulty {
            // What `supervise` and systemd do: the process ends and is started again.
            self.counts.machine.faults += 1;
            self.box_dies(false);
            self.after(5 * SECOND, Event::Start(self.unit.number));
        }
        self.transmit();
        self.serve();
    }

    pub(super) fn wake_at(&mut self, due: Option<Time>) {
        if let Some(due) = due
            && due < self.unit.wake
        {
            self.unit.wake = due;
            self.at(due, Event::Wake(self.unit.run));
        }
    }

    pub(super) fn transmit(&mut self) {
        let (now, weather) = (self.now, self.weather);
        let Some(pipe) = self.unit.pipe.as_mut().filter(|pipe| !pipe.busy) else {
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
    pub(super) fn serve(&mut self) {
        for out in std::mem::take(&mut self.shelf.out) {
            match out {
                Out::Note(connection, happening) => self.note_said(connection, happening),
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
                    let takes = self.random.between(SECOND / 1000, self.weather.slowest_put);
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
    pub(super) fn perform(&mut self, machine: &mut Machine, action: Action) {
        if let Action::Report(report) = &action {
            if let Report::Fenced { epoch } = report {
                self.raise_epoch_past(*epoch);
                machine.session.set_epoch(self.unit.epoch);
                let raised = Report::Raised {
                    epoch: self.unit.epoch,
                };
                machine.report(&raised, &mut self.counts.machine);
            }
            machine.report(report, &mut self.counts.machine);
            if matches!(report, Report::Durable { .. } | Report::Complete { .. })
                && !std::mem::replace(&mut self.unit.tidying, true)
            {
                let wait = self.random.between(1, 2_000) * SECOND / 1000;
                self.after(wait, Event::Tidy(self.unit.run, 3));
            }
            return;
        }
        let Some(pipe) = &mut self.unit.pipe else {
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
                let key = renamed(self.bug, self.unit.run, key);
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
                            machine.session.sends(*live)
                                && (pipe.stream_of(*live).is_some()
                                    || machine.session.has_a_stream_left())
                        };
                        let waits = machine.waiting_live(self.now).filter(may_go);
                        if bulk && let Some(live) = waits {
                            self.wrong.push(format!(
                                "live {live} waits while {key} is sent at {}",
                                self.now / 1_000_000
                            ));
                        }
                        let named = renamed(self.bug, self.unit.run, key);
                        self.unit.history.note(Happening::Sent {
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
                    let key = renamed(self.bug, self.unit.run, key);
                    self.unit
                        .history
                        .note(Happening::Trailer { key, length, hash });
                }
            }
            Action::Reprioritise { key, priority } => {
                pipe.set_priority(key, priority);
                machine.no_longer_live(Some(key));
                self.counts.machine.demoted += 1;
                self.unit.history.note(Happening::Demoted { key });
            }
            Action::Reset { key } => {
                machine.no_longer_live(Some(key));
                self.unit.history.note(Happening::Cut { key });
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
