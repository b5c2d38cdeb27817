//! The fed devices without any box: what they deliver, by their own stamps.

use super::feeder::{Pointer, RATE, SIZE, seconds};
use super::support::film::clicks;
use alsa::pcm::{Access, Format as SampleFormat, Frames, HwParams, PCM, TstampType};
use alsa::{Direction, ValueOr};
use hallcast::clock;
use hallcast::media::Monotonic;
use std::time::Duration;
use v4l::buffer::Type;
use v4l::io::mmap::Stream;
use v4l::io::traits::CaptureStream;
use v4l::video::Capture;
use v4l::{Device, Format, FourCC};

const PERIOD: usize = 960;

/// The stamps, in seconds, of the white pictures that /dev/video`number` delivers until `end`.
pub fn flashes(number: u32, end: Monotonic) -> Vec<f64> {
    let device = Device::with_path(format!("/dev/video{number}")).unwrap();
    let format = Format::new(SIZE.0, SIZE.1, FourCC::new(b"YU12"));
    Capture::set_format(&device, &format).unwrap();
    let mut stream = Stream::with_buffers(&device, Type::VideoCapture, 4).unwrap();
    let top = (SIZE.0 * SIZE.1 / 3) as usize;
    let mut found = Vec::new();
    while clock::now() < end {
        let (picture, about) = stream.next().unwrap();
        if picture[..top].iter().all(|luma| *luma > 200) {
            found.push(about.timestamp.sec as f64 + about.timestamp.usec as f64 / 1e6);
        }
    }
    found
}

/// The instants, in seconds, of the clicks that `card` delivers until `end`, and how fast its clock
/// runs, in ppm.
pub fn heard(card: &str, end: Monotonic) -> (Vec<f64>, f64) {
    let pcm = PCM::new(&format!("hw:CARD={card},DEV=1"), Direction::Capture, false).unwrap();
    let hardware = HwParams::any(&pcm).unwrap();
    hardware.set_access(Access::RWInterleaved).unwrap();
    hardware.set_format(SampleFormat::S16LE).unwrap();
    hardware.set_channels(2).unwrap();
    hardware.set_rate(RATE as u32, ValueOr::Nearest).unwrap();
    hardware
        .set_period_size(PERIOD as Frames, ValueOr::Nearest)
        .unwrap();
    hardware.set_buffer_size(48_000).unwrap();
    pcm.hw_params(&hardware).unwrap();
    let software = pcm.sw_params_current().unwrap();
    software.set_tstamp_mode(true).unwrap();
    software.set_tstamp_type(TstampType::Monotonic).unwrap();
    pcm.sw_params(&software).unwrap();
    pcm.start().unwrap();
    let (mut left, mut pointer) = (Vec::new(), Pointer::default());
    let mut block = vec![0; 2 * PERIOD];
    while clock::now() < end {
        clock::sleep(Duration::from_millis(10));
        loop {
            let status = pcm.status().unwrap();
            let waiting = status.get_avail();
            let captured = left.len() as f64 + waiting as f64;
            if captured > 0.0 {
                pointer.add(seconds(&status.get_htstamp()), captured);
            }
            if waiting < PERIOD as Frames {
                break;
            }
            let frames = pcm.io_i16().unwrap().readi(&mut block).unwrap();
            left.extend(block[..2 * frames].chunks_exact(2).map(|pair| pair[0]));
        }
    }
    let found = clicks(&left);
    let at = |frame: &usize| pointer.time_of(*frame);
    (found.iter().map(at).collect(), pointer.ppm(0.0, f64::MAX))
}
