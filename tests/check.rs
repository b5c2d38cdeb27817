//! `hallcast check` as people run it: beside a real receiver, over networks that fail in their ways, on
//! disks that refuse, and with the devices of the rig's guest.

#![cfg(all(feature = "receiver", feature = "software"))]
#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod support;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use support::mounts::{SmallDisk, where_it_may_mount};
use support::network::{HERE, Network, Router, in_a_network_of_its_own};
use support::programs::{
    BOX, CaptureBox, Receiver, alone, enroll, outcome, run, small_bench, wait_until,
};

/// Everything well.
const OK: i32 = 0;
/// Something takes a person.
const WRONG: i32 = 78;

/// What a check said.
struct Checked {
    code: i32,
    told: Value,
}

impl Checked {
    /// The verdict, the figure and the advice of a line.
    fn line(&self, what: &str) -> (String, String, String) {
        let lines = self.told["lines"].as_array().unwrap();
        let line = lines.iter().find(|line| line["what"] == what);
        let line = line.unwrap_or_else(|| panic!("no line `{what}` in {:#}", self.told));
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        (text("verdict"), text("found"), text("next"))
    }

    /// Fails unless the line has this verdict and says this; gives what to do.
    fn expect(&self, what: &str, verdict: &str, says: &str) -> String {
        let (is, found, next) = self.line(what);
        println!("{what}: {is}: {found} -> {next}");
        assert_eq!(is, verdict, "{what}: {found}");
        assert!(found.contains(says), "{what}: {found}");
        assert_eq!(next.is_empty(), verdict == "ok", "{what}: {next}");
        next
    }
}

