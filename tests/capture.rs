//! Cameras and microphones, on real Linux drivers: vivid and snd-aloop in the rig's guest.
//!
//! The one test here starts itself again inside the guest, where it runs every check in turn.
// An unwrap in a helper of a test is its assertion.
#![allow(clippy::unwrap_used)]
#![cfg(all(feature = "v4l2", feature = "alsa"))]

#[path = "support/rig.rs"]
mod rig;

use alsa::pcm::{Access, Format, HwParams, PCM};
use alsa::{Direction, ValueOr};
use hallcast::board::{AlsaMicrophone, Camera, Microphone, V4l2Camera};
use hallcast::clock;
use hallcast::media::{GapCause, Monotonic, Picture, PixelFormat, Rate, Samples};
use hallcast::pacer::{SoundConfig, SoundPacer};
use hallcast::source::{
    AudioPump, AudioSource, Block, Error, Received, VideoPump, VideoSource, open_camera,
    open_microphone,
};
use std::f64::consts::TAU;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const BY_PATH: &str = "/dev/v4l/by-path/platform-vivid.0-video-index0";

#[test]
fn cameras_and_microphones_in_the_rig() {
    if rig::inside().is_some() {
        every_check();
    } else {
        rig::ran_in_the_guest("cameras_and_microphones_in_the_rig", 240, Path::new("/tmp"));
    }
}

fn every_check() {
    let checks: [(&str, fn()); 11] = [
        ("formats, sizes and rates", formats_sizes_and_rates),
        ("a size that is not offered", a_size_that_is_not_offered),
        ("a rate that is not offered", a_rate_that_is_not_offered),
        ("a camera in use", a_camera_in_use),
        (
            "a camera that is not permitted",
            a_camera_that_is_not_permitted,
        ),
        (
            "buffers that the driver drops",
            buffers_that_the_driver_drops,
        ),
        ("a camera that is unplugged", a_camera_that_is_unplugged),
        ("a tone at several rates", a_tone_at_several_rates),
        ("a reader that sleeps", a_reader_that_sleeps),
        ("a microphone in use", a_microphone_in_use),
        (
            "a microphone that is not there",
            a_microphone_that_is_not_there,
        ),
    ];
    for (name, check) in checks {
        let before = clock::now();
        println!("{name} ...");
        check();
        println!("{name}: ok, {:?}", clock::now().since(before));
    }
}

fn camera(width: u32, height: u32, rate: &str, pixels: Option<PixelFormat>) -> V4l2Camera {
    V4l2Camera {
        width,
        height,
        rate: rate.parse().unwrap(),
        pixels,
        ..V4l2Camera::at(BY_PATH)
    }
}

fn open(asked: &V4l2Camera) -> Result<VideoSource, Error> {
    open_camera(&Camera::V4l2(asked.clone()))
}

fn refusal<T>(outcome: Result<T, Error>) -> Error {
    match outcome {
        Ok(_) => panic!("it should have been refused"),
        Err(error) => error,
    }
}

fn formats_sizes_and_rates() {
    for (width, height, rate, pixels) in [
        (1280, 720, "30", PixelFormat::Yuyv),
        (1280, 720, "30", PixelFormat::Nv12),
        (640, 360, "30", PixelFormat::I420),
        (320, 180, "15", PixelFormat::Yuyv),
        (1920, 1080, "25", PixelFormat::Nv12),
    ] {
        let mut source = open(&camera(width, height, rate, Some(pixels))).unwrap();
        let settings = source.settings();
        assert_eq!(
            (settings.layout.width, settings.layout.height),
            (width, height)
        );
        assert_eq!(settings.layout.pixels, pixels);
        let mut picture = Picture::empty();
        let mut times = Vec::new();
        let mut buffer = None;
        for _ in 0..60 {
            source.next(&mut picture).unwrap();
            assert_eq!(picture.data.len(), settings.layout.bytes());
            times.push((picture.sequence, picture.captured));
            // vivid's bars: not one shade.
            let row = &picture.data[..settings.layout.stride as usize];
            assert!(row.iter().max().unwrap() - row.iter().min().unwrap() > 100);
            let first = *buffer.get_or_insert(picture.data.as_ptr());
            assert_eq!(first, picture.data.as_ptr(), "the buffer is reused");
        }
        let (first, last) = (times[0], times[59]);
        let ticks = last.0 - first.0;
        let per_second = ticks as f64 / last.1.since(first.1).as_secs_f64();
        let nominal = f64::from(settings.rate.num()) / f64::from(settings.rate.den());
        println!(
            "  {width}x{height} {pixels:?} asked {rate}, reports {}, measured {per_second:.3}, {:?}",
            settings.rate,
            source.losses()
        );
        assert!((per_second / nominal - 1.0).abs() < 0.02);
        let off = clock::now().offset_from(last.1).abs();
        assert!(off < 200_000_000, "the stamp is {off} ns from now");
    }
}

