//! What a page says of a recording, in words.

use super::catalog::{Catalog, Recording, State};
use super::{film, manifest};
use crate::media::{Event, GapCause, GapLength, RecordingId, TrackId, TrackKind};
use std::time::Duration;

/// One recording in words.
pub struct Row {
    /// Its id, for links.
    pub id: String,
    /// Its title, else its room, else its id.
    pub name: String,
    /// Its room.
    pub room: String,
    /// True where the room is not the name already.
    pub room_apart: bool,
    /// How far it is, for people.
    pub state: &'static str,
    /// How far it is, for the style sheet.
    pub state_class: &'static str,
    /// When it began: for machines and for people.
    pub began: Option<(String, String)>,
    /// How long it is.
    pub length: String,
}

/// The players of a page.
pub struct Players {
    /// True without a track of pictures.
    pub sound_only: bool,
    /// What the first one shows.
    pub main: String,
    /// The second track of pictures and its name.
    pub second: Option<(TrackId, String)>,
    /// The track of sound.
    pub audio: Option<TrackId>,
}

/// Every recording that has anything to show, the newest first.
pub fn rows(catalog: &Catalog) -> Vec<Row> {
    let shown = catalog
        .recordings
        .iter()
        .filter(|(_, r)| !r.segments.is_empty());
    let mut rows: Vec<_> = shown.map(|(id, recording)| row(*id, recording)).collect();
    let began = |row: &Row| row.began.as_ref().map(|began| began.0.clone());
    rows.sort_by_key(|row| std::cmp::Reverse((row.state_class == "open", began(row))));
    rows
}

/// One recording.
pub fn row(id: RecordingId, recording: &Recording) -> Row {
    let started = recording.started();
    let title = started.and_then(|started| started.3);
    let room = started.and_then(|started| started.2).unwrap_or_default();
    let name = match title {
        Some(title) => title.to_owned(),
        None if room.is_empty() => format!("Recording {}", &id.to_string()[..8]),
        None => room.to_owned(),
    };
    let (state, state_class) = match recording.state() {
        State::Open => ("recording", "open"),
        State::Arriving => ("ended, still arriving", "arriving"),
        State::Complete => ("complete", "complete"),
    };
    Row {
        id: id.to_string(),
        name,
        room_apart: title.is_some() && !room.is_empty(),
        room: room.to_owned(),
        state,
        state_class,
        began: began(recording),
        length: clock(recording.length()),
    }
}

fn began(recording: &Recording) -> Option<(String, String)> {
    let wall = recording.spans().first_key_value()?.1.wall?;
    let date = manifest::date(wall)?;
    let minute = date.get(..16)?.replace('T', " ");
    let text = match wall.uncertainty {
        Some(_) => format!("{minute} UTC"),
        None => format!("{minute} UTC, by the box's own clock"),
    };
    Some((date, text))
}

/// `h:mm:ss`, or `m:ss` below an hour.
pub fn clock(length: Duration) -> String {
    let seconds = length.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// What its page plays.
pub fn players(recording: &Recording) -> Players {
    let video = recording.tracks_of(TrackKind::Video);
    let audio = recording.tracks_of(TrackKind::Audio);
    let main = match (video.first(), audio.first()) {
        (Some(video), Some(_)) => format!("{}, with sound", capitalised(&video.name)),
        (Some(video), None) => format!("{}, without sound", capitalised(&video.name)),
        (None, Some(_)) => "Sound, no picture".to_owned(),
        (None, None) => "Getting ready".to_owned(),
    };
    Players {
        sound_only: video.is_empty() && !audio.is_empty(),
        main,
        second: video.get(1).map(|info| (info.id, capitalised(&info.name))),
        audio: audio.first().map(|info| info.id),
    }
}

/// The names of its tracks of pictures and sound, to be compared only.
pub fn track_names(recording: &Recording) -> String {
    let tracks = recording.tracks().into_values();
    let names: Vec<_> = tracks
        .map(|info| format!("{} {}", info.id, info.name))
        .collect();
    names.join(", ")
}

/// With a capital letter.
pub fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

/// The most gaps that a page names.
const MOST_GAPS: usize = 100;

/// Its gaps, in words.
pub fn gaps(recording: &Recording) -> Vec<String> {
    let tracks = recording.tracks();
    let starts = film::span_starts(recording);
    let gap = |fact: &crate::media::Fact| {
        let Event::Gap {
            track,
            start,
            duration,
            cause,
        } = fact.event
        else {
            return None;
        };
        let info = tracks.get(&track)?;
        let span = starts.get(&fact.span).copied().unwrap_or(0);
        let at = span.saturating_add(start.as_nanos(info.timescale));
        let at = Duration::from_nanos(u64::try_from(at).unwrap_or(0));
        let milli = u128::from(duration) * 1000 / u128::from(info.timescale.get());
        Some(format!(
            "{} at {}: {}.{:03} s, {}",
            capitalised(&info.name),
            clock(at),
            milli / 1000,
            milli % 1000,
            why(cause)
        ))
    };
    let away = |(span, fact): (u32, super::catalog::SpanFact)| {
        let (nanos, length) = match fact.gap? {
            GapLength::Known { nanos, .. } => {
                let milli = nanos / 1_000_000;
                (nanos, format!("{}.{:03} s", milli / 1000, milli % 1000))
            }
            GapLength::Unknown => (0, "for an unknown time".into()),
        };
        let start = u64::try_from(*starts.get(&span)?).unwrap_or(0);
        let at = clock(Duration::from_nanos(start.saturating_sub(nanos)));
        Some(format!(
            "Everything at {at}: {length}, {}",
            why(fact.away_cause())
        ))
    };
    let between = recording.spans().into_iter().filter_map(away);
    let within = recording.facts().filter_map(gap);
    between.chain(within).take(MOST_GAPS).collect()
}

fn why(cause: GapCause) -> &'static str {
    match cause {
        GapCause::DeviceMissing => "the device was not there",
        GapCause::DeviceStalled => "the device gave nothing",
        GapCause::Overrun => "sound came faster than it was taken",
        GapCause::Paused => "paused",
        GapCause::BoxAway => "the box was away",
        GapCause::EncoderFailed => "no encoder took the pictures",
    }
}
