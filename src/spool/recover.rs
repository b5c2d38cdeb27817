//! What an earlier run left: read whole, resynchronised after damage, synced before it counts.

use super::Error;
use super::disk::DiskFile;
use super::index::{Place, RecordingState};
use super::log::{Held, Spool};
use super::record::{FILE_HEADER, MAGIC, OVERHEAD, RecordError, read_file_header, read_record};
use crate::media::{Hash, RecordingId, SegmentKey, TrackId};

const READ: usize = 256 << 10;

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
    /// When its files were last written to, by the wall clock of then: nanoseconds since 1970.
    pub written_nanos: Option<i64>,
    /// Segments that cannot be given any more and are not acknowledged: track, first, last.
    pub lost: Vec<(TrackId, u64, u64)>,
}

pub(super) fn recover(spool: &mut Spool) -> Result<Vec<Recovered>, Error> {
    let root = spool.config.directory.clone();
    let reading = |error| Error::disk(&root, "opening the spool", error);
    spool.disk.make_directory(&root).map_err(reading)?;
    let mut ids: Vec<RecordingId> = spool
        .disk
        .list(&root)
        .map_err(reading)?
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    ids.sort_unstable();
    let mut found = Vec::new();
    for id in ids {
        let recovered = recover_recording(spool, id)?;
        seal_what_was_cut(spool, id)?;
        found.push(recovered);
    }
    Ok(found)
}

fn recover_recording(spool: &mut Spool, recording: RecordingId) -> Result<Recovered, Error> {
    let directory = spool.config.directory.join(recording.to_string());
    let reading = |error| Error::disk(&directory, "reading a recording's logs", error);
    let names = spool.disk.list(&directory).map_err(reading)?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| name.strip_suffix(".log")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let mut state = RecordingState::default();
    let (mut damaged_bytes, mut torn_bytes) = (0, 0);
    let mut files = Vec::new();
    let mut written_nanos = None;
    for &number in &numbers {
        let path = spool.log_path(recording, number);
        let file = spool
            .disk
            .open(&path)
            .map_err(|error| Error::disk(&path, "opening a log file", error))?;
        let (damaged, torn) = scan(file.as_ref(), recording, number, &mut state)
            .map_err(|error| Error::disk(&path, "reading a log file", error))?;
        written_nanos = written_nanos.max(file.modified_nanos());
        damaged_bytes += damaged;
        torn_bytes += torn;
        files.push((path, file));
    }
    // What was read may still be only in the page cache of a process that died (invariant 4).
    if !state.complete {
        for (path, file) in files {
            file.sync()
                .map_err(|error| Error::disk(path, "syncing what was recovered", error))?;
        }
        spool.disk.sync_directory(&directory).map_err(reading)?;
        spool
            .disk
            .sync_directory(&spool.config.directory)
            .map_err(reading)?;
    }
    let lost = lost_segments(&state);
    let ended = state.ended;
    let next_file = numbers.last().map_or(0, |last| last + 1);
    spool
        .recordings
        .insert(recording, Held::new(state, next_file));
    Ok(Recovered {
        recording,
        ended,
        damaged_bytes,
        torn_bytes,
        written_nanos,
        lost,
    })
}

/// Applies every valid record of a file; gives the damaged and the torn bytes.
fn scan(
    file: &dyn DiskFile,
    recording: RecordingId,
    number: u64,
    state: &mut RecordingState,
) -> std::io::Result<(u64, u64)> {
    let length = file.length()?;
    let mut window = Window {
        file,
        length,
        start: 0,
        bytes: Vec::new(),
    };
    window.fill(FILE_HEADER)?;
    let mut at = 0;
    if read_file_header(&window.bytes) == Some(recording) {
        at = FILE_HEADER as u64;
    }
    let (mut damaged, mut bad_from) = (0, None);
    while at < length {
        window.advance(at);
        window.fill(OVERHEAD)?;
        let outcome = loop {
            match read_record(&window.bytes) {
                Err(RecordError::Short) if window.end() < length => {
                    window.fill(window.bytes.len() + READ)?
                }
                other => {
                    break other.map(|(record, size)| {
                        let place = Place {
                            file: number,
                            at: at + (OVERHEAD - 16) as u64,
                        };
                        state.apply(&record, place);
                        size as u64
                    });
                }
            }
        };
        match outcome {
            Ok(size) => {
                damaged += bad_from.take().map_or(0, |from| at - from);
                at += size;
            }
            Err(_) => {
                bad_from.get_or_insert(at);
                at = window.next_magic(at + 1)?;
            }
        }
    }
    Ok((damaged, bad_from.map_or(0, |from| length - from)))
}

