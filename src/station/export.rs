//! A recording of the spool as one MP4 file: for a card out of a dead box, without a receiver.
//!
//! Takes what is there, complete or not, and says what it left out. The file that a receiver offers of
//! the same recording has the same sound and pictures.

use super::Error;
use super::pipeline::{kind_of, name_of};
use crate::journal::{Unsaid, say};
use crate::media::{
    Event, Fact, GapLength, MediaTime, RecordingId, SegmentKey, Timescale, TrackId, TrackKind,
};
use crate::mp4::{self, Content, ProgressiveTrack, SegmentSource};
use crate::segmenter::read_facts;
use crate::spool::Spool;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

/// A segment that can be read and is what it should be.
struct Part {
    key: SegmentKey,
    length: u64,
    span: u32,
    /// When it ends, in nanoseconds of its span.
    end_nanos: i64,
    init: usize,
}

/// Writes recording `id` to `output`, which must not exist: the name is taken by the whole file only.
pub(super) fn write(spool: &Spool, id: RecordingId, output: &Path) -> Result<(), Error> {
    let refused = |what: String| Error::Refused(format!("{}: {what}", output.display()));
    if output.symlink_metadata().is_ok() {
        return Err(refused(
            "is there already; remove it or name another file".into(),
        ));
    }
    let (tracks, parts) = plan(spool, id)?;
    let fetch = |track: usize, segment: usize| {
        let part: &Part = &parts[track][segment];
        spool
            .read(part.key, 0, part.length)
            .map_err(io::Error::other)
    };
    let mut staged = output.as_os_str().to_owned();
    staged.push(".part");
    let staged = PathBuf::from(staged);
    let made = write_staged(&tracks, fetch, &staged).and_then(|written| {
        fs::rename(&staged, output).map_err(mp4::Error::Write)?;
        Ok(written)
    });
    match made {
        Ok(written) => {
            say(format_args!(
                "{}: {} bytes, {:.1} s\n",
                output.display(),
                written.bytes,
                written.nanos as f64 / 1e9
            ))?;
            Ok(())
        }
        Err(error) => {
            // It may not even have been made.
            let _ = fs::remove_file(&staged);
            Err(match error {
                mp4::Error::Write(error) if error.kind() == io::ErrorKind::StorageFull => refused(
                    "the disk is full; nothing was written: name a file on another disk".into(),
                ),
                mp4::Error::Write(error) => refused(format!(
                    "{error}; check that its directory is there and writable"
                )),
                error => Error::Refused(format!("recording {id}: {error}")),
            })
        }
    }
}

fn write_staged(
    tracks: &[ProgressiveTrack],
    fetch: impl FnMut(usize, usize) -> io::Result<Vec<u8>>,
    staged: &Path,
) -> Result<mp4::Written, mp4::Error> {
    let file = File::create(staged).map_err(mp4::Error::Write)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let written = mp4::write_progressive(tracks, fetch, &mut out)?;
    let file = out
        .into_inner()
        .map_err(|error| mp4::Error::Write(error.into_error()))?;
    file.sync_all().map_err(mp4::Error::Write)?;
    Ok(written)
}

/// The film's tracks, and the segments behind them.
fn plan(spool: &Spool, id: RecordingId) -> Result<(Vec<ProgressiveTrack>, Vec<Vec<Part>>), Unsaid> {
    let facts = facts(spool, id)?;
    let (mut tracks, mut parts) = (Vec::new(), Vec::new());
    let held: Vec<TrackId> = spool
        .state(id)
        .map(|state| state.tracks.keys().copied().collect())
        .unwrap_or_default();
    for track in held {
        if kind_of(track) == TrackKind::Events {
            continue;
        }
        let (inits, found) = parts_of(spool, id, track)?;
        let named = facts.iter().rev().find_map(|fact| match &fact.event {
            Event::Track(info) if info.id == track => Some(info.name.clone()),
            _ => None,
        });
        tracks.push(ProgressiveTrack {
            name: named.unwrap_or_else(|| name_of(track)),
            inits,
            segments: Vec::new(),
        });
        parts.push(found);
    }
    let starts = span_starts(&facts, parts.iter().flatten());
    for (track, parts) in tracks.iter_mut().zip(&parts) {
        let source = |part: &Part| SegmentSource {
            init: part.init,
            span_start_nanos: starts.get(&part.span).copied().unwrap_or(0),
        };
        track.segments = parts.iter().map(source).collect();
    }
    Ok((tracks, parts))
}

fn facts(spool: &Spool, id: RecordingId) -> Result<Vec<Fact>, Unsaid> {
    let mut facts = Vec::new();
    let events = spool
        .state(id)
        .and_then(|state| state.tracks.get(&TrackId::EVENTS));
    for (&sequence, segment) in events.iter().flat_map(|events| &events.segments) {
        let key = SegmentKey {
            recording: id,
            track: TrackId::EVENTS,
            sequence,
        };
        let bytes = spool.read(key, 0, segment.length).ok();
        match bytes.and_then(|bytes| read_facts(&bytes)) {
            Some(more) => facts.extend(more),
            None => say(format_args!(
                "segment {key} is left out: it cannot be read\n"
            ))?,
        }
    }
    Ok(facts)
}

