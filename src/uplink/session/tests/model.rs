//! A box, a transport and a receiver small enough to be right.

use super::{T0, chunk, hashes, sealed};
use crate::uplink::session::*;
use crate::wire::message::{
    Complete, Durable, HeldRecording, HeldTrack, Limits, Received, Welcome,
};
use proptest::prelude::*;
use proptest::sample::Index;

pub const RECORDING: RecordingId = RecordingId([0x11; 16]);

pub fn key(track: u8, sequence: u64) -> SegmentKey {
    SegmentKey {
        recording: RECORDING,
        track: TrackId(track),
        sequence,
    }
}

pub fn config() -> Config {
    Config {
        backfill: 1000,
        backfill_streams: 3,
        streams: 6,
        ..Config::new(BoxId([2; 16]), 7, 99)
    }
}

#[derive(Clone, Debug)]
pub enum Step {
    /// The next chunk of a track's open segment.
    Chunk {
        track: u8,
        length: u32,
        live: bool,
    },
    /// The end of a track's open segment.
    Seal {
        track: u8,
    },
    /// The driver does this many actions.
    Act(u8),
    /// The transport takes the write under way of some stream.
    Written(Index),
    /// Bytes of some stream arrive; the receiver says RECEIVED.
    Deliver(Index, Index),
    /// The receiver stores some whole segment.
    Store(Index),
    /// The receiver says DURABLE for a track.
    Acknowledge(u8),
    /// The receiver stops some stream.
    Stop(Index),
    Break,
    Connect,
    Time(u16),
}

pub fn step() -> impl Strategy<Value = Step> {
    let track = 0u8..3;
    prop_oneof![
        4 => (track.clone(), 1u32..700, prop::bool::weighted(0.7))
            .prop_map(|(track, length, live)| Step::Chunk { track, length, live }),
        2 => track.clone().prop_map(|track| Step::Seal { track }),
        6 => (1u8..8).prop_map(Step::Act),
        6 => any::<Index>().prop_map(Step::Written),
        6 => any::<(Index, Index)>().prop_map(|(stream, amount)| Step::Deliver(stream, amount)),
        3 => any::<Index>().prop_map(Step::Store),
        2 => track.prop_map(Step::Acknowledge),
        1 => any::<Index>().prop_map(Step::Stop),
        1 => Just(Step::Break),
        3 => Just(Step::Connect),
        2 => any::<u16>().prop_map(Step::Time),
    ]
}

/// What the box's spool holds of a segment.
#[derive(Default)]
struct Kept {
    chunks: Vec<u32>,
    sealed: bool,
    ever_live: bool,
}

#[derive(Default)]
struct Stream {
    chunks: usize,
    sent: u64,
    received: u64,
    writing: bool,
    trailer: bool,
}

pub struct Model {
    session: Session,
    now: Monotonic,
    up: bool,
    kept: BTreeMap<SegmentKey, Kept>,
    streams: BTreeMap<SegmentKey, Stream>,
    inits: BTreeSet<Hash>,
    stored: BTreeMap<TrackId, Sequences>,
    reported: BTreeMap<TrackId, Sequences>,
}

impl Model {
    pub fn new() -> Self {
        let mut session = Session::new(config());
        session.offer(Offer::Ready, T0);
        Self {
            session,
            now: T0,
            up: false,
            kept: BTreeMap::new(),
            streams: BTreeMap::new(),
            inits: BTreeSet::new(),
            stored: BTreeMap::new(),
            reported: BTreeMap::new(),
        }
    }

    fn open_segment(&self, track: u8) -> u64 {
        let of_track = self.kept.iter().filter(|(key, _)| key.track.0 == track);
        let last = of_track.max_by_key(|(key, _)| key.sequence);
        last.map_or(0, |(key, kept)| key.sequence + u64::from(kept.sealed))
    }

