//! Which encoders there are, and the order in which they are tried.

use super::{
    AudioConfig, AudioEncoder, Config, Error, LEAST_BIT_RATE, MOST_BIT_RATE, VideoEncoder,
};
#[cfg(feature = "software")]
use super::{aac, software};
use crate::media::{PictureLayout, PixelFormat, Rate};

type OpenVideo = fn(&Config, PictureLayout, Rate) -> Result<Box<dyn VideoEncoder>, Error>;
type OpenAudio = fn(&AudioConfig) -> Result<Box<dyn AudioEncoder>, Error>;

/// Encoders of pictures in the order in which they are tried.
const VIDEO: &[(&str, OpenVideo)] = &[
    #[cfg(feature = "software")]
    (software::NAME, software::open),
];

/// Encoders of sound in the order in which they are tried.
const AUDIO: &[(&str, OpenAudio)] = &[
    #[cfg(feature = "software")]
    (aac::NAME, aac::open),
];

/// The encoders that are built in, in the order in which they are tried: of pictures, and of sound.
pub fn names() -> (Vec<&'static str>, Vec<&'static str>) {
    let pictures = VIDEO.iter().map(|(name, _)| *name).collect();
    let sound = AUDIO.iter().map(|(name, _)| *name).collect();
    (pictures, sound)
}

/// Opens the first encoder that takes pictures of this layout and rate.
pub fn open_video(
    config: &Config,
    layout: PictureLayout,
    rate: Rate,
) -> Result<Box<dyn VideoEncoder>, Error> {
    check(config, layout)?;
    let what = format!(
        "pictures of {}x{} at {rate} per second",
        layout.width, layout.height
    );
    first_that_opens(VIDEO, what, |open| open(config, layout, rate))
}

/// Opens the first encoder that takes sound of this kind.
pub fn open_audio(config: &AudioConfig) -> Result<Box<dyn AudioEncoder>, Error> {
    if !(1..=2).contains(&config.channels) || !(16_000..=320_000).contains(&config.bit_rate) {
        return Err(Error::Unsupported(format!(
            "sound of {} channels at {} bits per second: 1 or 2 channels at 16000 to 320000 are taken",
            config.channels, config.bit_rate
        )));
    }
    let what = format!("sound of {} channels", config.channels);
    first_that_opens(AUDIO, what, |open| open(config))
}

fn first_that_opens<Open: Copy, Encoder>(
    table: &[(&'static str, Open)],
    what: String,
    open: impl Fn(Open) -> Result<Encoder, Error>,
) -> Result<Encoder, Error> {
    let mut tried = Vec::new();
    for (name, candidate) in table {
        match open(*candidate) {
            Ok(encoder) => return Ok(encoder),
            Err(Error::Failed { reason, .. }) => tried.push((*name, reason)),
            Err(other) => tried.push((*name, other.to_string())),
        }
    }
    Err(Error::NoEncoder { what, tried })
}

/// Refuses what H.264 in 4:2:0 or the layout's own arithmetic cannot hold.
fn check(config: &Config, layout: PictureLayout) -> Result<(), Error> {
    let PictureLayout {
        width,
        height,
        pixels,
        stride,
    } = layout;
    let refuse = |why: &str| {
        Err(Error::Unsupported(format!(
            "pictures of {width}x{height} ({pixels:?}, {stride} bytes per row): {why}"
        )))
    };
    if pixels == PixelFormat::H264 {
        return refuse("they are encoded already");
    }
    if !width.is_multiple_of(2) || !height.is_multiple_of(2) {
        return refuse("width and height must be even; choose another size of the camera");
    }
    if width.min(height) < 16 || width.max(height) > 8192 {
        return refuse("width and height must be from 16 to 8192");
    }
    if (stride as usize) < pixels.tight_stride(width as usize) || !stride.is_multiple_of(2) {
        return refuse("a row must hold its points and an even number of bytes");
    }
    if !(LEAST_BIT_RATE..=MOST_BIT_RATE).contains(&config.bit_rate) || config.threads == 0 {
        return refuse(
            "the bit rate must be from 50000 to 100000000 per second, with at least one thread",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::Scene;

    #[test]
    fn odd_or_absurd_pictures_are_refused_with_the_reason() {
        let rate = Rate::new(30, 1).unwrap();
        let cases = [
            (PictureLayout::tight(641, 360, PixelFormat::I420), "even"),
            (
                PictureLayout::tight(640, 14, PixelFormat::I420),
                "16 to 8192",
            ),
            (
                PictureLayout {
                    stride: 600,
                    ..PictureLayout::tight(640, 360, PixelFormat::Nv12)
                },
                "row",
            ),
        ];
        for (layout, reason) in cases {
            let error = open_video(&Config::new(Scene::Camera, layout, rate), layout, rate)
                .err()
                .unwrap();
            assert!(
                matches!(&error, Error::Unsupported(text) if text.contains(reason)),
                "{error}"
            );
        }
        assert!(matches!(
            open_audio(&AudioConfig::new(6)),
            Err(Error::Unsupported(_))
        ));
    }

    #[test]
    fn a_table_where_nothing_opens_says_what_was_tried() {
        let table: [(&'static str, u8); 2] = [("first", 1), ("second", 2)];
        let reason = |n: u8| Error::Failed {
            encoder: "any",
            reason: format!("no device {n}"),
        };
        let failed = first_that_opens(&table, "pictures".into(), |n| Err::<(), _>(reason(n)));
        assert_eq!(
            failed.unwrap_err().to_string(),
            "no encoder for pictures: first: no device 1; second: no device 2"
        );
        let second = first_that_opens(&table, "pictures".into(), |n| {
            if n == 2 { Ok(n) } else { Err(reason(n)) }
        });
        assert_eq!(second, Ok(2));
    }

    #[cfg(not(feature = "software"))]
    #[test]
    fn a_build_without_encoders_says_so() {
        let (rate, layout) = (
            Rate::new(30, 1).unwrap(),
            PictureLayout::tight(640, 360, PixelFormat::I420),
        );
        let error = open_video(&Config::new(Scene::Camera, layout, rate), layout, rate)
            .err()
            .unwrap();
        assert!(error.to_string().contains("without one"), "{error}");
    }
}
