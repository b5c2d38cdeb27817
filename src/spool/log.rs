//! The writer: appends, syncs by time, records acknowledgements, reads back.
//!
//! Syncing is split in three so that neither writing nor reading waits for the disk:
//! [`Spool::start_sync`] hands out a job, the job runs on a thread of its own, and
//! [`Spool::synced`] takes its result in.

use super::disk::{Disk, DiskFile};
use super::index::{Place, RecordingState};
use super::record::{FILE_HEADER, OVERHEAD, Opened, Record, file_header};
use super::{Config, Error, Recovered, Stats, recover};
use crate::media::{Hash, Monotonic, RecordingId, SegmentKey, Segmented, Sequences, TrackId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Records that may wait for a sync: half a minute of three tracks. They are held in memory.
const MOST_UNKEPT: usize = 512;
/// Bytes of a record before its body.
const BODY_AT: u64 = (OVERHEAD - 16) as u64;

/// What happened to bytes given to the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An init is written: it may be sent.
    InitWritten(Hash),
    /// A chunk is written: it may be sent.
    Written {
        /// The segment.
        key: SegmentKey,
        /// The init it needs.
        init: Option<Hash>,
        /// Where the chunk begins in the segment.
        offset: u64,
        /// Bytes of the chunk.
        length: u64,
    },
    /// The segment's first `bytes` bytes are kept.
    Kept {
        /// The segment.
        key: SegmentKey,
        /// Bytes from its beginning.
        bytes: u64,
    },
    /// Every chunk of the segment and its seal are kept: its trailer may leave.
    Sealed {
        /// The segment.
        key: SegmentKey,
        /// Its length in bytes.
        length: u64,
        /// BLAKE3 of its bytes.
        hash: Hash,
    },
}

/// What becomes true when a record is kept.
#[derive(Clone, Copy)]
enum Promise {
    Nothing,
    Kept(SegmentKey, u64),
    Sealed(SegmentKey, u64, Hash),
}

/// A record that is written and not kept. Its bytes stay in memory until then: after a failed sync
/// the page cache cannot be trusted to still hold them.
struct Unkept {
    bytes: Vec<u8>,
    promise: Promise,
}

/// A log file being written in this run.
pub(super) struct OpenFile {
    pub(super) number: u64,
    path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    length: u64,
    unkept: Vec<Unkept>,
    /// The file's directory entry is not durable yet.
    is_new: bool,
}

/// One recording: what is held, and the files open for it.
pub(super) struct Held {
    pub(super) state: RecordingState,
    pub(super) next_file: u64,
    /// The last one is written to; those before wait for their sync.
    pub(super) open: Vec<OpenFile>,
    hashers: BTreeMap<(TrackId, u64), blake3::Hasher>,
    /// The first chunk of picture or sound since the recording was taken up is still to come.
    awaits_first: bool,
}

impl Held {
    pub(super) fn new(state: RecordingState, next_file: u64) -> Self {
        Self {
            state,
            next_file,
            open: Vec::new(),
            hashers: BTreeMap::new(),
            awaits_first: false,
        }
    }
}

/// Files to sync. Run it on a thread that may wait for the disk.
pub struct SyncJob {
    disk: Arc<dyn Disk>,
    files: Vec<SyncFile>,
}

struct SyncFile {
    recording: RecordingId,
    number: u64,
    file: Arc<dyn DiskFile>,
    /// Directories that name a new file, innermost first.
    directories: Vec<PathBuf>,
    /// Records that were written when the job was made.
    records: usize,
}

/// How a [`SyncJob`] ended.
pub struct SyncResult(Vec<(SyncFile, std::io::Result<()>)>);

impl SyncJob {
    /// Syncs: each file, then the directories that name it.
    pub fn run(self) -> SyncResult {
        let sync = |file: &SyncFile| {
            file.file.sync()?;
            file.directories
                .iter()
                .try_for_each(|directory| self.disk.sync_directory(directory))
        };
        SyncResult(
            self.files
                .into_iter()
                .map(|file| {
                    let result = sync(&file);
                    (file, result)
                })
                .collect(),
        )
    }
}