    pub fn take(&mut self, step: Step) {
        match step {
            Step::Chunk {
                track,
                length,
                live,
            } => {
                let key = key(track, self.open_segment(track));
                let kept = self.kept.entry(key).or_default();
                let offset = kept.chunks.iter().map(|chunk| u64::from(*chunk)).sum();
                kept.chunks.push(length);
                kept.ever_live |= live;
                let offer = chunk(track, key.sequence, offset, length, live);
                self.session.offer(offer, self.now);
            }
            Step::Seal { track } => {
                let key = key(track, self.open_segment(track));
                let Some(kept) = self.kept.get_mut(&key) else {
                    return;
                };
                kept.sealed = true;
                let length = kept.chunks.iter().map(|chunk| u64::from(*chunk)).sum();
                self.session
                    .offer(sealed(track, key.sequence, length), self.now);
            }
            Step::Act(count) => {
                for _ in 0..count {
                    if !self.act() {
                        break;
                    }
                }
            }
            Step::Written(which) => {
                let writing = self.pick(which, |stream| stream.writing);
                if let Some(key) = writing {
                    self.streams.get_mut(&key).unwrap().writing = false;
                    self.session.written(key);
                }
            }
            Step::Deliver(which, amount) => {
                let waiting = self.pick(which, |stream| stream.sent > stream.received);
                if let Some(key) = waiting {
                    let stream = self.streams.get_mut(&key).unwrap();
                    let most = stream.sent - stream.received;
                    stream.received += 1 + amount.index(most as usize) as u64;
                    let offset = stream.received;
                    self.hear(Message::Received(Received { key, offset }));
                }
            }
            Step::Store(which) => {
                let whole = |stream: &Stream| {
                    stream.trailer && !stream.writing && stream.received == stream.sent
                };
                if let Some(key) = self.pick(which, whole) {
                    self.stored
                        .entry(key.track)
                        .or_default()
                        .insert(key.sequence);
                }
            }
            Step::Acknowledge(track) => self.acknowledge(TrackId(track)),
            Step::Stop(which) => {
                if let Some(key) = self.pick(which, |_| true) {
                    self.streams.remove(&key);
                    self.session.stopped(key, ErrorCode::STORE_FAILED, self.now);
                }
            }
            Step::Break => self.disconnect(),
            Step::Connect => self.connect(),
            Step::Time(millis) => {
                self.now = self.now.plus(Duration::from_millis(millis.into()) / 16);
            }
        }
    }

