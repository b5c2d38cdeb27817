//! `hallcast-receiver verify`: reads every object of a recording and says whether all of it is there.
//!
//! Takes an archive beside a running receiver or without one; gives, for each recording, what it holds,
//! what was declared lost, and each fault with what to do about it. Only reads. What is still to come
//! of a recording that is not complete is no fault; a byte that changed, a number that nobody accounts
//! for, or an object of an erased recording is.

use super::archive::{self, Archive, Listing, Place};
use super::catalog::{self, LostRange, Missing, Recording, State, Stored};
use super::manifest::{self, Manifest};
use crate::journal::say;
use crate::media::{BoxId, Event, GapLength, Hash, MediaTime, RecordingId, SegmentKey, TrackId};
use crate::wire::{Range, Sequences};
use futures_util::StreamExt;
use std::collections::{BTreeMap, BTreeSet};

/// Objects read at the same time.
const AT_ONCE: usize = 8;

const RESTORE: &str = "restore the object from a copy of the store, or the lecture from the box \
    (`hallcast spool export`) while it holds it";
const REPORT: &str = "keep the recording as it is and report it: box and receiver disagree";

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub advice: &'static str,
}

/// What was found of one recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The recording.
    pub id: RecordingId,
    /// How far it is and what it holds, in one line.
    pub about: String,
    /// What a reader should know, without being a fault: what was lost, where the box was away.
    pub notes: Vec<String>,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

impl Report {
    fn fault(&mut self, advice: &'static str, what: impl Into<String>) {
        let what = what.into();
        self.faults.push(Fault { what, advice });
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = match self.faults.len() {
            0 => "no fault".to_owned(),
            1 => "1 FAULT".to_owned(),
            count => format!("{count} FAULTS"),
        };
        writeln!(f, "{}: {}: {verdict}", self.id, self.about)?;
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        for fault in &self.faults {
            writeln!(f, "  FAULT: {}; {}", fault.what, fault.advice)?;
        }
        Ok(())
    }
}

/// Verifies one recording, or all, and prints what it finds of each; gives how many have faults.
pub(super) async fn verify(
    store: &Place,
    only: Option<RecordingId>,
) -> Result<usize, super::Error> {
    let archive = Archive::look(store)?;
    let erased = archive.erased().await?;
    let mut listings = match only {
        None => archive.list().await?,
        Some(id) => archive
            .list_one(id)
            .await?
            .into_iter()
            .map(|l| (id, l))
            .collect(),
    };
    for id in erased
        .keys()
        .filter(|id| only.is_none_or(|only| only == **id))
    {
        listings.entry(*id).or_default();
    }
    if let (Some(id), true) = (only, listings.is_empty()) {
        let store = store.to_string();
        return Err(Box::new(super::export::Error::Unknown { id, store }).into());
    }
    let mut faulty = 0;
    let count = listings.len();
    for (id, listing) in listings {
        let report = match erased.get(&id) {
            Some(confirmed) => erased_report(&archive, id, &listing, confirmed).await?,
            None => check(&archive, id, &listing).await,
        };
        faulty += usize::from(!report.faults.is_empty());
        say(&report)?;
    }
    if only.is_none() {
        say(format_args!("{count} recordings, {faulty} with faults\n"))?;
    }
    Ok(faulty)
}

async fn erased_report(
    archive: &Archive,
    id: RecordingId,
    listing: &Listing,
    confirmed: &BTreeSet<BoxId>,
) -> Result<Report, archive::Error> {
    let tombstone = archive.tombstone(id).await?;
    let mut report = Report {
        id,
        about: format!("erased {}", tombstone.erased_at),
        notes: Vec::new(),
        faults: Vec::new(),
    };
    for box_id in confirmed {
        report
            .notes
            .push(format!("box {box_id} has erased its copy"));
    }
    if confirmed.is_empty() {
        let whose = tombstone.box_id.unwrap_or("that made it".into());
        let note = format!("box {whose} has not said yet that its copy is gone");
        report.notes.push(note);
    }
    let left = objects(listing);
    if left > 0 {
        let advice = "start a receiver, or give `hallcast-receiver erase` again: both go on";
        report.fault(advice, format!("{left} objects of it are still there"));
    }
    Ok(report)
}

