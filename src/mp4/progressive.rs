//! One recording as one file that any player opens: `ftyp`, `moov`, `mdat`, in that order, made by
//! rewriting sample tables; not a byte of sound or picture is changed.
//!
//! Segments are fetched twice through a callback, one at a time, so that the memory needed is that of
//! the sample tables (about 4 bytes per access unit) and one segment per track. Tracks start together
//! at the recording's zero: a late one gets an empty edit. Where a track of pictures has nothing, its
//! last picture lasts until the next. Where sound has nothing, silent packets stand: players play the
//! packets of sound one behind the other, whatever time the tables give them.

use super::Error;
use super::chunk::encode;
use super::init::{ParsedInit, parse_init};
use super::segment::{Content, parse_segment};
use super::tables::{MOVIE, Tables};
use crate::media::{MediaTime, Timescale};
use mp4_atom::{Ftyp, Moov, Mvhd};
use std::io::{self, Write};
use std::ops::Range;

/// About how much of a track lies together in the file before the others have their turn.
const INTERLEAVE_NANOS: i64 = 1_000_000_000;

/// One track of the file.
#[derive(Clone, Debug)]
pub struct ProgressiveTrack {
    /// Its name, such as `presenter`.
    pub name: String,
    /// Its inits' bytes; the first one's size is the track's.
    pub inits: Vec<Vec<u8>>,
    /// Its segments in order of time.
    pub segments: Vec<SegmentSource>,
}

/// Where a segment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSource {
    /// Which of the track's inits it needs.
    pub init: usize,
    /// Nanoseconds from the recording's zero to the start of the segment's span, not negative.
    pub span_start_nanos: i64,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the whole file.
    pub bytes: u64,
    /// Access units of each track, all tracks together.
    pub samples: u64,
    /// From the recording's zero to the end of the longest track.
    pub nanos: u64,
}

/// Access units that lie together in the file.
struct Run {
    track: usize,
    segment: usize,
    /// On the recording's timeline.
    nanos: i64,
    data: Data,
}

