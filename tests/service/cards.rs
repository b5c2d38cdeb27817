//! One image on two cards: the rig boots two machines from copies of it, and each becomes a box of its own
//! in the room that the list on every card has for it. What a box leaves on its card is there at the next boot.
//!
//! The image is a disk of the rig: all that installing the package and writing the boot partition changes of
//! the system, and what it changes itself from then on. A guest has no device tree: its machine's serial number
//! is the address of its network card, which the rig gives it, and which `box.toml` names as for a PC.

use super::support::programs::{BOX, alone, pause, run};
use super::support::rig::{self, Guest};
use super::{System, UNIT};
use hallcast::clock;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const NAME: &str = "cards::copies_of_one_image_are_boxes_with_rooms_and_identities_of_their_own";
/// Where the guest mounts the card, and the root of the system on it.
const CARD: &str = "/run/card";
const ROOT: &str = "/run/card/root";
const STATE: &str = "/var/lib/private/hallcast";
/// What the host wants of a guest, unless it names a machine.
const INSTALL: &str = "install";

/// Two machines, and their rooms.
const MACHINES: [(&str, &str); 2] = [
    ("02:00:00:00:00:01", "Hörsaal 1"),
    ("02:00:00:00:00:02", "Hörsaal 2"),
];

/// In the guest: installs what a card holds before anybody starts from it.
fn install(program: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/service/machine");
    run(script, &[ROOT, "install"]);
    let path = |path: &str| format!("{ROOT}/{path}");
    let binary = path("usr/bin/hallcast");
    run(
        "install",
        &["-m", "755", program.to_str().unwrap(), &binary],
    );
    run("systemctl", &["--root", ROOT, "enable", UNIT]);
    let boot = |name: &str| path(&format!("boot/firmware/{name}"));
    fs::create_dir_all(boot("")).unwrap();
    let board = "schema = 1\nname = \"tone\"\n[microphone.tone]\n[panel.simulated]\n";
    fs::write(boot("tone.toml"), board).unwrap();
    let settings = "board = \"/boot/firmware/tone.toml\"\nroom = \"nowhere\"\n\
        serial-file = \"/sys/class/net/eth0/address\"\n[receiver]\naddress = \"127.0.0.1:9\"\n";
    fs::write(boot("box.toml"), settings).unwrap();
    let rows = MACHINES.map(|(serial, room)| format!("{serial},{room}\n"));
    fs::write(boot("fleet.csv"), format!("serial,room\n{}", rows.concat())).unwrap();
    assert!(!Path::new(&path(STATE)).exists(), "the image is of no box");
    run("umount", &[ROOT]);
}

/// In the guest: boots the machine with this serial number from the card; what became of it.
fn boot(serial: &str) -> Value {
    let card = ["address", serial, "type", "veth", "peer", "name", "wire"];
    run("ip", &[&["link", "add", "eth0"], &card[..]].concat());
    // The unit is enabled: the box is started by the boot.
    let system = System::boot(ROOT, &[]);
    assert_eq!(system.property(UNIT, "ActiveState"), "active");
    let ready = system.readiness(UNIT).as_millis();
    let recording = system.run(&["hallcast", "start"]);
    system.wait_for_recording(&recording);
    pause(1);
    system.run(&["hallcast", "stop"]);
    let status = system.status().unwrap();
    let held = |name: &str| {
        let bytes = fs::read(system.path(&format!("{STATE}/{name}"))).unwrap();
        String::from_utf8(bytes).unwrap().trim().to_owned()
    };
    let epoch: u64 = held("epoch").parse().unwrap();
    let key = blake3::hash(held("box.key").as_bytes()).to_string();
    let spool = system.run(&["hallcast", "spool", "ls"]);
    system.systemctl("stop", UNIT);
    json!({
        "id": status["box_id"], "key": key, "room": status["room"], "machine": held("machine"),
        "alarms": status["alarms"], "epoch": epoch, "recording": recording, "spool": spool,
        "ready_ms": ready as u64,
    })
}

#[test]
fn copies_of_one_image_are_boxes_with_rooms_and_identities_of_their_own() {
    if let Some(results) = rig::inside() {
        fs::create_dir(CARD).unwrap();
        run("mount", &["-t", "ext4", "/dev/ubda", CARD]);
        match rig::task().as_str() {
            INSTALL => install(&results.join("hallcast")),
            serial => println!("\ncard {}", boot(serial)),
        }
        run("sync", &[]);
        return;
    }
    let _alone = alone();
    let began = clock::now();
    let results = tempfile::tempdir_in("/tmp").unwrap();
    let path = |name: &str| results.path().join(name);
    // As the package has it.
    run("strip", &["-o", path("hallcast").to_str().unwrap(), BOX]);
    let image = path("image");
    fs::File::create(&image)
        .unwrap()
        .set_len(128 << 20)
        .unwrap();
    let ext4 = ["-q", "-F", "-J", "size=16", image.to_str().unwrap()];
    run("mkfs.ext4", &ext4);
    let Some(guest) = Guest::boot(NAME, INSTALL, results.path(), &image) else {
        return;
    };
    guest.finish();
    let hash = |path: &Path| blake3::hash(&fs::read(path).unwrap());
    let cards = [path("card-1"), path("card-2")];
    for card in &cards {
        fs::copy(&image, card).unwrap();
        assert_eq!(hash(card), hash(&image));
    }

    let start = |card: usize, (serial, _): (&str, &str)| -> Value {
        let mut guest = Guest::boot(NAME, serial, results.path(), &cards[card]).unwrap();
        // Guests of other tests may have to end first.
        let said = guest.wait_for("card ", 600);
        guest.finish();
        serde_json::from_str(&said).unwrap()
    };
    let [first, second] = [0, 1].map(|number| start(number, MACHINES[number]));
    let again = start(0, MACHINES[0]);
    for (card, (serial, room)) in
        [&first, &second, &again]
            .into_iter()
            .zip([MACHINES[0], MACHINES[1], MACHINES[0]])
    {
        println!(
            "{room}: box {}, ready after {} ms",
            card["id"], card["ready_ms"]
        );
        assert_eq!(
            (&card["room"], &card["machine"]),
            (&json!(room), &json!(serial))
        );
        let alarms = card["alarms"].to_string();
        assert!(
            !alarms.contains("fleet") && !alarms.contains("machine"),
            "{alarms}"
        );
    }
    for own in ["id", "key"] {
        assert_ne!(first[own], second[own], "the {own} of two cards");
        assert_eq!(first[own], again[own], "the {own} at the second start");
    }
    assert!(first["epoch"].as_u64() < again["epoch"].as_u64());
    let holds = |card: &Value, recording: &Value| {
        let spool = card["spool"].as_str().unwrap();
        spool.contains(recording["recording"].as_str().unwrap())
    };
    assert!(holds(&first, &first) && holds(&again, &first) && holds(&again, &again));
    assert!(holds(&second, &second) && !holds(&second, &first));
    println!(
        "four boots took {:.1} s",
        clock::now().since(began).as_secs_f64()
    );
}
