//! What leaves the spool: the acknowledged after its retention or for want of space, the erased at once.
//!
//! A recording leaves whole by getting another name (`.gone`), which is one durable step; what carries
//! that name is removed, now or by the next recovery. A file of a recording that stays leaves only
//! once every fact that is recorded in it (sequence numbers, hashes, acknowledgements, LOST, the end)
//! is restated in a later file and kept there.

use super::Error;
use super::log::Spool;
use super::record::Record;
use super::room::Level;
use super::write::{Held, Promise, Weight};
use crate::media::{Hash, RecordingId, TrackId, WallClock};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// Ends the name of a recording's directory that is being removed.
pub(super) const GONE: &str = ".gone";
/// Seals restated in one record.
const SEALS: usize = 4096;
/// Files removed at once where there is no hurry: a large one takes some milliseconds.
const SLICE: usize = 4;

/// A directory that has the name of the gone.
pub(super) struct Gone {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// What [`Spool::release`] let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// The recording.
    pub recording: RecordingId,
    /// Bytes that leave, some of them once their facts are restated and kept.
    pub bytes: u64,
    /// It is gone as a whole.
    pub whole: bool,
}

impl Held {
    /// Files of which nothing is wanted any more, each with when that was acknowledged (0: not known):
    /// every segment in them is acknowledged, on record, or LOST. The last file stays.
    fn releasable(&self) -> BTreeMap<u64, u32> {
        let last = self.files.last_key_value().map(|(number, _)| *number);
        let open: BTreeSet<u64> = self.open.iter().map(|file| file.number).collect();
        let mut files: BTreeMap<u64, u32> = self
            .files
            .keys()
            .filter(|number| {
                Some(**number) != last && !open.contains(number) && !self.bad.contains(number)
            })
            .map(|&number| (number, 1))
            .collect();
        if self.shallow || self.freeing || self.unread {
            return BTreeMap::new();
        }
        for track in self.state.tracks.values() {
            for (sequence, segment) in &track.segments {
                let (free, at) = (track.recorded.contains(*sequence), segment.acknowledged_at);
                for (place, _) in &segment.chunks {
                    if !free {
                        files.remove(&place.file);
                    } else if let Some(known) = files.get_mut(&place.file) {
                        *known = if at == 0 || *known == 0 {
                            0
                        } else {
                            at.max(*known)
                        };
                    }
                }
            }
        }
        files
    }

    /// Bytes that may leave when space is wanted.
    pub(super) fn freeable(&self) -> u64 {
        if self.completed {
            return self.bytes();
        }
        let files = self.releasable();
        files.keys().filter_map(|file| self.files.get(file)).sum()
    }
}

impl Spool {
    /// Lets go what the receiver has held durably for the retention time, as `wall` says, and for want
    /// of space more of it, oldest first (invariant 5). A clock that was never set lets nothing go by
    /// its age. Call it every few seconds: it also settles what is owed, makes the reserve whole, and
    /// removes the files of what is gone, a few at a time. What fails for one recording is logged and
    /// holds no other back.
    pub fn release(&mut self, wall: Option<WallClock>) -> Vec<Released> {
        let known = wall.filter(|wall| wall.uncertainty.is_some());
        let seconds = known.map_or(0, |wall| wall.unix_nanos / 1_000_000_000);
        self.wall = u32::try_from(seconds).unwrap_or(0);
        let ids: Vec<RecordingId> = self.recordings.keys().copied().collect();
        for &recording in &ids {
            let mut settled = self.settle(recording, Weight::Bulk);
            if self.wall > 0 {
                settled = settled.and_then(|()| self.date(recording));
            }
            if let Err(error) = settled {
                // What is freed below may make it possible; the next call tries again.
                ::log::debug!("{error}");
            }
        }
        // Complete ones first, then parts of the others; oldest first.
        let mut order: Vec<(bool, (u64, i64), RecordingId)> = self
            .recordings
            .iter()
            .map(|(&id, held)| {
                let opened = held.state.opened;
                let age = opened.map_or((0, 0), |opened| (opened.epoch, opened.wall_nanos));
                (!held.completed, age, id)
            })
            .collect();
        order.sort_unstable();
        let mut released = Vec::new();
        for &(_, _, recording) in &order {
            let outcome = self.release_aged(recording);
            released.extend(self.tell(recording, outcome));
        }
        let mut wanted = self.wanted().unwrap_or_else(|error| {
            ::log::error!("{error}");
            0
        });
        for (_, _, recording) in order {
            if wanted == 0 {
                break;
            }
            if self.recordings.contains_key(&recording) {
                let outcome = self.release_for_space(recording, wanted);
                let freed = self.tell(recording, outcome);
                wanted = wanted.saturating_sub(freed.map_or(0, |freed| freed.bytes));
                released.extend(freed);
            }
        }
        // Nobody waits long for the disk here, unless there is no room to wait in.
        let hurry = self.level >= Level::RefuseNew;
        if let Err(error) = self.sweep(if hurry { usize::MAX } else { SLICE }) {
            ::log::error!("{error}");
        }
        if self.level < Level::Degrade(super::GiveUp::BitRate) {
            self.refill_reserve(1);
        }
        released
    }

