//! Others take the processor: whatever picture is missing was counted.

use super::feeder::{self, Clicks};
use super::measure::Marks;
use super::support::film::Film;
use super::support::programs::{CaptureBox, Receiver, alone, pause, soak};
use super::support::rig;
use super::{board, figures, guest_home, leave, tell_lateness, track, wait_open};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Processes that do nothing but compute; they end with the value.
struct Hogs(Vec<Child>);

impl Hogs {
    fn start(nice: &[&str]) -> Self {
        let one = |nice: &&str| {
            let mut command = Command::new("nice");
            command.args(["-n", nice, "sh", "-c", "while :; do :; done"]);
            command.stdin(Stdio::null()).spawn().unwrap()
        };
        Self(nice.iter().map(one).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

fn record_beside_hogs(results: &Path) {
    let home = guest_home();
    let receiver = Receiver::start(&home);
    let pace = feeder::shift("Loopback", 0);
    let camera = feeder::camera(10);
    let sound = feeder::sound("Loopback", pace, Clicks::Seconds);
    let board = board(&home, "hogged", 10, "Loopback");
    let capture_box = CaptureBox::start(&home, "hogged", Some(&receiver), &["--board", &board]);
    wait_open(&capture_box, true);
    pause(4);
    let before = capture_box.status();
    let recording = capture_box.record();
    pause(3);
    let hogs = Hogs::start(&[["0"; 2].as_slice(), &["-5"; 6]].concat());
    pause(soak(20, 300));
    drop(hogs);
    pause(5);
    assert_eq!(capture_box.stop(), recording);
    let status = capture_box.status();
    let manifest = receiver.wait_complete(&recording, 60);
    drop(capture_box);
    tell_lateness("hog", &camera.end());
    let figures = json!({
        "before": before, "status": status, "manifest": manifest,
        "underruns": sound.end().underruns,
    });
    leave(results, "hog", &receiver.film(&recording), &figures);
}

#[test]
fn no_picture_is_missing_uncounted_beside_hogs() {
    if let Some(results) = rig::inside() {
        return record_beside_hogs(&results);
    }
    let _alone = alone();
    let results = tempfile::tempdir_in("/tmp").unwrap();
    let name = "hog::no_picture_is_missing_uncounted_beside_hogs";
    if !rig::ran_in_the_guest(name, 150 + soak(0, 300), results.path()) {
        return;
    }
    let figures = figures(results.path(), "hog");
    let film = Film::open(&results.path().join("hog.mp4"));
    let (width, height) = (feeder::SIZE.0 as usize, feeder::SIZE.1 as usize);
    let numbers: Vec<Option<u32>> = film
        .lumas_of(width, height)
        .iter()
        .map(|luma| hallcast::source::read_counter(luma, width, height, width))
        .collect();
    let presenter = track(&figures["status"], "presenter");
    let count = |of: &Value, key: &str| of[key].as_u64().unwrap();
    let since =
        |key: &str| count(presenter, key) - count(track(&figures["before"], "presenter"), key);
    let (ticks, repeats) = (count(presenter, "ticks"), count(presenter, "repeats"));
    let (drops, lost, dropped) = (count(presenter, "drops"), since("lost"), since("dropped"));
    // A slate carries no number: it stands where the camera gave nothing.
    let read: Vec<u32> = numbers.iter().copied().flatten().collect();
    let without = numbers.len() - read.len();
    let repeated = read.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
    let step = |pair: &[u32]| u64::from(pair[1].saturating_sub(pair[0]));
    let skipped: u64 = read
        .windows(2)
        .map(|pair| step(pair).saturating_sub(1))
        .sum();
    println!(
        "{ticks} ticks, {} pictures found, {without} without a number; {repeated} repeated of {repeats} \
         reported; {skipped} missing of {drops} drops, {lost} lost by the camera, {dropped} dropped \
         before the pacer; gaps {}",
        numbers.len(),
        figures["manifest"]["gaps"],
    );
    println!("{presenter}");
    println!("{}", track(&figures["status"], "microphone"));
    println!(
        "click after flash by 5 s: {:.2?} ms",
        Marks::of(&film).by(5.0)
    );
    assert!(read.is_sorted(), "pictures go back");
    assert_eq!(numbers.len() as u64, ticks, "one picture per tick");
    assert!(
        skipped <= drops + lost + dropped,
        "{skipped} pictures are missing"
    );
    assert!(
        repeated + without as u64 <= repeats,
        "{repeated} and {without} pictures stand twice"
    );
}
