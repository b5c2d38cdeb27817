//! The streams of one connection: each has a task that reads its bytes and waits for the transport.

use super::{Connection, Driver, SendStream, Stats, WriteError, quic_code};
use crate::blocking;
use crate::media::{Hash, Monotonic, SegmentKey};
use crate::uplink::session::Session;
use crate::uplink::{Action, Source};
use crate::wire::ErrorCode;
use crate::wire::stream::{self, SegmentHeader};
use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How much of a chunk is in memory at once, per stream.
const PIECE: u32 = 128 * 1024;

/// What the engine asks of an open stream. Dropping the sender gives the stream up.
enum Command {
    Write { offset: u64, length: u32 },
    Finish { length: u64, hash: Hash },
    Priority(i32),
}

pub(super) enum Event {
    Segment {
        key: SegmentKey,
        /// Which stream of that segment: an old one may still speak.
        serial: u64,
        what: What,
    },
    /// The spool gave an init, or did not.
    Init(Hash, io::Result<()>),
}

pub(super) enum What {
    Written,
    Stopped(ErrorCode),
    Unreadable(io::Error),
    Ended,
}

/// The streams of one connection.
pub(super) struct Streams {
    connection: Connection,
    source: Arc<dyn Source>,
    stats: Arc<Stats>,
    open: BTreeMap<SegmentKey, (u64, mpsc::UnboundedSender<Command>)>,
    opened: u64,
    give: mpsc::Sender<Event>,
    pub events: mpsc::Receiver<Event>,
}

impl Streams {
    pub fn new(driver: &Driver, connection: Connection) -> Self {
        let (give, events) = mpsc::channel(64);
        Self {
            connection,
            source: driver.uplink.source.clone(),
            stats: driver.uplink.stats.clone(),
            open: BTreeMap::new(),
            opened: 0,
            give,
            events,
        }
    }

    pub fn perform(&mut self, action: Action, tasks: &mut JoinSet<()>) {
        match action {
            Action::SendInit { hash, priority } => {
                let carrier = self.carrier(None);
                tasks.spawn(async move {
                    if let Err(failure) = carrier.init(hash, priority).await {
                        log::warn!("init {hash} was not sent: {failure:?}");
                    }
                });
            }
            Action::Open {
                key,
                init,
                priority,
            } => {
                self.opened += 1;
                // The engine has one write at a time under way, which bounds the queue.
                let (commands, orders) = mpsc::unbounded_channel();
                self.open.insert(key, (self.opened, commands));
                let carrier = self.carrier(Some((key, self.opened)));
                tasks.spawn(carrier.segment(SegmentHeader { key, init }, priority, orders));
            }
            Action::Write {
                key,
                offset,
                length,
                again,
            } => {
                if again {
                    self.stats
                        .change(|stats| stats.bytes_again += u64::from(length));
                }
                self.order(key, Command::Write { offset, length });
            }
            Action::Finish { key, length, hash } => {
                self.order(key, Command::Finish { length, hash });
            }
            Action::Reprioritise { key, priority } => self.order(key, Command::Priority(priority)),
            Action::Reset { key } => {
                self.open.remove(&key);
            }
            // Dealt with where the engine is asked.
            Action::Control(_) | Action::Close { .. } | Action::Report(_) | Action::Wait(_) => {}
        }
    }

    fn order(&self, key: SegmentKey, command: Command) {
        if let Some((_, commands)) = self.open.get(&key) {
            // A task that is gone has said why, or the connection is gone.
            let _ = commands.send(command);
        }
    }

    pub fn heard(&mut self, event: Event, session: &mut Session, now: Monotonic) {
        let (key, serial, what) = match event {
            Event::Segment { key, serial, what } => (key, serial, what),
            Event::Init(hash, outcome) => {
                if let Err(error) = &outcome {
                    log::error!("init {hash} cannot be read from the spool: {error}");
                }
                return session.init_read(hash, outcome.as_ref().copied());
            }
        };
        if self.open.get(&key).is_none_or(|(open, _)| *open != serial) {
            return;
        }
        match what {
            What::Written => session.written(key),
            What::Stopped(code) => {
                log::warn!(
                    "segment {key}: the receiver stopped it: {code}. {}",
                    code.advice()
                );
                session.stopped(key, code, now);
            }
            What::Unreadable(error) => {
                log::error!("segment {key} cannot be read from the spool: {error}");
                session.unreadable(key, &error, now);
            }
            What::Ended => {
                self.open.remove(&key);
            }
        }
    }

    fn carrier(&self, stream: Option<(SegmentKey, u64)>) -> Carrier {
        Carrier {
            connection: self.connection.clone(),
            source: self.source.clone(),
            stats: self.stats.clone(),
            give: self.give.clone(),
            stream,
        }
    }
}

/// Why a stream ends before its trailer.
#[derive(Debug)]
enum Failure {
    /// The engine gave it up.
    Abandoned,
    /// The receiver stopped it.
    Stopped(ErrorCode),
    Unreadable(io::Error),
    /// The connection is gone; the driver hears of that elsewhere.
    Lost,
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Stopped(
                ErrorCode::from_quic(code.into_inner()).unwrap_or(ErrorCode::INTERNAL),
            ),
            _ => Self::Lost,
        }
    }
}

/// The task of one stream.
struct Carrier {
    connection: Connection,
    source: Arc<dyn Source>,
    stats: Arc<Stats>,
    give: mpsc::Sender<Event>,
    stream: Option<(SegmentKey, u64)>,
}

