//! The progressive MP4 of a complete recording: made when it is first asked for, kept in a cache.
//!
//! Takes archived segments, gives a file (H.264 + AAC, `moov` first) that any player opens. The cache
//! may be deleted at any time and holds what was made last; the archive is what counts.

use super::archive::{self, Archive};
use super::catalog::Recording;
use crate::media::{GapLength, MediaTime, RecordingId, SegmentKey, TrackId};
use crate::mp4::{self, ProgressiveTrack, SegmentSource, Written};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the cache beyond which the oldest files go; the one just made stays, however big.
const MOST_BYTES: u64 = 20_000_000_000;
/// Ends the name of a file that is being written.
const UNFINISHED: &str = ".part";

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object cannot be read.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The tables cannot be made.
    #[error(transparent)]
    Boxes(mp4::Error),
    /// The file cannot be written; nothing is left of it.
    #[error("{path}: {source}; check that its directory is there, writable and not full", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The task that made it was ended.
    #[error("making the file was interrupted")]
    Interrupted,
}

/// The cache of files, one per recording.
pub struct Films {
    dir: PathBuf,
    most_bytes: u64,
    /// One is made at a time: it costs disk bandwidth, which the boxes need.
    making: tokio::sync::Mutex<()>,
}

/// Where each span starts on the recording's timeline: after the spans before it and the time that
/// nothing was captured, as far as that is known. A pause that outlives the box is a span without media.
pub fn span_starts(recording: &Recording) -> BTreeMap<u32, i64> {
    let spans = recording.spans();
    let mut ends: BTreeMap<u32, i64> = spans.keys().map(|span| (*span, 0)).collect();
    let media = recording
        .segments
        .iter()
        .filter(|(id, _)| **id != TrackId::EVENTS);
    for stored in media.flat_map(|(_, segments)| segments.values()) {
        let units = i64::try_from(stored.duration).unwrap_or(i64::MAX);
        let end = MediaTime(stored.start.0.saturating_add(units)).as_nanos(stored.timescale);
        let known = ends.entry(stored.span).or_default();
        *known = (*known).max(end);
    }
    let mut at = 0i64;
    let mut starts = BTreeMap::new();
    for (span, length) in ends {
        if let Some(GapLength::Known { nanos, .. }) = spans.get(&span).and_then(|span| span.gap) {
            at = at.saturating_add(i64::try_from(nanos).unwrap_or(i64::MAX));
        }
        starts.insert(span, at);
        at = at.saturating_add(length);
    }
    starts
}

