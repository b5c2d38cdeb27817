//! Layer 1: the only unsafe code, one file per kernel interface that no library gives safely.
//!
//! Takes and gives plain values; no pointer, descriptor or C type leaves this room. What a value means
//! does not belong here.
#![allow(unsafe_code)]

mod timex;
#[cfg(feature = "v4l2")]
mod video_node;

pub use timex::clock_error;
#[cfg(feature = "v4l2")]
pub use video_node::captures_pictures;
