//! The encoders: which one opens for each camera, and whether it keeps up.

use super::Line;
use super::running::Running;
use crate::clock;
use crate::encoder::{self, Scene, Tick, open_video};
use crate::media::{MediaTime, Monotonic, PictureLayout, PixelFormat, Rate};
use crate::source::{self, VideoSettings};
use crate::station::config::Config;
use std::time::Duration;

/// Pictures of a second are encoded, and no longer than this.
const LONGEST: Duration = Duration::from_secs(2);
/// Different pictures, in turn.
const DIFFERENT: usize = 6;
/// An encoder this much faster than real time has something left for the rest of the box.
const AMPLE: f64 = 1.5;

/// An encoder at work.
#[derive(Debug)]
pub(in crate::station) struct Speed {
    pub(in crate::station) name: &'static str,
    /// Seconds of pictures encoded in a second.
    pub(in crate::station) times: f64,
}

pub(super) fn lines(
    config: &Config,
    layouts: &[(&'static str, VideoSettings)],
    running: &Running,
) -> Vec<Line> {
    if running.is_recording() {
        return Vec::new();
    }
    let mut speeds = Vec::new();
    let tracks = [
        ("presenter", Scene::Camera, &config.presenter),
        ("slides", Scene::Slides, &config.slides),
    ];
    for (name, scene, track) in tracks {
        let Some(track) = track
            .as_ref()
            .filter(|track| !track.camera.is_passthrough())
        else {
            continue;
        };
        let opened = layouts.iter().find(|(of, _)| *of == name);
        let settings = opened.map(|(_, settings)| *settings);
        let Some(settings) = settings.or_else(|| source::expected(&track.camera)) else {
            continue;
        };
        let rate = track.rate.unwrap_or(settings.rate);
        speeds.push((name, measure(scene, track.bit_rate, settings.layout, rate)));
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    judge(&speeds, cores)
}

/// Encodes a second of pictures.
pub(in crate::station) fn measure(
    scene: Scene,
    bit_rate: Option<u32>,
    layout: PictureLayout,
    rate: Rate,
) -> Result<Speed, encoder::Error> {
    let mut config = encoder::Config::new(scene, layout, rate);
    config.bit_rate = bit_rate.unwrap_or(config.bit_rate);
    let mut encoder = open_video(&config, layout, rate)?;
    let pictures: Vec<Vec<u8>> = (0..DIFFERENT).map(|n| picture(layout, n)).collect();
    let wanted = rate.ticks_covering(Duration::from_secs(1)).max(1);
    let began = clock::now();
    let mut done = 0;
    while done < wanted && (done == 0 || clock::now().since(began) < LONGEST) {
        let units = rate.tick_units();
        let tick = Tick {
            time: MediaTime(i64::from(units).saturating_mul(done as i64)),
            duration: units,
            captured: Monotonic::from_nanos(rate.tick_nanos(done)),
            keyframe: done == 0,
        };
        let which = done as usize % pictures.len();
        encoder.encode(&pictures[which], &tick)?;
        done += 1;
    }
    let took = clock::now().since(began).as_secs_f64().max(1e-6);
    Ok(Speed {
        name: encoder.name(),
        times: rate.tick_nanos(done) as f64 / 1e9 / took,
    })
}

/// A picture with edges and grain that moves from one to the next, as a person before a wall does.
fn picture(layout: PictureLayout, n: usize) -> Vec<u8> {
    let (stride, height) = (layout.stride as usize, layout.height as usize);
    let mut bytes = vec![128; layout.bytes()];
    let step = match layout.pixels {
        PixelFormat::Yuyv => 2,
        PixelFormat::I420 | PixelFormat::Nv12 | PixelFormat::H264 => 1,
    };
    let mut grain = 1 + n as u32;
    for (y, row) in bytes.chunks_mut(stride.max(1)).take(height).enumerate() {
        for (x, point) in row.iter_mut().step_by(step).enumerate() {
            grain = grain.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let figure = ((x + 8 * n) / 64).is_multiple_of(3) && (y / 48).is_multiple_of(2);
            let shade = if figure {
                60
            } else {
                120 + (y / 16) as u8 % 64
            };
            *point = shade + (grain >> 30) as u8;
        }
    }
    bytes
}

fn judge(speeds: &[(&str, Result<Speed, encoder::Error>)], cores: usize) -> Vec<Line> {
    let next = "choose a smaller size or rate in the board's file, or a faster machine";
    // Cores that all tracks together keep busy.
    let busy: f64 = speeds
        .iter()
        .filter_map(|(_, speed)| speed.as_ref().ok())
        .map(|speed| 1.0 / speed.times)
        .sum();
    let judge = |track: &str, speed: &Result<Speed, encoder::Error>| {
        let what = format!("{track} encoder");
        let speed = match speed {
            Ok(speed) => speed,
            Err(error) => {
                let next = "install the build with the software encoder, or use a camera that encodes \
                            (`pixels = \"H264\"`)";
                return Line::wrong(what, error.to_string(), next);
            }
        };
        let found = format!("{}: {:.1} times as fast as needed", speed.name, speed.times);
        if speed.times < 1.0 {
            let found = format!("{found}: it does not keep up");
            Line::wrong(what, found, next)
        } else if busy > cores as f64 {
            let found = format!("{found}, but all together need {busy:.1} of {cores} cores");
            Line::wrong(what, found, next)
        } else if speed.times < AMPLE {
            Line::warn(what, format!("{found}: just so"), next)
        } else {
            Line::ok(what, found)
        }
    };
    let lines = speeds.iter();
    lines.map(|(track, speed)| judge(track, speed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::station::check::Verdict;

    #[test]
    fn an_encoder_that_does_not_keep_up_is_wrong() {
        let of = |times: &[f64], cores| -> Vec<Verdict> {
            let speed = |times: &f64| {
                let name = "any";
                (
                    "presenter",
                    Ok(Speed {
                        name,
                        times: *times,
                    }),
                )
            };
            let speeds: Vec<_> = times.iter().map(speed).collect();
            judge(&speeds, cores)
                .iter()
                .map(|line| line.verdict)
                .collect()
        };
        assert_eq!(of(&[4.0], 1), [Verdict::Ok]);
        assert_eq!(of(&[1.2], 1), [Verdict::Warn]);
        assert_eq!(of(&[0.9], 4), [Verdict::Wrong]);
        assert_eq!(of(&[1.9, 1.9], 2), [Verdict::Ok; 2]);
        assert_eq!(of(&[1.9, 1.9], 1), [Verdict::Wrong; 2], "one core for both");
        let none = encoder::Error::Unsupported("x".into());
        assert_eq!(
            judge(&[("slides", Err(none))], 4)[0].verdict,
            Verdict::Wrong
        );
    }

    #[cfg(feature = "software")]
    #[test]
    fn generated_pictures_are_encoded_in_every_layout() {
        let rate = Rate::new(30, 1).unwrap();
        for pixels in [PixelFormat::I420, PixelFormat::Nv12, PixelFormat::Yuyv] {
            let layout = PictureLayout::tight(320, 180, pixels);
            assert_ne!(picture(layout, 0), picture(layout, 1));
            let speed = measure(Scene::Camera, None, layout, rate).unwrap();
            println!("{pixels:?}: {speed:?}");
            assert!(speed.times > 0.0);
        }
    }
}
