//! A film as a camera, and its sound as a microphone: for development and tests.
//!
//! Films are decoded by an `ffmpeg` child process, which writes raw I420 or 16-bit samples to a pipe;
//! raw `.yuv` files are read as they are. Either is paced by the monotonic clock at the film's rate.
//! A film's pictures and its sound are two devices but begin at one instant, so they are in step; in a
//! loop they stay so if both are equally long.

use super::{AudioSettings, Error, Source, VideoSettings};
use crate::board::{AtEnd, ReplayCamera, ReplayMicrophone};
use crate::clock;
use crate::media::{Monotonic, Picture, PictureLayout, PixelFormat, Rate, Samples};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// From the opening of a film's first device to its first picture and sample: the other device is
/// opened in this time, and both decoders are ready by then.
const CURTAIN: Duration = Duration::from_millis(500);

/// A film's pictures.
pub(super) struct ReplayVideo {
    file: String,
    settings: VideoSettings,
    stream: Stream,
    start: Monotonic,
    sequence: u64,
}

impl ReplayVideo {
    /// Opens the film; size and rate are its own unless asked otherwise.
    pub(super) fn open(asked: &ReplayCamera) -> Result<Self, Error> {
        let file = asked.file.display().to_string();
        present(&asked.file, &file)?;
        let start = begins(&asked.file);
        let raw = asked.file.extension().is_some_and(|ending| ending == "yuv");
        let (width, height, rate) = match (asked.width, asked.height, asked.rate) {
            (Some(width), Some(height), Some(rate)) => (width, height, rate),
            _ if raw => {
                return Err(Error::CannotDo {
                    device: file,
                    asked: "raw pictures without size or rate".into(),
                    advice: "Give `width`, `height` and `rate` in the board file.".into(),
                    offers: Vec::new(),
                });
            }
            (width, height, rate) => {
                let own = probe(&asked.file, &file)?;
                (
                    width.unwrap_or(own.0),
                    height.unwrap_or(own.1),
                    rate.unwrap_or(own.2),
                )
            }
        };
        let layout = PictureLayout::tight(width, height, PixelFormat::I420);
        let stream = if raw {
            let opened = File::open(&asked.file).map_err(|e| Error::other(&file, "opening", &e))?;
            Stream::Raw(opened, asked.at_end)
        } else {
            let filter = format!("scale={width}:{height},fps={rate}");
            let how = [
                "-an", "-vf", &filter, "-pix_fmt", "yuv420p", "-f", "rawvideo",
            ];
            Stream::Film(ffmpeg(&asked.file, &file, asked.at_end, &how)?)
        };
        Ok(Self {
            file,
            settings: VideoSettings { layout, rate },
            stream,
            start,
            sequence: 0,
        })
    }
}

impl Source for ReplayVideo {
    type Block = Picture;

    fn settings(&self) -> VideoSettings {
        self.settings
    }

    fn next(&mut self, into: &mut Picture) -> Result<(), Error> {
        into.data.resize(self.settings.layout.bytes(), 0);
        self.stream
            .fill(&mut into.data)
            .map_err(|error| ended(&self.file, &error))?;
        let passed = Duration::from_nanos(self.settings.rate.tick_nanos(self.sequence));
        into.captured = self.start.plus(passed);
        into.sequence = self.sequence;
        self.sequence += 1;
        clock::sleep_until(into.captured);
        Ok(())
    }
}

/// A film's sound.
pub(super) struct ReplayAudio {
    file: String,
    settings: AudioSettings,
    film: Film,
    bytes: Vec<u8>,
    start: Monotonic,
    frames: u64,
}

impl ReplayAudio {
    /// Opens the film's sound, converted to the asked rate and at most two channels.
    pub(super) fn open(asked: &ReplayMicrophone) -> Result<Self, Error> {
        let file = asked.file.display().to_string();
        present(&asked.file, &file)?;
        let start = begins(&asked.file);
        let settings = AudioSettings {
            rate_hz: asked.rate_hz,
            channels: asked.channels.clamp(1, 2),
        };
        let (rate, channels) = (settings.rate_hz.to_string(), settings.channels.to_string());
        let how = ["-vn", "-ar", &rate, "-ac", &channels, "-f", "s16le"];
        let film = ffmpeg(&asked.file, &file, asked.at_end, &how)?;
        // 20 ms.
        let frames = settings.rate_hz as usize / 50;
        Ok(Self {
            file,
            film,
            bytes: vec![0; frames * 2 * settings.channels as usize],
            settings,
            start,
            frames: 0,
        })
    }

    fn time_of(&self, frame: u64) -> Monotonic {
        let nanos = u128::from(frame) * 1_000_000_000 / u128::from(self.settings.rate_hz);
        self.start.plus(Duration::from_nanos(nanos as u64))
    }
}

