//! The engine of one session: bytes of its streams in, work out. Owns no socket, file or clock.
//!
//! ```text
//! Hello -> Greet -> (driver asks fence and library) -> Welcome
//! bytes of a segment -> Received every 64 KiB and at each chunk's end
//! its valid trailer and FIN -> Keep -> (durable, its init before it) -> InitDurable, Durable, Complete
//! ```
//!
//! A stream that is cut, or whose trailer is wrong, leaves nothing. What is held in memory of all
//! segments under way is bounded by [`Config::held_bytes`], and that of all sessions by a [`Budget`]. Inits
//! count apart from segments: those waiting for an init never keep it out.

use super::library::{Error as KeepError, Kept};
use crate::media::health::Health;
use crate::media::{BoxId, Hash, RecordingId, SegmentKey};
use crate::wire::ErrorCode;
use crate::wire::framing::{self, MessageReader};
use crate::wire::message::{
    Answer, Complete, Durable, Erase, ErrorMessage, Hello, InitDurable, Lost, MAX_RECORDINGS,
    Message, Received, SegmentHash, Welcome,
};
use crate::wire::stream::{Finished, MAX_INIT, SegmentHeader, StreamEvent, StreamReader};
use std::collections::BTreeMap;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of segments that all sessions together hold in memory.
const TOGETHER: u64 = 1024 * 1024 * 1024;
/// A session holds at most this part of what is left of it, so that there is always some for another.
const PART: u64 = 32;
/// Bytes of inits under way that a session holds: more than a box has at a time.
const INITS: u64 = 16 * MAX_INIT as u64;

/// Bounds of a session.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The most bytes of segments held in memory until they are durable.
    pub held_bytes: u64,
    /// RECEIVED is sent each time so many more bytes of a segment have arrived.
    pub received_every: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            held_bytes: 48 * 1024 * 1024,
            received_every: 64 * 1024,
        }
    }
}

/// What the segments under way of all sessions may take together.
#[derive(Debug)]
pub struct Budget {
    most: u64,
    held: AtomicU64,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(TOGETHER)
    }
}

impl Budget {
    /// One of `most` bytes.
    pub fn new(most: u64) -> Self {
        Self {
            most,
            held: AtomicU64::new(0),
        }
    }

    /// Takes `more` for a session that holds `own`; false if that is more than its part.
    fn take(&self, own: u64, more: u64) -> bool {
        let taken = |held: u64| {
            let part = self.most.saturating_sub(held) / PART;
            (own + more <= part).then_some(held + more)
        };
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.held.fetch_update(set, fetch, taken).is_ok()
    }

    fn give_back(&self, length: u64) {
        self.held.fetch_sub(length, Ordering::Relaxed);
    }
}

/// What the driver is to do.
#[derive(Debug)]
pub enum Work {
    /// Let fence and library answer this `Hello`, then call [`Ingest::welcome`] or close.
    Greet(Hello),
    /// Send this on the control stream.
    Send(Message),
    /// Make this segment durable, then call [`Ingest::kept`].
    Keep {
        /// The stream it came on.
        stream: u64,
        /// Its name and init.
        header: SegmentHeader,
        /// The bytes to archive.
        bytes: Vec<u8>,
        /// Their hash, already checked.
        hash: Hash,
    },
    /// Hold this init for the segments that need it.
    TakeInit {
        /// Its hash, already checked.
        hash: Hash,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Make this declaration durable, then call [`Ingest::lost_kept`].
    KeepLost(Lost),
    /// Show how the box is; nothing of it is kept.
    Show(Box<Health>),
    /// Note that the box's copy of this erased recording is gone.
    ConfirmErased(RecordingId),
    /// Tell whoever gave the command.
    Answered(Answer),
    /// Refuse the rest of this stream.
    Stop {
        /// The stream.
        stream: u64,
        /// Why.
        code: ErrorCode,
        /// Why, for the log.
        text: String,
    },
    /// End the connection.
    Close {
        /// Why.
        code: ErrorCode,
        /// Why, for people at both ends.
        text: String,
    },
}

/// Counters of one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Segments made durable.
    pub segments: u64,
    /// Bytes of segments received, including those of streams that were cut.
    pub bytes: u64,
    /// Streams that left nothing: cut, refused or not kept.
    pub refused: u64,
}

