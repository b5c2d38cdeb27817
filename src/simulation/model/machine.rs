//! A box: the real spool, custody and session engine, with lanes that make bytes up.
//!
//! Longer than most files: what a box does at a crash touches everything that it holds.

use super::{Bug, Time, at};
use crate::media::{
    BoxId, Chunk, Event, Fact, GapLength, Hash, Init, MediaTime, Monotonic, RecordingId,
    SegmentKey, Segmented, StartedBy, StopReason, TrackId, WallClock,
};
use crate::simulation::card::{self, Card};
use crate::simulation::history::{Happening, History};
use crate::simulation::random::Random;
use crate::spool::twin::TwinDisk;
use crate::spool::{self, Disk, Spool, SyncJob};
use crate::station::custody::{self, Custody, Word};
use crate::uplink::session::{self, Session};
use crate::uplink::{Offer, Report};
use crate::wire::framing::MessageReader;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(super) const BOX: BoxId = BoxId([0xb0; 16]);
/// Late and backfill data sent and not RECEIVED.
pub(super) const BACKFILL: u64 = 4_000;

/// What is recorded: outlives the box's runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lecture {
    pub chunk_every: Duration,
    pub chunks_left: u64,
    pub most_bytes: u64,
}

struct Lane {
    track: TrackId,
    init: Option<Hash>,
    sequence: u64,
    index: u32,
}

struct Running {
    recording: RecordingId,
    span: u32,
    lanes: Vec<Lane>,
    facts: Vec<Fact>,
    end: Option<SegmentKey>,
}

/// A live chunk that is offered and not written yet.
#[derive(Default)]
struct Live {
    offered: u64,
    written: u64,
    since: Time,
}

#[derive(Default)]
pub(super) struct Counts {
    pub chunks: u64,
    pub resumed: u64,
    pub demoted: u64,
    pub forgot: u64,
    pub ahead: u64,
    pub fenced: u64,
    pub recordings: u64,
    pub spans: u64,
    pub faults: u64,
    pub alarms: u64,
}

/// See the module.
pub(super) struct Machine {
    pub custody: Custody,
    pub session: Session,
    pub reader: MessageReader,
    running: Option<Running>,
    unkept: BTreeMap<SegmentKey, VecDeque<u64>>,
    live: BTreeMap<SegmentKey, Live>,
    busy: BTreeSet<SegmentKey>,
    /// Segments of events that the history knows.
    noted: BTreeSet<SegmentKey>,
    pub syncing: Option<SyncJob>,
    card: Card,
    /// Trouble that it told people of.
    pub alarms: u64,
    /// What it takes for UTC.
    pub wall: WallClock,
    bug: Option<Bug>,
    /// The spool refused: the process ends soon.
    pub faulty: bool,
}

impl Machine {
    /// Starts over what the disk holds.
    pub fn start(
        (disk, twin): (Arc<dyn Disk>, &TwinDisk),
        (epoch, nonce, retention, window): (u64, u64, Duration, usize),
        wall: WallClock,
        (history, counts): (&mut History, &mut Counts),
        bug: Option<Bug>,
        random: &mut Random,
        now: Time,
    ) -> Result<Self, spool::Error> {
        let config = spool::Config {
            file_bytes: 6_000,
            reserve_bytes: 0,
            retention,
            rate: 10,
            thresholds: spool::Thresholds {
                free_acknowledged: Duration::from_secs(400),
                floor_bytes: 0,
                refuse_new: Duration::ZERO,
                bit_rate: Duration::ZERO,
                presenter: Duration::ZERO,
                slides: Duration::ZERO,
            },
            ..spool::Config::new("/spool")
        };
        let (mut spool, recovered) = Spool::open(disk.clone(), config)?;
        if bug == Some(Bug::ReleaseBeforeRecord) {
            spool.be_hasty();
        }
        card::note_state(disk, twin, &recovered, history);
        let custody = custody::Config { window };
        let custody = Custody::new(Arc::new(Mutex::new(spool)), epoch, custody);
        let session = Session::new(session::Config {
            backfill: BACKFILL,
            backfill_streams: 3,
            streams: 24,
            ..session::Config::new(BOX, epoch, nonce)
        });
        let mut machine = Self {
            custody,
            session,
            reader: MessageReader::new(),
            running: None,
            unkept: BTreeMap::new(),
            live: BTreeMap::new(),
            busy: BTreeSet::new(),
            noted: BTreeSet::new(),
            syncing: None,
            card: Card::default(),
            alarms: 0,
            wall,
            bug,
            faulty: false,
        };
        machine.take_up(&recovered, (history, counts), random, now);
        Ok(machine)
    }

