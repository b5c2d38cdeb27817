//! The spool: what is asked of it, as records. How records reach a file is in `write`, when they are
//! synced in `sync`, what leaves in `release`.

use super::disk::Disk;
use super::index::{RecordingState, TrackState};
use super::record::{Opened, Record};
use super::release::Gone;
use super::room::Level;
use super::write::{Held, Promise, Weight};
use super::{Config, Error, Recovered, Stats, recover};
use crate::media::{
    Chunk, Hash, LostReason, Monotonic, Range, RecordingId, SegmentKey, Segmented, Sequences,
    TrackId,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// That these segments will never come is kept: now they may be given up.
    Lost {
        /// The recording.
        recording: RecordingId,
        /// The track.
        track: TrackId,
        /// The segments.
        range: Range,
        /// Why.
        reason: LostReason,
    },
}

/// What [`Spool::forgot`] found of segments that a receiver acknowledged and holds no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Still here: offer them again.
    pub again: Vec<SegmentKey>,
    /// Freed already: recorded as LOST.
    pub lost: Vec<Range>,
}

/// The durable queue.
pub struct Spool {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) config: Config,
    pub(super) recordings: BTreeMap<RecordingId, Held>,
    pub(super) syncing: bool,
    pub(super) last_sync: Option<Monotonic>,
    /// A recording's first chunk, its end or a LOST waits: sync without waiting for the interval.
    pub(super) urgent: bool,
    pub(super) stats: Stats,
    /// UTC in seconds since 1970 as [`Spool::release`] last heard it; 0 while it is not known.
    pub(super) wall: u32,
    pub(super) level: Level,
    /// The preallocated files that are left, by number.
    pub(super) reserve: Vec<u64>,
    /// Directories that are to be emptied.
    pub(super) gone: VecDeque<Gone>,
    /// One of them has its name, and that is not synced.
    pub(super) mark_owed: bool,
    /// Erased in this run: nothing begins them anew.
    pub(super) erased: BTreeSet<RecordingId>,
    /// Looked at, never written to.
    pub(super) read_only: bool,
    /// Calls of [`Spool::try_again`] until it does so, and how many it waits after that.
    pub(super) again: (u32, u32),
    /// Planted: an acknowledgement counts as recorded before it is kept.
    #[cfg(test)]
    pub(super) hasty: bool,
}

impl Spool {
    /// Opens the spool and recovers what an earlier run left, per recording. Damage, and whatever
    /// does not belong there, is reported and stops nothing.
    pub fn open(disk: Arc<dyn Disk>, config: Config) -> Result<(Self, Vec<Recovered>), Error> {
        let mut spool = Self::new(disk, config, false);
        let recovered = recover::recover(&mut spool)?;
        spool.refill_reserve(usize::MAX);
        Ok((spool, recovered))
    }

    /// Reads a spool, such as one on a dead box's card, without writing a byte into it. Every
    /// recording is loaded.
    pub fn look(
        disk: Arc<dyn Disk>,
        directory: impl Into<PathBuf>,
    ) -> Result<(Self, Vec<Recovered>), Error> {
        let mut spool = Self::new(disk, Config::new(directory), true);
        let recovered = recover::recover(&mut spool)?;
        Ok((spool, recovered))
    }

    fn new(disk: Arc<dyn Disk>, config: Config, read_only: bool) -> Self {
        Self {
            disk,
            config,
            recordings: BTreeMap::new(),
            syncing: false,
            last_sync: None,
            urgent: false,
            stats: Stats::default(),
            wall: 0,
            level: Level::Normal,
            reserve: Vec::new(),
            gone: VecDeque::new(),
            mark_owed: false,
            erased: BTreeSet::new(),
            read_only,
            again: (recover::SOON, recover::SOON),
            #[cfg(test)]
            hasty: false,
        }
    }

    /// Plants a fault: from now on what the receiver says counts as recorded before it is kept.
    #[cfg(all(test, feature = "receiver"))]
    pub(crate) fn be_hasty(&mut self) {
        self.hasty = true;
    }

