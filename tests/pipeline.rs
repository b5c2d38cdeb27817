//! The whole road with the real programs: a box with the bench board and a receiver, on loopback.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod support;

use hallcast::clock;
use hallcast::station::{Reply, Request, ask};
use std::time::Duration;
use support::archive::assert_archive_is_the_spool;
use support::chance::{Excuses, Stalls};
use support::film::{Film, offsets_ms};
use support::programs::{CaptureBox, Receiver, alone, losses, pause, soak, wait_until};

/// How long a box may take to seal its recording and end once it is asked to.
const SEALED: Duration = Duration::from_secs(2);
/// How long after a box the receiver knows how the box is.
const KNOWN: Duration = Duration::from_secs(3);

/// The burnt-in counters of the pictures, in order.
fn counters(film: &Film) -> Vec<u32> {
    counters_of(film, 1280, 720)
}

fn counters_of(film: &Film, width: usize, height: usize) -> Vec<u32> {
    let read = |luma: &Vec<u8>| hallcast::source::read_counter(luma, width, height, width);
    film.lumas_of(width, height)
        .iter()
        .map(|luma| read(luma).expect("every picture carries its number"))
        .collect()
}

#[test]
fn a_recording_arrives_whole_in_step_and_countable() {
    let _alone = alone();
    let seconds = soak(20, 600);
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let capture_box =
        CaptureBox::start(home.path(), "hall", Some(&receiver), &["--board", "bench"]);
    wait_until(10, "the connection", || {
        capture_box.status()["uplink"]["connected"] == true
    });

    let record = || {
        let before = capture_box.status();
        let recording = capture_box.record();
        pause(seconds);
        let during = capture_box.status();
        assert_eq!(
            (&during["state"], &during["lamp"]),
            (&"recording".into(), &"solid".into())
        );
        assert_eq!(capture_box.stop(), recording);
        (before, recording, capture_box.status())
    };
    let (mut before, mut recording, mut after) = record();
    for _ in 0..2 {
        let lost = losses(&before, &after);
        if lost == 0 {
            break;
        }
        println!("the machine cost {lost} pictures or blocks: once more");
        (before, recording, after) = record();
    }
    let manifest = receiver.wait_complete(&recording, 20);
    assert_eq!(manifest["ended_by"], "socket", "{manifest}");

    let segments = assert_archive_is_the_spool(&receiver, &capture_box, &recording);
    let film = Film::open(&receiver.film(&recording));
    film.assert_decodes();
    film.assert_moov_first();

    let presenter = &after["tracks"][0];
    let ticks = presenter["ticks"].as_u64().unwrap();
    assert!(
        ticks.abs_diff(30 * seconds) <= 30 * 2,
        "{ticks} ticks in about {seconds} s"
    );
    assert_eq!(film.pictures(), ticks, "one picture per tick");
    let sound_ticks = film.sound_seconds() * 30.0;
    assert!(
        (sound_ticks - ticks as f64).abs() <= 1.0,
        "sound lasts {sound_ticks} ticks, pictures {ticks}"
    );

    // Each picture is the next one of the source, but for the repeats and drops that were counted.
    let numbers = counters(&film);
    let (repeats, drops) = (
        presenter["repeats"].as_u64().unwrap(),
        presenter["drops"].as_u64().unwrap(),
    );
    let repeated = numbers.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
    let skipped: u64 = numbers
        .windows(2)
        .map(|pair| u64::from(pair[1].saturating_sub(pair[0])).saturating_sub(1))
        .sum();
    assert!(numbers.is_sorted());
    let lost = presenter["lost"].as_u64().unwrap() + presenter["dropped"].as_u64().unwrap();
    assert!(
        repeated <= repeats && skipped <= drops + lost,
        "{repeated}/{repeats} repeats, {skipped}/{drops}+{lost} drops"
    );

    let (flashes, clicks) = (film.flashes(), film.clicks());
    let offsets = offsets_ms(&clicks, &flashes);
    assert!(
        offsets.len() as u64 + 2 >= seconds,
        "{} marks in {seconds} s",
        offsets.len()
    );
    let worst = offsets.iter().copied().fold(0.0, |worst: f64, offset| {
        if offset.abs() > worst.abs() {
            offset
        } else {
            worst
        }
    });
    assert!(worst.abs() <= 20.0, "sound is {worst} ms off the picture");

    let encode: f64 = after["tracks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|track| track["encode_cpu_seconds"].as_f64().unwrap())
        .sum();
    let encode_before: f64 = before["tracks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|track| track["encode_cpu_seconds"].as_f64().unwrap())
        .sum();
    let all = after["cpu_seconds"].as_f64().unwrap() - before["cpu_seconds"].as_f64().unwrap();
    let per_minute = 60.0 / seconds as f64;
    println!(
        "pictures: {ticks} ticks, {} found, {repeats} repeats, {drops} drops; {segments} segments",
        film.pictures()
    );
    println!(
        "sound: {sound_ticks:.2} ticks; worst A/V offset of {} marks: {worst:.2} ms",
        offsets.len()
    );
    for track in after["tracks"].as_array().unwrap() {
        let (name, lateness) = (&track["name"], &track["capture_to_received_ms"]);
        println!(
            "{name}: capture of a chunk's start to RECEIVED (p50, p99, chunks): {lateness} ms"
        );
    }
    println!(
        "CPU per recorded minute: {:.2} s encoding, {:.2} s all else",
        (encode - encode_before) * per_minute,
        (all - (encode - encode_before)) * per_minute
    );
    println!(
        "resident: box {} MB, receiver {} MB",
        after["resident_bytes"].as_u64().unwrap() / 1_000_000,
        support::programs::resident_bytes(receiver.pid()) / 1_000_000
    );
}

/// The presenter's gaps in seconds, first to last, with their causes.
fn gaps(manifest: &serde_json::Value) -> Vec<(f64, f64, String)> {
    let seconds = |value: &serde_json::Value| value.as_f64().unwrap() / 90_000.0;
    let gaps = manifest["gaps"].as_array().unwrap().iter();
    gaps.filter(|gap| gap["track"] == 1)
        .map(|gap| {
            let start = seconds(&gap["start"]);
            let cause = gap["cause"].as_str().unwrap().to_owned();
            (start, start + seconds(&gap["duration"]), cause)
        })
        .collect()
}

#[test]
fn a_camera_that_comes_late_and_goes_again_leaves_slates_two_gaps_and_an_alarm() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    // A camera of one shade that can be plugged in and pulled: a file of raw pictures.
    let (camera, away) = (home.path().join("camera.yuv"), home.path().join("away.yuv"));
    let picture = [vec![180; 320 * 180], vec![128; 320 * 90]].concat();
    std::fs::write(&away, picture.repeat(6 * 30)).unwrap();
    let board = home.path().join("late.toml");
    let text = format!(
        "schema = 1\nname = \"late\"\n[presenter.replay]\nfile = \"{}\"\nwidth = 320\nheight = 180\n\
         rate = \"30\"\nat-end = \"stop\"\n[microphone.tone]\n[panel.simulated]\n",
        camera.display()
    );
    std::fs::write(&board, text).unwrap();
    let arguments = ["--board", board.to_str().unwrap()];
    let capture_box = CaptureBox::start(home.path(), "hall", Some(&receiver), &arguments);
    let open = || capture_box.status()["tracks"][0]["open"] == true;
    let alarmed = || {
        capture_box.status()["alarms"]
            .to_string()
            .contains("presenter-no-signal")
    };
    wait_until(10, "the connection", || {
        capture_box.status()["uplink"]["connected"] == true
    });

    let recording = capture_box.record();
    pause(3);
    assert_eq!(capture_box.status()["lamp"], "double-wink", "no camera");
    std::fs::rename(&away, &camera).unwrap();
    wait_until(10, "the camera", open);
    std::fs::rename(&camera, &away).unwrap();
    pause(2);
    assert_eq!(capture_box.status()["lamp"], "solid");
    assert!(!alarmed(), "less than ten seconds");
    wait_until(20, "its end", || !open());
    wait_until(30, "the alarm", alarmed);
    assert_eq!(capture_box.status()["lamp"], "double-wink");
    std::fs::rename(&away, &camera).unwrap();
    wait_until(10, "the camera", open);
    pause(2);
    assert!(!alarmed());
    assert_eq!(capture_box.status()["lamp"], "solid");
    assert_eq!(capture_box.stop(), recording);
    let manifest = receiver.wait_complete(&recording, 20);
    assert_archive_is_the_spool(&receiver, &capture_box, &recording);

    let alarms = support::archive::alarms(&receiver, &recording);
    let signal: Vec<bool> = alarms
        .iter()
        .filter(|(code, ..)| code == "presenter-no-signal")
        .map(|(_, raised, _)| *raised)
        .collect();
    assert_eq!(signal, [true, false], "{alarms:?}");

    let segments = manifest["tracks"].as_array().unwrap();
    let track = segments.iter().find(|track| track["name"] == "presenter");
    let segments = track.unwrap()["segments"].as_array().unwrap();
    let mut end = 0;
    for segment in segments {
        assert_eq!(segment["start"], end, "the track has no hole: {segment}");
        assert_eq!(segment["init"], segments[0]["init"], "one init");
        end = segment["start"].as_u64().unwrap() + segment["duration"].as_u64().unwrap();
    }
    let film = Film::open(&receiver.film(&recording));
    film.assert_decodes();
    assert_eq!(film.pictures() * 3000, end);
    let found = gaps(&manifest);
    println!("gaps: {found:?}");
    let [(first, joined, why), (lost, again, and)] = &found[..] else {
        panic!("one gap for each fault: {found:?}");
    };
    assert_eq!(
        (*first, why.as_str(), and.as_str()),
        (0.0, "device-missing", "device-missing")
    );
    assert!((2.5..8.0).contains(joined) && again - lost > 11.0);
    let tick = |seconds: &f64| (seconds * 30.0).round() as usize;
    let slates = film.slates("presenter");
    let shown = slates
        .iter()
        .skip(tick(lost))
        .position(|slate| *slate)
        .unwrap();
    println!(
        "  the slate is there {:.2} s after the last picture",
        shown as f64 / 30.0
    );
    assert!(shown <= 2 * 30, "{shown} ticks");
    for (at, slate) in slates.iter().enumerate() {
        let expected = at < tick(joined) || (tick(lost) + shown..tick(again)).contains(&at);
        assert_eq!(*slate, expected, "tick {at}, {found:?}");
    }
}

#[test]
fn two_boxes_at_once_finish_though_one_is_killed() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let board = support::programs::small_bench(home.path());
    let steady = CaptureBox::start(home.path(), "steady", Some(&receiver), &["--board", &board]);
    let mut killed =
        CaptureBox::start(home.path(), "killed", Some(&receiver), &["--board", &board]);
    let (first, second) = (steady.record(), killed.record());
    pause(4);
    // A box that comes back within the time of one picture may have been away for none.
    killed.kill();
    pause(1);
    killed.restart();
    wait_until(10, "the recording to be taken up", || {
        killed.status()["state"] == "recording"
    });
    assert_eq!(
        killed.status()["recording"]["id"],
        second.as_str(),
        "the same recording continues"
    );
    pause(4);
    assert_eq!(
        (steady.stop(), killed.stop()),
        (first.clone(), second.clone())
    );
    for (capture_box, recording, spans) in [(&steady, first, 1), (&killed, second, 2)] {
        let manifest = receiver.wait_complete(&recording, 20);
        assert_eq!(
            manifest["spans"].as_array().unwrap().len(),
            spans,
            "{manifest}"
        );
        if spans == 2 {
            // Both spans are of one boot, whose clock tells how long the box was away.
            let span = &manifest["spans"][1];
            let away = span["away_ns"].as_u64().unwrap();
            println!("away for {} ms", away / 1_000_000);
            assert!((900_000_000..30_000_000_000).contains(&away), "{span}");
            assert_eq!(span["away_uncertainty_ns"], 1_000_000, "{span}");
        }
        assert_archive_is_the_spool(&receiver, capture_box, &recording);
        let film = Film::open(&receiver.film(&recording));
        film.assert_decodes();
        assert!(film.pictures() >= 30 * 6, "{} pictures", film.pictures());
    }
}

