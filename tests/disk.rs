//! A real box whose disk is full, and its spool looked at with the tools that people have.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod support;

use hallcast::media::{Hash, SegmentKey, TrackId};
use hallcast::spool::{LocalDisk, Spool};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::film::Film;
use support::mounts::{SmallDisk, where_it_may_mount};
use support::programs::{
    BOX, CaptureBox, Receiver, alone, outcome, pause, run, small_bench, spool_hashes, wait_until,
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a command says on standard error; it must fail.
fn refusal(arguments: &[&str]) -> String {
    let output = outcome(BOX, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// The bytes and names of every file below `directory`.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_spool_on_a_card_from_a_dead_box_is_listed_verified_and_exported() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let board = small_bench(home.path());
    let mut capture_box = CaptureBox::start(home.path(), "hall", None, &["--board", &board]);
    let whole = capture_box.record();
    pause(5);
    capture_box.stop();
    // The second one is cut by the box's death.
    let cut = capture_box.record();
    pause(4);
    capture_box.kill();

    let card = home.path().join("card");
    run(
        "cp",
        &[
            "-a",
            text(&capture_box.home.join("state/spool")),
            text(&card),
        ],
    );
    let before = contents(&card);
    let listed = run(BOX, &["spool", "ls", text(&card)]);
    println!("{listed}");
    let line = |id: &str| {
        listed
            .lines()
            .find(|line| line.starts_with(id))
            .unwrap()
            .to_owned()
    };
    assert!(
        line(&whole).contains("ended") && line(&cut).contains("open"),
        "{listed}"
    );
    let verified = run(BOX, &["spool", "verify", text(&card)]);
    println!("{verified}");
    assert_eq!(verified.matches("are as they were written").count(), 2);
    for (id, least) in [(&whole, 4.0), (&cut, 2.0)] {
        let output = home.path().join(format!("{id}.mp4"));
        let arguments = [
            "spool",
            "export",
            id,
            "--directory",
            text(&card),
            "-o",
            text(&output),
        ];
        println!("{}", run(BOX, &arguments));
        let film = Film::open(&output);
        film.assert_decodes();
        film.assert_moov_first();
        let seconds = film.sound_seconds();
        assert!(film.pictures() > 0 && seconds >= least, "{seconds} s");
        let there = refusal(&arguments);
        assert!(there.contains("is there already"), "{there}");
    }
    assert!(contents(&card) == before, "the card was written to");

    // Clear words for what goes wrong.
    let output = home.path().join("no.mp4");
    let unknown = "0123456789abcdef0123456789abcdef";
    let none = refusal(&[
        "spool",
        "export",
        unknown,
        "--directory",
        text(&card),
        "-o",
        text(&output),
    ]);
    assert!(none.contains(&whole) && none.contains(&cut), "{none}");
    let nowhere = refusal(&["spool", "ls", "/no/such/card"]);
    assert!(
        nowhere.contains("/no/such/card: no such directory"),
        "{nowhere}"
    );
    let empty = refusal(&["spool", "verify", text(home.path())]);
    assert!(empty.contains("holds no recording"), "{empty}");

    // Damage is named with its file and place.
    let log = card.join(&whole).join("00000000.log");
    let mut file = fs::OpenOptions::new().write(true).open(&log).unwrap();
    file.seek(SeekFrom::Start(20_000)).unwrap();
    file.write_all(&[0x55; 16]).unwrap();
    let output = outcome(BOX, &["spool", "verify", text(&card.join(&whole))]);
    let said = String::from_utf8(output.stdout).unwrap();
    println!("{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("{}: byte ", log.display())),
        "{said}"
    );
    run(BOX, &["spool", "verify", text(&card.join(&cut))]);
}

#[test]
fn a_film_that_does_not_fit_leaves_nothing_and_says_so() {
    let _alone = alone();
    if !where_it_may_mount("a_film_that_does_not_fit_leaves_nothing_and_says_so") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&home.path().join("small"), 1);
    let board = small_bench(home.path());
    let capture_box = CaptureBox::start(home.path(), "hall", None, &["--board", &board]);
    let id = capture_box.record();
    pause(3);
    capture_box.stop();
    disk.fill();
    let (spool, output) = (
        capture_box.home.join("state/spool"),
        disk.0.join("film.mp4"),
    );
    let full = refusal(&[
        "spool",
        "export",
        &id,
        "--directory",
        text(&spool),
        "-o",
        text(&output),
    ]);
    assert!(full.contains("the disk is full"), "{full}");
    let left: Vec<PathBuf> = contents(&disk.0)
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    assert_eq!(left, [disk.0.join("filler")]);
}

#[test]
fn a_full_disk_refuses_a_recording_and_takes_it_when_there_is_room() {
    let _alone = alone();
    if !where_it_may_mount("a_full_disk_refuses_a_recording_and_takes_it_when_there_is_room") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&home.path().join("hall/state"), 64);
    let board = small_bench(home.path());
    let capture_box = CaptureBox::start(home.path(), "hall", None, &["--board", &board]);
    disk.fill();
    let refused = capture_box.ask("start");
    let said = String::from_utf8(refused.stderr).unwrap();
    println!("{said}");
    assert!(!refused.status.success());
    assert_ne!(capture_box.status()["lamp"], "solid");
    disk.make_room();
    wait_until(20, "a recording on the disk that has room again", || {
        capture_box.ask("start").status.success()
    });
    wait_until(10, "chunks that are kept", || {
        capture_box.status()["state"] == "recording"
    });
    pause(2);
    capture_box.stop();
    let sealed = spool_hashes(&disk.0);
    assert!(!sealed.is_empty());
    let verified = run(BOX, &["spool", "verify", text(&disk.0.join("spool"))]);
    println!("{verified}");
}

