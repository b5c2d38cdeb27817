//! AAC-LC in software: Fraunhofer's FDK AAC, built from its bundled source.
//!
//! Licence: not Apache-2.0 but the "Software License for The Fraunhofer FDK AAC Codec Library for
//! Android": source and binaries may be passed on free of charge with that licence's text; it grants
//! no patent licence. Leave the feature `software` out to build without it.
//!
//! The encoder's delay: what comes in at sample n is heard at sample n + [`AudioEncoder::delay`] of
//! what a decoder makes of the packets. The encoder states it; a test decodes a click to prove it.

use super::{AudioConfig, AudioEncoder, Error, Stats};
use crate::media::{AccessUnit, MediaTime, Monotonic};
use fdk_aac::enc::{
    AudioObjectType, BitRate, ChannelMode, Encoder, EncoderError, EncoderParams, Transport,
};
use std::time::Duration;

pub(super) const NAME: &str = "fdk-aac";

const SAMPLE_RATE: u32 = 48_000;

struct Aac {
    encoder: Encoder,
    channels: usize,
    block: usize,
    delay: u32,
    parameters: Vec<u8>,
    packet: Vec<u8>,
    /// Where the next block begins if none is missing, and when its first sample would be captured.
    next: Option<(MediaTime, Monotonic)>,
    stats: Stats,
}

pub(super) fn open(config: &AudioConfig) -> Result<Box<dyn AudioEncoder>, Error> {
    let encoder = Encoder::new(EncoderParams {
        bit_rate: BitRate::Cbr(config.bit_rate),
        sample_rate: SAMPLE_RATE,
        transport: Transport::Raw,
        channels: if config.channels == 1 {
            ChannelMode::Mono
        } else {
            ChannelMode::Stereo
        },
        audio_object_type: AudioObjectType::Mpeg4LowComplexity,
    })
    .map_err(failed)?;
    let info = encoder.info().map_err(failed)?;
    let parameters = info
        .confBuf
        .get(..info.confSize as usize)
        .unwrap_or_default();
    Ok(Box::new(Aac {
        encoder,
        channels: config.channels.into(),
        block: info.frameLength as usize,
        delay: info.nDelay,
        parameters: parameters.to_vec(),
        packet: vec![0; info.maxOutBufBytes as usize],
        next: None,
        stats: Stats::default(),
    }))
}

fn failed(error: EncoderError) -> Error {
    Error::Failed {
        encoder: NAME,
        reason: error.to_string(),
    }
}

impl AudioEncoder for Aac {
    fn block(&self) -> usize {
        self.block
    }

    fn encode(
        &mut self,
        block: &[i16],
        time: MediaTime,
        captured: Monotonic,
        give: &mut dyn FnMut(AccessUnit),
    ) -> Result<(), Error> {
        let expected = self.block * self.channels;
        if block.len() != expected {
            return Err(Error::Short {
                expected,
                found: block.len(),
            });
        }
        let done = self
            .encoder
            .encode(block, &mut self.packet)
            .map_err(failed)?;
        if done.input_consumed != expected || done.output_size == 0 {
            return Err(Error::Failed {
                encoder: NAME,
                reason: "gave no packet for a block".into(),
            });
        }
        let lasts =
            Duration::from_nanos(self.block as u64 * 1_000_000_000 / u64::from(SAMPLE_RATE));
        self.next = Some((MediaTime(time.0 + self.block as i64), captured.plus(lasts)));
        // One block in, one packet out: it holds what came in `delay` samples before this block.
        let begins = MediaTime(time.0 - i64::from(self.delay));
        if begins >= MediaTime::ZERO {
            let delay = Duration::from_nanos(
                u64::from(self.delay) * 1_000_000_000 / u64::from(SAMPLE_RATE),
            );
            let unit = AccessUnit {
                time: begins,
                duration: self.block as u32,
                keyframe: true,
                captured: captured.minus(delay),
                data: self.packet[..done.output_size].to_vec(),
            };
            self.stats.count(&unit);
            give(unit);
        }
        Ok(())
    }

    fn finish(&mut self, give: &mut dyn FnMut(AccessUnit)) -> Result<(), Error> {
        let silence = vec![0; self.block * self.channels];
        for _ in 0..(self.delay as usize).div_ceil(self.block) {
            if let Some((time, captured)) = self.next {
                self.encode(&silence, time, captured, give)?;
            }
        }
        self.next = None;
        Ok(())
    }

