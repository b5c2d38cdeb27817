//! One picture, kept on request to aim the camera by.
//!
//! Nothing is kept of a camera unless the lamp shows capture: it is lit before the cameras open and until
//! the picture is kept, by a guard as the box's own. Where that fails no picture is kept.

use super::Line;
use super::devices::Shown;
use super::running::Running;
use crate::media::{PictureLayout, PixelFormat};
use crate::station::config::Config;
use crate::station::panel::{self, Lit, Panel};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Whether people before the camera can tell that a picture is kept.
pub(super) enum LampState {
    /// The board has none, or nothing is kept.
    None,
    /// It is lit as long as this lives.
    Lit(Lit),
    /// Why it cannot be lit.
    Dark(String),
}

/// Lights the board's lamp, where a picture is to be kept.
pub(super) fn lamp(config: &Config, file: Option<&Path>, running: &Running) -> LampState {
    let (Some(lines), Some(_), Running::No) = (config.lines(), file, running) else {
        return LampState::None;
    };
    let panel = Panel {
        lines: lines.clone(),
        raspberry_pi: config.raspberry_pi,
    };
    panel::light(&panel).map_or_else(LampState::Dark, LampState::Lit)
}

/// Keeps the picture, and says what came of it.
pub(super) fn line(
    file: &Path,
    track: &str,
    shown: Option<&Shown>,
    lamp: &LampState,
    running: &Running,
) -> Line {
    const WHAT: &str = "picture";
    if !matches!(running, Running::No) {
        let found = "none is kept: the running box holds the camera";
        return Line::wrong(
            WHAT,
            found,
            "stop the box first (`systemctl stop hallcast`)",
        );
    }
    let dark = match lamp {
        LampState::Dark(why) => Some(why.as_str()),
        LampState::Lit(lit) if !lit.is_held() => Some("its guard has ended"),
        LampState::Lit(_) | LampState::None => None,
    };
    if let Some(why) = dark {
        let found = format!("none is kept, because the lamp cannot be lit: {why}");
        return Line::wrong(WHAT, found, "mend the lamp: nothing is kept without it");
    }
    let Some(shown) = shown else {
        let found = format!("none is kept: the {track} camera gave none");
        return Line::wrong(
            WHAT,
            found,
            "mend the camera (above), or name the other with --of",
        );
    };
    let layout = shown.settings.layout;
    let Some(rows) = to_rgb(layout, &shown.picture.data) else {
        let found = "none is kept: the camera's pictures are encoded or too short";
        return Line::wrong(WHAT, found, "look at a recording instead");
    };
    let written = write(file, layout, &rows);
    let (name, size) = (
        file.display(),
        format!("{}x{}", layout.width, layout.height),
    );
    match written {
        Ok(()) => Line::ok(WHAT, format!("{name}: {size}, of the {track} camera")),
        Err(error) => {
            let next = "name a file in a directory that this user may write";
            Line::wrong(WHAT, format!("{name}: {error}"), next)
        }
    }
}

/// Writes a portable pixmap.
fn write(file: &Path, layout: PictureLayout, rgb: &[u8]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(file)?);
    write!(file, "P6\n{} {}\n255\n", layout.width, layout.height)?;
    file.write_all(rgb)?;
    file.flush()
}

/// Red, green and blue of each point, row by row; `None` where the bytes are no such picture.
fn to_rgb(layout: PictureLayout, data: &[u8]) -> Option<Vec<u8>> {
    let (width, height) = (layout.width as usize, layout.height as usize);
    let stride = layout.stride as usize;
    if layout.bytes() == 0 || data.len() < layout.bytes() {
        return None;
    }
    let mut rgb = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            let luma = y * stride + x;
            let half = stride / 2;
            let (luma, u, v) = match layout.pixels {
                PixelFormat::I420 => {
                    let u = stride * height + y / 2 * half + x / 2;
                    (luma, u, u + half * height.div_ceil(2))
                }
                PixelFormat::Nv12 => {
                    let u = stride * height + y / 2 * stride + x / 2 * 2;
                    (luma, u, u + 1)
                }
                PixelFormat::Yuyv => {
                    let pair = y * stride + x / 2 * 4;
                    (pair + x % 2 * 2, pair + 1, pair + 3)
                }
                PixelFormat::H264 => return None,
            };
            rgb.extend(point(*data.get(luma)?, *data.get(u)?, *data.get(v)?));
        }
    }
    Some(rgb)
}

/// ITU-R BT.601 with levels from 16 to 235, in 256ths.
fn point(y: u8, u: u8, v: u8) -> [u8; 3] {
    let (y, u, v) = (
        298 * (i32::from(y) - 16),
        i32::from(u) - 128,
        i32::from(v) - 128,
    );
    let level = |sum: i32| ((sum + 128) >> 8).clamp(0, 255) as u8;
    [
        level(y + 409 * v),
        level(y - 100 * u - 208 * v),
        level(y + 516 * u),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two by two points of one colour.
    fn of(pixels: PixelFormat, y: u8, u: u8, v: u8) -> Vec<u8> {
        let data = match pixels {
            PixelFormat::Yuyv => [y, u, y, v].repeat(2),
            _ => vec![y, y, y, y, u, v],
        };
        to_rgb(PictureLayout::tight(2, 2, pixels), &data).unwrap()
    }

    #[test]
    fn colours_come_out_of_every_layout() {
        for pixels in [PixelFormat::I420, PixelFormat::Nv12, PixelFormat::Yuyv] {
            assert_eq!(of(pixels, 235, 128, 128), [255; 12], "white");
            assert_eq!(of(pixels, 16, 128, 128), [0; 12], "black");
            let red = of(pixels, 81, 90, 240);
            assert!(
                red[0] > 250 && red[1] < 5 && red[2] < 5,
                "{pixels:?}: {red:?}"
            );
            assert!(to_rgb(PictureLayout::tight(2, 2, pixels), &[0; 5]).is_none());
        }
        assert!(to_rgb(PictureLayout::tight(2, 2, PixelFormat::H264), &[0; 99]).is_none());
    }

    #[test]
    fn without_its_lamp_no_picture_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("p.ppm");
        let shown = Shown {
            track: "presenter",
            settings: crate::source::VideoSettings {
                layout: PictureLayout::tight(2, 2, PixelFormat::I420),
                rate: crate::media::Rate::new(30, 1).unwrap(),
            },
            picture: crate::media::Picture {
                captured: crate::media::Monotonic::default(),
                sequence: 0,
                data: vec![235, 235, 235, 235, 128, 128],
            },
        };
        let keep = |lamp| line(&file, "presenter", Some(&shown), &lamp, &Running::No);
        assert!(
            keep(LampState::Dark("no chip".into()))
                .found
                .contains("the lamp cannot be lit: no chip")
        );
        assert!(!file.exists());
        println!("{}", keep(LampState::None));
        let mut expected = b"P6\n2 2\n255\n".to_vec();
        expected.extend([255; 12]);
        assert_eq!(std::fs::read(&file).unwrap(), expected);
    }
}