impl Source for ReplayAudio {
    type Block = Samples;

    fn settings(&self) -> AudioSettings {
        self.settings
    }

    fn next(&mut self, into: &mut Samples) -> Result<(), Error> {
        self.film
            .output
            .read_exact(&mut self.bytes)
            .map_err(|error| ended(&self.file, &error))?;
        into.data.clear();
        let samples = self.bytes.chunks_exact(2);
        into.data
            .extend(samples.map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
        into.lost_before = 0;
        into.captured = self.time_of(self.frames);
        self.frames += (into.data.len() / self.settings.channels as usize) as u64;
        clock::sleep_until(self.time_of(self.frames));
        Ok(())
    }
}

/// When the film that is being opened begins: with its other device if that was opened just now.
pub(super) fn begins(film: &Path) -> Monotonic {
    static NEXT: Mutex<Vec<(PathBuf, Monotonic)>> = Mutex::new(Vec::new());
    let now = clock::now();
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    next.retain(|(_, start)| *start > now);
    if let Some((_, start)) = next.iter().find(|(known, _)| known == film) {
        return *start;
    }
    let start = now.plus(CURTAIN);
    next.push((film.to_owned(), start));
    start
}

/// Where raw pictures come from.
enum Stream {
    Film(Film),
    Raw(File, AtEnd),
}

impl Stream {
    fn fill(&mut self, picture: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Film(film) => film.output.read_exact(picture),
            Self::Raw(file, at_end) => match file.read_exact(picture) {
                Err(error)
                    if error.kind() == io::ErrorKind::UnexpectedEof && *at_end == AtEnd::Loop =>
                {
                    file.seek(SeekFrom::Start(0))?;
                    file.read_exact(picture)
                }
                other => other,
            },
        }
    }
}

/// An ffmpeg that is at work; it ends with this value.
pub(super) struct Film {
    child: Child,
    pub(super) output: ChildStdout,
}

impl Drop for Film {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is to be reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ffmpeg(film: &Path, file: &str, at_end: AtEnd, how: &[&str]) -> Result<Film, Error> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error"]);
    if at_end == AtEnd::Loop {
        command.args(["-stream_loop", "-1"]);
    }
    command.arg("-i").arg(film).args(how).arg("-");
    running(command, file)
}

/// The film's H.264 as it is, without a loop; `how` ends with `-f`.
pub(super) fn copy(film: &Path, file: &str, how: &[&str]) -> Result<Film, Error> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-i"]).arg(film);
    command.args(how).args(["data", "-"]);
    running(command, file)
}

fn running(mut command: Command, file: &str) -> Result<Film, Error> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|e| no_program("ffmpeg", file, &e))?;
    match child.stdout.take() {
        Some(output) => Ok(Film { child, output }),
        None => unreachable!("its output was asked for"),
    }
}

/// A mean rate such as `8970/359`, to a thousandth.
fn mean_rate(text: &str) -> Option<Rate> {
    let (num, den) = text.split_once('/')?;
    let (num, den) = (num.parse::<u64>().ok()?, den.parse::<u64>().ok()?);
    let thousandths = num.checked_mul(1000)?.checked_div(den)?;
    Rate::new(u32::try_from(thousandths).ok()?, 1000).ok()
}

/// Width, height and rate of a film's pictures.
pub(super) fn probe(film: &Path, file: &str) -> Result<(u32, u32, Rate), Error> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-select_streams", "v:0", "-show_entries"]);
    command.args([
        "stream=width,height,r_frame_rate,avg_frame_rate",
        "-of",
        "csv=p=0",
    ]);
    let found = command.arg(film).output();
    let found = found.map_err(|error| no_program("ffprobe", file, &error))?;
    let text = String::from_utf8_lossy(&found.stdout);
    let mut fields = text.trim().split(',');
    let mut next = || fields.next().unwrap_or("");
    let (width, height) = (next().parse::<u32>(), next().parse::<u32>());
    // The least common rate of uneven times is none of a camera: their mean is.
    let (even, mean) = (next().parse().ok(), mean_rate(next()));
    match (width, height, even.or(mean)) {
        // Half as many colour points need even sizes.
        (Ok(width), Ok(height), Some(rate)) => Ok((width & !1, height & !1, rate)),
        _ => Err(Error::CannotDo {
            device: file.to_owned(),
            asked: "the pictures of a film".into(),
            advice: format!(
                "Name a film that ffprobe can read ({}).",
                String::from_utf8_lossy(&found.stderr).trim()
            ),
            offers: Vec::new(),
        }),
    }
}

pub(super) fn present(path: &Path, file: &str) -> Result<(), Error> {
    if path.is_file() {
        return Ok(());
    }
    Err(Error::Missing {
        device: file.to_owned(),
        advice: "Name a film file that exists.".into(),
        present: Vec::new(),
    })
}