/// The inits of a track and its segments, in order; what cannot be used is said and left out.
fn parts_of(
    spool: &Spool,
    id: RecordingId,
    track: TrackId,
) -> Result<(Vec<Vec<u8>>, Vec<Part>), Unsaid> {
    let (mut hashes, mut inits, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    let state = spool.state(id).and_then(|state| state.tracks.get(&track));
    for (&sequence, segment) in state.iter().flat_map(|track| &track.segments) {
        let (key, length) = (
            SegmentKey {
                recording: id,
                track,
                sequence,
            },
            segment.length,
        );
        if length == 0 {
            say(format_args!(
                "segment {key} is left out: it is not here any more\n"
            ))?;
            continue;
        }
        let mut take = || -> Result<Part, String> {
            let bytes = spool
                .read(key, 0, length)
                .map_err(|error| error.to_string())?;
            let (span, end_nanos) = place(&bytes)?;
            let hash = segment.init.ok_or("it names no init")?;
            let init = match hashes.iter().position(|known| *known == hash) {
                Some(init) => init,
                None => {
                    let init = spool.read_init(&hash).map_err(|error| error.to_string())?;
                    inits.push(init.ok_or("its init is not here")?);
                    hashes.push(hash);
                    hashes.len() - 1
                }
            };
            Ok(Part {
                key,
                length,
                span,
                end_nanos,
                init,
            })
        };
        match take() {
            Ok(part) => parts.push(part),
            Err(error) => say(format_args!("segment {key} is left out: {error}\n"))?,
        }
    }
    Ok((inits, parts))
}

/// The span of a segment, and when it ends in it.
fn place(bytes: &[u8]) -> Result<(u32, i64), String> {
    let segment = mp4::parse_segment(bytes).map_err(|error| error.to_string())?;
    let Content::Media(chunks) = segment.content else {
        return Err("it holds no media".into());
    };
    let timescale = Timescale::new(segment.provenance.timescale).ok_or("it has no timescale")?;
    let end = chunks.last().map_or(0, |last| {
        last.chunk.base_time.saturating_add(last.chunk.duration())
    });
    let end = MediaTime(i64::try_from(end).unwrap_or(i64::MAX));
    Ok((segment.provenance.span, end.as_nanos(timescale)))
}

/// Where each span starts in the film: after those before it and the time that the box is known to
/// have been away.
fn span_starts<'a>(facts: &[Fact], parts: impl Iterator<Item = &'a Part>) -> BTreeMap<u32, i64> {
    let mut ends: BTreeMap<u32, i64> = BTreeMap::new();
    for part in parts {
        let end = ends.entry(part.span).or_default();
        *end = (*end).max(part.end_nanos);
    }
    // What came last counts, as it does at the receiver: a gap may be known only once UTC is.
    let mut gaps: BTreeMap<u32, Option<GapLength>> = BTreeMap::new();
    for fact in facts {
        match fact.event {
            Event::Span { gap, .. } => gaps.insert(fact.span, gap),
            Event::SpanPlaced { span, gap, .. } => gaps.insert(span, gap),
            _ => None,
        };
    }
    let gap_before = |span: u32| match gaps.get(&span) {
        Some(Some(GapLength::Known { nanos, .. })) => i64::try_from(*nanos).ok(),
        _ => None,
    };
    let (mut at, mut starts) = (0i64, BTreeMap::new());
    for (span, length) in ends {
        at = at.saturating_add(gap_before(span).unwrap_or(0));
        starts.insert(span, at);
        at = at.saturating_add(length);
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::WallClock;

    #[test]
    fn a_gap_that_was_known_late_moves_the_span_that_follows_it() {
        let second = 1_000_000_000;
        let part = |span| Part {
            key: SegmentKey {
                recording: RecordingId([1; 16]),
                track: TrackId(1),
                sequence: span,
            },
            length: 1,
            span: span as u32,
            end_nanos: 2 * second,
            init: 0,
        };
        let fact = |span, event| Fact {
            span,
            at_nanos: 0,
            event,
        };
        let span = |span, gap| {
            let (epoch, wall) = (1, None);
            fact(span, Event::Span { epoch, wall, gap })
        };
        let known = |seconds: i64| GapLength::Known {
            nanos: (seconds * second) as u64,
            uncertainty_nanos: 0,
        };
        let placed = |concerns, gap| {
            let wall = WallClock {
                unix_nanos: 0,
                uncertainty: None,
            };
            let placed = Event::SpanPlaced {
                span: concerns,
                wall,
                gap: Some(gap),
            };
            fact(2, placed)
        };
        let mut facts = vec![
            span(0, None),
            span(1, Some(GapLength::Unknown)),
            span(2, Some(known(5))),
        ];
        let parts = [part(0), part(1), part(2)];
        let starts = |facts: &[Fact]| -> Vec<i64> {
            let starts = span_starts(facts, parts.iter()).into_values();
            starts.map(|nanos| nanos / second).collect()
        };
        assert_eq!(starts(&facts), [0, 2, 9]);
        facts.extend([placed(1, known(30)), placed(2, known(7))]);
        assert_eq!(starts(&facts), [0, 32, 41]);
    }
}