fn objects(listing: &Listing) -> usize {
    let segments: usize = listing.segments.values().map(BTreeMap::len).sum();
    segments + listing.inits.len() + listing.lost.len() + usize::from(listing.manifest)
}

/// Reads every object in `listing` and checks all that they say of each other.
pub async fn check(archive: &Archive, id: RecordingId, listing: &Listing) -> Report {
    let mut report = Report {
        id,
        about: String::new(),
        notes: Vec::new(),
        faults: Vec::new(),
    };
    let good_inits = check_inits(archive, id, listing, &mut report).await;
    let recording = read_segments(archive, id, listing, &good_inits, &mut report).await;
    check_manifest(archive, id, listing, &recording, &mut report).await;
    check_numbers(&recording, listing.manifest, &mut report);
    check_timeline(&recording, &mut report);
    note_losses(&recording, &mut report);
    let stored = recording.segments.values().flat_map(BTreeMap::values);
    let bytes: u64 = stored.map(|stored| stored.bytes).sum();
    let seconds = recording.length().as_secs();
    let state = match (listing.manifest, recording.state()) {
        (true, _) => "complete",
        (false, State::Open) => "not ended",
        (false, _) => "arriving",
    };
    report.about = format!(
        "{state}, {}:{:02}, {} objects, {bytes} bytes",
        seconds / 60,
        seconds % 60,
        objects(listing)
    );
    report
}

/// The inits whose bytes have the hash that is their name.
async fn check_inits(
    archive: &Archive,
    id: RecordingId,
    listing: &Listing,
    report: &mut Report,
) -> BTreeSet<Hash> {
    let mut good = BTreeSet::new();
    for init in listing.inits.keys() {
        match archive.read(&archive::init_path(id, *init)).await {
            Ok(bytes) if archive::hash(&bytes) == *init => {
                good.insert(*init);
            }
            Ok(bytes) => report.fault(
                RESTORE,
                format!(
                    "init {init}: its bytes have the hash {}",
                    archive::hash(&bytes)
                ),
            ),
            Err(e) => report.fault(RESTORE, format!("init {init}: {e}")),
        }
    }
    good
}

/// What the undamaged segments say.
async fn read_segments(
    archive: &Archive,
    id: RecordingId,
    listing: &Listing,
    good_inits: &BTreeSet<Hash>,
    report: &mut Report,
) -> Recording {
    let mut recording = Recording::default();
    recording.inits.extend(listing.inits.keys());
    for (range, reason) in &listing.lost {
        recording.insert_lost(*range, *reason);
    }
    let keys = listing.segments.iter().flat_map(|(&track, sequences)| {
        sequences.keys().map(move |&sequence| SegmentKey {
            recording: id,
            track,
            sequence,
        })
    });
    let read =
        |key: SegmentKey| async move { (key, archive.read(&archive::segment_path(&key)).await) };
    let mut segments = futures_util::stream::iter(keys.collect::<Vec<_>>())
        .map(read)
        .buffered(AT_ONCE);
    while let Some((key, bytes)) = segments.next().await {
        let name = format!("segment {}/{}", key.track, key.sequence);
        let read = match bytes {
            Ok(bytes) => catalog::read_segment(&bytes, archive::hash(&bytes)),
            Err(e) => {
                report.fault(RESTORE, format!("{name}: {e}"));
                continue;
            }
        };
        let read = match read {
            Ok(read) => read,
            Err(e) => {
                report.fault(RESTORE, format!("{name}: it is damaged: {e}"));
                continue;
            }
        };
        if read.provenance.key != key {
            let other = read.provenance.key;
            report.fault(RESTORE, format!("{name}: the object holds segment {other}"));
            continue;
        }
        if let Some(init) = read.stored.init.filter(|init| !good_inits.contains(init)) {
            report.fault(
                RESTORE,
                format!("{name}: its init {init} is missing or damaged"),
            );
        }
        recording.insert(key.sequence, key.track, read.stored, read.facts);
    }
    recording
}

