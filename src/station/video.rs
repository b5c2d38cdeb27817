//! The lane of a picture track: camera, pacer, encoder, segmenter.

use super::config::VideoTrack;
use super::keeper::Input;
use super::lane::{ATTENTION, CHUNK, Ends, LATE, SEGMENT, Take};
use crate::clock;
use crate::encoder::{self, ParameterSets, Scene, Tick, VideoEncoder};
use crate::media::{
    Codec, Event, GapCause, Hash, MediaTime, Monotonic, Picture, PictureLayout, Rate, Segmented,
    TrackInfo, TrackKind,
};
use crate::mp4;
use crate::pacer::{self, Action, Pacer};
use crate::segmenter::{Cut, Segmenter};
use crate::source::{self, Received, VideoPump, VideoSettings};
use std::sync::Arc;
use std::time::Duration;

/// How long after the end of a span its last pictures may still arrive.
const DELIVERY: Duration = Duration::from_millis(700);

/// A camera that gives nothing for longer than this leaves a gap in the recording's facts.
const GAP: Duration = Duration::from_secs(1);

/// One picture track.
pub(super) struct VideoLane {
    pub(super) ends: Ends,
    pub(super) track: VideoTrack,
}

/// The open camera and the encoder made for it.
struct Device {
    settings: VideoSettings,
    /// The pacing rate: the configured one, or the device's own.
    rate: Rate,
    /// What it is configured for.
    bit_rate: u32,
    encoder: Box<dyn VideoEncoder>,
    /// The encoder has not given anything yet: its first picture must be a keyframe.
    fresh: bool,
}

/// The span in hand.
struct Running {
    take: Arc<Take>,
    pacer: Pacer<Picture>,
    rate: Rate,
    segmenter: Segmenter,
    /// The init and the bit rate by which the recording knows the track.
    described: Option<(Hash, u32)>,
    /// The grid's tick with which the pacer's tick 0 coincides.
    first_tick: u64,
    /// How the camera's pictures lie.
    layout: PictureLayout,
    /// What the last tick showed: a repeat shows it again.
    shown: Option<Picture>,
    /// When it was captured; at first the track's start.
    seen: Monotonic,
    /// The camera failed since then.
    away: bool,
    end: Option<Monotonic>,
    given: Vec<Segmented>,
}

impl Running {
    /// When the pacer's `tick` is.
    fn tick_at(&self, tick: u64) -> Monotonic {
        let nanos = self.rate.tick_nanos(self.first_tick + tick);
        self.take.start.plus(Duration::from_nanos(nanos))
    }
}

impl VideoLane {
    /// Works until the keeper is gone.
    pub(super) fn run(mut self) {
        let camera = self.track.camera.clone();
        let port = self.ends.port.clone();
        let open = move || source::open_camera_on(&port, &camera);
        let pump = match VideoPump::start(self.ends.name, open) {
            Ok(pump) => pump,
            Err(error) => {
                return log::error!("{}: cannot start its thread: {error}", self.ends.name);
            }
        };
        let (mut device, mut running) = (None::<Device>, None::<Running>);
        while self.ends.obey(&mut running, |running| &mut running.end) {
            if running.is_none()
                && let Some(device) = &mut device
                && let Some(take) = self.ends.begin.take()
            {
                running = Some(self.begin(take, device));
            }
            let now = clock::now();
            let mut deadline = now.plus(ATTENTION);
            if let Some(span) = &mut running {
                match self.pace(span, device.as_mut(), &pump) {
                    Some(wait) => deadline = deadline.min(wait.max(now)),
                    None => running = None,
                }
            }
            match pump.receive(deadline) {
                Received::Opened(settings) => device = self.opened(settings, running.as_mut()),
                Received::Block(picture) => {
                    let rate = device.as_ref().map(|device| device.settings.rate);
                    let stats = pump.stats();
                    self.ends.show(|view| {
                        view.rhythm = rate.map(|rate| (picture.captured, rate));
                        view.status.delivered = stats.delivered;
                        view.status.dropped = stats.dropped;
                        view.status.lost = stats.losses.lost + stats.losses.damaged;
                    });
                    match (&mut running, &device) {
                        (Some(running), Some(_)) => {
                            running.pacer.offer(clock::now(), picture.captured, picture)
                        }
                        _ => pump.recycle(picture),
                    }
                }
                Received::Failed(error) => {
                    if let Some(running) = &mut running {
                        running.away = true;
                    }
                    pump.reopen_at(self.ends.failed(&error));
                }
                Received::Timeout => {}
            }
        }
    }

