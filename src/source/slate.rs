//! A picture that says in words that a camera gives none.
//!
//! Light letters on dark blue, centred, as large as whole points of the font allow: a viewer shall
//! not take it for a black picture, and shall read it in a small window.

use crate::media::{PictureLayout, PixelFormat};
use embedded_graphics::mono_font::ascii::{FONT_6X10, FONT_10X20};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::prelude::{DrawTarget, Drawable, OriginDimensions, Pixel, Point, Size};
use embedded_graphics::text::{Baseline, Text};
use std::convert::Infallible;

/// Luma of the letters and of the ground, and the Cb and Cr of both (ITU-R BT.601).
const LETTERS: u8 = 225;
const GROUND: u8 = 49;
const CHROMA: [u8; 2] = [144, 119];

/// The text may take so much of the picture, in hundredths.
const WIDTH: usize = 86;
const HEIGHT: usize = 80;
/// The first line is so much larger than the others.
const HEADLINE: usize = 2;

/// Draws a slate with these lines, the first one larger, as a picture of this layout.
pub fn slate(layout: PictureLayout, lines: &[&str]) -> Vec<u8> {
    let (width, height) = (layout.width as usize, layout.height as usize);
    let mut picture = Canvas {
        layout,
        bytes: ground(layout),
    };
    let lines: Vec<Line> = lines
        .iter()
        .enumerate()
        .map(|(at, text)| Line {
            text,
            scale: if at == 0 { HEADLINE } else { 1 },
        })
        .collect();
    let fits = |font: &MonoFont<'_>| {
        let widest = lines.iter().map(|line| line.width(font)).max();
        let all: usize = lines.iter().map(|line| line.height(font)).sum();
        let across = width * WIDTH / 100 / widest.unwrap_or(1).max(1);
        across.min(height * HEIGHT / 100 / all.max(1))
    };
    let (font, scale) = match fits(&FONT_10X20) {
        // Less than the small font could do, or nothing at all.
        0 => (&FONT_6X10, fits(&FONT_6X10).max(1)),
        scale => (&FONT_10X20, scale),
    };
    let all: usize = lines.iter().map(|line| line.height(font)).sum();
    let mut top = height.saturating_sub(all * scale) / 2;
    for line in &lines {
        let left = width.saturating_sub(line.width(font) * scale) / 2;
        line.draw(font, scale, (left, top), &mut picture);
        top += line.height(font) * scale;
    }
    picture.bytes
}

struct Line<'a> {
    text: &'a str,
    scale: usize,
}

impl Line<'_> {
    fn width(&self, font: &MonoFont<'_>) -> usize {
        self.text.chars().count() * font.character_size.width as usize * self.scale
    }

    /// A fifth of it is the distance to the next line.
    fn height(&self, font: &MonoFont<'_>) -> usize {
        font.character_size.height as usize * self.scale * 6 / 5
    }

    fn draw(&self, font: &MonoFont<'_>, scale: usize, at: (usize, usize), on: &mut Canvas) {
        let mut letters = Letters {
            side: self.scale * scale,
            at,
            on,
        };
        let style = MonoTextStyle::new(font, BinaryColor::On);
        let text = Text::with_baseline(self.text, Point::zero(), style, Baseline::Top);
        let Ok(_) = text.draw(&mut letters);
    }
}

/// The picture without text.
fn ground(layout: PictureLayout) -> Vec<u8> {
    let luma = layout.stride as usize * layout.height as usize;
    let mut bytes = vec![GROUND; layout.bytes()];
    let [cb, cr] = CHROMA;
    match layout.pixels {
        PixelFormat::I420 => {
            let chroma = bytes.get_mut(luma..).unwrap_or_default();
            let half = chroma.len() / 2;
            let (u, v) = chroma.split_at_mut(half);
            u.fill(cb);
            v.fill(cr);
        }
        PixelFormat::Nv12 => {
            let chroma = bytes.get_mut(luma..).unwrap_or_default();
            for pair in chroma.as_chunks_mut::<2>().0 {
                *pair = CHROMA;
            }
        }
        PixelFormat::Yuyv => {
            for pair in bytes.as_chunks_mut::<4>().0 {
                *pair = [GROUND, cb, GROUND, cr];
            }
        }
        // Of a camera that encodes there is no slate: its pictures are not made here.
        PixelFormat::H264 => {}
    }
    bytes
}

