//! A real browser plays what the receiver holds: while a recording runs, and after it ended.
//!
//! `HALLCAST_SCREENSHOTS=DIR cargo test --test browser` keeps a picture of each page in DIR, in light,
//! in dark and on a phone; `player.png` of them is the README's `docs/player.png`.

#![cfg(all(feature = "receiver", feature = "software"))]
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]
#![allow(
    clippy::await_holding_lock,
    reason = "held for a whole test, which no other task waits for"
)]

#[path = "support/browser.rs"]
mod browser;
#[path = "support/chance.rs"]
mod chance;
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
use chance::Stalls;
use device::{Device, Identity};
use hallcast::media::health::{Alarm, Health};
use hallcast::media::{BoxId, RecordingId};
use hallcast::mp4::parse_provenance;
use hallcast::wire::message::Message;
use hallcast::wire::stream::{hash, init_stream};
use programs::{CaptureBox, alone};
use receiver::Receiver;
use std::time::Duration;
use tokio::sync::oneshot;

const OPEN: RecordingId = RecordingId([1; 16]);
const LIVE: RecordingId = RecordingId([3; 16]);
const ENDED: RecordingId = RecordingId([2; 16]);
const HOLED: RecordingId = RecordingId([4; 16]);
const SOUND: RecordingId = RecordingId([5; 16]);

#[test]
fn a_browser_plays_a_running_and_a_complete_recording() {
    let _alone = alone();
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
    looks(&browser, "list");

    browser.open(&format!("{}recordings/{OPEN}", receiver.page));
    let state = browser.assert_plays("main");
    assert_eq!(state.size, (320, 180));
    // A playlist without an end is a recording that runs.
    assert!(state.duration.is_infinite(), "{state:?}");
    looks(&browser, "open");

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
    looks(&browser, "complete");
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
    let _alone = alone();
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

    let health = Health {
        state: "recording".into(),
        recording_seconds: Some(75),
        alarms: vec![Alarm {
            code: "slides-missing".into(),
            message: "it is not plugged in".into(),
            ..Alarm::default()
        }],
        ..Health::default()
    };
    device.say(&Message::Status(health)).await;
    let boxes = format!("{}boxes", receiver.page);

    let url = format!("{}recordings/{LIVE}", receiver.page);
    let (shows, shown) = oneshot::channel();
    let (plays, played) = oneshot::channel();
    let watching = tokio::task::spawn_blocking(move || {
        let browser = Browser::start();
        browser.open(&boxes);
        let rows = browser.run("return document.getElementById('boxes').innerText");
        let rows = rows.as_str().unwrap();
        assert!(
            rows.contains("1:15") && rows.contains("slides-missing: it is not plugged in"),
            "{rows}"
        );
        looks(&browser, "boxes");
        browser.open(&url);
        browser.play("main");
        browser.wait_for("main", 60, "a picture of a recording that runs", |state| {
            state.duration.is_infinite() && state.time > 0.0
        });
        let _ = shows.send(());
        let live = browser.assert_plays("main");
        assert!(live.duration.is_infinite(), "{live:?}");
        let _ = plays.send(());
        let ended = browser.wait_for("main", 60, "the end of the recording", |s| s.ended);
        assert!((ended.duration - 16.0).abs() < 0.2, "{ended:?}");
        let state = browser.run("return document.getElementById('state').textContent");
        assert_eq!(state, "complete");
    });
    // The others come as fast as they would from a hall, but only once the page shows the first: a browser
    // takes as long to start as the machine lets it. The last ones wait until it has played while there
    // was no end. A page that fails drops its word, and says below why.
    let _ = shown.await;
    let (later, last) = later.split_at(later.len() - 2);
    for pair in later.chunks(2) {
        hallcast::clock::pause(Duration::from_secs(2)).await;
        for (_, bytes) in pair {
            device.stream(&device::segment_stream(bytes)).await;
        }
    }
    let _ = played.await;
    for (_, bytes) in last {
        device.stream(&device::segment_stream(bytes)).await;
    }
    watching.await.unwrap();
}

