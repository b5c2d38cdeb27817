//! The control stream's framing: each message is a 32-bit big-endian length and that many bytes.

use super::{ErrorCode, Message, message};

/// The longest message in bytes, its length not counted.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Why the control stream cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A length beyond [`MAX_MESSAGE`], read or about to be written.
    #[error("a control message of {0} bytes; the most is {MAX_MESSAGE}")]
    Oversized(usize),
    /// Not CBOR of the expected shape.
    #[error("a control message that cannot be read: {0}")]
    Malformed(String),
    /// A type of a later release that must not be skipped.
    #[error("a critical control message of unknown type {0}")]
    Unsupported(u16),
}

impl FramingError {
    /// The code to close the connection with.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Oversized(_) => ErrorCode::OVERSIZED,
            Self::Malformed(_) => ErrorCode::MALFORMED,
            Self::Unsupported(_) => ErrorCode::UNSUPPORTED,
        }
    }
}

/// A message as it goes onto the control stream, its length included. A `Welcome` that would be too
/// long goes without its ranges; other messages are too long only by lists beyond `message`'s bounds.
pub fn encode(message: &Message) -> Result<Vec<u8>, FramingError> {
    match (encode_whole(message), message) {
        (Err(FramingError::Oversized(_)), Message::Welcome(welcome)) => {
            encode_whole(&Message::Welcome(welcome.without_ranges()))
        }
        (encoded, _) => encoded,
    }
}

fn encode_whole(message: &Message) -> Result<Vec<u8>, FramingError> {
    let mut bytes = vec![0; 4];
    message::encode(message, &mut bytes);
    let length = bytes.len() - 4;
    match u32::try_from(length) {
        Ok(prefix) if length <= MAX_MESSAGE => bytes[..4].copy_from_slice(&prefix.to_be_bytes()),
        _ => return Err(FramingError::Oversized(length)),
    }
    Ok(bytes)
}

/// Reads messages out of a byte stream that arrives in pieces of any size. Holds at most one
/// message.
#[derive(Debug, Default)]
pub struct MessageReader {
    partial: Vec<u8>,
}

impl MessageReader {
    /// A reader at the stream's start.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next message out of `input`, which is advanced past what was used; `None` when it takes
    /// more bytes. Messages of unknown types are skipped unless critical. After an error the
    /// stream is of no further use.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Message>, FramingError> {
        loop {
            if !self.fill(4, input) {
                return Ok(None);
            }
            let prefix = [
                self.partial[0],
                self.partial[1],
                self.partial[2],
                self.partial[3],
            ];
            let length = u32::from_be_bytes(prefix) as usize;
            if length > MAX_MESSAGE {
                return Err(FramingError::Oversized(length));
            }
            if !self.fill(4 + length, input) {
                return Ok(None);
            }
            let message = message::decode(&self.partial[4..])?;
            self.partial.clear();
            if message.is_some() {
                return Ok(message);
            }
        }
    }

    /// Whether the stream could end here without cutting a message.
    pub fn is_between_messages(&self) -> bool {
        self.partial.is_empty()
    }

    fn fill(&mut self, target: usize, input: &mut &[u8]) -> bool {
        let wanted = target.saturating_sub(self.partial.len()).min(input.len());
        let (taken, rest) = input.split_at(wanted);
        self.partial.extend_from_slice(taken);
        *input = rest;
        self.partial.len() >= target
    }
}
