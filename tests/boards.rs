//! Every board that is shipped parses, a wrong board is told what is wrong, where, and what would be right,
//! and `hallcast devices` makes one of what a machine has.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

#[cfg(all(feature = "receiver", feature = "software"))]
mod support;

use hallcast::board::{
    ActiveLevel, AlsaMicrophone, Bias, Board, Camera, Line, Microphone, PanelDevice, SHIPPED,
};
use std::fs;
use std::path::Path;

const GOOD: &str = r#"schema = 1
name = "x"
compatible = ["acme,box"]

[presenter.v4l2]
device = "/dev/v4l/by-path/platform-vivid.0-video-index0"
width = 1920
height = 1080
rate = "30000/1001"

[slides.pattern]

[microphone.alsa]
card = "Loopback"
device = 1

[panel.gpio]
chip = "pinctrl-bcm2711"
record-button = { line = 17, active = "low", bias = "pull-up", debounce-ms = 5 }
lamp = { line = 27, active = "high" }
"#;

#[test]
fn a_board_says_what_it_says() {
    let board = Board::parse(GOOD, Path::new("x.toml")).unwrap();
    let Some(Camera::V4l2(camera)) = &board.presenter else {
        panic!("{board:?}")
    };
    assert_eq!((camera.width, camera.height), (1920, 1080));
    assert_eq!(camera.rate.to_string(), "30000/1001");
    let Some(Microphone::Alsa(microphone)) = &board.microphone else {
        panic!("{board:?}")
    };
    assert_eq!(microphone.alsa_name(), "hw:CARD=Loopback,DEV=1");
    assert_eq!((microphone.rate_hz, microphone.period_ms), (48_000, 20));
    let Some(PanelDevice::Gpio(panel)) = &board.panel else {
        panic!("{board:?}")
    };
    assert_eq!(
        (&panel.record_button.line, &panel.lamp.line),
        (&Line::Offset(17), &Line::Offset(27))
    );
}

#[test]
fn the_folder_and_the_program_hold_the_same_boards() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("boards");
    let mut on_disk: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    on_disk.sort();
    let mut shipped: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
    shipped.sort_unstable();
    assert_eq!(on_disk, shipped);
}