#[test]
fn lost_segments_leave_the_rest_in_its_place() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    recording::write(&recording::make(HOLED, 10, true, false), &store);
    // The presenter's second segment and the sound's third never come.
    for (track, sequence) in [(1, 1), (2, 2)] {
        let folder = store.join(format!("recordings/{HOLED}"));
        std::fs::remove_file(folder.join(format!("{track}/{sequence:08}.m4s"))).unwrap();
        let lost = folder.join("lost");
        std::fs::create_dir_all(&lost).unwrap();
        let name = format!("{track}.{sequence}-{sequence}.no-space");
        std::fs::write(lost.join(name), b"").unwrap();
    }
    let receiver = Receiver::start(dir.path());
    let browser = Browser::start();
    browser.open(&format!("{}recordings/{HOLED}", receiver.page));
    let state = browser.assert_plays("main");
    assert!((state.duration - 10.0).abs() < 0.2, "{state:?}");
    browser.wait_for("main", 30, "the end, over the holes", |state| state.ended);

    browser.open(&format!(
        "{}recordings/{HOLED}/recording.mp4",
        receiver.page
    ));
    browser.run("document.querySelector('video').id = 'main';");
    // It plays by itself: from its beginning, once the page looks.
    browser.run("const v = document.getElementById('main'); v.pause(); v.currentTime = 0;");
    browser.sample("main");
    let state = browser.assert_plays("main");
    assert!((state.duration - 10.0).abs() < 0.2, "{state:?}");
    browser.wait_for("main", 30, "the end of the film", |state| state.ended);
    let samples = browser.samples("main");
    let count = |from: f64, to: f64, good: &dyn Fn(f64) -> bool| {
        let within = samples.iter().filter(|now| (from..to).contains(&now.time));
        within.filter(|now| good(now.rms)).count()
    };
    let held = count(2.3, 3.7, &|_| true);
    let silent = count(4.3, 5.7, &|rms| rms < 0.01);
    let again = count(6.3, 9.5, &|rms| rms > 0.1);
    assert!(
        held > 3 && silent > 3 && again > 3,
        "{held} held, {silent} silent, {again} after"
    );
}

#[test]
fn pages_without_pictures_say_so() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(dir.path());
    let browser = Browser::start();
    let text = || {
        browser
            .run("return document.body.innerText")
            .as_str()
            .unwrap()
            .to_owned()
    };
    browser.open(&receiver.page);
    assert!(
        text().contains("Nothing has been recorded yet"),
        "{}",
        text()
    );
    looks(&browser, "empty");
    browser.open(&format!("{}recordings/{SOUND}", receiver.page));
    assert!(
        text().contains("There is no such recording here"),
        "{}",
        text()
    );
    looks(&browser, "unknown");
    drop(receiver);

    recording::write(&recording::sound_only(SOUND, 6), &dir.path().join("store"));
    let receiver = Receiver::start(dir.path());
    browser.log();
    browser.open(&format!("{}recordings/{SOUND}", receiver.page));
    browser.listen("main");
    browser.play("main");
    let mut loudest: f64 = 0.0;
    browser.wait_for("main", 20, "sound", |state| {
        loudest = loudest.max(state.rms);
        state.time > 1.5 && loudest > 0.1
    });
    assert!(text().contains("Sound, no picture"), "{}", text());
    looks(&browser, "sound");
    browser.wait_for("main", 20, "the end", |state| state.ended);
    assert_eq!(browser.log(), Vec::<String>::new());
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

