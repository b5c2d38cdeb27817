//! What a box says of devices that fail, to the letter: the last chapter of docs/errors.md is made of it,
//! in the rig's guest, and this fails when the two differ. `HALLCAST_REWRITE=1 cargo test --test
//! wrong_devices` writes the chapter anew.
//!
//! Several troubles at once are brought to one box, since each of its devices has alarms of its own.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]
#![cfg(all(
    feature = "v4l2",
    feature = "alsa",
    feature = "software",
    feature = "receiver"
))]

mod support;

use gpiocdev::Request as Lines;
use gpiocdev::line::Value;
use hallcast::clock;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::page::{Part, Situations, assert_says, devices_chapter, messages};
use support::programs::{BOX, CaptureBox, alone, outcome, run, wait_until};
use support::rig;

/// The fewest situations that the chapter has to hold.
const FEWEST: usize = 25;
/// Where the guest leaves the chapter.
const CHAPTER: &str = "chapter.md";

const INTRO: &str = "\
A box starts without its devices and records what there is: what it lacks is an alarm in `hallcast status`, \
until it is well again. These are the alarms' texts; some devices are the test guest's own (`vivid`, \
`Loopback`), and N stands for figures that differ.";

/// Where the guest's boxes are.
const HOME: &str = "/run/hall";
const CAMERA: &str = "/dev/v4l/by-path/platform-vivid.0-video-index0";

const TONE: &str = "[microphone.tone]";
const PANEL: &str = "[panel.gpio]\nchip = \"pinctrl-bcm2711\"\n\
    record-button = { line = 17, active = \"low\" }\nlamp = { line = 27, active = \"high\" }";

fn camera(track: &str, device: &str, more: &str) -> String {
    format!("[{track}.v4l2]\ndevice = \"{device}\"\n{more}")
}

fn card(id: &str, device: u32) -> String {
    format!("[microphone.alsa]\ncard = \"{id}\"\ndevice = {device}")
}

/// A board of these parts; gives its file.
fn board(name: &str, parts: &[&str]) -> String {
    let path = format!("{HOME}/{name}.toml");
    let head = format!("schema = 1\nname = \"{name}\"");
    let text = [&[head.as_str()], parts].concat().join("\n");
    fs::write(&path, text + "\n").unwrap();
    path
}

/// A process that ends with the value.
struct Process(Child);