#[test]
fn a_receiver_that_is_killed_loses_nothing() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::start(home.path());
    let board = support::programs::small_bench(home.path());
    let capture_box = CaptureBox::start(home.path(), "hall", Some(&receiver), &["--board", &board]);
    let recording = capture_box.record();
    for _ in 0..3 {
        pause(3);
        receiver.kill_and_restart();
    }
    pause(2);
    capture_box.stop();
    receiver.wait_complete(&recording, 40);
    assert_archive_is_the_spool(&receiver, &capture_box, &recording);
    Film::open(&receiver.film(&recording)).assert_decodes();
}

#[test]
fn a_box_records_without_any_receiver_and_sends_later() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let board = support::programs::small_bench(home.path());
    let capture_box = CaptureBox::start(home.path(), "hall", Some(&receiver), &["--board", &board]);
    let (quic, web) = (receiver.quic.clone(), receiver.web.clone());
    let stopped = receiver.stop();
    wait_until(20, "the lost connection", || {
        capture_box.status()["uplink"]["connected"] == false
    });
    let recording = capture_box.record();
    pause(5);
    assert_eq!(
        capture_box.status()["lamp"],
        "wink",
        "recording, and the receiver is away"
    );
    capture_box.stop();
    assert!(
        capture_box.status()["spool"]["waiting_bytes"]
            .as_u64()
            .unwrap()
            > 0
    );
    let receiver = Receiver::start_again(stopped, quic, web);
    receiver.wait_complete(&recording, 60);
    assert_archive_is_the_spool(&receiver, &capture_box, &recording);
    wait_until(10, "the spool to know", || {
        capture_box.status()["spool"]["waiting_bytes"] == 0
    });
}

