//! The only file of the receiver that names quinn: accepts boxes and drives an ingest engine for each.
//!
//! Mutual TLS 1.3 with the receiver's own authority; tickets and 0-RTT are off, because a resumed
//! session skips the check of the client's certificate. The roster is asked on every connection and
//! again while it lasts. Each connection and each stream is a task of its own: what goes wrong in one
//! ends that one, with a code that both sides log.

use super::authority::Authority;
use super::catalog::LostRange;
use super::fence::{Claim, Fence, Verdict};
use super::ingest::{self, Ingest, Work, printable};
use super::library::{Error as KeepError, Library};
use super::roster::{Refused, Roster, fingerprint};
use crate::blocking;
use crate::clock;
use crate::media::{BoxId, Hash, RecordingId};
use crate::wire::message::{ErrorMessage, Hello, Limits, Message, Welcome};
use crate::wire::{ALPN, ErrorCode, framing};
use bytes::Bytes;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, ConnectionError, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::{Receiver as Notices, error::RecvError};
use tokio::sync::{SetOnce, mpsc};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Bytes of all streams together that the transport holds unread.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// Bytes of one stream that the transport holds unread.
const STREAM_WINDOW: u32 = 1024 * 1024;
const MOST_STREAMS: u32 = 64;
const MOST_CONNECTIONS: usize = 4096;
/// A connection on which nothing arrives for so long is over; a box sends a keep-alive every 5 s.
const IDLE: Duration = Duration::from_secs(15);
/// How long a connection may take to say `Hello`.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// How long a segment waits for an init that was overtaken.
const INIT_WITHIN: Duration = Duration::from_secs(10);
/// How soon a revocation ends a live connection.
const ROSTER_EVERY: Duration = Duration::from_secs(5);
/// How long the last message of a connection may take to arrive before the connection ends.
const LAST_WITHIN: Duration = Duration::from_secs(2);
/// Messages that wait for the control stream; a box that reads none is slowed down by it.
const WAITING_MESSAGES: usize = 256;

/// Why the listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The authority of the demo outside one machine.
    #[error(
        "the authority in the state directory was made with --development and `listen` is {0}: such a \
         receiver stays on 127.0.0.1 or [::1]; make an authority with `hallcast-receiver ca init`"
    )]
    Development(SocketAddr),
    /// The socket.
    #[error("{address}/udp: {source}; check that nothing else listens there")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Keys or certificates that TLS cannot use.
    #[error(
        "the certificates of the state directory cannot be used: {0}; make them anew with `hallcast-receiver ca init`"
    )]
    Tls(String),
}

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections whose box was let in.
    pub admitted: AtomicU64,
    /// Connections refused, in the handshake or after it.
    pub refused: AtomicU64,
    /// Segments made durable.
    pub segments: AtomicU64,
    /// Bytes of segments received.
    pub bytes: AtomicU64,
    /// Streams that left nothing.
    pub streams_refused: AtomicU64,
    /// Times that two processes with one box's key were found alive.
    pub cloned: AtomicU64,
}

struct Shared {
    library: Arc<Library>,
    roster: Roster,
    fence: Mutex<Fence>,
    /// The sessions let in, to end those that are displaced.
    sessions: Mutex<HashMap<u64, Peer>>,
    next_session: AtomicU64,
    stats: Arc<Stats>,
}

/// What is sent on the control stream.
enum Outgoing {
    Message(Message),
    /// The last one; the connection then ends with this code.
    Last(ErrorMessage),
}

