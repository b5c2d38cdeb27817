//! What a V4L2 device offers: to choose from, and to show to a person.

use super::found::{FoundCamera, Offer, Sizes, links};
use super::v4l2::{fourcc, open_error};
use crate::board::V4l2Camera;
use crate::media::{PixelFormat, Rate};
use crate::sys::captures_pictures;
use std::fs;
use std::path::{Path, PathBuf};
use v4l::Device;
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

/// Where udev keeps names that stay, the best first: those of ports, those of units, which two of a kind
/// may share, and those of our own rules, which two cameras share until a person tells them apart.
const STABLE: [&str; 3] = ["/dev/v4l/by-path", "/dev/v4l/by-id", "/dev/hallcast"];

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
    let mut sizes = sizes.iter().map(|offer| extent(&offer.size));
    sizes.any(|sizes| sizes.holds(width, height))
}

/// Sizes whose rates are not known yet.
fn extent(size: &FrameSizeEnum) -> Sizes {
    match size {
        FrameSizeEnum::Discrete(size) => Sizes::only(size.width, size.height, Vec::new()),
        FrameSizeEnum::Stepwise(range) => Sizes {
            smallest: (range.min_width, range.min_height),
            largest: (range.max_width, range.max_height),
            step: (range.step_width, range.step_height),
            rates: Vec::new(),
        },
    }
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

/// What the device gives, in its own order.
fn offers(node: &Device) -> Vec<Offer> {
    let offers = node.enum_formats().unwrap_or_default().into_iter();
    let offers = offers.map(|offer| {
        let listed = node.enum_framesizes(offer.fourcc).unwrap_or_default();
        let mut sizes: Vec<Sizes> = listed.iter().map(|size| extent(&size.size)).collect();
        // A grabber has the size of its signal, and lists none.
        if let (true, Ok(now)) = (sizes.is_empty(), node.format()) {
            sizes.push(Sizes::only(now.width, now.height, Vec::new()));
        }
        for size in &mut sizes {
            size.rates = rates(node, offer.fourcc, size.largest.0, size.largest.1);
        }
        let mut usable = USABLE.into_iter();
        Offer {
            format: name(offer.fourcc),
            pixels: usable.find(|pixels| fourcc(*pixels) == offer.fourcc),
            sizes,
        }
    });
    offers.collect()
}

/// A format's four letters; the top bit of the last one is how the kernel marks big endian.
fn name(fourcc: FourCC) -> String {
    let [a, b, c, d] = fourcc.repr;
    let letter = |byte: u8| match byte {
        b' '..=b'~' => char::from(byte),
        _ => '?',
    };
    let letters: String = [a, b, c, d & 0x7f].map(letter).iter().collect();
    let end = if d & 0x80 == 0 { "" } else { "-BE" };
    format!("{}{end}", letters.trim_end())
}

/// One line per format and size, `YUYV 1280x720: 30, 25`, and one for all that cannot be used here.
pub(super) fn table(node: &Device) -> Vec<String> {
    let mut lines = Vec::new();
    let mut useless = Vec::new();
    for offer in offers(node) {
        if offer.pixels.is_none() {
            useless.push(offer.format);
            continue;
        }
        for size in offer.sizes {
            let rates: Vec<String> = size.rates.iter().map(Rate::to_string).collect();
            lines.push(format!("{} {size}: {}", offer.format, rates.join(", ")));
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

/// The nodes that are cameras, or may be, without what they offer.
fn present() -> Vec<FoundCamera> {
    let entries = fs::read_dir("/sys/class/video4linux");
    let mut found = Vec::new();
    for entry in entries.into_iter().flatten().flatten() {
        let node = entry.file_name().to_string_lossy().into_owned();
        let device = Path::new("/dev").join(&node);
        if !node.starts_with("video") || !may_be_camera(&device) {
            continue;
        }
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        let on = fs::canonicalize(entry.path().join("device")).ok();
        let driver = on
            .as_ref()
            .and_then(|on| fs::canonicalize(on.join("driver")).ok());
        let file_name = |path: PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
        let on = on.map_or(String::new(), |on| on.display().to_string());
        found.push(FoundCamera {
            names: links(&STABLE, &device),
            device,
            name: name.trim().into(),
            driver: driver.and_then(file_name).unwrap_or_default(),
            port: on.trim_start_matches("/sys/devices/").into(),
            offers: Vec::new(),
            trouble: None,
        });
    }
    found.sort_by_key(|camera| (camera.device.as_os_str().len(), camera.device.clone()));
    found
}

/// The cameras that are present, and what they offer.
pub(super) fn found() -> Vec<FoundCamera> {
    let mut found = present();
    for camera in &mut found {
        match Device::with_path(&camera.device) {
            Ok(node) => camera.offers = offers(&node),
            Err(error) => {
                let name = camera.device.display().to_string();
                camera.trouble = Some(open_error(&name, "opening", &error));
            }
        }
    }
    found
}

/// The cameras that are present: their stable name, else the present one, and what they call
/// themselves.
pub(super) fn cameras() -> Vec<String> {
    let mut lines: Vec<String> = present()
        .iter()
        .map(|camera| {
            let path = camera.names.first().unwrap_or(&camera.device);
            format!("{} ({})", path.display(), camera.name)
        })
        .collect();
    lines.sort();
    lines
}

/// Codecs and the nodes of metadata have the same names as cameras. One that cannot be opened may be
/// a camera that is not permitted.
fn may_be_camera(path: &Path) -> bool {
    let offers = |node: Device| node.enum_formats().is_ok_and(|formats| !formats.is_empty());
    match captures_pictures(path) {
        Ok(captures) => captures && Device::with_path(path).is_ok_and(offers),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_a_name() {
        for (repr, expected) in [
            (b"YUYV", "YUYV"),
            (b"Y16 ", "Y16"),
            (b"AR1\xb5", "AR15-BE"),
            (b"\x01\xff2Z", "??2Z"),
        ] {
            assert_eq!(name(FourCC::new(repr)), expected);
        }
    }
}
