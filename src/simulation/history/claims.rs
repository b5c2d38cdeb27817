//! What a box claims: what it segmented, kept, sent, sealed and gave up.

use super::*;

impl History {
    pub(super) fn segmented(&mut self, key: SegmentKey, offset: u64, bytes: &[u8]) {
        self.counts.bytes_segmented += bytes.len() as u64;
        let used = self.trailers.contains_key(&key) || self.objects.contains_key(&key);
        // Of an erased one a crash may leave a part; nothing of it is taken any more.
        let disputed = self.is_contested(key.recording) || self.erased.contains(&key.recording);
        let lives = self.lives.entry(key).or_default();
        if offset == 0 {
            let kept = lives.iter().any(|life| life.kept > 0 || !life.closed);
            lives.push(Life::default());
            self.counts.segments += 1;
            if (used || kept) && !disputed {
                self.breach(format!("{key} is used for a second content"));
                return;
            }
        }
        let last = lives.last_mut();
        match last.filter(|life| !life.closed && life.content.len() as u64 == offset) {
            Some(life) => life.content.extend(bytes),
            None => self.breach(format!(
                "{key} is continued at {offset}, where it does not end"
            )),
        }
    }

    pub(super) fn kept(&mut self, key: SegmentKey, bytes: u64) {
        let life = self.lives.get_mut(&key).and_then(|lives| lives.last_mut());
        match life.filter(|life| bytes <= life.content.len() as u64) {
            Some(life) => life.kept = life.kept.max(bytes),
            None => self.breach(format!(
                "{bytes} bytes of {key} are kept that were never made"
            )),
        }
    }

    pub(super) fn restarted(
        &mut self,
        held: &[(SegmentKey, u64)],
        acknowledged: &[(RecordingId, TrackId, Sequences)],
    ) {
        let held: BTreeMap<_, _> = held.iter().copied().collect();
        let recorded: BTreeMap<_, _> = acknowledged
            .iter()
            .map(|(recording, track, durable)| ((*recording, *track), durable))
            .collect();
        let known: BTreeSet<RecordingId> = held
            .keys()
            .map(|key| key.recording)
            .chain(recorded.keys().map(|(recording, _)| *recording))
            .collect();
        let mut breaches = Vec::new();
        for (key, lives) in &mut self.lives {
            let has = held.get(key).copied().unwrap_or(0);
            let acknowledged = recorded
                .get(&(key.recording, key.track))
                .is_some_and(|durable| durable.contains(key.sequence));
            let excused = acknowledged
                || self.damaged.contains(&key.recording)
                || self.erased.contains(&key.recording)
                || self.disputed.contains(&key.recording)
                // All of it was released.
                || !known.contains(&key.recording) && self.released.contains(key)
                // Released, and then forgotten by a receiver whose store was restored.
                || self.receiver_restored && self.released.contains(key);
            let Some(life) = lives.last_mut() else {
                continue;
            };
            if has < life.kept && !excused {
                breaches.push(format!(
                    "a restart finds {has} bytes of {key}, {} were kept",
                    life.kept
                ));
            }
            if has > life.content.len() as u64 {
                breaches.push(format!("a restart finds {has} bytes of {key}: never made"));
            }
            // What recovery found it has made durable.
            life.kept = life.kept.max(has.min(life.content.len() as u64));
        }
        for ((recording, track), durable) in recorded {
            let total = self.lives.keys().filter(|key| {
                (key.recording, key.track) == (recording, track) && durable.contains(key.sequence)
            });
            for key in total {
                let heard = self.heard.get(&(recording, track));
                if !heard.is_some_and(|heard| heard.contains(key.sequence))
                    && !self.disputed.contains(&recording)
                {
                    breaches.push(format!("the box recorded {key} as durable: never said"));
                }
            }
        }
        self.breaches.extend(breaches);
    }

    /// Bytes that left must be what was segmented under that number most lately.
    pub(super) fn compare(&mut self, who: &str, key: SegmentKey, offset: u64, bytes: &[u8]) {
        let lives = self.lives.get(&key).map_or(&[][..], Vec::as_slice);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let matches = |life: &Life| {
            let end = from.saturating_add(bytes.len());
            life.content.get(from..end) == Some(bytes)
        };
        if !lives.iter().rev().any(matches) {
            let length = bytes.len();
            self.breach(format!(
                "{who} {length} bytes of {key} from {offset} that were never segmented there"
            ));
        }
    }

    pub(super) fn sent(&mut self, key: SegmentKey, offset: u64, bytes: &[u8], bulk: bool) {
        self.counts.bytes_sent += bytes.len() as u64;
        self.compare("the box sent", key, offset, bytes);
        if offset == 0 {
            self.flights.remove(&key);
        }
        let flight = self.flights.entry(key).or_default();
        flight.bulk |= bulk;
        if flight.sent != offset {
            let sent = flight.sent;
            self.breach(format!("{key}: {offset} follows byte {sent} on its stream"));
        }
        let end = offset + bytes.len() as u64;
        let high = self.highs.entry(key).or_default();
        *high = end.max(*high);
        if let Some(flight) = self.flights.get_mut(&key) {
            flight.sent = end;
        }
        let open: Vec<u64> = self
            .flights
            .iter()
            // Whether what was erased arrives nobody asks any more.
            .filter(|(key, flight)| flight.bulk && !self.erased.contains(&key.recording))
            .map(|(_, flight)| flight.sent.saturating_sub(flight.received))
            .filter(|bytes| *bytes > 0)
            .collect();
        let sum: u64 = open.iter().sum();
        if let Some(bound) = self.bound
            && bulk
            && sum > bound
            && open.len() > 1
        {
            self.breach(format!(
                "{sum} bytes of backfill are sent and not RECEIVED, more than {bound}"
            ));
        }
    }

    pub(super) fn trailer(&mut self, key: SegmentKey, length: u64, hash: Hash) {
        let lives = self.lives.entry(key).or_default();
        let made = lives.last_mut().is_some_and(|life| {
            let kept = life.kept >= length;
            let same = life.hash(length) == Some(hash);
            kept && same
        });
        if !made && !self.disputed.contains(&key.recording) {
            self.breach(format!(
                "the trailer of {key} covers {length} bytes that are not kept, or not those segmented"
            ));
        }
        let before = self.trailers.insert(key, (length, hash));
        if before.is_some_and(|before| before != (length, hash))
            && !self.disputed.contains(&key.recording)
            && !self.damaged.contains(&key.recording)
        {
            self.breach(format!("{key} is used for two contents: two trailers left"));
        }
    }

    pub(super) fn lost(&mut self, key: SegmentKey, reason: LostReason) {
        self.counts.lost += 1;
        let kept = self
            .lives
            .get(&key)
            .and_then(|lives| lives.last())
            .is_some_and(|life| life.kept > 0);
        let happened = match reason {
            // Without anything kept a crash is reason enough: a number was used and its bytes torn.
            LostReason::Damaged => {
                self.damaged.contains(&key.recording) || !kept && self.counts.box_crashes > 0
            }
            LostReason::NoSpace => self.disk_full,
            LostReason::ReceiverForgot => self.receiver_restored && self.released.contains(&key),
        };
        if !happened && !self.disputed.contains(&key.recording) {
            self.breach(format!(
                "{key} is LOST for a reason that never was: {reason:?}"
            ));
        }
        self.lost
            .entry((key.recording, key.track))
            .or_default()
            .insert(key.sequence);
    }
}
