//! The lane of the sound track: microphone, pacer, encoder, segmenter.

use super::alarms::MICROPHONE_SILENT;
use super::config::AudioTrack;
use super::keeper::Input;
use super::lane::{ATTENTION, CHUNK, Ends, LATE, SEGMENT, Take};
use crate::clock;
use crate::encoder::{self, AudioEncoder};
use crate::media::{
    Codec, Event, GapCause, Monotonic, Samples, Segmented, Timescale, TrackInfo, TrackKind,
};
use crate::mp4;
use crate::pacer::{Meter, SoundConfig, SoundPacer};
use crate::segmenter::{Cut, Segmenter};
use crate::source::{self, AudioPump, AudioSettings, Received};
use std::sync::Arc;
use std::time::Duration;

/// How long after the end of a span its last samples may still arrive.
const DELIVERY: Duration = Duration::from_millis(250);

/// How long a microphone may be away before silence stands in for it.
const ABSENCE: Duration = Duration::from_millis(500);

/// Digital silence for so long is an alarm.
const SILENT: Duration = Duration::from_secs(10);

/// Of a microphone that was never open nobody knows more than what it is asked for.
const UNKNOWN_HZ: u32 = 48_000;

/// The sound track.
pub(super) struct SoundLane {
    pub(super) ends: Ends,
    pub(super) track: AudioTrack,
}

/// The span in hand.
struct Running {
    take: Arc<Take>,
    pacer: SoundPacer,
    encoder: Box<dyn AudioEncoder>,
    segmenter: Segmenter,
    end: Option<Monotonic>,
    /// Up to when samples have come, by their stamps.
    heard: Monotonic,
    given: Vec<Segmented>,
}

impl SoundLane {
    /// Works until the keeper is gone.
    pub(super) fn run(mut self) {
        let microphone = self.track.microphone.clone();
        let port = self.ends.port.clone();
        let open = move || source::open_microphone_on(&port, &microphone);
        let pump = match AudioPump::start(self.ends.name, open) {
            Ok(pump) => pump,
            Err(error) => {
                return log::error!("{}: cannot start its thread: {error}", self.ends.name);
            }
        };
        let (mut settings, mut running) = (None::<AudioSettings>, None::<Running>);
        let mut meter = None::<Meter>;
        // Why nothing comes, while nothing does.
        let mut absence = GapCause::DeviceMissing;
        while self.ends.obey(&mut running, |running| &mut running.end) {
            let now = clock::now();
            if running.is_none()
                && let Some(take) = &self.ends.begin
                && let Some(open) = settings.or_else(|| self.absent(take, now))
                && let Some(take) = self.ends.begin.take()
            {
                running = self.begin(take, open);
            }
            let over = running
                .as_ref()
                .and_then(|running| Some((running.end?, running.heard)));
            if let Some((end, heard)) = over
                && (heard >= end || (now > end.plus(DELIVERY) && pump.waiting() == 0))
                && let Some(running) = running.take()
            {
                self.finish(running, end);
            }
            match pump.receive(now.plus(ATTENTION)) {
                Received::Opened(open) => {
                    self.ends
                        .opened(format!("{} Hz, {} channels", open.rate_hz, open.channels));
                    settings = Some(open);
                    meter = Some(Meter::new(open.rate_hz, open.channels, CHUNK));
                    if let Some(running) = &mut running
                        && let Err(error) = running.pacer.set_input(open.rate_hz, open.channels)
                    {
                        self.ends
                            .raise("microphone-settings".into(), error.to_string());
                    }
                }
                Received::Block(samples) => {
                    let stats = pump.stats();
                    self.ends.show(|view| {
                        view.status.delivered = stats.delivered;
                        view.status.dropped = stats.dropped;
                        view.status.ring_waiting = pump.waiting() as u64;
                        view.status.lost = stats.losses.lost;
                        view.status.xruns += u64::from(samples.lost_before > 0);
                    });
                    if let Some(meter) = &mut meter {
                        self.listen(meter, &samples);
                    }
                    if let (Some(running), Some(open)) = (&mut running, settings) {
                        let frames = samples.data.len() as u64 / u64::from(open.channels.max(1));
                        let length = Duration::from_nanos(
                            frames * 1_000_000_000 / u64::from(open.rate_hz.max(1)),
                        );
                        running.heard = samples.captured.plus(length);
                        if let Err(error) = running.pacer.push(&samples) {
                            self.ends
                                .raise("microphone-pacer".into(), error.to_string());
                        }
                        self.encode(running);
                    } else {
                        self.ends.worked(1);
                    }
                    pump.recycle(samples);
                }
                Received::Failed(error) => {
                    (settings, meter) = (None, None);
                    absence = match error {
                        source::Error::Stalled { .. } => GapCause::DeviceStalled,
                        _ => GapCause::DeviceMissing,
                    };
                    // Its own alarm says more.
                    self.ends.stand(MICROPHONE_SILENT, None);
                    self.ends.show(|view| view.status.level_dbfs = None);
                    pump.reopen_at(self.ends.failed(&error));
                }
                Received::Timeout => {
                    // Without a microphone its track goes on in silence, so that a player does.
                    if let (Some(running), None) = (&mut running, settings) {
                        let until = now.minus(ABSENCE);
                        if let Err(error) = running.pacer.silence_until(until, absence) {
                            self.ends
                                .raise("microphone-pacer".into(), error.to_string());
                        }
                        self.encode(running);
                    }
                }
            }
        }
    }

