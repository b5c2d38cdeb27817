//! Stage: from the spool to the receiver, resumable.
//!
//! Takes offers (what the spool has), reads the bytes through a `Source` when it is their turn, and
//! gives reports (what the receiver holds for good). What belongs here: who we are (`identity`), what
//! is sent next (`session`, pure), when a retry is due (`backoff`), how much the link is asked to carry
//! (`congestion`, `breaker`), when it changed (`network`), and the connection (`quic`). What
//! does not: what lies in the spool and when it is freed (the station joins the two), how bytes look
//! on the wire ([`crate::wire`]).
//!
//! A receiver's word is checked: what it acknowledges must have been sent. Nothing is reported
//! durable on any other word than DURABLE (or WELCOME, which repeats it). After a lost connection
//! everything that is not durable is sent again from its first byte.

pub mod backoff;
pub mod breaker;
pub mod congestion;
pub mod identity;
mod network;
mod offer;
pub mod quic;
pub mod session;
mod tls;

pub use crate::wire::message::{Action as Commanded, Answer, Command, Lost};
pub use crate::wire::{ErrorCode, Range, Sequences};
pub use offer::{Action, Offer, Report, Source};
