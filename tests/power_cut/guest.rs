//! What the guest of a power cut does: it runs a receiver and a box, and says what the host has to know.

use super::support::archive::{alarms, assert_archive_is_the_spool};
use super::support::clocks;
use super::support::programs::{CaptureBox, Receiver, pause, run, wait_until};
use super::support::rig;
use super::{BEAT, DISK, text};
use hallcast::clock;
use hallcast::media::Hash;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;

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

/// What an NTP client does, and what the clock says then.
fn keep_the_clock(time: &str) {
    clocks::keep(time);
    say_the_clock();
}

/// Says what the wall clock is at an instant of the monotonic one.
fn say_the_clock() {
    let (now, wall) = (clock::now(), clock::wall().unix_nanos);
    say(&format!("\nclock {} {wall}", now.as_nanos()));
}

/// The receiver and the box of the guest. What the host's task says: `cut` until the power is gone, or
/// `deliver` to the end; `clock=T`, what nobody keeps and is wrong at first; `ntp=S:T`, a clock that is
/// right and kept S seconds into the recording; `alone`, that the receiver is away; `over`, that the
/// recording ends by itself when the clock is right.
pub fn work(results: &Path) {
    if let Some(time) = told("clock=") {
        clocks::set(&time);
    }
    let to_the_end = told("deliver").is_some();
    if !to_the_end {
        thread::spawn(|| {
            loop {
                say(&format!("now {}", clock::now().as_nanos()));
                clock::sleep(BEAT);
            }
        });
    }
    fs::create_dir_all(DISK).unwrap();
    run("mount", &["-t", "ext4", "/dev/ubda", DISK]);
    let home = PathBuf::from(DISK).join("home");
    if !to_the_end {
        watch(&home);
    }
    let (board, settings) = (results.join("board.toml"), results.join("box.toml"));
    let mut arguments = vec!["--board", text(&board), "--config", text(&settings)];
    let places = results.join("addresses");
    let store = home.join("receiver");
    let (capture_box, receiver) = if places.exists() {
        let addresses = fs::read_to_string(places).unwrap();
        let (quic, web) = addresses.split_once(' ').unwrap();
        say("up");
        let receiver = told("alone").is_none().then(|| {
            let (quic, web) = (quic.to_owned(), web.to_owned());
            thread::spawn(move || Receiver::start_again(store, quic, web))
        });
        arguments.extend(["--receiver", quic]);
        (CaptureBox::start(&home, "hall", None, &arguments), receiver)
    } else {
        fs::create_dir_all(&home).unwrap();
        let mut receiver = Receiver::start(&home);
        let capture_box = CaptureBox::start(&home, "hall", Some(&receiver), &arguments);
        fs::write(&places, format!("{} {}", receiver.quic, receiver.web)).unwrap();
        run("sync", &[]);
        if told("alone").is_some() {
            receiver.kill();
        }
        say(&format!("recording {}", capture_box.record()));
        wait_until(10, "the first chunk", || {
            capture_box.status()["state"] == "recording"
        });
        say("up");
        (capture_box, Some(thread::spawn(move || receiver)))
    };
    let clock_later = told("ntp=").map(|word| {
        let (seconds, time) = word.split_once(':').unwrap();
        (seconds.parse::<u64>().unwrap(), time.to_owned())
    });
    if !to_the_end {
        if let Some((seconds, time)) = clock_later {
            pause(seconds);
            keep_the_clock(&time);
        }
        loop {
            pause(1);
        }
    }
    let receiver = receiver.unwrap().join().unwrap();
    deliver(results, &capture_box, &receiver, clock_later);
}

/// Records on, lets the clock become right, ends the recording and compares all that came of it.
fn deliver(
    results: &Path,
    capture_box: &CaptureBox,
    receiver: &Receiver,
    clock_later: Option<(u64, String)>,
) {
    wait_until(10, "the recording to be taken up", || {
        capture_box.status()["state"] == "recording"
    });
    let status = capture_box.status();
    let recording = status["recording"]["id"].as_str().unwrap().to_owned();
    pause(2);
    let mut before = BTreeMap::new();
    if let Some((seconds, time)) = clock_later {
        pause(seconds);
        let alarms = capture_box.status()["alarms"].to_string();
        say(&format!("unknown {alarms}"));
        before = objects(&receiver.archive(&recording));
        keep_the_clock(&time);
        pause(2);
    }
    if told("over").is_some() {
        wait_until(10, "the recording to end", || {
            capture_box.status()["state"] == "idle"
        });
    } else {
        assert_eq!(capture_box.stop(), recording);
    }
    say(&format!("alarms {}", capture_box.status()["alarms"]));
    receiver.wait_complete(&recording, 60);
    let count = assert_archive_is_the_spool(receiver, capture_box, &recording);
    let after = objects(&receiver.archive(&recording));
    for (path, hash) in &before {
        assert_eq!(after.get(path), Some(hash), "{}", path.display());
    }
    let kept = fs::read_dir(receiver.home.join("store/recordings")).unwrap();
    assert_eq!(kept.count(), 1, "one recording");
    let forgot: Vec<_> = alarms(receiver, &recording)
        .into_iter()
        .filter(|(code, _, _)| code == "receiver-forgot")
        .collect();
    assert_eq!(
        forgot,
        [],
        "the receiver had acknowledged what a cut took from it"
    );
    let (from, to) = (receiver.archive(&recording), results.join("archive"));
    run("cp", &["-r", text(&from), text(&to)]);
    say(&format!("objects {count} unchanged {}", before.len()));
}

/// Every object of a recording at the receiver, with its hash.
fn objects(folder: &Path) -> BTreeMap<PathBuf, Hash> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(objects(&path));
        } else {
            let hash = blake3::hash(&fs::read(&path).unwrap());
            found.insert(path, Hash(*hash.as_bytes()));
        }
    }
    found
}

/// Says what the box says of its recording, and which files its spool begins and lets go, as long as
/// there is power.
fn watch(home: &Path) {
    let (log, epoch) = (home.join("hall/log"), home.join("hall/state/epoch"));
    let spool = home.join("hall/state/spool");
    // What an earlier boot left of it, whole or not, is no news.
    let _ = fs::remove_file(&log);
    let mut files = files_of(&spool);
    thread::spawn(move || {
        let mut heard = 0;
        loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let new = text[heard..].split_inclusive('\n');
            for line in new.filter(|line| line.ends_with('\n')) {
                heard += line.len();
                let Some((before, span)) = line.trim().split_once(", span ") else {
                    continue;
                };
                let recording = before.rsplit(' ').next().unwrap();
                let epoch = fs::read_to_string(&epoch).unwrap();
                say(&format!("span {recording} {} {span}", epoch.trim()));
            }
            let now = files_of(&spool);
            for path in now.difference(&files) {
                say(&format!("begun {}", path.display()));
            }
            for path in files.difference(&now) {
                say(&format!("freed {}", path.display()));
            }
            files = now;
            clock::sleep(BEAT);
        }
    });
}

/// The files of a spool's recordings.
fn files_of(spool: &Path) -> BTreeSet<PathBuf> {
    let list = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.flatten().map(|entry| entry.path())
    };
    list(spool).flat_map(|folder| list(&folder)).collect()
}