/// The durable queue.
pub struct Spool {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) config: Config,
    pub(super) recordings: BTreeMap<RecordingId, Held>,
    syncing: bool,
    last_sync: Option<Monotonic>,
    /// A recording's first chunk or its end waits: sync without waiting for the interval.
    urgent: bool,
    stats: Stats,
}

impl Spool {
    /// Opens the spool and recovers what an earlier run left, per recording.
    pub fn open(disk: Arc<dyn Disk>, config: Config) -> Result<(Self, Vec<Recovered>), Error> {
        let mut spool = Self {
            disk,
            config,
            recordings: BTreeMap::new(),
            syncing: false,
            last_sync: None,
            urgent: false,
            stats: Stats::default(),
        };
        let recovered = recover::recover(&mut spool)?;
        Ok((spool, recovered))
    }

    /// Takes a recording up, new or after a restart. Give its next sequence numbers to the segmenter.
    pub fn begin(
        &mut self,
        recording: RecordingId,
        opened: Opened,
    ) -> Result<&RecordingState, Error> {
        self.recordings
            .entry(recording)
            .or_insert_with(|| Held::new(RecordingState::default(), 0));
        self.write(recording, &Record::Opened(opened), Promise::Nothing)?;
        let held = self.held(recording)?;
        held.awaits_first = true;
        Ok(&held.state)
    }

    /// Appends what the segmenter gave; the notice, if any, says what may be sent.
    pub fn append(
        &mut self,
        recording: RecordingId,
        given: &Segmented,
    ) -> Result<Option<Notice>, Error> {
        match given {
            Segmented::Init(init) => {
                let record = Record::Init {
                    track: init.track,
                    hash: init.hash,
                    bytes: &init.bytes,
                };
                self.write(recording, &record, Promise::Nothing)?;
                Ok(Some(Notice::InitWritten(init.hash)))
            }
            Segmented::Chunk(chunk) => {
                let SegmentKey {
                    track, sequence, ..
                } = chunk.key;
                let held = self.held(recording)?;
                let known = held
                    .state
                    .tracks
                    .get(&track)
                    .and_then(|track| track.segments.get(&sequence));
                let (chunks, offset, sealed) = known.map_or((0, 0, false), |known| {
                    (known.chunks.len(), known.length, known.seal.is_some())
                });
                if chunks != chunk.index as usize || sealed {
                    return Err(Error::OutOfOrder {
                        key: chunk.key,
                        index: chunk.index,
                    });
                }
                let length = chunk.bytes.len() as u64;
                let record = Record::Chunk {
                    track,
                    sequence,
                    index: chunk.index,
                    init: chunk.init,
                    bytes: &chunk.bytes,
                };
                self.write(
                    recording,
                    &record,
                    Promise::Kept(chunk.key, offset + length),
                )?;
                self.held(recording)?
                    .hashers
                    .entry((track, sequence))
                    .or_default()
                    .update(&chunk.bytes);
                if track != TrackId::EVENTS
                    && std::mem::take(&mut self.held(recording)?.awaits_first)
                {
                    self.urgent = true;
                }
                self.stats.chunks += 1;
                self.stats.bytes += length;
                Ok(Some(Notice::Written {
                    key: chunk.key,
                    init: chunk.init,
                    offset,
                    length,
                }))
            }
            Segmented::Seal(key) => {
                let hasher = self
                    .held(recording)?
                    .hashers
                    .remove(&(key.track, key.sequence));
                let hash = Hash(*hasher.unwrap_or_default().finalize().as_bytes());
                self.seal(*key, hash)?;
                Ok(None)
            }
        }
    }

    /// Records that the receiver holds these segments durably.
    pub fn acknowledge(
        &mut self,
        recording: RecordingId,
        track: TrackId,
        durable: &Sequences,
    ) -> Result<(), Error> {
        let known = self.held(recording)?.state.tracks.get(&track);
        let is_new = known.is_some_and(|known| {
            let mut merged = known.acknowledged.clone();
            merged.merge(durable);
            merged != known.acknowledged
        });
        if is_new {
            self.write(
                recording,
                &Record::Durable {
                    track,
                    durable: durable.clone(),
                },
                Promise::Nothing,
            )?;
        }
        Ok(())
    }

