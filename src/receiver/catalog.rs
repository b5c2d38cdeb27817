//! What is known of each recording, derived from the archive and from nothing else.
//!
//! Takes what each durable object says of itself and the facts of the events track; gives what is
//! durable (for `Welcome`), what there is to show, and the moment at which a recording is complete:
//! its END is known and each segment it names is durable or declared LOST. Pure: the archive calls
//! nothing here and this calls no archive.

use crate::media::{
    BoxId, Event, Fact, GapCause, Hash, LostReason, MediaTime, Provenance, RecordingId, StartedBy,
    StopReason, Timescale, TrackId, TrackInfo, TrackKind, TrackTotal, WallClock,
};
use crate::mp4;
use crate::wire::{self, Sequences};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A segment that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// BLAKE3 of its bytes.
    pub hash: Hash,
    /// Its length in bytes.
    pub bytes: u64,
    /// The span it belongs to.
    pub span: u32,
    /// Media time of its first access unit.
    pub start: MediaTime,
    /// Units per second of `start` and `duration`.
    pub timescale: Timescale,
    /// How long it lasts, to the unit; 0 for the events track.
    pub duration: u64,
    /// The init it needs.
    pub init: Option<Hash>,
}

/// Segments that will never come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LostRange {
    /// Their track.
    pub track: TrackId,
    /// The first number.
    pub first: u64,
    /// The last number.
    pub last: u64,
}

/// How far a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No END is known: it runs, or its box is away.
    Open,
    /// It ended; segments are still to come.
    Arriving,
    /// Everything is here or declared lost, and the manifest is durable.
    Complete,
}

/// A span as the facts tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanFact {
    /// The box's boot epoch.
    pub epoch: u64,
    /// Its start in UTC, as far as it is known: the last word.
    pub wall: Option<WallClock>,
    /// The same by the first word that knew UTC: what a playlist that grows has said stands.
    pub first_wall: Option<WallClock>,
    /// Nanoseconds after its start from which UTC was known; `None` before it is.
    pub known_from: Option<u64>,
    /// How long nothing was captured before it; none for the first span.
    pub gap: Option<crate::media::GapLength>,
    /// The span before it ended with a pause; otherwise the box was away.
    pub after_pause: bool,
}

impl SpanFact {
    /// Why nothing was captured before it.
    pub fn away_cause(&self) -> GapCause {
        match self.after_pause {
            true => GapCause::Paused,
            false => GapCause::BoxAway,
        }
    }
}

/// A clock is off by no more than this over the time that it runs freely: 100 ppm.
const DRIFT_PER: u64 = 10_000;

/// Spans of one boot lie where its clock says, seen from the last of them that a word in UTC is about:
/// a box that learns the time after a restart learns it for what it recorded before, too. A span's own
/// word that agrees is nearer.
fn place_by_boot(
    spans: &mut BTreeMap<u32, SpanFact>,
    boots: &BTreeMap<u32, ([u8; 16], u64)>,
    words: &[(u32, WallClock)],
) {
    for (span, fact) in spans {
        let Some((boot, here)) = boots.get(span) else {
            continue;
        };
        let of_boot = words.iter().rev().find_map(|(other, wall)| {
            let (_, there) = boots.get(other).filter(|(same, _)| same == boot)?;
            let by = i128::from(*here) - i128::from(*there);
            let drift = u64::try_from(by.unsigned_abs()).ok()? / DRIFT_PER;
            Some(WallClock {
                unix_nanos: i64::try_from(i128::from(wall.unix_nanos) + by).ok()?,
                uncertainty: Some(wall.uncertainty? + Duration::from_nanos(drift)),
            })
        });
        let Some(derived) = of_boot else {
            continue;
        };
        let agrees = |own: WallClock| {
            let error = own.uncertainty?.saturating_add(derived.uncertainty?);
            let apart = own.unix_nanos.abs_diff(derived.unix_nanos);
            (u128::from(apart) <= error.as_nanos()).then_some(())
        };
        if fact.wall.and_then(agrees).is_none() {
            fact.wall = Some(derived);
            // Too late for what was shown of it.
            fact.first_wall.get_or_insert(derived);
            fact.known_from.get_or_insert(u64::MAX);
        }
    }
}

/// What a segment's bytes say, checked to be what its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// What the segment says of itself.
    pub provenance: Provenance,
    /// How it enters the catalog.
    pub stored: Stored,
    /// Its facts, of a segment of the events track.
    pub facts: Vec<Fact>,
}

