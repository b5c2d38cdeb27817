//! The driver against a small receiver over real sockets on loopback.
//!
//! Longer than most files: the small receiver and what it is told stand together.

use super::*;
use crate::media::{Hash, RecordingId, SegmentKey, TrackId, TrackKind};
use crate::wire::message::{
    Durable, HeldRecording, HeldTrack, Limits, Received, SegmentHash, Welcome,
};
use crate::wire::stream::{self, Finished, StreamEvent, StreamReader};
use crate::wire::{ALPN, DEVELOPMENT_CA, Sequences};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyPair, PKCS_ED25519,
};
use rustls::RootCertStore;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::WebPkiClientVerifier;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

const RECORDING: RecordingId = RecordingId([0x11; 16]);
const INIT: &[u8] = b"ftyp moov";
const DAMAGED_INIT: Hash = Hash([0xdd; 32]);

fn key(track: u8, sequence: u64) -> SegmentKey {
    SegmentKey {
        recording: RECORDING,
        track: TrackId(track),
        sequence,
    }
}

/// The bytes of a segment: any that differ from one to the next.
fn content(key: SegmentKey, length: u64) -> Vec<u8> {
    let byte = |at: u64| (at * 31 + key.sequence * 7 + u64::from(key.track.0)) as u8;
    (0..length).map(byte).collect()
}

struct Spool;

impl Source for Spool {
    fn segment(&self, key: SegmentKey, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        if key.track == TrackId(9) {
            return Err(io::Error::other("damaged"));
        }
        let end = offset + u64::from(length);
        Ok(content(key, end).split_off(offset as usize))
    }

    fn init(&self, hash: &Hash) -> io::Result<Vec<u8>> {
        if *hash == DAMAGED_INIT {
            return Err(io::ErrorKind::InvalidData.into());
        }
        assert_eq!(*hash, stream::hash(INIT));
        Ok(INIT.to_vec())
    }
}

/// An authority, the certificate it gives a receiver, and its signature for a box.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(organisation: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, organisation);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    fn identity(&self, directory: &std::path::Path) -> Identity {
        let identity = Identity::open(directory).unwrap();
        let request = identity.certificate_request(None).unwrap();
        let request = CertificateSigningRequestParams::from_pem(&request).unwrap();
        let certificate = request.signed_by(&self.issuer).unwrap().pem();
        identity
            .install(&format!("{certificate}{}", self.pem))
            .unwrap();
        identity
    }

    fn server(&self) -> Endpoint {
        use rustls::pki_types::pem::PemObject;
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let authority =
            rustls::pki_types::CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        Endpoint::server(server, (Ipv4Addr::LOCALHOST, 0).into()).unwrap()
    }
}

/// What one connection of the small receiver brought.
#[derive(Default)]
struct Held {
    segments: BTreeMap<SegmentKey, Vec<u8>>,
    durable: BTreeMap<TrackId, Sequences>,
    inits: BTreeSet<Hash>,
    epochs: Vec<(u64, u64)>,
}

impl Held {
    fn hashes_of(&self, track: TrackId) -> Vec<SegmentHash> {
        let of_track = self.segments.iter().filter(|(key, _)| key.track == track);
        let hash = |(key, bytes): (&SegmentKey, &Vec<u8>)| SegmentHash {
            sequence: key.sequence,
            hash: stream::hash(bytes),
        };
        of_track.map(hash).collect()
    }
}

