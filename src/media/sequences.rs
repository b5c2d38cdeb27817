//! A set of segment numbers of one track, as acknowledgements speak of it.

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
/// The ranges ascend and do not touch each other or the watermark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequences {
    cumulative: u64,
    ranges: Vec<Range>,
}

impl Sequences {
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

    /// All of it as ranges, ascending.
    pub fn parts(&self) -> impl Iterator<Item = Range> {
        let below = self.cumulative.checked_sub(1);
        let below = below.map(|last| Range { first: 0, last });
        below.into_iter().chain(self.ranges.iter().copied())
    }

    /// The numbers that are in both sets.
    pub fn within(&self, other: &Self) -> Self {
        let mut both = Self::default();
        for one in self.parts() {
            for other in other.parts() {
                both.insert_range(Range {
                    first: one.first.max(other.first),
                    last: one.last.min(other.last),
                });
            }
        }
        both
    }

    /// The numbers of the set that are not below `from`.
    pub fn beyond(&self, from: u64) -> Self {
        let mut rest = Self::default();
        for range in self.parts() {
            rest.insert_range(Range {
                first: range.first.max(from),
                last: range.last,
            });
        }
        rest
    }

    /// Adds every number of `other`.
    pub fn merge(&mut self, other: &Self) {
        other.parts().for_each(|range| self.insert_range(range));
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
            let mut twice = Sequences::default();
            twice.merge(&set);
            twice.merge(&set);
            prop_assert_eq!(&twice, &set);
            let rest = set.beyond(20);
            prop_assert_eq!(set.within(&rest), rest.clone());
            prop_assert_eq!(rest.within(&Sequences::below(20)), Sequences::default());
            for sequence in 0..70 {
                prop_assert_eq!(rest.contains(sequence), sequence >= 20 && model.contains(&sequence));
            }
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
}
