//! A network of datagrams in memory, by seed: where a box and a receiver meet in virtual time.
//!
//! Takes what quinn sends on a socket of either side; gives it to the other side late, out of order,
//! twice or never, as the two [`Link`]s say. Each link is a transmitter of a rate with a queue before
//! it that drops what does not fit, then a delay. The box may be moved to another address, either
//! side's sockets may die, and everything may be cut for a time. The one file of the simulation that
//! names quinn.

use super::random::Random;
use crate::clock::{self, TaskClock};
use crate::media::Monotonic;
use crate::uplink::quic::{LookUp, Machine};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, ServerConfig,
    TokioRuntime, UdpPoller,
};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::watch;

/// The receiver's address: of documentation (RFC 5737), as all of them here.
pub(super) const RECEIVER: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4433);

/// What one direction does to datagrams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub delay: Duration,
    /// Up to so much is added to the delay of each datagram that is not in order.
    pub jitter: Duration,
    /// How many of a million datagrams get that jitter, are lost, are delivered twice.
    pub reordered: u32,
    pub lost: u32,
    pub twice: u32,
    /// Bits per second; none for no limit.
    pub rate: Option<u64>,
    /// Bytes that wait for the transmitter before the next one is dropped.
    pub queue: u64,
}

/// From the box to the receiver, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// What happened to datagrams, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub sent: u64,
    pub bytes: u64,
    pub lost: u64,
    /// Dropped before a full transmitter.
    pub overflowed: u64,
    pub reordered: u64,
    pub twice: u64,
    /// Sent into an outage, or to nobody.
    pub nowhere: u64,
    pub moves: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.bytes += other.bytes;
        self.lost += other.lost;
        self.overflowed += other.overflowed;
        self.reordered += other.reordered;
        self.twice += other.twice;
        self.nowhere += other.nowhere;
        self.moves += other.moves;
    }
}

#[derive(Clone)]
pub(super) struct Network(Arc<Shared>);

struct Shared {
    clock: TaskClock,
    began: Monotonic,
    /// What the box sees of changes to its network.
    changes: watch::Sender<()>,
    state: Mutex<State>,
}

struct State {
    random: Random,
    up: Transmitter,
    down: Transmitter,
    cut_until: Monotonic,
    sockets: BTreeMap<SocketAddr, Arc<Inbox>>,
    /// Counts the addresses and ports that the box has had.
    host: u8,
    port: u16,
    serial: u64,
    counts: Counts,
    trace: blake3::Hasher,
}

struct Transmitter {
    link: Link,
    free_at: Monotonic,
    /// When the latest of those sent so far arrives.
    latest: Monotonic,
    /// When each datagram arrived and how long it had waited for the transmitter.
    waits: Vec<(Monotonic, Duration)>,
}

impl Transmitter {
    fn new(link: Link) -> Self {
        Self {
            link,
            free_at: Monotonic::default(),
            latest: Monotonic::default(),
            waits: Vec::new(),
        }
    }
}

/// What arrives at one socket.
struct Inbox(Mutex<Arriving>);

struct Arriving {
    /// The address under which the other side sees it.
    address: SocketAddr,
    dead: bool,
    due: BTreeMap<(Monotonic, u64), Datagram>,
    waker: Option<Waker>,
}

#[derive(Clone)]
struct Datagram {
    from: SocketAddr,
    ecn: Option<quinn::udp::EcnCodepoint>,
    bytes: Vec<u8>,
}

impl Network {
    /// Must be made within the runtime whose clock it shall follow.
    pub fn new(mut random: Random, up: Link, down: Link) -> Self {
        let clock = TaskClock::new();
        let random = random.fork();
        Self(Arc::new(Shared {
            began: clock.now(),
            clock,
            changes: watch::Sender::new(()),
            state: Mutex::new(State {
                random,
                up: Transmitter::new(up),
                down: Transmitter::new(down),
                cut_until: Monotonic::default(),
                sockets: BTreeMap::new(),
                host: 1,
                port: 49_152,
                serial: 0,
                counts: Counts::default(),
                trace: blake3::Hasher::new(),
            }),
        }))
    }

    /// Now, on the clock of every socket here.
    pub fn now(&self) -> Monotonic {
        self.0.clock.now()
    }

    pub fn counts(&self) -> Counts {
        self.0.state.lock().unwrap().counts
    }

    /// A hash over when each datagram was sent, which way, how long it was and what became of it.
    pub fn trace(&self) -> blake3::Hash {
        self.0.state.lock().unwrap().trace.finalize()
    }

    /// Changes what the links do to what is sent from now on.
    pub fn set_links(&self, up: Link, down: Link) {
        let mut state = self.0.state.lock().unwrap();
        (state.up.link, state.down.link) = (up, down);
    }

    /// Nothing that is sent within `duration` arrives anywhere, and no name is found.
    pub fn cut(&self, duration: Duration) {
        let until = self.now().plus(duration);
        let mut state = self.0.state.lock().unwrap();
        state.cut_until = state.cut_until.max(until);
    }