fn checked(output: &Output) -> Checked {
    let errors = String::from_utf8_lossy(&output.stderr);
    let told = serde_json::from_slice(&output.stdout);
    Checked {
        code: output.status.code().unwrap(),
        told: told.unwrap_or_else(|error| panic!("{error}: {errors}")),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A box's place, its board and its state, where nothing runs.
struct Place {
    home: PathBuf,
    board: String,
}

impl Place {
    fn new(home: &Path) -> Self {
        Self {
            home: home.to_owned(),
            board: small_bench(home),
        }
    }

    fn state(&self) -> PathBuf {
        self.home.join("state")
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let (state, socket) = (self.state(), self.home.join("control"));
        let own = ["check", "--json", "--board", &self.board];
        let places = ["--state-directory", text(&state), "--socket", text(&socket)];
        let all = own.iter().chain(&places).chain(more);
        all.map(|word| (*word).to_owned()).collect()
    }

    fn check(&self, more: &[&str]) -> Checked {
        self.check_through(&[], more)
    }

    /// The same behind a command that runs what follows it.
    fn check_through(&self, enter: &[String], more: &[&str]) -> Checked {
        let own = [vec![BOX.to_owned()], self.arguments(more)].concat();
        let all: Vec<&str> = enter.iter().chain(&own).map(String::as_str).collect();
        checked(&outcome(all[0], &all[1..]))
    }
}

/// Every file below `directory`, with its bytes.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push((path.clone(), fs::read(&path).unwrap())),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn all_is_well_beside_a_receiver_and_nothing_is_left_behind() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let place = Place::new(home.path());
    enroll(&place.state(), &receiver, "hall");
    let before = files(&place.state());
    let picture = home.path().join("aim.ppm");
    let to = [
        "--receiver",
        receiver.quic.as_str(),
        "--picture",
        text(&picture),
    ];
    let all = place.check(&to);
    for (what, says) in [
        ("settings", "board small-bench"),
        ("presenter", "320x180 I420 at 30"),
        ("microphone", "48000 Hz"),
        ("panel", "simulated"),
        ("picture", "320x180, of the presenter camera"),
        ("room", "h of recording at"),
        ("presenter encoder", "times as fast as needed"),
        ("certificate", "enrolled at"),
        ("udp", "answers after"),
        ("mtu", "bytes pass"),
        ("receiver", "let the box in"),
    ] {
        all.expect(what, "ok", says);
    }
    assert_eq!(all.line("disk").0, "ok", "{}", all.line("disk").1);
    let (_, clock, _) = all.line("clock");
    assert!(clock.contains("the receiver's"), "{clock}");
    assert_eq!(all.code, OK, "{:#}", all.told);
    // Colour bars: white at the left, and as many bytes as points.
    let kept = fs::read(&picture).unwrap();
    let head = b"P6\n320 180\n255\n";
    assert!(kept.starts_with(head));
    assert_eq!(kept.len(), head.len() + 3 * 320 * 180);
    assert_eq!(files(&place.state()), before, "nothing was written");
    // Again at once: the receiver's fence lets the next visit in, and a box after it.
    all_ok(&place, &receiver);
    let capture_box = CaptureBox::start(home.path(), "box", None, &["--board", &place.board]);
    drop(capture_box);
}

fn all_ok(place: &Place, receiver: &Receiver) {
    let again = place.check(&["--receiver", &receiver.quic]);
    again.expect("receiver", "ok", "let the box in");
    assert_eq!(again.code, OK);
}

#[test]
fn each_way_to_miss_a_receiver_has_a_line_of_its_own() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::start(home.path());
    let place = Place::new(home.path());

    // No key yet: UDP is tried all the same, and no key is made.
    let new = place.check(&["--receiver", &receiver.quic]);
    new.expect("udp", "ok", "answers after");
    new.expect("certificate", "wrong", "not enrolled");
    assert!(!place.state().exists(), "no identity was made");
    assert_eq!(new.code, WRONG);

    enroll(&place.state(), &receiver, "hall");
    let name = place.check(&["--receiver", "no-such-host.invalid:4433"]);
    let (verdict, found, _) = name.line("name");
    println!("name: {found}");
    assert_eq!((verdict.as_str(), name.code), ("wrong", WRONG));

    let settings = home.path().join("box.toml");
    let named = format!(
        "[receiver]\naddress = \"{}\"\nname = \"elsewhere.example\"\n",
        receiver.quic
    );
    fs::write(&settings, named).unwrap();
    let misnamed = place.check(&["--config", text(&settings)]);
    misnamed.expect("receiver", "wrong", "not for the name elsewhere.example");
    assert_eq!(misnamed.code, WRONG);

    // Another authority's box.
    let other = tempfile::tempdir().unwrap();
    let stranger = Receiver::start(other.path());
    let elsewhere = place.check(&["--receiver", &stranger.quic]);
    elsewhere.expect("receiver", "wrong", "another authority");
    assert_eq!(elsewhere.code, WRONG);

    // A time that has passed, as this box was told, by which the receiver's certificate has ended.
    let heard = place.state().join("heard");
    fs::write(&heard, "70000000000\n").unwrap();
    let late = place.check(&["--receiver", &receiver.quic]);
    late.expect("receiver", "wrong", "has ended, by this box's clock");
    late.expect(
        "clock",
        "warn",
        "which has passed: certificates are judged as of then",
    );
    late.expect("certificate", "wrong", "it has ended");
    assert_eq!(late.code, WRONG);
    fs::remove_file(&heard).unwrap();

    let boxes = receiver.home.join("state/boxes");
    let entry = fs::read_dir(&boxes)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let known = fs::read_to_string(&entry).unwrap();
    fs::write(&entry, known.replace("revoked = false", "revoked = true")).unwrap();
    let revoked = place.check(&["--receiver", &receiver.quic]);
    revoked.expect("receiver", "wrong", "revoked");
    fs::remove_file(&entry).unwrap();
    let unknown = place.check(&["--receiver", &receiver.quic]);
    unknown.expect("receiver", "wrong", "unknown-box");
    assert_eq!((revoked.code, unknown.code), (WRONG, WRONG));

    receiver.kill();
    let nobody = place.check(&["--receiver", &receiver.quic]);
    nobody.expect("udp", "wrong", "nobody listens on UDP port");
    assert_eq!(nobody.code, WRONG);
}

