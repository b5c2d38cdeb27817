//! The board's lamp, as far as the keeper is concerned: its guard hears the pattern from the keeper's own
//! loop and nowhere else, so that a keeper which hangs, be it on a disk, goes dark.

use super::Keeper;
use crate::clock;
use crate::media::Monotonic;
use crate::panel::{Lamp, Tell};
use std::time::Duration;

/// How often the guard hears of the box. Patterns change with time, and show as late as this at most.
const BEAT: Duration = Duration::from_millis(80);

/// What the guard was told.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// The guard was heard of.
    pub(super) is_known: bool,
    guard: Option<Tell>,
    told: Option<(Lamp, Monotonic)>,
}

impl Keeper {
    /// The guard came, or went.
    pub(super) fn lamp_is(&mut self, lamp: Result<Tell, String>) {
        (self.shown.told, self.shown.is_known) = (None, true);
        let needed = self.parts.lamp_needed == Some(true);
        self.recorder
            .set_lamp(lamp.is_ok() || !needed, clock::now());
        match lamp {
            Ok(guard) => {
                self.shown.guard = Some(guard);
                self.calm("lamp", (None, None), "the lamp is driven");
            }
            Err(why) => {
                self.shown.guard = None;
                self.alarm("lamp", (None, None), &why);
                self.rest();
            }
        }
    }

    /// When the guard is to hear of the box.
    pub(super) fn lamp_due(&self) -> Option<Monotonic> {
        let told = self.shown.told.map(|(_, at)| at.plus(BEAT));
        self.shown.guard.as_ref().and(told)
    }

    /// Tells the guard what the lamp shows, when that is due or has changed.
    pub(super) fn show(&mut self, now: Monotonic) {
        let lamp = self.lamp(now);
        let is_due = |(told, at): (Lamp, Monotonic)| told != lamp || now >= at.plus(BEAT);
        if !self.shown.told.is_none_or(is_due) {
            return;
        }
        if let Some(guard) = &mut self.shown.guard {
            self.shown.told = Some((lamp, now));
            // A guard that ended is replaced, and one that hangs hears it later.
            if let Err(error) = guard.tell(lamp) {
                log::debug!("the lamp's guard was not told: {error}");
            }
        }
    }
}
