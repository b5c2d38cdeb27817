//! A camera that encodes by itself, behind a real V4L2 driver: what it gives is recorded as it is, each
//! picture at the time of its capture, and the sound beside it stays in step.

use super::feeder::{self, Clicks, SIZE};
use super::measure::Marks;
use super::support::film::Film;
use super::support::programs::{CaptureBox, Receiver, alone, pause, run};
use super::support::rig;
use super::{OFFSET_MS, board_with, figures, guest_home, leave, track, wait_open};
use hallcast::clock;
use serde_json::json;
use std::fs;
use std::path::Path;

const SOURCE: &str = "source.h264";
/// A picture of the film may lie so far from when the driver had it, but for what the guest was kept waiting.
const LATE_MS: f64 = 2.0;

/// A film of 10 s, its first picture of each second a keyframe and white, each access unit begun by its
/// delimiter.
fn make(path: &Path) {
    let source = format!("testsrc2=size={}x{}:rate=30:duration=10", SIZE.0, SIZE.1);
    #[rustfmt::skip]
    run("ffmpeg", &[
        "-v", "error", "-f", "lavfi", "-i", &source,
        "-vf", "drawbox=t=fill:color=white:enable='eq(mod(n,30),0)'",
        "-c:v", "libx264", "-preset", "ultrafast", "-bf", "0", "-g", "30", "-keyint_min", "30",
        "-sc_threshold", "0", "-pix_fmt", "yuv420p", "-bsf:v", "filter_units=remove_types=6,h264_metadata=aud=insert",
        "-f", "h264", path.to_str().unwrap(),
    ]);
}

/// The access units of such a film.
fn units(film: &[u8]) -> Vec<Vec<u8>> {
    const DELIMITER: [u8; 5] = [0, 0, 0, 1, 9];
    let mut starts: Vec<usize> = (0..film.len())
        .filter(|at| film[*at..].starts_with(&DELIMITER))
        .collect();
    starts.push(film.len());
    let unit = |pair: &[usize]| film[pair[0]..pair[1]].to_vec();
    starts.windows(2).map(unit).collect()
}

/// The hash of each decoded picture.
fn hashes(path: &Path) -> Vec<String> {
    #[rustfmt::skip]
    let text = run("ffmpeg", &[
        "-v", "error", "-i", path.to_str().unwrap(), "-map", "0:v:0", "-fps_mode", "passthrough",
        "-f", "framemd5", "-",
    ]);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit(',').next().unwrap().trim().to_owned())
        .collect()
}

fn record(results: &Path) {
    let home = guest_home();
    let receiver = Receiver::start(&home);
    let pace = feeder::shift("Loopback", 0);
    let film = fs::read(results.join(SOURCE)).unwrap();
    let camera = feeder::encoded(10, units(&film));
    let sound = feeder::sound("Loopback", pace, Clicks::Seconds);
    let board = board_with(&home, "encoded", 10, "Loopback", "pixels = \"H264\"\n");
    let capture_box = CaptureBox::start(&home, "encoded", Some(&receiver), &["--board", &board]);
    wait_open(&capture_box, true);
    pause(4); // until the card clicks
    let began = clock::now().as_nanos();
    let recording = capture_box.record();
    pause(20);
    assert_eq!(capture_box.stop(), recording);
    let status = capture_box.status();
    let manifest = receiver.wait_complete(&recording, 60);
    let written: Vec<u64> = camera.end().iter().map(|at| at.as_nanos()).collect();
    let figures = json!({
        "began": began,
        "written": written,
        "underruns": sound.end().underruns,
        "presenter": track(&status, "presenter"),
        "gaps": manifest["gaps"],
    });
    leave(results, "encoded", &receiver.film(&recording), &figures);
}

#[test]
fn what_a_driver_hands_over_encoded_is_recorded_as_it_is_at_its_time() {
    let name = "encoded::what_a_driver_hands_over_encoded_is_recorded_as_it_is_at_its_time";
    if let Some(results) = rig::inside() {
        return record(&results);
    }
    let _alone = alone();
    let results = tempfile::tempdir_in("/tmp").unwrap();
    let source = results.path().join(SOURCE);
    make(&source);
    if !rig::ran_in_the_guest(name, 120, results.path()) {
        return;
    }
    let figures = figures(results.path(), "encoded");
    let path = results.path().join("encoded.mp4");
    let film = Film::open(&path);
    film.assert_decodes();

    let (of_source, given) = (hashes(&source), hashes(&path));
    assert_eq!(of_source.len(), 300);
    // The first one of a segment is white, as ten of the source are: the next one tells which.
    let second = of_source.iter().position(|hash| *hash == given[1]);
    let first = second.expect("a picture of the source") - 1;
    for (n, hash) in given.iter().enumerate() {
        assert_eq!(*hash, of_source[(first + n) % 300], "picture {n}");
    }

    let nanos = |value: &serde_json::Value| value.as_u64().unwrap() as f64;
    let written: Vec<f64> = figures["written"]
        .as_array()
        .unwrap()
        .iter()
        .map(nanos)
        .collect();
    let times = film.picture_times();
    assert_eq!(times.len(), given.len());
    let began = nanos(&figures["began"]);
    let from = (first..written.len())
        .step_by(300)
        .min_by(|a, b| {
            let apart = |n: &usize| (written[*n] - began).abs();
            apart(a).total_cmp(&apart(b))
        })
        .unwrap();
    let mut off: Vec<f64> = times
        .iter()
        .zip(&written[from..])
        .map(|(time, at)| ((time - times[0]) - (at - written[from]) / 1e9).abs() * 1e3)
        .collect();
    off.sort_by(f64::total_cmp);
    let part = |tenths: usize| off[(off.len() - 1) * tenths / 10];
    let marks = Marks::of(&film);
    println!(
        "{} pictures of a driver's own, each as it was; off its time by {:.3} ms (median), {:.3} (nine of ten), \
         {:.3} (most); {} marks, click after flash by {:.2} ms (median); {} underruns; {}; gaps {}",
        given.len(),
        part(5),
        part(9),
        part(10),
        marks.0.len(),
        marks.all(),
        figures["underruns"],
        figures["presenter"],
        figures["gaps"],
    );
    let fed = (
        figures["presenter"]["ticks"].as_u64(),
        figures["presenter"]["dropped"].as_u64(),
    );
    assert_eq!(fed, (Some(given.len() as u64), Some(0)));
    assert!(
        given.len() >= 18 * 30,
        "20 s, less what comes before the first keyframe"
    );
    assert!(part(9) <= LATE_MS, "{off:?}");
    assert!(marks.0.len() >= 15, "{:?}", marks.0);
    assert!(marks.all().abs() <= OFFSET_MS, "{:?}", marks.0);
}
