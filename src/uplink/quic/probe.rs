//! What stands between this box and its receiver, tried without a recording: the name, UDP, the size of
//! the packets, TLS, the roster, and the receiver's clock.
//!
//! UDP is tried by itself first, with a packet of a version that nobody speaks, which every QUIC server
//! answers (RFC 9000, section 6): a socket of its own hears what routers and firewalls say (ICMP), which
//! a QUIC endpoint ignores. That packet may be cut into pieces on its way, those of a handshake may not:
//! where only the first is answered, the path is too narrow.

use super::{Config, Error, client, quic_code};
use crate::clock;
use crate::media::WallClock;
use crate::uplink::identity::{self, Identity};
use crate::wire::ErrorCode;
use crate::wire::framing::{self, MessageReader};
use crate::wire::message::{Hello, Message};
use quinn::{
    Connection, ConnectionError, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
};
use rustix::io::Errno;
use rustls::pki_types::CertificateDer;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;

/// A version that is reserved for being refused (RFC 9000, section 15).
const NO_VERSION: [u8; 4] = [0x1a, 0x2a, 0x3a, 0x4a];

/// No path of QUIC carries less, in bytes of UDP payload (RFC 9000, section 14).
pub const LEAST_PAYLOAD: u16 = 1200;

/// What an Ethernet without tunnels lets through; nothing larger is tried.
pub const USUAL_PAYLOAD: u16 = 1452;

/// UDP is silent when nothing came by then: a neighbour that does not answer takes the kernel 3 s.
const UDP_PATIENCE: Duration = Duration::from_millis(3600);
/// The packet is sent again after so long.
const UDP_AGAIN: Duration = Duration::from_millis(400);
/// A handshake, and a greeting, may take so long.
const PATIENCE: Duration = Duration::from_secs(4);
/// The size of the packets is settled when it has not changed for so long, and looked at for so long.
const SETTLED: Duration = Duration::from_millis(500);
const SETTLING: Duration = Duration::from_millis(2500);

/// What was found, as far as it went.
#[derive(Debug)]
pub struct Found {
    /// The addresses of the receiver's name, or why there are none.
    pub addresses: io::Result<Vec<SocketAddr>>,
    /// The address that answered, else the one of which most was learnt, and what UDP to it met.
    pub udp: Option<(SocketAddr, Udp)>,
    /// The largest packet that the kernel knows to pass towards it, IP and UDP headers included.
    pub packet: Option<u32>,
    /// The handshake and the greeting; none without a certificate, or where UDP met nobody.
    pub session: Option<Result<Greeted, Refusal>>,
}

/// What UDP met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Udp {
    /// A QUIC server, after this time.
    Answered(Duration),
    /// The machine is there and nobody listens on the port, or a firewall says so.
    Refused,
    /// No way there.
    NoRoute(String),
    /// This machine's own firewall.
    Forbidden(String),
    /// A firewall on the way, or the receiver's.
    Rejected(String),
    /// Nothing came back.
    Silent,
}

impl Udp {
    /// How much it tells a person, of several addresses: a machine that has no IPv6, say, tells nothing of
    /// a receiver that is reached by IPv4.
    fn weight(&self) -> u8 {
        match self {
            Self::NoRoute(_) => 0,
            Self::Silent => 1,
            Self::Refused => 2,
            Self::Rejected(_) => 3,
            Self::Forbidden(_) => 4,
            Self::Answered(_) => 5,
        }
    }
}

/// A receiver that let the box in.
#[derive(Clone, Debug)]
pub struct Greeted {
    /// How long the handshake took.
    pub handshake: Duration,
    /// The smoothed round-trip time.
    pub rtt: Duration,
    /// The largest UDP payload that was found to pass.
    pub payload: u16,
    /// When the receiver's certificate ends, in seconds since 1970.
    pub ends: Option<i64>,
    /// What it said of itself; none where it keeps this box's own connection open beside this one.
    pub welcome: Option<Welcomed>,
}

/// What a receiver says of itself.
#[derive(Clone, Debug)]
pub struct Welcomed {
    /// Its program.
    pub software: String,
    /// Its clock less ours, in nanoseconds.
    pub ahead_nanos: Option<i64>,
    /// How far off its clock may be, as it says.
    pub uncertainty: Option<Duration>,
}

/// Why the receiver and the box do not come together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// UDP passes, and the handshake's packets are not answered.
    Silent,
    /// The receiver's certificate does not name the receiver.
    WrongName(String),
    /// The receiver's certificate is not from the box's authority.
    UnknownAuthority,
    /// The receiver's certificate has ended, by this box's clock.
    Expired(String),
    /// The receiver's certificate has not begun, by this box's clock.
    NotYet(String),
    /// The receiver refused, or something else went wrong.
    Ended(Error),
}

