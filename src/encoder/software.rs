//! H.264 in software: openh264 (BSD-2-Clause, Cisco), built from its bundled source.
//!
//! On x86 it needs nasm at build time, without which it is silently three times slower. It writes
//! Constrained Baseline, one slice per picture, no reordering. Pictures are never skipped; the bit
//! rate is kept by the quantiser alone. Where it puts an IDR on its own account (a new slide), that
//! picture is not called a keyframe, so that segments stay on the grid.

use super::convert::{Converter, Planes};
use super::{
    Config, Error, LEAST_BIT_RATE, MOST_BIT_RATE, ParameterSets, Scene, Stats, Tick, VideoEncoder,
};
use crate::media::{AccessUnit, PictureLayout, Rate};
use openh264::encoder::{
    BitRate, Complexity, EncodedBitStream, Encoder, EncoderConfig, FrameRate, FrameType,
    RateControlMode, UsageType,
};
use openh264::formats::YUVSource;
use openh264::{OpenH264API, Timestamp};

pub(super) const NAME: &str = "openh264";

/// NAL unit types (ITU-T H.264, table 7-1).
const SLICE: u8 = 1;
const IDR_SLICE: u8 = 5;
const SPS: u8 = 7;
const PPS: u8 = 8;

struct Software {
    config: Config,
    rate: Rate,
    size: (usize, usize),
    converter: Converter,
    encoder: Encoder,
    /// A picture was encoded: only then can a keyframe be asked for.
    begun: bool,
    /// A new bit rate waits for the next keyframe.
    renew: bool,
    parameters: Option<ParameterSets>,
    stats: Stats,
}

pub(super) fn open(
    config: &Config,
    layout: PictureLayout,
    rate: Rate,
) -> Result<Box<dyn VideoEncoder>, Error> {
    let (long, short) = (
        layout.width.max(layout.height),
        layout.width.min(layout.height),
    );
    if long > 3840 || short > 2160 {
        return Err(failed("takes at most 3840x2160"));
    }
    Ok(Box::new(Software {
        encoder: new_encoder(config, rate)?,
        config: config.clone(),
        rate,
        size: (layout.width as usize, layout.height as usize),
        converter: Converter::new(layout),
        begun: false,
        renew: false,
        parameters: None,
        stats: Stats::default(),
    }))
}

fn new_encoder(config: &Config, rate: Rate) -> Result<Encoder, Error> {
    let slides = config.scene == Scene::Slides;
    let settings = EncoderConfig::new()
        .usage_type(if slides {
            UsageType::ScreenContentRealTime
        } else {
            UsageType::CameraVideoRealTime
        })
        .rate_control_mode(RateControlMode::Bitrate)
        .bitrate(BitRate::from_bps(config.bit_rate))
        .max_frame_rate(FrameRate::from_hz(rate.num() as f32 / rate.den() as f32))
        .skip_frames(false)
        .complexity(Complexity::Low)
        // Screen content turns the first on and the others off by itself, with a warning.
        .scene_change_detect(slides)
        .adaptive_quantization(!slides)
        .background_detection(!slides)
        .num_threads(config.threads);
    Encoder::with_api_config(OpenH264API::from_source(), settings).map_err(failed)
}

fn failed(reason: impl ToString) -> Error {
    Error::Failed {
        encoder: NAME,
        reason: reason.to_string(),
    }
}

impl VideoEncoder for Software {
    fn encode(&mut self, picture: &[u8], tick: &Tick) -> Result<AccessUnit, Error> {
        if self.renew && tick.keyframe {
            // There is no safe way to tell a running encoder; a new one begins with a keyframe.
            self.encoder = new_encoder(&self.config, self.rate)?;
            (self.begun, self.renew) = (false, false);
        }
        let asked = tick.keyframe || !self.begun;
        if tick.keyframe && self.begun {
            self.encoder.force_intra_frame();
        }
        let source = Source {
            planes: self.converter.planes(picture)?,
            size: self.size,
        };
        let millis = tick.time.as_nanos(self.rate.timescale()).max(0) as u64 / 1_000_000;
        let stream = self
            .encoder
            .encode_at(&source, Timestamp::from_millis(millis))
            .map_err(failed)?;
        self.begun = true;
        let kind = stream.frame_type();
        if asked && kind != FrameType::IDR {
            return Err(failed("no keyframe where one was asked for"));
        }
        let data = repack(&stream, &mut self.parameters);
        if data.is_empty() {
            return Err(failed(format!("gave nothing for a picture ({kind:?})")));
        }
        let unit = AccessUnit {
            time: tick.time,
            duration: tick.duration,
            keyframe: asked,
            captured: tick.captured,
            data,
        };
        self.stats.count(&unit);
        Ok(unit)
    }

    fn parameters(&self) -> Option<&ParameterSets> {
        self.parameters.as_ref()
    }

