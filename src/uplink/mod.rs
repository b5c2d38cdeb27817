//! Stage: from the spool to the receiver, resumable.
//!
//! Takes [`Offer`]s (what the spool has), reads the bytes through a [`Source`] when it is their
//! turn, and gives [`Report`]s (what the receiver holds for good). What belongs here: who we are
//! ([`identity`]), what is sent next ([`session`], pure), when a retry is due ([`backoff`]), and the
//! connection ([`quic`]). What does not: what lies in the spool and when it is freed (the station
//! joins the two), how bytes look on the wire ([`crate::wire`]).
//!
//! A receiver's word is checked: what it acknowledges must have been sent. Nothing is reported
//! durable on any other word than DURABLE (or WELCOME, which repeats it). After a lost connection
//! everything that is not durable is sent again from its first byte.

pub mod backoff;
pub mod identity;
mod offer;
pub mod quic;
pub mod session;
mod tls;

pub use crate::wire::{ErrorCode, Range, Sequences};
pub use offer::{Action, Offer, Report, Source};
