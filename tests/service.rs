//! Both programs as services of systemd, which is the first process of a system of its own in the rig's
//! guest, with the units, groups and settings that an installed box has.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]
#![cfg(all(feature = "software", feature = "receiver"))]

#[path = "service/cards.rs"]
mod cards;
#[path = "service/lamp.rs"]
mod lamp;
mod support;

use hallcast::clock;
use hallcast::media::Monotonic;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use support::programs::{BOX, RECEIVER, alone, outcome, pause, run, wait_until};
use support::rig::{self, Guest};

/// Where the system's root is in the guest.
const ROOT: &str = "/run/machine";
const UNIT: &str = "hallcast.service";
/// What design section 2 promises of an end in order.
const SEALED: Duration = Duration::from_secs(2);
/// And of the lamp's end, however the box ends.
const DARK: Duration = Duration::from_secs(2);

const AS_THE_RECEIVER: [&str; 3] = ["setpriv", "--reuid=hallcast-receiver", "--clear-groups"];

const BOARD: &str = "schema = 1\nname = \"rig\"\n\
    [presenter.v4l2]\ndevice = \"/dev/v4l/by-path/platform-vivid.0-video-index0\"\n\
    width = 640\nheight = 360\nrate = \"15\"\n\
    [microphone.alsa]\ncard = \"Loop2\"\ndevice = 1\nrate-hz = 48000\nchannels = 2\nperiod-ms = 20\n\
    [panel.gpio]\nchip = \"pinctrl-bcm2711\"\n\
    record-button = { line = 17, active = \"low\" }\nlamp = { line = 27, active = \"high\" }\n";

/// A system whose first process is systemd; it ends with this value.
struct System {
    root: PathBuf,
    process: Child,
    /// Of its first process.
    pid: String,
}

