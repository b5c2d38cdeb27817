//! When records become kept.
//!
//! Syncing is split in three so that neither writing nor reading waits for the disk:
//! [`Spool::start_sync`] hands out a job, the job runs on a thread of its own, and
//! [`Spool::synced`] takes its result in.

use super::disk::{Disk, DiskFile};
use super::log::{Notice, Spool};
use super::write::{Held, OpenFile, Promise, Unkept, Weight, finish};
use super::{Error, Stats};
use crate::media::{Monotonic, RecordingId};
use std::path::PathBuf;
use std::sync::Arc;

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

impl Spool {
    /// When the next sync is wanted; `None` while nothing waits or one is running.
    pub fn sync_at(&self) -> Option<Monotonic> {
        let ends = |held: &Held| matches!(held.ending, Some((_, 0)));
        let mut held = self.recordings.values();
        let waits = held.any(|held| held.unkept() > 0 || ends(held));
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
                let directories = if file.is_new {
                    vec![self.directory_of(recording), self.config.directory.clone()]
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

    /// Takes a sync's result in: what is kept now, and an end that was written because of it. After
    /// a failure what was not kept is written again into a new file (invariant 3). What even that file
    /// refuses is an error of its recording, and owed.
    pub fn synced(&mut self, result: SyncResult) -> (Vec<Notice>, Vec<(RecordingId, Error)>) {
        self.syncing = false;
        let mut notices = Vec::new();
        let mut errors = Vec::new();
        for (job, result) in result.0 {
            let Some(held) = self.recordings.get_mut(&job.recording) else {
                continue;
            };
            let Some(at) = held.open.iter().position(|file| file.number == job.number) else {
                continue;
            };
            match result {
                Ok(()) => {
                    self.stats.syncs += 1;
                    let freed = kept(held, &job, at, &mut notices);
                    if !freed.is_empty() {
                        self.remove_files(job.recording, &freed);
                    }
                }
                Err(error) => write_again(held, at, &error, &mut self.stats),
            }
        }
        let ids: Vec<RecordingId> = self.recordings.keys().copied().collect();
        for recording in ids {
            // The end waits for all that was written before it.
            let ends = |held: &Held| held.ending.is_some();
            let weight = match self.recordings.get(&recording).is_some_and(ends) {
                true => Weight::Essential,
                false => Weight::Bulk,
            };
            let settled = self.settle(recording, weight);
            match settled.and_then(|()| self.write_end(recording)) {
                Ok(notice) => notices.extend(notice),
                // It stays owed, and what the room is worth is told by `room`.
                Err(error @ Error::NoSpace { .. }) => ::log::debug!("{error}"),
                Err(error) => errors.push((recording, error)),
            }
        }
        (notices, errors)
    }
}

/// Gives up the file at `at` among a recording's open ones, whose sync failed, and writes what it
/// held unkept into a new one; what follows it too, because recovery takes the chunks of a segment
/// in the order of the files. It is owed first, and then written like all that is owed.
fn write_again(held: &mut Held, at: usize, error: &std::io::Error, stats: &mut Stats) {
    stats.sync_failures += 1;
    let broken: Vec<OpenFile> = held.open.drain(at..).collect();
    let path = broken
        .first()
        .map_or_else(PathBuf::new, |file| file.path.clone());
    let mut unkept: Vec<Unkept> = broken.into_iter().flat_map(|file| file.unkept).collect();
    unkept.append(&mut held.owed);
    ::log::error!(
        "{}: fdatasync failed: {error}; writing {} records again into a new file; check the disk (dmesg)",
        path.display(),
        unkept.len()
    );
    (held.owed, held.roll) = (unkept, true);
}

/// What is LOST segment by segment is told as one range.
fn tell(notices: &mut Vec<Notice>, notice: Notice) {
    if let Notice::Lost {
        recording,
        track,
        range,
        reason,
    } = notice
    {
        let before = notices.iter_mut().find_map(|before| match before {
            Notice::Lost {
                recording: of,
                track: on,
                range: known,
                reason: why,
            } if (*of, *on, *why) == (recording, track, reason)
                && known.last.saturating_add(1) == range.first =>
            {
                Some(known)
            }
            _ => None,
        });
        if let Some(known) = before {
            known.last = range.last;
            return;
        }
    }
    notices.push(notice);
}

/// Takes in that a file's first records are kept; gives the files that may go now.
fn kept(held: &mut Held, job: &SyncFile, at: usize, notices: &mut Vec<Notice>) -> Vec<u64> {
    let file = &mut held.open[at];
    file.is_new = false;
    let kept: Vec<Promise> = file
        .unkept
        .drain(..job.records.min(file.unkept.len()))
        .map(|record| record.promise)
        .collect();
    let mut freed = Vec::new();
    for promise in kept {
        match &promise {
            Promise::Freed(files) => freed.extend(files),
            // Whatever is recorded later has a file of its own, and this one an index.
            Promise::Ended(..) => held.roll = true,
            _ => {}
        }
        held.keep(job.recording, promise, &mut |notice| tell(notices, notice));
    }
    let is_last = at + 1 == held.open.len();
    if held.open[at].unkept.is_empty() && (!is_last || held.roll) {
        let mut done = held.open.remove(at);
        finish(&mut done, &mut held.files);
    }
    freed
}
