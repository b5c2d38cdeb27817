//! What an earlier run left: read, resynchronised after damage, synced before it counts.
//!
//! Of a recording that is complete only the last, small file is read, which says so; of a file that
//! was finished, only its index. Nothing found here stops the start.

use super::disk::{Disk, ReadFile};
use super::index::{Place, RecordingState};
use super::log::{Spool, log_path};
use super::record::{Entry, FILE_HEADER, HEADER, Record, file_header};
use super::release::{GONE, Gone};
use super::scan::{Scan, scan, scan_index};
use super::write::{Held, find_reserve};
use super::{Error, RESERVE_FILE};
use crate::media::{Hash, LostReason, Range, RecordingId, SegmentKey, TrackId};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The last file of a complete recording is no longer than this.
const LONGEST_COMPLETE: u64 = RESERVE_FILE;

/// How often what cannot be synced is copied into a file that can.
const COPIES: u32 = 5;
/// Ends the name of such a copy until it is synced.
const COPY: &str = ".copy";
/// Calls of [`Spool::try_again`] before the first try, and at most between two of them: with one each
/// two seconds a minute and an hour. A failing disk takes its time to fail.
pub(super) const SOON: u32 = 30;
const LATE: u32 = 1800;

/// What recovery found of one recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The recording.
    pub recording: RecordingId,
    /// Its `End` fact is here: it is not taken up again.
    pub ended: bool,
    /// Bytes of damage between valid records.
    pub damaged_bytes: u64,
    /// Bytes after the last valid record of a file: what a power cut tore.
    pub torn_bytes: u64,
    /// Segments that cannot be given any more and are not acknowledged: track, first, last. Each is
    /// recorded as LOST.
    pub lost: Vec<(TrackId, u64, u64)>,
    /// What was LOST before, on record: track, range, reason. The rest of `lost` is so once its records
    /// are kept, which [`Notice::Lost`](super::Notice::Lost) tells.
    pub known_lost: Vec<(TrackId, Range, LostReason)>,
    /// What else is wrong, for people: files that cannot be read or belong elsewhere.
    pub problems: Vec<String>,
}

/// A file as it was found. It is open only while it is read: there may be more than a process may open.
struct Found {
    number: u64,
    path: PathBuf,
    /// It cannot be synced, or not be read past the page cache.
    refused: bool,
}

impl Found {
    /// What was written may still be only in the page cache of a process that died: it is synced. And
    /// the kernel forgets a failed sync: what the disk never took is then still in the cache, and the
    /// next sync returns well. So what counts is read past that cache, here and by any later run: it
    /// was kept for nobody, and its numbers may be used anew.
    fn prove(&mut self, disk: &dyn Disk) {
        let synced = disk.open(&self.path).and_then(|file| file.sync());
        if let Err(error) = synced.and_then(|()| disk.open_uncached(&self.path)) {
            self.refused = true;
            ::log::error!(
                "{}: not known to be on the disk: {error}; copying it",
                self.path.display()
            );
        }
    }
}

pub(super) fn recover(spool: &mut Spool) -> Result<Vec<Recovered>, Error> {
    let root = spool.config.directory.clone();
    let reading = |error| Error::disk(&root, "opening the spool", error);
    if !spool.read_only {
        spool.disk.make_directory(&root).map_err(reading)?;
        // Its own name must survive, too.
        if let Some(up) = root.parent().filter(|up| !up.as_os_str().is_empty())
            && let Err(error) = spool.disk.sync_directory(up)
        {
            ::log::error!("{}: not synced: {error}", up.display());
        }
    }
    let names = spool.disk.list(&root).map_err(reading)?;
    if !spool.read_only {
        for name in names.iter().filter(|name| name.ends_with(GONE)) {
            let (path, bytes) = (root.join(name), 0);
            spool.gone.push_back(Gone { path, bytes });
            spool.mark_owed = true;
        }
        spool.reserve = find_reserve(spool.disk.as_ref(), &root, &names);
    }
    let mut ids: Vec<RecordingId> = names.iter().filter_map(|name| name.parse().ok()).collect();
    ids.sort_unstable();
    let found = ids.into_iter().map(|id| {
        recover_recording(spool, id, spool.read_only).unwrap_or_else(|error| {
            ::log::error!("{error}; what it held is left alone");
            Recovered {
                ended: true,
                problems: vec![error.to_string()],
                ..nothing(id)
            }
        })
    });
    Ok(found.collect())
}

