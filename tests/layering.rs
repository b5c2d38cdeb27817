//! Who may import whom, checked against the source text.
//!
//! A scan of `crate::` paths is enough because `super::super` is refused too. A room that is missing
//! from the table fails, so that nobody adds one without deciding where it stands.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Room, and the rooms it may name with `crate::`.
const TABLE: &[(&str, &[&str])] = &[
    ("media", &[]),
    ("sys", &[]),
    ("clock", &["media", "sys"]),
    ("blocking", &[]),
    ("journal", &[]),
    ("settings", &[]),
    ("wire", &["media"]),
    ("mp4", &["media"]),
    ("board", &["media", "settings"]),
    ("source", &["media", "clock", "board", "sys"]),
    ("pacer", &["media", "clock"]),
    ("encoder", &["media", "clock", "board"]),
    ("segmenter", &["media", "clock", "mp4", "wire"]),
    ("spool", &["media", "clock"]),
    ("uplink", &["media", "clock", "blocking", "wire"]),
    ("panel", &["media", "clock", "board"]),
    (
        "station",
        &[
            "media",
            "clock",
            "journal",
            "settings",
            "mp4",
            "board",
            "source",
            "pacer",
            "encoder",
            "segmenter",
            "spool",
            "uplink",
            "panel",
        ],
    ),
    (
        "receiver",
        &[
            "media", "clock", "blocking", "journal", "settings", "wire", "mp4",
        ],
    ),
    // Only compiled for tests: whole boxes and receivers in virtual time.
    (
        "simulation",
        &[
            "media",
            "clock",
            "blocking",
            "wire",
            "mp4",
            "segmenter",
            "spool",
            "uplink",
            "station",
            "receiver",
        ],
    ),
];

/// The two drivers that may name quinn, each with its tests below it, our congestion controller, and
/// the network that both meet on in simulations.
const QUINN: &[&str] = &[
    "uplink/quic",
    "uplink/congestion",
    "receiver/listener",
    "simulation/network",
];

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries: Vec<PathBuf> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        for path in entries {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path
                    .strip_prefix(&root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Every breach of the rules in one file, as lines for people.
fn breaches(name: &str, text: &str) -> Vec<String> {
    let table: BTreeMap<&str, &[&str]> = TABLE.iter().copied().collect();
    let room = name.split(['/', '.']).next().unwrap();
    let mut found = Vec::new();
    let allowed: &[&str] = match room {
        "lib" => return found,
        "bin" => &[],
        _ => match table.get(room) {
            Some(allowed) => allowed,
            None => {
                return vec![format!(
                    "{name}: `{room}` is not in the table of tests/layering.rs"
                )];
            }
        },
    };
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap();
        let place = format!("{name}:{}", number + 1);
        for after in code.split("crate::").skip(1) {
            let target: String = after
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if target != room && !allowed.contains(&target.as_str()) {
                found.push(format!("{place}: `{room}` may not import `{target}`"));
            }
        }
        if room == "bin"
            && code.contains("hallcast::")
            && !code.contains("::station::")
            && !code.contains("::receiver::")
        {
            found.push(format!(
                "{place}: a binary calls station or receiver, nothing else"
            ));
        }
        if code.contains("super::super::") {
            found.push(format!(
                "{place}: name the room with crate::, not super::super"
            ));
        }
        if (code.contains("quinn::") || code.contains("quinn_proto::"))
            && !QUINN.iter().any(|driver| name.starts_with(driver))
        {
            found.push(format!("{place}: quinn is named only in {QUINN:?}"));
        }
        if code.contains("unsafe ") && !name.starts_with("sys/") {
            found.push(format!("{place}: unsafe code belongs in sys/"));
        }
    }
    found
}

#[test]
fn every_import_is_in_the_table() {
    let all: Vec<String> = sources()
        .iter()
        .flat_map(|(name, text)| breaches(name, text))
        .collect();
    assert!(all.is_empty(), "\n{}", all.join("\n"));
}

#[test]
fn every_room_of_the_table_exists() {
    let files = sources();
    for (room, _) in TABLE {
        assert!(
            files
                .iter()
                .any(|(name, _)| name.split(['/', '.']).next() == Some(room)),
            "the table names `{room}`, src/ has no such room"
        );
    }
}

#[test]
fn the_scan_sees_each_kind_of_breach() {
    for (name, text) in [
        ("pacer/mod.rs", "use crate::uplink::Uplink;"),
        ("station/mod.rs", "fn f() { crate::receiver::main() }"),
        ("uplink/session.rs", "use quinn::Connection;"),
        ("source/v4l2.rs", "unsafe { ioctl() }"),
        ("spool/mod.rs", "use super::super::media;"),
        ("attic/mod.rs", ""),
        ("bin/hallcast.rs", "fn main() { hallcast::spool::open() }"),
    ] {
        assert_eq!(breaches(name, text).len(), 1, "{name}: {text}");
    }
}