#[test]
fn every_shipped_board_parses_and_has_a_camera_a_microphone_and_a_panel() {
    for (name, text) in SHIPPED {
        let board = Board::shipped(name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(&board.name, name);
        assert!(!board.description.is_empty(), "{name}");
        assert!(
            board.presenter.is_some() && board.microphone.is_some() && board.panel.is_some(),
            "{name}"
        );
        for numbered in ["/dev/video", "gpiochip", "hw:", "card1"] {
            assert!(!text.contains(numbered), "{name} names {numbered}");
        }
    }
}

#[test]
fn each_machine_is_recognised_by_one_board_only() {
    let mut seen = std::collections::BTreeMap::new();
    for (name, _) in SHIPPED {
        for machine in Board::shipped(name).unwrap().compatible {
            if let Some(other) = seen.insert(machine.clone(), *name) {
                panic!("{machine} is claimed by {other} and {name}");
            }
        }
    }
}

/// What `/sys/firmware/devicetree/base/compatible` says on each machine, by the device trees of Linux.
/// A machine's revisions begin with the same name, and the first that a board knows decides.
const MACHINES: &[(&str, &str)] = &[
    (
        "raspberrypi,model-zero-2-w\0brcm,bcm2837\0",
        "raspberry-pi-zero-2-w",
    ),
    ("raspberrypi,3-model-b\0brcm,bcm2837\0", "raspberry-pi-3"),
    (
        "raspberrypi,3-model-b-plus\0brcm,bcm2837\0",
        "raspberry-pi-3",
    ),
    (
        "raspberrypi,3-model-a-plus\0brcm,bcm2837\0",
        "raspberry-pi-3",
    ),
    ("raspberrypi,4-model-b\0brcm,bcm2711\0", "raspberry-pi-4"),
    ("raspberrypi,400\0brcm,bcm2711\0", "raspberry-pi-4"),
    (
        "raspberrypi,4-compute-module\0brcm,bcm2711\0",
        "raspberry-pi-4",
    ),
    ("raspberrypi,5-model-b\0brcm,bcm2712\0", "raspberry-pi-5"),
    ("raspberrypi,500\0brcm,bcm2712\0", "raspberry-pi-5"),
    (
        "raspberrypi,5-compute-module\0brcm,bcm2712\0",
        "raspberry-pi-5",
    ),
    // The same processors on machines whose pins nobody has declared.
    ("raspberrypi,model-zero-w\0brcm,bcm2835\0", "generic"),
    ("raspberrypi,3-compute-module\0brcm,bcm2837\0", "generic"),
    ("raspberrypi,4-compute-module-s\0brcm,bcm2711\0", "generic"),
    ("brcm,bcm2712\0", "generic"),
    ("radxa,rock-5b\0rockchip,rk3588\0", "generic"),
    ("", "generic"),
];

#[test]
fn the_device_tree_chooses_the_board() {
    for (compatible, name) in MACHINES {
        assert_eq!(Board::detect(compatible).unwrap().name, *name);
    }
    for (name, _) in SHIPPED {
        for machine in Board::shipped(name).unwrap().compatible {
            assert!(
                MACHINES
                    .iter()
                    .any(|(text, _)| text.split('\0').next() == Some(&machine)),
                "no device tree in this test says {machine}, which {name} names"
            );
        }
    }
}

#[test]
fn the_header_of_each_pi_is_found_by_the_label_of_its_own_chip() {
    for (name, label) in [
        ("raspberry-pi-zero-2-w", "pinctrl-bcm2835"),
        ("raspberry-pi-3", "pinctrl-bcm2835"),
        ("raspberry-pi-4", "pinctrl-bcm2711"),
        ("raspberry-pi-5", "pinctrl-rp1"),
    ] {
        let board = Board::shipped(name).unwrap();
        let Some(PanelDevice::Gpio(panel)) = &board.panel else {
            panic!("{board:?}")
        };
        assert_eq!(panel.chip, label, "{name}");
    }
}

#[test]
fn a_file_of_the_same_name_is_taken_instead_of_the_board_that_is_compiled_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raspberry-pi-4.toml");
    let (_, text) = SHIPPED
        .iter()
        .find(|(name, _)| *name == "raspberry-pi-4")
        .unwrap();
    fs::write(&path, text.replace("line = 27", "line = 22")).unwrap();
    let lamp = |board: &Board| match &board.panel {
        Some(PanelDevice::Gpio(panel)) => panel.lamp.line.clone(),
        other => panic!("{other:?}"),
    };
    let ours = Board::named(path.to_str().unwrap()).unwrap();
    let shipped = Board::named("raspberry-pi-4").unwrap();
    assert_eq!(
        (lamp(&ours), lamp(&shipped)),
        (Line::Offset(22), Line::Offset(27))
    );
}

/// The cells of the row of docs/boards.md that begins with this board's name.
fn documented(name: &str) -> Vec<String> {
    documented_row(&format!("`{name}`"))
}

/// The cells of the row of docs/boards.md whose first is this.
fn documented_row(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/boards.md");
    let text = fs::read_to_string(path).unwrap();
    let row = text
        .lines()
        .find(|line| line.starts_with(&format!("| {name} |")));
    let row = row.unwrap_or_else(|| panic!("docs/boards.md has no row for {name}"));
    row.trim_matches('|')
        .split('|')
        .map(|cell| cell.trim().to_owned())
        .collect()
}