    fn opened(&mut self, settings: VideoSettings, running: Option<&mut Running>) -> Option<Device> {
        // A span keeps its grid: a camera that comes back with another rate is paced to the old one.
        let rate = match &running {
            Some(running) => running.rate,
            None => self.track.rate.unwrap_or(settings.rate),
        };
        if let Some(running) = running {
            running.pacer.set_source_rate(settings.rate);
            // Laid out otherwise, the new encoder could not read it.
            if running.layout != settings.layout {
                running.shown = None;
                running.layout = settings.layout;
            }
        }
        let scene = if self.ends.name == "slides" {
            Scene::Slides
        } else {
            Scene::Camera
        };
        let mut config = encoder::Config::new(scene, settings.layout, rate);
        config.bit_rate = self.track.bit_rate.unwrap_or(config.bit_rate);
        match encoder::open_video(&config, settings.layout, rate) {
            Ok(encoder) => {
                let layout = settings.layout;
                self.ends.show(|view| view.bit_rate = config.bit_rate);
                self.ends.opened(format!(
                    "{}x{} {:?} at {}/s, paced at {rate}/s, {}",
                    layout.width,
                    layout.height,
                    layout.pixels,
                    settings.rate,
                    encoder.name()
                ));
                Some(Device {
                    settings,
                    rate,
                    bit_rate: config.bit_rate,
                    encoder,
                    fresh: true,
                })
            }
            Err(error) => {
                self.ends
                    .raise(format!("{}-encoder", self.ends.name), error.to_string());
                None
            }
        }
    }

    /// Begins with the span, or at the present tick of its grid when the camera came late.
    fn begin(&self, take: Arc<Take>, device: &mut Device) -> Running {
        let rate = device.rate;
        device.fresh = true;
        let late = clock::now().since(take.start);
        let first_tick = if late > LATE {
            rate.ticks_covering(late)
        } else {
            0
        };
        if first_tick > 0 {
            self.ends.give(Input::Noted(Event::Gap {
                track: self.ends.track,
                start: MediaTime::ZERO,
                duration: first_tick * u64::from(rate.tick_units()),
                cause: GapCause::DeviceMissing,
            }));
        }
        let start = take
            .start
            .plus(Duration::from_nanos(rate.tick_nanos(first_tick)));
        let config = pacer::Config {
            source_rate: device.settings.rate,
            start: Some(start),
            ..pacer::Config::at(rate)
        };
        Running {
            first_tick,
            layout: device.settings.layout,
            pacer: Pacer::new(config),
            rate,
            segmenter: self.ends.segmenter(
                &take,
                rate.timescale(),
                Cut::pictures(rate, CHUNK, SEGMENT),
            ),
            take,
            described: None,
            shown: None,
            seen: start,
            away: false,
            end: None,
            given: Vec::new(),
        }
    }

    /// Does what the pacer says, one tick at most so that commands and the camera are looked at
    /// between ticks; gives when to come back, or `None` when the span is over.
    fn pace(
        &mut self,
        running: &mut Running,
        device: Option<&mut Device>,
        pump: &VideoPump,
    ) -> Option<Monotonic> {
        let now = clock::now();
        let next = running.tick_at(running.pacer.stats().ticks());
        if running
            .end
            .is_some_and(|end| next >= end || now > end.plus(DELIVERY))
        {
            self.finish(running);
            return None;
        }
        // A camera whose pictures no encoder takes: the alarm has said so.
        let Some(device) = device else {
            return Some(now.plus(ATTENTION));
        };
        loop {
            match running.pacer.poll(now) {
                Action::Emit { tick, picture } => {
                    self.note_gap(running, picture.captured);
                    if let Some(before) = running.shown.replace(picture) {
                        pump.recycle(before);
                    }
                    self.encode(tick, running, device);
                    return Some(now);
                }
                Action::Repeat { tick, .. } => {
                    self.encode(tick, running, device);
                    return Some(now);
                }
                Action::Drop { picture, .. } => pump.recycle(picture),
                Action::Wait(until) => return Some(until.unwrap_or(now.plus(ATTENTION))),
            }
        }
    }

    /// Notes the stretch since the last picture if it is a gap; its ticks repeat that picture.
    fn note_gap(&self, running: &mut Running, until: Monotonic) {
        let away = std::mem::take(&mut running.away);
        let seen = std::mem::replace(&mut running.seen, until);
        if until.since(seen) <= GAP {
            return;
        }
        let place = |at: Monotonic| {
            let nanos = at.offset_from(running.take.start).max(0);
            MediaTime::from_nanos(nanos, running.rate.timescale())
        };
        let (start, end) = (place(seen), place(until));
        self.ends.give(Input::Noted(Event::Gap {
            track: self.ends.track,
            start,
            duration: u64::try_from(end.0 - start.0).unwrap_or(0),
            cause: if away {
                GapCause::DeviceMissing
            } else {
                GapCause::DeviceStalled
            },
        }));
    }