    /// When each datagram from the box arrived, and how long it had waited in the link's queue.
    pub fn waits_up(&self) -> Vec<(Monotonic, Duration)> {
        self.0.state.lock().unwrap().up.waits.clone()
    }

    /// From now on the box's datagrams come from another address, and what is sent to the old one
    /// goes nowhere. Its own sockets notice nothing, but the box may.
    pub fn move_box(&self, noticed: bool) {
        if noticed {
            self.0.changes.send_replace(());
        }
        let mut state = self.0.state.lock().unwrap();
        state.host = state.host % 250 + 1;
        state.counts.moves += 1;
        let host = state.host;
        let moved: Vec<_> = state
            .sockets
            .extract_if(.., |at, _| *at != RECEIVER)
            .collect();
        for (old, inbox) in moved {
            let new = SocketAddr::new(Ipv4Addr::new(198, 51, 100, host).into(), old.port());
            inbox.0.lock().unwrap().address = new;
            state.sockets.insert(new, inbox);
        }
    }

    /// The box's process is gone: its sockets send and hear nothing any more.
    pub fn kill_box(&self) {
        self.kill(|address| address != RECEIVER);
    }

    /// The receiver's process is gone.
    pub fn kill_receiver(&self) {
        self.kill(|address| address == RECEIVER);
    }

    fn kill(&self, which: impl Fn(SocketAddr) -> bool) {
        let mut state = self.0.state.lock().unwrap();
        let dead: Vec<_> = state.sockets.extract_if(.., |at, _| which(*at)).collect();
        for (_, inbox) in dead {
            let mut arriving = inbox.0.lock().unwrap();
            arriving.dead = true;
            arriving.due.clear();
        }
    }

    /// The receiver's endpoint.
    pub fn receiver(&self, config: ServerConfig) -> io::Result<Endpoint> {
        self.endpoint(RECEIVER, Some(config))
    }

    fn endpoint(&self, address: SocketAddr, server: Option<ServerConfig>) -> io::Result<Endpoint> {
        let socket = self.socket(address)?;
        let (seed, cids) = {
            let mut state = self.0.state.lock().unwrap();
            let mut seed = [0; 32];
            state.random.fill(&mut seed);
            (seed, state.random.fork())
        };
        let mut config = EndpointConfig::default();
        config
            .rng_seed(Some(seed))
            .cid_generator(move || Box::new(Names(cids.clone())));
        Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime))
    }

    fn socket(&self, address: SocketAddr) -> io::Result<Arc<Socket>> {
        let inbox = Arc::new(Inbox(Mutex::new(Arriving {
            address,
            dead: false,
            due: BTreeMap::new(),
            waker: None,
        })));
        let mut state = self.0.state.lock().unwrap();
        if state.sockets.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.sockets.insert(address, inbox.clone());
        Ok(Arc::new(Socket {
            network: self.clone(),
            inbox,
            timer: Mutex::new(None),
        }))
    }

    /// An address that the box has not used yet, where it is now.
    fn box_address(&self) -> SocketAddr {
        let mut state = self.0.state.lock().unwrap();
        state.port = state.port.checked_add(1).unwrap_or(49_152);
        SocketAddr::new(Ipv4Addr::new(198, 51, 100, state.host).into(), state.port)
    }

    /// What becomes of one datagram.
    fn send(&self, from: &Inbox, transmit: &Transmit<'_>) {
        let now = self.now();
        let mut state = self.0.state.lock().unwrap();
        let state = &mut *state;
        let (dead, source) = {
            let arriving = from.0.lock().unwrap();
            (arriving.dead, arriving.address)
        };
        if dead {
            return;
        }
        let direction = match transmit.destination == RECEIVER {
            true => Direction::Up,
            false => Direction::Down,
        };
        let length = transmit.contents.len() as u64;
        state.counts.sent += 1;
        state.counts.bytes += length;
        let to = state.sockets.get(&transmit.destination).cloned();
        let cut = now < state.cut_until;
        let transmitter = match direction {
            Direction::Up => &mut state.up,
            Direction::Down => &mut state.down,
        };
        let link = transmitter.link;
        let mut arrivals = Vec::new();
        if cut || to.is_none() {
            state.counts.nowhere += 1;
        } else if let Some(wait) = transmitter.take(now, length) {
            let mut at = transmitter.free_at.max(now).plus(link.delay);
            if state.random.per_million(link.reordered) {
                let jitter = u64::try_from(link.jitter.as_micros()).unwrap_or(u64::MAX);
                at = at.plus(Duration::from_micros(state.random.between(0, jitter)));
            }
            transmitter.waits.push((at, wait));
            state.counts.reordered += u64::from(at < transmitter.latest);
            transmitter.latest = transmitter.latest.max(at);
            if state.random.per_million(link.lost) {
                state.counts.lost += 1;
            } else {
                arrivals.push(at);
                if state.random.per_million(link.twice) {
                    state.counts.twice += 1;
                    arrivals.push(at.plus(state.random.millis(0, 20)));
                }
            }
        } else {
            state.counts.overflowed += 1;
        }
        let since = now.since(self.0.began).as_nanos() as u64;
        let mut line = Vec::with_capacity(32);
        line.extend(since.to_le_bytes());
        line.push(direction as u8);
        line.extend(length.to_le_bytes());
        for at in &arrivals {
            line.extend((at.since(self.0.began).as_nanos() as u64).to_le_bytes());
        }
        state.trace.update(&line);
        let Some(to) = to else { return };
        let mut arriving = to.0.lock().unwrap();
        for at in arrivals {
            state.serial += 1;
            let datagram = Datagram {
                from: source,
                ecn: transmit.ecn,
                bytes: transmit.contents.to_vec(),
            };
            arriving.due.insert((at, state.serial), datagram);
        }
        if let Some(waker) = arriving.waker.take() {
            waker.wake();
        }
    }
}

