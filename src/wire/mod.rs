//! Layer 1: the bytes that box and receiver agree on.
//!
//! Takes bytes or values and gives the other; every function here is pure. What belongs here: the
//! layout of the control stream (`framing`, `message`), of the unidirectional streams
//! (`stream`), of the events track (`event`), and the `error_code`s. What does not: when
//! something is sent ([`crate::uplink`]) or acknowledged (the receiver), sockets, TLS.
//!
//! One QUIC connection (ALPN [`ALPN`]) carries:
//!
//! * one bidirectional *control stream*, opened by the box: messages in both directions, CBOR
//!   (RFC 8949) with integer keys. The box says `Hello` first, the receiver answers `Welcome`.
//! * one unidirectional stream per segment and per init, box to receiver.
//!
//! Rules for growth: unknown keys of a map are skipped; an unknown message is skipped unless it is
//! marked critical; an unknown kind of event is kept as it is. A field may be added (optional),
//! none may change its meaning, no number is used twice. `tests` holds a transcript of each release.
//!
//! There is no message for the end of a recording: that is the `End` fact of its events track, on
//! the same acknowledged path as its sound and pictures, so that it is said in one place only.

mod cbor;
pub mod error_code;
pub mod event;
pub mod framing;
mod health;
pub mod message;
pub mod stream;

mod sequences;

pub use crate::media::{Range, Sequences};
pub use error_code::ErrorCode;
pub use message::Message;
pub use sequences::MAX_RANGES;

/// The application protocol negotiated in TLS (RFC 7301).
pub const ALPN: &[u8] = b"hallcast/1";

/// The subject organisation of the development authority, which `make demo` makes. Either end
/// refuses its certificates when the other end is not on a loopback address.
pub const DEVELOPMENT_CA: &str = "Hallcast development CA";

/// The attribute of a box's certificate request that holds the machine's serial number (X.520).
pub const SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];

#[cfg(test)]
mod tests;
