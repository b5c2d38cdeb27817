//! The manifest: what a complete recording holds, as documented, versioned JSON
//! (`docs/manifest.md`). Derived from the objects and facts, written once, after all of them.
//!
//! It also spares a restarted receiver the reading of every archived segment.

use super::catalog::{Recording, Stored};
use crate::media::{
    Codec, Event, GapCause, GapLength, Hash, LostReason, MediaTime, RecordingId, StartedBy,
    StopReason, Timescale, TrackId, TrackKind, WallClock,
};
use serde::{Deserialize, Serialize};
use std::time::{Duration, UNIX_EPOCH};

/// The version written. A reader refuses a higher one; keys may be added within a version.
pub const VERSION: u32 = 1;

/// The whole document.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// The recording's id.
    pub recording: String,
    /// The box's id.
    pub box_id: Option<String>,
    /// The room, as the box was configured.
    pub room: Option<String>,
    /// The title, where one was given.
    pub title: Option<String>,
    /// `button`, `socket`, `schedule` or `network`.
    pub started_by: Option<String>,
    /// Why it ended.
    pub ended_by: Option<String>,
    /// Nanoseconds of the longest track.
    pub length_ns: u64,
    /// Its spans in order.
    pub spans: Vec<Span>,
    /// The events track first, then sound and picture.
    pub tracks: Vec<Track>,
    /// Stretches that a device did not deliver.
    pub gaps: Vec<Gap>,
    /// Marks that the lecturer set.
    pub marks: Vec<Mark>,
}

/// One run of the box's process.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Counts from 0.
    pub span: u32,
    /// The box's boot epoch.
    pub epoch: u64,
    /// Its start (RFC 3339, UTC), where the box had a clock at all.
    pub start: Option<String>,
    /// How far off `start` may be; absent when the box could not say.
    pub start_uncertainty_ns: Option<u64>,
    /// How long nothing was captured before it; absent when unknown, and for span 0.
    pub away_ns: Option<u64>,
    /// How far off `away_ns` may be.
    pub away_uncertainty_ns: Option<u64>,
    /// Why: `paused` or `box-away`; absent for span 0.
    #[serde(default)]
    pub away_cause: Option<String>,
}

/// One track.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// Its number; 0 is the events track.
    pub track: u8,
    /// `events`, `video`, `audio` or `other`.
    pub kind: String,
    /// `presenter`, `slides`, `microphone`; `events` for track 0.
    pub name: String,
    /// RFC 6381, such as `avc1.42c01f`; absent for track 0.
    pub codec: Option<String>,
    /// Points per row and rows of a picture.
    pub size: Option<(u32, u32)>,
    /// Pictures per second, as a fraction such as `30` or `30000/1001`.
    pub picture_rate: Option<String>,
    /// Samples per second and channels of sound.
    pub sound: Option<(u32, u8)>,
    /// BCP 47, where known.
    pub language: Option<String>,
    /// Its segments in order.
    pub segments: Vec<Segment>,
    /// Segments that will never come.
    pub lost: Vec<Lost>,
}

/// One archived object.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Its number within the track.
    pub sequence: u64,
    /// BLAKE3 of its bytes.
    pub blake3: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The span it belongs to.
    pub span: u32,
    /// Where it starts, in units after the span's start.
    pub start: i64,
    /// How long it lasts, in units.
    pub duration: u64,
    /// Units per second.
    pub timescale: u32,
    /// BLAKE3 of the init it needs; absent in track 0.
    pub init: Option<String>,
}

/// Segments that will never come.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Lost {
    /// The first number.
    pub first: u64,
    /// The last number.
    pub last: u64,
    /// `damaged`, `no-space` or `receiver-forgot`.
    pub reason: String,
}

/// A stretch that a device did not deliver; the track holds silence or a slate there.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// The track.
    pub track: u8,
    /// The span.
    pub span: u32,
    /// Where it starts, in units of the track's timescale.
    pub start: i64,
    /// How long it lasts.
    pub duration: u64,
    /// Why: `device-missing`, `device-stalled`, `overrun`, `paused`, `box-away` or
    /// `encoder-failed`.
    pub cause: String,
}

