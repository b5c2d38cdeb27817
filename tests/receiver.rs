//! The real receiver, spoken to over real QUIC and HTTP.
//!
//! Longer than most files: it holds the peer that misbehaves beside what each misdeed must lead to.

#![cfg(all(feature = "receiver", feature = "software"))]
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

#[path = "support/device.rs"]
mod device;
#[allow(dead_code, reason = "shared with the tests of the whole road")]
#[path = "support/programs.rs"]
mod programs;
#[path = "support/receiver.rs"]
mod receiver;
#[path = "support/recording.rs"]
mod recording;

use device::{Device, Identity, ended, segment_stream};
use hallcast::media::{BoxId, Hash, RecordingId, SegmentKey, TrackId, TrackKind};
use hallcast::mp4::parse_provenance;
use hallcast::receiver::archive::{init_path, segment_path};
use hallcast::uplink::quic::{Config, Uplink};
use hallcast::uplink::{Offer, Report, Source};
use hallcast::wire::message::Message;
use hallcast::wire::stream::{SegmentHeader, chunk_head, hash, init_stream, segment_head, trailer};
use hallcast::wire::{ErrorCode, Sequences};
use receiver::{Receiver, get};
use recording::Objects;
use std::collections::BTreeMap;
use std::time::Duration;

const ID: RecordingId = RecordingId([7; 16]);
/// The box that `recording::make` says it is.
const BOX: BoxId = BoxId([9; 16]);

fn is_init(name: &str) -> bool {
    name.contains("/init/")
}

/// Segments by name, and the streams of the inits.
fn split(objects: &Objects) -> (BTreeMap<&str, &[u8]>, Vec<Vec<u8>>) {
    let segments = objects.iter().filter(|(name, _)| !is_init(name));
    let inits = objects.iter().filter(|(name, _)| is_init(name));
    (
        segments
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
            .collect(),
        inits
            .map(|(_, bytes)| init_stream(&hash(bytes), bytes))
            .collect(),
    )
}

