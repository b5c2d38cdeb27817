//! A receiver: the real fence and ingest engine over a store that forgets what was not synced.

mod puts;

use super::Bug;
use crate::media::{
    BoxId, Hash, LostReason, MediaTime, RecordingId, SegmentKey, Timescale, TrackId,
};
use crate::receiver::archive;
use crate::receiver::catalog::{self, LostRange, Recording, Stored};
use crate::receiver::fence::{Claim, Fence, Verdict};
use crate::receiver::ingest::{self, Ingest, Work};
use crate::receiver::library::{Error as KeepError, Kept, held_tracks};
use crate::simulation::history::{Happening, Object};
use crate::simulation::random::Random;
use crate::wire::ErrorCode;
use crate::wire::message::{
    ErrorMessage, HeldRecording, Hello, Limits, Lost, MAX_HASHES, Message, OpenRecording, Welcome,
};
use crate::wire::stream::SegmentHeader;
use std::collections::{BTreeMap, BTreeSet};

/// What is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Segment(SegmentKey),
    Init(Hash),
    Manifest(RecordingId),
    Lost(RecordingId, LostRange, u8),
    Tombstone(RecordingId),
}

impl Name {
    fn recording(self) -> Option<RecordingId> {
        match self {
            Self::Segment(key) => Some(key.recording),
            Self::Manifest(recording) | Self::Lost(recording, ..) => Some(recording),
            Self::Init(_) | Self::Tombstone(_) => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Item {
    bytes: Vec<u8>,
    init: Option<Hash>,
    synced: bool,
}

/// What a put is for; it comes back through [`Shelf::stored`] once the store has synced it.
#[derive(Clone, Debug)]
pub(super) struct Put {
    pub run: u64,
    pub connection: u64,
    what: What,
    /// Already acknowledged: planted.
    early: bool,
}

#[derive(Clone, Debug)]
enum What {
    Segment(SegmentHeader, u64),
    Init(Hash),
    Lost(Lost),
    Manifest(RecordingId, Option<Box<Put>>),
    Tombstone(RecordingId),
}

/// What the world does for the receiver.
pub(super) enum Out {
    /// Say this on the connection.
    Say(u64, Message),
    /// Stop a stream of the connection.
    Stop(u64, u64, SegmentKey, ErrorCode),
    /// Close the connection.
    Close(u64, ErrorCode),
    /// Sync this after a while.
    Put(Put),
    /// Ask [`Shelf::init_is_late`] after a while.
    AwaitInit(u64, Hash),
    /// Ask [`Shelf::sweep`] after a while.
    Sweep(u64, RecordingId),
    /// Said on this connection, if on one.
    Note(Option<u64>, Happening),
}

struct Guest {
    ingest: Ingest,
    welcomed: bool,
    /// Streams that overtook the greeting.
    early: Vec<(u64, Vec<u8>, bool)>,
    keys: BTreeMap<u64, SegmentKey>,
}

#[derive(Default)]
pub(super) struct Counts {
    pub crashes_with_unsynced: u64,
    pub conflicts: u64,
    pub fenced: u64,
    pub displaced: u64,
    pub store_failures: u64,
    pub refused: u64,
    pub erased: u64,
    pub confirmed: u64,
}

/// See the module.
pub(super) struct Shelf {
    pub run: u64,
    pub up: bool,
    box_id: BoxId,
    bug: Option<Bug>,
    fence: Fence,
    guests: BTreeMap<u64, Guest>,
    items: BTreeMap<Name, Item>,
    catalog: BTreeMap<RecordingId, Recording>,
    inits: BTreeSet<Hash>,
    pub erased: BTreeSet<RecordingId>,
    waiting: Vec<(u64, SegmentHeader, Vec<u8>, Hash)>,
    pub failing_puts: u64,
    pub counts: Counts,
    pub out: Vec<Out>,
}

impl Shelf {
    pub fn new(box_id: BoxId, bug: Option<Bug>) -> Self {
        Self {
            run: 0,
            up: true,
            box_id,
            bug,
            fence: Fence::default(),
            guests: BTreeMap::new(),
            items: BTreeMap::new(),
            catalog: BTreeMap::new(),
            inits: BTreeSet::new(),
            erased: BTreeSet::new(),
            waiting: Vec::new(),
            failing_puts: 0,
            counts: Counts::default(),
            out: Vec::new(),
        }
    }

    pub fn connect(&mut self, connection: u64, held_bytes: u64) {
        let config = ingest::Config {
            held_bytes,
            received_every: 700,
        };
        let guest = Guest {
            ingest: Ingest::new(self.box_id, config),
            welcomed: false,
            early: Vec::new(),
            keys: BTreeMap::new(),
        };
        self.guests.insert(connection, guest);
    }

    pub fn has(&self, connection: u64) -> bool {
        self.guests.contains_key(&connection)
    }

    /// The connection is gone.
    pub fn drop_guest(&mut self, connection: u64) {
        if self.guests.remove(&connection).is_some() {
            self.fence.end(self.box_id, connection);
        }
    }

    /// Bytes of the control stream.
    pub fn control(&mut self, connection: u64, bytes: &[u8]) {
        let Some(guest) = self.guests.get_mut(&connection) else {
            return;
        };
        let work = guest.ingest.control(bytes);
        self.work(connection, work);
    }

    /// Bytes of another stream.
    pub fn stream(&mut self, connection: u64, stream: u64, bytes: Vec<u8>, fin: bool) {
        let Some(guest) = self.guests.get_mut(&connection) else {
            return;
        };
        if !guest.welcomed {
            guest.early.push((stream, bytes, fin));
            return;
        }
        let mut work = guest.ingest.stream(stream, &bytes);
        for item in &work {
            if let Work::Send(Message::Received(received)) = item {
                guest.keys.insert(stream, received.key);
            }
        }
        let stopped = work.iter().any(|work| matches!(work, Work::Stop { .. }));
        if fin && !stopped {
            work.extend(guest.ingest.finished(stream));
        }
        self.work(connection, work);
    }

    pub fn cut(&mut self, connection: u64, stream: u64) {
        if let Some(guest) = self.guests.get_mut(&connection) {
            guest.early.retain(|(early, ..)| *early != stream);
            guest.ingest.cut(stream);
        }
    }

    fn work(&mut self, connection: u64, work: Vec<Work>) {
        for work in work {
            match work {
                // No page shows it, and nobody commands.
                Work::Show(_) | Work::Answered(_) => {}
                Work::Greet(hello) => self.greet(connection, &hello),
                Work::Send(message) => self.say(connection, message),
                Work::Keep {
                    header,
                    bytes,
                    hash,
                    ..
                } => self.keep(connection, header, bytes, hash),
                Work::TakeInit { hash, bytes } => {
                    self.put(connection, Name::Init(hash), bytes, None, What::Init(hash));
                }
                Work::KeepLost(lost) => {
                    let range = LostRange {
                        track: lost.track,
                        first: lost.first,
                        last: lost.last,
                    };
                    let reason = match lost.reason {
                        LostReason::Damaged => 0,
                        LostReason::NoSpace => 1,
                        LostReason::ReceiverForgot => 2,
                    };
                    let name = Name::Lost(lost.recording, range, reason);
                    self.put(connection, name, Vec::new(), None, What::Lost(lost));
                }
                Work::ConfirmErased(_) => self.counts.confirmed += 1,
                Work::Stop { stream, code, .. } => {
                    self.counts.refused += 1;
                    let guest = self.guests.get(&connection);
                    if let Some(key) = guest.and_then(|guest| guest.keys.get(&stream)) {
                        self.out.push(Out::Stop(connection, stream, *key, code));
                    }
                }
                Work::Close { code, .. } => {
                    self.out.push(Out::Close(connection, code));
                    self.drop_guest(connection);
                }
            }
        }
    }

    fn say(&mut self, connection: u64, message: Message) {
        match &message {
            Message::Durable(said) => self.out.push(Out::Note(
                Some(connection),
                Happening::Durable {
                    recording: said.recording,
                    track: said.track,
                    durable: said.durable.clone(),
                },
            )),
            Message::Complete(said) => self.out.push(Out::Note(
                Some(connection),
                Happening::Complete {
                    recording: said.recording,
                },
            )),
            Message::Welcome(said) => {
                for held in &said.recordings {
                    for track in &held.tracks {
                        self.out.push(Out::Note(
                            Some(connection),
                            Happening::Durable {
                                recording: held.recording,
                                track: track.track,
                                durable: track.durable.clone(),
                            },
                        ));
                    }
                }
                for &recording in &said.complete {
                    self.out.push(Out::Note(
                        Some(connection),
                        Happening::Complete { recording },
                    ));
                }
            }
            Message::Error(error) if error.code == ErrorCode::CONFLICT => {
                self.counts.conflicts += 1;
            }
            _ => {}
        }
        self.out.push(Out::Say(connection, message));
    }

    fn greet(&mut self, connection: u64, hello: &Hello) {
        for open in &hello.recordings {
            for watermark in &open.tracks {
                self.out.push(Out::Note(
                    Some(connection),
                    Happening::Greeted {
                        recording: open.recording,
                        track: watermark.track,
                        next: watermark.next,
                    },
                ));
            }
        }
        let claim = Claim {
            epoch: hello.epoch,
            connection: hello.connection,
            nonce: hello.nonce,
        };
        match self.fence.claim(self.box_id, claim, connection) {
            Verdict::Admitted { displaced } => {
                if let Some(old) = displaced.filter(|old| self.guests.contains_key(old)) {
                    self.counts.displaced += 1;
                    self.out.push(Out::Close(old, ErrorCode::FENCED));
                    self.drop_guest(old);
                }
            }
            Verdict::Older(held) => {
                self.counts.fenced += 1;
                let error = ErrorMessage {
                    code: ErrorCode::FENCED,
                    text: String::new(),
                    key: None,
                    epoch: Some(held.epoch),
                };
                self.say(connection, Message::Error(error));
                self.out.push(Out::Close(connection, ErrorCode::FENCED));
                self.drop_guest(connection);
                return;
            }
            Verdict::Cloned { .. } => {
                self.out.push(Out::Close(connection, ErrorCode::CLONED));
                self.drop_guest(connection);
                return;
            }
        }
        let here = |open: &&OpenRecording| {
            self.catalog.contains_key(&open.recording) && !self.erased.contains(&open.recording)
        };
        let known: Vec<&OpenRecording> = hello.recordings.iter().filter(here).collect();
        let mut room = MAX_HASHES.1;
        let mut held = |open: &&OpenRecording| HeldRecording {
            recording: open.recording,
            tracks: held_tracks(&self.catalog[&open.recording], open, &mut room),
        };
        let welcome = Welcome {
            recordings: known.iter().map(&mut held).collect(),
            complete: known
                .iter()
                .map(|open| open.recording)
                .filter(|id| self.catalog[id].complete)
                .collect(),
            clock: None,
            limits: Limits::default(),
            software: String::new(),
            erased: hello
                .recordings
                .iter()
                .map(|open| open.recording)
                .filter(|recording| self.erased.contains(recording))
                .collect(),
            abridged: false,
        };
        let Some(guest) = self.guests.get_mut(&connection) else {
            return;
        };
        let work = guest.ingest.welcome(welcome);
        guest.welcomed = true;
        let early = std::mem::take(&mut guest.early);
        self.work(connection, vec![work]);
        for (stream, bytes, fin) in early {
            self.stream(connection, stream, bytes, fin);
        }
    }

    fn keep(&mut self, connection: u64, header: SegmentHeader, bytes: Vec<u8>, hash: Hash) {
        if let Some(init) = header.init.filter(|init| !self.inits.contains(init)) {
            self.waiting.push((connection, header, bytes, hash));
            self.out.push(Out::AwaitInit(connection, init));
            return;
        }
        let (key, length) = (header.key, bytes.len() as u64);
        let what = What::Segment(header, length);
        self.put(connection, Name::Segment(key), bytes, header.init, what);
    }

    /// The init did not come in time.
    pub fn init_is_late(&mut self, connection: u64, init: Hash) {
        let late = |waiting: &mut (u64, SegmentHeader, _, _)| {
            waiting.0 == connection && waiting.1.init == Some(init)
        };
        let late: Vec<_> = self.waiting.extract_if(.., late).collect();
        for (connection, header, bytes, _) in late {
            let missing = KeepError::InitMissing {
                key: header.key,
                init,
            };
            self.kept(connection, &header, bytes.len() as u64, Err(missing));
        }
    }

    /// The machine loses its power: what was not synced may be there or not.
    pub fn crash(&mut self, random: &mut Random) {
        let unsynced = self.items.values().filter(|item| !item.synced).count();
        self.counts.crashes_with_unsynced += u64::from(unsynced > 0);
        self.up = false;
        self.run += 1;
        self.guests.clear();
        self.waiting.clear();
        self.fence = Fence::default();
        self.items
            .retain(|_, item| item.synced || random.per_million(500_000));
        self.out.clear();
    }

    /// A copy of the store as a power cut would leave it.
    pub fn snapshot(&self) -> Store {
        let synced = self.items.iter().filter(|(_, item)| item.synced);
        Store(synced.map(|(name, item)| (*name, item.clone())).collect())
    }

    /// Starts over what is in the store, or in `restored`.
    pub fn start(&mut self, restored: Option<Store>) {
        if let Some(store) = restored {
            // A person who restores a store keeps the tombstones.
            let tombs = |(name, _): &(Name, Item)| matches!(name, Name::Tombstone(_));
            let tombs: Vec<_> = std::mem::take(&mut self.items)
                .into_iter()
                .filter(tombs)
                .collect();
            self.items = store.0;
            self.items.extend(tombs);
        }
        for item in self.items.iter().filter(|(_, item)| !item.synced) {
            if let (Name::Tombstone(recording), _) = item {
                self.out.push(Out::Note(
                    None,
                    Happening::Erased {
                        recording: *recording,
                    },
                ));
            }
        }
        self.up = true;
        self.catalog.clear();
        self.inits.clear();
        let tombs = self.items.keys().filter_map(|name| match name {
            Name::Tombstone(recording) => Some(*recording),
            _ => None,
        });
        self.erased = tombs.collect();
        let erased = &self.erased;
        self.items
            .retain(|name, _| name.recording().is_none_or(|id| !erased.contains(&id)));
        for (name, item) in &mut self.items {
            // What a restarted receiver lists it has synced before it says so.
            item.synced = true;
            match *name {
                Name::Segment(key) => {
                    let recording = self.catalog.entry(key.recording).or_default();
                    enter(recording, key, &item.bytes, item.init);
                }
                Name::Init(hash) => drop(self.inits.insert(hash)),
                Name::Manifest(recording) => {
                    self.catalog.entry(recording).or_default().complete = true;
                }
                Name::Lost(recording, range, reason) => {
                    let reason = match reason {
                        0 => LostReason::Damaged,
                        1 => LostReason::NoSpace,
                        _ => LostReason::ReceiverForgot,
                    };
                    let recording = self.catalog.entry(recording).or_default();
                    recording.insert_lost(range, reason);
                }
                Name::Tombstone(_) => {}
            }
        }
        let whole: Vec<RecordingId> = self
            .catalog
            .iter()
            .filter(|(_, known)| !known.complete && known.missing().is_none())
            .map(|(id, _)| *id)
            .collect();
        for recording in whole {
            let what = What::Manifest(recording, None);
            self.put(u64::MAX, Name::Manifest(recording), Vec::new(), None, what);
        }
    }

    /// What the store holds, and what in it contradicts itself.
    pub fn listing(&self) -> (Vec<Object>, Vec<RecordingId>, Vec<String>) {
        let mut objects: Vec<Object> = Vec::new();
        let mut complete = Vec::new();
        let mut wrong = Vec::new();
        for (name, item) in &self.items {
            match *name {
                Name::Segment(key) => {
                    let hash = Hash(*blake3::hash(&item.bytes).as_bytes());
                    objects.push((key, item.bytes.len() as u64, hash));
                    if let Some(init) = item.init
                        && item.synced
                        && !self.inits.contains(&init)
                    {
                        wrong.push(format!("{key} is durable without its init"));
                    }
                }
                Name::Manifest(recording) => complete.push(recording),
                _ => {}
            }
        }
        (objects, complete, wrong)
    }

    /// What is stored under a segment's name.
    pub fn hash_of(&self, key: SegmentKey) -> Option<Hash> {
        let item = self.items.get(&Name::Segment(key))?;
        Some(Hash(*blake3::hash(&item.bytes).as_bytes()))
    }

    /// Every object, to read.
    pub fn objects(&self) -> impl Iterator<Item = (SegmentKey, &[u8])> {
        self.items.iter().filter_map(|(name, item)| match name {
            Name::Segment(key) => Some((*key, item.bytes.as_slice())),
            _ => None,
        })
    }
}

/// A copy of the store.
#[derive(Clone)]
pub(super) struct Store(BTreeMap<Name, Item>);

fn directory_error() -> archive::Error {
    archive::Error::Directory {
        dir: "store".into(),
        action: "writing a manifest",
        source: std::io::Error::other("the store failed"),
        advice: "wait",
    }
}

/// Enters a segment as the library does; only facts are real boxes here.
fn enter(recording: &mut Recording, key: SegmentKey, bytes: &[u8], init: Option<Hash>) {
    let hash = Hash(*blake3::hash(bytes).as_bytes());
    if key.track == TrackId::EVENTS {
        let read = catalog::read_segment(bytes, hash).unwrap();
        recording.insert(key.sequence, key.track, read.stored, read.facts);
        return;
    }
    let stored = Stored {
        hash,
        bytes: bytes.len() as u64,
        span: 0,
        start: MediaTime::ZERO,
        timescale: Timescale::new(1000).unwrap(),
        duration: 1,
        init,
    };
    recording.insert(key.sequence, key.track, stored, Vec::new());
}