#[test]
fn each_board_is_documented_as_it_is() {
    for (name, _) in SHIPPED {
        let (board, cells) = (Board::shipped(name).unwrap(), documented(name));
        let named: Vec<&str> = cells[1].split('`').skip(1).step_by(2).collect();
        assert_eq!(named, board.compatible, "{name}");
        let chip = match &board.panel {
            Some(PanelDevice::Gpio(panel)) => format!("`{}`", panel.chip),
            _ => "none".to_owned(),
        };
        assert_eq!(cells[2], chip, "{name}");
        if let Some(Camera::V4l2(camera)) = &board.presenter {
            let (device, width) = (camera.device.display(), camera.width);
            let (height, rate) = (camera.height, camera.rate);
            assert_eq!(
                cells[3],
                format!("`{device}`, {width}x{height} at {rate}"),
                "{name}"
            );
        }
    }
}

#[test]
fn the_wiring_is_documented_as_the_pi_boards_have_it() {
    let (button, lamp) = (documented_row("button"), documented_row("lamp"));
    let pi = |name: &&str| name.starts_with("raspberry-pi-");
    for name in SHIPPED.iter().map(|(name, _)| *name).filter(pi) {
        let board = Board::shipped(name).unwrap();
        let Some(PanelDevice::Gpio(panel)) = board.panel else {
            panic!("{name}")
        };
        let wired = &panel.record_button;
        assert_eq!(button[1], format!("GPIO{}", wired.line), "{name}");
        assert_eq!((wired.active, wired.bias), (ActiveLevel::Low, Bias::PullUp));
        let debounce = format!("{} ms debounce", wired.debounce_ms);
        assert!(button[3].contains("pressed is low") && button[3].contains(&debounce));
        assert_eq!(lamp[1], format!("GPIO{}", panel.lamp.line), "{name}");
        assert_eq!(panel.lamp.active, ActiveLevel::High);
        assert!(lamp[3].starts_with("high lights it"));
        assert!(panel.mirrors.is_empty(), "{name}: not in the table");
    }
}

/// A line of the good board, what it is replaced by, and what the error must say.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "schema = 1",
        "schema = 2",
        "x.toml:1: `schema`: schema 2 is not known to this release: allowed is 1",
    ),
    (
        "name = \"x\"",
        "name = \"y\"",
        "x.toml:2: `name`: the name is `y` but the file is `x.toml`",
    ),
    (
        "width = 1920",
        "widht = 1920",
        "x.toml:7: `presenter.v4l2.widht`: unknown key `widht`, expected one of `device`, `width`, `height`, `rate`, `pixels`",
    ),
    (
        "width = 1920",
        "width = 1921",
        "x.toml:7: `presenter.v4l2.width`: 1921 is not allowed: an even number from 16 to 7680",
    ),
    (
        "width = 1920",
        "pixels = \"MJPG\"",
        "x.toml:7: `presenter.v4l2.pixels`: `MJPG` is not allowed: `YU12`, `NV12`, `YUYV` or `H264`",
    ),
    (
        "width = 1920",
        "width = \"1920\"",
        "x.toml:7: `presenter.v4l2.width`: \"1920\" is not allowed: an even number from 16 to 7680",
    ),
    (
        "width = 1920",
        "width = ",
        "x.toml:7: `presenter.v4l2.width`: ",
    ),
    (
        "rate = \"30000/1001\"",
        "rate = \"fast\"",
        "x.toml:9: `presenter.v4l2.rate`: `fast` is not a picture rate: write 25, 30 or a fraction",
    ),
    (
        "device = \"/dev/v4l/by-path/platform-vivid.0-video-index0\"",
        "device = \"/dev/video0\"",
        "x.toml:6: `presenter.v4l2.device`: `/dev/video0` is refused in a board: the number depends",
    ),
    (
        "device = \"/dev/v4l/by-path/platform-vivid.0-video-index0\"",
        "device = \"camera\"",
        "x.toml:6: `presenter.v4l2.device`: `camera` is not a device: a path below /dev",
    ),
    (
        "device = \"/dev/v4l/by-path/platform-vivid.0-video-index0\"",
        "",
        "x.toml:5: `presenter.v4l2`: missing key `device`",
    ),
    (
        "[presenter.v4l2]",
        "[presenter.v4l]",
        "x.toml:5: `presenter.v4l`: unknown value `v4l`, expected one of `v4l2`, `pattern`, `replay`",
    ),
    (
        "[presenter.v4l2]",
        "[lecturer.v4l2]",
        "x.toml:5: `lecturer`: unknown key `lecturer`, expected one of `schema`, `name`, `description`, `compatible`, `presenter`, `slides`, `microphone`, `panel`",
    ),
    (
        "[slides.pattern]",
        "[presenter.pattern]",
        "x.toml:5: `presenter`: two back ends are named, only one is allowed",
    ),
    (
        "card = \"Loopback\"",
        "card = \"1\"",
        "x.toml:14: `microphone.alsa.card`: `1` is refused in a board: card numbers depend",
    ),
    (
        "card = \"Loopback\"",
        "card = \"hw:1,0\"",
        "x.toml:14: `microphone.alsa.card`: `hw:1,0` is refused in a board: card numbers",
    ),
    (
        "chip = \"pinctrl-bcm2711\"",
        "chip = \"gpiochip4\"",
        "x.toml:18: `panel.gpio.chip`: `gpiochip4` is refused in a board: a chip's number changes",
    ),
    (
        "lamp = { line = 27, active = \"high\" }",
        "lamp = { line = 27, active = \"hi\" }",
        "x.toml:20: `panel.gpio.lamp.active`: unknown value `hi`, expected `low` or `high`",
    ),
    (
        "lamp = { line = 27, active = \"high\" }",
        "lamp = { line = 27, active = \"high\" }\n[[panel.gpio.mirrors]]\nline = 22\nactive = \"hi\"",
        "x.toml:23: `panel.gpio.mirrors.active`: unknown value `hi`, expected `low` or `high`",
    ),
    (
        "lamp = { line = 27, active = \"high\" }",
        "lamp = { line = 27, active = \"high\" }\n[[panel.gpio.mirrors]]\nline = 22",
        "x.toml:21: `panel.gpio.mirrors`: missing key `active`",
    ),
    ("name = \"x\"", "", "x.toml:1: missing key `name`"),
];

