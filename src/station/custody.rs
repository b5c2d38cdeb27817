//! The spool joined with the uplink: what the box holds, and until when it is responsible for it.
//!
//! Takes what is recorded, what syncs gave and what the receiver said ([`Report`]); gives [`Word`]s:
//! offers for the uplink, and what whoever runs the recording must know. It owns the spool and no
//! thread, clock or socket: `now` is an argument, and syncs are run by the caller. The keeper's
//! thread and the simulation drive this same struct.
//!
//! | the receiver says | the spool | the uplink is offered |
//! |---|---|---|
//! | DURABLE | records it | nothing |
//! | less than it had said | takes the acknowledgement back | what is still here, again; the rest is LOST |
//! | COMPLETE | records it | nothing; at each start its name (`Whole`), and `Forget` when retention lets the recording go |
//! | ERASE | the copy goes, durably | `Erased` |
//! | that it holds what is not on offer now | gives the hashes of its seals | `Hashes`: what has another hash is not freed |
//!
//! The uplink is offered what is recorded now at once, and of what waits [`Config::window`] segments at a
//! time, oldest first (`feed`): what it costs in memory does not grow with the backlog. Of the rest it
//! knows the numbers, so that it can judge what a receiver says of them.
//!
//! What nobody can give any more is LOST, once the spool has that on record: a fact in the recording's
//! events track while that is open, a message to the receiver once it has ended.
//!
//! Longer than most files: each word of the receiver changes the spool, the feed and what is told at once.

mod feed;
mod offers;

use self::feed::Feed;
use self::offers::{backlog, chunk_offer, segment_offers};
use crate::media::{
    Event, Fact, Hash, LostReason, Monotonic, Range, RecordingId, SegmentKey, Segmented, Sequences,
    StopReason, TrackId, WallClock,
};
use crate::segmenter::Events;
use crate::spool::{Error, Notice, Opened, Recovered, SegmentState, Spool, SyncJob, SyncResult};
use crate::uplink::{Lost, Offer, Report};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A segment that was found damaged so often is LOST.
const MOST_TRIES: u32 = 8;

/// How much is offered at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// The most segments of the past that are offered and not durable; of the present as many again.
    pub window: usize,
}

impl Default for Config {
    /// 256: some minutes of three tracks, far more than any link has under way.
    fn default() -> Self {
        Self { window: 256 }
    }
}

/// What custody asks for or tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Give this to the uplink.
    Offer(Offer),
    /// More of this segment is kept.
    Kept(SegmentKey),
    /// The segment is whole and kept.
    Sealed(SegmentKey),
    /// Note this in the recording's events track: it is still open.
    Fact(RecordingId, Event),
    /// The copy of this recording is gone: it was erased at the receiver.
    Erased(RecordingId),
    /// What could not be read or made durable at the start of this recording was taken up now.
    TakenUp(RecordingId),
    /// Trouble that lasts, and the recording it concerns.
    Alarm {
        recording: RecordingId,
        code: &'static str,
        track: Option<TrackId>,
        message: String,
    },
}

/// The spool and what is to be said about it.
pub(crate) struct Custody {
    spool: Arc<Mutex<Spool>>,
    epoch: u64,
    words: VecDeque<Word>,
    feed: Feed,
    /// Erased at the receiver; the copy here would not go yet.
    erasing: BTreeSet<RecordingId>,
    /// Taken up while a connection stood: of these the uplink may have heard more than the spool could
    /// note, and the next greeting asks again.
    taken_up_late: BTreeSet<RecordingId>,
    /// How often a segment was found damaged since it was offered.
    unreadable: BTreeMap<SegmentKey, u32>,
}

impl Custody {
    /// Custody of what `spool` holds, in the run of the process with this boot epoch. The uplink may
    /// read from the same spool.
    pub(crate) fn new(spool: Arc<Mutex<Spool>>, epoch: u64, config: Config) -> Self {
        Self {
            spool,
            epoch,
            words: VecDeque::new(),
            feed: Feed::new(config.window),
            erasing: BTreeSet::new(),
            taken_up_late: BTreeSet::new(),
            unreadable: BTreeMap::new(),
        }
    }

    /// The spool, to look at.
    pub(crate) fn spool(&self) -> MutexGuard<'_, Spool> {
        // A panic elsewhere leaves the spool whole: every change to it is complete under one lock.
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The boot epoch that the next span of a recording will have.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The next thing to carry out. Ask until there is none, after every call that changes anything.
    pub(crate) fn next_word(&mut self) -> Option<Word> {
        if self.words.is_empty() {
            self.offer_the_past();
        }
        self.words.pop_front()
    }

