//! What a finished film says of sound and picture: decoded flashes and clicks.

use super::support::film::{Film, offsets_ms};
use super::support::programs::outcome;
use std::path::Path;

/// Half a picture's interval: a flash is shown on the grid's tick nearest to its capture, and when
/// within the interval the camera's pictures fall is chance.
pub const HALF_A_PICTURE_MS: f64 = 1000.0 / 60.0;

/// Sound against picture at each mark of a film: seconds, and how many milliseconds the click comes
/// after its flash.
pub struct Marks(pub Vec<(f64, f64)>);

impl Marks {
    pub fn of(film: &Film) -> Self {
        let flashes = flashes(film);
        let clicks = film.clicks();
        let nearest = |click: &f64| {
            let offsets = offsets_ms(&[*click], &flashes);
            offsets.first().map(|offset| (*click, *offset))
        };
        Self(clicks.iter().filter_map(nearest).collect())
    }

    /// The median of those from `from` to `to`.
    pub fn median(&self, from: f64, to: f64) -> Option<f64> {
        let within = self.0.iter().filter(|(at, _)| (from..to).contains(at));
        median(within.map(|(_, offset)| *offset).collect())
    }

    /// The median of each minute, or of each part of one.
    pub fn by(&self, seconds: f64) -> Vec<f64> {
        let end = self.0.last().map_or(0.0, |(at, _)| *at);
        let parts = (end / seconds).ceil() as usize;
        let part = |n: usize| self.median(n as f64 * seconds, (n + 1) as f64 * seconds);
        (0..parts).filter_map(part).collect()
    }

    pub fn all(&self) -> f64 {
        self.median(0.0, f64::MAX).expect("a film with marks")
    }
}

/// How far an offset is beyond what half a picture explains.
pub fn beyond_half_a_picture(offset: f64) -> f64 {
    (offset.abs() - HALF_A_PICTURE_MS).max(0.0)
}

pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| match values.len() % 2 {
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    })
}

/// Seconds at which the film flashes.
pub fn flashes(film: &Film) -> Vec<f64> {
    // Small: a film of minutes is decoded into memory.
    let (width, height) = (32, 18);
    let white = |luma: &Vec<u8>| luma[..width * height / 3].iter().all(|point| *point > 200);
    let (times, lumas) = (film.picture_times(), film.lumas_of(width, height));
    assert_eq!(times.len(), lumas.len());
    let pictures = times.into_iter().zip(&lumas);
    pictures
        .filter(|(_, luma)| white(luma))
        .map(|(time, _)| time)
        .collect()
}

/// The luma of the picture that the film's camera `stream` shows at a second, small.
pub fn lumas(path: &Path, stream: usize, second: f64) -> Vec<u8> {
    let (second, stream) = (format!("{second:.3}"), format!("0:v:{stream}"));
    let output = outcome(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-ss",
            &second,
            "-i",
            path.to_str().unwrap(),
            "-map",
            &stream,
            "-frames:v",
            "1",
            "-vf",
            "scale=64:36,format=gray",
            "-f",
            "rawvideo",
            "-",
        ],
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    output.stdout
}

/// The mean difference of two pictures' points.
pub fn difference(a: &[u8], b: &[u8]) -> f64 {
    assert!(
        !a.is_empty() && a.len() == b.len(),
        "{} and {} points",
        a.len(),
        b.len()
    );
    let sum: u64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| u64::from(a.abs_diff(*b)))
        .sum();
    sum as f64 / a.len() as f64
}
