//! Archive and catalog, kept in step: an object is durable first and known afterwards.
//!
//! Takes whole segments and inits from the sessions; gives what is durable, what is complete, and
//! the bytes to show. All that may be acknowledged as DURABLE comes out of here.

mod erasure;
mod inits;
mod read;
mod room;

pub use erasure::erase;
pub use read::read_recording;

use super::archive::{self, Archive, Place};
use super::catalog::{self, Catalog, LostRange, Recording, Stored};
use super::manifest::{self, Manifest};
use super::playlist;
use crate::clock;
use crate::media::{
    BoxId, Event, Fact, Hash, LostReason, Provenance, RecordingId, SegmentKey, TrackId,
};
use crate::wire::message::{HeldRecording, HeldTrack, MAX_HASHES, OpenRecording, SegmentHash};
use crate::wire::stream::SegmentHeader;
use crate::wire::{ErrorCode, Sequences};
use bytes::Bytes;
use inits::Inits;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use tokio::sync::{Mutex, broadcast, watch};

/// The most tracks of a recording, so that a `Welcome` can speak of all of them.
pub const MAX_TRACKS: usize = 16;

/// The largest segment number that may be declared lost; no recording lasts so long.
const LAST_SEQUENCE: u64 = u32::MAX as u64;
/// How often what other receivers stored is looked for, to show it.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(10);

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
    /// Another run of the box's process has written this span.
    #[error(
        "segment {0}: span {1} was written by another run of this box: a copy of its card is in use?"
    )]
    OtherRun(SegmentKey, u32),
    /// Numbers that no recording reaches, or in the wrong order.
    #[error("recording {0}: track {track}: no segments {first} to {last} can be lost", track = .1.track, first = .1.first, last = .1.last)]
    NoSuchRange(RecordingId, LostRange),
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
    /// Somebody erased the recording on purpose.
    #[error("recording {0} was erased")]
    Erased(RecordingId),
}

impl Error {
    /// What the box is told.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Archive(archive::Error::Conflict { .. })
            | Self::OtherBox(_)
            | Self::OtherRun(..) => ErrorCode::CONFLICT,
            Self::Archive(e) if e.is_full() => ErrorCode::STORE_FULL,
            Self::Archive(_) => ErrorCode::STORE_FAILED,
            Self::Malformed { .. } => ErrorCode::MALFORMED,
            Self::OtherName(_) | Self::NoSuchRange(..) | Self::TooManyTracks(_) => {
                ErrorCode::PROTOCOL
            }
            Self::InitMissing { .. } => ErrorCode::INIT_MISSING,
            Self::Erased(_) => ErrorCode::ERASED,
        }
    }
}

/// What became durable.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// All that is durable of the segment's track.
    pub durable: Sequences,
    /// The hash of the segment's bytes.
    pub hash: Hash,
    /// The segment's init, if it became durable with it.
    pub init: Option<Hash>,
    /// The recording is complete: its manifest is durable.
    pub complete: bool,
}

/// The archive with what is known of it.
pub struct Library {
    /// The objects.
    pub archive: Archive,
    catalog: RwLock<Catalog>,
    inits: Inits,
    /// Why the store takes no segments at present, if so.
    refusal: watch::Sender<Option<ErrorCode>>,
    /// Held while it is asked whether it takes any.
    probing: Mutex<()>,
    /// Tells of recordings whose tombstone was found.
    erasures: broadcast::Sender<RecordingId>,
    /// Held while what other receivers stored is looked for.
    refreshing: Mutex<()>,
}

impl Library {
    /// Opens the archive at `place` and reads what it holds.
    pub async fn open(place: &Place) -> Result<Self, archive::Error> {
        Self::over(Archive::open(place)?).await
    }

