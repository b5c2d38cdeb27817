//! One CMAF chunk: `moof` and `mdat` of one track.

use super::Error;
use super::boxes::{expect, malformed};
use crate::media::AccessUnit;
use mp4_atom::{Encode, Mfhd, Moof, Tfdt, Tfhd, Traf, Trun, TrunEntry, TrunSamples};
use std::ops::Range;

/// Every init describes one track, numbered 1; which track of the recording that is stands in the
/// segment's provenance.
pub(super) const TRACK: u32 = 1;

/// Sample flags (ISO/IEC 14496-12, 8.8.3.1): depends on nothing else.
const KEYFRAME: u32 = 0x0200_0000;
/// Sample flags: depends on others, not a sync sample.
const DEPENDENT: u32 = 0x0101_0000;
const NOT_SYNC: u32 = 0x0001_0000;

/// One access unit as a chunk describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// In units of the track's timescale, never 0.
    pub duration: u32,
    /// Bytes.
    pub size: u32,
    /// Decodes alone.
    pub keyframe: bool,
}

/// What a chunk says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedChunk {
    /// The fragment's number; it only grows within one run of a segmenter.
    pub sequence_number: u32,
    /// Media time of the first access unit; it fits [`crate::media::MediaTime`], as does the end.
    pub base_time: u64,
    /// The access units in order, at least one.
    pub samples: Vec<Sample>,
    /// Where their bytes lie, one after the other, within the bytes that were parsed.
    pub data: Range<usize>,
}

impl ParsedChunk {
    /// How long the chunk lasts, in units of the track's timescale.
    pub fn duration(&self) -> u64 {
        self.samples
            .iter()
            .map(|sample| u64::from(sample.duration))
            .sum()
    }
}

/// Appends a chunk that holds `units` to `out`.
///
/// The times of the access units are what counts: each lasts until the next begins, only the last
/// one's own duration is used. Times grow strictly and are not negative.
pub fn encode_chunk(
    sequence_number: u32,
    units: &[AccessUnit],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let first = units
        .first()
        .ok_or(Error::Unencodable("a chunk of no access unit"))?;
    let base_media_decode_time = u64::try_from(first.time.0)
        .map_err(|_| Error::Unencodable("an access unit before the span's start"))?;
    let mut entries = Vec::with_capacity(units.len());
    for (at, unit) in units.iter().enumerate() {
        let duration = match units.get(at + 1) {
            Some(next) => next.time.0.saturating_sub(unit.time.0),
            None => unit.duration.into(),
        };
        let duration = u32::try_from(duration)
            .ok()
            .filter(|duration| *duration > 0)
            .ok_or(Error::Unencodable("access units whose times do not grow"))?;
        let size = u32::try_from(unit.data.len())
            .map_err(|_| Error::Unencodable("an access unit of 4 GiB"))?;
        entries.push(TrunEntry {
            duration: Some(duration),
            size: Some(size),
            flags: Some(if unit.keyframe { KEYFRAME } else { DEPENDENT }),
            cts: None,
        });
    }
    let data: u64 = units.iter().map(|unit| unit.data.len() as u64).sum();
    let mdat = u32::try_from(data + 8).map_err(|_| Error::Unencodable("a chunk of 4 GiB"))?;

    let mut moof = Moof {
        mfhd: Mfhd { sequence_number },
        traf: vec![Traf {
            tfhd: Tfhd {
                track_id: TRACK,
                default_base_is_moof: true,
                ..Tfhd::default()
            },
            tfdt: Some(Tfdt {
                base_media_decode_time,
            }),
            trun: vec![Trun {
                data_offset: Some(0),
                samples: TrunSamples::Explicit(entries),
            }],
            ..Traf::default()
        }],
    };
    // The offset of the data is the length of the box that names it: measure, then write.
    let start = out.len();
    encode(&moof, out)?;
    let offset = out.len() - start + 8;
    out.truncate(start);
    moof.traf[0].trun[0].data_offset = i32::try_from(offset).ok();
    encode(&moof, out)?;

    out.reserve(mdat as usize);
    out.extend_from_slice(&mdat.to_be_bytes());
    out.extend_from_slice(b"mdat");
    units
        .iter()
        .for_each(|unit| out.extend_from_slice(&unit.data));
    Ok(())
}