#[test]
fn a_wrong_board_is_told_where_what_and_what_is_allowed() {
    for (line, wrong, expected) in WRONG {
        assert!(GOOD.contains(line), "{line}");
        let text = GOOD.replacen(line, wrong, 1);
        let error = Board::parse(&text, Path::new("x.toml")).expect_err(wrong);
        let found = error.to_string();
        assert!(
            found.contains(expected),
            "for `{wrong}`\nfound    {found}\nexpected {expected}"
        );
    }
}

#[test]
fn a_board_that_is_not_there_is_named_with_those_that_are() {
    let error = Board::named("raspberry").unwrap_err().to_string();
    assert!(
        error.contains("`raspberry`") && error.contains("`bench`, `generic`"),
        "{error}"
    );
    let error = Board::named("/nowhere/x.toml").unwrap_err().to_string();
    assert!(error.contains("/nowhere/x.toml: cannot read"), "{error}");
}

#[test]
fn a_command_line_may_name_what_a_board_may_not() {
    let microphone = AlsaMicrophone::at("hw:1,0").unwrap();
    assert_eq!(microphone.alsa_name(), "hw:CARD=1,DEV=0");
    let microphone = AlsaMicrophone::at("hw:CARD=Loopback,DEV=1").unwrap();
    assert_eq!(microphone.alsa_name(), "hw:CARD=Loopback,DEV=1");
    for name in ["Loopback", "hw:", "hw:1,x", "default"] {
        assert_eq!(AlsaMicrophone::at(name), None, "{name}");
    }
}

/// `hallcast devices` for a box whose state and control socket are below `home`.
#[cfg(all(feature = "receiver", feature = "software"))]
fn devices(home: &Path, more: &[&str]) -> std::process::Output {
    let (state, socket) = (home.join("box/state"), home.join("box/control"));
    let own = [
        "devices",
        "--state-directory",
        state.to_str().unwrap(),
        "--socket",
        socket.to_str().unwrap(),
    ];
    support::programs::outcome(support::programs::BOX, &[&own[..], more].concat())
}