impl System {
    /// Boots the one whose root is or shall be at `root` in the guest, with these programs beside what is
    /// installed there, none of them started.
    fn boot(root: &str, programs: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/service/machine");
        let began = clock::now();
        let process = Command::new(script)
            .arg(root)
            .args(programs)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        wait_until(20, "systemd", || {
            let child = outcome("pgrep", &["-P", &process.id().to_string()]);
            pid = String::from_utf8(child.stdout).unwrap().trim().to_owned();
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "systemd\n")
        });
        let root = root.into();
        let system = Self { root, process, pid };
        wait_until(30, "its boot", || {
            let said = system.inside(&["systemctl", "is-system-running"]).stdout;
            assert!(said != b"degraded\n", "{}", system.log(UNIT));
            said == b"running\n"
        });
        let took = clock::now().since(began);
        println!("systemd is up in {} ms", took.as_millis());
        system
    }

    /// Runs a command in it, as root.
    fn inside(&self, command: &[&str]) -> Output {
        outcome("nsenter", &[&["-t", &self.pid, "-a"], command].concat())
    }

    /// The same; it must do well. Gives what it prints.
    fn run(&self, command: &[&str]) -> String {
        run("nsenter", &[&["-t", &self.pid, "-a"], command].concat())
            .trim()
            .to_owned()
    }

    /// Starts or stops a unit, and fails with its log when that fails.
    fn systemctl(&self, verb: &str, unit: &str) {
        let output = self.inside(&["systemctl", verb, unit]);
        assert!(output.status.success(), "{verb} {unit}\n{}", self.log(unit));
    }

    fn log(&self, unit: &str) -> String {
        self.run(&[
            "journalctl",
            "--no-pager",
            "-o",
            "short-monotonic",
            "-u",
            unit,
        ])
    }

    /// A property of a unit.
    fn property(&self, unit: &str, name: &str) -> String {
        self.run(&["systemctl", "show", "--value", "-p", name, unit])
    }

    fn restarts(&self) -> u32 {
        self.property(UNIT, "NRestarts").parse().unwrap()
    }

    /// From the start of the program to its being ready.
    fn readiness(&self, unit: &str) -> Duration {
        let at = |name: &str| -> u64 { self.property(unit, name).parse().unwrap() };
        let micros = at("ActiveEnterTimestampMonotonic") - at("ExecMainStartTimestampMonotonic");
        Duration::from_micros(micros)
    }

    fn status(&self) -> Option<Value> {
        let output = self.inside(&["hallcast", "status", "--json"]);
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Waits until the box records this and keeps it.
    fn wait_for_recording(&self, id: &str) {
        wait_until(40, "the recording", || {
            self.status().is_some_and(|status| {
                status["state"] == "recording" && status["recording"]["id"] == id
            })
        });
    }

    /// Sends the box's process a signal; gives how long it took until the recording went on.
    fn hurt(&self, signal: &str, recording: &str) -> Duration {
        let (before, pid) = (self.restarts(), self.property(UNIT, "MainPID"));
        let at = clock::now();
        self.run(&["kill", signal, &pid]);
        let dark = dark_since(at);
        println!("{signal}: the lamp is dark after {} ms", dark.as_millis());
        assert!(dark <= DARK, "{signal}: {dark:?}");
        wait_until(40, "another start", || self.restarts() > before);
        self.wait_for_recording(recording);
        clock::now().since(at)
    }

    /// A file of it, from outside.
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Gives device nodes the groups and modes that udev gives them, and all others to everybody: what then
/// cannot be opened is refused by the unit.
fn like_udev() {
    let groups = fs::read_to_string(format!("{ROOT}/etc/group")).unwrap();
    let gpio = groups.lines().find_map(|line| line.strip_prefix("gpio:x:"));
    let gpio = gpio.unwrap().trim_end_matches(':');
    let script = "find /dev -type c -o -type b | xargs chmod 666; \
        chgrp video /dev/video*; chgrp audio /dev/snd/*; chgrp $0 /dev/gpiochip*; \
        chmod 660 /dev/video* /dev/snd/* /dev/gpiochip*";
    run("sh", &["-c", script, gpio]);
}

fn line(number: u32, file: &str) -> PathBuf {
    format!("/run/rig/gpio/sim_gpio{number}/{file}").into()
}

fn is_lit() -> bool {
    fs::read_to_string(line(27, "value")).unwrap() == "1\n"
}

/// Waits until the lamp is dark, and not between two blinks; gives how long after `at` that began.
fn dark_since(at: Monotonic) -> Duration {
    let mut since = None;
    wait_until(10, "a dark lamp", || {
        let now = clock::now();
        since = (!is_lit()).then(|| since.unwrap_or(now));
        since.is_some_and(|since: Monotonic| now.since(since) > Duration::from_millis(400))
    });
    since.unwrap().since(at)
}

/// What the box's unit is, with another program in it.
fn probe() -> String {
    let unit = fs::read_to_string(format!("{ROOT}/usr/lib/systemd/system/{UNIT}")).unwrap();
    let mut probe = unit;
    for (ours, other) in [
        (
            "ExecStart=/usr/bin/hallcast run",
            "ExecStart=/usr/bin/probe",
        ),
        ("Type=notify", "Type=oneshot"),
        ("Restart=always", "Restart=no"),
        ("StateDirectory=hallcast", "StateDirectory=probe"),
        ("RuntimeDirectory=hallcast", "RuntimeDirectory=probe"),
    ] {
        assert!(probe.contains(&format!("{ours}\n")), "{ours}");
        probe = probe.replace(&format!("{ours}\n"), &format!("{other}\n"));
    }
    probe
}

/// The unit's user may open what a box needs, and no other device, whatever its mode.
fn devices_and_nothing_else(system: &System) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/service/probe");
    run(
        "cp",
        &[script, system.path("/usr/bin/probe").to_str().unwrap()],
    );
    let unit = system.path("/usr/lib/systemd/system/probe.service");
    fs::write(unit, probe()).unwrap();
    system.run(&["systemctl", "daemon-reload"]);
    system.systemctl("start", "probe.service");
    let said = system.run(&[
        "journalctl",
        "--no-pager",
        "-o",
        "cat",
        "-u",
        "probe.service",
    ]);
    println!(
        "{}",
        said.lines().find(|line| line.starts_with("uid=")).unwrap()
    );
    let nodes = |answer: &str| -> Vec<&str> {
        let lines = said.lines();
        lines.filter_map(|line| line.strip_prefix(answer)).collect()
    };
    let (opened, refused) = (nodes("opens "), nodes("not "));
    println!("of the guest's devices the unit opens {opened:?}, and not {refused:?}");
    // The guest's disk, of which anybody may do anything by its mode, and others: refused by the unit's rule.
    for outside in ["/dev/ubda", "/dev/media0", "/dev/hwrng"] {
        let by_rule = format!("{outside}: Operation not permitted");
        assert!(
            refused.contains(&by_rule.as_str()),
            "{outside} is not refused by the unit:\n{said}"
        );
    }
    // Hidden as a whole.
    let hidden = refused.iter().any(|told| told.starts_with("/dev/kmsg: "));
    assert!(hidden, "/dev/kmsg is not refused:\n{said}");
    for needed in [
        "/dev/video0",
        "/dev/snd/pcmC2D1c",
        "/dev/snd/controlC2",
        "/dev/gpiochip0",
    ] {
        assert!(opened.contains(&needed), "{needed} is refused:\n{said}");
    }
    // What systemd gives to every unit, and what each process needs.
    let harmless = [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts/ptmx",
    ];
    for node in opened {
        let name = node.strip_prefix("/dev/").unwrap();
        let is_ours = ["video", "snd/", "gpiochip"]
            .iter()
            .any(|kind| name.starts_with(kind));
        assert!(is_ours || harmless.contains(&name), "the unit opens {node}");
    }
    assert!(!said.contains("writes "), "{said}");
}