#[test]
fn a_firewall_and_a_narrow_path_are_told_apart() {
    if !in_a_network_of_its_own("a_firewall_and_a_narrow_path_are_told_apart") {
        return;
    }
    let network = Network::new(None);
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start_at(home.path(), HERE);
    let place = Place::new(home.path());
    enroll(&place.state(), &receiver, "hall");
    let enter = network.enter();
    let check = || place.check_through(&enter, &["--receiver", &receiver.quic]);
    let there = |words: &str| {
        let all: Vec<&str> = enter.iter().map(String::as_str).collect();
        let all: Vec<&str> = all.into_iter().chain(words.split(' ')).collect();
        run(all[0], &all[1..]);
    };

    let well = check();
    well.expect("receiver", "ok", "let the box in");
    let packet = |checked: &Checked| -> u32 {
        let (_, found, _) = checked.line("mtu");
        println!("mtu: {found}");
        found.split(' ').nth(2).unwrap().parse().unwrap()
    };
    // A machine that stalls does not get to the end of trying sizes.
    assert!((1229..=1480).contains(&packet(&well)));

    // Less than Ethernet at both ends: found, and enough.
    run("ip", &["link", "set", "here", "mtu", "1280"]);
    there("ip link set there mtu 1280");
    let tunnel = check();
    tunnel.expect("mtu", "ok", "less than Ethernet carries");
    assert!((1228..=1280).contains(&packet(&tunnel)));
    tunnel.expect("receiver", "ok", "let the box in");
    assert_eq!(tunnel.code, OK);

    // Less than QUIC needs.
    there("ip link set there mtu 1000");
    let narrow = check();
    narrow.expect("mtu", "wrong", "only packets of 1000 bytes pass");
    assert_eq!(narrow.code, WRONG);
    there("ip link set there mtu 1500");
    run("ip", &["link", "set", "here", "mtu", "1500"]);

    // Behind a router that refuses, and one whose way on is too narrow, which says so.
    let router = Router::new(&network);
    router.refuse(true);
    let refused = check();
    let port = receiver.quic.rsplit_once(':').unwrap().1;
    let rule = format!("allow UDP from this box to {HERE} port {port} and the answers back");
    let told = refused.expect("udp", "wrong", "a firewall on the way");
    assert_eq!((&told, refused.code), (&rule, WRONG));
    router.refuse(false);
    let behind = check();
    behind.expect("udp", "ok", "answers after");
    behind.expect("mtu", "wrong", "only packets of 1000 bytes pass");
    assert_eq!(behind.code, WRONG);
    drop(router);

    // The receiver's end takes nothing from the box and says nothing of it. Both know the other's card
    // by heart, as routers on the way would.
    let shown = run("ip", &["-o", "link", "show", "here"]);
    let mut words = shown
        .split_whitespace()
        .skip_while(|word| *word != "link/ether");
    let card = words.nth(1).unwrap();
    there(&format!(
        "ip neigh replace {HERE} lladdr {} dev there nud permanent",
        card
    ));
    run("ip", &["route", "add", "blackhole", "10.77.0.2/32"]);
    let dropped = check();
    let told = dropped.expect("udp", "wrong", "a firewall drops UDP");
    assert_eq!((told, dropped.code), (rule, WRONG));

    // No way there at all.
    run("ip", &["route", "del", "blackhole", "10.77.0.2/32"]);
    there("ip addr flush dev there");
    let nowhere = check();
    nowhere.expect("udp", "wrong", "there is no way to");
    assert_eq!(nowhere.code, WRONG);
}

#[test]
fn a_disk_that_refuses_is_wrong() {
    if !where_it_may_mount("a_disk_that_refuses_is_wrong") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let place = Place::new(home.path());
    let disk = SmallDisk::mount(&place.state(), 8);
    let small = place.check(&[]);
    small.expect("room", "wrong", "too little to begin one");
    small.expect("receiver", "warn", "none is configured");
    assert_eq!(small.code, WRONG);
    disk.fill();
    let full = place.check(&[]);
    full.expect("disk", "wrong", "No space left");
    disk.make_room();
    run("mount", &["-o", "remount,ro", text(&place.state())]);
    let read_only = place.check(&[]);
    read_only.expect("disk", "wrong", "Read-only file system");
    assert_eq!((full.code, read_only.code), (WRONG, WRONG));
    assert_eq!(fs::read_dir(place.state()).unwrap().count(), 0);
}

#[test]
fn wrong_settings_are_named_by_line_and_nothing_else_is_tried() {
    let home = tempfile::tempdir().unwrap();
    let settings = home.path().join("box.toml");
    fs::write(&settings, "room = \"A\"\n[spool]\nretention-days = 0\n").unwrap();
    let place = Place::new(home.path());
    let wrong = place.check(&["--config", text(&settings)]);
    let line = format!("{}:3: `spool.retention-days`", text(&settings));
    wrong.expect("settings", "wrong", &line);
    assert_eq!(wrong.told["lines"].as_array().unwrap().len(), 1);
    assert_eq!(wrong.code, WRONG);
}

#[test]
fn what_keeps_a_box_from_starting_is_wrong_without_a_receiver_too() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let place = Place::new(home.path());
    fs::write(place.state(), "").unwrap();
    let file = place.check(&[]);
    file.expect("disk", "wrong", "a file is where a directory should be");
    file.expect("certificate", "wrong", "cannot be read or written");
    fs::remove_file(place.state()).unwrap();
    fs::create_dir(home.path().join("control")).unwrap();
    let socket = place.check(&[]);
    socket.expect("control", "wrong", "cannot listen on the control socket");
    assert_eq!((file.code, socket.code), (WRONG, WRONG));
}