    /// As the keeper does: offers the backlog, goes on with the latest open recording, ends the others.
    fn take_up(
        &mut self,
        recovered: &[spool::Recovered],
        (history, counts): (&mut History, &mut Counts),
        random: &mut Random,
        now: Time,
    ) {
        self.custody.take_up(recovered);
        let mut open: Vec<_> = self
            .custody
            .spool()
            .recordings()
            .filter(|(_, state)| !state.ended)
            // A power cut may have taken the record of its beginning and left some of its facts.
            .filter(|(_, state)| state.opened.is_some() || !state.tracks.is_empty())
            .map(|(id, state)| match state.opened {
                Some(opened) => ((opened.epoch, opened.wall_nanos), opened.span, id),
                None => ((0, 0), 0, id),
            })
            .collect();
        open.sort_unstable();
        let latest = open.pop_if(|_| !random.per_million(150_000));
        for (_, _, recording) in open {
            self.end_unattended(recording, history, now);
        }
        if let Some((_, _, recording)) = latest {
            self.begin(recording, history, counts, random);
        }
    }

    /// Ends a recording that nobody goes on with.
    fn end_unattended(&mut self, recording: RecordingId, history: &mut History, now: Time) {
        let (span, lost): (_, Vec<_>) = match self.custody.spool().state(recording) {
            Some(state) if !state.ended => {
                let span = state.opened.map_or(0, |opened| opened.span);
                (span, state.lost().collect())
            }
            _ => return,
        };
        let facts = lost.into_iter().map(|(track, range, reason)| Event::Lost {
            track,
            first: range.first,
            last: range.last,
            reason,
        });
        let facts = facts.map(|event| fact(span, event)).collect();
        let reason = StopReason::AwayTooLong;
        self.end(recording, span, facts, reason, history, now);
    }

    /// Lets go what may go, and notes it.
    pub fn tidy(&mut self, disk: &TwinDisk, history: &mut History) {
        let wall = self.wall;
        self.card.tidy(&mut self.custody, disk, history, wall);
    }

    /// A sync ended, and files may leave because of it.
    pub fn synced(&mut self, disk: &TwinDisk, history: &mut History) {
        let Some(job) = self.syncing.take() else {
            return;
        };
        let result = job.run();
        let errors = self.card.synced(&mut self.custody, disk, history, result);
        self.faulty |= !errors.is_empty();
    }

    pub fn is_recording(&self) -> bool {
        self.running.is_some()
    }

    fn check<T>(&mut self, outcome: Result<T, spool::Error>) -> Option<T> {
        if outcome.is_err() {
            self.faulty = true;
            self.running = None;
        }
        outcome.ok()
    }

