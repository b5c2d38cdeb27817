//! What a receiver's word is worth: each is checked in full before any of it counts.
//!
//! A segment is freed by the hash of its own bytes and by nothing else. A number that the receiver
//! holds under another hash, or that this box has not finished, was sent by another machine with a copy
//! of its card, or by this one before an older copy was put back: of that recording nothing is sent or
//! freed. A number without a hash says nothing: its segment is sent again.

use super::segment::Phase;
use super::{Breach, Link, Session, Track};
use crate::media::{Hash, Monotonic, RecordingId, SegmentKey, TrackId, WallClock};
use crate::uplink::{Action, Report};
use crate::wire::message::{self, Message, SegmentHash, Welcome};
use crate::wire::{ErrorCode, MAX_RANGES, Range, Sequences};
use std::collections::BTreeMap;

/// What a receiver says that it holds of a track.
#[derive(Clone, Default)]
pub(super) struct Held {
    durable: Sequences,
    hashes: BTreeMap<u64, Hash>,
}

impl Held {
    fn add(&mut self, durable: &Sequences, hashes: &[SegmentHash]) {
        self.durable.merge(durable);
        let hashes = hashes.iter().map(|held| (held.sequence, held.hash));
        self.hashes.extend(hashes);
    }
}

impl Session {
    pub(super) fn welcome(&mut self, welcome: &Welcome, now: Monotonic) -> Result<(), Breach> {
        let mut held = self.read_welcome(welcome)?;
        let unknown = |id: &&RecordingId| !self.greeted.contains(*id) && !self.was_ours(**id);
        if let Some(id) = welcome.complete.iter().chain(&welcome.erased).find(unknown) {
            return Err(Breach(format!("recording {id} was never offered")));
        }
        self.link = Link::Up;
        self.budget = welcome
            .limits
            .backfill
            .map_or(self.config.backfill, |most| {
                most.clamp(1, self.config.backfill)
            });
        self.out.push_back(Action::Report(Report::Connected));
        if let Some(told) = welcome.clock
            && let Some(error) = told.uncertainty
        {
            // It was read at some time between our greeting and now.
            let half = now.since(self.greeted_at) / 2;
            let nanos = i64::try_from(half.as_nanos()).unwrap_or(i64::MAX);
            let wall = WallClock {
                unix_nanos: told.unix_nanos.saturating_add(nanos),
                uncertainty: Some(error.saturating_add(half)),
            };
            let clock = Report::Clock { wall, at: now };
            self.out.push_back(Action::Report(clock));
        }
        for recording in &welcome.erased {
            self.erase(*recording);
        }
        self.doubt(welcome, &held);
        held.retain(|(recording, _), _| {
            self.recordings.contains_key(recording) && !self.held_back.contains(recording)
        });
        for ((recording, track), held) in held {
            self.resume(recording, track, &held, welcome.abridged);
        }
        for recording in &welcome.complete {
            self.complete(*recording);
        }
        for recording in std::mem::take(&mut self.confirm) {
            self.confirm_erased(recording);
        }
        let open = self
            .recordings
            .iter()
            .filter(|(id, known)| !known.complete && !self.held_back.contains(id));
        let told = open.flat_map(|(_, known)| known.lost.iter().filter(|lost| !lost.is_fact));
        let lost: Vec<_> = told.map(|lost| Message::Lost(lost.range)).collect();
        self.out.extend(lost.into_iter().map(Action::Control));
        self.age(now);
        let keys: Vec<_> = self.segments.keys().copied().collect();
        keys.into_iter().for_each(|key| self.rebuild_places_of(key));
        Ok(())
    }

    /// The segments that the `Welcome` names by their hashes and that are neither known as durable nor on
    /// offer now: the station knows their hashes.
    pub(super) fn unjudged(&self, welcome: &Welcome) -> Vec<SegmentKey> {
        let mut keys = Vec::new();
        for held in &welcome.recordings {
            let recording = held.recording;
            let Some(known) = self.recordings.get(&recording) else {
                continue;
            };
            for told in &held.tracks {
                let track = told.track;
                let Some(known) = known.tracks.get(&track) else {
                    continue;
                };
                let lost = self.lost_of(recording, track);
                let key = |told: &SegmentHash| SegmentKey {
                    recording,
                    track,
                    sequence: told.sequence,
                };
                keys.extend(told.hashes.iter().map(key).filter(|key| {
                    key.sequence < known.end
                        && !known.durable.contains(key.sequence)
                        && !lost.contains(key.sequence)
                        && !self.segments.contains_key(key)
                }));
            }
        }
        keys
    }

    pub(super) fn was_ours(&self, recording: RecordingId) -> bool {
        self.forgotten.contains(&recording) || self.erased.contains(&recording)
    }

