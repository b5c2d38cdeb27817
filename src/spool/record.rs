//! The bytes of a log file: a header, then records.
//!
//! ```text
//! file    "HCSPOOL1" | version u16 = 1 | cipher u16 = 0 (none) | recording 16 | check 16
//! record  "HcR1" | kind u8 | track u8 | zero u16 | body length u32 | index u32 | sequence u64 |
//!         init 32 | body | check 16
//! ```
//!
//! Integers are big-endian. A check is the first 16 bytes of the BLAKE3 of all that precedes it in
//! the file header or record. The magic lets recovery find the next record after damage; the check
//! decides whether it is one. A kind that is not known here is passed over: a later release wrote it.
//!
//! Longer than most files: each kind's writer and reader stand together, with the tests of their bytes.

use crate::media::{Hash, LostReason, Range, RecordingId, Sequences, TrackId};

/// Bytes of a file's header.
pub(super) const FILE_HEADER: usize = 8 + 2 + 2 + 16 + CHECK;
/// Bytes of a record without its body.
pub(super) const OVERHEAD: usize = HEADER + CHECK;
/// A record begins with this.
pub(super) const MAGIC: &[u8; 4] = b"HcR1";

const FILE_MAGIC: &[u8; 8] = b"HCSPOOL1";
const VERSION: u16 = 1;
const CIPHER_NONE: u16 = 0;
/// Bytes of a record before its body.
pub(super) const HEADER: usize = 4 + 1 + 1 + 2 + 4 + 4 + 8 + 32;
const CHECK: usize = 16;
/// No body is longer: a chunk is at most 8 MiB on the wire.
const MOST_BODY: usize = 9 << 20;

/// When and by whom a recording was taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The box's boot epoch.
    pub epoch: u64,
    /// The span that begins.
    pub span: u32,
    /// UTC at that moment as the box had it, nanoseconds since 1970.
    pub wall_nanos: i64,
}

