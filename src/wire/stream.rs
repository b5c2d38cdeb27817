//! The unidirectional streams: one segment or one init each. All lengths are big-endian.
//!
//! ```text
//! segment: 1 | u16 length, header | item ... | trailer | FIN
//!   header:  CBOR map { 0: key, 1: init's hash }
//!   chunk:   1 | u32 length | bytes
//!   trailer: 2 | u64 length of all chunks together | BLAKE3 of exactly those bytes
//! init:    2 | BLAKE3 of the bytes | u32 length | bytes | FIN
//! ```
//!
//! The archived object is the chunks' bytes, nothing else. Without a valid trailer and FIN a
//! segment never existed.

use super::ErrorCode;
use crate::media::{Hash, SegmentKey};
use minicbor::{Decode, Decoder, Encode};

/// The longest chunk in bytes.
pub const MAX_CHUNK: u32 = 8 * 1024 * 1024;
/// The longest segment in bytes.
pub const MAX_SEGMENT: u64 = 16 * 1024 * 1024;
/// The longest init in bytes.
pub const MAX_INIT: u32 = 64 * 1024;
/// The longest segment header in bytes.
pub const MAX_HEADER: u16 = 1024;

const SEGMENT: u8 = 1;
const INIT: u8 = 2;
const CHUNK: u8 = 1;
const TRAILER: u8 = 2;
const CHUNK_HEAD: usize = 5;
const TRAILER_LENGTH: usize = 41;
const INIT_HEAD: usize = 36;

/// What a segment's stream says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SegmentHeader {
    /// Its name.
    #[n(0)]
    pub key: SegmentKey,
    /// The init that its chunks need; none for the events track.
    #[n(1)]
    pub init: Option<Hash>,
}

/// The first bytes of a segment's stream.
pub fn segment_head(header: &SegmentHeader) -> Vec<u8> {
    let mut bytes = vec![SEGMENT, 0, 0];
    let written = minicbor::encode(header, &mut bytes);
    debug_assert!(written.is_ok(), "{written:?}");
    let length = (bytes.len() - 3) as u16;
    bytes[1..3].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// What stands before a chunk of `length` bytes, at most [`MAX_CHUNK`].
pub fn chunk_head(length: u32) -> [u8; CHUNK_HEAD] {
    let mut bytes = [CHUNK; CHUNK_HEAD];
    bytes[1..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// What stands after the last chunk: the length of all chunks together and the hash of their bytes.
pub fn trailer(length: u64, hash: &Hash) -> [u8; TRAILER_LENGTH] {
    let mut bytes = [TRAILER; TRAILER_LENGTH];
    bytes[1..9].copy_from_slice(&length.to_be_bytes());
    bytes[9..].copy_from_slice(&hash.0);
    bytes
}

/// The whole stream of an init of at most [`MAX_INIT`] bytes.
pub fn init_stream(hash: &Hash, bytes: &[u8]) -> Vec<u8> {
    let mut stream = Vec::with_capacity(1 + INIT_HEAD + bytes.len());
    stream.push(INIT);
    stream.extend_from_slice(&hash.0);
    stream.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    stream.extend_from_slice(bytes);
    stream
}

/// The BLAKE3 hash of `bytes`.
pub fn hash(bytes: &[u8]) -> Hash {
    Hash(*blake3::hash(bytes).as_bytes())
}

/// Why a stream is refused. What it carried does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Neither a segment nor an init, or an item of unknown tag.
    #[error("a stream with an unknown kind or item {0}")]
    Unknown(u8),
    /// A length of zero or beyond the limit.
    #[error("{what} of {length} bytes; allowed are 1 to {limit}")]
    Length {
        /// What is too long or empty.
        what: &'static str,
        /// Its announced length.
        length: u64,
        /// The longest allowed.
        limit: u64,
    },
    /// The header is not CBOR of the expected shape.
    #[error("a segment header that cannot be read: {0}")]
    Header(String),
    /// The trailer's length is not that of the chunks.
    #[error("the trailer states {stated} bytes, the chunks have {found}")]
    WrongLength {
        /// What the trailer says.
        stated: u64,
        /// What was read.
        found: u64,
    },
    /// The bytes have another hash than stated.
    #[error("the stream states hash {stated}, its bytes have {found}")]
    WrongHash {
        /// What the stream says.
        stated: Hash,
        /// What was read.
        found: Hash,
    },
    /// Bytes after the trailer or after the init.
    #[error("bytes after the end of a segment or init")]
    Surplus,
    /// The stream ended before its trailer.
    #[error("a stream cut before its end")]
    Cut,
}

impl StreamError {
    /// The code to stop the stream with.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Length { length: 0, .. } => ErrorCode::MALFORMED,
            Self::Length { .. } => ErrorCode::OVERSIZED,
            Self::WrongLength { .. } | Self::WrongHash { .. } => ErrorCode::HASH_MISMATCH,
            _ => ErrorCode::MALFORMED,
        }
    }
}