    /// Holds back each recording of which the `Welcome` claims what it cannot have from this box.
    fn doubt(&mut self, welcome: &Welcome, held: &BTreeMap<(RecordingId, TrackId), Held>) {
        let mut doubted = BTreeMap::new();
        for ((recording, track), held) in held {
            if let Err(why) = self.freed_by(*recording, *track, held) {
                doubted.insert(*recording, why);
            }
        }
        for recording in &welcome.complete {
            let covered = |id, known: &Track| {
                let held = held.get(&(*recording, id));
                let mut covered = held.map(|held| held.durable.clone()).unwrap_or_default();
                covered.merge(&known.durable);
                covered
            };
            if !self.is_complete(*recording)
                && let Some(track) = self.lacks(*recording, covered)
            {
                let held = held.get(&(*recording, track));
                let held = held.map(|held| held.durable.clone()).unwrap_or_default();
                let why = ahead(*recording, track, held);
                doubted.entry(*recording).or_insert(why);
            }
        }
        for (recording, why) in doubted {
            if !self.was_ours(recording) {
                self.hold_back(recording, why);
            }
        }
    }

    /// Takes up a track where the receiver says that it stands.
    fn resume(&mut self, recording: RecordingId, track: TrackId, told: &Held, abridged: bool) {
        let Ok(taken) = self.free(recording, track, told) else {
            return;
        };
        let mut held = told.durable.clone();
        let known = self.track(recording, track);
        // What a message had no room for is not forgotten.
        let told = match held.ranges().last() {
            _ if abridged => Some(held.cumulative()),
            Some(last) if held.ranges().len() >= MAX_RANGES => Some(last.last),
            _ => None,
        };
        if let Some(told) = told {
            held.merge(&known.durable.beyond(told));
        }
        let kept = held.within(&known.durable);
        let forgot = kept != known.durable;
        let mut durable = kept.clone();
        durable.merge(&taken);
        known.durable = durable.clone();
        let changed = durable != kept;
        if forgot {
            if let Some(recording) = self.recordings.get_mut(&recording) {
                recording.complete = false;
            }
            self.out.push_back(Action::Report(Report::Forgot {
                recording,
                track,
                held: kept,
            }));
        }
        if changed {
            self.out.push_back(Action::Report(Report::Durable {
                recording,
                track,
                durable,
            }));
        }
    }

    /// What the receiver holds of every track that `Hello` named; nothing where it says nothing.
    fn read_welcome(
        &self,
        welcome: &Welcome,
    ) -> Result<BTreeMap<(RecordingId, TrackId), Held>, Breach> {
        let mut held = BTreeMap::new();
        for recording in &self.greeted {
            let tracks = self
                .recordings
                .get(recording)
                .map(|known| known.tracks.keys());
            for track in tracks.into_iter().flatten() {
                held.insert((*recording, *track), Held::default());
            }
        }
        for (recording, of_it) in welcome.recordings.iter().map(|r| (r.recording, &r.tracks)) {
            if !self.greeted.contains(&recording) {
                return Err(Breach(format!("recording {recording} was never offered")));
            }
            for track in of_it {
                let of_track: &mut Held = held.entry((recording, track.track)).or_default();
                of_track.add(&track.durable, &track.hashes);
            }
        }
        Ok(held)
    }

    pub(super) fn mark_received(&mut self, received: &message::Received) -> Result<(), Breach> {
        let (key, offset) = (received.key, received.offset);
        if self.is_past(key.recording) {
            return Ok(());
        }
        let Some(segment) = self.segments.get_mut(&key) else {
            let durable = self
                .recordings
                .get(&key.recording)
                .and_then(|recording| recording.tracks.get(&key.track))
                .is_some_and(|track| track.durable.contains(key.sequence));
            // A word that crossed DURABLE or LOST on the way.
            if durable
                || self
                    .lost_of(key.recording, key.track)
                    .contains(key.sequence)
            {
                return Ok(());
            }
            return Err(Breach(format!("segment {key} was never sent")));
        };
        // After a stopped stream a word about it may still be on the way.
        let restarted = matches!(segment.phase, Phase::Parked(_) | Phase::Idle);
        if offset > segment.high {
            return Err(Breach(format!(
                "byte {offset} of segment {key} was never sent"
            )));
        }
        // Said of its stream before: streams and messages overtake each other.
        if offset > segment.sent && !restarted {
            return Ok(());
        }
        if !restarted {
            self.out
                .push_back(Action::Report(Report::Received { key, offset }));
            segment.mark_received(offset);
            if segment.waiting_since().is_none() && segment.phase == Phase::Finished {
                self.live.remove(&key);
            }
            self.place(key);
        }
        Ok(())
    }

    pub(super) fn durable(&mut self, message: &message::Durable) -> Result<(), Breach> {
        let (recording, track) = (message.recording, message.track);
        if self.is_past(recording) {
            return Ok(());
        }
        if !self.recordings.contains_key(&recording) {
            return Err(Breach(format!("recording {recording} was never offered")));
        }
        let mut told = Held::default();
        told.add(&message.durable, &message.hashes);
        // A list of ranges may have no room for it.
        let named = message.hashes.iter().map(|held| held.sequence);
        named.for_each(|sequence| told.durable.insert(sequence));
        let taken = match self.free(recording, track, &told) {
            Ok(taken) => taken,
            Err(why) => {
                self.hold_back(recording, why);
                return Ok(());
            }
        };
        let known = self.track(recording, track);
        let before = known.durable.clone();
        known.durable.merge(&taken);
        let durable = known.durable.clone();
        if durable != before {
            self.out.push_back(Action::Report(Report::Durable {
                recording,
                track,
                durable,
            }));
        }
        if self.recordings.get(&recording).is_some_and(|r| r.claimed) {
            self.complete(recording);
        }
        Ok(())
    }