/// The manifest says what the objects say, no less and no more.
async fn check_manifest(
    archive: &Archive,
    id: RecordingId,
    listing: &Listing,
    recording: &Recording,
    report: &mut Report,
) {
    let advice = "restore manifest.json from a copy of the store, or remove it and start the \
        receiver, which writes it again";
    if !listing.manifest {
        if recording.missing().is_none() {
            let advice = "start the receiver: it writes it";
            report.fault(advice, "nothing is missing, but there is no manifest");
        }
        return;
    }
    let bytes = match archive.read(&archive::manifest_path(id)).await {
        Ok(bytes) => bytes,
        Err(e) => return report.fault(advice, format!("the manifest: {e}")),
    };
    let read = Manifest::from_json(&bytes).and_then(|read| Ok((read.segments()?, read)));
    let (named, read) = match read {
        Ok(read) => read,
        Err(e) => return report.fault(advice, format!("the manifest: {e}")),
    };
    let mut differs = false;
    let mut of_manifest: BTreeMap<TrackId, BTreeMap<u64, Stored>> = BTreeMap::new();
    for (track, sequence, stored) in named {
        of_manifest
            .entry(track)
            .or_default()
            .insert(sequence, stored);
        let known = recording
            .segments
            .get(&track)
            .and_then(|of| of.get(&sequence));
        let is_listed = listing.segments.get(&track);
        if known == Some(&stored) {
            continue;
        }
        differs = true;
        let name = format!("segment {track}/{sequence}");
        if !is_listed.is_some_and(|listed| listed.contains_key(&sequence)) {
            report.fault(
                RESTORE,
                format!("{name}: the manifest names it, and it is not there"),
            );
        } else if let Some(known) = known {
            let (found, named) = (known.hash, stored.hash);
            let what =
                format!("{name}: its bytes have the hash {found}, the manifest says {named}");
            report.fault(RESTORE, what);
        }
    }
    for (track, segments) in &recording.segments {
        for sequence in segments.keys() {
            let named = of_manifest
                .get(track)
                .is_some_and(|of| of.contains_key(sequence));
            if !named {
                differs = true;
                let what = format!("segment {track}/{sequence}: the manifest does not name it");
                report.fault(advice, what);
            }
        }
    }
    if !differs && read != Manifest::of(id, recording) {
        report.fault(advice, "the manifest says something else than the facts");
    }
}

/// Every number below the end is there or declared lost, and none is beyond it.
fn check_numbers(recording: &Recording, complete: bool, report: &mut Report) {
    let lost = recording.lost();
    let totals = recording.end().map(|(_, totals)| totals.to_vec());
    let mut ends: BTreeMap<TrackId, u64> = recording
        .segments
        .keys()
        .map(|track| (*track, recording.durable(*track).end()))
        .collect();
    for total in totals.iter().flatten() {
        let here = ends.insert(total.track, total.segments).unwrap_or(0);
        if here > total.segments {
            let what = format!(
                "track {}: it has segment {}, and END says that it has {} segments",
                total.track,
                here - 1,
                total.segments
            );
            report.fault(REPORT, what);
        }
    }
    for (track, end) in ends {
        let mut accounted = recording.durable(track);
        for range in lost.keys().filter(|range| range.track == track) {
            accounted.insert_range(Range {
                first: range.first,
                last: range.last,
            });
        }
        let holes = holes(&accounted, end);
        for (first, last) in holes {
            let what = format!("track {track}: segments {first} to {last} are not there");
            if complete {
                report.fault(RESTORE, format!("{what} and nobody says why"));
            } else {
                let note = format!("{what} yet: they come when the box is connected");
                report.notes.push(note);
            }
        }
    }
    if let Some(missing @ Missing::Root(_)) = recording.missing() {
        report.fault(REPORT, missing.to_string());
    }
    if complete && totals.is_none() {
        report.fault(RESTORE, "END is not among its facts");
    }
}

