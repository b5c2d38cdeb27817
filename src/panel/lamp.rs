//! Lamp patterns as data, legible by rhythm alone on one lamp of one colour.

use std::time::Duration;

/// What the lamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lamp {
    /// Not ready.
    Off,
    /// A short blink every two seconds: ready.
    ShortBlink,
    /// Recording, and kept on the box.
    Solid,
    /// Solid with a brief wink every two seconds: the same, but the server is away.
    Wink,
    /// Solid with two brief winks every two seconds: kept on the box, but a camera or the microphone
    /// gives nothing.
    DoubleWink,
    /// Solid with three brief winks every two seconds: kept on the box, and it ends by itself soon.
    TripleWink,
    /// Dark for as long as it is shown, which is a moment: a press while recording was seen.
    Answer,
    /// Half a second on, half a second off: paused.
    SlowBlink,
    /// Five times a second: a fault.
    FastBlink,
    /// Three blinks in a row and a rest, while nothing is recorded: this is the box that somebody looks
    /// for.
    TripleBlink,
}

impl Lamp {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Off,
        Self::ShortBlink,
        Self::Solid,
        Self::Wink,
        Self::DoubleWink,
        Self::TripleWink,
        Self::Answer,
        Self::SlowBlink,
        Self::FastBlink,
        Self::TripleBlink,
    ];

    /// As the lamp's guard is told.
    pub(super) fn byte(self) -> u8 {
        self as u8 + b'a'
    }

    /// The pattern of a byte; `None` for any other byte.
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lamp| lamp.byte() == byte)
    }

    /// Its name in `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::ShortBlink => "short-blink",
            Self::Solid => "solid",
            Self::Wink => "wink",
            Self::DoubleWink => "double-wink",
            Self::TripleWink => "triple-wink",
            Self::Answer => "answer",
            Self::SlowBlink => "slow-blink",
            Self::FastBlink => "fast-blink",
            Self::TripleBlink => "triple-blink",
        }
    }

    /// The pattern's stretches in turn, beginning lit; empty where it never changes.
    fn rhythm(self) -> &'static [Duration] {
        const fn ms(ms: u64) -> Duration {
            Duration::from_millis(ms)
        }
        match self {
            Self::Off | Self::Solid | Self::Answer => &[],
            Self::ShortBlink => &const { [ms(100), ms(1900)] },
            Self::Wink => &const { [ms(1850), ms(150)] },
            Self::DoubleWink => &const { [ms(1550), ms(150), ms(150), ms(150)] },
            Self::TripleWink => &const { [ms(1000), ms(200), ms(200), ms(200), ms(200), ms(200)] },
            Self::SlowBlink => &const { [ms(500), ms(500)] },
            Self::FastBlink => &const { [ms(100), ms(100)] },
            Self::TripleBlink => &const { [ms(100), ms(200), ms(100), ms(200), ms(100), ms(800)] },
        }
    }

    /// Whether the lamp is lit once the pattern has been shown for `elapsed`, and how long it stays
    /// so; `None`: for as long as the pattern is shown.
    pub fn at(self, elapsed: Duration) -> (bool, Option<Duration>) {
        let rhythm = self.rhythm();
        let period: Duration = rhythm.iter().sum();
        if period.is_zero() {
            return (self == Self::Solid, None);
        }
        let mut into = Duration::from_nanos((elapsed.as_nanos() % period.as_nanos()) as u64);
        let mut lit = true;
        for stretch in rhythm {
            if into < *stretch {
                return (lit, Some(*stretch - into));
            }
            into -= *stretch;
            lit = !lit;
        }
        unreachable!("the remainder is less than the sum of the stretches")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every pattern that is shown for longer than a moment.
    const ALL: [Lamp; 9] = [
        Lamp::Off,
        Lamp::ShortBlink,
        Lamp::Solid,
        Lamp::Wink,
        Lamp::DoubleWink,
        Lamp::TripleWink,
        Lamp::SlowBlink,
        Lamp::FastBlink,
        Lamp::TripleBlink,
    ];

    /// Lit milliseconds and changes within ten seconds, by stepping from change to change.
    fn seen(lamp: Lamp) -> (u128, u32) {
        let (mut at, mut lit_ms, mut changes) = (Duration::ZERO, 0, 0);
        let end = Duration::from_secs(10);
        while at < end {
            let (lit, left) = lamp.at(at);
            let left = left.unwrap_or(end);
            let next = (at + left).min(end);
            lit_ms += if lit { (next - at).as_millis() } else { 0 };
            assert!(
                next == end || lamp.at(next).0 != lit,
                "{lamp:?} at {next:?}"
            );
            changes += u32::from(next < end);
            at = next;
        }
        (lit_ms, changes)
    }

    #[test]
    fn each_pattern_is_told_apart_by_its_rhythm() {
        assert_eq!(seen(Lamp::Off), (0, 0));
        assert_eq!(seen(Lamp::Solid), (10_000, 0));
        assert_eq!(seen(Lamp::Answer), (0, 0));
        assert_eq!(seen(Lamp::ShortBlink), (500, 9));
        assert_eq!(seen(Lamp::Wink), (9_250, 9));
        assert_eq!(seen(Lamp::DoubleWink), (8_500, 19));
        assert_eq!(seen(Lamp::TripleWink), (7_000, 29));
        assert_eq!(seen(Lamp::SlowBlink), (5_000, 19));
        assert_eq!(seen(Lamp::FastBlink), (5_000, 99));
        assert_eq!(seen(Lamp::TripleBlink), (2_100, 41));
        let different: BTreeSet<(u128, u32)> = ALL.into_iter().map(seen).collect();
        assert_eq!(different.len(), ALL.len());
    }

    #[test]
    fn a_pattern_shows_the_same_after_a_year() {
        let year = Duration::from_secs(365 * 24 * 3600);
        for lamp in ALL {
            assert_eq!(lamp.at(year), lamp.at(Duration::ZERO), "{lamp:?}");
        }
    }
}
