//! The driver: a QUIC client (RFC 9000) around the session engine.
//!
//! One task decides: it feeds offers, messages and stream events to the engine and does what the
//! engine answers. Each stream has a task of its own that reads its bytes on a blocking thread and
//! waits for the transport, so that a stream that cannot go on holds no other up.
//!
//! Longer than most files: dialling, conversing, giving up and trying again are one task's decisions.

mod control;
mod link;
mod machine;
pub mod probe;
mod streams;
#[cfg(test)]
mod tests;

use super::backoff::Backoff;
use super::congestion::{Congestion, Live};
use super::identity::{self, Identity};
use super::session::{self, CONTROL_PRIORITY, Session};
use super::{Action, Offer, Report, Source, tls};
use crate::clock::{self, TaskClock};
use crate::media::Monotonic;
use crate::wire::ErrorCode;
use crate::wire::error_code::Reaction;
use crate::wire::framing::{FramingError, MessageReader};
use crate::wire::message::{Message, Welcome};
use control::Control;
use link::{Link, Verdict};
pub use machine::{LookUp, Machine, System};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, ConnectionStats, Endpoint, IdleTimeout, RecvStream,
    SendStream, TransportConfig, VarInt, WriteError,
};
#[cfg(test)]
use quinn::{ServerConfig, crypto::rustls::QuicServerConfig};
use rustls::pki_types::CertificateDer;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use streams::Streams;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Where the receiver is.
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port`; the name is looked up at each attempt.
    pub receiver: String,
    /// The name in the receiver's certificate.
    pub server_name: String,
    /// Generic segmentation offload: three times less CPU, but some network drivers lose packets
    /// with it.
    pub segmentation_offload: bool,
    /// Bytes that the transport buffers for sending, all streams together.
    pub send_window: u64,
    /// How long resolving, connecting and greeting may take, each.
    pub patience: Duration,
    /// The shortest and the longest nominal delay between two attempts.
    pub retry: (Duration, Duration),
    /// The congestion controller.
    pub congestion: Congestion,
    /// Sockets, names and random numbers.
    pub machine: Arc<dyn Machine>,
}

impl Config {
    /// The usual settings for a receiver at `host:port` whose certificate names `host`.
    pub fn new(receiver: &str) -> Self {
        let host = receiver.rsplit_once(':').map_or(receiver, |(host, _)| host);
        Self {
            receiver: receiver.into(),
            server_name: host.trim_matches(['[', ']']).into(),
            segmentation_offload: true,
            send_window: 2 * 1024 * 1024,
            patience: Duration::from_secs(10),
            retry: (Duration::from_millis(500), Duration::from_secs(30)),
            congestion: Congestion::default(),
            machine: Arc::new(System),
        }
    }
}

/// Two attempts begin at least so far apart, whatever the network does.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);

/// The network changed, but the way to the receiver seems the same or is not known: what is under way
/// has so long at first and at most, more each time, to come to an end.
const UNMOVED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Bytes that may come in and not be read yet.
const INCOMING: VarInt = VarInt::from_u32(256 * 1024);

/// Why there is no connection. None of these ends the uplink: it tries again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Either end gave a code.
    #[error("{code}: {text}. {}", code.advice())]
    Coded {
        /// The code.
        code: ErrorCode,
        /// What was said with it.
        text: String,
    },
    /// The network or the peer was silent, or this machine could not try.
    #[error("{0}")]
    Plain(String),
}

impl Error {
    fn coded(code: ErrorCode, text: impl ToString) -> Self {
        let text = text.to_string();
        Self::Coded { code, text }
    }

    /// The code, where one was given.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Coded { code, .. } => Some(*code),
            Self::Plain(_) => None,
        }
    }
}

impl From<identity::Error> for Error {
    fn from(error: identity::Error) -> Self {
        Self::Plain(error.to_string())
    }
}

impl From<ConnectionError> for Error {
    fn from(error: ConnectionError) -> Self {
        let alert = |code: u64| match code {
            0x100..=0x1ff => ErrorCode::from_tls_alert((code & 0xff) as u8),
            _ => None,
        };
        let code = match &error {
            ConnectionError::ApplicationClosed(close) => {
                ErrorCode::from_quic(close.error_code.into_inner())
            }
            ConnectionError::ConnectionClosed(close) => alert(close.error_code.into()),
            ConnectionError::TransportError(error) => alert(error.code.into()),
            _ => None,
        };
        match (code, &error) {
            (Some(code), ConnectionError::ApplicationClosed(close)) => {
                Self::coded(code, String::from_utf8_lossy(&close.reason))
            }
            (Some(code), error) => Self::coded(code, error),
            (None, error) => Self::Plain(error.to_string()),
        }
    }
}

/// Figures for status and metrics.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// A receiver has answered on the present connection.
    pub connected: bool,
    /// Bytes handed to the transport since the start.
    pub bytes_sent: u64,
    /// Of these, segment bytes that an earlier connection had carried already.
    pub bytes_again: u64,
    /// The transport's smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// Connections that a receiver answered, after the first.
    pub reconnects: u64,
    /// Segments that were offered and are not durable.
    pub pending: usize,
    /// Why the last attempt or connection ended.
    pub last_error: Option<Error>,
}

/// [`Snapshot`] as it is kept up to date.
#[derive(Debug, Default)]
pub struct Stats(Mutex<Snapshot>);

impl Stats {
    /// The figures now.
    pub fn snapshot(&self) -> Snapshot {
        self.change(|stats| stats.clone())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Snapshot) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The uplink of one box.
pub struct Uplink {
    /// Where the receiver is.
    pub config: Config,
    /// Who the box is.
    pub identity: Identity,
    /// The boot epoch of this run, from [`Identity::raise_epoch`].
    pub epoch: u64,
    /// Where the bytes are.
    pub source: Arc<dyn Source>,
    /// Figures; keep a clone.
    pub stats: Arc<Stats>,
}

impl Uplink {
    /// Connects, sends and resumes until `stop` becomes true or the other end of a channel is gone.
    /// Offers are always taken at once, so a full report channel holds nobody up.
    pub async fn run(
        self,
        offers: mpsc::Receiver<Offer>,
        reports: mpsc::Sender<Report>,
        stop: watch::Receiver<bool>,
    ) {
        let mut nonce = [0; 8];
        if let Err(error) = self.config.machine.random(&mut nonce) {
            log::error!("no random numbers from the system: {error}");
        }
        let bounds = session::Config::new(
            self.identity.box_id(),
            self.epoch,
            u64::from_le_bytes(nonce),
        );
        let (first, cap) = self.config.retry;
        let installed = self.identity.installed();
        let driver = Driver {
            clock: Arc::new(TaskClock::new()),
            session: Session::new(bounds),
            backoff: Backoff::new(first, cap),
            link: Link::new(),
            way: Arc::default(),
            unmoved: Backoff::new(UNMOVED.0, UNMOVED.1),
            changes: self.config.machine.changes(),
            uplink: self,
            offers,
            reports,
            stop,
            unsent: VecDeque::new(),
            answered: 0,
            installed,
            told: None,
        };
        driver.run().await;
    }
}

/// The station wants no more.
struct Stop;

/// The receiver's address last tried, and the one from which it was reached.
#[derive(Default)]
struct Way(Mutex<Option<(SocketAddr, Option<IpAddr>)>>);

/// What a change of the network did to the way to the receiver.
#[derive(Clone, Copy, PartialEq)]
enum Turn {
    /// It is another, or is there again.
    Moved,
    /// It is the same, or there is none.
    Same,
    /// Nobody knows the receiver's address yet.
    Unknown,
}

impl Way {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(SocketAddr, Option<IpAddr>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, far: SocketAddr, machine: &dyn Machine) {
        *self.lock() = Some((far, machine.source(far)));
    }

    fn look(&self, machine: &dyn Machine) -> Turn {
        let mut way = self.lock();
        let Some((far, source)) = &mut *way else {
            return Turn::Unknown;
        };
        let now = machine.source(*far);
        let before = std::mem::replace(source, now);
        match now.is_some() && now != before {
            true => Turn::Moved,
            false => Turn::Same,
        }
    }
}

struct Driver {
    uplink: Uplink,
    session: Session,
    clock: Arc<TaskClock>,
    backoff: Backoff,
    link: Link,
    way: Arc<Way>,
    /// How long the next change that did not move the way leaves to what is under way.
    unmoved: Backoff,
    changes: watch::Receiver<()>,
    offers: mpsc::Receiver<Offer>,
    reports: mpsc::Sender<Report>,
    stop: watch::Receiver<bool>,
    /// Reports that the station has not taken yet.
    unsent: VecDeque<Report>,
    /// Connections that a receiver answered.
    answered: u64,
    /// Sees a new certificate.
    installed: watch::Receiver<()>,
    /// What the log was told since the last connection.
    told: Option<Error>,
}

impl Driver {
    async fn run(mut self) {
        while !self.session.is_ready() {
            if self.outside().await.is_err() {
                return;
            }
        }
        loop {
            let Ok(error) = self.attempt().await else {
                return;
            };
            self.failed(error);
            let mut random = [0; 4];
            let _ = self.uplink.config.machine.random(&mut random);
            let delay = self.backoff.next(u32::from_le_bytes(random));
            let mut installed = self.installed.clone();
            let enrolled = async move {
                tokio::select! {
                    biased;
                    () = clock::pause(delay) => false,
                    () = changed(&mut installed) => true,
                }
            };
            match self.until_a_change(enrolled).await {
                Ok(Some(true)) => self.backoff.reset(),
                Ok(_) => {}
                Err(Stop) => return,
            }
        }
    }

    /// As [`Driver::during`], but given up (`None`) when the network changes: at once when the receiver
    /// is now reached another way, and otherwise if it does not end soon by itself, so that a network
    /// that never rests leaves time to connect.
    async fn until_a_change<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, Stop> {
        let mut changes = self.changes.clone();
        // What changed before says nothing about this work.
        changes.mark_unchanged();
        let (clock, way) = (self.clock.clone(), self.way.clone());
        let machine = self.uplink.config.machine.clone();
        let began = clock.now();
        let mut unmoved = self.unmoved.clone();
        let patience = unmoved.next(u32::MAX);
        let turned = async {
            let mut given_up: Option<(Monotonic, Turn)> = None;
            loop {
                let until = given_up.map(|(at, _)| at);
                tokio::select! {
                    biased;
                    () = changed(&mut changes) => {
                        let turn = way.look(machine.as_ref());
                        if turn == Turn::Moved {
                            given_up = Some((began.plus(BETWEEN_ATTEMPTS), turn));
                        }
                        given_up.get_or_insert((began.plus(patience), turn));
                    }
                    () = sleep_until(&clock, until) => break,
                }
            }
            given_up.map_or(Turn::Same, |(_, turn)| turn)
        };
        let done = self
            .during(async {
                tokio::select! {
                    biased;
                    done = work => Ok(done),
                    turn = turned => Err(turn),
                }
            })
            .await?;
        let turn = match done {
            Ok(done) => return Ok(Some(done)),
            Err(turn) => turn,
        };
        log::info!("the network changed: trying the receiver again");
        if turn != Turn::Same {
            self.backoff.reset();
        }
        match turn {
            Turn::Moved => self.unmoved.reset(),
            Turn::Same | Turn::Unknown => self.unmoved = unmoved,
        }
        Ok(None)
    }

    /// One connection from the look-up of its name to its end.
    async fn attempt(&mut self) -> Result<Error, Stop> {
        let (endpoint, connection) = loop {
            self.installed.mark_unchanged();
            let credentials = match self.uplink.identity.credentials() {
                Ok(credentials) => credentials,
                Err(error) => return Ok(error.into()),
            };
            let live = self.link.live().clone();
            let way = self.way.clone();
            let work = connect(self.uplink.config.clone(), credentials, live, way);
            match self.until_a_change(work).await? {
                Some(Ok(connected)) => break connected,
                Some(Err(error)) => return Ok(error),
                None => {}
            }
        };
        let began = self.clock.now();
        self.unmoved.reset();
        self.changes.mark_unchanged();
        let source = self
            .uplink
            .config
            .machine
            .source(connection.remote_address());
        self.link.connected(&connection, source, began);
        self.told = None;
        let mut installed = self.installed.clone();
        let mut renewed = false;
        let ended = tokio::select! {
            biased;
            ended = self.converse(&endpoint, &connection) => ended,
            () = changed(&mut installed) => {
                renewed = true;
                Ok(Error::Plain("a new certificate was installed: connecting with it".into()))
            }
        };
        self.link.disconnected();
        self.uplink.stats.change(|stats| stats.connected = false);
        if ended.is_err() || renewed {
            connection.close(quic_code(ErrorCode::DONE), b"the box stops sending");
            clock::within(Duration::from_secs(1), endpoint.wait_idle()).await;
        }
        if self.clock.now().since(began) >= Duration::from_secs(10) {
            self.backoff.reset();
        }
        ended
    }

    fn failed(&mut self, error: Error) {
        let receiver = &self.uplink.config.receiver;
        // A network that is away for a day is one line, not three thousand.
        if self.told.as_ref() != Some(&error) {
            log::warn!("receiver {receiver}: {error}");
            self.told = Some(error.clone());
        }
        let code = error.code();
        if code.is_some_and(|code| code.reaction() == Reaction::Person) {
            self.backoff.slow_down();
        }
        let text = error.to_string();
        self.uplink
            .stats
            .change(|stats| stats.last_error = Some(error));
        self.session.disconnected(code, text, self.clock.now());
        self.collect_reports();
    }

    /// While there is no connection the engine only has reports to give.
    fn collect_reports(&mut self) {
        while let Action::Report(report) = self.session.next(self.clock.now()) {
            self.link.reported(&report);
            self.unsent.push_back(report);
        }
        let pending = self.session.pending();
        self.uplink.stats.change(|stats| stats.pending = pending);
    }

    /// Deals with the station until `work` is done.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Stop> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                outside = self.outside() => outside?,
            }
            self.collect_reports();
        }
    }

    /// Takes what the station offers, or hands it a report. May be cancelled at any time.
    async fn outside(&mut self) -> Result<(), Stop> {
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => return Err(Stop),
            offer = self.offers.recv() => {
                let now = self.clock.now();
                let mut next = Some(offer.ok_or(Stop)?);
                // What waits is taken together, but not for ever.
                for _ in 0..256 {
                    let Some(mut offer) = next else { break };
                    self.link.offered(&mut offer, &self.session, now);
                    self.session.offer(offer, now);
                    next = self.offers.try_recv().ok();
                }
            }
            permit = self.reports.reserve(), if !self.unsent.is_empty() => {
                let permit = permit.map_err(|_| Stop)?;
                if let Some(report) = self.unsent.pop_front() {
                    permit.send(report);
                }
            }
        }
        Ok(())
    }

    /// Runs the engine over a connection until that ends.
    async fn converse(
        &mut self,
        endpoint: &Endpoint,
        connection: &Connection,
    ) -> Result<Error, Stop> {
        let patience = self.uplink.config.patience;
        let opening = clock::within(patience, connection.open_bi());
        let (control, replies) = match self.during(opening).await? {
            Some(Ok(streams)) => streams,
            Some(Err(error)) => return Ok(error.into()),
            None => return Ok(Error::coded(ErrorCode::SILENT, "no control stream")),
        };
        let _ = control.set_priority(CONTROL_PRIORITY);
        let mut control = Control::new(control);
        // Tasks end with this function: the set aborts them when it is dropped.
        let mut tasks = JoinSet::new();
        let (give_message, mut messages) = mpsc::channel(64);
        tasks.spawn(read_control(replies, give_message));
        let mut streams = Streams::new(self, connection.clone());
        self.session
            .connected(Some(clock::wall()), self.clock.now());
        loop {
            let until = loop {
                match self.session.next(self.clock.now()) {
                    Action::Wait(until) => break until,
                    Action::Report(report) => self.report(report),
                    Action::Control(message @ Message::Status(_)) => control.tell(message),
                    Action::Control(message) => {
                        let sending = clock::within(patience, control.say(&message));
                        match self.during_connected(sending).await? {
                            Some(Ok(())) => {}
                            Some(Err(error)) => return Ok(error),
                            None => {
                                return Ok(Error::coded(ErrorCode::SILENT, "no room to speak"));
                            }
                        }
                    }
                    Action::Close { code, text } => {
                        connection.close(quic_code(code), text.as_bytes());
                        return Ok(Error::coded(code, text));
                    }
                    action => streams.perform(action, &mut tasks),
                }
            };
            let pending = self.session.pending();
            self.uplink.stats.change(|stats| {
                stats.rtt = Some(connection.rtt());
                stats.pending = pending;
            });
            let now = self.clock.now();
            match self.link.look(connection, now) {
                Verdict::Well(None) => {}
                Verdict::Well(Some(step)) => self.step(step),
                Verdict::Dead => {
                    connection.close(quic_code(ErrorCode::SILENT), b"no answer");
                    // It was well a moment ago: the first attempt need not wait long.
                    self.backoff.reset();
                    return Ok(Error::coded(
                        ErrorCode::SILENT,
                        "no answer on this connection",
                    ));
                }
            }
            let look = self.link.next_look(now);
            let until = Some(until.map_or(look, |until| until.min(look)));
            let clock = self.clock.clone();
            let mut changes = self.changes.clone();
            // In this order, so that a simulation repeats itself; what comes first is bounded by
            // the network or by what was asked of the streams, so nothing after it starves.
            tokio::select! {
                biased;
                error = connection.closed() => {
                    self.hear_the_rest(&mut messages).await;
                    return Ok(error.into());
                }
                Some(event) = streams.events.recv() => {
                    streams.heard(event, &mut self.session, self.clock.now());
                }
                Some(message) = messages.recv() => match message {
                    Ok(message) => {
                        if let Message::Welcome(Welcome { clock: Some(told), .. }) = &message {
                            self.told_the_time(told.unix_nanos, connection);
                        }
                        self.session.received(message, self.clock.now());
                    }
                    Err(error) => {
                        let code = FramingError::code(&error);
                        connection.close(quic_code(code), error.to_string().as_bytes());
                        return Ok(Error::coded(code, error));
                    }
                },
                Some(_) = tasks.join_next() => {}
                () = changed(&mut changes) => {
                    self.changes.mark_unchanged();
                    self.network_changed(endpoint, connection);
                }
                told = control.write_on(), if control.is_telling() => {
                    if let Err(error) = told {
                        return Ok(error);
                    }
                }
                outside = self.outside() => outside?,
                () = sleep_until(&clock, until) => {}
            }
        }
    }

    /// What the receiver said before it closed the connection counts: that an epoch is held, and which.
    async fn hear_the_rest(
        &mut self,
        messages: &mut mpsc::Receiver<Result<Message, FramingError>>,
    ) {
        while let Some(Ok(message)) = messages.recv().await {
            self.session.received(message, self.clock.now());
            while let Action::Report(report) = self.session.next(self.clock.now()) {
                self.report(report);
            }
        }
    }

    /// Looks for the receiver over the network as it is now.
    fn network_changed(&mut self, endpoint: &Endpoint, connection: &Connection) {
        let machine = self.uplink.config.machine.clone();
        let far = connection.remote_address();
        let source = machine.source(far);
        if !self.link.changed(connection, source, self.clock.now()) {
            return;
        }
        // The receiver follows the connection to the new address, or does not answer: then a new one
        // is made.
        match machine.rebind(endpoint, far) {
            Ok(()) => log::info!("the network changed: going on from {source:?}"),
            Err(error) => log::warn!("the network changed, and there is no new socket: {error}"),
        }
    }

    /// The link has become poorer or better.
    fn step(&mut self, step: u8) {
        let config = &self.uplink.config;
        log::warn!("the link to {}: step {step}", config.receiver);
        self.unsent.push_back(Report::Link { step });
    }

    /// Has the time noted that an authenticated receiver tells; nothing waits for it.
    fn told_the_time(&self, unix_nanos: i64, connection: &Connection) {
        let chain = connection.peer_identity();
        let chain = chain.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let ends = chain.and_then(|chain| identity::ends(chain.first()?));
        let told = unix_nanos / 1_000_000_000;
        if let Some(ends) = ends {
            let note = self.uplink.identity.heard(told, ends);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = note() {
                    log::warn!("the receiver's time is not noted: {error}");
                }
            });
        }
    }

    /// As [`Driver::during`], leaving the engine's actions where they are.
    async fn during_connected<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Stop> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                outside = self.outside() => outside?,
            }
        }
    }

    fn report(&mut self, report: Report) {
        self.link.reported(&report);
        if let Report::Fenced { epoch } = &report {
            // On a thread of its own this uplink may wait for a disk.
            match self.uplink.identity.raise_epoch_past(*epoch) {
                Ok(epoch) => {
                    log::warn!("the receiver holds a later epoch of this box: going on as {epoch}");
                    self.session.set_epoch(epoch);
                    self.backoff.reset();
                    self.unsent.push_back(Report::Raised { epoch });
                }
                Err(error) => log::error!("{error}"),
            }
        }
        if report == Report::Connected {
            log::info!("receiver {} answered", self.uplink.config.receiver);
            self.uplink.stats.change(|stats| {
                stats.reconnects = self.answered;
                stats.connected = true;
            });
            self.answered += 1;
        }
        // A newer word on the same track replaces one that the station has not taken yet.
        if let Report::Durable {
            recording, track, ..
        } = &report
        {
            let same = |old: &Report| matches!(old, Report::Durable { recording: r, track: t, .. } if (r, t) == (recording, track));
            if self.unsent.back().is_some_and(same) {
                self.unsent.pop_back();
            }
        }
        self.unsent.push_back(report);
    }
}

/// Completes when the network changed.
async fn changed(changes: &mut watch::Receiver<()>) {
    if changes.changed().await.is_err() {
        std::future::pending().await
    }
}

async fn sleep_until(clock: &TaskClock, until: Option<Monotonic>) {
    match until {
        Some(until) => clock.sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn quic_code(code: ErrorCode) -> VarInt {
    VarInt::from_u32(code.0.into())
}

async fn connect(
    config: Config,
    credentials: identity::Credentials,
    live: Arc<Live>,
    way: Arc<Way>,
) -> Result<(Endpoint, Connection), Error> {
    let receiver = &config.receiver;
    let look_up = config.machine.look_up(receiver.clone());
    let addresses = match clock::within(config.patience, look_up).await {
        Some(Ok(addresses)) => addresses,
        Some(Err(error)) => {
            let text = format!("`{receiver}` cannot be looked up: {error}; check its name and DNS");
            return Err(Error::Plain(text));
        }
        None => {
            return Err(Error::Plain(format!(
                "looking up `{receiver}` takes too long"
            )));
        }
    };
    let client = client(credentials, &addresses, transport(&config, &live))?;
    let mut last = Error::Plain(format!("`{receiver}` has no address"));
    for address in addresses {
        way.take(address, config.machine.as_ref());
        match dial(&config, client.clone(), address).await {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What a connection to one of `addresses` is made with.
fn client(
    credentials: identity::Credentials,
    addresses: &[SocketAddr],
    transport: TransportConfig,
) -> Result<ClientConfig, Error> {
    let far = addresses
        .iter()
        .find(|a| !a.ip().to_canonical().is_loopback());
    if let Some(far) = far.filter(|_| credentials.development) {
        let text = format!("{far} is not a loopback address");
        return Err(Error::coded(ErrorCode::DEVELOPMENT_CA, text));
    }
    let tls = tls::client(credentials).map_err(|e| Error::coded(ErrorCode::CERTIFICATE, e))?;
    let tls = QuicClientConfig::try_from(tls).map_err(|e| Error::Plain(e.to_string()))?;
    let mut client = ClientConfig::new(Arc::new(tls));
    client.transport_config(Arc::new(transport));
    Ok(client)
}

async fn dial(
    config: &Config,
    client: ClientConfig,
    address: SocketAddr,
) -> Result<(Endpoint, Connection), Error> {
    let plain = |error: String| Error::Plain(format!("{address}: {error}"));
    let endpoint = config
        .machine
        .endpoint(address)
        .map_err(|e| plain(e.to_string()))?;
    let connecting = endpoint
        .connect_with(client, address, &config.server_name)
        .map_err(|e| plain(e.to_string()))?;
    match clock::within(config.patience, connecting).await {
        Some(Ok(connection)) => Ok((endpoint, connection)),
        Some(Err(error)) => Err(error.into()),
        None => Err(plain("no answer; check that UDP passes".into())),
    }
}

fn transport(config: &Config, live: &Arc<Live>) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(Duration::from_secs(5)))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(15_000))))
        .send_window(config.send_window)
        // Only the receiver's half of the control stream comes in.
        .receive_window(INCOMING)
        .stream_receive_window(INCOMING)
        // Off, it would not only be unfair but break priorities.
        .send_fairness(true)
        .congestion_controller_factory(config.congestion.factory(live))
        .datagram_receive_buffer_size(None)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .enable_segmentation_offload(config.segmentation_offload);
    transport
}

async fn read_control(mut replies: RecvStream, give: mpsc::Sender<Result<Message, FramingError>>) {
    let mut reader = MessageReader::new();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(Some(length)) = replies.read(&mut buffer).await {
        let mut input = &buffer[..length];
        loop {
            let message = match reader.next(&mut input) {
                Ok(None) => break,
                Ok(Some(message)) => Ok(message),
                Err(error) => Err(error),
            };
            let last = message.is_err();
            if give.send(message).await.is_err() || last {
                return;
            }
        }
    }
}
