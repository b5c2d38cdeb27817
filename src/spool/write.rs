//! How a record reaches a file: a new file when one is full or refuses, the reserve when the disk is full.

use super::disk::{Disk, DiskFile};
use super::index::{Place, RecordingState};
use super::log::{Notice, Spool};
use super::record::{FILE_HEADER, HEADER, Record, add_to_index, file_header, read_record};
use super::{Error, RESERVE_FILE};
use crate::media::{Chunk, Hash, LostReason, Range, RecordingId, SegmentKey, Sequences, TrackId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Records that may wait for a sync, without those of LOST: half a minute of three tracks. They are
/// held in memory.
const MOST_UNKEPT: usize = 512;
/// The bytes of all: a record may have several MiB.
const MOST_UNKEPT_BYTES: usize = 32 << 20;

/// What a record may use when the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// Sound, pictures, and what begins them: only what is free.
    Bulk,
    /// Facts, seals, acknowledgements, LOST, the end: the reserve too.
    Essential,
}

/// What becomes true when a record is kept.
#[derive(Clone)]
pub(super) enum Promise {
    Nothing,
    Kept(SegmentKey, u64),
    Sealed(SegmentKey, u64, Hash),
    Ended(SegmentKey, u64, Hash),
    Acknowledged(TrackId, Sequences),
    Forgot(TrackId, Sequences, Vec<Range>),
    Lost(TrackId, Range, LostReason),
    Complete,
    /// All facts of the recording are restated: these files may go.
    Freed(Vec<u64>),
}

/// A record that is written and not kept. Its bytes stay in memory until then: after a failed sync
/// the page cache cannot be trusted to still hold them.
pub(super) struct Unkept {
    pub(super) bytes: Vec<u8>,
    pub(super) promise: Promise,
}

/// A log file being written in this run.
pub(super) struct OpenFile {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) length: u64,
    pub(super) unkept: Vec<Unkept>,
    /// The file's directory entry is not durable yet.
    pub(super) is_new: bool,
    /// What its index will say, unless it is a file of the reserve, which has no room for one.
    index: Option<Vec<u8>>,
}

/// One recording: what is held, and the files open for it.
#[derive(Default)]
pub(super) struct Held {
    pub(super) state: RecordingState,
    /// Its files and their lengths.
    pub(super) files: BTreeMap<u64, u64>,
    pub(super) next_file: u64,
    /// The last one is written to; those before wait for their sync.
    pub(super) open: Vec<OpenFile>,
    /// The next record goes into a new file.
    pub(super) roll: bool,
    /// Records whose file was given up and that no other file has taken so far, in order.
    pub(super) owed: Vec<Unkept>,
    pub(super) hashers: BTreeMap<(TrackId, u64), blake3::Hasher>,
    /// The first chunk of picture or sound since the recording was taken up is still to come.
    pub(super) awaits_first: bool,
    /// The end that waits, and how many records before it are not kept.
    pub(super) ending: Option<(Chunk, usize)>,
    /// That it is complete is kept.
    pub(super) completed: bool,
    /// Its segments are not in memory: it is complete.
    pub(super) shallow: bool,
    /// One of its files could not be read, or not be made durable: what is missing may be there.
    /// Nothing of it is sealed, LOST or freed, and nobody goes on with it, until that is settled.
    pub(super) unread: bool,
    /// Files whose sync failed and that could not be copied.
    pub(super) refused: BTreeSet<u64>,
    /// Files that stay, because what they say cannot be restated.
    pub(super) bad: BTreeSet<u64>,
    /// That something of it should leave and cannot was said.
    pub(super) stays: bool,
    /// Files that go once the restated facts are kept.
    pub(super) freeing: bool,
}

impl Held {
    /// Records that are written, or owed, and not kept.
    pub(super) fn unkept(&self) -> usize {
        let written: usize = self.open.iter().map(|file| file.unkept.len()).sum();
        written + self.owed.len()
    }

    /// More waits for a sync than a disk that works would leave.
    pub(super) fn hangs(&self) -> bool {
        let written = self.open.iter().flat_map(|file| &file.unkept);
        let (mut records, mut bytes) = (0, 0);
        for one in written.chain(&self.owed) {
            records += usize::from(!matches!(one.promise, Promise::Lost(..)));
            bytes += one.bytes.len();
        }
        records > MOST_UNKEPT || bytes > MOST_UNKEPT_BYTES
    }

