//! A real film through the whole road: what comes out at the receiver is the film that went in,
//! picture for picture, as good as the bit rate allows, with its own sound in step.

#![cfg(all(feature = "receiver", feature = "software", feature = "replay"))]
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use support::film::Film;
use support::programs::{CaptureBox, Receiver, alone, losses, outcome, pause, run, wait_until};

/// The film (`tests/support/film`): 1280x720, 25 pictures/s, this many of them.
const PICTURES: usize = 132;
const RATE: f64 = 25.0;
/// What the box is asked for.
const KBPS: f64 = 2500.0;
/// What the pictures must be worth at that rate: openh264 reaches 0.978 and 0.948. A picture in the
/// place of the one next to it falls below 0.9.
const MEAN_SSIM: f64 = 0.965;
const WORST_SSIM: f64 = 0.92;
/// For comparing sounds; fine enough for an eighth of a millisecond.
const SOUND_RATE: usize = 8000;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The film as both devices replay it: its pictures as they are, its sound cut to their length, so
/// that a loop of either is as long as one of the other.
fn source(home: &Path) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/film");
    let film = run(text(&script), &[]);
    let path = home.join("film.mkv");
    let seconds = (PICTURES as f64 / RATE).to_string();
    run(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-i",
            film.trim(),
            "-t",
            &seconds,
            "-c:v",
            "copy",
            "-c:a",
            "pcm_s16le",
            "-ac",
            "2",
            "-ar",
            "48000",
            text(&path),
        ],
    );
    path
}

fn board(home: &Path, film: &Path) -> PathBuf {
    let path = home.join("replay.toml");
    let film = text(film);
    let board = format!(
        "schema = 1\nname = \"replay\"\n\
        [presenter.replay]\nfile = \"{film}\"\nat-end = \"loop\"\n\
        [microphone.replay]\nfile = \"{film}\"\nat-end = \"loop\"\n[panel.simulated]\n"
    );
    fs::write(&path, board).unwrap();
    path
}

/// How far two pictures differ, summed over all points.
fn difference(one: &[u8], other: &[u8]) -> u64 {
    one.iter()
        .zip(other)
        .map(|(a, b)| u64::from(a.abs_diff(*b)))
        .sum()
}

/// Which picture of the source each recorded one is. The film runs on in a loop, so each follows the
/// one before by one, but for a repeat (0) or drops (more).
fn places(recorded: &[Vec<u8>], source: &[Vec<u8>]) -> Vec<usize> {
    let like = |n: usize, place: usize| difference(&recorded[n], &source[place % PICTURES]);
    // Where the recording begins: the one offset that fits its first second best.
    let fit = |first: &usize| (0..25).map(|n| like(n, first + n)).sum::<u64>();
    let mut place = (0..PICTURES).min_by_key(fit).unwrap();
    let mut places = vec![place];
    for n in 1..recorded.len() {
        // In still scenes neighbours look alike: another step than one must fit clearly better.
        let step = (0..=3).min_by_key(|step| {
            let handicap = if *step == 1 { 4 } else { 5 };
            like(n, place + step) * handicap
        });
        place += step.unwrap();
        places.push(place);
    }
    places
}

/// The SSIM (all planes) of each picture of one loop in `film`, from picture `first` on, against the
/// source from its beginning.
fn ssim(film: &Path, first: usize, source: &Path, home: &Path) -> Vec<f64> {
    let log = home.join("ssim.log");
    let last = first + PICTURES;
    let filter = format!(
        "[0:v]trim=start_frame={first}:end_frame={last},settb=1/{RATE},setpts=N,format=yuv420p[a];\
         [1:v]trim=end_frame={PICTURES},settb=1/{RATE},setpts=N,format=yuv420p[b];\
         [a][b]ssim=stats_file={}:shortest=1",
        text(&log)
    );
    let arguments = [
        "-v",
        "error",
        "-i",
        text(film),
        "-i",
        text(source),
        "-lavfi",
        &filter,
        "-fps_mode",
        "passthrough",
        "-f",
        "null",
        "-",
    ];
    run("ffmpeg", &arguments);
    let of = |line: &str| -> f64 {
        let all = line.split(' ').find_map(|field| field.strip_prefix("All:"));
        all.unwrap().parse().unwrap()
    };
    fs::read_to_string(log).unwrap().lines().map(of).collect()
}

/// The sound, mono, at [`SOUND_RATE`].
fn sound(film: &Path) -> Vec<f32> {
    let rate = SOUND_RATE.to_string();
    let arguments = [
        "-v",
        "error",
        "-i",
        text(film),
        "-vn",
        "-ac",
        "1",
        "-ar",
        &rate,
        "-f",
        "f32le",
        "-",
    ];
    let output = outcome("ffmpeg", &arguments);
    assert!(output.status.success(), "{output:?}");
    let samples = output.stdout.chunks_exact(4);
    samples
        .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .collect()
}

fn energy(samples: &[f32]) -> f64 {
    samples.iter().map(|s| f64::from(*s).powi(2)).sum()
}

