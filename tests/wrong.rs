//! What the programs say of wrong settings, boards, lists, command lines and machines, to the letter:
//! docs/errors.md is made of it, but for its last chapter (tests/wrong_devices.rs), and this fails when
//! the two differ. `HALLCAST_REWRITE=1 cargo test --test wrong` writes the page anew.

#![cfg(all(feature = "receiver", feature = "software"))]
#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod support;

use std::fs;
use std::process::{Command, Stdio};
use support::page::{Part, Situations, assert_says, is_rewritten, messages};
use support::programs::{BOX, RECEIVER};

/// The fewest situations that it has to hold.
const FEWEST: usize = 40;

/// What is wrong, and how one gets there.
struct Case {
    /// In people's words.
    what: &'static str,
    /// Files beside the programs: name and bytes.
    files: &'static [(&'static str, &'static [u8])],
    /// The command line, by words; the first is the program.
    command: &'static str,
}

const fn case(
    what: &'static str,
    files: &'static [(&'static str, &'static [u8])],
    command: &'static str,
) -> Case {
    Case {
        what,
        files,
        command,
    }
}

/// A box with the settings `box.toml`.
const SETTINGS: &str = "hallcast run --config box.toml --state-directory box";
/// A box with the board `site.toml`.
const BOARD: &str = "hallcast run --board ./site.toml --state-directory box";
/// A box of a fleet, whose serial number is 10000000abcdef01.
const FLEET: &str =
    "hallcast run --board bench --boot-directory . --serial-file serial --state-directory box";
/// A receiver with the settings `receiver.toml`.
const RECEIVES: &str = "hallcast-receiver run --config receiver.toml";

const SETTINGS_OF_A_BOX: &[Case] = &[
    case(
        "A key that does not exist",
        &[("box.toml", b"rooom = \"Hall 1\"\n")],
        SETTINGS,
    ),
    case(
        "A table that does not exist",
        &[("box.toml", b"[presentr]\nrate = \"25\"\n")],
        SETTINGS,
    ),
    case(
        "A text without quotes",
        &[("box.toml", b"room = Hall 1\n")],
        SETTINGS,
    ),
    case(
        "A number where a text belongs",
        &[("box.toml", b"room = 5\n")],
        SETTINGS,
    ),
    case(
        "The same key twice",
        &[("box.toml", b"room = \"Hall 1\"\nroom = \"Hall 2\"\n")],
        SETTINGS,
    ),
    case(
        "Umlauts in an older encoding",
        &[("box.toml", b"board = \"bench\"\nroom = \"H\xf6rsaal\"\n")],
        SETTINGS,
    ),
    case(
        "A file that is not there",
        &[],
        "hallcast run --config nowhere.toml",
    ),
    case(
        "A board that does not exist",
        &[("box.toml", b"board = \"rasperry-pi-4\"\n")],
        SETTINGS,
    ),
    case(
        "A board's file that is not there",
        &[("box.toml", b"board = \"hall.toml\"\n")],
        SETTINGS,
    ),
    case(
        "A room's name of blanks",
        &[("box.toml", b"room = \" \"\n")],
        SETTINGS,
    ),
    case(
        "A file without a serial number",
        &[
            ("box.toml", b"serial-file = \"serial\"\n"),
            ("serial", b"\n"),
        ],
        SETTINGS,
    ),
    case(
        "A picture rate that is none",
        &[("box.toml", b"[presenter]\nrate = \"0\"\n")],
        SETTINGS,
    ),
    case(
        "A bit rate that is too low",
        &[("box.toml", b"[presenter]\nbit-rate-kbps = 50\n")],
        SETTINGS,
    ),
    case(
        "A bit rate of sound that is too high",
        &[("box.toml", b"[microphone]\nbit-rate-kbps = 3200\n")],
        SETTINGS,
    ),
    case(
        "A longest recording of no minutes",
        &[("box.toml", b"[recording]\nmaximum-minutes = 0\n")],
        SETTINGS,
    ),
    case(
        "More than a day to resume in",
        &[("box.toml", b"[recording]\nresume-within-minutes = 9999\n")],
        SETTINGS,
    ),
    case(
        "A button that does something unknown",
        &[("box.toml", b"[recording]\nbutton = \"long-press\"\n")],
        SETTINGS,
    ),
    case(
        "A command of the receiver that does not exist",
        &[(
            "box.toml",
            b"[recording]\nnetwork-commands = [\"start\", \"pause\"]\n",
        )],
        SETTINGS,
    ),
    case(
        "A receiver without an address",
        &[("box.toml", b"[receiver]\nname = \"receiver\"\n")],
        SETTINGS,
    ),
    case(
        "An address without a port",
        &[(
            "box.toml",
            b"[receiver]\naddress = \"receiver.example.org\"\n",
        )],
        SETTINGS,
    ),
    case(
        "An address with the port 0",
        &[(
            "box.toml",
            b"[receiver]\naddress = \"receiver.example.org:0\"\n",
        )],
        SETTINGS,
    ),
    case(
        "A web address instead of host:port",
        &[(
            "box.toml",
            b"[receiver]\naddress = \"https://receiver.example.org:4433\"\n",
        )],
        SETTINGS,
    ),
    case(
        "A name that no machine has",
        &[(
            "box.toml",
            b"[receiver]\naddress = \"receiver.example.org:4433\"\nname = \"lecture hall\"\n",
        )],
        SETTINGS,
    ),
    case(
        "Nothing kept after the receiver has it",
        &[("box.toml", b"[spool]\nretention-days = 0\n")],
        SETTINGS,
    ),
    case(
        "A number in quotes",
        &[("box.toml", b"[spool]\nretention-days = \"7\"\n")],
        SETTINGS,
    ),
    case(
        "A quota of nothing",
        &[("box.toml", b"[spool]\nquota-gigabytes = 0\n")],
        SETTINGS,
    ),
    case(
        "Files of the spool that are too small",
        &[("box.toml", b"[spool]\nfile-kibibytes = 1\n")],
        SETTINGS,
    ),
];