    /// Records that the recording's `End` fact was appended: it is not taken up again. Somebody waits
    /// for it, so the next sync is due at once.
    pub fn end(&mut self, recording: RecordingId) -> Result<(), Error> {
        self.write(recording, &Record::Ended, Promise::Nothing)?;
        self.urgent = true;
        Ok(())
    }

    /// Records that the receiver has the recording whole.
    pub fn complete(&mut self, recording: RecordingId) -> Result<(), Error> {
        if self.held(recording)?.state.complete {
            return Ok(());
        }
        self.write(recording, &Record::Complete, Promise::Nothing)
    }

    /// When the next sync is wanted; `None` while nothing waits or one is running.
    pub fn sync_at(&self) -> Option<Monotonic> {
        let waits = self
            .recordings
            .values()
            .flat_map(|held| &held.open)
            .any(|file| !file.unkept.is_empty());
        (waits && !self.syncing).then(|| match self.last_sync {
            Some(last) if !self.urgent => last.plus(self.config.sync_interval),
            _ => Monotonic::default(),
        })
    }

    /// The sync that is due at `now`, if any. Its result must come back through [`Spool::synced`].
    pub fn start_sync(&mut self, now: Monotonic) -> Option<SyncJob> {
        if self.sync_at().is_none_or(|due| due > now) {
            return None;
        }
        (self.syncing, self.urgent, self.last_sync) = (true, false, Some(now));
        let mut files = Vec::new();
        for (&recording, held) in &self.recordings {
            for file in held.open.iter().filter(|file| !file.unkept.is_empty()) {
                let directory = self.config.directory.join(recording.to_string());
                let directories = if file.is_new {
                    vec![directory, self.config.directory.clone()]
                } else {
                    Vec::new()
                };
                files.push(SyncFile {
                    recording,
                    number: file.number,
                    file: file.file.clone(),
                    directories,
                    records: file.unkept.len(),
                });
            }
        }
        Some(SyncJob {
            disk: self.disk.clone(),
            files,
        })
    }

    /// Takes a sync's result in: what is kept now. After a failure what was not kept is written
    /// again into a new file (invariant 3).
    pub fn synced(&mut self, result: SyncResult) -> (Vec<Notice>, Result<(), Error>) {
        self.syncing = false;
        let mut notices = Vec::new();
        let mut outcome = Ok(());
        for (job, result) in result.0 {
            let Some(held) = self.recordings.get_mut(&job.recording) else {
                continue;
            };
            let Some(at) = held.open.iter().position(|file| file.number == job.number) else {
                continue;
            };
            match result {
                Ok(()) => {
                    let file = &mut held.open[at];
                    file.is_new = false;
                    let kept: Vec<Promise> = file
                        .unkept
                        .drain(..job.records)
                        .map(|record| record.promise)
                        .collect();
                    if file.unkept.is_empty() && at + 1 < held.open.len() {
                        held.open.remove(at);
                    }
                    notices.extend(kept.into_iter().filter_map(|promise| held.keep(promise)));
                    self.stats.syncs += 1;
                }
                Err(error) => outcome = outcome.and(self.write_again(job.recording, at, &error)),
            }
        }
        (notices, outcome)
    }

    /// Gives up the file at `at` among a recording's open ones, whose sync failed, and writes what it
    /// held unkept into a new one; what follows it too, because recovery takes the chunks of a segment
    /// in the order of the files.
    fn write_again(
        &mut self,
        recording: RecordingId,
        at: usize,
        error: &std::io::Error,
    ) -> Result<(), Error> {
        let broken: Vec<OpenFile> = self.held(recording)?.open.drain(at..).collect();
        let path = broken[0].path.display().to_string();
        let unkept: Vec<Unkept> = broken.into_iter().flat_map(|file| file.unkept).collect();
        self.stats.sync_failures += 1;
        ::log::error!(
            "{path}: fdatasync failed: {error}; writing {} records again into a new file; check the disk (dmesg)",
            unkept.len()
        );
        self.open_file(recording)?;
        for record in unkept {
            self.write_bytes(recording, record.bytes, record.promise)?;
        }
        Ok(())
    }

    /// The recordings held, each with its state.
    pub fn recordings(&self) -> impl Iterator<Item = (RecordingId, &RecordingState)> {
        self.recordings.iter().map(|(id, held)| (*id, &held.state))
    }

