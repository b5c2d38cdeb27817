//! A set of segment numbers of one track, as acknowledgements speak of it.

use minicbor::decode::{Decode, Decoder, Error};
use minicbor::encode::{self, Encode, Encoder, Write};

/// Segment numbers from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first number.
    pub first: u64,
    /// The last number, not below `first`.
    pub last: u64,
}

/// All numbers below `cumulative`, and `ranges` beyond it.
///
/// The ranges ascend, do not touch each other or the watermark, and are at most
/// [`Sequences::MAX_RANGES`] when they come from the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequences {
    cumulative: u64,
    ranges: Vec<Range>,
}

impl Sequences {
    /// The most ranges that one message may carry. Leaving ranges out of an acknowledgement is
    /// harmless: what is not named is sent again.
    pub const MAX_RANGES: usize = 256;

    /// Every number below `cumulative`.
    pub fn below(cumulative: u64) -> Self {
        Self {
            cumulative,
            ranges: Vec::new(),
        }
    }

    /// The smallest number that is not in the set.
    pub fn cumulative(&self) -> u64 {
        self.cumulative
    }

    /// What lies beyond the watermark, ascending.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// One more than the largest number in the set; 0 for the empty set.
    pub fn end(&self) -> u64 {
        self.ranges
            .last()
            .map_or(self.cumulative, |range| range.last.saturating_add(1))
    }

    /// Whether `sequence` is in the set.
    pub fn contains(&self, sequence: u64) -> bool {
        sequence < self.cumulative
            || self
                .ranges
                .iter()
                .any(|range| (range.first..=range.last).contains(&sequence))
    }

    /// Adds one number.
    pub fn insert(&mut self, sequence: u64) {
        self.insert_range(Range {
            first: sequence,
            last: sequence,
        });
    }

    /// Adds every number of `range`; one whose `last` is below its `first` adds nothing.
    pub fn insert_range(&mut self, range: Range) {
        if range.last < range.first || range.last < self.cumulative {
            return;
        }
        let mut new = range;
        let touches = |old: &Range| {
            old.first <= new.last.saturating_add(1) && new.first <= old.last.saturating_add(1)
        };
        let start = self.ranges.iter().position(touches);
        if let Some(start) = start {
            let count = self.ranges[start..]
                .iter()
                .take_while(|old| touches(old))
                .count();
            let merged = self.ranges.drain(start..start + count);
            for old in merged {
                new.first = new.first.min(old.first);
                new.last = new.last.max(old.last);
            }
        }
        if new.first <= self.cumulative {
            self.cumulative = new.last.saturating_add(1);
        } else {
            let at = self.ranges.partition_point(|old| old.first < new.first);
            self.ranges.insert(at, new);
        }
    }

    /// Adds every number of `other`.
    pub fn merge(&mut self, other: &Self) {
        if let Some(last) = other.cumulative.checked_sub(1) {
            self.insert_range(Range { first: 0, last });
        }
        for range in &other.ranges {
            self.insert_range(*range);
        }
    }
}

/// `[cumulative, [first, last], ...]`; ranges beyond the bound are left out.
impl<C> Encode<C> for Sequences {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        let ranges = &self.ranges[..self.ranges.len().min(Self::MAX_RANGES)];
        e.array(1 + ranges.len() as u64)?.u64(self.cumulative)?;
        for range in ranges {
            e.array(2)?.u64(range.first)?.u64(range.last)?;
        }
        Ok(())
    }
}

/// Refuses ranges that do not ascend, that touch, or that are too many.
impl<'b, C> Decode<'b, C> for Sequences {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
        let count = match d.array()? {
            Some(length @ 1..) if length <= 1 + Self::MAX_RANGES as u64 => length - 1,
            _ => return Err(Error::message("too few or too many sequence ranges")),
        };
        let cumulative = d.u64()?;
        let mut ranges = Vec::new();
        let mut beyond = Some(cumulative);
        for _ in 0..count {
            super::cbor::array(d, 2)?;
            let (first, last) = (d.u64()?, d.u64()?);
            if last < first || beyond.is_none_or(|beyond| first <= beyond) {
                return Err(Error::message("sequence ranges out of order"));
            }
            beyond = last.checked_add(1);
            ranges.push(Range { first, last });
        }
        Ok(Self { cumulative, ranges })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_the_set_it_is_built_from(adds in prop::collection::vec((0u64..60, 0u64..6), 0..40)) {
            let mut set = Sequences::default();
            let mut model = BTreeSet::new();
            for (first, length) in adds {
                set.insert_range(Range { first, last: first + length });
                model.extend(first..=first + length);
                for sequence in 0..70 {
                    prop_assert_eq!(set.contains(sequence), model.contains(&sequence));
                }
                prop_assert!(!set.contains(set.cumulative()));
                prop_assert_eq!(set.end(), model.last().map_or(0, |last| last + 1));
            }
            let bytes = minicbor::to_vec(&set).unwrap();
            prop_assert_eq!(minicbor::decode::<Sequences>(&bytes).unwrap(), set.clone());
            let mut twice = Sequences::default();
            twice.merge(&set);
            twice.merge(&set);
            prop_assert_eq!(twice, set);
        }
    }

    #[test]
    fn ranges_that_touch_or_descend_are_refused() {
        for bytes in [
            &[0x82, 5, 0x82, 5, 6][..],
            &[0x82, 5, 0x82, 9, 8],
            &[0x83, 0, 0x82, 7, 8, 0x82, 9, 9],
            &[0x83, 0, 0x82, 7, 8, 0x82, 2, 3],
            &[0x80],
        ] {
            assert!(minicbor::decode::<Sequences>(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn the_largest_number_does_not_overflow() {
        let mut set = Sequences::default();
        set.insert(u64::MAX);
        set.insert(u64::MAX - 1);
        set.insert_range(Range {
            first: 3,
            last: u64::MAX,
        });
        assert_eq!(set.ranges().len(), 1);
        assert_eq!(set.end(), u64::MAX);
    }

    #[test]
    fn more_ranges_than_fit_are_left_out_not_misread() {
        let mut set = Sequences::default();
        for at in 0..2000 {
            set.insert(10 + 2 * at);
        }
        let read: Sequences = minicbor::decode(&minicbor::to_vec(&set).unwrap()).unwrap();
        assert_eq!(read.ranges(), &set.ranges()[..Sequences::MAX_RANGES]);
    }
}