/// Bytes that are no segment.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The boxes are wrong.
    #[error(transparent)]
    Boxes(#[from] mp4::Error),
    /// The facts are wrong.
    #[error(transparent)]
    Facts(#[from] wire::event::EventError),
    /// The parts contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
}

/// Reads a segment whose bytes have `hash`.
pub fn read_segment(bytes: &[u8], hash: Hash) -> Result<Read, ReadError> {
    let segment = mp4::parse_segment(bytes)?;
    let provenance = segment.provenance;
    let timescale = Timescale::new(provenance.timescale)
        .ok_or(ReadError::Contradiction("a timescale of zero"))?;
    let is_events = provenance.key.track == TrackId::EVENTS;
    let (duration, facts) = match segment.content {
        mp4::Content::Events(batch) if is_events => (0, wire::event::decode(batch)?),
        mp4::Content::Media(chunks) if !is_events => {
            let Some((first, last)) = chunks.first().zip(chunks.last()) else {
                return Err(ReadError::Contradiction("a segment without chunks"));
            };
            if i64::try_from(first.chunk.base_time) != Ok(provenance.start.0) {
                return Err(ReadError::Contradiction(
                    "the provenance box and the first chunk name different times",
                ));
            }
            let end = last.chunk.base_time + last.chunk.duration();
            (end - first.chunk.base_time, Vec::new())
        }
        _ => {
            return Err(ReadError::Contradiction(
                "track 0 is the events track, and only it holds facts",
            ));
        }
    };
    let stored = Stored {
        hash,
        bytes: bytes.len() as u64,
        span: provenance.span,
        start: provenance.start,
        timescale,
        duration,
        init: provenance.init,
    };
    Ok(Read {
        provenance,
        stored,
        facts,
    })
}

/// One recording.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Durable segments by track and sequence.
    pub segments: BTreeMap<TrackId, BTreeMap<u64, Stored>>,
    /// Durable inits.
    pub inits: BTreeSet<Hash>,
    /// The epoch of the run that writes each span.
    epochs: BTreeMap<u32, u64>,
    /// Facts by the sequence number of the events segment that holds them.
    facts: BTreeMap<u64, Vec<Fact>>,
    /// LOST ranges that came by message, because nothing could be added to the events track.
    declared_lost: BTreeMap<LostRange, LostReason>,
    /// The box it came from in this run of the process, until its facts name one.
    pub sender: Option<BoxId>,
    /// True once the manifest is durable.
    pub complete: bool,
}

impl Recording {
    /// Enters a durable segment.
    pub fn insert(&mut self, sequence: u64, track: TrackId, stored: Stored, facts: Vec<Fact>) {
        let track_segments = self.segments.entry(track).or_default();
        track_segments.insert(sequence, stored);
        if track == TrackId::EVENTS {
            self.facts.insert(sequence, facts);
        }
    }

    /// Whether the run with this epoch may write the span: the first that did may. Epoch 0 is that of a
    /// box whose disk lost it.
    pub fn claim_span(&mut self, span: u32, epoch: u64) -> bool {
        epoch == 0 || *self.epochs.entry(span).or_insert(epoch) == epoch
    }

    /// Enters a LOST range that came by message.
    pub fn insert_lost(&mut self, range: LostRange, reason: LostReason) {
        self.declared_lost.insert(range, reason);
    }

    /// Adds what another look at the archive has found.
    pub fn merge(&mut self, found: Self) {
        for (track, segments) in found.segments {
            self.segments.entry(track).or_default().extend(segments);
        }
        for (span, epoch) in found.epochs {
            self.epochs.entry(span).or_insert(epoch);
        }
        self.inits.extend(found.inits);
        self.facts.extend(found.facts);
        self.declared_lost.extend(found.declared_lost);
        self.complete |= found.complete;
    }

    /// Its facts in the order in which they were noted.
    pub fn facts(&self) -> impl Iterator<Item = &Fact> {
        self.facts.values().flatten()
    }

    /// What is durable of `track`.
    pub fn durable(&self, track: TrackId) -> Sequences {
        let mut set = Sequences::default();
        if let Some(segments) = self.segments.get(&track) {
            segments.keys().for_each(|sequence| set.insert(*sequence));
        }
        set
    }

    /// The box that makes it, who started it, its room and its title.
    pub fn started(&self) -> Option<(BoxId, StartedBy, Option<&str>, Option<&str>)> {
        self.facts().find_map(|fact| match &fact.event {
            Event::Started {
                box_id,
                by,
                room,
                title,
            } => Some((*box_id, *by, room.as_deref(), title.as_deref())),
            _ => None,
        })
    }

    /// The box it belongs to, if that is known.
    pub fn owner(&self) -> Option<BoxId> {
        self.started().map(|started| started.0).or(self.sender)
    }

