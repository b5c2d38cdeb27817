//! Pictures and sound of one clock, fed into the guest's devices: what a camera sees and what a
//! microphone hears of the same instants.
//!
//! The picture nearest to each whole second of CLOCK_MONOTONIC is white; the sound clicks at that
//! second, wherever the card's own clock stands then: which frame is heard when is learned from the
//! card's pointer and the kernel's stamp of it, as a microphone's clock would be.

use super::support::programs::run;
use alsa::pcm::{Access, Format as SampleFormat, Frames, HwParams, PCM, State, TstampType};
use alsa::{Direction, ValueOr};
use hallcast::board::PatternCamera;
use hallcast::clock;
use hallcast::media::{Monotonic, Picture};
use hallcast::source::{Pattern, Source};
use std::collections::VecDeque;
use std::f64::consts::TAU;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use v4l::video::Output;
use v4l::{Device, Format, FourCC};

/// Size of the pictures.
pub const SIZE: (u32, u32) = (320, 180);
/// Frames a second, as a card without an error plays them.
pub const RATE: f64 = 48_000.0;

const PERIOD: usize = 480;
/// Where a click is decided on must not be long before it is heard: the card's clock wanders.
const BUFFER: usize = 24_000;
/// Of a sequence that is only counted: the host may keep the guest waiting for a second.
const LONG_BUFFER: usize = 96_000;
/// Observations of the pointer of which the earliest counts: 1 s of them.
const REMEMBERED: usize = 300;
/// As in the box's own test tone: a burst of 2 kHz that a codec keeps, over a quiet tone.
const CLICK: u64 = 192;

/// Comes before every other thread of the guest: what it feeds must not tell of the guest's load.
fn first_of_all() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    run("chrt", &["--fifo", "--pid", "50", &thread]);
}

