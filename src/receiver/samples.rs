//! Recordings for tests of the receiver.

use super::catalog::{Recording, Stored};
use crate::media::{
    BoxId, Codec, Event, Fact, Hash, MediaTime, Rate, StartedBy, StopReason, Timescale, TrackId,
    TrackInfo, TrackKind, TrackTotal, WallClock,
};
use std::time::Duration;

pub const VIDEO: TrackId = TrackId(1);
pub const AUDIO: TrackId = TrackId(2);
pub const VIDEO_INIT: Hash = Hash([0x11; 32]);
pub const AUDIO_INIT: Hash = Hash([0x22; 32]);

pub fn fact(span: u32, event: Event) -> Fact {
    Fact {
        span,
        at_nanos: 0,
        event,
    }
}

pub fn wall() -> WallClock {
    WallClock {
        unix_nanos: 1_795_000_000_000_000_000,
        uncertainty: Some(Duration::from_millis(5)),
    }
}

pub fn tracks() -> [TrackInfo; 2] {
    [
        TrackInfo {
            id: VIDEO,
            name: "presenter".into(),
            kind: TrackKind::Video,
            codec: Codec::H264 {
                width: 1280,
                height: 720,
                rate: Some(Rate::new(30, 1).unwrap()),
            },
            codec_tag: "avc1.42c01f".into(),
            timescale: Timescale::VIDEO,
            bit_rate: 2_500_000,
            init: VIDEO_INIT,
            language: None,
            alternate_of: None,
        },
        TrackInfo {
            id: AUDIO,
            name: "microphone".into(),
            kind: TrackKind::Audio,
            codec: Codec::AacLc {
                sample_rate: 48_000,
                channels: 2,
            },
            codec_tag: "mp4a.40.2".into(),
            timescale: Timescale::SOUND,
            bit_rate: 128_000,
            init: AUDIO_INIT,
            language: Some("de".into()),
            alternate_of: None,
        },
    ]
}

/// The opening facts of span 0.
pub fn opening() -> Vec<Fact> {
    let mut facts = vec![
        fact(
            0,
            Event::Started {
                box_id: BoxId([9; 16]),
                by: StartedBy::Button,
                room: Some("Lecture hall 1".into()),
                title: None,
            },
        ),
        fact(
            0,
            Event::Span {
                epoch: 1,
                wall: Some(wall()),
                gap: None,
            },
        ),
    ];
    facts.extend(tracks().map(|info| fact(0, Event::Track(info))));
    facts
}

/// Segment `sequence` of a track, 2 s each from its span's start.
pub fn stored(track: TrackId, sequence: u64, span: u32, in_span: u64) -> Stored {
    let (timescale, init) = match track {
        VIDEO => (Timescale::VIDEO, Some(VIDEO_INIT)),
        AUDIO => (Timescale::SOUND, Some(AUDIO_INIT)),
        _ => (Timescale::VIDEO, None),
    };
    let duration = 2 * u64::from(timescale.get());
    Stored {
        hash: Hash([sequence as u8; 32]),
        bytes: 500_000,
        span,
        start: MediaTime((in_span * duration) as i64),
        timescale,
        duration,
        init,
    }
}

/// A recording of one span with the facts of its opening and `count` segments per track.
pub fn recording(count: u64) -> Recording {
    let mut recording = Recording::default();
    recording.insert(
        0,
        TrackId::EVENTS,
        stored(TrackId::EVENTS, 0, 0, 0),
        opening(),
    );
    for track in [VIDEO, AUDIO] {
        for sequence in 0..count {
            recording.insert(
                sequence,
                track,
                stored(track, sequence, 0, sequence),
                vec![],
            );
        }
    }
    recording
}

/// The END fact for `count` segments per track as [`stored`] makes them.
pub fn end(count: u64) -> Fact {
    let total = |track| {
        let mut hasher = blake3::Hasher::new();
        for sequence in 0..count {
            hasher.update(&stored(track, sequence, 0, 0).hash.0);
        }
        TrackTotal {
            track,
            segments: count,
            bytes: 500_000 * count,
            root: Hash(*hasher.finalize().as_bytes()),
        }
    };
    fact(
        0,
        Event::End {
            reason: StopReason::Button,
            tracks: vec![total(VIDEO), total(AUDIO)],
        },
    )
}