enum State {
    /// No `Hello` yet.
    Silent,
    /// The driver is asking fence and library.
    Greeted,
    Open,
    Closed,
}

struct Incoming {
    reader: StreamReader,
    header: Option<SegmentHeader>,
    bytes: Vec<u8>,
    /// Bytes of an init, which the reader gathers.
    init: u64,
    acknowledged: u64,
}

/// The engine of one session.
pub struct Ingest {
    config: Config,
    box_id: BoxId,
    state: State,
    control: MessageReader,
    streams: BTreeMap<u64, Incoming>,
    /// Bytes of segments, and of inits.
    held: u64,
    inits: u64,
    budget: Arc<Budget>,
    stats: Stats,
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.budget.give_back(self.held + self.inits);
    }
}

impl Ingest {
    /// The engine of a connection whose certificate is that of `box_id`.
    pub fn new(box_id: BoxId, config: Config) -> Self {
        Self {
            config,
            box_id,
            state: State::Silent,
            control: MessageReader::new(),
            streams: BTreeMap::new(),
            held: 0,
            inits: 0,
            budget: Arc::default(),
            stats: Stats::default(),
        }
    }

    /// Shares `budget` with other sessions; otherwise it has one of its own.
    pub fn sharing(self, budget: Arc<Budget>) -> Self {
        let mut engine = self;
        engine.budget = budget;
        engine
    }

    fn free(&mut self, length: u64) {
        let freed = length.min(self.held);
        self.held -= freed;
        self.budget.give_back(freed);
    }

    fn free_init(&mut self, length: u64) {
        self.inits -= length;
        self.budget.give_back(length);
    }