#[test]
fn a_killed_box_starts_on_a_disk_that_others_have_filled_to_the_last_byte_and_name() {
    const NAME: &str =
        "a_killed_box_starts_on_a_disk_that_others_have_filled_to_the_last_byte_and_name";
    let _alone = alone();
    if !where_it_may_mount(NAME) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&home.path().join("hall/state"), 64);
    let spool = disk.0.join("spool");
    let board = small_bench(home.path());
    let mut capture_box = CaptureBox::start(home.path(), "hall", None, &["--board", &board]);
    let id = capture_box.record();
    wait_until(20, "two segments of both tracks", || {
        let holding = Holding::of(&spool);
        let sealed = |track| holding.sealed.keys().filter(move |key| key.track == track);
        [PRESENTER, SOUND]
            .into_iter()
            .all(|track| sealed(track).count() >= 2)
    });
    capture_box.kill();
    let kept = Holding::of(&spool);
    disk.fill();
    disk.take_all_names();

    // Also from what it wrote on the full disk itself.
    for start in 1..=3 {
        capture_box.restart();
        wait_until(10, "the end of what it cannot go on with", || {
            let status = capture_box.status();
            status["state"] == "idle" && status["alarms"].to_string().contains("disk-full")
        });
        let status = capture_box.status();
        println!("start {start}: {}, {}", status["lamp"], status["alarms"]);
        assert_eq!(status["lamp"], "fast-blink");
        let refused = capture_box.ask("start");
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(
            !refused.status.success() && said.contains("free space"),
            "{said}"
        );
        capture_box.kill();
    }
    let now = Holding::of(&spool);
    for (key, hash) in &kept.sealed {
        assert_eq!(now.sealed.get(key), Some(hash), "{key}");
    }
    let listed = run(BOX, &["spool", "ls", text(&spool)]);
    println!("{listed}{}", run(BOX, &["spool", "verify", text(&spool)]));
    let line = listed.lines().find(|line| line.starts_with(&id)).unwrap();
    assert!(line.contains("ended"), "{listed}");

    disk.make_room();
    capture_box.restart();
    wait_until(20, "a recording where there is room again", || {
        capture_box.ask("start").status.success()
    });
    capture_box.stop();
}

/// What the box's spool holds at this moment.
#[derive(Default)]
struct Holding {
    /// What is sealed and whole, with its hash.
    sealed: BTreeMap<SegmentKey, Hash>,
    /// What the box was told is DURABLE, with its hash.
    durable: BTreeMap<SegmentKey, Hash>,
    /// Segments given up, by track.
    lost: BTreeMap<TrackId, u64>,
    /// The number after the last one used, by track.
    next: BTreeMap<TrackId, u64>,
}

impl Holding {
    fn of(spool: &Path) -> Self {
        let (spool, _) = Spool::look(Arc::new(LocalDisk), spool).unwrap();
        let mut holding = Self::default();
        for (recording, state) in spool.recordings() {
            for (&track, held) in &state.tracks {
                holding.next.insert(track, held.next_sequence());
                for (&sequence, segment) in &held.segments {
                    let key = SegmentKey {
                        recording,
                        track,
                        sequence,
                    };
                    // What is still open is sealed for who looks, not for good.
                    let sealed = segment.seal.filter(|_| segment.seal_kept);
                    let Some((_, hash)) = sealed else {
                        continue;
                    };
                    holding.sealed.insert(key, hash);
                    if held.acknowledged.contains(sequence) {
                        holding.durable.insert(key, hash);
                    }
                }
            }
            for (track, range, _) in state.lost() {
                *holding.lost.entry(track).or_default() += range.last - range.first + 1;
            }
        }
        holding
    }

