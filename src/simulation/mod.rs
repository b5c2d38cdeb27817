//! Whole boxes and receivers in virtual time, judged by one checker.
//!
//! Takes the real engines and a seed; gives a verdict over everything that was sent, acknowledged,
//! kept and read. What belongs here: the [`history`] checker, and worlds that feed it. What does not:
//! tests of one room, which stand beside that room. Only compiled for tests.
//!
//! A world notes what happens as it happens ([`history::Happening`]) and asks for the verdict at the
//! end, when every fault is over and everything had time to arrive.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod card;
mod hall;
#[allow(
    dead_code,
    reason = "the runs with real quinn note more than the model does"
)]
pub mod history;
mod lateness;
mod lecture;
mod model;
mod network;
mod outages;
mod random;
mod schedules;
mod starved;
mod station;
mod store;
