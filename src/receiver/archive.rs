//! The archive: immutable objects in a store, and the only truth about what is durable.
//!
//! ```text
//! recordings/<id>/<track>/<sequence, 8 digits>.m4s   a segment, exactly the bytes the box sent
//! recordings/<id>/init/<hash>.mp4                    an init
//! recordings/<id>/lost/<track>.<first>-<last>.<reason>   LOST, where no fact could be added
//! recordings/<id>/manifest.json                      written once, after everything it names
//! erased/<id>                                        a tombstone: the recording was erased
//! erased/<id>.<box>                                  its box has said that its copy is gone
//! ```
//!
//! The store is a directory of this machine or a bucket of an S3-compatible server. An object is
//! created or it is not: in a directory `object_store` writes beside it, syncs, links it to its name
//! and syncs the folder; a bucket takes whole objects whose checksum is right. So whatever is listed is
//! whole, after a crash at any point too. A name that is taken is never written again: the bytes there
//! are read back and compared.

mod bucket;
mod directory;
mod error;
mod names;

pub use bucket::Bucket;
pub use error::Error;
pub use names::{
    confirmation_path, init_path, lost_path, manifest_path, segment_path, tombstone_path,
};

use super::catalog::LostRange;
use crate::blocking;
use crate::clock;
use crate::media::{BoxId, Hash, LostReason, RecordingId, TrackId};
use bytes::Bytes;
use directory::Directory;
use futures_util::{StreamExt, TryStreamExt};
use names::{Object, parse, parse_erased};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often the creation of an object is tried while other writers are in its way.
const TRIES: u32 = 6;
/// The pause after the first of them; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// So much has to fit before a store that was full counts as having room.
const ROOM: usize = 1024 * 1024;
const PROBE: &str = "probe";

/// Where an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory of this machine; one receiver at a time writes to it.
    Directory(PathBuf),
    /// A bucket; any number of receivers write to it.
    Bucket(Bucket),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(dir) => write!(f, "{}", dir.display()),
            Self::Bucket(bucket) => write!(f, "{bucket}"),
        }
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

/// What a tombstone says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The box that made the recording, where that was known.
    #[serde(rename = "box")]
    pub box_id: Option<String>,
    /// When it was erased (RFC 3339, UTC).
    pub erased_at: String,
    /// The boxes that said that their copy is gone; objects of their own.
    #[serde(skip)]
    pub confirmed: BTreeSet<BoxId>,
}

/// The archive.
#[derive(Clone)]
pub struct Archive {
    place: Arc<str>,
    advice: &'static str,
    store: Arc<dyn ObjectStore>,
    directory: Option<Arc<Directory>>,
    shared: bool,
}

/// BLAKE3 of an object's bytes.
pub fn hash(bytes: &[u8]) -> Hash {
    Hash(*blake3::hash(bytes).as_bytes())
}

impl Archive {
    /// Opens the archive for a receiver. A directory is made if it is not there, and belongs to this
    /// receiver alone from then on.
    pub fn open(place: &Place) -> Result<Self, Error> {
        match place {
            Place::Directory(dir) => Self::in_directory(Directory::open(dir)?, dir),
            Place::Bucket(bucket) => Self::in_bucket(bucket),
        }
    }

    /// The archive beside a receiver that may be writing to it.
    pub fn look(place: &Place) -> Result<Self, Error> {
        match place {
            Place::Directory(dir) => Self::in_directory(Directory::look(dir)?, dir),
            Place::Bucket(bucket) => Self::in_bucket(bucket),
        }
    }

    /// The archive for a program that erases, beside a receiver that may be writing to it or start.
    pub fn erasing(place: &Place) -> Result<Self, Error> {
        match place {
            Place::Directory(dir) => Self::in_directory(Directory::erasing(dir)?, dir),
            Place::Bucket(bucket) => Self::in_bucket(bucket),
        }
    }

    /// The archive in any store; `place` names it in messages.
    pub fn over(store: Arc<dyn ObjectStore>, place: &str) -> Self {
        Self {
            place: place.into(),
            advice: "check the store",
            store,
            directory: None,
            shared: false,
        }
    }

    /// The archive in a store to which other receivers write at the same time.
    pub fn shared(store: Arc<dyn ObjectStore>, place: &str) -> Self {
        Self {
            advice: "check that the store is reachable, and its credentials, region and bucket",
            shared: true,
            ..Self::over(store, place)
        }
    }

    fn in_directory(directory: Directory, dir: &std::path::Path) -> Result<Self, Error> {
        let advice = "check that the directory is there, writable and not full";
        let place = dir.display().to_string();
        let store = LocalFileSystem::new_with_prefix(dir).map_err(|source| Error::Store {
            place: place.clone(),
            action: "open".into(),
            source: Box::new(source),
            advice,
        })?;
        Ok(Self {
            advice,
            directory: Some(Arc::new(directory)),
            ..Self::over(Arc::new(store.with_fsync(true)), &place)
        })
    }

