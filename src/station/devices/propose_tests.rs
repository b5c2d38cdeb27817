use super::*;
use crate::panel::UsedLine;
use crate::source::{Error, Offer};
use crate::station::config::{self, Flags};

fn rate(num: u32) -> Rate {
    Rate::new(num, 1).unwrap()
}

fn offer(pixels: Option<PixelFormat>, sizes: &[(u32, u32, u32)]) -> Offer {
    let sizes = sizes
        .iter()
        .map(|(width, height, at)| Sizes::only(*width, *height, vec![rate(*at)]));
    Offer {
        format: "any".into(),
        pixels,
        sizes: sizes.collect(),
    }
}

fn usb_camera(name: &str, port: &str, offers: Vec<Offer>) -> FoundCamera {
    FoundCamera {
        device: "/dev/video0".into(),
        names: vec![format!("/dev/v4l/by-path/{port}-video-index0").into()],
        name: name.into(),
        driver: "uvcvideo".into(),
        port: port.into(),
        offers,
        trouble: None,
    }
}

/// What most webcams offer: raw pictures slowly where they are large.
fn webcam(port: &str) -> FoundCamera {
    let raw = offer(
        Some(PixelFormat::Yuyv),
        &[
            (1920, 1080, 5),
            (1280, 720, 10),
            (640, 480, 30),
            (320, 240, 30),
        ],
    );
    let jpeg = offer(None, &[(1920, 1080, 30)]);
    usb_camera("Webcam", port, vec![jpeg, raw])
}

fn card(id: &str, port: &str, rms: Option<f64>) -> (FoundMicrophone, Level) {
    let found = FoundMicrophone {
        card: id.into(),
        number: "1".into(),
        device: 0,
        name: "USB Audio".into(),
        names: Vec::new(),
        port: port.into(),
        rates_hz: vec![44_100, 48_000],
        channels: Some((1, 1)),
        formats: vec!["S16_LE".into()],
        trouble: None,
    };
    let level = Level {
        rms_dbfs: rms,
        ..Level::default()
    };
    (found, level)
}

fn header(label: &str, used: &[(u32, &str)]) -> FoundChip {
    let used = used.iter().map(|(offset, consumer)| UsedLine {
        offset: *offset,
        name: String::new(),
        consumer: (*consumer).into(),
    });
    FoundChip {
        device: "/dev/gpiochip0".into(),
        label: label.into(),
        lines: 58,
        used: used.collect(),
        trouble: None,
    }
}

fn pi() -> Board {
    Board::shipped("raspberry-pi-4").unwrap()
}

fn v4l2(camera: &Option<Camera>) -> &V4l2Camera {
    match camera {
        Some(Camera::V4l2(camera)) => camera,
        other => panic!("{other:?}"),
    }
}