    pub fn begin(
        &mut self,
        recording: RecordingId,
        history: &mut History,
        counts: &mut Counts,
        random: &mut Random,
    ) {
        let begun = self.custody.begin(recording, self.wall.unix_nanos);
        let Some(span) = self.check(begun) else {
            return;
        };
        counts.spans += 1;
        let mut facts = vec![Event::Span {
            epoch: self.custody.epoch(),
            wall: Some(self.wall),
            gap: (span > 0).then_some(GapLength::Unknown),
        }];
        if span == 0 {
            counts.recordings += 1;
            let by = StartedBy::Button;
            facts.insert(
                0,
                Event::Started {
                    box_id: BOX,
                    by,
                    room: None,
                    title: None,
                },
            );
        }
        let mut lanes = Vec::new();
        for track in [TrackId(1), TrackId(3)] {
            let mut init = None;
            if track == TrackId(1) {
                let mut bytes = vec![0; 40];
                random.fill(&mut bytes);
                let hash = Hash(*blake3::hash(&bytes).as_bytes());
                let given = Segmented::Init(Init { track, hash, bytes });
                let appended = self.custody.append(recording, &given);
                if self.check(appended).is_none() {
                    return;
                }
                init = Some(hash);
            }
            let sequence = self.custody.next_sequence(recording, track);
            lanes.push(Lane {
                track,
                init,
                sequence,
                index: 0,
            });
        }
        self.running = Some(Running {
            recording,
            span,
            lanes,
            facts: facts.into_iter().map(|event| fact(span, event)).collect(),
            end: None,
        });
        self.write_facts(history, Time::default());
    }

    /// Each lane gives its next chunk, and now and then ends its segment.
    pub fn lanes_give(
        &mut self,
        lecture: &Lecture,
        history: &mut History,
        counts: &mut Counts,
        random: &mut Random,
        now: Time,
    ) {
        let Some(running) = &mut self.running else {
            return;
        };
        if running.end.is_some() {
            return;
        }
        let recording = running.recording;
        let mut given = Vec::new();
        for lane in &mut running.lanes {
            let mut bytes = vec![0; random.between(20, lecture.most_bytes) as usize];
            random.fill(&mut bytes);
            let key = SegmentKey {
                recording,
                track: lane.track,
                sequence: lane.sequence,
            };
            given.push(Segmented::Chunk(Chunk {
                key,
                init: lane.init,
                index: lane.index,
                start: MediaTime::ZERO,
                duration: 1,
                captured: at(now),
                bytes,
            }));
            lane.index += 1;
            if lane.index >= 5 || random.per_million(250_000) {
                given.push(Segmented::Seal(key));
                lane.index = 0;
                lane.sequence += 1;
            }
        }
        counts.chunks += given.len() as u64;
        for part in given {
            self.append(recording, &part, history);
        }
        self.write_facts(history, now);
    }

    fn append(&mut self, recording: RecordingId, part: &Segmented, history: &mut History) {
        if self.faulty {
            return;
        }
        let appended = self.custody.append(recording, part);
        let end = self.check(appended).flatten();
        match (part, end) {
            (Segmented::Chunk(chunk), Some(end)) => {
                let (key, bytes) = (chunk.key, chunk.bytes.clone());
                let offset = end - bytes.len() as u64;
                self.unkept.entry(key).or_default().push_back(end);
                history.note(Happening::Segmented { key, offset, bytes });
            }
            (Segmented::Seal(key), _) if self.bug == Some(Bug::SealsNotKept) => {
                let seal = {
                    let spool = self.custody.spool();
                    let track = spool
                        .state(recording)
                        .and_then(|state| state.tracks.get(&key.track));
                    let segment = track.and_then(|track| track.segments.get(&key.sequence));
                    segment.and_then(|segment| segment.seal)
                };
                if let Some((length, hash)) = seal {
                    self.unkept_seals(*key, length, hash);
                }
            }
            _ => {}
        }
    }

    /// Planted: a seal is offered before it is kept.
    fn unkept_seals(&mut self, key: SegmentKey, length: u64, hash: Hash) {
        while let Some(word) = self.custody.next_word() {
            if let Word::Offer(offer) = word {
                self.session.offer(offer, Monotonic::default());
            }
        }
        let offer = Offer::Sealed { key, length, hash };
        self.session.offer(offer, Monotonic::default());
    }