    fn set_bit_rate(&mut self, bits_per_second: u32) {
        let bit_rate = bits_per_second.clamp(LEAST_BIT_RATE, MOST_BIT_RATE);
        self.renew |= bit_rate != self.config.bit_rate;
        self.config.bit_rate = bit_rate;
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn stats(&self) -> Stats {
        self.stats
    }
}

/// From start codes (ITU-T H.264, annex B) to lengths; parameter sets go to `parameters`.
fn repack(stream: &EncodedBitStream<'_>, parameters: &mut Option<ParameterSets>) -> Vec<u8> {
    let layers = || (0..stream.num_layers()).filter_map(|at| stream.layer(at));
    let bytes: usize = layers()
        .flat_map(|layer| {
            (0..layer.nal_count()).map(move |at| layer.nal_unit(at).map_or(0, <[u8]>::len))
        })
        .sum();
    let mut data = Vec::with_capacity(bytes + 4);
    let (mut sps, mut pps) = (None, None);
    for layer in layers() {
        for at in 0..layer.nal_count() {
            let Some(nal) = layer.nal_unit(at).and_then(without_start_code) else {
                continue;
            };
            match nal[0] & 0x1f {
                SLICE | IDR_SLICE => {
                    data.extend_from_slice(&(nal.len() as u32).to_be_bytes());
                    data.extend_from_slice(nal);
                }
                SPS => sps = Some(nal.to_vec()),
                PPS => pps = Some(nal.to_vec()),
                _ => {}
            }
        }
    }
    if let (Some(sps), Some(pps)) = (sps, pps) {
        *parameters = Some(ParameterSets { sps, pps });
    }
    data
}

/// The NAL unit behind its start code of three or four bytes; none for an empty one.
fn without_start_code(nal: &[u8]) -> Option<&[u8]> {
    let nal = nal.strip_prefix(&[0]).unwrap_or(nal);
    nal.strip_prefix(&[0, 0, 1]).filter(|nal| !nal.is_empty())
}

struct Source<'a> {
    planes: Planes<'a>,
    size: (usize, usize),
}

impl YUVSource for Source<'_> {
    fn dimensions(&self) -> (usize, usize) {
        self.size
    }

    fn strides(&self) -> (usize, usize, usize) {
        (
            self.planes.y_stride,
            self.planes.chroma_stride,
            self.planes.chroma_stride,
        )
    }

    fn y(&self) -> &[u8] {
        self.planes.y
    }

    fn u(&self) -> &[u8] {
        self.planes.u
    }

    fn v(&self) -> &[u8] {
        self.planes.v
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::open_video;
    use crate::media::{MediaTime, Monotonic, PixelFormat};

    const SIZE: (usize, usize) = (320, 192);

    /// A gradient that moves by `n` points; `scene` changes all of it.
    fn picture(n: usize, scene: usize) -> Vec<u8> {
        let (width, height) = SIZE;
        let mut bytes = vec![128; width * height * 3 / 2];
        for row in 0..height {
            for x in 0..width {
                let place = (x + n) ^ row.wrapping_mul(1 + 6 * scene);
                bytes[row * width + x] = 16 + (place % 200) as u8;
            }
        }
        bytes
    }

    fn opened(scene: Scene, bit_rate: u32) -> Box<dyn VideoEncoder> {
        let layout = PictureLayout::tight(SIZE.0 as u32, SIZE.1 as u32, PixelFormat::I420);
        let rate = Rate::new(30, 1).unwrap();
        let config = Config {
            bit_rate,
            ..Config::new(scene, layout, rate)
        };
        open_video(&config, layout, rate).unwrap()
    }

    fn tick(n: usize, keyframe: bool) -> Tick {
        Tick {
            time: MediaTime(n as i64 * 3000),
            duration: 3000,
            captured: Monotonic::from_nanos(n as u64),
            keyframe,
        }
    }

    /// The types of the NAL units of an access unit.
    fn types(mut data: &[u8]) -> Vec<u8> {
        let mut found = Vec::new();
        while let Some((length, rest)) = data.split_first_chunk::<4>() {
            let (nal, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
            found.push(nal[0] & 0x1f);
            data = rest;
        }
        assert!(data.is_empty());
        found
    }

    #[test]
    fn keyframes_come_when_asked_and_only_then() {
        for scene in [Scene::Camera, Scene::Slides] {
            let mut encoder = opened(scene, 500_000);
            assert_eq!(encoder.parameters(), None);
            for n in 0..40 {
                // The whole picture changes at 7 and 22, where no keyframe is asked for.
                let asked = n == 0 || n == 15 || n == 30;
                let changes = usize::from(n >= 7) + usize::from(n >= 22);
                let unit = encoder
                    .encode(&picture(n, changes), &tick(n, asked))
                    .unwrap();
                assert_eq!(unit.keyframe, asked, "{scene:?} {n}");
                if asked {
                    assert_eq!(types(&unit.data), [IDR_SLICE], "{scene:?} {n}");
                } else {
                    assert_eq!(types(&unit.data).len(), 1);
                }
                assert_eq!(
                    (unit.time, unit.captured),
                    (tick(n, asked).time, tick(n, asked).captured)
                );
            }
            let sets = encoder.parameters().unwrap();
            assert_eq!(sets.sps[..2], [0x67, 66], "{scene:?}: Baseline");
            assert_eq!(sets.sps[2] & 0x40, 0x40, "{scene:?}: Constrained");
            assert_eq!((encoder.stats().units, encoder.stats().keyframes), (40, 3));
        }
    }

    #[test]
    fn a_new_bit_rate_holds_from_the_next_keyframe() {
        let mut encoder = opened(Scene::Camera, 4_000_000);
        let mut bytes = [0; 2];
        for n in 0..120 {
            if n == 50 {
                encoder.set_bit_rate(1_000_000);
            }
            let unit = encoder
                .encode(&picture(n * 3, n % 4), &tick(n, n % 60 == 0))
                .unwrap();
            bytes[n / 60] += unit.data.len();
        }
        assert!(bytes[1] < bytes[0] / 2, "{bytes:?}");
    }

    #[test]
    fn a_short_picture_is_skipped_and_the_next_goes_on() {
        let mut encoder = opened(Scene::Camera, 500_000);
        let short = encoder.encode(&picture(0, 0)[1..], &tick(0, true));
        assert!(matches!(short, Err(Error::Short { .. })));
        assert!(
            encoder
                .encode(&picture(1, 0), &tick(1, false))
                .unwrap()
                .keyframe,
            "the first one"
        );
    }
}