fn a_size_that_is_not_offered() {
    let error = refusal(open(&camera(1234, 568, "30", None)));
    println!("  {error}");
    let text = error.to_string();
    assert_eq!(error.code(), "cannot-do");
    assert!(text.contains(BY_PATH) && text.contains("1234x568 at 30"));
    assert!(text.contains("YUYV 1280x720: "));
}

fn a_rate_that_is_not_offered() {
    let source = open(&camera(1280, 720, "7", None)).unwrap();
    let rate = source.settings().rate;
    println!("  asked 7, reports {rate}");
    assert_ne!(rate, Rate::new(7, 1).unwrap(), "vivid has no such rate");
}

fn a_camera_in_use() {
    let mut source = open(&camera(640, 360, "30", None)).unwrap();
    let error = refusal(open(&camera(640, 360, "30", None)));
    println!("  {error}");
    assert_eq!(error.code(), "busy");
    // The one that has it goes on.
    let mut picture = Picture::empty();
    source.next(&mut picture).unwrap();
    drop(source);
    open(&camera(640, 360, "30", None)).unwrap();
}

fn a_camera_that_is_not_permitted() {
    const AS_NOBODY: &str = "HALLCAST_CAPTURE_TEST_AS_NOBODY";
    if std::env::var_os(AS_NOBODY).is_some() {
        return;
    }
    let node = fs::canonicalize(BY_PATH).unwrap();
    let out = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "what_nobody_is_told", "--nocapture"])
        .env(AS_NOBODY, node)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        text.contains("not permitted. Let this program's user into the group `video`"),
        "{text}"
    );
    assert!(out.status.success());
}

/// Part of the check above; anywhere else there is nobody to tell.
#[test]
fn what_nobody_is_told() {
    if let Some(node) = std::env::var_os("HALLCAST_CAPTURE_TEST_AS_NOBODY") {
        let error = refusal(open(&V4l2Camera::at(node)));
        println!("{error}");
        assert_eq!(error.code(), "not-permitted");
    }
}

/// vivid's control with this name.
fn set_vivid(name: &str, value: i64) {
    let device = v4l::Device::with_path(BY_PATH).unwrap();
    let controls = device.query_controls().unwrap();
    let control = controls.iter().find(|control| control.name == name);
    let id = control
        .unwrap_or_else(|| panic!("vivid has no `{name}`"))
        .id;
    let value = v4l::control::Value::Integer(value);
    device.set_control(v4l::Control { id, value }).unwrap();
}

fn buffers_that_the_driver_drops() {
    let mut source = open(&camera(640, 360, "30", None)).unwrap();
    let mut picture = Picture::empty();
    source.next(&mut picture).unwrap();
    let before = source.losses().lost;
    set_vivid("Percentage of Dropped Buffers", 50);
    let first = picture.sequence;
    for _ in 0..30 {
        source.next(&mut picture).unwrap();
    }
    set_vivid("Percentage of Dropped Buffers", 0);
    let lost = source.losses().lost - before;
    let passed = picture.sequence - first;
    println!("  30 pictures came, {lost} were lost by the driver's count");
    assert_eq!(passed, 30 + lost);
    assert!((5..=120).contains(&lost));
}

fn a_camera_that_is_unplugged() {
    let asked = camera(640, 360, "30", None);
    let theirs = asked.clone();
    let pump = VideoPump::start("camera", move || open(&theirs)).unwrap();
    let soon = || clock::now().plus(Duration::from_secs(10));
    assert!(matches!(pump.receive(soon()), Received::Opened(_)));
    assert!(matches!(pump.receive(soon()), Received::Block(_)));
    let driver = "/sys/bus/platform/drivers/vivid";
    let unplugged = clock::now();
    fs::write(format!("{driver}/unbind"), "vivid.0").unwrap();
    let error = loop {
        match pump.receive(soon()) {
            Received::Block(picture) => pump.recycle(picture),
            Received::Failed(error) => break error,
            other => panic!("{other:?}"),
        }
    };
    println!("  after {:?}: {error}", clock::now().since(unplugged));
    assert_eq!(error.code(), "vanished");
    pump.reopen_at(clock::now());
    let Received::Failed(error) = pump.receive(soon()) else {
        panic!("it is not there")
    };
    println!("  {error}");
    assert_eq!(error.code(), "missing");
    fs::write(format!("{driver}/bind"), "vivid.0").unwrap();
    pump.reopen_at(clock::now().plus(Duration::from_millis(100)));
    assert!(matches!(pump.receive(soon()), Received::Opened(_)));
    assert!(matches!(pump.receive(soon()), Received::Block(_)));
    println!("  {:?}", pump.stats());
}

