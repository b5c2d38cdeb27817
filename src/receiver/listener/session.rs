//! One connection of a box that was let in: drives its ingest engine, and does what that asks.

use super::{HELLO_WITHIN, Shared, admit, close, code_of, lock};
use crate::clock;
use crate::media::{BoxId, Hash, RecordingId};
use crate::receiver::catalog::LostRange;
use crate::receiver::fence::{Claim, Verdict};
use crate::receiver::ingest::{self, Ingest, Work, printable};
use crate::receiver::library::Error as KeepError;
use crate::receiver::roster::Refused;
use crate::wire::message::{ErrorMessage, Hello, Limits, Message, Welcome};
use crate::wire::{ErrorCode, framing};
use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast::{Receiver as Notices, error::RecvError};
use tokio::sync::{Semaphore, SetOnce, mpsc};

/// How soon a declaration that the store failed to take is tried again; the box says it only once.
const LOST_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How soon a revocation ends a live connection.
const ROSTER_EVERY: Duration = Duration::from_secs(5);
/// How long the last message of a connection may take to arrive before the connection ends.
const LAST_WITHIN: Duration = Duration::from_secs(2);
/// Messages that wait for the control stream; a box that reads none is slowed down by it.
const WAITING_MESSAGES: usize = 256;

/// Streams of one session that are read or wait for the store; more wait in the transport.
const UNFINISHED: usize = 64;

/// What is sent on the control stream.
pub(super) enum Outgoing {
    Message(Message),
    /// The last one; the connection then ends with this code.
    Last(ErrorMessage),
}

/// The way to the other end of a connection.
#[derive(Clone)]
pub(super) struct Peer {
    connection: Connection,
    messages: mpsc::Sender<Outgoing>,
}

impl Peer {
    /// Says why, with the epoch held, and ends the connection once that has arrived or after
    /// [`LAST_WITHIN`]. The reason of a QUIC close is for people; a box acts on the message.
    async fn end(self, code: ErrorCode, text: String, epoch: u64) {
        let last = Outgoing::Last(ErrorMessage {
            code,
            text: text.clone(),
            key: None,
            epoch: Some(epoch),
        });
        clock::within(LAST_WITHIN, async {
            // An error means that the writer is gone, and so is the connection.
            if self.messages.send(last).await.is_ok() {
                self.connection.closed().await;
            }
        })
        .await;
        close(&self.connection, code, &text);
    }
}

/// One connection of a box that was let in.
pub(super) struct Session {
    id: u64,
    box_id: BoxId,
    certificate: Hash,
    room: String,
    /// For the log.
    name: String,
    connection: Connection,
    peer: Peer,
    engine: Mutex<Ingest>,
    /// True once the box was told that the store takes nothing, until it does again.
    told: AtomicBool,
    /// Set when the box has said `Hello`.
    greeted: SetOnce<()>,
    /// Set when the box was let in.
    welcomed: SetOnce<()>,
    /// A permit for each stream read or waiting for the store.
    unfinished: Arc<Semaphore>,
    shared: Arc<Shared>,
}

impl Session {
    /// The session of `box_id` in `room`, whose certificate was found in the roster.
    pub fn new(
        shared: Arc<Shared>,
        (box_id, certificate): (BoxId, Hash),
        room: String,
        connection: Connection,
    ) -> (Arc<Self>, mpsc::Receiver<Outgoing>) {
        let (messages, waiting) = mpsc::channel(WAITING_MESSAGES);
        let engine = Ingest::new(box_id, ingest::Config::default()).sharing(shared.budget.clone());
        let session = Self {
            id: shared.next_session.fetch_add(1, Ordering::Relaxed),
            box_id,
            certificate,
            name: format!("box {box_id} ({})", printable(&room)),
            room,
            peer: Peer {
                connection: connection.clone(),
                messages,
            },
            connection,
            engine: Mutex::new(engine),
            told: AtomicBool::new(false),
            greeted: SetOnce::new(),
            welcomed: SetOnce::new(),
            unfinished: Arc::new(Semaphore::new(UNFINISHED)),
            shared,
        };
        (Arc::new(session), waiting)
    }