/// What the program makes of the files of a proposal.
fn settled(proposal: &Proposal) -> config::Config {
    let home = tempfile::tempdir().unwrap();
    let place = home.path().join("proposed");
    let written = proposal.write(&place).unwrap();
    assert_eq!(written[0], place.join("box.toml"));
    for file in &written {
        println!("{}:\n{}", file.display(), fs::read_to_string(file).unwrap());
    }
    let again = proposal.write(&place).unwrap_err();
    assert!(again.contains("nothing is overwritten"), "{again}");
    let flags = Flags {
        config: Some(written[0].clone()),
        ..Flags::default()
    };
    config::load(&flags).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn what_was_found_becomes_a_board_that_the_program_takes() {
    let cameras = [
        webcam("usb1/1-1"),
        usb_camera(
            "HDMI \"Capture\"\nD'or",
            "usb1/1-2",
            vec![offer(
                Some(PixelFormat::Nv12),
                &[(1920, 1080, 60), (1280, 720, 60)],
            )],
        ),
    ];
    let cards = [
        card("Silent", "usb1/1-3", None),
        card("Mic_1", "usb1/1-4", Some(-40.0)),
    ];
    let chips = [header("pinctrl-bcm2711", &[(27, "hallcast")])];
    let proposal = choose(&pi(), Some(&cameras), Some(&cards), &chips, true);
    let config = settled(&proposal);
    let (presenter, slides) = (config.presenter.unwrap(), config.slides.unwrap());
    let (presenter, slides) = (Some(presenter.camera), Some(slides.camera));
    let presenter = v4l2(&presenter);
    // The size that comes at 30, not the larger one that comes at 10.
    assert_eq!(
        (presenter.width, presenter.height, presenter.rate),
        (640, 480, rate(30))
    );
    assert_eq!(presenter.device, cameras[0].names[0]);
    let slides = v4l2(&slides);
    assert_eq!(
        (slides.width, slides.height, slides.rate),
        (1280, 720, rate(60))
    );
    let microphone = config.microphone.unwrap().microphone;
    assert_eq!(microphone.to_string(), "hw:CARD=Mic_1,DEV=0");
    assert_eq!(microphone.channels(), 1);
    assert_eq!(config.panel, pi().panel, "its lines are ours");
    assert!(config.raspberry_pi, "it is one all the same");
}

#[test]
fn a_board_that_names_what_is_there_is_kept() {
    let named = |mut camera: FoundCamera| {
        camera.names.insert(0, "/dev/hallcast/presenter".into());
        camera
    };
    let raw = offer(Some(PixelFormat::Yuyv), &[(1280, 720, 30)]);
    let camera = named(usb_camera("Camera", "usb1/1-1", vec![raw]));
    let cards = [card("hallcast", "usb1/1-3", Some(-40.0))];
    let chips = [header("pinctrl-bcm2711", &[])];
    let cameras = [camera, webcam("usb1/1-2")];
    let proposal = choose(&pi(), Some(&cameras[..1]), Some(&cards), &chips, true);
    assert_eq!(
        (&proposal.board, proposal.named.as_str()),
        (&None, "raspberry-pi-4")
    );
    assert_eq!(settled(&proposal).board, "raspberry-pi-4");
    // With a second camera it is not all that is there.
    let both = choose(&pi(), Some(&cameras), Some(&cards), &chips, true);
    assert!(settled(&both).slides.is_some());
    // One that could not be asked is what the board says.
    let mut denied = cameras[0].clone();
    denied.offers.clear();
    denied.trouble = Some(Error::NotPermitted {
        device: "/dev/video0".into(),
        advice: "Join the group.".into(),
    });
    let proposal = choose(&pi(), Some(&[denied]), Some(&cards), &chips, true);
    assert_eq!(proposal.named, "raspberry-pi-4");
    // Where it does not give what the board asks, what it does give is asked of it.
    let slow = named(webcam("usb1/1-1"));
    let proposal = choose(&pi(), Some(&[slow]), Some(&cards), &chips, true);
    let config = settled(&proposal);
    let presenter = Some(config.presenter.unwrap().camera);
    let presenter = v4l2(&presenter);
    assert_eq!(presenter.device, Path::new("/dev/hallcast/presenter"));
    assert_eq!((presenter.width, presenter.rate), (640, rate(30)));
    assert_eq!(config.panel, pi().panel);
}

#[test]
fn a_lamp_that_cannot_be_driven_is_not_proposed() {
    for (chips, says) in [
        (vec![], "no GPIO chip labelled pinctrl-bcm2711"),
        (
            vec![header("pinctrl-bcm2711", &[(17, "led0")])],
            "line 17 is in use by led0",
        ),
    ] {
        let proposal = choose(&pi(), Some(&[webcam("usb1/1-1")]), Some(&[]), &chips, true);
        assert!(
            proposal.notes.iter().any(|note| note.contains(says)),
            "{:?}",
            proposal.notes
        );
        assert!(matches!(
            settled(&proposal).panel,
            Some(PanelDevice::Simulated(_))
        ));
    }
}

#[test]
fn a_chip_that_this_user_may_not_ask_keeps_its_button_and_its_lamp() {
    let mut denied = header("", &[]);
    denied.trouble = Some("Permission denied: be a member of the group `gpio`".into());
    let cameras = [webcam("usb1/1-1")];
    let proposal = choose(&pi(), Some(&cameras), Some(&[]), &[denied], true);
    let told = "not tried, and are as the board has them: /dev/gpiochip0: Permission denied";
    let mut notes = proposal.notes.iter();
    assert!(notes.any(|note| note.contains(told)), "{proposal:?}");
    assert_eq!(settled(&proposal).panel, pi().panel);
}

#[test]
fn what_cannot_be_named_is_left_out_and_said() {
    let mut nameless = webcam("usb1/1-1");
    nameless.names.clear();
    let mut denied = webcam("usb1/1-2");
    denied.trouble = Some(Error::NotPermitted {
        device: "/dev/video2".into(),
        advice: "Join the group.".into(),
    });
    let mut second_node = webcam("usb1/1-4");
    second_node.names = vec!["/dev/v4l/by-path/second".into()];
    let cameras = [
        nameless,
        denied,
        usb_camera(
            "JPEG only",
            "usb1/1-3",
            vec![offer(None, &[(640, 480, 30)])],
        ),
        webcam("usb1/1-4"),
        second_node,
    ];
    // ALSA allows what our boards do not.
    let cards = [
        card("No-Board", "usb1/1-5", Some(-30.0)),
        card("1", "usb1/1-6", Some(-30.0)),
    ];
    let known = Board::shipped("generic").unwrap();
    let proposal = choose(&known, Some(&cameras), Some(&cards), &[], true);
    let notes = proposal.notes.join("\n");
    for says in [
        "no name that stays",
        "not permitted",
        "nothing that is usable",
        "`No-Board` is not a card id",
        "card numbers depend",
    ] {
        assert!(notes.contains(says), "{says}: {notes}");
    }
    let config = settled(&proposal);
    let presenter = Some(config.presenter.unwrap().camera);
    assert_eq!(v4l2(&presenter).device, cameras[3].names[0]);
    assert!(
        config.slides.is_none(),
        "a camera's second node is no second camera"
    );
    assert!(config.microphone.is_none());
}

#[test]
fn a_program_without_encoders_takes_what_the_camera_encodes() {
    let both = usb_camera(
        "Camera",
        "usb1/1-1",
        vec![
            offer(Some(PixelFormat::Yuyv), &[(1280, 720, 30)]),
            offer(
                Some(PixelFormat::H264),
                &[(1920, 1080, 30), (1280, 720, 30)],
            ),
        ],
    );
    let limit = (1280, 720);
    assert_eq!(camera(&both, limit, true).unwrap().pixels, None);
    let encoded = camera(&both, limit, false).unwrap();
    assert_eq!(
        (encoded.pixels, encoded.width),
        (Some(PixelFormat::H264), 1280)
    );
}

#[test]
fn with_nothing_to_record_from_the_settings_are_right_all_the_same() {
    for found in [None, Some(vec![])] {
        let known = Board::shipped("generic").unwrap();
        let proposal = choose(&known, found.as_deref(), Some(&[]), &[], true);
        assert!(proposal.board.is_none());
        assert_eq!(settled(&proposal).board, "generic");
    }
}
