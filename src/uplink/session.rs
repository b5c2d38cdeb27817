//! The session engine: what to send next, and what a receiver's word is worth.
//!
//! Pure: the driver feeds offers, messages and what happened to streams, each with `now`, and does
//! what [`Session::next`] says until that is [`Action::Wait`].
//!
//! Live goes before backfill by stream priority; because the transport's send buffer is shared by
//! all streams, priority is not enough, so what is late or backfill also has at most
//! [`Config::backfill`] bytes sent but not RECEIVED.
//!
//! Longer than most files: queues, streams and bounds change together, under one set of invariants.

mod segment;
#[cfg(test)]
mod tests;
mod word;

use super::{Action, Offer, Report};
use crate::media::health::Health;
use crate::media::{
    BoxId, Hash, Monotonic, RecordingId, SegmentKey, TrackId, TrackKind, WallClock,
};
use crate::wire::message::{
    self, Answer, Command, Erased, Hello, Lost, Message, OpenRecording, Watermark,
};
use crate::wire::{ErrorCode, Sequences};
use segment::{Phase, Place, Segment, Urgency};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

/// The most commands of one connection that wait for their answers; more are refused at once.
const MOST_COMMANDS: usize = 8;

/// The control stream's priority.
pub const CONTROL_PRIORITY: i32 = 100;

/// Who speaks, and the bounds.
#[derive(Clone, Debug)]
pub struct Config {
    /// This box.
    pub box_id: BoxId,
    /// Its boot epoch.
    pub epoch: u64,
    /// Random for this run of the process.
    pub nonce: u64,
    /// Name and version of the program.
    pub software: String,
    /// The most bytes of late and backfill data sent but not RECEIVED; a chunk that is larger goes
    /// alone.
    pub backfill: u64,
    /// The most streams of late and backfill data open or not RECEIVED at once.
    pub backfill_streams: usize,
    /// The most segment streams open or not RECEIVED at once; the receiver allows more.
    pub streams: usize,
    /// A live chunk not RECEIVED after this long makes its segment late.
    pub late_after: Duration,
    /// How long the receiver has to answer `Hello`.
    pub welcome_within: Duration,
}

