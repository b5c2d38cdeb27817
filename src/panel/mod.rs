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