impl Process {
    fn start(program: &str, arguments: &str) -> Self {
        let mut command = Command::new(program);
        command.args(arguments.split(' ')).stdin(Stdio::null());
        Self(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
}

impl Process {
    fn has_a_card(&self) -> bool {
        let folder = fs::read_dir(format!("/proc/{}/fd", self.0.id()));
        let mut files = folder.into_iter().flatten().flatten();
        files.any(|file| {
            let target = fs::read_link(file.path()).unwrap_or_default();
            target.starts_with("/dev/snd") && target.to_string_lossy().contains("/pcmC")
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A box in trouble.
struct Troubled(CaptureBox);

impl Troubled {
    fn start(name: &str, arguments: &[&str]) -> Self {
        Self(CaptureBox::start(Path::new(HOME), name, None, arguments))
    }

    fn on(name: &str, parts: &[&str]) -> Self {
        Self::start(name, &["--board", &board(name, parts)])
    }

    fn alarm(&self, code: &str) -> Option<String> {
        let status = self.0.status();
        let alarms = status["alarms"].as_array().unwrap();
        alarms.iter().find_map(|alarm| {
            let (raised, message) = alarm.as_str().unwrap().split_once(": ")?;
            (raised == code).then(|| message.to_owned())
        })
    }

    /// Notes what the alarm says, once it is there.
    fn tell(&self, told: &mut Situations, what: &str, code: &str) {
        self.tell_in(told, what, code, 20);
    }

    fn tell_in(&self, told: &mut Situations, what: &str, code: &str, seconds: u64) {
        let mut message = None;
        wait_until(seconds, what, || {
            message = self.alarm(code);
            message.is_some()
        });
        add(told, what, &format!("alarm `{code}`"), &message.unwrap());
    }

    /// Notes what the log says of an alarm that another one soon replaces.
    fn tell_from_the_log(&self, told: &mut Situations, what: &str, code: &str, part: &str) {
        let track = code.split('-').next().unwrap();
        let mut message = None;
        wait_until(20, what, || {
            let log = self.0.log();
            let line = log.lines().find(|line| line.contains(part));
            message =
                line.and_then(|line| Some(line.split_once(&format!("] {track}: "))?.1.into()));
            message.is_some()
        });
        let message: String = message.unwrap();
        // Which call noticed it, and what it says, is not always the same.
        let message = match (message.find(" ("), message.find("). ")) {
            (Some(from), Some(to)) => message[..from].to_owned() + &message[to + 1..],
            _ => message,
        };
        add(told, what, &format!("alarm `{code}`"), &message);
    }

    /// Notes what a command says that the box refuses.
    fn tell_refusal(&self, told: &mut Situations, what: &str, command: &str) {
        let output = self.0.ask(command);
        let code = output.status.code().unwrap();
        assert_eq!(code, 1, "{what}: {output:?}");
        let place = format!("`hallcast {command}`, exit code {code}");
        add(told, what, &place, &messages(&output.stderr));
    }
}

fn add(told: &mut Situations, what: &str, place: &str, message: &str) {
    println!("{what} ({place}): {message}");
    told.add(what, place, message);
}

/// Bytes and such, which differ from run to run.
fn without_figures(message: &str) -> String {
    let mut text = String::new();
    for letter in message.chars() {
        match letter.is_ascii_digit() {
            true if text.ends_with('N') => {}
            true => text.push('N'),
            false => text.push(letter),
        }
    }
    text
}

/// Notes what a box says that does not start.
fn tell_no_start(told: &mut Situations, what: &str, command: &[&str]) {
    let output = outcome("timeout", &[&["-k", "1", "20"], command].concat());
    let code = output.status.code().unwrap();
    assert_eq!(code, 1, "{what}: {output:?}");
    let place = format!("exit code {code}");
    add(told, what, &place, &messages(&output.stderr));
}

/// What is not there.
fn absent(told: &mut Situations) {
    let parts = [
        &camera(
            "presenter",
            "/dev/v4l/by-path/platform-usb-video-index0",
            "",
        ),
        &camera("slides", CAMERA, "width = 1234\nheight = 568"),
        &card("Lectern", 0),
        &PANEL.replace("pinctrl-bcm2711", "pinctrl-rp1"),
    ];
    let troubled = Troubled::on("absent", &parts.map(String::as_str));
    for (what, code) in [
        ("A camera that is not there", "presenter-missing"),
        ("A size that the camera does not give", "slides-cannot-do"),
        ("A microphone that is not there", "microphone-missing"),
        ("A GPIO chip that is not there: the lamp", "lamp"),
        ("A GPIO chip that is not there: the button", "button"),
    ] {
        troubled.tell(told, what, code);
    }
}

/// What is there and is something else.
fn other(told: &mut Situations) {
    // The card takes what it is given: numbers that we cannot use.
    let player = Process::start(
        "aplay",
        "-q -t raw -f FLOAT_LE -c 2 -r 48000 -D hw:Loop2,0 /dev/zero",
    );
    wait_until(10, "the player", || player.has_a_card());
    // It is set right after.
    clock::sleep(Duration::from_millis(500));
    let lines = PANEL
        .replace("line = 17", "line = \"DOOR\"")
        .replace("line = 27", "line = 58");
    let parts = [
        &camera("presenter", CAMERA, "pixels = \"H264\""),
        &camera(
            "slides",
            "/dev/v4l/by-path/platform-vim2m.0-video-index0",
            "",
        ),
        &card("Loop2", 1),
        &lines,
    ];
    let troubled = Troubled::on("other", &parts.map(String::as_str));
    for (what, code) in [
        ("A camera that does not encode", "presenter-cannot-do"),
        ("A codec in the place of a camera", "slides-cannot-do"),
        (
            "A microphone whose samples cannot be used",
            "microphone-cannot-do",
        ),
        ("A line that the chip does not have", "lamp"),
        ("A name that no line has", "button"),
    ] {
        troubled.tell(told, what, code);
    }
}

/// What somebody else uses.
fn busy(told: &mut Situations) {
    let mut lines = Lines::builder();
    lines
        .on_chip("/dev/gpiochip0")
        .with_consumer("projector")
        .with_lines(&[17, 27]);
    let _lines = lines.as_output(Value::Inactive).request().unwrap();
    let all: Vec<Process> = (0..8)
        .map(|n| {
            let format = "-q -t raw -f S16_LE -c 2 -r 48000 -D";
            Process::start("arecord", &format!("{format} hw:Loop3,1,{n} /dev/null"))
        })
        .collect();
    wait_until(20, "all who listen", || all.iter().all(Process::has_a_card));
    let user = Troubled::start(
        "user",
        &[
            "--board",
            &board("user", &[&camera("presenter", CAMERA, "")]),
        ],
    );
    wait_until(20, "the camera's user", || {
        user.0.status()["tracks"][0]["open"] == true
    });
    let parts = [&camera("presenter", CAMERA, ""), &card("Loop3", 1), PANEL];
    let troubled = Troubled::on("busy", &parts);
    for (what, code) in [
        ("A camera that another program uses", "presenter-busy"),
        ("A microphone that another program uses", "microphone-busy"),
        ("A lamp's line that another program uses", "lamp"),
        ("A button's line that another program uses", "button"),
    ] {
        troubled.tell(told, what, code);
    }
    let what = "To record while the lamp cannot be driven";
    troubled.tell_refusal(told, what, "start");

    let socket = format!("{HOME}/busy/control");
    let state = format!("{HOME}/second");
    let second = [
        BOX,
        "run",
        "--board",
        "bench",
        "--state-directory",
        &state,
        "--socket",
        &socket,
    ];
    tell_no_start(told, "A control socket that another box has", &second);
}

/// What this user may not.
fn not_permitted(told: &mut Situations) {
    run(
        "sh",
        &["-c", "chmod 600 /dev/video0 /dev/snd/* /dev/gpiochip0"],
    );
    // Wherever the program is, nobody may not reach into all folders above it.
    let program = "/run/hallcast-for-nobody";
    fs::write(program, "").unwrap();
    run("mount", &["--bind", BOX, program]);
    run("chmod", &["755", HOME]);
    let parts = [
        &camera("presenter", CAMERA, ""),
        &card("Loopback", 1),
        PANEL,
    ];
    let of_root = board("stranger", &parts);
    let state = format!("{HOME}/stranger");
    let script = "chown -R 65534:65534 \"$0\" && \
        exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    let through = ["sh", "-c", script, &state, program];
    let arguments = ["--board", of_root.as_str()];
    let troubled =
        CaptureBox::start_through(&through, Path::new(HOME), "stranger", None, &arguments);
    let troubled = Troubled(troubled);
    for (what, code) in [
        (
            "A camera that this user may not use",
            "presenter-not-permitted",
        ),
        (
            "A microphone that this user may not use",
            "microphone-not-permitted",
        ),
        ("A GPIO chip that this user may not use", "lamp"),
    ] {
        troubled.tell(told, what, code);
    }
    drop(troubled);

    // Made by root, who ran the box by hand.
    let root = Troubled::on("roots", &[TONE]);
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let ask = [program, "status", "--socket", "/run/hall/roots/control"];
    let all = [&nobody[..], &ask[..]].concat();
    tell_no_start(told, "A box that this user may not ask", &all);
    drop(root);
    let state = "/run/hall/roots/state";
    let again = [
        program,
        "run",
        "--board",
        "bench",
        "--state-directory",
        state,
    ];
    let all = [&nobody[..], &again[..]].concat();
    tell_no_start(told, "A state directory of another user", &all);
}

/// What has too little room, or takes nothing.
fn disks(told: &mut Situations) {
    let state = format!("{HOME}/disk/state");
    fs::create_dir_all(&state).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=24m", "none", &state]);
    let bench = board("bench-on-a-disk", &["[presenter.pattern]", TONE]);
    let troubled = Troubled::start("disk", &["--board", &bench]);
    let mut small = Situations::default();
    troubled.tell(&mut small, "A disk that is almost full", "disk-full");
    told.text.push_str(&without_figures(&small.text));
    told.count += small.count;
    let what = "To record without room";
    troubled.tell_refusal(told, what, "start");
    drop(troubled);
    run("mount", &["-o", "remount,ro", &state]);
    let again = [
        BOX,
        "run",
        "--board",
        &bench,
        "--state-directory",
        &state,
        "--socket",
        "/run/hall/disk/control",
    ];
    tell_no_start(told, "A read-only disk", &again);
    run("umount", &[&state]);
}

fn pull(line: u32, way: &str) {
    fs::write(format!("/run/rig/gpio/sim_gpio{line}/pull"), way).unwrap();
}

/// Devices that are there, and give nothing.
fn silent(told: &mut Situations) {
    let drops = |percent: u32| {
        let control = format!("percentage_of_dropped_buffers={percent}");
        run("v4l2-ctl", &["-d", "/dev/video0", "-c", &control]);
    };
    drops(100);
    pull(17, "pull-down");
    // Nobody plays into the loop: what it gives is zeros.
    let parts = [
        &camera("presenter", CAMERA, ""),
        &card("Loopback", 1),
        PANEL,
    ];
    let troubled = Troubled::on("silent", &parts);
    troubled.tell(told, "A button that is down when the box starts", "button");
    wait_until(10, "the lamp", || troubled.alarm("lamp").is_none());
    troubled.0.record();
    let what = "A camera that is open and gives no pictures";
    troubled.tell_from_the_log(told, what, "presenter-stalled", "delivered nothing");
    let what = "No picture for ten seconds of a recording";
    troubled.tell_in(told, what, "presenter-no-signal", 30);
    let what = "A microphone that is muted";
    troubled.tell_in(told, what, "microphone-silent", 30);
    troubled.0.stop();
    pull(17, "pull-up");
    drops(0);
}

fn plug(way: &str, device: &str) {
    let (driver, _) = device.split_once('.').unwrap();
    fs::write(format!("/sys/bus/platform/drivers/{driver}/{way}"), device).unwrap();
}

/// What is pulled out while it is recorded, and where something else is plugged in. Names lead elsewhere
/// afterwards.
fn unplugged(told: &mut Situations) {
    let devices = ["--presenter", "/dev/video0", "--microphone", "hw:Dummy,0"];
    let bench = board("unplugged", &[TONE]);
    let troubled = Troubled::start("unplugged", &[&["--board", &bench], &devices[..]].concat());
    wait_until(20, "both devices", || {
        let status = troubled.0.status();
        let tracks = status["tracks"].as_array().unwrap();
        tracks.iter().all(|track| track["open"] == true)
    });
    troubled.0.record();
    plug("unbind", "vivid.0");
    let what = "A camera that is unplugged";
    troubled.tell_from_the_log(told, what, "presenter-vanished", ": gone: ");
    plug("unbind", "snd_dummy.0");
    let what = "A microphone that is unplugged";
    troubled.tell_from_the_log(told, what, "microphone-vanished", "microphone: hw");
    let what = "The camera is plugged in nowhere";
    troubled.tell(told, what, "presenter-missing");
    plug("unbind", "vim2m.0");
    plug("bind", "vim2m.0");
    let what = "Another device has the camera's name";
    troubled.tell(told, what, "presenter-elsewhere");
    plug("bind", "vivid.0");
    let what = "The camera is back, and its name leads to another device";
    troubled.tell(told, what, "presenter-changed");
    troubled.0.stop();
}

fn in_the_guest(results: &Path) {
    fs::create_dir(HOME).unwrap();
    pull(17, "pull-up");
    let mut told = Situations {
        text: devices_chapter(INTRO),
        count: 0,
    };
    let scenes = [absent, other, busy, not_permitted, silent, disks, unplugged];
    for scene in scenes {
        scene(&mut told);
    }
    println!("{} situations of devices", told.count);
    assert!(told.count >= FEWEST, "{} situations", told.count);
    fs::write(results.join(CHAPTER), told.text).unwrap();
}

#[test]
fn every_device_that_fails_is_told_as_the_page_says() {
    if let Some(results) = rig::inside() {
        return in_the_guest(&results);
    }
    let _alone = alone();
    let results = tempfile::tempdir_in("/tmp").unwrap();
    let name = "every_device_that_fails_is_told_as_the_page_says";
    if rig::ran_in_the_guest(name, 180, results.path()) {
        let chapter = fs::read_to_string(results.path().join(CHAPTER)).unwrap();
        assert_says(Part::Devices, &chapter);
    }
}