#[test]
fn an_unknown_box_is_refused_and_both_sides_say_why() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let other = Receiver::start(&home.path().join("other"));
    let board = support::programs::small_bench(home.path());
    // Signed by another receiver's authority.
    let state = home.path().join("stranger/state");
    support::programs::enroll(&state, &other, "stranger");
    let address = receiver.quic.clone();
    let stranger = CaptureBox::start(
        home.path(),
        "stranger",
        None,
        &["--board", &board, "--receiver", &address],
    );
    wait_until(10, "the refusal in both logs", || {
        [stranger.log(), receiver.log()]
            .iter()
            .all(|log| log.contains("certificate (34)"))
    });
    assert_eq!(stranger.status()["uplink"]["connected"], false);
    // It records all the same.
    let recording = stranger.record();
    pause(2);
    assert_eq!(stranger.stop(), recording);
    assert!(!receiver.archive(&recording).exists());
}

#[test]
fn requests_that_change_nothing_say_why() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let board = support::programs::small_bench(home.path());
    let capture_box = CaptureBox::start(home.path(), "hall", None, &["--board", &board]);
    let said = |command: &str| {
        let output = capture_box.ask(command);
        assert!(!output.status.success(), "{command}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(said("stop"), "hallcast: not recording\n");
    let recording = capture_box.record();
    assert_eq!(said("start"), "hallcast: already recording\n");
    let press = capture_box.ask("press");
    assert_eq!(
        String::from_utf8(press.stdout).unwrap().trim(),
        recording,
        "a press while recording changes nothing"
    );
    assert_eq!(capture_box.stop(), recording);
    // Sooner it would be the same press: a finger rests on the button for a moment.
    pause(1);
    assert!(capture_box.ask("press").status.success());
    wait_until(5, "the pressed recording", || {
        capture_box.status()["state"] == "recording"
    });
}

#[test]
fn a_pause_is_one_gap_of_one_recording_and_nothing_of_it_is_in_the_film() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let board = support::programs::small_bench(home.path());
    let capture_box = CaptureBox::start(home.path(), "hall", Some(&receiver), &["--board", &board]);
    let socket = capture_box.home.join("control");
    // Gives the times around a request that is done.
    let done = |request: Request| {
        let before = clock::now();
        let answer = ask(&socket, &request).unwrap();
        assert!(matches!(answer, Reply::Done { .. }), "{answer:?}");
        (before, clock::now())
    };
    let began = clock::now();
    let recording = capture_box.record();
    pause(3);
    let paused = done(Request::Pause);
    pause(1);
    let status = capture_box.status();
    let seconds = status["recording"]["seconds"].as_u64().unwrap();
    assert_eq!(
        (&status["state"], &status["lamp"]),
        (&"paused".into(), &"slow-blink".into())
    );
    pause(2);
    let ticks = |status: &serde_json::Value| status["tracks"][0]["ticks"].as_u64().unwrap();
    let after = capture_box.status();
    assert_eq!(
        after["recording"]["seconds"], seconds,
        "a pause does not count"
    );
    assert_eq!(ticks(&after), ticks(&status), "nothing is captured");
    let resumed = done(Request::Resume);
    pause(3);
    assert_eq!(capture_box.status()["lamp"], "solid");
    done(Request::Mark);
    pause(1);
    assert_eq!(capture_box.stop(), recording);

    let manifest = receiver.wait_complete(&recording, 20);
    assert_archive_is_the_spool(&receiver, &capture_box, &recording);
    assert_eq!(
        (&manifest["started_by"], &manifest["ended_by"]),
        (&"socket".into(), &"socket".into())
    );
    assert_eq!(
        manifest["gaps"].as_array().unwrap().len(),
        0,
        "no device failed"
    );
    let described = manifest["spans"].as_array().unwrap();
    assert_eq!(described.len(), 2, "{manifest}");
    assert_eq!(described[0]["away_cause"], serde_json::Value::Null);
    assert_eq!(described[1]["away_cause"], "paused");
    let gap = described[1]["away_ns"].as_u64().unwrap() as f64 / 1e9;
    let least = resumed.0.since(paused.1).as_secs_f64();
    let most = resumed.1.since(paused.0).as_secs_f64();
    println!("paused for {least:.4} to {most:.4} s by the commands, {gap:.4} s on record");
    assert!(least - 0.1 <= gap && gap <= most + 0.1);
    let marks = manifest["marks"].as_array().unwrap();
    assert_eq!(marks.len(), 1, "{manifest}");
    assert_eq!(marks[0]["span"], 1);
    assert!((2_500_000_000..6_000_000_000).contains(&marks[0]["at_ns"].as_u64().unwrap()));

    // When each picture was captured is burnt into it.
    let spans = support::timeline::spans(&receiver.archive(&recording), began);
    assert_eq!(spans.len(), 2);
    let (last, first) = (spans[0].pictures.unwrap().1, spans[1].pictures.unwrap().0);
    println!(
        "the last picture {:.1} ms before the pause was answered, the first {:.1} ms after it was over",
        paused.1.offset_from(last) as f64 / 1e6,
        first.offset_from(resumed.0) as f64 / 1e6
    );
    // The last tick before the pause takes the picture that is nearest to it, which may be half a tick
    // younger; and so does the first one after it.
    let half = Duration::from_millis(17);
    assert!(last <= paused.1.plus(half) && first.plus(half) >= resumed.0);
    let film = Film::open(&receiver.film(&recording));
    film.assert_decodes();
    let numbers = counters_of(&film, 320, 180);
    assert_eq!(film.pictures() as usize, numbers.len());
    let jumps: Vec<u32> = numbers.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let jumps: Vec<u32> = jumps.into_iter().filter(|ticks| *ticks > 30).collect();
    let [jump] = jumps[..] else {
        panic!("one place where pictures are missing: {jumps:?}");
    };
    println!(
        "the film has {} pictures, and {jump} ticks lie in the pause",
        numbers.len()
    );
    assert!((f64::from(jump) / 30.0 - gap).abs() <= 0.1);
    let page = String::from_utf8(receiver.get(&format!("/recordings/{recording}"))).unwrap();
    assert!(page.contains(", paused"), "{page}");
}

