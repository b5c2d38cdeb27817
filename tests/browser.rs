//! A real browser plays what the receiver holds: while a recording runs, and after it ended.

#![cfg(all(feature = "receiver", feature = "software"))]
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

#[path = "support/browser.rs"]
mod browser;
#[path = "support/device.rs"]
mod device;
#[path = "support/receiver.rs"]
mod receiver;
#[path = "support/recording.rs"]
mod recording;

use browser::Browser;
use device::{Device, Identity};
use hallcast::media::{BoxId, RecordingId};
use hallcast::mp4::parse_provenance;
use hallcast::wire::message::Message;
use hallcast::wire::stream::{hash, init_stream};
use receiver::Receiver;
use std::time::Duration;

const OPEN: RecordingId = RecordingId([1; 16]);
const LIVE: RecordingId = RecordingId([3; 16]);
const ENDED: RecordingId = RecordingId([2; 16]);

#[test]
fn a_browser_plays_a_running_and_a_complete_recording() {
    let dir = tempfile::tempdir().unwrap();
    for objects in [
        recording::make(OPEN, 12, false, false),
        recording::make(ENDED, 8, true, true),
    ] {
        recording::write(&objects, &dir.path().join("store"));
    }
    let receiver = Receiver::start(dir.path());
    let browser = Browser::start();

    browser.open(&receiver.page);
    let rows = browser.run(
        "return [...document.querySelectorAll('tbody tr')].map((row) => row.innerText).join('\\n')",
    );
    let rows = rows.as_str().unwrap();
    assert!(rows.contains("Lecture hall 1"), "{rows}");
    assert!(
        rows.contains("recording") && rows.contains("complete"),
        "{rows}"
    );
    shot(&browser, "list");

    browser.open(&format!("{}recordings/{OPEN}", receiver.page));
    let state = browser.assert_plays("main");
    assert_eq!(state.size, (320, 180));
    // A playlist without an end is a recording that runs.
    assert!(state.duration.is_infinite(), "{state:?}");
    shot(&browser, "open");

    browser.open(&format!("{}recordings/{ENDED}", receiver.page));
    let state = browser.assert_plays("main");
    assert!((state.duration - 8.0).abs() < 0.2, "{state:?}");
    // The slides follow in step, without sound.
    let main = browser.video_state("main");
    let slides = browser.wait_for("second", 10, "slides that play", |s| s.time > main.time);
    let apart = (browser.video_state("main").time - slides.time).abs();
    assert!(apart < 0.5, "the tracks are {apart} s apart");
    assert_eq!(
        browser.run("return document.getElementById('second').muted"),
        true
    );
    shot(&browser, "complete");
    // It seeks, and plays to its end.
    browser.run("document.getElementById('main').currentTime = 6.5;");
    browser.wait_for("main", 20, "the end after a seek", |state| state.ended);

    // The film that is downloaded plays too, and seeks by range requests.
    let film = format!("{}recordings/{ENDED}/recording.mp4", receiver.page);
    browser.open(&film);
    browser.run("document.querySelector('video').id = 'main';");
    let state = browser.assert_plays("main");
    assert!((state.duration - 8.0).abs() < 0.2, "{state:?}");
    browser.run("document.getElementById('main').currentTime = 5;");
    browser.wait_for("main", 10, "a seek in the film", |state| state.time > 5.2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_follows_a_recording_from_its_first_segments_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(dir.path());
    let identity = Identity::signed(&receiver.state_dir, BoxId([9; 16]));
    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    device.welcomed((1, 1), 1, &[]).await;
    let objects = recording::make(LIVE, 16, true, false);
    let mut segments: Vec<_> = objects
        .iter()
        .filter(|(name, _)| !name.contains("/init/"))
        .map(|(_, bytes)| (parse_provenance(bytes).unwrap().0, bytes))
        .collect();
    segments.sort_by_key(|(provenance, _)| (provenance.key.sequence, provenance.key.track));
    for (_, bytes) in objects.iter().filter(|(name, _)| name.contains("/init/")) {
        device.stream(&init_stream(&hash(bytes), bytes)).await;
    }
    let (first, later): (Vec<_>, Vec<_>) = segments
        .into_iter()
        .partition(|(provenance, _)| provenance.key.sequence < 3);
    for (_, bytes) in first {
        device.stream(&device::segment_stream(bytes)).await;
    }
    let durable = async {
        while !matches!(device.next().await, Message::Durable(d) if d.durable.end() == 3) {}
    };
    durable.await;

    let url = format!("{}recordings/{LIVE}", receiver.page);
    let watching = tokio::task::spawn_blocking(move || {
        let browser = Browser::start();
        browser.open(&url);
        let live = browser.assert_plays("main");
        assert!(live.duration.is_infinite(), "{live:?}");
        let ended = browser.wait_for("main", 60, "the end of the recording", |s| s.ended);
        assert!((ended.duration - 16.0).abs() < 0.2, "{ended:?}");
        let state = browser.run("return document.getElementById('state').textContent");
        assert_eq!(state, "complete");
    });
    // The others come as fast as they would from a hall.
    for pair in later.chunks(2) {
        hallcast::clock::pause(Duration::from_secs(2)).await;
        for (_, bytes) in pair {
            device.stream(&device::segment_stream(bytes)).await;
        }
    }
    watching.await.unwrap();
}

/// Keeps a picture of the window where `HALLCAST_SCREENSHOTS` names a directory.
fn shot(browser: &Browser, name: &str) {
    if let Some(dir) = std::env::var_os("HALLCAST_SCREENSHOTS") {
        browser.screenshot(&std::path::Path::new(&dir).join(format!("{name}.png")));
    }
}
