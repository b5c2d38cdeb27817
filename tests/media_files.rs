//! Pictures and sound through encoder, segmenter and the progressive writer, judged by readers that
//! are not ours: ffprobe, ffmpeg and re_mp4.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used)]

use hallcast::encoder::{AudioConfig, Config, Scene, Tick, open_audio, open_video};
use hallcast::media::{
    MediaTime, Monotonic, PictureLayout, PixelFormat, Rate, RecordingId, Segmented, Timescale,
    TrackId,
};
use hallcast::mp4::{
    ProgressiveTrack, SegmentSource, audio_init, parse_init, video_init, write_progressive,
};
use hallcast::segmenter::{Cut, Segmenter};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const CHUNK: Duration = Duration::from_millis(250);
const SEGMENT: Duration = Duration::from_secs(1);

/// What a segmenter gave for one track: its inits in order, and each segment with its init.
#[derive(Default)]
struct Track {
    inits: Vec<Vec<u8>>,
    segments: Vec<(usize, Vec<u8>)>,
    open: Vec<u8>,
}

impl Track {
    fn take(&mut self, one: Segmented) {
        match one {
            Segmented::Init(init) => self.inits.push(init.bytes),
            Segmented::Chunk(chunk) => self.open.extend_from_slice(&chunk.bytes),
            Segmented::Seal(_) => {
                let segment = std::mem::take(&mut self.open);
                self.segments.push((self.inits.len() - 1, segment));
            }
        }
    }

    /// Init and segments as one fragmented file.
    fn fragmented(&self) -> Vec<u8> {
        let mut bytes = self.inits[0].clone();
        for (_, segment) in &self.segments {
            bytes.extend_from_slice(segment);
        }
        bytes
    }

    /// As a track of a progressive file; the span of segment n starts at `starts(n)`.
    fn progressive(&self, name: &str, starts: impl Fn(usize) -> i64) -> ProgressiveTrack {
        let source = |(n, (init, _)): (usize, &(usize, Vec<u8>))| SegmentSource {
            init: *init,
            span_start_nanos: starts(n),
        };
        ProgressiveTrack {
            name: name.into(),
            inits: self.inits.clone(),
            segments: self.segments.iter().enumerate().map(source).collect(),
        }
    }
}

fn segmenter(track: u8, timescale: Timescale, cut: Cut) -> Segmenter {
    Segmenter::new(hallcast::segmenter::Config {
        recording: RecordingId([9; 16]),
        track: TrackId(track),
        epoch: 1,
        span: 0,
        first_sequence: 0,
        timescale,
        cut,
    })
}

/// Encodes and segments `count` pictures drawn by `draw`.
fn video(
    layout: PictureLayout,
    scene: Scene,
    bit_rate: u32,
    count: usize,
    mut draw: impl FnMut(usize) -> Vec<u8>,
) -> Track {
    let rate: Rate = "30".parse().unwrap();
    let cut = Cut::pictures(rate, CHUNK, SEGMENT);
    let keyframes = cut.segment_units().unwrap() as usize;
    let config = Config {
        bit_rate,
        ..Config::new(scene, layout, rate)
    };
    let mut encoder = open_video(&config, layout, rate).unwrap();
    let mut segmenter = segmenter(1, rate.timescale(), cut);
    let mut track = Track::default();
    for n in 0..count {
        let tick = Tick {
            time: MediaTime(n as i64 * i64::from(rate.tick_units())),
            duration: rate.tick_units(),
            captured: Monotonic::default(),
            keyframe: n % keyframes == 0,
        };
        let unit = encoder.encode(&draw(n), &tick).unwrap();
        if unit.keyframe {
            let sets = encoder.parameters().unwrap();
            let init = video_init(
                &sets.sps,
                &sets.pps,
                layout.width,
                layout.height,
                rate.timescale(),
            );
            segmenter
                .set_init(init.unwrap(), &mut |one| track.take(one))
                .unwrap();
        }
        segmenter.push(unit, &mut |one| track.take(one)).unwrap();
    }
    segmenter.flush(&mut |one| track.take(one)).unwrap();
    track
}

/// Encodes and segments `samples` of stereo sound, each given by `wave`.
fn sound(samples: usize, wave: impl Fn(usize) -> i16) -> Track {
    let mut encoder = open_audio(&AudioConfig::new(2)).unwrap();
    let block = encoder.block();
    let cut = Cut::sound(block as u32, "30".parse().unwrap(), CHUNK, SEGMENT);
    let mut segmenter = segmenter(2, Timescale::SOUND, cut);
    let mut track = Track::default();
    let init = audio_init(encoder.parameters(), 48_000, 2, Timescale::SOUND).unwrap();
    segmenter
        .set_init(init, &mut |one| track.take(one))
        .unwrap();
    let mut push = |unit| segmenter.push(unit, &mut |one| track.take(one)).unwrap();
    for start in (0..samples).step_by(block) {
        let pcm: Vec<i16> = (start..start + block).flat_map(|n| [wave(n); 2]).collect();
        let time = MediaTime(start as i64);
        encoder
            .encode(&pcm, time, Monotonic::default(), &mut push)
            .unwrap();
    }
    encoder.finish(&mut push).unwrap();
    segmenter.flush(&mut |one| track.take(one)).unwrap();
    track
}

