//! Devices that change places: the box stays on its port, whatever the names lead to.

use super::support::archive::alarms;
use super::support::programs::{CaptureBox, Receiver, alone, pause, wait_until};
use super::support::rig;
use super::{guest_home, track};
use hallcast::clock;
use std::fs;

/// The box's device and another one, and where the box's is at first. (All of vivid's cameras are one
/// device to the kernel, so the other one is a codec, which has a number among the cameras too; the two
/// sound cards are twins.)
struct Twins {
    track: &'static str,
    ours: &'static str,
    other: &'static str,
    /// The node that the configured name means, and the folder of sysfs that tells whose it is.
    node: &'static str,
    device: &'static str,
}

const CAMERAS: Twins = Twins {
    track: "presenter",
    ours: "vivid.0",
    other: "vim2m.0",
    node: "/dev/video0",
    device: "/sys/class/video4linux/video0/device",
};
const CARDS: Twins = Twins {
    track: "microphone",
    ours: "snd_dummy.0",
    other: "snd_dummy.1",
    node: "/dev/snd/pcmC1D0c",
    device: "/sys/class/sound/card1/device",
};

impl Twins {
    /// The unit that the configured name leads to now.
    fn named(&self) -> String {
        let device = fs::canonicalize(self.device).unwrap();
        device.file_name().unwrap().to_str().unwrap().to_owned()
    }
}

fn plug(way: &str, device: &str) {
    let (driver, _) = device.split_once('.').unwrap();
    let path = format!("/sys/bus/platform/drivers/{driver}/{way}");
    fs::write(path, device).unwrap();
}

/// The device nodes below `/dev` that the box has open.
fn held(capture_box: &CaptureBox) -> Vec<String> {
    let folder = format!("/proc/{}/fd", capture_box.pid());
    let links = fs::read_dir(folder).unwrap().flatten();
    let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
    targets
        .filter_map(|target| target.to_str().map(str::to_owned))
        .filter(|target| target.starts_with("/dev/video") || target.starts_with("/dev/snd/pcm"))
        .collect()
}

fn change_places(capture_box: &CaptureBox, twins: &Twins) {
    let holds = |node: &str| held(capture_box).iter().any(|held| held == node);
    assert_eq!(twins.named(), twins.ours);
    assert!(holds(twins.node), "{:?}", held(capture_box));

    // Both are pulled out, and the other one comes back under the configured name.
    plug("unbind", twins.ours);
    plug("unbind", twins.other);
    // The number is free once nobody has the old node open, which is "... (deleted)" by now.
    wait_until(10, "the box to let go", || {
        let held = held(capture_box);
        !held.iter().any(|held| held.starts_with(twins.node))
    });
    plug("bind", twins.other);
    assert_eq!(twins.named(), twins.other);
    let mut error = String::new();
    wait_until(10, "the other one to be refused", || {
        error = track(&capture_box.status(), twins.track)["error"].to_string();
        error.contains("now leads to the device on port")
    });
    println!("{}: {error}", twins.track);
    for device in [twins.ours, twins.other] {
        assert!(error.contains(&format!("platform/{device}/")), "{error}");
    }
    for _ in 0..30 {
        clock::sleep(std::time::Duration::from_millis(100));
        assert!(
            !holds(twins.node),
            "it took the other one: {:?}",
            held(capture_box)
        );
    }

    // The right one comes back, under another name.
    let before = held(capture_box).len();
    plug("bind", twins.ours);
    let back = clock::now();
    assert_eq!(twins.named(), twins.other, "the name leads astray");
    wait_until(10, "the right one", || held(capture_box).len() > before);
    let took = clock::now().since(back).as_secs_f64();
    let nodes = held(capture_box);
    println!(
        "{}: open again {took:.2} s after its return: {nodes:?}",
        twins.track
    );
    assert!(!holds(twins.node), "{nodes:?}");
    assert!(took <= 3.0, "{took} s");
    wait_until(10, "the alarm", || {
        capture_box.status()["alarms"]
            .to_string()
            .contains(&format!("{}-changed", twins.track))
    });
}

#[test]
fn a_device_is_found_on_its_port_and_its_twin_is_not_taken() {
    let name = "ports::a_device_is_found_on_its_port_and_its_twin_is_not_taken";
    if rig::inside().is_none() {
        let _alone = alone();
        let results = tempfile::tempdir_in("/tmp").unwrap();
        rig::ran_in_the_guest(name, 120, results.path());
        return;
    }
    let home = guest_home();
    let receiver = Receiver::start(&home);
    let devices = ["--presenter", CAMERAS.node, "--microphone", "hw:1,0"];
    let arguments = [&["--board", "bench"], &devices[..]].concat();
    let capture_box = CaptureBox::start(&home, "hall", Some(&receiver), &arguments);
    wait_until(20, "both devices", || held(&capture_box).len() == 2);
    let recording = capture_box.record();
    pause(2);
    change_places(&capture_box, &CAMERAS);
    change_places(&capture_box, &CARDS);
    pause(1);
    assert_eq!(capture_box.stop(), recording);
    let standing = capture_box.status()["alarms"].to_string();
    assert!(
        !standing.contains("-changed"),
        "the recording has said it: {standing}"
    );
    receiver.wait_complete(&recording, 60);
    let said = alarms(&receiver, &recording);
    for twins in [CAMERAS, CARDS] {
        for code in ["elsewhere", "changed"] {
            let code = format!("{}-{code}", twins.track);
            let of_it = said.iter().filter(|(found, _, _)| *found == code);
            let raised: Vec<bool> = of_it.map(|(_, raised, _)| *raised).collect();
            assert_eq!(raised, [true, false], "{code}: {said:?}");
        }
    }
}