/// One record of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A run of the box's process took the recording up.
    Opened(Opened),
    /// A decoder's set-up.
    Init {
        /// The track that uses it first.
        track: TrackId,
        /// Its name.
        hash: Hash,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// One chunk.
    Chunk {
        /// The track.
        track: TrackId,
        /// The segment's sequence number.
        sequence: u64,
        /// The chunk's index within the segment.
        index: u32,
        /// The init it needs.
        init: Option<Hash>,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// A segment is whole.
    Seal {
        /// The track.
        track: TrackId,
        /// The segment's sequence number.
        sequence: u64,
        /// Bytes of the segment.
        length: u64,
        /// BLAKE3 of the segment.
        hash: Hash,
    },
    /// The receiver holds these segments of `track` durably.
    Durable {
        /// The track.
        track: TrackId,
        /// The segments.
        durable: Sequences,
        /// When it was recorded: seconds since 1970, 0 where the clock was not known.
        at: u32,
    },
    /// The recording is over; its `End` fact is among the chunks before this. Release 0.1 wrote it
    /// behind the fact; now a [`Record::Final`] is both, and this restates it once that one is freed.
    Ended,
    /// The receiver's manifest is durable.
    Complete {
        /// When it was recorded, as in [`Record::Durable`].
        at: u32,
    },
    /// Segments that will never come: what is given up or damaged, as a fact that is itself kept.
    Lost {
        /// The track.
        track: TrackId,
        /// The segments.
        range: Range,
        /// Why.
        reason: LostReason,
    },
    /// A whole segment of the events track that ends the recording: chunk, seal and end in one record,
    /// so that no crash leaves one of them without the others.
    Final {
        /// The segment's sequence number.
        sequence: u64,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// The receiver holds these segments and no others, whatever it acknowledged before; it does not
    /// hold the recording whole.
    Forgot {
        /// The track.
        track: TrackId,
        /// What it holds.
        held: Sequences,
        /// What it held and nobody can give again: LOST by this same record.
        lost: Vec<Range>,
    },
    /// The seals of segments whose bytes are, or are about to be, freed.
    Seals {
        /// The track.
        track: TrackId,
        /// Sequence number, length and hash of each.
        seals: Vec<(u64, u64, Hash)>,
    },
    /// The last record of a file that is written to no more: the headers of all records before it,
    /// each with its body unless that is media. Written once all of them were kept.
    Index(&'a [u8]),
    /// A kind of a later release.
    Other(u8),
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than the record needs: the end of the file, or a torn write.
    #[error("the record is cut short")]
    Short,
    /// Not a record of this version.
    #[error("no record begins here")]
    Damaged,
}

/// The header of a log file.
pub(super) fn file_header(recording: RecordingId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FILE_HEADER);
    bytes.extend(FILE_MAGIC);
    bytes.extend(VERSION.to_be_bytes());
    bytes.extend(CIPHER_NONE.to_be_bytes());
    bytes.extend(recording.0);
    append_check(&mut bytes, 0);
    bytes
}

/// The recording that a log file says it belongs to; `None` if its header is damaged or of a
/// version or cipher not known here.
pub(super) fn read_file_header(bytes: &[u8]) -> Option<RecordingId> {
    let bytes = bytes.get(..FILE_HEADER)?;
    let (body, check) = bytes.split_at(FILE_HEADER - CHECK);
    let known = body.starts_with(FILE_MAGIC)
        && body[8..10] == VERSION.to_be_bytes()
        && body[10..12] == CIPHER_NONE.to_be_bytes()
        && check == check_of(body);
    known.then(|| RecordingId(array(&body[12..28])))
}

impl Record<'_> {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let zero = Hash([0; 32]);
        let (kind, track, index, sequence, init) = match self {
            Self::Opened(_) => (1, TrackId::EVENTS, 0, 0, zero),
            Self::Init { track, hash, .. } => (2, *track, 0, 0, *hash),
            Self::Chunk {
                track,
                sequence,
                index,
                init,
                ..
            } => (3, *track, *index, *sequence, init.unwrap_or(zero)),
            Self::Seal {
                track,
                sequence,
                hash,
                ..
            } => (4, *track, 0, *sequence, *hash),
            Self::Durable { track, durable, at } => (5, *track, *at, durable.cumulative(), zero),
            Self::Ended => (6, TrackId::EVENTS, 0, 0, zero),
            Self::Complete { at } => (7, TrackId::EVENTS, *at, 0, zero),
            Self::Lost {
                track,
                range,
                reason,
            } => (8, *track, reason_number(*reason), range.first, zero),
            Self::Final { sequence, .. } => (9, TrackId::EVENTS, 0, *sequence, zero),
            Self::Forgot { track, held, lost } => {
                (10, *track, lost.len() as u32, held.cumulative(), zero)
            }
            Self::Seals { track, .. } => (11, *track, 0, 0, zero),
            Self::Index(_) => (12, TrackId::EVENTS, 0, 0, zero),
            Self::Other(kind) => (*kind, TrackId::EVENTS, 0, 0, zero),
        };
        let mut small = Vec::new();
        let body: &[u8] = match self {
            Self::Init { bytes, .. }
            | Self::Chunk { bytes, .. }
            | Self::Final { bytes, .. }
            | Self::Index(bytes) => bytes,
            Self::Opened(opened) => {
                small.extend(opened.epoch.to_be_bytes());
                small.extend(opened.span.to_be_bytes());
                small.extend(opened.wall_nanos.to_be_bytes());
                &small
            }
            Self::Seal { length, .. } => {
                small.extend(length.to_be_bytes());
                &small
            }
            Self::Durable { durable, .. } => {
                append_ranges(durable.ranges(), &mut small);
                &small
            }
            Self::Forgot { held, lost, .. } => {
                append_ranges(held.ranges(), &mut small);
                append_ranges(lost, &mut small);
                &small
            }
            Self::Lost { range, .. } => {
                small.extend(range.last.to_be_bytes());
                &small
            }
            Self::Seals { seals, .. } => {
                for (sequence, length, hash) in seals {
                    small.extend(sequence.to_be_bytes());
                    small.extend(length.to_be_bytes());
                    small.extend(hash.0);
                }
                &small
            }
            Self::Ended | Self::Complete { .. } | Self::Other(_) => &small,
        };
        let mut bytes = Vec::with_capacity(OVERHEAD + body.len());
        bytes.extend(MAGIC);
        bytes.extend([kind, track.0, 0, 0]);
        bytes.extend((body.len() as u32).to_be_bytes());
        bytes.extend(index.to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(init.0);
        bytes.extend(body);
        append_check(&mut bytes, 0);
        bytes
    }
}

/// Reads the record that `bytes` begin with; gives it and its length in bytes.
///
/// Fails with [`RecordError::Short`] where more bytes could make it a record, and with
/// [`RecordError::Damaged`] where none could.
pub fn read_record(bytes: &[u8]) -> Result<(Record<'_>, usize), RecordError> {
    let magic = &bytes[..bytes.len().min(4)];
    if !MAGIC.starts_with(magic) {
        return Err(RecordError::Damaged);
    }
    let header = bytes.get(..HEADER).ok_or(RecordError::Short)?;
    let body_length = u32::from_be_bytes(array(&header[8..12])) as usize;
    if body_length > MOST_BODY {
        return Err(RecordError::Damaged);
    }
    let whole = bytes
        .get(..OVERHEAD + body_length)
        .ok_or(RecordError::Short)?;
    let (checked, check) = whole.split_at(HEADER + body_length);
    if check != check_of(checked) {
        return Err(RecordError::Damaged);
    }
    let record = parse(header, &checked[HEADER..]).ok_or(RecordError::Damaged)?;
    Ok((record, whole.len()))
}

/// The record of this header and body, whose check held; `None` for one that no release writes.
fn parse<'a>(header: &[u8], body: &'a [u8]) -> Option<Record<'a>> {
    let track = TrackId(header[5]);
    let index = u32::from_be_bytes(array(&header[12..16]));
    let sequence = u64::from_be_bytes(array(&header[16..24]));
    let init = Hash(array(&header[24..56]));
    Some(match header[4] {
        1 if body.len() == 20 => Record::Opened(Opened {
            epoch: u64::from_be_bytes(array(&body[..8])),
            span: u32::from_be_bytes(array(&body[8..12])),
            wall_nanos: i64::from_be_bytes(array(&body[12..20])),
        }),
        2 => Record::Init {
            track,
            hash: init,
            bytes: body,
        },
        3 => {
            let init = (init.0 != [0; 32]).then_some(init);
            Record::Chunk {
                track,
                sequence,
                index,
                init,
                bytes: body,
            }
        }
        4 if body.len() == 8 => Record::Seal {
            track,
            sequence,
            length: u64::from_be_bytes(array(body)),
            hash: init,
        },
        5 if body.len().is_multiple_of(16) => Record::Durable {
            track,
            durable: sequences(sequence, body),
            at: index,
        },
        6 if body.is_empty() => Record::Ended,
        7 if body.is_empty() => Record::Complete { at: index },
        8 if body.len() == 8 => Record::Lost {
            track,
            range: Range {
                first: sequence,
                last: u64::from_be_bytes(array(body)),
            },
            reason: reason(index)?,
        },
        9 => Record::Final {
            sequence,
            bytes: body,
        },
        10 if body.len().is_multiple_of(16) => {
            let lost = (index as usize).checked_mul(16)?;
            let (held, lost) = body.split_at(body.len().checked_sub(lost)?);
            Record::Forgot {
                track,
                held: sequences(sequence, held),
                lost: ranges(lost).collect(),
            }
        }
        11 if body.len().is_multiple_of(48) => Record::Seals {
            track,
            seals: body
                .chunks_exact(48)
                .map(|seal| {
                    let number = |at: usize| u64::from_be_bytes(array(&seal[at..at + 8]));
                    (number(0), number(8), Hash(array(&seal[16..])))
                })
                .collect(),
        },
        12 => Record::Index(body),
        0..=12 => return None,
        kind => Record::Other(kind),
    })
}