    /// The numbers of a track that will never come from this box (any more).
    fn lost_of(&self, recording: RecordingId, track: TrackId) -> Sequences {
        let mut numbers = Sequences::default();
        let known = self.recordings.get(&recording);
        let lost = known.into_iter().flat_map(|known| &known.lost);
        for lost in lost.filter(|lost| lost.range.track == track) {
            let (first, last) = (lost.range.first, lost.range.last);
            numbers.insert_range(Range { first, last });
        }
        numbers
    }

    /// A track of which not all that was used, offered or not, is in what `covered` gives, or LOST.
    fn lacks(
        &self,
        recording: RecordingId,
        covered: impl Fn(TrackId, &Track) -> Sequences,
    ) -> Option<TrackId> {
        let known = self.recordings.get(&recording)?;
        let lacks = |(id, track): &(&TrackId, &Track)| {
            let mut covered = covered(**id, track);
            covered.merge(&self.lost_of(recording, **id));
            covered.cumulative() < track.end
        };
        known.tracks.iter().find(lacks).map(|(id, _)| *id)
    }

    fn is_complete(&self, recording: RecordingId) -> bool {
        let known = self.recordings.get(&recording);
        known.is_some_and(|known| known.complete)
    }

    /// A word on it has no effect (any more) on this connection.
    fn is_past(&self, recording: RecordingId) -> bool {
        self.was_ours(recording) || self.held_back.contains(&recording)
    }

    /// Frees what the receiver proves to hold, and gives the numbers that are settled by it: those, and
    /// what it holds although it is lost here.
    fn free(
        &mut self,
        recording: RecordingId,
        track: TrackId,
        held: &Held,
    ) -> Result<Sequences, Report> {
        let freed = self.freed_by(recording, track, held)?;
        let mut settled = held.durable.within(&self.lost_of(recording, track));
        for key in freed {
            settled.insert(key.sequence);
            self.drop_segment(key);
        }
        Ok(settled)
    }

    /// The segments of which the receiver names the hash, unless it holds what is not from this box.
    fn freed_by(
        &self,
        recording: RecordingId,
        track: TrackId,
        held: &Held,
    ) -> Result<Vec<SegmentKey>, Report> {
        let known = self.recordings.get(&recording);
        let known = known.and_then(|known| known.tracks.get(&track));
        let mut is_ahead = known.is_none_or(|known| held.durable.end() > known.end);
        let key = |sequence| SegmentKey {
            recording,
            track,
            sequence,
        };
        let mut freed = Vec::new();
        for range in held.durable.parts() {
            for (&key, segment) in self.segments.range(key(range.first)..=key(range.last)) {
                let Some((_, own)) = segment.seal else {
                    is_ahead = true;
                    continue;
                };
                match held.hashes.get(&key.sequence) {
                    Some(theirs) if *theirs == own => freed.push(key),
                    Some(_) => {
                        let code = ErrorCode::CONFLICT;
                        return Err(Report::Refused { key, code });
                    }
                    None => {}
                }
            }
        }
        for (&sequence, theirs) in &held.hashes {
            let key = key(sequence);
            match self.hashes.get(&key) {
                Some(own) if own == theirs => freed.push(key),
                Some(_) => {
                    let code = ErrorCode::CONFLICT;
                    return Err(Report::Refused { key, code });
                }
                None => {}
            }
        }
        match is_ahead {
            true => Err(ahead(recording, track, held.durable.clone())),
            false => Ok(freed),
        }
    }

    pub(super) fn complete_said(&mut self, recording: RecordingId) -> Result<(), Breach> {
        if !self.recordings.contains_key(&recording) && !self.is_past(recording) {
            return Err(Breach(format!("recording {recording} was never offered")));
        }
        self.complete(recording);
        Ok(())
    }

    pub(super) fn complete(&mut self, recording: RecordingId) {
        if self.is_past(recording) || self.is_complete(recording) {
            return;
        }
        let keys = self.keys_of(recording);
        let open = |key: &&SegmentKey| self.segments.get(key).is_some_and(|s| s.seal.is_none());
        if let Some(track) = keys.iter().find(open).map(|key| key.track) {
            let known = self.track(recording, track).durable.clone();
            return self.hold_back(recording, ahead(recording, track, known));
        }
        let lacks = self.lacks(recording, |_, known| known.durable.clone());
        let Some(known) = self.recordings.get_mut(&recording) else {
            return;
        };
        known.claimed = lacks.is_some();
        if !known.claimed {
            (known.complete, known.asked) = (true, self.greetings);
            self.out
                .push_back(Action::Report(Report::Complete { recording }));
        }
    }
}

/// The receiver claims what this box never sent whole.
fn ahead(recording: RecordingId, track: TrackId, held: Sequences) -> Report {
    Report::Ahead {
        recording,
        track,
        held,
    }
}
