//! The box's face: button and lamp.

/// What the lamp shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LampPattern {
    /// Not ready.
    Off,
    /// Ready.
    ShortBlink,
    /// Recording and kept on the box.
    Solid,
    /// The same, and the receiver is away.
    Wink,
    /// Paused.
    SlowBlink,
    /// Fault.
    FastBlink,
}

impl LampPattern {
    /// Its name in `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::ShortBlink => "short-blink",
            Self::Solid => "solid",
            Self::Wink => "wink",
            Self::SlowBlink => "slow-blink",
            Self::FastBlink => "fast-blink",
        }
    }
}