    /// Its counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn close(&mut self, code: ErrorCode, text: impl Into<String>) -> Work {
        self.state = State::Closed;
        Work::Close {
            code,
            text: text.into(),
        }
    }

    /// Bytes of the control stream.
    pub fn control(&mut self, mut input: &[u8]) -> Vec<Work> {
        let mut work = Vec::new();
        while !matches!(self.state, State::Closed) {
            match self.control.next(&mut input) {
                Ok(Some(message)) => work.extend(self.message(message)),
                Ok(None) => break,
                Err(e) => work.push(self.close(e.code(), e.to_string())),
            }
        }
        work
    }

    fn message(&mut self, message: Message) -> Option<Work> {
        match (&self.state, message) {
            (State::Silent, Message::Hello(hello)) => {
                if hello.box_id != self.box_id {
                    let text = format!(
                        "Hello names box {}, the certificate {}",
                        hello.box_id, self.box_id
                    );
                    return Some(self.close(ErrorCode::WRONG_BOX, text));
                }
                if hello.recordings.len() > MAX_RECORDINGS {
                    let text = format!("Hello names more than {MAX_RECORDINGS} recordings");
                    return Some(self.close(ErrorCode::PROTOCOL, text));
                }
                self.state = State::Greeted;
                Some(Work::Greet(hello))
            }
            (State::Silent, _) => {
                Some(self.close(ErrorCode::PROTOCOL, "the first message is not Hello"))
            }
            // A fact that must last is in the events track.
            (State::Open, Message::Status(health)) => Some(Work::Show(Box::new(health))),
            (_, Message::Status(_)) => None,
            (State::Open, Message::Lost(lost)) => Some(Work::KeepLost(lost)),
            (State::Open, Message::Erased(erased)) => Some(Work::ConfirmErased(erased.recording)),
            (State::Open, Message::Answer(answer)) => Some(Work::Answered(answer)),
            (_, Message::Error(error)) => {
                log::warn!(
                    "box {}: {}: {}",
                    self.box_id,
                    error.code,
                    printable(&error.text)
                );
                None
            }
            (_, message) => {
                let text = format!("{} is not allowed here", kind(&message));
                Some(self.close(ErrorCode::PROTOCOL, text))
            }
        }
    }

    /// The box was let in: what its `Hello` is answered.
    pub fn welcome(&mut self, welcome: Welcome) -> Work {
        let message = Message::Welcome(welcome);
        if framing::encode(&message).is_err() {
            return self.close(ErrorCode::INTERNAL, "no Welcome can be written");
        }
        self.state = State::Open;
        Work::Send(message)
    }

    /// The tombstone of a recording of this box is durable: nothing before `Welcome`, which says it
    /// too.
    pub fn erase(&self, recording: RecordingId) -> Option<Work> {
        let open = matches!(self.state, State::Open);
        open.then_some(Work::Send(Message::Erase(Erase { recording })))
    }

    /// Bytes of a unidirectional stream. A stream that [`Work::Stop`] named gives nothing more.
    pub fn stream(&mut self, stream: u64, mut input: &[u8]) -> Vec<Work> {
        // QUIC orders nothing between streams. What overtakes the `Hello` waits in the transport,
        // whose windows bound it: the driver reads streams only after `Welcome`.
        if !matches!(self.state, State::Open) {
            return Vec::new();
        }
        let mut work = Vec::new();
        let incoming = self.streams.entry(stream).or_insert_with(|| Incoming {
            reader: StreamReader::new(),
            header: None,
            bytes: Vec::new(),
            init: 0,
            acknowledged: 0,
        });
        loop {
            let mut received = false;
            let step = incoming.reader.next(&mut input);
            let (more, held, most) = match &step {
                Ok(Some(StreamEvent::ChunkBytes(bytes))) => {
                    (bytes.len() as u64, &mut self.held, self.config.held_bytes)
                }
                Ok(None) => {
                    let more = incoming.reader.init_length() - incoming.init;
                    (more, &mut self.inits, INITS)
                }
                _ => (0, &mut self.held, 0),
            };
            if more > 0 && (*held + more > most || !self.budget.take(*held, more)) {
                let text = format!("{held} bytes are under way; there is room for no more");
                work.extend(self.stop(stream, ErrorCode::BUSY, text));
                return work;
            }
            *held += more;
            match step {
                Ok(None) => {
                    incoming.init += more;
                    break;
                }
                Ok(Some(StreamEvent::Header(header))) => incoming.header = Some(header),
                Ok(Some(StreamEvent::ChunkStart(_))) => {}
                Ok(Some(StreamEvent::ChunkBytes(bytes))) => {
                    self.stats.bytes += more;
                    incoming.bytes.extend_from_slice(bytes);
                    let new = incoming.bytes.len() as u64 - incoming.acknowledged;
                    received = new >= self.config.received_every;
                }
                Ok(Some(StreamEvent::ChunkEnd)) => received = true,
                Err(e) => {
                    let (code, text) = (e.code(), e.to_string());
                    work.extend(self.stop(stream, code, text));
                    return work;
                }
            }
            let length = incoming.bytes.len() as u64;
            if let (true, Some(header)) =
                (received && length > incoming.acknowledged, incoming.header)
            {
                incoming.acknowledged = length;
                work.push(Work::Send(Message::Received(Received {
                    key: header.key,
                    offset: length,
                })));
            }
        }
        work
    }

    /// The stream's FIN: only now does its segment or init exist.
    pub fn finished(&mut self, stream: u64) -> Vec<Work> {
        let Some(incoming) = self.streams.remove(&stream) else {
            return Vec::new();
        };
        let length = incoming.bytes.len() as u64;
        self.free_init(incoming.init);
        match (incoming.reader.finish(), incoming.header) {
            (Ok(Finished::Segment { hash, .. }), Some(header)) => vec![Work::Keep {
                stream,
                header,
                bytes: incoming.bytes,
                hash,
            }],
            (Ok(Finished::Init { hash, bytes }), _) => vec![Work::TakeInit { hash, bytes }],
            (Ok(Finished::Segment { .. }), None) => Vec::new(),
            (Err(e), _) => {
                self.free(length);
                self.stats.refused += 1;
                let key = incoming.header.map(|header| header.key);
                vec![trouble(e.code(), e.to_string(), key)]
            }
        }
    }

    /// The stream was reset, or the connection went: it leaves nothing.
    pub fn cut(&mut self, stream: u64) {
        self.drop_stream(stream);
    }

    fn drop_stream(&mut self, stream: u64) -> Option<SegmentHeader> {
        let incoming = self.streams.remove(&stream)?;
        self.free(incoming.bytes.len() as u64);
        self.free_init(incoming.init);
        self.stats.refused += 1;
        incoming.header
    }

    /// Stops a stream. A box that has sent all of it does not notice: it is told by message too.
    fn stop(&mut self, stream: u64, code: ErrorCode, text: String) -> Vec<Work> {
        let key = self.drop_stream(stream).map(|header| header.key);
        vec![
            trouble(code, text.clone(), key),
            Work::Stop { stream, code, text },
        ]
    }

    /// A segment of `length` bytes from [`Work::Keep`] is durable, or is not kept.
    pub fn kept(
        &mut self,
        key: SegmentKey,
        length: u64,
        result: Result<Kept, KeepError>,
    ) -> Vec<Work> {
        self.free(length);
        match result {
            Ok(kept) => {
                self.stats.segments += 1;
                let init = kept.init.map(|init| InitDurable { hashes: vec![init] });
                let (sequence, hash) = (key.sequence, kept.hash);
                let durable = Message::Durable(Durable {
                    recording: key.recording,
                    track: key.track,
                    durable: kept.durable,
                    hashes: vec![SegmentHash { sequence, hash }],
                });
                let complete = complete(key.recording, kept.complete);
                let said = init.map(Message::InitDurable).into_iter();
                let said = said.chain(iter::once(durable)).map(Work::Send);
                said.chain(complete).collect()
            }
            Err(e) => {
                self.stats.refused += 1;
                vec![trouble(e.code(), e.to_string(), Some(key))]
            }
        }
    }

    /// A LOST declaration is durable, or is not kept.
    pub fn lost_kept(&mut self, lost: &Lost, result: Result<bool, KeepError>) -> Option<Work> {
        match result {
            Ok(is_complete) => complete(lost.recording, is_complete),
            Err(e) => Some(trouble(e.code(), e.to_string(), None)),
        }
    }
}