/// Reads exactly one chunk as [`encode_chunk`] writes it, nothing before or after it.
pub fn parse_chunk(bytes: &[u8]) -> Result<ParsedChunk, Error> {
    let (chunk, end) = parse_chunk_at(bytes, 0)?;
    if end != bytes.len() {
        return Err(malformed("bytes after the chunk", end));
    }
    Ok(chunk)
}

/// Reads the chunk that begins at `at`, and says where it ends.
pub(super) fn parse_chunk_at(bytes: &[u8], at: usize) -> Result<(ParsedChunk, usize), Error> {
    let moof = expect(
        bytes,
        at,
        bytes.len(),
        b"moof",
        "a chunk begins with `moof`",
    )?;
    let end = moof.body.end;
    let mfhd = expect(
        bytes,
        moof.body.start,
        end,
        b"mfhd",
        "`moof` begins with `mfhd`",
    )?;
    let traf = expect(bytes, mfhd.body.end, end, b"traf", "`traf` follows `mfhd`")?;
    let tfhd = expect(
        bytes,
        traf.body.start,
        traf.body.end,
        b"tfhd",
        "`traf` begins with `tfhd`",
    )?;
    let tfdt = expect(
        bytes,
        tfhd.body.end,
        traf.body.end,
        b"tfdt",
        "`tfdt` follows `tfhd`",
    )?;
    let trun = expect(
        bytes,
        tfdt.body.end,
        traf.body.end,
        b"trun",
        "`trun` follows `tfdt`",
    )?;
    if trun.body.end != traf.body.end || traf.body.end != end {
        return Err(malformed(
            "one `traf` with one `trun` is what a chunk holds",
            trun.body.end,
        ));
    }
    let mdat = expect(bytes, end, bytes.len(), b"mdat", "`mdat` follows `moof`")?;

    let header: Tfhd = tfhd.leaf(bytes)?;
    let plain = Tfhd {
        track_id: TRACK,
        default_base_is_moof: true,
        ..Tfhd::default()
    };
    if header != plain {
        return Err(malformed(
            "`tfhd` is not that of track 1 counted from `moof`",
            tfhd.start(),
        ));
    }
    let run: Trun = trun.leaf(bytes)?;
    if run.data_offset.map(i64::from) != Some((mdat.body.start - at) as i64) {
        return Err(malformed(
            "the data does not begin with `mdat`",
            trun.start(),
        ));
    }
    let TrunSamples::Explicit(entries) = run.samples else {
        return Err(malformed(
            "`trun` does not describe its samples",
            trun.start(),
        ));
    };
    let samples: Vec<Sample> = entries
        .iter()
        .map(
            |entry| match (entry.duration, entry.size, entry.flags, entry.cts) {
                (Some(duration @ 1..), Some(size), Some(flags), None) => Some(Sample {
                    duration,
                    size,
                    keyframe: flags & NOT_SYNC == 0,
                }),
                _ => None,
            },
        )
        .collect::<Option<_>>()
        .filter(|samples: &Vec<Sample>| !samples.is_empty())
        .ok_or(malformed(
            "a sample lacks its duration, size or flags",
            trun.start(),
        ))?;
    let total: u64 = samples.iter().map(|sample| u64::from(sample.size)).sum();
    if total != mdat.body.len() as u64 {
        return Err(malformed("the samples do not fill `mdat`", mdat.start()));
    }

    let chunk = ParsedChunk {
        sequence_number: mfhd.leaf::<Mfhd>(bytes)?.sequence_number,
        base_time: tfdt.leaf::<Tfdt>(bytes)?.base_media_decode_time,
        samples,
        data: mdat.body.clone(),
    };
    let ends = chunk.base_time.checked_add(chunk.duration());
    if ends.is_none_or(|ends| i64::try_from(ends).is_err()) {
        return Err(malformed(
            "the chunk's time is beyond any recording",
            tfdt.start(),
        ));
    }
    Ok((chunk, mdat.body.end))
}

