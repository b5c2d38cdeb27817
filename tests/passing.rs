//! A camera that encodes by itself: what it gave is what the receiver's film holds, picture for
//! picture, byte for byte, each at the time at which it was captured.

#![cfg(all(feature = "receiver", feature = "replay"))]
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use support::film::Film;
use support::programs::{CaptureBox, Receiver, alone, pause, resident_bytes, run, wait_until};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A film of six seconds, a keyframe each second; `filter` sets its times.
fn film(home: &Path, name: &str, rate: &str, filter: &str) -> PathBuf {
    let path = home.join(format!("{name}.mp4"));
    let source = format!("testsrc2=size=1280x720:rate={rate}:duration=6");
    #[rustfmt::skip]
    run("ffmpeg", &[
        "-v", "error", "-f", "lavfi", "-i", &source, "-vf", filter, "-fps_mode", "passthrough",
        "-c:v", "libx264", "-preset", "ultrafast", "-profile:v", "main", "-bf", "0",
        "-force_key_frames", "expr:gte(t,n_forced)", "-sc_threshold", "0",
        "-pix_fmt", "yuv420p", "-enc_time_base", "1:90000", "-video_track_timescale", "90000", text(&path),
    ]);
    path
}

/// The hash of each picture's bytes, or of its points where `decoded`.
fn hashes(film: &Path, decoded: bool) -> Vec<String> {
    let path = text(film);
    let mut arguments = vec!["-v", "error", "-i", path, "-map", "0:v:0"];
    arguments.extend(match decoded {
        true => ["-fps_mode", "passthrough"],
        false => ["-c", "copy"],
    });
    arguments.extend(["-f", "framemd5", "-"]);
    let text = run("ffmpeg", &arguments);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit(',').next().unwrap().trim().to_owned())
        .collect()
}

/// When each picture is shown, in units of 1/90000 s, and how long the last one lasts.
fn times(film: &Path) -> (Vec<i64>, i64) {
    #[rustfmt::skip]
    let text = run("ffprobe", &[
        "-v", "error", "-select_streams", "v:0", "-show_entries", "packet=pts,duration:stream=time_base",
        "-of", "compact=p=0:nk=0", text(film),
    ]);
    assert!(text.contains("time_base=1/90000"), "{text}");
    let field = |line: &str, name: &str| {
        let found = line.split('|').find_map(|field| field.strip_prefix(name));
        // ffprobe may leave open how long the last one of the archive lasts.
        found.and_then(|value| value.parse::<i64>().ok())
    };
    let times = text.lines().filter_map(|line| field(line, "pts="));
    let mut lasts = text.lines().filter_map(|line| field(line, "duration="));
    (times.collect(), lasts.next_back().unwrap())
}

/// Seconds of CPU that a process and its threads have taken.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

/// Records `film` for ten seconds, a loop and more, and compares.
fn passes(home: &Path, name: &str, film: &Path) {
    let board = home.join(format!("{name}.toml"));
    let words = format!(
        "schema = 1\nname = \"{name}\"\n[presenter.replay]\nfile = \"{}\"\npassthrough = true\n\
         [panel.simulated]\n",
        text(film)
    );
    fs::write(&board, words).unwrap();
    let home = home.join(name);
    fs::create_dir(&home).unwrap();
    let receiver = Receiver::start(&home);
    let capture_box = CaptureBox::start(&home, "hall", Some(&receiver), &["--board", text(&board)]);
    let track = || capture_box.status()["tracks"][0].clone();
    wait_until(10, "the film to run", || {
        track()["delivered"].as_u64().unwrap() > 5
    });
    let recording = capture_box.record();
    let before = cpu_seconds(capture_box.pid());
    pause(10);
    let share = (cpu_seconds(capture_box.pid()) - before) / 10.0 * 100.0;
    let resident = resident_bytes(capture_box.pid()) as f64 / 1e6;
    assert_eq!(capture_box.stop(), recording);
    let status = track();
    receiver.wait_complete(&recording, 20);
    let playlist = receiver.get(&format!("/hls/{recording}/1/index.m3u8"));
    let playlist = String::from_utf8(playlist).unwrap();
    assert!(
        playlist.contains("#EXT-X-TARGETDURATION:10\n"),
        "{playlist}"
    );
    let lengths: Vec<&str> = playlist
        .lines()
        .filter_map(|line| line.strip_prefix("#EXTINF:"))
        .collect();
    let archived = receiver.film(&recording);
    Film::open(&archived).assert_decodes();

    let (source, lasts) = times(film);
    let (given, _) = times(&archived);
    let (source_hashes, given_hashes) = (hashes(film, false), hashes(&archived, false));
    assert_eq!(source.len(), source_hashes.len());
    assert_eq!(given.len(), given_hashes.len());
    let whole = source.last().unwrap() - source[0] + lasts;
    let place = |n: usize| {
        let loops = (n / source.len()) as i64 * whole;
        loops + source[n % source.len()] - source[0]
    };
    let first = source_hashes
        .iter()
        .position(|hash| *hash == given_hashes[0])
        .expect("the first picture is one of the film's");
    let mut worst = 0;
    for (n, time) in given.iter().enumerate() {
        assert_eq!(
            given_hashes[n],
            source_hashes[(first + n) % source.len()],
            "{name}: picture {n} is not the one after picture {}",
            n.max(1) - 1
        );
        let off = (time - given[0]) - (place(first + n) - place(first));
        worst = worst.max(off.abs());
    }
    let (source_points, given_points) = (hashes(film, true), hashes(&archived, true));
    assert_eq!(given_points.len(), given.len());
    for (n, points) in given_points.iter().enumerate() {
        assert_eq!(*points, source_points[(first + n) % source.len()]);
    }
    let steps = || given.windows(2).map(|pair| pair[1] - pair[0]);
    println!(
        "{name}: {} pictures from picture {first} on, each as it was, at most {worst}/90000 s off; \
         steps from {} to {}; segments of {lengths:?} s; the box took {share:.1} % of a core and \
         {resident:.1} MB",
        given.len(),
        steps().min().unwrap(),
        steps().max().unwrap()
    );
    assert!(given.len() > source.len(), "less than a loop: {status}");
    assert!(worst <= 1, "{worst} units off");
    assert!(steps().min().unwrap() > 0);
    assert_eq!(status["dropped"], 0, "{status}");
    assert_eq!(
        status["ticks"].as_u64().unwrap(),
        given.len() as u64,
        "{status}"
    );
}

#[test]
fn what_a_camera_encodes_is_passed_on_as_it_is() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    passes(home, "film24", &film(home, "film24", "24", "null"));
    passes(home, "ntsc", &film(home, "ntsc", "30000/1001", "null"));
    // Every picture lasts another time.
    let uneven = "settb=1/90000,setpts='PTS+1300*sin(N)',select='not(eq(mod(n,7),3))'";
    passes(home, "uneven", &film(home, "uneven", "60", uneven));
}
