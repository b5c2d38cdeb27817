//! Changes of the machine's network, and what they mean for the connection.
//!
//! [`watch`] tells that an interface, an address or a route changed (Linux, rtnetlink); [`Path`] is
//! pure and decides: whether the socket is to be exchanged, and when a connection that says nothing is
//! given up long before QUIC's idle timeout.

use crate::clock;
use crate::media::Monotonic;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use tokio::net::UnixDatagram;
use tokio::sync::watch;

/// Multicast groups of rtnetlink(7): links, IPv4 addresses and routes, IPv6 addresses and routes.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

const NOBUFS: i32 = rustix::io::Errno::NOBUFS.raw_os_error();

/// One change is many messages: they are told as one.
const BURST: Duration = Duration::from_millis(50);

/// A connection that owes an answer for so long is dead, or for this many round trips if that is more.
const SILENCE: Duration = Duration::from_secs(2);
const SILENT_ROUND_TRIPS: u32 = 6;

/// After a change of the network the old connection has so long to answer over the new path.
const TRIAL: Duration = Duration::from_millis(600);
const TRIAL_ROUND_TRIPS: u32 = 3;

/// An answer that is due for so long makes any change a reason to look closer.
const DOUBT: Duration = Duration::from_millis(250);

/// How often a connection is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// A receiver that sees a change when the machine's network changes; it stays silent where the kernel
/// does not tell. Call it within a runtime.
pub(super) fn watch() -> watch::Receiver<()> {
    let (tell, changes) = watch::channel(());
    match listen() {
        Ok(socket) => drop(tokio::spawn(hear(socket, tell))),
        Err(error) => log::warn!(
            "changes of the network are not seen ({error}): reconnecting after one takes longer; \
             the service may lack AF_NETLINK in RestrictAddressFamilies="
        ),
    }
    changes
}

/// The socket, as the type of tokio's that receives datagrams from any socket without an address.
fn listen() -> io::Result<UnixDatagram> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    UnixDatagram::from_std(socket.into())
}

async fn hear(socket: UnixDatagram, tell: watch::Sender<()>) {
    // What changed does not matter: whether the receiver can be reached, and from where, is asked anew.
    let mut message = vec![0; 8192];
    loop {
        tokio::select! {
            heard = socket.recv(&mut message) => match heard {
                Ok(_) => {}
                // More changes than fit: those are changes too.
                Err(error) if error.raw_os_error() == Some(NOBUFS) => {}
                Err(error) => return log::error!("changes of the network: {error}"),
            },
            () = tell.closed() => return,
        }
        clock::pause(BURST).await;
        while socket.try_recv(&mut message).is_ok() {}
        tell.send_replace(());
    }
}