pub(super) fn encode(value: &impl Encode, out: &mut Vec<u8>) -> Result<(), Error> {
    value
        .encode(out)
        .map_err(|_| Error::Unencodable("a value does not fit its box"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{MediaTime, Monotonic};
    use proptest::prelude::*;

    fn units(start: i64, what: &[(u32, Vec<u8>, bool)]) -> Vec<AccessUnit> {
        let mut time = start;
        what.iter()
            .map(|(duration, data, keyframe)| {
                let unit = AccessUnit {
                    time: MediaTime(time),
                    duration: *duration,
                    keyframe: *keyframe,
                    captured: Monotonic::default(),
                    data: data.clone(),
                };
                time += i64::from(*duration);
                unit
            })
            .collect()
    }

    fn encoded(units: &[AccessUnit]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_chunk(7, units, &mut out).unwrap();
        out
    }

    #[test]
    fn a_unit_lasts_until_the_next_begins() {
        let mut two = units(0, &[(3000, vec![1], true), (3000, vec![2, 3], false)]);
        two[1].time = MediaTime(4500);
        let chunk = parse_chunk(&encoded(&two)).unwrap();
        assert_eq!(chunk.samples[0].duration, 4500);
        assert_eq!(
            chunk.samples[1],
            Sample {
                duration: 3000,
                size: 2,
                keyframe: false
            }
        );
        assert_eq!(chunk.duration(), 7500);
    }

    #[test]
    fn what_no_chunk_can_say_is_refused() {
        let mut out = Vec::new();
        assert!(encode_chunk(1, &[], &mut out).is_err());
        assert!(encode_chunk(1, &units(-1, &[(1, vec![], true)]), &mut out).is_err());
        let mut back = units(5, &[(1, vec![], true), (1, vec![], true)]);
        back[1].time = MediaTime(5);
        assert!(encode_chunk(1, &back, &mut out).is_err());
        assert!(out.is_empty());
    }

    #[test]
    fn a_count_that_the_bytes_do_not_hold_is_refused_without_being_believed() {
        let bytes = encoded(&units(0, &[(1, vec![9], true)]));
        let trun = bytes.windows(4).position(|four| four == b"trun").unwrap();
        let mut hostile = bytes.clone();
        hostile[trun + 8..trun + 12].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(parse_chunk(&hostile).is_err());
        // The same with no field per sample: a count alone would cost nothing to send.
        hostile[trun + 5..trun + 8].copy_from_slice(&1u32.to_be_bytes()[1..]);
        assert!(parse_chunk(&hostile).is_err());
    }

    fn any_units() -> impl Strategy<Value = Vec<AccessUnit>> {
        let unit = (
            1u32..1_000_000,
            prop::collection::vec(any::<u8>(), 0..40),
            any::<bool>(),
        );
        (0i64..1 << 60, prop::collection::vec(unit, 1..20))
            .prop_map(|(start, what)| units(start, &what))
    }

    proptest! {
        #[test]
        fn a_chunk_reads_back(units in any_units()) {
            let bytes = encoded(&units);
            let chunk = parse_chunk(&bytes).unwrap();
            prop_assert_eq!(chunk.sequence_number, 7);
            prop_assert_eq!(chunk.base_time as i64, units[0].time.0);
            let mut at = chunk.data.start;
            for (sample, unit) in chunk.samples.iter().zip(&units) {
                prop_assert_eq!((sample.duration, sample.keyframe), (unit.duration, unit.keyframe));
                prop_assert_eq!(&bytes[at..at + sample.size as usize], &unit.data[..]);
                at += sample.size as usize;
            }
            prop_assert_eq!((at, chunk.samples.len()), (bytes.len(), units.len()));
        }

        #[test]
        fn damaged_or_arbitrary_bytes_never_panic(units in any_units(), at in any::<prop::sample::Index>(), with in any::<u8>(), junk in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = encoded(&units);
            prop_assert!(parse_chunk(&bytes[..at.index(bytes.len())]).is_err());
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = parse_chunk(&bytes);
            prop_assert!(parse_chunk(&junk).is_err());
        }
    }
}
