//! Stage: the durable queue on the box.
//!
//! Takes what the segmenter gives ([`Segmented`](crate::media::Segmented)) and the receiver's
//! acknowledgements; gives [`Notice`]s of what is written and what is kept, and the bytes back by
//! segment and offset. It knows neither codecs nor the wire, and it is not a cache: nothing leaves
//! it without an acknowledgement that was itself recorded.
//!
//! # The durability invariants
//!
//! 1. A chunk is *kept* once `fdatasync` of the file that holds it has returned. It may be sent as
//!    soon as it is written; [`Notice::Sealed`], which lets a segment's trailer leave, comes only
//!    when every chunk and the seal record are kept. A segment that a crash cut short is sealed at
//!    its last kept chunk, and the next number follows.
//! 2. Sync is driven by time, never by bytes: it starts at a chunk's end, at the latest
//!    [`Config::sync_interval`] after the one before. The first chunk of a recording is synced at
//!    once. A new file is synced, then its directory, before its first chunk counts.
//! 3. A failed sync is fatal for its file: the file is closed, what it held and was not yet kept is
//!    written again into a new one, and it is counted. No descriptor is synced again after failing.
//! 4. Recovery never truncates and never appends to an old file. After damage it goes on at the next
//!    valid record and reports what is missing; what it keeps is synced before it counts.
//! 5. A segment counts as acknowledged once DURABLE for it was received; what is not acknowledged is
//!    never deleted.
//! 6. The log of a recording is append-only and interleaves all its tracks, so that one `fdatasync`
//!    covers them; a file never holds two recordings. Every record carries its length, ids and
//!    checksum; the file carries a version and names its cipher.

mod disk;
mod index;
mod log;
mod read;
mod record;
mod recover;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;

pub use disk::{Disk, DiskFile, LocalDisk};
pub use index::{RecordingState, SegmentState, TrackState};
pub use log::{Notice, Spool, SyncJob, SyncResult};
pub use record::{Opened, Record, RecordError, read_record};
pub use recover::Recovered;
#[cfg(test)]
pub(crate) use twin::TwinDisk;

use std::path::PathBuf;
use std::time::Duration;

/// Where the spool is and how often it syncs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The spool's directory: one sub-directory per recording.
    pub directory: PathBuf,
    /// The longest time between two syncs while something waits; 500 ms leaves half of the promised
    /// second to the pipeline and the disk.
    pub sync_interval: Duration,
    /// A log file is followed by the next one beyond this many bytes.
    pub file_bytes: u64,
}

impl Config {
    /// The defaults, in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            sync_interval: Duration::from_millis(500),
            file_bytes: 64 << 20,
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
    #[error("the spool holds no bytes {offset}+{length} of segment {key}")]
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
}