/// COMPLETE; acknowledgements of other streams may still be on their way.
fn complete(recording: RecordingId, is_complete: bool) -> Option<Work> {
    let complete = Message::Complete(Complete { recording });
    is_complete.then_some(Work::Send(complete))
}

/// Tells the box about a segment or init; the connection goes on.
fn trouble(code: ErrorCode, text: String, key: Option<SegmentKey>) -> Work {
    Work::Send(Message::Error(ErrorMessage {
        code,
        text,
        key,
        epoch: None,
    }))
}

fn kind(message: &Message) -> &'static str {
    match message {
        Message::Hello(_) => "a second Hello",
        Message::Welcome(_) => "Welcome",
        Message::Received(_) => "Received",
        Message::Durable(_) => "Durable",
        Message::InitDurable(_) => "InitDurable",
        Message::Complete(_) => "Complete",
        Message::Status(_) => "Status",
        Message::Command(_) => "Command",
        Message::Lost(_) => "Lost before Welcome",
        Message::Error(_) => "Error",
        Message::Erase(_) => "Erase",
        Message::Erased(_) => "Erased before Welcome",
        Message::Answer(_) => "Answer before Welcome",
    }
}

/// A text from the network as one line of the log.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect()
}

#[cfg(test)]
#[path = "ingest_tests.rs"]
mod tests;
