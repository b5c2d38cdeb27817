//! Forty boxes from forty identical cards: the real programs, each box with a serial number of its own and
//! the same boot partition.

#![cfg(all(feature = "receiver", feature = "software"))]
#![allow(clippy::unwrap_used, missing_docs, reason = "a test ends by panicking")]

mod support;

use hallcast::clock;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::mounts::{SmallDisk, where_it_may_mount};
use support::programs::{BOX, CaptureBox, RECEIVER, Receiver, alone, outcome, run, wait_until};

const ROOMS: usize = 40;

fn serial(number: usize) -> String {
    format!("10000000{number:08x}")
}

/// As a list of rooms is that a spreadsheet wrote.
fn room(number: usize) -> String {
    format!("Hörsaal {number}, Nord")
}

/// The boot partition that all cards have: settings, and a list of forty rooms.
fn card(home: &Path, receiver: &str) -> PathBuf {
    let card = home.join("card");
    fs::create_dir_all(&card).unwrap();
    let board = card.join("tone.toml");
    let text = "schema = 1\nname = \"tone\"\n[microphone.tone]\n[panel.simulated]\n";
    fs::write(&board, text).unwrap();
    let settings = format!(
        "board = \"{}\"\r\nroom = \"nowhere\"\r\n[receiver]\r\naddress = \"{receiver}\"\r\n",
        board.display()
    );
    fs::write(card.join("box.toml"), settings).unwrap();
    let mut list = String::from("\u{feff}serial,room,note\r\n");
    for number in 0..ROOMS {
        list += &format!(
            "{},\"{}\",\r\n",
            serial(number).to_uppercase(),
            room(number)
        );
    }
    fs::write(card.join("fleet.csv"), list).unwrap();
    card
}

/// The machine with this serial number, with the card in it.
fn start(home: &Path, name: &str, card: &Path, serial: &str) -> CaptureBox {
    let file = home.join(format!("{name}.serial"));
    fs::write(&file, format!("{serial}\0")).unwrap();
    let (card, file) = (card.to_str().unwrap(), file.to_str().unwrap());
    let arguments = ["--boot-directory", card, "--serial-file", file];
    CaptureBox::start_from_a_card(home, name, &arguments)
}

fn enroll(machine: &CaptureBox, arguments: &[&str]) -> String {
    let socket = machine.home.join("control");
    let socket = ["--socket", socket.to_str().unwrap()];
    run(BOX, &[&["enroll"], arguments, &socket].concat())
}

/// Makes the boxes known to the receiver in one go, as a person does.
fn enroll_all(boxes: &[CaptureBox], receiver: &Receiver) {
    let (requests, signed) = (receiver.home.join("requests"), receiver.home.join("signed"));
    fs::create_dir_all(&requests).unwrap();
    for (number, machine) in boxes.iter().enumerate() {
        let request = enroll(machine, &["--csr"]);
        fs::write(requests.join(format!("{number}.csr")), request).unwrap();
    }
    let state = receiver.home.join("state");
    let [requests, folder, state] = [&requests, &signed, &state].map(|path| path.to_str().unwrap());
    let said = run(
        RECEIVER,
        &["sign", requests, "--output", folder, "--state-dir", state],
    );
    assert_eq!(said.lines().count(), boxes.len(), "{said}");
    for (number, machine) in boxes.iter().enumerate() {
        let chain = signed.join(format!("{number}.pem"));
        let told = enroll(machine, &["--install", chain.to_str().unwrap()]);
        let id = machine.status()["box_id"].as_str().unwrap().to_owned();
        assert_eq!(told, format!("box {id} is enrolled\n"));
    }
}

fn is_connected(machine: &CaptureBox) -> bool {
    machine
        .try_status()
        .is_some_and(|status| status["uplink"]["connected"] == true)
}

fn alarms(machine: &CaptureBox) -> String {
    machine.status()["alarms"].to_string()
}

fn id_of(machine: &CaptureBox) -> String {
    machine.status()["box_id"].as_str().unwrap().to_owned()
}

