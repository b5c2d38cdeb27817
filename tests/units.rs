//! The units for systemd: it finds nothing to say against them, each is confined to a stated degree,
//! and their users exist.

#![cfg(feature = "receiver")]
#![allow(clippy::unwrap_used, missing_docs, reason = "a test ends by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A unit, the program it starts, and the most exposure that `systemd-analyze security` may see, in
/// tenths: 0 is a sealed box, 100 a program that may do everything.
const UNITS: [(&str, &str, u32); 2] = [
    (
        "hallcast.service",
        env!("CARGO_BIN_EXE_hallcast"),
        20, // it needs cameras, sound cards and the network
    ),
    (
        "hallcast-receiver.service",
        env!("CARGO_BIN_EXE_hallcast-receiver"),
        15,
    ),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn unit(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

/// The value of a unit's `key`.
fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let prefix = format!("{key}=");
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(&prefix));
    values.next().unwrap_or_else(|| panic!("{key} is not set"))
}

fn analyze(arguments: &[&str], unit: &Path) -> (Output, String) {
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg(unit)
        .output()
        .expect("systemd-analyze: Debian's package systemd has it");
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output, String::from_utf8(said).unwrap())
}

#[test]
fn systemd_finds_no_fault_in_the_units() {
    let installed = tempfile::tempdir().unwrap();
    for (name, program, _) in UNITS {
        // The program is not installed here: the one that was built stands for it.
        let program_name = Path::new(program).file_name().unwrap().to_str().unwrap();
        let text = unit(name).replace(&format!("/usr/bin/{program_name}"), program);
        assert!(
            text.contains(&format!("ExecStart={program} run\n")),
            "{name}"
        );
        let path = installed.path().join(name);
        fs::write(&path, text).unwrap();
        let (output, said) = analyze(&["verify"], &path);
        assert!(output.status.success() && said.is_empty(), "{name}: {said}");
    }
}

#[test]
fn the_units_are_confined() {
    for (name, _, most) in UNITS {
        let threshold = format!("--threshold={most}");
        let (output, said) = analyze(
            &["security", "--offline=true", "--no-pager", &threshold],
            &folder().join(name),
        );
        assert!(output.status.success(), "{name}: {said}");
        println!("{}", said.lines().last().unwrap());
    }
}

#[test]
fn the_units_users_are_made() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    let output = Command::new("systemd-sysusers")
        .arg(format!("--root={}", root.path().display()))
        .arg(folder().join("sysusers.conf"))
        .output()
        .expect("systemd-sysusers: Debian's package systemd has it");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let users = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    for (name, _, _) in UNITS {
        let user = value(&unit(name), "User").to_owned();
        let home = format!("/var/lib/{}", value(&unit(name), "StateDirectory"));
        let made = users.lines().any(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            fields.first() == Some(&user.as_str()) && fields.get(5) == Some(&home.as_str())
        });
        assert!(made, "{name}: no user {user} with home {home} in\n{users}");
    }
}
