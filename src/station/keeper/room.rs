//! Want of space: what is given up, in the declared order, and taken up again.
//!
//! | level | what happens |
//! |---|---|
//! | `normal` | what the receiver has held for the retention time leaves |
//! | `free-acknowledged` | what the receiver holds leaves earlier, oldest first |
//! | `refuse-new` | and no new recording begins |
//! | `give-up-bit-rate` | and pictures are encoded at the lowest bit rate |
//! | `give-up-presenter`, `give-up-slides` | and that picture is left out; each segment is LOST on record |
//! | `reserve` | the recording ends, its end written from the reserve |
//!
//! A disk that is full from one look to the next is looked at when it refuses something: then all of
//! this happens at once. Each comes back once there is a quarter more room than it begins at.

use super::Keeper;
use crate::clock;
use crate::media::{Monotonic, StopReason, TrackId};
use crate::spool::{self, GiveUp, Level, Room};
use crate::station::lane::{Command, LADDER, LaneView};
use crate::station::pipeline::{PRESENTER, SLIDES};
use crate::station::recorder::Input as Happening;
use std::time::Duration;

/// The disk is looked at so often.
const LOOK: Duration = Duration::from_secs(2);
/// People are told when there is room for less, and that it is well again only with some more.
const LOW: Duration = Duration::from_secs(8 * 3600);
const WELL: Duration = Duration::from_secs(10 * 3600);

/// What a lane is told for the link's and the disk's sake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// Per cent of the bit rate.
    pub(super) percent: u8,
    pub(super) given_up: bool,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            percent: LADDER[0],
            given_up: false,
        }
    }
}

/// What a track is told at this level of the disk and this step of the link.
fn order(track: TrackId, level: Level, link: u8) -> Order {
    let lowest = LADDER[LADDER.len() - 1];
    let link = LADDER.get(usize::from(link)).copied().unwrap_or(lowest);
    let gives = |what| level >= Level::Degrade(what);
    let given_up = track == PRESENTER.0 && gives(GiveUp::Presenter)
        || track == SLIDES.0 && gives(GiveUp::Slides);
    Order {
        percent: if gives(GiveUp::BitRate) { lowest } else { link },
        given_up,
    }
}

/// A level's name in `hallcast status`.
pub(super) fn name(level: Level) -> &'static str {
    match level {
        Level::Normal => "normal",
        Level::FreeAcknowledged => "free-acknowledged",
        Level::RefuseNew => "refuse-new",
        Level::Degrade(GiveUp::BitRate) => "give-up-bit-rate",
        Level::Degrade(GiveUp::Presenter) => "give-up-presenter",
        Level::Degrade(GiveUp::Slides) => "give-up-slides",
        Level::Reserve => "reserve",
    }
}

impl Keeper {
    /// Lets go what may go, and gives up what must be.
    pub(super) fn keep_room(&mut self, now: Monotonic) {
        if self
            .room_looked
            .is_some_and(|looked| now.since(looked) < LOOK)
        {
            return;
        }
        self.room_looked = Some(now);
        let bits: u64 = self.parts.lanes.iter().map(LaneView::bit_rate).sum();
        let wall = self.utc.at(now);
        self.spool().set_rate(bits / 8);
        self.parts.custody.release(wall);
        let room = self.spool().room();
        match room {
            Ok(room) => self.has_room(room),
            Err(error) => log::error!("{error}"),
        }
    }

    /// As [`Keeper::keep_room`], at once: the disk has just refused something.
    pub(super) fn look_at_room(&mut self) {
        self.room_looked = None;
        self.keep_room(clock::now());
    }

    /// Sound or pictures were refused though all that may go has gone: the recording ends with what
    /// was kept, whatever the disk says of its room.
    pub(super) fn is_full(&mut self, error: &spool::Error) {
        if let Some(running) = &mut self.running {
            running.full = true;
        }
        self.alarm("disk-full", (None, None), &error.to_string());
        // Refused when it is ending already.
        let _ = self.happen(Happening::Stop(StopReason::NoSpace));
    }