/// Watches a live page for some seconds, which must play as fast as time goes, and pictures with it; gives how
/// far behind the pictures were. Once more where the machine itself stood still meanwhile.
fn watched(browser: &Browser, stalls: &Stalls) -> Vec<f64> {
    for last in [false, true] {
        let mut lateness = Vec::new();
        let began = hallcast::clock::now();
        browser.sample("main");
        while hallcast::clock::now().since(began) < Duration::from_secs(8) {
            lateness.extend(behind(browser, "main"));
            hallcast::clock::sleep(Duration::from_millis(500));
        }
        let samples = browser.samples("main");
        let (first, end) = (samples[0], samples[samples.len() - 1]);
        let (played, wall) = (end.time - first.time, (end.at - first.at) / 1000.0);
        let pictures = (end.pictures - first.pictures) as f64 / 30.0;
        let stood = stalls.between(began, hallcast::clock::now());
        println!(
            "{played:.2} s played and pictures of {pictures:.2} s shown in {wall:.2} s; the machine stood still {stood:.2?}"
        );
        let close = |one: f64, other: f64| (one - other).abs() < 1.0;
        if close(played, wall) && close(pictures, played) {
            return lateness;
        }
        assert!(
            !last && !stood.is_zero(),
            "{played} s played, and pictures of {pictures} s shown, in {wall} s"
        );
    }
    unreachable!()
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
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let stalls = Stalls::watch();
    let mut receiver = programs::Receiver::start(home.path());
    let board = two_cameras(home.path());
    let hall = CaptureBox::start(
        home.path(),
        "Lecture hall 1",
        Some(&receiver),
        &["--board", &board],
    );
    let browser = Browser::start();
    let recording = hall.record();

    // Opened at once, before there is anything to show: the page gets there by itself.
    let url = format!("http://{}/recordings/{recording}", receiver.web);
    browser.open(&url);
    looks(&browser, "live-opened-at-once");
    let ready = || {
        browser.run("return !!document.getElementById('second') && document.getElementById('main').readyState >= 2") == true
    };
    programs::wait_until(20, "players of both cameras", ready);
    let live = browser.assert_plays("main");
    assert!(live.duration.is_infinite(), "{live:?}");
    println!(
        "opened with the recording: {:.2?} s behind",
        behind(&browser, "main")
    );
    // Whoever comes later joins near the live edge, and stays there.
    let ten_seconds = || {
        let length = browser.run("return document.getElementById('length').textContent");
        length.as_str() >= Some("0:10")
    };
    programs::wait_until(20, "ten seconds of recording", ten_seconds);
    browser.open(&url);
    let live = browser.assert_plays("main");
    assert!(live.duration.is_infinite() && live.time > 3.0, "{live:?}");
    let mut lateness = watched(&browser, &stalls);
    let apart = behind(&browser, "main").zip(behind(&browser, "second"));
    lateness.sort_by(f64::total_cmp);
    let (least, most) = (lateness[0], lateness[lateness.len() - 1]);
    println!(
        "capture to screen, live: {least:.2} to {most:.2} s, median {:.2} s, of {} pictures; (presenter, slides) {apart:.2?}",
        lateness[lateness.len() / 2],
        lateness.len()
    );
    assert!(most < 12.0, "{most} s behind");
    looks(&browser, "live");
    // The picture of the README: docs/player.png.
    browser.look(1200, 620, false);
    // Not at the flash, which the pattern shows at each whole second.
    let bars = || {
        browser
            .counter("main")
            .is_some_and(|n| (3..12).contains(&(n % 30)))
    };
    programs::wait_until(10, "bars", bars);
    shot(&browser, "player");

    // The receiver restarts: the page goes on by itself, without a jump back.
    let before = browser.video_state("main").time;
    programs::run("kill", &[&receiver.pid().to_string()]);
    programs::wait_until(5, "the receiver's end", || {
        receiver.log().contains("session ended: done")
    });
    receiver.kill_and_restart();
    let on = browser.wait_for(
        "main",
        45,
        "playing on after the receiver's restart",
        |state| state.time > before + 9.0,
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

/// Pictures of the page in light, in dark, and on a phone.
fn looks(browser: &Browser, name: &str) {
    for (look, width, height, dark) in [
        ("light", 1100, 760, false),
        ("dark", 1100, 760, true),
        ("phone", 390, 800, true),
    ] {
        browser.look(width, height, dark);
        shot(browser, &format!("{name}-{look}"));
        let wide = browser
            .run("return document.documentElement.scrollWidth")
            .as_u64();
        assert!(
            wide <= Some(width.into()),
            "{name} is {wide:?} points wide on {width}"
        );
    }
}

/// Keeps a picture of the window where `HALLCAST_SCREENSHOTS` names a directory.
fn shot(browser: &Browser, name: &str) {
    if let Some(dir) = std::env::var_os("HALLCAST_SCREENSHOTS") {
        browser.screenshot(&std::path::Path::new(&dir).join(format!("{name}.png")));
    }
}