/// Tries the way to the receiver. `epoch` is what the box claims: with 0 it never displaces a running
/// box's connection.
pub async fn probe(config: &Config, identity: Option<&Identity>, epoch: u64) -> Found {
    let look_up = config.machine.look_up(config.receiver.clone());
    let addresses = match clock::within(config.patience, look_up).await {
        Some(addresses) => addresses,
        None => Err(io::ErrorKind::TimedOut.into()),
    };
    let mut found = Found {
        addresses,
        udp: None,
        packet: None,
        session: None,
    };
    let Ok(addresses) = &found.addresses else {
        return found;
    };
    for address in addresses {
        let (udp, packet) = match knock(*address).await {
            Ok(knocked) => knocked,
            Err(error) => (sent(&error), None),
        };
        let answered = matches!(udp, Udp::Answered(_));
        let before = found.udp.as_ref().map(|(_, before)| before.weight());
        if before < Some(udp.weight()) {
            (found.udp, found.packet) = (Some((*address, udp)), packet);
        }
        if answered {
            break;
        }
    }
    if let (Some(identity), Some((address, Udp::Answered(_)))) = (identity, &found.udp) {
        found.session = Some(greet(config, identity, epoch, (*address, found.packet)).await);
    }
    found
}

/// Sends packets that a QUIC server answers until it does, or an ICMP message comes.
async fn knock(far: SocketAddr) -> io::Result<(Udp, Option<u32>)> {
    let any: SocketAddr = match far {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(far).await?;
    let mut packet = vec![0; usize::from(LEAST_PAYLOAD)];
    packet[0] = 0xc0;
    packet[1..5].copy_from_slice(&NO_VERSION);
    // Two connection ids of 8 bytes.
    packet[5] = 8;
    identity::random(&mut packet[6..14])?;
    packet[14] = 8;
    let began = clock::now();
    let mut answer = [0; 64];
    let mut outcome = Udp::Silent;
    while outcome == Udp::Silent && clock::now().since(began) < UDP_PATIENCE {
        // What the network said of an earlier packet would fail the next one: taken before, it is told
        // apart from what this machine itself refuses.
        if let Some(said) = socket.take_error()?.and_then(|error| heard(&error)) {
            outcome = said;
            break;
        }
        match socket.send(&packet).await {
            Err(error) if is_too_large(&error) => {}
            sent => drop(sent?),
        }
        let until = clock::now().plus(UDP_AGAIN);
        while let Some(came) =
            clock::within(until.since(clock::now()), socket.recv(&mut answer)).await
        {
            match came {
                // What answers is a version negotiation: a long header whose version is 0.
                Ok(length) if length >= 5 && answer[0] & 0x80 != 0 && answer[1..5] == [0; 4] => {
                    outcome = Udp::Answered(clock::now().since(began));
                }
                Ok(_) => continue,
                Err(error) => match heard(&error) {
                    Some(said) => outcome = said,
                    None => continue,
                },
            }
            break;
        }
    }
    let largest = match far {
        SocketAddr::V4(_) => rustix::net::sockopt::ip_mtu(&socket),
        SocketAddr::V6(_) => rustix::net::sockopt::ipv6_mtu(&socket),
    };
    Ok((outcome, largest.ok()))
}

/// What this machine says of a packet that it does not send.
fn sent(error: &io::Error) -> Udp {
    match error.kind() {
        // Word of an earlier packet that came just now.
        io::ErrorKind::ConnectionRefused => Udp::Refused,
        io::ErrorKind::PermissionDenied => Udp::Forbidden(error.to_string()),
        _ => Udp::NoRoute(error.to_string()),
    }
}

/// A router on the way carries less. The kernel has learnt that and cuts the next packet into pieces.
fn is_too_large(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::MSGSIZE)
}

/// What the network said of a packet (ICMP), as the kernel tells it to a connected socket; none where the
/// next packet may do better. That a router knows no way the kernel keeps to itself: what comes through as
/// unreachable was prohibited.
fn heard(error: &io::Error) -> Option<Udp> {
    if is_too_large(error) {
        return None;
    }
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => Udp::Refused,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::PermissionDenied => Udp::Rejected(error.to_string()),
        // No machine is without UDP: a firewall says so.
        _ if Errno::from_io_error(error) == Some(Errno::NOPROTOOPT) => {
            Udp::Rejected(error.to_string())
        }
        _ => Udp::NoRoute(error.to_string()),
    })
}