    /// Offers the oldest segments that wait and are not offered, as many as there is room for.
    fn offer_the_past(&mut self) {
        let spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(key) = self.feed.next(&spool) {
            let track = spool.state(key.recording);
            let track = track.and_then(|state| state.tracks.get(&key.track));
            if let Some(segment) = track.and_then(|track| track.segments.get(&key.sequence)) {
                let offers = segment_offers(key, segment, false);
                self.words.extend(offers.into_iter().map(Word::Offer));
            }
        }
    }

    /// At start, before anything else: names all that is here, then [`Offer::Ready`]; and says what
    /// recovery could not find. What the receiver lacks is offered from then on.
    pub(crate) fn take_up(&mut self, recovered: &[Recovered]) {
        self.name(recovered, |_| true);
        self.offer(Offer::Ready);
    }

    /// Names the recordings that are `meant`, and says what their recovery could not find.
    fn name(&mut self, recovered: &[Recovered], meant: impl Fn(RecordingId) -> bool) {
        let (offers, marks) = backlog(&self.spool(), meant);
        self.words.extend(offers.into_iter().map(Word::Offer));
        marks.into_iter().for_each(|key| self.feed.waits(key));
        for found in recovered {
            if found.damaged_bytes > 0 {
                log::error!(
                    "recording {}: {} bytes of the spool are damaged",
                    found.recording,
                    found.damaged_bytes
                );
            }
            for problem in &found.problems {
                log::error!("recording {}: {problem}", found.recording);
            }
        }
        // Kept by an earlier run, which may have ended before it could say so. What recovery has just
        // written is told once it is kept, like all that is LOST.
        for found in recovered {
            let recording = found.recording;
            if (self.spool().state(recording)).is_none_or(|state| state.complete) {
                continue;
            }
            for &(track, range, reason) in &found.known_lost {
                self.tell_lost(recording, track, range, reason);
            }
        }
    }

    /// Begins the next span of a recording, new or left by an earlier run; gives its number.
    pub(crate) fn begin(&mut self, recording: RecordingId, wall_nanos: i64) -> Result<u32, Error> {
        let epoch = self.epoch;
        // Of the span before, where its lanes gave no more.
        self.seal_open(recording, None)?;
        let mut spool = self.spool();
        let before = spool.state(recording).and_then(|state| state.opened);
        let span = before.map_or(0, |opened| opened.span + 1);
        let opened = Opened {
            epoch,
            span,
            wall_nanos,
        };
        spool.begin(recording, opened)?;
        Ok(span)
    }

    /// The number of a track's next segment.
    pub(crate) fn next_sequence(&self, recording: RecordingId, track: TrackId) -> u64 {
        let spool = self.spool();
        spool
            .state(recording)
            .map_or(0, |state| state.next_sequence(track))
    }

    /// Appends what a segmenter gave; for a chunk, where it ends in its segment.
    pub(crate) fn append(
        &mut self,
        recording: RecordingId,
        given: &Segmented,
    ) -> Result<Option<u64>, Error> {
        let notice = self.spool().append(recording, given)?;
        let end = match &notice {
            Some(Notice::Written { offset, length, .. }) => Some(offset + length),
            _ => None,
        };
        notice.into_iter().for_each(|notice| self.notice(notice));
        Ok(end)
    }

    /// Writes facts as one segment of the recording's events track. On an error none of them is
    /// written.
    pub(crate) fn write_facts(
        &mut self,
        recording: RecordingId,
        facts: &[Fact],
        now: Monotonic,
    ) -> Result<SegmentKey, Error> {
        self.seal_open(recording, Some(TrackId::EVENTS))?;
        let (key, given) = self.facts(recording, facts, now);
        for part in &given {
            match (part, self.append(recording, part)) {
                (_, Ok(_)) => {}
                // Whatever follows seals it first.
                (Segmented::Seal(key), Err(error)) => log::warn!("{key}: not sealed yet: {error}"),
                (_, Err(error)) => return Err(error),
            }
        }
        Ok(key)
    }

    /// Facts as the next segment of the recording's events track.
    fn facts(
        &self,
        recording: RecordingId,
        facts: &[Fact],
        now: Monotonic,
    ) -> (SegmentKey, Vec<Segmented>) {
        let sequence = self.next_sequence(recording, TrackId::EVENTS);
        let span = facts.first().map_or(0, |fact| fact.span);
        // The running span keeps the epoch that it began with.
        let opened = self.spool().state(recording).and_then(|state| state.opened);
        // Where the disk lost it, 0 stands for whatever it was.
        let epoch = opened.map_or(0, |opened| opened.epoch);
        let mut given = Vec::new();
        let mut events = Events::new(recording, epoch, span, sequence);
        if let Err(error) = events.push(facts, now, &mut |part| given.push(part)) {
            log::error!("facts of recording {recording} cannot be written: {error}");
        }
        let key = SegmentKey {
            recording,
            track: TrackId::EVENTS,
            sequence,
        };
        (key, given)
    }