/// The way to the other end of a connection.
#[derive(Clone)]
struct Peer {
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

/// The socket on which boxes connect.
pub struct Listener {
    endpoint: Endpoint,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Listener {
    /// Binds the socket; call it within a tokio runtime.
    pub fn bind(
        address: SocketAddr,
        authority: &Authority,
        library: Arc<Library>,
        roster: Roster,
    ) -> Result<Self, Error> {
        if authority.is_development() && !address.ip().is_loopback() {
            return Err(Error::Development(address));
        }
        let bind = |config| Endpoint::server(config, address);
        Self::on_endpoint(address, bind, authority, library, roster)
    }

    /// As [`Listener::bind`], on the endpoint that `bind` makes.
    pub(crate) fn on_endpoint(
        address: SocketAddr,
        bind: impl FnOnce(quinn::ServerConfig) -> std::io::Result<Endpoint>,
        authority: &Authority,
        library: Arc<Library>,
        roster: Roster,
    ) -> Result<Self, Error> {
        let config = server_config(authority)?;
        let endpoint = bind(config).map_err(|source| Error::Bind { address, source })?;
        Ok(Self {
            endpoint,
            shared: Arc::new(Shared {
                library,
                roster,
                fence: Mutex::default(),
                sessions: Mutex::default(),
                next_session: AtomicU64::new(1),
                stats: Arc::default(),
            }),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Its counters.
    pub fn stats(&self) -> Arc<Stats> {
        self.shared.stats.clone()
    }

    /// Accepts boxes until [`Listener::shut_down`].
    pub async fn run(&self) {
        while let Some(incoming) = self.endpoint.accept().await {
            if self.endpoint.open_connections() > MOST_CONNECTIONS {
                log::warn!("{}: {}", incoming.remote_address(), ErrorCode::BUSY);
                incoming.refuse();
                continue;
            }
            tokio::spawn(accept(self.shared.clone(), incoming));
        }
    }

    /// Ends every connection with SHUTTING_DOWN; segments under way are sent again later.
    pub async fn shut_down(&self) {
        let code = VarInt::from_u32(ErrorCode::SHUTTING_DOWN.0.into());
        self.endpoint.close(code, b"the receiver is ending");
        clock::within(Duration::from_secs(2), self.endpoint.wait_idle()).await;
    }
}

fn server_config(authority: &Authority) -> Result<quinn::ServerConfig, Error> {
    let tls_error = |e: &dyn std::fmt::Display| Error::Tls(e.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.root()).map_err(|e| tls_error(&e))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| tls_error(&e))?;
    let (chain, key) = authority.server();
    let mut tls = rustls::ServerConfig::builder_with_details(provider, authority.clock())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| tls_error(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| tls_error(&e))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.max_early_data_size = 0;
    let tls = QuicServerConfig::try_from(tls).map_err(|e| tls_error(&e))?;
    let mut transport = quinn::TransportConfig::default();
    transport
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .max_concurrent_uni_streams(VarInt::from_u32(MOST_STREAMS))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IDLE.try_into().map_err(|e| tls_error(&e))?));
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// The code that stands for an ended connection.
fn code_of(error: &ConnectionError) -> ErrorCode {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ErrorCode::from_quic(close.error_code.into_inner()).unwrap_or(ErrorCode::PROTOCOL)
        }
        // Crypto errors are 0x100 plus the TLS alert (RFC 9001, section 4.8).
        ConnectionError::TransportError(e) => tls_code(u64::from(e.code)),
        ConnectionError::ConnectionClosed(close) => tls_code(u64::from(close.error_code)),
        ConnectionError::TimedOut => ErrorCode::SILENT,
        ConnectionError::LocallyClosed => ErrorCode::DONE,
        _ => ErrorCode::INTERNAL,
    }
}

fn tls_code(transport: u64) -> ErrorCode {
    let alert = transport
        .checked_sub(0x100)
        .and_then(|alert| u8::try_from(alert).ok());
    alert
        .and_then(ErrorCode::from_tls_alert)
        .unwrap_or(ErrorCode::PROTOCOL)
}

fn close(connection: &Connection, code: ErrorCode, text: &str) {
    connection.close(VarInt::from_u32(code.0.into()), text.as_bytes());
}

/// The box that the peer's certificate names, and the certificate's fingerprint.
fn identity(connection: &Connection) -> Option<(BoxId, Hash)> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let leaf = chain.first()?;
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let name = parsed.subject().iter_common_name().next()?;
    Some((name.as_str().ok()?.parse().ok()?, fingerprint(leaf)))
}