    /// What was let go. What could not is said once, and tried again by the next call.
    fn tell(
        &mut self,
        recording: RecordingId,
        outcome: Result<Option<Released>, Error>,
    ) -> Option<Released> {
        let held = self.recordings.get_mut(&recording);
        match outcome {
            Ok(released) => released,
            Err(error) => {
                if held.is_none_or(|held| !std::mem::replace(&mut held.stays, true)) {
                    ::log::error!("recording {recording} does not leave: {error}");
                }
                None
            }
        }
    }

    /// Bytes that should be freed now.
    fn wanted(&mut self) -> Result<u64, Error> {
        let room = self.room()?;
        if room.level < Level::FreeAcknowledged {
            return Ok(0);
        }
        let enough = self.config.thresholds.free_acknowledged.as_secs();
        let enough = enough
            .saturating_mul(room.rate)
            .max(self.config.thresholds.floor_bytes);
        let leaving: u64 = self.gone.iter().map(|gone| gone.bytes).sum();
        let wanted = enough.saturating_add(enough / 4);
        Ok(wanted.saturating_sub(room.free.saturating_add(leaving)))
    }

    /// Gives acknowledgements that were recorded under an unknown clock their date, now that it is
    /// known: their retention begins now.
    fn date(&mut self, recording: RecordingId) -> Result<(), Error> {
        let held = self.held(recording)?;
        if held.completed {
            if held.state.completed_at == 0 {
                self.write_complete(recording)?;
            }
            return Ok(());
        }
        let undated: Vec<TrackId> = held
            .state
            .tracks
            .iter()
            .filter(|(_, track)| {
                let mut segments = track.segments.iter();
                segments.any(|(sequence, segment)| {
                    segment.acknowledged_at == 0
                        && segment.length > 0
                        && track.recorded.contains(*sequence)
                })
            })
            .map(|(&id, _)| id)
            .collect();
        let at = self.wall;
        for track in undated {
            let state = self.held(recording)?.state.tracks.get(&track);
            let Some(durable) = state.map(|track| track.recorded.clone()) else {
                continue;
            };
            let promise = Promise::Acknowledged(track, durable.clone());
            let record = Record::Durable { track, durable, at };
            self.write(recording, &record, promise, Weight::Essential)?;
        }
        Ok(())
    }

    fn release_aged(&mut self, recording: RecordingId) -> Result<Option<Released>, Error> {
        let (wall, retention) = (self.wall, self.config.retention.as_secs());
        let aged = |at: u32| at > 0 && u64::from(wall.saturating_sub(at)) >= retention && wall > 0;
        let held = self.held(recording)?;
        if held.completed {
            if aged(held.state.completed_at) {
                return self.release_whole(recording).map(Some);
            }
            return Ok(None);
        }
        let files = held.releasable().into_iter();
        let files = files.filter(|(_, at)| aged(*at)).map(|(number, _)| number);
        let files = files.collect();
        self.release_files(recording, files)
    }

