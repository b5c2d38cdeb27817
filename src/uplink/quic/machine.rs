//! What the driver takes from the machine it runs on: sockets, names, random numbers, and word of a
//! network that changes.

use crate::uplink::{identity, network};
use quinn::Endpoint;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use tokio::sync::watch;

/// What the driver takes from the machine it runs on; a simulation has its own.
pub trait Machine: Debug + Send + Sync {
    /// The addresses behind `host:port`.
    fn look_up(&self, receiver: String) -> LookUp;

    /// An endpoint on a socket of its own that can reach `far`.
    fn endpoint(&self, far: SocketAddr) -> io::Result<Endpoint>;

    /// Fills `bytes` with random numbers.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;

    /// Sees a change when an interface, an address or a route changed; never does without a sender.
    fn changes(&self) -> watch::Receiver<()> {
        watch::channel(()).1
    }

    /// The address from which `far` is reached now; none when it cannot be.
    fn source(&self, far: SocketAddr) -> Option<IpAddr> {
        let _ = far;
        None
    }

    /// Gives the endpoint another socket that can reach `far`.
    fn rebind(&self, endpoint: &Endpoint, far: SocketAddr) -> io::Result<()> {
        let _ = (endpoint, far);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A name being looked up.
pub type LookUp = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// The operating system.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Machine for System {
    fn look_up(&self, receiver: String) -> LookUp {
        Box::pin(async { Ok(tokio::net::lookup_host(receiver).await?.collect()) })
    }

    fn endpoint(&self, far: SocketAddr) -> io::Result<Endpoint> {
        Endpoint::client(any(far))
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        identity::random(bytes)
    }

    fn changes(&self) -> watch::Receiver<()> {
        network::watch()
    }

    fn source(&self, far: SocketAddr) -> Option<IpAddr> {
        network::source_towards(far)
    }

    fn rebind(&self, endpoint: &Endpoint, far: SocketAddr) -> io::Result<()> {
        endpoint.rebind(UdpSocket::bind(any(far))?)
    }
}

/// Any local address of the family of `far`.
fn any(far: SocketAddr) -> SocketAddr {
    match far {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
