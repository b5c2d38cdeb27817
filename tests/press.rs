//! From the press to the first durable chunk, with everything missing that a box can do without.
//!
//! In the rig's guest: its clock, its resolver and its network are the test's to break.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]
#![cfg(all(feature = "software", feature = "receiver"))]

mod support;

use hallcast::clock;
use hallcast::station::{Reply, Request, ask};
use hallcast::wire::ALPN;
use quinn::crypto::rustls::QuicServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use support::chance::{Excuses, Stalls, quantiles};
use support::programs::{
    CaptureBox, Receiver, alone, enroll, outcome, pause, run, small_bench, soak, wait_until,
};
use support::rig;

/// The receiver's address.
const HERE: &str = "127.0.0.2";
/// From the press to the first durable chunk.
const PROMISE: Duration = Duration::from_secs(1);

/// A receiver as far as TLS can tell, which then never says a word. Gives its address.
fn mute(state: &Path) -> SocketAddr {
    let pem = |name: &str| fs::read(state.join(name)).unwrap();
    let chain: Vec<_> = ["server.pem", "ca.pem"]
        .map(|name| CertificateDer::from_pem_slice(&pem(name)).unwrap())
        .into();
    let key = PrivateKeyDer::from_pem_slice(&pem("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let config =
        quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let socket = UdpSocket::bind((HERE, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let ours = quinn::default_runtime().unwrap();
            let endpoint =
                quinn::Endpoint::new(quinn::EndpointConfig::default(), Some(config), socket, ours);
            let endpoint = endpoint.unwrap();
            let mut held = Vec::new();
            while let Some(incoming) = endpoint.accept().await {
                if let Ok(connection) = incoming.await {
                    held.push(connection);
                }
            }
        });
    });
    address
}

/// A name server that swallows every question. Gives the socket, which must live as long.
fn black_hole(home: &Path) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    let file = home.join("resolv.conf");
    fs::write(
        &file,
        "nameserver 127.0.0.1\noptions timeout:5 attempts:5\n",
    )
    .unwrap();
    // Where it is a link, its end may lie in /run, which is the guest's own and empty; where there is no
    // such file at all, the resolver asks this machine anyway.
    if let Ok(place) = fs::canonicalize("/etc/resolv.conf") {
        run(
            "mount",
            &["--bind", file.to_str().unwrap(), place.to_str().unwrap()],
        );
    }
    let name = "receiver.example.org";
    let asked = thread::spawn(move || outcome("getent", &["hosts", name]));
    let mut question = [0; 512];
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let length = socket
        .recv(&mut question)
        .expect("the resolver asks the black hole");
    assert!(length > 0);
    drop(asked);
    socket
}

/// Presses the button `times` times; gives each time from before the press to after the first chunk is
/// durable (the box then says `recording`), with the time in it that the machine stood still.
fn presses(capture_box: &CaptureBox, times: u64, stalls: &Stalls) -> Vec<(Duration, Duration)> {
    let socket = capture_box.home.join("control");
    let state = || match ask(&socket, &Request::Status).unwrap() {
        Reply::Status(status) => status.state,
        other => panic!("{other:?}"),
    };
    let once = |_| {
        let pressed = clock::now();
        let answer = ask(&socket, &Request::Press).unwrap();
        assert!(matches!(answer, Reply::Done { .. }), "{answer:?}");
        while state() != "recording" {
            assert!(clock::now().since(pressed) < Duration::from_secs(20));
            clock::sleep(Duration::from_millis(2));
        }
        let durable = clock::now();
        let answer = ask(&socket, &Request::Stop).unwrap();
        assert!(matches!(answer, Reply::Done { .. }), "{answer:?}");
        // Beyond the lock-out, and not always at the same phase of anything.
        clock::sleep(Duration::from_millis(300 + durable.as_nanos() % 100));
        (durable.since(pressed), stalls.between(pressed, durable))
    };
    (0..times).map(once).collect()
}