    /// Writes the recording's last facts and its `End`, at `at_nanos` after the start of `span`. What is
    /// still open is sealed as it is. The recording is over once the segment given back is
    /// [`Word::Sealed`]; on an error nothing is written.
    pub(crate) fn end(
        &mut self,
        recording: RecordingId,
        mut facts: Vec<Fact>,
        (span, at_nanos): (u32, u64),
        reason: StopReason,
        now: Monotonic,
    ) -> Result<SegmentKey, Error> {
        self.seal_open(recording, None)?;
        let tracks = self.spool().state(recording).map(|state| state.totals());
        facts.push(Fact {
            span,
            at_nanos,
            event: Event::End {
                reason,
                tracks: tracks.unwrap_or_default(),
            },
        });
        let (key, given) = self.facts(recording, &facts, now);
        for part in &given {
            if let Segmented::Chunk(last) = part {
                let outcome = self.spool().end(recording, last);
                match outcome {
                    Ok(notice) => notice.into_iter().for_each(|notice| self.notice(notice)),
                    Err(error @ (Error::OutOfOrder { .. } | Error::NotHeld { .. })) => {
                        return Err(error);
                    }
                    // The spool has taken it over, and tries again after each sync.
                    Err(error) => {
                        log::warn!("recording {recording} is not at its end yet: {error}")
                    }
                }
            }
        }
        Ok(key)
    }

    /// Seals what nobody will go on with, of one track or all: a lane did not finish, or the disk
    /// refused something.
    fn seal_open(&mut self, recording: RecordingId, only: Option<TrackId>) -> Result<(), Error> {
        let spool = self.spool();
        let tracks = spool.state(recording).into_iter().flat_map(|s| &s.tracks);
        let tracks = tracks.filter(|(track, _)| only.is_none_or(|only| only == **track));
        let open = tracks.flat_map(|(&track, held)| {
            let open = held.waiting().filter(|(_, segment)| segment.seal.is_none());
            open.map(move |(sequence, _)| SegmentKey {
                recording,
                track,
                sequence,
            })
        });
        let open: Vec<SegmentKey> = open.collect();
        drop(spool);
        for key in open {
            self.append(recording, &Segmented::Seal(key))?;
        }
        Ok(())
    }

    /// When the next sync is wanted.
    pub(crate) fn sync_at(&self) -> Option<Monotonic> {
        self.spool().sync_at()
    }

    /// The sync that is due, if any; run it, then give its result to [`Custody::synced`].
    pub(crate) fn start_sync(&mut self, now: Monotonic) -> Option<SyncJob> {
        self.spool().start_sync(now)
    }

    /// A sync ended. The errors are each of one recording; what was refused is tried again.
    pub(crate) fn synced(&mut self, result: SyncResult) -> Vec<(RecordingId, Error)> {
        let (notices, errors) = self.spool().synced(result);
        notices.into_iter().for_each(|notice| self.notice(notice));
        errors
    }

