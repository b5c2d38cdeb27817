//! Stage: the durable queue on the box.
//!
//! Takes what the segmenter gives ([`Segmented`](crate::media::Segmented)) and the receiver's
//! acknowledgements; gives [`Notice`]s of what is written and what is kept, and the bytes back by
//! segment and offset. It knows neither codecs nor the wire, and it is not a cache: nothing leaves
//! it without an acknowledgement that was itself recorded, or an erasure.
//!
//! The files: `log` is what is asked of the spool, `write` how records reach files, `sync` when they
//! are kept, `read` how bytes come back, `release` what leaves, `room` what is given up for want of
//! space, `recover`, `scan` and `verify` what an earlier run left, `record` the bytes, `index` the state.
//!
//! # The durability invariants
//!
//! 1. A chunk is *kept* once `fdatasync` of the file that holds it has returned. It may be sent as
//!    soon as it is written; [`Notice::Sealed`], which lets a segment's trailer leave, comes only
//!    when every chunk and the seal record are kept. A segment that a crash cut short is sealed at
//!    its last kept chunk, and the next number follows: a number that was kept is never used again.
//! 2. Sync is driven by time, never by bytes: it starts at a chunk's end, at the latest
//!    [`Config::sync_interval`] after the one before. The first chunk of a recording is synced at
//!    once. A new file is synced, then its directory, before its first chunk counts. The end of a
//!    recording is written once all before it is kept, as one record ([`Record::Final`]) that holds
//!    the `End` fact, its seal and the word that the recording is over: no crash separates them.
//! 3. A failed sync is fatal for its file: the file is closed, what it held and was not yet kept is
//!    written again, from memory and not from the page cache, into a new one, and it is counted. No
//!    descriptor is synced again after failing. A refused write costs the file, too. What no file takes
//!    now is owed, and written before anything else.
//! 4. Recovery never truncates and never appends to an old file. After damage it goes on at the next
//!    valid record; what is missing is recorded as LOST, also in a recording that has ended; what it
//!    keeps is synced, and read past the page cache (`O_DIRECT`), because a failed sync leaves there what
//!    the disk never took; where either fails it is copied, before it counts. A damaged or foreign file
//!    or directory never stops the start. A file that cannot be read or copied now is no damage: of its
//!    recording nothing is sealed, LOST or freed, and nobody goes on with it, until a later try
//!    ([`Spool::try_again`]) or the next start takes it up. A bad sector of a file that can be read
//!    elsewhere is damage to what lies in it. Damage to a segment whose recording is open cuts it like a
//!    crash; otherwise it is LOST whole. Of a complete recording only its last file is read, of a
//!    finished file only its index.
//! 5. A segment leaves only after DURABLE for it was received, recorded, and that record kept, plus
//!    [`Config::retention`]; or by an erasure. An unknown clock lets nothing go by its age. For want
//!    of space the order is: acknowledged oldest first, complete recordings before parts of others;
//!    then no new recording begins; then the running one gives up, in the order of [`GiveUp`], and
//!    sound last. What is given up, damaged, or forgotten by the receiver is a LOST record, kept
//!    before it counts ([`Notice::Lost`]); one that has no room, not even in the reserve, is owed. What
//!    is forgotten is LOST by the record that says so, so that no crash takes its reason; a segment of
//!    which one file has left is given whole or not at all. An erasure is one durable step, finished by recovery if a
//!    crash comes between: nothing reappears.
//! 6. The log of a recording is append-only and interleaves all its tracks, so that one `fdatasync`
//!    covers them; a file never holds two recordings, has at most [`Config::file_bytes`] and what the
//!    last record is longer, but for a copy (4), and is freed whole, once every fact in it is restated in a later file and
//!    kept. A preallocated reserve takes facts, LOST, seals, acknowledgements and the end when the
//!    disk or the quota is full. Every record carries its length, ids and checksum; the file carries a
//!    version and names its cipher. What a later release adds is passed over.

mod disk;
mod index;
mod log;
mod read;
mod record;
mod recover;
mod release;
mod room;
mod scan;
mod sync;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod twin;
mod verify;
mod write;

pub use disk::{Disk, DiskFile, LocalDisk, ReadFile, Space};
pub use index::{RecordingState, SegmentState, TrackState};
pub use log::{Forgotten, Notice, Spool};
pub use read::ReadPlan;
pub use record::{Opened, Record, RecordError, read_record};
pub use recover::Recovered;
pub use release::Released;
pub use room::{GiveUp, Level, Room, Thresholds};
pub use sync::{SyncJob, SyncResult};
pub use verify::{Finding, Verified};

