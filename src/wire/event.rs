//! Facts as CBOR: what the chunks of an events track are made of.
//!
//! A fact is `[kind, span, nanoseconds after the span's start, body]`; a batch is a CBOR sequence
//! (RFC 8742) of facts. A body is a map with integer keys. A kind not known here, or a body that says
//! what this release cannot, is kept as [`Event::Other`] and written back unchanged; the receiver
//! archives the bytes as they came in any case.

use crate::media::{
    BoxId, Codec, Event, Fact, GapCause, GapLength, Hash, LostReason, MediaTime, Rate, StartedBy,
    StopReason, Timescale, TrackId, TrackInfo, TrackKind, TrackTotal, WallClock,
};
use minicbor::decode::Error as DecodeError;
use minicbor::encode::{Error as EncodeError, Write};
use minicbor::{Decode, Decoder, Encode, Encoder};

const STARTED: u16 = 1;
const SPAN: u16 = 2;
const TRACK: u16 = 3;
const GAP: u16 = 4;
const MARK: u16 = 5;
const ALARM: u16 = 6;
const LOST: u16 = 7;
const END: u16 = 8;
const SPAN_PLACED: u16 = 9;
const RUN: u16 = 10;
const CLOCK_STEPPED: u16 = 11;
const PAUSED: u16 = 12;
const EXTENDED: u16 = 13;

