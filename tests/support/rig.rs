//! The rig's guest: a test that needs drivers starts itself again there.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Set in the guest, to the folder for results.
const INSIDE: &str = "HALLCAST_IN_GUEST";
/// What the rig says on a machine that it cannot run on.
const LEFT_OUT: i32 = 3;

/// The folder for results, when this runs in the guest.
pub fn inside() -> Option<PathBuf> {
    std::env::var_os(INSIDE).map(PathBuf::from)
}

/// Runs the test called `name` of this same file in the guest, for `seconds` at most, with `results`
/// (a folder below /tmp) for what it finds; fails when it fails there. False when this machine can
/// have no guest: then it has said what is left out. `HALLCAST_RIG` names another rig than
/// `tests/rig/rig`.
pub fn ran_in_the_guest(name: &str, seconds: u64, results: &Path) -> bool {
    let root = env!("CARGO_MANIFEST_DIR");
    let rig = std::env::var("HALLCAST_RIG").unwrap_or(format!("{root}/tests/rig/rig"));
    let output = Command::new(rig)
        .args(["run", "-t", &seconds.to_string(), "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, results)
        .current_dir(root)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("the rig starts");
    // Marked, so that the guest's own summary is not counted beside this one's.
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("guest: {line}");
    }
    let status = output.status;
    if status.code() == Some(LEFT_OUT) {
        println!("left out: {name}: the rig needs x86-64");
        return false;
    }
    assert!(status.success(), "{name} in the guest: {status}");
    true
}
