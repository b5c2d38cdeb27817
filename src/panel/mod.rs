//! The box's face: button edges in, lamp state out.
//!
//! Takes raw levels of a button with their times; gives presses and holds ([`Debounce`]). Takes a
//! [`crate::panel::Lamp`] pattern and how long it has been shown; gives lit or dark. Both are pure, so
//! that every driver shows the same face. A [`Driver`] opens the lines: of a Raspberry Pi's header by
//! `rppal`, of every other chip by the GPIO character device. The lamp's lines are held by a [`guard`] in a process of
//! its own. What does not belong here: what a press means and which pattern a state has
//! (`station::recorder`), and threads (`station::panel`).

mod character;
mod chips;
mod debounce;
mod driver;
mod guard;
mod lamp;
#[cfg(feature = "rppal")]
mod raspberry_pi;
mod simulated;

pub use chips::{FoundChip, UsedLine, chips};
pub use debounce::{Debounce, HOLD, LOCK_OUT, Press};
pub use driver::{ButtonLine, Driver, Edge, Error, LampLines, driver};
pub use guard::{HELD, SILENCE, Tell, Watch, guard};
pub use lamp::Lamp;
pub use simulated::SimulatedButton;
