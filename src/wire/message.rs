//! The messages of the control stream: an array `[type, critical, body]`, the body a map with
//! integer keys.

use super::ErrorCode;
use super::framing::FramingError;
use crate::media::health::{Health, MOST_TEXT, cut};
use crate::media::{
    BoxId, Hash, LostReason, RecordingId, SegmentKey, Sequences, TrackId, WallClock,
};
use minicbor::data::Type;
use minicbor::decode::Error as DecodeError;
use minicbor::encode::{Error as EncodeError, Write};
use minicbor::{Decode, Decoder, Encode, Encoder};

/// The most recordings that one `Hello` or `Welcome` may name; the oldest go first, the others with
/// a later connection.
pub const MAX_RECORDINGS: usize = 64;

/// The most hashes of one track, and of all that one `Welcome` names together.
pub const MAX_HASHES: (usize, usize) = (250, 1000);

/// A message of the control stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Box: who it is and what it has. The first message, exactly once.
    Hello(Hello),
    /// Receiver: what it has. The answer to `Hello`, exactly once.
    Welcome(Welcome),
    /// Receiver: bytes have arrived and may be shown live. Frees nothing.
    Received(Received),
    /// Receiver: segments are on stable storage, their hashes checked, their inits durable too.
    /// With `Welcome` the only message that may free the spool.
    Durable(Durable),
    /// Receiver: inits are on stable storage.
    InitDurable(InitDurable),
    /// Receiver: a recording is whole: its manifest is durable and every segment is durable or
    /// covered by a LOST fact.
    Complete(Complete),
    /// Box: how it is. Not kept: a fact that must last is in the events track.
    Status(Health),
    /// Receiver: do this.
    Command(Command),
    /// Box: segments will never come, of a recording to whose events track nothing can be added
    /// any more. Where it can, the fact in the track is the only word.
    Lost(Lost),
    /// Either: why the connection is about to be closed, or what went wrong without ending it.
    Error(ErrorMessage),
    /// Receiver: a recording was erased while the connection stands; `Welcome` says it otherwise.
    Erase(Erase),
    /// Box: its copy of an erased recording is gone, durably.
    Erased(Erased),
    /// Box: what became of a [`Command`].
    Answer(Answer),
}

/// Body of [`Message::Hello`].
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// The box.
    #[n(0)]
    pub box_id: BoxId,
    /// Its boot epoch: larger for each run of its process.
    #[n(1)]
    pub epoch: u64,
    /// Counts the connections of this epoch from 1. The newest (epoch, connection) wins.
    #[n(2)]
    pub connection: u64,
    /// Random for each run of the process: tells a copy of the box from the box.
    #[n(3)]
    pub nonce: u64,
    /// Name and version of the program, for people.
    #[n(4)]
    pub software: String,
    /// Every recording of which the box holds anything not known to be durable.
    #[n(5)]
    pub recordings: Vec<OpenRecording>,
    /// The box's UTC now.
    #[n(6)]
    pub clock: Option<WallClock>,
}

/// A recording as the box knows it.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct OpenRecording {
    /// The recording.
    #[n(0)]
    pub recording: RecordingId,
    /// Per track, what the box has recorded as durable.
    #[n(1)]
    pub tracks: Vec<Watermark>,
}

/// The box's recorded watermark of one track.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Watermark {
    /// The track.
    #[n(0)]
    pub track: TrackId,
    /// The first segment number not recorded as durable.
    #[n(1)]
    pub next: u64,
}

/// Body of [`Message::Welcome`].
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Welcome {
    /// For each recording of the `Hello` of which the receiver holds anything.
    #[n(0)]
    pub recordings: Vec<HeldRecording>,
    /// Recordings of the `Hello` that are whole, see [`Complete`]. Those that hold anything stand in
    /// `recordings` too: completeness alone frees nothing.
    #[n(1)]
    pub complete: Vec<RecordingId>,
    /// The receiver's UTC now.
    #[n(2)]
    pub clock: Option<WallClock>,
    /// What the receiver takes.
    #[n(3)]
    pub limits: Limits,
    /// Name and version of the program, for people.
    #[n(4)]
    pub software: String,
    /// Recordings of the `Hello` that were erased on purpose, see [`Erase`].
    #[n(5)]
    #[cbor(default, skip_if = "Vec::is_empty")]
    pub erased: Vec<RecordingId>,
    /// Ranges beyond the watermarks are left out, because the message had no room for them: what is
    /// not named here is not thereby forgotten.
    #[n(6)]
    #[cbor(default, skip_if = "is_false")]
    pub abridged: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Welcome {
    /// The same without hashes and without ranges beyond the watermarks, which is shorter and costs at
    /// most a resend.
    pub(super) fn without_ranges(&self) -> Self {
        let mut short = self.clone();
        short.abridged = true;
        for track in short
            .recordings
            .iter_mut()
            .flat_map(|held| &mut held.tracks)
        {
            track.durable = Sequences::below(track.durable.cumulative());
            track.hashes.clear();
        }
        short
    }
}

/// A recording as the receiver holds it.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct HeldRecording {
    /// The recording.
    #[n(0)]
    pub recording: RecordingId,
    /// What is durable of each track. A track that is missing here holds nothing.
    #[n(1)]
    pub tracks: Vec<HeldTrack>,
}