    fn in_bucket(bucket: &Bucket) -> Result<Self, Error> {
        Ok(Self::shared(bucket.connect()?, &bucket.to_string()))
    }

    /// True when other receivers may write to it at the same time.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Refuses a shared store that would overwrite: all rests on names that are taken once.
    pub async fn prove_create_only(&self) -> Result<(), Error> {
        if !self.shared {
            return Ok(());
        }
        let wall = clock::wall().unix_nanos;
        let name = format!("{PROBE}.{wall}.{}", std::process::id());
        self.put(&name, Bytes::from_static(b"1")).await?;
        let second = self.put(&name, Bytes::from_static(b"2")).await;
        self.delete(&name).await?;
        match second {
            Err(Error::Conflict { .. }) => Ok(()),
            Err(e) => Err(e),
            Ok(()) => Err(Error::Bucket {
                bucket: self.place.to_string(),
                what: "this store writes over objects that are there (it does not know \
                       If-None-Match): use another one, or a release of it that does"
                    .into(),
            }),
        }
    }

    fn failed(&self, action: &str) -> impl FnOnce(object_store::Error) -> Error + use<> {
        let (place, advice) = (self.place.to_string(), self.advice);
        let action = action.to_owned();
        move |source| Error::Store {
            place,
            action,
            source: Box::new(source),
            advice,
        }
    }

