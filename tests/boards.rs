//! Every board that is shipped parses, and a wrong board is told what is wrong, where, and what
//! would be right.

use hallcast::board::{AlsaMicrophone, Board, Camera, Microphone, PanelDevice, SHIPPED};
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
record-button = { line = 17, active = "low", bias = "pull-up", debounce-ms = 25 }
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
    assert_eq!((panel.record_button.line, panel.lamp.line), (17, 27));
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

#[test]
fn the_device_tree_chooses_the_board() {
    for (compatible, name) in [
        (
            "raspberrypi,model-zero-2-w\0brcm,bcm2837\0",
            "raspberry-pi-zero-2-w",
        ),
        (
            "raspberrypi,3-model-b-plus\0brcm,bcm2837\0",
            "raspberry-pi-3",
        ),
        ("raspberrypi,4-model-b\0brcm,bcm2711\0", "raspberry-pi-4"),
        ("raspberrypi,5-model-b\0brcm,bcm2712\0", "raspberry-pi-5"),
        ("radxa,rock-5b\0rockchip,rk3588\0", "generic"),
        ("", "generic"),
    ] {
        assert_eq!(Board::detect(compatible).unwrap().name, name);
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
        "x.toml:7: `presenter.v4l2.width`: invalid type: string",
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
        "x.toml:5: `lecturer.v4l2`: unknown key `lecturer`, expected one of `schema`, `name`, `description`, `compatible`, `presenter`, `slides`, `microphone`, `panel`",
    ),
    (
        "[slides.pattern]",
        "[presenter.pattern]",
        "two back ends are named, only one is allowed",
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
        "x.toml:20: `panel.gpio.lamp`: unknown value `hi`, expected `low` or `high`",
    ),
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
