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

/// The lines of a file that systemd-sysusers makes of one of ours.
fn made(conf: &str, file: &str) -> Vec<Vec<String>> {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    let output = Command::new("systemd-sysusers")
        .arg(format!("--root={}", root.path().display()))
        .arg(folder().join("sysusers.d").join(conf))
        .output()
        .expect("systemd-sysusers: Debian's package systemd has it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{conf}: {said}");
    let text = fs::read_to_string(root.path().join(file)).unwrap_or_default();
    text.lines()
        .map(|line| line.split(':').map(str::to_owned).collect())
        .collect()
}

#[test]
fn the_box_s_groups_are_made_and_its_user_is_of_the_moment() {
    let text = unit("hallcast.service");
    let groups = made("hallcast.conf", "etc/group");
    let is_group = |name: &str| groups.iter().any(|fields| fields[0] == name);
    // A unit does not start when one of them is missing.
    let wanted = value(&text, "SupplementaryGroups").split(' ');
    for group in wanted.chain([value(&text, "Group")]) {
        assert!(is_group(group), "no group {group} in {groups:?}");
    }
    assert_eq!(value(&text, "DynamicUser"), "yes");
    // systemd makes no user of the moment whose name is a static group.
    assert!(!is_group(value(&text, "User")));
    assert!(made("hallcast.conf", "etc/passwd").is_empty());
}

#[test]
fn the_receiver_s_user_is_made_with_its_directory() {
    let text = unit("hallcast-receiver.service");
    let home = format!("/var/lib/{}", value(&text, "StateDirectory"));
    let users = made("hallcast-receiver.conf", "etc/passwd");
    let is_it = |fields: &Vec<String>| fields[0] == value(&text, "User") && fields[5] == home;
    assert!(users.iter().any(is_it), "{users:?}");
    // Its authority is made there before the first start, which would make the directory too.
    let made = unit("tmpfiles.d/hallcast-receiver.conf");
    let made = made.lines().find(|line| !line.starts_with('#')).unwrap();
    let (user, mode) = (value(&text, "User"), value(&text, "StateDirectoryMode"));
    assert_eq!(made, format!("d {home} {mode} {user} {user} -"));
}

#[test]
fn no_program_that_hangs_or_fails_stays_down_but_one_with_wrong_settings_does() {
    for (name, _, _) in UNITS {
        let text = unit(name);
        for (key, wanted) in [
            ("Type", "notify"),
            ("Restart", "always"),
            ("RestartPreventExitStatus", "78"),
            ("StartLimitIntervalSec", "0"),
            ("WatchdogSignal", "SIGKILL"),
            ("StateDirectoryMode", "0700"),
        ] {
            assert_eq!(value(&text, key), wanted, "{name}: {key}");
        }
        let patience: u64 = value(&text, "WatchdogSec").parse().unwrap();
        println!("{name}: killed when it hangs for {patience} s");
        assert!((5..=30).contains(&patience), "{name}: {patience}");
    }
}

#[test]
fn the_box_waits_for_no_network_and_its_lamp_s_guard_outlives_it() {
    let text = unit("hallcast.service");
    for key in ["After", "Wants", "Requires", "BindsTo"] {
        let prefix = format!("{key}=");
        let named = text.lines().find(|line| line.starts_with(&prefix));
        assert_eq!(named, None, "it records without whatever that is");
    }
    // Otherwise the guard is killed with it, and the lamp stays lit.
    assert_eq!(value(&text, "KillMode"), "mixed");
}

