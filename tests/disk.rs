//! A real box whose disk is full, and its spool looked at with the tools that people have.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod support;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use support::film::Film;
use support::programs::{
    BOX, CaptureBox, alone, outcome, pause, run, small_bench, spool_hashes, wait_until,
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

/// A small file system in memory; gone with this value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this process may not mount.
    fn mount(path: &Path, megabytes: u32) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let size = format!("size={megabytes}m");
        let mounted = outcome("mount", &["-t", "tmpfs", "-o", &size, "none", text(path)]);
        if !mounted.status.success() {
            println!("left out: this process may not mount a file system");
            return None;
        }
        Some(Self(path.into()))
    }

    /// Leaves no room at all.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    /// Leaves so many bytes.
    fn leave(&self, bytes: u64) {
        let told = run("df", &["--output=avail", "-B1", text(&self.0)]);
        let free: u64 = told.lines().nth(1).unwrap().trim().parse().unwrap();
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.0.join("filler"))
            .unwrap();
        for _ in 0..free.saturating_sub(bytes) / 4096 {
            file.write_all(&[1; 4096]).unwrap();
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        outcome("umount", &["--lazy", text(&self.0)]);
    }
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
    let home = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&home.path().join("small"), 1) else {
        return;
    };
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
    let home = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&home.path().join("hall/state"), 64) else {
        return;
    };
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
fn a_disk_that_fills_up_costs_bit_rate_then_pictures_then_the_recording_and_nothing_that_is_kept() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&home.path().join("hall/state"), 80) else {
        return;
    };
    let board = small_bench(home.path());
    let capture_box = CaptureBox::start(home.path(), "hall", None, &["--board", &board]);
    let id = capture_box.record();
    pause(3);
    let spool = disk.0.join("spool");
    let level = || {
        capture_box.status()["spool"]["level"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let order = [
        "normal",
        "free-acknowledged",
        "refuse-new",
        "give-up-bit-rate",
        "give-up-presenter",
        "give-up-slides",
        "reserve",
    ];
    let rank = |level: &str| order.iter().position(|known| *known == level).unwrap();
    let mut seen = vec![level()];
    let fill_until = |wanted: &str, seen: &mut Vec<String>| {
        let mut left = 40_000_000;
        while rank(&level()) < rank(wanted) {
            assert!(left > 3_000_000, "{wanted} is not reached: {seen:?}");
            left -= 3_000_000;
            disk.leave(left);
            pause(2);
            if seen.last() != Some(&level()) {
                seen.push(level());
            }
        }
    };
    fill_until("give-up-presenter", &mut seen);
    println!("{seen:?}");
    assert!(seen.is_sorted_by_key(|level| rank(level)), "{seen:?}");
    assert!(
        seen.iter().any(|level| level == "give-up-bit-rate"),
        "{seen:?}"
    );
    // Sound goes on, and all that was kept is there.
    assert_eq!(capture_box.status()["state"], "recording");
    pause(3);
    let kept = contents(&spool.join(&id));
    disk.make_room();
    wait_until(10, "everything to be recorded again", || {
        rank(&level()) <= rank("refuse-new")
    });
    pause(4);
    let later = contents(&spool.join(&id));
    for (path, bytes) in &kept {
        let now = later.iter().find(|(known, _)| known == path).unwrap();
        assert!(now.1.starts_with(bytes), "{} was changed", path.display());
    }
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
    assert!(listed.contains("of track 1 are lost"), "{listed}");
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
    disk.make_room();
    wait_until(20, "another recording where there is room again", || {
        capture_box.ask("start").status.success()
    });
    capture_box.stop();
}
