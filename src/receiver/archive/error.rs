//! What can go wrong with the archive, and which of it is a lack of room.

use super::TRIES;
use super::directory::is_no_room;
use crate::media::Hash;
use std::path::PathBuf;

/// Why an object cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed: nothing is acknowledged; the box will send again.
    #[error("archive {place}: {action}: {source}; {advice}")]
    Store {
        /// Where the archive is.
        place: String,
        /// What was tried.
        action: String,
        /// Why it failed.
        source: Box<object_store::Error>,
        /// What to do next.
        advice: &'static str,
    },
    /// No segment is stored while the space set aside for manifests is in use.
    #[error("archive {place}: there is no room for segments; make room in it")]
    Full {
        /// Where the archive is.
        place: String,
    },
    /// Other writers were in the way each time, and nothing is there.
    #[error("archive {place}: store {name}: other writers were in the way {TRIES} times")]
    Unsettled {
        /// Where the archive is.
        place: String,
        /// The object.
        name: String,
    },
    /// The archive's directory cannot be used: the receiver does not start.
    #[error("archive {dir}: {action}: {source}; {advice}", dir = dir.display())]
    Directory {
        /// The archive's directory.
        dir: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
        /// What to do next.
        advice: &'static str,
    },
    /// The bucket cannot be used: the receiver does not start.
    #[error("archive {bucket}: {what}")]
    Bucket {
        /// The bucket.
        bucket: String,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// The name is taken by other bytes: a fault to report, never an overwrite.
    #[error("{name} is archived with the hash {archived}, and {offered} was offered for it")]
    Conflict {
        /// The object.
        name: String,
        /// BLAKE3 of what is there.
        archived: Hash,
        /// BLAKE3 of what was to be stored.
        offered: Hash,
    },
}

impl Error {
    /// True when the object is not there.
    pub fn is_missing(&self) -> bool {
        let Self::Store { source, .. } = self else {
            return false;
        };
        matches!(**source, object_store::Error::NotFound { .. })
    }

    /// True when the store has no room.
    pub fn is_full(&self) -> bool {
        if matches!(self, Self::Full { .. }) {
            return true;
        }
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = source {
            if let Some(io) = error.downcast_ref::<std::io::Error>()
                && is_no_room(io)
            {
                return true;
            }
            source = error.source();
        }
        // What S3-compatible servers answer, inside the text that the client made of it.
        let Self::Store { source, .. } = self else {
            return false;
        };
        let text = source.to_string();
        ["507 Insufficient Storage", "QuotaExceeded", "StorageFull"]
            .iter()
            .any(|word| text.contains(word))
    }
}