/// Bytes of the headers of IP and UDP around a payload, at the least.
pub fn headers(far: SocketAddr) -> u32 {
    match far {
        SocketAddr::V4(_) => 28,
        SocketAddr::V6(_) => 48,
    }
}

async fn greet(
    config: &Config,
    identity: &Identity,
    epoch: u64,
    (address, packet): (SocketAddr, Option<u32>),
) -> Result<Greeted, Refusal> {
    let plain = |text: String| Refusal::Ended(Error::Plain(format!("{address}: {text}")));
    let credentials = identity.credentials().map_err(Error::from);
    let mut sizes = MtuDiscoveryConfig::default();
    // What this machine's own interface does not carry need not be tried.
    let carried =
        packet.and_then(|packet| u16::try_from(packet.saturating_sub(headers(address))).ok());
    if let Some(carried) = carried.filter(|carried| *carried < USUAL_PAYLOAD) {
        sizes.upper_bound(carried.max(LEAST_PAYLOAD));
    }
    let mut transport = TransportConfig::default();
    transport.mtu_discovery_config(Some(sizes));
    // Packets keep going, so that one of another size that is lost is noticed soon.
    transport
        .keep_alive_interval(Some(Duration::from_millis(50)))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(4000))))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .enable_segmentation_offload(config.segmentation_offload);
    let client = credentials
        .and_then(|credentials| client(credentials, &[address], transport))
        .map_err(Refusal::Ended)?;
    let endpoint = config.machine.endpoint(address);
    let endpoint = endpoint.map_err(|error| plain(error.to_string()))?;
    let began = clock::now();
    let connecting = endpoint
        .connect_with(client, address, &config.server_name)
        .map_err(|error| plain(error.to_string()))?;
    let connection = match clock::within(PATIENCE, connecting).await {
        Some(connection) => connection.map_err(refusal)?,
        None => return Err(Refusal::Silent),
    };
    let handshake = clock::now().since(began);
    let welcome = match clock::within(PATIENCE, converse(&connection, identity, epoch)).await {
        Some(welcome) => welcome?,
        None => {
            let error = Error::coded(ErrorCode::SILENT, "the receiver did not greet");
            return Err(Refusal::Ended(error));
        }
    };
    let payload = settle(&connection).await;
    let chain = connection.peer_identity();
    let chain = chain.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let greeted = Greeted {
        handshake,
        rtt: connection.rtt(),
        payload,
        ends: chain.and_then(|chain| identity::ends(chain.first()?)),
        welcome,
    };
    connection.close(quic_code(ErrorCode::DONE), b"hallcast check");
    clock::within(Duration::from_secs(1), endpoint.wait_idle()).await;
    Ok(greeted)
}

/// Says who the box is; gives what the receiver answers, or nothing where it holds a newer claim.
async fn converse(
    connection: &Connection,
    identity: &Identity,
    epoch: u64,
) -> Result<Option<Welcomed>, Refusal> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(refusal)?;
    let mut nonce = [0; 8];
    // It only has to differ from the running box's.
    let _ = identity::random(&mut nonce);
    let hello = Message::Hello(Hello {
        box_id: identity.box_id(),
        epoch,
        connection: 1,
        nonce: u64::from_le_bytes(nonce),
        software: concat!("hallcast ", env!("CARGO_PKG_VERSION"), " check").into(),
        recordings: Vec::new(),
        clock: Some(clock::wall()),
    });
    let said = framing::encode(&hello).map_err(|e| Refusal::Ended(Error::coded(e.code(), e)))?;
    let mut reader = MessageReader::new();
    let mut buffer = vec![0; 16 * 1024];
    let talk = async {
        send.write_all(&said).await.ok()?;
        loop {
            let length = receive.read(&mut buffer).await.ok()??;
            let mut input = &buffer[..length];
            while let Some(message) = reader.next(&mut input).ok()? {
                match message {
                    Message::Welcome(welcome) => return Some(Some(welcome)),
                    Message::Error(error) if error.code == ErrorCode::FENCED => return Some(None),
                    _ => {}
                }
            }
        }
    };
    match talk.await {
        Some(Some(welcome)) => Ok(Some(Welcomed {
            software: welcome.software,
            ahead_nanos: welcome
                .clock
                .map(|told| ahead(told, clock::wall(), connection.rtt())),
            uncertainty: welcome.clock.and_then(|told| told.uncertainty),
        })),
        Some(None) => Ok(None),
        // The stream ended with the connection, which says why.
        None => Err(refusal(connection.closed().await)),
    }
}