fn nothing(recording: RecordingId) -> Recovered {
    Recovered {
        recording,
        ended: false,
        damaged_bytes: 0,
        torn_bytes: 0,
        lost: Vec::new(),
        known_lost: Vec::new(),
        problems: Vec::new(),
    }
}

impl Spool {
    /// Reads a complete recording's logs after all, so that its segments can be given again.
    pub fn load(&mut self, recording: RecordingId) -> Result<(), Error> {
        if self.held(recording)?.shallow {
            recover_recording(self, recording, true)?;
        }
        Ok(())
    }

    /// Takes up, now and then, what could not be read or made durable when it was recovered; gives what
    /// is taken up now. It is for the receiver, and nobody goes on with it: one without an end is to be
    /// ended. Call it every few seconds.
    pub fn try_again(&mut self) -> Vec<Recovered> {
        let (left, wait) = self.again;
        self.again.0 = left.saturating_sub(1);
        // What is written and not kept is in memory only once.
        let due = |held: &Held| held.unread && held.unkept() == 0;
        let due: Vec<RecordingId> = match (left, self.read_only) {
            (0, false) => self.recordings.iter(),
            _ => return Vec::new(),
        }
        .filter(|(_, held)| due(held))
        .map(|(&id, _)| id)
        .collect();
        let wait = wait.saturating_mul(2).min(LATE);
        self.again = (wait, wait);
        let mut taken_up = Vec::new();
        for recording in due {
            match recover_recording(self, recording, false) {
                Ok(found) if self.held(recording).is_ok_and(|held| !held.unread) => {
                    taken_up.push(found);
                }
                Ok(_) => {}
                Err(error) => ::log::error!("{error}"),
            }
        }
        taken_up
    }
}

fn recover_recording(
    spool: &mut Spool,
    recording: RecordingId,
    whole: bool,
) -> Result<Recovered, Error> {
    let directory = spool.directory_of(recording);
    let reading = |error| Error::disk(&directory, "reading a recording's logs", error);
    let names = spool.disk.list(&directory).map_err(reading)?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| name.strip_suffix(".log")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let mut recovered = nothing(recording);
    let before = spool.recordings.get(&recording);
    let (used, refused) = before.map_or((0, BTreeSet::new()), |before| {
        (before.next_file, before.refused.clone())
    });
    let next_file = numbers.last().map_or(0, |last| last.saturating_add(1));
    let mut held = Held {
        next_file: next_file.max(used),
        ..Held::default()
    };
    for copy in names.iter().filter(|name| name.ends_with(COPY)) {
        if !spool.read_only {
            // One that stays says nothing.
            let _ = spool.disk.remove(&directory.join(copy));
        }
    }
    let mut files = Vec::new();
    for number in numbers {
        let path = log_path(&directory, number);
        match spool.disk.open(&path).and_then(|file| file.length()) {
            Ok(length) => {
                held.files.insert(number, length);
                files.push(Found {
                    number,
                    path,
                    refused: refused.contains(&number),
                });
            }
            Err(error) => {
                // What is no file never held a record.
                held.unread |= error.kind() != io::ErrorKind::IsADirectory;
                recovered
                    .problems
                    .push(format!("{}: not read: {error}", path.display()));
            }
        }
    }
    if let Some(last) = files.last_mut().filter(|_| !whole) {
        // One that failed once is not believed.
        if !last.refused {
            last.prove(spool.disk.as_ref());
        }
        if is_complete(spool.disk.as_ref(), last, recording, &mut held) {
            let named = sync_names(spool, recording);
            held.completed = !last.refused && named.is_ok();
            held.shallow = true;
            recovered.ended = true;
            spool.recordings.insert(recording, held);
            return Ok(recovered);
        }
    }
    if let Some((_, earlier)) = files.split_last_mut().filter(|_| !whole) {
        for found in earlier.iter_mut().filter(|found| !found.refused) {
            found.prove(spool.disk.as_ref());
        }
    }
    for found in &files {
        let path = &found.path;
        let of = (found.number, path.as_path());
        match take_in(spool.disk.as_ref(), of, recording, &mut held.state) {
            Ok(scan) if scan.foreign => {
                recovered
                    .problems
                    .push(format!("{}: belongs to another recording", path.display()));
            }
            Ok(scan) => {
                recovered.damaged_bytes += scan.damaged.iter().map(|(_, bytes)| bytes).sum::<u64>();
                recovered.torn_bytes += scan.torn;
                if scan.unread && scan.records == 0 {
                    held.unread = true;
                    recovered.problems.push(format!(
                        "{}: not read: the disk gives nothing",
                        path.display()
                    ));
                }
            }
            Err(error) => {
                held.unread |= error.kind() != io::ErrorKind::IsADirectory;
                recovered
                    .problems
                    .push(format!("{}: not read: {error}", path.display()));
            }
        }
    }
    let mut synced = !files.iter().any(|found| found.refused);
    if !spool.read_only && !held.state.complete {
        let durable = make_durable(spool, recording, &files, &mut held);
        synced = durable.is_ok();
        if let Err(error) = durable {
            recovered.problems.push(error.to_string());
            held.unread = true;
            let refused = files.iter().filter(|found| found.refused);
            held.refused = refused.map(|found| found.number).collect();
        }
    }
    held.completed = held.state.complete && synced;
    for track in held.state.tracks.values_mut() {
        if synced {
            track.recorded = track.acknowledged.clone();
        }
        for segment in track.segments.values_mut() {
            segment.seal_kept = synced && segment.is_whole();
        }
    }
    let unread = held.unread && !spool.read_only;
    if unread {
        // Nothing is known of the numbers that were used: no run goes on with it, and nothing is LOST.
        // A later try or the next start may do what this one could not.
        held.state.ended = true;
        recovered
            .problems
            .push(format!("{}: left for a later try", directory.display()));
    }
    recovered.ended = held.state.ended;
    if synced {
        recovered.known_lost = held.state.lost().collect();
    }
    spool.recordings.insert(recording, held);
    // What is not on the disk for good must not be sealed: its trailer would leave.
    if synced && !unread && !spool.state(recording).is_some_and(|state| state.complete) {
        settle_what_is_cut(spool, recording, &mut recovered.problems);
    }
    let lost = spool
        .state(recording)
        .into_iter()
        .flat_map(RecordingState::lost);
    recovered.lost = lost
        .map(|(track, range, _)| (track, range.first, range.last))
        .collect();
    Ok(recovered)
}

