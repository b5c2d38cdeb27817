//! (being laid)
pub mod archive;
mod authority;
pub mod config;
mod roster;
