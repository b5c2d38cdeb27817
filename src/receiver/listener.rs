//! The only room of the receiver that names quinn: accepts boxes; `session` drives an ingest engine
//! for each.
//!
//! Mutual TLS 1.3 with the receiver's own authority; tickets and 0-RTT are off, because a resumed
//! session skips the check of the client's certificate. The roster is asked on every connection and
//! again while it lasts. Each connection and each stream is a task of its own: what goes wrong in one
//! ends that one, with a code that both sides log.

mod commands;
mod endpoint;
mod session;

use super::authority::Authority;
use super::fence::Fence;
use super::fleet::Fleet;
use super::ingest::Budget;
use super::library::Library;
use super::roster::{Refused, Roster, fingerprint};
use crate::blocking;
use crate::clock;
use crate::media::{BoxId, Hash, RecordingId};
use crate::wire::message::Action;
use crate::wire::{ALPN, ErrorCode};
use commands::Commands;
pub use commands::Uncommanded;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, ConnectionError, Endpoint, Incoming, TokioRuntime, VarInt};
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use session::{Peer, Session};
use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
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
    fleet: Arc<Fleet>,
    /// What the segments under way of all sessions take.
    budget: Arc<Budget>,
    /// The sessions let in, to end those that are displaced.
    sessions: Mutex<HashMap<u64, Peer>>,
    next_session: AtomicU64,
    commands: Commands,
    stats: Arc<Stats>,
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
        let bind = |config| {
            let socket = UdpSocket::bind(address)?;
            let keys = endpoint::config(authority);
            Endpoint::new(keys, Some(config), socket, Arc::new(TokioRuntime))
        };
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
                fleet: Arc::new(Fleet::new(roster.clone())),
                roster,
                fence: Mutex::default(),
                budget: Arc::default(),
                sessions: Mutex::default(),
                next_session: AtomicU64::new(1),
                commands: Commands::default(),
                stats: Arc::default(),
            }),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// What boxes say of themselves.
    pub fn fleet(&self) -> Arc<Fleet> {
        self.shared.fleet.clone()
    }

    /// Its counters.
    pub fn stats(&self) -> Arc<Stats> {
        self.shared.stats.clone()
    }

    /// Has a connected box, named by its id or by its room, do something; gives the recording concerned.
    pub async fn command(
        &self,
        box_or_room: &str,
        action: Action,
    ) -> Result<Option<RecordingId>, Uncommanded> {
        self.shared.commands.give(box_or_room, action).await
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
    let (session, waiting) = Session::new(shared, (box_id, certificate), room, connection);
    session.run(send, receive, waiting).await;
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
