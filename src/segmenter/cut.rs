//! Where chunks and segments end.

use crate::media::{AccessUnit, MediaTime, Rate, Timescale};
use std::time::Duration;

/// The longest segment of a camera that encodes: players are told so before it is known.
const LONGEST: Duration = Duration::from_secs(10);
/// The greatest: what is in flight is bounded by it.
const MOST_BYTES: u64 = 8_000_000;

/// How one track is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Segments run from keyframe to keyframe.
    Pictures {
        /// Access units in a chunk, at least 1.
        chunk_units: u64,
        /// Access units in a segment, where the keyframes come on a grid: the last chunk is then
        /// given without waiting for the next keyframe.
        segment_units: Option<u64>,
    },
    /// Pictures as a camera encoded them, at whatever times: a segment ends at the first keyframe
    /// that comes when it is long enough.
    Passing {
        /// A chunk's length in units of the timescale.
        chunk: u64,
        /// A segment's least length.
        segment: u64,
        /// A segment's greatest length: what does not fit is refused.
        longest: u64,
    },
    /// Every access unit decodes alone; segments end at the one nearest to each multiple of their
    /// length.
    Sound {
        /// Access units in a chunk, at least 1.
        chunk_units: u64,
        /// A segment's length in nanoseconds: that of the pictures' segments, so that they align.
        segment_nanos: u64,
    },
}

impl Cut {
    /// Pictures at `rate`: the fewest whole ticks that cover `chunk` and `segment` (250 ms and 2 s by
    /// default in the box). The pacer asks for a keyframe every [`Cut::segment_units`] ticks.
    pub fn pictures(rate: Rate, chunk: Duration, segment: Duration) -> Self {
        Self::Pictures {
            chunk_units: rate.ticks_covering(chunk),
            segment_units: Some(rate.ticks_covering(segment)),
        }
    }

    /// Pictures as a camera encoded them. A segment may be an eighth shorter than `segment`, so that
    /// keyframes that come as often do not miss it by a hair.
    pub fn passing(scale: Timescale, chunk: Duration, segment: Duration) -> Self {
        let units = |duration: Duration| {
            let units = duration.as_nanos() * u128::from(scale.get()) / 1_000_000_000;
            u64::try_from(units).unwrap_or(u64::MAX)
        };
        Self::Passing {
            chunk: units(chunk),
            segment: units(segment) / 8 * 7,
            longest: units(LONGEST),
        }
    }

    /// Sound beside pictures at `rate`: packets of `packet` samples, 48 000 per second, the fewest
    /// that cover `chunk`; segments as long as the pictures'.
    pub fn sound(packet: u32, rate: Rate, chunk: Duration, segment: Duration) -> Self {
        let samples = chunk.as_nanos() * u128::from(Timescale::SOUND.get());
        let per_packet = 1_000_000_000 * u128::from(packet.max(1));
        Self::Sound {
            chunk_units: u64::try_from(samples.div_ceil(per_packet))
                .unwrap_or(u64::MAX)
                .max(1),
            segment_nanos: rate.tick_nanos(rate.ticks_covering(segment)).max(1),
        }
    }

    /// These access units are a whole chunk.
    pub(super) fn is_chunk(&self, pending: &[AccessUnit]) -> bool {
        match (self, pending) {
            (Self::Passing { chunk, .. }, [first, .., last]) => {
                last.time.0.abs_diff(first.time.0) + u64::from(last.duration) >= *chunk
            }
            (Self::Passing { chunk, .. }, [one]) => u64::from(one.duration) >= *chunk,
            (Self::Passing { .. }, []) => false,
            (Self::Pictures { chunk_units, .. } | Self::Sound { chunk_units, .. }, _) => {
                pending.len() as u64 >= *chunk_units
            }
        }
    }

    /// A segment of pictures that began at `start` ends in front of this access unit.
    pub(super) fn ends_before(&self, unit: &AccessUnit, start: MediaTime) -> bool {
        match self {
            Self::Passing { segment, .. } => {
                unit.keyframe && unit.time.0.abs_diff(start.0) >= *segment
            }
            _ => unit.keyframe,
        }
    }

    /// A segment that began at `start` and has so many bytes with this access unit would be refused.
    pub(super) fn is_too_long(&self, unit: &AccessUnit, start: MediaTime, bytes: u64) -> bool {
        match self {
            Self::Passing { longest, .. } => {
                let length = unit.time.0.abs_diff(start.0) + u64::from(unit.duration);
                length > *longest || bytes > MOST_BYTES
            }
            _ => false,
        }
    }

    /// Access units in a whole segment of pictures, where that is known.
    pub fn segment_units(&self) -> Option<u64> {
        match self {
            Self::Pictures { segment_units, .. } => *segment_units,
            Self::Sound { .. } | Self::Passing { .. } => None,
        }
    }

    /// Which segment of the grid a packet of sound belongs to; none for pictures.
    pub(super) fn number(&self, unit: &AccessUnit, scale: Timescale) -> Option<u64> {
        self.number_at(unit.time.0, unit.duration, scale)
    }

    /// The same for the packet that would follow without a gap.
    pub(super) fn number_after(&self, unit: &AccessUnit, scale: Timescale) -> Option<u64> {
        self.number_at(
            unit.time.0.saturating_add(unit.duration.into()),
            unit.duration,
            scale,
        )
    }

    fn number_at(&self, time: i64, duration: u32, scale: Timescale) -> Option<u64> {
        match self {
            Self::Pictures { .. } | Self::Passing { .. } => None,
            Self::Sound { segment_nanos, .. } => {
                // A packet begins nearest to the boundary that its middle lies just behind.
                let middle = 2 * u128::from(time.max(0) as u64) + u128::from(duration);
                let nanos = middle * 1_000_000_000 / (2 * u128::from(scale.get()));
                u64::try_from(nanos / u128::from((*segment_nanos).max(1))).ok()
            }
        }
    }
}