    pub(super) fn has_room(&mut self, room: Room) {
        let (before, level) = (self.room.map(|room| room.level), room.level);
        self.room = Some(room);
        let hours = |left: Duration| left.as_secs() / 3600;
        match room.left() {
            Some(left) if left < LOW => {
                let message = format!(
                    "the disk has room for {} h {} min of recording; free space, or wait until the receiver has taken what waits",
                    hours(left),
                    left.as_secs() / 60 % 60
                );
                self.alarm("disk-low", (None, None), &message);
            }
            Some(left) if left < WELL => {}
            _ => self.calm("disk-low", (None, None), "the disk has room again"),
        }
        self.recorder.set_room(level < Level::RefuseNew);
        if before != Some(level) {
            self.command();
        }
        if level >= Level::Degrade(GiveUp::BitRate) {
            let message = format!(
                "the disk is almost full ({} bytes are free): {}",
                room.free,
                name(level)
            );
            self.alarm("disk-full", (None, None), &message);
        } else {
            self.calm("disk-full", (None, None), "everything is recorded again");
        }
        if level == Level::Reserve {
            // Refused when nothing runs.
            let _ = self.happen(Happening::Stop(StopReason::NoSpace));
        }
    }

    /// Tells each lane what has changed for it.
    pub(super) fn command(&mut self) {
        let level = self.room.map_or(Level::Normal, |room| room.level);
        for lane in &self.parts.lanes {
            let wanted = order(lane.track, level, self.link);
            let known = self.orders.insert(lane.track, wanted).unwrap_or_default();
            if known.percent != wanted.percent {
                let percent = wanted.percent;
                lane.tell(Command::BitRate { percent });
            }
            if known.given_up != wanted.given_up {
                log::warn!("track {}: given up: {}", lane.track, wanted.given_up);
                lane.tell(match wanted.given_up {
                    true => Command::GiveUp,
                    false => Command::TakeUp,
                });
            }
        }
    }

    /// A sync took so long: interval, sync and pipeline together are what a power cut costs.
    pub(super) fn synced_in(&mut self, took: Duration) {
        self.sync_times.record(took);
        let Some((_, sync, count)) = self.sync_times.clone().summary() else {
            return;
        };
        // The first ones come with files and directories that are made.
        if count < 20 {
            return;
        }
        let pipeline = self
            .pipeline_times
            .clone()
            .summary()
            .map_or(0, |times| times.1);
        let interval = self.parts.sync_interval.as_millis() as u64;
        let all = interval + sync + pipeline;
        if all > 1000 {
            let message = format!(
                "a power cut may cost {all} ms of the recording: a sync takes {sync} ms, from capture to the disk {pipeline} ms; the disk or the machine is too slow"
            );
            self.alarm("sync-slow", (None, None), &message);
        } else if all < 900 {
            self.calm("sync-slow", (None, None), "the disk is fast enough again");
        }
    }

    /// A chunk was written that was captured then.
    pub(super) fn written_after(&mut self, captured: Monotonic) {
        self.pipeline_times.record(clock::now().since(captured));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_at_each_level_is_a_table() {
        const SOUND: TrackId = TrackId(3);
        let full = |given_up| Order {
            percent: 25,
            given_up,
        };
        // Level, link; presenter, slides, sound.
        for (level, link, expected) in [
            (Level::Normal, 0, [Order::default(); 3]),
            (Level::RefuseNew, 0, [Order::default(); 3]),
            (Level::Degrade(GiveUp::BitRate), 0, [full(false); 3]),
            (
                Level::Degrade(GiveUp::Presenter),
                0,
                [full(true), full(false), full(false)],
            ),
            (
                Level::Degrade(GiveUp::Slides),
                0,
                [full(true), full(true), full(false)],
            ),
            (Level::Reserve, 0, [full(true), full(true), full(false)]),
        ] {
            let found = [PRESENTER.0, SLIDES.0, SOUND].map(|track| order(track, level, link));
            assert_eq!(found, expected, "{level:?}");
        }
        assert_eq!(
            order(SLIDES.0, Level::Normal, 2).percent,
            50,
            "the link's word"
        );
        let both = order(SLIDES.0, Level::Degrade(GiveUp::BitRate), 1);
        assert_eq!(both.percent, 25, "the lower of both");
    }
}
