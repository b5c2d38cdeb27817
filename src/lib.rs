//! Hallcast: firmware for a lecture hall's capture box, and the receiver it streams to.
//!
//! ```text
//!            button                                            network
//!              |                                                  |
//!  source -> pacer -> encoder -> segmenter -> spool -> uplink ===>|===> ingest -> archive -> web
//!  devices   fixed     codec      CMAF        disk     QUIC out   |     QUIC in   store     HLS, pages
//!            ticks                chunks      fsync               |
//! ```
//!
//! Two programs share this library: `hallcast` is [`station`] on the box, `hallcast-receiver` is
//! `receiver` on the server. The modules below stand in the order in which data passes; after this
//! page, read `station/pipeline.rs`, the one place where the stages are joined.
//!
//! Who may import whom (`tests/layering.rs` holds the table and fails on anything else):
//!
//! ```text
//! bin      -> station | receiver
//! station  -> every stage, panel, board, mp4, layer 0      (never receiver)
//! receiver -> wire, mp4, layer 0                           (never a stage, never station)
//! stages   -> layer 0, and: source: board, sys · segmenter: mp4, wire · uplink: wire · panel: board
//!                                                          (never another stage)
//! wire, mp4, board -> layer 0;   clock -> media, sys;   media, sys, blocking, journal, settings -> nothing of ours
//! ```
//!
//! Engines (`pacer`, `uplink::session`, `receiver::ingest`, `station::recorder`, `spool::index`)
//! own no clock, socket or file: `now` is an argument, the answer is work or "not before T".

// Layer 0: the values that stages hand to each other.
pub mod media;

// Layer 1: the only unsafe code, one file per kernel interface.
pub mod sys;

// Layer 0: the only file that reads or sleeps on a clock.
pub mod clock;

// Layer 0: work that may wait for a disk.
mod blocking;

// Layer 0: how the programs answer, why they end, how the log is written.
mod journal;

// Layer 0: strict settings files, with errors that name file, line and key.
pub mod settings;

// Layer 1: bytes that both ends of the wire agree on.
pub mod wire;

// Layer 1: ISO BMFF boxes: init, chunk, the progressive file.
pub mod mp4;

// Layer 1: what a machine has, from `boards/*.toml`.
pub mod board;

// Stage: pictures and samples out of devices.
pub mod source;

// Stage: a fixed interval out of irregular input.
pub mod pacer;

// Stage: pictures and samples to access units.
pub mod encoder;

// Stage: access units to chunks and segments.
pub mod segmenter;

// Stage: the durable queue on the box.
pub mod spool;

// Stage: from the spool to the receiver, resumable.
pub mod uplink;

// The box's face: button and lamp.
pub mod panel;

// The box, put together.
pub mod station;

// The server, put together.
#[cfg(feature = "receiver")]
pub mod receiver;

// Whole boxes and receivers in virtual time, for tests.
#[cfg(all(test, feature = "receiver"))]
mod simulation;
