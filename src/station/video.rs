//! The lane of a picture track: camera, pacer, encoder, segmenter.
//!
//! Once its span has begun the grid has no hole: ticks that lack a picture of their own repeat the last
//! one, and show a slate after that (see [`super::absence`]). A camera that is not there at the start
//! joins when it opens; where its pictures are laid out as nobody expected, with an init of its own.
//!
//! Longer than most files: camera, slate and encoder may each fail at any tick, and every tick is
//! accounted for in one place.

use super::absence::{Absence, GAP, Gap, Show, since_text};
use super::alarms::NO_SIGNAL;
use super::config::VideoTrack;
use super::keeper::Input;
use super::lane::{ATTENTION, CHUNK, Ends, LATE, SEGMENT, Take};
use crate::clock;
use crate::encoder::{self, ParameterSets, Scene, Tick, VideoEncoder};
use crate::media::{
    AccessUnit, Codec, Event, GapCause, Hash, MediaTime, Monotonic, Picture, PictureLayout, Rate,
    Segmented, TrackInfo, TrackKind,
};
use crate::mp4;
use crate::pacer::{self, Action, Pacer, RepeatReason};
use crate::segmenter::{Cut, Segmenter};
use crate::source::{self, Received, VideoPump, VideoSettings};
use jiff::tz::TimeZone;
use std::sync::Arc;
use std::time::Duration;

/// How long after the end of a span an encoder that lags is waited for: a process that is asked to end
/// has two seconds.
const LAG: Duration = Duration::from_millis(1500);

/// An encoder that failed, and failed again when it was opened anew, is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// One picture track.
pub(super) struct VideoLane {
    ends: Ends,
    track: VideoTrack,
    /// What the open camera is set to.
    camera: Option<VideoSettings>,
    /// The camera failed and is not open again.
    failing: bool,
    /// What the open camera is set to, while no encoder opens for its pictures.
    unusable: Option<VideoSettings>,
    coder: Option<Coder>,
    /// Why no encoder opened or worked; none is opened before this instant.
    refused: Option<(Monotonic, encoder::Error)>,
    /// The alarm about the encoder stands.
    encoder_fails: bool,
    slate: Option<Slate>,
    /// The code of the alarm about a slate that lasts.
    no_signal: String,
}

/// An encoder and what it was opened for.
struct Coder {
    layout: PictureLayout,
    rate: Rate,
    /// What the track is configured for.
    bit_rate: u32,
    encoder: Box<dyn VideoEncoder>,
    /// The encoder has not given anything yet: its first picture must be a keyframe.
    fresh: bool,
}

/// A picture and how it lies.
struct Framed {
    layout: PictureLayout,
    picture: Picture,
}

/// The slate as it was drawn last.
struct Slate {
    layout: PictureLayout,
    since: Monotonic,
    text: String,
    bytes: Vec<u8>,
    /// When it was last seen to be still right.
    looked: Monotonic,
}

/// The span in hand.
struct Running {
    take: Arc<Take>,
    pacer: Pacer<Framed>,
    rate: Rate,
    segmenter: Segmenter,
    /// The init and the bit rate by which the recording knows the track.
    described: Option<(Hash, u32)>,
    /// The grid's tick with which the pacer's tick 0 coincides.
    first_tick: u64,
    /// The last picture: a repeat shows it again.
    shown: Option<Framed>,
    absence: Absence,
    end: Option<Monotonic>,
    given: Vec<Segmented>,
}

impl Running {
    /// When a tick of the grid is.
    fn time_of(&self, tick: u64) -> Monotonic {
        let nanos = self.rate.tick_nanos(tick);
        self.take.start.plus(Duration::from_nanos(nanos))
    }

    /// The first tick that is not decided.
    fn next_tick(&self) -> u64 {
        self.first_tick + self.pacer.stats().ticks()
    }

    /// Where a tick is on the track's timeline.
    fn media_time(&self, tick: u64) -> MediaTime {
        let units = i64::from(self.rate.tick_units());
        MediaTime(
            i64::try_from(tick)
                .unwrap_or(i64::MAX)
                .saturating_mul(units),
        )
    }
}