/// Bytes that are not a sequence of facts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event at byte {at} of its batch cannot be read: {reason}")]
pub struct EventError {
    /// Where the fact begins.
    pub at: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Appends `fact` to a batch.
pub fn encode(fact: &Fact, batch: &mut Vec<u8>) {
    let (kind, body) = body_of(&fact.event);
    let mut e = Encoder::new(&mut *batch);
    let written = e
        .array(4)
        .and_then(|e| e.u16(kind))
        .and_then(|e| e.u32(fact.span))
        .and_then(|e| e.u64(fact.at_nanos))
        .map(|_| ());
    // Writing into a Vec cannot fail.
    debug_assert!(written.is_ok(), "{written:?}");
    batch.extend_from_slice(&body);
}

/// The facts of a batch. Its facts are at most as many as its bytes.
pub fn decode(batch: &[u8]) -> Result<Vec<Fact>, EventError> {
    let mut d = Decoder::new(batch);
    let mut facts = Vec::new();
    while d.position() < batch.len() {
        let at = d.position();
        let fact = decode_fact(&mut d, batch).map_err(|error| EventError {
            at,
            reason: error.to_string(),
        })?;
        facts.push(fact);
    }
    Ok(facts)
}

fn decode_fact(d: &mut Decoder<'_>, batch: &[u8]) -> Result<Fact, DecodeError> {
    super::cbor::array(d, 4)?;
    let (kind, span, at_nanos) = (d.u16()?, d.u32()?, d.u64()?);
    let start = d.position();
    d.skip()?;
    let body = batch
        .get(start..d.position())
        .ok_or(DecodeError::message("a body beyond the batch"))?;
    Ok(Fact {
        span,
        at_nanos,
        event: event_of(kind, body),
    })
}

fn event_of(kind: u16, body: &[u8]) -> Event {
    let known = match kind {
        STARTED => read::<Started>(body).map(Event::from),
        SPAN => read::<Span>(body).map(Event::from),
        TRACK => read::<Track>(body).and_then(|track| track.event()),
        GAP => read::<Gap>(body).map(Event::from),
        MARK => read::<Empty>(body).map(|_| Event::Mark),
        PAUSED => read::<Empty>(body).map(|_| Event::Paused),
        EXTENDED => read::<Extended>(body).map(Event::from),
        ALARM => read::<Alarm>(body).map(Event::from),
        LOST => read::<Lost>(body).map(Event::from),
        END => read::<End>(body).map(Event::from),
        SPAN_PLACED => read::<SpanPlaced>(body).map(Event::from),
        RUN => read::<Run>(body).map(Event::from),
        CLOCK_STEPPED => read::<ClockStepped>(body).map(Event::from),
        _ => None,
    };
    known.unwrap_or_else(|| Event::Other {
        kind,
        body: body.to_vec(),
    })
}

fn read<'b, T: Decode<'b, ()>>(body: &'b [u8]) -> Option<T> {
    let mut d = Decoder::new(body);
    let value = d.decode().ok()?;
    (d.position() == body.len()).then_some(value)
}

fn body_of(event: &Event) -> (u16, Vec<u8>) {
    fn write<T: Encode<()>>(kind: u16, body: T) -> (u16, Vec<u8>) {
        let mut bytes = Vec::new();
        let written = minicbor::encode(body, &mut bytes);
        debug_assert!(written.is_ok(), "{written:?}");
        (kind, bytes)
    }
    match event.clone() {
        Event::Started {
            box_id,
            by,
            room,
            title,
        } => write(
            STARTED,
            Started {
                box_id,
                by,
                room,
                title,
            },
        ),
        Event::Span { epoch, wall, gap } => write(SPAN, Span { epoch, wall, gap }),
        Event::Track(info) => write(TRACK, Track::from(info)),
        Event::Gap {
            track,
            start,
            duration,
            cause,
        } => write(
            GAP,
            Gap {
                track,
                start,
                duration,
                cause,
            },
        ),
        Event::Mark => write(MARK, Empty {}),
        Event::Paused => write(PAUSED, Empty {}),
        Event::Extended { recorded_nanos } => write(EXTENDED, Extended { recorded_nanos }),
        Event::Alarm {
            code,
            track,
            raised,
            message,
        } => write(
            ALARM,
            Alarm {
                code,
                track,
                raised,
                message,
            },
        ),
        Event::Lost {
            track,
            first,
            last,
            reason,
        } => write(
            LOST,
            Lost {
                track,
                first,
                last,
                reason,
            },
        ),
        Event::End { reason, tracks } => write(END, End { reason, tracks }),
        Event::SpanPlaced { span, wall, gap } => write(SPAN_PLACED, SpanPlaced { span, wall, gap }),
        Event::Run {
            boot,
            boot_nanos,
            recorded_nanos,
        } => write(
            RUN,
            Run {
                boot,
                boot_nanos,
                recorded_nanos,
            },
        ),
        Event::ClockStepped { wall, by_nanos } => {
            write(CLOCK_STEPPED, ClockStepped { wall, by_nanos })
        }
        Event::Other { kind, body } => (kind, body),
    }
}

/// A body whose fields are those of the event.
macro_rules! body {
    ($name:ident { $($key:literal $field:ident: $type:ty),* $(,)? }) => {
        #[derive(Encode, Decode)]
        #[cbor(map)]
        struct $name {
            $(#[n($key)] $field: $type,)*
        }

        impl From<$name> for Event {
            fn from(body: $name) -> Self {
                Self::$name { $($field: body.$field),* }
            }
        }
    };
}

body!(Started { 0 box_id: BoxId, 1 by: StartedBy, 2 room: Option<String>, 3 title: Option<String> });
body!(Span { 0 epoch: u64, 1 wall: Option<WallClock>, 2 gap: Option<GapLength> });
body!(Gap { 0 track: TrackId, 1 start: MediaTime, 2 duration: u64, 3 cause: GapCause });
body!(Alarm { 0 code: String, 1 track: Option<TrackId>, 2 raised: bool, 3 message: String });
body!(Lost { 0 track: TrackId, 1 first: u64, 2 last: u64, 3 reason: LostReason });
body!(End { 0 reason: StopReason, 1 tracks: Vec<TrackTotal> });

body!(SpanPlaced { 0 span: u32, 1 wall: WallClock, 2 gap: Option<GapLength> });
body!(ClockStepped { 0 wall: WallClock, 1 by_nanos: i64 });
body!(Extended { 0 recorded_nanos: u64 });

#[derive(Encode, Decode)]
#[cbor(map)]
struct Run {
    #[cbor(n(0), with = "minicbor::bytes")]
    boot: Option<[u8; 16]>,
    #[n(1)]
    boot_nanos: u64,
    #[n(2)]
    recorded_nanos: u64,
}

impl From<Run> for Event {
    fn from(body: Run) -> Self {
        Self::Run {
            boot: body.boot,
            boot_nanos: body.boot_nanos,
            recorded_nanos: body.recorded_nanos,
        }
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Empty {}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Track {
    #[n(0)]
    id: TrackId,
    #[n(1)]
    name: String,
    #[n(2)]
    kind: u16,
    #[n(3)]
    codec: u16,
    #[n(4)]
    codec_tag: String,
    #[n(5)]
    timescale: Timescale,
    #[n(6)]
    bit_rate: u32,
    #[n(7)]
    init: Hash,
    #[n(8)]
    language: Option<String>,
    #[n(9)]
    alternate_of: Option<TrackId>,
    /// Of H.264: points per row, rows, pacing rate.
    #[n(10)]
    width: Option<u32>,
    #[n(11)]
    height: Option<u32>,
    #[n(12)]
    rate: Option<Rate>,
    /// Of AAC-LC: samples per second, channels.
    #[n(13)]
    sample_rate: Option<u32>,
    #[n(14)]
    channels: Option<u8>,
}

const H264: u16 = 1;
const AAC_LC: u16 = 2;

impl From<TrackInfo> for Track {
    fn from(info: TrackInfo) -> Self {
        let mut track = Self {
            id: info.id,
            name: info.name,
            kind: match info.kind {
                TrackKind::Events => 0,
                TrackKind::Video => 1,
                TrackKind::Audio => 2,
                TrackKind::Other(kind) => kind,
            },
            codec: 0,
            codec_tag: info.codec_tag,
            timescale: info.timescale,
            bit_rate: info.bit_rate,
            init: info.init,
            language: info.language,
            alternate_of: info.alternate_of,
            width: None,
            height: None,
            rate: None,
            sample_rate: None,
            channels: None,
        };
        match info.codec {
            Codec::H264 {
                width,
                height,
                rate,
            } => {
                track.codec = H264;
                (track.width, track.height, track.rate) = (Some(width), Some(height), rate);
            }
            Codec::AacLc {
                sample_rate,
                channels,
            } => {
                track.codec = AAC_LC;
                (track.sample_rate, track.channels) = (Some(sample_rate), Some(channels));
            }
        }
        track
    }
}

impl Track {
    fn event(self) -> Option<Event> {
        let codec = match self.codec {
            H264 => Codec::H264 {
                width: self.width?,
                height: self.height?,
                rate: self.rate,
            },
            AAC_LC => Codec::AacLc {
                sample_rate: self.sample_rate?,
                channels: self.channels?,
            },
            _ => return None,
        };
        Some(Event::Track(TrackInfo {
            id: self.id,
            name: self.name,
            kind: match self.kind {
                0 => TrackKind::Events,
                1 => TrackKind::Video,
                2 => TrackKind::Audio,
                kind => TrackKind::Other(kind),
            },
            codec,
            codec_tag: self.codec_tag,
            timescale: self.timescale,
            bit_rate: self.bit_rate,
            init: self.init,
            language: self.language,
            alternate_of: self.alternate_of,
        }))
    }
}

/// A map `{ 0: track, 1: segments, 2: bytes, 3: root }`.
impl<C> Encode<C> for TrackTotal {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, c: &mut C) -> Result<(), EncodeError<W::Error>> {
        Total {
            track: self.track,
            segments: self.segments,
            bytes: self.bytes,
            root: self.root,
        }
        .encode(e, c)
    }
}

impl<'b, C> Decode<'b, C> for TrackTotal {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, DecodeError> {
        let total = Total::decode(d, c)?;
        Ok(Self {
            track: total.track,
            segments: total.segments,
            bytes: total.bytes,
            root: total.root,
        })
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Total {
    #[n(0)]
    track: TrackId,
    #[n(1)]
    segments: u64,
    #[n(2)]
    bytes: u64,
    #[n(3)]
    root: Hash,
}
