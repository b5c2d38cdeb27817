//! The lane of a camera that encodes by itself: camera, passthrough, segmenter.
//!
//! Every picture keeps the time at which it was captured, and none is chosen or left out: there is no
//! pacer and no encoder. The bit rate is the camera's, so a short link or disk can only give the
//! track up as a whole. Where the camera is away there is a hole, which the recording's facts name.

use super::config::VideoTrack;
use super::keeper::Input;
use super::lane::{ATTENTION, CHUNK, Ends, LATE, SEGMENT, Take};
use crate::clock;
use crate::encoder::{self, ParameterSets, Passed, Passthrough, Scene};
use crate::media::{
    Codec, Event, GapCause, Hash, MediaTime, Monotonic, Picture, Segmented, Timescale, TrackInfo,
    TrackKind,
};
use crate::mp4;
use crate::segmenter::{Cut, Segmenter};
use crate::source::{self, PassingPump, Received, VideoSettings};
use std::sync::Arc;
use std::time::Duration;

/// How long after the end of a span its last pictures may still arrive.
const DELIVERY: Duration = Duration::from_millis(700);
/// A picture lasts no longer than this: what is longer is a gap.
const GAP: Duration = Duration::from_secs(1);
const SCALE: Timescale = Timescale::VIDEO;

/// One picture track of a camera that encodes.
pub(super) struct PassingLane {
    pub(super) ends: Ends,
    pub(super) track: VideoTrack,
}

/// The span in hand.
struct Running {
    take: Arc<Take>,
    passing: Passthrough,
    segmenter: Segmenter,
    /// The init by which the recording knows the track.
    described: Option<Hash>,
    /// The last picture's number by the camera.
    sequence: Option<u64>,
    /// Where what was given ends.
    until: MediaTime,
    /// Something is missing behind it: at first what comes before the first keyframe.
    hole: bool,
    /// The camera was not there for what is missing.
    away: bool,
    /// The alarm about keyframes was raised since the last one.
    refused: bool,
    end: Option<Monotonic>,
    given: Vec<Segmented>,
}

impl Running {
    fn place(&self, at: Monotonic) -> MediaTime {
        MediaTime::from_nanos(at.offset_from(self.take.start), SCALE)
    }
}

fn units(duration: Duration) -> u32 {
    let nanos = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    u32::try_from(MediaTime::from_nanos(nanos, SCALE).0).unwrap_or(u32::MAX)
}

impl PassingLane {
    /// Works until the keeper is gone.
    pub(super) fn run(mut self) {
        let camera = self.track.camera.clone();
        let port = self.ends.port.clone();
        let open = move || source::open_camera_on(&port, &camera);
        let pump = match PassingPump::start(self.ends.name, open) {
            Ok(pump) => pump,
            Err(error) => {
                return log::error!("{}: cannot start its thread: {error}", self.ends.name);
            }
        };
        let (mut device, mut running) = (None::<VideoSettings>, None::<Running>);
        while self.ends.obey(&mut running, |running| &mut running.end) {
            if running.is_none()
                && let Some(settings) = device
                && let Some(take) = self.ends.begin.take()
            {
                running = Some(self.begin(take, settings));
            }
            let now = clock::now();
            if let Some(span) = &mut running
                && span.end.is_some_and(|end| now > end.plus(DELIVERY))
            {
                self.finish(span, device);
                running = None;
            }
            match pump.receive(now.plus(ATTENTION)) {
                Received::Opened(settings) => {
                    device = Some(settings);
                    self.opened(settings);
                }
                Received::Block(picture) => {
                    let stats = pump.stats();
                    self.ends.show(|view| {
                        view.work = view.work.wrapping_add(1);
                        view.rhythm = device.map(|device| (picture.captured, device.rate));
                        view.status.delivered = stats.delivered;
                        view.status.dropped = stats.dropped;
                        view.status.lost = stats.losses.lost + stats.losses.damaged;
                    });
                    if let Some(span) = &mut running {
                        match span.end {
                            Some(end) if picture.captured >= end => {
                                self.finish(span, device);
                                running = None;
                            }
                            _ => self.pass(&picture, span, device),
                        }
                    }
                    pump.recycle(picture);
                }
                Received::Failed(error) => {
                    if let Some(span) = &mut running {
                        span.sequence = None;
                        self.lose(span, device);
                        // Not of what is given out with that, which came before.
                        span.away = !matches!(error, source::Error::Stalled { .. });
                    }
                    pump.reopen_at(self.ends.failed(&error));
                }
                Received::Timeout => {}
            }
        }
    }

    fn opened(&mut self, settings: VideoSettings) {
        let layout = settings.layout;
        let bit_rate = self.bit_rate(settings);
        self.ends.show(|view| view.bit_rate = bit_rate);
        self.ends.opened(format!(
            "{}x{} {:?} at {}/s, passed on as it is",
            layout.width, layout.height, layout.pixels, settings.rate
        ));
    }

    /// What the camera is taken to need.
    fn bit_rate(&self, settings: VideoSettings) -> u32 {
        let usual = encoder::Config::new(Scene::Camera, settings.layout, settings.rate).bit_rate;
        self.track.bit_rate.unwrap_or(usual)
    }

    fn begin(&mut self, take: Arc<Take>, settings: VideoSettings) -> Running {
        self.ends.count(take.recording);
        let is_late = clock::now().since(take.start) > LATE;
        Running {
            passing: Passthrough::new(units(settings.rate.interval()), units(GAP)),
            segmenter: self
                .ends
                .segmenter(&take, SCALE, Cut::passing(SCALE, CHUNK, SEGMENT)),
            take,
            described: None,
            sequence: None,
            until: MediaTime::ZERO,
            hole: true,
            away: is_late,
            refused: false,
            end: None,
            given: Vec::new(),
        }
    }