struct Canvas {
    layout: PictureLayout,
    bytes: Vec<u8>,
}

impl Canvas {
    /// Lights a square of points, as far as it lies in the picture.
    fn light(&mut self, left: usize, top: usize, side: usize) {
        let (width, height) = (self.layout.width as usize, self.layout.height as usize);
        // From luma to luma, in bytes.
        let step = match self.layout.pixels {
            PixelFormat::I420 | PixelFormat::Nv12 | PixelFormat::H264 => 1,
            PixelFormat::Yuyv => 2,
        };
        for y in top..(top + side).min(height) {
            let row = y * self.layout.stride as usize;
            for x in left..(left + side).min(width) {
                if let Some(luma) = self.bytes.get_mut(row + x * step) {
                    *luma = LETTERS;
                }
            }
        }
    }
}

/// Where a line of text is drawn: each point of the font is a square of the picture.
struct Letters<'a> {
    side: usize,
    at: (usize, usize),
    on: &'a mut Canvas,
}

impl OriginDimensions for Letters<'_> {
    fn size(&self) -> Size {
        let side = self.side.max(1) as u32;
        Size::new(self.on.layout.width / side, self.on.layout.height / side)
    }
}

impl DrawTarget for Letters<'_> {
    type Color = BinaryColor;
    type Error = Infallible;

    fn draw_iter<I>(&mut self, points: I) -> Result<(), Infallible>
    where
        I: IntoIterator<Item = Pixel<BinaryColor>>,
    {
        for Pixel(point, colour) in points {
            if let (Ok(x), Ok(y), BinaryColor::On) =
                (usize::try_from(point.x), usize::try_from(point.y), colour)
            {
                let (left, top) = (self.at.0 + x * self.side, self.at.1 + y * self.side);
                self.on.light(left, top, self.side);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINES: [&str; 3] = ["No signal", "from the presenter camera", "since 10:41"];

    /// The luma of each point, row by row.
    fn lumas(layout: PictureLayout, bytes: &[u8]) -> Vec<Vec<u8>> {
        let step = if layout.pixels == PixelFormat::Yuyv {
            2
        } else {
            1
        };
        (0..layout.height as usize)
            .map(|row| {
                let row = &bytes[row * layout.stride as usize..];
                (0..layout.width as usize).map(|x| row[x * step]).collect()
            })
            .collect()
    }

    #[test]
    fn the_text_fills_the_picture_whatever_its_size() {
        // The least share of the width that the widest line takes.
        for (width, height, least) in [
            (320, 180, 75),
            (640, 360, 75),
            (1280, 720, 75),
            (1920, 1080, 75),
        ] {
            let layout = PictureLayout::tight(width, height, PixelFormat::I420);
            let rows = lumas(layout, &slate(layout, &LINES));
            let lit = |x: &usize| rows.iter().any(|row| row[*x] == LETTERS);
            let columns: Vec<usize> = (0..width as usize).filter(lit).collect();
            let tall = rows.iter().filter(|row| row.contains(&LETTERS)).count();
            let (left, right) = (columns[0], columns[columns.len() - 1]);
            println!("{width}x{height}: columns {left} to {right}, {tall} rows with letters");
            assert!(100 * (right - left) > least * width as usize, "{width}");
            assert!(
                left.abs_diff(width as usize - 1 - right) <= width as usize / 50,
                "centred"
            );
            assert!(100 * tall > 25 * height as usize, "{tall} of {height}");
        }
    }

    proptest! {
        #[test]
        fn every_layout_shows_the_same_and_tiny_ones_do_no_harm(
            width in 8u32..700, height in 8u32..400, padding in 0u32..20,
            pixels in prop::sample::select(vec![PixelFormat::I420, PixelFormat::Nv12, PixelFormat::Yuyv]),
        ) {
            let plain = PictureLayout::tight(2 * width, 2 * height, PixelFormat::I420);
            let mut layout = PictureLayout::tight(2 * width, 2 * height, pixels);
            layout.stride += 2 * padding;
            let bytes = slate(layout, &LINES);
            prop_assert_eq!(bytes.len(), layout.bytes());
            let rows = lumas(layout, &bytes);
            prop_assert!(rows == lumas(plain, &slate(plain, &LINES)));
            prop_assert!(rows.iter().flatten().any(|luma| *luma == LETTERS));
            prop_assert!(rows.iter().flatten().all(|luma| *luma == LETTERS || *luma == GROUND));
        }
    }
}
