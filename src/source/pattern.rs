//! The test pattern: colour bars, a moving block, a counter that a program can read back, and a flash.
//!
//! Its ticks lie on the origin of the monotonic clock, so picture `n` is captured `n` ticks after the
//! clock's zero and carries `n` (modulo 2^24). The picture nearest to each whole second is white but
//! for the counter; [`super::Tone`] clicks at that second. So flash and click coincide by capture time
//! (exactly at whole rates, within half a tick at others) though neither knows of the other.

use super::{Error, Losses, Source, VideoSettings};
use crate::board::PatternCamera;
use crate::clock;
use crate::media::{Monotonic, Picture, PictureLayout, PixelFormat, Rate};

/// Luma, Cb and Cr of 75 % bars (ITU-R BT.601).
const BARS: [[u8; 3]; 8] = [
    [180, 128, 128],
    [162, 44, 142],
    [131, 156, 44],
    [112, 72, 58],
    [84, 184, 198],
    [65, 100, 212],
    [35, 212, 114],
    [16, 128, 128],
];
const BLACK: u8 = 16;
const GREY: u8 = 90;
const WHITE: u8 = 235;
const NEUTRAL: u8 = 128;
/// Blocks of the counter: 24 bits of the number, then 8 that check them.
const BITS: usize = 32;
const NUMBER_BITS: u32 = 24;

/// The test pattern as a camera.
#[derive(Debug)]
pub struct Pattern {
    layout: PictureLayout,
    rate: Rate,
    /// What never changes: bars, bands and an empty counter.
    still: Vec<u8>,
    next_tick: Option<u64>,
    lost: u64,
}

impl Pattern {
    /// The pattern at the size and rate asked for; it can do any.
    pub fn open(settings: &PatternCamera) -> Self {
        let layout = PictureLayout::tight(settings.width, settings.height, PixelFormat::I420);
        Self {
            still: still(&layout),
            layout,
            rate: settings.rate,
            next_tick: None,
            lost: 0,
        }
    }

    /// Draws picture `tick` into `data`, which need not hold anything sensible.
    fn draw(&self, tick: u64, data: &mut Vec<u8>) {
        data.clear();
        data.extend_from_slice(&self.still);
        let (width, height) = (self.layout.width as usize, self.layout.height as usize);
        let (luma, chroma) = data.split_at_mut(width * height);
        let bands = Bands::of(height);
        if is_flash(self.rate, tick) {
            luma[..bands.counter * width].fill(WHITE);
            luma[bands.bottom * width..].fill(WHITE);
            chroma.fill(NEUTRAL);
        } else {
            let side = (bands.counter - bands.moving).min(width);
            // One crossing in about four seconds, whatever the width.
            let step = (width / 128).max(1) as u64;
            let left = (tick * step % (width - side + 1) as u64) as usize;
            for row in luma[bands.moving * width..bands.counter * width].chunks_exact_mut(width) {
                row[left..left + side].fill(WHITE);
            }
        }
        let word = with_check(tick as u32);
        let strip = &mut luma[bands.counter * width..bands.bottom * width];
        for row in strip.chunks_exact_mut(width) {
            for bit in 0..BITS {
                let on = word >> (BITS - 1 - bit) & 1 == 1;
                row[block(width, bit)].fill(if on { WHITE } else { BLACK });
            }
        }
    }
}

impl Source for Pattern {
    type Block = Picture;

    fn settings(&self) -> VideoSettings {
        VideoSettings {
            layout: self.layout,
            rate: self.rate,
        }
    }

    fn next(&mut self, into: &mut Picture) -> Result<(), Error> {
        // The tick that is still to come, even when the last one was drawn late.
        let upcoming = tick_after(self.rate, clock::now());
        let due = self.next_tick.unwrap_or(upcoming);
        let tick = due.max(upcoming.saturating_sub(1));
        self.lost += tick - due;
        self.next_tick = Some(tick + 1);
        into.captured = Monotonic::from_nanos(self.rate.tick_nanos(tick));
        into.sequence = tick;
        clock::sleep_until(into.captured);
        self.draw(tick, &mut into.data);
        Ok(())
    }

    fn losses(&self) -> Losses {
        Losses {
            lost: self.lost,
            damaged: 0,
        }
    }
}

/// The number burnt into a picture, from its luma plane (`stride` bytes per row); `None` when the
/// picture holds none or it cannot be read with certainty.
pub fn read_counter(luma: &[u8], width: usize, height: usize, stride: usize) -> Option<u32> {
    let bands = Bands::of(height);
    if width < BITS + 2 || stride < width || luma.len() < stride * (height - 1) + width {
        return None;
    }
    let tall = bands.bottom - bands.counter;
    let rows = bands.counter + tall / 4..bands.bottom - tall / 4;
    let mut word = 0;
    for bit in 0..BITS {
        let whole = block(width, bit);
        let columns = whole.start + whole.len() / 4..whole.end - whole.len() / 4;
        let (mut sum, mut points) = (0, 0);
        for row in rows.clone() {
            for point in &luma[row * stride..][columns.clone()] {
                sum += usize::from(*point);
                points += 1;
            }
        }
        word = word << 1 | u32::from(sum > 126 * points);
    }
    let number = word >> (BITS as u32 - NUMBER_BITS);
    (with_check(number) == word).then_some(number)
}

/// The number's low 24 bits, and below them 8 bits that a wrong, an all-white or an all-black strip
/// does not satisfy.
fn with_check(number: u32) -> u32 {
    let number = number & ((1 << NUMBER_BITS) - 1);
    let check = number.wrapping_add(1).wrapping_mul(0x9e37_79b1) >> NUMBER_BITS;
    number << (BITS as u32 - NUMBER_BITS) | check
}