    fn encode(&mut self, tick: u64, running: &mut Running, device: &mut Device) {
        let Some(picture) = &running.shown else {
            return;
        };
        let units = running.rate.tick_units();
        let tick = running.first_tick + tick;
        let place = Tick {
            time: MediaTime(
                i64::try_from(tick)
                    .unwrap_or(i64::MAX)
                    .saturating_mul(units.into()),
            ),
            duration: units,
            captured: picture.captured,
            keyframe: device.fresh || tick.is_multiple_of(running.rate.ticks_covering(SEGMENT)),
        };
        device.encoder.set_bit_rate(self.bit_rate(device));
        let before = clock::thread_cpu();
        let encoded = device.encoder.encode(&picture.data, &place);
        let spent = clock::thread_cpu().saturating_sub(before).as_secs_f64();
        let stats = running.pacer.stats();
        self.ends.show(|view| {
            view.status.ticks = stats.ticks();
            view.status.repeats = stats.repeats();
            view.status.drops = stats.drops();
            let lateness = &stats.lateness;
            let micros = |late: Duration| u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
            view.status.tick_lateness_us = Some((
                micros(lateness.p50()),
                micros(lateness.p99()),
                micros(lateness.p999()),
                micros(lateness.max()),
            ));
            view.status.encode_cpu_seconds += spent;
        });
        let unit = match encoded {
            Ok(unit) => unit,
            Err(error) => {
                device.fresh = true;
                return self
                    .ends
                    .raise(format!("{}-encoder", self.ends.name), error.to_string());
            }
        };
        // A keyframe may come from a new encoder, at another bit rate.
        let described = match unit.keyframe {
            true => self.describe(running, device),
            false => Ok(()),
        };
        let outcome = described
            .and_then(|()| (self.ends).push(unit, &mut running.segmenter, &mut running.given));
        device.fresh = outcome.is_err();
        if let Err(message) = outcome {
            self.ends
                .raise(format!("{}-segmenter", self.ends.name), message);
        }
        let recording = running.take.recording;
        self.ends
            .give_all(recording, &mut running.segmenter, &mut running.given);
    }

    /// What the encoder is to keep to.
    fn bit_rate(&self, device: &Device) -> u32 {
        let share = u64::from(device.bit_rate) * u64::from(self.ends.percent) / 100;
        u32::try_from(share)
            .unwrap_or(u32::MAX)
            .max(encoder::LEAST_BIT_RATE)
    }

    /// Gives the segmenter the init, and the recording the track's description, where they are new.
    fn describe(&self, running: &mut Running, device: &Device) -> Result<(), String> {
        let ParameterSets { sps, pps } = device
            .encoder
            .parameters()
            .ok_or("the encoder gave no parameter sets")?;
        let (width, height, timescale) = (
            device.settings.layout.width,
            device.settings.layout.height,
            running.rate.timescale(),
        );
        let init = mp4::video_init(sps, pps, width, height, timescale)
            .map_err(|error| error.to_string())?;
        let codec_tag = mp4::avc_codec_tag(sps).map_err(|error| error.to_string())?;
        let init = running
            .segmenter
            .set_init(init, &mut |given| running.given.push(given))
            .map_err(|error| error.to_string())?;
        let bit_rate = self.bit_rate(device);
        if running.described.replace((init, bit_rate)) != Some((init, bit_rate)) {
            self.ends.give(Input::Noted(Event::Track(TrackInfo {
                id: self.ends.track,
                name: self.ends.name.into(),
                kind: TrackKind::Video,
                codec: Codec::H264 {
                    width,
                    height,
                    rate: Some(running.rate),
                },
                codec_tag,
                timescale,
                bit_rate,
                init,
                language: None,
                alternate_of: None,
            })));
        }
        Ok(())
    }

    fn finish(&mut self, running: &mut Running) {
        if let Some(end) = running.end.filter(|_| running.shown.is_some()) {
            self.note_gap(running, end);
        }
        let Running {
            segmenter, given, ..
        } = running;
        let last = (self.ends).give_last(running.take.recording, segmenter, given);
        if let Err(message) = last {
            self.ends
                .raise(format!("{}-segmenter", self.ends.name), message);
        }
    }
}