    /// What a span is begun with when its microphone is not there in time: the track then holds silence
    /// from its start, and the microphone joins it.
    fn absent(&self, take: &Take, now: Monotonic) -> Option<AudioSettings> {
        (now.since(take.start) > ABSENCE).then(|| AudioSettings {
            rate_hz: UNKNOWN_HZ,
            channels: self.track.microphone.channels(),
        })
    }

    /// Shows the levels of what comes, and says when it is digital silence: a muted microphone must not be
    /// found after two hours.
    fn listen(&mut self, meter: &mut Meter, samples: &Samples) {
        let is_new = meter.note(&samples.data);
        if samples.hears {
            meter.heard();
        }
        if !is_new {
            return;
        }
        let loudness = meter.loudness();
        self.ends.show(|view| {
            view.status.level_dbfs = loudness.map(|loud| (loud.peak_dbfs, loud.rms_dbfs));
        });
        let silent = (meter.silent_for() >= SILENT).then(|| {
            format!(
                "{} gives digital silence, as no quiet room does: unmute it, switch its transmitter on, \
                 or look at its cable",
                self.track.microphone
            )
        });
        self.ends.stand(MICROPHONE_SILENT, silent);
    }

    fn begin(&mut self, take: Arc<Take>, open: AudioSettings) -> Option<Running> {
        let channels = open.channels.clamp(1, 2) as u8;
        let mut config = encoder::AudioConfig::new(channels);
        config.bit_rate = self.track.bit_rate.unwrap_or(config.bit_rate);
        self.ends.show(|view| view.bit_rate = config.bit_rate);
        let sound = SoundConfig {
            start: take.start,
            rate_hz: open.rate_hz,
            channels: open.channels,
            track_channels: channels.into(),
        };
        let opened = encoder::open_audio(&config)
            .map_err(|error| error.to_string())
            .and_then(|encoder| {
                Ok((
                    encoder,
                    SoundPacer::new(sound).map_err(|error| error.to_string())?,
                ))
            });
        let (encoder, pacer) = match opened {
            Ok(opened) => opened,
            Err(message) => {
                self.ends.raise("microphone-encoder".into(), message);
                return None;
            }
        };
        self.ends.count(take.recording);
        let cut = Cut::sound(encoder.block() as u32, take.rate, CHUNK, SEGMENT);
        let mut running = Running {
            segmenter: self.ends.segmenter(&take, Timescale::SOUND, cut),
            pacer,
            encoder,
            end: None,
            heard: take.start,
            take,
            given: Vec::new(),
        };
        if let Err(message) = self.describe(&mut running, channels, config.bit_rate) {
            self.ends.raise("microphone-encoder".into(), message);
            return None;
        }
        self.catch_up(&mut running);
        Some(running)
    }