    /// Takes one picture in.
    fn pass(&mut self, picture: &Picture, running: &mut Running, device: Option<VideoSettings>) {
        let before = clock::thread_cpu();
        let last = running.sequence.replace(picture.sequence);
        if last.is_some_and(|last| picture.sequence != last.wrapping_add(1)) {
            self.lose(running, device);
        }
        let time = running.place(picture.captured);
        let (passed, outcome) = running.passing.take(&picture.data, time, picture.captured);
        self.give(passed, running, device);
        if let Err(refused) = outcome {
            self.refuse(running, &refused.to_string());
            self.lose(running, device);
        }
        let spent = clock::thread_cpu().saturating_sub(before).as_secs_f64();
        self.show(running, spent);
    }

    fn show(&self, running: &Running, spent: f64) {
        let (stats, left_out) = (running.passing.stats(), running.passing.left_out());
        let earlier = &self.ends.before;
        self.ends.show(|view| {
            view.status.ticks = earlier.ticks + stats.units;
            view.status.drops = earlier.drops + left_out;
            view.status.encode_cpu_seconds += spent;
        });
    }

    /// What follows is of no use up to the next keyframe, which begins a segment.
    fn lose(&mut self, running: &mut Running, device: Option<VideoSettings>) {
        let passed = running.passing.lose();
        self.give(passed, running, device);
        running.hole = true;
        let flushed = running
            .segmenter
            .flush(&mut |part| running.given.push(part));
        if let Err(error) = flushed {
            self.refuse(running, &error.to_string());
        }
        let recording = running.take.recording;
        self.ends
            .give_all(recording, &mut running.segmenter, &mut running.given);
    }

    fn give(
        &mut self,
        passed: Option<Passed>,
        running: &mut Running,
        device: Option<VideoSettings>,
    ) {
        let Some(Passed { unit, parameters }) = passed else {
            return;
        };
        let (time, end) = (unit.time, unit.time.0.saturating_add(unit.duration.into()));
        let described = match (parameters, device) {
            (Some(sets), Some(settings)) => self.describe(&sets, running, settings),
            _ => Ok(()),
        };
        let keyframe = unit.keyframe;
        let outcome = described.and_then(|()| {
            self.ends
                .push(unit, &mut running.segmenter, &mut running.given)
        });
        match outcome {
            Ok(()) => {
                if keyframe && !std::mem::take(&mut running.refused) {
                    self.ends.stand(&self.alarm(), None);
                }
                self.note_gap(running, time);
                running.until = MediaTime(end);
            }
            Err(message) => {
                self.refuse(running, &message);
                // What is held already could not be shown without this one.
                let _ = running.passing.lose();
                running.hole = true;
            }
        }
        let recording = running.take.recording;
        self.ends
            .give_all(recording, &mut running.segmenter, &mut running.given);
    }

    fn alarm(&self) -> String {
        format!("{}-keyframes", self.ends.name)
    }

    fn refuse(&mut self, running: &mut Running, why: &str) {
        running.refused = true;
        let message = format!(
            "the H.264 of {} cannot be used up to its next keyframe: {why}; set the camera to a keyframe every 2 seconds",
            self.ends.name
        );
        self.ends.stand(&self.alarm(), Some(message));
    }

    /// Notes what is missing in front of `time`.
    fn note_gap(&self, running: &mut Running, time: MediaTime) {
        let missing = time.0.saturating_sub(running.until.0);
        let hole = std::mem::take(&mut running.hole);
        let away = std::mem::take(&mut running.away);
        if missing > i64::from(units(GAP)) || (hole && missing > 0) {
            self.ends.give(Input::Noted(Event::Gap {
                track: self.ends.track,
                start: running.until,
                duration: missing.unsigned_abs(),
                cause: match away {
                    true => GapCause::DeviceMissing,
                    false => GapCause::DeviceStalled,
                },
            }));
        }
    }

    /// Gives the segmenter the init, and the recording the track's description, where they are new.
    fn describe(
        &self,
        ParameterSets { sps, pps }: &ParameterSets,
        running: &mut Running,
        settings: VideoSettings,
    ) -> Result<(), String> {
        let (width, height) = (settings.layout.width, settings.layout.height);
        let init = mp4::video_init(sps, pps, width, height, SCALE).map_err(|e| e.to_string())?;
        let codec_tag = mp4::avc_codec_tag(sps).map_err(|error| error.to_string())?;
        let init = running
            .segmenter
            .set_init(init, &mut |part| running.given.push(part))
            .map_err(|error| error.to_string())?;
        if running.described.replace(init) != Some(init) {
            self.ends.give(Input::Noted(Event::Track(TrackInfo {
                id: self.ends.track,
                name: self.ends.name.into(),
                kind: TrackKind::Video,
                codec: Codec::H264 {
                    width,
                    height,
                    rate: None,
                },
                codec_tag,
                timescale: SCALE,
                bit_rate: self.bit_rate(settings),
                init,
                language: None,
                alternate_of: None,
            })));
        }
        Ok(())
    }

    fn finish(&mut self, running: &mut Running, device: Option<VideoSettings>) {
        let end = running.end.map_or(running.until, |end| running.place(end));
        let passed = running.passing.end(end);
        self.give(passed, running, device);
        self.show(running, 0.0);
        running.hole = false;
        self.note_gap(running, end);
        let moved = running.passing.moved();
        if moved > 0 {
            log::warn!(
                "{}: {moved} pictures carried a time not after the one before",
                self.ends.name
            );
        }
        let Running {
            segmenter, given, ..
        } = running;
        let last = (self.ends).give_last(running.take.recording, segmenter, given);
        if let Err(message) = last {
            self.refuse(running, &message);
        }
    }
}
