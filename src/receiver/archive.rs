//! The archive: immutable objects in a directory, and the only truth about what is durable.
//!
//! ```text
//! recordings/<id>/<track>/<sequence, 8 digits>.m4s   a segment, exactly the bytes the box sent
//! recordings/<id>/init/<hash>.mp4                    an init
//! recordings/<id>/lost/<track>.<first>-<last>.<reason>   LOST, where no fact could be added
//! recordings/<id>/manifest.json                      written once, after everything it names
//! init/<hash>.mp4                                    an init, before a segment says whose it is
//! ```
//!
//! An object is created or it is not: `object_store` writes beside it, syncs, links it to its name
//! and syncs the directory. So whatever is listed is whole, after a crash at any point too. A name
//! that is taken is never written again: the bytes there are read back and compared.

use super::catalog::LostRange;
use crate::media::{Hash, LostReason, RecordingId, SegmentKey, TrackId};
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use rustix::fs::FlockOperation;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Why an object cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed: nothing is acknowledged; the box will send again.
    #[error("archive {dir}: {action}: {source}; check that the directory is there, writable and not full", dir = dir.display())]
    Store {
        /// The archive's directory.
        dir: PathBuf,
        /// What was tried.
        action: String,
        /// Why it failed.
        source: object_store::Error,
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
        matches!(source, object_store::Error::NotFound { .. })
    }

    /// True when the store has no room.
    pub fn is_full(&self) -> bool {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = source {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return is_no_room(io);
            }
            source = error.source();
        }
        false
    }
}

/// What a recording's objects are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Sequence numbers and sizes in bytes, by track.
    pub segments: BTreeMap<TrackId, BTreeMap<u64, u64>>,
    /// Inits and their sizes in bytes.
    pub inits: BTreeMap<Hash, u64>,
    /// True once a manifest is written.
    pub manifest: bool,
    /// What was declared lost by message.
    pub lost: BTreeMap<LostRange, LostReason>,
}

/// The archive in a local directory.
#[derive(Clone)]
pub struct Archive {
    dir: PathBuf,
    store: LocalFileSystem,
    /// The directory, locked for as long as this receiver runs.
    _locked: Option<Arc<File>>,
}

/// The name of a segment's object.
pub fn segment_path(key: &SegmentKey) -> String {
    format!(
        "recordings/{}/{}/{:08}.m4s",
        key.recording, key.track, key.sequence
    )
}

/// The name of an init's object.
pub fn init_path(recording: RecordingId, hash: Hash) -> String {
    format!("recordings/{recording}/init/{hash}.mp4")
}

/// The name of an init before it is known to which recording it belongs.
pub fn shared_init_path(hash: Hash) -> String {
    format!("init/{hash}.mp4")
}

/// The name of a LOST range.
pub fn lost_path(recording: RecordingId, range: &LostRange, reason: &str) -> String {
    let LostRange { track, first, last } = range;
    format!("recordings/{recording}/lost/{track}.{first}-{last}.{reason}")
}

/// The name of a recording's manifest.
pub fn manifest_path(recording: RecordingId) -> String {
    format!("recordings/{recording}/manifest.json")
}

/// BLAKE3 of an object's bytes.
pub fn hash(bytes: &[u8]) -> Hash {
    Hash(*blake3::hash(bytes).as_bytes())
}