/// How alike two sounds of one length are, 1 being the same but for the level.
fn likeness(one: &[f32], other: &[f32]) -> f64 {
    let product: f64 = one.iter().zip(other).map(|(a, b)| f64::from(a * b)).sum();
    product / (energy(one) * energy(other)).sqrt()
}

#[test]
fn a_film_comes_out_as_it_went_in() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let source = source(home);
    let board = board(home, &source);
    let settings = home.join("box.toml");
    fs::write(&settings, format!("[presenter]\nbit-rate-kbps = {KBPS}\n")).unwrap();
    let receiver = Receiver::start(home);
    let capture_box = CaptureBox::start(
        home,
        "hall",
        Some(&receiver),
        &["--board", text(&board), "--config", text(&settings)],
    );
    wait_until(10, "the film to run", || {
        let status = capture_box.status();
        let tracks = status["tracks"].as_array().unwrap();
        tracks
            .iter()
            .all(|track| track["delivered"].as_u64().unwrap() > 5)
    });
    let record = || {
        let before = capture_box.status();
        let recording = capture_box.record();
        pause(14);
        assert_eq!(capture_box.stop(), recording);
        let after = capture_box.status();
        (recording, losses(&before, &after), after)
    };
    let (mut recording, mut lost, mut after) = record();
    for _ in 0..2 {
        if lost == 0 {
            break;
        }
        println!("the machine cost {lost} pictures or blocks: once more");
        (recording, lost, after) = record();
    }
    let presenter = after["tracks"][0].clone();
    receiver.wait_complete(&recording, 20);
    let path = receiver.film(&recording);
    let film = Film::open(&path);
    film.assert_decodes();
    let video = film.stream("video");
    assert_eq!(
        (&video["width"], &video["height"]),
        (&1280.into(), &720.into())
    );

    // Every picture of the source once and in order, but for the repeats and drops that were counted.
    let count = |key: &str| presenter[key].as_u64().unwrap();
    let recorded = film.lumas();
    assert_eq!(recorded.len() as u64, count("ticks"));
    let originals = Film::open(&source).lumas();
    assert_eq!(originals.len(), PICTURES);
    let places = places(&recorded, &originals);
    let steps = || places.windows(2).map(|pair| pair[1] - pair[0]);
    let repeated = steps().filter(|step| *step == 0).count() as u64;
    let skipped: usize = steps().map(|step| step.saturating_sub(1)).sum();
    assert!(
        repeated <= count("repeats")
            && skipped as u64 <= count("drops") + count("dropped") + count("lost"),
        "{repeated} pictures came twice and {skipped} never: {presenter}"
    );
    let whole = |first: &usize| {
        places[*first].is_multiple_of(PICTURES)
            && places.get(first + PICTURES - 1) == Some(&(places[*first] + PICTURES - 1))
    };
    let loops: Vec<usize> = (0..places.len()).filter(whole).collect();
    let first = *loops
        .first()
        .expect("a loop of the film without a repeat or drop");

    let ssim = ssim(&path, first, &source, home);
    assert_eq!(ssim.len(), PICTURES);
    let mean = ssim.iter().sum::<f64>() / PICTURES as f64;
    let worst = ssim.iter().copied().fold(1.0, f64::min);
    let kbps = video["bit_rate"].as_str().unwrap().parse::<f64>().unwrap() / 1000.0;

    // The sound that belongs to that loop, by where it is most like the source's.
    let (heard, original) = (sound(&path), sound(&source));
    let offset = film.picture_times()[first] - film.sound_starts();
    let from = (offset * SOUND_RATE as f64).round() as i64;
    // The ends are left out: what is heard there is of the loops next to this one.
    let reach = (SOUND_RATE / 5) as i64;
    let original = &original[reach as usize..original.len() - reach as usize];
    let window = |lag: i64| {
        let at = usize::try_from(from + reach + lag).ok()?;
        heard.get(at..at + original.len())
    };
    let lags = (-reach..=reach).filter_map(|lag| Some((lag, likeness(window(lag)?, original))));
    let (lag, alike) = lags.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let off_ms = lag as f64 * 1000.0 / SOUND_RATE as f64;
    let level_db = 10.0 * (energy(window(lag).unwrap()) / energy(original)).log10();

    println!(
        "{} pictures, {repeated} repeats, {skipped} drops; one loop of {PICTURES} from picture {first}: \
         SSIM mean {mean:.4}, worst {worst:.4} at {kbps:.0} of {KBPS} kbit/s",
        recorded.len()
    );
    println!("sound: {off_ms:.2} ms off, correlation {alike:.4}, level {level_db:+.2} dB");
    assert!(mean >= MEAN_SSIM, "SSIM {mean} at {kbps} kbit/s");
    assert!(worst >= WORST_SSIM, "worst SSIM {worst} at {kbps} kbit/s");
    assert!((kbps - KBPS).abs() <= 0.15 * KBPS, "{kbps} kbit/s");
    assert!(off_ms.abs() <= 20.0, "sound is {off_ms} ms off the picture");
    assert!(alike >= 0.95, "the sound is another: correlation {alike}");
    assert!(
        level_db.abs() <= 0.5,
        "the sound's level is {level_db} dB off"
    );
}
