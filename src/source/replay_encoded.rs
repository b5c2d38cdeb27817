//! A film's H.264 as a camera that encodes by itself: each picture at the film's own time.
//!
//! `ffmpeg` gives it unchanged, once as a table of times and lengths, once as bytes in annex B form.

use super::replay::{Film, begins, copy, ended, no_program, present, probe};
use super::{Error, Source, VideoSettings};
use crate::board::{AtEnd, ReplayCamera};
use crate::clock;
use crate::media::{Monotonic, Picture, PictureLayout, PixelFormat};
use std::io::Read;
use std::process::Command;
use std::time::Duration;

/// The most bytes of one picture.
const LONGEST: usize = 8_000_000;

/// What ffmpeg is asked for in both.
const PICTURES: [&str; 7] = [
    "-map",
    "0:v:0",
    "-c",
    "copy",
    "-bsf:v",
    "h264_mp4toannexb",
    "-f",
];

/// When a picture is shown, after the film's first, and how many bytes it has.
type Entry = (Duration, usize);

/// A film that is being passed on.
pub(super) struct ReplayEncoded {
    asked: ReplayCamera,
    file: String,
    settings: VideoSettings,
    table: Vec<Entry>,
    lasts: Duration,
    film: Film,
    start: Monotonic,
    next: usize,
    sequence: u64,
}

impl ReplayEncoded {
    /// Reads the film's times and starts it.
    pub(super) fn open(asked: &ReplayCamera) -> Result<Self, Error> {
        let file = asked.file.display().to_string();
        present(&asked.file, &file)?;
        let (width, height, rate) = probe(&asked.file, &file)?;
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-i"]);
        let output = command
            .arg(&asked.file)
            .args(PICTURES)
            .args(["framecrc", "-"])
            .output()
            .map_err(|error| no_program("ffmpeg", &file, &error))?;
        let (table, lasts) =
            read_table(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| {
                Error::CannotDo {
                    device: file.clone(),
                    asked: "H.264 without pictures out of order".into(),
                    advice: format!(
                        "Name a film made with `ffmpeg -c:v libx264 -bf 0` ({}).",
                        String::from_utf8_lossy(&output.stderr).trim()
                    ),
                    offers: Vec::new(),
                }
            })?;
        let film = copy(&asked.file, &file, &PICTURES)?;
        let start = begins(&asked.file);
        Ok(Self {
            asked: asked.clone(),
            file,
            settings: VideoSettings {
                layout: PictureLayout::tight(width, height, PixelFormat::H264),
                rate,
            },
            table,
            lasts,
            film,
            start,
            next: 0,
            sequence: 0,
        })
    }
}

/// The table in what `-f framecrc` prints, and how long the film lasts.
fn read_table(text: &str) -> Option<(Vec<Entry>, Duration)> {
    let (mut num, mut den) = (0u64, 1u64);
    let mut rows: Vec<(i64, i64, usize)> = Vec::new();
    for line in text.lines() {
        if let Some(base) = line.strip_prefix("#tb 0: ") {
            let (a, b) = base.split_once('/')?;
            (num, den) = (a.parse().ok()?, b.parse::<u64>().ok()?.max(1));
        }
        if line.starts_with('#') {
            continue;
        }
        let mut fields = line.split(',').map(str::trim).skip(2);
        let time: i64 = fields.next()?.parse().ok()?;
        let lasts: i64 = fields.next()?.parse().ok()?;
        let size: usize = fields.next()?.parse().ok()?;
        if size > LONGEST || rows.last().is_some_and(|(before, _, _)| time <= *before) {
            return None;
        }
        rows.push((time, lasts, size));
    }
    let (first, (last, lasts, _)) = (rows.first()?.0, *rows.last()?);
    let after = |units: i64| {
        let nanos = u128::from(units.unsigned_abs()) * u128::from(num) * 1_000_000_000;
        Duration::from_nanos(u64::try_from(nanos / u128::from(den)).unwrap_or(u64::MAX))
    };
    let table = rows
        .iter()
        .map(|(time, _, size)| (after(time - first), *size));
    Some((table.collect(), after(last - first + lasts.max(1))))
}

impl Source for ReplayEncoded {
    type Block = Picture;

    fn settings(&self) -> VideoSettings {
        self.settings
    }

    fn next(&mut self, into: &mut Picture) -> Result<(), Error> {
        if self.next == self.table.len() && self.asked.at_end == AtEnd::Loop {
            self.film = copy(&self.asked.file, &self.file, &PICTURES)?;
            self.start = self.start.plus(self.lasts);
            self.next = 0;
        }
        let Some((time, size)) = self.table.get(self.next) else {
            return Err(Error::Vanished {
                device: self.file.clone(),
                reason: "the film is over".into(),
            });
        };
        into.data.resize(*size, 0);
        self.film
            .output
            .read_exact(&mut into.data)
            .map_err(|error| ended(&self.file, &error))?;
        into.captured = self.start.plus(*time);
        into.sequence = self.sequence;
        self.sequence += 1;
        self.next += 1;
        clock::sleep_until(into.captured);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_times_is_read_and_one_out_of_order_refused() {
        let text = "#tb 0: 1/1000\n#x\n0, 0, 40, 40, 900, 0xaa\n0, 40, 90, 30, 7, 0xbb, F=0x0\n";
        let (table, lasts) = read_table(text).unwrap();
        let ms = Duration::from_millis;
        assert_eq!(table, [(ms(0), 900), (ms(50), 7)]);
        assert_eq!(lasts, ms(80));
        assert!(read_table(&text.replace("90, 30", "40, 30")).is_none());
        assert!(read_table("").is_none() && read_table("0, x").is_none());
    }
}