enum Data {
    /// Their bytes within the segment.
    Ranges(Vec<Range<usize>>),
    /// This packet, so many times.
    Silence(&'static [u8], u32),
}

impl Run {
    fn bytes(&self) -> u64 {
        match &self.data {
            Data::Ranges(ranges) => ranges.iter().map(|range| range.len() as u64).sum(),
            Data::Silence(packet, count) => packet.len() as u64 * u64::from(*count),
        }
    }
}

/// Writes the file. `fetch` gives a segment's bytes by the index of its track and its index in the
/// track's list; it is asked for each one twice and must give the same bytes. Tracks without a segment
/// are left out. Give a buffered `out`: it is written in pieces of a few kilobytes.
pub fn write_progressive(
    tracks: &[ProgressiveTrack],
    mut fetch: impl FnMut(usize, usize) -> io::Result<Vec<u8>>,
    out: &mut impl Write,
) -> Result<Written, Error> {
    let mut get = |track, segment| {
        fetch(track, segment).map_err(|source| Error::Read {
            track,
            segment,
            source,
        })
    };
    let mut all: Vec<Option<Tables>> = Vec::new();
    let mut runs = Vec::new();
    for (at, track) in tracks.iter().enumerate() {
        all.push(read_track(at, track, &mut get, &mut runs)?);
    }
    if all.iter().all(Option::is_none) {
        return Err(Error::Unencodable("a recording without a single segment"));
    }
    runs.sort_by_key(|run| (run.nanos, run.track));

    let data: u64 = runs.iter().map(Run::bytes).sum();
    let wide = data > u64::from(u32::MAX) - (64 << 20);
    // Offsets count from the file's start, which is known once the headers were made with the right
    // number of them.
    let unplaced = header(tracks, &all, &offsets(&runs, tracks.len(), 0), wide, data)?;
    let head = header(
        tracks,
        &all,
        &offsets(&runs, tracks.len(), unplaced.len() as u64),
        wide,
        data,
    )?;
    out.write_all(&head).map_err(Error::Write)?;

    let mut held: Vec<Option<(usize, Vec<u8>)>> = vec![None; tracks.len()];
    for run in &runs {
        let (track, segment) = (run.track, run.segment);
        let ranges = match &run.data {
            Data::Ranges(ranges) => ranges,
            Data::Silence(packet, count) => {
                let packets = packet.repeat(*count as usize);
                out.write_all(&packets).map_err(Error::Write)?;
                continue;
            }
        };
        let bytes = match &mut held[track] {
            Some((at, bytes)) if *at == segment => bytes,
            other => &mut other.insert((segment, get(track, segment)?)).1,
        };
        for range in ranges {
            let data = bytes.get(range.clone()).ok_or_else(|| Error::Segment {
                track,
                segment,
                what: "it is shorter than it was a moment ago".into(),
            })?;
            out.write_all(data).map_err(Error::Write)?;
        }
    }
    out.flush().map_err(Error::Write)?;
    let ends = all
        .iter()
        .flatten()
        .map(Tables::movie_end)
        .max()
        .unwrap_or(0);
    Ok(Written {
        bytes: head.len() as u64 + data,
        samples: all.iter().flatten().map(Tables::samples).sum(),
        nanos: MediaTime(ends as i64).as_nanos(MOVIE) as u64,
    })
}

/// Pass 1 of one track: parses its segments, grows its tables, notes where its bytes lie.
fn read_track(
    at: usize,
    track: &ProgressiveTrack,
    get: &mut impl FnMut(usize, usize) -> Result<Vec<u8>, Error>,
    runs: &mut Vec<Run>,
) -> Result<Option<Tables>, Error> {
    if track.segments.is_empty() {
        return Ok(None);
    }
    let inits = track
        .inits
        .iter()
        .map(|init| parse_init(init))
        .collect::<Result<Vec<ParsedInit>, _>>()?;
    let first = inits
        .first()
        .ok_or(Error::Unencodable("a track without an init"))?;
    let mut tables = Tables::new(first);
    let scale = tables.timescale();
    let mut latest = 0;
    for (number, source) in track.segments.iter().enumerate() {
        let fault = |what: String| Error::Segment {
            track: at,
            segment: number,
            what,
        };
        let init = inits
            .get(source.init)
            .ok_or_else(|| fault("its init is not there".into()))?;
        let description = tables
            .description(init)
            .map_err(|what| fault(what.into()))?;
        let bytes = get(at, number)?;
        let segment = parse_segment(&bytes).map_err(|error| fault(error.to_string()))?;
        let Content::Media(chunks) = segment.content else {
            return Err(fault("it holds facts, not sound or pictures".into()));
        };
        let mut run: Option<(i64, Vec<Range<usize>>, u32)> = None;
        let mut close = |tables: &mut Tables, (nanos, ranges, samples)| {
            tables.chunk(samples, description);
            runs.push(Run {
                track: at,
                segment: number,
                nanos,
                data: ranges,
            });
        };
        for part in chunks {
            let time = place(&part.chunk.base_time, source, scale);
            if let Some((packet, count)) = tables.silence(init, time) {
                if let Some((nanos, ranges, samples)) = run.take() {
                    close(&mut tables, (nanos, Data::Ranges(ranges), samples));
                }
                tables.fill(packet.len() as u32, count);
                close(&mut tables, (latest, Data::Silence(packet, count), count));
            }
            // A track's runs lie in the file in the track's order, even where spans overlap.
            latest = latest.max(MediaTime(time as i64).as_nanos(scale));
            let nanos = latest;
            let is_full = |open: &mut (i64, _, _)| nanos.saturating_sub(open.0) >= INTERLEAVE_NANOS;
            if let Some((nanos, ranges, samples)) = run.take_if(is_full) {
                close(&mut tables, (nanos, Data::Ranges(ranges), samples));
            }
            let mut begins = time;
            for sample in &part.chunk.samples {
                tables.sample(begins, sample);
                begins += u64::from(sample.duration);
            }
            let (_, ranges, samples) = run.get_or_insert_with(|| (nanos, Vec::new(), 0));
            ranges.push(part.chunk.data);
            *samples += part.chunk.samples.len() as u32;
        }
        if let Some((nanos, ranges, samples)) = run {
            close(&mut tables, (nanos, Data::Ranges(ranges), samples));
        }
    }
    Ok(Some(tables))
}

/// A chunk's time on the recording's timeline, in the track's timescale.
fn place(base_time: &u64, source: &SegmentSource, scale: Timescale) -> u64 {
    let shift = MediaTime::from_nanos(source.span_start_nanos.max(0), scale);
    base_time
        .saturating_add_signed(shift.0)
        .min(i64::MAX as u64 / 2)
}

/// For each track, where each of its runs begins, when the data begins at `start`.
fn offsets(runs: &[Run], tracks: usize, start: u64) -> Vec<Vec<u64>> {
    let mut found = vec![Vec::new(); tracks];
    let mut at = start;
    for run in runs {
        found[run.track].push(at);
        at += run.bytes();
    }
    found
}

/// Everything before the first byte of sound or picture.
fn header(
    tracks: &[ProgressiveTrack],
    all: &[Option<Tables>],
    offsets: &[Vec<u64>],
    wide: bool,
    data: u64,
) -> Result<Vec<u8>, Error> {
    let ftyp = Ftyp {
        major_brand: b"isom".into(),
        minor_version: 512,
        compatible_brands: [b"isom", b"iso2", b"avc1", b"mp41"]
            .map(Into::into)
            .to_vec(),
    };
    let mut moov = Moov {
        mvhd: Mvhd {
            timescale: MOVIE.get(),
            duration: all
                .iter()
                .flatten()
                .map(Tables::movie_end)
                .max()
                .unwrap_or(0),
            rate: 1.into(),
            volume: 1.into(),
            ..Mvhd::default()
        },
        ..Moov::default()
    };
    for (at, track) in tracks.iter().enumerate() {
        if let Some(tables) = &all[at] {
            let id = moov.mvhd.next_track_id;
            moov.trak
                .push(tables.trak(id, &track.name, &offsets[at], wide)?);
            moov.mvhd.next_track_id += 1;
        }
    }
    let mut out = Vec::new();
    encode(&ftyp, &mut out)?;
    encode(&moov, &mut out)?;
    match u32::try_from(data + 8) {
        Ok(size) => {
            out.extend_from_slice(&size.to_be_bytes());
            out.extend_from_slice(b"mdat");
        }
        Err(_) => {
            out.extend_from_slice(&1u32.to_be_bytes());
            out.extend_from_slice(b"mdat");
            out.extend_from_slice(&(data + 16).to_be_bytes());
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