#[test]
fn a_box_that_is_asked_to_end_seals_its_recording() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let board = support::programs::small_bench(home.path());
    let mut capture_box =
        CaptureBox::start(home.path(), "hall", Some(&receiver), &["--board", &board]);
    let stalls = Stalls::watch();
    // Two of three may be excused by what the machine stood still.
    let mut excuses = Excuses::among(20);
    loop {
        let recording = capture_box.record();
        pause(3);
        let asked = clock::now();
        let took = capture_box.terminate();
        println!("SIGTERM to sealed and ended: {took:?}");
        let stood = stalls.between(asked, clock::now());
        excuses.judge("SIGTERM to sealed", took, SEALED, stood);
        capture_box.restart();
        let manifest = receiver.wait_complete(&recording, 20);
        assert_eq!(manifest["ended_by"], "shutdown", "{manifest}");
        assert_eq!(
            capture_box.status()["state"],
            "idle",
            "an ended recording is not taken up"
        );
        if took <= SEALED {
            return;
        }
    }
}

/// The value of a line of OpenMetrics text that begins with `name` and has all of `labels`. Fails on
/// lines that are neither a comment nor a sample.
fn metric(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let mut found = None;
    for line in text.lines().filter(|line| !line.starts_with("# ")) {
        let (series, value) = line.rsplit_once(' ').expect("a name and a value");
        let value: f64 = value.parse().expect("a number");
        let (known, rest) = series.split_once('{').unwrap_or((series, "}"));
        assert!(
            known.starts_with("hallcast_") && rest.ends_with('}'),
            "{line}"
        );
        if known == name && labels.iter().all(|label| rest.contains(label)) {
            assert_eq!(found.replace(value), None, "{line}: twice");
        }
    }
    found
}

