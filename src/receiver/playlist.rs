//! HLS playlists (RFC 8216 and its successor draft) of one recording. Pure: catalog in, text out.
//!
//! A live playlist is an EVENT that only grows; a complete one is a VOD. Segments that are missing
//! are listed with EXT-X-GAP, so that what follows keeps its place; one that arrives later takes the
//! gap's place under the same name. EXTINF is exact to the microsecond, from the chunks themselves.

use super::catalog::{Recording, State, Stored};
use crate::media::{Codec, Hash, TrackId, TrackInfo, TrackKind, WallClock};
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

/// EXT-X-TARGETDURATION in seconds; it may not change while a playlist grows.
const TARGET_SECONDS: u64 = 2;
/// The same of a recording with a camera that encodes: keyframes come when it likes.
const PASSING_TARGET_SECONDS: u64 = 10;

/// What a missing segment is taken to last where its neighbours do not tell.
const NOMINAL_MICROS: u64 = TARGET_SECONDS * 1_000_000;

/// What all playlists of this recording promise (RFC 8216, section 6.2.4: each the same).
pub fn target_seconds(recording: &Recording) -> u64 {
    let passing = |info: &TrackInfo| matches!(info.codec, Codec::H264 { rate: None, .. });
    match recording.tracks().into_values().any(passing) {
        true => PASSING_TARGET_SECONDS,
        false => TARGET_SECONDS,
    }
}

/// True for a segment that rounds above `target` seconds: it breaks RFC 8216, section 4.3.3.1.
pub fn is_too_long(stored: &Stored, target: u64) -> bool {
    micros(stored.duration, stored) >= target * 1_000_000 + 500_000
}

fn micros(units: u64, stored: &Stored) -> u64 {
    let scale = u128::from(stored.timescale.get());
    let micros = (u128::from(units) * 1_000_000 + scale / 2) / scale;
    u64::try_from(micros).unwrap_or(u64::MAX)
}

/// Where a segment starts, in microseconds after its span's start.
fn start_micros(stored: &Stored) -> u64 {
    micros(u64::try_from(stored.start.0).unwrap_or(0), stored)
}

/// The playlist of all variants: the first video track with the sound beside it, and the sound
/// alone. `None` until there is something to play: a player that saw it without one of its tracks
/// would never ask again.
pub fn multivariant(recording: &Recording) -> Option<String> {
    let has_segments = |info: &&TrackInfo| {
        recording
            .segments
            .get(&info.id)
            .is_some_and(|segments| !segments.is_empty())
    };
    let video = recording.tracks_of(TrackKind::Video);
    let audio = recording.tracks_of(TrackKind::Audio);
    let wanted = video.first().into_iter().chain(audio.first());
    let longest = recording
        .segments
        .iter()
        .filter(|(id, _)| **id != TrackId::EVENTS);
    let patience = longest.map(|(_, s)| s.len()).max().unwrap_or(0) >= 3;
    if !patience && !wanted.copied().all(|info| has_segments(&info)) {
        return None;
    }
    let video = video.into_iter().find(has_segments);
    let audio: Vec<_> = audio.into_iter().filter(has_segments).collect();
    let mut text = String::from("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n");
    for (at, info) in audio.iter().enumerate() {
        let first = if at == 0 { "YES" } else { "NO" };
        let _ = write!(
            text,
            "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"sound\",NAME=\"{}\",DEFAULT={first},AUTOSELECT=YES",
            quoted(&info.name)
        );
        if let Some(language) = &info.language {
            let _ = write!(text, ",LANGUAGE=\"{}\"", quoted(language));
        }
        if let Codec::AacLc { channels, .. } = info.codec {
            let _ = write!(text, ",CHANNELS=\"{channels}\"");
        }
        let _ = writeln!(text, ",URI=\"{}/index.m3u8\"", info.id);
    }
    let sound = audio.first().copied();
    if let Some(video) = video {
        stream_inf(&mut text, recording, &[Some(video), sound]);
    }
    if sound.is_some() {
        stream_inf(&mut text, recording, &[sound]);
    }
    (video.is_some() || sound.is_some()).then_some(text)
}

