//! What the tests of whole programs share: a receiver and boxes as processes, and readers of films.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod archive;
pub mod chance;
pub mod clocks;
pub mod film;
pub mod mounts;
pub mod network;
pub mod page;
pub mod programs;
pub mod rig;
pub mod timeline;