/// Waits until everything is acknowledged and the recording is complete.
async fn until_complete(device: &mut Device) -> BTreeMap<TrackId, Sequences> {
    let mut durable: BTreeMap<TrackId, Sequences> = BTreeMap::new();
    loop {
        match device.next().await {
            Message::Durable(ack) => durable.entry(ack.track).or_default().merge(&ack.durable),
            Message::InitDurable(_) => {}
            Message::Complete(complete) => {
                assert_eq!(complete.recording, ID);
                return durable;
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn error(device: &mut Device) -> (ErrorCode, Option<SegmentKey>) {
    loop {
        match device.next().await {
            Message::Error(error) => return (error.code, error.key),
            Message::Durable(_) | Message::InitDurable(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_archived_acknowledged_and_served_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(dir.path());
    let identity = Identity::signed(&receiver.state_dir, BOX);
    let objects = recording::make(ID, 5, true, false);
    let (segments, inits) = split(&objects);

    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    let welcome = device.welcomed((1, 1), 1, &[ID]).await;
    assert!(welcome.recordings.is_empty() && welcome.complete.is_empty());
    // Streams overtake each other: the segments are here before the inits they need.
    for bytes in segments.values() {
        device.stream(&segment_stream(bytes)).await;
    }
    assert!(matches!(device.next().await, Message::Durable(ack) if ack.track == TrackId::EVENTS));
    for init in &inits {
        device.stream(init).await;
    }
    let durable = until_complete(&mut device).await;
    assert_eq!(durable[&TrackId(1)], Sequences::below(3));
    assert_eq!(durable[&TrackId(2)], Sequences::below(3));

    // What is archived is what was sent, and what a browser gets is what is archived.
    for (name, bytes) in &objects {
        let archived = std::fs::read(receiver.store_dir.join(name)).unwrap();
        assert_eq!(hash(&archived), hash(bytes), "{name}");
        let url = name.replace("recordings/", "/hls/");
        let (status, head, body) = get(&receiver.page, &url, "");
        if name.contains("/0/") {
            assert_eq!(status, 404, "the events track is not for browsers");
            continue;
        }
        assert_eq!((status, hash(&body)), (200, hash(bytes)), "{name}");
        assert!(
            head.contains("immutable") && head.contains("content-type: video/mp4"),
            "{head}"
        );
        let tag = format!("If-None-Match: \"{}\"\r\n", hash(bytes));
        assert_eq!(get(&receiver.page, &url, &tag).0, 304);
    }

    // The rest of the pages.
    let (status, head, body) = get(
        &receiver.page,
        &format!("/recordings/{ID}/manifest.json"),
        "",
    );
    assert_eq!(status, 200);
    let manifest: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        manifest["tracks"][1]["segments"].as_array().unwrap().len(),
        3
    );
    assert!(
        head.contains("content-security-policy: default-src 'none'"),
        "{head}"
    );
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    let (_, head, body) = get(&receiver.page, &format!("/hls/{ID}/1/index.m3u8"), "");
    assert!(head.contains("application/vnd.apple.mpegurl"), "{head}");
    let playlist = m3u8_rs::parse_media_playlist_res(&body).unwrap();
    assert!(playlist.end_list);
    let film = format!("/recordings/{ID}/recording.mp4");
    let (status, head, whole) = get(&receiver.page, &film, "");
    assert_eq!(status, 200, "{head}");
    let moov = whole.windows(4).position(|four| four == b"moov").unwrap();
    let mdat = whole.windows(4).position(|four| four == b"mdat").unwrap();
    assert!(moov < mdat, "moov is not first");
    assert_eq!(re_mp4::Mp4::read_bytes(&whole).unwrap().tracks().len(), 2);
    let (status, head, part) = get(&receiver.page, &film, "Range: bytes=100-299\r\n");
    assert_eq!((status, part.as_slice()), (206, &whole[100..300]));
    let range = format!("content-range: bytes 100-299/{}", whole.len());
    assert!(head.contains(&range), "{head}");
    assert_eq!(
        get(&receiver.page, "/", "Host: attacker.example\r\n").0,
        421
    );
    for path in [
        "/recordings/x",
        "/hls/../../etc/passwd",
        "/hls/x/1/index.m3u8",
        "/assets/x",
    ] {
        assert_eq!(get(&receiver.page, path, "").0, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_kill_9_and_a_resend_is_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(dir.path());
    let identity = Identity::signed(&receiver.state_dir, BOX);
    let objects = recording::make(ID, 5, true, false);
    let (segments, inits) = split(&objects);
    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    device.welcomed((1, 1), 1, &[ID]).await;
    for init in &inits {
        device.stream(init).await;
    }
    // Everything but the last segment of track 2.
    let (last, rest) = segments
        .iter()
        .next_back()
        .map(|last| (last, segments.len() - 1))
        .unwrap();
    for bytes in segments.values().take(rest) {
        device.stream(&segment_stream(bytes)).await;
    }
    let mut acknowledged = 0;
    while acknowledged < rest {
        if let Message::Durable(_) = device.next().await {
            acknowledged += 1;
        }
    }
    drop(receiver); // SIGKILL

    let receiver = Receiver::start(dir.path());
    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    let welcome = device.welcomed((1, 2), 1, &[ID]).await;
    let held = &welcome.recordings[0].tracks;
    let of = |track| {
        &held
            .iter()
            .find(|held| held.track == TrackId(track))
            .unwrap()
            .durable
    };
    assert_eq!(of(0), &Sequences::below(1));
    assert_eq!(of(1), &Sequences::below(3));
    assert_eq!(of(2), &Sequences::below(2));
    // A segment sent twice does no harm; the init need not be sent again.
    device
        .stream(&segment_stream(segments[segment_path(&key(1, 0)).as_str()]))
        .await;
    device.stream(&segment_stream(last.1)).await;
    until_complete(&mut device).await;
    drop(receiver);

    let receiver = Receiver::start(dir.path());
    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    let welcome = device.welcomed((1, 3), 1, &[ID]).await;
    assert_eq!(welcome.complete, [ID]);
}

fn key(track: u8, sequence: u64) -> SegmentKey {
    SegmentKey {
        recording: ID,
        track: TrackId(track),
        sequence,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_with_its_code_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(dir.path());
    let identity = Identity::signed(&receiver.state_dir, BOX);
    let objects = recording::make(ID, 3, false, false);
    let (segments, inits) = split(&objects);
    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    device.welcomed((1, 1), 1, &[]).await;
    for init in &inits {
        device.stream(init).await;
    }
    let name = segment_path(&key(1, 0));
    let bytes = segments[name.as_str()];
    let stream = segment_stream(bytes);

    // Cut: reset at a few places, and ended before the trailer.
    for at in [1, 10, stream.len() / 2, stream.len() - 1] {
        device.cut(&stream[..at]).await;
    }
    device.stream(&stream[..stream.len() - 1]).await;
    assert_eq!(
        error(&mut device).await,
        (ErrorCode::MALFORMED, Some(key(1, 0)))
    );
    // A changed byte.
    let mut changed = stream.clone();
    changed[stream.len() / 2] ^= 1;
    device.stream(&changed).await;
    assert_eq!(
        error(&mut device).await,
        (ErrorCode::HASH_MISMATCH, Some(key(1, 0)))
    );
    assert!(!receiver.store_dir.join(&name).exists());
    // Another segment than the stream says.
    let mut wrong = segment_head(&SegmentHeader {
        key: key(1, 5),
        init: parse_provenance(bytes).unwrap().0.init,
    });
    wrong.extend(chunk_head(bytes.len() as u32));
    wrong.extend(bytes);
    wrong.extend(trailer(bytes.len() as u64, &hash(bytes)));
    device.stream(&wrong).await;
    assert_eq!(
        error(&mut device).await,
        (ErrorCode::PROTOCOL, Some(key(1, 5)))
    );
    // No media at all.
    let noise = [5; 300];
    let mut noisy = segment_head(&SegmentHeader {
        key: key(1, 6),
        init: None,
    });
    noisy.extend(chunk_head(300));
    noisy.extend(noise);
    noisy.extend(trailer(300, &hash(&noise)));
    device.stream(&noisy).await;
    assert_eq!(
        error(&mut device).await,
        (ErrorCode::MALFORMED, Some(key(1, 6)))
    );
    assert!(
        !receiver
            .store_dir
            .join(format!("recordings/{ID}/1"))
            .exists()
    );

    // The right one; then another content under its name.
    device.stream(&stream).await;
    while !matches!(device.next().await, Message::Durable(_)) {}
    let mut other = bytes.to_vec();
    let end = other.len() - 1;
    other[end] ^= 1;
    device.stream(&segment_stream(&other)).await;
    assert_eq!(
        error(&mut device).await,
        (ErrorCode::CONFLICT, Some(key(1, 0)))
    );
    assert_eq!(
        std::fs::read(receiver.store_dir.join(&name)).unwrap(),
        bytes
    );

    // Another box may not write into this recording, and its trouble is not this box's.
    let second = Identity::signed(&receiver.state_dir, BoxId([8; 16]));
    let mut intruder = Device::connect(&second, &receiver.boxes, &receiver.state_dir).await;
    intruder.welcomed((1, 1), 2, &[ID]).await;
    let bytes = segments[segment_path(&key(1, 1)).as_str()];
    intruder.stream(&segment_stream(bytes)).await;
    assert_eq!(
        error(&mut intruder).await,
        (ErrorCode::CONFLICT, Some(key(1, 1)))
    );
    intruder.raw(&[0xff; 64]).await;
    assert_eq!(ended(&intruder.connection).await, ErrorCode::OVERSIZED);
    device.stream(&segment_stream(bytes)).await;
    while !matches!(device.next().await, Message::Durable(_)) {}
    assert!(init_exists(&receiver, &objects));
}

fn init_exists(receiver: &Receiver, objects: &Objects) -> bool {
    let inits = objects.iter().filter(|(name, _)| is_init(name));
    let mut of_video = inits.filter(|(_, bytes)| {
        let path = init_path(ID, Hash(*blake3::hash(bytes).as_bytes()));
        receiver.store_dir.join(path).exists()
    });
    of_video.next().is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_boxes_of_the_roster_get_in_and_the_newest_connection_counts() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(dir.path());
    let state = receiver.state_dir.clone();
    let identity = Identity::signed(&state, BOX);

    // Signed by another authority: TLS refuses it.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Receiver::start(elsewhere.path());
    let foreign = Identity::signed(&other.state_dir, BoxId([5; 16]));
    let refused = match foreign.connect(&receiver.boxes, &state).await {
        Ok(connection) => ended(&connection).await,
        Err(e) => device::code(&e),
    };
    assert_eq!(refused, ErrorCode::CERTIFICATE);
    // Signed by this one, but not in its roster.
    let entry = state.join(format!("boxes/{}.toml", foreign.box_id));
    let stranger = Identity::signed(&state, foreign.box_id);
    std::fs::remove_file(&entry).unwrap();
    let connection = stranger.connect(&receiver.boxes, &state).await.unwrap();
    assert_eq!(ended(&connection).await, ErrorCode::UNKNOWN_BOX);

    // The newest connection counts; an older claim is told what is held.
    let mut first = Device::connect(&identity, &receiver.boxes, &state).await;
    first.welcomed((3, 1), 1, &[]).await;
    let mut second = Device::connect(&identity, &receiver.boxes, &state).await;
    second.welcomed((3, 2), 1, &[]).await;
    assert_eq!(ended(&first.connection).await, ErrorCode::FENCED);
    let mut stale = Device::connect(&identity, &receiver.boxes, &state).await;
    stale.hello((2, 9), 7, &[]).await;
    assert_eq!(ended(&stale.connection).await, ErrorCode::FENCED);
    // A copy of the box takes over; when the first process is back, it is told so.
    let mut copy = Device::connect(&identity, &receiver.boxes, &state).await;
    copy.welcomed((4, 1), 2, &[]).await;
    let mut back = Device::connect(&identity, &receiver.boxes, &state).await;
    back.hello((5, 1), 1, &[]).await;
    assert_eq!(ended(&back.connection).await, ErrorCode::CLONED);

    // A revocation ends a live connection.
    let entry = state.join(format!("boxes/{BOX}.toml"));
    let text = std::fs::read_to_string(&entry).unwrap();
    std::fs::write(&entry, text.replace("revoked = false", "revoked = true")).unwrap();
    assert_eq!(ended(&copy.connection).await, ErrorCode::REVOKED);
    let connection = identity.connect(&receiver.boxes, &state).await.unwrap();
    assert_eq!(ended(&connection).await, ErrorCode::REVOKED);
}

/// The spool's part of an uplink: hands out the objects.
struct Spool(Objects);

impl Source for Spool {
    fn segment(&self, key: SegmentKey, offset: u64, length: u32) -> std::io::Result<Vec<u8>> {
        let bytes = &self.0[&segment_path(&key)];
        Ok(bytes[offset as usize..][..length as usize].to_vec())
    }

    fn init(&self, hash: &Hash) -> std::io::Result<Vec<u8>> {
        Ok(self.0[&init_path(ID, *hash)].clone())
    }
}

/// Runs the box's own uplink over `objects` until the receiver has all of them.
async fn uplink(home: &std::path::Path, receiver: &Receiver, objects: &Objects) {
    let identity = hallcast::uplink::identity::Identity::open(home).unwrap();
    if identity.credentials().is_err() {
        let request = home.join("box.csr");
        std::fs::write(&request, identity.certificate_request(None).unwrap()).unwrap();
        let chain = device::sign(&receiver.state_dir, &request);
        identity
            .install(&String::from_utf8(chain).unwrap())
            .unwrap();
    }
    let (offers, taken) = tokio::sync::mpsc::channel(64);
    let (reports, mut told) = tokio::sync::mpsc::channel(64);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let uplink = Uplink {
        config: Config::new(&receiver.boxes),
        epoch: identity.raise_epoch().unwrap(),
        identity,
        source: std::sync::Arc::new(Spool(objects.clone())),
        stats: Default::default(),
    };
    let running = tokio::spawn(uplink.run(taken, reports, stopped));
    for track in [0, 1, 2] {
        let end = objects
            .keys()
            .filter(|name| name.contains(&format!("/{track}/")))
            .count();
        let offer = Offer::Track {
            recording: ID,
            track: TrackId(track),
            durable: Sequences::default(),
            end: end as u64,
        };
        offers.send(offer).await.unwrap();
    }
    for (name, bytes) in objects.iter().filter(|(name, _)| !is_init(name)) {
        let (provenance, _) = parse_provenance(bytes).unwrap();
        let kind = match provenance.key.track.0 {
            0 => TrackKind::Events,
            1 => TrackKind::Video,
            _ => TrackKind::Audio,
        };
        assert_eq!(&segment_path(&provenance.key), name);
        let chunk = Offer::Chunk {
            key: provenance.key,
            kind,
            init: provenance.init,
            offset: 0,
            length: bytes.len() as u32,
            live: false,
        };
        let sealed = Offer::Sealed {
            key: provenance.key,
            length: bytes.len() as u64,
            hash: hash(bytes),
        };
        offers.send(chunk).await.unwrap();
        offers.send(sealed).await.unwrap();
    }
    offers.send(Offer::Ready).await.unwrap();
    loop {
        let report = hallcast::clock::within(Duration::from_secs(20), told.recv()).await;
        match report.expect("a report in time").expect("a report") {
            Report::Complete { recording } => {
                assert_eq!(recording, ID);
                break;
            }
            Report::Connected | Report::Received { .. } | Report::Durable { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    stop.send(true).unwrap();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_box_s_own_uplink_delivers_a_recording_and_hears_again_that_it_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(dir.path());
    let box_id = hallcast::uplink::identity::Identity::open(home.path())
        .unwrap()
        .box_id();
    let objects = recording::make_by(box_id, ID, 20, true, false);
    uplink(home.path(), &receiver, &objects).await;
    for (name, bytes) in &objects {
        assert_eq!(
            &std::fs::read(receiver.store_dir.join(name)).unwrap(),
            bytes,
            "{name}"
        );
    }
    // The box's process starts again and has forgotten what was acknowledged.
    uplink(home.path(), &receiver, &objects).await;
}

#[test]
fn a_development_authority_stays_on_loopback_and_bad_settings_exit_with_78() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let program = |arguments: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_hallcast-receiver"))
            .args(arguments)
            .arg("--state-dir")
            .arg(&state)
            .output()
            .unwrap()
    };
    assert!(program(&["ca", "init", "--development"]).status.success());
    let store = dir.path().join("store");
    let store = store.to_str().unwrap();
    for (arguments, word) in [
        (["--listen", "0.0.0.0:0"], "--development"),
        (["--web-listen", "0.0.0.0:0"], "no sign-in"),
    ] {
        let output = program(&[&["run", "--store-dir", store], &arguments[..]].concat());
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error_and_a_full_disk_is_one() {
    use std::process::{Command, Stdio};
    for (program, arguments) in [
        (programs::BOX, &["enroll", "--csr", "--state-directory"][..]),
        (
            programs::RECEIVER,
            &["ca", "init", "--name", "hall.example", "--state-dir"],
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("state");
        let answers_to = |output: Stdio| {
            let mut command = Command::new(program);
            command.args(arguments).arg(&place);
            let child = command.stdout(output).stderr(Stdio::piped()).spawn();
            let ended = child.unwrap().wait_with_output().unwrap();
            (ended.status, String::from_utf8(ended.stderr).unwrap())
        };
        let (nobody, pipe) = std::io::pipe().unwrap();
        drop(nobody);
        let (status, said) = answers_to(pipe.into());
        assert!(status.success(), "{program} {arguments:?}: {said}");
        if arguments[0] == "ca" {
            std::fs::remove_dir_all(&place).unwrap();
        }
        let full = std::fs::File::options().write(true).open("/dev/full");
        let (status, said) = answers_to(full.unwrap().into());
        assert_eq!(status.code(), Some(1), "{program} {arguments:?}: {said}");
        assert!(
            said.contains("standard output: cannot be written"),
            "{said}"
        );
    }
}

#[test]
fn what_keeps_a_receiver_from_starting_is_said_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let ends_with = |code: i32, state: &str, store: &str, listen: &str, web: &str| {
        let output = programs::outcome(
            programs::RECEIVER,
            &[
                "run",
                "--state-dir",
                state,
                "--store-dir",
                store,
                "--listen",
                listen,
                "--web-listen",
                web,
            ],
        );
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let any = "127.0.0.1:0";
    // Starting again makes no authority.
    let said = ends_with(78, &path("none"), &path("s"), any, any);
    assert!(
        said.contains("ca.pem: No such file") && said.contains("hallcast-receiver ca init"),
        "{said}"
    );

    let refused =
        |state: &str, store: &str, listen: &str, web: &str| ends_with(1, state, store, listen, web);
    let running = Receiver::start(dir.path());
    let (state, store) = (path("state"), path("store"));
    let said = refused(&state, &store, any, any);
    assert!(said.contains("only one receiver may write"), "{said}");
    let said = refused(&state, &path("s"), &running.boxes, any);
    assert!(
        said.contains("/udp: Address already in use") && said.contains("nothing else listens"),
        "{said}"
    );
    let web = running
        .page
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let said = refused(&state, &path("s"), any, web);
    assert!(
        said.contains("/tcp: check that nothing else listens"),
        "{said}"
    );

    std::fs::write(path("file"), b"").unwrap();
    for (store, word) in [
        (path("file"), "File exists"),
        ("/proc/store".into(), "No such file"),
    ] {
        let said = refused(&state, &store, any, any);
        assert!(
            said.contains(&format!("archive {store}: make the directory: {word}")),
            "{said}"
        );
    }
}

#[test]
fn a_film_is_exported_without_and_beside_a_running_receiver() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let open = RecordingId([8; 16]);
    recording::write(&recording::make(ID, 4, true, true), &store);
    recording::write(&recording::make(open, 2, false, false), &store);
    let output = dir.path().join("film.mp4");
    let export = |id: &str, output: &std::path::Path| {
        let arguments = ["export", id, "--output", output.to_str().unwrap()];
        let all = [&arguments[..], &["--store-dir", store.to_str().unwrap()]].concat();
        programs::outcome(programs::RECEIVER, &all)
    };
    let refused = |id: &str, output: &std::path::Path| {
        let said = export(id, output);
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        String::from_utf8(said.stderr).unwrap()
    };
    // Everything is there, but no receiver has found it complete.
    let said = refused(&ID.to_string(), &output);
    assert!(said.contains("not complete yet: its manifest"), "{said}");
    let receiver = Receiver::start(dir.path());
    let said = export(&ID.to_string(), &output);
    assert!(said.status.success(), "{said:?}");
    let text = String::from_utf8(said.stdout).unwrap();
    let bytes = std::fs::read(&output).unwrap();
    assert_eq!(
        text,
        format!("{}: 0:04, {} bytes\n", output.display(), bytes.len())
    );
    let film = format!("/recordings/{ID}/recording.mp4");
    assert!(
        get(&receiver.page, &film, "").2 == bytes,
        "the page offers another film"
    );

    let (status, _, body) = get(
        &receiver.page,
        &format!("/recordings/{open}/recording.mp4"),
        "",
    );
    assert_eq!(status, 409);
    assert!(
        String::from_utf8(body)
            .unwrap()
            .contains("not complete yet")
    );
    let unknown = RecordingId([1; 16]);
    let film = format!("/recordings/{unknown}/recording.mp4");
    assert_eq!(get(&receiver.page, &film, "").0, 404);
    drop(receiver);
    assert!(
        export(&ID.to_string(), &output).status.success(),
        "replaces what is there"
    );

    let nothing = dir.path().join("nothing.mp4");
    let said = refused(&open.to_string(), &nothing);
    assert!(
        said.contains("not complete yet: it has not ended"),
        "{said}"
    );
    let said = refused(&unknown.to_string(), &nothing);
    assert!(
        said.contains("not in") && said.contains("the page lists"),
        "{said}"
    );
    let said = refused(&ID.to_string(), &dir.path().join("no/where.mp4"));
    assert!(
        said.contains("where.mp4") && said.contains("No such file"),
        "{said}"
    );
    assert!(!nothing.exists());
}

/// Uploads a recording as a box does; gives how long it took until it was complete.
async fn upload(
    identity: &Identity,
    receiver: &Receiver,
    order: (u64, u64),
    objects: &Objects,
) -> Duration {
    let (segments, inits) = split(objects);
    let began = hallcast::clock::now();
    let mut device = Device::connect(identity, &receiver.boxes, &receiver.state_dir).await;
    device.welcomed(order, 1, &[]).await;
    for init in &inits {
        device.stream(init).await;
    }
    for bytes in segments.values() {
        device.stream(&segment_stream(bytes)).await;
    }
    while !matches!(device.next().await, Message::Complete(_)) {}
    hallcast::clock::now().since(began)
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_that_wait_for_an_init_are_few_and_those_that_follow_one_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(dir.path());
    let identity = Identity::signed(&receiver.state_dir, BOX);
    let objects = recording::make(ID, 3, false, false);
    let (segments, inits) = split(&objects);
    let segment = segment_stream(segments[segment_path(&key(1, 0)).as_str()]);
    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    device.welcomed((1, 1), 1, &[]).await;
    let mut opened = 0;
    while opened < 400 {
        let open = hallcast::clock::within(Duration::from_secs(1), device.connection.open_uni());
        let Some(stream) = open.await else { break };
        let mut stream = stream.unwrap();
        stream.write_all(&segment).await.unwrap();
        stream.finish().unwrap();
        opened += 1;
    }
    println!("{opened} segments wait for an init");
    assert!((64..=128).contains(&opened), "{opened}");
    assert!(!init_exists(&receiver, &objects));
    drop(device);

    // The init is first, as a box sends it: whatever follows is kept.
    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    device.welcomed((1, 2), 1, &[]).await;
    for init in &inits {
        device.stream(init).await;
    }
    for _ in 0..200 {
        device.stream(&segment).await;
    }
    let mut durable = 0;
    while durable < 200 {
        match device.next().await {
            Message::Durable(_) => durable += 1,
            Message::InitDurable(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// What became of a stream.
struct Pushed {
    /// Bytes of it that went out.
    bytes: usize,
    /// Whether that was all.
    whole: bool,
}

/// Sends a stream as far as the receiver lets it be sent: until nothing of it has gone on for so long that
/// it is held back, and not merely slow. Errors are what a misdeed is answered with.
async fn push(connection: &quinn::Connection, bytes: &[u8], finish: bool) -> Pushed {
    const PATIENCE: Duration = Duration::from_secs(2);
    let open = hallcast::clock::within(PATIENCE, connection.open_uni());
    let Some(Ok(mut stream)) = open.await else {
        return Pushed {
            bytes: 0,
            whole: false,
        };
    };
    let mut sent = 0;
    while sent < bytes.len() {
        match hallcast::clock::within(PATIENCE, stream.write(&bytes[sent..])).await {
            Some(Ok(more)) => sent += more,
            _ => break,
        }
    }
    if finish {
        let _ = stream.finish();
    } else {
        // Neither ended nor reset: the stream stays open for as long as the connection.
        std::mem::forget(stream);
    }
    Pushed {
        bytes: sent,
        whole: sent == bytes.len(),
    }
}

/// One misdeed after the other, each on a connection of its own. Of streams without an end it gives how
/// many were open at once, and how many bytes went into them before the session ended or they were held back.
async fn misbehave(
    identity: &Identity,
    receiver: &Receiver,
    number: u64,
    foreign: &Objects,
) -> Option<(usize, usize)> {
    let (segments, _) = split(foreign);
    let good = segments.values().nth(1).unwrap();
    let window = (number % 8 == 7).then_some(2048);
    let (boxes, state) = (&receiver.boxes, &receiver.state_dir);
    let mut device = Device::connect_with(identity, boxes, state, window).await;
    device.hello((1, number), 7, &[ID]).await;
    let connection = device.connection.clone();
    match number % 8 {
        // A thousand streams, each with a megabyte and no end.
        0 => {
            let mut endless = segment_head(&SegmentHeader {
                key: key(1, 7),
                init: None,
            });
            for _ in 0..20 {
                endless.extend(chunk_head(50_000));
                endless.extend([7; 50_000]);
            }
            let (mut open, mut taken) = (0, 0);
            while open < 1000 {
                let pushed = push(&connection, &endless, false).await;
                open += usize::from(pushed.bytes > 0);
                taken += pushed.bytes;
                if !pushed.whole {
                    break;
                }
            }
            return Some((open, taken));
        }
        // Lengths beyond every limit, on the control stream and on others.
        1 => {
            push(&connection, &chunk_head(u32::MAX), true).await;
            let _ = device.send_anyway(&[0xff; 5000]).await;
        }
        // Streams that are no streams.
        2 => {
            for _ in 0..400 {
                push(&connection, &[3; 40], true).await;
            }
        }
        // Bytes that are not what their trailer says.
        3 => {
            let mut wrong = segment_stream(good);
            let middle = wrong.len() / 2;
            wrong[middle] ^= 1;
            for _ in 0..100 {
                push(&connection, &wrong, true).await;
            }
        }
        // Another box's recording, again and again.
        4 => {
            for _ in 0..100 {
                push(&connection, &segment_stream(good), true).await;
            }
        }
        // Noise on streams.
        5 => {
            for round in 0u8..100 {
                let noise: Vec<u8> = (0..5000u32)
                    .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ round)
                    .collect();
                push(&connection, &noise, true).await;
            }
        }
        // A reader so slow that it reads nothing: each of many small chunks is answered, and no answer
        // is taken. What it may send ends with the windows of the transport.
        7 => {
            let mut small = segment_head(&SegmentHeader {
                key: key(1, 7),
                init: None,
            });
            for _ in 0..4500 {
                small.extend(chunk_head(40));
                small.extend([7; 40]);
            }
            let mut sent = 0;
            while sent < 16 << 20 {
                let pushed = push(&connection, &small, false).await;
                sent += pushed.bytes;
                if !pushed.whole {
                    break;
                }
            }
            let closed = connection.close_reason();
            println!("a box that reads nothing could send {sent} bytes");
            assert!(sent < 4 << 20, "it was never held back");
            assert!(sent > small.len() && closed.is_none(), "{sent} {closed:?}");
        }
        // Noise on the control stream, and another box's name.
        _ => {
            let _ = device.send_anyway(&[0x9f; 3000]).await;
            let mut other = Device::connect(identity, &receiver.boxes, &receiver.state_dir).await;
            other.pretend(BOX).await;
            assert_eq!(ended(&other.connection).await, ErrorCode::WRONG_BOX);
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_started_again_says_at_once_that_a_connection_is_gone() {
    let home = tempfile::tempdir().unwrap();
    let mut receiver = programs::Receiver::start(home.path());
    let state = receiver.home.join("state");
    let identity = Identity::signed(&state, BOX);
    let mut device = Device::connect(&identity, &receiver.quic, &state).await;
    device.welcomed((1, 1), 1, &[]).await;
    receiver.kill_and_restart();
    let began = hallcast::clock::now();
    device.say(&Message::Status(Default::default())).await;
    let closed = hallcast::clock::within(Duration::from_secs(8), device.connection.closed()).await;
    println!("told after {:?}", hallcast::clock::now().since(began));
    let is_reset = matches!(closed, Some(quinn::ConnectionError::Reset));
    assert!(is_reset, "{closed:?}");
}

#[allow(
    clippy::await_holding_lock,
    reason = "held for the whole test, which no other task waits for"
)]
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_box_costs_bounded_memory_and_no_other_box_its_upload() {
    let _alone = programs::alone();
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(dir.path());
    let good = Identity::signed(&receiver.state_dir, BOX);
    let hostile = Identity::signed(&receiver.state_dir, BoxId([8; 16]));
    // Each misdeed twice, and an upload beside each.
    let (rounds, alone) = (16, 5);
    let recordings: Vec<_> = (1..=rounds + alone)
        .map(|n| recording::make(RecordingId([n; 16]), 8, true, false))
        .collect();
    let (first, others) = recordings.split_at(alone.into());
    let mut number = 0;
    let mut undisturbed = Vec::new();
    for objects in first {
        number += 1;
        undisturbed.push(upload(&good, &receiver, (1, number), objects).await);
    }
    let before = programs::resident_bytes(receiver.pid());
    let pid = receiver.pid();
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let until = over.clone();
    let watching = tokio::task::spawn_blocking(move || {
        let mut peak = 0;
        while !until.load(std::sync::atomic::Ordering::Relaxed) {
            peak = programs::resident_bytes(pid).max(peak);
            hallcast::clock::sleep(Duration::from_millis(10));
        }
        peak
    });
    let mut endless = Vec::new();
    let mut beside = Vec::new();
    for (round, objects) in (1..).zip(others) {
        number += 1;
        let uploading = async {
            // The misdeed is under way by then.
            hallcast::clock::pause(Duration::from_millis(30)).await;
            upload(&good, &receiver, (1, number), objects).await
        };
        let (open, took) = tokio::join!(
            misbehave(&hostile, &receiver, round, &recordings[0]),
            uploading
        );
        endless.extend(open);
        beside.push(took);
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    let peak = watching.await.unwrap();
    undisturbed.sort();
    beside.sort();
    let (usual, worst) = (undisturbed[undisturbed.len() / 2], beside[beside.len() - 1]);
    let ratio = beside[beside.len() / 2].as_secs_f64() / usual.as_secs_f64();
    println!(
        "{rounds} misdeeds; streams without an end, and bytes that went into them: {endless:?}; the \
         receiver grew from {before} to at most {peak} bytes; an upload took {usual:?} alone, beside them {ratio:.1} times that, at \
         most {worst:?}"
    );
    // A session may hold a thirty-second part of what is left of 1 GiB, which ends it a little below
    // 32 MiB; the transport has 64 streams at most.
    assert_eq!(endless.len(), usize::from(rounds) / 8);
    let bounded = |&(open, bytes): &(usize, usize)| open <= 64 && bytes >= 30 << 20;
    assert!(endless.iter().all(bounded), "{endless:?}");
    assert!(peak - before < 128 << 20, "{peak}");
    assert!(ratio < 20.0, "{ratio}");
    // Nothing of what the hostile box sent is there.
    let archived = std::fs::read_dir(receiver.store_dir.join("recordings")).unwrap();
    assert_eq!(archived.count(), recordings.len());
    for objects in &recordings {
        for (name, bytes) in objects {
            assert!(
                std::fs::read(receiver.store_dir.join(name)).unwrap() == *bytes,
                "{name}"
            );
        }
    }
    // And the same box may send what is right afterwards.
    let own = recording::make_by(BoxId([8; 16]), RecordingId([99; 16]), 2, true, false);
    upload(&hostile, &receiver, (2, 1), &own).await;
}
