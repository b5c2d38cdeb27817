//! True power cuts: the rig's guest records onto an ext4 disk of its own and is killed from the host,
//! with everything that its kernel had not written yet.
//!
//! What was captured is known from outside: the guest says its monotonic clock all the time, so the
//! host knows the instant of the cut; the pictures carry the instant at which they were captured.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]
#![cfg(all(feature = "software", feature = "receiver"))]

mod support;

use hallcast::clock;
use hallcast::media::{Monotonic, TrackId};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::archive::{alarms, assert_archive_is_the_spool};
use support::chance::{Chance, Stalls, spread};
use support::programs::{CaptureBox, Receiver, alone, pause, run, soak, wait_until};
use support::rig::{self, Guest};
use support::timeline::{Span, spans};

/// What a power cut may take from the end of a recording.
const PROMISE: Duration = Duration::from_secs(1);
/// Where the guest's disk is mounted.
const DISK: &str = "/run/disk";
/// How often the guest says its clock.
const BEAT: Duration = Duration::from_millis(10);

const PRESENTER: TrackId = TrackId(1);
const SLIDES: TrackId = TrackId(2);
const MICROPHONE: TrackId = TrackId(3);

// ---- in the guest ----

/// A line for the host, at once.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// The rest of a word of the host's task.
fn told(word: &str) -> Option<String> {
    let task = rig::task();
    let mut words = task.split(' ').map(str::to_owned);
    words.find_map(|found| found.strip_prefix(word).map(str::to_owned))
}

/// What an NTP client does: the kernel's clock is right, within 10 ms. (adjtimex(2) with MAXERROR,
/// ESTERROR and STATUS; no program for it is on every Debian, but perl is.)
fn keep_the_clock() {
    let call =
        "$t = pack('L x4 q q q q l x204', 0x1c, 0, 0, 10000, 10000, 1); exit(syscall(159, $t) < 0)";
    run("perl", &["-e", call]);
}

/// The receiver and the box of the guest. What the host's task says: `cut` until the power is gone, or
/// `deliver` to the end; `clock=T` and `kept`, whether the clock is set and kept at first; `ntp=T`, a
/// clock that is right later; `over`, that the recording ends by itself then.
fn in_the_guest(results: &Path) {
    if let Some(time) = told("clock=") {
        run("date", &["-s", &format!("@{time}")]);
    }
    if told("kept").is_some() {
        keep_the_clock();
    }
    say_the_clock();
    std::thread::spawn(|| {
        loop {
            say(&format!("now {}", clock::now().as_nanos()));
            clock::sleep(BEAT);
        }
    });
    fs::create_dir_all(DISK).unwrap();
    run("mount", &["-t", "ext4", "/dev/ubda", DISK]);
    let home = PathBuf::from(DISK).join("home");
    let board = results.join("board.toml");
    let arguments = ["--board", board.to_str().unwrap()];
    let places = results.join("addresses");
    let first = !places.exists();
    watch(&home);
    if first {
        fs::create_dir_all(&home).unwrap();
        let receiver = Receiver::start(&home);
        let capture_box = CaptureBox::start(&home, "hall", Some(&receiver), &arguments);
        fs::write(&places, format!("{} {}", receiver.quic, receiver.web)).unwrap();
        run("sync", &[]);
        say(&format!("recording {}", capture_box.record()));
        wait_until(10, "the first chunk", || {
            capture_box.status()["state"] == "recording"
        });
        say("up");
        work_on();
    }
    let places = fs::read_to_string(places).unwrap();
    let (quic, web) = places.split_once(' ').unwrap();
    say("up");
    let store = home.join("receiver");
    let receiver = std::thread::spawn({
        let (quic, web) = (quic.to_owned(), web.to_owned());
        move || Receiver::start_again(store, quic, web)
    });
    let all = [&arguments[..], &["--receiver", quic]].concat();
    let capture_box = CaptureBox::start(&home, "hall", None, &all);
    if told("cut").is_some() {
        work_on();
    }
    wait_until(10, "the recording to be taken up", || {
        capture_box.status()["state"] == "recording"
    });
    let recording = capture_box.status()["recording"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    pause(2);
    if let Some(time) = told("ntp=") {
        run("date", &["-s", &format!("@{time}")]);
        keep_the_clock();
        say_the_clock();
        pause(2);
    }
    if told("over").is_some() {
        wait_until(10, "the recording to end", || {
            capture_box.status()["state"] == "idle"
        });
        say(&format!("alarms {}", capture_box.status()["alarms"]));
    } else {
        assert_eq!(capture_box.stop(), recording);
    }
    let receiver = receiver.join().unwrap();
    receiver.wait_complete(&recording, 60);
    let objects = assert_archive_is_the_spool(&receiver, &capture_box, &recording);
    let kept = fs::read_dir(receiver.home.join("store/recordings")).unwrap();
    assert_eq!(kept.count(), 1, "one recording");
    let forgot: Vec<_> = alarms(&receiver, &recording)
        .into_iter()
        .filter(|(code, _, _)| code == "receiver-forgot")
        .collect();
    assert_eq!(
        forgot,
        [],
        "the receiver had acknowledged what a cut took from it"
    );
    let (from, to) = (receiver.archive(&recording), results.join("archive"));
    run("cp", &["-r", from.to_str().unwrap(), to.to_str().unwrap()]);
    say(&format!("objects {objects}"));
}

/// Says what the wall clock is at an instant of the monotonic one.
fn say_the_clock() {
    let (now, wall) = (clock::now(), clock::wall().unix_nanos);
    say(&format!("\nclock {} {wall}", now.as_nanos()));
}

/// Says what the box says of its recording, as long as there is power.
fn watch(home: &Path) {
    let (log, epoch) = (home.join("hall/log"), home.join("hall/state/epoch"));
    // What an earlier boot left of it, whole or not, is no news.
    let _ = fs::remove_file(&log);
    std::thread::spawn(move || {
        let mut told = 0;
        loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let new = text[told..].split_inclusive('\n');
            for line in new.filter(|line| line.ends_with('\n')) {
                told += line.len();
                let Some((before, span)) = line.trim().split_once(", span ") else {
                    continue;
                };
                let recording = before.rsplit(' ').next().unwrap();
                let epoch = fs::read_to_string(&epoch).unwrap();
                say(&format!("span {recording} {} {span}", epoch.trim()));
            }
            clock::sleep(BEAT);
        }
    });
}