/// Serves one connection; closes it with `SHUTTING_DOWN` once `leave_after` segments are whole.
async fn serve(endpoint: &Endpoint, held: &mut Held, leave_after: usize) {
    let connection = endpoint.accept().await.unwrap().await.unwrap();
    let (replies, mut control) = connection.accept_bi().await.unwrap();
    let mut replies = Control::new(replies);
    let mut reader = MessageReader::new();
    let hello = loop {
        let piece = control.read_chunk(4096, true).await.unwrap().unwrap();
        if let Some(Message::Hello(hello)) = reader.next(&mut piece.bytes.as_ref()).unwrap() {
            break hello;
        }
    };
    held.epochs.push((hello.epoch, hello.connection));
    let tracks = held.durable.iter().map(|(track, durable)| HeldTrack {
        track: *track,
        durable: durable.clone(),
        hashes: held.hashes_of(*track),
    });
    let recordings = hello.recordings.iter().map(|open| HeldRecording {
        recording: open.recording,
        tracks: tracks.clone().collect(),
    });
    let welcome = Message::Welcome(Welcome {
        recordings: recordings.collect(),
        complete: vec![],
        clock: None,
        limits: Limits::default(),
        software: "test".into(),
        erased: vec![],
        abridged: false,
    });
    replies.say(&welcome).await.unwrap();
    // All streams at once: the box leaves a stream waiting while others hold what it may have on its way.
    let (give, mut pieces) = mpsc::channel(64);
    let accepting = connection.clone();
    let mut readers = JoinSet::new();
    readers.spawn(async move {
        let mut readers = JoinSet::new();
        let mut number = 0u64;
        while let Ok(mut incoming) = accepting.accept_uni().await {
            let give = give.clone();
            number += 1;
            readers.spawn(async move {
                while let Ok(Some(piece)) = incoming.read_chunk(65536, true).await {
                    let _ = give.send((number, Some(piece.bytes))).await;
                }
                let _ = give.send((number, None)).await;
            });
        }
    });
    let mut whole = 0;
    let mut streams: BTreeMap<u64, Stream> = BTreeMap::new();
    while let Some((number, piece)) = pieces.recv().await {
        if let Some(piece) = piece {
            let stream = streams.entry(number).or_default();
            let (mut input, reader) = (piece.as_ref(), &mut stream.reader);
            while let Some(event) = reader.next(&mut input).unwrap() {
                match event {
                    StreamEvent::Header(header) if header.init == Some(DAMAGED_INIT) => {
                        // Whatever else happens on this stream is over with its connection.
                        let missing = Message::Error(crate::wire::message::ErrorMessage {
                            code: ErrorCode::INIT_MISSING,
                            text: String::new(),
                            key: Some(header.key),
                            epoch: None,
                        });
                        clock::pause(Duration::from_millis(50)).await;
                        replies.say(&missing).await.unwrap();
                        stream.name = Some(header);
                    }
                    StreamEvent::Header(header) => stream.name = Some(header),
                    StreamEvent::ChunkBytes(piece) => stream.bytes.extend_from_slice(piece),
                    StreamEvent::ChunkStart(_) => {}
                    StreamEvent::ChunkEnd => {
                        let key = stream.name.unwrap().key;
                        let offset = stream.bytes.len() as u64;
                        let received = Message::Received(Received { key, offset });
                        replies.say(&received).await.unwrap();
                    }
                }
            }
            continue;
        }
        let Some(stream) = streams.remove(&number) else {
            continue;
        };
        match stream.reader.finish() {
            Ok(Finished::Init { hash, .. }) => {
                held.inits.insert(hash);
            }
            Ok(Finished::Segment { .. }) => {
                let key = stream.name.unwrap().key;
                held.segments.insert(key, stream.bytes);
                let durable = held.durable.entry(key.track).or_default();
                durable.insert(key.sequence);
                whole += 1;
                if whole == leave_after {
                    connection.close(quic_code(ErrorCode::SHUTTING_DOWN), b"restarting");
                    return;
                }
                let durable = Message::Durable(Durable {
                    recording: RECORDING,
                    track: key.track,
                    durable: durable.clone(),
                    hashes: held.hashes_of(key.track),
                });
                replies.say(&durable).await.unwrap();
            }
            Err(_) => {}
        }
    }
}

/// A stream that comes in.
#[derive(Default)]
struct Stream {
    reader: StreamReader,
    name: Option<stream::SegmentHeader>,
    bytes: Vec<u8>,
}