    /// Owes that segments are LOST, which is so from now on. Segment by segment it is one record.
    pub(super) fn owe_lost(&mut self, track: TrackId, mut range: Range, reason: LostReason) {
        let continued = self.owed.pop_if(|owed| {
            matches!(owed.promise, Promise::Lost(of, before, why)
                if (of, why) == (track, reason) && before.last.checked_add(1) == Some(range.first))
        });
        if let Some(Promise::Lost(_, before, _)) = continued.map(|owed| owed.promise) {
            range.first = before.first;
        }
        let record = Record::Lost {
            track,
            range,
            reason,
        };
        self.owe(&record, Promise::Lost(track, range, reason));
    }

    /// Owes a record without a body: what it says is so from now on, and kept once it is written.
    pub(super) fn owe(&mut self, record: &Record<'_>, promise: Promise) {
        self.state.apply(record, Place { file: 0, at: 0 });
        self.owed.push(Unkept {
            bytes: record.encode(),
            promise,
        });
    }

    /// Bytes of its files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().sum()
    }

    /// What is true now that a record is kept.
    pub(super) fn keep(
        &mut self,
        recording: RecordingId,
        promise: Promise,
        tell: &mut dyn FnMut(Notice),
    ) {
        if let Some((_, before)) = &mut self.ending {
            *before = before.saturating_sub(1);
        }
        let mut lost = |track, range, reason| {
            tell(Notice::Lost {
                recording,
                track,
                range,
                reason,
            });
        };
        let tracks = &mut self.state.tracks;
        match promise {
            Promise::Nothing | Promise::Freed(_) => {}
            Promise::Kept(key, bytes) => tell(Notice::Kept { key, bytes }),
            Promise::Sealed(key, length, hash) | Promise::Ended(key, length, hash) => {
                let track = tracks.get_mut(&key.track);
                if let Some(segment) = track.and_then(|of| of.segments.get_mut(&key.sequence)) {
                    segment.seal_kept = true;
                    tell(Notice::Sealed { key, length, hash });
                }
            }
            Promise::Acknowledged(track, durable) => {
                if let Some(track) = tracks.get_mut(&track) {
                    track.recorded.merge(&durable);
                }
            }
            Promise::Forgot(track, held, gone) => {
                if let Some(track) = tracks.get_mut(&track) {
                    track.recorded = held;
                }
                for range in gone {
                    lost(track, range, LostReason::ReceiverForgot);
                }
            }
            Promise::Lost(track, range, reason) => lost(track, range, reason),
            Promise::Complete => {
                if self.state.complete {
                    self.completed = true;
                    self.roll = true;
                    self.make_shallow();
                }
            }
        }
    }

    /// Drops from memory what nobody asks of a complete recording.
    pub(super) fn make_shallow(&mut self) {
        self.shallow = true;
        self.state.inits.clear();
        for track in self.state.tracks.values_mut() {
            track.segments.clear();
        }
    }
}

impl Spool {
    /// Writes a record behind all that was written before it, and takes it in.
    pub(super) fn write(
        &mut self,
        recording: RecordingId,
        record: &Record<'_>,
        promise: Promise,
        weight: Weight,
    ) -> Result<(), Error> {
        if self.read_only {
            let path = self.config.directory.clone();
            let refused = std::io::ErrorKind::ReadOnlyFilesystem.into();
            return Err(Error::disk(
                path,
                "writing into a spool that is only looked at",
                refused,
            ));
        }
        self.settle(recording, weight)?;
        let bytes = record.encode();
        let place = self.place(recording, &bytes, weight)?;
        self.take(recording, Unkept { bytes, promise }, place);
        Ok(())
    }