#[test]
fn how_a_box_is_shows_at_the_receiver_within_three_seconds() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let (film, put) = (home.path().join("slides.mp4"), home.path().join("put.mp4"));
    let source = "testsrc2=size=320x180:rate=30:duration=2";
    let made = put.to_str().unwrap();
    support::programs::run(
        "ffmpeg",
        &["-loglevel", "error", "-f", "lavfi", "-i", source, made],
    );
    std::fs::copy(&put, &film).unwrap();
    let board = home.path().join("board.toml");
    let text = format!(
        "schema = 1\nname = \"board\"\n[presenter.pattern]\nwidth = 320\nheight = 180\n\
         rate = \"30\"\n[slides.replay]\nfile = \"{}\"\nat-end = \"loop\"\n[microphone.tone]\n\
         [panel.simulated]\n",
        film.display()
    );
    std::fs::write(&board, text).unwrap();
    let board = board.to_str().unwrap();
    let mut capture_box =
        CaptureBox::start(home.path(), "Hall 1", Some(&receiver), &["--board", board]);
    let said = || -> serde_json::Value {
        let all: serde_json::Value = serde_json::from_slice(&receiver.get("/boxes.json")).unwrap();
        all["boxes"][0].clone()
    };
    wait_until(10, "the first report", || said()["state"] == "idle");
    let stalls = Stalls::watch();
    let mut excuses = Excuses::among(4);
    // From the box's own word to the receiver's.
    let mut follows = |what: &str, own: &dyn Fn() -> bool, known: &dyn Fn() -> bool| {
        wait_until(30, "the box's own word", own);
        let began = clock::now();
        wait_until(30, what, known);
        let took = clock::now().since(began);
        let stood = stalls.between(began, clock::now());
        excuses.judge(what, took, KNOWN, stood);
        took
    };
    let recording = capture_box.record();
    follows(
        "the recording's state",
        &|| capture_box.status()["state"] == "recording",
        &|| said()["recording"] == recording.as_str() && said()["state"] == "recording",
    );
    follows(
        "ticks",
        &|| capture_box.status()["tracks"][0]["ticks"].as_u64() > Some(30),
        &|| said()["tracks"][0]["ticks"].as_u64() > Some(30),
    );

    // A device that goes.
    let alarm =
        |status: &serde_json::Value| status["alarms"].to_string().contains("slides-missing");
    let mut took = Vec::new();
    for gone in [true, false] {
        match gone {
            true => {
                std::fs::remove_file(&film).unwrap();
                let pid = capture_box.pid().to_string();
                support::programs::run("pkill", &["-P", &pid, "ffmpeg"]);
            }
            false => drop(std::fs::copy(&put, &film).unwrap()),
        }
        took.push(follows(
            "the receiver's word",
            &|| alarm(&capture_box.status()) == gone,
            &|| alarm(&said()) == gone,
        ));
        if gone {
            let text = String::from_utf8(receiver.get("/metrics")).unwrap();
            let labels = ["room=\"Hall 1\"", "code=\"slides-missing\"", "track=\"2\""];
            assert_eq!(metric(&text, "hallcast_box_alarm", &labels), Some(1.0));
        }
    }
    println!(
        "an alarm's way to /boxes.json: raised {:.0?}, cleared {:.0?}",
        took[0], took[1]
    );

    let text = String::from_utf8(receiver.get("/metrics")).unwrap();
    let presenter = ["name=\"presenter\""];
    let ticks = metric(&text, "hallcast_track_ticks_total", &presenter).unwrap();
    let lateness = "hallcast_track_tick_lateness_seconds_count";
    assert!(
        ticks > 30.0 && metric(&text, lateness, &presenter) == Some(ticks),
        "{text}"
    );
    assert_eq!(
        metric(&text, "hallcast_box_up", &["room=\"Hall 1\""]),
        Some(1.0)
    );
    assert_eq!(
        metric(&text, "hallcast_box_alarm", &["code=\"slides-missing\""]),
        None
    );
    let page = String::from_utf8(receiver.get("/boxes")).unwrap();
    assert!(
        page.contains("Hall 1") && page.contains("recording "),
        "{page}"
    );

    capture_box.kill();
    wait_until(25, "the box marked as gone", || said()["current"] == false);
    let text = String::from_utf8(receiver.get("/metrics")).unwrap();
    assert_eq!(
        metric(&text, "hallcast_box_up", &["room=\"Hall 1\""]),
        Some(0.0)
    );
    assert_eq!(
        metric(&text, "hallcast_track_ticks_total", &presenter),
        None
    );
}