/// The address from which this machine would send to `far`; none without a route. Sends nothing.
pub(super) fn source_towards(far: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match far {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(far).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// What the connection has sent and received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Frames sent that the peer has to acknowledge.
    pub sent: u64,
    /// Datagrams received.
    pub received: u64,
}

/// One connection's path.
#[derive(Clone, Debug)]
pub(super) struct Path {
    /// From where the receiver is reached; none when it cannot be.
    source: Option<IpAddr>,
    seen: Traffic,
    /// Since when an answer is due.
    owed: Option<Monotonic>,
    /// Until when an answer has to come after the network changed.
    trial: Option<Monotonic>,
}

impl Path {
    /// A connection that was just made from `source`.
    pub fn new(source: Option<IpAddr>, traffic: Traffic) -> Self {
        Self {
            source,
            seen: traffic,
            owed: None,
            trial: None,
        }
    }

    /// Takes the counters in; true when the connection is to be given up.
    pub fn look(&mut self, now: Monotonic, traffic: Traffic, rtt: Duration) -> bool {
        if traffic.received != self.seen.received {
            (self.owed, self.trial) = (None, None);
            self.seen = traffic;
        } else if traffic.sent != self.seen.sent {
            self.owed.get_or_insert(now);
        }
        let silence = SILENCE.max(rtt * SILENT_ROUND_TRIPS);
        self.owed.is_some_and(|since| now.since(since) >= silence)
            || self.trial.is_some_and(|until| now >= until)
    }

    /// The network changed, and the receiver is now reached from `source`. True when the connection
    /// needs another socket, over which it then has to answer soon.
    pub fn changed(&mut self, now: Monotonic, source: Option<IpAddr>, rtt: Duration) -> bool {
        let before = std::mem::replace(&mut self.source, source);
        let doubtful = self.owed.is_some_and(|since| now.since(since) >= DOUBT);
        if source.is_none() || (source == before && !doubtful) {
            return false;
        }
        self.trial = Some(now.plus(TRIAL.max(rtt * TRIAL_ROUND_TRIPS)));
        true
    }

    /// When to look next.
    pub fn next_look(&self, now: Monotonic) -> Monotonic {
        let next = now.plus(LOOK);
        self.trial.map_or(next, |until| until.min(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);
    const HOME: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
    const ELSEWHERE: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 2)));

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_nanos(ms * 1_000_000)
    }

    fn traffic(sent: u64, received: u64) -> Traffic {
        Traffic { sent, received }
    }

    #[test]
    fn a_connection_that_owes_an_answer_is_given_up_and_no_other() {
        // Time, sent, received, round trip, given up.
        type Look = (u64, u64, u64, u64, bool);
        let cases: [(&str, &[Look]); 5] = [
            (
                "busy",
                &[(500, 10, 9, 40, false), (1000, 20, 19, 40, false)],
            ),
            (
                "idle: nothing is owed",
                &[(500, 0, 0, 40, false), (9000, 0, 0, 40, false)],
            ),
            (
                "a receiver that is gone",
                &[
                    (500, 10, 5, 40, false),
                    (1000, 20, 5, 40, false),
                    (2500, 30, 5, 40, false),
                    (3000, 31, 5, 40, true),
                ],
            ),
            (
                "a long way",
                &[
                    (500, 10, 0, 900, false),
                    (5500, 11, 0, 900, false),
                    (5900, 11, 0, 900, true),
                ],
            ),
            (
                "an answer at the last moment",
                &[
                    (500, 10, 0, 40, false),
                    (2400, 20, 1, 40, false),
                    (4300, 30, 1, 40, false),
                ],
            ),
        ];
        for (name, looks) in cases {
            let mut path = Path::new(HOME, Traffic::default());
            for (ms, sent, received, rtt, dead) in looks {
                let rtt = Duration::from_millis(*rtt);
                let given_up = path.look(at(*ms), traffic(*sent, *received), rtt);
                assert_eq!(given_up, *dead, "{name} at {ms}");
            }
        }
    }

    #[test]
    fn a_change_matters_when_the_way_to_the_receiver_is_another() {
        let mut path = Path::new(HOME, Traffic::default());
        assert!(!path.changed(at(0), HOME, RTT), "something else changed");
        assert!(!path.changed(at(100), None, RTT), "nothing can be done yet");
        assert!(path.changed(at(200), HOME, RTT), "it is back");
        assert_eq!(path.next_look(at(300)), at(800), "before the trial ends");
        assert!(!path.look(at(799), traffic(5, 0), RTT));
        assert!(path.look(at(800), traffic(6, 0), RTT), "no answer");

        let mut path = Path::new(HOME, Traffic::default());
        assert!(path.changed(at(0), ELSEWHERE, RTT));
        assert!(!path.look(at(500), traffic(5, 1), RTT), "it answers");
        assert!(!path.look(at(1000), traffic(9, 5), RTT));
        assert!(!path.changed(at(1100), ELSEWHERE, RTT));
        // The address is the same, but an answer is due: the way itself may be another.
        assert!(!path.look(at(1500), traffic(12, 5), RTT));
        assert!(path.changed(at(1800), ELSEWHERE, RTT));
        // A long way has longer to answer.
        let (mut path, long) = (Path::new(HOME, Traffic::default()), RTT * 10);
        assert!(path.changed(at(0), ELSEWHERE, long));
        assert!(!path.look(at(1199), traffic(1, 0), long));
        assert!(path.look(at(1200), traffic(1, 0), long));
    }

    #[test]
    fn the_way_to_this_machine_is_known() {
        let far = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        assert_eq!(source_towards(far), Some(Ipv4Addr::LOCALHOST.into()));
    }
}
