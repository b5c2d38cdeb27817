//! A camera that encodes by itself: what it gives becomes access units as they are.
//!
//! Takes the bytes of one picture each (H.264, ITU-T annex B) with the media time at which it was
//! captured; gives the access unit before it, which lasts until then. Nothing is left out but what
//! no player could show: pictures before the first keyframe, and after a loss those up to the next.
//! Only an IDR picture is a keyframe. Parameter sets leave the access units for the init; delimiters
//! and fillers are dropped.

use super::{ParameterSets, Stats};
use crate::media::{AccessUnit, MediaTime, Monotonic};

/// NAL unit types (ITU-T H.264, table 7-1).
const IDR: u8 = 5;
const SEI: u8 = 6;
const SPS: u8 = 7;
const PPS: u8 = 8;

/// What a picture of an encoding camera holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Its slices and messages, each behind four bytes of length; empty when it shows nothing.
    pub data: Vec<u8>,
    /// It is an IDR picture.
    pub keyframe: bool,
    /// The first two sequence parameter sets in it that differ.
    pub sps: Vec<Vec<u8>>,
    /// The first two picture parameter sets in it that differ.
    pub pps: Vec<Vec<u8>>,
}

/// Reads one picture in annex B form. Whatever the bytes are, the answer is no longer than they are
/// and four bytes for each of their start codes of three.
pub fn parse_annex_b(bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let mut pictures = false;
    for nal in nal_units(bytes) {
        let kind = nal[0] & 0x1f;
        let sets = match kind {
            SPS => &mut parsed.sps,
            PPS => &mut parsed.pps,
            1..=SEI => {
                pictures |= kind != SEI;
                parsed.keyframe |= kind == IDR;
                let length = u32::try_from(nal.len()).unwrap_or(u32::MAX);
                parsed.data.extend_from_slice(&length.to_be_bytes());
                parsed.data.extend_from_slice(nal);
                continue;
            }
            _ => continue,
        };
        // A second one tells all that is asked.
        if sets.len() < 2 && !sets.iter().any(|known| known == nal) {
            sets.push(nal.to_vec());
        }
    }
    if !pictures {
        parsed.data.clear();
    }
    parsed
}

/// The NAL units between start codes, none of them empty. Bytes in front of the first are left out.
fn nal_units(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(bytes).map(|(_, after)| after);
    std::iter::from_fn(move || {
        let (nal, after) = match after_start_code(rest?) {
            Some((before, after)) => (before, Some(after)),
            None => (rest?, None),
        };
        rest = after;
        // A NAL unit ends with a bit that is set: zeros behind it belong to the stream.
        let end = nal.iter().rposition(|byte| *byte != 0);
        Some(&nal[..end.map_or(0, |last| last + 1)])
    })
    .filter(|nal| !nal.is_empty())
}

/// What lies in front of and behind the first start code.
fn after_start_code(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.windows(3).position(|three| three == [0, 0, 1])?;
    Some((&bytes[..at], &bytes[at + 3..]))
}

/// An access unit that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// As the camera gave it, but for its parameter sets.
    pub unit: AccessUnit,
    /// With a keyframe: what it and those that follow need.
    pub parameters: Option<ParameterSets>,
}

/// Why a picture cannot be passed on; what follows is left out up to the next keyframe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// An init holds one of each.
    #[error("it gives several parameter sets at once, which no player would be told of")]
    SeveralSets,
    /// A keyframe came, and no parameter set with it or before it.
    #[error("it gives keyframes without parameter sets")]
    NoSets,
}

/// One track's engine. Times are units of the track's timescale.
#[derive(Debug)]
pub struct Passthrough {
    sps: Option<Vec<u8>>,
    pps: Option<Vec<u8>>,
    /// The last one taken: how long it lasts, the next one tells.
    held: Option<Passed>,
    /// Nothing can be given before the next keyframe.
    waiting: bool,
    /// When the last one taken began.
    last: Option<MediaTime>,
    /// How long one lasts whose end nothing tells.
    interval: u32,
    /// A picture lasts no longer than this: what is longer is a hole.
    longest: u32,
    stats: Stats,
    left_out: u64,
    moved: u64,
}