    /// Its spans; the last word on where a span lies counts, for all spans of one boot.
    pub fn spans(&self) -> BTreeMap<u32, SpanFact> {
        let mut spans = BTreeMap::new();
        let mut paused = BTreeSet::new();
        let mut boots = BTreeMap::new();
        let mut words = Vec::new();
        for fact in self.facts() {
            match fact.event {
                Event::Paused => drop(paused.insert(fact.span)),
                Event::Span { epoch, wall, gap } => {
                    let known = wall.is_some_and(|wall| wall.uncertainty.is_some());
                    words.extend(wall.filter(|_| known).map(|wall| (fact.span, wall)));
                    let known_from = known.then_some(0);
                    let span = SpanFact {
                        epoch,
                        wall,
                        first_wall: wall.filter(|_| known),
                        known_from,
                        gap,
                        after_pause: false,
                    };
                    spans.insert(fact.span, span);
                }
                Event::Run {
                    boot: Some(boot),
                    boot_nanos,
                    ..
                } => drop(boots.insert(fact.span, (boot, boot_nanos))),
                Event::SpanPlaced { span, wall, gap } => {
                    words.push((span, wall));
                    if let Some(placed) = spans.get_mut(&span) {
                        placed.wall = Some(wall);
                        placed.first_wall.get_or_insert(wall);
                        placed.gap = gap;
                        // A later span knows it too late for what was shown of this one.
                        let from = if fact.span == span {
                            fact.at_nanos
                        } else {
                            u64::MAX
                        };
                        placed.known_from.get_or_insert(from);
                    }
                }
                _ => {}
            }
        }
        place_by_boot(&mut spans, &boots, &words);
        for (span, fact) in &mut spans {
            fact.after_pause = span.checked_sub(1).is_some_and(|one| paused.contains(&one));
        }
        spans
    }

    /// Its tracks of sound and picture, as they were last described.
    pub fn tracks(&self) -> BTreeMap<TrackId, &TrackInfo> {
        let mut tracks = BTreeMap::new();
        for fact in self.facts() {
            if let Event::Track(info) = &fact.event {
                tracks.insert(info.id, info);
            }
        }
        tracks
    }

    /// The tracks of `kind`, the presenter's first: the one that a single player shows.
    pub fn tracks_of(&self, kind: TrackKind) -> Vec<&TrackInfo> {
        let mut tracks: Vec<_> = self.tracks().into_values().collect();
        tracks.retain(|info| info.kind == kind);
        tracks.sort_by_key(|info| (info.name != "presenter", info.id));
        tracks
    }

    /// Everything declared lost.
    pub fn lost(&self) -> BTreeMap<LostRange, LostReason> {
        let mut lost = self.declared_lost.clone();
        for fact in self.facts() {
            if let Event::Lost {
                track,
                first,
                last,
                reason,
            } = fact.event
            {
                lost.insert(LostRange { track, first, last }, reason);
            }
        }
        lost
    }

    /// Why it ended and what it holds in total, once that is known.
    pub fn end(&self) -> Option<(StopReason, &[TrackTotal])> {
        self.facts().find_map(|fact| match &fact.event {
            Event::End { reason, tracks } => Some((*reason, tracks.as_slice())),
            _ => None,
        })
    }

    /// How far it is.
    pub fn state(&self) -> State {
        match (self.complete, self.end()) {
            (true, _) => State::Complete,
            (false, Some(_)) => State::Arriving,
            (false, None) => State::Open,
        }
    }

    /// How long its pictures and sound last, as far as they are here: the longest track.
    pub fn length(&self) -> std::time::Duration {
        let media = self
            .segments
            .iter()
            .filter(|(id, _)| **id != TrackId::EVENTS);
        let of_track = |segments: &BTreeMap<u64, Stored>| {
            segments
                .values()
                .map(|s| u128::from(s.duration) * 1_000_000_000 / u128::from(s.timescale.get()))
                .sum::<u128>()
        };
        let nanos = media.map(|(_, segments)| of_track(segments)).max();
        std::time::Duration::from_nanos(nanos.unwrap_or(0).try_into().unwrap_or(u64::MAX))
    }

    /// What keeps it from being complete; none when it is whole.
    pub fn missing(&self) -> Option<Missing> {
        let Some((_, totals)) = self.end() else {
            return Some(Missing::End);
        };
        let lost = self.lost();
        let mut whole = vec![(TrackId::EVENTS, self.durable(TrackId::EVENTS).end())];
        whole.extend(totals.iter().map(|total| (total.track, total.segments)));
        for (track, count) in whole {
            let mut present = self.durable(track);
            for range in lost.keys().filter(|range| range.track == track) {
                present.insert_range(wire::Range {
                    first: range.first,
                    last: range.last,
                });
            }
            if present.cumulative() < count {
                return Some(Missing::Segment(track, present.cumulative()));
            }
        }
        totals
            .iter()
            .find(|total| !self.agrees(total, &lost))
            .map(|total| Missing::Root(total.track))
    }

