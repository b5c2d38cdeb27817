//! What a receiver's word is worth: each is checked in full before any of it counts.

use super::segment::Phase;
use super::{Ahead, Breach, Link, Session, Track};
use crate::media::{Monotonic, RecordingId, SegmentKey, TrackId, WallClock};
use crate::uplink::{Action, Report};
use crate::wire::message::{self, Message, Welcome};
use crate::wire::{MAX_RANGES, Range, Sequences};
use std::collections::BTreeMap;

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
        for ((recording, track), sequences) in held {
            self.resume(recording, track, sequences, welcome.abridged);
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

    pub(super) fn was_ours(&self, recording: RecordingId) -> bool {
        self.forgotten.contains(&recording) || self.erased.contains(&recording)
    }

    /// Holds back each recording of which the `Welcome` claims what it cannot have from this box.
    fn doubt(&mut self, welcome: &Welcome, held: &BTreeMap<(RecordingId, TrackId), Sequences>) {
        let mut doubted = BTreeMap::new();
        for ((recording, track), sequences) in held {
            if let Err(Ahead(track)) = self.freed_by(*recording, *track, sequences) {
                doubted.insert(*recording, track);
            }
        }
        for recording in &welcome.complete {
            let of_track = |id, _: &Track| held.get(&(*recording, id)).cloned().unwrap_or_default();
            if !self.is_complete(*recording)
                && let Some(track) = self.lacks(*recording, of_track)
            {
                doubted.entry(*recording).or_insert(track);
            }
        }
        for (recording, track) in doubted {
            if !self.was_ours(recording) {
                let held = held.get(&(recording, track)).cloned().unwrap_or_default();
                self.hold_back(recording, track, held);
            }
        }
    }

    /// Takes up a track where the receiver says that it stands.
    fn resume(
        &mut self,
        recording: RecordingId,
        track: TrackId,
        mut held: Sequences,
        abridged: bool,
    ) {
        let Ok(freed) = self.freed_by(recording, track, &held) else {
            return;
        };
        freed.into_iter().for_each(|key| self.drop_segment(key));
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
        let mut both = held.clone();
        both.merge(&known.durable);
        let (changed, forgot) = (known.durable != held, both != held);
        known.durable = held.clone();
        if forgot {
            if let Some(recording) = self.recordings.get_mut(&recording) {
                recording.complete = false;
            }
            self.out.push_back(Action::Report(Report::Forgot {
                recording,
                track,
                held,
            }));
        } else if changed {
            self.out.push_back(Action::Report(Report::Durable {
                recording,
                track,
                durable: held,
            }));
        }
    }

    /// What the receiver holds of every track that `Hello` named; nothing where it says nothing.
    fn read_welcome(
        &self,
        welcome: &Welcome,
    ) -> Result<BTreeMap<(RecordingId, TrackId), Sequences>, Breach> {
        let mut held = BTreeMap::new();
        for recording in &self.greeted {
            let tracks = self
                .recordings
                .get(recording)
                .map(|known| known.tracks.keys());
            for track in tracks.into_iter().flatten() {
                held.insert((*recording, *track), Sequences::default());
            }
        }
        for (recording, of_it) in welcome.recordings.iter().map(|r| (r.recording, &r.tracks)) {
            if !self.greeted.contains(&recording) {
                return Err(Breach(format!("recording {recording} was never offered")));
            }
            for track in of_it {
                let of_track: &mut Sequences = held.entry((recording, track.track)).or_default();
                of_track.merge(&track.durable);
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
            if durable || self.is_lost(key) {
                return Ok(());
            }
            return Err(Breach(format!("segment {key} was never sent")));
        };
        // After a stopped stream a word about it may still be on the way.
        let restarted = matches!(
            segment.phase,
            Phase::Parked(_) | Phase::Refused | Phase::Idle
        );
        if offset > segment.high || offset > segment.sent && !restarted {
            return Err(Breach(format!(
                "byte {offset} of segment {key} was never sent"
            )));
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
        match self.freed_by(recording, track, &message.durable) {
            Ok(freed) => freed.into_iter().for_each(|key| self.drop_segment(key)),
            Err(Ahead(track)) => {
                self.hold_back(recording, track, message.durable.clone());
                return Ok(());
            }
        }
        let known = self.track(recording, track);
        let before = known.durable.clone();
        known.durable.merge(&message.durable);
        let durable = known.durable.clone();
        if durable != before {
            self.out.push_back(Action::Report(Report::Durable {
                recording,
                track,
                durable,
            }));
        }
        Ok(())
    }

    fn is_lost(&self, key: SegmentKey) -> bool {
        let known = self.recordings.get(&key.recording);
        known.is_some_and(|known| {
            known.lost.iter().any(|lost| {
                let range = lost.range.first..=lost.range.last;
                lost.range.track == key.track && range.contains(&key.sequence)
            })
        })
    }

    fn is_complete(&self, recording: RecordingId) -> bool {
        let known = self.recordings.get(&recording);
        known.is_some_and(|known| known.complete)
    }

    /// A word on it has no effect (any more) on this connection.
    fn is_past(&self, recording: RecordingId) -> bool {
        self.was_ours(recording) || self.held_back.contains(&recording)
    }

    /// The segments that `durable` frees, if the receiver can have every number in it from this box.
    fn freed_by(
        &self,
        recording: RecordingId,
        track: TrackId,
        durable: &Sequences,
    ) -> Result<Vec<SegmentKey>, Ahead> {
        let known = self
            .recordings
            .get(&recording)
            .and_then(|known| known.tracks.get(&track));
        if !known.is_some_and(|known| known.sent.covers(durable)) {
            return Err(Ahead(track));
        }
        let below = durable
            .cumulative()
            .checked_sub(1)
            .map(|last| Range { first: 0, last });
        let key = |sequence| SegmentKey {
            recording,
            track,
            sequence,
        };
        let mut freed = Vec::new();
        for range in below.iter().chain(durable.ranges()) {
            for (key, segment) in self.segments.range(key(range.first)..=key(range.last)) {
                if segment.seal.is_none() {
                    return Err(Ahead(track));
                }
                freed.push(*key);
            }
        }
        Ok(freed)
    }

    pub(super) fn complete_said(&mut self, recording: RecordingId) -> Result<(), Breach> {
        if !self.recordings.contains_key(&recording) && !self.is_past(recording) {
            return Err(Breach(format!("recording {recording} was never offered")));
        }
        self.complete(recording);
        Ok(())
    }

    fn complete(&mut self, recording: RecordingId) {
        if self.is_past(recording) || self.is_complete(recording) {
            return;
        }
        if let Some(track) = self.lacks(recording, |_, known| known.durable.clone()) {
            let known = self.track(recording, track).durable.clone();
            return self.hold_back(recording, track, known);
        }
        if let Some(known) = self.recordings.get_mut(&recording) {
            known.complete = true;
            self.out
                .push_back(Action::Report(Report::Complete { recording }));
        }
    }
}