/// Runs a program that must succeed and say nothing of errors; its standard output.
fn run(program: &str, file: &Path, before: &[&str], after: &[&str]) -> Vec<u8> {
    let mut command = Command::new(program);
    command
        .args(["-v", "error"])
        .args(before)
        .arg("-i")
        .arg(file)
        .args(after);
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; apt install ffmpeg"));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && complaints.is_empty(),
        "{program}: {complaints}"
    );
    output.stdout
}

fn ffprobe(file: &Path, arguments: &str) -> Vec<String> {
    let mut all: Vec<&str> = arguments.split_whitespace().collect();
    all.extend(["-of", "csv=p=0"]);
    let text = String::from_utf8(run("ffprobe", file, &all, &[])).unwrap();
    text.lines()
        .map(|line| line.trim_end_matches(',').to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

fn decoded(file: &Path, arguments: &str) -> Vec<u8> {
    let mut after: Vec<&str> = arguments.split_whitespace().collect();
    after.push("-");
    run("ffmpeg", file, &["-xerror"], &after)
}

/// A room in motion: a soft gradient that pans, a textured square that crosses it, fixed edges.
fn moving(width: usize, height: usize, n: usize) -> Vec<u8> {
    let mut bytes = vec![128; width * height * 3 / 2];
    for row in 0..height {
        for x in 0..width {
            let soft = 60 + ((x + 2 * n) * 90 / width + row * 60 / height) % 140;
            let (dx, dy) = (x.wrapping_sub(20 + 5 * n), row.wrapping_sub(height / 3));
            let inside = dx < 80 && dy < 80;
            let bars = row < 24 && x / 8 % 2 == 0;
            bytes[row * width + x] = match (inside, bars) {
                (true, _) => 40 + ((dx * 7) ^ (dy * 5)) as u8 % 160,
                (false, true) => 235,
                (false, false) => soft as u8,
            };
        }
    }
    let chroma = width * height;
    for row in 0..height / 2 {
        for x in 0..width / 2 {
            bytes[chroma + row * width / 2 + x] = (100 + (x + n) * 50 / width) as u8;
        }
    }
    bytes
}

fn psnr(ours: &[u8], theirs: &[u8]) -> f64 {
    let squares = ours
        .iter()
        .zip(theirs)
        .map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2));
    let mean = squares.sum::<u64>() as f64 / ours.len() as f64;
    10.0 * (255.0 * 255.0 / mean.max(1e-9)).log10()
}

#[test]
fn sixty_pictures_through_chunks_and_segments_decode_to_what_was_drawn() {
    let (width, height) = (640, 360);
    let folder = tempfile::tempdir().unwrap();
    let layout = PictureLayout::tight(width as u32, height as u32, PixelFormat::I420);
    for scene in [Scene::Camera, Scene::Slides] {
        let track = video(layout, scene, 1_500_000, 60, |n| moving(width, height, n));
        assert_eq!((track.inits.len(), track.segments.len()), (1, 2));
        let file = folder.path().join("fragmented.mp4");
        std::fs::write(&file, track.fragmented()).unwrap();

        let entries = "-select_streams v -count_frames -show_entries stream=profile,width,height,nb_read_frames";
        assert_eq!(
            ffprobe(&file, entries),
            ["Constrained Baseline,640,360,60"],
            "{scene:?}"
        );
        let flags = ffprobe(&file, "-select_streams v -show_entries packet=flags");
        let keyframes: Vec<usize> = (0..60).filter(|n| flags[*n].starts_with('K')).collect();
        assert_eq!(keyframes, [0, 30], "{scene:?}");

        let pictures = decoded(&file, "-f rawvideo -pix_fmt yuv420p");
        let size = width * height * 3 / 2;
        assert_eq!(pictures.len(), 60 * size);
        let worst = pictures
            .chunks_exact(size)
            .enumerate()
            .map(|(n, picture)| psnr(&moving(width, height, n), picture))
            .fold(f64::INFINITY, f64::min);
        println!("{scene:?}: worst PSNR {worst:.1} dB at 1.5 Mbit/s");
        assert!(worst > 42.0, "{scene:?}: {worst} dB");
    }
}

