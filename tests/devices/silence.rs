//! A microphone that gives digital silence is told within seconds, and no longer once it is heard again.

use super::support::archive::alarms;
use super::support::programs::{CaptureBox, Receiver, alone, pause, wait_until};
use super::support::rig;
use super::{MICROPHONE, guest_home, play, track};
use hallcast::clock;
use std::time::Duration;

const CODE: &str = "microphone-silent";

#[test]
fn a_silent_microphone_is_told_in_ten_seconds_and_a_heard_one_is_not() {
    let name = "silence::a_silent_microphone_is_told_in_ten_seconds_and_a_heard_one_is_not";
    if rig::inside().is_none() {
        let _alone = alone();
        let results = tempfile::tempdir_in("/tmp").unwrap();
        rig::ran_in_the_guest(name, 120, results.path());
        return;
    }
    let home = guest_home();
    let receiver = Receiver::start(&home);
    // Nobody plays into the loop: what it gives is zeros.
    let arguments = ["--board", "bench", "--microphone", MICROPHONE];
    let capture_box = CaptureBox::start(&home, "muted", Some(&receiver), &arguments);
    wait_until(20, "the microphone", || {
        track(&capture_box.status(), "microphone")["open"] == true
    });
    let began = clock::now();
    let recording = capture_box.record();
    let raised = || {
        let status = capture_box.status();
        let alarms = status["alarms"].as_array().unwrap().clone();
        let told = alarms.iter().any(|alarm| alarm.to_string().contains(CODE));
        (told, status["lamp"].as_str().unwrap().to_owned(), status)
    };
    pause(7);
    let (early, lamp, status) = raised();
    println!("after 7 s: alarm {early}, lamp {lamp}");
    assert!(!early, "{status}");
    wait_until(10, "the alarm", || raised().0);
    let after = clock::now().since(began);
    let (_, lamp, status) = raised();
    println!("raised {after:.1?} after the recording began, lamp {lamp}");
    // The microphone was silent for up to some seconds before.
    assert!(after < Duration::from_secs(12), "{after:?}");
    assert_eq!(lamp, "double-wink");
    assert!(track(&status, "microphone")["level_dbfs"].is_null());

    let playing = play(&home, 30);
    wait_until(5, "its end", || !raised().0);
    pause(2);
    let (_, lamp, status) = raised();
    let levels = &track(&status, "microphone")["level_dbfs"];
    println!("heard again: lamp {lamp}, levels {levels} dBFS");
    assert_eq!(lamp, "solid");
    // A sine of 8000: 12.2 dB below full scale at its peak, 15.3 on average.
    for (found, expected) in [(&levels[0], -12.2), (&levels[1], -15.3)] {
        assert!((found.as_f64().unwrap() - expected).abs() < 0.5, "{levels}");
    }
    assert_eq!(capture_box.stop(), recording);
    drop(playing);
    receiver.wait_complete(&recording, 60);
    let told: Vec<bool> = alarms(&receiver, &recording)
        .into_iter()
        .filter(|(code, ..)| code == CODE)
        .map(|(_, raised, _)| raised)
        .collect();
    assert_eq!(told, [true, false], "in the recording's facts");
}
