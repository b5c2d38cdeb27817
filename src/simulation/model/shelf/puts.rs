//! What is put into the store, and what is answered once it is there or refused.

use super::*;

impl Shelf {
    pub(super) fn put(
        &mut self,
        connection: u64,
        name: Name,
        bytes: Vec<u8>,
        init: Option<Hash>,
        what: What,
    ) {
        let mut put = Put {
            run: self.run,
            connection,
            what,
            early: false,
        };
        if self.failing_puts > 0 {
            self.failing_puts -= 1;
            self.counts.store_failures += 1;
            let failed = archive::Error::Directory {
                dir: "store".into(),
                action: "writing an object",
                source: std::io::Error::other("the store failed"),
                advice: "wait",
            };
            return self.failed(put, failed);
        }
        if let Some(recording) = name.recording().filter(|id| self.erased.contains(id)) {
            return self.refuse_erased(put, recording);
        }
        match self.items.get(&name) {
            Some(item) if item.bytes != bytes && !matches!(name, Name::Manifest(_)) => {
                let conflict = archive::Error::Conflict {
                    name: format!("{name:?}"),
                    archived: Hash(*blake3::hash(&item.bytes).as_bytes()),
                    offered: Hash(*blake3::hash(&bytes).as_bytes()),
                };
                return self.failed(put, conflict);
            }
            Some(_) => {}
            None => {
                let synced = false;
                self.items.insert(
                    name,
                    Item {
                        bytes,
                        init,
                        synced,
                    },
                );
            }
        }
        if self.bug == Some(Bug::AcknowledgeBeforeSync) && matches!(put.what, What::Segment(..)) {
            put.early = true;
            self.done(put.clone());
        }
        self.out.push(Out::Put(put));
    }

    /// Somebody erases a recording.
    pub fn erase(&mut self, recording: RecordingId) {
        let what = What::Tombstone(recording);
        self.put(u64::MAX, Name::Tombstone(recording), Vec::new(), None, what);
    }

    /// A recording that may be erased.
    pub fn any_recording(&self, random: &mut Random) -> Option<RecordingId> {
        let nth = random.between(0, self.catalog.len().max(1) as u64 - 1);
        self.catalog.keys().nth(nth as usize).copied()
    }

    /// What is left of an erased recording goes.
    pub fn sweep(&mut self, run: u64, recording: RecordingId) {
        if run == self.run {
            self.items
                .retain(|name, _| name.recording() != Some(recording));
            self.catalog.remove(&recording);
        }
    }

    pub(super) fn refuse_erased(&mut self, put: Put, recording: RecordingId) {
        self.refused(put, KeepError::Erased(recording));
    }

    pub(super) fn failed(&mut self, put: Put, error: archive::Error) {
        self.refused(put, KeepError::Archive(error));
    }

    pub(super) fn refused(&mut self, put: Put, error: KeepError) {
        match put.what {
            What::Segment(header, length) => {
                self.kept(put.connection, &header, length, Err(error));
            }
            What::Init(hash, length) => {
                let work = self
                    .guests
                    .get_mut(&put.connection)
                    .map(|guest| guest.ingest.init_kept(hash, length, Err(error)));
                self.work(put.connection, work.into_iter().collect());
            }
            What::Lost(lost) => {
                let work = self
                    .guests
                    .get_mut(&put.connection)
                    .and_then(|guest| guest.ingest.lost_kept(&lost, Err(error)));
                self.work(put.connection, work.into_iter().collect());
            }
            // Tried again with the next object or at the next start.
            What::Manifest(_, then) => {
                if let Some(then) = then {
                    self.failed(*then, directory_error());
                }
            }
            What::Tombstone(_) => {}
        }
    }