/// The stretches below `end` that are not in `set`.
fn holes(set: &Sequences, end: u64) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut at = set.cumulative();
    for range in set.ranges() {
        if range.first > at {
            found.push((at, range.first - 1));
        }
        at = range.last.saturating_add(1);
    }
    if at < end {
        found.push((at, end - 1));
    }
    found
}

/// A segment starts where the one before it ends, unless a gap fact says otherwise.
fn check_timeline(recording: &Recording, report: &mut Report) {
    let spans = recording.spans();
    let mut undescribed = BTreeSet::new();
    let media = recording
        .segments
        .iter()
        .filter(|(id, _)| **id != TrackId::EVENTS);
    for (&track, segments) in media {
        let pairs = segments.iter().zip(segments.iter().skip(1));
        for ((&before, one), (&after, next)) in pairs {
            if one.span != next.span || before.checked_add(1) != Some(after) {
                continue;
            }
            let units = i64::try_from(one.duration).unwrap_or(i64::MAX);
            let end = MediaTime(one.start.0.saturating_add(units));
            let at = format!(
                "track {track}, span {}: between segments {before} and {after}",
                one.span
            );
            if next.start < end {
                report.fault(REPORT, format!("{at}: they overlap"));
            } else if next.start > end && !is_gap(recording, track, one.span, end, next.start) {
                let missing = u128::from(next.start.0.abs_diff(end.0));
                let milliseconds = missing * 1000 / u128::from(one.timescale.get());
                let what = format!("{at}: {milliseconds} ms are missing and nobody says why");
                report.fault(REPORT, what);
            }
        }
        let used: BTreeSet<u32> = segments.values().map(|stored| stored.span).collect();
        undescribed.extend(used.into_iter().filter(|span| !spans.contains_key(span)));
    }
    for span in undescribed {
        report.fault(REPORT, format!("span {span}: no fact describes it"));
    }
}

fn is_gap(
    recording: &Recording,
    of_track: TrackId,
    in_span: u32,
    from: MediaTime,
    to: MediaTime,
) -> bool {
    recording.facts().any(|fact| match fact.event {
        Event::Gap {
            track,
            start,
            duration,
            ..
        } => {
            let units = i64::try_from(duration).unwrap_or(i64::MAX);
            (track, fact.span) == (of_track, in_span)
                && start < to
                && start.0.saturating_add(units) > from.0
        }
        _ => false,
    })
}

fn note_losses(recording: &Recording, report: &mut Report) {
    for (LostRange { track, first, last }, reason) in recording.lost() {
        let reason = manifest::lost_reason(reason);
        let note = format!("track {track}: segments {first} to {last} are lost: {reason}");
        report.notes.push(note);
    }
    for (span, fact) in recording.spans() {
        let away = match fact.gap {
            None => continue,
            Some(GapLength::Unknown) => "for an unknown time".into(),
            Some(GapLength::Known { nanos, .. }) => format!("for {} s", nanos / 1_000_000_000),
        };
        let why = match fact.after_pause {
            true => "the recording was paused",
            false => "the box was away",
        };
        report
            .notes
            .push(format!("span {span}: {why} before it {away}"));
    }
    let gaps = recording
        .facts()
        .filter(|fact| matches!(fact.event, Event::Gap { .. }))
        .count();
    if gaps > 0 {
        report
            .notes
            .push(format!("{gaps} gaps are recorded with their causes"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_what_is_between() {
        let mut set = Sequences::below(2);
        assert_eq!(holes(&set, 2), []);
        assert_eq!(holes(&set, 3), [(2, 2)]);
        set.insert(4);
        set.insert(7);
        assert_eq!(holes(&set, 10), [(2, 3), (5, 6), (8, 9)]);
        assert_eq!(holes(&Sequences::default(), 1), [(0, 0)]);
        let (first, last) = (12, u64::MAX);
        set.insert_range(Range { first, last });
        assert_eq!(holes(&set, 20), [(2, 3), (5, 6), (8, 11)]);
    }
}
