//! `hallcast-receiver erase`: the command of a person who has the right to have a lecture gone.
//!
//! Works on the archive itself, beside running receivers or without any: they look for its tombstone.

use super::archive::{self, Archive, Listing};
use super::catalog::Recording;
use super::config::Config;
use super::film::{self, Films};
use super::library;
use crate::media::{RecordingId, TrackId};
use std::io::{BufRead, Write};

/// Why nothing was erased, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store. Once the tombstone is there, the command can be given again.
    #[error("{0}; give the command again: it goes on where it was")]
    Archive(#[from] archive::Error),
    /// The cached film.
    #[error(transparent)]
    Film(#[from] film::Error),
    /// Nothing of it is there.
    #[error(
        "recording {0}: not in {1}; the page lists what the receiver holds; if it is still on a box, \
         --yes erases it there and never lets it in"
    )]
    Unknown(RecordingId, String),
    /// The question was not answered with yes.
    #[error("nothing was erased")]
    Refused,
}

/// Erases `id`; asks first unless `yes`, which also erases what has not arrived yet. Gives what to tell
/// the person.
pub async fn erase(config: &Config, id: RecordingId, yes: bool) -> Result<String, Error> {
    let archive = Archive::erasing(&config.store)?;
    let known = archive.erased().await?.contains_key(&id);
    let listing = match archive.list_one(id).await? {
        None if !known && !yes => return Err(Error::Unknown(id, config.store.to_string())),
        listing => listing.unwrap_or_default(),
    };
    let facts = Listing {
        segments: listing
            .segments
            .into_iter()
            .filter(|(track, _)| *track == TrackId::EVENTS)
            .collect(),
        ..Listing::default()
    };
    let recording = library::read_recording(&archive, id, &facts, Recording::default()).await?;
    if !yes && !known && !confirmed(id, &recording) {
        return Err(Error::Refused);
    }
    let objects = library::erase(&archive, id, recording.owner()).await?;
    Films::new(config.state_dir.join("films"))
        .forget(id)
        .await?;
    let copy = match recording.owner() {
        Some(owner) => format!("box {owner} is told to erase its copy when it is next connected"),
        None => "its box is told to erase its copy when it next names it or sends of it".into(),
    };
    Ok(format!("{id}: erased, {objects} objects; {copy}\n"))
}

/// Asks the person at the terminal; anything but `yes` is no.
fn confirmed(id: RecordingId, recording: &Recording) -> bool {
    let title = match recording.started() {
        Some((_, _, room, title)) => [room, title].into_iter().flatten().collect::<Vec<_>>(),
        None => Vec::new(),
    };
    let mut ask = std::io::stderr().lock();
    // Nobody to ask is an answer too: no line comes.
    let _ = write!(
        ask,
        "Erase {id} ({}) for good, here and on its box? Type yes: ",
        title.join(", ")
    );
    let _ = ask.flush();
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).is_ok() && line.trim() == "yes"
}