    /// Reads what `archive` holds: the manifest of a complete recording, each segment of another one.
    /// What a crash left of an erasure or of a manifest that was due is brought to its end.
    pub async fn over(archive: Archive) -> Result<Self, archive::Error> {
        archive.prove_create_only().await?;
        let mut catalog = Catalog::default();
        read::read_erased(&archive, &mut catalog).await?;
        for (id, listing) in archive.list().await? {
            let Some(erased) = catalog.erased.get_mut(&id) else {
                let known = Recording::default();
                let recording = read_recording(&archive, id, &listing, known).await?;
                catalog.recordings.insert(id, recording);
                continue;
            };
            erased.swept = false;
        }
        let library = Self {
            archive,
            catalog: RwLock::new(catalog),
            inits: Inits::default(),
            refusal: watch::Sender::new(None),
            probing: Mutex::default(),
            erasures: broadcast::Sender::new(erasure::WAITING),
            refreshing: Mutex::default(),
        };
        // Again: one may have been erased since.
        library.look_for_erased().await?;
        let ids: Vec<_> = library.read().recordings.keys().copied().collect();
        for id in ids {
            if let Err(e) = library.complete(id).await {
                log::error!("recording {id}: its manifest is not written: {e}");
            }
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

    /// Creates a segment or init of a recording that is not erased, and enters it.
    async fn create<T>(
        &self,
        id: RecordingId,
        name: &str,
        bytes: Bytes,
        change: impl FnOnce(&mut Recording) -> T,
    ) -> Result<T, Error> {
        self.refuse_erased(id)?;
        self.archive.create(name, bytes).await?;
        self.enter(id, name, change).await
    }

    /// Enters an object that was just created. Who erases a recording looks for its objects after the
    /// tombstone is there: it has seen this one, or the tombstone is seen here, and the object goes
    /// again.
    async fn enter<T>(
        &self,
        id: RecordingId,
        name: &str,
        change: impl FnOnce(&mut Recording) -> T,
    ) -> Result<T, Error> {
        if self.archive.is_erased(id).await? {
            self.note_erased(id, false).await?;
        }
        {
            let mut catalog = self.write();
            match catalog.erased.get_mut(&id) {
                None => return Ok(change(catalog.recordings.entry(id).or_default())),
                // The next look removes the folder too.
                Some(erased) => erased.swept = false,
            }
        }
        self.archive.delete(name).await?;
        Err(Error::Erased(id))
    }

    fn refuse_erased(&self, id: RecordingId) -> Result<(), Error> {
        match self.read().erased.contains_key(&id) {
            true => Err(Error::Erased(id)),
            false => Ok(()),
        }
    }

    /// Holds an init for the segments of `sender` that need it: the first of a recording makes it
    /// durable there.
    pub fn take_init(&self, sender: BoxId, hash: Hash, bytes: Bytes) {
        self.inits.take(sender, hash, bytes);
    }

    /// Makes the segment's init durable beside the recording; says it if it was not before.
    async fn keep_init(
        &self,
        sender: BoxId,
        key: SegmentKey,
        init: Hash,
    ) -> Result<Option<Hash>, Error> {
        let id = key.recording;
        let known = |recording: &Recording| recording.inits.contains(&init);
        if self.read().recordings.get(&id).is_some_and(known) {
            return Ok(None);
        }
        let missing = Error::InitMissing { key, init };
        let bytes = self.inits.wait_for(sender, init).await.ok_or(missing)?;
        let name = archive::init_path(id, init);
        let enter = |recording: &mut Recording| recording.inits.insert(init);
        let is_new = self.create(id, &name, bytes, enter).await?;
        Ok(is_new.then_some(init))
    }

    /// Makes a whole segment of `sender` durable, its hash already checked against `hash`, after its
    /// init, and says what is durable now. Nothing is stored of a recording of another box.
    pub async fn keep_segment(
        &self,
        sender: BoxId,
        header: &SegmentHeader,
        bytes: Bytes,
        hash: Hash,
    ) -> Result<Kept, Error> {
        let key = header.key;
        let read = catalog::read_segment(&bytes, hash)
            .map_err(|source| Error::Malformed { key, source })?;
        if read.provenance.key != key || read.provenance.init != header.init {
            return Err(Error::OtherName(key));
        }
        self.claim(sender, key.recording, key.track, &read.facts)?;
        self.claim_span(&read.provenance)?;
        let init = match header.init {
            Some(init) => self.keep_init(sender, key, init).await?,
            None => None,
        };
        let name = archive::segment_path(&key);
        let enter = |recording: &mut Recording| {
            let target = playlist::target_seconds(recording);
            if playlist::is_too_long(&read.stored, target) {
                log::warn!(
                    "segment {key} lasts {} units of 1/{} s: longer than the playlist promises \
                     ({target} s); check the box's segment length",
                    read.stored.duration,
                    read.stored.timescale.get(),
                );
            }
            recording.insert(key.sequence, key.track, read.stored, read.facts);
            recording.durable(key.track)
        };
        let durable = self.create(key.recording, &name, bytes, enter).await?;
        let complete = self.complete(key.recording).await?;
        Ok(Kept {
            durable,
            hash,
            init,
            complete,
        })
    }

    /// Lets only one box write a recording: the one its facts name, else the first that sent.
    fn claim(
        &self,
        sender: BoxId,
        id: RecordingId,
        track: TrackId,
        facts: &[Fact],
    ) -> Result<(), Error> {
        let named = facts.iter().find_map(|fact| match fact.event {
            Event::Started { box_id, .. } => Some(box_id),
            _ => None,
        });
        let mut catalog = self.write();
        if catalog.erased.contains_key(&id) {
            return Err(Error::Erased(id));
        }
        let recording = catalog.recordings.entry(id).or_default();
        let owner = *recording.sender.get_or_insert(sender);
        let owner = recording.owner().unwrap_or(owner);
        if owner != sender || named.is_some_and(|named| named != sender) {
            return Err(Error::OtherBox(id));
        }
        let tracks = &recording.segments;
        if !tracks.contains_key(&track) && tracks.len() >= MAX_TRACKS {
            return Err(Error::TooManyTracks(id));
        }
        Ok(())
    }

    /// Lets only one run of a box's process write a span: two machines that began from copies of one
    /// card go on under the same numbers, but never under the same epoch.
    fn claim_span(&self, from: &Provenance) -> Result<(), Error> {
        let mut catalog = self.write();
        let recording = catalog.recordings.entry(from.key.recording).or_default();
        match recording.claim_span(from.span, from.epoch) {
            true => Ok(()),
            false => Err(Error::OtherRun(from.key, from.span)),
        }
    }

    /// Makes a LOST range durable; whether the recording is complete now.
    pub async fn keep_lost(
        &self,
        sender: BoxId,
        id: RecordingId,
        range: LostRange,
        reason: LostReason,
    ) -> Result<bool, Error> {
        if range.last < range.first || range.last > LAST_SEQUENCE {
            return Err(Error::NoSuchRange(id, range));
        }
        // It may be the first that is heard of a recording made while the box was away.
        self.claim(sender, id, range.track, &[])?;
        let name = archive::lost_path(id, &range, manifest::lost_reason(reason));
        self.archive.create_record(&name, Bytes::new()).await?;
        let enter = |recording: &mut Recording| recording.insert_lost(range, reason);
        self.enter(id, &name, enter).await?;
        self.complete(id).await
    }

    /// Writes the manifest once nothing is missing; whether the recording is complete.
    async fn complete(&self, id: RecordingId) -> Result<bool, Error> {
        let manifest = {
            let catalog = self.read();
            let Some(recording) = catalog.recordings.get(&id) else {
                return Ok(false);
            };
            if recording.complete {
                return Ok(true);
            }
            match recording.missing() {
                None => {}
                Some(catalog::Missing::Root(track)) => {
                    log::error!(
                        "recording {id}: track {track} is here in full, but its hashes are not those \
                         that the box states; it is kept as it is and stays incomplete"
                    );
                    return Ok(false);
                }
                Some(_) => return Ok(false),
            }
            Manifest::of(id, recording)
        };
        let json = match manifest.to_json() {
            Ok(json) => json,
            Err(e) => {
                log::error!("recording {id}: its manifest cannot be written: {e}");
                return Ok(false);
            }
        };
        let name = archive::manifest_path(id);
        match self.archive.create_record(&name, Bytes::from(json)).await {
            Ok(()) => {}
            // Written by another session a moment ago, or by a later release: it stays.
            Err(e @ archive::Error::Conflict { .. }) => log::error!("{e}; the archived one stays"),
            Err(e) => return Err(e.into()),
        }
        let enter = |recording: &mut Recording| {
            if !std::mem::replace(&mut recording.complete, true) {
                log::info!("recording {id} is complete");
            }
        };
        self.enter(id, &name, enter).await?;
        Ok(true)
    }

    /// Looks for what other receivers have stored or erased of these recordings.
    pub async fn refresh(&self, ids: &[RecordingId]) -> Result<(), Error> {
        if self.archive.is_shared() {
            self.look_for_erased().await?;
            for id in ids {
                self.refresh_one(*id).await?;
            }
        }
        Ok(())
    }

    async fn refresh_one(&self, id: RecordingId) -> Result<(), Error> {
        let _one_at_a_time = self.refreshing.lock().await;
        let known = self.read().recordings.get(&id).cloned().unwrap_or_default();
        if known.complete || self.refuse_erased(id).is_err() {
            return Ok(());
        }
        let Some(listing) = self.archive.list_one(id).await? else {
            return Ok(());
        };
        let found = read_recording(&self.archive, id, &listing, known).await?;
        {
            let mut catalog = self.write();
            if catalog.erased.contains_key(&id) {
                return Ok(());
            }
            catalog.recordings.entry(id).or_default().merge(found);
        }
        self.complete(id).await?;
        Ok(())
    }

    /// Looks for what other receivers store, to show it, for as long as this one runs.
    pub async fn watch_others(&self) {
        while self.archive.is_shared() {
            clock::pause(LOOK_AROUND_EVERY).await;
            let ids = self.archive.recordings().await.unwrap_or_else(|e| {
                log::error!("looking for other receivers' recordings: {e}");
                Vec::new()
            });
            for id in ids {
                if let Err(e) = self.refresh_one(id).await {
                    log::error!("recording {id}: {e}");
                }
            }
        }
    }

    /// Which of the box's recordings are erased.
    pub fn erased_of(&self, open: &[OpenRecording]) -> Vec<RecordingId> {
        let erased = &self.read().erased;
        let ids = open.iter().map(|open| open.recording);
        ids.filter(|id| erased.contains_key(id)).collect()
    }

    /// What of the box's recordings is held, with the hashes of what lies beyond its watermarks, and
    /// which of them are complete.
    pub fn held(&self, open: &[OpenRecording]) -> (Vec<HeldRecording>, Vec<RecordingId>) {
        let catalog = self.read();
        let (mut held, mut complete) = (Vec::new(), Vec::new());
        let mut room = MAX_HASHES.1;
        for asked in open {
            let Some(recording) = catalog.recordings.get(&asked.recording) else {
                continue;
            };
            if recording.complete {
                complete.push(asked.recording);
            }
            held.push(HeldRecording {
                recording: asked.recording,
                tracks: held_tracks(recording, asked, &mut room),
            });
        }
        (held, complete)
    }
}

/// What is held of each track, with up to `room` hashes of what lies beyond the watermarks.
pub(crate) fn held_tracks(
    recording: &Recording,
    asked: &OpenRecording,
    room: &mut usize,
) -> Vec<HeldTrack> {
    let track = |(&track, segments): (&TrackId, &BTreeMap<u64, Stored>)| {
        let mut watermarks = asked.tracks.iter().filter(|known| known.track == track);
        let from = watermarks.next().map_or(0, |known| known.next);
        // The newest: what another machine sent in this one's name is among them.
        let newest = segments.range(from..).rev();
        let newest = newest.take(MAX_HASHES.0.min(*room));
        let mut hashes: Vec<_> = newest
            .map(|(&sequence, stored)| SegmentHash {
                sequence,
                hash: stored.hash,
            })
            .collect();
        hashes.reverse();
        *room -= hashes.len();
        HeldTrack {
            track,
            durable: recording.durable(track),
            hashes,
        }
    };
    recording.segments.iter().map(track).collect()
}