impl Archive {
    /// Opens or makes the archive in `dir` for this receiver alone, removes what a crash left half
    /// written, and makes durable what is listed: an object may have been linked just before a crash
    /// of the process, its directory not yet synced.
    pub fn open(dir: &std::path::Path) -> Result<Self, Error> {
        let tried = |action| unusable(dir, action, "check that it is a directory and writable");
        std::fs::create_dir_all(dir).map_err(tried("make the directory"))?;
        let handle = File::open(dir).map_err(tried("open the directory"))?;
        // Another one's half-written objects would be taken for leftovers.
        rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive)
            .map_err(std::io::Error::from)
            .map_err(unusable(
                dir,
                "lock the directory",
                "only one receiver may write to it: end the other one",
            ))?;
        remove_leftovers(dir).map_err(tried("remove what a crash left"))?;
        rustix::fs::syncfs(&handle)
            .map_err(std::io::Error::from)
            .map_err(tried("sync the file system"))?;
        match probe(dir) {
            // What is archived can be shown all the same; boxes keep theirs until there is room.
            Err(e) if is_no_room(&e) => log::error!(
                "archive {}: {e}: nothing can be kept until there is room",
                dir.display()
            ),
            probed => probed.map_err(tried("write a file"))?,
        }
        Ok(Self {
            _locked: Some(Arc::new(handle)),
            ..Self::look(dir)?
        })
    }

    /// The archive in `dir`, to read only: a receiver may be writing to it.
    pub fn look(dir: &std::path::Path) -> Result<Self, Error> {
        let advice = "name the receiver's store with --store-dir";
        std::fs::read_dir(dir).map_err(unusable(dir, "read the directory", advice))?;
        let store = LocalFileSystem::new_with_prefix(dir).map_err(|source| Error::Store {
            dir: dir.into(),
            action: "open".into(),
            source,
        })?;
        Ok(Self {
            dir: dir.into(),
            store: store.with_fsync(true),
            _locked: None,
        })
    }

    fn failed(&self, action: &str) -> impl FnOnce(object_store::Error) -> Error + use<> {
        let (dir, action) = (self.dir.clone(), action.to_owned());
        move |source| Error::Store {
            dir,
            action,
            source,
        }
    }

    /// Creates the object `name`. When this returns, it is on stable storage with exactly these
    /// bytes; it is no error if it was there before with the same ones.
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let path = Path::from(name);
        let options = PutOptions::from(PutMode::Create);
        let payload = PutPayload::from_bytes(bytes.clone());
        match self.store.put_opts(&path, payload, options).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {
                let found = self.read(name).await?;
                if found != bytes {
                    return Err(Error::Conflict {
                        name: name.into(),
                        archived: hash(&found),
                        offered: hash(&bytes),
                    });
                }
                self.sync(name).await
            }
            Err(e) => Err(self.failed(&format!("store {name}"))(e)),
        }
    }

    /// Makes sure of an object whose creation may still be under way in another session.
    async fn sync(&self, name: &str) -> Result<(), Error> {
        let path = self.dir.join(name);
        let synced = tokio::task::spawn_blocking(move || {
            std::fs::File::open(&path)?.sync_all()?;
            match path.parent() {
                Some(folder) => std::fs::File::open(folder)?.sync_all(),
                None => Ok(()),
            }
        })
        .await;
        let generic = |source: Box<dyn std::error::Error + Send + Sync>| {
            self.failed(&format!("sync {name}"))(object_store::Error::Generic {
                store: "LocalFileSystem",
                source,
            })
        };
        match synced {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(generic(e.into())),
            Err(e) => Err(generic(e.into())),
        }
    }

    /// All bytes of the object `name`.
    pub async fn read(&self, name: &str) -> Result<Bytes, Error> {
        let result = self.store.get(&Path::from(name)).await;
        let read = match result {
            Ok(result) => result.bytes().await,
            Err(e) => Err(e),
        };
        read.map_err(self.failed(&format!("read {name}")))
    }

    /// Some bytes of the object `name`.
    pub async fn read_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, Error> {
        let options = GetOptions::new().with_range(Some(range));
        let result = self.store.get_opts(&Path::from(name), options).await;
        let read = match result {
            Ok(result) => result.bytes().await,
            Err(e) => Err(e),
        };
        read.map_err(self.failed(&format!("read {name}")))
    }

    /// Every recording that the store knows, with its objects. Names that are not ours are skipped.
    pub async fn list(&self) -> Result<BTreeMap<RecordingId, Listing>, Error> {
        self.list_below("recordings").await
    }

    /// The objects of one recording; none when the store does not know it.
    pub async fn list_one(&self, id: RecordingId) -> Result<Option<Listing>, Error> {
        let mut found = self.list_below(&format!("recordings/{id}")).await?;
        Ok(found.remove(&id))
    }

    async fn list_below(&self, folder: &str) -> Result<BTreeMap<RecordingId, Listing>, Error> {
        let mut found: BTreeMap<RecordingId, Listing> = BTreeMap::new();
        let mut objects = self.store.list(Some(&Path::from(folder)));
        while let Some(object) = objects.try_next().await.map_err(self.failed("list"))? {
            let name = object.location.as_ref().to_owned();
            match parse(&name) {
                Some((recording, Object::Segment(track, sequence))) => {
                    let tracks = &mut found.entry(recording).or_default().segments;
                    tracks
                        .entry(track)
                        .or_default()
                        .insert(sequence, object.size);
                }
                Some((recording, Object::Init(hash))) => {
                    let inits = &mut found.entry(recording).or_default().inits;
                    inits.insert(hash, object.size);
                }
                Some((recording, Object::Lost(range, reason))) => {
                    found
                        .entry(recording)
                        .or_default()
                        .lost
                        .insert(range, reason);
                }
                Some((recording, Object::Manifest)) => {
                    found.entry(recording).or_default().manifest = true;
                }
                None => log::warn!(
                    "archive {}: {name} is not an object of ours and is left alone",
                    self.dir.display()
                ),
            }
        }
        Ok(found)
    }
}