/// What a stream says, in the order in which it says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent<'a> {
    /// It is a segment. First and once.
    Header(SegmentHeader),
    /// A chunk of this length begins.
    ChunkStart(u32),
    /// The next bytes of the chunk, never empty.
    ChunkBytes(&'a [u8]),
    /// The chunk is whole.
    ChunkEnd,
}

/// What a stream was, known only once it ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    /// A segment whose trailer is right.
    Segment {
        /// The length of its bytes.
        length: u64,
        /// Their hash.
        hash: Hash,
    },
    /// An init whose hash is right. Its bytes appear here and nowhere before.
    Init {
        /// The hash of its bytes.
        hash: Hash,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

#[derive(Debug)]
enum State {
    Kind,
    HeaderLength,
    Header(usize),
    Item,
    ChunkHead,
    Chunk(u32),
    ChunkEnd,
    Trailer,
    SegmentDone(Hash),
    InitHead,
    Init(Hash, usize),
    InitDone(Hash),
    Failed(StreamError),
}

/// Reads a unidirectional stream that arrives in pieces of any size. Holds at most an init or a
/// header, never a chunk.
#[derive(Debug)]
pub struct StreamReader {
    state: State,
    partial: Vec<u8>,
    hasher: blake3::Hasher,
    length: u64,
}

impl Default for StreamReader {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamReader {
    /// A reader at the stream's first byte.
    pub fn new() -> Self {
        Self {
            state: State::Kind,
            partial: Vec::new(),
            hasher: blake3::Hasher::new(),
            length: 0,
        }
    }

    /// Bytes of chunks read so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of an init gathered so far.
    pub fn init_length(&self) -> u64 {
        match self.state {
            State::Init(..) | State::InitDone(_) => self.partial.len() as u64,
            _ => 0,
        }
    }

    /// The next event out of `input`, which is advanced past what was used; `None` when it takes
    /// more bytes. After an error every call gives the same error.
    pub fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<StreamEvent<'a>>, StreamError> {
        if let State::Failed(error) = &self.state {
            return Err(error.clone());
        }
        let step = self.step(input);
        if let Err(error) = &step {
            self.state = State::Failed(error.clone());
        }
        step
    }

    /// What the stream was, at its FIN.
    pub fn finish(self) -> Result<Finished, StreamError> {
        match self.state {
            State::SegmentDone(hash) => Ok(Finished::Segment {
                length: self.length,
                hash,
            }),
            State::InitDone(hash) => Ok(Finished::Init {
                hash,
                bytes: self.partial,
            }),
            State::Failed(error) => Err(error),
            _ => Err(StreamError::Cut),
        }
    }

    fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<StreamEvent<'a>>, StreamError> {
        loop {
            match self.state {
                State::Kind => match take_byte(input) {
                    None => return Ok(None),
                    Some(SEGMENT) => self.state = State::HeaderLength,
                    Some(INIT) => self.state = State::InitHead,
                    Some(other) => return Err(StreamError::Unknown(other)),
                },
                State::HeaderLength => {
                    let Some(length) = self.gather::<2>(input) else {
                        return Ok(None);
                    };
                    let length = u16::from_be_bytes(length);
                    check("a segment header", length.into(), MAX_HEADER.into())?;
                    self.state = State::Header(length.into());
                }
                State::Header(length) => {
                    if !self.fill(length, input) {
                        return Ok(None);
                    }
                    let header = read_header(&self.partial)?;
                    self.partial.clear();
                    self.state = State::Item;
                    return Ok(Some(StreamEvent::Header(header)));
                }
                State::Item => match take_byte(input) {
                    None => return Ok(None),
                    Some(CHUNK) => self.state = State::ChunkHead,
                    Some(TRAILER) => self.state = State::Trailer,
                    Some(other) => return Err(StreamError::Unknown(other)),
                },
                State::ChunkHead => {
                    let Some(length) = self.gather::<4>(input) else {
                        return Ok(None);
                    };
                    let length = u32::from_be_bytes(length);
                    check("a chunk", length.into(), MAX_CHUNK.into())?;
                    check("a segment", self.length + u64::from(length), MAX_SEGMENT)?;
                    self.state = State::Chunk(length);
                    return Ok(Some(StreamEvent::ChunkStart(length)));
                }
                State::Chunk(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let taken = input.len().min(left as usize);
                    let (piece, rest) = input.split_at(taken);
                    *input = rest;
                    self.hasher.update(piece);
                    self.length += taken as u64;
                    self.state = match left - taken as u32 {
                        0 => State::ChunkEnd,
                        left => State::Chunk(left),
                    };
                    return Ok(Some(StreamEvent::ChunkBytes(piece)));
                }
                State::ChunkEnd => {
                    self.state = State::Item;
                    return Ok(Some(StreamEvent::ChunkEnd));
                }
                State::Trailer => {
                    let Some(trailer) = self.gather::<{ TRAILER_LENGTH - 1 }>(input) else {
                        return Ok(None);
                    };
                    self.state = State::SegmentDone(self.check_trailer(&trailer)?);
                }
                State::InitHead => {
                    let Some(head) = self.gather::<INIT_HEAD>(input) else {
                        return Ok(None);
                    };
                    let (stated, length) = split_init_head(&head);
                    check("an init", length.into(), MAX_INIT.into())?;
                    self.state = State::Init(stated, length as usize);
                }
                State::Init(stated, length) => {
                    if !self.fill(length, input) {
                        return Ok(None);
                    }
                    let found = hash(&self.partial);
                    if found != stated {
                        return Err(StreamError::WrongHash { stated, found });
                    }
                    self.state = State::InitDone(stated);
                }
                State::SegmentDone(_) | State::InitDone(_) => {
                    return if input.is_empty() {
                        Ok(None)
                    } else {
                        Err(StreamError::Surplus)
                    };
                }
                State::Failed(ref error) => return Err(error.clone()),
            }
        }
    }

    fn check_trailer(&self, trailer: &[u8; TRAILER_LENGTH - 1]) -> Result<Hash, StreamError> {
        let mut length = [0; 8];
        let mut stated = [0; 32];
        length.copy_from_slice(&trailer[..8]);
        stated.copy_from_slice(&trailer[8..]);
        let (length, stated) = (u64::from_be_bytes(length), Hash(stated));
        check("a segment", self.length, MAX_SEGMENT)?;
        if length != self.length {
            return Err(StreamError::WrongLength {
                stated: length,
                found: self.length,
            });
        }
        let found = Hash(*self.hasher.finalize().as_bytes());
        if found != stated {
            return Err(StreamError::WrongHash { stated, found });
        }
        Ok(stated)
    }

    fn fill(&mut self, target: usize, input: &mut &[u8]) -> bool {
        let wanted = target.saturating_sub(self.partial.len()).min(input.len());
        let (taken, rest) = input.split_at(wanted);
        self.partial.extend_from_slice(taken);
        *input = rest;
        self.partial.len() >= target
    }

    fn gather<const N: usize>(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        if !self.fill(N, input) {
            return None;
        }
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.partial);
        self.partial.clear();
        Some(bytes)
    }
}

fn take_byte(input: &mut &[u8]) -> Option<u8> {
    let (first, rest) = input.split_first()?;
    *input = rest;
    Some(*first)
}

fn check(what: &'static str, length: u64, limit: u64) -> Result<(), StreamError> {
    if (1..=limit).contains(&length) {
        return Ok(());
    }
    Err(StreamError::Length {
        what,
        length,
        limit,
    })
}

fn split_init_head(head: &[u8; INIT_HEAD]) -> (Hash, u32) {
    let mut stated = [0; 32];
    let mut length = [0; 4];
    stated.copy_from_slice(&head[..32]);
    length.copy_from_slice(&head[32..]);
    (Hash(stated), u32::from_be_bytes(length))
}

fn read_header(bytes: &[u8]) -> Result<SegmentHeader, StreamError> {
    let mut d = Decoder::new(bytes);
    let header = d
        .decode()
        .map_err(|error| StreamError::Header(error.to_string()))?;
    if d.position() != bytes.len() {
        return Err(StreamError::Header("bytes after it".into()));
    }
    Ok(header)
}
