//! [`Health`] as CBOR: maps with integer keys, of which those with their default value are left out.
//!
//! A report is read within the bounds of [`crate::media::health`]: what is beyond them is cut or
//! skipped, so that a box whose report is too long is still shown.

use super::cbor::array;
use crate::media::health::{
    Alarm, Drops, Health, LATENESS_BOUNDS_US, Lateness, Level, MOST_ALARMS, MOST_TEXT, MOST_TRACKS,
    Repeats, TrackHealth, cut,
};
use crate::media::{RecordingId, TrackId};
use minicbor::decode::{Decode, Decoder, Error};
use minicbor::encode::{Encode, Encoder, Error as EncodeError, Write};

/// A value of a map, written unless it is the default.
trait Field: Default + PartialEq {
    fn write<W: Write>(&self, e: &mut Encoder<W>) -> Result<(), EncodeError<W::Error>>;
    fn read(d: &mut Decoder<'_>) -> Result<Self, Error>;
}

/// Values that are written as they are.
macro_rules! as_is {
    ($($name:ty),+) => {$(
        impl Field for $name {
            fn write<W: Write>(&self, e: &mut Encoder<W>) -> Result<(), EncodeError<W::Error>> {
                e.encode(self)?.ok()
            }

            fn read(d: &mut Decoder<'_>) -> Result<Self, Error> {
                d.decode()
            }
        }
    )+};
}

as_is!(u64, i32, bool, TrackId);

/// There is no default among these: `None` is left out, and `Some` is written as the value.
macro_rules! optional {
    ($($name:ty),+) => {$(
        impl Field for Option<$name> {
            fn write<W: Write>(&self, e: &mut Encoder<W>) -> Result<(), EncodeError<W::Error>> {
                e.encode(self)?.ok()
            }

            fn read(d: &mut Decoder<'_>) -> Result<Self, Error> {
                d.decode()
            }
        }
    )+};
}

optional!(u64, i32, TrackId, RecordingId, Lateness);

impl Field for String {
    fn write<W: Write>(&self, e: &mut Encoder<W>) -> Result<(), EncodeError<W::Error>> {
        e.str(cut(self, MOST_TEXT))?.ok()
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Error> {
        Ok(cut(d.str()?, MOST_TEXT).to_owned())
    }
}

/// Lists of at most so many.
macro_rules! lists {
    ($($name:ty: $most:expr),+) => {$(
        impl Field for Vec<$name> {
            fn write<W: Write>(&self, e: &mut Encoder<W>) -> Result<(), EncodeError<W::Error>> {
                let items = &self[..self.len().min($most)];
                e.array(items.len() as u64)?;
                for item in items {
                    e.encode(item)?;
                }
                e.ok()
            }

            fn read(d: &mut Decoder<'_>) -> Result<Self, Error> {
                let mut list = Self::new();
                let length = d.array()?.ok_or(Error::message("an array of no stated length"))?;
                for _ in 0..length {
                    match list.len() < $most {
                        true => list.push(d.decode()?),
                        false => d.skip()?,
                    }
                }
                Ok(list)
            }
        }
    )+};
}

lists!(Level: MOST_TRACKS, Alarm: MOST_ALARMS, TrackHealth: MOST_TRACKS);

/// Maps with integer keys. Keys not known here are skipped; those that are missing have the default.
/// A key after `always` is written with the default too.
macro_rules! maps {
    ($($name:ident { $($key:literal $($always:ident)? => $field:ident),+ $(,)? })+) => {$(
        impl<C> Encode<C> for $name {
            fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
                let default = Self::default();
                let written = [$(maps!(@always $($always)?) || self.$field != default.$field),+];
                e.map(written.iter().filter(|written| **written).count() as u64)?;
                $(if maps!(@always $($always)?) || self.$field != default.$field {
                    e.u16($key)?;
                    self.$field.write(e)?;
                })+
                e.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
                let mut value = Self::default();
                let length = d.map()?.ok_or(Error::message("a map of no stated length"))?;
                for _ in 0..length {
                    match d.u64()? {
                        $($key => value.$field = Field::read(d)?,)+
                        _ => d.skip()?,
                    }
                }
                Ok(value)
            }
        }
    )+};
    (@always) => { false };
    (@always always) => { true };
}

maps! {
    Health {
        0 => recording,
        1 => levels,
        2 => alarms,
        3 => waiting_bytes,
        4 => seconds_left,
        5 => state,
        6 => lamp,
        7 => recording_seconds,
        8 => tracks,
        9 => spool_level,
        10 => sync_p99_ms,
        11 => offers_waiting,
        12 => software,
        13 => resident_bytes,
    }
    // The first three of each are older than the rule that defaults are left out.
    Level {
        0 always => track,
        1 always => peak,
        2 always => rms,
    }
    Alarm {
        0 always => code,
        1 => track,
        2 always => message,
        3 => seconds,
    }
    TrackHealth {
        0 => track,
        1 => name,
        2 => open,
        3 => ticks,
        4 => repeats,
        5 => drops,
        6 => gaps,
        7 => gap_ms,
        8 => lateness,
        9 => ppm,
        10 => xruns,
        11 => silence,
        12 => ring_waiting,
        13 => ring_dropped,
        14 => device_lost,
        15 => keeper_waits,
    }
}

/// Arrays of counts, one for each reason.
macro_rules! counts {
    ($($name:ident: $length:literal, $($field:ident),+;)+) => {$(
        impl Field for $name {
            fn write<W: Write>(&self, e: &mut Encoder<W>) -> Result<(), EncodeError<W::Error>> {
                e.array($length)?;
                $(e.u64(self.$field)?;)+
                e.ok()
            }

            fn read(d: &mut Decoder<'_>) -> Result<Self, Error> {
                array(d, $length)?;
                Ok(Self { $($field: d.u64()?),+ })
            }
        }
    )+};
}

counts! {
    Repeats: 3, slower_source, no_picture, before_first;
    Drops: 5, faster_source, late, before_start, out_of_order, not_polled;
}

/// `[p50, p99, p999, max, sum, counts...]`.
impl<C> Encode<C> for Lateness {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        let figures = [self.p50, self.p99, self.p999, self.max, self.sum];
        e.array(LATENESS_LENGTH)?;
        for figure in figures.iter().chain(&self.counts) {
            e.u64(*figure)?;
        }
        e.ok()
    }
}

const LATENESS_LENGTH: u64 = 5 + LATENESS_BOUNDS_US.len() as u64 + 1;

impl<'b, C> Decode<'b, C> for Lateness {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
        array(d, LATENESS_LENGTH)?;
        let mut lateness = Self {
            p50: d.u64()?,
            p99: d.u64()?,
            p999: d.u64()?,
            max: d.u64()?,
            sum: d.u64()?,
            ..Self::default()
        };
        for count in &mut lateness.counts {
            *count = d.u64()?;
        }
        Ok(lateness)
    }
}