/// Plays 440 Hz into the loopback until it is dropped.
struct Player {
    /// How often it fell behind.
    underruns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Player {
    fn start(rate_hz: u32) -> Self {
        let pcm = PCM::new("hw:Loopback,0", Direction::Playback, false).unwrap();
        {
            let any = HwParams::any(&pcm).unwrap();
            any.set_access(Access::RWInterleaved).unwrap();
            any.set_format(Format::S16LE).unwrap();
            any.set_channels(2).unwrap();
            any.set_rate(rate_hz, ValueOr::Nearest).unwrap();
            // The host may keep the guest waiting for a second.
            any.set_buffer_time_near(2_000_000, ValueOr::Nearest)
                .unwrap();
            pcm.hw_params(&any).unwrap();
        }
        let (stop, underruns) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (theirs, behind) = (Arc::clone(&stop), Arc::<AtomicU64>::clone(&underruns));
        let thread = std::thread::spawn(move || {
            let io = pcm.io_i16().unwrap();
            let mut frame = 0_u64;
            while !theirs.load(Ordering::Relaxed) {
                let block: Vec<i16> = (frame..frame + 480)
                    .flat_map(|n| {
                        let turns = (n * 440 % u64::from(rate_hz)) as f64 / f64::from(rate_hz);
                        [(8_000.0 * (TAU * turns).sin()) as i16; 2]
                    })
                    .collect();
                if io.writei(&block).is_err() {
                    behind.fetch_add(1, Ordering::Relaxed);
                    pcm.prepare().unwrap();
                } else {
                    frame += 480;
                }
            }
        });
        Self {
            underruns,
            stop,
            thread: Some(thread),
        }
    }

    fn underruns(&self) -> u64 {
        self.underruns.load(Ordering::Relaxed)
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

fn microphone(rate_hz: u32) -> AlsaMicrophone {
    AlsaMicrophone {
        rate_hz,
        ..AlsaMicrophone::at("hw:Loopback,1").unwrap()
    }
}

fn listen(asked: &AlsaMicrophone) -> Result<AudioSource, Error> {
    open_microphone(&Microphone::Alsa(asked.clone()))
}

/// A tone's frequency, by the phases of its two halves against 440 Hz at 48 kHz.
fn pitch(samples: &[i16]) -> f64 {
    let half = samples.len() / 2;
    let phase = |from: usize| {
        let (mut re, mut im) = (0.0, 0.0);
        for (n, sample) in samples.iter().enumerate().skip(from).take(half) {
            let angle = TAU * 440.0 * n as f64 / 48_000.0;
            let window = 1.0 - (TAU * (n - from) as f64 / half as f64).cos();
            re += window * f64::from(*sample) * angle.cos();
            im -= window * f64::from(*sample) * angle.sin();
        }
        im.atan2(re) / TAU
    };
    let turns = phase(half) - phase(0);
    440.0 + (turns - turns.round()) / (half as f64 / 48_000.0)
}

fn a_tone_at_several_rates() {
    for rate_hz in [48_000, 44_100, 16_000] {
        // Where the player fell behind or the card's second was not enough, the guest stood still, and what
        // was heard says nothing: it is done again, twice at most.
        for last in [false, false, true] {
            let tone = Tone::hear(rate_hz);
            println!("  {rate_hz} Hz: {tone:?}");
            if !last && (tone.underruns > 0 || tone.lost > 0) {
                continue;
            }
            assert_eq!((tone.underruns, tone.lost), (0, 0));
            // A cent, which nobody hears: while the card's clock is being learnt, its sound is steered into
            // place.
            assert!((1200.0 * (tone.hz / 440.0).log2()).abs() < 1.0);
            assert!(tone.frames >= 192_000);
            break;
        }
    }
}

/// What four seconds of the tone sounded like.
#[derive(Debug)]
#[allow(dead_code, reason = "the rest is printed")]
struct Tone {
    hz: f64,
    frames: usize,
    /// How far a block's stamp was from the end of the one before, at most.
    jitter: Duration,
    /// Of the microphone.
    lost: u64,
    /// Of the player.
    underruns: u64,
    stats: hallcast::pacer::SoundStats,
}

impl Tone {
    fn hear(rate_hz: u32) -> Self {
        let player = Player::start(rate_hz);
        let mut source = listen(&microphone(rate_hz)).unwrap();
        let settings = source.settings();
        assert_eq!((settings.rate_hz, settings.channels), (rate_hz, 2));
        let start = clock::now();
        let mut pacer = SoundPacer::new(SoundConfig {
            start,
            rate_hz,
            channels: 2,
            track_channels: 2,
        })
        .unwrap();
        let end = start.plus(Duration::from_secs(4));
        let mut samples = Samples::empty();
        let mut heard: Vec<i16> = Vec::new();
        let (mut worst, mut lost) = (0, 0);
        let mut due: Option<Monotonic> = None;
        while clock::now() < end.plus(Duration::from_millis(50)) {
            source.next(&mut samples).unwrap();
            if let Some(due) = due {
                worst = worst.max(samples.captured.offset_from(due).abs());
            }
            let frames = samples.data.len() as u64 / 2;
            due = Some(samples.captured.plus(Duration::from_nanos(
                frames * 1_000_000_000 / u64::from(rate_hz),
            )));
            lost += samples.lost_before;
            pacer.push(&samples).unwrap();
            while let Some(block) = pacer.next_block() {
                heard.extend(block.samples.iter().step_by(2));
            }
        }
        pacer.finish(end).unwrap();
        while let Some(block) = pacer.next_block() {
            heard.extend(block.samples.iter().step_by(2));
        }
        let hz = pitch(&heard[24_000..168_000]);
        Self {
            hz,
            frames: heard.len(),
            jitter: Duration::from_nanos(worst.unsigned_abs()),
            lost,
            underruns: player.underruns(),
            stats: pacer.stats(),
        }
    }
}

fn a_reader_that_sleeps() {
    let _player = Player::start(48_000);
    let mut source = listen(&microphone(48_000)).unwrap();
    let mut samples = Samples::empty();
    for _ in 0..10 {
        source.next(&mut samples).unwrap();
    }
    let before = samples.captured.plus(Duration::from_nanos(
        samples.data.len() as u64 / 2 * 1_000_000_000 / 48_000,
    ));
    // The card keeps a second of it.
    let from = clock::now();
    clock::sleep(Duration::from_millis(2500));
    let slept = clock::now().since(from);
    let mut pacer = SoundPacer::new(SoundConfig {
        start: before,
        rate_hz: 48_000,
        channels: 2,
        track_channels: 2,
    })
    .unwrap();
    source.next(&mut samples).unwrap();
    let most = clock::now().since(from);
    let lost = samples.lost_before;
    let away = samples.captured.since(before);
    println!("  lost {lost} frames in {slept:?} to {most:?}, {away:?} between the stamps");
    // The host may make the sleep longer.
    let frames = |time: Duration| time.as_nanos() as u64 * 48 / 1_000_000;
    let kept = [Duration::from_millis(500), Duration::from_millis(1100)];
    assert!(
        (frames(slept - kept[1])..=frames(most - kept[0])).contains(&lost),
        "all but half a second to 1.1 s is lost"
    );
    // Counted by the card; its stamps have whole milliseconds.
    assert!((lost as i64 - away.as_nanos() as i64 * 48 / 1_000_000).abs() <= 96);
    pacer.push(&samples).unwrap();
    let gap = pacer.next_gap().unwrap();
    assert_eq!((gap.start.0, gap.cause), (0, GapCause::DeviceMissing));
    assert_eq!(source.losses().lost, lost);
    // The ring is all but full: a guest that stands still meanwhile loses a little more.
    let mut again = 0;
    for _ in 0..10 {
        source.next(&mut samples).unwrap();
        again += samples.lost_before;
    }
    println!("  and {again} frames in the next tenth of a second");
    assert!(again < 4800, "the ring is read slower than it fills");
    assert_eq!(source.losses().lost, lost + again);
}

fn a_microphone_in_use() {
    // The loopback has eight places.
    let taken: Vec<AudioSource> = (0..8)
        .map(|_| listen(&microphone(48_000)).unwrap())
        .collect();
    let error = refusal(listen(&microphone(48_000)));
    println!("  {error}");
    assert_eq!(error.code(), "busy");
    drop(taken);
    listen(&microphone(48_000)).unwrap();
}

fn a_microphone_that_is_not_there() {
    let nobody = AlsaMicrophone::at("hw:Nobody,0").unwrap();
    let pump = AudioPump::start("microphone", move || listen(&nobody)).unwrap();
    let Received::Failed(error) = pump.receive(clock::now().plus(Duration::from_secs(5))) else {
        panic!("it is not there")
    };
    println!("  {error}");
    assert!(
        error
            .to_string()
            .contains("hw:CARD=Loopback,DEV=1 (Loopback PCM)")
    );
}