    pub async fn run(
        self: Arc<Self>,
        send: SendStream,
        receive: RecvStream,
        waiting: mpsc::Receiver<Outgoing>,
    ) {
        let erasures = self.shared.library.erasures();
        let peer = self.connection.remote_address();
        tokio::select! {
            biased;
            () = write_messages(&self.connection, send, waiting) => {}
            () = self.pass_on_erasures(erasures) => {}
            () = self.read_control(receive) => {}
            () = self.read_streams() => {}
            () = self.watch_roster(self.certificate) => {}
            () = self.await_hello() => {}
            _ = self.connection.closed() => {}
        }
        close(&self.connection, ErrorCode::DONE, "");
        let reason = self.connection.closed().await;
        lock(&self.shared.fence).end(self.box_id, self.id);
        lock(&self.shared.sessions).remove(&self.id);
        self.shared.commands.ended(self.box_id, self.id);
        self.shared.fleet.ended(self.box_id, self.id);
        let stats = lock(&self.engine).stats();
        let total = &self.shared.stats;
        total.segments.fetch_add(stats.segments, Ordering::Relaxed);
        total.bytes.fetch_add(stats.bytes, Ordering::Relaxed);
        let refused = &total.streams_refused;
        refused.fetch_add(stats.refused, Ordering::Relaxed);
        log::info!(
            "{}: {peer}: session ended: {}: {}; {} segments, {} bytes, {} streams left nothing",
            self.name,
            code_of(&reason),
            printable(&reason.to_string()),
            stats.segments,
            stats.bytes,
            stats.refused
        );
    }

    /// Closes with a code, and logs it as the box will.
    fn refuse(&self, code: ErrorCode, text: &str) {
        log::warn!("{}: closing: {code}: {}", self.name, printable(text));
        close(&self.connection, code, text);
    }

    async fn await_hello(&self) {
        match clock::within(HELLO_WITHIN, self.greeted.wait()).await {
            Some(()) => std::future::pending().await,
            None => self.refuse(ErrorCode::SILENT, "no Hello arrived"),
        }
    }

    async fn watch_roster(&self, certificate: Hash) {
        loop {
            clock::pause(ROSTER_EVERY).await;
            match admit(&self.shared.roster, self.box_id, certificate).await {
                Ok(_) => {}
                Err(Refused::Unreadable(e)) => log::error!("{}: roster: {e}", self.name),
                Err(refused) => {
                    let text = format!("box {} {refused}", self.box_id);
                    return self.refuse(ErrorCode::REVOKED, &text);
                }
            }
        }
    }

    async fn read_control(&self, mut receive: RecvStream) {
        let mut buffer = vec![0; 16 * 1024];
        // The box ends its control stream only with the connection.
        while let Ok(Some(length)) = receive.read(&mut buffer).await {
            let work = lock(&self.engine).control(&buffer[..length]);
            if !self.perform(work, None).await {
                return;
            }
        }
    }

    async fn read_streams(self: &Arc<Self>) {
        self.welcomed.wait().await;
        // Streams are accepted in the order in which they were opened: an init has its permit before
        // the segments that wait for it.
        while let Ok(permit) = self.unfinished.clone().acquire_owned().await {
            let Ok(receive) = self.connection.accept_uni().await else {
                return;
            };
            let session = self.clone();
            tokio::spawn(async move {
                session.read_stream(receive).await;
                drop(permit);
            });
        }
    }

    async fn read_stream(self: Arc<Self>, mut receive: RecvStream) {
        let stream = receive.id().index();
        loop {
            // While the store takes nothing, nothing more is read: the windows fill, and the box waits.
            if !self.await_store().await {
                lock(&self.engine).cut(stream);
                return;
            }
            let work = match receive.read_chunk(64 * 1024, true).await {
                Ok(Some(chunk)) => lock(&self.engine).stream(stream, &chunk.bytes),
                Ok(None) => {
                    let work = lock(&self.engine).finished(stream);
                    self.perform(work, None).await;
                    return;
                }
                Err(e) => {
                    log::debug!("{}: stream {stream} was cut: {e}", self.name);
                    lock(&self.engine).cut(stream);
                    return;
                }
            };
            if !self.perform(work, Some(&mut receive)).await {
                return;
            }
        }
    }

    /// Tells the box of erasures of its recordings that other programs make.
    async fn pass_on_erasures(&self, mut erasures: Notices<RecordingId>) {
        self.welcomed.wait().await;
        let mut due = self.shared.library.unconfirmed(self.box_id);
        loop {
            for recording in due {
                let work = lock(&self.engine).erase(recording);
                self.perform(work.into_iter().collect(), None).await;
            }
            due = match erasures.recv().await {
                Ok(recording) => {
                    let mut of_box = self.shared.library.unconfirmed(self.box_id);
                    of_box.retain(|of_box| *of_box == recording);
                    of_box
                }
                Err(RecvError::Lagged(_)) => self.shared.library.unconfirmed(self.box_id),
                Err(RecvError::Closed) => return std::future::pending().await,
            };
        }
    }

