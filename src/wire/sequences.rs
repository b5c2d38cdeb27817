//! Sets of segment numbers as CBOR.

use crate::media::{Range, Sequences};
use minicbor::decode::{Decode, Decoder, Error};
use minicbor::encode::{self, Encode, Encoder, Write};

/// The most ranges that one message may carry. Leaving ranges out of an acknowledgement is harmless:
/// what is not named is sent again.
pub const MAX_RANGES: usize = 256;

/// `[cumulative, [first, last], ...]`; ranges beyond the bound are left out.
impl<C> Encode<C> for Sequences {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        let ranges = &self.ranges()[..self.ranges().len().min(MAX_RANGES)];
        e.array(1 + ranges.len() as u64)?.u64(self.cumulative())?;
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
            Some(length @ 1..) if length <= 1 + MAX_RANGES as u64 => length - 1,
            _ => return Err(Error::message("too few or too many sequence ranges")),
        };
        let cumulative = d.u64()?;
        let mut set = Self::below(cumulative);
        let mut beyond = Some(cumulative);
        for _ in 0..count {
            super::cbor::array(d, 2)?;
            let (first, last) = (d.u64()?, d.u64()?);
            if last < first || beyond.is_none_or(|beyond| first <= beyond) {
                return Err(Error::message("sequence ranges out of order"));
            }
            beyond = last.checked_add(1);
            set.insert_range(Range { first, last });
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_reads_back(adds in prop::collection::vec((0u64..60, 0u64..6), 0..40)) {
            let mut set = Sequences::default();
            for (first, length) in adds {
                set.insert_range(Range { first, last: first + length });
            }
            let bytes = minicbor::to_vec(&set).unwrap();
            prop_assert_eq!(minicbor::decode::<Sequences>(&bytes).unwrap(), set);
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
    fn more_ranges_than_fit_are_left_out_not_misread() {
        let mut set = Sequences::default();
        for at in 0..2000 {
            set.insert(10 + 2 * at);
        }
        let read: Sequences = minicbor::decode(&minicbor::to_vec(&set).unwrap()).unwrap();
        assert_eq!(read.ranges(), &set.ranges()[..MAX_RANGES]);
    }
}