pub(super) fn no_program(program: &str, file: &str, error: &io::Error) -> Error {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => format!("{program} is not installed (apt install ffmpeg)"),
        _ => error.to_string(),
    };
    Error::other(&file, &format!("starting {program}"), &reason)
}

pub(super) fn ended(file: &str, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Vanished {
            device: file.to_owned(),
            reason: "the film is over".into(),
        },
        _ => Error::other(&file, "reading", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Block;
    use std::io::Write;

    fn raw(at_end: AtEnd) -> (tempfile::NamedTempFile, ReplayCamera) {
        let mut file = tempfile::Builder::new().suffix(".yuv").tempfile().unwrap();
        for shade in [10, 20, 30] {
            file.write_all(&[shade; 16 * 16 * 3 / 2]).unwrap();
        }
        let camera = ReplayCamera {
            file: file.path().to_owned(),
            width: Some(16),
            height: Some(16),
            rate: Some("200".parse().unwrap()),
            at_end,
            passthrough: false,
        };
        (file, camera)
    }

    #[test]
    fn raw_pictures_loop_at_their_rate() {
        let (_file, camera) = raw(AtEnd::Loop);
        let mut source = ReplayVideo::open(&camera).unwrap();
        let mut picture = Picture::empty();
        let mut shades = Vec::new();
        let mut times = Vec::new();
        for _ in 0..5 {
            source.next(&mut picture).unwrap();
            assert!(clock::now() >= picture.captured);
            shades.push(picture.data[383]);
            times.push(picture.captured.as_nanos());
        }
        assert_eq!(shades, [10, 20, 30, 10, 20]);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 5_000_000));
    }

    #[test]
    fn both_devices_of_a_film_begin_together() {
        let film = Path::new("/nowhere/together.mkv");
        let start = begins(film);
        assert!(start > clock::now() && begins(film) == start);
        // Opened again later, it begins again.
        clock::sleep_until(start);
        assert!(begins(film) > start);
    }

    #[test]
    fn a_film_that_stops_is_gone() {
        let (_file, camera) = raw(AtEnd::Stop);
        let mut source = ReplayVideo::open(&camera).unwrap();
        let mut picture = Picture::empty();
        for _ in 0..3 {
            source.next(&mut picture).unwrap();
        }
        assert_eq!(source.next(&mut picture).unwrap_err().code(), "vanished");
    }

    #[test]
    fn raw_pictures_need_a_size_and_a_film_must_exist() {
        let (_file, mut camera) = raw(AtEnd::Loop);
        camera.rate = None;
        let error = ReplayVideo::open(&camera).err().unwrap();
        assert_eq!(error.code(), "cannot-do");
        camera.file = "/nowhere/film.mp4".into();
        let error = ReplayVideo::open(&camera).err().unwrap();
        assert_eq!(error.code(), "missing");
    }

    /// A film that ffmpeg makes: a test picture and 440 Hz, one second.
    #[test]
    fn a_film_is_a_camera_and_a_microphone() {
        let folder = tempfile::tempdir().unwrap();
        let film = folder.path().join("film.mkv");
        let made = Command::new("ffmpeg")
            .args([
                "-v",
                "error",
                "-f",
                "lavfi",
                "-i",
                "testsrc=size=160x120:rate=50:duration=1",
            ])
            .args([
                "-f",
                "lavfi",
                "-i",
                "sine=frequency=440:duration=1:sample_rate=44100",
            ])
            .args(["-c:v", "ffv1", "-c:a", "pcm_s16le"])
            .arg(&film)
            .status()
            .expect("ffmpeg is needed for this test");
        assert!(made.success());
        let mut camera = ReplayVideo::open(&ReplayCamera {
            file: film.clone(),
            width: None,
            height: None,
            rate: None,
            at_end: AtEnd::Stop,
            passthrough: false,
        })
        .unwrap();
        let settings = camera.settings();
        assert_eq!((settings.layout.width, settings.layout.height), (160, 120));
        assert_eq!(settings.rate.to_string(), "50");
        let mut picture = Picture::empty();
        let mut pictures = 0;
        while camera.next(&mut picture).is_ok() {
            pictures += 1;
        }
        assert_eq!(pictures, 50);

        let mut microphone = ReplayAudio::open(&ReplayMicrophone {
            file: film,
            rate_hz: 48_000,
            channels: 1,
            at_end: AtEnd::Stop,
        })
        .unwrap();
        let mut samples = Samples::empty();
        let mut heard = Vec::new();
        while microphone.next(&mut samples).is_ok() {
            heard.extend_from_slice(&samples.data);
        }
        assert_eq!(heard.len(), 48_000);
        let crossings = heard.windows(2).filter(|p| p[0] < 0 && p[1] >= 0).count();
        assert!((439..=441).contains(&crossings), "{crossings}");
    }
}