struct Bench {
    _home: tempfile::TempDir,
    offers: mpsc::Sender<Offer>,
    reports: mpsc::Receiver<Report>,
    stats: Arc<Stats>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

fn start(authority: &Authority, receiver: String) -> Bench {
    start_with(
        authority,
        Config {
            retry: (Duration::from_millis(10), Duration::from_millis(100)),
            patience: Duration::from_secs(5),
            ..Config::new(&receiver)
        },
    )
}

fn start_with(authority: &Authority, config: Config) -> Bench {
    let home = tempfile::tempdir().unwrap();
    let identity = authority.identity(home.path());
    let epoch = identity.raise_epoch().unwrap();
    let (offers, take_offers) = mpsc::channel(16);
    let (give_reports, reports) = mpsc::channel(16);
    let (stop, stopped) = watch::channel(false);
    let stats = Arc::new(Stats::default());
    let uplink = Uplink {
        config: Config {
            server_name: "localhost".into(),
            ..config
        },
        identity,
        epoch,
        source: Arc::new(Spool),
        stats: stats.clone(),
    };
    let task = tokio::spawn(uplink.run(take_offers, give_reports, stopped));
    Bench {
        _home: home,
        offers,
        reports,
        stats,
        stop,
        task,
    }
}

impl Bench {
    async fn offer_segment(&self, key: SegmentKey, chunks: &[u32], live: bool) {
        let mut offset = 0;
        for &length in chunks {
            let chunk = Offer::Chunk {
                key,
                kind: TrackKind::Video,
                init: Some(stream::hash(INIT)),
                offset,
                length,
                live,
            };
            self.offers.send(chunk).await.unwrap();
            offset += u64::from(length);
        }
        let hash = stream::hash(&content(key, offset));
        let sealed = Offer::Sealed {
            key,
            length: offset,
            hash,
        };
        self.offers.send(sealed).await.unwrap();
    }

    async fn until(&mut self, wanted: impl Fn(&Report) -> bool) -> Report {
        let seen = clock::within(Duration::from_secs(30), async {
            loop {
                let report = self.reports.recv().await.unwrap();
                if wanted(&report) {
                    return report;
                }
            }
        });
        seen.await.expect("the report comes in time")
    }

    async fn end(self) {
        self.stop.send(true).unwrap();
        clock::within(Duration::from_secs(10), self.task)
            .await
            .expect("the uplink ends when told")
            .unwrap();
    }
}

fn all_durable(below: u64) -> impl Fn(&Report) -> bool {
    move |report| matches!(report, Report::Durable { durable, .. } if durable.cumulative() == below)
}

#[tokio::test]
async fn segments_arrive_whole_and_are_reported_durable() {
    let authority = Authority::new(DEVELOPMENT_CA);
    let endpoint = authority.server();
    let mut bench = start(&authority, endpoint.local_addr().unwrap().to_string());
    bench.offers.send(Offer::Ready).await.unwrap();
    let server = tokio::spawn(async move {
        let mut held = Held::default();
        serve(&endpoint, &mut held, usize::MAX).await;
        held
    });
    for sequence in 0..5 {
        let chunks = [400_000, 1, 70_000];
        bench
            .offer_segment(key(1, sequence), &chunks, sequence > 2)
            .await;
    }
    bench.until(all_durable(5)).await;
    let stats = bench.stats.snapshot();
    assert!(stats.connected && stats.bytes_sent > 5 * 470_001 && stats.bytes_again == 0);
    bench.end().await;
    let held = server.await.unwrap();
    assert_eq!(held.inits.len(), 1);
    for (key, bytes) in &held.segments {
        assert!(*bytes == content(*key, 470_001), "{key}");
    }
    assert_eq!(held.segments.len(), 5);
}

#[tokio::test]
async fn a_receiver_that_restarts_gets_the_rest_on_the_next_connection() {
    let authority = Authority::new(DEVELOPMENT_CA);
    let endpoint = authority.server();
    let mut bench = start(&authority, endpoint.local_addr().unwrap().to_string());
    for sequence in 0..6 {
        bench
            .offer_segment(key(1, sequence), &[200_000], false)
            .await;
    }
    bench.offers.send(Offer::Ready).await.unwrap();
    let server = tokio::spawn(async move {
        let mut held = Held::default();
        serve(&endpoint, &mut held, 2).await;
        serve(&endpoint, &mut held, usize::MAX).await;
        held
    });
    let gone = |report: &Report| matches!(report, Report::Disconnected { .. });
    let Report::Disconnected { code, .. } = bench.until(gone).await else {
        panic!("another report");
    };
    assert_eq!(code, Some(ErrorCode::SHUTTING_DOWN));
    bench.until(all_durable(6)).await;
    assert_eq!(bench.stats.snapshot().reconnects, 1);
    bench.end().await;
    let held = server.await.unwrap();
    let epoch = held.epochs[0].0;
    assert_eq!(held.epochs, [(epoch, 1), (epoch, 2)]);
    for sequence in 0..6 {
        assert!(held.segments[&key(1, sequence)] == content(key(1, sequence), 200_000));
    }
}

#[tokio::test]
async fn a_refusal_is_reported_with_its_code() {
    let authority = Authority::new(DEVELOPMENT_CA);
    let endpoint = authority.server();
    let mut bench = start(&authority, endpoint.local_addr().unwrap().to_string());
    bench.offers.send(Offer::Ready).await.unwrap();
    let server = tokio::spawn(async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        connection.close(quic_code(ErrorCode::UNKNOWN_BOX), b"not in the roster");
        connection.closed().await;
        endpoint.wait_idle().await;
    });
    let report = bench.until(|_| true).await;
    let Report::Disconnected { code, text } = report else {
        panic!("{report:?}");
    };
    assert_eq!(code, Some(ErrorCode::UNKNOWN_BOX));
    assert!(
        text.contains("unknown-box (32): not in the roster. Enrol the box"),
        "{text}"
    );
    bench.end().await;
    server.await.unwrap();
}