    /// Writes what is owed from files that were given up.
    pub(super) fn settle(&mut self, recording: RecordingId, weight: Weight) -> Result<(), Error> {
        let mut owed = std::mem::take(&mut self.held(recording)?.owed).into_iter();
        while let Some(record) = owed.next() {
            let weight = match record.promise {
                Promise::Nothing | Promise::Kept(..) => weight,
                _ => Weight::Essential,
            };
            match self.place(recording, &record.bytes, weight) {
                Ok(place) => self.take(recording, record, place),
                Err(error) => {
                    let held = self.held(recording)?;
                    held.owed.push(record);
                    held.owed.extend(owed);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Writes one record into the last open file, or a new one.
    fn place(
        &mut self,
        recording: RecordingId,
        bytes: &[u8],
        weight: Weight,
    ) -> Result<Place, Error> {
        let mut attempt = self.put(recording, bytes, weight);
        if matches!(attempt, Err(Error::Disk { .. })) && self.may_try_again(recording) {
            // One refusal costs the file, as a failed sync does.
            attempt = self.put(recording, bytes, weight);
        }
        if matches!(attempt, Err(Error::NoSpace { .. })) && weight == Weight::Essential {
            self.open_reserved(recording)?;
            attempt = self.put(recording, bytes, weight);
        }
        attempt
    }

    /// Takes in a record that is written.
    fn take(&mut self, recording: RecordingId, record: Unkept, place: Place) {
        if let Some(held) = self.recordings.get_mut(&recording) {
            if let Ok((read, _)) = read_record(&record.bytes) {
                held.state.apply(&read, place);
            }
            if let Some(file) = held.open.last_mut() {
                file.unkept.push(record);
            }
        }
    }

    fn may_try_again(&mut self, recording: RecordingId) -> bool {
        match self.recordings.get_mut(&recording) {
            Some(held) if !held.hangs() => {
                held.roll = true;
                true
            }
            _ => false,
        }
    }

    fn put(
        &mut self,
        recording: RecordingId,
        bytes: &[u8],
        weight: Weight,
    ) -> Result<Place, Error> {
        let (file_bytes, is_bulk) = (self.config.file_bytes, weight == Weight::Bulk);
        let wanted = bytes.len() as u64;
        if is_bulk && self.config.quota_bytes > 0 {
            let used: u64 = self.recordings.values().map(Held::bytes).sum();
            if used.saturating_add(wanted) > self.config.quota_bytes {
                return Err(Error::NoSpace {
                    path: self.config.directory.clone(),
                    doing: "writing a record within the spool's quota",
                });
            }
        }
        let held = self.held(recording)?;
        let full = held.roll
            || held.open.last().is_none_or(|file| match file.index {
                Some(_) => file.length >= file_bytes,
                None => is_bulk || file.length + wanted > RESERVE_FILE,
            });
        if full {
            self.open_file(recording)?;
        }
        let held = self.held(recording)?;
        let hangs = held.hangs();
        let Some(file) = held.open.last_mut() else {
            return Err(Error::NoSpace {
                path: self.config.directory.clone(),
                doing: "opening a log file",
            });
        };
        if hangs {
            let hangs = std::io::Error::new(std::io::ErrorKind::TimedOut, "the disk hangs");
            return Err(Error::disk(&file.path, "waiting for a sync to end", hangs));
        }
        // A write that fails half way leaves a torn record; the next one is written over it.
        file.file
            .write_at(bytes, file.length)
            .map_err(|error| Error::disk(&file.path, "writing a record", error))?;
        let place = Place {
            file: file.number,
            at: file.length + HEADER as u64,
        };
        file.length += wanted;
        if let Some(index) = &mut file.index {
            add_to_index(bytes, index);
        }
        let known = held.files.entry(place.file).or_default();
        *known = (*known).max(file.length);
        Ok(place)
    }

    fn open_file(&mut self, recording: RecordingId) -> Result<(), Error> {
        let (number, path) = self.next_path(recording)?;
        let directory = self.directory_of(recording);
        self.disk.make_directory(&directory).map_err(|error| {
            Error::disk(&directory, "creating the recording's directory", error)
        })?;
        let create = || -> std::io::Result<Arc<dyn DiskFile>> {
            let file = self.disk.create(&path)?;
            if let Err(error) = file.write_at(&file_header(recording), 0) {
                // An empty file says nothing; one that stays does no harm.
                let _ = self.disk.remove(&path);
                return Err(error);
            }
            Ok(file)
        };
        let file = create().map_err(|error| Error::disk(&path, "creating a log file", error))?;
        self.opened(recording, number, (path, file), Some(Vec::new()))
    }

    /// Turns a preallocated file into the recording's next log file: what is written into it needs
    /// no space.
    fn open_reserved(&mut self, recording: RecordingId) -> Result<(), Error> {
        let (number, path) = self.next_path(recording)?;
        let none = || Error::NoSpace {
            path: self.config.directory.clone(),
            doing: "writing a record beyond the reserve",
        };
        let slot = self.reserve.pop().ok_or_else(none)?;
        let reserved = reserve_path(&self.config.directory, slot);
        let take = || -> std::io::Result<Arc<dyn DiskFile>> {
            self.disk.rename(&reserved, &path)?;
            let file = self.disk.open_to_write(&path)?;
            file.write_at(&file_header(recording), 0)?;
            Ok(file)
        };
        let file = take().map_err(|error| Error::disk(&path, "taking from the reserve", error))?;
        ::log::warn!(
            "{}: the disk is full; facts go into the reserve, {} files of it are left",
            path.display(),
            self.reserve.len()
        );
        self.opened(recording, number, (path, file), None)?;
        self.held(recording)?.files.insert(number, RESERVE_FILE);
        Ok(())
    }

    /// The next file's number and path. A number is used once, whatever becomes of the file.
    fn next_path(&mut self, recording: RecordingId) -> Result<(u64, PathBuf), Error> {
        let held = self.held(recording)?;
        let number = held.next_file;
        held.next_file += 1;
        Ok((number, self.log_path(recording, number)))
    }

    fn opened(
        &mut self,
        recording: RecordingId,
        number: u64,
        (path, file): (PathBuf, Arc<dyn DiskFile>),
        index: Option<Vec<u8>>,
    ) -> Result<(), Error> {
        let held = self.held(recording)?;
        held.roll = false;
        // The one before is closed once nothing in it waits.
        let done = held.open.pop_if(|file| file.unkept.is_empty());
        if let Some(mut done) = done {
            finish(&mut done, &mut held.files);
        }
        let length = FILE_HEADER as u64;
        held.files.insert(number, length);
        held.open.push(OpenFile {
            number,
            path,
            file,
            length,
            unkept: Vec::new(),
            is_new: true,
            index,
        });
        Ok(())
    }

    /// Makes up to `most` files of the reserve anew, as far as there is space.
    pub(super) fn refill_reserve(&mut self, mut most: usize) {
        let wanted = self.config.reserve_bytes / RESERVE_FILE;
        for slot in 0..wanted {
            if most == 0 {
                return;
            }
            if self.reserve.contains(&slot) {
                continue;
            }
            most -= 1;
            let path = reserve_path(&self.config.directory, slot);
            let made = self.disk.create(&path).and_then(|file| {
                file.allocate(RESERVE_FILE)?;
                file.sync()
            });
            let taken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AlreadyExists;
            if let Err(error) = made
                && !(taken(&error) && is_reserve(self.disk.as_ref(), &path))
            {
                // The next call makes it.
                let _ = self.disk.remove(&path);
                if taken(&error) {
                    continue;
                }
                ::log::debug!("{}: not reserved: {error}", path.display());
                return;
            }
            self.reserve.push(slot);
        }
    }
}

/// Writes a file's index behind its last record, all of which are kept, so that recovery need not
/// read the rest. It may be missing or torn: then the file is read whole.
pub(super) fn finish(file: &mut OpenFile, files: &mut BTreeMap<u64, u64>) {
    let Some(mut index) = file.index.take().filter(|index| !index.is_empty()) else {
        return;
    };
    // Its length stands at its end, where a reader finds it from the file's end.
    let Ok(length) = u32::try_from(index.len() + 4) else {
        return;
    };
    index.extend(length.to_be_bytes());
    let record = Record::Index(&index).encode();
    match file.file.write_at(&record, file.length) {
        Ok(()) => {
            file.length += record.len() as u64;
            files.insert(file.number, file.length);
        }
        Err(error) => ::log::debug!("{}: no index: {error}", file.path.display()),
    }
}

/// The path of a file of the reserve.
pub(super) fn reserve_path(directory: &Path, slot: u64) -> PathBuf {
    directory.join(format!("reserve-{slot}"))
}

fn is_reserve(disk: &dyn Disk, path: &Path) -> bool {
    let file = disk.open(path);
    let length = file.and_then(|file| file.length());
    length.is_ok_and(|length| length == RESERVE_FILE)
}

/// The files of the reserve that an earlier run left whole; the others are removed.
pub(super) fn find_reserve(disk: &dyn Disk, directory: &Path, names: &[String]) -> Vec<u64> {
    let slots = names
        .iter()
        .filter_map(|name| name.strip_prefix("reserve-")?.parse().ok());
    slots
        .filter(|&slot| {
            let path = reserve_path(directory, slot);
            let whole = is_reserve(disk, &path);
            if !whole {
                let _ = disk.remove(&path);
            }
            whole
        })
        .collect()
}
