//! Settings files and flags, right and wrong.

use super::*;

fn settled(text: &str, flags: &Flags) -> Result<Config, String> {
    let settled = settle(text, Path::new("box.toml"), flags);
    let (config, _) = settled.map_err(|error| error.to_string())?;
    Ok(config)
}

#[test]
fn flags_go_before_the_file_and_the_file_before_the_board() {
    let text = "board = \"bench\"\nroom = \"Hall 1\"\n[presenter]\nrate = \"25\"";
    let config = settled(text, &Flags::default()).unwrap();
    assert_eq!(
        (config.room.as_deref(), config.board.as_str()),
        (Some("Hall 1"), "bench")
    );
    assert!(
        matches!(config.presenter, Some(VideoTrack { camera: Camera::Pattern(_), rate: Some(rate), .. }) if rate.num() == 25)
    );
    let flags = Flags {
        room: Some("Hall 2".into()),
        presenter: Some("/dev/video7".into()),
        microphone: Some("hw:Loopback,1".into()),
        ..Flags::default()
    };
    let config = settled(text, &flags).unwrap();
    assert_eq!(config.room.as_deref(), Some("Hall 2"));
    assert!(
        matches!(config.presenter.unwrap().camera, Camera::V4l2(camera) if camera.device == Path::new("/dev/video7"))
    );
    assert!(
        matches!(config.microphone.unwrap().microphone, Microphone::Alsa(card) if card.card == "Loopback")
    );
}

#[test]
fn a_lamp_is_needed_unless_the_site_says_otherwise() {
    let needed = |text: &str| settled(text, &Flags::default()).unwrap().lamp_needed;
    assert!(needed("board = \"bench\""));
    let allowed = "board = \"bench\"\n[recording]\nallow-without-lamp = true";
    assert!(!needed(allowed));
}

#[test]
fn a_card_says_what_its_machine_is_and_flags_go_before_it() {
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(home.path().join(name), text).unwrap();
    // As an editor of Windows leaves it.
    write(
        "box.toml",
        "\u{feff}board = \"bench\"\r\nroom = \"Any\"\r\n[receiver]\r\naddress = \"a.example.org:1\"\r\nname = \"a\"\r\n",
    );
    write(
        "fleet.csv",
        "serial,room,receiver\n7,Hall 7,\n8,Hall 8,b.example.org:2\n",
    );
    let load_as = |serial: &str, room: Option<&str>| {
        write("serial", serial);
        let flags = Flags {
            boot_directory: Some(home.path().into()),
            serial_file: Some(home.path().join("serial")),
            room: room.map(str::to_owned),
            ..Flags::default()
        };
        let config = load(&flags).unwrap();
        let receiver = config.receiver.unwrap();
        let codes: Vec<_> = config.concerns.iter().map(|(code, _)| *code).collect();
        (config.room.unwrap(), receiver.address, receiver.name, codes)
    };
    let (a, b) = (
        String::from("a.example.org:1"),
        String::from("b.example.org:2"),
    );
    let name = Some(String::from("a"));
    assert_eq!(
        load_as("7", None),
        ("Hall 7".into(), a.clone(), name.clone(), vec![])
    );
    assert_eq!(load_as("8", None), ("Hall 8".into(), b, None, vec![]));
    assert_eq!(
        load_as("7", Some("Lab")),
        ("Lab".into(), a.clone(), name.clone(), vec![])
    );
    assert_eq!(
        load_as("9", None),
        ("Any".into(), a, name, vec!["not-in-fleet"])
    );
}

#[test]
fn a_serial_number_or_a_list_that_cannot_be_read_is_an_alarm_and_the_box_records() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    std::fs::write(at("box.toml"), "board = \"bench\"\nroom = \"Any\"\n").unwrap();
    let flags = Flags {
        boot_directory: Some(home.path().into()),
        serial_file: Some(at("serial")),
        ..Flags::default()
    };
    let told = |file: &str, serial: Option<&str>| {
        let config = load(&flags).unwrap();
        assert_eq!(config.room.as_deref(), Some("Any"));
        assert_eq!(config.serial.as_deref(), serial);
        let [(code, what)] = &config.concerns[..] else {
            panic!("{:?}", config.concerns);
        };
        assert_eq!(*code, first_start::NOT_IN_FLEET);
        assert!(what.starts_with(&at(file).display().to_string()), "{what}");
        assert!(what.contains("; then restart hallcast"), "{what}");
    };
    std::fs::write(at("fleet.csv"), "serial,room\n7,Hall 7\n").unwrap();
    told("serial", None);
    std::fs::write(at("serial"), "7").unwrap();
    std::fs::remove_file(at("fleet.csv")).unwrap();
    std::fs::create_dir(at("fleet.csv")).unwrap();
    told("fleet.csv", Some("7"));
}

