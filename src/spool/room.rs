//! How much room there is, and what that asks for: the order in which things are given up.

use super::Error;
use super::log::Spool;
use super::write::Held;
use std::time::Duration;

/// How short of space the box is, from plenty to none. Each level asks for what those before it ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Nothing is to be done.
    #[default]
    Normal,
    /// What the receiver holds leaves before its retention has passed, oldest first. The spool does so
    /// in [`Spool::release`].
    FreeAcknowledged,
    /// No new recording begins. [`Spool::begin`] refuses it.
    RefuseNew,
    /// The running recording gives this up, and what comes before it.
    Degrade(GiveUp),
    /// Nothing is recorded any more, sound neither; the reserve holds LOST, END and seals.
    Reserve,
}

/// What a running recording gives up for want of space, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GiveUp {
    /// Bit rate of the pictures.
    BitRate,
    /// The presenter's picture.
    Presenter,
    /// The slides' picture.
    Slides,
}

/// The recording time left, at the full rate, below which each level begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// [`Level::FreeAcknowledged`]; people are told of less than this, too.
    pub free_acknowledged: Duration,
    /// [`Level::RefuseNew`].
    pub refuse_new: Duration,
    /// [`GiveUp::BitRate`].
    pub bit_rate: Duration,
    /// [`GiveUp::Presenter`].
    pub presenter: Duration,
    /// [`GiveUp::Slides`]: what is left at the rate of sound is many times this.
    pub slides: Duration,
    /// [`Level::Reserve`] begins below this many bytes: what the records of a few minutes of sound need.
    pub floor_bytes: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            free_acknowledged: Duration::from_secs(8 * 3600),
            refuse_new: Duration::from_secs(600),
            bit_rate: Duration::from_secs(300),
            presenter: Duration::from_secs(180),
            slides: Duration::from_secs(120),
            floor_bytes: 2 << 20,
        }
    }
}

impl Thresholds {
    /// The level at `free` bytes and a full rate of `rate` bytes per second (0: not known, only the
    /// floor counts), coming from `current`: a level is left only with a quarter more room than it
    /// begins at, so that what it gains does not end it.
    pub fn level(&self, current: Level, free: u64, rate: u64) -> Level {
        let steps = [
            (Level::FreeAcknowledged, self.free_acknowledged),
            (Level::RefuseNew, self.refuse_new),
            (Level::Degrade(GiveUp::BitRate), self.bit_rate),
            (Level::Degrade(GiveUp::Presenter), self.presenter),
            (Level::Degrade(GiveUp::Slides), self.slides),
        ];
        let bytes = |time: Duration| u64::try_from(time.as_millis() * u128::from(rate) / 1000);
        let steps = steps.map(|(level, time)| {
            let bytes = bytes(time).unwrap_or(u64::MAX);
            // A box that is all but full is so at any rate.
            (level, bytes.max(self.floor_bytes))
        });
        let all = steps
            .into_iter()
            .chain([(Level::Reserve, self.floor_bytes)]);
        let reached = |(level, begins): &(Level, u64)| {
            let margin = if *level <= current { begins / 4 } else { 0 };
            free < begins.saturating_add(margin)
        };
        all.filter(reached)
            .map(|(level, _)| level)
            .max()
            .unwrap_or(Level::Normal)
    }
}

/// The spool's room, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Taken by recordings.
    pub used: u64,
    /// What may still be written: within the quota and on the disk.
    pub free: u64,
    /// Of what is taken, what the receiver holds durably, so that it can go.
    pub freeable: u64,
    /// All there is: the quota, or the disk.
    pub capacity: u64,
    /// The full rate of a recording per second; 0 if it was not said.
    pub rate: u64,
    /// What that asks for.
    pub level: Level,
}

impl Room {
    /// For how long a recording at the full rate goes on, with what can be freed; `None` if the rate
    /// is not known.
    pub fn left(&self) -> Option<Duration> {
        let bytes = self.free.saturating_add(self.freeable);
        bytes.checked_div(self.rate).map(Duration::from_secs)
    }
}

