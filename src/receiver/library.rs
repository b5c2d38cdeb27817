//! Archive and catalog, kept in step: an object is durable first and known afterwards.
//!
//! Takes whole segments and inits from the sessions; gives what is durable, what is complete, and
//! the bytes to show. All that may be acknowledged as DURABLE comes out of here.

use super::archive::{self, Archive};
use super::catalog::{self, Catalog, LostRange, Recording};
use super::manifest::{self, Manifest};
use super::playlist;
use crate::media::{BoxId, Event, Hash, LostReason, RecordingId, SegmentKey, TrackId};
use crate::wire::message::{HeldRecording, HeldTrack, OpenRecording};
use crate::wire::stream::SegmentHeader;
use crate::wire::{ErrorCode, Sequences};
use bytes::Bytes;
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Notify;

/// The most tracks of a recording, so that a `Welcome` can speak of all of them.
pub const MAX_TRACKS: usize = 16;

/// Why something is not kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed, or holds other bytes under the name.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The bytes are no segment.
    #[error("segment {key}: {source}")]
    Malformed {
        /// The segment, as its stream named it.
        key: SegmentKey,
        /// What is wrong.
        source: catalog::ReadError,
    },
    /// The bytes are another segment than the stream said.
    #[error("segment {0}: its bytes say that they are something else")]
    OtherName(SegmentKey),
    /// The recording belongs to another box.
    #[error("recording {0} belongs to another box")]
    OtherBox(RecordingId),
    /// It would have more than [`MAX_TRACKS`] tracks.
    #[error("recording {0} has more than {MAX_TRACKS} tracks")]
    TooManyTracks(RecordingId),
    /// The init it needs did not come.
    #[error("segment {key} needs the init {init}, which did not come")]
    InitMissing {
        /// The segment.
        key: SegmentKey,
        /// The init.
        init: Hash,
    },
}

impl Error {
    /// What the box is told.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Archive(archive::Error::Conflict { .. }) | Self::OtherBox(_) => {
                ErrorCode::CONFLICT
            }
            Self::Archive(e) if e.is_full() => ErrorCode::STORE_FULL,
            Self::Archive(_) => ErrorCode::STORE_FAILED,
            Self::Malformed { .. } => ErrorCode::MALFORMED,
            Self::OtherName(_) | Self::TooManyTracks(_) => ErrorCode::PROTOCOL,
            Self::InitMissing { .. } => ErrorCode::INIT_MISSING,
        }
    }
}

/// What is durable of each track of a complete recording. A box is told all of it before it is told
/// COMPLETE, because acknowledgements of other streams may still be on their way.
pub type Whole = Vec<HeldTrack>;

/// What became durable.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// All that is durable of the segment's track.
    pub durable: Sequences,
    /// All that is durable of each track if the recording is complete: its manifest is durable.
    pub complete: Option<Whole>,
}

/// The archive with what is known of it.
pub struct Library {
    /// The objects.
    pub archive: Archive,
    catalog: RwLock<Catalog>,
    inits: Notify,
}

impl Library {
    /// Opens the archive in `dir` and reads what it holds: the manifest of a complete recording,
    /// each segment of another one.
    pub async fn open(dir: &Path) -> Result<Self, archive::Error> {
        let archive = Archive::open(dir)?;
        let mut catalog = Catalog::default();
        for (id, listing) in archive.list().await? {
            let recording = read_recording(&archive, id, &listing).await?;
            catalog.recordings.insert(id, recording);
        }
        let library = Self {
            archive,
            catalog: RwLock::new(catalog),
            inits: Notify::new(),
        };
        // A crash may have come between the last object and the manifest.
        let ids: Vec<_> = library.read().recordings.keys().copied().collect();
        for id in ids {
            library.complete(id).await?;
        }
        Ok(library)
    }

    /// The catalog, to read; never held over an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an init durable. It belongs to no recording yet: the first segment that names it says
    /// to which.
    pub async fn keep_init(&self, hash: Hash, bytes: Vec<u8>) -> Result<(), Error> {
        let name = archive::shared_init_path(hash);
        self.archive.create(&name, Bytes::from(bytes)).await?;
        self.inits.notify_waiters();
        Ok(())
    }