/// The same as JSON; it ends well whatever is held by whom.
#[cfg(all(feature = "receiver", feature = "software"))]
fn told(home: &Path, more: &[&str]) -> serde_json::Value {
    let output = devices(home, &[&["--json"][..], more].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[cfg(all(feature = "receiver", feature = "software"))]
#[test]
fn this_machine_is_listed_whatever_its_settings_are() {
    let _alone = support::programs::alone();
    let home = tempfile::tempdir().unwrap();
    let settings = home.path().join("box.toml");
    fs::write(&settings, "board = \"bench\"\nroom = 7\n").unwrap();
    let settings = ["--config", settings.to_str().unwrap()];
    let listed = told(home.path(), &settings);
    println!("{listed:#}");
    let error = listed["settings_error"].as_str().unwrap();
    assert!(error.contains("box.toml:2: `room`"), "{error}");
    let why = listed["machine"]["why"].as_str().unwrap();
    assert!(why.contains("device tree"), "{why}");
    let disk = &listed["disk"];
    assert!(disk["free_bytes"].as_u64().unwrap() > 0, "{disk}");
    assert!(disk["fdatasync_p99_ms"].as_f64().unwrap() >= 0.0, "{disk}");
    assert!(disk["write_bytes_per_second"].as_u64().unwrap() > 0);
    let encoders = listed["encoders"].as_array().unwrap();
    let speeds = encoders[0]["speeds"].as_array().unwrap();
    assert_eq!(speeds.len(), 3, "{encoders:?}");
    assert!(
        speeds
            .iter()
            .all(|speed| speed["times"].as_f64() > Some(0.0))
    );
    assert!(!home.path().join("box").exists(), "nothing is made");

    let text = String::from_utf8(devices(home.path(), &settings).stdout).unwrap();
    println!("{text}");
    for says in [
        "board        ",
        "passed over: ",
        "encoders\n  openh264, of pictures",
        "fdatasync takes ",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
}

/// Another program, for as long as the value lives.
#[cfg(all(
    feature = "receiver",
    feature = "software",
    feature = "v4l2",
    feature = "alsa"
))]
struct Program(std::process::Child);

#[cfg(all(
    feature = "receiver",
    feature = "software",
    feature = "v4l2",
    feature = "alsa"
))]
impl Program {
    fn start(command: &str, file: &Path) -> Self {
        let mut words = command.split(' ');
        let process = std::process::Command::new(words.next().unwrap())
            .args(words)
            .arg(file)
            .stdin(std::process::Stdio::null())
            .spawn();
        Self(process.unwrap())
    }
}

#[cfg(all(
    feature = "receiver",
    feature = "software",
    feature = "v4l2",
    feature = "alsa"
))]
impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The one of `list` whose `key` is `value`.
#[cfg(all(
    feature = "receiver",
    feature = "software",
    feature = "v4l2",
    feature = "alsa"
))]
fn one<'a>(list: &'a serde_json::Value, key: &str, value: &str) -> &'a serde_json::Value {
    let mut all = list.as_array().unwrap().iter();
    let found = all.find(|one| one[key] == value);
    found.unwrap_or_else(|| panic!("no {key} {value} in {list:#}"))
}