    fn lost(&self, track: TrackId) -> u64 {
        self.lost.get(&track).copied().unwrap_or(0)
    }

    fn durable_of(&self, track: TrackId) -> usize {
        self.durable.keys().filter(|key| key.track == track).count()
    }
}

const PRESENTER: TrackId = TrackId(1);
const SLIDES: TrackId = TrackId(2);
const SOUND: TrackId = TrackId(3);

/// The levels of want of space, in the declared order.
const ORDER: [&str; 7] = [
    "normal",
    "free-acknowledged",
    "refuse-new",
    "give-up-bit-rate",
    "give-up-presenter",
    "give-up-slides",
    "reserve",
];

fn level(capture_box: &CaptureBox) -> usize {
    let status = capture_box.status();
    let name = status["spool"]["level"].as_str().unwrap();
    ORDER.iter().position(|known| *known == name).unwrap()
}

#[test]
fn a_disk_that_fills_up_costs_bit_rate_then_pictures_then_the_recording_and_nothing_that_is_kept() {
    let _alone = alone();
    if !where_it_may_mount(
        "a_disk_that_fills_up_costs_bit_rate_then_pictures_then_the_recording_and_nothing_that_is_kept",
    ) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&home.path().join("hall/state"), 80);
    let spool = disk.0.join("spool");
    let board = home.path().join("two-cameras.toml");
    let camera = "width = 320\nheight = 180\nrate = \"30\"\n";
    let described = format!(
        "schema = 1\nname = \"two-cameras\"\n[presenter.pattern]\n{camera}\
         [slides.pattern]\n{camera}[microphone.tone]\n[panel.simulated]\n"
    );
    fs::write(&board, described).unwrap();
    let mut receiver = Receiver::start(home.path());
    let arguments = ["--board", text(&board)];
    let capture_box = CaptureBox::start(home.path(), "hall", Some(&receiver), &arguments);

    // So small a disk keeps nothing that the receiver has whole.
    let first = capture_box.record();
    pause(3);
    capture_box.stop();
    let whole = Holding::of(&spool).sealed;
    receiver.wait_complete(&first, 30);
    wait_until(20, "what is complete to leave", || {
        !spool.join(&first).exists()
    });

    // Every segment that was ever sealed here has one hash, and every one that the receiver said it
    // has durably is looked for at the end.
    let (mut sealed, mut durable) = (whole.clone(), whole);
    let mut look = || {
        let holding = Holding::of(&spool);
        // Nothing vanishes that is not acknowledged; what is given up was never written.
        for (key, hash) in sealed
            .iter()
            .filter(|(key, _)| key.recording.to_string() != first)
        {
            let held = holding.sealed.get(key);
            assert!(held == Some(hash), "{key} was {hash}, and is {held:?}");
        }
        sealed.extend(&holding.sealed);
        durable.extend(&holding.durable);
        (holding, sealed.clone(), durable.clone())
    };
    let id = capture_box.record();
    wait_until(20, "two segments of each track to be durable", || {
        let (holding, ..) = look();
        [PRESENTER, SLIDES, SOUND]
            .iter()
            .all(|track| holding.durable_of(*track) >= 2)
    });
    receiver.kill();
    pause(2);

    let mut seen = vec![level(&capture_box)];
    let mut left = 35_000_000.0;
    let mut fill_until = |wanted: &str| {
        let wanted = ORDER.iter().position(|known| *known == wanted).unwrap();
        while level(&capture_box) < wanted {
            assert!(left > 2_500_000.0, "{wanted} is not reached: {seen:?}");
            // The levels are further apart than that.
            left *= 0.85;
            disk.leave(left as u64);
            pause(2);
            let now = level(&capture_box);
            if seen.last() != Some(&now) {
                seen.push(now);
            }
        }
        println!("{wanted} at {left:.0} bytes");
        seen.clone()
    };
    // The presenter's picture goes first, and the slides stay.
    fill_until("give-up-presenter");
    let (before, ..) = look();
    assert_eq!((before.lost(SLIDES), before.lost(SOUND)), (0, 0));
    wait_until(
        20,
        "the presenter to be given up and the slides to go on",
        || {
            let (now, ..) = look();
            now.lost(PRESENTER) >= 1 && now.next[&SLIDES] >= before.next[&SLIDES] + 2
        },
    );
    assert_eq!(level(&capture_box), 4, "still give-up-presenter");
    let (given_up, ..) = look();
    assert_eq!((given_up.lost(SLIDES), given_up.lost(SOUND)), (0, 0));
    // Then the slides, and sound stays.
    let seen = fill_until("give-up-slides");
    assert!(seen.is_sorted() && seen.contains(&3), "{seen:?}");
    let (before, ..) = look();
    wait_until(20, "the slides to be given up and sound to go on", || {
        let (now, ..) = look();
        now.lost(SLIDES) >= 1 && now.next[&SOUND] >= before.next[&SOUND] + 2
    });
    let (given_up, ..) = look();
    assert_eq!(given_up.lost(SOUND), 0);
    println!(
        "given up: {} segments of the presenter, {} of the slides",
        given_up.lost(PRESENTER),
        given_up.lost(SLIDES)
    );
    assert!(given_up.lost(PRESENTER) > given_up.lost(SLIDES));
    assert_eq!(capture_box.status()["state"], "recording");

    // With room, everything is recorded again.
    disk.make_room();
    wait_until(10, "everything to be recorded again", || {
        level(&capture_box) <= 2
    });
    let (before, ..) = look();
    wait_until(20, "both pictures again", || {
        let (now, ..) = look();
        let sealed = |holding: &Holding, track| {
            let keys = holding.sealed.keys();
            keys.filter(|key| key.track == track).count()
        };
        [PRESENTER, SLIDES]
            .iter()
            .all(|track| sealed(&now, *track) > sealed(&before, *track))
    });

    // From one look to the next there is no room at all: the recording ends, and its end is kept.
    disk.fill();
    wait_until(15, "the end of the recording", || {
        capture_box.status()["state"] == "idle"
    });
    let status = capture_box.status();
    println!("{}, {}", status["lamp"], status["alarms"]);
    assert_eq!(status["lamp"], "fast-blink");
    assert!(
        status["alarms"].to_string().contains("disk-full"),
        "{status}"
    );
    let refused = capture_box.ask("start");
    assert!(!refused.status.success());
    let listed = run(BOX, &["spool", "ls", text(&spool)]);
    println!("{listed}");
    assert!(listed.contains("ended"), "{listed}");
    for track in [PRESENTER, SLIDES] {
        let lost = format!("of track {track} are lost");
        assert!(listed.contains(&lost), "{listed}");
    }
    println!("{}", run(BOX, &["spool", "verify", text(&spool)]));
    let film = home.path().join("film.mp4");
    let arguments = [
        "spool",
        "export",
        &id,
        "--directory",
        text(&spool),
        "-o",
        text(&film),
    ];
    println!("{}", run(BOX, &arguments));
    Film::open(&film).assert_decodes();

    // The receiver takes the rest from the full disk: acknowledgements have the reserve.
    let (last, sealed, durable) = look();
    let tail = last.sealed.len() - last.durable.len();
    assert!(tail > 0, "something waits");
    receiver.kill_and_restart();
    let manifest = receiver.wait_complete(&id, 60);
    let tracks = manifest["tracks"].as_array().unwrap();
    let is_lost = |key: &SegmentKey| {
        let track = tracks.iter().find(|track| track["track"] == key.track.0);
        let ranges = track.unwrap()["lost"].as_array();
        ranges.into_iter().flatten().any(|range| {
            let end = |name: &str| range[name].as_u64().unwrap();
            (end("first")..=end("last")).contains(&key.sequence)
        })
    };
    assert!((0..99).any(|sequence| is_lost(&SegmentKey {
        recording: id.parse().unwrap(),
        track: PRESENTER,
        sequence
    })));
    for (key, hash) in &sealed {
        let ours = key.recording.to_string() == id;
        assert!(!(ours && is_lost(key)), "{key} is LOST");
        let recording = key.recording.to_string();
        let path = format!("{}/{:08}.m4s", key.track, key.sequence);
        let path = receiver.archive(&recording).join(path);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(Hash(*blake3::hash(&bytes).as_bytes()), *hash, "{key}");
    }
    println!(
        "{} segments sealed, {} of them durable before the disk was full: all are archived; {tail} came after it was",
        sealed.len(),
        durable.len(),
    );
    disk.make_room();
    wait_until(20, "another recording where there is room again", || {
        capture_box.ask("start").status.success()
    });
    capture_box.stop();
}