impl Config {
    /// The usual bounds: 512 KiB on 8 streams of backfill, 24 streams, late after 2 s.
    pub fn new(box_id: BoxId, epoch: u64, nonce: u64) -> Self {
        Self {
            box_id,
            epoch,
            nonce,
            software: concat!("hallcast ", env!("CARGO_PKG_VERSION")).into(),
            backfill: 512 * 1024,
            backfill_streams: 8,
            streams: 24,
            late_after: Duration::from_secs(2),
            welcome_within: Duration::from_secs(10),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down,
    /// `Hello` is sent; the answer is due.
    Greeting(Monotonic),
    Up,
    /// Closed from this side; the driver has yet to say so.
    Closing,
}

#[derive(Debug, Default)]
struct Track {
    durable: Sequences,
    /// One more than the last number used, offered or not.
    end: u64,
}

#[derive(Debug, Default)]
struct Recording {
    order: u64,
    /// The last greeting that named it.
    asked: u64,
    complete: bool,
    /// The receiver says so, and the last acknowledgements are still on their way.
    claimed: bool,
    tracks: BTreeMap<TrackId, Track>,
    /// What will never come.
    lost: Vec<KnownLost>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct KnownLost {
    range: Lost,
    /// The events track says so; otherwise the receiver is told.
    is_fact: bool,
}

/// Words that no receiver may say: the connection ends.
struct Breach(String);

/// The engine; see the module.
#[derive(Debug)]
pub struct Session {
    config: Config,
    ready: bool,
    link: Link,
    connection: u64,
    budget: u64,
    offers: u64,
    recordings: BTreeMap<RecordingId, Recording>,
    segments: BTreeMap<SegmentKey, Segment>,
    /// Segments without a stream that could have one, and those whose stream could go on.
    idle: BTreeSet<Place>,
    open: BTreeSet<Place>,
    /// Segments with a stream, or with bytes in flight.
    flight: BTreeSet<SegmentKey>,
    parked: BTreeSet<(Monotonic, SegmentKey)>,
    /// Segments that are live and may become late.
    live: BTreeSet<SegmentKey>,
    /// When the present connection was greeted.
    greeted_at: Monotonic,
    /// Greetings of this run, and the first of the present round: a greeting has no room for all.
    greetings: u64,
    round: u64,
    /// The connection ends so that the next greeting asks about the rest.
    asking: bool,
    /// Of the present connection.
    inits_sent: BTreeSet<Hash>,
    /// Those of them that the receiver missed.
    inits_again: BTreeSet<Hash>,
    /// Those that the spool did not give when last asked: whether they are damaged, and what it said.
    inits_unread: BTreeMap<Hash, (bool, String)>,
    greeted: BTreeSet<RecordingId>,
    forgotten: BTreeSet<RecordingId>,
    held_back: BTreeSet<RecordingId>,
    /// Of this run: nothing of them is taken any more.
    erased: BTreeSet<RecordingId>,
    /// Erasures to confirm once the receiver listens.
    confirm: Vec<RecordingId>,
    /// Commands of the present connection that the station has not answered.
    commands: BTreeSet<u64>,
    /// Words of the receiver that wait for [`Offer::Hashes`], and what that said.
    deferred: VecDeque<Message>,
    hashes: BTreeMap<SegmentKey, Hash>,
    /// The newest report of how the box is that was not sent yet.
    health: Option<Box<Health>>,
    out: VecDeque<Action>,
}

impl Session {
    /// An engine that knows nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            budget: config.backfill,
            config,
            ready: false,
            link: Link::Down,
            connection: 0,
            offers: 0,
            recordings: BTreeMap::new(),
            segments: BTreeMap::new(),
            idle: BTreeSet::new(),
            open: BTreeSet::new(),
            flight: BTreeSet::new(),
            parked: BTreeSet::new(),
            live: BTreeSet::new(),
            greeted_at: Monotonic::default(),
            greetings: 0,
            round: 0,
            asking: false,
            inits_sent: BTreeSet::new(),
            inits_again: BTreeSet::new(),
            inits_unread: BTreeMap::new(),
            greeted: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            held_back: BTreeSet::new(),
            erased: BTreeSet::new(),
            confirm: Vec::new(),
            commands: BTreeSet::new(),
            deferred: VecDeque::new(),
            hashes: BTreeMap::new(),
            health: None,
            out: VecDeque::new(),
        }
    }

    /// Whether [`Offer::Ready`] was given: before that, a `Welcome` could not be judged.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Segments that were offered and are not durable.
    pub fn pending(&self) -> usize {
        self.segments.len()
    }

    /// Goes on under another epoch, from connection 1: see [`Report::Fenced`].
    pub fn set_epoch(&mut self, epoch: u64) {
        (self.config.epoch, self.connection) = (epoch, 0);
    }

    /// A receiver answered, and there is nothing to send: what is pending is held back.
    #[cfg(all(test, feature = "receiver"))]
    pub(crate) fn is_settled(&self) -> bool {
        let mut keys = self.segments.keys();
        self.link == Link::Up && keys.all(|key| self.held_back.contains(&key.recording))
    }

    /// Another segment may begin: the number of streams is bounded.
    #[cfg(all(test, feature = "receiver"))]
    pub(crate) fn has_a_stream_left(&self) -> bool {
        self.flight.len() < self.config.streams
    }

    /// Whether the segment is sent, as far as is known, once it is offered.
    pub fn sends(&self, key: SegmentKey) -> bool {
        let durable = |known: &Recording| {
            let track = known.tracks.get(&key.track);
            track.is_some_and(|track| track.durable.contains(key.sequence))
        };
        !self.erased.contains(&key.recording)
            && !self.held_back.contains(&key.recording)
            && !self.recordings.get(&key.recording).is_some_and(durable)
    }

    /// Takes an offer.
    pub fn offer(&mut self, offer: Offer, now: Monotonic) {
        match offer {
            Offer::Ready => self.ready = true,
            Offer::Track { recording, .. } | Offer::Whole { recording }
                if self.erased.contains(&recording) => {}
            Offer::Chunk { key, .. } if self.erased.contains(&key.recording) => {}
            Offer::Track {
                recording,
                track,
                durable,
                end,
            } => {
                let end = end.max(durable.end());
                let track = self.track(recording, track);
                track.durable.merge(&durable);
                track.end = track.end.max(end);
            }
            Offer::Init { hash } => {
                if self.link == Link::Up {
                    self.send_init(hash, Urgency::LiveSound.priority());
                }
            }
            Offer::Chunk {
                key,
                kind,
                init,
                offset,
                length,
                live,
            } => self.offer_chunk(key, (kind, init, live), (offset, length), now),
            Offer::Sealed { key, length, hash } => {
                if let Some(segment) = self.segments.get_mut(&key) {
                    segment.seal = Some((length, hash));
                    self.place(key);
                }
            }
            Offer::Whole { recording } => {
                if let Some(known) = self.recordings.get_mut(&recording) {
                    known.complete = true;
                }
            }
            Offer::Hashes { hashes } => {
                self.hashes = hashes;
                for message in std::mem::take(&mut self.deferred) {
                    self.hear(message, now);
                }
                self.hashes.clear();
            }
            Offer::Lost { lost, is_fact } => self.lose(lost, is_fact),
            Offer::Health(health) => self.health = Some(health).filter(|_| self.link == Link::Up),
            Offer::Forget { recording } => self.forget(recording),
            Offer::Answer(answer) => {
                // The connection that asked may be gone.
                if self.commands.remove(&answer.id) {
                    self.answer(answer);
                }
            }
            Offer::Erased { recording } => {
                self.forget(recording);
                match self.link {
                    Link::Up => self.confirm_erased(recording),
                    _ => self.confirm.push(recording),
                }
            }
        }
    }

    fn confirm_erased(&mut self, recording: RecordingId) {
        let erased = Message::Erased(Erased { recording });
        self.out.push_back(Action::Control(erased));
    }

    fn answer(&mut self, answer: Answer) {
        self.out.push_back(Action::Control(Message::Answer(answer)));
    }

    fn command(&mut self, command: Command, at: Monotonic) {
        if self.commands.len() >= MOST_COMMANDS && !self.commands.contains(&command.id) {
            let why = format!("busy: {MOST_COMMANDS} commands wait for their answers already");
            return self.answer(Answer {
                id: command.id,
                refused: Some(why),
                recording: None,
            });
        }
        // Said twice, it is done and answered once.
        if self.commands.insert(command.id) {
            let report = Report::Command { command, at };
            self.out.push_back(Action::Report(report));
        }
    }

    fn lose(&mut self, lost: Lost, is_fact: bool) {
        let key = |sequence| SegmentKey {
            recording: lost.recording,
            track: lost.track,
            sequence,
        };
        if lost.last < lost.first {
            return;
        }
        let range = key(lost.first)..=key(lost.last);
        let gone: Vec<_> = self.segments.range(range).map(|(key, _)| *key).collect();
        gone.into_iter().for_each(|key| self.drop_segment(key));
        if self.was_ours(lost.recording) {
            return;
        }
        let track = self.track(lost.recording, lost.track);
        track.end = track.end.max(lost.last.saturating_add(1));
        let Some(known) = self.recordings.get_mut(&lost.recording) else {
            return;
        };
        let entry = KnownLost {
            range: lost,
            is_fact,
        };
        if !known.lost.contains(&entry) {
            known.lost.push(entry);
            if !is_fact && self.link == Link::Up && !self.held_back.contains(&lost.recording) {
                self.out.push_back(Action::Control(Message::Lost(lost)));
            }
            if known.claimed {
                self.complete(lost.recording);
            }
        }
    }

    fn offer_chunk(
        &mut self,
        key: SegmentKey,
        (kind, init, live): (TrackKind, Option<Hash>, bool),
        (offset, length): (u64, u32),
        now: Monotonic,
    ) {
        let track = self.track(key.recording, key.track);
        if track.durable.contains(key.sequence) {
            return;
        }
        track.end = track.end.max(key.sequence.saturating_add(1));
        // The receiver forgot what it had: the recording is open again.
        if let Some(recording) = self.recordings.get_mut(&key.recording) {
            recording.complete = false;
        }
        self.offers += 1;
        let order = self.offers;
        let segment = self
            .segments
            .entry(key)
            .or_insert_with(|| Segment::new(order, init, kind, live));
        if offset + u64::from(length) <= segment.length() {
            return; // Offered again while it is still on its way.
        }
        if segment.length() != offset || segment.seal.is_some() || length == 0 {
            log::error!("segment {key}: a chunk offered at {offset} does not continue it; skipped");
            return;
        }
        segment.push(length, now);
        if !segment.urgency.is_bulk() && !self.held_back.contains(&key.recording) {
            self.live.insert(key);
        }
        self.place(key);
    }

    fn track(&mut self, recording: RecordingId, track: TrackId) -> &mut Track {
        self.offers += 1;
        let order = self.offers;
        self.recordings
            .entry(recording)
            .or_insert_with(|| Recording {
                order,
                ..Recording::default()
            })
            .tracks
            .entry(track)
            .or_default()
    }

    fn forget(&mut self, recording: RecordingId) {
        for key in self.keys_of(recording) {
            self.drop_segment(key);
        }
        if self.recordings.remove(&recording).is_some() {
            self.forgotten.insert(recording);
        }
    }

    /// The receiver had it erased: it is not sent any more, and the station deletes its copy.
    fn erase(&mut self, recording: RecordingId) {
        self.forget(recording);
        self.erased.insert(recording);
        self.out
            .push_back(Action::Report(Report::Erase { recording }));
    }

    /// Sends nothing more of a recording of which the receiver holds what it cannot have from us, and
    /// frees nothing of it: `why` says what.
    fn hold_back(&mut self, recording: RecordingId, why: Report) {
        if !self.held_back.insert(recording) {
            return;
        }
        for key in self.keys_of(recording) {
            let Some(segment) = self.segments.get_mut(&key) else {
                continue;
            };
            if segment.has_stream() {
                self.out.push_back(Action::Reset { key });
            }
            // A parked one stays parked: its entry in the timetable names it.
            if !matches!(segment.phase, Phase::Parked(_)) {
                segment.restart();
            }
            self.live.remove(&key);
            self.place(key);
        }
        self.out.push_back(Action::Report(why));
    }

    fn keys_of(&self, recording: RecordingId) -> Vec<SegmentKey> {
        let first = SegmentKey {
            recording,
            track: TrackId(0),
            sequence: 0,
        };
        let of_it = self.segments.range(first..);
        of_it
            .map(|(key, _)| *key)
            .take_while(|key| key.recording == recording)
            .collect()
    }

    /// A connection stands: the engine greets. `clock` is the box's UTC.
    pub fn connected(&mut self, clock: Option<WallClock>, now: Monotonic) {
        self.connection += 1;
        self.greetings += 1;
        if !std::mem::take(&mut self.asking) {
            self.round = self.greetings;
        }
        // What is whole comes last: a receiver that forgot or erased it says so. Of what there is no
        // room for, the next greeting asks first.
        let mut open: Vec<_> = self.recordings.iter_mut().collect();
        open.sort_by_key(|(_, recording)| match recording.complete {
            false => (false, recording.asked, recording.order),
            true => (true, recording.asked, u64::MAX - recording.order),
        });
        open.truncate(message::MAX_RECORDINGS);
        let mut recordings = Vec::new();
        for (id, recording) in open {
            recording.asked = self.greetings;
            recordings.push(OpenRecording {
                recording: *id,
                tracks: watermarks(recording),
            });
        }
        self.greeted = recordings.iter().map(|open| open.recording).collect();
        self.greeted_at = now;
        self.link = Link::Greeting(now.plus(self.config.welcome_within));
        self.out.push_back(Action::Control(Message::Hello(Hello {
            box_id: self.config.box_id,
            epoch: self.config.epoch,
            connection: self.connection,
            nonce: self.config.nonce,
            software: self.config.software.clone(),
            recordings,
            clock,
        })));
    }

    /// The connection is gone. Everything not durable starts over on the next one.
    pub fn disconnected(&mut self, code: Option<ErrorCode>, text: String, now: Monotonic) {
        self.link = Link::Down;
        self.health = None;
        self.out
            .retain(|action| matches!(action, Action::Report(_)));
        self.inits_sent.clear();
        self.inits_again.clear();
        self.inits_unread.clear();
        self.greeted.clear();
        self.forgotten.clear();
        self.held_back.clear();
        self.parked.clear();
        self.flight.clear();
        self.commands.clear();
        self.deferred.clear();
        self.segments.values_mut().for_each(Segment::restart);
        for recording in self.recordings.values_mut() {
            recording.claimed = false;
        }
        self.age(now);
        self.out
            .push_back(Action::Report(Report::Disconnected { code, text }));
    }

    /// A message of the receiver.
    pub fn received(&mut self, message: Message, now: Monotonic) {
        if let (Link::Greeting(_), Message::Welcome(welcome)) = (self.link, &message) {
            let keys = self.unjudged(welcome);
            if !keys.is_empty() && self.deferred.is_empty() {
                self.out.push_back(Action::Report(Report::Claims { keys }));
                self.deferred.push_back(message);
                return;
            }
        }
        match self.deferred.is_empty() {
            true => self.hear(message, now),
            false => self.deferred.push_back(message),
        }
    }

    fn hear(&mut self, message: Message, now: Monotonic) {
        let outcome = match (self.link, message) {
            // A receiver that has not welcomed the box has nothing to command.
            (Link::Down | Link::Closing, _) | (Link::Greeting(_), Message::Command(_)) => Ok(()),
            (Link::Greeting(_), Message::Welcome(welcome)) => self.welcome(&welcome, now),
            (link, Message::Error(error)) => {
                if let Some(key) = error.key {
                    self.stopped(key, error.code, now);
                }
                if let (Link::Greeting(_), ErrorCode::FENCED, Some(epoch)) =
                    (link, error.code, error.epoch)
                    && epoch >= self.config.epoch
                {
                    self.out.push_back(Action::Report(Report::Fenced { epoch }));
                }
                Ok(())
            }
            (Link::Up, Message::Erase(erase)) => {
                self.erase(erase.recording);
                Ok(())
            }
            (Link::Up, Message::Command(command)) => {
                self.command(command, now);
                Ok(())
            }
            (Link::Up, Message::Received(received)) => self.mark_received(&received),
            (Link::Up, Message::Durable(durable)) => self.durable(&durable),
            (Link::Up, Message::InitDurable(inits)) => {
                let unsent = |hash: &&Hash| !self.inits_sent.contains(hash);
                match inits.hashes.iter().find(unsent) {
                    Some(hash) => Err(Breach(format!("init {hash} was never sent"))),
                    None => Ok(()),
                }
            }
            (Link::Up, Message::Complete(complete)) => self.complete_said(complete.recording),
            (_, other) => Err(Breach(format!("not expected now: {}", name(&other)))),
        };
        if let Err(Breach(text)) = outcome {
            self.close(ErrorCode::PROTOCOL, text);
        }
    }

    /// The chunk or trailer last asked for is handed to the transport.
    pub fn written(&mut self, key: SegmentKey) {
        let Some(segment) = self.segments.get_mut(&key) else {
            return;
        };
        segment.busy = false;
        if segment.phase == Phase::Finishing {
            segment.phase = Phase::Finished;
        }
        self.place(key);
    }

    /// The receiver stopped the segment's stream or complained about it.
    pub fn stopped(&mut self, key: SegmentKey, code: ErrorCode, now: Monotonic) {
        let Some(segment) = self.segments.get_mut(&key) else {
            return;
        };
        if matches!(segment.phase, Phase::Idle | Phase::Parked(_)) {
            return;
        }
        if segment.has_stream() {
            self.out.push_back(Action::Reset { key });
        }
        segment.restart();
        if code == ErrorCode::INIT_MISSING
            && let Some(init) = segment.init
        {
            // It went with a stream that failed: it goes again before this segment does.
            self.inits_again.insert(init);
            // It could not go: that is why the receiver misses it.
            if let Some((damaged, text)) = self.inits_unread.get(&init).cloned() {
                self.out
                    .push_back(Action::Report(Report::Unreadable { key, damaged, text }));
            }
        }
        if code == ErrorCode::ERASED {
            self.erase(key.recording);
            return;
        }
        if code == ErrorCode::CONFLICT {
            return self.hold_back(key.recording, Report::Refused { key, code });
        }
        let until = now.plus(segment.next_delay());
        segment.phase = Phase::Parked(until);
        self.parked.insert((until, key));
        self.place(key);
    }

    /// The spool did not give the segment's bytes. It is tried again like a stopped stream.
    pub fn unreadable(&mut self, key: SegmentKey, error: &io::Error, now: Monotonic) {
        if self.segments.contains_key(&key) {
            self.out.push_back(Action::Report(Report::Unreadable {
                key,
                damaged: is_damage(error),
                text: error.to_string(),
            }));
            self.stopped(key, ErrorCode::INTERNAL, now);
        }
    }

    /// The spool gave an init to send, or did not. Nothing is wrong with its segments before the
    /// receiver misses it: it may have it from an earlier connection.
    pub fn init_read(&mut self, hash: Hash, outcome: Result<(), &io::Error>) {
        match outcome {
            Ok(()) => drop(self.inits_unread.remove(&hash)),
            Err(error) => {
                let text = format!("init {hash}: {error}");
                self.inits_unread.insert(hash, (is_damage(error), text));
            }
        }
    }

    /// What to do now. Ask again until it says [`Action::Wait`].
    pub fn next(&mut self, now: Monotonic) -> Action {
        if let Some(action) = self.out.pop_front() {
            return action;
        }
        match self.link {
            Link::Down | Link::Closing => return Action::Wait(None),
            Link::Greeting(until) if now < until => return Action::Wait(Some(until)),
            Link::Greeting(_) => {
                let waited = self.config.welcome_within.as_secs();
                self.close(ErrorCode::SILENT, format!("no welcome within {waited} s"));
            }
            Link::Up => {
                self.age(now);
                self.unpark(now);
                if self.out.is_empty() {
                    self.advance();
                }
                if self.out.is_empty() && self.should_ask_more() {
                    self.asking = true;
                    let text = "to ask about more recordings";
                    self.close(ErrorCode::DONE, text.into());
                }
            }
        }
        if self.out.is_empty()
            && let Some(health) = self.health.take().filter(|_| self.link == Link::Up)
        {
            return Action::Control(Message::Status(*health));
        }
        match self.out.pop_front() {
            Some(action) => action,
            None => Action::Wait(self.next_deadline()),
        }
    }

    /// The receiver has all that it takes, and was not asked about everything in this round.
    fn should_ask_more(&self) -> bool {
        let settled =
            |(id, known): (&RecordingId, &Recording)| known.complete || self.held_back.contains(id);
        let mut known = self.recordings.values();
        known.any(|known| known.asked < self.round) && self.recordings.iter().all(settled)
    }

    /// Live segments whose oldest chunk waits too long become late, or backfill when they are whole
    /// and no stream carries them.
    fn age(&mut self, now: Monotonic) {
        let mut aged = Vec::new();
        for key in &self.live {
            let Some(segment) = self.segments.get(key) else {
                continue;
            };
            if let Some(since) = segment.waiting_since()
                && now.since(since) >= self.config.late_after
            {
                aged.push(*key);
            }
        }
        for key in aged {
            self.live.remove(&key);
            let Some(segment) = self.segments.get_mut(&key) else {
                continue;
            };
            let sending = segment.has_stream() || segment.in_flight() > 0;
            let whole = segment.seal.is_some() && !sending;
            segment.urgency = if whole {
                Urgency::Backfill
            } else {
                Urgency::Late
            };
            if sending {
                let priority = segment.urgency.priority();
                self.out.push_back(Action::Reprioritise { key, priority });
            }
            self.rebuild_places_of(key);
        }
    }

    fn unpark(&mut self, now: Monotonic) {
        while let Some((until, key)) = self.parked.first().copied()
            && until <= now
        {
            self.parked.pop_first();
            if let Some(segment) = self.segments.get_mut(&key) {
                segment.phase = Phase::Idle;
            }
            self.place(key);
        }
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        let late = self.live.iter().filter_map(|key| {
            let since = self.segments.get(key)?.waiting_since()?;
            Some(since.plus(self.config.late_after))
        });
        late.chain(self.parked.first().map(|(until, _)| *until))
            .min()
    }

    /// Queues the next step of the most urgent segment that may take one.
    fn advance(&mut self) {
        let mut first = [self.open.first().copied(), self.idle.first().copied()];
        if first[1] < first[0] && first[1].is_some() || first[0].is_none() {
            first.swap(0, 1);
        }
        let allowed = first
            .into_iter()
            .flatten()
            .find(|place| self.may_go_on(place));
        let Some((_, _, key)) = allowed else {
            return;
        };
        let Some(segment) = self.segments.get_mut(&key) else {
            return;
        };
        let priority = segment.urgency.priority();
        if segment.phase == Phase::Idle {
            segment.phase = Phase::Open;
            let init = segment.init;
            self.flight.insert(key);
            if let Some(hash) = init {
                self.send_init(hash, priority);
            }
            self.out.push_back(Action::Open {
                key,
                init,
                priority,
            });
        } else if let Some(piece) = segment.pieces.get(segment.next) {
            let (offset, length) = (segment.sent, piece.length);
            segment.busy = true;
            segment.next += 1;
            segment.sent += u64::from(length);
            let again = segment.high > offset;
            segment.high = segment.high.max(segment.sent);
            self.out.push_back(Action::Write {
                key,
                offset,
                length,
                again,
            });
        } else if let Some((length, hash)) = segment.seal {
            segment.busy = true;
            segment.phase = Phase::Finishing;
            self.out.push_back(Action::Finish { key, length, hash });
        }
        self.place(key);
    }

    fn may_go_on(&self, place: &Place) -> bool {
        let (urgency, _, key) = place;
        let Some(segment) = self.segments.get(key) else {
            return false;
        };
        let in_flight = || self.flight.iter().filter_map(|key| self.segments.get(key));
        if segment.phase == Phase::Idle {
            let bulk = in_flight().filter(|other| other.urgency.is_bulk()).count();
            if self.flight.len() >= self.config.streams
                || urgency.is_bulk() && bulk >= self.config.backfill_streams
            {
                return false;
            }
        }
        let Some(piece) = segment.pieces.get(segment.next) else {
            return true;
        };
        if !urgency.is_bulk() {
            return true;
        }
        let bulk: u64 = in_flight()
            .filter(|other| other.urgency.is_bulk())
            .map(Segment::in_flight)
            .sum();
        bulk == 0 || bulk + u64::from(piece.length) <= self.budget
    }

    fn send_init(&mut self, hash: Hash, priority: i32) {
        if self.inits_sent.insert(hash) | self.inits_again.remove(&hash) {
            self.out.push_back(Action::SendInit { hash, priority });
        }
    }

    /// Puts the segment where it belongs in the queues.
    fn place(&mut self, key: SegmentKey) {
        let Some(segment) = self.segments.get(&key) else {
            return;
        };
        let place = (segment.urgency, segment.order, key);
        self.idle.remove(&place);
        self.open.remove(&place);
        if self.held_back.contains(&key.recording) {
            // Nothing of it is sent.
        } else if segment.has_work() && segment.phase == Phase::Idle {
            self.idle.insert(place);
        } else if segment.has_work() {
            self.open.insert(place);
        }
        if !segment.has_stream() && segment.in_flight() == 0 {
            self.flight.remove(&key);
        }
    }

    /// As [`Session::place`], when its urgency changed.
    fn rebuild_places_of(&mut self, key: SegmentKey) {
        let Some(segment) = self.segments.get(&key) else {
            return;
        };
        for urgency in [
            Urgency::LiveSound,
            Urgency::LivePicture,
            Urgency::Late,
            Urgency::Backfill,
        ] {
            let place = (urgency, segment.order, key);
            self.idle.remove(&place);
            self.open.remove(&place);
        }
        self.place(key);
    }

    fn drop_segment(&mut self, key: SegmentKey) {
        let Some(segment) = self.segments.remove(&key) else {
            return;
        };
        let place = (segment.urgency, segment.order, key);
        self.idle.remove(&place);
        self.open.remove(&place);
        self.flight.remove(&key);
        self.live.remove(&key);
        if let Phase::Parked(until) = segment.phase {
            self.parked.remove(&(until, key));
        }
        if segment.has_stream() {
            self.out.push_back(Action::Reset { key });
        }
    }

    fn close(&mut self, code: ErrorCode, text: String) {
        self.out
            .retain(|action| matches!(action, Action::Report(_)));
        self.link = Link::Closing;
        self.out.push_back(Action::Close { code, text });
    }
}

/// Reading again does not help: see [`super::Source`].
fn is_damage(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
    kinds.contains(&error.kind())
}

fn watermarks(recording: &Recording) -> Vec<Watermark> {
    let watermark = |(track, known): (&TrackId, &Track)| Watermark {
        track: *track,
        next: known.durable.cumulative(),
    };
    recording.tracks.iter().map(watermark).collect()
}

fn name(message: &Message) -> &'static str {
    match message {
        Message::Hello(_) => "HELLO",
        Message::Welcome(_) => "WELCOME",
        Message::Received(_) => "RECEIVED",
        Message::Durable(_) => "DURABLE",
        Message::InitDurable(_) => "an init's DURABLE",
        Message::Complete(_) => "COMPLETE",
        Message::Status(_) => "STATUS",
        Message::Command(_) => "COMMAND",
        Message::Lost(_) => "LOST",
        Message::Error(_) => "ERROR",
        Message::Erase(_) => "ERASE",
        Message::Erased(_) => "ERASED",
        Message::Answer(_) => "ANSWER",
    }
}