const BOARDS: &[Case] = &[
    case("A version of the format that is not known", &[("site.toml", b"schema = 2\nname = \"site\"\n")], BOARD),
    case("A name that is not the file's", &[("site.toml", b"schema = 1\nname = \"hall\"\n")], BOARD),
    case("No name", &[("site.toml", b"schema = 1\n")], BOARD),
    case("A board of which nothing can be recorded", &[("site.toml", b"schema = 1\nname = \"site\"\n")], BOARD),
    case("A camera by its number", &[("site.toml", b"schema = 1\nname = \"site\"\n[presenter.v4l2]\ndevice = \"/dev/video0\"\n")], BOARD),
    case("A camera that is no device", &[("site.toml", b"schema = 1\nname = \"site\"\n[presenter.v4l2]\ndevice = \"/srv/film.mp4\"\n")], BOARD),
    case("An odd width", &[("site.toml", b"schema = 1\nname = \"site\"\n[presenter.v4l2]\ndevice = \"/dev/hallcast/presenter\"\nwidth = 641\n")], BOARD),
    case("Pictures in a format that is not known", &[("site.toml", b"schema = 1\nname = \"site\"\n[presenter.v4l2]\ndevice = \"/dev/hallcast/presenter\"\npixels = \"MJPG\"\n")], BOARD),
    case("A back end that does not exist", &[("site.toml", b"schema = 1\nname = \"site\"\n[presenter.webcam]\nwidth = 640\n")], BOARD),
    case("Two back ends for one camera", &[("site.toml", b"schema = 1\nname = \"site\"\n[presenter.pattern]\n[presenter.v4l2]\ndevice = \"/dev/hallcast/presenter\"\n")], BOARD),
    case("A sound card by its number", &[("site.toml", b"schema = 1\nname = \"site\"\n[microphone.alsa]\ncard = \"1\"\ndevice = 0\n")], BOARD),
    case("A sound card's name with blanks", &[("site.toml", b"schema = 1\nname = \"site\"\n[microphone.alsa]\ncard = \"USB Audio\"\ndevice = 0\n")], BOARD),
    case("A period that is too short", &[("site.toml", b"schema = 1\nname = \"site\"\n[microphone.tone]\nperiod-ms = 1\n")], BOARD),
    case("A GPIO chip by its number", &[("site.toml", b"schema = 1\nname = \"site\"\n[panel.gpio]\nchip = \"gpiochip0\"\nrecord-button = { line = 17, active = \"low\" }\nlamp = { line = 27, active = \"high\" }\n")], BOARD),
    case("A level that is none", &[("site.toml", b"schema = 1\nname = \"site\"\n[panel.gpio]\nchip = \"pinctrl-bcm2711\"\nrecord-button = { line = 17, active = \"up\" }\nlamp = { line = 27, active = \"high\" }\n")], BOARD),
    case("Button and lamp on one line", &[("site.toml", b"schema = 1\nname = \"site\"\n[microphone.tone]\n[panel.gpio]\nchip = \"pinctrl-bcm2711\"\nrecord-button = { line = 17, active = \"low\" }\nlamp = { line = 17, active = \"high\" }\n")], BOARD),
    case("A debounce of half a second", &[("site.toml", b"schema = 1\nname = \"site\"\n[panel.gpio]\nchip = \"pinctrl-bcm2711\"\nrecord-button = { line = 17, active = \"low\", debounce-ms = 500 }\nlamp = { line = 27, active = \"high\" }\n")], BOARD),
    case("A file that is not there", &[], BOARD),
];