enum Object {
    Segment(TrackId, u64),
    Init(Hash),
    Lost(LostRange, LostReason),
    Manifest,
}

fn parse(name: &str) -> Option<(RecordingId, Object)> {
    let mut parts = name.split('/');
    let (Some("recordings"), Some(id)) = (parts.next(), parts.next()) else {
        return None;
    };
    let recording = id.parse().ok()?;
    let object = match (parts.next()?, parts.next(), parts.next()) {
        ("manifest.json", None, None) => Object::Manifest,
        ("init", Some(file), None) => Object::Init(file.strip_suffix(".mp4")?.parse().ok()?),
        ("lost", Some(file), None) => {
            let mut words = file.splitn(3, '.');
            let (track, range, reason) = (words.next()?, words.next()?, words.next()?);
            let (first, last) = range.split_once('-')?;
            let range = LostRange {
                track: TrackId(track.parse().ok()?),
                first: first.parse().ok()?,
                last: last.parse().ok()?,
            };
            let reason = match reason {
                "damaged" => LostReason::Damaged,
                "no-space" => LostReason::NoSpace,
                "receiver-forgot" => LostReason::ReceiverForgot,
                _ => return None,
            };
            Object::Lost(range, reason)
        }
        (track, Some(file), None) => {
            let track = TrackId(track.parse().ok()?);
            let sequence = file.strip_suffix(".m4s")?.parse().ok()?;
            let key = SegmentKey {
                recording,
                track,
                sequence,
            };
            // Only the one spelling of a name: "+1" and "1" are no objects of ours.
            (segment_path(&key) == name).then_some(Object::Segment(track, sequence))?
        }
        _ => return None,
    };
    Some((recording, object))
}

fn unusable(
    dir: &std::path::Path,
    action: &'static str,
    advice: &'static str,
) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let dir = dir.to_path_buf();
    move |source| Error::Directory {
        dir,
        action,
        source,
        advice,
    }
}