/// How far the receiver's clock was ahead of ours: its word is half a round trip old.
fn ahead(told: WallClock, ours: WallClock, rtt: Duration) -> i64 {
    let old = i64::try_from(rtt.as_nanos() / 2).unwrap_or(0);
    told.unix_nanos
        .saturating_add(old)
        .saturating_sub(ours.unix_nanos)
}

/// Waits until the transport has found how large packets may be.
async fn settle(connection: &Connection) -> u16 {
    let began = clock::now();
    let look = || {
        let path = connection.stats().path;
        (path.current_mtu, path.sent_plpmtud_probes)
    };
    let (mut last, mut since) = (look(), began);
    while clock::now().since(since) < SETTLED && clock::now().since(began) < SETTLING {
        clock::pause(Duration::from_millis(50)).await;
        let now = look();
        if now != last {
            (last, since) = (now, clock::now());
        }
    }
    last.0
}

/// What the end of a connection means.
fn refusal(error: ConnectionError) -> Refusal {
    let ConnectionError::TransportError(ours) = &error else {
        return match error {
            ConnectionError::TimedOut => Refusal::Silent,
            error => Refusal::Ended(error.into()),
        };
    };
    // Only TLS's own text tells what was wrong with the receiver's certificate.
    let text = ours.reason.clone();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["not valid for name", "NotValidForName"]) {
        Refusal::WrongName(text)
    } else if says(&["UnknownIssuer", "BadSignature"]) {
        Refusal::UnknownAuthority
    } else if says(&["expired", "Expired"]) {
        Refusal::Expired(text)
    } else if says(&["not valid yet", "NotValidYet"]) {
        Refusal::NotYet(text)
    } else {
        Refusal::Ended(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::quic::{LookUp, Machine};
    use quinn::Endpoint;

    /// A machine whose every name has these addresses.
    #[derive(Debug)]
    struct Names(Vec<SocketAddr>);

    impl Machine for Names {
        fn look_up(&self, _: String) -> LookUp {
            let addresses = self.0.clone();
            Box::pin(async { Ok(addresses) })
        }

        fn endpoint(&self, _: SocketAddr) -> io::Result<Endpoint> {
            unreachable!("no address answers")
        }

        fn random(&self, _: &mut [u8]) -> io::Result<()> {
            unreachable!("no address answers")
        }
    }

    #[test]
    fn what_the_network_says_is_told_apart() {
        let refused = |errno: Errno| sent(&errno.into());
        assert!(matches!(refused(Errno::PERM), Udp::Forbidden(_)));
        assert!(matches!(refused(Errno::NETUNREACH), Udp::NoRoute(_)));
        assert!(matches!(refused(Errno::HOSTUNREACH), Udp::NoRoute(_)));
        let said = |errno: Errno| heard(&errno.into());
        assert_eq!(said(Errno::CONNREFUSED), Some(Udp::Refused));
        assert_eq!(said(Errno::MSGSIZE), None, "learnt, and tried again");
        // Prohibited: the host and anything, the network; over IPv6 anything; and the protocol.
        for errno in [
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::ACCESS,
            Errno::NOPROTOOPT,
        ] {
            assert!(matches!(said(errno), Some(Udp::Rejected(_))), "{errno}");
        }
    }

    #[test]
    fn a_word_on_the_time_is_half_a_round_trip_old() {
        let at = |unix_nanos| WallClock {
            unix_nanos,
            uncertainty: None,
        };
        let rtt = Duration::from_nanos(40);
        assert_eq!(ahead(at(1000), at(1020), rtt), 0);
        assert_eq!(ahead(at(2000), at(1020), rtt), 1000);
    }

    #[tokio::test]
    async fn of_several_addresses_the_most_telling_is_told() {
        let free = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let refused = free.local_addr().unwrap();
        drop(free);
        // Where an interface has to be named, there is no way without one.
        let nowhere: SocketAddr = "[fe80::1]:1".parse().unwrap();
        for addresses in [[refused, nowhere], [nowhere, refused]] {
            let mut config = Config::new("hall.example:1");
            config.machine = std::sync::Arc::new(Names(addresses.into()));
            let found = probe(&config, None, 0).await;
            assert_eq!(found.udp, Some((refused, Udp::Refused)));
        }
    }

    #[tokio::test]
    async fn a_port_without_a_listener_is_refused_and_a_mute_one_is_silent() {
        let mute = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let far = mute.local_addr().unwrap();
        assert_eq!(knock(far).await.unwrap().0, Udp::Silent);
        drop(mute);
        assert_eq!(knock(far).await.unwrap().0, Udp::Refused);
    }
}