    /// What the uplink tells. An error is one of the spool's: what was said counts nevertheless
    /// once it is said again.
    pub(crate) fn report(&mut self, report: &Report) -> Result<(), Error> {
        match report {
            Report::Connected => {
                self.taken_up_late.clear();
                self.feed.connected(true);
                self.join_live();
            }
            Report::Disconnected { .. } => self.feed.connected(false),
            Report::Clock { .. }
            | Report::Command { .. }
            | Report::Link { .. }
            | Report::Received { .. }
            | Report::Fenced { .. } => {}
            Report::Raised { epoch } => self.epoch = self.epoch.max(*epoch),
            Report::Erase { recording } => {
                self.erasing.insert(*recording);
                self.erase();
            }
            Report::Ahead {
                recording, track, ..
            } => {
                self.feed.hold_back(*recording);
                self.words.push_back(Word::Alarm {
                    recording: *recording,
                    code: "receiver-ahead",
                    track: Some(*track),
                    message: format!(
                        "the receiver claims segments of recording {recording} that this box never sent: an older copy of its disk was restored? Nothing of it is sent or freed until a person decides"
                    ),
                });
            }
            Report::Claims { keys } => {
                let hashes = self.hashes_of(keys);
                self.offer(Offer::Hashes { hashes });
            }
            Report::Durable {
                recording,
                track,
                durable,
            } => {
                self.feed.durable(*recording, *track, durable);
                self.spool().acknowledge(*recording, *track, durable)?;
            }
            Report::Forgot {
                recording,
                track,
                held,
            } => self.forgot(*recording, *track, held)?,
            Report::Refused { key, code } => {
                self.feed.hold_back(key.recording);
                self.alarm(
                    "cloned",
                    *key,
                    format!("the receiver holds another content under the name of segment {key} ({code}): two machines run from copies of one card? Nothing of recording {} is sent or freed until a person decides; `hallcast spool export` reads it", key.recording),
                );
            }
            Report::Unreadable { key, damaged, text } => {
                self.unreadable(*key, *damaged, text)?;
            }
            Report::Complete { recording } => {
                self.unreadable.retain(|key, _| key.recording != *recording);
                if self.spool().is_known_in_part(*recording) {
                    // Nothing can be held against it; the receiver is asked again.
                    return Ok(());
                }
                if !self.spool().complete(*recording)? {
                    if self.taken_up_late.contains(recording) {
                        return Ok(());
                    }
                    self.words.push_back(Word::Alarm {
                        recording: *recording,
                        code: "receiver-ahead",
                        track: None,
                        message: format!(
                            "the receiver says that it has recording {recording} whole, and it cannot have: it has not ended, or waits here in part. Nothing of it is freed because of that"
                        ),
                    });
                    return Ok(());
                }
                self.feed.forget(*recording);
                log::info!("recording {recording} is whole at the receiver");
            }
        }
        Ok(())
    }

    /// Lets go what may go, now and then: what its retention or the want of space lets go, and what an
    /// erasure could not remove before. `wall` is UTC where it is known.
    pub(crate) fn release(&mut self, wall: Option<WallClock>) {
        self.erase();
        let taken_up = self.spool().try_again();
        if !taken_up.is_empty() {
            // Of the others the uplink may know more by now than the spool has on record.
            let meant = |id| taken_up.iter().any(|found| found.recording == id);
            self.name(&taken_up, meant);
            let late = taken_up.iter().map(|found| Word::TakenUp(found.recording));
            self.words.extend(late);
            let late = taken_up.iter().map(|found| found.recording);
            self.taken_up_late.extend(late);
        }
        let released = self.spool().release(wall);
        for gone in released.into_iter().filter(|released| released.whole) {
            log::info!("recording {} leaves: the receiver has it", gone.recording);
            self.offer(Offer::Forget {
                recording: gone.recording,
            });
        }
    }

    /// Gives segments up that were not written, or of which nothing can be given: LOST, once that is
    /// kept.
    pub(crate) fn lose(
        &mut self,
        recording: RecordingId,
        track: TrackId,
        (first, last): (u64, u64),
        reason: LostReason,
    ) -> Result<(), Error> {
        let range = Range { first, last };
        self.spool().lose(recording, track, range, reason)
    }

    /// Removes what was erased at the receiver; what will not go now is tried again.
    fn erase(&mut self) {
        for recording in std::mem::take(&mut self.erasing) {
            let gone = self.spool().erase(recording).unwrap_or_else(|error| {
                log::error!("{error}");
                false
            });
            if !gone {
                self.erasing.insert(recording);
                continue;
            }
            log::warn!("recording {recording} was erased at the receiver: the copy here is gone");
            self.feed.forget(recording);
            self.unreadable.retain(|key, _| key.recording != recording);
            self.words.push_back(Word::Erased(recording));
            self.offer(Offer::Erased { recording });
        }
    }

    /// The receiver holds less than it had acknowledged: a restored store.
    fn forgot(
        &mut self,
        recording: RecordingId,
        track: TrackId,
        held: &Sequences,
    ) -> Result<(), Error> {
        // What was LOST of a recording that was whole, nobody has told the uplink in this run.
        let mut untold = Vec::new();
        let forgotten = {
            let mut spool = self.spool();
            if spool.state(recording).is_some_and(|state| state.complete) {
                spool.load(recording)?;
                let state = spool.state(recording);
                untold = state.map(|state| state.lost().collect()).unwrap_or(untold);
            }
            spool.forgot(recording, track, held)?
        };
        forgotten.again.iter().for_each(|key| self.feed.waits(*key));
        for (track, range, reason) in untold {
            self.tell_lost(recording, track, range, reason);
        }
        let lost: u64 = forgotten
            .lost
            .iter()
            .map(|range| range.last - range.first + 1)
            .sum();
        let message = format!(
            "the receiver lost segments of recording {recording} that it had acknowledged: {} are sent again, {lost} are lost for good",
            forgotten.again.len()
        );
        self.words.push_back(Word::Alarm {
            recording,
            code: "receiver-forgot",
            track: Some(track),
            message,
        });
        Ok(())
    }

