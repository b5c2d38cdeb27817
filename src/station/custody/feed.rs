//! What of the spool the uplink has been offered: what is recorded now at once, the past by a window,
//! oldest first. What it costs the uplink to know of a segment does not grow with the backlog.
//!
//! Every segment that the receiver lacks is either offered, or is behind the mark of its track and
//! found by [`Feed::next`] when there is room.

use crate::media::{RecordingId, SegmentKey, Sequences, TrackId};
use crate::spool::Spool;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Debug)]
pub(super) struct Feed {
    /// Segments offered and not durable before the past waits; of what is recorded now, on a
    /// connection, as many again.
    window: usize,
    connected: bool,
    /// Offered, and not durable as far as is known.
    offered: BTreeMap<RecordingId, BTreeSet<(TrackId, u64)>>,
    /// Where the search for the next one to offer begins, of each track that may have one.
    marks: BTreeMap<RecordingId, BTreeMap<TrackId, u64>>,
    /// On this connection nothing of these is sent: they do not take the others' room.
    held_back: BTreeSet<RecordingId>,
}

impl Feed {
    pub fn new(window: usize) -> Self {
        Self {
            window: window.max(1),
            connected: false,
            offered: BTreeMap::new(),
            marks: BTreeMap::new(),
            held_back: BTreeSet::new(),
        }
    }

    /// Segments offered and not durable, but for those of recordings that are held back.
    fn count(&self) -> usize {
        let counts = |recording: &&RecordingId| !self.held_back.contains(*recording);
        let of = self.offered.iter().filter(|(id, _)| counts(id));
        of.map(|(_, segments)| segments.len()).sum()
    }

    pub fn is_offered(&self, key: SegmentKey) -> bool {
        let of = self.offered.get(&key.recording);
        of.is_some_and(|segments| segments.contains(&(key.track, key.sequence)))
    }

    /// Whether a segment that is being recorded is offered now; otherwise it is found once it is sealed.
    pub fn takes_live(&mut self, key: SegmentKey) -> bool {
        let most = match self.connected {
            true => 2 * self.window,
            false => self.window,
        };
        let takes = self.count() < most && !self.held_back.contains(&key.recording);
        if takes {
            self.take(key);
        }
        takes
    }

    fn take(&mut self, key: SegmentKey) {
        let of = self.offered.entry(key.recording).or_default();
        of.insert((key.track, key.sequence));
    }

    /// This one, or later ones of its track, are in the spool and not offered.
    pub fn waits(&mut self, key: SegmentKey) {
        let tracks = self.marks.entry(key.recording).or_default();
        let mark = tracks.entry(key.track).or_insert(key.sequence);
        *mark = key.sequence.min(*mark);
    }

    /// The oldest segment that is not offered, if there is room; it counts as offered from now on.
    /// Recordings by age, and in each what was written first, whatever its track.
    pub fn next(&mut self, spool: &Spool) -> Option<SegmentKey> {
        while self.count() < self.window {
            let age = |id: &RecordingId| {
                let opened = spool.state(*id).and_then(|state| state.opened);
                opened.map(|opened| (opened.epoch, opened.wall_nanos))
            };
            let sent = self.marks.keys().filter(|id| !self.held_back.contains(id));
            let recording = *sent.min_by_key(|id| age(id))?;
            match self.oldest_of(recording, spool) {
                Some(key) => {
                    self.take(key);
                    return Some(key);
                }
                None => drop(self.marks.remove(&recording)),
            }
        }
        None
    }

    fn oldest_of(&mut self, recording: RecordingId, spool: &Spool) -> Option<SegmentKey> {
        let state = spool.state(recording)?;
        let tracks = self.marks.get_mut(&recording)?;
        let offered = self.offered.get(&recording);
        let mut oldest = None;
        tracks.retain(|&track, mark| {
            let of = state.tracks.get(&track);
            let mut waiting = of.into_iter().flat_map(|of| of.waiting_from(*mark));
            let next = waiting.find_map(|(sequence, segment)| {
                let key = SegmentKey {
                    recording,
                    track,
                    sequence,
                };
                let is_offered =
                    || offered.is_some_and(|offered| offered.contains(&(track, sequence)));
                // One whose seal is not kept is told of once it is.
                let may_go = segment.seal_kept && !is_offered();
                may_go.then_some((segment.written_at(), key))
            });
            let Some((written, key)) = next else {
                return false;
            };
            *mark = key.sequence;
            if oldest.is_none_or(|(before, _)| written < before) {
                oldest = Some((written, key));
            }
            true
        });
        oldest.map(|(_, key)| key)
    }

    /// The receiver has these, and nothing need be offered of them.
    pub fn durable(&mut self, recording: RecordingId, track: TrackId, durable: &Sequences) {
        if let Some(segments) = self.offered.get_mut(&recording) {
            segments.retain(|(of, sequence)| *of != track || !durable.contains(*sequence));
        }
        self.tidy(recording);
    }

    /// These will never come.
    pub fn lost(&mut self, recording: RecordingId, track: TrackId, (first, last): (u64, u64)) {
        if let Some(segments) = self.offered.get_mut(&recording) {
            let gone = |sequence: u64| (first..=last).contains(&sequence);
            segments.retain(|(of, sequence)| *of != track || !gone(*sequence));
        }
        self.tidy(recording);
    }

    fn tidy(&mut self, recording: RecordingId) {
        if self.offered.get(&recording).is_some_and(BTreeSet::is_empty) {
            self.offered.remove(&recording);
        }
    }

    /// Nothing of the recording is offered any more.
    pub fn forget(&mut self, recording: RecordingId) {
        self.offered.remove(&recording);
        self.marks.remove(&recording);
        self.held_back.remove(&recording);
    }

    pub fn hold_back(&mut self, recording: RecordingId) {
        self.held_back.insert(recording);
    }

    /// A connection stands, or is gone: what was held back is judged anew.
    pub fn connected(&mut self, connected: bool) {
        self.connected = connected;
        self.held_back.clear();
    }
}
