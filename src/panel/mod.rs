//! The box's face: button edges in, lamp state out.
//!
//! Takes raw levels of a button with their times; gives presses and holds. Takes a [`crate::panel::Lamp`] pattern
//! and how long it has been shown; gives lit or dark. Both are pure, so that every driver (GPIO on one
//! kind of board or another, simulated) shows the same face. What does not belong here: what a press
//! means and which pattern a state has (`station::recorder`).

mod debounce;
mod lamp;
mod simulated;

pub use debounce::{Debounce, HOLD, LOCK_OUT, Press};
pub use lamp::Lamp;
pub use simulated::SimulatedButton;