#[tokio::test]
async fn a_receiver_of_another_authority_is_refused_by_the_box() {
    let endpoint = Authority::new("Elsewhere").server();
    let address = endpoint.local_addr().unwrap().to_string();
    let mut bench = start(&Authority::new("A university"), address);
    bench.offers.send(Offer::Ready).await.unwrap();
    let server =
        tokio::spawn(async move { while endpoint.accept().await.unwrap().await.is_ok() {} });
    let Report::Disconnected { code, .. } = bench.until(|_| true).await else {
        panic!("another report");
    };
    assert_eq!(code, Some(ErrorCode::CERTIFICATE));
    bench.end().await;
    server.abort();
}

#[tokio::test]
async fn the_development_authority_is_refused_off_loopback() {
    // An address of documentation (RFC 5737): nothing is ever sent to it.
    let receiver = "192.0.2.1:4433".to_owned();
    let mut bench = start(&Authority::new(DEVELOPMENT_CA), receiver);
    bench.offers.send(Offer::Ready).await.unwrap();
    let Report::Disconnected { code, .. } = bench.until(|_| true).await else {
        panic!("another report");
    };
    assert_eq!(code, Some(ErrorCode::DEVELOPMENT_CA));
    bench.end().await;
}

#[tokio::test]
async fn a_segment_that_cannot_be_read_holds_no_other_up() {
    let authority = Authority::new(DEVELOPMENT_CA);
    let endpoint = authority.server();
    let mut bench = start(&authority, endpoint.local_addr().unwrap().to_string());
    bench.offer_segment(key(9, 0), &[100], false).await;
    bench.offer_segment(key(1, 0), &[100], false).await;
    bench.offers.send(Offer::Ready).await.unwrap();
    let server = tokio::spawn(async move {
        let mut held = Held::default();
        serve(&endpoint, &mut held, usize::MAX).await;
    });
    let unreadable = |report: &Report| matches!(report, Report::Unreadable { key, .. } if key.track == TrackId(9));
    bench.until(unreadable).await;
    bench.until(all_durable(1)).await;
    bench.end().await;
    server.await.unwrap();
}