impl Spool {
    /// How much room there is now. Ask every second or so: the level follows it.
    pub fn room(&mut self) -> Result<Room, Error> {
        let directory = &self.config.directory;
        let space = self
            .disk
            .space(directory)
            .map_err(|error| Error::disk(directory, "asking for free space", error))?;
        let used: u64 = self.recordings.values().map(Held::bytes).sum();
        let (mut free, mut capacity) = (space.free, space.total);
        if self.config.quota_bytes > 0 {
            capacity = capacity.min(self.config.quota_bytes);
            free = free.min(self.config.quota_bytes.saturating_sub(used));
        }
        let freeable = self.recordings.values().map(Held::freeable).sum();
        let rate = self.config.rate;
        self.level = self.config.thresholds.level(self.level, free, rate);
        Ok(Room {
            used,
            free,
            freeable,
            capacity,
            rate,
            level: self.level,
        })
    }

    /// Says how many bytes per second a recording with all its tracks makes.
    pub fn set_rate(&mut self, bytes_per_second: u64) {
        self.config.rate = bytes_per_second;
    }

    /// Refuses a new recording at [`Level::RefuseNew`] and beyond.
    pub(super) fn refuse_without_room(&mut self) -> Result<(), Error> {
        // A disk that does not say how full it is may still take the recording.
        let Ok(room) = self.room() else {
            return Ok(());
        };
        if room.level < Level::RefuseNew {
            return Ok(());
        }
        Err(Error::NoRoom {
            path: self.config.directory.clone(),
            free: room.free,
            minutes: room.free.checked_div(room.rate).unwrap_or(0) / 60,
            wanted: self.config.thresholds.refuse_new.as_secs() / 60,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Level::*;

    /// At 1000 bytes per second and a floor of 10 kB.
    const THRESHOLDS: Thresholds = Thresholds {
        free_acknowledged: Duration::from_secs(1000),
        refuse_new: Duration::from_secs(600),
        bit_rate: Duration::from_secs(300),
        presenter: Duration::from_secs(180),
        slides: Duration::from_secs(120),
        floor_bytes: 10_000,
    };

    #[test]
    fn invariant_5_the_order_of_giving_up_is_a_table() {
        let (bit_rate, presenter, slides) = (
            Degrade(GiveUp::BitRate),
            Degrade(GiveUp::Presenter),
            Degrade(GiveUp::Slides),
        );
        // Free bytes; the level going down to them; the level coming back up to them.
        for (free, falling, rising) in [
            (2_000_000, Normal, Normal),
            (1_250_000, Normal, Normal),
            (1_249_999, Normal, FreeAcknowledged),
            (1_000_000, Normal, FreeAcknowledged),
            (999_999, FreeAcknowledged, FreeAcknowledged),
            (750_000, FreeAcknowledged, FreeAcknowledged),
            (749_999, FreeAcknowledged, RefuseNew),
            (599_999, RefuseNew, RefuseNew),
            (374_999, RefuseNew, bit_rate),
            (299_999, bit_rate, bit_rate),
            (224_999, bit_rate, presenter),
            (179_999, presenter, presenter),
            (149_999, presenter, slides),
            (119_999, slides, slides),
            (12_499, slides, Reserve),
            (9_999, Reserve, Reserve),
            (0, Reserve, Reserve),
        ] {
            assert_eq!(
                THRESHOLDS.level(Normal, free, 1000),
                falling,
                "{free} falling"
            );
            assert_eq!(
                THRESHOLDS.level(Reserve, free, 1000),
                rising,
                "{free} rising"
            );
        }
        // Without a rate only the floor counts.
        assert_eq!(THRESHOLDS.level(Normal, 10_000, 0), Normal);
        assert_eq!(THRESHOLDS.level(Normal, 9_999, 0), Reserve);
        assert_eq!(THRESHOLDS.level(Normal, 9, u64::MAX), Reserve);
    }
}