impl Passthrough {
    /// A track that has not begun: `interval` is how long a picture should last by what the camera
    /// says, `longest` how long it may last.
    pub fn new(interval: u32, longest: u32) -> Self {
        Self {
            sps: None,
            pps: None,
            held: None,
            waiting: true,
            last: None,
            interval: interval.max(1),
            longest: longest.max(1),
            stats: Stats::default(),
            left_out: 0,
            moved: 0,
        }
    }

    /// Takes the next picture, captured at `time`; gives the one before. One of before the track's
    /// start only tells its parameter sets. A time not after the one before is moved right behind it.
    pub fn take(
        &mut self,
        bytes: &[u8],
        time: MediaTime,
        captured: Monotonic,
    ) -> (Option<Passed>, Result<(), Refused>) {
        let parsed = parse_annex_b(bytes);
        let several = parsed.sps.len() > 1 || parsed.pps.len() > 1;
        self.sps = parsed.sps.into_iter().next_back().or(self.sps.take());
        self.pps = parsed.pps.into_iter().next_back().or(self.pps.take());
        if several {
            return (self.lose(), Err(Refused::SeveralSets));
        }
        if parsed.data.is_empty() || time < MediaTime::ZERO {
            return (None, Ok(()));
        }
        if self.waiting && !parsed.keyframe {
            self.left_out += 1;
            return (None, Ok(()));
        }
        let parameters = match (parsed.keyframe, &self.sps, &self.pps) {
            (false, _, _) => None,
            (true, Some(sps), Some(pps)) => Some(ParameterSets {
                sps: sps.clone(),
                pps: pps.clone(),
            }),
            (true, _, _) => {
                self.left_out += 1;
                return (self.lose(), Err(Refused::NoSets));
            }
        };
        let mut time = time;
        if let Some(last) = self.last.filter(|last| time <= *last) {
            time = MediaTime(last.0.saturating_add(1));
            self.moved += 1;
        }
        let before = self.release(Some(time));
        self.waiting = false;
        self.last = Some(time);
        self.held = Some(Passed {
            unit: AccessUnit {
                time,
                duration: self.interval,
                keyframe: parsed.keyframe,
                captured,
                data: parsed.data,
            },
            parameters,
        });
        (before, Ok(()))
    }

    /// Something was lost: gives what is held and leaves out what follows, up to the next keyframe.
    pub fn lose(&mut self) -> Option<Passed> {
        self.waiting = true;
        self.release(None)
    }

    /// Gives what is held; the track ends at `end`.
    pub fn end(&mut self, end: MediaTime) -> Option<Passed> {
        self.waiting = true;
        self.release(Some(end))
    }

    fn release(&mut self, until: Option<MediaTime>) -> Option<Passed> {
        let mut held = self.held.take()?;
        let lasted = until.map(|until| until.0.saturating_sub(held.unit.time.0));
        let lasted = lasted.and_then(|units| u32::try_from(units).ok());
        if let Some(lasted) = lasted.filter(|units| (1..=self.longest).contains(units)) {
            held.unit.duration = lasted;
        }
        self.stats.units += 1;
        self.stats.keyframes += u64::from(held.unit.keyframe);
        self.stats.bytes += held.unit.data.len() as u64;
        Some(held)
    }

    /// What it gave so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Pictures left out because no keyframe had come.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Pictures whose time was not after the one before.
    pub fn moved(&self) -> u64 {
        self.moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn picture(key: bool, mark: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 1, 9, 0xf0];
        if key {
            bytes.extend([0, 0, 0, 1, 0x67, 66, 0, 30, 1, 0, 0, 0, 1, 0x68, 7]);
        }
        bytes.extend([0, 0, 1, if key { 0x65 } else { 0x41 }, mark, 0x80]);
        bytes
    }

    fn engine() -> Passthrough {
        Passthrough::new(3000, 90_000)
    }