#[tokio::test]
async fn an_init_that_cannot_be_read_is_told_of_each_segment_that_misses_it() {
    let authority = Authority::new(DEVELOPMENT_CA);
    let endpoint = authority.server();
    let mut bench = start(&authority, endpoint.local_addr().unwrap().to_string());
    let chunk = Offer::Chunk {
        key: key(1, 0),
        kind: TrackKind::Video,
        init: Some(DAMAGED_INIT),
        offset: 0,
        length: 100,
        live: false,
    };
    bench.offers.send(chunk).await.unwrap();
    bench.offers.send(Offer::Ready).await.unwrap();
    let server = tokio::spawn(async move {
        serve(&endpoint, &mut Held::default(), usize::MAX).await;
    });
    for _ in 0..2 {
        let wanted = |report: &Report| matches!(report, Report::Unreadable { .. });
        let Report::Unreadable {
            key: of, damaged, ..
        } = bench.until(wanted).await
        else {
            panic!("another report");
        };
        assert_eq!((of, damaged), (key(1, 0), true));
    }
    bench.end().await;
    server.abort();
}

#[tokio::test]
async fn a_station_that_takes_no_reports_can_still_offer() {
    let authority = Authority::new(DEVELOPMENT_CA);
    let endpoint = authority.server();
    let mut bench = start(&authority, endpoint.local_addr().unwrap().to_string());
    bench.offers.send(Offer::Ready).await.unwrap();
    let server = tokio::spawn(async move {
        let mut held = Held::default();
        serve(&endpoint, &mut held, usize::MAX).await;
    });
    // Two tracks in turn, so that reports cannot merge: more than the channel of 16 takes.
    let offering = async {
        for sequence in 0..60 {
            bench.offer_segment(key(1, sequence), &[10], true).await;
            bench.offer_segment(key(2, sequence), &[10], true).await;
            clock::pause(Duration::from_millis(2)).await;
        }
    };
    clock::within(Duration::from_secs(20), offering)
        .await
        .expect("offers are always taken");
    bench.until(all_durable(60)).await;
    bench.end().await;
    server.await.unwrap();
}

/// This machine in a network that is as the test says.
#[derive(Debug)]
struct Moving {
    changes: watch::Sender<()>,
    /// Where the receiver's name leads; none without DNS.
    receiver: Mutex<Option<SocketAddr>>,
    source: Mutex<Option<IpAddr>>,
    rebound: AtomicUsize,
    looked_up: AtomicUsize,
}

impl Moving {
    fn new(receiver: Option<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            changes: watch::channel(()).0,
            receiver: Mutex::new(receiver),
            source: Mutex::new(Some(Ipv4Addr::LOCALHOST.into())),
            rebound: AtomicUsize::new(0),
            looked_up: AtomicUsize::new(0),
        })
    }

    /// Waits longer than any test.
    fn config(self: &Arc<Self>) -> Config {
        let long = Duration::from_secs(3600);
        Config {
            retry: (long, long),
            patience: long,
            machine: self.clone(),
            ..Config::new("receiver:1")
        }
    }
}

impl Machine for Moving {
    fn look_up(&self, _: String) -> LookUp {
        self.looked_up.fetch_add(1, Ordering::Relaxed);
        let address = *self.receiver.lock().unwrap();
        Box::pin(async move {
            clock::pause(Duration::from_millis(100)).await;
            Ok(vec![address.ok_or(io::ErrorKind::NotFound)?])
        })
    }