/// A track as the receiver holds it.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct HeldTrack {
    /// The track.
    #[n(0)]
    pub track: TrackId,
    /// The durable segments.
    #[n(1)]
    pub durable: Sequences,
    /// The hashes of the last of those from the box's watermark on, see [`SegmentHash`].
    #[n(2)]
    #[cbor(default, skip_if = "Vec::is_empty")]
    pub hashes: Vec<SegmentHash>,
}

/// Which content it is that the receiver holds under a segment's number. A box frees a segment only
/// on the hash of its own bytes: a number alone may speak of what another machine with a copy of its
/// card has sent. What is durable and not named here is sent again, which is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SegmentHash {
    /// The segment's number.
    #[n(0)]
    pub sequence: u64,
    /// BLAKE3 of the archived bytes.
    #[n(1)]
    pub hash: Hash,
}

/// What the receiver takes from this box. An absent value leaves the box's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Limits {
    /// The most bytes of backfill sent but not RECEIVED.
    #[n(0)]
    pub backfill: Option<u64>,
}

/// Body of [`Message::Received`]: sent every 64 KiB and at the end of each chunk.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Received {
    /// The segment.
    #[n(0)]
    pub key: SegmentKey,
    /// How many bytes of it, counted as in the archived object, have arrived on this connection.
    #[n(1)]
    pub offset: u64,
}

/// Body of [`Message::Durable`].
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Durable {
    /// The recording.
    #[n(0)]
    pub recording: RecordingId,
    /// The track.
    #[n(1)]
    pub track: TrackId,
    /// All of it that is durable.
    #[n(2)]
    pub durable: Sequences,
    /// What this message acknowledges.
    #[n(3)]
    #[cbor(default, skip_if = "Vec::is_empty")]
    pub hashes: Vec<SegmentHash>,
}

/// Body of [`Message::InitDurable`].
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct InitDurable {
    /// The inits' hashes.
    #[n(0)]
    pub hashes: Vec<Hash>,
}

/// Body of [`Message::Complete`].
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Complete {
    /// The recording.
    #[n(0)]
    pub recording: RecordingId,
}

/// Body of [`Message::Command`]. A box does none of them unless its site settings allow it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Command {
    /// Chosen by the receiver, named in the answer.
    #[n(0)]
    pub id: u64,
    /// What to do.
    #[n(1)]
    pub action: Action,
}

/// What a receiver can ask of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a recording.
    Start,
    /// Stop the recording.
    Stop,
    /// Pause the recording.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Set a mark.
    Mark,
    /// Show which box this is, by its lamp.
    Identify,
    /// An action of a later release.
    Other(u16),
}

impl Action {
    const NUMBERS: [(Self, u16); 6] = [
        (Self::Start, 1),
        (Self::Stop, 2),
        (Self::Pause, 3),
        (Self::Resume, 4),
        (Self::Mark, 5),
        (Self::Identify, 6),
    ];
}

impl<C> Encode<C> for Action {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        let known = Self::NUMBERS.iter().find(|(action, _)| action == self);
        let number = match (self, known) {
            (Self::Other(number), _) | (_, Some((_, number))) => *number,
            _ => 0,
        };
        e.u16(number)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Action {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        let number = d.u16()?;
        let known = Self::NUMBERS.iter().find(|(_, known)| *known == number);
        Ok(known.map_or(Self::Other(number), |(action, _)| *action))
    }
}

/// Body of [`Message::Answer`]: to a [`Command`] of the same connection, once each.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Answer {
    /// The command's.
    #[n(0)]
    pub id: u64,
    /// Why nothing was done, for people; absent when it was done. At most [`MOST_TEXT`] bytes.
    #[n(1)]
    #[cbor(default, skip_if = "Option::is_none", with = "short_text")]
    pub refused: Option<String>,
    /// The recording concerned.
    #[n(2)]
    pub recording: Option<RecordingId>,
}