/// The control socket answers members of the group `hallcast`, and nobody else.
fn socket_for_the_group(system: &System) {
    let groups = fs::read_to_string(system.path("/etc/group")).unwrap();
    let group = groups
        .lines()
        .find_map(|line| line.strip_prefix("hallcast:x:"));
    let group = group.unwrap().trim_end_matches(':').to_owned();
    let ask = |groups: &str| {
        let user = ["setpriv", "--reuid=4242", "--regid=4242", groups];
        system.inside(&[&user[..], &["hallcast", "status"]].concat())
    };
    let member = ask(&format!("--groups={group}"));
    assert!(member.status.success(), "a member of the group: {member:?}");
    let stranger = ask("--clear-groups");
    assert_eq!(stranger.status.code(), Some(1), "a stranger: {stranger:?}");
    let said = String::from_utf8_lossy(&stranger.stderr);
    assert!(
        said.contains("this user may not ask the running hallcast"),
        "{said}"
    );
    println!(
        "{}",
        system.run(&["ls", "-ld", "/run/hallcast", "/run/hallcast/control.sock"])
    );
}

/// The box listens on no TCP port, and has no UDP port but the ephemeral one that it sends from.
fn no_port(system: &System) {
    let held = |sockets: &str| {
        let lines = system.run(&["ss", "-Hnp", sockets]);
        let ours = lines
            .lines()
            .filter(|line| line.contains("((\"hallcast\","));
        ours.map(str::to_owned).collect::<Vec<_>>()
    };
    let no_lines: [String; 0] = [];
    wait_until(20, "a connection to the receiver", || {
        !held("-ua").is_empty()
    });
    assert_eq!(held("-lt"), no_lines, "TCP");
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let least: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    for line in held("-ua") {
        println!("the only kind of socket of the box: {line}");
        let local = line.split_whitespace().nth(3).unwrap();
        let port: u16 = local.rsplit(':').next().unwrap().parse().unwrap();
        assert!(port >= least, "{line}");
    }
}

fn plug(way: &str) {
    fs::write(format!("/sys/bus/platform/drivers/vivid/{way}"), "vivid.0").unwrap();
}

/// Whether the box has its camera.
fn camera_is_open(system: &System) -> bool {
    let status = system.status();
    status.is_some_and(|status| status["tracks"][0]["open"] == true)
}

/// Ends the recording by ending the service; gives how long that took.
fn sealed_at_the_end(system: &System, recording: &str) -> Duration {
    let at = clock::now();
    system.systemctl("stop", UNIT);
    let took = clock::now().since(at);
    let listed = system.run(&["hallcast", "spool", "ls"]);
    let line = listed
        .lines()
        .find(|line| line.starts_with(recording))
        .unwrap();
    assert!(line.contains("ended"), "{listed}");
    assert!(!is_lit());
    took
}

