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
#[allow(dead_code, reason = "shared with the tests of the whole road")]
#[path = "support/programs.rs"]
mod programs;
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
use programs::CaptureBox;
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

/// Two cameras with small pictures, whose burnt-in counters tell when each was taken, and a tone.
fn two_cameras(home: &std::path::Path) -> String {
    let path = home.join("two-cameras.toml");
    let camera = "width = 640\nheight = 360\nrate = \"30\"\n";
    let board = format!(
        "schema = 1\nname = \"two-cameras\"\n[presenter.pattern]\n{camera}[slides.pattern]\n{camera}\
         [microphone.tone]\n[panel.simulated]\n"
    );
    std::fs::write(&path, board).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Seconds between a picture's capture and now, for the picture that the page shows.
fn behind(browser: &Browser, id: &str) -> Option<f64> {
    let counter = browser.counter(id)?;
    let ticks = hallcast::clock::now().as_nanos() / 1_000_000 * 30 / 1000;
    let wrap = 1 << 24;
    let late = (ticks % wrap + wrap - u64::from(counter)) % wrap;
    Some(late as f64 / 30.0)
}

#[test]
fn a_hall_is_watched_live_through_a_restart_of_the_receiver_and_again_afterwards() {
    let home = tempfile::tempdir().unwrap();
    let mut receiver = programs::Receiver::start(home.path());
    let board = two_cameras(home.path());
    let hall = CaptureBox::start(home.path(), "hall", Some(&receiver), &["--board", &board]);
    let browser = Browser::start();
    let recording = hall.record();

    // Opened at once, before there is anything to show: the page gets there by itself.
    let url = format!("http://{}/recordings/{recording}", receiver.web);
    browser.open(&url);
    shot(&browser, "live-opened-at-once");
    let ready = || {
        browser.run("return !!document.getElementById('second') && document.getElementById('main').readyState >= 2") == true
    };
    programs::wait_until(20, "players of both cameras", ready);
    let live = browser.assert_plays("main");
    assert!(live.duration.is_infinite(), "{live:?}");
    // Some seconds near the live edge.
    let from = browser.video_state("main").time;
    let began = hallcast::clock::now();
    let mut lateness = Vec::new();
    while hallcast::clock::now().since(began) < Duration::from_secs(8) {
        lateness.extend(behind(&browser, "main"));
        hallcast::clock::sleep(Duration::from_millis(100));
    }
    let played = browser.video_state("main").time - from;
    let wall = hallcast::clock::now().since(began).as_secs_f64();
    assert!((played - wall).abs() < 1.0, "{played} s played in {wall} s");
    let apart = behind(&browser, "main").zip(behind(&browser, "second"));
    lateness.sort_by(f64::total_cmp);
    let (least, most) = (lateness[0], lateness[lateness.len() - 1]);
    println!(
        "capture to screen, live: {least:.2} to {most:.2} s, median {:.2} s, of {} pictures; (presenter, slides) {apart:.2?}",
        lateness[lateness.len() / 2],
        lateness.len()
    );
    assert!(most < 12.0, "{most} s behind");
    shot(&browser, "live");

    // The receiver restarts: the page goes on by itself, without a jump back.
    let before = browser.video_state("main").time;
    receiver.kill_and_restart();
    let on = browser.wait_for(
        "main",
        45,
        "playing on after the receiver's restart",
        |state| state.time > before + 12.0,
    );
    println!(
        "after the receiver's restart: {:.2?} s behind, {} s on",
        behind(&browser, "main"),
        on.time - before
    );
    shot(&browser, "live-after-restart");

    assert_eq!(hall.stop(), recording);
    receiver.wait_complete(&recording, 30);
    let ended = browser.wait_for("main", 30, "the end of the recording", |state| state.ended);
    assert!(
        ended.duration.is_finite() && ended.error.is_none(),
        "{ended:?}"
    );
    let words = || browser.run("return document.getElementById('state').textContent") == "complete";
    programs::wait_until(10, "the page to say so", words);
    assert_eq!(
        browser.run("return document.querySelector('.later').hidden"),
        false
    );
    shot(&browser, "live-ended");

    browser.open(&url);
    let vod = browser.assert_plays("main");
    assert!((vod.duration - ended.duration).abs() < 0.5, "{vod:?}");
    let middle = vod.duration / 2.0;
    browser.run(&format!(
        "document.getElementById('main').currentTime = {middle};"
    ));
    browser.wait_for("main", 10, "playing on from the middle", |state| {
        state.time > middle + 1.0 && state.time < middle + 5.0
    });
    shot(&browser, "live-afterwards");
}

/// Keeps a picture of the window where `HALLCAST_SCREENSHOTS` names a directory.
fn shot(browser: &Browser, name: &str) {
    if let Some(dir) = std::env::var_os("HALLCAST_SCREENSHOTS") {
        browser.screenshot(&std::path::Path::new(&dir).join(format!("{name}.png")));
    }
}
