//! What people ask, and what they are told.

use super::{ANSWERING, Keeper};
use crate::clock;
use crate::media::{Monotonic, RecordingId, StartedBy, StopReason};
use crate::panel::{Lamp, Press};
use crate::spool::Level;
use crate::station::control::{Reply, Request};
use crate::station::lane::LaneView;
use crate::station::random;
use crate::station::recorder::{Input as Happening, Refusal, State, World};
use crate::station::status::{self, Lateness, Status};
use std::sync::mpsc::Sender;
use std::time::Duration;

impl Keeper {
    pub(super) fn request(&mut self, request: Request, reply: Sender<Reply>) {
        self.carry_out(request, (StartedBy::Socket, StopReason::Socket), reply);
    }

    /// Does what is asked in whose name the recording then begins or ends.
    pub(super) fn carry_out(
        &mut self,
        request: Request,
        (start, stop): (StartedBy, StopReason),
        reply: Sender<Reply>,
    ) {
        let outcome = match request {
            Request::Status => {
                let _ = reply.send(Reply::Status(Box::new(self.status())));
                return;
            }
            Request::Restart => {
                let _ = reply.send(self.restart());
                return;
            }
            Request::Start => self.start(start),
            Request::Stop => return self.stop(stop, vec![reply]),
            Request::Pause => self.happen(Happening::Pause),
            Request::Resume => self.happen(Happening::Resume),
            Request::Mark => self.happen(Happening::Mark),
            Request::Press => {
                let now = clock::now();
                let press = self.button.press(now);
                self.pressed(press, now)
            }
            Request::Hold => {
                let now = clock::now();
                let press = self.button.hold(now);
                self.holding.push(reply);
                // It is answered once it is a hold.
                let _ = self.pressed(press, now);
                return;
            }
            // Keys are not the keeper's: `pipeline` answers before it comes here.
            Request::CertificateRequest | Request::Install { .. } => {
                let _ = reply.send(Reply::Refused("the keeper holds no keys".into()));
                return;
            }
        };
        let answer = match (outcome, &self.running) {
            (Err(refusal), _) => Reply::Refused(refusal.to_string()),
            (Ok(()), Some(running)) => Reply::Done {
                recording: running.take.recording.to_string(),
            },
            (Ok(()), None) => {
                Reply::Refused("nothing is recorded; see the log and `hallcast status`".into())
            }
        };
        // Whoever asked may have gone.
        let _ = reply.send(answer);
    }