#[test]
fn the_box_may_open_what_it_needs_and_nothing_else() {
    let text = unit("hallcast.service");
    assert_eq!(value(&text, "DevicePolicy"), "closed");
    let allowed = text
        .lines()
        .filter_map(|line| line.strip_prefix("DeviceAllow="));
    let allowed: Vec<&str> = allowed.collect();
    let needed = [
        "char-video4linux rw",
        "char-alsa rw",
        "char-gpiochip rw",
        "char-*gpiomem rw",
    ];
    assert_eq!(allowed, needed);
    // systemd knows the names of drivers that are there when it starts the unit: a camera's and a sound
    // card's come with these modules, and it starts no unit of the usual dependencies before it loaded them.
    let modules = fs::read_to_string(folder().join("modules-load.d/hallcast.conf")).unwrap();
    let modules: Vec<&str> = (modules.lines())
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert_eq!(modules, ["videodev", "snd"]);
    assert!(!text.contains("DefaultDependencies="));
    let postinst = fs::read_to_string(folder().join("deb/hallcast.postinst")).unwrap();
    let (before, _) = postinst.split_once("#DEBHELPER#").unwrap();
    assert!(before.contains("modprobe -qab videodev snd"), "{before}");
}

/// What it may write is its own, and its socket is for the group.
#[test]
fn the_box_s_directories_are_its_own_and_it_is_given_time_to_end() {
    let text = unit("hallcast.service");
    for (key, wanted) in [
        ("StateDirectory", "hallcast"),
        ("StateDirectoryMode", "0700"),
        ("RuntimeDirectory", "hallcast"),
        // The group may enter; the socket itself is of the group alone.
        ("RuntimeDirectoryMode", "0750"),
        ("UMask", "0077"),
        ("SupplementaryGroups", "video audio gpio"),
    ] {
        assert_eq!(value(&text, key), wanted, "{key}");
    }
    // Where systemd keeps the state of a user of the moment: a disk may be mounted there.
    let state = format!("/var/lib/private/{}", value(&text, "StateDirectory"));
    assert_eq!(value(&text, "RequiresMountsFor"), state);
    // Sealing takes a disk its time; systemd kills what takes longer.
    let patience: u64 = value(&text, "TimeoutStopSec").parse().unwrap();
    assert!(patience >= 10, "{patience}");
}

/// What board files name is what the rules of udev make.
#[test]
fn the_rules_make_the_names_of_the_boards() {
    let rules = fs::read_to_string(folder().join("70-hallcast.rules")).unwrap();
    let rules: Vec<&str> = (rules.lines())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    for rule in &rules {
        let is_well = |part: &str| part.trim().ends_with('"') && part.matches('"').count() == 2;
        assert!(rule.split(", ").all(is_well), "{rule}");
    }
    let gives = |what: &str| rules.iter().any(|rule| rule.contains(what));
    let boards = Path::new(env!("CARGO_MANIFEST_DIR")).join("boards");
    let mut names = 0;
    for board in fs::read_dir(boards).unwrap() {
        let text = fs::read_to_string(board.unwrap().path()).unwrap();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(" = ") else {
                continue;
            };
            let value = value.trim_matches('"');
            let made = match (key, value.strip_prefix("/dev/")) {
                ("device", Some(node)) => format!("SYMLINK+=\"{node}\""),
                ("card", _) => format!("ATTR{{id}}=\"{value}\""),
                _ => continue,
            };
            names += 1;
            assert!(gives(&made), "no rule has {made}");
        }
    }
    println!("names that boards ask for: {names}");
    assert!(names >= 10, "{names}");
    // A camera's own microphone is a sound card on USB too; what the device is has to be found out before.
    let at = |what: &str| rules.iter().position(|rule| rule.contains(what));
    let named = at("ATTR{id}=\"hallcast\"").unwrap();
    assert!(rules[named].contains("ENV{ID_USB_INTERFACES}!=\"*:0e*\""));
    assert!(at("IMPORT{builtin}=\"usb_id\"").unwrap() < named);
    let to_the_group = "GROUP=\"gpio\", MODE=\"0660\"";
    for lines in ["SUBSYSTEM==\"gpio\"", "KERNEL==\"gpiomem*\""] {
        let mut rules = rules.iter().filter(|rule| rule.starts_with(lines));
        assert!(rules.any(|rule| rule.ends_with(to_the_group)), "{lines}");
    }
}
