//! What a V4L2 device offers: to choose from, and to show to a person.

use super::v4l2::fourcc;
use crate::board::V4l2Camera;
use crate::media::{PixelFormat, Rate};
use std::fs;
use v4l::Device;
use v4l::capability::Flags as CapFlags;
use v4l::format::FourCC;
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::video::Capture;

/// The formats that we can use, the best first.
const USABLE: [PixelFormat; 4] = [
    PixelFormat::I420,
    PixelFormat::Nv12,
    PixelFormat::Yuyv,
    PixelFormat::H264,
];

/// The longest table and the longest list of useless formats that help.
const LINES: usize = 40;
const USELESS: usize = 8;

/// The format in which `node` offers the asked size at the rate nearest to the asked one.
pub(super) fn choose(node: &Device, asked: &V4l2Camera) -> Option<PixelFormat> {
    let offered = node.enum_formats().unwrap_or_default();
    let far = |pixels: &PixelFormat| {
        let rates = rates(node, fourcc(*pixels), asked.width, asked.height);
        rates.iter().map(|rate| distance(*rate, asked.rate)).min()
    };
    USABLE
        .into_iter()
        .filter(|pixels| match asked.pixels {
            Some(wanted) => wanted == *pixels,
            // What a camera encodes is passed on unchanged: only who asks for it gets that.
            None => *pixels != PixelFormat::H264,
        })
        .filter(|pixels| offered.iter().any(|o| o.fourcc == fourcc(*pixels)))
        .filter(|pixels| has_size(node, fourcc(*pixels), asked.width, asked.height))
        // `min_by_key` takes the first of equals; a driver that lists no rates may do any.
        .min_by_key(|pixels| far(pixels).unwrap_or(0))
}

/// How far two rates are apart, in nanoseconds of their intervals.
fn distance(a: Rate, b: Rate) -> u64 {
    a.tick_nanos(1).abs_diff(b.tick_nanos(1))
}

fn has_size(node: &Device, fourcc: FourCC, width: u32, height: u32) -> bool {
    // A driver that lists no sizes is asked by setting one.
    let Ok(sizes) = node.enum_framesizes(fourcc) else {
        return true;
    };
    sizes.iter().any(|offer| match &offer.size {
        FrameSizeEnum::Discrete(size) => (size.width, size.height) == (width, height),
        FrameSizeEnum::Stepwise(range) => {
            on_step(width, range.min_width, range.max_width, range.step_width)
                && on_step(
                    height,
                    range.min_height,
                    range.max_height,
                    range.step_height,
                )
        }
    })
}

fn on_step(value: u32, min: u32, max: u32, step: u32) -> bool {
    (min..=max).contains(&value) && (value - min).is_multiple_of(step.max(1))
}

/// The rates at one size; of a range its ends.
fn rates(node: &Device, fourcc: FourCC, width: u32, height: u32) -> Vec<Rate> {
    let intervals = node.enum_frameintervals(fourcc, width, height);
    intervals
        .unwrap_or_default()
        .into_iter()
        .flat_map(|offer| match offer.interval {
            FrameIntervalEnum::Discrete(interval) => vec![interval],
            FrameIntervalEnum::Stepwise(range) => vec![range.min, range.max],
        })
        .filter_map(|interval| Rate::new(interval.denominator, interval.numerator).ok())
        .collect()
}

/// One line per format and size, `YUYV 1280x720: 30, 25`, and one for all that cannot be used here.
pub(super) fn table(node: &Device) -> Vec<String> {
    let mut lines = Vec::new();
    let mut useless = Vec::new();
    for offer in node.enum_formats().unwrap_or_default() {
        let usable = USABLE.iter().any(|pixels| fourcc(*pixels) == offer.fourcc);
        if !usable {
            useless.push(offer.fourcc.to_string());
            continue;
        }
        for size in node.enum_framesizes(offer.fourcc).unwrap_or_default() {
            let (text, width, height) = match size.size {
                FrameSizeEnum::Discrete(size) => (
                    format!("{}x{}", size.width, size.height),
                    size.width,
                    size.height,
                ),
                FrameSizeEnum::Stepwise(range) => (
                    format!(
                        "{}x{} to {}x{} in steps of {}x{}",
                        range.min_width,
                        range.min_height,
                        range.max_width,
                        range.max_height,
                        range.step_width,
                        range.step_height
                    ),
                    range.max_width,
                    range.max_height,
                ),
            };
            let rates: Vec<String> = rates(node, offer.fourcc, width, height)
                .iter()
                .map(Rate::to_string)
                .collect();
            lines.push(format!("{} {text}: {}", offer.fourcc, rates.join(", ")));
        }
    }
    shorten(&mut lines, LINES);
    if !useless.is_empty() {
        shorten(&mut useless, USELESS);
        lines.push(format!("not usable here: {}", useless.join(", ")));
    }
    if lines.is_empty() {
        lines.push("nothing: it is no camera".into());
    }
    lines
}

fn shorten(list: &mut Vec<String>, longest: usize) {
    if list.len() > longest {
        let more = list.len() - longest;
        list.truncate(longest);
        list.push(format!("and {more} more"));
    }
}

/// The cameras that are present: their stable name, else the present one, and what they call
/// themselves.
pub(super) fn cameras() -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir("/sys/class/video4linux")
        .into_iter()
        .flatten()
        .flatten()
    {
        let node = entry.file_name().to_string_lossy().into_owned();
        if !node.starts_with("video") {
            continue;
        }
        if !may_be_camera(&format!("/dev/{node}")) {
            continue;
        }
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        let stable = fs::read_dir("/dev/v4l/by-path")
            .into_iter()
            .flatten()
            .flatten()
            .map(|link| link.path())
            .find(|link| fs::read_link(link).is_ok_and(|target| target.ends_with(&node)));
        let path = stable.map_or(format!("/dev/{node}"), |path| path.display().to_string());
        lines.push(format!("{path} ({})", name.trim()));
    }
    lines.sort();
    lines
}

/// Codecs and the nodes of metadata have the same names as cameras. One that cannot be opened may be
/// a camera that is not permitted.
fn may_be_camera(path: &str) -> bool {
    let Ok(node) = Device::with_path(path) else {
        return true;
    };
    let captures = |caps: v4l::Capabilities| caps.capabilities.contains(CapFlags::VIDEO_CAPTURE);
    node.query_caps().is_ok_and(captures) && node.enum_formats().is_ok_and(|f| !f.is_empty())
}