impl Transmitter {
    /// Takes a datagram, and says how long it waits before it is sent; none when it does not fit.
    fn take(&mut self, now: Monotonic, length: u64) -> Option<Duration> {
        let Some(rate) = self.link.rate else {
            return Some(Duration::ZERO);
        };
        let wait = self.free_at.since(now);
        let waiting = wait.as_nanos() * u128::from(rate) / 8_000_000_000;
        if waiting + u128::from(length) > u128::from(self.link.queue) {
            return None;
        }
        // UDP and IP headers take their part of the rate.
        let nanos = (length + 28) * 8 * 1_000_000_000 / rate;
        self.free_at = self.free_at.max(now).plus(Duration::from_nanos(nanos));
        Some(wait)
    }
}

/// Names of connections, from the seed.
struct Names(Random);

impl ConnectionIdGenerator for Names {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.next().to_le_bytes())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

type Timer = (Monotonic, Pin<Box<dyn Future<Output = ()> + Send>>);

struct Socket {
    network: Network,
    inbox: Arc<Inbox>,
    timer: Mutex<Option<Timer>>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.inbox.0.lock().unwrap().address)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut state = self.network.0.state.lock().unwrap();
        state
            .sockets
            .retain(|_, inbox| !Arc::ptr_eq(inbox, &self.inbox));
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.network.send(&self.inbox, transmit);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut arriving = self.inbox.0.lock().unwrap();
        let now = self.network.now();
        let mut taken = 0;
        while taken < buffers.len()
            && let Some(first) = arriving.due.first_entry()
            && first.key().0 <= now
        {
            let datagram = first.remove();
            let length = datagram.bytes.len();
            buffers[taken][..length].copy_from_slice(&datagram.bytes);
            metas[taken] = RecvMeta {
                addr: datagram.from,
                len: length,
                stride: length,
                ecn: datagram.ecn,
                dst_ip: None,
            };
            taken += 1;
        }
        if taken > 0 {
            return Poll::Ready(Ok(taken));
        }
        arriving.waker = Some(cx.waker().clone());
        let Some((at, _)) = arriving.due.keys().next().copied() else {
            return Poll::Pending;
        };
        drop(arriving);
        let mut timer = self.timer.lock().unwrap();
        if timer.as_ref().is_none_or(|(due, _)| *due != at) {
            let network = self.network.clone();
            *timer = Some((
                at,
                Box::pin(async move { network.0.clock.sleep_until(at).await }),
            ));
        }
        if let Some((_, sleep)) = timer.as_mut()
            && sleep.as_mut().poll(cx).is_ready()
        {
            *timer = None;
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.inbox.0.lock().unwrap().address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// The box's machine: names are looked up and sockets opened on the network.
#[derive(Clone)]
pub(super) struct BoxMachine(pub Network);

impl fmt::Debug for BoxMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxMachine")
    }
}

impl Machine for BoxMachine {
    fn look_up(&self, _: String) -> LookUp {
        let network = self.0.clone();
        Box::pin(async move {
            let (delay, cut) = {
                let mut state = network.0.state.lock().unwrap();
                let cut = network.now() < state.cut_until;
                (state.random.millis(1, 60), cut)
            };
            clock::pause(delay).await;
            match cut {
                true => Err(io::Error::other("no name server answers")),
                false => Ok(vec![RECEIVER]),
            }
        })
    }

    fn endpoint(&self, _: SocketAddr) -> io::Result<Endpoint> {
        self.0.endpoint(self.0.box_address(), None)
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.0.0.state.lock().unwrap().random.fill(bytes);
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.0.0.changes.subscribe()
    }

    fn source(&self, _: SocketAddr) -> Option<IpAddr> {
        let host = self.0.0.state.lock().unwrap().host;
        Some(Ipv4Addr::new(198, 51, 100, host).into())
    }

    fn rebind(&self, endpoint: &Endpoint, _: SocketAddr) -> io::Result<()> {
        endpoint.rebind_abstract(self.0.socket(self.0.box_address())?)
    }
}