    fn parameters(&self) -> &[u8] {
        &self.parameters
    }

    fn delay(&self) -> u32 {
        self.delay
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn stats(&self) -> Stats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::open_audio;
    use fdk_aac::dec::{Decoder, Transport};

    /// Encodes `samples` per channel of silence with clicks at `clicks`, from media time `start` on.
    fn encoded(
        channels: u8,
        start: i64,
        samples: usize,
        clicks: &[usize],
    ) -> (Box<dyn AudioEncoder>, Vec<AccessUnit>) {
        let mut encoder = open_audio(&AudioConfig::new(channels)).unwrap();
        let width = usize::from(channels);
        let mut sound = vec![0i16; samples * width];
        for click in clicks {
            sound[click * width..(click + 1) * width].fill(30_000);
        }
        let mut units = Vec::new();
        let step = encoder.block();
        for (n, block) in sound.chunks_exact(step * width).enumerate() {
            let time = MediaTime(start + (n * step) as i64);
            let captured =
                Monotonic::from_nanos(1_000_000_000 + time.0 as u64 * 1_000_000_000 / 48_000);
            encoder
                .encode(block, time, captured, &mut |unit| units.push(unit))
                .unwrap();
        }
        encoder.finish(&mut |unit| units.push(unit)).unwrap();
        (encoder, units)
    }

    /// What a decoder makes of the packets, the first channel; index 0 is the first packet's time.
    fn decoded(encoder: &dyn AudioEncoder, channels: usize, units: &[AccessUnit]) -> Vec<i16> {
        let mut decoder = Decoder::new(Transport::Raw);
        decoder.config_raw(encoder.parameters()).unwrap();
        let mut sound = Vec::new();
        let mut late = 0;
        for unit in units {
            assert_eq!(decoder.fill(&unit.data).unwrap(), unit.data.len());
            let mut block = vec![0; 1024 * channels];
            decoder.decode_frame(&mut block).unwrap();
            assert_eq!(decoder.stream_info().frameSize, 1024);
            late = decoder.stream_info().outputDelay as usize;
            sound.extend(block.iter().step_by(channels));
        }
        sound.split_off(late)
    }

    fn loudest(sound: &[i16]) -> usize {
        (0..sound.len())
            .max_by_key(|at| sound[*at].unsigned_abs())
            .unwrap()
    }

    #[test]
    fn a_click_is_heard_when_it_happened() {
        for channels in [1, 2] {
            for click in [5000, 10_240, 15_871] {
                let (encoder, units) = encoded(channels, 0, 20 * 1024, &[click]);
                let sound = decoded(&*encoder, channels.into(), &units);
                let found = units[0].time.0 + loudest(&sound) as i64;
                println!(
                    "{channels} channels: delay {}, click at {click} found at {found}",
                    encoder.delay()
                );
                assert!(
                    found.abs_diff(click as i64) <= 1,
                    "{click} heard at {found}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_given_before_the_start_and_the_end_is_all_there() {
        let (encoder, units) = encoded(2, 0, 20 * 1024, &[]);
        assert!((0..1024).contains(&units[0].time.0));
        let last = units.last().unwrap();
        assert!(last.time.0 + i64::from(last.duration) >= 20 * 1024);
        for two in units.windows(2) {
            assert_eq!(two[1].time.0 - two[0].time.0, 1024);
        }
        for unit in &units {
            let nanos = 1_000_000_000 + unit.time.0 as u64 * 1_000_000_000 / 48_000;
            assert!(unit.captured.as_nanos().abs_diff(nanos) < 100_000);
            assert!(unit.keyframe);
        }
        assert_eq!(encoder.stats().units, units.len() as u64);
        assert_eq!(encoder.parameters(), [0x11, 0x90]);
    }

    #[test]
    fn a_block_of_another_length_is_refused() {
        let mut encoder = open_audio(&AudioConfig::new(1)).unwrap();
        let short = encoder.encode(
            &[0; 1023],
            MediaTime::ZERO,
            Monotonic::default(),
            &mut |_| {},
        );
        assert_eq!(
            short,
            Err(Error::Short {
                expected: 1024,
                found: 1023
            })
        );
    }
}