/// A mark that the lecturer set.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// The span.
    pub span: u32,
    /// Nanoseconds after the span's start.
    pub at_ns: u64,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no manifest.
    #[error("no manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of a later release.
    #[error("version {0} is newer than this receiver")]
    Version(u32),
    /// A value in it cannot be.
    #[error("`{0}` holds an impossible value")]
    Value(&'static str),
}

impl Manifest {
    /// The manifest of `recording`.
    pub fn of(id: RecordingId, recording: &Recording) -> Self {
        let started = recording.started();
        Self {
            version: VERSION,
            recording: id.to_string(),
            box_id: started.map(|started| started.0.to_string()),
            room: started.and_then(|started| started.2.map(str::to_owned)),
            title: started.and_then(|started| started.3.map(str::to_owned)),
            started_by: started.map(|started| started_by(started.1).to_owned()),
            ended_by: recording.end().map(|end| ended_by(end.0).to_owned()),
            length_ns: u64::try_from(recording.length().as_nanos()).unwrap_or(u64::MAX),
            spans: spans(recording),
            tracks: tracks(recording),
            gaps: gaps(recording),
            marks: recording
                .facts()
                .filter(|fact| fact.event == Event::Mark)
                .map(|fact| Mark {
                    span: fact.span,
                    at_ns: fact.at_nanos,
                })
                .collect(),
        }
    }