#[test]
fn forty_identical_cards_become_forty_rooms_with_identities_of_their_own() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let card = card(home.path(), &receiver.quic);
    let began = clock::now();
    let boxes: Vec<CaptureBox> = (0..ROOMS)
        .map(|number| {
            start(
                home.path(),
                &format!("box-{number}"),
                &card,
                &serial(number),
            )
        })
        .collect();
    let ids: BTreeSet<String> = boxes.iter().map(id_of).collect();
    assert_eq!(ids.len(), ROOMS);
    println!(
        "{ROOMS} boxes are up in {:.1} s",
        clock::now().since(began).as_secs_f64()
    );

    // Before anybody knows them they record, and say what to do.
    let recordings: Vec<String> = boxes.iter().map(CaptureBox::record).collect();
    for (number, machine) in boxes.iter().enumerate() {
        let status = machine.status();
        assert_eq!(status["room"], room(number));
        let error = status["uplink"]["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        for command in [
            "hallcast enroll --csr",
            "hallcast-receiver sign",
            "hallcast enroll --install",
        ] {
            assert!(error.contains(command), "{error}");
        }
    }
    for (machine, recording) in boxes.iter().zip(&recordings) {
        wait_until(20, "a chunk that is kept", || {
            machine.status()["spool"]["syncs"] != 0
        });
        assert_eq!(&machine.stop(), recording);
        let lines = machine
            .log()
            .matches("is not enrolled at a receiver yet")
            .count();
        assert_eq!(lines, 1, "the log says it once\n{}", machine.log());
    }

    let pids: Vec<u32> = boxes.iter().map(CaptureBox::pid).collect();
    enroll_all(&boxes, &receiver);
    let installed = clock::now();
    wait_until(60, "all boxes are connected", || {
        boxes.iter().all(is_connected)
    });
    println!(
        "and connected {:.1} s after the last certificate",
        clock::now().since(installed).as_secs_f64()
    );
    assert_eq!(pids, boxes.iter().map(CaptureBox::pid).collect::<Vec<_>>());
    for (number, recording) in recordings.iter().enumerate() {
        let manifest = receiver.wait_complete(recording, 60).to_string();
        assert!(manifest.contains(&room(number)), "{manifest}");
    }
    let told: serde_json::Value = serde_json::from_slice(&receiver.get("/boxes.json")).unwrap();
    let told = told["boxes"].as_array().unwrap().iter();
    let rooms: BTreeMap<String, String> = told
        .map(|one| {
            [&one["box_id"], &one["room"]]
                .map(|text| text.as_str().unwrap().to_owned())
                .into()
        })
        .collect();
    for (number, machine) in boxes.iter().enumerate() {
        assert_eq!(rooms[&id_of(machine)], room(number));
    }
    println!(
        "and their recordings are whole after {:.1} s",
        clock::now().since(began).as_secs_f64()
    );
}

#[test]
fn a_certificate_is_used_at_once_also_in_place_of_another() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let card = card(home.path(), &receiver.quic);
    let boxes = [start(home.path(), "box", &card, &serial(1))];
    // By now the delay between two tries has grown.
    wait_until(20, "it has tried", || {
        !boxes[0].status()["uplink"]["error"].is_null()
    });
    clock::sleep(Duration::from_secs(4));
    for time in 1..=2 {
        let before = admitted(&receiver);
        enroll_all(&boxes, &receiver);
        let installed = clock::now();
        wait_until(20, "the receiver has a new session", || {
            admitted(&receiver) > before && is_connected(&boxes[0])
        });
        println!(
            "certificate {time}: connected after {:.2} s",
            clock::now().since(installed).as_secs_f64()
        );
    }
}

/// Connections that the receiver let in.
fn admitted(receiver: &Receiver) -> f64 {
    let text = String::from_utf8(receiver.get("/metrics")).unwrap();
    let name = "hallcast_receiver_sessions_admitted_total";
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.unwrap_or_else(|| panic!("{text}")).rsplit(' ').next();
    value.unwrap().parse().unwrap()
}