/// Prints and judges the presses of one case; adds their times to `all`.
fn judge(case: &str, presses: &[(Duration, Duration)], all: &mut Vec<Duration>) {
    let times: Vec<Duration> = presses.iter().map(|(time, _)| *time).collect();
    let stalled = presses.iter().filter(|(_, stood)| !stood.is_zero()).count();
    let mut excuses = Excuses::among(presses.len() as u64);
    for (time, stood) in presses {
        excuses.judge(case, *time, PROMISE, *stood);
    }
    println!(
        "press to durable, {case}: {}; the machine stood still in {stalled}; {excuses}",
        quantiles(&times)
    );
    all.extend(times);
}

/// A box below `home` that believes to have a receiver at `address`.
fn start(home: &Path, name: &str, authority: &Receiver, address: &str) -> CaptureBox {
    enroll(&home.join(name).join("state"), authority, name);
    let board = small_bench(home);
    CaptureBox::start(
        home,
        name,
        None,
        &["--board", &board, "--receiver", address],
    )
}

fn in_the_guest() {
    let home = tempfile::tempdir_in("/run").unwrap();
    // Not a development authority: a box with one would not even try an address off loopback.
    let receiver = Receiver::start_at(home.path(), HERE);
    let times = soak(40, 200);
    let mut all = Vec::new();
    let stalls = Stalls::watch();
    let _swallows = black_hole(home.path());
    let silent = mute(&receiver.home.join("state")).to_string();
    // The guest has no interface but its loopback, so nothing leads to the first of them.
    let cases = [
        (
            "no network",
            start(home.path(), "alone", &receiver, "192.0.2.1:4433"),
        ),
        (
            "a receiver that never answers",
            start(home.path(), "unanswered", &receiver, &silent),
        ),
        (
            "a name server that swallows",
            start(
                home.path(),
                "nameless",
                &receiver,
                "receiver.example.org:4433",
            ),
        ),
    ];
    // Side by side, as a hall full of boxes would be.
    thread::scope(|scope| {
        let running: Vec<_> = cases
            .iter()
            .map(|(case, capture_box)| {
                scope.spawn(|| (*case, presses(capture_box, times, &stalls)))
            })
            .collect();
        for one in running {
            let (case, found) = one.join().unwrap();
            judge(case, &found, &mut all);
        }
    });
    for (case, capture_box) in &cases {
        let status = capture_box.status();
        println!("{case}: {}", status["uplink"]["error"]);
        assert_eq!(status["uplink"]["connected"], false, "{case}");
    }
    drop(cases);

    run("date", &["-s", "@60"]);
    let early = CaptureBox::start(
        home.path(),
        "early",
        Some(&receiver),
        &["--board", &small_bench(home.path())],
    );
    wait_until(20, "the connection in 1970", || {
        early.status()["uplink"]["connected"] == true
    });
    let found = presses(&early, times, &stalls);
    judge("the clock at 1970", &found, &mut all);
    println!("press to durable, all cases: {}", quantiles(&all));
    let recording = early.record();
    pause(3);
    assert_eq!(early.stop(), recording);
    receiver.wait_complete(&recording, 20);
    let kept = fs::read_dir(receiver.home.join("store/recordings"))
        .unwrap()
        .count();
    assert!(
        clock::wall().unix_nanos < 3600 * 1_000_000_000,
        "still 1970"
    );
    println!("in 1970 {kept} recordings went to the receiver");
    assert_eq!(kept as u64, times + 1);
    let (stood, longest) = stalls.summary();
    println!("a bare sleep loop overslept by 20 ms or more {stood} times, at most by {longest:?}");
}

#[test]
fn a_press_is_durable_within_a_second_whatever_else_is_missing() {
    let name = "a_press_is_durable_within_a_second_whatever_else_is_missing";
    if rig::inside().is_some() {
        return in_the_guest();
    }
    let _alone = alone();
    let results = tempfile::Builder::new()
        .prefix("hallcast")
        .tempdir_in("/tmp")
        .unwrap();
    rig::ran_in_the_guest(name, 300 + soak(0, 1200), results.path());
}