    /// As it is archived: JSON that people can read.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads what [`Manifest::to_json`] wrote, in this release or an earlier one.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(bytes)?;
        if version > VERSION {
            return Err(Error::Version(version));
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Its segments as the catalog knows them.
    pub fn segments(&self) -> Result<Vec<(TrackId, u64, Stored)>, Error> {
        let all = self.tracks.iter().flat_map(|track| {
            let id = TrackId(track.track);
            track.segments.iter().map(move |segment| (id, segment))
        });
        all.map(|(track, segment)| Ok((track, segment.sequence, segment.stored()?)))
            .collect()
    }
}

impl Segment {
    fn stored(&self) -> Result<Stored, Error> {
        let hash = |text: &String| text.parse::<Hash>().ok();
        Ok(Stored {
            hash: hash(&self.blake3).ok_or(Error::Value("blake3"))?,
            bytes: self.bytes,
            span: self.span,
            start: MediaTime(self.start),
            timescale: Timescale::new(self.timescale).ok_or(Error::Value("timescale"))?,
            duration: self.duration,
            init: match &self.init {
                None => None,
                Some(text) => Some(hash(text).ok_or(Error::Value("init"))?),
            },
        })
    }
}

/// RFC 3339 of a wall clock; none before 1970.
pub fn date(wall: WallClock) -> Option<String> {
    let nanos = u64::try_from(wall.unix_nanos).ok()?;
    // 64 bits of nanoseconds end in the year 2554, the format with 9999.
    let time = UNIX_EPOCH + Duration::from_nanos(nanos);
    Some(humantime::format_rfc3339_millis(time).to_string())
}

fn spans(recording: &Recording) -> Vec<Span> {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let span = |(span, fact): (u32, super::catalog::SpanFact)| {
        let (away_ns, away_uncertainty_ns) = match fact.gap {
            Some(GapLength::Known {
                nanos,
                uncertainty_nanos,
            }) => (Some(nanos), Some(uncertainty_nanos)),
            Some(GapLength::Unknown) | None => (None, None),
        };
        Span {
            span,
            epoch: fact.epoch,
            start: fact.wall.and_then(date),
            start_uncertainty_ns: fact.wall.and_then(|wall| wall.uncertainty).map(nanos),
            away_ns,
            away_uncertainty_ns,
            away_cause: fact.gap.map(|_| cause_name(fact.away_cause()).into()),
        }
    };
    recording.spans().into_iter().map(span).collect()
}

fn tracks(recording: &Recording) -> Vec<Track> {
    let known = recording.tracks();
    let lost = recording.lost();
    let mut ids: std::collections::BTreeSet<TrackId> = known.keys().copied().collect();
    ids.extend(recording.segments.keys());
    ids.extend(lost.keys().map(|range| range.track));
    let segment = |(sequence, stored): (&u64, &Stored)| Segment {
        sequence: *sequence,
        blake3: stored.hash.to_string(),
        bytes: stored.bytes,
        span: stored.span,
        start: stored.start.0,
        duration: stored.duration,
        timescale: stored.timescale.get(),
        init: stored.init.map(|init| init.to_string()),
    };
    let track = |id: TrackId| {
        let info = known.get(&id);
        let (mut size, mut picture_rate, mut sound) = (None, None, None);
        match info.map(|info| &info.codec) {
            Some(Codec::H264 {
                width,
                height,
                rate,
            }) => {
                size = Some((*width, *height));
                picture_rate = rate.map(|rate| rate.to_string());
            }
            Some(Codec::AacLc {
                sample_rate,
                channels,
            }) => sound = Some((*sample_rate, *channels)),
            None => {}
        }
        let kind = match info.map(|info| info.kind) {
            None if id == TrackId::EVENTS => "events",
            Some(TrackKind::Events) => "events",
            Some(TrackKind::Video) => "video",
            Some(TrackKind::Audio) => "audio",
            Some(TrackKind::Other(_)) | None => "other",
        };
        Track {
            track: id.0,
            kind: kind.into(),
            name: info.map_or(kind, |info| info.name.as_str()).into(),
            codec: info.map(|info| info.codec_tag.clone()),
            size,
            picture_rate,
            sound,
            language: info.and_then(|info| info.language.clone()),
            segments: recording
                .segments
                .get(&id)
                .into_iter()
                .flatten()
                .map(segment)
                .collect(),
            lost: lost
                .iter()
                .filter(|(range, _)| range.track == id)
                .map(|(range, reason)| Lost {
                    first: range.first,
                    last: range.last,
                    reason: lost_reason(*reason).into(),
                })
                .collect(),
        }
    };
    ids.into_iter().map(track).collect()
}

fn gaps(recording: &Recording) -> Vec<Gap> {
    let gap = |fact: &crate::media::Fact| match fact.event {
        Event::Gap {
            track,
            start,
            duration,
            cause,
        } => Some(Gap {
            track: track.0,
            span: fact.span,
            start: start.0,
            duration,
            cause: cause_name(cause).into(),
        }),
        _ => None,
    };
    recording.facts().filter_map(gap).collect()
}

/// A gap's cause as the manifest names it.
fn cause_name(cause: GapCause) -> &'static str {
    match cause {
        GapCause::DeviceMissing => "device-missing",
        GapCause::DeviceStalled => "device-stalled",
        GapCause::Overrun => "overrun",
        GapCause::Paused => "paused",
        GapCause::BoxAway => "box-away",
        GapCause::EncoderFailed => "encoder-failed",
    }
}

fn started_by(by: StartedBy) -> &'static str {
    match by {
        StartedBy::Button => "button",
        StartedBy::Socket => "socket",
        StartedBy::Schedule => "schedule",
        StartedBy::Network => "network",
    }
}

fn ended_by(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Button => "button",
        StopReason::Socket => "socket",
        StopReason::Schedule => "schedule",
        StopReason::Network => "network",
        StopReason::MaximumLength => "maximum-length",
        StopReason::Shutdown => "shutdown",
        StopReason::AwayTooLong => "away-too-long",
        StopReason::NoSpace => "no-space",
        StopReason::DiskFailed => "disk-failed",
    }
}

