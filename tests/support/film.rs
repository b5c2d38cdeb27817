//! Independent readers of a finished film: ffprobe and ffmpeg, as processes.

use super::programs::{outcome, run};
use hallcast::media::{PictureLayout, PixelFormat};
use std::path::Path;

/// What ffprobe says of a film.
pub struct Film {
    path: String,
    probe: serde_json::Value,
}

/// Luma planes of a film's first video stream, scaled to this size.
const WIDTH: usize = 320;
const HEIGHT: usize = 180;

impl Film {
    pub fn open(path: &Path) -> Self {
        let path = path.to_str().unwrap().to_owned();
        let text = run(
            "ffprobe",
            &[
                "-v",
                "error",
                "-count_frames",
                "-show_streams",
                "-show_format",
                "-of",
                "json",
                &path,
            ],
        );
        Self {
            probe: serde_json::from_str(&text).unwrap(),
            path,
        }
    }

    /// The kinds of its streams.
    pub fn kinds(&self) -> Vec<&str> {
        let streams = self.probe["streams"].as_array().unwrap();
        streams
            .iter()
            .map(|stream| stream["codec_type"].as_str().unwrap())
            .collect()
    }

    pub fn stream(&self, kind: &str) -> &serde_json::Value {
        let streams = self.probe["streams"].as_array().unwrap();
        streams
            .iter()
            .find(|stream| stream["codec_type"] == kind)
            .unwrap_or_else(|| panic!("no {kind} in {}", self.path))
    }