#[test]
fn a_machine_that_the_list_does_not_name_says_so_and_records() {
    let home = tempfile::tempdir().unwrap();
    let card = card(home.path(), "127.0.0.1:9");
    let machine = start(home.path(), "box", &card, "10000000ffffffff");
    let alarms = alarms(&machine);
    assert!(alarms.contains("not-in-fleet"), "{alarms}");
    let (_, line) = alarms.split_once("add the line `").unwrap();
    let line = line.split('`').next().unwrap();
    assert_eq!(line, "10000000ffffffff,ROOM,");
    assert_eq!(machine.status()["room"], "nowhere");
    let recording = machine.record();
    assert_eq!(machine.stop(), recording);

    // Its row is added, on the card itself, and it is started again.
    let list = card.join("fleet.csv");
    let more = fs::read_to_string(&list).unwrap() + &line.replace("ROOM", "Lab") + "\r\n";
    fs::write(&list, more).unwrap();
    let mut machine = machine;
    machine.terminate();
    machine.restart();
    assert_eq!(machine.status()["room"], "Lab");
    assert!(!self::alarms(&machine).contains("not-in-fleet"));

    // A mistake in the list is one that starting again does not mend.
    fs::write(&list, "serial;room\r\n7;Hall 7\r\n7;Hall 8\r\n").unwrap();
    let state = home.path().join("none");
    let start = [
        "run",
        "--boot-directory",
        card.to_str().unwrap(),
        "--state-directory",
        state.to_str().unwrap(),
    ];
    let output = outcome(BOX, &start);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(
        said.contains("fleet.csv:3: `serial`: 7 stands in line 2 already"),
        "{said}"
    );
}

#[test]
fn a_card_in_another_machine_stays_its_box_unless_nobody_knows_it() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let card = card(home.path(), &receiver.quic);
    let move_to = |from: &str, to: &str, number| {
        let (from, to) = (home.path().join(from), home.path().join(to));
        run("cp", &["-r", from.to_str().unwrap(), to.to_str().unwrap()]);
        start(
            home.path(),
            to.file_name().unwrap().to_str().unwrap(),
            &card,
            &serial(number),
        )
    };
    // An image was made of a card that had been started once.
    let mut master = start(home.path(), "master", &card, &serial(0));
    master.terminate();
    let boxes = [1, 2].map(|number| move_to("master", &format!("copy-{number}"), number));
    master.restart();
    let ids = BTreeSet::from([id_of(&master), id_of(&boxes[0]), id_of(&boxes[1])]);
    assert_eq!(ids.len(), 3);
    assert!(
        boxes
            .iter()
            .all(|copy| !alarms(copy).contains("other-machine"))
    );

    // Once it is enrolled, or has recorded, it is the same box wherever it is.
    let [known, mut recorded] = boxes;
    recorded.record();
    recorded.stop();
    recorded.terminate();
    let mut known = [known];
    enroll_all(&known, &receiver);
    let known_id = id_of(&known[0]);
    known[0].terminate();
    for (from, number) in [("copy-1", 3), ("copy-2", 4)] {
        let moved = move_to(from, &format!("moved-{number}"), number);
        let alarms = alarms(&moved);
        for said in ["other-machine", &serial(number), &serial(number - 2)] {
            assert!(alarms.contains(said), "{alarms}");
        }
        assert_eq!(moved.status()["room"], room(number));
        if number == 3 {
            assert_eq!(id_of(&moved), known_id);
            wait_until(30, "it is still known", || is_connected(&moved));
            // Enrolled here, it is this machine's from the next start on.
            let mut moved = [moved];
            enroll_all(&moved, &receiver);
            moved[0].terminate();
            moved[0].restart();
            assert!(!self::alarms(&moved[0]).contains("other-machine"));
        }
    }
}