/// A LOST reason's name in the manifest.
pub fn lost_reason(reason: LostReason) -> &'static str {
    match reason {
        LostReason::Damaged => "damaged",
        LostReason::NoSpace => "no-space",
        LostReason::ReceiverForgot => "receiver-forgot",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::catalog::{LostRange, Missing, State};
    use crate::receiver::samples::*;

    const DOCUMENT: &str = include_str!("../../docs/manifest.md");

    fn example() -> (RecordingId, Recording) {
        let mut recording = recording(2);
        let gap = Event::Gap {
            track: VIDEO,
            start: MediaTime(90_000),
            duration: 45_000,
            cause: GapCause::DeviceStalled,
        };
        let lost = Event::Lost {
            track: AUDIO,
            first: 2,
            last: 2,
            reason: LostReason::Damaged,
        };
        let mut end = end(2);
        if let Event::End { tracks: totals, .. } = &mut end.event {
            totals[1].segments = 3;
        }
        let facts = vec![fact(0, gap), fact(0, Event::Mark), fact(0, lost), end];
        recording.insert(1, TrackId::EVENTS, stored(TrackId::EVENTS, 1, 0, 0), facts);
        (RecordingId([0xab; 16]), recording)
    }

    #[test]
    fn the_documented_example_is_what_the_code_writes() {
        let (id, recording) = example();
        let written = Manifest::of(id, &recording).to_json().unwrap();
        let text = String::from_utf8(written).unwrap();
        let example = DOCUMENT.split("```json\n").nth(1).unwrap();
        let example = example.split("```").next().unwrap();
        assert_eq!(example, text, "docs/manifest.md must hold:\n{text}");
    }

    #[test]
    fn every_key_is_documented() {
        let (id, recording) = example();
        let value = serde_json::to_value(Manifest::of(id, &recording)).unwrap();
        let mut keys = std::collections::BTreeSet::new();
        fn collect(value: &serde_json::Value, keys: &mut std::collections::BTreeSet<String>) {
            match value {
                serde_json::Value::Object(map) => map.iter().for_each(|(key, value)| {
                    keys.insert(key.clone());
                    collect(value, keys);
                }),
                serde_json::Value::Array(list) => list.iter().for_each(|v| collect(v, keys)),
                _ => {}
            }
        }
        collect(&value, &mut keys);
        let prose = DOCUMENT.split("```json").next().unwrap();
        let missing: Vec<_> = keys
            .iter()
            .filter(|key| !prose.contains(&format!("`{key}`")))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn it_reads_back_and_a_later_version_is_refused() {
        let (id, recording) = example();
        let manifest = Manifest::of(id, &recording);
        let read = Manifest::from_json(&manifest.to_json().unwrap()).unwrap();
        assert_eq!(read, manifest);
        for (track, sequence, stored) in read.segments().unwrap() {
            assert_eq!(recording.segments[&track][&sequence], stored);
        }
        let later = br#"{"version": 2, "new": {}}"#;
        assert!(matches!(Manifest::from_json(later), Err(Error::Version(2))));
    }

    #[test]
    fn complete_is_all_or_declared_lost_and_the_box_s_own_root() {
        let (_, whole) = example();
        assert_eq!(whole.missing(), None);
        assert_eq!(whole.state(), State::Arriving);
        assert_eq!(recording(2).missing(), Some(Missing::End));

        let mut holed = whole.clone();
        holed.segments.get_mut(&VIDEO).unwrap().remove(&1);
        assert_eq!(holed.missing(), Some(Missing::Segment(VIDEO, 1)));
        let range = LostRange {
            track: VIDEO,
            first: 1,
            last: 1,
        };
        holed.insert_lost(range, LostReason::ReceiverForgot);
        assert_eq!(holed.missing(), None);

        let mut damaged = whole.clone();
        let segments = damaged.segments.get_mut(&VIDEO).unwrap();
        segments.get_mut(&0).unwrap().hash = Hash([0xff; 32]);
        assert_eq!(damaged.missing(), Some(Missing::Root(VIDEO)));

        let mut events = whole;
        let hole = stored(TrackId::EVENTS, 3, 0, 0);
        events.insert(3, TrackId::EVENTS, hole, vec![]);
        assert_eq!(events.missing(), Some(Missing::Segment(TrackId::EVENTS, 2)));
    }
}