fn append_ranges(ranges: &[Range], bytes: &mut Vec<u8>) {
    for range in ranges {
        bytes.extend(range.first.to_be_bytes());
        bytes.extend(range.last.to_be_bytes());
    }
}

fn ranges(bytes: &[u8]) -> impl Iterator<Item = Range> {
    bytes.chunks_exact(16).map(|pair| Range {
        first: u64::from_be_bytes(array(&pair[..8])),
        last: u64::from_be_bytes(array(&pair[8..])),
    })
}

fn sequences(cumulative: u64, bytes: &[u8]) -> Sequences {
    let mut set = Sequences::below(cumulative);
    ranges(bytes).for_each(|range| set.insert_range(range));
    set
}

fn reason_number(reason: LostReason) -> u32 {
    match reason {
        LostReason::Damaged => 1,
        LostReason::NoSpace => 2,
        LostReason::ReceiverForgot => 3,
    }
}

fn reason(number: u32) -> Option<LostReason> {
    match number {
        1 => Some(LostReason::Damaged),
        2 => Some(LostReason::NoSpace),
        3 => Some(LostReason::ReceiverForgot),
        _ => None,
    }
}

/// What an index tells of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    /// A record of media, and its body's length.
    Media(Record<'a>, usize),
    /// A record that is all here.
    Whole(Record<'a>),
}

/// Adds a record's line to an index.
pub(super) fn add_to_index(record: &[u8], index: &mut Vec<u8>) {
    let is_media = matches!(record.get(4), Some(2 | 3));
    let end = if is_media {
        HEADER
    } else {
        record.len().saturating_sub(CHECK)
    };
    index.extend(&record[..end]);
}

/// The entries of an index, each with where its record begins in the file; gives where the last of
/// them ends, or `None` if the index is not one after all.
pub(super) fn read_index(mut index: &[u8], mut each: impl FnMut(Entry<'_>, u64)) -> Option<u64> {
    let mut at = FILE_HEADER as u64;
    while !index.is_empty() {
        let header = index.get(..HEADER)?;
        if !header.starts_with(MAGIC) {
            return None;
        }
        let length = u32::from_be_bytes(array(&header[8..12])) as usize;
        let is_media = matches!(header[4], 2 | 3);
        let end = HEADER + if is_media { 0 } else { length };
        let record = parse(header, index.get(HEADER..end)?)?;
        each(
            if is_media {
                Entry::Media(record, length)
            } else {
                Entry::Whole(record)
            },
            at,
        );
        at += (OVERHEAD + length) as u64;
        index = &index[end..];
    }
    Some(at)
}

fn append_check(bytes: &mut Vec<u8>, from: usize) {
    let check = check_of(&bytes[from..]);
    bytes.extend(check);
}

fn check_of(bytes: &[u8]) -> [u8; CHECK] {
    array(&blake3::hash(bytes).as_bytes()[..CHECK])
}

/// The first `N` bytes; every caller has sliced at least that many.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_record<'a>(body: &'a [u8], pick: u8, number: u64) -> Record<'a> {
        let (track, hash) = (TrackId(pick), Hash([7; 32]));
        match pick % 12 {
            0 => Record::Opened(Opened {
                epoch: number,
                span: 3,
                wall_nanos: -1,
            }),
            1 => Record::Init {
                track,
                hash,
                bytes: body,
            },
            2 => Record::Chunk {
                track,
                sequence: number,
                index: 9,
                init: Some(hash),
                bytes: body,
            },
            3 => Record::Seal {
                track,
                sequence: number,
                length: 5,
                hash,
            },
            4 => {
                let mut durable = Sequences::below(number);
                durable.insert_range(Range {
                    first: number.saturating_add(3),
                    last: number.saturating_add(5),
                });
                Record::Durable {
                    track,
                    durable,
                    at: number as u32,
                }
            }
            5 => Record::Ended,
            6 => Record::Lost {
                track,
                range: Range {
                    first: number,
                    last: number.saturating_add(2),
                },
                reason: LostReason::NoSpace,
            },
            7 => Record::Final {
                sequence: number,
                bytes: body,
            },
            8 => Record::Forgot {
                track,
                held: Sequences::below(number),
                lost: vec![Range { first: 2, last: 9 }; body.len() % 3],
            },
            9 => Record::Seals {
                track,
                seals: vec![(number, 3, hash); body.len() % 3],
            },
            10 => Record::Index(body),
            _ => Record::Complete { at: number as u32 },
        }
    }

    proptest! {
        #[test]
        fn a_record_reads_back_whole_and_never_in_part(body: Vec<u8>, pick: u8, number: u64, more: Vec<u8>) {
            let record = any_record(&body, pick, number);
            let bytes = record.encode();
            for cut in 0..bytes.len() {
                prop_assert_eq!(read_record(&bytes[..cut]), Err(RecordError::Short));
            }
            let longer = [bytes.as_slice(), &more].concat();
            prop_assert_eq!(read_record(&longer), Ok((record, bytes.len())));
        }

        #[test]
        fn a_changed_bit_is_found(body: Vec<u8>, pick: u8, number: u64, at: usize, bit in 0u8..8) {
            let mut bytes = any_record(&body, pick, number).encode();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(read_record(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_harm(bytes: Vec<u8>) {
            let behind_magic = [MAGIC.as_slice(), &bytes].concat();
            prop_assert!(read_record(&bytes).is_err());
            prop_assert!(read_record(&behind_magic).is_err());
        }
    }

    #[test]
    fn a_kind_of_a_later_release_is_passed_over_and_a_malformed_one_refused() {
        let mut bytes = Record::Other(200).encode();
        assert_eq!(read_record(&bytes), Ok((Record::Other(200), bytes.len())));
        let end = bytes.len() - CHECK;
        bytes.truncate(end);
        bytes[4] = 8;
        append_check(&mut bytes, 0);
        assert_eq!(read_record(&bytes), Err(RecordError::Damaged));
    }

    #[test]
    fn an_index_tells_what_its_records_told() {
        let (body, mut index, mut file) = (vec![9; 50], Vec::new(), vec![0; FILE_HEADER]);
        let records: Vec<Record<'_>> = (0..12).map(|pick| any_record(&body, pick, 7)).collect();
        for record in &records {
            let bytes = record.encode();
            add_to_index(&bytes, &mut index);
            file.extend(bytes);
        }
        let mut seen = 0;
        let whole = read_index(&index, |entry, at| {
            let (record, _) = read_record(&file[at as usize..]).unwrap();
            match (entry, record) {
                (Entry::Whole(told), record) => assert_eq!(told, record),
                (
                    Entry::Media(_, length),
                    Record::Init { bytes, .. } | Record::Chunk { bytes, .. },
                ) => {
                    assert_eq!(length, bytes.len());
                }
                other => panic!("{other:?}"),
            }
            seen += 1;
        });
        assert_eq!((whole, seen), (Some(file.len() as u64), records.len()));
        for cut in 1..index.len() {
            read_index(&index[..cut], |_, _| {});
        }
        assert_eq!(read_index(&index[..index.len() - 1], |_, _| {}), None);
    }

    #[test]
    fn a_file_names_its_recording() {
        let recording = RecordingId([9; 16]);
        let mut header = file_header(recording);
        assert_eq!(header.len(), FILE_HEADER);
        assert_eq!(read_file_header(&header), Some(recording));
        header[9] = 2;
        assert_eq!(read_file_header(&header), None);
    }
}