    /// Takes a recording up, new or after a restart. Give its next sequence numbers to the segmenter.
    /// A new one is refused where there is no room for a useful length of it (invariant 5).
    pub fn begin(
        &mut self,
        recording: RecordingId,
        opened: Opened,
    ) -> Result<&RecordingState, Error> {
        let is_new = !self.recordings.contains_key(&recording);
        if is_new {
            self.refuse_without_room()?;
        }
        if !self.erased.contains(&recording) {
            self.recordings.entry(recording).or_default();
        }
        let weight = if is_new {
            Weight::Bulk
        } else {
            Weight::Essential
        };
        let record = Record::Opened(opened);
        let begun = self.write(recording, &record, Promise::Nothing, weight);
        if let (Err(error), true) = (begun, is_new) {
            self.recordings.remove(&recording);
            return Err(error);
        }
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
                self.write(recording, &record, Promise::Nothing, Weight::Bulk)?;
                Ok(Some(Notice::InitWritten(init.hash)))
            }
            Segmented::Chunk(chunk) => self.append_chunk(recording, chunk).map(Some),
            Segmented::Seal(key) => {
                let of = (key.track, key.sequence);
                let hasher = self.held(recording)?.hashers.get(&of);
                // Nothing of it was written: there is nothing to seal.
                if let Some(hash) = hasher.map(blake3::Hasher::finalize) {
                    self.seal(*key, Hash(*hash.as_bytes()))?;
                    self.held(recording)?.hashers.remove(&of);
                }
                Ok(None)
            }
        }
    }

    fn append_chunk(&mut self, recording: RecordingId, chunk: &Chunk) -> Result<Notice, Error> {
        let SegmentKey {
            track, sequence, ..
        } = chunk.key;
        let offset = self.place_of_next(recording, chunk)?;
        let length = chunk.bytes.len() as u64;
        let record = Record::Chunk {
            track,
            sequence,
            index: chunk.index,
            init: chunk.init,
            bytes: &chunk.bytes,
        };
        let promise = Promise::Kept(chunk.key, offset + length);
        let weight = if track == TrackId::EVENTS {
            Weight::Essential
        } else {
            Weight::Bulk
        };
        self.write(recording, &record, promise, weight)?;
        let held = self.held(recording)?;
        let hasher = held.hashers.entry((track, sequence)).or_default();
        hasher.update(&chunk.bytes);
        if track != TrackId::EVENTS && std::mem::take(&mut held.awaits_first) {
            self.urgent = true;
        }
        self.stats.chunks += 1;
        self.stats.bytes += length;
        Ok(Notice::Written {
            key: chunk.key,
            init: chunk.init,
            offset,
            length,
        })
    }

    /// Where a chunk would begin in its segment, if it is the next one.
    fn place_of_next(&mut self, recording: RecordingId, chunk: &Chunk) -> Result<u64, Error> {
        let SegmentKey {
            track, sequence, ..
        } = chunk.key;
        let held = self.held(recording)?;
        let lost = (held.state.tracks.get(&track)).is_some_and(|track| track.is_lost(sequence));
        let known = held.state.segment(track, sequence);
        let (chunks, offset, sealed) = known.map_or((0, 0, false), |known| {
            (known.chunks.len(), known.length, known.seal.is_some())
        });
        let over = held.ending.is_some() || held.state.ended;
        if chunks != chunk.index as usize || sealed || lost || over {
            return Err(Error::OutOfOrder {
                key: chunk.key,
                index: chunk.index,
            });
        }
        Ok(offset)
    }

    /// Records that the receiver holds these segments durably. What it cannot hold, because its
    /// trailer has not left the box, is counted and not believed.
    pub fn acknowledge(
        &mut self,
        recording: RecordingId,
        track: TrackId,
        durable: &Sequences,
    ) -> Result<(), Error> {
        let at = self.wall;
        let state = &self.held(recording)?.state;
        let Some(known) = state.tracks.get(&track).filter(|_| !state.complete) else {
            return Ok(());
        };
        let mut merged = known.acknowledged.clone();
        let possible = known.possible(durable);
        merged.merge(&possible);
        let is_new = merged != known.acknowledged;
        if durable.end() > possible.end() {
            self.stats.impossible_acknowledgements += 1;
        }
        if is_new {
            let record = Record::Durable {
                track,
                durable: possible.clone(),
                at,
            };
            let promise = Promise::Acknowledged(track, possible);
            self.write(recording, &record, promise, Weight::Essential)?;
            #[cfg(test)]
            if self.hasty {
                let kept = Promise::Acknowledged(track, merged);
                self.held(recording)?.keep(recording, kept, &mut |_| {});
            }
        }
        Ok(())
    }

    /// Records that the receiver holds nothing of `track` but `held`, whatever it acknowledged
    /// before: gives what must be offered again, and what is LOST because it was freed.
    pub fn forgot(
        &mut self,
        recording: RecordingId,
        track: TrackId,
        held: &Sequences,
    ) -> Result<Forgotten, Error> {
        self.load(recording)?;
        let known = self.held(recording)?.state.tracks.get(&track);
        let Some(known) = known else {
            return Ok(Forgotten::default());
        };
        let remaining = known.acknowledged.within(held);
        if remaining == known.acknowledged {
            return Ok(Forgotten::default());
        }
        let (again, mut lost) = known.given_back(&remaining);
        let of = self.held(recording)?;
        if of.unread {
            // What a file holds that cannot be read now is not gone.
            lost.clear();
        }
        // What it frees is not freed from now on, kept or not.
        of.completed = false;
        if let Some(track) = of.state.tracks.get_mut(&track) {
            track.recorded = remaining.clone();
        }
        // One record: no crash leaves what is LOST without its reason.
        let record = Record::Forgot {
            track,
            held: remaining.clone(),
            lost: lost.clone(),
        };
        let promise = Promise::Forgot(track, remaining, lost.clone());
        self.write(recording, &record, promise, Weight::Essential)?;
        self.urgent = true;
        let key = |sequence| SegmentKey {
            recording,
            track,
            sequence,
        };
        let again = again.into_iter().map(key).collect();
        Ok(Forgotten { again, lost })
    }

    /// Records that these segments will never come. They may be given up once [`Notice::Lost`] says
    /// that this is kept. Numbers not used so far are used by it. What there is no room for now, not
    /// even in the reserve, is owed.
    pub fn lose(
        &mut self,
        recording: RecordingId,
        track: TrackId,
        range: Range,
        reason: LostReason,
    ) -> Result<(), Error> {
        let record = Record::Lost {
            track,
            range,
            reason,
        };
        let promise = Promise::Lost(track, range, reason);
        let written = self.write(recording, &record, promise, Weight::Essential);
        let held = self.held(recording)?;
        match written {
            Err(error @ Error::NoSpace { .. }) => {
                ::log::warn!("{error}; that segments are LOST is owed");
                held.owe_lost(track, range, reason);
            }
            Err(error) if held.hangs() => {
                ::log::warn!("{error}; that segments are LOST is owed");
                held.owe_lost(track, range, reason);
            }
            written => written?,
        }
        held.hashers.retain(|(of, sequence), _| {
            *of != track || !(range.first..=range.last).contains(sequence)
        });
        self.urgent = true;
        Ok(())
    }

    /// Ends the recording with `last`: the whole events segment that holds the `End` fact. It is
    /// written once all that was written before is kept, in one record with the word that the
    /// recording is over; [`Notice::Sealed`] for its key then says that it is. Nothing is appended
    /// after this. Somebody waits for it, so the next sync is due at once. Where the disk refuses the
    /// record, it is tried again after each sync.
    pub fn end(&mut self, recording: RecordingId, last: &Chunk) -> Result<Option<Notice>, Error> {
        self.place_of_next(recording, last)?;
        let held = self.held(recording)?;
        let before = held.unkept();
        held.ending = Some((last.clone(), before));
        self.urgent = true;
        self.write_end(recording)
    }

    /// Writes the end that waits, once what was written before it is kept.
    pub(super) fn write_end(&mut self, recording: RecordingId) -> Result<Option<Notice>, Error> {
        let held = self.held(recording)?;
        let Some((last, _)) = held.ending.take_if(|(_, before)| *before == 0) else {
            return Ok(None);
        };
        let length = last.bytes.len() as u64;
        let hash = Hash(*blake3::hash(&last.bytes).as_bytes());
        let record = Record::Final {
            sequence: last.key.sequence,
            bytes: &last.bytes,
        };
        let promise = Promise::Ended(last.key, length, hash);
        if let Err(error) = self.write(recording, &record, promise, Weight::Essential) {
            self.held(recording)?.ending = Some((last, 0));
            return Err(error);
        }
        self.urgent = true;
        Ok(Some(Notice::Written {
            key: last.key,
            init: None,
            offset: 0,
            length,
        }))
    }

    /// Whether some of the recording could not be read, or made durable, since the spool was opened:
    /// what is known of it is not all, until [`Spool::try_again`] takes it up.
    pub fn is_known_in_part(&self, recording: RecordingId) -> bool {
        self.recordings
            .get(&recording)
            .is_some_and(|held| held.unread)
    }

    /// Records that the receiver has the recording whole. Its place in the spool's memory is freed.
    /// False, and nothing is believed, while it has not ended, or holds what is neither acknowledged
    /// nor LOST.
    pub fn complete(&mut self, recording: RecordingId) -> Result<bool, Error> {
        let held = self.held(recording)?;
        if held.state.complete {
            return Ok(true);
        }
        let mut tracks = held.state.tracks.values();
        if !held.state.ended || !tracks.all(TrackState::is_settled) {
            self.stats.impossible_completions += 1;
            return Ok(false);
        }
        self.write_complete(recording)?;
        Ok(true)
    }

    /// In a file of its own, with what the receiver holds of each track, so that recovery need read
    /// nothing else of this recording.
    pub(super) fn write_complete(&mut self, recording: RecordingId) -> Result<(), Error> {
        let at = self.wall;
        let held = self.held(recording)?;
        held.roll = true;
        if let Some(opened) = held.state.opened {
            let record = Record::Opened(opened);
            self.write(recording, &record, Promise::Nothing, Weight::Essential)?;
        }
        let tracks = self.held(recording)?.state.tracks.iter();
        let held: Vec<_> = tracks
            .map(|(&id, track)| (id, track.acknowledged.clone()))
            .collect();
        for (track, durable) in held {
            let promise = Promise::Acknowledged(track, durable.clone());
            let record = Record::Durable { track, durable, at };
            self.write(recording, &record, promise, Weight::Essential)?;
        }
        let record = Record::Complete { at };
        self.write(recording, &record, Promise::Complete, Weight::Essential)?;
        #[cfg(test)]
        if self.hasty {
            self.held(recording)?.completed = true;
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
        let segment = self.held(recording)?.state.segment(track, sequence);
        let length = segment.map_or(0, |segment| segment.length);
        let record = Record::Seal {
            track,
            sequence,
            length,
            hash,
        };
        let promise = Promise::Sealed(key, length, hash);
        match self.write(recording, &record, promise.clone(), Weight::Essential) {
            // Without it the segment would be LOST to whoever reads that the recording is over.
            Err(error @ Error::NoSpace { .. }) => {
                ::log::warn!("{error}; the seal of {key} is owed");
                self.held(recording)?.owe(&record, promise);
                Ok(())
            }
            written => written,
        }
    }

    pub(super) fn held(&mut self, recording: RecordingId) -> Result<&mut Held, Error> {
        let absent = Error::NotHeld {
            key: SegmentKey {
                recording,
                track: TrackId::EVENTS,
                sequence: 0,
            },
            offset: 0,
            length: 0,
        };
        self.recordings.get_mut(&recording).ok_or(absent)
    }

    pub(super) fn directory_of(&self, recording: RecordingId) -> PathBuf {
        self.config.directory.join(recording.to_string())
    }

    pub(super) fn log_path(&self, recording: RecordingId, number: u64) -> PathBuf {
        log_path(&self.directory_of(recording), number)
    }
}

/// The path of a log file of the recording in `directory`.
pub(super) fn log_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:08}.log"))
}