#[test]
fn another_reader_finds_the_samples_of_init_and_segments() {
    let layout = PictureLayout::tight(320, 180, PixelFormat::I420);
    let track = video(layout, Scene::Camera, 300_000, 70, |n| moving(320, 180, n));
    let bytes = track.fragmented();
    let other = re_mp4::Mp4::read_bytes(&bytes).unwrap();
    let samples = &other.tracks()[&1].samples;
    assert_eq!(samples.len(), 70);
    for (n, sample) in samples.iter().enumerate() {
        assert_eq!(
            (sample.decode_timestamp, sample.duration),
            (n as i64 * 3000, 3000)
        );
        assert_eq!(sample.is_sync, n % 30 == 0);
        let unit = &bytes[sample.byte_range()];
        let length = u32::from_be_bytes(*unit.first_chunk().unwrap()) as usize;
        assert_eq!(length + 4, unit.len(), "one length-prefixed slice");
    }
    let tag = parse_init(&track.inits[0]).unwrap().codec_tag().unwrap();
    assert_eq!(
        Some(tag),
        other.tracks()[&1]
            .codec_string(&other)
            .map(|tag| tag.to_lowercase())
    );
}

#[test]
fn flash_and_click_stand_where_they_happened_in_the_finished_file() {
    let (width, height) = (320, 180);
    let layout = PictureLayout::tight(width as u32, height as u32, PixelFormat::Yuyv);
    // Four seconds; at each whole second a white picture and a click.
    let pictures = video(layout, Scene::Camera, 300_000, 120, |n| {
        let luma = if n % 30 == 0 && n > 0 { 235 } else { 40 };
        [luma, 128].repeat(width * height)
    });
    let clicks = sound(4 * 48_000, |n| {
        if n % 48_000 == 0 && n > 0 { 30_000 } else { 0 }
    });
    let tracks = [
        pictures.progressive("presenter", |_| 0),
        clicks.progressive("microphone", |_| 0),
    ];
    let all = [&pictures, &clicks];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lecture.mp4");
    let mut out = std::fs::File::create(&file).unwrap();
    let fetch = |track: usize, segment: usize| Ok(all[track].segments[segment].1.clone());
    let written = write_progressive(&tracks, fetch, &mut out).unwrap();
    assert_eq!(written.bytes, std::fs::metadata(&file).unwrap().len());

    assert_eq!(
        ffprobe(
            &file,
            "-select_streams v -count_frames -show_entries stream=nb_read_frames"
        ),
        ["120"]
    );
    let seconds = |stream: &str| -> Vec<f64> {
        let arguments = format!("-select_streams {stream} -show_entries packet=pts_time");
        ffprobe(&file, &arguments)
            .iter()
            .map(|line| line.parse().unwrap())
            .collect()
    };
    let shown = seconds("v");
    let gray = decoded(&file, "-map 0:v -f rawvideo -pix_fmt gray");
    let flashes: Vec<f64> = gray
        .chunks_exact(width * height)
        .enumerate()
        .filter(|(_, picture)| picture[picture.len() / 2] > 200)
        .map(|(n, _)| shown[n])
        .collect();
    assert_eq!(flashes, [1.0, 2.0, 3.0]);

    let begins = seconds("a")[0];
    let pcm = decoded(&file, "-map 0:a -f s16le -ac 1");
    let heard: Vec<i16> = pcm
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| i16::from_le_bytes(*pair))
        .collect();
    for (n, flash) in flashes.iter().enumerate() {
        let second = (n + 1) * 48_000;
        let around = second - 4800..second + 4800;
        let loudest = around.max_by_key(|at| heard[*at].unsigned_abs()).unwrap();
        let click = begins + loudest as f64 / 48_000.0;
        println!(
            "flash at {flash}, click {:.3} ms after it",
            (click - flash) * 1e3
        );
        assert!((click - flash).abs() <= 0.001);
    }
    assert!(heard.len() >= 4 * 48_000);
}

#[test]
fn a_recording_of_two_spans_and_two_sizes_decodes_in_one_file() {
    let spans = [(640, 360), (320, 180)].map(|(width, height)| {
        let layout = PictureLayout::tight(width as u32, height as u32, PixelFormat::I420);
        video(layout, Scene::Camera, 500_000, 45, |n| {
            moving(width, height, n)
        })
    });
    let mut track = Track::default();
    for (init, span) in spans.iter().enumerate() {
        track.inits.push(span.inits[0].clone());
        track
            .segments
            .extend(span.segments.iter().map(|(_, bytes)| (init, bytes.clone())));
    }
    let first = spans[0].segments.len();
    let source = track.progressive("slides", |n| if n < first { 0 } else { 10_000_000_000 });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lecture.mp4");
    let mut out = std::fs::File::create(&file).unwrap();
    write_progressive(&[source], |_, n| Ok(track.segments[n].1.clone()), &mut out).unwrap();

    let sizes = ffprobe(&file, "-select_streams v -show_entries frame=width,height");
    assert_eq!(sizes[44], "640,360");
    assert_eq!(sizes[45], "320,180");
    assert_eq!(sizes.len(), 90);
    let times = ffprobe(
        &file,
        "-select_streams v -show_entries packet=pts_time,duration_time",
    );
    assert_eq!(times[44], "1.466667,8.533333");
    assert_eq!(times[45], "10.000000,0.033333");
}
