//! What the receiver may have a box do, with the real programs over real QUIC.

#![cfg(all(feature = "receiver", feature = "software"))]
#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod support;

use std::os::unix::fs::PermissionsExt;
use support::programs::{CaptureBox, RECEIVER, Receiver, alone, outcome, small_bench, wait_until};

/// Gives the command by the receiver's program: what it printed, or why it was not done.
fn command(receiver: &Receiver, box_or_room: &str, action: &str) -> Result<String, String> {
    let state = receiver.home.join("state");
    let state = state.to_str().unwrap();
    let output = outcome(
        RECEIVER,
        &["command", box_or_room, action, "--state-dir", state],
    );
    let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
    match output.status.code() {
        Some(0) => Ok(text(output.stdout)),
        Some(1) => Err(text(output.stderr)),
        other => panic!("{other:?}: {}", text(output.stderr)),
    }
}

#[test]
fn a_box_does_what_its_receiver_asks_only_where_its_settings_allow_it() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let board = small_bench(home.path());
    let receiver = Receiver::start(home.path());
    let socket = receiver.home.join("state/control.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for its owner only");

    let start = |room: &str, settings: &str| {
        let file = home.path().join(format!("{room}.toml"));
        std::fs::write(&file, settings).unwrap();
        let arguments = ["--board", &board, "--config", file.to_str().unwrap()];
        let capture_box = CaptureBox::start(home.path(), room, Some(&receiver), &arguments);
        wait_until(60, "the connection", || {
            capture_box.status()["uplink"]["connected"] == true
        });
        capture_box
    };
    let closed = start("closed", "");
    let why = command(&receiver, "closed", "start").unwrap_err();
    assert!(
        why.contains("add \"start\" to recording.network-commands in its box.toml"),
        "{why}"
    );
    assert_eq!(closed.status()["state"], "idle");

    let allowed = "[recording]\nnetwork-commands = [\"start\", \"stop\", \"mark\", \"identify\"]\n";
    let mut open = start("open", allowed);
    let why = command(&receiver, "open", "stop").unwrap_err();
    assert!(why.ends_with("refuses: not recording"), "{why}");
    let why = command(&receiver, "open", "identify").unwrap_err();
    assert!(why.ends_with("this box has no lamp"), "{why}");
    let recording = command(&receiver, "open", "start").unwrap();
    wait_until(60, "the first chunk", || {
        open.status()["state"] == "recording"
    });
    assert_eq!(open.status()["recording"]["id"], recording.as_str());
    // By its id as by its room.
    let id = open.status()["box_id"].as_str().unwrap().to_owned();
    assert_eq!(command(&receiver, &id, "mark"), Ok(recording.clone()));
    assert_eq!(command(&receiver, "open", "pause"), Ok(recording.clone()));
    assert_eq!(open.status()["state"], "paused");
    assert_eq!(command(&receiver, "open", "resume"), Ok(recording.clone()));
    wait_until(60, "the next span", || {
        open.status()["state"] == "recording"
    });
    assert_eq!(command(&receiver, "open", "stop"), Ok(recording.clone()));
    assert_eq!(open.status()["state"], "idle", "answered once it is whole");
    let manifest = receiver.wait_complete(&recording, 60);
    assert_eq!(
        (&manifest["started_by"], &manifest["ended_by"]),
        (&"network".into(), &"network".into()),
        "{manifest}"
    );
    assert_eq!(manifest["marks"].as_array().unwrap().len(), 1, "{manifest}");
    assert_eq!(closed.status()["state"], "idle", "it was not meant");

    open.terminate();
    let mut said = String::new();
    wait_until(60, "the end of the connection", || {
        said = command(&receiver, "open", "start")
            .err()
            .unwrap_or_default();
        said.contains("no box of this id or in this room is connected")
    });
}