impl VideoLane {
    /// A lane that has not opened its camera.
    pub(super) fn new(ends: Ends, track: VideoTrack) -> Self {
        let configured = source::expected(&track.camera).map(|settings| settings.rate);
        ends.show(|view| view.rate = track.rate.or(configured));
        Self {
            no_signal: format!("{}{NO_SIGNAL}", ends.name),
            ends,
            track,
            camera: None,
            failing: false,
            unusable: None,
            coder: None,
            refused: None,
            encoder_fails: false,
            slate: None,
        }
    }

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
        let mut running = None::<Running>;
        while self.ends.obey(&mut running, |running| &mut running.end) {
            let now = clock::now();
            if let Some(settings) = self.unusable {
                self.use_camera(settings, running.as_mut());
            }
            if running.is_none()
                && let Some(source_rate) = self.may_begin(now)
                && let Some(take) = self.ends.begin.take()
            {
                running = self.begin(take, source_rate, now);
            }
            let mut deadline = now.plus(ATTENTION);
            if let Some(span) = &mut running {
                match self.pace(span, &pump) {
                    Some(wait) => deadline = deadline.min(wait.max(now)),
                    None => running = None,
                }
            }
            match pump.receive(deadline) {
                Received::Opened(settings) => self.opened(settings, running.as_mut()),
                Received::Block(picture) => {
                    let settings = self.camera;
                    let stats = pump.stats();
                    self.ends.show(|view| {
                        view.rhythm = settings.map(|settings| (picture.captured, settings.rate));
                        view.status.delivered = stats.delivered;
                        view.status.dropped = stats.dropped;
                        view.status.ring_waiting = pump.waiting() as u64;
                        view.status.lost = stats.losses.lost + stats.losses.damaged;
                    });
                    match (&mut running, settings) {
                        (Some(running), Some(VideoSettings { layout, .. })) => {
                            let (now, captured) = (clock::now(), picture.captured);
                            (running.pacer).offer(now, captured, Framed { layout, picture });
                        }
                        (None, Some(_)) => {
                            self.ends.stand(&self.no_signal, None);
                            self.ends.worked(1);
                            pump.recycle(picture);
                        }
                        (_, None) => {
                            self.ends.worked(1);
                            pump.recycle(picture);
                        }
                    }
                }
                Received::Failed(error) => {
                    (self.camera, self.unusable) = (None, None);
                    self.failing = true;
                    // One that is there and gives nothing is another cause than one that is not.
                    let is_there = matches!(error, source::Error::Stalled { .. });
                    if let Some(running) = running.as_mut().filter(|_| !is_there) {
                        running.absence.failed();
                    }
                    pump.reopen_at(self.ends.failed(&error));
                }
                Received::Timeout => {}
            }
        }
    }

    fn opened(&mut self, settings: VideoSettings, running: Option<&mut Running>) {
        self.failing = false;
        self.refused = None;
        self.use_camera(settings, running);
    }

    /// Takes the open camera into use, once an encoder for its pictures opens.
    fn use_camera(&mut self, settings: VideoSettings, running: Option<&mut Running>) {
        // A span keeps its grid: a camera that comes back with another rate is paced to the old one.
        let rate = match &running {
            Some(running) => running.rate,
            None => self.track.rate.unwrap_or(settings.rate),
        };
        let layout = settings.layout;
        self.unusable = None;
        if !self.has_coder(layout, rate) {
            self.unusable = Some(settings);
            return;
        }
        self.camera = Some(settings);
        if let Some(running) = running {
            running.pacer.set_source_rate(settings.rate);
            running.absence.opened();
            // Laid out otherwise, the new encoder could not read it.
            if running
                .shown
                .as_ref()
                .is_some_and(|shown| shown.layout != layout)
            {
                running.shown = None;
            }
        }
        let encoder = self.coder.as_ref().map_or("", |coder| coder.encoder.name());
        self.ends.opened(format!(
            "{}x{} {:?} at {}/s, paced at {rate}/s, {encoder}",
            layout.width, layout.height, layout.pixels, settings.rate,
        ));
    }

    /// Whether there is an encoder for such pictures, opening one if need be.
    fn has_coder(&mut self, layout: PictureLayout, rate: Rate) -> bool {
        match self.open_for(layout, rate) {
            Ok(()) => self.encoder_is_well(),
            Err(error) => {
                self.encoder_failed(&error);
                return false;
            }
        }
        true
    }

    /// Sees to it that the encoder is one for such pictures; one for others stays if none opens.
    fn open_for(&mut self, layout: PictureLayout, rate: Rate) -> Result<(), encoder::Error> {
        let fits = |coder: &Coder| (coder.layout, coder.rate) == (layout, rate);
        if self.coder.as_ref().is_some_and(fits) {
            return Ok(());
        }
        let now = clock::now();
        if let Some((_, error)) = self.refused.as_ref().filter(|(until, _)| now < *until) {
            return Err(error.clone());
        }
        let scene = if self.ends.name == "slides" {
            Scene::Slides
        } else {
            Scene::Camera
        };
        let mut config = encoder::Config::new(scene, layout, rate);
        config.bit_rate = self.track.bit_rate.unwrap_or(config.bit_rate);
        let encoder = encoder::open_video(&config, layout, rate)
            .inspect_err(|error| self.refused = Some((now.plus(RETRY), error.clone())))?;
        self.ends.show(|view| view.bit_rate = config.bit_rate);
        self.coder = Some(Coder {
            layout,
            rate,
            bit_rate: config.bit_rate,
            encoder,
            fresh: true,
        });
        Ok(())
    }

    fn encoder_failed(&mut self, error: &encoder::Error) {
        if !std::mem::replace(&mut self.encoder_fails, true) {
            let message = error.to_string();
            self.ends
                .show(|view| view.status.error = Some(message.clone()));
            let code = format!("{}-encoder", self.ends.name);
            self.ends.stand(&code, Some(message));
        }
    }

    fn encoder_is_well(&mut self) {
        // A slate by the old encoder does not mean that the camera has one.
        if self.unusable.is_none() && std::mem::take(&mut self.encoder_fails) {
            self.refused = None;
            self.ends.show(|view| view.status.error = None);
            self.ends
                .stand(&format!("{}-encoder", self.ends.name), None);
        }
    }

    /// Whether the span that waits may begin: with the camera, or without it if it cannot be had and the
    /// board tells what it would be. The rate of its pictures.
    fn may_begin(&mut self, now: Monotonic) -> Option<Rate> {
        let start = self.ends.begin.as_ref()?.start;
        if let Some(settings) = self.camera {
            let rate = self.track.rate.unwrap_or(settings.rate);
            return self
                .has_coder(settings.layout, rate)
                .then_some(settings.rate);
        }
        if !self.failing && now.since(start) < LATE {
            return None;
        }
        let expected = source::expected(&self.track.camera)?;
        let rate = self.track.rate.unwrap_or(expected.rate);
        // As it was when it was there, so that it joins without a new init.
        let known = self.coder.as_ref().map(|coder| (coder.layout, coder.rate));
        let (layout, rate) = known.unwrap_or((expected.layout, rate));
        self.has_coder(layout, rate).then_some(expected.rate)
    }

    /// Begins with the span; at the present tick of its grid when the camera came late and the board did
    /// not tell what it would be.
    fn begin(&mut self, take: Arc<Take>, source_rate: Rate, now: Monotonic) -> Option<Running> {
        self.ends.count(take.recording);
        let coder = self.coder.as_mut()?;
        coder.fresh = true;
        let rate = coder.rate;
        let late = now.since(take.start);
        let unknown = source::expected(&self.track.camera).is_none();
        let first_tick = if unknown && late > LATE {
            rate.ticks_covering(late)
        } else {
            0
        };
        let start = take
            .start
            .plus(Duration::from_nanos(rate.tick_nanos(first_tick)));
        let config = pacer::Config {
            source_rate,
            start: Some(start),
            ..pacer::Config::at(rate)
        };
        let cut = Cut::pictures(rate, CHUNK, SEGMENT);
        let segmenter = self.ends.segmenter(&take, rate.timescale(), cut);
        let mut running = Running {
            take,
            pacer: Pacer::new(config),
            rate,
            segmenter,
            described: None,
            first_tick,
            shown: None,
            absence: Absence::new(rate, self.camera.is_none()),
            end: None,
            given: Vec::new(),
        };
        if self.camera.is_none() {
            running.pacer.go_without();
        }
        if first_tick > 0 {
            let gap = Gap {
                first: 0,
                ticks: first_tick,
                cause: GapCause::DeviceMissing,
            };
            self.note(&running, gap);
        }
        Some(running)
    }

    fn note(&self, running: &Running, gap: Gap) {
        self.ends.give(Input::Noted(Event::Gap {
            track: self.ends.track,
            start: running.media_time(gap.first),
            duration: gap.ticks * u64::from(running.rate.tick_units()),
            cause: gap.cause,
        }));
    }

    /// Does what the pacer says, one tick at most so that commands and the camera are looked at
    /// between ticks; gives when to come back, or `None` when the span is over.
    fn pace(&mut self, running: &mut Running, pump: &VideoPump) -> Option<Monotonic> {
        let now = clock::now();
        let next = running.time_of(running.next_tick());
        if running
            .end
            .is_some_and(|end| next >= end || now > end.plus(LAG))
        {
            self.finish(running);
            return None;
        }
        // Open, but it gives nothing from the start on.
        if running.shown.is_none() && now > running.time_of(running.first_tick).plus(GAP) {
            running.pacer.go_without();
        }
        loop {
            match running.pacer.poll(now) {
                Action::Emit { tick, picture } => {
                    let tick = running.first_tick + tick;
                    if let Some(gap) = running.absence.has(tick) {
                        self.note(running, gap);
                    }
                    self.ends.stand(&self.no_signal, None);
                    if let Some(before) = running.shown.replace(picture) {
                        pump.recycle(before.picture);
                    }
                    self.show(tick, running, Show::Last);
                    return Some(now);
                }
                Action::Repeat { tick, reason } => {
                    let tick = running.first_tick + tick;
                    let show = match reason {
                        RepeatReason::SlowerSource | RepeatReason::BeforeFirst => Show::Last,
                        RepeatReason::NoPicture => {
                            running.absence.lacks(tick, running.shown.is_some())
                        }
                    };
                    if running.absence.is_due(tick) {
                        let name = self.ends.name;
                        let message = format!(
                            "no signal from the {name} camera for more than 10 s: its track shows a \
                             slate; look at the camera, its cable and its power"
                        );
                        self.ends.stand(&self.no_signal, Some(message));
                    }
                    self.show(tick, running, show);
                    return Some(now);
                }
                Action::Drop { picture, .. } => pump.recycle(picture.picture),
                Action::Wait(until) => return Some(until.unwrap_or(now.plus(ATTENTION))),
            }
        }
    }

    /// Encodes what a tick shows. An encoder that fails is opened anew at once; ticks that none takes are
    /// a gap.
    fn show(&mut self, tick: u64, running: &mut Running, show: Show) {
        self.ends.worked(1);
        let mut outcome = self.encode(tick, running, show);
        if let (Err(error @ encoder::Error::Failed { .. }), Some(_)) = (&outcome, &self.coder) {
            self.encoder_failed(error);
            self.coder = None;
            outcome = self.encode(tick, running, show);
            if let Err(error) = &outcome {
                self.coder = None;
                self.refused = Some((clock::now().plus(RETRY), error.clone()));
            }
        }
        if let Err(encoder::Error::Short { .. }) = &outcome {
            // Half a picture is none.
            running.shown = None;
            let show = running.absence.lacks(tick, false);
            outcome = self.encode(tick, running, show);
        }
        let unit = match outcome {
            Ok(unit) => unit,
            Err(error) => {
                self.encoder_failed(&error);
                // What follows does not refer to what is missing.
                if let Some(coder) = &mut self.coder {
                    coder.fresh = true;
                }
                return running.absence.not_encoded(tick);
            }
        };
        if let Some(gap) = running.absence.encoded(tick) {
            self.note(running, gap);
        }
        self.encoder_is_well();
        let Some(coder) = &mut self.coder else {
            return;
        };
        // A keyframe may come from a new encoder, at another bit rate.
        let described = match unit.keyframe {
            true => describe(&self.ends, running, coder),
            false => Ok(()),
        };
        let outcome = described
            .and_then(|()| (self.ends).push(unit, &mut running.segmenter, &mut running.given));
        coder.fresh = outcome.is_err();
        if let Err(message) = outcome {
            self.ends
                .raise(format!("{}-segmenter", self.ends.name), message);
        }
        let recording = running.take.recording;
        self.ends
            .give_all(recording, &mut running.segmenter, &mut running.given);
    }

    fn encode(
        &mut self,
        tick: u64,
        running: &Running,
        show: Show,
    ) -> Result<AccessUnit, encoder::Error> {
        // A slate is drawn as the encoder takes its pictures, or as the board says that they will be.
        let picture = running.shown.as_ref().filter(|_| show == Show::Last);
        let known = self.coder.as_ref().map(|coder| coder.layout);
        let expected = || source::expected(&self.track.camera).map(|settings| settings.layout);
        let layout = picture.map(|shown| shown.layout).or(known);
        let unknown = || encoder::Error::Unsupported("pictures of unknown size".into());
        let layout = layout.or_else(expected).ok_or_else(unknown)?;
        self.open_for(layout, running.rate)?;
        let at = running.time_of(tick);
        if picture.is_none() {
            let since = running.absence.since().unwrap_or(tick);
            self.draw_slate(layout, running.time_of(since), at);
        }
        let (Some(coder), drawn) = (&mut self.coder, &self.slate) else {
            return Err(unknown());
        };
        let (bytes, captured): (&[u8], Monotonic) = match (picture, drawn) {
            (Some(Framed { picture, .. }), _) => (&picture.data, picture.captured),
            (None, Some(slate)) => (&slate.bytes, at),
            (None, None) => return Err(unknown()),
        };
        let place = Tick {
            time: running.media_time(tick),
            duration: running.rate.tick_units(),
            captured,
            keyframe: coder.fresh || tick.is_multiple_of(running.rate.ticks_covering(SEGMENT)),
        };
        coder.encoder.set_bit_rate(bit_rate(&self.ends, coder));
        let before = clock::thread_cpu();
        let encoded = coder.encoder.encode(bytes, &place);
        let spent = clock::thread_cpu().saturating_sub(before).as_secs_f64();
        let (stats, earlier) = (running.pacer.stats(), &self.ends.before);
        self.ends.show(|view| {
            view.status.ticks = earlier.ticks + stats.ticks();
            view.status.repeats = earlier.repeats + stats.repeats();
            view.status.drops = earlier.drops + stats.drops();
            view.status.repeats_by = earlier.repeats_by + stats.repeats_by();
            view.status.drops_by = earlier.drops_by + stats.drops_by();
            view.status.tick_lateness = Some(stats.lateness.health());
            view.status.encode_cpu_seconds += spent;
        });
        encoded
    }

    /// Draws the slate unless what was drawn is still right, which is looked at once a second.
    fn draw_slate(&mut self, layout: PictureLayout, since: Monotonic, now: Monotonic) {
        let is_fresh = |slate: &Slate| {
            slate.layout == layout
                && slate.since == since
                && now.since(slate.looked) < Duration::from_secs(1)
        };
        if self.slate.as_ref().is_some_and(is_fresh) {
            return;
        }
        let text = since_text(since, now, self.ends.utc, TimeZone::try_system().ok());
        match &mut self.slate {
            Some(slate) if slate.layout == layout && slate.text == text => {
                (slate.since, slate.looked) = (since, now);
            }
            _ => {
                let whose = format!("from the {} camera", self.ends.name);
                self.slate = Some(Slate {
                    bytes: source::slate(layout, &["No signal", &whose, &text]),
                    layout,
                    since,
                    text,
                    looked: now,
                });
            }
        }
    }

    fn finish(&mut self, running: &mut Running) {
        let first = running.next_tick();
        let gaps = running.absence.end(first);
        gaps.for_each(|gap| self.note(running, gap));
        // What the encoder was too slow for.
        let lasts = running.end.map(|end| end.since(running.take.start));
        let ticks = lasts.map_or(0, |lasts| running.rate.ticks_covering(lasts));
        if ticks > first {
            let gap = Gap {
                first,
                ticks: ticks - first,
                cause: GapCause::EncoderFailed,
            };
            self.note(running, gap);
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

/// What the encoder is to keep to.
fn bit_rate(ends: &Ends, coder: &Coder) -> u32 {
    let share = u64::from(coder.bit_rate) * u64::from(ends.percent) / 100;
    u32::try_from(share)
        .unwrap_or(u32::MAX)
        .max(encoder::LEAST_BIT_RATE)
}

/// Gives the segmenter the init, and the recording the track's description, where they are new.
fn describe(ends: &Ends, running: &mut Running, coder: &Coder) -> Result<(), String> {
    let ParameterSets { sps, pps } = coder
        .encoder
        .parameters()
        .ok_or("the encoder gave no parameter sets")?;
    let (width, height, timescale) = (
        coder.layout.width,
        coder.layout.height,
        running.rate.timescale(),
    );
    let init =
        mp4::video_init(sps, pps, width, height, timescale).map_err(|error| error.to_string())?;
    let codec_tag = mp4::avc_codec_tag(sps).map_err(|error| error.to_string())?;
    let init = running
        .segmenter
        .set_init(init, &mut |given| running.given.push(given))
        .map_err(|error| error.to_string())?;
    let bit_rate = bit_rate(ends, coder);
    if running.described.replace((init, bit_rate)) != Some((init, bit_rate)) {
        ends.give(Input::Noted(Event::Track(TrackInfo {
            id: ends.track,
            name: ends.name.into(),
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

#[cfg(all(test, feature = "software"))]
#[path = "video_tests.rs"]
mod tests;
