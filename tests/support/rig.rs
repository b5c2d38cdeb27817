//! The rig's guest: a test that needs drivers starts itself again there.

#![allow(dead_code, reason = "each test file uses its own part")]

use hallcast::clock;
use hallcast::media::Monotonic;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Set in the guest, to the folder for results.
const INSIDE: &str = "HALLCAST_IN_GUEST";
/// Set in a guest that [`Guest::boot`] booted.
const TASK: &str = "HALLCAST_TASK";
/// What the rig says on a machine that it cannot run on.
const LEFT_OUT: i32 = 3;

/// The folder for results, when this runs in the guest.
pub fn inside() -> Option<PathBuf> {
    std::env::var_os(INSIDE).map(PathBuf::from)
}

/// A word of a task: time in which nothing runs in the guest is skipped.
pub const SKIP: &str = "skip";

/// The rig of this tree, or the one that HALLCAST_RIG names.
fn rig() -> Command {
    let root = env!("CARGO_MANIFEST_DIR");
    Command::new(std::env::var("HALLCAST_RIG").unwrap_or(format!("{root}/tests/rig/rig")))
}

/// Whether this machine can have a guest; where not, says that the test called `name` is left out.
fn can_run(name: &str) -> bool {
    let output = rig().arg("build").output().expect("the rig starts");
    if output.status.code() == Some(LEFT_OUT) {
        println!("left out: {name}: the rig needs x86-64");
        return false;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    true
}

/// The command that runs the test called `name` of this same file in the guest.
fn guest(name: &str, seconds: u64, results: &Path, disk: Option<&Path>, skip: bool) -> Command {
    let mut command = rig();
    command.args(["run", "-t", &seconds.to_string()]);
    if let Some(disk) = disk {
        command.arg("-d").arg(disk);
    }
    if skip {
        command.arg("-s");
    }
    command
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, results)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    command
}

/// A guest with a disk of its own, whose power the host can cut.
pub struct Guest {
    process: Child,
    lines: Receiver<(Monotonic, String)>,
    /// What it has said, and when that arrived.
    pub said: Vec<(Monotonic, String)>,
}

impl Guest {
    /// Boots one for the test called `name`, which finds `task` in HALLCAST_TASK there. None when this
    /// machine can have no guest: then it has said what is left out.
    pub fn boot(name: &str, task: &str, results: &Path, disk: &Path) -> Option<Self> {
        if !can_run(name) {
            return None;
        }
        let skip = task.split(' ').any(|word| word == SKIP);
        let mut process = guest(name, 600, results, Some(disk), skip)
            .env(TASK, task)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the rig starts");
        let output = process.stdout.take().unwrap();
        let (give, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                if give.send((clock::now(), line)).is_err() {
                    return;
                }
            }
        });
        let said = Vec::new();
        Some(Self {
            process,
            lines,
            said,
        })
    }

    /// Waits for a line that begins with `word`; gives what follows it. Another guest may have to end
    /// before this one boots.
    pub fn wait_for(&mut self, word: &str, seconds: u64) -> String {
        self.hear(word, Duration::from_secs(seconds))
            .unwrap_or_else(|| panic!("the guest says no `{word}`; it said\n{}", self.told()))
    }

    /// The same, if it comes within `patience`.
    pub fn hear(&mut self, word: &str, patience: Duration) -> Option<String> {
        let until = clock::now().plus(patience);
        loop {
            let left = until.since(clock::now());
            let (at, line) = self.lines.recv_timeout(left).ok()?;
            let found = line.strip_prefix(word).map(|rest| rest.trim().to_owned());
            self.said.push((at, line));
            if found.is_some() {
                return found;
            }
        }
    }

    /// When the first line that begins with `word` arrived; waits for it if need be.
    pub fn heard(&mut self, word: &str, seconds: u64) -> Monotonic {
        let first = |said: &[(Monotonic, String)]| {
            let found = said.iter().find(|(_, line)| line.starts_with(word));
            found.map(|(at, _)| *at)
        };
        if first(&self.said).is_none() {
            self.wait_for(word, seconds);
        }
        first(&self.said).unwrap()
    }

    /// Takes in what it has said so far.
    pub fn catch_up(&mut self) {
        self.said.extend(self.lines.try_iter());
    }

    fn told(&self) -> String {
        let lines = self.said.iter().map(|(_, line)| line.as_str());
        let told: Vec<&str> = lines.filter(|line| !line.starts_with("now ")).collect();
        told.join("\n")
    }

    /// Cuts its power: the host's kernel ends it with SIGKILL, and with it goes everything that its
    /// kernel had not written to the disk. Gives the instant.
    pub fn cut(mut self) -> (Monotonic, Vec<(Monotonic, String)>) {
        let at = clock::now();
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.said.extend(self.lines.iter());
        (at, std::mem::take(&mut self.said))
    }

    /// Waits for its test to end well; gives what it said.
    pub fn finish(mut self) -> Vec<(Monotonic, String)> {
        let status = self.process.wait().unwrap();
        self.said.extend(self.lines.iter());
        for (_, line) in &self.said {
            if !line.starts_with("now ") {
                println!("guest: {line}");
            }
        }
        assert!(status.success(), "in the guest: {status}");
        std::mem::take(&mut self.said)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the host wants of a guest that it booted by [`Guest::boot`].
pub fn task() -> String {
    std::env::var(TASK).unwrap()
}

/// Runs the test called `name` of this same file in the guest, for `seconds` at most, with `results`
/// (a folder below /tmp) for what it finds; fails when it fails there. False when this machine can
/// have no guest: then it has said what is left out.
pub fn ran_in_the_guest(name: &str, seconds: u64, results: &Path) -> bool {
    if !can_run(name) {
        return false;
    }
    let output = guest(name, seconds, results, None, false)
        .output()
        .expect("the rig starts");
    // Marked, so that the guest's own summary is not counted beside this one's.
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("guest: {line}");
    }
    let status = output.status;
    assert!(status.success(), "{name} in the guest: {status}");
    true
}