const SERIAL: (&str, &[u8]) = ("serial", b"10000000abcdef01\n");

const FLEETS: &[Case] = &[
    case(
        "A column that does not exist",
        &[
            SERIAL,
            ("fleet.csv", b"serial,hall\n10000000abcdef01,Hall 1\n"),
        ],
        FLEET,
    ),
    case(
        "No column of rooms",
        &[SERIAL, ("fleet.csv", b"serial\n10000000abcdef01\n")],
        FLEET,
    ),
    case(
        "The same serial number twice",
        &[
            SERIAL,
            (
                "fleet.csv",
                b"serial,room\n10000000abcdef01,Hall 1\n10000000abcdef01,Hall 2\n",
            ),
        ],
        FLEET,
    ),
    case(
        "A row without a room",
        &[SERIAL, ("fleet.csv", b"serial,room\n10000000abcdef01,\n")],
        FLEET,
    ),
    case(
        "A serial number that a spreadsheet has rounded",
        &[SERIAL, ("fleet.csv", b"serial,room\n1.0E+16,Hall 1\n")],
        FLEET,
    ),
    case(
        "An older encoding",
        &[
            SERIAL,
            ("fleet.csv", b"serial,room\n10000000abcdef01,H\xf6rsaal 1\n"),
        ],
        FLEET,
    ),
];

const COMMANDS: &[Case] = &[
    case(
        "Nobody answers at the control socket",
        &[],
        "hallcast status --socket nowhere.sock",
    ),
    case(
        "A certificate that is not there",
        &[],
        "hallcast enroll --install box.pem --state-directory box",
    ),
    case(
        "A certificate that is none",
        &[("box.pem", b"a letter\n")],
        "hallcast enroll --install box.pem --state-directory box",
    ),
    case(
        "A board that does not exist, by a flag",
        &[],
        "hallcast run --board rasperry-pi-4 --state-directory box",
    ),
    case(
        "A receiver that is none, by a flag",
        &[],
        "hallcast run --board bench --state-directory box --receiver https://receiver",
    ),
    case(
        "A microphone that is none, by a flag",
        &[],
        "hallcast run --board bench --state-directory box --microphone default",
    ),
    case(
        "A state directory that is a file",
        &[("box", b"")],
        "hallcast run --board bench --state-directory box",
    ),
    case(
        "A control socket that is another file",
        &[("site.toml", b"")],
        "hallcast run --board bench --state-directory box --socket site.toml",
    ),
    case(
        "A spool that is not there",
        &[],
        "hallcast spool ls nowhere",
    ),
];