    /// What the button did, and when; what it means the recorder knows.
    pub(super) fn pressed(&mut self, press: Option<Press>, at: Monotonic) -> Result<(), Refusal> {
        match press {
            Some(Press::Down) => {
                let outcome = self.happen(Happening::Pressed(RecordingId(random()), at));
                self.want(StartedBy::Button);
                outcome
            }
            Some(Press::Held) => {
                let waiting = std::mem::take(&mut self.holding);
                let outcome = self.happen(Happening::Held);
                self.answer_stop(StopReason::Button, outcome, waiting);
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn start(&mut self, by: StartedBy) -> Result<(), Refusal> {
        let outcome = self.happen(Happening::Start(RecordingId(random()), by));
        if outcome == Err(Refusal::AlreadyRecording) {
            self.want(by);
        }
        outcome
    }

    /// What runs may turn out to be a recording that should have ended long ago: then another one was
    /// wanted.
    fn want(&mut self, by: StartedBy) {
        if let Some(running) = self.running.as_mut().filter(|r| r.place.wall.is_none()) {
            running.wanted = running.past.map(|_| by);
        }
    }

    /// Ends the recording; `waiting` is answered once its end is kept.
    fn stop(&mut self, by: StopReason, waiting: Vec<Sender<Reply>>) {
        let outcome = self.happen(Happening::Stop(by));
        self.answer_stop(by, outcome, waiting);
    }

    fn answer_stop(
        &mut self,
        by: StopReason,
        outcome: Result<(), Refusal>,
        mut waiting: Vec<Sender<Reply>>,
    ) {
        match (outcome, &mut self.running) {
            (Ok(()), Some(running)) if running.ending.is_none() => {
                let refusal = "the press of this hold has just started the recording";
                for reply in waiting {
                    let _ = reply.send(Reply::Refused(refusal.into()));
                }
            }
            (Ok(()), Some(running)) => running.waiting.append(&mut waiting),
            (outcome, _) => {
                // What waits for the disk shall not go on either.
                self.abandoned.end_all(by);
                let why = outcome.err().unwrap_or(Refusal::NotRecording).to_string();
                for reply in waiting {
                    let _ = reply.send(Reply::Refused(why.clone()));
                }
            }
        }
    }

    /// Ends at the next turn at which nothing is recorded: an upgrade cuts no lecture.
    fn restart(&mut self) -> Reply {
        self.restarting = Some(clock::now().plus(ANSWERING));
        let recording = (self.running.as_ref()).map(|running| running.take.recording.to_string());
        match &recording {
            Some(recording) => log::info!("asked to restart: once recording {recording} is over"),
            None => log::info!("asked to restart"),
        }
        Reply::Restarting(recording)
    }

    /// Nothing is recorded and nothing waits to be recorded on.
    pub(super) fn is_resting(&self) -> bool {
        matches!(self.recorder.state(), State::Idle | State::Fault)
    }

    /// The recorder's state; the recording in hand, and how much is recorded of it.
    pub(super) fn state(&self) -> (&'static str, Option<(RecordingId, Duration)>) {
        let state = match self.recorder.state() {
            State::Idle => "idle",
            State::Starting(_) => "starting",
            State::Recording(_) => "recording",
            State::Paused(_) => "paused",
            State::Stopping(_) => "stopping",
            State::Fault => "fault",
        };
        (state, self.recorder.recorded(clock::now()))
    }

    /// How things are.
    pub(super) fn status(&self) -> Status {
        let now = clock::now();
        let spool = self.spool();
        let (state, running) = self.state();
        let stats = spool.stats();
        let left = self.room.and_then(|room| room.left());
        Status {
            box_id: self.parts.box_id.to_string(),
            room: self.parts.room.clone(),
            board: self.parts.board.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            state: state.into(),
            lamp: self.lamp(now).name().into(),
            recording: running.map(|(recording, recorded)| status::Recording {
                id: recording.to_string(),
                seconds: recorded.as_secs(),
            }),
            tracks: self
                .parts
                .lanes
                .iter()
                .map(|lane| self.track(lane))
                .collect(),
            spool: status::Spool {
                recordings: spool.recordings().count(),
                waiting_bytes: spool
                    .recordings()
                    .map(|(_, state)| state.waiting_bytes())
                    .sum(),
                chunks: stats.chunks,
                bytes: stats.bytes,
                syncs: stats.syncs,
                sync_failures: stats.sync_failures,
                sync_ms: self.sync_times.clone().summary(),
                used_bytes: self.room.map(|room| room.used),
                free_bytes: self.room.map(|room| room.free),
                hours_left: left.map(|left| (left.as_secs() / 36) as f64 / 100.0),
                level: super::room::name(self.room.map_or(Level::Normal, |r| r.level)).into(),
            },
            uplink: status::Uplink {
                configured: self.parts.offers.is_some(),
                connected: self.reachable,
                error: self.uplink_error.clone(),
                offers_waiting: (self.parts.offers.as_ref())
                    .map_or(0, |offers| offers.max_capacity() - offers.capacity())
                    as u64,
            },
            alarms: self.alarms.texts(),
            resident_bytes: status::resident_bytes(),
            cpu_seconds: status::cpu_seconds(),
        }
    }

    /// What the lamp shows.
    pub(super) fn lamp(&self, now: Monotonic) -> Lamp {
        let lanes = &self.parts.lanes;
        let world = World {
            ready: lanes.iter().any(LaneView::is_open),
            reachable: self.reachable || self.parts.offers.is_none(),
            attention: self.alarms.want_attention() || !lanes.iter().all(LaneView::is_open),
        };
        match (self.recorder.state(), self.recorder.lamp(world, now)) {
            (State::Idle, Lamp::Off | Lamp::ShortBlink) if self.commands.identifies(now) => {
                Lamp::TripleBlink
            }
            (_, lamp) => lamp,
        }
    }

    fn track(&self, lane: &LaneView) -> status::Track {
        let lateness = self.lateness.get(&lane.track).cloned();
        let (gaps, gap_ms) = self.gaps_of(lane.track);
        status::Track {
            gaps,
            gap_seconds: gap_ms as f64 / 1000.0,
            capture_to_received_ms: lateness.and_then(Lateness::summary),
            ..lane.status()
        }
    }
}