/// One recording through a process that is stopped, one that is killed, and an end in order.
fn one_recording_through_all(system: &System) -> String {
    let recording = system.run(&["hallcast", "start"]);
    system.wait_for_recording(&recording);
    pause(2);
    assert!(is_lit());
    let frozen = system.hurt("-STOP", &recording);
    println!(
        "stopped by SIGSTOP: it records again after {} ms",
        frozen.as_millis()
    );
    // SIGABRT, systemd's own choice, would first write all its memory to the disk.
    let log = system.log(UNIT);
    for said in ["Watchdog timeout", "code=killed, status=9/KILL"] {
        assert!(log.contains(said), "{said}: {log}");
    }
    let killed = system.hurt("-KILL", &recording);
    println!("killed: it records again after {} ms", killed.as_millis());
    no_port(system);
    let took = sealed_at_the_end(system, &recording);
    println!("from SIGTERM to sealed and gone: {} ms", took.as_millis());
    assert!(took <= SEALED, "{took:?}");
    println!("{}", system.run(&["hallcast", "spool", "verify"]));
    recording
}

/// Without its camera the box starts, records the sound, and takes the camera when it comes.
fn missing_camera(system: &System) {
    plug("unbind");
    system.systemctl("start", UNIT);
    assert!(!camera_is_open(system));
    let recording = system.run(&["hallcast", "start"]);
    system.wait_for_recording(&recording);
    plug("bind");
    like_udev();
    wait_until(10, "the camera", || camera_is_open(system));
    system.run(&["hallcast", "stop"]);
    assert_eq!(system.restarts(), 0);
}