    /// Waits until the init is here and makes it durable beside the recording. Streams overtake each
    /// other, so a segment may be here before its init; the caller bounds the wait.
    pub async fn await_init(&self, recording: RecordingId, init: Hash) -> Result<(), Error> {
        let known = || {
            let catalog = self.read();
            let recording = catalog.recordings.get(&recording);
            recording.is_some_and(|recording| recording.inits.contains(&init))
        };
        while !known() {
            // Registered before the look, so that an init between the two is not missed.
            let arrived = self.inits.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            match self.archive.read(&archive::shared_init_path(init)).await {
                Ok(bytes) => {
                    let name = archive::init_path(recording, init);
                    self.archive.create(&name, bytes).await?;
                    let mut catalog = self.write();
                    let entry = catalog.recordings.entry(recording).or_default();
                    entry.inits.insert(init);
                }
                Err(e) if e.is_missing() => arrived.await,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Makes a whole segment of `sender` durable, its hash already checked against `hash` and its
    /// init already durable, and says what is durable now.
    pub async fn keep_segment(
        &self,
        sender: BoxId,
        header: &SegmentHeader,
        bytes: Vec<u8>,
        hash: Hash,
    ) -> Result<Kept, Error> {
        let key = header.key;
        let read = catalog::read_segment(&bytes, hash)
            .map_err(|source| Error::Malformed { key, source })?;
        if read.provenance.key != key || read.provenance.init != header.init {
            return Err(Error::OtherName(key));
        }
        self.claim(sender, key.recording, &read)?;
        if playlist::is_too_long(&read.stored) {
            log::warn!(
                "segment {key} lasts {} units of 1/{} s: longer than the playlist promises ({} s); \
                 check the box's segment length",
                read.stored.duration,
                read.stored.timescale.get(),
                playlist::TARGET_SECONDS
            );
        }
        let name = archive::segment_path(&key);
        self.archive.create(&name, Bytes::from(bytes)).await?;
        let durable = {
            let mut catalog = self.write();
            let recording = catalog.recordings.entry(key.recording).or_default();
            recording.insert(key.sequence, key.track, read.stored, read.facts);
            recording.durable(key.track)
        };
        let complete = self.complete(key.recording).await?;
        Ok(Kept { durable, complete })
    }

    /// Lets only one box write a recording: the one its facts name, else the first that sent.
    fn claim(&self, sender: BoxId, id: RecordingId, read: &catalog::Read) -> Result<(), Error> {
        let named = read.facts.iter().find_map(|fact| match fact.event {
            Event::Started { box_id, .. } => Some(box_id),
            _ => None,
        });
        let mut catalog = self.write();
        let recording = catalog.recordings.entry(id).or_default();
        let owner = *recording.sender.get_or_insert(sender);
        let owner = recording.owner().unwrap_or(owner);
        if owner != sender || named.is_some_and(|named| named != sender) {
            return Err(Error::OtherBox(id));
        }
        let tracks = &recording.segments;
        if !tracks.contains_key(&read.provenance.key.track) && tracks.len() >= MAX_TRACKS {
            return Err(Error::TooManyTracks(id));
        }
        Ok(())
    }

    /// Makes a LOST range durable; what is durable of each track if the recording is complete now.
    pub async fn keep_lost(
        &self,
        sender: BoxId,
        id: RecordingId,
        range: LostRange,
        reason: LostReason,
    ) -> Result<Option<Whole>, Error> {
        let owner = self.read().recordings.get(&id).and_then(Recording::owner);
        if owner != Some(sender) || range.last < range.first {
            return Err(Error::OtherBox(id));
        }
        let name = archive::lost_path(id, &range, manifest::lost_reason(reason));
        self.archive.create(&name, Bytes::new()).await?;
        let enter = |mut catalog: RwLockWriteGuard<'_, Catalog>| {
            let recording = catalog.recordings.entry(id).or_default();
            recording.insert_lost(range, reason);
        };
        enter(self.write());
        Ok(self.complete(id).await?)
    }

    /// Writes the manifest once nothing is missing; what is durable of each track of a complete one.
    async fn complete(&self, id: RecordingId) -> Result<Option<Whole>, archive::Error> {
        let manifest = {
            let catalog = self.read();
            let Some(recording) = catalog.recordings.get(&id) else {
                return Ok(None);
            };
            if recording.complete {
                return Ok(Some(held_tracks(recording)));
            }
            match recording.missing() {
                None => {}
                Some(catalog::Missing::Root(track)) => {
                    log::error!(
                        "recording {id}: track {track} is here in full, but its hashes are not those \
                         that the box states; it is kept as it is and stays incomplete"
                    );
                    return Ok(None);
                }
                Some(_) => return Ok(None),
            }
            Manifest::of(id, recording)
        };
        let json = match manifest.to_json() {
            Ok(json) => json,
            Err(e) => {
                log::error!("recording {id}: its manifest cannot be written: {e}");
                return Ok(None);
            }
        };
        let name = archive::manifest_path(id);
        match self.archive.create(&name, Bytes::from(json)).await {
            Ok(()) => {}
            // Written by another session a moment ago, or by a later release: it stays.
            Err(e @ archive::Error::Conflict { .. }) => log::error!("{e}; the archived one stays"),
            Err(e) => return Err(e),
        }
        let mut catalog = self.write();
        let recording = catalog.recordings.entry(id).or_default();
        let first = !std::mem::replace(&mut recording.complete, true);
        if first {
            log::info!("recording {id} is complete");
        }
        Ok(Some(held_tracks(recording)))
    }

    /// What of the box's recordings is held, and which of them are complete.
    pub fn held(&self, open: &[OpenRecording]) -> (Vec<HeldRecording>, Vec<RecordingId>) {
        let catalog = self.read();
        let (mut held, mut complete) = (Vec::new(), Vec::new());
        for asked in open {
            let Some(recording) = catalog.recordings.get(&asked.recording) else {
                continue;
            };
            if recording.complete {
                complete.push(asked.recording);
            }
            held.push(HeldRecording {
                recording: asked.recording,
                tracks: held_tracks(recording),
            });
        }
        (held, complete)
    }
}

fn held_tracks(recording: &Recording) -> Vec<HeldTrack> {
    let track = |track: &TrackId| HeldTrack {
        track: *track,
        durable: recording.durable(*track),
    };
    recording.segments.keys().map(track).collect()
}

/// What the objects of a recording say.
pub async fn read_recording(
    archive: &Archive,
    id: RecordingId,
    listing: &archive::Listing,
) -> Result<Recording, archive::Error> {
    let mut recording = Recording::default();
    recording.inits.extend(listing.inits.keys());
    for (range, reason) in &listing.lost {
        recording.insert_lost(*range, *reason);
    }
    let mut known = std::collections::BTreeMap::new();
    if listing.manifest {
        let bytes = archive.read(&archive::manifest_path(id)).await?;
        match Manifest::from_json(&bytes).and_then(|manifest| manifest.segments()) {
            Ok(segments) => {
                recording.complete = true;
                known.extend(
                    segments
                        .into_iter()
                        .map(|(track, sequence, stored)| ((track, sequence), stored)),
                );
            }
            // It stays as it is; what is durable is in the objects.
            Err(e) => log::error!("recording {id}: manifest.json: {e}"),
        }
    }
    for (&track, sequences) in &listing.segments {
        for &sequence in sequences.keys() {
            let key = SegmentKey {
                recording: id,
                track,
                sequence,
            };
            if let (Some(stored), true) = (known.get(&(track, sequence)), track != TrackId::EVENTS)
            {
                recording.insert(sequence, track, *stored, Vec::new());
                continue;
            }
            let bytes = archive.read(&archive::segment_path(&key)).await?;
            match catalog::read_segment(&bytes, archive::hash(&bytes)) {
                Ok(read) if read.provenance.key == key => {
                    recording.insert(sequence, track, read.stored, read.facts);
                }
                Ok(_) => log::error!("segment {key}: the object holds another segment"),
                Err(e) => log::error!("segment {key}: the object is damaged: {e}"),
            }
        }
    }
    for (track, sequence) in known.keys() {
        let listed = listing.segments.get(track);
        if !listed.is_some_and(|listed| listed.contains_key(sequence)) {
            log::error!(
                "recording {id}: the manifest names {track}/{sequence}, which is not there"
            );
        }
    }
    Ok(recording)
}
