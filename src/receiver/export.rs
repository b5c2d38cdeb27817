//! A recording's film out of the store, without a running receiver and beside one.
//!
//! Takes the store's directory and an id, gives the same file that the page offers for download. Only
//! reads: what a receiver is writing at the same time is left alone.

use super::archive::{self, Archive, Place};
use super::catalog::Recording;
use super::{film, library};
use crate::media::RecordingId;
use crate::mp4::Written;
use std::path::Path;

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// Nothing of it is there.
    #[error("recording {id}: not in {store}; the page lists what the receiver holds")]
    Unknown {
        /// The recording.
        id: RecordingId,
        /// The store.
        store: String,
    },
    /// It was there.
    #[error("recording {0}: was erased")]
    Erased(RecordingId),
    /// It is there in part.
    #[error("recording {0}: not complete yet: {1}; try again once the page says \"complete\"")]
    NotComplete(RecordingId, String),
    /// The file.
    #[error(transparent)]
    Film(#[from] film::Error),
}

/// Writes the film of recording `id` of the archive at `store` to `output`, which is replaced if it is
/// there. A file of this name is whole, or there is none.
pub async fn export(store: &Place, id: RecordingId, output: &Path) -> Result<Written, Error> {
    let archive = Archive::look(store)?;
    if archive.erased().await?.contains_key(&id) {
        return Err(Error::Erased(id));
    }
    let Some(listing) = archive.list_one(id).await? else {
        let store = store.to_string();
        return Err(Error::Unknown { id, store });
    };
    let known = Recording::default();
    let recording = library::read_recording(&archive, id, &listing, known).await?;
    if !recording.complete {
        let why = match recording.missing() {
            Some(missing) => missing.to_string(),
            None => "its manifest is not written".into(),
        };
        return Err(Error::NotComplete(id, why));
    }
    Ok(film::write(&archive, id, &recording, output).await?)
}
