//! What an earlier run left of a recording: where it stopped, on which clocks, and so for how long the
//! box was away.
//!
//! Read from the spool alone: the facts of the recording's last span, and the end of the last chunk
//! that was kept. A file's date is not asked: a wrong clock wrote it.

use crate::media::{Event, GapLength, MediaTime, Monotonic, RecordingId, SegmentKey, Timescale, TrackId, WallClock};
use crate::mp4::{Content, parse_segment};
use crate::segmenter::read_facts;
use crate::spool::Spool;
use std::time::Duration;

/// How far off a length may be that CLOCK_BOOTTIME measured within one boot.
const BOOT_ERROR: Duration = Duration::from_millis(1);

/// Where a span begins on the clocks that outlive a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// UTC, where it is known.
    pub(super) wall: Option<WallClock>,
    /// The boot, and the nanoseconds since, suspend included.
    pub(super) boot: Option<([u8; 16], u64)>,
}

/// The last span of a recording that is taken up again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Past {
    /// Where it begins.
    pub(super) start: Place,
    /// Nanoseconds of it that were kept.
    pub(super) kept_nanos: u64,
    /// Nanoseconds recorded in the spans before it.
    pub(super) before_nanos: u64,
}

impl Past {
    /// What the spool says; `None` for a recording without a span.
    pub(super) fn read(spool: &Spool, recording: RecordingId) -> Option<Self> {
        let state = spool.state(recording)?;
        let span = state.opened?.span;
        let mut past = Self::default();
        for (&track, held) in &state.tracks {
            for (&sequence, segment) in held.segments.iter().rev() {
                let key = SegmentKey {
                    recording,
                    track,
                    sequence,
                };
                let Ok(bytes) = spool.read(key, 0, segment.length) else {
                    continue;
                };
                if track == TrackId::EVENTS {
                    // The facts of a span begin with its `Span`.
                    if past.learn(&bytes, span) {
                        break;
                    }
                } else if !bytes.is_empty() {
                    past.kept_nanos = past.kept_nanos.max(end_in(&bytes, span).unwrap_or(0));
                    break;
                }
            }
        }
        Some(past)
    }

    /// Takes a batch of facts in, the latest first; true once the span's beginning was in it.
    fn learn(&mut self, segment: &[u8], wanted: u32) -> bool {
        let mut begun = false;
        for fact in read_facts(segment).unwrap_or_default().into_iter().rev() {
            match fact.event {
                Event::SpanPlaced { span, wall, .. } if span == wanted => {
                    self.start.wall.get_or_insert(wall);
                }
                Event::Span { wall, .. } if fact.span == wanted => {
                    let known = wall.filter(|wall| wall.uncertainty.is_some());
                    self.start.wall = self.start.wall.or(known);
                    begun = true;
                }
                Event::Run {
                    boot,
                    boot_nanos,
                    recorded_nanos,
                } if fact.span == wanted => {
                    self.start.boot = boot.map(|boot| (boot, boot_nanos));
                    self.before_nanos = recorded_nanos;
                }
                _ => begun |= fact.span < wanted,
            }
        }
        begun
    }

    /// All that was recorded so far.
    pub(super) fn recorded(&self) -> Duration {
        Duration::from_nanos(self.before_nanos.saturating_add(self.kept_nanos))
    }

    /// How long the box was away until a span that starts at `next`: by the boot's clock where both are
    /// of one boot, else by UTC where it is known of both.
    pub(super) fn away(&self, next: &Place) -> GapLength {
        let kept = i64::try_from(self.kept_nanos).unwrap_or(i64::MAX);
        let known = |nanos: i64, error: Duration| GapLength::Known {
            nanos: u64::try_from(nanos).unwrap_or(0),
            uncertainty_nanos: u64::try_from(error.as_nanos()).unwrap_or(u64::MAX),
        };
        if let (Some((then, start)), Some((now, next))) = (self.start.boot, next.boot)
            && then == now
        {
            let since = Monotonic::from_nanos(next).offset_from(Monotonic::from_nanos(start));
            return known(since.saturating_sub(kept), BOOT_ERROR);
        }
        let error = |wall: WallClock| wall.uncertainty.map(|error| (wall.unix_nanos, error));
        match (self.start.wall.and_then(error), next.wall.and_then(error)) {
            (Some((start, first)), Some((next, second))) => {
                let nanos = next.saturating_sub(start).saturating_sub(kept);
                known(nanos, first.saturating_add(second))
            }
            _ => GapLength::Unknown,
        }
    }
}

/// Whether a recording does not survive a gap: only if it was certainly longer than `within`.
pub(super) fn is_too_long(gap: GapLength, within: Duration) -> bool {
    match gap {
        GapLength::Unknown => false,
        GapLength::Known {
            nanos,
            uncertainty_nanos,
        } => u128::from(nanos.saturating_sub(uncertainty_nanos)) > within.as_nanos(),
    }
}

/// Where a segment of sound or pictures of this span ends, in nanoseconds after the span's start.
fn end_in(bytes: &[u8], span: u32) -> Option<u64> {
    let segment = parse_segment(bytes).ok()?;
    let scale = Timescale::new(segment.provenance.timescale)?;
    let Content::Media(chunks) = segment.content else {
        return None;
    };
    let last = &chunks.last().filter(|_| segment.provenance.span == span)?.chunk;
    let end = i64::try_from(last.base_time.checked_add(last.duration())?).ok()?;
    u64::try_from(MediaTime(end).as_nanos(scale)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{AccessUnit, Codec, Fact, Opened as _, Rate, Segmented};
}