#[test]
fn beside_a_running_box_its_devices_are_asked_of_it() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let board = small_bench(home.path());
    let arguments = ["--board", board.as_str()];
    let capture_box = CaptureBox::start(home.path(), "box", Some(&receiver), &arguments);
    wait_until(20, "the box's connection", || {
        capture_box.status()["uplink"]["connected"] == true
    });
    let place = Place {
        home: capture_box.home.clone(),
        board,
    };
    let beside = place.check(&["--receiver", &receiver.quic]);
    beside.expect("box", "ok", "one runs (idle)");
    beside.expect("presenter", "ok", "held by the running box");
    beside.expect("receiver", "ok", "keeps to this box's own connection");
    assert_eq!(beside.code, OK);
    assert!(
        !receiver.log().contains("CLONED") && capture_box.status()["uplink"]["connected"] == true,
        "the box's own connection went on"
    );
    let recording = capture_box.record();
    let file = home.path().join("aim.ppm");
    let during = place.check(&["--receiver", &receiver.quic, "--picture", text(&file)]);
    during.expect("box", "ok", "not tried while it records");
    during.expect("disk", "ok", "syncs take");
    during.expect("picture", "wrong", "the running box holds the camera");
    assert!(!file.exists());
    assert_eq!(capture_box.stop(), recording);
    receiver.wait_complete(&recording, 20);
}

/// Plays 440 Hz into the loopback for as long as the value lives.
#[cfg(all(feature = "v4l2", feature = "alsa"))]
struct Tone(std::process::Child);

#[cfg(all(feature = "v4l2", feature = "alsa"))]
impl Tone {
    fn start(home: &Path) -> Self {
        let turn = |n: u32| std::f64::consts::TAU * f64::from(n * 440 % 48_000) / 48_000.0;
        let sample = |n: u32| ((8_000.0 * turn(n).sin()) as i16).to_le_bytes();
        let second: Vec<u8> = (0..48_000)
            .flat_map(|n| [sample(n), sample(n)].concat())
            .collect();
        let file = home.join("tone.raw");
        fs::write(&file, second.repeat(60)).unwrap();
        let words = "-q -t raw -f S16_LE -c 2 -r 48000 -D hw:Loopback,0";
        let player = std::process::Command::new("aplay")
            .args(words.split(' '))
            .arg(&file)
            .stdin(std::process::Stdio::null())
            .spawn();
        Self(player.unwrap())
    }
}