/// Whether the last file says that the recording is complete; then the state says no more than that,
/// and what the receiver holds.
fn is_complete(disk: &dyn Disk, last: &Found, recording: RecordingId, held: &mut Held) -> bool {
    if held
        .files
        .get(&last.number)
        .is_none_or(|length| *length > LONGEST_COMPLETE)
    {
        return false;
    }
    let mut state = RecordingState::default();
    let of = (last.number, last.path.as_path());
    let read = take_in(disk, of, recording, &mut state);
    let says_so = read.is_ok() && state.complete;
    if says_so {
        state.ended = true;
        held.state = state;
        held.make_shallow();
    }
    says_so
}

/// What the disk has of a file, or where there is no way to ask that, what memory has.
fn open(disk: &dyn Disk, path: &Path) -> io::Result<Arc<dyn ReadFile>> {
    match disk.open_uncached(path) {
        Ok(file) => Ok(file),
        Err(_) => Ok(disk.open(path)?),
    }
}

/// Applies what a file says: from its index, or from every valid record.
fn take_in(
    disk: &dyn Disk,
    (number, path): (u64, &Path),
    recording: RecordingId,
    state: &mut RecordingState,
) -> io::Result<Scan> {
    let file = open(disk, path)?;
    let place = |at: u64| Place {
        file: number,
        at: at + HEADER as u64,
    };
    let indexed = scan_index(file.as_ref(), recording, |entry, at| match entry {
        Entry::Media(Record::Init { track, hash, .. }, length) => {
            state.apply_init(track, hash, length, place(at));
        }
        Entry::Media(
            Record::Chunk {
                track,
                sequence,
                index,
                init,
                ..
            },
            length,
        ) => state.apply_chunk((track, sequence, index), init, length as u64, place(at)),
        Entry::Media(record, _) | Entry::Whole(record) => state.apply(&record, place(at)),
    });
    match indexed {
        Ok(true) => return Ok(Scan::default()),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => return Err(error),
        _ => {}
    }
    scan(file.as_ref(), recording, |record, at, _| {
        state.apply(&record, place(at));
    })
}

/// From the first file on that cannot be synced, all is copied into one new file, in order; then the
/// names are made durable (invariant 4).
fn make_durable(
    spool: &Spool,
    recording: RecordingId,
    files: &[Found],
    held: &mut Held,
) -> Result<(), Error> {
    if let Some(first) = files.iter().position(|found| found.refused) {
        let mut tries = 0;
        let (number, path) = loop {
            let number = held.next_file;
            held.next_file += 1;
            tries += 1;
            let path = log_path(&spool.directory_of(recording), number);
            match copy_records(spool.disk.as_ref(), &files[first..], recording, &path) {
                Ok(()) => break (number, path),
                Err(error) if tries < COPIES => {
                    ::log::error!("{}: {error}; copying it again", path.display());
                }
                Err(error) => {
                    return Err(Error::disk(path, "copying what cannot be synced", error));
                }
            }
        };
        let disk = spool.disk.as_ref();
        let taken_in = take_in(disk, (number, &path), recording, &mut held.state);
        let length = taken_in.and_then(|_| disk.open(&path)?.length());
        let length = length.map_err(|error| Error::disk(&path, "reading a copy", error))?;
        held.files.insert(number, length);
    }
    sync_names(spool, recording)
}