    /// Waits until the store takes segments; false when the connection ends before. The box is told
    /// once.
    async fn await_store(&self) -> bool {
        let library = &self.shared.library;
        let Some(code) = library.refusal() else {
            return true;
        };
        if !self.told.swap(true, Ordering::Relaxed) {
            let error = ErrorMessage {
                code,
                text: "the archive takes nothing now: what comes is kept once it does".into(),
                key: None,
                epoch: None,
            };
            // False when the connection is ending.
            let _ = self.send(Message::Error(error)).await;
        }
        tokio::select! {
            () = library.await_store() => {
                self.told.store(false, Ordering::Relaxed);
                true
            }
            _ = self.connection.closed() => false,
        }
    }

    /// The result of `keep`, given again what the store did not take because it took nothing. What waits
    /// stays in memory, and nothing is added to it.
    async fn kept<T, F>(&self, keep: impl Fn() -> F) -> Result<T, KeepError>
    where
        F: Future<Output = Result<T, KeepError>>,
    {
        loop {
            match keep().await {
                Err(e) if self.shared.library.takes_nothing(&e).await => {
                    if !self.await_store().await {
                        return Err(e);
                    }
                }
                result => return result,
            }
        }
    }

    async fn send(&self, message: Message) -> bool {
        if let Message::Error(error) = &message {
            log::warn!("{}: {}: {}", self.name, error.code, printable(&error.text));
        }
        let outgoing = Outgoing::Message(message);
        self.peer.messages.send(outgoing).await.is_ok()
    }

    /// Does what the engine asks; false when the stream or connection it came from is over.
    async fn perform(&self, work: Vec<Work>, mut receive: Option<&mut RecvStream>) -> bool {
        let mut queue = VecDeque::from(work);
        let mut goes_on = true;
        while let Some(work) = queue.pop_front() {
            match work {
                Work::Send(message) => {
                    let is_welcome = matches!(message, Message::Welcome(_));
                    goes_on &= self.send(message).await;
                    if is_welcome {
                        // A second `Hello` never comes here: the engine refuses it.
                        let _ = self.welcomed.set(());
                        let messages = self.peer.messages.clone();
                        let commands = &self.shared.commands;
                        commands.take_in((self.box_id, self.id), &self.room, messages);
                    }
                }
                Work::Greet(hello) => {
                    // What the store then takes is not the box's doing. A second `Hello` never comes
                    // here: the engine refuses it.
                    let _ = self.greeted.set(());
                    queue.extend(self.greet(&hello).await);
                }
                Work::Keep {
                    header,
                    bytes,
                    hash,
                    ..
                } => {
                    let length = bytes.len() as u64;
                    let (library, bytes) = (&self.shared.library, Bytes::from(bytes));
                    let keep = || library.keep_segment(self.box_id, &header, bytes.clone(), hash);
                    let result = self.kept(keep).await;
                    queue.extend(lock(&self.engine).kept(header.key, length, result));
                }
                Work::TakeInit { hash, bytes } => {
                    let library = &self.shared.library;
                    library.take_init(self.box_id, hash, bytes.into());
                }
                Work::KeepLost(lost) => {
                    let range = LostRange {
                        track: lost.track,
                        first: lost.first,
                        last: lost.last,
                    };
                    let library = &self.shared.library;
                    let keep =
                        || library.keep_lost(self.box_id, lost.recording, range, lost.reason);
                    let result = loop {
                        match self.kept(keep).await {
                            Err(e) if e.code() == ErrorCode::STORE_FAILED => {
                                log::error!("{}: {e}; it is tried again", self.name);
                                clock::pause(LOST_AGAIN_AFTER).await;
                            }
                            result => break result,
                        }
                    };
                    queue.extend(lock(&self.engine).lost_kept(&lost, result));
                }
                Work::Show(health) => {
                    let who = (self.box_id, self.certificate);
                    let fleet = &self.shared.fleet;
                    fleet.heard(who, &self.room, self.id, *health, clock::now());
                }
                Work::ConfirmErased(recording) => {
                    let library = &self.shared.library;
                    if let Err(e) = library.confirm_erased(self.box_id, recording).await {
                        log::error!("{}: {e}; the box is asked again", self.name);
                    }
                }
                Work::Answered(answer) => {
                    self.shared
                        .commands
                        .answered((self.box_id, self.id), answer);
                }
                Work::Stop { stream, code, text } => {
                    log::warn!("{}: stream {stream} refused: {code}: {text}", self.name);
                    if let Some(receive) = &mut receive {
                        // An error means that the stream is over already.
                        let _ = receive.stop(VarInt::from_u32(code.0.into()));
                    }
                    goes_on = false;
                }
                Work::Close { code, text } => {
                    self.refuse(code, &text);
                    return false;
                }
            }
        }
        goes_on
    }