    /// Fills the track with silence from the span's start when the microphone came late, a second at a
    /// time: hours of it at once would not fit into memory.
    fn catch_up(&mut self, running: &mut Running) {
        let mut filled = running.take.start;
        while clock::now().since(filled) > LATE + Duration::from_secs(1) {
            filled = filled.plus(Duration::from_secs(1));
            if let Err(error) = running.pacer.silence_until(filled, GapCause::DeviceMissing) {
                return self
                    .ends
                    .raise("microphone-pacer".into(), error.to_string());
            }
            self.encode(running);
        }
    }

    /// Gives the segmenter the init and the recording the track's description.
    fn describe(&self, running: &mut Running, channels: u8, bit_rate: u32) -> Result<(), String> {
        let sample_rate = Timescale::SOUND.get();
        let parameters = running.encoder.parameters();
        let init = mp4::audio_init(parameters, sample_rate, channels, Timescale::SOUND)
            .map_err(|error| error.to_string())?;
        let codec_tag = mp4::aac_codec_tag(parameters).map_err(|error| error.to_string())?;
        let init = running
            .segmenter
            .set_init(init, &mut |given| running.given.push(given))
            .map_err(|error| error.to_string())?;
        let recording = running.take.recording;
        self.ends
            .give_all(recording, &mut running.segmenter, &mut running.given);
        self.ends.give(Input::Noted(Event::Track(TrackInfo {
            id: self.ends.track,
            name: self.ends.name.into(),
            kind: TrackKind::Audio,
            codec: Codec::AacLc {
                sample_rate,
                channels,
            },
            codec_tag,
            timescale: Timescale::SOUND,
            bit_rate,
            init,
            language: None,
            alternate_of: None,
        })));
        Ok(())
    }

    /// Encodes every block that is complete.
    fn encode(&mut self, running: &mut Running) {
        let before = clock::thread_cpu();
        let (mut outcome, mut blocks) = (Ok(()), 0);
        let ends = &self.ends;
        let Running {
            pacer,
            encoder,
            segmenter,
            given,
            take,
            ..
        } = running;
        while let Some(block) = pacer.next_block() {
            blocks += 1;
            let time = block.start;
            let captured = take.start.plus(Duration::from_nanos(
                time.as_nanos(Timescale::SOUND).unsigned_abs(),
            ));
            let encoded = encoder.encode(block.samples, time, captured, &mut |unit| {
                if let Err(message) = ends.push(unit, segmenter, given) {
                    outcome = Err(message);
                }
            });
            if let Err(error) = encoded {
                outcome = Err(error.to_string());
            }
        }
        let spent = clock::thread_cpu().saturating_sub(before).as_secs_f64();
        let (stats, ppm) = (running.pacer.stats(), running.pacer.ppm());
        let earlier = &self.ends.before;
        self.ends.show(|view| {
            view.work = view.work.wrapping_add(blocks);
            view.status.ppm = ppm;
            view.status.ticks = earlier.ticks + stats.blocks;
            view.status.silence = earlier.silence + stats.silence_frames;
            view.status.encode_cpu_seconds += spent;
        });
        if let Err(message) = outcome {
            self.ends.raise("microphone-encoder".into(), message);
        }
        while let Some(gap) = running.pacer.next_gap() {
            let (start, duration, cause) = (gap.start, gap.duration, gap.cause);
            self.ends.give(Input::Noted(Event::Gap {
                track: self.ends.track,
                start,
                duration,
                cause,
            }));
        }
        let recording = running.take.recording;
        self.ends
            .give_all(recording, &mut running.segmenter, &mut running.given);
    }

    fn finish(&mut self, mut running: Running, end: Monotonic) {
        if let Err(error) = running.pacer.finish(end) {
            self.ends
                .raise("microphone-pacer".into(), error.to_string());
        }
        self.encode(&mut running);
        let Running {
            encoder,
            segmenter,
            given,
            take,
            ..
        } = &mut running;
        let mut outcome = Ok(());
        let ends = &mut self.ends;
        let finished = encoder.finish(&mut |unit| {
            if let Err(message) = ends.push(unit, segmenter, given) {
                outcome = Err(message);
            }
        });
        let last = ends.give_last(take.recording, segmenter, given);
        let finished = finished.map_err(|error| error.to_string());
        if let Err(message) = finished.and(last).and(outcome) {
            self.ends.raise("microphone-encoder".into(), message);
        }
    }
}
