//! What passes between the station, the session engine and its driver.

use crate::media::health::Health;
use crate::media::{Hash, Monotonic, RecordingId, SegmentKey, TrackId, TrackKind, WallClock};
use crate::wire::message::{Answer, Command, Lost};
use crate::wire::{ErrorCode, Message, Sequences};
use std::collections::BTreeMap;
use std::io;

/// What the spool has, in the order in which it got it.
///
/// At start the station offers each [`Offer::Track`] that it finds, then [`Offer::Ready`]; then what is
/// being recorded, and of the past what it sees fit, oldest first: a segment costs memory from its
/// first chunk until it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// A track in the spool: what was found at start, or numbers that are used and offered later.
    Track {
        /// The recording.
        recording: RecordingId,
        /// The track.
        track: TrackId,
        /// What the spool has recorded as durable.
        durable: Sequences,
        /// One more than the last segment that the spool has ever held of it.
        end: u64,
    },
    /// All that an earlier run left has been named: from now on a connection makes sense, and what is
    /// named later was made by this run.
    Ready,
    /// An init that is about to be used. Optional: an init is sent before its first user anyway.
    Init {
        /// Its hash.
        hash: Hash,
    },
    /// The next bytes of a segment are written (kept or not).
    Chunk {
        /// The segment.
        key: SegmentKey,
        /// What its track carries.
        kind: TrackKind,
        /// The init it needs.
        init: Option<Hash>,
        /// Where the chunk begins in the segment: the end of the one before it.
        offset: u64,
        /// Its length in bytes.
        length: u32,
        /// Captured just now, as opposed to found in the spool.
        live: bool,
    },
    /// Every chunk of the segment and its seal record are kept: its trailer may leave.
    Sealed {
        /// The segment.
        key: SegmentKey,
        /// The length of all its chunks.
        length: u64,
        /// The hash of their bytes.
        hash: Hash,
    },
    /// The spool knows that the receiver has the recording whole. It is still named in `Hello`, after
    /// those that are not: a receiver that forgot or erased it says so. A `Hello` has room for
    /// [`crate::wire::message::MAX_RECORDINGS`]: once all are whole, further connections ask about the rest.
    Whole {
        /// The recording.
        recording: RecordingId,
    },
    /// These segments will never come: whatever was offered of them is dropped.
    Lost {
        /// The range and the reason.
        lost: Lost,
        /// The recording's events track says so. Otherwise the receiver is told by message, on each
        /// connection until it has the recording whole.
        is_fact: bool,
    },
    /// The answer to [`Report::Claims`]: the seals' hashes, of those that have one.
    Hashes {
        /// By segment.
        hashes: BTreeMap<SegmentKey, Hash>,
    },
    /// The spool no longer holds this recording.
    Forget {
        /// The recording.
        recording: RecordingId,
    },
    /// How the box is. The newest is sent where there is a receiver, after all else that is to be said.
    Health(Box<Health>),
    /// What became of a command; said where its connection still stands.
    Answer(Answer),
    /// As `Forget`, of a recording that the receiver had erased ([`Report::Erase`]): the copy is gone
    /// durably, and the receiver is told.
    Erased {
        /// The recording.
        recording: RecordingId,
    },
}

