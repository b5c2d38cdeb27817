//! The server program: takes boxes in, archives what they send, shows it.
//!
//! Takes QUIC connections of boxes ([`listener`], one [`ingest`] engine each) and HTTP requests of
//! browsers ([`web`]); gives acknowledgements of what is durable, an archive of immutable objects
//! ([`archive`]), and playlists and pages derived from it ([`catalog`], [`playlist`], [`manifest`]).
//! What does not belong here: anything that changes a byte that a box sent (there is no transcoding;
//! the MP4 is made by rewriting tables), and any stage of the box.

pub mod archive;
mod authority;
pub mod catalog;
pub mod config;
mod fence;
pub mod ingest;
pub mod library;
pub mod listener;
pub mod manifest;
mod playlist;
mod roster;
#[cfg(test)]
mod samples;