fn sync_names(spool: &Spool, recording: RecordingId) -> Result<(), Error> {
    for named in [&spool.directory_of(recording), &spool.config.directory] {
        let synced = spool.disk.sync_directory(named);
        synced.map_err(|error| Error::disk(named, "syncing what was recovered", error))?;
    }
    Ok(())
}

/// Copies the records of these files into one called `path`. It has that name only once all of it is
/// synced: a part of it, behind the others, would take back what they say last.
fn copy_records(
    disk: &dyn Disk,
    files: &[Found],
    recording: RecordingId,
    path: &Path,
) -> io::Result<()> {
    let hidden = path.with_extension(&COPY[1..]);
    let copy = || {
        let copy = disk.create(&hidden)?;
        copy.write_at(&file_header(recording), 0)?;
        let (mut at, mut written) = (FILE_HEADER as u64, Ok(()));
        for found in files {
            scan(
                open(disk, &found.path)?.as_ref(),
                recording,
                |record, _, size| {
                    // It told of another file.
                    if written.is_ok() && !matches!(record, Record::Index(_)) {
                        written = copy.write_at(&record.encode(), at);
                        at += size as u64;
                    }
                },
            )?;
        }
        written?;
        copy.sync()?;
        disk.rename(&hidden, path)
    };
    copy().inspect_err(|_| {
        // One that stays says nothing.
        let _ = disk.remove(&hidden);
    })
}

/// Records as LOST what cannot be given any more, and seals each segment that a crash or damage cut
/// short at its last kept chunk (invariant 1). What the `End` fact speaks of is not sealed anew: its
/// root names the hash that it had, so that damage to it is LOST. What cannot be written now, on a full
/// or read-only disk, is true in memory, and found again by the next recovery.
fn settle_what_is_cut(spool: &mut Spool, recording: RecordingId, problems: &mut Vec<String>) {
    let Some(state) = spool.state(recording) else {
        return;
    };
    let ended = state.ended;
    let missing: Vec<_> = state
        .tracks
        .iter()
        .flat_map(|(&track, held)| {
            held.missing(ended)
                .into_iter()
                .map(move |range| (track, range))
        })
        .collect();
    for (track, range) in missing {
        let reason = LostReason::Damaged;
        let written = if spool.read_only {
            Ok(false)
        } else {
            spool.lose(recording, track, range, reason).map(|()| true)
        };
        settle(spool, recording, written, problems, |state| {
            let record = Record::Lost {
                track,
                range,
                reason,
            };
            state.apply(&record, Place { file: 0, at: 0 });
        });
    }
    let mut cut = Vec::new();
    for (&track, held) in spool
        .state(recording)
        .iter()
        .flat_map(|state| &state.tracks)
    {
        for (sequence, segment) in held.waiting().filter(|(_, segment)| !segment.is_whole()) {
            let key = SegmentKey {
                recording,
                track,
                sequence,
            };
            cut.push((key, segment.length));
        }
    }
    for (key, length) in cut {
        let (track, sequence) = (key.track, key.sequence);
        let hash = match spool.read(key, 0, length) {
            Ok(bytes) => Hash(*blake3::hash(&bytes).as_bytes()),
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        let written = if spool.read_only {
            Ok(false)
        } else {
            spool.seal(key, hash).map(|()| true)
        };
        settle(spool, recording, written, problems, |state| {
            let record = Record::Seal {
                track,
                sequence,
                length,
                hash,
            };
            state.apply(&record, Place { file: 0, at: 0 });
        });
    }
}

/// What a record that was not written would have said is true in memory.
fn settle(
    spool: &mut Spool,
    recording: RecordingId,
    written: Result<bool, Error>,
    problems: &mut Vec<String>,
    apply: impl FnOnce(&mut RecordingState),
) {
    let written = written.unwrap_or_else(|error| {
        problems.push(error.to_string());
        false
    });
    if !written && let Some(held) = spool.recordings.get_mut(&recording) {
        apply(&mut held.state);
    }
}