    /// What custody itself has put into the events track, also where it failed half way.
    fn wrote_facts(&mut self, recording: RecordingId, sequence: u64, history: &mut History) {
        let key = SegmentKey {
            recording,
            track: TrackId::EVENTS,
            sequence,
        };
        let bytes = {
            let spool = self.custody.spool();
            let track = spool
                .state(recording)
                .and_then(|state| state.tracks.get(&key.track));
            let segment = track.and_then(|track| track.segments.get(&sequence));
            let length = segment.map_or(0, |segment| segment.length);
            spool.read(key, 0, length).unwrap_or_default()
        };
        if !bytes.is_empty() && self.noted.insert(key) {
            let end = bytes.len() as u64;
            self.unkept.entry(key).or_default().push_back(end);
            history.note(Happening::Segmented {
                key,
                offset: 0,
                bytes,
            });
        }
    }

    fn write_facts(&mut self, history: &mut History, now: Time) {
        let Some(running) = self.running.as_mut().filter(|r| !r.facts.is_empty()) else {
            return;
        };
        let (recording, facts) = (running.recording, std::mem::take(&mut running.facts));
        let sequence = self.custody.next_sequence(recording, TrackId::EVENTS);
        let written = self.custody.write_facts(recording, &facts, at(now));
        self.wrote_facts(recording, sequence, history);
        self.check(written);
    }

    /// The button is held: the lanes give out what they hold, then the recording ends.
    pub fn stop(&mut self, history: &mut History, now: Time) {
        let Some(running) = self.running.as_mut().filter(|r| r.end.is_none()) else {
            return;
        };
        let (recording, span) = (running.recording, running.span);
        let facts = std::mem::take(&mut running.facts);
        let mut seals = Vec::new();
        for lane in running.lanes.iter().filter(|lane| lane.index > 0) {
            seals.push(Segmented::Seal(SegmentKey {
                recording,
                track: lane.track,
                sequence: lane.sequence,
            }));
        }
        for seal in seals {
            self.append(recording, &seal, history);
        }
        let end = self.end(recording, span, facts, StopReason::Button, history, now);
        if let Some(running) = &mut self.running {
            running.end = end;
        }
    }

    fn end(
        &mut self,
        recording: RecordingId,
        span: u32,
        facts: Vec<Fact>,
        reason: StopReason,
        history: &mut History,
        now: Time,
    ) -> Option<SegmentKey> {
        if self.faulty {
            return None;
        }
        let sequence = self.custody.next_sequence(recording, TrackId::EVENTS);
        let ended = self
            .custody
            .end(recording, facts, (span, 0), reason, at(now));
        self.wrote_facts(recording, sequence, history);
        let key = self.check(ended)?;
        let mut totals: Vec<_> = {
            let spool = self.custody.spool();
            let state = spool.state(recording)?;
            let total = |track: &TrackId| (*track, state.next_sequence(*track));
            let media = state.tracks.keys().filter(|id| **id != TrackId::EVENTS);
            media.map(total).collect()
        };
        totals.push((TrackId::EVENTS, key.sequence + 1));
        history.note(Happening::Ended { recording, totals });
        Some(key)
    }