#[cfg(all(
    feature = "receiver",
    feature = "software",
    feature = "v4l2",
    feature = "alsa"
))]
#[test]
fn a_box_records_with_the_settings_that_were_proposed() {
    use support::programs::{CaptureBox, alone, wait_until};
    const NAME: &str = "a_box_records_with_the_settings_that_were_proposed";
    const MICROPHONE: &str = "hw:CARD=Loopback,DEV=1";
    if support::rig::inside().is_none() {
        let _alone = alone();
        support::rig::ran_in_the_guest(NAME, 240, Path::new("/tmp"));
        return;
    }
    let home = Path::new("/dev/shm/devices");
    fs::create_dir_all(home).unwrap();
    let turn = |n: u32| std::f64::consts::TAU * f64::from(n * 440 % 48_000) / 48_000.0;
    let sample = |n: u32| ((8_000.0 * turn(n).sin()) as i16).to_le_bytes();
    let second: Vec<u8> = (0..48_000)
        .flat_map(|n| [sample(n), sample(n)].concat())
        .collect();
    let file = home.join("tone.raw");
    fs::write(&file, second.repeat(120)).unwrap();
    let tone = Program::start(
        "aplay -q -t raw -f S16_LE -c 2 -r 48000 -D hw:Loopback,0",
        &file,
    );

    let proposal = home.join("proposal");
    let listed = told(home, &["--propose", proposal.to_str().unwrap()]);
    println!("{listed:#}");
    let camera = one(&listed["cameras"], "device", "/dev/video0");
    assert_eq!(
        camera["names"][0],
        "/dev/v4l/by-path/platform-vivid.0-video-index0"
    );
    assert_eq!(camera["driver"], "vivid");
    assert!(
        !camera["formats"].as_array().unwrap().is_empty(),
        "{camera}"
    );
    let microphone = one(&listed["microphones"], "device", MICROPHONE);
    let peak = microphone["level"]["peak_dbfs"].as_f64().unwrap();
    let rms = microphone["level"]["rms_dbfs"].as_f64().unwrap();
    println!("a sine of 8000 of 32768: peak {peak:.2} dBFS, RMS {rms:.2} dBFS");
    // 20 log10(8000 / 32768), and 3.01 less; a player that stumbles lowers the mean.
    assert!((peak + 12.25).abs() < 0.5 && rms < -15.0 && rms > -25.0);
    let chip = one(&listed["chips"], "label", "pinctrl-bcm2711");
    assert_eq!(chip["lines"], 58);

    let settings = proposal.join("box.toml");
    for file in ["box.toml", "machine.toml"] {
        println!("{}", fs::read_to_string(proposal.join(file)).unwrap());
    }
    let settings = ["--config", settings.to_str().unwrap()];
    let capture_box = CaptureBox::start(home, "box", None, &settings);
    let recording = capture_box.record();
    wait_until(40, "ticks of both tracks", || {
        let status = capture_box.status();
        let tracks = status["tracks"].as_array().unwrap();
        tracks.len() == 2
            && tracks
                .iter()
                .all(|track| track["ticks"].as_u64() > Some(30))
    });
    let status = capture_box.status();
    for track in status["tracks"].as_array().unwrap() {
        assert!(track["error"].is_null(), "{track:#}");
    }

    // What the box has is asked of it, and the disk is left alone.
    let beside = told(home, &settings);
    let camera = one(&beside["cameras"], "device", "/dev/video0");
    let held = camera["held_by"].as_str().unwrap();
    assert_eq!(held, "the running box, for its presenter track");
    let microphone = one(&beside["microphones"], "device", MICROPHONE);
    let held = microphone["held_by"].as_str().unwrap();
    assert_eq!(held, "the running box, for its microphone track");
    assert!(
        microphone["level"]["peak_dbfs"].is_number(),
        "{microphone:#}"
    );
    assert!(beside["disk"]["write_bytes_per_second"].is_null());
    assert_eq!(capture_box.stop(), recording);
    drop(capture_box);

    let heard = home.join("heard.wav");
    let recorder = Program::start(
        "arecord -q -D hw:Loopback,1 -f S16_LE -c 2 -r 48000",
        &heard,
    );
    wait_until(10, "the other program", || {
        heard.metadata().is_ok_and(|file| file.len() > 100)
    });
    let beside = told(home, &settings);
    let microphone = one(&beside["microphones"], "device", MICROPHONE);
    let held = microphone["held_by"].as_str().unwrap();
    assert!(held.starts_with("arecord (process "), "{held}");
    assert!(microphone["trouble"].is_null(), "{microphone:#}");
    drop(recorder);
    drop(tone);
}
