//! Stage: access units to CMAF chunks and segments.
//!
//! Takes the access units of one track in order, and its codec's parameters; gives
//! [`crate::media::Segmented`]: an init before its first user, each chunk as soon as it is complete, and a seal
//! after a segment's last chunk. One [`Segmenter`] per track and span; [`Events`] does the same for
//! the recording's facts.
//!
//! What does not belong here: when a keyframe is wanted (the pacer's grid), how boxes look
//! ([`crate::mp4`]), and where the bytes go.
//!
//! Where a segment ends: pictures run from keyframe to keyframe; sound is cut at the packet nearest
//! to each multiple of the segment's length, so that the segments of all tracks begin together to
//! within half a packet. What a camera encoded by itself is cut by time, at keyframes. Otherwise a
//! chunk is a fixed number of access units; only a segment's last is shorter.

mod cut;
mod events;

pub use crate::mp4::events_segment;
pub use cut::Cut;
pub use events::{Events, read_facts};

use crate::media::{
    AccessUnit, Chunk, Hash, Init, MediaTime, Provenance, RecordingId, SegmentKey, Segmented,
    Timescale, TrackId,
};
use crate::mp4::{self, encode_chunk, encode_provenance};

/// What a segmenter is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// The recording.
    pub recording: RecordingId,
    /// The track within it.
    pub track: TrackId,
    /// The box's boot epoch.
    pub epoch: u64,
    /// The span within the recording.
    pub span: u32,
    /// The first segment's number; a recording that continues does not start at 0.
    pub first_sequence: u64,
    /// Units per second of the access units' times.
    pub timescale: Timescale,
    /// Where chunks and segments end.
    pub cut: Cut,
}

/// Why an access unit was not taken. The segmenter goes on with the next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No init was given before the first access unit: a fault of whoever joined the stages.
    #[error("track {0} has no init yet: give the encoder's parameters first")]
    NoInit(TrackId),
    /// A segment of pictures cannot begin with it: ask the encoder for a keyframe.
    #[error("track {0} waits for a keyframe")]
    WaitsForKeyframe(TrackId),
    /// It does not begin after the one before it: drop it.
    #[error("track {track}: an access unit at {time:?} does not follow the one at {before:?}")]
    OutOfOrder {
        /// The track.
        track: TrackId,
        /// When the access unit begins.
        time: MediaTime,
        /// When the one before it begins, or the span's start.
        before: MediaTime,
    },
    /// Its segment would become longer than 10 s or greater than 8 MB. The segment has ended without
    /// it: go on with the next keyframe.
    #[error("track {0} has no keyframe within 10 s and 8 MB")]
    TooLong(TrackId),
    /// The boxes cannot hold it (4 GiB and more): its chunk is not given.
    #[error("track {track}: {source}")]
    Boxes {
        /// The track.
        track: TrackId,
        /// What cannot be written.
        source: mp4::Error,
    },
}

/// What a segmenter has given since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Access units in chunks given.
    pub units: u64,
    /// Chunks given.
    pub chunks: u64,
    /// Segments sealed.
    pub segments: u64,
    /// Bytes of chunks given.
    pub bytes: u64,
}

/// One track's engine; `give` receives what is complete.
pub struct Segmenter {
    config: Config,
    init: Option<Hash>,
    /// The open segment, if any.
    open: Option<Open>,
    sequence: u64,
    /// Counts chunks over all segments, for `mfhd`.
    fragment: u32,
    last: Option<MediaTime>,
    /// Segments that begin from now on are left out.
    skipping: bool,
    /// Those left out and over that nobody has been told of: the first and the last.
    skipped: Option<(u64, u64)>,
    stats: Stats,
}

struct Open {
    init: Hash,
    /// It only takes its number: nothing of it is given.
    skipped: bool,
    /// Which segment of the grid of sound it is; none for pictures.
    number: Option<u64>,
    start: MediaTime,
    bytes: u64,
    units: u64,
    chunks: u32,
    pending: Vec<AccessUnit>,
}

impl Segmenter {
    /// A segmenter that has not begun.
    pub fn new(config: Config) -> Self {
        Self {
            sequence: config.first_sequence,
            config,
            init: None,
            open: None,
            fragment: 0,
            last: None,
            skipping: false,
            skipped: None,
            stats: Stats::default(),
        }
    }

    /// Leaves out the segments that begin from now on, or gives them again. One that is left out
    /// takes its number, so that what follows keeps its place on the timeline.
    pub fn set_skipping(&mut self, skipping: bool) {
        self.skipping = skipping;
    }

    /// The first and the last of the segments left out that are over and were not told of yet: they
    /// are lost. Ask after every access unit, so that nothing given lies between them.
    pub fn take_skipped(&mut self) -> Option<(u64, u64)> {
        self.skipped.take()
    }

