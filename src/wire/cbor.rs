//! How the values of [`crate::media`] are written inside CBOR items.

use crate::media::{
    BoxId, GapCause, GapLength, Hash, LostReason, MediaTime, Rate, RecordingId, SegmentKey,
    StartedBy, StopReason, Timescale, TrackId, WallClock,
};
use minicbor::decode::{Decode, Decoder, Error};
use minicbor::encode::{self, Encode, Encoder, Write};
use std::time::Duration;

/// Values made of fixed bytes.
macro_rules! byte_string {
    ($($name:ident: $bytes:literal),+) => {$(
        impl<C> Encode<C> for $name {
            fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
                <[u8; $bytes]>::try_from(d.bytes()?)
                    .map(Self)
                    .map_err(|_| Error::message(concat!(stringify!($name), " of another length")))
            }
        }
    )+};
}

byte_string!(RecordingId: 16, BoxId: 16, Hash: 32);

/// Values that are one of a numbered list. A number is never used twice.
macro_rules! numbered {
    ($name:ident: $($variant:ident = $number:literal),+) => {
        impl<C> Encode<C> for $name {
            fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
                e.u16(match self { $(Self::$variant => $number),+ })?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
                match d.u16()? {
                    $($number => Ok(Self::$variant),)+
                    _ => Err(Error::message(concat!("unknown ", stringify!($name)))),
                }
            }
        }
    };
}

numbered!(StartedBy: Button = 1, Socket = 2, Schedule = 3, Network = 4);
numbered!(StopReason: Button = 1, Socket = 2, Schedule = 3, Network = 4, MaximumLength = 5, Shutdown = 6, AwayTooLong = 7, NoSpace = 8, DiskFailed = 9);
numbered!(GapCause: DeviceMissing = 1, DeviceStalled = 2, Overrun = 3, Paused = 4, BoxAway = 5, EncoderFailed = 6);
numbered!(LostReason: Damaged = 1, NoSpace = 2, ReceiverForgot = 3);

/// Values that are one number.
macro_rules! plain {
    ($($name:ident: $method:ident, $get:expr, $make:expr);+ $(;)?) => {$(
        impl<C> Encode<C> for $name {
            fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
                let get: fn(&$name) -> _ = $get;
                e.$method(get(self))?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
                $make(d.$method()?)
            }
        }
    )+};
}

plain! {
    TrackId: u8, |id| id.0, |id| Ok(TrackId(id));
    MediaTime: i64, |time| time.0, |time| Ok(MediaTime(time));
    Timescale: u32, |scale| scale.get(), |units| {
        Timescale::new(units).ok_or(Error::message("a timescale of 0"))
    };
}

/// Reads the head of an array of exactly `length` items.
pub(super) fn array(d: &mut Decoder<'_>, length: u64) -> Result<(), Error> {
    match d.array()? {
        Some(found) if found == length => Ok(()),
        _ => Err(Error::message("an array of another length")),
    }
}

/// `[recording, track, sequence]`.
impl<C> Encode<C> for SegmentKey {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        c: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.array(3)?.encode_with(self.recording, c)?;
        e.encode_with(self.track, c)?.u64(self.sequence)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for SegmentKey {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, Error> {
        array(d, 3)?;
        Ok(Self {
            recording: d.decode_with(c)?,
            track: d.decode_with(c)?,
            sequence: d.u64()?,
        })
    }
}

/// `[numerator, denominator]`, pictures per second.
impl<C> Encode<C> for Rate {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.array(2)?.u32(self.num())?.u32(self.den())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Rate {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
        array(d, 2)?;
        Self::new(d.u32()?, d.u32()?).map_err(|_| Error::message("not a picture rate"))
    }
}

/// `[nanoseconds since 1970 in UTC, largest error in nanoseconds or null]`.
impl<C> Encode<C> for WallClock {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        c: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        let nanos = |error: Duration| u64::try_from(error.as_nanos()).unwrap_or(u64::MAX);
        e.array(2)?.i64(self.unix_nanos)?;
        e.encode_with(self.uncertainty.map(nanos), c)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for WallClock {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, Error> {
        array(d, 2)?;
        let unix_nanos = d.i64()?;
        let uncertainty: Option<u64> = d.decode_with(c)?;
        Ok(Self {
            unix_nanos,
            uncertainty: uncertainty.map(Duration::from_nanos),
        })
    }
}

/// `[]` when unknown, else `[nanoseconds, largest error in nanoseconds]`.
impl<C> Encode<C> for GapLength {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        match self {
            Self::Unknown => e.array(0)?.ok(),
            Self::Known {
                nanos,
                uncertainty_nanos,
            } => e.array(2)?.u64(*nanos)?.u64(*uncertainty_nanos)?.ok(),
        }
    }
}

impl<'b, C> Decode<'b, C> for GapLength {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
        match d.array()? {
            Some(0) => Ok(Self::Unknown),
            Some(2) => Ok(Self::Known {
                nanos: d.u64()?,
                uncertainty_nanos: d.u64()?,
            }),
            _ => Err(Error::message("an array of another length")),
        }
    }
}
