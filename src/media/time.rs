//! The three notions of time, as three types, and the rational rate that joins two of them.
//!
//! * [`Monotonic`]: the steady local clock (CLOCK_MONOTONIC), the only clock of the data path.
//! * [`MediaTime`]: a track's timeline, counted in its [`Timescale`] from the start of its span.
//! * [`WallClock`]: UTC with a stated uncertainty; an annotation, never used to order or to pace.
//!
//! No floating point appears anywhere near a timestamp.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

const NANOS: u128 = 1_000_000_000;

/// An instant of CLOCK_MONOTONIC, in nanoseconds. Comparable only within one boot of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Monotonic(u64);

impl Monotonic {
    /// The instant `nanos` nanoseconds after the clock's origin (on Linux: boot).
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`, zero if `earlier` is later: device stamps may lie in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Signed distance `self - other` in nanoseconds, saturating at the ends of `i64`.
    pub fn offset_from(self, other: Self) -> i64 {
        let difference = i128::from(self.0) - i128::from(other.0);
        difference.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// `self + duration`, saturating.
    pub fn plus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// `self - duration`, saturating at the clock's origin.
    pub fn minus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

/// UTC as far as it is known: nanoseconds since 1970-01-01T00:00:00Z and how far off it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// Nanoseconds since the Unix epoch; negative before 1970.
    pub unix_nanos: i64,
    /// The largest error the machine claims, or `None` when its clock was never set.
    pub uncertainty: Option<Duration>,
}

/// Units per second of a track's timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timescale(NonZeroU32);

impl Timescale {
    /// 48 000 units per second: every sound track.
    pub const SOUND: Self = Self(NonZeroU32::new(48_000).expect("48 000 is not zero"));
    /// 90 000 units per second, the customary video timescale (ITU-T H.222.0).
    pub const VIDEO: Self = Self(NonZeroU32::new(90_000).expect("90 000 is not zero"));

    /// A timescale of `units` per second; `None` for zero.
    pub const fn new(units: u32) -> Option<Self> {
        match NonZeroU32::new(units) {
            Some(units) => Some(Self(units)),
            None => None,
        }
    }

    /// Units per second.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// A place on a track's timeline: units of the track's [`Timescale`] since the span's start.
///
/// Negative only before an encoder's delay was taken out; such access units are not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MediaTime(pub i64);

impl MediaTime {
    /// The span's start.
    pub const ZERO: Self = Self(0);

    /// Nanoseconds since the span's start, rounded to the nearest; negative before it.
    pub fn as_nanos(self, scale: Timescale) -> i64 {
        let scale = i128::from(scale.get());
        let nanos = i128::from(self.0) * NANOS as i128;
        nanos
            .saturating_add(scale / 2)
            .div_euclid(scale)
            .clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// The media time nearest to `nanos` nanoseconds after the span's start.
    pub fn from_nanos(nanos: i64, scale: Timescale) -> Self {
        let units = i128::from(nanos) * i128::from(scale.get());
        Self((units + NANOS as i128 / 2).div_euclid(NANOS as i128) as i64)
    }

    /// This place in another timescale, rounded to the nearest unit.
    pub fn rescale(self, from: Timescale, to: Timescale) -> Self {
        let from_units = i128::from(from.get());
        let units = i128::from(self.0) * i128::from(to.get());
        Self((units + from_units / 2).div_euclid(from_units) as i64)
    }
}

/// Pictures per second, as the exact fraction `num / den` (29.97 is 30000/1001).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    num: NonZeroU32,
    den: NonZeroU32,
}

/// Why a rate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a picture rate: write 25, 30 or a fraction such as 30000/1001, from 1 to 240 per second"
)]
pub struct RateError(String);

impl Rate {
    /// 30 pictures per second: what a camera is taken to deliver until it says otherwise.
    pub const THIRTY: Self = Self {
        num: NonZeroU32::new(30).expect("30 is not zero"),
        den: NonZeroU32::new(1).expect("1 is not zero"),
    };

    /// `num / den` pictures per second in lowest terms; from 1 to 240 per second.
    pub fn new(num: u32, den: u32) -> Result<Self, RateError> {
        let refuse = || RateError(format!("{num}/{den}"));
        let divisor = gcd(num, den);
        if divisor == 0 {
            return Err(refuse());
        }
        match (
            NonZeroU32::new(num / divisor),
            NonZeroU32::new(den / divisor),
        ) {
            (Some(num), Some(den))
                if num >= den && u64::from(num.get()) <= 240 * u64::from(den.get()) =>
            {
                Ok(Self { num, den })
            }
            _ => Err(refuse()),
        }
    }

    /// Numerator of pictures per second.
    pub fn num(self) -> u32 {
        self.num.get()
    }

    /// Denominator of pictures per second.
    pub fn den(self) -> u32 {
        self.den.get()
    }

    /// Nanoseconds from tick 0 to tick `n`, rounded down: exact in integers, so no error adds up.
    pub fn tick_nanos(self, n: u64) -> u64 {
        let nanos = u128::from(n) * NANOS * u128::from(self.den()) / u128::from(self.num());
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// The length of one tick, rounded down to a nanosecond; for time-outs, never for a grid.
    pub fn interval(self) -> Duration {
        Duration::from_nanos(self.tick_nanos(1))
    }

    /// The timescale in which a tick is a whole number of units: 90 kHz where that divides, else a
    /// multiple of the numerator.
    pub fn timescale(self) -> Timescale {
        let units = u64::from(Timescale::VIDEO.get()) * u64::from(self.den());
        if units.is_multiple_of(u64::from(self.num())) {
            return Timescale::VIDEO;
        }
        let factor = if self.num() < 1000 { 1000 } else { 1 };
        Timescale::new(self.num().saturating_mul(factor)).unwrap_or(Timescale::VIDEO)
    }

    /// Units of [`Rate::timescale`] in one tick.
    pub fn tick_units(self) -> u32 {
        let units =
            u64::from(self.timescale().get()) * u64::from(self.den()) / u64::from(self.num());
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    /// The number of whole ticks that last at least `duration`, at least one.
    pub fn ticks_covering(self, duration: Duration) -> u64 {
        let per_second = NANOS * u128::from(self.den());
        let ticks = (duration.as_nanos() * u128::from(self.num())).div_ceil(per_second);
        u64::try_from(ticks).unwrap_or(u64::MAX).max(1)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.den() {
            1 => write!(f, "{}", self.num),
            den => write!(f, "{}/{den}", self.num),
        }
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (num, den) = text.split_once('/').unwrap_or((text, "1"));
        match (num.trim().parse(), den.trim().parse()) {
            (Ok(num), Ok(den)) => Self::new(num, den).map_err(|_| RateError(text.into())),
            _ => Err(RateError(text.into())),
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn customary_rates_tick_in_whole_units() {
        for (text, scale, units) in [
            ("25", 90_000, 3600),
            ("30", 90_000, 3000),
            ("30000/1001", 90_000, 3003),
            ("24000/1001", 24_000, 1001),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(
                (rate.timescale().get(), rate.tick_units()),
                (scale, units),
                "{text}"
            );
        }
    }

    #[test]
    fn a_chunk_of_a_quarter_second_is_a_whole_number_of_ticks() {
        let quarter = Duration::from_millis(250);
        assert_eq!("30".parse::<Rate>().unwrap().ticks_covering(quarter), 8);
        assert_eq!("24".parse::<Rate>().unwrap().ticks_covering(quarter), 6);
        assert_eq!("4".parse::<Rate>().unwrap().ticks_covering(quarter), 1);
    }

    #[test]
    fn nonsense_is_no_rate() {
        for text in ["", "0", "0/0", "25/0", "241", "1/2", "-25", "25.0", "x"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_stamp_in_the_future_is_not_an_age() {
        let (early, late) = (Monotonic::from_nanos(5), Monotonic::from_nanos(9));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.offset_from(late), -4);
    }

    proptest! {
        #[test]
        fn ticks_advance_by_the_rate_without_accumulated_error(num in 1u32..60_000, den in 1u32..2000, n in 0u64..10_000_000) {
            prop_assume!(num >= den && num <= 240 * den);
            let rate = Rate::new(num, den).unwrap();
            let exact = u128::from(n) * 1_000_000_000 * u128::from(den);
            let found = u128::from(rate.tick_nanos(n)) * u128::from(num);
            prop_assert!(exact - found < u128::from(num));
            prop_assert!(rate.tick_nanos(n + 1) > rate.tick_nanos(n));
        }

        #[test]
        fn every_tick_is_a_whole_number_of_units(num in 1u32..60_000, den in 1u32..2000) {
            prop_assume!(num >= den && num <= 240 * den);
            let rate = Rate::new(num, den).unwrap();
            let (scale, units) = (u64::from(rate.timescale().get()), u64::from(rate.tick_units()));
            prop_assert_eq!(units * u64::from(rate.num()), scale * u64::from(rate.den()));
        }
    }
}