/// A disk without room stops no service for longer than it is full.
fn full_disk(system: &System) {
    let recording = system.run(&["hallcast", "start"]);
    system.wait_for_recording(&recording);
    let before = system.restarts();
    let fill = || {
        for size in ["bs=64k", "bs=1"] {
            let to = "of=/var/lib/private/filler";
            let more = ["oflag=append", "conv=notrunc"];
            system.inside(&[&["dd", "if=/dev/zero", to, size], &more[..]].concat());
        }
    };
    fill();
    wait_until(20, "the box to see it", || {
        system
            .status()
            .is_some_and(|status| status["state"] != "recording")
    });
    let status = system.status().unwrap();
    println!("on a full disk: {}, {}", status["state"], status["alarms"]);
    assert_eq!(system.restarts(), before, "{}", system.log(UNIT));
    // Its process dies as well, and what is free then goes to others: it is back with the next start.
    system.run(&["kill", "-KILL", &system.property(UNIT, "MainPID")]);
    fill();
    wait_until(20, "the box on a full disk", || system.status().is_some());
    pause(3);
    assert_eq!(system.restarts(), before + 1, "{}", system.log(UNIT));
    let refused = system.inside(&["hallcast", "start"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    println!("killed on a full disk, it is back and says: {said}");
    assert!(
        !refused.status.success() && said.contains("free space"),
        "{said}"
    );
    system.run(&["rm", "/var/lib/private/filler"]);
    wait_until(20, "a recording", || {
        system.inside(&["hallcast", "start"]).status.success()
    });
    system.run(&["hallcast", "stop"]);
}

/// However often it fails it is started again, and its recording goes on; with wrong settings it is not.
fn crash_loop(system: &System) {
    let recording = system.run(&["hallcast", "start"]);
    system.wait_for_recording(&recording);
    let before = system.restarts();
    system.run(&["mount", "--bind", "/bin/false", "/usr/bin/hallcast"]);
    system.run(&["kill", "-KILL", &system.property(UNIT, "MainPID")]);
    // systemd's own limit would be five starts in ten seconds.
    wait_until(40, "seven starts", || system.restarts() >= before + 7);
    system.run(&["umount", "/usr/bin/hallcast"]);
    system.wait_for_recording(&recording);
    println!(
        "started again after {} failures, and the recording goes on",
        system.restarts() - before
    );
    system.run(&["hallcast", "stop"]);

    fs::write(system.path("/etc/hallcast/box.toml"), "rom = 1\n").unwrap();
    system.inside(&["systemctl", "restart", UNIT]);
    pause(3);
    assert_eq!(system.property(UNIT, "ExecMainStatus"), "78");
    assert_eq!(system.property(UNIT, "SubState"), "failed");
    let said = system.run(&["journalctl", "-p", "err", "-o", "cat", "-u", UNIT]);
    assert!(said.contains("box.toml:1: `rom`"), "{said}");
}

/// The receiver starts as its own user, and again when it is killed.
fn receiver(system: &System) {
    let unit = "hallcast-receiver.service";
    // As after the installation: it is not there yet, and does not try for ever.
    system.run(&["systemd-tmpfiles", "--create", "hallcast-receiver.conf"]);
    system.inside(&["systemctl", "start", unit]);
    assert_eq!(system.property(unit, "ExecMainStatus"), "78");
    assert_eq!(system.property(unit, "SubState"), "failed");
    let init = ["hallcast-receiver", "ca", "init", "--development"];
    system.run(&[&AS_THE_RECEIVER[..], &init].concat());
    system.systemctl("start", unit);
    let ready = system.readiness(unit).as_millis();
    println!("receiver ready after {ready} ms");
    system.run(&["kill", "-KILL", &system.property(unit, "MainPID")]);
    wait_until(10, "another start", || {
        system.property(unit, "NRestarts") == "1" && system.property(unit, "SubState") == "running"
    });
}

/// Makes the box, which has made its key at its first start, known to the receiver.
fn enroll(system: &System) {
    let script = format!(
        "set -e; cd /run; hallcast enroll --csr >box.csr
         {} hallcast-receiver sign box.csr --room Hall >box.pem
         hallcast enroll --install box.pem",
        AS_THE_RECEIVER.join(" ")
    );
    println!("{}", system.run(&["sh", "-c", &script]));
}

/// What the receiver has of the recording: one, in three spans, with the time between them.
fn archived(system: &System, recording: &str) {
    let store = "/var/lib/hallcast-receiver/store/recordings";
    let file = system.path(&format!("{store}/{recording}/manifest.json"));
    wait_until(30, "the manifest", || file.exists());
    let manifest: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let spans = manifest["spans"].as_array().unwrap();
    let away: Vec<f64> = (spans.iter().skip(1))
        .map(|span| span["away_ns"].as_f64().unwrap() / 1e9)
        .collect();
    println!(
        "archived in {} spans, away {away:.2?} s between them",
        spans.len()
    );
    assert_eq!(away.len(), 2, "{spans:?}");
    // The watchdog waits for ten seconds, of which one may have passed.
    assert!(
        (8.0..20.0).contains(&away[0]) && (1.0..8.0).contains(&away[1]),
        "{away:?}"
    );
}

#[test]
fn systemd_starts_confines_and_revives_both_programs() {
    if rig::inside().is_none() {
        let _alone = alone();
        let results = tempfile::tempdir_in("/tmp").unwrap();
        let name = "systemd_starts_confines_and_revives_both_programs";
        let disk = results.path().join("disk");
        fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
        if let Some(guest) = Guest::boot(name, "service", results.path(), &disk) {
            guest.finish();
        }
        return;
    }
    let system = System::boot(ROOT, &[BOX, RECEIVER]);
    like_udev();
    // Nobody presses the button.
    fs::write(line(17, "pull"), "pull-up").unwrap();
    fs::write(system.path("/etc/hallcast/rig.toml"), BOARD).unwrap();
    let settings = "board = \"/etc/hallcast/rig.toml\"\n[receiver]\naddress = \"127.0.0.1:4433\"\n";
    fs::write(system.path("/etc/hallcast/box.toml"), settings).unwrap();
    let disk = [
        "-t",
        "tmpfs",
        "-o",
        "size=100m,mode=700",
        "disk",
        "/var/lib/private",
    ];
    system.run(&[&["mount"], &disk[..]].concat());

    receiver(&system);
    system.systemctl("start", UNIT);
    println!("box ready after {} ms", system.readiness(UNIT).as_millis());
    wait_until(10, "the camera", || camera_is_open(&system));
    let status = system.status().unwrap();
    println!(
        "resident: {} KiB",
        status["resident_bytes"].as_u64().unwrap() / 1024
    );
    socket_for_the_group(&system);
    devices_and_nothing_else(&system);
    lamp::killed_with_its_guard(&system);
    enroll(&system);
    let recording = one_recording_through_all(&system);
    missing_camera(&system);
    archived(&system, &recording);
    full_disk(&system);
    crash_loop(&system);
}