    /// Does what custody asks for.
    pub fn hear(&mut self, history: &mut History, counts: &mut Counts, now: Time) {
        while let Some(word) = self.custody.next_word() {
            match word {
                Word::Offer(offer) => {
                    if let Offer::Lost { lost, .. } = &offer {
                        history.note(Happening::Lost {
                            recording: lost.recording,
                            track: lost.track,
                            first: lost.first,
                            last: lost.last,
                            reason: lost.reason,
                        });
                    }
                    match &offer {
                        Offer::Chunk {
                            key, live: true, ..
                        } if key.track == TrackId::EVENTS => {
                            self.wrote_facts(key.recording, key.sequence, history);
                        }
                        // Written, and offered later.
                        Offer::Track {
                            recording,
                            track: TrackId::EVENTS,
                            end,
                            ..
                        } if self.session.is_ready() => {
                            self.wrote_facts(*recording, end - 1, history);
                        }
                        _ => {}
                    }
                    if let Offer::Chunk {
                        key,
                        offset,
                        length,
                        live: true,
                        ..
                    } = &offer
                    {
                        if *offset == 0 {
                            self.live.insert(*key, Live::default());
                        }
                        if let Some(live) = self.live.get_mut(key) {
                            live.offered = offset + u64::from(*length);
                            if live.written == *offset {
                                live.since = now;
                            }
                        }
                    }
                    self.session.offer(offer, at(now));
                }
                Word::Kept(key) => {
                    let end = self.unkept.get_mut(&key).and_then(VecDeque::pop_front);
                    if let Some(bytes) = end {
                        history.note(Happening::Kept { key, bytes });
                    }
                }
                Word::Sealed(key) => {
                    // The end is kept in one piece.
                    if let Some(ends) = self.unkept.remove(&key)
                        && let Some(&bytes) = ends.back()
                        && key.track == TrackId::EVENTS
                    {
                        history.note(Happening::Kept { key, bytes });
                    }
                    let over = |running: &&mut Running| running.end == Some(key);
                    if self.running.as_mut().filter(over).is_some() {
                        self.running = None;
                    }
                }
                Word::Fact(recording, event) => {
                    let running = self.running.as_mut();
                    let ours = running.filter(|r| r.recording == recording && r.end.is_none());
                    if let Some(running) = ours {
                        running.facts.push(fact(running.span, event));
                    }
                }
                Word::Erased(recording) => {
                    self.live.retain(|key, _| key.recording != recording);
                    let ours = |running: &&mut Running| running.recording == recording;
                    if self.running.as_mut().filter(ours).is_some() {
                        self.running = None;
                    }
                }
                Word::TakenUp(recording) => {
                    let running = self.running.as_ref().map(|running| running.recording);
                    if running != Some(recording) {
                        self.end_unattended(recording, history, now);
                    }
                }
                Word::Alarm { .. } => {
                    counts.alarms += 1;
                    self.alarms += 1;
                }
            }
        }
    }

    pub fn report(&mut self, report: &Report, counts: &mut Counts) {
        match report {
            Report::Forgot { .. } => counts.forgot += 1,
            Report::Ahead { .. } => counts.ahead += 1,
            Report::Fenced { .. } => counts.fenced += 1,
            _ => {}
        }
        let outcome = self.custody.report(report);
        self.check(outcome);
    }

    /// The session has `length` bytes of a segment written at `offset`.
    pub fn wrote(&mut self, key: SegmentKey, offset: u64, length: u32) {
        self.busy.insert(key);
        if let Some(live) = self.live.get_mut(&key) {
            live.written = live.written.max(offset + u64::from(length));
        }
    }

    pub fn taken(&mut self, key: SegmentKey) {
        self.busy.remove(&key);
        self.session.written(key);
    }

    /// The connection is gone, or the segment's stream is.
    pub fn no_longer_live(&mut self, key: Option<SegmentKey>) {
        match key {
            Some(key) => {
                self.busy.remove(&key);
                self.live.remove(&key);
            }
            None => {
                self.busy.clear();
                self.live.clear();
            }
        }
    }

    /// Sealed segments that are not acknowledged.
    pub fn refused(&self) -> impl Iterator<Item = (SegmentKey, Hash)> {
        let spool = self.custody.spool();
        let mut refused = Vec::new();
        for (recording, state) in spool.recordings().filter(|(_, state)| !state.complete) {
            for (&track, of_track) in &state.tracks {
                for (sequence, segment) in of_track.waiting() {
                    let key = SegmentKey {
                        recording,
                        track,
                        sequence,
                    };
                    refused.extend(segment.seal.map(|(_, hash)| (key, hash)));
                }
            }
        }
        refused.into_iter()
    }

    /// A live chunk that waits while backfill is written.
    pub fn waiting_live(&self, now: Time) -> Option<SegmentKey> {
        let waits = |(key, live): &(&SegmentKey, &Live)| {
            live.written < live.offered
                && !self.busy.contains(*key)
                && now.saturating_sub(live.since) < 1_900_000_000
        };
        self.live.iter().find(waits).map(|(key, _)| *key)
    }
}

fn fact(span: u32, event: Event) -> Fact {
    Fact {
        span,
        at_nanos: 0,
        event,
    }
}