#[test]
fn a_boards_file_is_looked_for_beside_the_settings_that_name_it() {
    let home = tempfile::tempdir().unwrap();
    let (path, board) = (home.path().join("box.toml"), home.path().join("mine.toml"));
    std::fs::write(&board, "schema = 1\nname = \"mine\"\n[presenter.pattern]\n").unwrap();
    let absolute = format!("board = {:?}", board.display().to_string());
    for text in [
        "board = \"mine.toml\"",
        "board = \"./mine.toml\"",
        &absolute,
    ] {
        let (config, _) = settle(text, &path, &Flags::default()).unwrap();
        assert_eq!(config.board, "mine", "{text}");
    }
    // What is wrong with it is told with the line that names it.
    std::fs::write(
        home.path().join("idle.toml"),
        "schema = 1\nname = \"idle\"\n",
    )
    .unwrap();
    for (name, what) in [
        ("no.toml", "cannot read the file"),
        ("idle.toml", "this board names no camera"),
    ] {
        let text = format!("room = \"A\"\nboard = \"{name}\"");
        let error = settle(&text, &path, &Flags::default()).unwrap_err();
        let (path, board) = (path.display(), home.path().join(name));
        let says = format!("{path}:2: `board`: {}: {what}", board.display());
        assert!(error.to_string().starts_with(&says), "{error}");
    }
}

#[test]
fn wrong_settings_name_file_line_key_and_what_is_allowed() {
    for (text, message) in [
        ("rooom = \"x\"", "box.toml:1: `rooom`: unknown key `rooom`"),
        (
            "board = \"bench\"\n[presenter]\nbit-rate-kbps = 99",
            "box.toml:3: `presenter.bit-rate-kbps`: 99 is not from 100 to 20000 kbit/s",
        ),
        (
            "board = \"bench\"\n[slides]\nrate = \"fast\"",
            "box.toml:3: `slides.rate`: `fast` is not a picture rate",
        ),
        (
            "board = \"bench\"\n[microphone]\nbit-rate-kbps = 1000",
            "box.toml:3: `microphone.bit-rate-kbps`",
        ),
        (
            "board = \"bench\"\n[recording]\nmaximum-minutes = 0",
            "box.toml:3: `recording.maximum-minutes`: 0 is not from 1 to 1440",
        ),
        (
            "board = \"bench\"\n[recording]\nresume-within-minutes = 1441",
            "box.toml:3: `recording.resume-within-minutes`: 1441 is not from 1 to 1440",
        ),
        (
            "board = \"bench\"\n[spool]\nretention-days = 0",
            "box.toml:3: `spool.retention-days`: 0 is not from 1 to 365 days",
        ),
        (
            "board = \"bench\"\n[spool]\nquota-gigabytes = 0",
            "box.toml:3: `spool.quota-gigabytes`: 0 is not from 1 to 100000 GB",
        ),
        (
            "board = \"bench\"\n[spool]\nfile-kibibytes = 255",
            "box.toml:3: `spool.file-kibibytes`: 255 is not from 256 to 65536 KiB",
        ),
        (
            "board = \"bench\"\n[receiver]\naddress = \"there\"",
            "box.toml:3: `receiver.address`: `there` is not host:port",
        ),
        (
            "board = \"bench\"\nroom = \" \"",
            "box.toml:2: `room`: this is no room's name: one line of 1 to 100 letters",
        ),
        (
            "board = \"bench\"\nroom = \"Hall\\n1\"",
            "box.toml:2: `room`: this is no room's name",
        ),
        (
            "board = \"bench\"\n[receiver]\naddress = \"a.example.org:1\"\nname = \"a b\"",
            "box.toml:4: `receiver.name`: `a b` is no name of a machine",
        ),
        (
            "board = \"bench\"\nreceiver = { address = \"there\" }",
            "box.toml:2: `receiver.address`: `there` is not host:port",
        ),
        (
            "\u{feff}[receiver]\naddress = 5",
            "box.toml:2: `receiver.address`: invalid type: integer `5`, expected a string",
        ),
        (
            "board = \"bench\"\n[spool]\nretention-days = -1",
            "box.toml:3: `spool.retention-days`: -1 is not from 1 to 365 days",
        ),
        (
            "board = \"bench\"\n[spool]\nretention-days = \"7\"",
            "box.toml:3: `spool.retention-days`: \"7\" is not from 1 to 365 days",
        ),
        (
            "board = \"bench\"\n[slides]\nrate = 29.97",
            "box.toml:3: `slides.rate`: `29.97` is not a picture rate",
        ),
        (
            "room = \"A\"\nboard = \"toaster\"",
            "box.toml:2: `board`: there is no board `toaster`: choose one of `bench`",
        ),
    ] {
        let found = settled(text, &Flags::default()).unwrap_err();
        assert!(found.starts_with(message), "{found}\n{message}");
    }
    let by_flags = |board: &str, microphone: Option<&str>| {
        let flags = Flags {
            board: Some(board.into()),
            microphone: microphone.map(str::to_owned),
            ..Flags::default()
        };
        settled("board = \"bench\"", &flags).unwrap_err()
    };
    let microphone = by_flags("bench", Some("mic"));
    assert!(microphone.starts_with("--microphone: `mic` is not an ALSA device"));
    let board = by_flags("toaster", None);
    assert!(board.starts_with("--board: there is no board `toaster`: choose"));
}

#[test]
fn a_rate_may_be_a_number() {
    let config = settled(
        "board = \"bench\"\n[presenter]\nrate = 25",
        &Flags::default(),
    );
    assert_eq!(
        config.unwrap().presenter.unwrap().rate,
        Rate::new(25, 1).ok()
    );
}
