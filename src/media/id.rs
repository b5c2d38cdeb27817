//! Names of recordings, boxes and tracks, and the hash that names bytes.

use std::fmt;
use std::str::FromStr;

/// An id that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseIdError {
    text: String,
    expected: &'static str,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let refuse = || ParseIdError { text: text.into(), expected: $expected };
                let lower_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
                if text.len() != 2 * $bytes || !text.as_bytes().iter().all(lower_hex) {
                    return Err(refuse());
                }
                let mut bytes = [0; $bytes];
                for (at, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| refuse())?;
                }
                Ok(Self(bytes))
            }
        }
    };
}

hex_id!(
    /// A recording: 128 random bits made by the box, so that neither a wrong clock nor a renamed
    /// room moves anything. Written as 32 lower-case hexadecimal digits.
    RecordingId, 16, "a recording id (32 lower-case hexadecimal digits)"
);

hex_id!(
    /// A box: 128 random bits made at its first start, never in an image.
    BoxId, 16, "a box id (32 lower-case hexadecimal digits)"
);

hex_id!(
    /// A BLAKE3 hash: the name of the bytes of a segment or an init.
    Hash, 32, "a BLAKE3 hash (64 lower-case hexadecimal digits)"
);

/// A track within its recording. 0 is always the events track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackId(pub u8);

impl TrackId {
    /// The recording's own track of facts.
    pub const EVENTS: Self = Self(0);
}

impl fmt::Display for TrackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_nothing_else_does() {
        let id = RecordingId([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "ab",
            "AB".repeat(16).as_str(),
            "é".repeat(16).as_str(),
            "+a".repeat(16).as_str(),
        ] {
            assert!(text.parse::<RecordingId>().is_err(), "{text}");
        }
    }
}