    /// One recording's state.
    pub fn state(&self, recording: RecordingId) -> Option<&RecordingState> {
        self.recordings.get(&recording).map(|held| &held.state)
    }

    /// What was done since the spool was opened.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    pub(super) fn seal(&mut self, key: SegmentKey, hash: Hash) -> Result<(), Error> {
        let SegmentKey {
            recording,
            track,
            sequence,
        } = key;
        let held = self.held(recording)?;
        let segment = held
            .state
            .tracks
            .get(&track)
            .and_then(|track| track.segments.get(&sequence));
        let length = segment.map_or(0, |segment| segment.length);
        let record = Record::Seal {
            track,
            sequence,
            length,
            hash,
        };
        self.write(recording, &record, Promise::Sealed(key, length, hash))
    }

    fn held(&mut self, recording: RecordingId) -> Result<&mut Held, Error> {
        self.recordings.get_mut(&recording).ok_or(Error::NotHeld {
            key: SegmentKey {
                recording,
                track: TrackId::EVENTS,
                sequence: 0,
            },
            offset: 0,
            length: 0,
        })
    }

    fn write(
        &mut self,
        recording: RecordingId,
        record: &Record<'_>,
        promise: Promise,
    ) -> Result<(), Error> {
        self.write_bytes(recording, record.encode(), promise)
    }

    fn write_bytes(
        &mut self,
        recording: RecordingId,
        bytes: Vec<u8>,
        promise: Promise,
    ) -> Result<(), Error> {
        let file_bytes = self.config.file_bytes;
        let full = self
            .held(recording)?
            .open
            .last()
            .is_none_or(|file| file.length >= file_bytes);
        if full {
            self.open_file(recording)?;
        }
        let held = self.held(recording)?;
        let waiting: usize = held.open.iter().map(|file| file.unkept.len()).sum();
        let Some(file) = held.open.last_mut() else {
            return Ok(());
        };
        if waiting > MOST_UNKEPT {
            let hangs = std::io::Error::new(std::io::ErrorKind::TimedOut, "the disk hangs");
            return Err(Error::disk(&file.path, "waiting for a sync to end", hangs));
        }
        // A write that fails half way leaves a torn record; the next one is written over it.
        file.file
            .write_at(&bytes, file.length)
            .map_err(|error| Error::disk(&file.path, "writing a record", error))?;
        let place = Place {
            file: file.number,
            at: file.length + BODY_AT,
        };
        file.length += bytes.len() as u64;
        if let Ok((record, _)) = super::read_record(&bytes) {
            held.state.apply(&record, place);
        }
        file.unkept.push(Unkept { bytes, promise });
        Ok(())
    }

    fn open_file(&mut self, recording: RecordingId) -> Result<(), Error> {
        let number = self.held(recording)?.next_file;
        let path = self.log_path(recording, number);
        let directory = self.config.directory.join(recording.to_string());
        self.disk.make_directory(&directory).map_err(|error| {
            Error::disk(&directory, "creating the recording's directory", error)
        })?;
        let header = file_header(recording);
        let create = || {
            let file = self.disk.create(&path)?;
            file.write_at(&header, 0)?;
            Ok(file)
        };
        let file = create().map_err(|error| Error::disk(&path, "creating a log file", error))?;
        let held = self.held(recording)?;
        held.next_file = number + 1;
        let length = FILE_HEADER as u64;
        held.open.push(OpenFile {
            number,
            path,
            file,
            length,
            unkept: Vec::new(),
            is_new: true,
        });
        Ok(())
    }

    pub(super) fn log_path(&self, recording: RecordingId, number: u64) -> PathBuf {
        self.config
            .directory
            .join(recording.to_string())
            .join(format!("{number:08}.log"))
    }
}

impl Held {
    fn keep(&mut self, promise: Promise) -> Option<Notice> {
        match promise {
            Promise::Nothing => None,
            Promise::Kept(key, bytes) => Some(Notice::Kept { key, bytes }),
            Promise::Sealed(key, length, hash) => {
                let track = self.state.tracks.get_mut(&key.track)?;
                track.segments.get_mut(&key.sequence)?.seal_kept = true;
                Some(Notice::Sealed { key, length, hash })
            }
        }
    }
}