/// Until there is no power.
fn work_on() -> ! {
    loop {
        pause(1);
    }
}

// ---- on the host ----

/// A folder that the guest can write to.
fn results() -> tempfile::TempDir {
    let folder = tempfile::Builder::new()
        .prefix("hallcast")
        .tempdir_in("/tmp");
    folder.unwrap()
}

/// A board whose moving picture, still picture and sound are each there or not.
fn board(results: &Path, moving: bool, sound: bool) {
    let still = results.join("still.yuv");
    // A slide: dark text on light ground, as far as an encoder can tell.
    let luma: Vec<u8> = (0..320 * 180)
        .map(|n| if n / 7 % 3 == 0 { 60 } else { 200 })
        .collect();
    fs::write(&still, [luma, vec![128; 320 * 180 / 2]].concat()).unwrap();
    let mut text = String::from("schema = 1\nname = \"board\"\n[panel.simulated]\n");
    if moving {
        text += "[presenter.pattern]\nwidth = 320\nheight = 180\nrate = \"30\"\n";
    }
    text += &format!(
        "[slides.replay]\nfile = \"{}\"\nwidth = 320\nheight = 180\nrate = \"30\"\n",
        still.display()
    );
    if sound {
        text += "[microphone.tone]\n";
    }
    fs::write(results.join("board.toml"), text).unwrap();
}

/// An empty disk for a guest.
fn disk(results: &Path) -> PathBuf {
    let disk = results.join("disk");
    let file = fs::File::create(&disk).unwrap();
    // Sparse; a small one would make the box free what the receiver has.
    file.set_len(16 << 30).unwrap();
    let small_journal = ["-q", "-F", "-J", "size=16"];
    run(
        "mkfs.ext4",
        &[&small_journal[..], &[disk.to_str().unwrap()]].concat(),
    );
    disk
}

/// One power cut, on the guest's own clock.
struct Cut {
    at: Monotonic,
    /// The same instant on the host's clock.
    struck: Monotonic,
    /// The span that was being recorded, its epoch, and when it began.
    span: Option<(u32, u64, Monotonic)>,
}

impl Cut {
    /// Fails when the cut took more than the promise from what reached to `end`, but for what the host
    /// itself stood still in that time.
    fn judge(&self, end: Monotonic, stalls: &Stalls) -> Duration {
        let loss = self.at.since(end);
        let stood = stalls.between(self.struck.minus(loss), self.struck);
        assert!(
            loss <= PROMISE + stood,
            "{loss:?}, of which the machine stood still {stood:?}"
        );
        loss
    }
}