/// Something fed by a thread, until it is dropped or ended.
pub struct Fed<T> {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Fed<T> {
    fn start(work: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let also = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            first_of_all();
            work(&also)
        });
        Self {
            ended,
            thread: Some(thread),
        }
    }

    /// Ends it; gives what it has to tell.
    pub fn end(mut self) -> T {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl<T> Drop for Fed<T> {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// When a beat was due, and how late it was.
pub type Late = Arc<Mutex<Vec<(Monotonic, Duration)>>>;

/// A bare loop that sleeps 5 ms at a time and comes before all else in the guest: what keeps it waiting is the
/// host. Notes where that was 20 ms or more.
pub fn beats(late: &Late) -> Fed<()> {
    let found = Arc::clone(late);
    Fed::start(move |ended| {
        while !ended.load(Ordering::Relaxed) {
            let due = clock::now().plus(Duration::from_millis(5));
            clock::sleep_until(due);
            let late = clock::now().since(due);
            if late >= Duration::from_millis(20) {
                found.lock().unwrap().push((due, late));
            }
        }
    })
}

/// The ticks of pictures, and how late each was written.
pub type Written = Vec<(Monotonic, Duration)>;

/// Opens /dev/video`number` to be written to.
fn camera_of(number: u32, pixels: &[u8; 4]) -> File {
    let path = format!("/dev/video{number}");
    // Not by way of `Device` alone: the processes started later would inherit it, and the camera
    // would never be without its feeder.
    let device = File::options().read(true).write(true).open(&path).unwrap();
    let format = Format::new(SIZE.0, SIZE.1, FourCC::new(pixels));
    let got = Output::set_format(&Device::with_path(&path).unwrap(), &format).unwrap();
    assert_eq!(
        (got.width, got.height, got.fourcc),
        (SIZE.0, SIZE.1, format.fourcc)
    );
    device
}

/// Writes the access units of a film at 30 a second into /dev/video`number`, again and again, as a camera
/// that encodes gives them: the first of each second at a whole second of CLOCK_MONOTONIC, those
/// between up to 12 ms late. Gives when each was written.
pub fn encoded(number: u32, units: Vec<Vec<u8>>) -> Fed<Vec<Monotonic>> {
    let mut device = camera_of(number, b"H264");
    Fed::start(move |ended| {
        let second = 1_000_000_000;
        let start = (clock::now().as_nanos() / second + 1) * second;
        let mut written = Vec::new();
        for (n, unit) in (0_u64..).zip(units.iter().cycle()) {
            let late = if n % 30 == 0 { 0 } else { n * 7919 % 13 };
            let due = start + n * second / 30 + late * 1_000_000;
            clock::sleep_until(Monotonic::from_nanos(due));
            if ended.load(Ordering::Relaxed) {
                break;
            }
            written.push(clock::now());
            assert_eq!(device.write(unit).unwrap(), unit.len());
        }
        written
    })
}

/// Writes the box's own test pattern into /dev/video`number`, each picture at its tick.
pub fn camera(number: u32) -> Fed<Written> {
    let mut device = camera_of(number, b"YU12");
    Fed::start(move |ended| {
        let mut pattern = Pattern::open(&PatternCamera {
            width: SIZE.0,
            height: SIZE.1,
            rate: "30".parse().unwrap(),
        });
        let mut picture = Picture {
            captured: Monotonic::from_nanos(0),
            sequence: 0,
            data: Vec::new(),
        };
        let mut late = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            pattern.next(&mut picture).unwrap();
            assert_eq!(device.write(&picture.data).unwrap(), picture.data.len());
            late.push((picture.captured, clock::now().since(picture.captured)));
        }
        late
    })
}

/// Where the sound clicks.
#[derive(Clone, Copy)]
pub enum Clicks {
    /// At each whole second of the monotonic clock.
    Seconds,
    /// Each time the card has played so many frames.
    Frames(u64),
}

/// What a card did while it played.
#[derive(Debug)]
pub struct Played {
    /// Its clock: the truth that a box has to find. It is near what it was told; snd-aloop rounds
    /// twice while it plays and captures at once.
    pub clock: Pointer,
    /// How often the player fell behind.
    pub underruns: u64,
}

/// How snd-aloop is told to run `ppm` parts of a million too fast; gives what it makes of it, since it
/// takes whole hundred-thousandths of the length of a sample.
pub fn shift(card: &str, ppm: i32) -> f64 {
    let length = (100_000.0 / (1.0 + f64::from(ppm) / 1e6)).round();
    let control = "iface=PCM,name='PCM Rate Shift 100000',device=1,subdevice=0";
    run(
        "amixer",
        &["-q", "-c", card, "cset", control, &length.to_string()],
    );
    100_000.0 / length
}

/// Plays a quiet tone with clicks into `card`, whose clock runs at `pace`.
pub fn sound(card: &str, pace: f64, clicks: Clicks) -> Fed<Played> {
    let name = format!("hw:CARD={card},DEV=0");
    let pcm = PCM::new(&name, Direction::Playback, false).unwrap();
    let buffer = match clicks {
        Clicks::Seconds => BUFFER,
        Clicks::Frames(_) => LONG_BUFFER,
    } as Frames;
    {
        let hardware = HwParams::any(&pcm).unwrap();
        hardware.set_access(Access::RWInterleaved).unwrap();
        hardware.set_format(SampleFormat::S16LE).unwrap();
        hardware.set_channels(2).unwrap();
        hardware.set_rate(RATE as u32, ValueOr::Nearest).unwrap();
        hardware
            .set_period_size(PERIOD as Frames, ValueOr::Nearest)
            .unwrap();
        hardware.set_buffer_size(buffer).unwrap();
        pcm.hw_params(&hardware).unwrap();
        let software = pcm.sw_params_current().unwrap();
        software.set_tstamp_mode(true).unwrap();
        software.set_tstamp_type(TstampType::Monotonic).unwrap();
        software.set_start_threshold(buffer / 2).unwrap();
        software.set_avail_min(PERIOD as Frames).unwrap();
        pcm.sw_params(&software).unwrap();
    }
    Fed::start(move |ended| Player::new(pace, clicks).play(&pcm, ended))
}

struct Player {
    rate: f64,
    clicks: Clicks,
    written: u64,
    /// When the card's frame 0 was heard, as single observations have it.
    origins: VecDeque<f64>,
    /// The earliest of them, as [`Pointer`] has it.
    origin: f64,
    /// First frame of the click that is being written, or of the last one.
    click: Option<u64>,
    pointer: Pointer,
    underruns: u64,
}

impl Player {
    fn new(pace: f64, clicks: Clicks) -> Self {
        Self {
            rate: RATE * pace,
            clicks,
            written: 0,
            origins: VecDeque::new(),
            origin: 0.0,
            click: None,
            pointer: Pointer::default(),
            underruns: 0,
        }
    }

    fn play(mut self, pcm: &PCM, ended: &AtomicBool) -> Played {
        while !ended.load(Ordering::Relaxed) {
            if let Err(error) = self.step(pcm) {
                if error.errno() != libc::EPIPE {
                    break; // it was pulled
                }
                self.underruns += 1;
                pcm.prepare().unwrap();
                (self.written, self.click) = (0, None);
                self.origins.clear();
                self.pointer = Pointer::default();
            }
        }
        Played {
            clock: self.pointer,
            underruns: self.underruns,
        }
    }

    fn step(&mut self, pcm: &PCM) -> Result<(), alsa::Error> {
        let status = pcm.status()?;
        let played = self.written as f64 - status.get_delay() as f64;
        // There is no stamp before the pointer first moves.
        if status.get_state() == State::Running && played > 0.0 {
            let at = seconds(&status.get_htstamp());
            self.pointer.add(at, played);
            self.origins.push_back(at - played / self.rate);
            if self.origins.len() > REMEMBERED {
                self.origins.pop_front();
            }
        }
        if pcm.avail_update()? < PERIOD as Frames {
            clock::sleep(Duration::from_millis(4));
            return Ok(());
        }
        self.origin = self.origins.iter().copied().fold(f64::MAX, f64::min);
        let block: Vec<i16> = (0..PERIOD as u64)
            .flat_map(|n| {
                let sample = self.sample(self.written + n);
                [sample, sample]
            })
            .collect();
        let written = pcm.io_i16()?.writei(&block)?;
        self.written += written as u64;
        Ok(())
    }

    /// What frame `n` sounds like.
    fn sample(&mut self, n: u64) -> i16 {
        if self.click.is_none_or(|click| n >= click + CLICK) && self.clicks_at(n) {
            self.click = Some(n);
        }
        let full = f64::from(i16::MAX);
        let tone = 0.1 * full * (TAU * 440.0 * n as f64 / RATE).sin();
        let burst = match self.click {
            Some(click) if n < click + CLICK => full * wave(n - click),
            _ => 0.0,
        };
        (tone + burst) as i16
    }

    /// Whether a click begins at frame `n`, no earlier and no later.
    fn clicks_at(&self, n: u64) -> bool {
        match self.clicks {
            Clicks::Frames(every) => n.is_multiple_of(every),
            Clicks::Seconds if self.origins.len() < REMEMBERED => false,
            Clicks::Seconds => {
                let heard = |n: u64| (self.origin + n as f64 / self.rate).floor();
                heard(n) > heard(n - 1)
            }
        }
    }
}

/// A click's frame `n` of [`CLICK`], of full scale 1.
fn wave(n: u64) -> f64 {
    0.8 * (TAU * 2000.0 * n as f64 / RATE).cos()
}

/// A click as it is played.
pub fn burst() -> Vec<f64> {
    (0..CLICK).map(wave).collect()
}

/// A time as ALSA has it, in seconds: at 2^20 s a double still tells a quarter of a nanosecond.
pub fn seconds(time: &libc::timespec) -> f64 {
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The clock of a card, from stamps of its pointer: the earliest of each second.
///
/// The pointer moves with the kernel's ticks, and a tick may be late when the machine is busy: a stamp
/// is never too early, and too late by as much as the load of the moment makes it.
#[derive(Debug, Default)]
pub struct Pointer(Vec<(f64, f64)>);

impl Pointer {
    pub fn add(&mut self, at: f64, frames: f64) {
        let lead = |at: f64, frames: f64| frames / RATE - at;
        match self.0.last_mut() {
            // Within a second the card's error does not matter.
            Some(earliest) if earliest.0.floor() == at.floor() => {
                if lead(at, frames) > lead(earliest.0, earliest.1) {
                    *earliest = (at, frames);
                }
            }
            _ => self.0.push((at, frames)),
        }
    }

    /// The line through the stamps between two seconds, by least squares: a time, the frames by then,
    /// and frames per second.
    fn line(&self, from: f64, to: f64) -> (f64, f64, f64) {
        let within: Vec<_> = self
            .0
            .iter()
            .filter(|(at, _)| (from..to).contains(at))
            .collect();
        let n = within.len() as f64;
        let mean = |value: fn(&(f64, f64)) -> f64| within.iter().map(|p| value(p)).sum::<f64>() / n;
        let (at, frames) = (mean(|point| point.0), mean(|point| point.1));
        let (mut xx, mut xy) = (0.0, 0.0);
        for point in within {
            xx += (point.0 - at).powi(2);
            xy += (point.0 - at) * (point.1 - frames);
        }
        (at, frames, xy / xx)
    }

    /// How fast the clock ran between two seconds.
    pub fn ppm(&self, from: f64, to: f64) -> f64 {
        (self.line(from, to).2 / RATE - 1.0) * 1e6
    }

    /// When the card's frame was played or captured.
    pub fn time_of(&self, frame: usize) -> f64 {
        let (at, frames, rate) = self.line(0.0, f64::MAX);
        at + (frame as f64 - frames) / rate
    }
}