/// A text that is cut at [`MOST_TEXT`], whoever wrote it.
mod short_text {
    use super::{DecodeError, Decoder, EncodeError, Encoder, MOST_TEXT, Write, cut};

    pub fn encode<C, W: Write>(
        text: &Option<String>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        let text = text.as_deref().map(|text| cut(text, MOST_TEXT));
        e.encode(text)?.ok()
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Option<String>, DecodeError> {
        let text: Option<&str> = d.decode()?;
        Ok(text.map(|text| cut(text, MOST_TEXT).to_owned()))
    }
}

/// Body of [`Message::Lost`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Lost {
    /// The recording.
    #[n(0)]
    pub recording: RecordingId,
    /// The track.
    #[n(1)]
    pub track: TrackId,
    /// The first segment missing.
    #[n(2)]
    pub first: u64,
    /// The last segment missing.
    #[n(3)]
    pub last: u64,
    /// Why.
    #[n(4)]
    pub reason: LostReason,
}

/// Body of [`Message::Erase`]: the receiver's tombstone is durable. The box deletes its copy, says
/// [`Erased`], and sends nothing of it any more.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Erase {
    /// The recording.
    #[n(0)]
    pub recording: RecordingId,
}

/// Body of [`Message::Erased`].
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Erased {
    /// The recording.
    #[n(0)]
    pub recording: RecordingId,
}

/// Body of [`Message::Error`].
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct ErrorMessage {
    /// What went wrong.
    #[n(0)]
    pub code: ErrorCode,
    /// For people.
    #[n(1)]
    pub text: String,
    /// The segment concerned; an error about a segment does not end the connection.
    #[n(2)]
    pub key: Option<SegmentKey>,
    /// With FENCED: the epoch that the receiver holds. A box whose card was restored goes past it.
    #[n(3)]
    pub epoch: Option<u64>,
}

impl<C> Encode<C> for ErrorCode {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.u16(self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for ErrorCode {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        d.u16().map(Self)
    }
}

macro_rules! messages {
    ($($name:ident = $number:literal, critical: $critical:literal;)+) => {
        /// Appends the message's CBOR to `out`.
        pub(super) fn encode(message: &Message, out: &mut Vec<u8>) {
            let mut e = Encoder::new(out);
            let written = match message {
                $(Message::$name(body) => e
                    .array(3)
                    .and_then(|e| e.u16($number))
                    .and_then(|e| e.bool($critical))
                    .and_then(|e| e.encode(body))
                    .map(|_| ()),)+
            };
            // Writing into a Vec cannot fail, and no value here refuses to be written.
            debug_assert!(written.is_ok(), "{written:?}");
        }

        fn decode_body(kind: u16, d: &mut Decoder<'_>) -> Result<Option<Message>, DecodeError> {
            match kind {
                $($number => Ok(Some(Message::$name(d.decode()?))),)+
                _ => {
                    d.skip()?;
                    Ok(None)
                }
            }
        }
    };
}

messages! {
    Hello = 1, critical: true;
    Welcome = 2, critical: true;
    Received = 3, critical: false;
    Durable = 4, critical: true;
    InitDurable = 5, critical: false;
    Complete = 6, critical: true;
    Status = 7, critical: false;
    Command = 8, critical: false;
    Lost = 9, critical: true;
    Error = 10, critical: false;
    Erase = 11, critical: false;
    Erased = 12, critical: false;
    Answer = 13, critical: false;
}

/// The message in `bytes`, all of which it must take; `None` for a type of a later release that
/// may be skipped.
pub(super) fn decode(bytes: &[u8]) -> Result<Option<Message>, FramingError> {
    let malformed = |error: DecodeError| FramingError::Malformed(error.to_string());
    let mut d = Decoder::new(bytes);
    super::cbor::array(&mut d, 3).map_err(malformed)?;
    let kind = d.u16().map_err(malformed)?;
    let critical = d.bool().map_err(malformed)?;
    if !matches!(d.datatype().map_err(malformed)?, Type::Map | Type::MapIndef) {
        return Err(FramingError::Malformed("the body is not a map".into()));
    }
    let message = decode_body(kind, &mut d).map_err(malformed)?;
    if d.position() != bytes.len() {
        return Err(FramingError::Malformed("bytes after the message".into()));
    }
    match message {
        None if critical => Err(FramingError::Unsupported(kind)),
        message => Ok(message),
    }
}