    /// What the seals of these segments say.
    fn hashes_of(&self, keys: &[SegmentKey]) -> BTreeMap<SegmentKey, Hash> {
        let spool = self.spool();
        let hash = |key: &SegmentKey| {
            let track = spool.state(key.recording)?.tracks.get(&key.track)?;
            let (_, hash) = track.segments.get(&key.sequence)?.seal?;
            Some((*key, hash))
        };
        keys.iter().filter_map(hash).collect()
    }

    /// The spool did not give what was offered: what is found damaged often enough is lost. A disk
    /// that only fails to read may do better later.
    fn unreadable(&mut self, key: SegmentKey, damaged: bool, text: &str) -> Result<(), Error> {
        let tries = self.unreadable.entry(key).or_default();
        *tries += u32::from(damaged);
        if damaged && *tries == MOST_TRIES {
            // Where that is refused, it takes as many tries again.
            *tries = 0;
            let numbers = (key.sequence, key.sequence);
            return self.lose(key.recording, key.track, numbers, LostReason::Damaged);
        }
        let message = format!("segment {key} cannot be read from the spool: {text}");
        self.alarm("spool-unreadable", key, message);
        Ok(())
    }

    /// A connection stands: what is being recorded and was not offered is from now on.
    fn join_live(&mut self) {
        let spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        for (recording, state) in spool.recordings().filter(|(_, state)| !state.ended) {
            for (&track, held) in &state.tracks {
                let open = |segment: &SegmentState| segment.length > 0 && segment.seal.is_none();
                let last = held.segments.last_key_value();
                let Some((&sequence, segment)) = last.filter(|(_, last)| open(last)) else {
                    continue;
                };
                let key = SegmentKey {
                    recording,
                    track,
                    sequence,
                };
                if !self.feed.is_offered(key) && self.feed.takes_live(key) {
                    let offers = segment_offers(key, segment, true);
                    self.words.extend(offers.into_iter().map(Word::Offer));
                }
            }
        }
    }

    /// Says what is on record as LOST, in whatever way the recording still allows.
    fn tell_lost(
        &mut self,
        recording: RecordingId,
        track: TrackId,
        range: Range,
        reason: LostReason,
    ) {
        let lost = Lost {
            recording,
            track,
            first: range.first,
            last: range.last,
            reason,
        };
        self.feed.lost(recording, track, (lost.first, lost.last));
        let ended = self
            .spool()
            .state(lost.recording)
            .is_none_or(|state| state.ended);
        if !ended {
            let fact = Event::Lost {
                track: lost.track,
                first: lost.first,
                last: lost.last,
                reason: lost.reason,
            };
            self.words.push_back(Word::Fact(lost.recording, fact));
        }
        self.offer(Offer::Lost {
            lost,
            is_fact: !ended,
        });
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::InitWritten(hash) => self.offer(Offer::Init { hash }),
            Notice::Written {
                key,
                init,
                offset,
                length,
            } => self.written(key, init, (offset, length)),
            Notice::Kept { key, .. } => self.words.push_back(Word::Kept(key)),
            Notice::Sealed { key, length, hash } => {
                if self.feed.is_offered(key) {
                    self.offer(Offer::Sealed { key, length, hash });
                } else {
                    self.feed.waits(key);
                }
                self.words.push_back(Word::Sealed(key));
            }
            Notice::Lost {
                recording,
                track,
                range,
                reason,
            } => self.tell_lost(recording, track, range, reason),
        }
    }

    /// What is recorded now is offered as it comes, if its segment is from its first chunk on.
    fn written(&mut self, key: SegmentKey, init: Option<Hash>, (offset, length): (u64, u64)) {
        if self.feed.is_offered(key) || offset == 0 && self.feed.takes_live(key) {
            self.offer(chunk_offer(key, init, (offset, length), true));
        } else if offset == 0 {
            self.offer(Offer::Track {
                recording: key.recording,
                track: key.track,
                durable: Sequences::default(),
                end: key.sequence.saturating_add(1),
            });
        }
    }

    fn offer(&mut self, offer: Offer) {
        self.words.push_back(Word::Offer(offer));
    }

    fn alarm(&mut self, code: &'static str, key: SegmentKey, message: String) {
        self.words.push_back(Word::Alarm {
            recording: key.recording,
            code,
            track: Some(key.track),
            message,
        });
    }
}

#[cfg(test)]
#[path = "custody_tests.rs"]
mod tests;