    /// Answers a `Hello`: the fence decides, the library says what is durable.
    async fn greet(&self, hello: &Hello) -> Option<Work> {
        let claim = Claim {
            epoch: hello.epoch,
            connection: hello.connection,
            nonce: hello.nonce,
        };
        let verdict = {
            // Entered before the claim is judged, so that a still newer one finds it to end it.
            let mut sessions = lock(&self.shared.sessions);
            sessions.insert(self.id, self.peer.clone());
            lock(&self.shared.fence).claim(self.box_id, claim, self.id)
        };
        let displaced = match verdict {
            Verdict::Admitted { displaced } => displaced,
            Verdict::Older(held) => {
                let text = held.in_words();
                log::warn!("{}: closing: {}: {text}", self.name, ErrorCode::FENCED);
                let peer = self.peer.clone();
                peer.end(ErrorCode::FENCED, text, held.epoch).await;
                return None;
            }
            Verdict::Cloned { by } => {
                self.shared.stats.cloned.fetch_add(1, Ordering::Relaxed);
                let other = by.and_then(|by| {
                    let sessions = lock(&self.shared.sessions);
                    let other = sessions.get(&by)?.connection.remote_address();
                    Some(format!("the one at {other}"))
                });
                let text = format!(
                    "another process with this box's key ({}) took over, and this one, at {}, is back",
                    other.as_deref().unwrap_or("not connected now"),
                    self.connection.remote_address()
                );
                log::error!("{}: alarm cloned: {text}", self.name);
                self.refuse(ErrorCode::CLONED, &text);
                return None;
            }
        };
        if let Some(old) = displaced.and_then(|old| lock(&self.shared.sessions).remove(&old)) {
            log::info!(
                "{}: an older session ends: {}",
                self.name,
                ErrorCode::FENCED
            );
            tokio::spawn(old.end(ErrorCode::FENCED, claim.in_words(), claim.epoch));
        }
        self.shared.stats.admitted.fetch_add(1, Ordering::Relaxed);
        log::info!(
            "{}: {}: session of epoch {}, connection {}, {}",
            self.name,
            self.connection.remote_address(),
            claim.epoch,
            claim.connection,
            printable(&hello.software)
        );
        let library = self.shared.library.clone();
        let ids: Vec<_> = hello.recordings.iter().map(|open| open.recording).collect();
        // A task of its own: what it has found is not lost if the box gives up waiting.
        let refreshed = tokio::spawn(async move { library.refresh(&ids).await }).await;
        if let Ok(Err(e)) = refreshed {
            self.refuse(ErrorCode::STORE_FAILED, &e.to_string());
            return None;
        }
        let library = &self.shared.library;
        let (recordings, complete) = library.held(&hello.recordings);
        let erased = library.erased_of(&hello.recordings);
        let welcome = lock(&self.engine).welcome(Welcome {
            recordings,
            complete,
            clock: Some(clock::wall()),
            limits: Limits::default(),
            software: concat!("hallcast-receiver ", env!("CARGO_PKG_VERSION")).into(),
            erased,
            abridged: false,
        });
        Some(welcome)
    }
}

async fn write_messages(
    connection: &Connection,
    mut send: SendStream,
    mut waiting: mpsc::Receiver<Outgoing>,
) {
    while let Some(outgoing) = waiting.recv().await {
        let (message, last) = match outgoing {
            Outgoing::Message(message) => (message, None),
            Outgoing::Last(error) => {
                let closing = (error.code, error.text.clone());
                (Message::Error(error), Some(closing))
            }
        };
        let bytes = match framing::encode(&message) {
            Ok(bytes) => bytes,
            Err(e) => {
                log::error!("a message cannot be written: {e}");
                continue;
            }
        };
        if send.write_all(&bytes).await.is_err() {
            return;
        }
        if let Some((code, text)) = last {
            // The close would overtake what is not acknowledged. Errors mean that it is too late.
            if send.finish().is_ok() {
                let _ = send.stopped().await;
            }
            return close(connection, code, &text);
        }
    }
}