    #[test]
    fn a_picture_is_its_slices_and_nothing_else() {
        let mut bytes = picture(true, 5);
        bytes.extend([0, 0, 0, 1, 12, 0xff, 0x80, 0, 0, 1, 6, 1, 0x80, 0, 0, 0]);
        let parsed = parse_annex_b(&bytes);
        assert_eq!(
            parsed.data,
            [0, 0, 0, 3, 0x65, 5, 0x80, 0, 0, 0, 3, 6, 1, 0x80]
        );
        assert!(parsed.keyframe);
        assert_eq!(parsed.sps, [vec![0x67, 66, 0, 30, 1]]);
        assert_eq!(parsed.pps, [vec![0x68, 7]]);
        assert_eq!(parse_annex_b(&[0, 0, 1, 6, 1, 0x80]), Parsed::default());
    }

    #[test]
    fn several_parameter_sets_and_none_are_refused() {
        let mut two = picture(true, 1);
        two.extend([0, 0, 1, 0x68, 9]);
        let now = Monotonic::default();
        let mut passing = engine();
        let refused = passing.take(&two, MediaTime(0), now);
        assert_eq!(refused, (None, Err(Refused::SeveralSets)));
        let bare = [0, 0, 1, 0x65, 1, 0x80];
        let refused = engine().take(&bare, MediaTime(0), now);
        assert_eq!(refused, (None, Err(Refused::NoSets)));
    }

    #[test]
    fn after_a_loss_nothing_comes_before_a_keyframe() {
        let mut passing = engine();
        let mut given = Vec::new();
        for n in 0..12u8 {
            if n == 5 {
                given.extend(passing.lose());
            }
            let time = MediaTime(i64::from(n) * 3003);
            let key = n == 2 || n == 8;
            given.extend(passing.take(&picture(key, n), time, Monotonic::default()).0);
        }
        given.extend(passing.end(MediaTime(12 * 3003)));
        let marks: Vec<u8> = given.iter().map(|one| one.unit.data[5]).collect();
        assert_eq!(marks, [2, 3, 4, 8, 9, 10, 11]);
        let lasted: Vec<u32> = given.iter().map(|one| one.unit.duration).collect();
        assert_eq!(lasted, [3003, 3003, 3000, 3003, 3003, 3003, 3003]);
        assert_eq!((passing.left_out(), passing.moved()), (5, 0));
    }

    proptest! {
        /// Whatever a camera stamps: all of it, in order, each at its own time unless that is not
        /// after the one before.
        #[test]
        fn every_picture_keeps_its_time(stamps in prop::collection::vec(0i64..500_000, 1..60)) {
            let mut passing = engine();
            let mut given = Vec::new();
            for (n, stamp) in stamps.iter().enumerate() {
                let bytes = picture(n == 0, n as u8 + 1);
                given.extend(passing.take(&bytes, MediaTime(*stamp), Monotonic::default()).0);
            }
            given.extend(passing.lose());
            prop_assert_eq!(given.len(), stamps.len());
            let (mut before, mut moved) = (-1, 0);
            for (n, (stamp, one)) in stamps.iter().zip(&given).enumerate() {
                prop_assert_eq!(usize::from(one.unit.data[5]), n + 1);
                moved += u64::from(*stamp <= before);
                prop_assert_eq!(one.unit.time.0, (*stamp).max(before + 1));
                before = one.unit.time.0;
            }
            prop_assert_eq!(moved, passing.moved());
            for pair in given.windows(2) {
                let until = pair[0].unit.time.0 + i64::from(pair[0].unit.duration);
                let hole = pair[1].unit.time.0 - pair[0].unit.time.0 > 90_000;
                prop_assert_eq!(until == pair[1].unit.time.0, !hole);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(prop::sample::select(vec![0u8, 0, 1, 0x65, 0x67, 0x68, 9]), 0..200)) {
            let parsed = parse_annex_b(&bytes);
            prop_assert!(parsed.data.len() <= bytes.len() * 2);
        }
    }
}
