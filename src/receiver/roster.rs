//! Which boxes may send, and as which room.
//!
//! One file per box under `boxes/` of the state directory, named by the box's id; it names the
//! certificate by its fingerprint. It is read on every connection, so that a revocation holds from
//! the next one on. What is archived under a room's name does not move when the room is renamed.

use crate::media::{BoxId, Hash};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The fingerprint of a certificate: BLAKE3 of its DER bytes.
pub fn fingerprint(certificate_der: &[u8]) -> Hash {
    Hash(*blake3::hash(certificate_der).as_bytes())
}

/// A box's entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Where it stands, for people.
    pub room: String,
    /// The fingerprint of the certificate signed for it (64 hexadecimal digits).
    pub certificate_blake3: String,
    /// True once it may not send any more.
    #[serde(default)]
    pub revoked: bool,
}

/// Why a box may not send.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No entry for this box, or another certificate than the one signed for it.
    #[error(
        "is not in the roster with this certificate; sign its request with `hallcast-receiver sign`"
    )]
    Unknown,
    /// Its entry says so.
    #[error("is revoked")]
    Revoked,
    /// Its entry cannot be read: nobody is let in on a guess.
    #[error("has an entry that cannot be read: {0}")]
    Unreadable(String),
}

/// The directory of entries.
#[derive(Clone, Debug)]
pub struct Roster {
    dir: PathBuf,
}

impl Roster {
    /// The roster in `state_dir`.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("boxes"),
        }
    }

    /// Where a box's entry is.
    pub fn path(&self, id: BoxId) -> PathBuf {
        self.dir.join(format!("{id}.toml"))
    }

    /// The entry of the box `id`, if there is one.
    pub fn entry(&self, id: BoxId) -> Result<Option<Entry>, Refused> {
        let text = match std::fs::read_to_string(self.path(id)) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Refused::Unreadable(e.to_string())),
        };
        let entry = toml::from_str(&text);
        entry.map_err(|e| Refused::Unreadable(e.message().to_owned()))
    }

    /// Enters a box, in place of an older entry of the same id (a box that was signed again).
    pub fn enter(&self, id: BoxId, entry: &Entry) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        let text = toml::to_string(entry).map_err(std::io::Error::other)?;
        let staged = self.dir.join(format!("{id}.new"));
        let mut file = std::fs::File::create(&staged)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&staged, self.path(id))?;
        std::fs::File::open(&self.dir)?.sync_all()
    }

    /// The entry of the box `id` if it may send with this certificate.
    pub fn admit(&self, id: BoxId, certificate: Hash) -> Result<Entry, Refused> {
        let entry = self.entry(id)?.ok_or(Refused::Unknown)?;
        if entry.certificate_blake3.parse() != Ok(certificate) {
            return Err(Refused::Unknown);
        }
        if entry.revoked {
            return Err(Refused::Revoked);
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_entered_certificate_is_let_in_and_revocation_holds_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let roster = Roster::new(dir.path());
        let (id, certificate) = (BoxId([1; 16]), fingerprint(b"certificate"));
        assert_eq!(roster.admit(id, certificate), Err(Refused::Unknown));
        let mut entry = Entry {
            room: "Lecture hall 1".into(),
            certificate_blake3: certificate.to_string(),
            revoked: false,
        };
        roster.enter(id, &entry).unwrap();
        assert_eq!(roster.admit(id, certificate).unwrap(), entry);
        assert_eq!(
            roster.admit(id, fingerprint(b"another")),
            Err(Refused::Unknown)
        );
        assert_eq!(
            roster.admit(BoxId([2; 16]), certificate),
            Err(Refused::Unknown)
        );
        entry.revoked = true;
        roster.enter(id, &entry).unwrap();
        assert_eq!(roster.admit(id, certificate), Err(Refused::Revoked));
    }

    #[test]
    fn a_damaged_entry_lets_nobody_in() {
        let dir = tempfile::tempdir().unwrap();
        let roster = Roster::new(dir.path());
        std::fs::create_dir_all(dir.path().join("boxes")).unwrap();
        let id = BoxId([1; 16]);
        std::fs::write(roster.path(id), "room = ").unwrap();
        let found = roster.admit(id, fingerprint(b"x"));
        assert!(matches!(found, Err(Refused::Unreadable(_))), "{found:?}");
    }
}
