//! What a listing of the receiver's store bears out, and the verdict at the end.

use super::*;

impl History {
    pub(super) fn store(&mut self, objects: &[Object], complete: Vec<RecordingId>) {
        self.counts.listings += 1;
        let excused = std::mem::take(&mut self.excused);
        let mut found = BTreeMap::new();
        for &(key, length, hash) in objects {
            if found.insert(key, (length, hash)).is_some() {
                self.breach(format!("the object {key} exists twice"));
            }
            let before = self.objects.get(&key);
            if before.is_some_and(|before| *before != (length, hash)) {
                self.breach(format!("the object {key} was altered"));
            }
            let disputed = self.is_contested(key.recording);
            let made = self.made((key, length, hash));
            if !made && !disputed {
                self.breach(format!(
                    "the object {key} of {length} bytes is not what was segmented and kept"
                ));
            }
        }
        for &(key, hash) in &self.owed.clone() {
            // A store without them may have taken the other's.
            let excused = self.receiver_restored && self.is_contested(key.recording);
            if found.get(&key).is_some_and(|object| object.1 != hash) && !excused {
                self.breach(format!(
                    "{key} was let go for an acknowledgement of other bytes"
                ));
            }
        }
        if excused {
            self.complete
                .retain(|recording| complete.contains(recording));
            for (&(recording, track), said) in &mut self.said {
                let mut left = Sequences::default();
                found
                    .keys()
                    .filter(|key| (key.recording, key.track) == (recording, track))
                    .filter(|key| said.contains(key.sequence))
                    .for_each(|key| left.insert(key.sequence));
                *said = left;
            }
        } else {
            let missing: Vec<_> = self
                .lives
                .keys()
                .filter(|key| self.was_said(**key) && !found.contains_key(*key))
                .filter(|key| !self.erased.contains(&key.recording))
                .copied()
                .collect();
            for key in missing {
                self.breach(format!("false DURABLE: the store does not hold {key}"));
            }
            let unlisted: Vec<_> = self
                .complete
                .iter()
                .filter(|recording| !complete.contains(recording))
                .copied()
                .collect();
            for recording in unlisted {
                self.breach(format!("false COMPLETE: {recording} has no manifest"));
            }
        }
        self.objects = found;
        self.listed_complete = complete.into_iter().collect();
        for recording in self
            .listed_complete
            .iter()
            .filter(|id| !self.is_contested(**id))
            .copied()
            .collect::<Vec<_>>()
        {
            if let Some(what) = self.incomplete(recording) {
                self.breach(format!("false COMPLETE: {what}"));
            }
        }
    }

    /// The first number of an ended recording that is neither stored nor LOST.
    pub(super) fn incomplete(&self, recording: RecordingId) -> Option<String> {
        let Some(totals) = self.ended.get(&recording) else {
            return Some(format!("{recording} has not ended"));
        };
        for (&track, &total) in totals {
            for sequence in 0..total {
                let key = SegmentKey {
                    recording,
                    track,
                    sequence,
                };
                let lost = self.lost.get(&(recording, track));
                if !self.objects.contains_key(&key)
                    && !lost.is_some_and(|lost| lost.contains(sequence))
                {
                    return Some(format!("{key} is neither stored nor LOST"));
                }
            }
        }
        None
    }

    pub(super) fn end_is_lost(&self, recording: RecordingId) -> bool {
        let totals = self.ended.get(&recording);
        let events = totals.and_then(|totals| totals.get(&TrackId::EVENTS));
        let lost = self.lost.get(&(recording, TrackId::EVENTS));
        let last = events.and_then(|total| total.checked_sub(1));
        lost.zip(last)
            .is_some_and(|(lost, last)| lost.contains(last))
    }

    /// The verdict over a run that has settled: every fault is over, everything had time to arrive,
    /// and the last listing was noted.
    pub fn judge(&mut self) -> Result<(), Vec<String>> {
        let mut found = std::mem::take(&mut self.breaches);
        if let Some(key) = self
            .objects
            .keys()
            .find(|key| self.erased.contains(&key.recording))
        {
            found.push(format!("{key} is stored after its recording was erased"));
        }
        let made: BTreeSet<RecordingId> = self
            .lives
            .iter()
            .filter(|(_, lives)| lives.iter().any(|life| life.kept > 0))
            .map(|(key, _)| key.recording)
            .collect();
        for recording in made {
            let excused = self.erased.contains(&recording) || self.is_contested(recording);
            if excused || self.receiver_restored && self.has_left(recording) {
                continue;
            }
            match self.incomplete(recording) {
                Some(what) => found.push(format!("not complete: {what}")),
                // Without its last fact nobody can know that it ended.
                None if self.end_is_lost(recording) => {}
                None if !self.listed_complete.contains(&recording) => {
                    found.push(format!("{recording} is all there and has no manifest"));
                }
                None => {}
            }
            let totals = self.ended.get(&recording).cloned().unwrap_or_default();
            for (key, lives) in &self.lives {
                let Some(life) = lives.last() else { continue };
                let beyond = totals
                    .get(&key.track)
                    .is_none_or(|total| key.sequence >= *total);
                if key.recording == recording && life.kept > 0 && beyond {
                    found.push(format!(
                        "{key} was kept and lies beyond the recording's end"
                    ));
                }
                // A segment that no crash cut is whole.
                if let Some((length, _)) = self.objects.get(key)
                    && key.recording == recording
                    && (*length < life.kept || !life.closed && *length < life.content.len() as u64)
                {
                    found.push(format!(
                        "the object {key} has {length} bytes of {}, {} of them kept",
                        life.content.len(),
                        life.kept
                    ));
                }
            }
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    }
}