/// A part of a file in memory: logs may be larger than what a box can spare.
struct Window<'a> {
    file: &'a dyn DiskFile,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Forgets what lies before `at`.
    fn advance(&mut self, at: u64) {
        let passed = (at - self.start).min(self.bytes.len() as u64);
        self.bytes.drain(..passed as usize);
        self.start = at;
    }

    /// Holds at least `wanted` bytes, or all that the file has.
    fn fill(&mut self, wanted: usize) -> std::io::Result<()> {
        let left = (self.length - self.end()) as usize;
        if self.bytes.len() < wanted && left > 0 {
            let held = self.bytes.len();
            let more = (wanted - held).max(READ).min(left);
            self.bytes.resize(held + more, 0);
            self.file
                .read_at(&mut self.bytes[held..], self.start + held as u64)?;
        }
        Ok(())
    }

    /// The next place at or after `from` where a record may begin, or the file's end.
    fn next_magic(&mut self, mut from: u64) -> std::io::Result<u64> {
        while from < self.length {
            self.advance(from);
            self.fill(READ)?;
            match self
                .bytes
                .windows(MAGIC.len())
                .position(|bytes| bytes == MAGIC)
            {
                Some(at) => return Ok(from + at as u64),
                // The magic may straddle the window's end.
                None => from += (self.bytes.len().saturating_sub(MAGIC.len() - 1)).max(1) as u64,
            }
        }
        Ok(self.length)
    }
}

/// Every number that nothing can be given for: used, not acknowledged, and without a first chunk.
fn lost_segments(state: &RecordingState) -> Vec<(TrackId, u64, u64)> {
    let mut lost: Vec<(TrackId, u64, u64)> = Vec::new();
    let tracks: Vec<TrackId> = state.tracks.keys().copied().collect();
    for id in tracks {
        let next = state.next_sequence(id);
        let Some(track) = state.tracks.get(&id) else {
            continue;
        };
        for sequence in track.acknowledged.cumulative()..next {
            if track.acknowledged.contains(sequence) {
                continue;
            }
            let usable = track
                .segments
                .get(&sequence)
                .is_some_and(|segment| segment.length > 0);
            if !usable {
                match lost.last_mut() {
                    Some(run) if run.0 == id && run.2 + 1 == sequence => run.2 = sequence,
                    _ => lost.push((id, sequence, sequence)),
                }
            }
        }
    }
    lost
}

/// Seals each segment that a crash or damage cut short at its last kept chunk (invariant 1), and
/// counts the seals that were recovered as kept: they were synced. A seal that names more than is
/// here was never announced, unless the disk was damaged later; the receiver decides by its hash. What
/// is acknowledged needs no seal, and its bytes are not looked for any more.
fn seal_what_was_cut(spool: &mut Spool, recording: RecordingId) -> Result<(), Error> {
    let mut cut = Vec::new();
    if let Some(held) = spool.recordings.get_mut(&recording) {
        for (&track, state) in &mut held.state.tracks {
            for (&sequence, segment) in &mut state.segments {
                segment.seal_kept = segment.is_whole();
                let wanted = !state.acknowledged.contains(sequence);
                if wanted && !segment.is_whole() && segment.length > 0 {
                    cut.push((
                        SegmentKey {
                            recording,
                            track,
                            sequence,
                        },
                        segment.length,
                    ));
                }
            }
        }
    }
    for (key, length) in cut {
        let hash = Hash(*blake3::hash(&spool.read(key, 0, length)?).as_bytes());
        spool.seal(key, hash)?;
    }
    Ok(())
}
