//! The fleet: how each box is, as a page, as JSON, and for Prometheus.

use super::{CONTENT_TYPE, JSON, NEVER, Web, failed, html};
use crate::clock;
use crate::receiver::fleet::Seen;
use crate::receiver::metrics;
use crate::receiver::view::{capitalised, clock as length};
use askama::Template;
use axum::extract::State as Shared;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// A box, for the page and as JSON.
#[derive(Serialize)]
struct Row {
    box_id: String,
    room: String,
    /// It is connected and said how it is a moment ago; otherwise the rest is how it was.
    current: bool,
    seconds_ago: u64,
    state: String,
    lamp: String,
    recording: Option<String>,
    recording_seconds: Option<u64>,
    tracks: Vec<Track>,
    waiting_bytes: Option<u64>,
    hours_left: Option<f64>,
    spool_level: String,
    alarms: Vec<Alarm>,
    software: String,
}

#[derive(Serialize)]
struct Track {
    name: String,
    open: bool,
    /// Of sound, in dBFS; none in silence.
    peak_dbfs: Option<f64>,
    rms_dbfs: Option<f64>,
    ticks: u64,
    repeats: u64,
    drops: u64,
    gaps: u64,
    gap_seconds: f64,
    ppm: Option<f64>,
    xruns: u64,
    silence: u64,
}

#[derive(Serialize)]
struct Alarm {
    code: String,
    track: Option<String>,
    message: String,
    seconds: Option<u64>,
}

fn hundredths(figure: i32) -> f64 {
    f64::from(figure) / 100.0
}

impl From<Seen> for Row {
    fn from(seen: Seen) -> Self {
        let health = seen.health;
        let name = |track| {
            let known = health.tracks.iter().find(|t| t.track == track);
            known.map_or_else(|| format!("track {track}"), |known| known.name.clone())
        };
        let alarms = health.alarms.iter().map(|alarm| Alarm {
            code: alarm.code.clone(),
            track: alarm.track.map(name),
            message: alarm.message.clone(),
            seconds: alarm.seconds.map(|s| s.saturating_add(seen.age.as_secs())),
        });
        let tracks = health.tracks.iter().map(|track| {
            let level = health
                .levels
                .iter()
                .find(|level| level.track == track.track);
            let (r, d) = (&track.repeats, &track.drops);
            let sum = |counts: &[u64]| counts.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
            Track {
                name: track.name.clone(),
                open: track.open,
                peak_dbfs: level.map(|level| hundredths(level.peak)),
                rms_dbfs: level.map(|level| hundredths(level.rms)),
                ticks: track.ticks,
                repeats: sum(&[r.slower_source, r.no_picture, r.before_first]),
                drops: sum(&[
                    d.faster_source,
                    d.late,
                    d.before_start,
                    d.out_of_order,
                    d.not_polled,
                ]),
                gaps: track.gaps,
                gap_seconds: track.gap_ms as f64 / 1000.0,
                ppm: track.ppm.map(hundredths),
                xruns: track.xruns,
                silence: track.silence,
            }
        });
        Self {
            box_id: seen.box_id.to_string(),
            current: seen.current,
            seconds_ago: seen.age.as_secs(),
            alarms: alarms.collect(),
            tracks: tracks.collect(),
            room: seen.room,
            state: health.state,
            lamp: health.lamp,
            recording: health.recording.map(|id| id.to_string()),
            recording_seconds: health.recording_seconds,
            waiting_bytes: health.waiting_bytes,
            hours_left: health.seconds_left.map(|s| (s / 36) as f64 / 100.0),
            spool_level: health.spool_level,
            software: health.software,
        }
    }
}

impl Row {
    /// For the style sheet.
    fn state_class(&self) -> &'static str {
        match (self.current, self.state.as_str()) {
            (false, _) => "away",
            (_, "fault") => "fault",
            (_, "idle") => "complete",
            _ => "open",
        }
    }

    fn state_words(&self) -> String {
        match self.current {
            true => self.last_words(),
            false => "away".to_owned(),
        }
    }

    /// What is shown below the state: of a box that is gone, how it was.
    fn state_note(&self) -> String {
        match self.current {
            true => format!("lamp {}", self.lamp),
            false => format!("was {}", self.last_words()),
        }
    }

    fn last_words(&self) -> String {
        let running = self
            .recording_seconds
            .map(|s| length(Duration::from_secs(s)));
        match (self.state.as_str(), running) {
            ("idle", _) => "ready".to_owned(),
            (state, Some(running)) => format!("{state} {running}"),
            (state, None) => state.to_owned(),
        }
    }

    fn seen_words(&self) -> String {
        match (self.current, self.seconds_ago) {
            (true, _) => "now".to_owned(),
            (_, ago @ ..120) => format!("{ago} s ago"),
            (_, ago @ ..7200) => format!("{} min ago", ago / 60),
            (_, ago) => format!("{} h ago", ago / 3600),
        }
    }

    fn waiting_words(&self) -> String {
        match self.waiting_bytes {
            None => "not known".to_owned(),
            Some(bytes @ ..1_000_000_000) => format!("{:.1} MB", bytes as f64 / 1e6),
            Some(bytes) => format!("{:.1} GB", bytes as f64 / 1e9),
        }
    }
}

impl Track {
    fn title(&self) -> String {
        capitalised(&self.name)
    }

    /// Where the level stands between -60 and 0 dBFS.
    fn meter(&self) -> Option<f64> {
        self.rms_dbfs.map(|rms| rms.clamp(-60.0, 0.0))
    }

    /// What is to be known of it, in words.
    fn words(&self) -> String {
        let mut words = Vec::new();
        if !self.open {
            words.push("not there".to_owned());
        }
        if let Some(rms) = self.rms_dbfs {
            words.push(format!("{rms:.0} dBFS"));
        }
        if let Some(ppm) = self.ppm {
            words.push(format!("{ppm:+.0} ppm"));
        }
        if self.gaps > 0 {
            let plural = if self.gaps == 1 { "" } else { "s" };
            words.push(format!(
                "{} gap{plural}, {:.1} s",
                self.gaps, self.gap_seconds
            ));
        }
        if self.xruns > 0 {
            words.push(format!("{} xruns", self.xruns));
        }
        words.join(" · ")
    }
}

impl Alarm {
    fn since(&self) -> Option<String> {
        self.seconds.map(|s| length(Duration::from_secs(s)))
    }
}

#[derive(Template)]
#[template(path = "boxes.html", config = "src/receiver/pages/askama.toml")]
struct BoxesPage {
    rows: Vec<Row>,
}

async fn rows(web: &Web) -> Vec<Row> {
    let seen = web.fleet.clone().read(clock::now()).await;
    seen.into_iter().map(Row::from).collect()
}

pub(super) async fn page(Shared(web): Shared<Arc<Web>>) -> Response {
    html(&BoxesPage {
        rows: rows(&web).await,
    })
}

pub(super) async fn json(Shared(web): Shared<Arc<Web>>) -> Response {
    let text = serde_json::json!({ "boxes": rows(&web).await }).to_string();
    ([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NEVER)], text).into_response()
}

pub(super) async fn measured(Shared(web): Shared<Arc<Web>>) -> Response {
    let seen = web.fleet.clone().read(clock::now()).await;
    match metrics::text(seen, web.stats.clone()) {
        Ok(text) => {
            let about = [
                (CONTENT_TYPE, metrics::CONTENT_TYPE),
                (CACHE_CONTROL, NEVER),
            ];
            (about, text).into_response()
        }
        Err(e) => failed(&e),
    }
}