type Orders = mpsc::UnboundedReceiver<Command>;

impl Carrier {
    async fn open(&self, priority: i32) -> Result<SendStream, Failure> {
        let stream = self
            .connection
            .open_uni()
            .await
            .map_err(|_| Failure::Lost)?;
        let _ = stream.set_priority(priority);
        Ok(stream)
    }

    async fn read(
        &self,
        read: impl FnOnce(&dyn Source) -> io::Result<Vec<u8>> + Send + 'static,
    ) -> Result<Vec<u8>, Failure> {
        let source = self.source.clone();
        let done = blocking::run(move || read(source.as_ref())).await;
        done.map_err(|_| Failure::Abandoned)?
            .map_err(Failure::Unreadable)
    }

    async fn init(self, hash: Hash, priority: i32) -> Result<(), Failure> {
        let mut stream = self.open(priority).await?;
        let read = self.read(move |source| source.init(&hash)).await;
        let (bytes, outcome) = match read {
            Ok(bytes) => (Some(bytes), Ok(())),
            Err(Failure::Unreadable(error)) => (None, Err(error)),
            Err(failure) => return Err(failure),
        };
        let _ = self.give.send(Event::Init(hash, outcome)).await;
        let Some(bytes) = bytes else {
            let _ = stream.reset(quic_code(ErrorCode::DONE));
            return Ok(());
        };
        let bytes = stream::init_stream(&hash, &bytes);
        stream.write_all(&bytes).await?;
        self.stats
            .change(|stats| stats.bytes_sent += bytes.len() as u64);
        let _ = stream.finish();
        match stream.stopped().await {
            Ok(Some(code)) => Err(WriteError::Stopped(code).into()),
            _ => Ok(()),
        }
    }

    async fn segment(self, header: SegmentHeader, priority: i32, mut orders: Orders) {
        let failure = match self.open(priority).await {
            Ok(mut stream) => {
                let failure = self.carry(&mut stream, header, &mut orders).await.err();
                if failure.is_some() {
                    let _ = stream.reset(quic_code(ErrorCode::DONE));
                }
                failure
            }
            Err(failure) => Some(failure),
        };
        let what = match failure {
            Some(Failure::Stopped(code)) => What::Stopped(code),
            Some(Failure::Unreadable(error)) => What::Unreadable(error),
            Some(Failure::Abandoned | Failure::Lost) | None => What::Ended,
        };
        self.tell(what).await;
    }

    async fn carry(
        &self,
        stream: &mut SendStream,
        header: SegmentHeader,
        orders: &mut Orders,
    ) -> Result<(), Failure> {
        let key = header.key;
        // The header goes with the first chunk, so that one write is under way at a time.
        let mut head = stream::segment_head(&header);
        loop {
            match orders.recv().await.ok_or(Failure::Abandoned)? {
                Command::Priority(priority) => {
                    let _ = stream.set_priority(priority);
                }
                Command::Write { offset, length } => {
                    head.extend_from_slice(&stream::chunk_head(length));
                    self.push(stream, &head, orders).await?;
                    head.clear();
                    let mut done = 0;
                    while done < length {
                        let (at, some) = (offset + u64::from(done), PIECE.min(length - done));
                        let bytes = self
                            .read(move |source| source.segment(key, at, some))
                            .await?;
                        if bytes.len() != some as usize {
                            let text = format!("{} bytes at {at} instead of {some}", bytes.len());
                            return Err(Failure::Unreadable(io::Error::other(text)));
                        }
                        self.push(stream, &bytes, orders).await?;
                        done += some;
                    }
                    self.tell(What::Written).await;
                }
                Command::Finish { length, hash } => {
                    self.push(stream, &stream::trailer(length, &hash), orders)
                        .await?;
                    let _ = stream.finish();
                    self.tell(What::Written).await;
                    break;
                }
            }
        }
        // Until the transport has brought it over, it may still be stopped or change its priority.
        let stopped = stream.stopped();
        let mut stopped = pin!(stopped);
        loop {
            tokio::select! {
                biased;
                outcome = &mut stopped => return match outcome {
                    Ok(Some(code)) => Err(WriteError::Stopped(code).into()),
                    _ => Ok(()),
                },
                order = orders.recv() => match order {
                    Some(Command::Priority(priority)) => {
                        let _ = stream.set_priority(priority);
                    }
                    Some(_) => {}
                    None => return Err(Failure::Abandoned),
                },
            }
        }
    }

    /// Writes `bytes`, following a changed priority meanwhile.
    async fn push(
        &self,
        stream: &mut SendStream,
        mut bytes: &[u8],
        orders: &mut Orders,
    ) -> Result<(), Failure> {
        while !bytes.is_empty() {
            tokio::select! {
                biased;
                written = stream.write(bytes) => {
                    let written = written?;
                    bytes = &bytes[written..];
                    self.stats.change(|stats| stats.bytes_sent += written as u64);
                }
                order = orders.recv() => match order {
                    Some(Command::Priority(priority)) => {
                        let _ = stream.set_priority(priority);
                    }
                    // The engine asks for nothing else while a write is under way.
                    Some(_) => return Err(Failure::Stopped(ErrorCode::INTERNAL)),
                    None => return Err(Failure::Abandoned),
                },
            }
        }
        Ok(())
    }

    async fn tell(&self, what: What) {
        if let Some((key, serial)) = self.stream {
            // The driver is gone only when the connection is.
            let _ = self.give.send(Event::Segment { key, serial, what }).await;
        }
    }
}