#[cfg(all(feature = "v4l2", feature = "alsa"))]
impl Drop for Tone {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A board with this camera and the loopback's microphone.
#[cfg(all(feature = "v4l2", feature = "alsa"))]
fn board(home: &Path, name: &str, camera: &str) -> Place {
    let path = home.join(format!("{name}.toml"));
    let text = format!(
        "schema = 1\nname = \"{name}\"\n[presenter.v4l2]\n{camera}\n\
         [microphone.alsa]\ncard = \"Loopback\"\ndevice = 1\n[panel.simulated]\n"
    );
    fs::write(&path, text).unwrap();
    Place {
        home: home.to_owned(),
        board: path.to_str().unwrap().to_owned(),
    }
}

#[cfg(all(feature = "v4l2", feature = "alsa"))]
#[test]
fn devices_are_tried_and_told() {
    const PORT: &str = "device = \"/dev/v4l/by-path/platform-vivid.0-video-index0\"";
    if support::rig::inside().is_none() {
        let _alone = alone();
        support::rig::ran_in_the_guest("devices_are_tried_and_told", 240, Path::new("/tmp"));
        return;
    }
    let home = PathBuf::from("/dev/shm/check");
    fs::create_dir_all(&home).unwrap();
    let file = home.join("aim.ppm");

    let good = board(&home, "good", &format!("{PORT}\nwidth = 640\nheight = 360"));
    let silent = good.check(&["--picture", text(&file)]);
    silent.expect("microphone", "warn", "digital silence");
    let (verdict, found, _) = silent.line("presenter");
    println!("presenter: {verdict}: {found}");
    assert_ne!(verdict, "wrong");
    assert!(found.starts_with("640x360"), "{found}");
    assert_eq!(silent.code, OK);
    assert_bars(&fs::read(&file).unwrap());

    let tone = Tone::start(&home);
    let heard = good.check(&[]);
    let (_, found, _) = heard.line("microphone");
    println!("microphone: {found}");
    assert!(!found.contains("digital silence"), "{found}");
    assert!(found.contains("dBFS, peak -1"), "{found}");
    drop(tone);

    let encoded = board(&home, "encoded", &format!("{PORT}\npixels = \"H264\""));
    let encoded = encoded.check(&[]);
    encoded.expect("presenter", "wrong", "cannot do what was asked");
    let absent = board(&home, "absent", "device = \"/dev/v4l/by-path/nowhere\"");
    let absent = absent.check(&[]);
    absent.expect("presenter", "wrong", "not found");
    assert_eq!((encoded.code, absent.code), (WRONG, WRONG));

    lit_while_a_picture_is_kept(&home, PORT, &file);
    let lines = fs::read_to_string(&good.board).unwrap();
    let lines = lines.replace(
        "[panel.simulated]",
        "[panel.gpio]\nchip = \"no-such-chip\"\nrecord-button = { line = 1, active = \"low\" }\n\
         lamp = { line = 2, active = \"high\" }",
    );
    fs::write(&good.board, lines).unwrap();
    fs::remove_file(&file).unwrap();
    let unlit = good.check(&["--picture", text(&file)]);
    unlit.expect("lamp", "wrong", "no GPIO chip is labelled `no-such-chip`");
    unlit.expect("picture", "wrong", "the lamp cannot be lit");
    assert!(
        !file.exists(),
        "nothing is kept of a camera without the lamp"
    );
}

/// The lamp of the rig's chip shows capture from before the camera gives pictures until one is kept.
#[cfg(all(feature = "v4l2", feature = "alsa"))]
fn lit_while_a_picture_is_kept(home: &Path, port: &str, file: &Path) {
    use hallcast::clock;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    let is_lit = || {
        let value = fs::read_to_string("/run/rig/gpio/sim_gpio27/value").unwrap();
        value.trim() == "1"
    };
    let place = board(home, "lamp", &format!("{port}\nwidth = 640\nheight = 360"));
    let text_of = fs::read_to_string(&place.board).unwrap();
    let lines = "[panel.gpio]\nchip = \"pinctrl-bcm2711\"\n\
        record-button = { line = 17, active = \"low\" }\nlamp = { line = 27, active = \"high\" }\n";
    fs::write(&place.board, text_of.replace("[panel.simulated]\n", lines)).unwrap();
    let pull = |way: &str| fs::write("/run/rig/gpio/sim_gpio17/pull", way).unwrap();
    pull("pull-down");
    let held = place.check(&[]);
    let next = held.expect("button", "warn", "it is down");
    assert!(next.starts_with("let go of it"), "{next}");
    pull("pull-up");
    let ended = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let seen = scope.spawn(|| {
            let (mut lit, mut kept_dark) = (Duration::ZERO, false);
            let mut before = clock::now();
            while !ended.load(Ordering::Relaxed) {
                clock::sleep(Duration::from_millis(5));
                let (now, is_lit) = (clock::now(), is_lit());
                if is_lit {
                    lit += now.since(before);
                }
                kept_dark |= file.exists() && lit.is_zero();
                before = now;
            }
            (lit, kept_dark)
        });
        fs::remove_file(file).unwrap();
        let aimed = place.check(&["--picture", text(file)]);
        ended.store(true, Ordering::Relaxed);
        aimed.expect("button", "ok", "there and free");
        aimed.expect("lamp", "ok", "there and free");
        aimed.expect("picture", "ok", "640x360, of the presenter camera");
        seen.join().unwrap()
    });
    println!("the lamp was lit for {:?} while a picture was kept", seen.0);
    assert!(seen.0 >= Duration::from_secs(2) && !seen.1, "{seen:?}");
    assert!(!is_lit(), "and is dark afterwards");
}

/// Fails unless the pixmap shows vivid's colour bars: white at the left, then yellow; red and blue
/// towards the right.
#[cfg(all(feature = "v4l2", feature = "alsa"))]
fn assert_bars(pixmap: &[u8]) {
    let head = b"P6\n640 360\n255\n";
    assert!(pixmap.starts_with(head));
    let points = &pixmap[head.len()..];
    // Below the text that vivid writes, in the middle of each of the eight bars.
    let bar = |n: usize| {
        let at = 3 * (640 * 300 + 40 + 80 * n);
        [points[at], points[at + 1], points[at + 2]].map(|level| level > 90)
    };
    let bars: Vec<[bool; 3]> = (0..8).map(bar).collect();
    let of = |red, green, blue| [red, green, blue];
    assert_eq!(
        bars,
        [
            of(true, true, true),
            of(true, true, false),
            of(false, true, true),
            of(false, true, false),
            of(true, false, true),
            of(true, false, false),
            of(false, false, true),
            of(false, false, false),
        ]
    );
}