/// What a guest said, up to its end: when its power was cut, and in which span.
fn judge(cut_at: Monotonic, said: &[(Monotonic, String)], recording: &mut Option<String>) -> Cut {
    let (mut now, mut heard, mut span) = (Monotonic::from_nanos(0), cut_at, None);
    for (arrived, line) in said {
        if let Some(nanos) = line.strip_prefix("now ") {
            // The power may have gone in the middle of a line.
            if let Ok(nanos) = nanos.parse::<u64>()
                && nanos >= now.as_nanos()
            {
                (now, heard) = (Monotonic::from_nanos(nanos), *arrived);
            }
        } else if let Some(words) = line.strip_prefix("span ") {
            let mut words = words.split(' ');
            let (id, epoch, number) = (words.next(), words.next(), words.next());
            let same = recording.get_or_insert_with(|| id.unwrap().to_owned());
            assert_eq!(id, Some(same.as_str()), "the same recording goes on");
            if let Some(Ok(number)) = number.map(str::parse) {
                span = Some((number, epoch.unwrap().parse().unwrap(), now));
            }
        }
    }
    Cut {
        // What it might still have captured after its last word.
        at: now.plus(cut_at.since(heard).min(PROMISE)),
        struck: cut_at,
        span,
    }
}

/// Cuts the power `times` times during one recording; gives the cuts and the spans that came through.
fn cuts(
    name: &str,
    times: u64,
    results: &Path,
    chance: &mut Chance,
) -> Option<(Vec<Cut>, Vec<Span>)> {
    let disk = results.join("disk");
    fs::File::create(&disk).unwrap().set_len(512 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", disk.to_str().unwrap()]);
    let (mut found, mut recording, mut boots) = (Vec::new(), None, Vec::new());
    for _ in 0..times {
        let booted = clock::now();
        let mut guest = Guest::boot(name, "cut", results, &disk)?;
        guest.wait_for("up", 600);
        boots.push(clock::now().since(booted));
        clock::sleep(chance.within(4000));
        let (at, said) = guest.cut();
        found.push(judge(at, &said, &mut recording));
    }
    Guest::boot(name, "deliver", results, &disk)?.finish();
    println!(
        "{times} power cuts; a boot takes {:?} ms (least, median, most)",
        spread(&boots)
    );
    let spans = spans(&results.join("archive"), Monotonic::from_nanos(0));
    Some((found, spans))
}

#[test]
fn a_power_cut_costs_at_most_the_last_second_of_moving_and_still_pictures_and_sound() {
    let name = "a_power_cut_costs_at_most_the_last_second_of_moving_and_still_pictures_and_sound";
    if let Some(results) = rig::inside() {
        return in_the_guest(&results);
    }
    let _alone = alone();
    let results = results();
    board(results.path(), true, true);
    let mut chance = Chance::new(name);
    let stalls = Stalls::watch();
    let Some((cuts, spans)) = cuts(name, soak(30, 200), results.path(), &mut chance) else {
        return;
    };
    let mut losses: BTreeMap<TrackId, Vec<Duration>> = BTreeMap::new();
    let mut early = 0;
    for cut in &cuts {
        let Some((number, epoch, began)) = cut.span else {
            early += 1;
            continue;
        };
        let same = |span: &&Span| (span.number, span.epoch) == (number, epoch);
        let span = spans.iter().find(same);
        for track in [PRESENTER, SLIDES, MICROPHONE] {
            let end = span.and_then(|span| span.end_of(track));
            let loss = cut.judge(end.unwrap_or(began), &stalls);
            losses.entry(track).or_default().push(loss);
        }
    }
    println!(
        "{} spans; {early} cuts came before the box recorded again",
        spans.len()
    );
    for (track, what) in [
        (PRESENTER, "moving"),
        (SLIDES, "still"),
        (MICROPHONE, "sound"),
    ] {
        let (least, median, most) = spread(&losses[&track]);
        println!("taken by a power cut, {what}: least {least}, median {median}, most {most} ms");
    }
    let (stood, longest) = stalls.summary();
    println!("the machine stood still for 50 ms or more {stood} times, at most {longest:?}");
    assert!(early < cuts.len() / 2);
}

#[test]
fn a_still_slide_with_nothing_beside_it_loses_no_more() {
    let name = "a_still_slide_with_nothing_beside_it_loses_no_more";
    if let Some(results) = rig::inside() {
        return in_the_guest(&results);
    }
    let _alone = alone();
    let results = results();
    board(results.path(), false, false);
    let mut chance = Chance::new(name);
    let stalls = Stalls::watch();
    let Some((cuts, spans)) = cuts(name, soak(8, 100), results.path(), &mut chance) else {
        return;
    };
    let mut losses = Vec::new();
    for cut in &cuts {
        let Some((number, epoch, began)) = cut.span else {
            continue;
        };
        let same = |span: &&Span| (span.number, span.epoch) == (number, epoch);
        let still = spans
            .iter()
            .find(same)
            .and_then(|span| span.tracks.get(&SLIDES));
        // No picture tells its time here: the span begins where the box says that it does.
        let end = still.map_or(0, |extent| extent.end.max(0) as u64);
        losses.push(cut.judge(began.plus(Duration::from_nanos(end)), &stalls));
    }
    println!(
        "taken by a power cut, a still slide alone: {:?} ms (least, median, most)",
        spread(&losses)
    );
    assert!(losses.len() >= cuts.len() / 2, "{} judged", losses.len());
}

/// One recording with one power cut: the clocks as the two boots are told. Gives the manifest, how long
/// the box was away by the test's own reckoning, and what the second guest said.
fn away(
    name: &str,
    first: &str,
    second: impl Fn(i64) -> String,
) -> Option<(Value, Duration, String)> {
    let results = results();
    board(results.path(), true, true);
    let disk = disk(results.path());
    let mut guest = Guest::boot(name, first, results.path(), &disk)?;
    guest.wait_for("up", 600);
    pause(3);
    let (_, said) = guest.cut();
    let clocks = |said: &[(Monotonic, String)]| -> Vec<(i64, i64)> {
        let clocks = said
            .iter()
            .filter_map(|(_, line)| line.strip_prefix("clock "));
        let pair = |words: &str| {
            let (now, wall) = words.split_once(' ').unwrap();
            (now.parse().unwrap(), wall.parse().unwrap())
        };
        clocks.map(pair).collect()
    };
    let (now, wall) = clocks(&said)[0];
    let guest = Guest::boot(name, &second(wall / 1_000_000_000), results.path(), &disk)?;
    let said = guest.finish();
    let (then, later) = *clocks(&said).last().unwrap();
    let spans = spans(&results.path().join("archive"), Monotonic::from_nanos(0));
    assert_eq!(spans.len(), 2, "one recording of two spans");
    let end = [PRESENTER, SLIDES, MICROPHONE]
        .map(|track| spans[0].end_of(track))
        .into_iter()
        .max();
    let end_wall = end.flatten().unwrap().as_nanos() as i64 - now + wall;
    let begin_wall = spans[1].begin().unwrap().as_nanos() as i64 - then + later;
    let away = Duration::from_nanos((begin_wall - end_wall).max(0) as u64);
    let text = fs::read(results.path().join("archive/manifest.json")).unwrap();
    let alarms = said
        .iter()
        .find_map(|(_, line)| line.strip_prefix("alarms "));
    Some((
        serde_json::from_slice(&text).unwrap(),
        away,
        alarms.unwrap_or_default().to_owned(),
    ))
}

/// The gap before the second span as the manifest has it, and how far off it may be.
fn gap(manifest: &Value) -> Option<(Duration, Duration)> {
    let span = &manifest["spans"][1];
    let nanos = |name: &str| Some(Duration::from_nanos(span[name].as_u64()?));
    Some((nanos("away_ns")?, nanos("away_uncertainty_ns")?))
}

#[test]
fn a_gap_is_amended_once_the_clock_is_known_and_ends_what_was_away_for_too_long() {
    let name = "a_gap_is_amended_once_the_clock_is_known_and_ends_what_was_away_for_too_long";
    if let Some(results) = rig::inside() {
        return in_the_guest(&results);
    }
    let _alone = alone();
    // Nine and a half minutes without power, then a boot in 1970, and UTC only later.
    for (seconds, over, ended_by) in [(570, "", "socket"), (780, " over", "away-too-long")] {
        let second = |wall: i64| format!("deliver clock=60 ntp={}{over}", wall + seconds);
        let Some((manifest, truth, alarms)) = away(name, "cut kept", second) else {
            return;
        };
        let (gap, error) = gap(&manifest).expect("the gap is known in the end");
        println!(
            "1970, then UTC: away for {:.2} s, the manifest says {:.2} s +- {:.3} s; ended by {}; alarms {alarms}",
            truth.as_secs_f64(),
            gap.as_secs_f64(),
            error.as_secs_f64(),
            manifest["ended_by"]
        );
        assert!(gap.abs_diff(truth) <= error + Duration::from_millis(100));
        assert_eq!(manifest["ended_by"], ended_by, "{manifest}");
        assert_eq!(
            !alarms.is_empty() && alarms.contains("away"),
            !over.is_empty()
        );
    }
    // UTC was never known before the cut: nobody can say how long it was, and nobody claims to.
    let Some((manifest, _, _)) = away(name, "cut clock=60", |_| "deliver kept".into()) else {
        return;
    };
    println!(
        "UTC unknown before the cut, known after: {}",
        manifest["spans"]
    );
    assert_eq!(gap(&manifest), None);
    assert_eq!(manifest["ended_by"], "socket", "{manifest}");
}