fn is_no_room(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// Whether a file can be made. Its name is that of a leftover, in case that this is interrupted.
fn probe(dir: &std::path::Path) -> std::io::Result<()> {
    let path = dir.join("probe#0");
    File::create(&path)?;
    std::fs::remove_file(&path)
}

/// Removes the files that `object_store` stages beside an object (`name#number`).
fn remove_leftovers(dir: &std::path::Path) -> std::io::Result<()> {
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let staged = name
                .to_str()
                .and_then(|name| name.rsplit_once('#'))
                .is_some_and(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()));
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if staged {
                log::info!("removing {}: a crash left it", entry.path().display());
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(sequence: u64) -> SegmentKey {
        SegmentKey {
            recording: RecordingId([7; 16]),
            track: TrackId(1),
            sequence,
        }
    }

    #[tokio::test]
    async fn what_is_created_is_listed_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path()).unwrap();
        let init = hash(b"init");
        let id = key(0).recording;
        for (name, bytes) in [
            (segment_path(&key(0)), &b"zero"[..]),
            (segment_path(&key(123_456_789)), b"big"),
            (init_path(id, init), b"init"),
            (manifest_path(id), b"{}"),
        ] {
            archive
                .create(&name, Bytes::from_static(bytes))
                .await
                .unwrap();
            assert_eq!(archive.read(&name).await.unwrap(), bytes);
        }
        assert_eq!(
            archive
                .read_range(&segment_path(&key(0)), 1..3)
                .await
                .unwrap(),
            &b"er"[..]
        );
        let listed = archive.list().await.unwrap();
        let listing = &listed[&id];
        assert_eq!(
            listing.segments[&TrackId(1)],
            BTreeMap::from([(0, 4), (123_456_789, 3)])
        );
        assert!(listing.manifest && listing.inits.contains_key(&init));
    }

    #[tokio::test]
    async fn a_second_create_is_harmless_with_the_same_bytes_and_a_conflict_with_others() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path()).unwrap();
        let name = segment_path(&key(0));
        for _ in 0..2 {
            archive
                .create(&name, Bytes::from_static(b"one"))
                .await
                .unwrap();
        }
        let found = archive.create(&name, Bytes::from_static(b"two")).await;
        match found {
            Err(Error::Conflict {
                archived, offered, ..
            }) => {
                assert_eq!((archived, offered), (hash(b"one"), hash(b"two")));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(archive.read(&name).await.unwrap(), &b"one"[..]);
    }

    #[tokio::test]
    async fn what_a_crash_left_is_neither_listed_nor_kept() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path()).unwrap();
        let name = segment_path(&key(0));
        archive
            .create(&name, Bytes::from_static(b"one"))
            .await
            .unwrap();
        let folder = dir.path().join(&name).parent().unwrap().to_path_buf();
        std::fs::write(folder.join("00000001.m4s#1"), b"half").unwrap();
        std::fs::write(folder.join("note.txt"), b"not ours").unwrap();
        assert!(matches!(
            Archive::open(dir.path()),
            Err(Error::Directory { .. })
        ));
        drop(archive);
        let archive = Archive::open(dir.path()).unwrap();
        let listed = archive.list().await.unwrap();
        assert_eq!(listed[&key(0).recording].segments[&TrackId(1)].len(), 1);
        assert!(!folder.join("00000001.m4s#1").exists());
        assert!(folder.join("note.txt").exists());
    }

    #[test]
    fn only_the_one_spelling_of_a_name_is_an_object() {
        let id = RecordingId([7; 16]);
        for name in [
            format!("recordings/{id}/1/1.m4s"),
            format!("recordings/{id}/+1/00000001.m4s"),
            format!("recordings/{id}/256/00000001.m4s"),
            format!("recordings/{id}/1/00000001.mp4"),
            format!("recordings/{id}/1/2/00000001.m4s"),
            format!("recordings/{id}/init/xyz.mp4"),
            "recordings/x/manifest.json".to_owned(),
            format!("other/{id}/manifest.json"),
        ] {
            assert!(parse(&name).is_none(), "{name}");
        }
        assert!(parse(&segment_path(&key(5))).is_some());
    }
}