    fn pick(&self, which: Index, filter: impl Fn(&Stream) -> bool) -> Option<SegmentKey> {
        let fitting: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, stream)| filter(stream))
            .collect();
        (!fitting.is_empty()).then(|| *which.get(&fitting).0)
    }

    fn acknowledge(&mut self, track: TrackId) {
        let durable = self.stored.get(&track).cloned().unwrap_or_default();
        if self.up && durable != Sequences::default() {
            self.hear(Message::Durable(Durable {
                recording: RECORDING,
                track,
                hashes: hashes(&durable),
                durable,
            }));
        }
    }

    fn hear(&mut self, message: Message) {
        self.session.received(message, self.now);
    }

    fn disconnect(&mut self) {
        if self.up {
            self.up = false;
            self.streams.clear();
            self.inits.clear();
            self.session.disconnected(None, "broken".into(), self.now);
        }
    }

    fn connect(&mut self) {
        if self.up {
            return;
        }
        self.up = true;
        self.session.connected(None, self.now);
        let known = loop {
            match self.session.next(self.now) {
                Action::Control(Message::Hello(hello)) => {
                    break hello.recordings.iter().any(|r| r.recording == RECORDING);
                }
                Action::Report(report) => self.judge(&report),
                other => panic!("{other:?} before the greeting"),
            }
        };
        let tracks = self.stored.iter().map(|(track, durable)| HeldTrack {
            track: *track,
            durable: durable.clone(),
            hashes: hashes(durable),
        });
        let held = HeldRecording {
            recording: RECORDING,
            tracks: tracks.collect(),
        };
        self.hear(Message::Welcome(Welcome {
            recordings: if known { vec![held] } else { vec![] },
            complete: vec![],
            clock: None,
            limits: Limits::default(),
            software: String::new(),
            erased: vec![],
            abridged: false,
        }));
    }

    /// Does one action and judges it; false when there is nothing to do.
    fn act(&mut self) -> bool {
        let action = self.session.next(self.now);
        match &action {
            Action::Wait(until) => {
                assert!(until.is_none_or(|until| until > self.now), "{action:?}");
                return false;
            }
            Action::SendInit { hash, .. } => assert!(self.inits.insert(*hash), "an init twice"),
            Action::Open { key, init, .. } => {
                assert!(self.up);
                assert!(init.is_none_or(|init| self.inits.contains(&init)), "{key}");
                let old = self.streams.insert(*key, Stream::default());
                assert!(old.is_none(), "{key} opened twice");
                assert!(self.streams.values().filter(|s| !s.trailer).count() <= 6);
            }
            Action::Write {
                key,
                offset,
                length,
                ..
            } => {
                let stream = self.streams.get_mut(key).unwrap();
                assert!(!stream.writing && !stream.trailer);
                assert_eq!(*offset, stream.sent, "{key}");
                assert_eq!(*length, self.kept[key].chunks[stream.chunks], "{key}");
                stream.sent += u64::from(*length);
                stream.chunks += 1;
                stream.writing = true;
                self.check_bound(*key);
            }
            Action::Finish { key, length, .. } => {
                let (stream, kept) = (self.streams.get_mut(key).unwrap(), &self.kept[key]);
                assert!(kept.sealed, "a trailer before the seal");
                assert!(!stream.writing && !stream.trailer);
                assert_eq!((stream.chunks, *length), (kept.chunks.len(), stream.sent));
                (stream.trailer, stream.writing) = (true, true);
            }
            Action::Reset { key } => {
                self.streams.remove(key);
            }
            Action::Report(report) => self.judge(report),
            Action::Reprioritise { .. } => {}
            other => panic!("{other:?} from an honest receiver"),
        }
        true
    }

    fn judge(&mut self, report: &Report) {
        match report {
            Report::Durable { track, durable, .. } => {
                for key in self.kept.keys().filter(|key| key.track == *track) {
                    let stored = self
                        .stored
                        .get(track)
                        .is_some_and(|s| s.contains(key.sequence));
                    assert!(
                        stored || !durable.contains(key.sequence),
                        "{key} is not stored"
                    );
                }
                self.reported.insert(*track, durable.clone());
            }
            Report::Connected | Report::Disconnected { .. } | Report::Received { .. } => {}
            other => panic!("{other:?} from an honest receiver"),
        }
    }

    /// What was never live has a bound on bytes sent and not RECEIVED, or is one chunk alone.
    fn check_bound(&self, key: SegmentKey) {
        let past = |key: &SegmentKey| !self.kept[key].ever_live;
        if !past(&key) {
            return;
        }
        let in_flight = self.streams.iter().filter(|(key, _)| past(key));
        let bytes: Vec<u64> = in_flight.map(|(_, s)| s.sent - s.received).collect();
        let alone = bytes.iter().filter(|bytes| **bytes > 0).count() <= 1;
        assert!(bytes.iter().sum::<u64>() <= 1000 || alone, "{bytes:?}");
    }

    /// From now on nothing breaks: all that is sealed must become durable.
    pub fn settle(&mut self) {
        self.disconnect();
        while self.act() {}
        for track in 0..3 {
            let sequence = self.open_segment(track);
            if self.kept.contains_key(&key(track, sequence)) {
                self.take(Step::Seal { track });
            }
        }
        self.connect();
        for _ in 0..20_000 {
            if self.act() {
                continue;
            }
            let Some((key, stream)) = self
                .streams
                .iter_mut()
                .find(|(_, s)| s.writing || s.sent > s.received)
            else {
                break;
            };
            let (key, offset) = (*key, stream.sent);
            if std::mem::take(&mut stream.writing) {
                self.session.written(key);
            } else {
                stream.received = offset;
                self.hear(Message::Received(Received { key, offset }));
            }
        }
        let whole: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.trailer)
            .map(|(key, _)| *key)
            .collect();
        for key in whole {
            self.stored
                .entry(key.track)
                .or_default()
                .insert(key.sequence);
        }
        (0..3).for_each(|track| self.acknowledge(TrackId(track)));
        while self.act() {}
        for key in self.kept.keys() {
            let durable = self.reported.get(&key.track);
            assert!(
                durable.is_some_and(|set| set.contains(key.sequence)),
                "{key} is not durable"
            );
        }
        assert_eq!(self.session.pending(), 0);
        if !self.kept.is_empty() {
            self.hear(Message::Complete(Complete {
                recording: RECORDING,
            }));
            let report = Report::Complete {
                recording: RECORDING,
            };
            assert_eq!(self.session.next(self.now), Action::Report(report));
        }
    }
}
