//! A strict, flat walk over boxes: 32-bit sizes, no recursion, no allocation.

use super::Error;
use mp4_atom::Decode;
use std::ops::Range;

/// One box: its four-character code and where it lies in the bytes that were walked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BoxAt {
    pub(super) kind: [u8; 4],
    pub(super) body: Range<usize>,
}

impl BoxAt {
    /// Where the box begins, header included.
    pub(super) fn start(&self) -> usize {
        self.body.start - 8
    }

    /// Decodes it as the leaf box `T`.
    pub(super) fn leaf<T: Decode>(&self, bytes: &[u8]) -> Result<T, Error> {
        let mut whole = &bytes[self.start()..self.body.end];
        T::decode(&mut whole).map_err(|_| malformed("a box does not decode", self.start()))
    }
}

pub(super) fn malformed(what: &'static str, at: usize) -> Error {
    Error::Malformed { what, at }
}

/// The box that begins at `at` and ends at or before `end`; `end` lies within `bytes`.
pub(super) fn box_at(bytes: &[u8], at: usize, end: usize) -> Result<BoxAt, Error> {
    let header = bytes
        .get(at..end)
        .and_then(|rest| rest.first_chunk::<8>())
        .ok_or(malformed("a box header is cut short", at))?;
    let [s0, s1, s2, s3, kind @ ..] = *header;
    let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
    if size < 8 || size > end - at {
        return Err(malformed(
            "a box is longer than what holds it, or has no length",
            at,
        ));
    }
    let body = at + 8..at + size;
    Ok(BoxAt { kind, body })
}

/// The box at `at`, which must be of `kind`.
pub(super) fn expect(
    bytes: &[u8],
    at: usize,
    end: usize,
    kind: &[u8; 4],
    otherwise: &'static str,
) -> Result<BoxAt, Error> {
    let found = box_at(bytes, at, end)?;
    if found.kind != *kind {
        return Err(malformed(otherwise, at));
    }
    Ok(found)
}

/// The first box of `kind` within `range`, whatever stands before it.
pub(super) fn find(
    bytes: &[u8],
    range: Range<usize>,
    kind: &[u8; 4],
    otherwise: &'static str,
) -> Result<BoxAt, Error> {
    let mut at = range.start;
    while at < range.end {
        let found = box_at(bytes, at, range.end)?;
        if found.kind == *kind {
            return Ok(found);
        }
        at = found.body.end;
    }
    Err(malformed(otherwise, range.start))
}