/// What the station learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A receiver answered; what follows comes from it.
    Connected,
    /// UTC by the receiver's clock, from a receiver that knows it; an annotation.
    Clock {
        /// UTC, and how far off it may be, the way of the message included.
        wall: WallClock,
        /// When that was.
        at: Monotonic,
    },
    /// The connection is gone; it will be tried again.
    Disconnected {
        /// Why, where either end gave a code.
        code: Option<ErrorCode>,
        /// Why, for people.
        text: String,
    },
    /// The link has become poorer or better: pictures are wanted at another bit rate.
    Link {
        /// 0 for the full rate, [`super::breaker::SPOOL_ONLY`] when nothing is sent live any more.
        step: u8,
    },
    /// The receiver has this much of a segment and may show it live. Frees nothing.
    Received {
        /// The segment.
        key: SegmentKey,
        /// Bytes from its beginning.
        offset: u64,
    },
    /// All of a track that is on the receiver's stable storage.
    Durable {
        /// The recording.
        recording: RecordingId,
        /// The track.
        track: TrackId,
        /// Its durable segments.
        durable: Sequences,
    },
    /// The receiver holds less of a track than the spool had recorded as durable. What the spool
    /// still has must be offered again; the rest is LOST.
    Forgot {
        /// The recording.
        recording: RecordingId,
        /// The track.
        track: TrackId,
        /// What the receiver holds.
        held: Sequences,
    },
    /// The receiver holds segments that are not on offer now: [`Offer::Hashes`] is due, and nothing is
    /// sent before it.
    Claims {
        /// The segments.
        keys: Vec<SegmentKey>,
    },
    /// The receiver claims segments that this box never made or never sent whole: an older copy of its
    /// disk was restored, or the receiver lies. Its word on this recording frees nothing, and nothing
    /// of the recording is sent on this connection; all others go on. It takes a person.
    Ahead {
        /// The recording.
        recording: RecordingId,
        /// The track.
        track: TrackId,
        /// What the receiver claims of it.
        held: Sequences,
    },
    /// The recording was erased at the receiver on purpose: the box's copy must go too, then
    /// [`Offer::Erased`] is due. Nothing of it is sent any more.
    Erase {
        /// The recording.
        recording: RecordingId,
    },
    /// The receiver asks for something: [`Offer::Answer`] is due. Whether it may, the station knows.
    Command {
        /// What it asks.
        command: Command,
        /// When it arrived.
        at: Monotonic,
    },
    /// The receiver holds this epoch for the box, and ours is not above it: the card was restored, or
    /// two machines use one key. The driver goes past it.
    Fenced {
        /// The epoch held.
        epoch: u64,
    },
    /// The driver has gone past an epoch that was held: what begins from now on has this one.
    Raised {
        /// The epoch.
        epoch: u64,
    },
    /// The receiver holds the whole recording and its manifest. Frees nothing by itself.
    Complete {
        /// The recording.
        recording: RecordingId,
    },
    /// The receiver holds another content under this segment's name: another machine runs from a copy
    /// of this box's card. As after [`Report::Ahead`], nothing of the recording is sent or freed.
    Refused {
        /// The segment.
        key: SegmentKey,
        /// Why.
        code: ErrorCode,
    },
    /// The spool did not give what it had offered.
    Unreadable {
        /// The segment.
        key: SegmentKey,
        /// Its bytes, or its init's, are not there or not what was written: reading again does not help.
        /// Otherwise the disk only failed to give them, which may pass.
        damaged: bool,
        /// What the spool said.
        text: String,
    },
}

/// What the driver does next for the session engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send this on the control stream.
    Control(Message),
    /// Send an init on a stream of its own, at this priority.
    SendInit {
        /// Its hash.
        hash: Hash,
        /// The stream's priority.
        priority: i32,
    },
    /// Open a stream for the segment and write its header.
    Open {
        /// The segment.
        key: SegmentKey,
        /// The init it needs.
        init: Option<Hash>,
        /// The stream's priority.
        priority: i32,
    },
    /// Write one chunk; `Session::written` follows.
    Write {
        /// The segment.
        key: SegmentKey,
        /// Where the chunk begins.
        offset: u64,
        /// Its length.
        length: u32,
        /// These bytes were sent before, on a connection that was lost.
        again: bool,
    },
    /// Write the trailer and end the stream; `Session::written` follows.
    Finish {
        /// The segment.
        key: SegmentKey,
        /// The length of all its chunks.
        length: u64,
        /// The hash of their bytes.
        hash: Hash,
    },
    /// Change the priority of the segment's open stream.
    Reprioritise {
        /// The segment.
        key: SegmentKey,
        /// Its new priority.
        priority: i32,
    },
    /// Give the segment's stream up.
    Reset {
        /// The segment.
        key: SegmentKey,
    },
    /// Close the connection; `Session::disconnected` follows.
    Close {
        /// Why.
        code: ErrorCode,
        /// Why, for people.
        text: String,
    },
    /// Tell the station.
    Report(Report),
    /// Nothing to do before this instant (or at all) unless something happens.
    Wait(Option<crate::media::Monotonic>),
}

/// Where the bytes are. Called on blocking threads. [`io::ErrorKind::InvalidData`] and
/// [`io::ErrorKind::UnexpectedEof`] mean damage, any other error a disk that may do better later.
pub trait Source: Send + Sync + 'static {
    /// `length` bytes of the segment from `offset`.
    fn segment(&self, key: SegmentKey, offset: u64, length: u32) -> io::Result<Vec<u8>>;

    /// The bytes of an init.
    fn init(&self, hash: &Hash) -> io::Result<Vec<u8>>;
}