#[test]
fn a_mistake_in_one_request_of_a_batch_enters_no_box() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (state, requests) = (path("receiver"), path("requests"));
    run(
        RECEIVER,
        &["ca", "init", "--development", "--state-dir", &state],
    );
    fs::create_dir(&requests).unwrap();
    let ask = |name: &str, state: &str| {
        let request = run(BOX, &["enroll", "--csr", "--state-directory", &path(state)]);
        fs::write(format!("{requests}/{name}.csr"), request).unwrap();
    };
    let sign = |arguments: &[&str]| {
        let output = outcome(
            RECEIVER,
            &[&["sign", "--state-dir", &state], arguments].concat(),
        );
        let [said, wrong] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.success(), said, wrong)
    };
    let entered = || fs::read_dir(format!("{state}/boxes")).map_or(0, Iterator::count);

    let (fine, _, wrong) = sign(&[&requests]);
    assert!(
        !fine && wrong.contains("there is no *.csr in it"),
        "{wrong}"
    );
    ask("a", "a");
    let first = sign(&[&format!("{requests}/a.csr"), "--room", "Hall 1"]);
    assert!(
        first.0 && first.1.matches("BEGIN CERTIFICATE").count() == 2,
        "{first:?}"
    );
    assert_eq!(entered(), 1);

    ask("b", "b");
    ask("twin", "b");
    fs::write(format!("{requests}/c.csr"), "not one").unwrap();
    let (fine, _, wrong) = sign(&[&requests]);
    assert!(!fine && entered() == 1, "{wrong}");
    for said in [
        "b.csr: box ",
        "names no room",
        "c.csr: is no certificate request",
        "twin.csr: the same box",
    ] {
        assert!(wrong.contains(said), "{said}: {wrong}");
    }
    let (fine, _, wrong) = sign(&[&requests, "--room", "Hall 2"]);
    assert!(
        !fine && wrong.contains("--room names one room, and these are 4 requests"),
        "{wrong}"
    );

    // The roster knows the room of the first; signing it again gives what it has.
    for name in ["b", "c", "twin"] {
        fs::remove_file(format!("{requests}/{name}.csr")).unwrap();
    }
    let (fine, said, wrong) = sign(&[&requests]);
    assert!(
        fine && said.trim_end().ends_with(", Hall 1"),
        "{said}{wrong}"
    );
    assert_eq!(
        fs::read_to_string(format!("{requests}/a.pem")).unwrap(),
        first.1
    );

    let entry = fs::read_dir(format!("{state}/boxes"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let text = fs::read_to_string(&entry)
        .unwrap()
        .replace("revoked = false", "revoked = true");
    fs::write(&entry, text).unwrap();
    let (fine, _, wrong) = sign(&[&requests]);
    assert!(!fine && wrong.contains("is revoked; delete "), "{wrong}");
}

#[test]
fn a_box_writes_nothing_outside_its_state_and_its_runtime_directory() {
    const NAME: &str = "a_box_writes_nothing_outside_its_state_and_its_runtime_directory";
    if !where_it_may_mount(NAME) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let card = card(home.path(), &receiver.quic);
    fs::write(card.join("serial"), serial(7)).unwrap();
    // All that stays writable is what the unit gives to the box; its log stands for the journal. The
    // receiver, which is another machine, writes through a mount namespace of its own: it is stopped.
    let disk = SmallDisk::mount(&home.path().join("disk"), 64);
    let kept = disk.0.to_str().unwrap().to_owned();
    drop(receiver);
    let mut left = Vec::new();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        let place = line.split(' ').nth(4).unwrap().replace("\\040", " ");
        if place != kept {
            let done = outcome("mount", &["-o", "remount,bind,ro", &place]);
            if !done.status.success() {
                left.push(place);
            }
        }
    }
    println!("not made read-only: {left:?}");
    for folder in [
        "/",
        "/tmp",
        "/var/tmp",
        "/dev/shm",
        env!("CARGO_MANIFEST_DIR"),
        home.path().to_str().unwrap(),
    ] {
        let wrote = fs::write(Path::new(folder).join("hallcast-was-here"), "");
        assert!(
            wrote.is_err(),
            "{folder} can be written to: this test would show nothing"
        );
    }
    let (card, file) = (card.to_str().unwrap().to_owned(), card.join("serial"));
    let arguments = [
        "--boot-directory",
        &card,
        "--serial-file",
        file.to_str().unwrap(),
    ];
    let mut machine = CaptureBox::start_from_a_card(&disk.0, "box", &arguments);
    assert_eq!(machine.status()["room"], room(7));
    assert!(enroll(&machine, &["--csr"]).contains("BEGIN CERTIFICATE REQUEST"));
    for _ in 0..2 {
        let recording = machine.record();
        wait_until(20, "a chunk that is kept", || {
            machine.status()["spool"]["syncs"] != 0
        });
        assert_eq!(machine.stop(), recording);
        machine.terminate();
        machine.restart();
    }
    assert_eq!(machine.status()["spool"]["recordings"], 2);
    let log = machine.log();
    assert!(!log.contains("Read-only file system"), "{log}");
}