    fn endpoint(&self, far: SocketAddr) -> io::Result<Endpoint> {
        System.endpoint(far)
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        System.random(bytes)
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn source(&self, _: SocketAddr) -> Option<IpAddr> {
        *self.source.lock().unwrap()
    }

    fn rebind(&self, endpoint: &Endpoint, far: SocketAddr) -> io::Result<()> {
        self.rebound.fetch_add(1, Ordering::Relaxed);
        System.rebind(endpoint, far)
    }
}

#[tokio::test]
async fn a_change_of_the_network_cuts_every_wait_short() {
    let authority = Authority::new(DEVELOPMENT_CA);
    let endpoint = authority.server();
    let there = endpoint.local_addr().unwrap();
    let nobody = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let machine = Moving::new(None);
    let mut bench = start_with(&authority, machine.config());
    bench.offers.send(Offer::Ready).await.unwrap();
    bench.offer_segment(key(1, 0), &[1000], true).await;
    // No DNS: an hour until the next attempt.
    bench
        .until(|report| matches!(report, Report::Disconnected { .. }))
        .await;
    // DNS, but nobody answers: an hour of patience. That the attempt runs shows in its packets.
    *machine.receiver.lock().unwrap() = Some(nobody.local_addr().unwrap());
    machine.changes.send_replace(());
    let first_packet = tokio::task::spawn_blocking(move || nobody.recv(&mut [0; 2048]).unwrap());
    clock::within(Duration::from_secs(30), first_packet)
        .await
        .expect("an attempt at once")
        .unwrap();
    *machine.receiver.lock().unwrap() = Some(there);
    machine.changes.send_replace(());
    let server = tokio::spawn(async move {
        serve(&endpoint, &mut Held::default(), usize::MAX).await;
    });
    bench.until(all_durable(1)).await;
    bench.end().await;
    server.await.unwrap();
}

#[tokio::test]
async fn a_network_that_never_rests_leaves_time_to_connect() {
    let authority = Authority::new(DEVELOPMENT_CA);
    let endpoint = authority.server();
    let there = endpoint.local_addr().unwrap();
    let nobody = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let machine = Moving::new(Some(nobody.local_addr().unwrap()));
    let began = clock::now();
    let mut bench = start_with(&authority, machine.config());
    bench.offers.send(Offer::Ready).await.unwrap();
    bench.offer_segment(key(1, 0), &[1000], true).await;
    // The way to the receiver changes all the time: it is tried again, but not all the time.
    for flip in 0..60 {
        clock::pause(Duration::from_millis(25)).await;
        let source = Ipv4Addr::new(127, 0, 0, 1 + flip % 2);
        *machine.source.lock().unwrap() = Some(source.into());
        machine.changes.send_replace(());
    }
    let most = 1 + clock::now().since(began).as_millis() / BETWEEN_ATTEMPTS.as_millis();
    let tried = machine.looked_up.load(Ordering::Relaxed);
    println!("{tried} attempts, at most {most}");
    assert!((3..=most).contains(&(tried as u128)));
    // Something else changes all the time, more often than the receiver's name can be looked up.
    *machine.receiver.lock().unwrap() = Some(there);
    let changes = machine.changes.clone();
    let churn = tokio::spawn(async move {
        loop {
            changes.send_replace(());
            clock::pause(Duration::from_millis(20)).await;
        }
    });
    let server = tokio::spawn(async move {
        serve(&endpoint, &mut Held::default(), usize::MAX).await;
    });
    bench.until(all_durable(1)).await;
    churn.abort();
    bench.end().await;
    server.await.unwrap();
}

#[tokio::test]
async fn a_connection_moves_to_a_new_address_and_only_then_to_a_new_socket() {
    let authority = Authority::new(DEVELOPMENT_CA);
    let endpoint = authority.server();
    let machine = Moving::new(Some(endpoint.local_addr().unwrap()));
    let mut bench = start_with(&authority, machine.config());
    bench.offers.send(Offer::Ready).await.unwrap();
    let server = tokio::spawn(async move {
        serve(&endpoint, &mut Held::default(), usize::MAX).await;
    });
    for (sequence, source, sockets) in [
        // Something else changed.
        (0, Some([127, 0, 0, 1]), 0),
        (1, Some([127, 0, 0, 2]), 1),
        // Away, and back.
        (2, None, 1),
        (3, Some([127, 0, 0, 2]), 2),
    ] {
        bench.offer_segment(key(1, sequence), &[50_000], true).await;
        bench.until(all_durable(sequence + 1)).await;
        *machine.source.lock().unwrap() = source.map(IpAddr::from);
        machine.changes.send_replace(());
        bench.offer_segment(key(2, sequence), &[50_000], true).await;
        bench.until(all_durable(sequence + 1)).await;
        assert_eq!(machine.rebound.load(Ordering::Relaxed), sockets);
    }
    assert_eq!(bench.stats.snapshot().reconnects, 0);
    bench.end().await;
    server.await.unwrap();
}