/// One variant: `tracks[0]` names the playlist, all of them count for its rate and codecs.
fn stream_inf(text: &mut String, recording: &Recording, tracks: &[Option<&TrackInfo>]) {
    let tracks: Vec<_> = tracks.iter().flatten().collect();
    let Some(first) = tracks.first() else { return };
    let (mut peak, mut mean) = (0, 0);
    for info in &tracks {
        let rates = bit_rates(recording, info);
        peak += rates.0;
        mean += rates.1;
    }
    let codecs: Vec<_> = tracks.iter().map(|info| quoted(&info.codec_tag)).collect();
    let _ = write!(
        text,
        "#EXT-X-STREAM-INF:BANDWIDTH={peak},AVERAGE-BANDWIDTH={mean},CODECS=\"{}\"",
        codecs.join(",")
    );
    if let Codec::H264 {
        width,
        height,
        rate,
    } = first.codec
    {
        let _ = write!(text, ",RESOLUTION={width}x{height}");
        if let Some(rate) = rate {
            let milli = u64::from(rate.num()) * 1000 / u64::from(rate.den());
            let _ = write!(text, ",FRAME-RATE={}.{:03}", milli / 1000, milli % 1000);
        }
    }
    if tracks.iter().any(|info| info.kind == TrackKind::Audio) {
        text.push_str(",AUDIO=\"sound\"");
    }
    let _ = write!(text, "\n{}/index.m3u8\n", first.id);
}

/// Peak and mean bits per second of what is here, at least what the track was configured for.
fn bit_rates(recording: &Recording, info: &TrackInfo) -> (u64, u64) {
    let (mut peak, mut bits, mut time) = (0, 0u64, 0u64);
    for stored in recording.segments.get(&info.id).into_iter().flatten() {
        let length = micros(stored.1.duration, stored.1).max(1);
        // A short last segment says nothing about the rate.
        if length >= 500_000 {
            peak = peak.max(stored.1.bytes.saturating_mul(8_000_000) / length);
        }
        bits = bits.saturating_add(stored.1.bytes.saturating_mul(8));
        time = time.saturating_add(length);
    }
    let configured = u64::from(info.bit_rate).max(1);
    let mean = match time {
        0 => configured,
        _ => u64::try_from(u128::from(bits) * 1_000_000 / u128::from(time)).unwrap_or(u64::MAX),
    };
    (peak.max(configured), mean.max(1))
}

/// The playlist of one track; `None` while it has no segment.
pub fn media(recording: &Recording, track: TrackId) -> Option<String> {
    let segments = recording.segments.get(&track)?;
    let (last, _) = segments.last_key_value()?;
    let over = recording.state() == State::Complete;
    let declared = recording.end().and_then(|(_, totals)| {
        let of_track = totals.iter().find(|total| total.track == track)?;
        of_track.segments.checked_sub(1)
    });
    // Holes behind the last segment are listed once they can only be losses.
    let last = match declared {
        Some(declared) if over => (*last).max(declared),
        _ => *last,
    };
    let listed = list(segments, last);
    // No box of ours makes a longer segment. Were there one, a playlist that still grows may not
    // change its word; one that is whole can tell the truth.
    let longest = listed.iter().map(|entry| entry.micros).max().unwrap_or(0);
    let promised = target_seconds(recording);
    let target = match over {
        true => promised.max((longest + 500_000) / 1_000_000),
        false => promised,
    };
    let version = if listed.iter().any(|entry| entry.stored.is_none()) {
        8
    } else {
        7
    };
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:{version}\n#EXT-X-TARGETDURATION:{target}\n\
         #EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:EVENT\n#EXT-X-INDEPENDENT-SEGMENTS\n",
    );
    let spans = recording.spans();
    let (mut span, mut init): (u32, Option<Hash>) = (0, None);
    let mut dated = None;
    for entry in &listed {
        if let Some(stored) = entry.stored {
            // A span in which this track has nothing counts too: players match the tracks of a
            // recording by the number of discontinuities before a segment.
            let mut breaks = stored.span.saturating_sub(span).min(MOST_BREAKS);
            if breaks == 0 && init.is_some() && stored.init != init {
                breaks = 1;
            }
            (0..breaks).for_each(|_| text.push_str("#EXT-X-DISCONTINUITY\n"));
            if stored.init != init || breaks > 0 {
                if let Some(hash) = stored.init {
                    let _ = writeln!(text, "#EXT-X-MAP:URI=\"../init/{hash}.mp4\"");
                }
                init = stored.init;
            }
            span = stored.span;
            if dated != Some(span) {
                // What a growing playlist has said stands: a clock that became known in the middle of
                // a span dates the segments from there on, and all of it once the playlist is whole;
                // a correction shows only then.
                let known = spans.get(&span).filter(|span| {
                    let from = span.known_from.map(|nanos| nanos / 1000);
                    over || from.is_some_and(|from| from <= start_micros(stored))
                });
                let wall = known.and_then(|span| if over { span.wall } else { span.first_wall });
                if let Some(date) = wall.and_then(|wall| date(wall, start_micros(stored))) {
                    let _ = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{date}");
                    dated = Some(span);
                }
            }
        } else {
            text.push_str("#EXT-X-GAP\n");
        }
        let _ = write!(
            text,
            "#EXTINF:{}.{:06},\n{:08}.m4s\n",
            entry.micros / 1_000_000,
            entry.micros % 1_000_000,
            entry.sequence
        );
    }
    if over {
        text.push_str("#EXT-X-ENDLIST\n");
    }
    Some(text)
}