async fn accept(shared: Arc<Shared>, incoming: Incoming) {
    let peer = incoming.remote_address();
    let handshake = clock::within(HELLO_WITHIN, async { incoming.await }).await;
    let connection = match handshake {
        Some(Ok(connection)) => connection,
        Some(Err(e)) => {
            shared.stats.refused.fetch_add(1, Ordering::Relaxed);
            log::warn!("{peer}: handshake refused: {}: {e}", code_of(&e));
            return;
        }
        None => {
            shared.stats.refused.fetch_add(1, Ordering::Relaxed);
            log::warn!("{peer}: handshake refused: {}", ErrorCode::SILENT);
            return;
        }
    };
    let refuse = |code: ErrorCode, text: &str| {
        shared.stats.refused.fetch_add(1, Ordering::Relaxed);
        log::warn!("{peer}: refused: {code}: {text}");
        close(&connection, code, text);
    };
    let Some((box_id, certificate)) = identity(&connection) else {
        refuse(ErrorCode::UNKNOWN_BOX, "the certificate names no box");
        return;
    };
    let admitted = admit(&shared.roster, box_id, certificate).await;
    let room = match admitted {
        Ok(room) => room,
        Err(refused) => {
            let code = match refused {
                Refused::Unknown => ErrorCode::UNKNOWN_BOX,
                Refused::Revoked => ErrorCode::REVOKED,
                Refused::Unreadable(_) => ErrorCode::INTERNAL,
            };
            refuse(code, &format!("box {box_id} {refused}"));
            return;
        }
    };
    let Some(Ok((send, receive))) = clock::within(HELLO_WITHIN, connection.accept_bi()).await
    else {
        refuse(ErrorCode::SILENT, "no control stream was opened");
        return;
    };
    let (messages, waiting) = mpsc::channel(WAITING_MESSAGES);
    let session = Arc::new(Session {
        id: shared.next_session.fetch_add(1, Ordering::Relaxed),
        box_id,
        name: format!("box {box_id} ({})", printable(&room)),
        peer: Peer {
            connection: connection.clone(),
            messages,
        },
        connection,
        engine: Mutex::new(Ingest::new(box_id, ingest::Config::default())),
        told_full: AtomicBool::new(false),
        welcomed: SetOnce::new(),
        shared,
    });
    session
        .clone()
        .run(certificate, send, receive, waiting)
        .await;
}

/// The roster is a file: asked off the tasks that carry media.
async fn admit(roster: &Roster, box_id: BoxId, certificate: Hash) -> Result<String, Refused> {
    let roster = roster.clone();
    let asked = blocking::run(move || roster.admit(box_id, certificate)).await;
    match asked {
        Ok(entry) => entry.map(|entry| entry.room),
        Err(e) => Err(Refused::Unreadable(e.to_string())),
    }
}

/// One connection of a box that was let in.
struct Session {
    id: u64,
    box_id: BoxId,
    /// For the log.
    name: String,
    connection: Connection,
    peer: Peer,
    engine: Mutex<Ingest>,
    /// True once the box was told that the store is full, until it no longer is.
    told_full: AtomicBool,
    /// Set when the box was let in.
    welcomed: SetOnce<()>,
    shared: Arc<Shared>,
}

impl Session {
    async fn run(
        self: Arc<Self>,
        certificate: Hash,
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
            () = self.watch_roster(certificate) => {}
            () = self.await_hello() => {}
            _ = self.connection.closed() => {}
        }
        close(&self.connection, ErrorCode::DONE, "");
        let reason = self.connection.closed().await;
        lock(&self.shared.fence).end(self.box_id, self.id);
        lock(&self.shared.sessions).remove(&self.id);
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
        match clock::within(HELLO_WITHIN, self.welcomed.wait()).await {
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
        while let Ok(receive) = self.connection.accept_uni().await {
            tokio::spawn(self.clone().read_stream(receive));
        }
    }

