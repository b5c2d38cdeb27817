//! What a receiver's word is worth: each is checked in full before any of it counts.

use super::segment::Phase;
use super::{Breach, Link, Session};
use crate::media::{Monotonic, RecordingId, SegmentKey, TrackId};
use crate::uplink::{Action, Report};
use crate::wire::message::{self, Welcome};
use crate::wire::{Range, Sequences};
use std::collections::BTreeMap;

impl Session {
    pub(super) fn welcome(&mut self, welcome: &Welcome, now: Monotonic) -> Result<(), Breach> {
        let held = self.read_welcome(welcome)?;
        for (recording, track, sequences) in &held {
            self.freed_by(*recording, *track, sequences)?;
        }
        for recording in &welcome.complete {
            self.check_complete(*recording, &held)?;
        }
        self.link = Link::Up;
        self.budget = welcome
            .limits
            .backfill
            .map_or(self.config.backfill, |most| {
                most.clamp(1, self.config.backfill)
            });
        self.out.push_back(Action::Report(Report::Connected));
        for (recording, track, sequences) in held {
            self.free(recording, track, &sequences)?;
            let known = self.track(recording, track);
            let mut both = sequences.clone();
            both.merge(&known.durable);
            let (changed, forgot) = (known.durable != sequences, both != sequences);
            known.durable = sequences.clone();
            if forgot {
                self.out.push_back(Action::Report(Report::Forgot {
                    recording,
                    track,
                    held: sequences,
                }));
            } else if changed {
                self.out.push_back(Action::Report(Report::Durable {
                    recording,
                    track,
                    durable: sequences,
                }));
            }
        }
        for recording in &welcome.complete {
            self.complete(*recording)?;
        }
        self.age(now);
        let keys: Vec<_> = self.segments.keys().copied().collect();
        keys.into_iter().for_each(|key| self.rebuild_places_of(key));
        Ok(())
    }

    /// What the receiver holds of every track that `Hello` named; nothing where it says nothing.
    fn read_welcome(
        &self,
        welcome: &Welcome,
    ) -> Result<Vec<(RecordingId, TrackId, Sequences)>, Breach> {
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
                match held.get_mut(&(recording, track.track)) {
                    Some(sequences) => sequences.merge(&track.durable),
                    None if self.forgotten.contains(&recording) => {}
                    None => {
                        let text = format!("track {} of {recording} does not exist", track.track);
                        return Err(Breach(text));
                    }
                }
            }
        }
        Ok(held
            .into_iter()
            .map(|((recording, track), sequences)| (recording, track, sequences))
            .collect())
    }

    fn check_complete(
        &self,
        recording: RecordingId,
        held: &[(RecordingId, TrackId, Sequences)],
    ) -> Result<(), Breach> {
        if self.forgotten.contains(&recording) {
            return Ok(());
        }
        if !self.greeted.contains(&recording) {
            return Err(Breach(format!("recording {recording} was never offered")));
        }
        let missing = self.keys_of(recording).into_iter().find(|key| {
            !held.iter().any(|(recording, track, sequences)| {
                (*recording, *track) == (key.recording, key.track)
                    && sequences.contains(key.sequence)
            })
        });
        match missing {
            Some(key) => Err(Breach(format!("{recording} is not complete without {key}"))),
            None => Ok(()),
        }
    }

    pub(super) fn mark_received(&mut self, received: &message::Received) -> Result<(), Breach> {
        let (key, offset) = (received.key, received.offset);
        let Some(segment) = self.segments.get_mut(&key) else {
            let durable = self
                .recordings
                .get(&key.recording)
                .and_then(|recording| recording.tracks.get(&key.track))
                .is_some_and(|track| track.durable.contains(key.sequence));
            // A word that crossed DURABLE or our forgetting on the way.
            if durable || self.forgotten.contains(&key.recording) {
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
        if self.forgotten.contains(&recording) {
            return Ok(());
        }
        self.free(recording, track, &message.durable)?;
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

    /// The segments that `durable` frees, once every number in it was found believable.
    fn freed_by(
        &self,
        recording: RecordingId,
        track: TrackId,
        durable: &Sequences,
    ) -> Result<Vec<SegmentKey>, Breach> {
        let known = self
            .recordings
            .get(&recording)
            .and_then(|known| known.tracks.get(&track));
        let Some(known) = known else {
            return Err(Breach(format!("track {track} of {recording} is unknown")));
        };
        if durable.end() > known.end {
            return Err(Breach(format!(
                "{recording}/{track} has {} segments, not {}",
                known.end,
                durable.end()
            )));
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
                let earlier = key.sequence < known.earlier;
                if segment.seal.is_none() || !segment.trailer_left && !earlier {
                    return Err(Breach(format!("segment {key} was never sent whole")));
                }
                freed.push(*key);
            }
        }
        Ok(freed)
    }

    fn free(
        &mut self,
        recording: RecordingId,
        track: TrackId,
        durable: &Sequences,
    ) -> Result<(), Breach> {
        for key in self.freed_by(recording, track, durable)? {
            self.drop_segment(key);
        }
        Ok(())
    }

    pub(super) fn complete(&mut self, recording: RecordingId) -> Result<(), Breach> {
        if self.forgotten.contains(&recording) {
            return Ok(());
        }
        if let Some(key) = self.keys_of(recording).first() {
            return Err(Breach(format!("{recording} is not complete without {key}")));
        }
        let Some(known) = self.recordings.get_mut(&recording) else {
            return Err(Breach(format!("recording {recording} was never offered")));
        };
        if !std::mem::replace(&mut known.complete, true) {
            self.out
                .push_back(Action::Report(Report::Complete { recording }));
        }
        Ok(())
    }
}