    /// The store has synced it.
    pub fn stored(&mut self, put: Put) {
        if put.run != self.run || !self.up {
            return;
        }
        let name = match &put.what {
            What::Segment(header, _) => Name::Segment(header.key),
            What::Init(hash, _) => Name::Init(*hash),
            What::Lost(lost) => Name::Lost(
                lost.recording,
                LostRange {
                    track: lost.track,
                    first: lost.first,
                    last: lost.last,
                },
                match lost.reason {
                    LostReason::Damaged => 0,
                    LostReason::NoSpace => 1,
                    LostReason::ReceiverForgot => 2,
                },
            ),
            What::Manifest(recording, _) => Name::Manifest(*recording),
            What::Tombstone(recording) => Name::Tombstone(*recording),
        };
        if let Some(recording) = name.recording().filter(|id| self.erased.contains(id)) {
            self.items.remove(&name);
            return self.refuse_erased(put, recording);
        }
        if let Some(item) = self.items.get_mut(&name) {
            item.synced = true;
        }
        if !put.early {
            self.done(put);
        }
    }

    pub(super) fn done(&mut self, put: Put) {
        let recording = match &put.what {
            What::Init(hash, length) => {
                let (hash, length) = (*hash, *length);
                self.inits.insert(hash);
                let work = self
                    .guests
                    .get_mut(&put.connection)
                    .map(|guest| guest.ingest.init_kept(hash, length, Ok(())));
                self.work(put.connection, work.into_iter().collect());
                let waiting = std::mem::take(&mut self.waiting);
                for (connection, header, bytes, hash) in waiting {
                    self.keep(connection, header, bytes, hash);
                }
                return;
            }
            What::Tombstone(recording) => {
                let recording = *recording;
                self.counts.erased += 1;
                self.erased.insert(recording);
                self.out
                    .push(Out::Note(None, Happening::Erased { recording }));
                self.out.push(Out::Sweep(self.run, recording));
                let tell =
                    |(id, guest): (&u64, &Guest)| Some((*id, guest.ingest.erase(recording)?));
                let told: Vec<_> = self.guests.iter().filter_map(tell).collect();
                for (connection, work) in told {
                    self.work(connection, vec![work]);
                }
                return;
            }
            What::Manifest(recording, then) => {
                self.catalog.entry(*recording).or_default().complete = true;
                if let Some(then) = then {
                    self.answer(then);
                }
                return;
            }
            What::Segment(header, _) => {
                let item = &self.items[&Name::Segment(header.key)];
                let recording = self.catalog.entry(header.key.recording).or_default();
                enter(recording, header.key, &item.bytes, header.init);
                header.key.recording
            }
            What::Lost(lost) => {
                let range = LostRange {
                    track: lost.track,
                    first: lost.first,
                    last: lost.last,
                };
                let recording = self.catalog.entry(lost.recording).or_default();
                recording.insert_lost(range, lost.reason);
                lost.recording
            }
        };
        let known = &self.catalog[&recording];
        if !known.complete && known.missing().is_none() {
            let connection = put.connection;
            let what = What::Manifest(recording, Some(Box::new(put)));
            self.put(
                connection,
                Name::Manifest(recording),
                Vec::new(),
                None,
                what,
            );
        } else {
            self.answer(&put);
        }
    }

    pub(super) fn answer(&mut self, put: &Put) {
        match &put.what {
            What::Segment(header, length) => {
                let (key, known) = (header.key, &self.catalog[&header.key.recording]);
                let kept = Kept {
                    durable: known.durable(key.track),
                    hash: known.segments[&key.track][&key.sequence].hash,
                    complete: known.complete,
                };
                self.kept(put.connection, header, *length, Ok(kept));
            }
            What::Lost(lost) => {
                let whole = self.catalog[&lost.recording].complete;
                let work = self
                    .guests
                    .get_mut(&put.connection)
                    .and_then(|guest| guest.ingest.lost_kept(lost, Ok(whole)));
                self.work(put.connection, work.into_iter().collect());
            }
            What::Init(..) | What::Manifest(..) | What::Tombstone(_) => {}
        }
    }

    pub(super) fn kept(
        &mut self,
        connection: u64,
        header: &SegmentHeader,
        length: u64,
        result: Result<Kept, KeepError>,
    ) {
        let work = self
            .guests
            .get_mut(&connection)
            .map(|guest| guest.ingest.kept(header.key, length, result));
        self.work(connection, work.unwrap_or_default());
    }
}
