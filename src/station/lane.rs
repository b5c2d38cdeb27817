//! A lane: one track's road from its device to the spool's door, on one thread.
//!
//! Takes [`Command`]s from the keeper and blocks from the device's pump; gives
//! [`Input::Given`](super::keeper::Input) in order. While nothing is recorded the device runs and its
//! blocks are thrown away, so that the first chunk shows what happened right after the press. The
//! queue to the keeper is bounded and blocks: after the encoder nothing is dropped.
//!
//! What both kinds of lane share is here; [`super::video`] and [`super::sound`] are the two kinds.

use super::keeper::Input;
use super::status::Track;
use super::supervise;
use crate::clock;
use crate::media::{AccessUnit, Event, Monotonic, Rate, RecordingId, Segmented, TrackId};
use crate::segmenter::{self, Cut, Segmenter};
use crate::source;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The longest a lane waits for its device before it looks for commands.
pub(super) const ATTENTION: Duration = Duration::from_millis(10);
/// A chunk lasts this long, rounded up to whole ticks or packets.
pub(super) const CHUNK: Duration = Duration::from_millis(250);
/// A segment lasts this long, rounded up to whole ticks.
pub(super) const SEGMENT: Duration = Duration::from_secs(2);

/// A device that opens so long after the span's start begins its track where the span is by then.
pub(super) const LATE: Duration = Duration::from_millis(500);

/// What the keeper tells a lane.
#[derive(Clone, Debug)]
pub enum Command {
    /// Give this span from its start on.
    Begin(Arc<Take>),
    /// Give what was captured of this recording before this instant, then say that this is all.
    End(RecordingId, Monotonic),
    /// Give nothing more of the span in hand.
    Drop,
    /// Encode pictures at this much of the track's bit rate, from the next segment on and until told
    /// otherwise; one of [`LADDER`]. Sound takes no notice.
    BitRate {
        /// Per cent.
        percent: u8,
    },
    /// Leave out what begins from the next segment on, in this span and those that follow.
    GiveUp,
    /// What UTC is at the monotonic clock's zero, in nanoseconds since the Unix epoch.
    Utc(i64),
    /// Give again from the next segment on: the end of [`Command::GiveUp`].
    TakeUp,
}

/// The steps in which the bit rate of pictures goes down when the link or the disk is short, in per
/// cent of what the track is configured for.
pub const LADDER: [u8; 5] = [100, 75, 50, 35, 25];

/// One span of a recording, as the lanes need to know it.
#[derive(Debug)]
pub struct Take {
    /// The recording.
    pub recording: RecordingId,
    /// The boot epoch.
    pub epoch: u64,
    /// The span.
    pub span: u32,
    /// Where media time is zero.
    pub start: Monotonic,
    /// The cameras' rate: sound is cut where pictures are.
    pub rate: Rate,
    /// The number of each track's next segment.
    pub first_sequences: BTreeMap<TrackId, u64>,
}

/// What the keeper knows of a lane.
pub struct LaneView {
    /// The track.
    pub track: TrackId,
    commands: Sender<Command>,
    view: Arc<Mutex<View>>,
}

/// What a lane shows of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) status: Track,
    /// When the camera captured its last picture, and its rate.
    pub(super) rhythm: Option<(Monotonic, Rate)>,
    /// The rate that the track is configured for, until a camera says its own.
    pub(super) rate: Option<Rate>,
    /// Bits per second that the track is encoded at when nothing is short; 0 while that is not known.
    pub(super) bit_rate: u32,
    /// Grows with each tick or packet that is dealt with, whatever comes of it; without a span with each
    /// block of the device.
    pub(super) work: u64,
}

impl LaneView {
    /// Tells the lane; false when its thread is gone, which it has said in the log.
    pub fn tell(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }

    /// The device is open.
    pub fn is_open(&self) -> bool {
        self.look(|view| view.status.open)
    }

    /// A count that grows as long as it works; `None` while its device is not open. An encoder that
    /// refuses is told by alarms and gaps: starting again would not make it work.
    pub fn work(&self) -> Option<u64> {
        self.look(|view| view.status.open.then_some(view.work))
    }

    /// When its camera last captured a picture, and its rate.
    pub fn rhythm(&self) -> Option<(Monotonic, Rate)> {
        self.look(|view| view.rhythm)
    }

    /// The rate that its pictures are configured for.
    pub fn rate(&self) -> Option<Rate> {
        self.look(|view| view.rate)
    }

