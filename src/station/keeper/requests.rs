//! What people ask, and what they are told.

use super::Keeper;
use crate::clock;
use crate::media::{Monotonic, RecordingId, StartedBy, StopReason};
use crate::panel::{Lamp, Press};
use crate::spool::Level;
use crate::station::control::{Reply, Request};
use crate::station::lane::LaneView;
use crate::station::random;
use crate::station::recorder::{Input as Happening, Refusal, Running, State, World};
use crate::station::status::{self, Lateness, Status};
use std::sync::mpsc::Sender;

impl Keeper {
    pub(super) fn request(&mut self, request: Request, reply: Sender<Reply>) {
        let outcome = match request {
            Request::Status => {
                let _ = reply.send(Reply::Status(Box::new(self.status())));
                return;
            }
            Request::Start => self.start(StartedBy::Socket),
            Request::Stop => return self.stop(StopReason::Socket, vec![reply]),
            Request::Press => {
                let press = self.button.press(clock::now());
                self.pressed(press);
                Ok(())
            }
            Request::Hold => {
                let press = self.button.hold(clock::now());
                self.holding.push(reply);
                return self.pressed(press);
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

    /// What the button did: a press starts and, while recording, changes nothing; a hold stops what
    /// it did not itself start.
    pub(super) fn pressed(&mut self, press: Option<Press>) {
        match press {
            Some(Press::Down) => self.started_by_press = self.start(StartedBy::Button).is_ok(),
            Some(Press::Held) if self.started_by_press => {
                let refusal = "the press of this hold has just started the recording";
                for reply in self.holding.drain(..) {
                    let _ = reply.send(Reply::Refused(refusal.into()));
                }
            }
            Some(Press::Held) => {
                let waiting = std::mem::take(&mut self.holding);
                self.stop(StopReason::Button, waiting);
            }
            None => {}
        }
    }

    pub(super) fn start(&mut self, by: StartedBy) -> Result<(), Refusal> {
        let outcome = self.happen(Happening::Start(RecordingId(random()), by));
        match (&outcome, &mut self.running) {
            // What runs may turn out to be a recording that should have ended long ago.
            (Err(Refusal::AlreadyRecording), Some(running)) if running.place.wall.is_none() => {
                running.wanted = running.past.map(|_| by);
            }
            _ => {}
        }
        outcome
    }

    /// Ends the recording; `waiting` is answered once its end is kept.
    fn stop(&mut self, by: StopReason, mut waiting: Vec<Sender<Reply>>) {
        match (self.happen(Happening::Stop(by)), &mut self.running) {
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

    /// The recorder's state, and the recording in hand.
    pub(super) fn state(&self) -> (&'static str, Option<Running>) {
        match self.recorder.state() {
            State::Idle => ("idle", None),
            State::Starting(running) => ("starting", Some(running)),
            State::Recording(running) => ("recording", Some(running)),
            State::Stopping(running) => ("stopping", Some(running)),
            State::Fault => ("fault", None),
        }
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
            recording: running.map(|running| status::Recording {
                id: running.recording.to_string(),
                seconds: now.since(running.since).as_secs(),
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
        self.recorder.lamp(world, now)
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
