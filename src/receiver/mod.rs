//! (being laid)
pub mod archive;
mod authority;
pub mod catalog;
pub mod config;
mod playlist;
mod roster;
#[cfg(test)]
mod samples;