use std::path::PathBuf;
use std::time::Duration;

/// Bytes of one file of the reserve.
const RESERVE_FILE: u64 = 1 << 20;

/// Where the spool is, how often it syncs, and how much it may hold for how long.
#[derive(Clone, Debug)]
pub struct Config {
    /// The spool's directory: one sub-directory per recording.
    pub directory: PathBuf,
    /// The longest time between two syncs while something waits; 500 ms leaves half of the promised
    /// second to the pipeline and the disk.
    pub sync_interval: Duration,
    /// A log file is followed by the next one beyond this many bytes.
    pub file_bytes: u64,
    /// The most that recordings may take; 0 for what the disk has.
    pub quota_bytes: u64,
    /// Preallocated for facts, seals and acknowledgements on a full disk, in whole MiB.
    pub reserve_bytes: u64,
    /// How long what the receiver holds stays here too.
    pub retention: Duration,
    /// Bytes per second that a recording with all its tracks makes; 0 while that is not known.
    pub rate: u64,
    /// The room below which something is given up.
    pub thresholds: Thresholds,
}

impl Config {
    /// The defaults, in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            sync_interval: Duration::from_millis(500),
            file_bytes: 64 << 20,
            quota_bytes: 0,
            reserve_bytes: 8 << 20,
            retention: Duration::from_secs(7 * 24 * 3600),
            rate: 0,
            thresholds: Thresholds::default(),
        }
    }
}

/// What went wrong with the spool; each variant wants another reaction.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk is full: the recording cannot go on as it is.
    #[error(
        "{path}: the disk is full while {doing}; free space or move the spool to a larger disk"
    )]
    NoSpace {
        /// The file concerned.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
    },
    /// No new recording begins: a running one needs what room is left.
    #[error(
        "{path}: only {free} bytes are free, {minutes} minutes of recording, and a new one needs {wanted}; free space, or wait until the receiver has taken what waits"
    )]
    NoRoom {
        /// The spool's directory.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Minutes of recording at the full rate.
        minutes: u64,
        /// Minutes that must be free.
        wanted: u64,
    },
    /// What was kept is not what the disk gives back: it is LOST.
    #[error("{path}: the record at byte {at} (segment {key}) is damaged; check the disk (dmesg)")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the record begins.
        at: u64,
        /// The segment asked for.
        key: crate::media::SegmentKey,
    },
    /// The disk refuses: bytes are not being kept.
    #[error(
        "{path}: {doing} failed: {source}; check the disk (dmesg) and that the directory is writable"
    )]
    Disk {
        /// The file or directory concerned.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The caller named a segment that the spool does not hold.
    #[error("the spool holds no bytes {offset}+{length} of segment {key} (any more)")]
    NotHeld {
        /// The segment asked for.
        key: crate::media::SegmentKey,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
    },
    /// A chunk came out of order: a fault in the caller.
    #[error("chunk {index} of segment {key} does not follow what the spool holds of it")]
    OutOfOrder {
        /// The segment.
        key: crate::media::SegmentKey,
        /// The chunk's index.
        index: u32,
    },
}

impl Error {
    pub(crate) fn disk(
        path: impl Into<PathBuf>,
        doing: &'static str,
        source: std::io::Error,
    ) -> Self {
        let path = path.into();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path, doing }
            }
            _ => Self::Disk {
                path,
                doing,
                source,
            },
        }
    }
}

/// Damage as the uplink knows it, apart from a disk that may do better later.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Damaged { .. } => Self::new(std::io::ErrorKind::InvalidData, error),
            error => Self::other(error),
        }
    }
}

/// What the spool has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Syncs that returned well.
    pub syncs: u64,
    /// Syncs that failed; each cost a file.
    pub sync_failures: u64,
    /// Chunks written.
    pub chunks: u64,
    /// Bytes of chunks written.
    pub bytes: u64,
    /// Bytes of files and recordings let go.
    pub freed_bytes: u64,
    /// Acknowledgements of what the receiver cannot hold.
    pub impossible_acknowledgements: u64,
    /// Recordings said to be whole at the receiver that cannot be.
    pub impossible_completions: u64,
}