    /// Sets the init (made by [`crate::mp4::video_init`] or [`crate::mp4::audio_init`]) that what
    /// follows needs. One that differs from the init in use seals the open segment and is given first;
    /// the same one again changes nothing.
    pub fn set_init(
        &mut self,
        bytes: Vec<u8>,
        give: &mut impl FnMut(Segmented),
    ) -> Result<Hash, Error> {
        let hash = Hash(*blake3::hash(&bytes).as_bytes());
        if self.init != Some(hash) {
            self.flush(give)?;
            self.init = Some(hash);
            give(Segmented::Init(Init {
                track: self.config.track,
                hash,
                bytes,
            }));
        }
        Ok(hash)
    }

    /// Takes the next access unit.
    pub fn push(
        &mut self,
        unit: AccessUnit,
        give: &mut impl FnMut(Segmented),
    ) -> Result<(), Error> {
        let track = self.config.track;
        let init = self.init.ok_or(Error::NoInit(track))?;
        let before = self.last.unwrap_or(MediaTime(-1));
        if unit.time <= before {
            return Err(Error::OutOfOrder {
                track,
                time: unit.time,
                before,
            });
        }
        let number = self.config.cut.number(&unit, self.config.timescale);
        let ends_open = self.open.as_ref().is_some_and(|open| match number {
            Some(number) => open.number != Some(number),
            None => self.config.cut.ends_before(&unit, open.start),
        });
        if ends_open {
            self.flush(give)?;
        }
        if self.open.is_none() && !unit.keyframe {
            return Err(Error::WaitsForKeyframe(track));
        }
        let size = unit.data.len() as u64;
        if self
            .open
            .as_ref()
            .is_some_and(|open| (self.config.cut).is_too_long(&unit, open.start, open.bytes + size))
        {
            self.flush(give)?;
            return Err(Error::TooLong(track));
        }
        self.last = Some(unit.time);
        let after = self.config.cut.number_after(&unit, self.config.timescale);
        let skipped = self.skipping;
        let open = self.open.get_or_insert_with(|| Open {
            init,
            skipped,
            number,
            start: unit.time,
            bytes: 0,
            units: 0,
            chunks: 0,
            pending: Vec::new(),
        });
        open.bytes += size;
        if !open.skipped {
            open.pending.push(unit);
        }
        open.units += 1;

        let segment_complete = after != open.number;
        let chunk_complete = self.config.cut.is_chunk(&open.pending);
        let length_reached = self.config.cut.segment_units() == Some(open.units);
        if segment_complete {
            // Sound: whatever comes next belongs to the next segment, so nothing is waited for.
            self.flush(give)?;
        } else if chunk_complete || length_reached {
            self.emit(give)?;
        }
        Ok(())
    }

    /// Gives what is pending and seals the open segment; the next access unit begins a new one.
    pub fn flush(&mut self, give: &mut impl FnMut(Segmented)) -> Result<(), Error> {
        self.emit(give)?;
        let Some(closed) = self.open.take() else {
            return Ok(());
        };
        if closed.skipped {
            let first = self.skipped.map_or(self.sequence, |(first, _)| first);
            self.skipped = Some((first, self.sequence));
        } else {
            give(Segmented::Seal(self.key()));
            self.stats.segments += 1;
        }
        self.sequence += 1;
        Ok(())
    }

    /// The number the next segment will have, or that of the open one.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The init in use.
    pub fn init(&self) -> Option<Hash> {
        self.init
    }

    /// What was given so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn key(&self) -> SegmentKey {
        SegmentKey {
            recording: self.config.recording,
            track: self.config.track,
            sequence: self.sequence,
        }
    }

    /// Gives the pending access units as a chunk.
    fn emit(&mut self, give: &mut impl FnMut(Segmented)) -> Result<(), Error> {
        let key = self.key();
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let (Some(first), Some(last)) = (open.pending.first(), open.pending.last()) else {
            return Ok(());
        };
        let start = first.time;
        let captured = first.captured;
        let duration = last.time.0.abs_diff(start.0) + u64::from(last.duration);
        let data: usize = open.pending.iter().map(|unit| unit.data.len()).sum();
        let mut bytes = Vec::with_capacity(data + 256 + 16 * open.pending.len());
        if open.chunks == 0 {
            let provenance = Provenance {
                key,
                epoch: self.config.epoch,
                span: self.config.span,
                start,
                timescale: self.config.timescale.get(),
                init: Some(open.init),
            };
            encode_provenance(&provenance, &mut bytes);
        }
        self.fragment = self.fragment.wrapping_add(1);
        let written = encode_chunk(self.fragment, &open.pending, &mut bytes);
        let units = open.pending.len() as u64;
        open.pending.clear();
        written.map_err(|source| Error::Boxes {
            track: key.track,
            source,
        })?;
        let chunk = Chunk {
            key,
            init: Some(open.init),
            index: open.chunks,
            start,
            duration,
            captured,
            bytes,
        };
        open.chunks += 1;
        self.stats.units += units;
        self.stats.chunks += 1;
        self.stats.bytes += chunk.bytes.len() as u64;
        give(Segmented::Chunk(chunk));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