/// The most discontinuities in a row; span numbers come from the network.
const MOST_BREAKS: u32 = 1000;

/// The most entries of a playlist: 48 hours of segments.
const MOST_ENTRIES: u64 = 86_400;

struct Entry<'a> {
    sequence: u64,
    micros: u64,
    stored: Option<&'a Stored>,
}

/// Every sequence number from 0 to `last`, present or not.
fn list(segments: &std::collections::BTreeMap<u64, Stored>, last: u64) -> Vec<Entry<'_>> {
    let last = last.min(MOST_ENTRIES - 1);
    let mut listed: Vec<Entry<'_>> = Vec::new();
    let mut previous: Option<&Stored> = None;
    let mut next = 0;
    for (&sequence, stored) in segments.range(..=last) {
        let count = sequence - next;
        // The span in front of the first segment begins at 0 if it is the recording's first.
        let from = match previous {
            Some(previous) if previous.span == stored.span => {
                Some(start_micros(previous) + micros(previous.duration, previous))
            }
            None if stored.span == 0 => Some(0),
            _ => None,
        };
        let hole = from.and_then(|from| start_micros(stored).checked_sub(from));
        let each = match hole {
            Some(hole) if count > 0 && hole >= count => hole / count,
            _ => NOMINAL_MICROS,
        };
        listed.extend((next..sequence).map(|sequence| Entry {
            sequence,
            micros: each,
            stored: None,
        }));
        listed.push(Entry {
            sequence,
            micros: micros(stored.duration, stored),
            stored: Some(stored),
        });
        previous = Some(stored);
        next = sequence + 1;
    }
    listed.extend((next..=last).map(|sequence| Entry {
        sequence,
        micros: NOMINAL_MICROS,
        stored: None,
    }));
    listed
}

/// RFC 3339 of a span's start plus `micros`, if the clock was known.
fn date(wall: WallClock, micros: u64) -> Option<String> {
    wall.uncertainty?;
    let since = u64::try_from(wall.unix_nanos).ok()?;
    let after = Duration::from_nanos(since).checked_add(Duration::from_micros(micros))?;
    // The format ends with the year 9999.
    (after.as_secs() < 253_402_300_800)
        .then(|| humantime::format_rfc3339_millis(UNIX_EPOCH + after).to_string())
}

/// What may stand in a quoted string (RFC 8216, section 4.2); names come from the network.
fn quoted(text: &str) -> String {
    text.chars()
        .filter(|c| *c != '"' && *c != ',' && !c.is_control())
        .take(64)
        .collect()
}

#[cfg(test)]
#[path = "playlist_tests.rs"]
mod tests;