    /// Whether what is here has the root hash that the box states; with a part lost it cannot be
    /// computed, and each segment's own hash has to do.
    fn agrees(&self, total: &TrackTotal, lost: &BTreeMap<LostRange, LostReason>) -> bool {
        if lost.keys().any(|range| range.track == total.track) {
            return true;
        }
        let mut hasher = blake3::Hasher::new();
        let mut bytes = 0;
        for stored in self.segments.get(&total.track).into_iter().flatten() {
            hasher.update(&stored.1.hash.0);
            bytes += stored.1.bytes;
        }
        Hash(*hasher.finalize().as_bytes()) == total.root && bytes == total.bytes
    }
}

/// What keeps a recording from being complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Nobody said that it is over.
    #[error("it has not ended")]
    End,
    /// This segment of this track, the first of those missing.
    #[error("segment {1} of track {0} is still to come")]
    Segment(TrackId, u64),
    /// Nothing is missing, but the track's hashes are not those that the box states: a fault.
    #[error("track {0} has other hashes than the box states")]
    Root(TrackId),
}

/// A recording that was erased: its tombstone is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// The box that made it, where that is known.
    pub box_id: Option<BoxId>,
    /// True once that box has said that its copy is gone.
    pub confirmed: bool,
    /// True once none of its objects is left.
    pub swept: bool,
}

/// Every recording.
#[derive(Debug, Default)]
pub struct Catalog {
    /// By id.
    pub recordings: BTreeMap<RecordingId, Recording>,
    /// Those of which nothing is to be kept or shown any more.
    pub erased: BTreeMap<RecordingId, Erased>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::samples::{fact, stored};

    const SECOND: i64 = 1_000_000_000;

    fn recording(events: Vec<(u32, Event)>) -> Recording {
        let mut recording = Recording::default();
        let facts = events.into_iter().map(|(span, event)| fact(span, event));
        let events = stored(TrackId::EVENTS, 0, 0, 0);
        recording.insert(0, TrackId::EVENTS, events, facts.collect());
        recording
    }

    fn at(seconds: i64, error_ms: Option<u64>) -> WallClock {
        WallClock {
            unix_nanos: seconds * SECOND,
            uncertainty: error_ms.map(Duration::from_millis),
        }
    }

    fn span(number: u32, wall: WallClock, boot: u8, boot_seconds: u64) -> [(u32, Event); 2] {
        let opened = Event::Span {
            epoch: 1,
            wall: Some(wall),
            gap: None,
        };
        let run = Event::Run {
            boot: Some([boot; 16]),
            boot_nanos: boot_seconds * SECOND as u64,
            recorded_nanos: 0,
        };
        [(number, opened), (number, run)]
    }

    #[test]
    fn a_word_on_one_span_places_all_spans_of_its_boot_and_no_other() {
        // The clock was a guess in the first three runs; the second boot's last one was told the time.
        let mut events = Vec::new();
        events.extend(span(0, at(5, None), 1, 10));
        events.extend(span(1, at(7, None), 2, 20));
        events.extend(span(2, at(9, None), 2, 1020));
        let placed = Event::SpanPlaced {
            span: 2,
            wall: at(1_000_000, Some(20)),
            gap: None,
        };
        events.push((2, placed));
        let spans = recording(events.clone()).spans();
        let error = |span: u32| spans[&span].wall.unwrap().uncertainty;
        assert_eq!(error(0), None, "of another boot");
        // A thousand seconds before, 100 ppm of them less certain.
        assert_eq!(spans[&1].wall, Some(at(999_000, Some(120))));
        assert_eq!(spans[&1].known_from, Some(u64::MAX));
        assert_eq!(spans[&2].wall, Some(at(1_000_000, Some(20))));

        // A word of its own that agrees is nearer; one that was wrong by a day is put right.
        for (own, wall) in [
            (at(999_000, Some(1)), at(999_000, Some(1))),
            (at(912_600, Some(1)), at(999_000, Some(120))),
        ] {
            events[2] = span(1, own, 2, 20)[0].clone();
            let spans = recording(events.clone()).spans();
            assert_eq!(spans[&1].wall, Some(wall));
            assert_eq!(spans[&1].first_wall, Some(own), "what was shown stands");
        }
    }
}
