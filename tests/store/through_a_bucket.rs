//! The archive in a bucket: an S3 server runs as a process, and a proxy stands for the way to it.

use crate::bucket::{Proxy, S3, SECRET, Strike, Way};
use crate::device::{Device, Identity, segment_stream};
use crate::receiver::{Receiver, get};
use crate::{BOX, ID, Told, held_back, is_init, judge, life, programs, recording, until};
use futures_util::StreamExt;
use hallcast::media::{Hash, TrackId};
use hallcast::receiver::archive::{Archive, segment_path};
use hallcast::wire::ErrorCode;
use hallcast::wire::message::Message;
use hallcast::wire::stream::{hash, init_stream};
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

fn with_settings(home: &Path, words: &[&str]) -> (Option<i32>, String) {
    let settings = home.join("receiver.toml");
    let all = [&["--config", settings.to_str().unwrap()], words].concat();
    let said = programs::outcome(programs::RECEIVER, &all);
    let text = [said.stdout, said.stderr].concat();
    (said.status.code(), String::from_utf8(text).unwrap())
}

#[allow(
    clippy::await_holding_lock,
    reason = "held for the whole test, which no other task waits for"
)]
#[tokio::test(flavor = "multi_thread")]
async fn a_recording_goes_into_a_bucket_through_kill_9_and_plays_from_it() {
    let _alone = programs::alone();
    let home = tempfile::tempdir().unwrap();
    let s3 = S3::start();
    let receiver_home = home.path().join("receiver");
    S3::settings(&s3.address, &receiver_home);
    let mut receiver = programs::Receiver::start(home.path());
    let board = programs::small_bench(home.path());
    let arguments = ["--board", board.as_str()];
    let hall = programs::CaptureBox::start(home.path(), "hall", Some(&receiver), &arguments);
    let id = hall.record();
    programs::pause(3);
    receiver.kill_and_restart();
    programs::pause(3);
    hall.stop();
    let page = format!("http://{}/", receiver.web);
    let manifest = format!("/recordings/{id}/manifest.json");
    programs::wait_until(60, "the manifest", || get(&page, &manifest, "").0 == 200);

    // One hash: on the box, in the bucket, at the browser.
    let sealed = programs::spool_hashes(&hall.home.join("state"));
    let mut compared = 0;
    for (key, _, expected) in &sealed {
        let name = segment_path(key);
        let of = |bytes: &[u8]| Hash(*blake3::hash(bytes).as_bytes());
        assert_eq!(of(&s3.object(&name).await), *expected, "{name}");
        if key.track != TrackId::EVENTS {
            let url = name.replace("recordings/", "/hls/");
            assert_eq!(of(&get(&page, &url, "").2), *expected, "{url}");
            compared += 1;
        }
    }
    println!("{compared} segments have one hash on the box, in the bucket and at the browser");
    assert!(compared > 4);
    let tracks: BTreeSet<TrackId> = sealed.iter().map(|(key, ..)| key.track).collect();
    for track in tracks.iter().filter(|track| **track != TrackId::EVENTS) {
        let playlist = get(&page, &format!("/hls/{id}/{track}/index.m3u8"), "").2;
        let playlist = m3u8_rs::parse_media_playlist_res(&playlist).unwrap();
        assert!(playlist.end_list && playlist.segments.len() > 2);
    }
    let film = std::fs::read(receiver.film(&id)).unwrap();
    assert_eq!(re_mp4::Mp4::read_bytes(&film).unwrap().tracks().len(), 2);
    let (code, said) = with_settings(&receiver_home, &["verify", "--all"]);
    print!("{said}");
    assert!(
        code == Some(0) && said.contains("1 recordings, 0 with faults"),
        "{said}"
    );

    // Bytes that changed in the bucket are found, and not shown.
    let name = segment_path(
        &sealed
            .iter()
            .find(|(key, ..)| key.track == TrackId(1))
            .unwrap()
            .0,
    );
    let mut bytes = s3.object(&name).await;
    *bytes.last_mut().unwrap() ^= 1;
    s3.put(&name, bytes).await;
    let (code, said) = with_settings(&receiver_home, &["verify", &id]);
    assert!(
        code == Some(1) && said.contains("the manifest says"),
        "{said}"
    );
    assert_eq!(get(&page, &name.replace("recordings/", "/hls/"), "").0, 500);
    assert!(!receiver.log().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_receivers_of_one_bucket_take_over_from_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = S3::start();
    S3::settings(&s3.address, dir.path());
    let (first, second) = (Receiver::start(dir.path()), Receiver::start(dir.path()));
    let identity = Identity::signed(&first.state_dir, BOX);
    let objects = recording::make(ID, 5, true, false);
    let segments: Vec<_> = objects.iter().filter(|(name, _)| !is_init(name)).collect();
    let mut device = Device::connect(&identity, &first.boxes, &first.state_dir).await;
    device.welcomed((1, 1), 1, &[ID]).await;
    for (_, bytes) in objects.iter().filter(|(name, _)| is_init(name)) {
        device.stream(&init_stream(&hash(bytes), bytes)).await;
    }
    let mut due = 4;
    for (_, bytes) in &segments[..due] {
        device.stream(&segment_stream(bytes)).await;
    }
    until(&mut device, |message| {
        due -= usize::from(matches!(message, Message::Durable(_)));
        due == 0
    })
    .await;
    // The other one knows what the first has stored, and the box sends it the rest only.
    let mut device = Device::connect(&identity, &second.boxes, &second.state_dir).await;
    let welcome = device.welcomed((1, 2), 1, &[ID]).await;
    let held: u64 = welcome.recordings[0]
        .tracks
        .iter()
        .map(|held| held.durable.cumulative())
        .sum();
    assert_eq!(held, 4);
    for (_, bytes) in objects.iter().filter(|(name, _)| is_init(name)) {
        device.stream(&init_stream(&hash(bytes), bytes)).await;
    }
    for (_, bytes) in &segments[4..] {
        device.stream(&segment_stream(bytes)).await;
    }
    until(&mut device, |message| {
        matches!(message, Message::Complete(_))
    })
    .await;
    let film = format!("/recordings/{ID}/recording.mp4");
    assert_eq!(get(&second.page, &film, "").0, 200);
    // What one has stored, the other one shows.
    programs::wait_until(30, "the film at the first", || {
        get(&first.page, &film, "").0 == 200
    });
    // An erasure reaches both.
    let (code, said) = with_settings(dir.path(), &["erase", &ID.to_string(), "--yes"]);
    assert!(
        code == Some(0) && said.contains("erased, 10 objects"),
        "{said}"
    );
    for receiver in [&first, &second] {
        programs::wait_until(10, "the page to go", || {
            get(&receiver.page, &format!("/recordings/{ID}"), "").0 == 404
        });
    }
    until(&mut device, |message| matches!(message, Message::Erase(_))).await;
    let (code, said) = with_settings(dir.path(), &["verify", "--all"]);
    assert!(code == Some(0) && said.contains("erased 20"), "{said}");
}

/// Segments in the bucket.
async fn stored(s3: &S3) -> usize {
    let names = s3.store.list(None);
    let segments = names.filter(|object| {
        let is_one = object.as_ref().unwrap().location.as_ref().ends_with(".m4s");
        std::future::ready(is_one)
    });
    segments.count().await
}

#[allow(
    clippy::await_holding_lock,
    reason = "held for the whole test, which no other task waits for"
)]
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_away_or_full_during_a_recording_gets_all_of_it_in_the_end() {
    let _alone = programs::alone();
    let home = tempfile::tempdir().unwrap();
    let s3 = S3::start();
    let proxy = Proxy::start(&s3.address);
    let receiver_home = home.path().join("receiver");
    S3::settings(&proxy.address, &receiver_home);
    let receiver = programs::Receiver::start(home.path());
    let board = programs::small_bench(home.path());
    let arguments = ["--board", board.as_str()];
    let hall = programs::CaptureBox::start(home.path(), "hall", Some(&receiver), &arguments);
    let page = format!("http://{}/", receiver.web);
    let id = hall.record();
    let first = format!("/hls/{id}/1/00000000.m4s");
    programs::wait_until(20, "the first segment", || get(&page, &first, "").0 == 200);
    let waiting = || hall.status()["spool"]["waiting_bytes"].as_u64().unwrap();
    let held = || receiver.log().matches("boxes are held back").count();
    let back = || receiver.log().matches("takes segments again").count();
    let play = || {
        let began = hallcast::clock::now();
        let (status, _, body) = get(&page, &first, "");
        let text = match status {
            200 => String::new(),
            _ => String::from_utf8(body).unwrap(),
        };
        (status, text, hallcast::clock::now().since(began).as_secs())
    };

    // The server stands still: requests get no answer, and none is taken for one.
    s3.stop(true);
    let before = waiting();
    let (status, text, seconds) = play();
    assert!(status == 503 && text.contains("does not answer"), "{text}");
    assert!(seconds < 8, "{seconds}");
    let grown = waiting().saturating_sub(before);
    assert!(
        grown > 100_000,
        "DURABLE from a store that stands still: {grown}"
    );
    s3.stop(false);
    programs::wait_until(20, "the backlog to go", || waiting() < 100_000 + before);

    // Connections are cut, then writes refused as by a full bucket.
    for (way, code) in [
        (Way::Cut, 503),
        (Way::RefusesWrites(507, "InsufficientStorage"), 200),
    ] {
        let (held_before, back_before) = (held(), back());
        proxy.set(way);
        programs::wait_until(20, "the boxes to be held back", || held() > held_before);
        let (objects, before) = (stored(&s3).await, waiting());
        programs::pause(2);
        assert_eq!(stored(&s3).await, objects, "{way:?}");
        let grown = waiting().saturating_sub(before);
        println!("{way:?}: {objects} segments there, {grown} bytes more wait on the box");
        assert!(
            grown > 20_000,
            "DURABLE from a store that takes nothing: {grown}"
        );
        let (status, text, _) = play();
        assert_eq!(status, code, "{way:?}: {text}");
        proxy.set(Way::Through);
        programs::wait_until(20, "the store to be taken for back", || {
            back() > back_before
        });
    }
    assert!(receiver.log().contains("store-full"), "{}", receiver.log());
    hall.stop();
    let began = hallcast::clock::now();
    let manifest = format!("/recordings/{id}/manifest.json");
    programs::wait_until(40, "the manifest", || get(&page, &manifest, "").0 == 200);
    let took = hallcast::clock::now().since(began);
    let sealed = programs::spool_hashes(&hall.home.join("state"));
    for (key, _, expected) in &sealed {
        let name = segment_path(key);
        assert_eq!(hash(&s3.object(&name).await), *expected, "{name}");
    }
    let (code, said) = with_settings(&receiver_home, &["verify", "--all"]);
    println!(
        "complete {took:?} after the end, {} segments; {said}",
        sealed.len()
    );
    assert!(code == Some(0) && !said.contains("lost"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_asks_to_slow_down_holds_a_box_back() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = S3::start();
    let proxy = Proxy::start(&s3.address);
    S3::settings(&proxy.address, dir.path());
    let receiver = Receiver::start(dir.path());
    let identity = Identity::signed(&receiver.state_dir, BOX);
    let objects = recording::make(ID, 5, true, false);
    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    device.welcomed((1, 1), 1, &[ID]).await;
    for (name, bytes) in &objects {
        match is_init(name) {
            true => device.stream(&init_stream(&hash(bytes), bytes)).await,
            false => device.stream(&segment_stream(bytes)).await,
        }
    }
    until(&mut device, |message| {
        matches!(message, Message::Complete(_))
    })
    .await;
    proxy.set(Way::RefusesWrites(503, "SlowDown"));
    let back = || proxy.set(Way::Through);
    held_back(
        &receiver,
        &mut device,
        ErrorCode::STORE_FAILED,
        4,
        &objects,
        back,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_changed_on_the_way_to_the_bucket_is_not_durable() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = S3::start();
    let proxy = Proxy::start(&s3.address);
    S3::settings(&proxy.address, dir.path());
    let receiver = Receiver::start(dir.path());
    let identity = Identity::signed(&receiver.state_dir, BOX);
    let objects = recording::make(ID, 5, true, false);
    let segments: Vec<_> = objects.iter().filter(|(name, _)| !is_init(name)).collect();
    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    device.welcomed((1, 1), 1, &[ID]).await;
    for (_, bytes) in objects.iter().filter(|(name, _)| is_init(name)) {
        device.stream(&init_stream(&hash(bytes), bytes)).await;
    }
    proxy.set(Way::Flips(".m4s"));
    for (_, bytes) in &segments {
        device.stream(&segment_stream(bytes)).await;
    }
    let mut refused = BTreeSet::new();
    until(&mut device, |message| {
        assert!(!matches!(message, Message::Durable(_)), "{message:?}");
        if let Message::Error(error) = message {
            assert_eq!(error.code, ErrorCode::STORE_FAILED, "{error:?}");
            refused.insert(error.key.unwrap());
        }
        refused.len() == segments.len()
    })
    .await;
    println!(
        "{} objects were changed on their way, none is durable",
        proxy.flipped()
    );
    assert!(proxy.flipped() >= segments.len() as u64);
    assert_eq!(stored(&s3).await, 0);
    // The box sends them again.
    proxy.set(Way::Through);
    for (_, bytes) in &segments {
        device.stream(&segment_stream(bytes)).await;
    }
    until(&mut device, |message| {
        matches!(message, Message::Complete(_))
    })
    .await;
    for (name, bytes) in &objects {
        assert!(s3.object(name).await == *bytes, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_any_request_to_the_bucket_costs_nothing() {
    let s3 = S3::start();
    let proxy = Proxy::start(&s3.address);
    let objects = recording::make(ID, 3, true, false);
    // One after the other, each at another request; all at all of them in `make soak`.
    let strikes = [
        Strike::InternalError,
        Strike::Reset,
        Strike::ResetAfter,
        Strike::HalfAnswer,
        Strike::SlowDown,
        Strike::ResetAfter,
        Strike::Silence,
    ];
    let stride = programs::soak(strikes.len() as u64, 1);
    let client = Arc::new(proxy.impatient());
    let mut most = 0;
    for (number, strike) in (0..).zip(strikes) {
        let mut at = number % stride;
        loop {
            let folder = format!("{number}-{at}");
            let store = PrefixStore::new(client.clone(), folder.as_str());
            let archive = Archive::shared(Arc::new(store), "bucket");
            let what = format!("{strike:?} at request {at}");
            let mut told = Told::default();
            proxy.set(Way::Strikes(at, strike));
            let lived = life(&archive, || false, &objects, &mut told).await;
            lived.unwrap_or_else(|e| panic!("{what}: {e}"));
            let requests = proxy.requests();
            proxy.set(Way::Through);
            judge(&archive, &objects, &told, &what).await;
            most = most.max(requests);
            if at >= requests {
                break;
            }
            at += stride;
        }
        println!("{strike:?}: tried at every {stride}th of some {most} requests");
    }
    assert!(most > 30, "{most}");
}