const RECEIVERS: &[Case] = &[
    case(
        "A key that does not exist",
        &[("receiver.toml", b"port = 4433\n")],
        RECEIVES,
    ),
    case(
        "An address that is none",
        &[("receiver.toml", b"listen = \"everywhere\"\n")],
        RECEIVES,
    ),
    case(
        "Pages for everybody",
        &[("receiver.toml", b"web_listen = \"0.0.0.0:8080\"\n")],
        RECEIVES,
    ),
    case(
        "A path that depends on where one stands",
        &[("receiver.toml", b"store_dir = \"store\"\n")],
        RECEIVES,
    ),
    case(
        "A store of a kind that is not known",
        &[("receiver.toml", b"store_url = \"ftp://store\"\n")],
        RECEIVES,
    ),
    case(
        "No authority yet",
        &[],
        "hallcast-receiver run --state-dir state --store-dir store --listen 127.0.0.1:0 --web-listen 127.0.0.1:0",
    ),
    case(
        "A file where the state directory should be",
        &[("state", b"")],
        "hallcast-receiver run --state-dir state --store-dir store --listen 127.0.0.1:0 --web-listen 127.0.0.1:0",
    ),
    case(
        "A file where the authority's directory should be made",
        &[("state", b"")],
        "hallcast-receiver ca init --state-dir state",
    ),
    case(
        "To sign without an authority",
        &[("box.csr", b"a letter\n")],
        "hallcast-receiver sign box.csr --room Hall --state-dir state",
    ),
    case(
        "To command a box while no receiver runs",
        &[],
        "hallcast-receiver command Hall start --state-dir state",
    ),
    case(
        "To export from a store that is not there",
        &[],
        "hallcast-receiver export 00112233445566778899aabbccddeeff --output lecture.mp4 --store-dir nowhere",
    ),
];

const CHAPTERS: &[(&str, &[Case])] = &[
    ("Settings of a box (`box.toml`)", SETTINGS_OF_A_BOX),
    ("Board files", BOARDS),
    ("The list of a fleet (`fleet.csv`)", FLEETS),
    ("Command lines and machines", COMMANDS),
    ("The receiver", RECEIVERS),
];

const HEAD: &str = "\
# What the programs say when something is wrong

Messages as they are printed, and the exit code: 78 means that the settings have to be mended and that \
starting again does not help, 2 that the command line is wrong, 1 that it was not done. \
`tests/wrong.rs` and, with the drivers of cameras, sound cards and GPIO chips, `tests/wrong_devices.rs` bring \
each of these about with the real programs and fail when a message differs from this page. What is wrong with a \
network, [`hallcast check`](../README.md#before-the-first-lecture) says, with what to do; that is not on this page.
";

/// What the program says, without its log, and its exit code.
fn said(case: &Case) -> (String, i32) {
    let home = tempfile::tempdir().unwrap();
    for (name, bytes) in case.files {
        fs::write(home.path().join(name), bytes).unwrap();
    }
    let mut words = case.command.split(' ');
    let program = match words.next() {
        Some("hallcast") => BOX,
        _ => RECEIVER,
    };
    // What does not end by itself is no error: timeout(1) gives 124 then.
    let output = Command::new("timeout")
        .args(["-k", "1", "10", program])
        .args(words)
        .current_dir(home.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (messages(&output.stderr), output.status.code().unwrap())
}

#[test]
fn every_wrong_situation_is_told_as_the_page_says() {
    let mut told = Situations::default();
    told.text.push_str(HEAD);
    for (chapter, cases) in CHAPTERS {
        told.text.push_str(&format!("\n## {chapter}\n"));
        for case in *cases {
            let (message, code) = said(case);
            let what = case.what;
            if !is_rewritten() {
                assert!([1, 2, 78].contains(&code), "{what}: {code}: {message}");
            }
            told.add(what, &format!("exit code {code}"), &message);
        }
    }
    println!("{} situations", told.count);
    assert!(told.count >= FEWEST, "{} situations", told.count);
    assert_says(Part::Front, &told.text);
}