/// Columns of block `bit`, with half a block of black at either end of the strip.
fn block(width: usize, bit: usize) -> std::ops::Range<usize> {
    let edge = |half_blocks: usize| width * half_blocks / (2 * (BITS + 1));
    edge(2 * bit + 1)..edge(2 * bit + 3)
}

/// Whether `tick` is the one nearest to a whole second.
fn is_flash(rate: Rate, tick: u64) -> bool {
    let half = rate.tick_nanos(1) / 2;
    (rate.tick_nanos(tick) + half) % 1_000_000_000 < rate.tick_nanos(1)
}

/// The first tick at or after `now`.
fn tick_after(rate: Rate, now: Monotonic) -> u64 {
    let units = u128::from(now.as_nanos()) * u128::from(rate.num());
    let per_tick = 1_000_000_000 * u128::from(rate.den());
    u64::try_from(units.div_ceil(per_tick)).unwrap_or(u64::MAX)
}

/// First rows of the bands below the bars.
struct Bands {
    moving: usize,
    counter: usize,
    bottom: usize,
}

impl Bands {
    fn of(height: usize) -> Self {
        let eighths = |n: usize| (height * n / 8) & !1;
        Self {
            moving: eighths(5),
            counter: eighths(6),
            bottom: eighths(7),
        }
    }
}

fn still(layout: &PictureLayout) -> Vec<u8> {
    let (width, height) = (layout.width as usize, layout.height as usize);
    let bands = Bands::of(height);
    let mut data = vec![NEUTRAL; layout.bytes()];
    let (luma, chroma) = data.split_at_mut(width * height);
    for (y, row) in luma.chunks_exact_mut(width).enumerate() {
        if y < bands.moving {
            for (x, point) in row.iter_mut().enumerate() {
                *point = BARS[x * BARS.len() / width][0];
            }
        } else {
            row.fill(if y < bands.counter { GREY } else { BLACK });
        }
    }
    let half = width / 2;
    let (cb, cr) = chroma.split_at_mut(half * height.div_ceil(2));
    for (plane, component) in [(cb, 1), (cr, 2)] {
        for row in plane.chunks_exact_mut(half).take(bands.moving / 2) {
            for (x, point) in row.iter_mut().enumerate() {
                *point = BARS[x * BARS.len() / half][component];
            }
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(width: u32, height: u32, rate: &str) -> Pattern {
        Pattern::open(&PatternCamera {
            width,
            height,
            rate: rate.parse().unwrap(),
        })
    }

    fn drawn(pattern: &Pattern, tick: u64) -> Vec<u8> {
        let mut data = Vec::new();
        pattern.draw(tick, &mut data);
        assert_eq!(data.len(), pattern.layout.bytes());
        data
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_counter_reads_back(width in 24u32..200, height in 12u32..100, tick in 0u64..1 << 24) {
            let pattern = pattern(2 * width, 2 * height, "30");
            let data = drawn(&pattern, tick);
            let (width, height) = (2 * width as usize, 2 * height as usize);
            prop_assert_eq!(read_counter(&data, width, height, width), Some(tick as u32));
        }

        #[test]
        fn a_wrong_bit_is_noticed(number in 0u32..1 << 24, bit in 0u32..32) {
            let wrong = with_check(number) ^ 1 << bit;
            prop_assert_ne!(with_check(wrong >> 8), wrong);
        }
    }

    #[test]
    fn a_picture_without_a_counter_has_none() {
        for shade in [0, 16, 128, 235, 255] {
            assert_eq!(read_counter(&vec![shade; 640 * 480], 640, 480, 640), None);
        }
        assert_eq!(read_counter(&[0; 10], 640, 480, 640), None);
    }

    #[test]
    fn one_picture_in_each_second_is_white_and_still_has_its_number() {
        for rate in ["30", "25", "30000/1001", "24000/1001", "50"] {
            let pattern = pattern(320, 180, rate);
            let mean = |tick| {
                let data = drawn(&pattern, tick);
                assert_eq!(read_counter(&data, 320, 180, 320), Some(tick as u32));
                data[..320 * 180].iter().map(|p| u32::from(*p)).sum::<u32>() / (320 * 180)
            };
            let first = tick_after(pattern.rate, Monotonic::from_nanos(99_500_000_000));
            let last = tick_after(pattern.rate, Monotonic::from_nanos(109_500_000_000));
            let flashes: Vec<u64> = (first..last).filter(|tick| mean(*tick) > 200).collect();
            assert_eq!(flashes.len(), 10, "{rate}");
            let half = pattern.rate.tick_nanos(1).div_ceil(2);
            for (second, tick) in (100u64..).zip(flashes) {
                let off = pattern
                    .rate
                    .tick_nanos(tick)
                    .abs_diff(second * 1_000_000_000);
                assert!(off <= half, "{rate}: {off} ns");
            }
        }
    }

    #[test]
    fn pictures_come_on_the_grid_into_the_same_buffer() {
        let mut pattern = pattern(64, 48, "100");
        let mut picture = <Picture as crate::source::Block>::empty();
        pattern.next(&mut picture).unwrap();
        let (first, buffer) = (picture.sequence, picture.data.as_ptr());
        for n in 1..5 {
            pattern.next(&mut picture).unwrap();
            assert_eq!(picture.captured.as_nanos(), picture.sequence * 10_000_000);
            assert!(picture.sequence >= first + n);
            assert!(clock::now() >= picture.captured);
            assert_eq!(picture.data.as_ptr(), buffer);
        }
    }
}