    fn release_for_space(
        &mut self,
        recording: RecordingId,
        wanted: u64,
    ) -> Result<Option<Released>, Error> {
        let held = self.held(recording)?;
        if held.completed {
            return self.release_whole(recording).map(Some);
        }
        let (mut files, mut bytes) = (Vec::new(), 0);
        for number in held.releasable().into_keys() {
            if bytes >= wanted {
                break;
            }
            bytes += held.files.get(&number).copied().unwrap_or(0);
            files.push(number);
        }
        self.release_files(recording, files)
    }

    fn release_whole(&mut self, recording: RecordingId) -> Result<Released, Error> {
        let bytes = self.held(recording)?.bytes();
        self.mark_gone(recording)?;
        self.stats.freed_bytes += bytes;
        Ok(Released {
            recording,
            bytes,
            whole: true,
        })
    }

    /// The inits in these files. A file of which one cannot be read stays: it is taken out.
    fn read_inits(
        &mut self,
        recording: RecordingId,
        files: &mut Vec<u64>,
    ) -> Vec<(Hash, TrackId, Vec<u8>)> {
        let Some(held) = self.recordings.get(&recording) else {
            return Vec::new();
        };
        let (mut read, mut failed, mut bad) = (Vec::new(), None, Vec::new());
        for (&hash, &(place, length, track)) in &held.state.inits {
            if !files.contains(&place.file) || bad.contains(&place.file) {
                continue;
            }
            match self.plan_place(recording, place, length).read() {
                Ok(bytes) => read.push((place.file, (hash, track, bytes))),
                Err(error) => {
                    bad.push(place.file);
                    failed = Some(error);
                }
            }
        }
        files.retain(|number| !bad.contains(number));
        if let (Some(error), Some(held)) = (failed, self.recordings.get_mut(&recording)) {
            // A failing disk takes its time: it is asked once.
            held.bad.extend(bad);
            self.tell(recording, Err(error));
        }
        read.retain(|(file, _)| files.contains(file));
        read.into_iter().map(|(_, init)| init).collect()
    }

    /// Restates what the recording's records say; once that is kept, `synced` removes the files.
    fn release_files(
        &mut self,
        recording: RecordingId,
        mut files: Vec<u64>,
    ) -> Result<Option<Released>, Error> {
        let inits = self.read_inits(recording, &mut files);
        let held = self.held(recording)?;
        let sizes = files.iter().filter_map(|number| held.files.get(number));
        let bytes = sizes.sum();
        if files.is_empty() {
            return Ok(None);
        }
        let state = &held.state;
        let ended = state.ended;
        let Some(opened) = state.opened else {
            return Ok(None);
        };
        let mut records = Vec::new();
        for (&track, state) in &state.tracks {
            let seals: Vec<_> = state
                .segments
                .iter()
                .filter_map(|(&sequence, segment)| {
                    let (length, hash) = segment.seal?;
                    Some((sequence, length, hash))
                })
                .collect();
            for seals in seals.chunks(SEALS) {
                let seals = seals.to_vec();
                records.push((Record::Seals { track, seals }, Promise::Nothing));
            }
            let dated = state.segments.iter().filter(|(sequence, segment)| {
                segment.length > 0 && state.recorded.contains(**sequence)
            });
            let dates = dated.map(|(_, segment)| segment.acknowledged_at);
            let at = dates.reduce(|one, other| {
                if one == 0 || other == 0 {
                    0
                } else {
                    one.max(other)
                }
            });
            let durable = state.recorded.clone();
            let promise = Promise::Acknowledged(track, durable.clone());
            let at = at.unwrap_or(0);
            records.push((Record::Durable { track, durable, at }, promise));
            for &(range, reason) in &state.lost {
                let record = Record::Lost {
                    track,
                    range,
                    reason,
                };
                records.push((record, Promise::Nothing));
            }
        }
        if ended {
            records.push((Record::Ended, Promise::Nothing));
        }
        records.push((Record::Opened(opened), Promise::Freed(files)));
        for (hash, track, bytes) in inits {
            let record = Record::Init {
                track,
                hash,
                bytes: &bytes,
            };
            self.write(recording, &record, Promise::Nothing, Weight::Essential)?;
        }
        for (record, promise) in records {
            self.write(recording, &record, promise, Weight::Essential)?;
        }
        self.held(recording)?.freeing = true;
        self.stats.freed_bytes += bytes;
        Ok(Some(Released {
            recording,
            bytes,
            whole: false,
        }))
    }

