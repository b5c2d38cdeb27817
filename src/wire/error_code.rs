//! Every error that one end tells the other, with a number that never changes or serves twice.
//!
//! The same number is the application error code of a QUIC close, reset or stop (RFC 9000,
//! section 20.2), the `code` of an `Error` message, and the label in logs and metrics.

use std::fmt;

/// What a box does after the receiver (or itself) ended a connection with a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Connect again with backoff: the cause passes by itself.
    Retry,
    /// Connect again with the longest backoff and raise an alarm: it takes a person.
    Person,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal, $reaction:ident, $advice:literal;)+) => {
        /// An error of the protocol. Numbers not known here are kept as they are.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct ErrorCode(pub u16);

        impl ErrorCode {
            $($(#[doc = $doc])+ pub const $name: Self = Self($number);)+

            /// Every code known here, ascending.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its stable name, for logs and metrics; `unknown` for a number of a later release.
            pub fn name(self) -> &'static str {
                match self.0 { $($number => $text,)+ _ => "unknown" }
            }

            /// What the box does after it.
            pub fn reaction(self) -> Reaction {
                match self.0 { $($number => Reaction::$reaction,)+ _ => Reaction::Retry }
            }

            /// What a person should do, in one sentence.
            pub fn advice(self) -> &'static str {
                match self.0 {
                    $($number => $advice,)+
                    _ => "The other end runs a later release: look the number up in its documentation.",
                }
            }
        }
    };
}

codes! {
    /// No error: the connection is no longer needed.
    DONE = 0, "done", Retry, "Nothing to do.";
    /// The sender of the code failed in a way that says nothing about the other end.
    INTERNAL = 1, "internal", Retry, "Read the log of the end that sent it.";

    /// A message or stream that is well formed but not allowed here: a first message that is no
    /// `Hello`, an acknowledgement of what was never sent. The connection ends; the box frees nothing.
    PROTOCOL = 16, "protocol", Retry, "Update the older end; if both are current, report it.";
    /// Bytes that cannot be read. The connection (control) or stream (segment, init) ends.
    MALFORMED = 17, "malformed", Retry, "Update the older end; if both are current, report it.";
    /// A length beyond the limits of this protocol. As for malformed bytes.
    OVERSIZED = 18, "oversized", Retry, "Lower the bit rate or the keyframe distance of the source.";
    /// An unknown message marked critical. The connection ends.
    UNSUPPORTED = 19, "unsupported", Person, "Update the end that refused it.";
    /// A connection that said no `Hello`, or answered none, in time.
    SILENT = 20, "silent", Retry, "Check the network; a firewall may let the handshake pass and nothing else.";

    /// The registry does not know this box's certificate. The receiver closes after the handshake.
    UNKNOWN_BOX = 32, "unknown-box", Person, "Enrol the box at this receiver, or correct the receiver's address.";
    /// The box was struck from the registry. The receiver closes, also a live connection.
    REVOKED = 33, "revoked", Person, "Enrol the box again if it should still send.";
    /// TLS refused a certificate; never sent, it stands for the TLS alert in logs and metrics.
    CERTIFICATE = 34, "certificate", Person, "Check that box and receiver were set up by the same authority and that neither certificate has expired.";
    /// A certificate of the development authority and a peer that is not on loopback.
    DEVELOPMENT_CA = 35, "development-ca", Person, "Enrol the box; the development authority is for one machine only.";
    /// `Hello` names another box than the certificate does.
    WRONG_BOX = 36, "wrong-box", Person, "The box's state directory holds files of two boxes: restore it or enrol again.";
    /// The peer does not speak this protocol (no common ALPN); never sent, it stands for the TLS alert.
    NO_COMMON_VERSION = 37, "no-common-version", Person, "Check the receiver's address and port, then update the older end.";

    /// A segment's or init's bytes have another hash than announced. The stream is stopped and the
    /// object does not exist; the box reads it from its disk again.
    HASH_MISMATCH = 48, "hash-mismatch", Retry, "Watch the box's disk: bytes changed between writing and sending.";
    /// Another content is already held under the same name. Nothing is overwritten.
    CONFLICT = 49, "conflict", Person, "Find out which box made the copy that the receiver holds; keep both.";
    /// A segment names an init that did not arrive. Streams have no order among them, so the
    /// receiver waits a while for an init that its first user overtook before it says this.
    INIT_MISSING = 50, "init-missing", Retry, "Report it: the box sends inits before their users.";
    /// The recording was erased on purpose; a resend is refused.
    ERASED = 51, "erased", Retry, "Nothing to do.";

    /// A newer connection (epoch, connection number) of this box took over; the text names the one held.
    FENCED = 64, "fenced", Retry, "Nothing to do; if it repeats, two machines use one box's key.";
    /// Two processes with the same key are alive at once.
    CLONED = 65, "cloned", Person, "Two machines use one box's key: enrol one of them anew.";

    /// The store has no room. The box keeps what it has and tries again.
    STORE_FULL = 80, "store-full", Person, "Make room in the receiver's store.";
    /// The store failed. The box keeps what it has and tries again.
    STORE_FAILED = 81, "store-failed", Retry, "Read the receiver's log: its store refuses writes.";
    /// The receiver is ending.
    SHUTTING_DOWN = 82, "shutting-down", Retry, "Nothing to do.";
    /// The receiver has as many connections as it may.
    BUSY = 83, "busy", Retry, "Add a receiver or raise its limit.";
}

impl ErrorCode {
    /// The code inside a QUIC application error code; numbers beyond 16 bits are no codes of ours.
    pub fn from_quic(code: u64) -> Option<Self> {
        u16::try_from(code).ok().map(Self)
    }

    /// The code that stands for a TLS alert (RFC 8446, section 6.2), of those that concern
    /// certificates or the ALPN.
    pub fn from_tls_alert(alert: u8) -> Option<Self> {
        match alert {
            // bad, unsupported, revoked, expired, unknown certificate; unknown CA, access denied,
            // decrypt error, certificate required.
            42..=46 | 48 | 49 | 51 | 116 => Some(Self::CERTIFICATE),
            120 => Some(Self::NO_COMMON_VERSION),
            _ => None,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_number_and_a_name_of_its_own() {
        let mut names: Vec<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        assert!(ErrorCode::ALL.is_sorted_by(|a, b| a < b));
        names.sort_unstable();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        assert!(!names.contains(&"unknown"));
    }

    /// Numbers are for ever: a change here breaks every box in the field.
    #[test]
    fn released_numbers_stand() {
        let released: Vec<_> = ErrorCode::ALL.iter().map(ToString::to_string).collect();
        let expected = "done (0), internal (1), protocol (16), malformed (17), oversized (18), \
            unsupported (19), silent (20), unknown-box (32), revoked (33), certificate (34), \
            development-ca (35), wrong-box (36), no-common-version (37), hash-mismatch (48), \
            conflict (49), init-missing (50), erased (51), fenced (64), cloned (65), \
            store-full (80), store-failed (81), shutting-down (82), busy (83)";
        assert_eq!(released.join(", "), expected);
    }

    #[test]
    fn a_code_of_a_later_release_is_kept() {
        assert_eq!(ErrorCode::from_quic(999), Some(ErrorCode(999)));
        assert_eq!(ErrorCode(999).to_string(), "unknown (999)");
        assert_eq!(ErrorCode::from_quic(1 << 16), None);
    }
}