    /// Does what only a directory needs, off the tasks that carry media.
    async fn on_directory<T: Default + Send + 'static>(
        &self,
        action: &str,
        work: impl FnOnce(&Directory) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let Some(directory) = self.directory.clone() else {
            return Ok(T::default());
        };
        let done = blocking::run(move || work(&directory)).await;
        let source: Box<dyn std::error::Error + Send + Sync> = match done {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(e)) => e.into(),
            Err(e) => e.into(),
        };
        Err(self.failed(action)(object_store::Error::Generic {
            store: "directory",
            source,
        }))
    }

    /// Creates a segment or init. When this returns, it is on stable storage with exactly these
    /// bytes; it is no error if it was there before with the same ones.
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let held = self.on_directory("hold the reserve", Directory::hold_reserve);
        match held.await {
            Err(e) if e.is_full() => {
                let place = self.place.to_string();
                return Err(Error::Full { place });
            }
            held => held?,
        }
        self.put(name, bytes).await
    }

    /// Creates a manifest, a LOST range, a tombstone or a confirmation: they are wanted on a full
    /// store too, and take what is reserved for them.
    pub async fn create_record(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        match self.put(name, bytes.clone()).await {
            Err(e) if e.is_full() => {
                let release = Directory::release_reserve;
                if !self.on_directory("release the reserve", release).await? {
                    return Err(e);
                }
                log::warn!("archive {}: full: {name} takes reserved space", self.place);
                self.put(name, bytes).await
            }
            put => put,
        }
    }

    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let path = Path::from(name);
        let mut pause = FIRST_PAUSE;
        for _ in 0..TRIES {
            let options = PutOptions::from(PutMode::Create);
            let payload = PutPayload::from_bytes(bytes.clone());
            match self.store.put_opts(&path, payload, options).await {
                Ok(_) => {
                    let made = name.to_owned();
                    let settle = move |directory: &Directory| directory.settle(&made);
                    let action = format!("sync the folders of {name}");
                    return self.on_directory(&action, settle).await;
                }
                Err(object_store::Error::AlreadyExists { .. }) => {}
                Err(e) => return Err(self.failed(&format!("store {name}"))(e)),
            }
            match self.read(name).await {
                Ok(found) => {
                    // Other bytes too: a caller may go on from what is there.
                    self.secure(name).await?;
                    if found == bytes {
                        return Ok(());
                    }
                    return Err(Error::Conflict {
                        name: name.into(),
                        archived: hash(&found),
                        offered: hash(&bytes),
                    });
                }
                // Two writers met, and the store took the bytes of neither.
                Err(e) if e.is_missing() => {}
                Err(e) => return Err(e),
            }
            clock::pause(pause).await;
            pause *= 2;
        }
        Err(Error::Unsettled {
            place: self.place.to_string(),
            name: name.into(),
        })
    }

    /// Sees to it that an object that is there stays there: who created it may still be syncing it, or
    /// was killed before that.
    pub async fn secure(&self, name: &str) -> Result<(), Error> {
        let synced = name.to_owned();
        let sync = move |directory: &Directory| directory.sync(&synced);
        self.on_directory(&format!("sync {name}"), sync).await
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

    /// Takes back an object that must not be there; it is no error if it is not.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        match self.store.delete(&Path::from(name)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            deleted => deleted.map_err(self.failed(&format!("delete {name}"))),
        }
    }

    /// Removes every object of a recording, its manifest first so that nothing names what is gone;
    /// gives how many there were. The caller has made the tombstone durable.
    pub async fn delete_recording(&self, id: RecordingId) -> Result<usize, Error> {
        let folder = format!("recordings/{id}");
        let listed = self.store.list(Some(&Path::from(folder.as_str())));
        let mut names: Vec<Path> = listed
            .map_ok(|object| object.location)
            .try_collect()
            .await
            .map_err(self.failed(&format!("list {folder}")))?;
        let count = names.len();
        let manifest = Path::from(manifest_path(id));
        if let Some(at) = names.iter().position(|name| *name == manifest) {
            names.swap_remove(at);
            self.delete(manifest.as_ref()).await?;
        }
        let gone = self
            .store
            .delete_stream(futures_util::stream::iter(names.into_iter().map(Ok)).boxed())
            // Another one may be deleting the same.
            .filter(|result| {
                let missing = matches!(result, Err(object_store::Error::NotFound { .. }));
                std::future::ready(!missing)
            })
            .try_for_each(|_| std::future::ready(Ok(())))
            .await;
        gone.map_err(self.failed(&format!("delete {folder}")))?;
        let action = format!("sync {folder}");
        let sweep = move |directory: &Directory| directory.sweep(&folder);
        self.on_directory(&action, sweep).await?;
        Ok(count)
    }

    /// Whether a store that was full or away takes segments again.
    pub async fn has_room(&self) -> bool {
        if self.directory.is_some() {
            let asked = self.on_directory("ask for room", Directory::has_room).await;
            if !asked.unwrap_or(false) {
                return false;
            }
        }
        let payload = PutPayload::from_bytes(Bytes::from(vec![0; ROOM]));
        let probed = self.store.put(&Path::from(PROBE), payload).await;
        let removed = self.delete(PROBE).await;
        probed.is_ok() && removed.is_ok()
    }

    /// Every recording that the store knows, with its objects. Names that are not ours are skipped.
    pub async fn list(&self) -> Result<BTreeMap<RecordingId, Listing>, Error> {
        self.list_below("recordings").await
    }

    /// The recordings that the store knows, without their objects.
    pub async fn recordings(&self) -> Result<Vec<RecordingId>, Error> {
        let folder = Path::from("recordings");
        let listed = self.store.list_with_delimiter(Some(&folder)).await;
        let folders = listed.map_err(self.failed("list"))?.common_prefixes;
        let id = |folder: &Path| folder.filename()?.parse().ok();
        Ok(folders.iter().filter_map(id).collect())
    }

    /// The objects of one recording; none when the store does not know it.
    pub async fn list_one(&self, id: RecordingId) -> Result<Option<Listing>, Error> {
        let mut found = self.list_below(&format!("recordings/{id}")).await?;
        Ok(found.remove(&id))
    }

    /// Whether a recording has a tombstone.
    pub async fn is_erased(&self, id: RecordingId) -> Result<bool, Error> {
        let name = tombstone_path(id);
        match self.store.head(&Path::from(name.as_str())).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(self.failed(&format!("look for {name}"))(e)),
        }
    }

    /// The erased recordings, and the boxes that said that their copy is gone.
    pub async fn erased(&self) -> Result<BTreeMap<RecordingId, BTreeSet<BoxId>>, Error> {
        let mut found: BTreeMap<RecordingId, BTreeSet<BoxId>> = BTreeMap::new();
        let mut objects = self.store.list(Some(&Path::from("erased")));
        while let Some(object) = objects.try_next().await.map_err(self.failed("list"))? {
            match parse_erased(object.location.as_ref()) {
                Some((recording, confirmed)) => {
                    found.entry(recording).or_default().extend(confirmed);
                }
                None => log::warn!(
                    "archive {}: {} is not an object of ours and is left alone",
                    self.place,
                    object.location
                ),
            }
        }
        Ok(found)
    }

    /// What the tombstone of an erased recording says; a damaged one is a tombstone all the same.
    pub async fn tombstone(&self, id: RecordingId) -> Result<Tombstone, Error> {
        let bytes = self.read(&tombstone_path(id)).await?;
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
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
                    self.place
                ),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::SegmentKey;

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
        let archive = Archive::open(&Place::Directory(dir.path().into())).unwrap();
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
        let archive = Archive::open(&Place::Directory(dir.path().into())).unwrap();
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
        let archive = Archive::open(&Place::Directory(dir.path().into())).unwrap();
        let name = segment_path(&key(0));
        archive
            .create(&name, Bytes::from_static(b"one"))
            .await
            .unwrap();
        let folder = dir.path().join(&name).parent().unwrap().to_path_buf();
        std::fs::write(folder.join("00000001.m4s#1"), b"half").unwrap();
        std::fs::write(folder.join("note.txt"), b"not ours").unwrap();
        assert!(matches!(
            Archive::open(&Place::Directory(dir.path().into())),
            Err(Error::Directory { .. })
        ));
        drop(archive);
        let archive = Archive::open(&Place::Directory(dir.path().into())).unwrap();
        let listed = archive.list().await.unwrap();
        assert_eq!(listed[&key(0).recording].segments[&TrackId(1)].len(), 1);
        assert!(!folder.join("00000001.m4s#1").exists());
        assert!(folder.join("note.txt").exists());
    }
}