    /// Pictures that decode.
    pub fn pictures(&self) -> u64 {
        self.stream("video")["nb_read_frames"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Pictures that show exactly what the one before them shows.
    pub fn stills(&self) -> usize {
        let text = run(
            "ffmpeg",
            &[
                "-v",
                "error",
                "-i",
                &self.path,
                "-an",
                "-fps_mode",
                "passthrough",
                "-f",
                "framemd5",
                "-",
            ],
        );
        let hashes: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit(',').next().unwrap())
            .collect();
        hashes.windows(2).filter(|pair| pair[0] == pair[1]).count()
    }

    /// Length of the sound in seconds, by its decoded samples.
    pub fn sound_seconds(&self) -> f64 {
        self.samples().len() as f64 / f64::from(RATE)
    }

    /// Fails if anything in the film does not decode.
    pub fn assert_decodes(&self) {
        // In units of a picture as ffmpeg guesses them, which gaps lengthen, two would seem to be at once.
        let unit = ["-enc_time_base:v", "1/90000"];
        let read = ["-v", "error", "-xerror", "-i", &self.path];
        let output = outcome("ffmpeg", &[&read[..], &unit, &["-f", "null", "-"]].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success() && errors.is_empty(),
            "{}: {errors}",
            self.path
        );
    }

    /// `moov` stands before `mdat`: a player can begin before it has the whole file.
    pub fn assert_moov_first(&self) {
        let bytes = std::fs::read(&self.path).unwrap();
        let at = |name: &[u8]| bytes.windows(4).position(|window| window == name).unwrap();
        assert!(at(b"moov") < at(b"mdat"), "{}", self.path);
    }

    /// The sound, mono, 48 kHz.
    pub fn samples(&self) -> Vec<i16> {
        let bytes = raw(&[
            "-i",
            &self.path,
            "-vn",
            "-ac",
            "1",
            "-ar",
            &RATE.to_string(),
            "-f",
            "s16le",
            "-",
        ]);
        bytes
            .chunks_exact(2)
            .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
            .collect()
    }

    /// Each picture's presentation time in seconds.
    pub fn picture_times(&self) -> Vec<f64> {
        let arguments = [
            "-v",
            "error",
            "-select_streams",
            "v:0",
            "-show_entries",
            "frame=pts_time",
            "-of",
            "csv=p=0",
            &self.path,
        ];
        let text = run("ffprobe", &arguments);
        text.lines()
            .map(|line| line.trim_end_matches(',').parse().unwrap())
            .collect()
    }

    /// Each picture's luma, small.
    pub fn lumas(&self) -> Vec<Vec<u8>> {
        self.lumas_of(WIDTH, HEIGHT)
    }

    /// Each picture's luma in the size given.
    pub fn lumas_of(&self, width: usize, height: usize) -> Vec<Vec<u8>> {
        let size = format!("scale={width}:{height},format=gray");
        let bytes = raw(&[
            "-i",
            &self.path,
            "-an",
            "-vf",
            &size,
            "-fps_mode",
            "passthrough",
            "-f",
            "rawvideo",
            "-",
        ]);
        bytes
            .chunks_exact(width * height)
            .map(<[u8]>::to_vec)
            .collect()
    }

    /// How far each picture is from a slate that speaks of this camera: the mean difference of luma, of
    /// 255, above the line with the time.
    pub fn slate_distances(&self, camera: &str) -> Vec<f64> {
        let video = self.stream("video");
        let [width, height] = ["width", "height"].map(|key| video[key].as_u64().unwrap());
        let layout = PictureLayout::tight(width as u32, height as u32, PixelFormat::I420);
        let whose = format!("from the {camera} camera");
        let drawn = hallcast::source::slate(layout, &["No signal", &whose, "since 10:41"]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, drawn).unwrap();
        let slate = raw(&[
            "-f",
            "rawvideo",
            "-pix_fmt",
            "yuv420p",
            "-s",
            &format!("{width}x{height}"),
            "-i",
            file.path().to_str().unwrap(),
            "-vf",
            &format!("scale={WIDTH}:{HEIGHT},format=gray"),
            "-f",
            "rawvideo",
            "-",
        ]);
        let judged = WIDTH * HEIGHT * 60 / 100;
        let distance = |luma: Vec<u8>| {
            let pairs = luma[..judged].iter().zip(&slate);
            let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            sum as f64 / judged as f64
        };
        self.lumas().into_iter().map(distance).collect()
    }

    /// Which of its pictures show that slate, where none may be in doubt; prints how sure it is.
    pub fn slates(&self, camera: &str) -> Vec<bool> {
        let distances = self.slate_distances(camera);
        let (slates, others): (Vec<f64>, Vec<f64>) = distances.iter().partition(|far| **far < 8.0);
        let most = slates.iter().copied().fold(0.0, f64::max);
        // Where there are no others, none is too near.
        let least = others.iter().copied().fold(255.0, f64::min);
        println!(
            "  {} slates, at most {most:.2} of 255 off what was drawn; {} others, at least {least:.2}",
            slates.len(),
            others.len()
        );
        assert!(most < 4.0 && least > 16.0, "{distances:?}");
        distances.into_iter().map(|far| far < 8.0).collect()
    }

    /// Seconds at which the test pattern flashes.
    pub fn flashes(&self) -> Vec<f64> {
        // Above the counter's strip the flash is white from edge to edge; bars never are.
        let white = |luma: &Vec<u8>| luma[..WIDTH * HEIGHT / 3].iter().all(|point| *point > 200);
        let times = self.picture_times();
        let lumas = self.lumas();
        assert_eq!(times.len(), lumas.len());
        lumas
            .iter()
            .zip(times)
            .filter(|(luma, _)| white(luma))
            .map(|(_, time)| time)
            .collect()
    }

    /// Presentation time of the first sample, in seconds.
    pub fn sound_starts(&self) -> f64 {
        let start = self.stream("audio")["start_time"].as_str();
        start.unwrap().parse().unwrap()
    }

    /// Seconds at which the test tone clicks: where each click begins.
    pub fn clicks(&self) -> Vec<f64> {
        let start = self.sound_starts();
        clicks(&self.samples())
            .into_iter()
            .map(|sample| start + sample as f64 / f64::from(RATE))
            .collect()
    }
}

/// The sound's rate in every film of ours.
pub const RATE: u32 = 48_000;

/// The first sample of each click of the test tone.
pub fn clicks(samples: &[i16]) -> Vec<usize> {
    let mut found: Vec<usize> = Vec::new();
    for (at, sample) in samples.iter().enumerate() {
        let loud = i32::from(*sample).abs() > 20_000;
        if loud
            && found
                .last()
                .is_none_or(|last| at > last + RATE as usize / 2)
        {
            found.push(at);
        }
    }
    found
}

/// The offset of each click from the flash nearest to it, in milliseconds; a click without a flash
/// within half a second is left out.
pub fn offsets_ms(clicks: &[f64], flashes: &[f64]) -> Vec<f64> {
    let nearest = |click: &f64| {
        let offsets = flashes.iter().map(|flash| (click - flash) * 1000.0);
        offsets
            .min_by(|a, b| a.abs().total_cmp(&b.abs()))
            .filter(|offset| offset.abs() < 500.0)
    };
    clicks.iter().filter_map(nearest).collect()
}

/// The strongest frequency in `samples`, in Hz: the zero crossings of a tone, averaged over its length.
pub fn frequency_hz(samples: &[i16]) -> f64 {
    let mut crossings = Vec::new();
    for (at, pair) in samples.windows(2).enumerate() {
        let (before, after) = (f64::from(pair[0]), f64::from(pair[1]));
        if before < 0.0 && after >= 0.0 {
            crossings.push(at as f64 + before / (before - after));
        }
    }
    let (first, last) = (crossings.first().unwrap(), crossings.last().unwrap());
    f64::from(RATE) * (crossings.len() - 1) as f64 / (last - first)
}

fn raw(arguments: &[&str]) -> Vec<u8> {
    let output = outcome("ffmpeg", &[&["-v", "error"], arguments].concat());
    assert!(
        output.status.success(),
        "ffmpeg {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
