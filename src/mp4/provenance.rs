//! The box with which every segment opens: where it comes from, so that an object found alone
//! explains itself.
//!
//! Layout of version 1, all integers big-endian, 124 bytes in total:
//!
//! ```text
//! at  bytes  what
//!  0      4  size of the box: 124
//!  4      4  `uuid`
//!  8     16  PROVENANCE_UUID
//! 24      1  version: 1
//! 25      1  flags: bit 0 set when an init is named; the other bits are 0
//! 26      1  track
//! 27      1  0
//! 28      4  span, counted from 0 within the recording
//! 32     16  recording
//! 48      8  sequence, counted from 0 within the track
//! 56      8  the box's boot epoch
//! 64      8  start: media time of the first access unit, signed
//! 72      4  timescale, units per second, not 0
//! 76     16  0, kept for later versions
//! 92     32  the init's BLAKE3; zeros when none is named
//! ```

use super::Error;
use super::boxes::{box_at, malformed};
use crate::media::{Hash, MediaTime, Provenance, RecordingId, SegmentKey, TrackId};

/// The type of the provenance box (ISO/IEC 14496-12, 4.2: a `uuid` box's extended type).
pub const PROVENANCE_UUID: [u8; 16] = [
    0x5a, 0x1c, 0x8e, 0x37, 0x2b, 0x0f, 0x4d, 0x96, 0xb3, 0x71, 0xe4, 0x08, 0x9a, 0xc5, 0x6d, 0x12,
];

const SIZE: u32 = 124;
const VERSION: u8 = 1;
const NAMES_INIT: u8 = 1;

/// Appends the box to `out`.
pub fn encode_provenance(provenance: &Provenance, out: &mut Vec<u8>) {
    out.extend_from_slice(&SIZE.to_be_bytes());
    out.extend_from_slice(b"uuid");
    out.extend_from_slice(&PROVENANCE_UUID);
    let flags = if provenance.init.is_some() {
        NAMES_INIT
    } else {
        0
    };
    out.extend_from_slice(&[VERSION, flags, provenance.key.track.0, 0]);
    out.extend_from_slice(&provenance.span.to_be_bytes());
    out.extend_from_slice(&provenance.key.recording.0);
    out.extend_from_slice(&provenance.key.sequence.to_be_bytes());
    out.extend_from_slice(&provenance.epoch.to_be_bytes());
    out.extend_from_slice(&provenance.start.0.to_be_bytes());
    out.extend_from_slice(&provenance.timescale.to_be_bytes());
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(&provenance.init.map_or([0; 32], |hash| hash.0));
}

/// Reads the box with which `bytes` begin, and says where it ends.
///
/// Another version than 1 is refused: an archive is read by a receiver at least as new as its boxes.
pub fn parse_provenance(bytes: &[u8]) -> Result<(Provenance, usize), Error> {
    let found = box_at(bytes, 0, bytes.len())?;
    let mut fields = Fields(&bytes[found.body.clone()]);
    if found.kind != *b"uuid" || fields.take::<16>()? != PROVENANCE_UUID {
        return Err(malformed("a segment begins with its provenance box", 0));
    }
    let [version, flags, track, zero] = fields.take()?;
    if version != VERSION || flags & !NAMES_INIT != 0 || zero != 0 {
        return Err(malformed(
            "this version of the provenance box is not known",
            24,
        ));
    }
    let span = u32::from_be_bytes(fields.take()?);
    let recording = RecordingId(fields.take()?);
    let sequence = u64::from_be_bytes(fields.take()?);
    let epoch = u64::from_be_bytes(fields.take()?);
    let start = MediaTime(i64::from_be_bytes(fields.take()?));
    let timescale = u32::from_be_bytes(fields.take()?);
    let reserved: [u8; 16] = fields.take()?;
    let hash: [u8; 32] = fields.take()?;
    let init = (flags & NAMES_INIT != 0).then_some(Hash(hash));
    if timescale == 0 || reserved != [0; 16] || (init.is_none() && hash != [0; 32]) {
        return Err(malformed("the provenance box contradicts itself", 72));
    }
    if !fields.0.is_empty() {
        return Err(malformed("the provenance box is too long", SIZE as usize));
    }
    let key = SegmentKey {
        recording,
        track: TrackId(track),
        sequence,
    };
    let provenance = Provenance {
        key,
        epoch,
        span,
        start,
        timescale,
        init,
    };
    Ok((provenance, found.body.end))
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (field, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(malformed("the provenance box is cut short", 8))?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::mp4) fn any_provenance() -> impl Strategy<Value = Provenance> {
        (
            any::<([u8; 16], u8, u64)>(),
            any::<(u64, u32, i64)>(),
            1u32..,
            any::<Option<[u8; 32]>>(),
        )
            .prop_map(
                |((recording, track, sequence), (epoch, span, start), timescale, init)| {
                    Provenance {
                        key: SegmentKey {
                            recording: RecordingId(recording),
                            track: TrackId(track),
                            sequence,
                        },
                        epoch,
                        span,
                        start: MediaTime(start),
                        timescale,
                        init: init.map(Hash),
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn it_reads_back_and_no_part_of_it_does(provenance in any_provenance()) {
            let mut bytes = Vec::new();
            encode_provenance(&provenance, &mut bytes);
            prop_assert_eq!(bytes.len(), SIZE as usize);
            prop_assert_eq!(parse_provenance(&bytes).unwrap(), (provenance, bytes.len()));
            for cut in 0..bytes.len() {
                prop_assert!(parse_provenance(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse_provenance(&bytes).is_err());
        }
    }

    /// Released boxes have written these bytes: they must stay readable.
    #[test]
    fn version_1_keeps_its_layout() {
        let provenance = Provenance {
            key: SegmentKey {
                recording: RecordingId([0xaa; 16]),
                track: TrackId(3),
                sequence: 0x0102,
            },
            epoch: 0x0304,
            span: 5,
            start: MediaTime(0x0607),
            timescale: 90_000,
            init: Some(Hash([0xbb; 32])),
        };
        let mut bytes = Vec::new();
        encode_provenance(&provenance, &mut bytes);
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = [
            "0000007c75756964",
            "5a1c8e372b0f4d96b371e4089ac56d12",
            "01010300",
            "00000005",
            &"aa".repeat(16),
            "0000000000000102",
            "0000000000000304",
            "0000000000000607",
            "00015f90",
            &"00".repeat(16),
            &"bb".repeat(32),
        ];
        assert_eq!(text, expected.concat());
    }
}
