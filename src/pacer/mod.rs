//! Stage: a fixed interval out of irregular input.
//!
//! Takes pictures with their capture times, in whatever rhythm a device delivers them, and samples at
//! whatever rate a card has; gives exactly one picture (or a repeat of the last) per tick of an
//! integer grid, and blocks of 48 kHz sound whose media time is the monotonic clock's. Everything
//! made up or left out is counted by reason.
//!
//! Both [`crate::pacer::Pacer`] and [`crate::pacer::SoundPacer`] are engines: `now` is an argument,
//! there is no clock, thread or device here. What does not belong here: pixel formats, codecs, waiting.

mod grid;
mod meter;
mod policy;
mod resample;
mod sound;
mod stats;

pub use grid::Grid;
pub use meter::{Loudness, Meter};
pub use policy::{Action, Config, Pacer};
pub use sound::{
    BLOCK_FRAMES, SoundBlock, SoundConfig, SoundError, SoundGap, SoundPacer, SoundStats, TOLERANCE,
};
pub use stats::{DropReason, Lateness, RepeatReason, Stats};