    /// Bits per second of the track when nothing is short.
    pub fn bit_rate(&self) -> u64 {
        self.look(|view| view.bit_rate.into())
    }

    /// How it is.
    pub fn status(&self) -> Track {
        self.look(|view| view.status.clone())
    }

    fn look<T>(&self, with: impl FnOnce(&View) -> T) -> T {
        with(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The two ends of a lane that is about to start.
pub(super) struct Ends {
    pub(super) track: TrackId,
    pub(super) name: &'static str,
    /// A span that waits for the device.
    pub(super) begin: Option<Arc<Take>>,
    /// How much of its bit rate the track may have.
    pub(super) percent: u8,
    /// What UTC is at the monotonic clock's zero, in Unix nanoseconds, once it is known.
    pub(super) utc: Option<i64>,
    /// The track is given up.
    given_up: bool,
    commands: Receiver<Command>,
    keeper: SyncSender<Input>,
    view: Arc<Mutex<View>>,
    failures: u32,
    alarm: Option<String>,
    /// Where its device is plugged in.
    pub(super) port: Arc<source::Port>,
    /// The recording that is counted, and what its earlier spans counted.
    counted: Option<RecordingId>,
    pub(super) before: Track,
    /// Alarms that stand whether or not the device works.
    standing: BTreeSet<String>,
}

impl Ends {
    /// A lane's own ends, and the keeper's view of it.
    pub(super) fn new(
        track: TrackId,
        name: &'static str,
        keeper: SyncSender<Input>,
    ) -> (Self, LaneView) {
        let (sender, commands) = std::sync::mpsc::channel();
        let status = Track {
            name: name.into(),
            ..Track::default()
        };
        let view = Arc::new(Mutex::new(View {
            status,
            rhythm: None,
            rate: None,
            bit_rate: 0,
            work: 0,
        }));
        let seen = LaneView {
            track,
            commands: sender,
            view: view.clone(),
        };
        (
            Self {
                track,
                name,
                begin: None,
                percent: LADDER[0],
                utc: None,
                given_up: false,
                commands,
                keeper,
                view,
                failures: 0,
                alarm: None,
                port: Arc::default(),
                counted: None,
                before: Track::default(),
                standing: BTreeSet::new(),
            },
            seen,
        )
    }

    /// Takes the next command in, if one came; `end` is where a running span keeps its end. False when
    /// the keeper is gone: end the thread.
    pub(super) fn obey<R>(
        &mut self,
        running: &mut Option<R>,
        end: impl Fn(&mut R) -> &mut Option<Monotonic>,
    ) -> bool {
        match (self.commands.try_recv(), running) {
            (Ok(Command::Begin(take)), _) => self.begin = Some(take),
            (Ok(Command::End(_, at)), Some(running)) => *end(running) = Some(at),
            (Ok(Command::End(recording, _)), None) => {
                // The device never opened: there is nothing to give.
                self.begin = None;
                self.give(Input::Finished(recording, self.track));
            }
            (Ok(Command::Drop), running) => (*running, self.begin) = (None, None),
            (Ok(Command::BitRate { percent }), _) => self.percent = percent.clamp(1, 100),
            (Ok(Command::GiveUp), _) => self.given_up = true,
            (Ok(Command::Utc(zero)), _) => self.utc = Some(zero),
            (Ok(Command::TakeUp), _) => self.given_up = false,
            (Err(TryRecvError::Empty), _) => {}
            (Err(TryRecvError::Disconnected), _) => return false,
        }
        true
    }

    /// Gives to the keeper, waiting for it if need be.
    pub(super) fn give(&self, input: Input) {
        // A keeper that is gone takes the process with it.
        if let Err(TrySendError::Full(input)) = self.keeper.try_send(input) {
            self.show(|view| view.status.keeper_waits += 1);
            let _ = self.keeper.send(input);
        }
    }

    /// Changes what the lane shows.
    pub(super) fn show(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A span of this recording begins: its counts go on where those of the span before ended.
    pub(super) fn count(&mut self, recording: RecordingId) {
        let goes_on = self.counted.replace(recording) == Some(recording);
        let mut before = Track::default();
        if goes_on {
            self.show(|view| before = view.status.clone());
        }
        self.before = before;
    }

    /// So much was dealt with.
    pub(super) fn worked(&self, steps: u64) {
        self.show(|view| view.work = view.work.wrapping_add(steps));
    }

    /// The device is open.
    pub(super) fn opened(&mut self, settings: String) {
        log::info!("{}: open, {settings}", self.name);
        self.failures = 0;
        self.show(|view| {
            view.status.open = true;
            view.status.settings = settings;
            view.status.error = None;
        });
        self.calm("");
        self.stand(&format!("{}-changed", self.name), self.port.notice());
    }

    /// The device failed: says so once per kind of error and tells when to try again.
    pub(super) fn failed(&mut self, error: &source::Error) -> Monotonic {
        let message = error.to_string();
        let code = format!("{}-{}", self.name, error.code());
        self.show(|view| {
            view.status.open = false;
            view.status.error = Some(message.clone());
            view.rhythm = None;
        });
        self.raise(code, message);
        self.failures += 1;
        clock::now().plus(supervise::reopen_after(error, self.failures))
    }

    /// Raises an alarm, in the log and as a fact, unless this one stands already.
    pub(super) fn raise(&mut self, code: String, message: String) {
        if self.alarm.as_ref() != Some(&code) {
            self.calm(&code);
            log::warn!("{}: {message}", self.name);
            self.show(|view| view.status.error = Some(message.clone()));
            let track = Some(self.track);
            self.give(Input::Noted(Event::Alarm {
                code: code.clone(),
                track,
                raised: true,
                message,
            }));
            self.alarm = Some(code);
        }
    }

    /// Raises an alarm about what the device delivers, or clears it (`None`); it stands beside those of
    /// the device itself.
    pub(super) fn stand(&mut self, code: &str, message: Option<String>) {
        let raised = message.is_some();
        let changes = match raised {
            true => self.standing.insert(code.into()),
            false => self.standing.remove(code),
        };
        if changes {
            let message = message.unwrap_or_else(|| format!("{} is well again", self.name));
            log::warn!("{}: {message}", self.name);
            self.give(Input::Noted(Event::Alarm {
                code: code.into(),
                track: Some(self.track),
                raised,
                message,
            }));
        }
    }

    /// Ends the standing alarm, unless it is `but`.
    fn calm(&mut self, but: &str) {
        if let Some(code) = self.alarm.take_if(|code| code != but) {
            let message = format!("{} is well again", self.name);
            self.give(Input::Noted(Event::Alarm {
                code,
                track: Some(self.track),
                raised: false,
                message,
            }));
        }
    }

    /// The segmenter of a span that begins.
    pub(super) fn segmenter(
        &self,
        take: &Take,
        timescale: crate::media::Timescale,
        cut: Cut,
    ) -> Segmenter {
        Segmenter::new(segmenter::Config {
            recording: take.recording,
            track: self.track,
            epoch: take.epoch,
            span: take.span,
            first_sequence: take.first_sequences.get(&self.track).copied().unwrap_or(0),
            timescale,
            cut,
        })
    }

    /// Gives an access unit to the segmenter, unless the track is given up.
    pub(super) fn push(
        &self,
        unit: AccessUnit,
        segmenter: &mut Segmenter,
        given: &mut Vec<Segmented>,
    ) -> Result<(), String> {
        segmenter.set_skipping(self.given_up);
        segmenter
            .push(unit, &mut |part| given.push(part))
            .map_err(|error| error.to_string())
    }

    /// Gives what the segmenter gave, and says first what it left out: each segment once it is over, so
    /// that it is on record before a power cut.
    pub(super) fn give_all(
        &self,
        recording: RecordingId,
        segmenter: &mut Segmenter,
        given: &mut Vec<Segmented>,
    ) {
        if let Some((first, last)) = segmenter.take_skipped() {
            self.give(Input::GivenUp(recording, self.track, first, last));
        }
        given
            .drain(..)
            .for_each(|given| self.give(Input::Given(recording, given)));
    }

    /// Ends the segment in hand and gives all that is left. The recording has said it when another device
    /// than before was used: the next one begins with that device.
    pub(super) fn give_last(
        &mut self,
        recording: RecordingId,
        segmenter: &mut Segmenter,
        given: &mut Vec<Segmented>,
    ) -> Result<(), String> {
        segmenter.set_skipping(false);
        let flushed = segmenter.flush(&mut |part| given.push(part));
        self.give_all(recording, segmenter, given);
        self.port.accept();
        self.stand(&format!("{}-changed", self.name), None);
        self.give(Input::Finished(recording, self.track));
        flushed.map_err(|error| error.to_string())
    }
}

#[cfg(all(test, feature = "software"))]
mod tests;
