//! A segment's bytes: its provenance box, then chunks of sound or pictures, or one batch of facts.

use super::Error;
use super::boxes::{box_at, malformed};
use super::chunk::{ParsedChunk, parse_chunk_at};
use super::provenance::{encode_provenance, parse_provenance};
use crate::media::Provenance;
use std::ops::Range;

/// A segment as its bytes describe it; borrows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Where it comes from.
    pub provenance: Provenance,
    /// What it holds.
    pub content: Content<'a>,
}

/// What a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// Sound or pictures: at least one chunk, in order of time.
    Media(Vec<MediaChunk>),
    /// The events track: the bytes of one `mdat` box, one batch of facts.
    Events(&'a [u8]),
}

/// A chunk and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaChunk {
    /// Its bytes as they were produced and sent: chunk 0 has the provenance box in front. The ranges
    /// of a segment's chunks cover it without a hole (they are the parts of a live playlist).
    pub bytes: Range<usize>,
    /// What it says of itself; its `data` counts from the segment's start.
    pub chunk: ParsedChunk,
}

/// Reads a whole segment, strictly: provenance, then `moof` + `mdat` pairs whose times do not
/// overlap, or (in a segment that names no init) one `mdat`.
pub fn parse_segment(bytes: &[u8]) -> Result<Segment<'_>, Error> {
    let (provenance, mut at) = parse_provenance(bytes)?;
    if provenance.init.is_none() {
        let mdat = box_at(bytes, at, bytes.len())?;
        if mdat.kind != *b"mdat" || mdat.body.end != bytes.len() {
            return Err(malformed("a segment of facts is one `mdat`", at));
        }
        let content = Content::Events(&bytes[mdat.body]);
        return Ok(Segment {
            provenance,
            content,
        });
    }
    let mut chunks = Vec::new();
    let mut start = 0;
    let mut earliest = provenance.start.0;
    while at < bytes.len() || chunks.is_empty() {
        let (chunk, end) = parse_chunk_at(bytes, at)?;
        let time = chunk.base_time as i64;
        if time < earliest || (chunks.is_empty() && time != earliest) {
            return Err(malformed(
                "a chunk's time is not where the segment says",
                at,
            ));
        }
        earliest = time.saturating_add_unsigned(chunk.duration());
        chunks.push(MediaChunk {
            bytes: start..end,
            chunk,
        });
        (start, at) = (end, end);
    }
    let content = Content::Media(chunks);
    Ok(Segment {
        provenance,
        content,
    })
}

/// The bytes of a segment of the events track: one batch of facts (CBOR, as `wire` writes it) is one
/// chunk is one segment. `provenance` names no init.
pub fn events_segment(provenance: &Provenance, cbor: &[u8]) -> Result<Vec<u8>, Error> {
    if provenance.init.is_some() {
        return Err(Error::Unencodable("a segment of facts that names an init"));
    }
    let size = u32::try_from(cbor.len() + 8)
        .map_err(|_| Error::Unencodable("a batch of facts of 4 GiB"))?;
    let mut out = Vec::with_capacity(132 + cbor.len());
    encode_provenance(provenance, &mut out);
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(b"mdat");
    out.extend_from_slice(cbor);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{AccessUnit, Hash, MediaTime, Monotonic};
    use crate::mp4::chunk::encode_chunk;
    use crate::mp4::provenance::tests::any_provenance;
    use proptest::prelude::*;

    fn media(provenance: &mut Provenance, chunks: u8) -> Vec<u8> {
        provenance.start = MediaTime(1000);
        provenance.init.get_or_insert(Hash([1; 32]));
        let mut bytes = Vec::new();
        encode_provenance(provenance, &mut bytes);
        for n in 0..chunks {
            let unit = AccessUnit {
                time: MediaTime(1000 + i64::from(n) * 10),
                duration: 10,
                keyframe: n == 0,
                captured: Monotonic::default(),
                data: vec![n; n.into()],
            };
            encode_chunk(n.into(), &[unit], &mut bytes).unwrap();
        }
        bytes
    }

    proptest! {
        #[test]
        fn facts_read_back(mut provenance in any_provenance(), cbor in prop::collection::vec(any::<u8>(), 0..50)) {
            provenance.init = None;
            let bytes = events_segment(&provenance, &cbor).unwrap();
            let content = Content::Events(&cbor);
            prop_assert_eq!(parse_segment(&bytes).unwrap(), Segment { provenance, content });
        }

        #[test]
        fn chunks_cover_the_segment(mut provenance in any_provenance(), count in 1u8..9) {
            let bytes = media(&mut provenance, count);
            let segment = parse_segment(&bytes).unwrap();
            prop_assert_eq!(segment.provenance, provenance);
            let Content::Media(chunks) = segment.content else { panic!("facts") };
            let mut end = 0;
            for (n, chunk) in chunks.iter().enumerate() {
                prop_assert_eq!(chunk.bytes.start, end);
                prop_assert_eq!(&bytes[chunk.chunk.data.clone()], &vec![n as u8; n][..]);
                end = chunk.bytes.end;
            }
            prop_assert_eq!((end, chunks.len()), (bytes.len(), count.into()));
        }

        #[test]
        fn a_segment_cut_inside_a_chunk_or_damaged_never_panics(mut provenance in any_provenance(), cut in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut bytes = media(&mut provenance, 3);
            let whole = parse_segment(&bytes).unwrap();
            let Content::Media(chunks) = whole.content else { panic!("facts") };
            let at = cut.index(bytes.len());
            let at_a_seam = chunks.iter().any(|chunk| chunk.bytes.end == at);
            prop_assert_eq!(parse_segment(&bytes[..at]).is_ok(), at_a_seam);
            bytes[at] = with;
            let _ = parse_segment(&bytes);
        }

        #[test]
        fn chunks_that_overlap_are_refused(mut provenance in any_provenance()) {
            let bytes = media(&mut provenance, 2);
            let Content::Media(chunks) = parse_segment(&bytes).unwrap().content else { panic!("facts") };
            let first = chunks[0].bytes.end;
            let mut twice = bytes[..first].to_vec();
            twice.extend_from_slice(&bytes[124..first]);
            prop_assert!(parse_segment(&twice).is_err());
        }
    }
}
