//! Layer 0: the values that the stages hand to each other, and nothing else.
//!
//! Takes nothing, owns no device, file, socket or clock. What belongs here is a noun that more than
//! one stage speaks of; what a single stage needs stays with that stage. How a value is written as
//! bytes belongs in [`crate::wire`] (CBOR) or [`crate::mp4`] (boxes).

mod access_unit;
mod event;
pub mod health;
mod id;
mod picture;
mod samples;
mod segment;
mod sequences;
mod time;
mod track;

pub use access_unit::AccessUnit;
pub use event::{Event, Fact, GapCause, GapLength, LostReason, StartedBy, StopReason, TrackTotal};
pub use id::{BoxId, Hash, ParseIdError, RecordingId, TrackId};
pub use picture::{Picture, PictureLayout, PixelFormat};
pub use samples::Samples;
pub use segment::{Chunk, Init, Provenance, SegmentKey, Segmented};
pub use sequences::{Range, Sequences};
pub use time::{MediaTime, Monotonic, Rate, RateError, Timescale, WallClock};
pub use track::{Codec, TrackInfo, TrackKind};