    /// Removes files whose facts are kept elsewhere. That is not synced: what comes back is removed
    /// again.
    pub(super) fn remove_files(&mut self, recording: RecordingId, files: &[u64]) {
        let Some(held) = self.recordings.get_mut(&recording) else {
            return;
        };
        held.freeing = false;
        // The receiver may have taken an acknowledgement back since.
        let free = held.releasable();
        for &number in files.iter().filter(|number| free.contains_key(number)) {
            let path = self.log_path(recording, number);
            let removed = self.disk.remove(&path);
            let Some(held) = self.recordings.get_mut(&recording) else {
                return;
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    ::log::error!("{}: not removed: {error}", path.display());
                    continue;
                }
                _ => held.files.remove(&number),
            };
            for track in held.state.tracks.values_mut() {
                for segment in track.segments.values_mut() {
                    if segment.chunks.iter().any(|(place, _)| place.file == number) {
                        segment.forget_bytes();
                    }
                }
            }
        }
    }

    /// Deletes a recording for good; stop it before, if it runs. Once this or a later call returns well,
    /// nothing of it comes back; true once its files have left too. Until then call it again.
    pub fn erase(&mut self, recording: RecordingId) -> Result<bool, Error> {
        self.erased.insert(recording);
        self.mark_gone(recording)?;
        self.sync_marks()?;
        let gone = self.gone_path(recording);
        let emptied = self
            .empty(&gone, &mut { SLICE })
            .map_err(|error| Error::disk(&gone, "removing a recording", error))?;
        if emptied {
            self.gone.retain(|known| known.path != gone);
        }
        Ok(emptied)
    }

    fn gone_path(&self, recording: RecordingId) -> PathBuf {
        self.config.directory.join(format!("{recording}{GONE}"))
    }

    /// Gives a recording the name of the gone. From then on nothing is known of it.
    fn mark_gone(&mut self, recording: RecordingId) -> Result<(), Error> {
        let directory = self.directory_of(recording);
        let path = self.gone_path(recording);
        let failed = |error| Error::disk(&directory, "marking a recording as gone", error);
        let mut renamed = self.disk.rename(&directory, &path);
        if let Err(error) = &renamed
            && matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
            )
        {
            // What has the name already goes first.
            self.sync_marks()?;
            self.empty(&path, &mut { usize::MAX }).map_err(failed)?;
            renamed = self.disk.rename(&directory, &path);
        }
        match renamed {
            // Renamed before, or nothing of it was ever written.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(()) => self.mark_owed = true,
        }
        let held = self.recordings.remove(&recording);
        if !self.gone.iter().any(|known| known.path == path) {
            let bytes = held.map_or(0, |held| held.bytes());
            self.gone.push_back(Gone { path, bytes });
        }
        Ok(())
    }

    /// Makes the names of the gone durable: before that nothing of theirs is removed.
    fn sync_marks(&mut self) -> Result<(), Error> {
        if self.mark_owed {
            let directory = &self.config.directory;
            let synced = self.disk.sync_directory(directory);
            synced.map_err(|error| Error::disk(directory, "marking a recording as gone", error))?;
            self.mark_owed = false;
        }
        Ok(())
    }

    /// Removes up to `most` files of the gone.
    fn sweep(&mut self, mut most: usize) -> Result<(), Error> {
        self.sync_marks()?;
        while let Some(gone) = self.gone.front() {
            match self.empty(&gone.path, &mut most) {
                Ok(true) => drop(self.gone.pop_front()),
                Ok(false) => break,
                Err(error) => {
                    let failed = Error::disk(&gone.path, "removing a recording", error);
                    // The others are not kept waiting.
                    self.gone.rotate_left(1);
                    return Err(failed);
                }
            }
        }
        Ok(())
    }

    /// Removes up to `most` files of a directory, and then itself: true once it is gone.
    fn empty(&self, directory: &Path, most: &mut usize) -> io::Result<bool> {
        let names = match self.disk.list(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            other => other?,
        };
        for name in names {
            if *most == 0 {
                return Ok(false);
            }
            self.disk.remove(&directory.join(name))?;
            *most -= 1;
        }
        self.disk.remove_directory(directory)?;
        Ok(true)
    }
}