    async fn read_stream(self: Arc<Self>, mut receive: RecvStream) {
        let stream = receive.id().index();
        loop {
            // While the store is full, nothing more is read: the windows fill, and the box waits.
            if !self.await_room().await {
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
    async fn await_room(&self) -> bool {
        let library = &self.shared.library;
        if library.has_room() {
            return true;
        }
        if !self.told_full.swap(true, Ordering::Relaxed) {
            let text = "the archive is full: what comes is kept as soon as there is room".into();
            let error = ErrorMessage {
                code: ErrorCode::STORE_FULL,
                text,
                key: None,
                epoch: None,
            };
            log::warn!("{}: {}", self.name, error.code);
            // An error means that the connection is ending.
            let _ = self.send(Message::Error(error)).await;
        }
        tokio::select! {
            () = library.await_room() => {
                self.told_full.store(false, Ordering::Relaxed);
                true
            }
            _ = self.connection.closed() => false,
        }
    }

    /// Whether to try again what found no room, now that there is some. What waits stays in memory,
    /// and nothing is added to it.
    async fn has_room_now<T>(&self, result: &Result<T, KeepError>) -> bool {
        let Err(e) = result else { return false };
        if e.code() != ErrorCode::STORE_FULL {
            return false;
        }
        self.shared.library.found_full(e);
        self.await_room().await
    }

    async fn send(&self, message: Message) -> bool {
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
                    if let Message::Error(error) = &message {
                        log::warn!("{}: {}: {}", self.name, error.code, printable(&error.text));
                    }
                    let is_welcome = matches!(message, Message::Welcome(_));
                    goes_on &= self.send(message).await;
                    if is_welcome {
                        // A second `Hello` never comes here: the engine refuses it.
                        let _ = self.welcomed.set(());
                    }
                }
                Work::Greet(hello) => queue.extend(self.greet(&hello).await),
                Work::Keep {
                    header,
                    bytes,
                    hash,
                    ..
                } => {
                    let length = bytes.len() as u64;
                    let bytes = Bytes::from(bytes);
                    let result = loop {
                        let result = self.keep(&header, bytes.clone(), hash).await;
                        if !self.has_room_now(&result).await {
                            break result;
                        }
                    };
                    queue.extend(lock(&self.engine).kept(header.key, length, result));
                }
                Work::KeepInit { hash, bytes } => {
                    let (library, bytes) = (&self.shared.library, Bytes::from(bytes));
                    let result = loop {
                        let result = library.keep_init(hash, bytes.clone()).await;
                        if !self.has_room_now(&result).await {
                            break result;
                        }
                    };
                    queue.push_back(lock(&self.engine).init_kept(hash, result));
                }
                Work::KeepLost(lost) => {
                    let range = LostRange {
                        track: lost.track,
                        first: lost.first,
                        last: lost.last,
                    };
                    let library = &self.shared.library;
                    let result = library
                        .keep_lost(self.box_id, lost.recording, range, lost.reason)
                        .await;
                    queue.extend(lock(&self.engine).lost_kept(&lost, result));
                }
                Work::ConfirmErased(recording) => {
                    let library = &self.shared.library;
                    if let Err(e) = library.confirm_erased(self.box_id, recording).await {
                        log::error!("{}: {e}; the box is asked again", self.name);
                    }
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

    async fn keep(
        &self,
        header: &crate::wire::stream::SegmentHeader,
        bytes: Bytes,
        hash: Hash,
    ) -> Result<super::library::Kept, KeepError> {
        let library = &self.shared.library;
        if let Some(init) = header.init {
            let waited = library.await_init(header.key.recording, init);
            let missing = KeepError::InitMissing {
                key: header.key,
                init,
            };
            clock::within(INIT_WITHIN, waited).await.ok_or(missing)??;
        }
        library.keep_segment(self.box_id, header, bytes, hash).await
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
                let text = format!(
                    "epoch held {}, connection held {}",
                    held.epoch, held.connection
                );
                log::warn!("{}: closing: {}: {text}", self.name, ErrorCode::FENCED);
                let peer = self.peer.clone();
                peer.end(ErrorCode::FENCED, text, held.epoch).await;
                return None;
            }
            Verdict::Cloned => {
                self.shared.stats.cloned.fetch_add(1, Ordering::Relaxed);
                let text = "another process with this box's key took over and this one is back";
                log::error!("{}: alarm cloned: {text}", self.name);
                self.refuse(ErrorCode::CLONED, text);
                return None;
            }
        };
        if let Some(old) = displaced.and_then(|old| lock(&self.shared.sessions).remove(&old)) {
            let text = format!(
                "epoch held {}, connection held {}",
                claim.epoch, claim.connection
            );
            log::info!(
                "{}: an older session ends: {}",
                self.name,
                ErrorCode::FENCED
            );
            tokio::spawn(old.end(ErrorCode::FENCED, text, claim.epoch));
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
