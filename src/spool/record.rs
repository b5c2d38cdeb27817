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
//! decides whether it is one.

use crate::media::{Hash, Range, RecordingId, Sequences, TrackId};

/// Bytes of a file's header.
pub(super) const FILE_HEADER: usize = 8 + 2 + 2 + 16 + CHECK;
/// Bytes of a record without its body.
pub(super) const OVERHEAD: usize = HEADER + CHECK;
/// A record begins with this.
pub(super) const MAGIC: &[u8; 4] = b"HcR1";

const FILE_MAGIC: &[u8; 8] = b"HCSPOOL1";
const VERSION: u16 = 1;
const CIPHER_NONE: u16 = 0;
const HEADER: usize = 4 + 1 + 1 + 2 + 4 + 4 + 8 + 32;
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
    },
    /// The recording is over; its `End` fact is among the chunks before this.
    Ended,
    /// The receiver's manifest is durable.
    Complete,
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
            Self::Durable { track, durable } => (5, *track, 0, durable.cumulative(), zero),
            Self::Ended => (6, TrackId::EVENTS, 0, 0, zero),
            Self::Complete => (7, TrackId::EVENTS, 0, 0, zero),
        };
        let mut small = Vec::new();
        let body: &[u8] = match self {
            Self::Init { bytes, .. } | Self::Chunk { bytes, .. } => bytes,
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
                for range in durable.ranges() {
                    small.extend(range.first.to_be_bytes());
                    small.extend(range.last.to_be_bytes());
                }
                &small
            }
            Self::Ended | Self::Complete => &small,
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
    let body = &checked[HEADER..];
    let track = TrackId(header[5]);
    let index = u32::from_be_bytes(array(&header[12..16]));
    let sequence = u64::from_be_bytes(array(&header[16..24]));
    let init = Hash(array(&header[24..56]));
    let record = match header[4] {
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
        5 if body.len().is_multiple_of(16) => {
            let mut durable = Sequences::below(sequence);
            for pair in body.chunks_exact(16) {
                let first = u64::from_be_bytes(array(&pair[..8]));
                durable.insert_range(Range {
                    first,
                    last: u64::from_be_bytes(array(&pair[8..])),
                });
            }
            Record::Durable { track, durable }
        }
        6 if body.is_empty() => Record::Ended,
        7 if body.is_empty() => Record::Complete,
        _ => return Err(RecordError::Damaged),
    };
    Ok((record, whole.len()))
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
        match pick % 7 {
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
                Record::Durable { track, durable }
            }
            5 => Record::Ended,
            _ => Record::Complete,
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
    fn a_file_names_its_recording() {
        let recording = RecordingId([9; 16]);
        let mut header = file_header(recording);
        assert_eq!(header.len(), FILE_HEADER);
        assert_eq!(read_file_header(&header), Some(recording));
        header[9] = 2;
        assert_eq!(read_file_header(&header), None);
    }
}