/// Writes the film of a complete recording to `path`. The name is taken only by the whole file, on
/// stable storage; what had it before is replaced.
pub async fn write(
    archive: &Archive,
    id: RecordingId,
    recording: &Recording,
    path: &Path,
) -> Result<Written, Error> {
    let (tracks, names) = plan(archive, id, recording).await?;
    let path = path.to_path_buf();
    let archive = archive.clone();
    let runtime = tokio::runtime::Handle::current();
    let made = tokio::task::spawn_blocking(move || {
        // A browser that gives up does not end this: the next one's file must be another.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut name = path.clone().into_os_string();
        name.push(format!(
            ".{}{UNFINISHED}",
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        let staged = PathBuf::from(name);
        let fetch = |track: usize, segment: usize| {
            let name: &String = &names[track][segment];
            let bytes = runtime.block_on(archive.read(name));
            bytes.map(Vec::from).map_err(io::Error::other)
        };
        let made = write_staged(&tracks, fetch, &staged).and_then(|written| {
            std::fs::rename(&staged, &path).map_err(|e| failed(&path, e))?;
            Ok(written)
        });
        if made.is_err() {
            // It may not even have been made.
            let _ = std::fs::remove_file(&staged);
        }
        made
    });
    made.await.unwrap_or(Err(Error::Interrupted))
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::File {
        path: path.into(),
        source,
    }
}

fn write_staged(
    tracks: &[ProgressiveTrack],
    fetch: impl FnMut(usize, usize) -> io::Result<Vec<u8>>,
    staged: &Path,
) -> Result<Written, Error> {
    let file = File::create(staged).map_err(|e| failed(staged, e))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let written = mp4::write_progressive(tracks, fetch, &mut out).map_err(|e| match e {
        mp4::Error::Write(e) => failed(staged, e),
        e => Error::Boxes(e),
    })?;
    // What has its final name is taken for whole after a power cut too.
    let file = out
        .into_inner()
        .map_err(|e| failed(staged, e.into_error()))?;
    file.sync_all().map_err(|e| failed(staged, e))?;
    Ok(written)
}

/// The film's tracks, and the object behind each of their segments.
async fn plan(
    archive: &Archive,
    id: RecordingId,
    recording: &Recording,
) -> Result<(Vec<ProgressiveTrack>, Vec<Vec<String>>), Error> {
    let starts = span_starts(recording);
    let mut tracks = Vec::new();
    let mut names = Vec::new();
    for (track, info) in recording.tracks() {
        let Some(segments) = recording.segments.get(&track) else {
            continue;
        };
        let mut inits = Vec::new();
        let mut sources = Vec::new();
        let mut objects = Vec::new();
        for (&sequence, stored) in segments {
            let Some(hash) = stored.init else { continue };
            let init = match inits.iter().position(|known| *known == hash) {
                Some(init) => init,
                None => {
                    inits.push(hash);
                    inits.len() - 1
                }
            };
            sources.push(SegmentSource {
                init,
                span_start_nanos: starts.get(&stored.span).copied().unwrap_or(0),
            });
            objects.push(archive::segment_path(&SegmentKey {
                recording: id,
                track,
                sequence,
            }));
        }
        let mut bytes = Vec::new();
        for hash in inits {
            let init = archive.read(&archive::init_path(id, hash)).await?;
            bytes.push(init.to_vec());
        }
        tracks.push(ProgressiveTrack {
            name: info.name.clone(),
            inits: bytes,
            segments: sources,
        });
        names.push(objects);
    }
    Ok((tracks, names))
}

impl Films {
    /// A cache in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            most_bytes: MOST_BYTES,
            making: tokio::sync::Mutex::default(),
        }
    }

    /// The file of a complete recording.
    pub async fn get(
        &self,
        archive: &Archive,
        id: RecordingId,
        recording: &Recording,
    ) -> Result<PathBuf, Error> {
        let path = self.dir.join(format!("{id}.mp4"));
        let _one_at_a_time = self.making.lock().await;
        if path.is_file() {
            return Ok(path);
        }
        std::fs::create_dir_all(&self.dir).map_err(|e| failed(&self.dir, e))?;
        write(archive, id, recording, &path).await?;
        self.trim(&path).map_err(|e| failed(&self.dir, e))?;
        Ok(path)
    }

    /// Removes the file of an erased recording. One that is being made is waited for.
    pub async fn forget(&self, id: RecordingId) -> Result<(), Error> {
        let path = self.dir.join(format!("{id}.mp4"));
        let _one_at_a_time = self.making.lock().await;
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(&path, e)),
            _ => Ok(()),
        }
    }

    /// Removes the oldest files until the others fit, and what a crash left unfinished. A browser that
    /// reads one of them goes on reading: the name goes, not the open file.
    fn trim(&self, newest: &Path) -> io::Result<()> {
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let (path, about) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            if path.to_string_lossy().ends_with(UNFINISHED) {
                std::fs::remove_file(&path)?;
            } else if path != newest {
                others.push((about.modified()?, path, about.len()));
            }
        }
        others.sort();
        let mut held = std::fs::metadata(newest)?.len();
        for (_, path, bytes) in others.into_iter().rev() {
            held = held.saturating_add(bytes);
            if held > self.most_bytes {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Event, MediaTime};
    use crate::receiver::samples::*;

    #[test]
    fn a_span_starts_after_the_one_before_and_the_time_away() {
        let mut recording = recording(2);
        let away = Event::Span {
            epoch: 2,
            wall: None,
            gap: Some(GapLength::Known {
                nanos: 7_000_000_000,
                uncertainty_nanos: 0,
            }),
        };
        let events = stored(TrackId::EVENTS, 1, 1, 0);
        recording.insert(1, TrackId::EVENTS, events, vec![fact(1, away)]);
        let mut late = stored(VIDEO, 2, 1, 0);
        late.start = MediaTime(90_000);
        recording.insert(2, VIDEO, late, vec![]);
        recording.insert(3, VIDEO, stored(VIDEO, 3, 2, 0), vec![]);
        let starts = span_starts(&recording);
        // Two segments of 2 s, 7 s away; then 1 s + 2 s, and an unknown time away.
        let expected = [(0, 0), (1, 11_000_000_000), (2, 14_000_000_000)];
        assert_eq!(starts, BTreeMap::from(expected));
    }

    #[test]
    fn the_cache_keeps_what_was_made_last_and_fits() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let films = Films {
            most_bytes: 250,
            ..Films::new(dir.path().into())
        };
        let made = |name: &str, seconds: u64, bytes: usize| {
            std::fs::write(path(name), vec![0; bytes]).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            let file = File::options().write(true).open(path(name)).unwrap();
            file.set_modified(time).unwrap();
        };
        made("oldest.mp4", 1, 10);
        made("old.mp4", 2, 100);
        made("late.mp4", 3, 100);
        made("newest.mp4", 4, 100);
        made("crash.mp4.part", 5, 100);
        films.trim(&path("newest.mp4")).unwrap();
        let kept = |name: &str| path(name).exists();
        assert!(kept("newest.mp4") && kept("late.mp4"));
        assert!(!kept("old.mp4") && !kept("oldest.mp4") && !kept("crash.mp4.part"));
        // The one just made stays, even alone too big.
        made("huge.mp4", 6, 1000);
        films.trim(&path("huge.mp4")).unwrap();
        assert!(kept("huge.mp4") && !kept("newest.mp4"));
    }
}
