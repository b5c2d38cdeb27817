//! Pages, playlists and bytes over HTTP, on loopback.
//!
//! Takes the library; gives the list of recordings, a page with a player for each, HLS, the MP4 of a
//! complete one, and the manifest. A browser gets exactly the bytes that are archived, their hash
//! checked as they are read. There is no sign-in yet: only loopback is listened on, and only requests
//! that name it as their host are answered, so that no other site can read along by pointing its own
//! name here.

mod boxes;
mod file;

use super::archive;
use super::catalog::{Recording, State};
use super::film::Films;
use super::fleet::Fleet;
use super::library::Library;
use super::listener::Stats;
use super::playlist;
use super::view::{self, Row};
use crate::clock;
use crate::media::{Hash, RecordingId, SegmentKey, TrackId};
use askama::Template;
use axum::Router;
use axum::extract::{Path, Request, State as Shared};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH,
    REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    media-src 'self' blob:; img-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";
const PLAYLIST: &str = "application/vnd.apple.mpegurl";
const MP4: &str = "video/mp4";
const JSON: &str = "application/json";
/// For what never changes under its name.
const FOR_EVER: &str = "private, max-age=31536000, immutable";
const NEVER: &str = "no-store";
const ASK_AGAIN: &str = "no-cache";
/// A browser does not wait longer for an archive that does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What the pages are made from.
pub struct Web {
    library: Arc<Library>,
    films: Arc<Films>,
    fleet: Arc<Fleet>,
    stats: Arc<Stats>,
}

/// The routes of the receiver; `films` is where finished MP4 files are cached.
pub fn router(
    library: Arc<Library>,
    films: Arc<Films>,
    fleet: Arc<Fleet>,
    stats: Arc<Stats>,
) -> Router {
    Router::new()
        .route("/", get(list))
        .route("/boxes", get(boxes::page))
        .route("/boxes.json", get(boxes::json))
        .route("/metrics", get(boxes::measured))
        .route("/recordings/{id}", get(page))
        .route("/recordings/{id}/state", get(state))
        .route("/recordings/{id}/manifest.json", get(manifest))
        .route("/recordings/{id}/recording.mp4", get(film))
        .route("/hls/{id}/index.m3u8", get(multivariant))
        .route("/hls/{id}/init/{file}", get(init))
        .route("/hls/{id}/{track}/{file}", get(track_file))
        .route("/assets/{file}", get(asset))
        .fallback(|| async { problem("This page does not exist", "Check the address.", false) })
        .layer(from_fn(guard))
        .with_state(Arc::new(Web {
            library,
            films,
            fleet,
            stats,
        }))
}

/// Answers only loopback hosts, and sets what every answer carries.
async fn guard(request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_loopback_host) {
        let text = "This receiver answers only as localhost, 127.0.0.1 or [::1].\n";
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn is_loopback_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn not_found(what: &str) -> Response {
    (StatusCode::NOT_FOUND, format!("{what}\n")).into_response()
}

#[derive(Template)]
#[template(path = "problem.html", config = "src/receiver/pages/askama.toml")]
struct ProblemPage {
    title: &'static str,
    text: &'static str,
    asks_again: bool,
}

/// A page for people in place of one that is not there.
fn problem(title: &'static str, text: &'static str, asks_again: bool) -> Response {
    let mut response = html(&ProblemPage {
        title,
        text,
        asks_again,
    });
    if response.status().is_success() {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    response
}

fn failed(error: &dyn std::fmt::Display) -> Response {
    log::error!("web: {error}");
    let text = "The receiver could not read this; its log says why.\n";
    (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
}

/// The archive cannot be asked now; what was said to be in it is in it all the same.
fn away(error: &dyn std::fmt::Display) -> Response {
    log::error!("web: {error}");
    let about = [(RETRY_AFTER, "10"), (CACHE_CONTROL, NEVER)];
    let text = "The archive does not answer now: ask again in a minute. The log says why.\n";
    (StatusCode::SERVICE_UNAVAILABLE, about, text).into_response()
}

/// What `answer` makes of an object's bytes.
async fn read(web: &Web, name: &str, answer: impl FnOnce(Bytes) -> Response) -> Response {
    match clock::within(ANSWER_WITHIN, web.library.archive.read(name)).await {
        Some(Ok(bytes)) => answer(bytes),
        Some(Err(e)) if e.is_missing() => failed(&e),
        Some(Err(e)) => away(&e),
        None => {
            let seconds = ANSWER_WITHIN.as_secs();
            away(&format!("{name} was not read within {seconds} s"))
        }
    }
}

fn html(page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => ([(CACHE_CONTROL, NEVER)], Html(text)).into_response(),
        Err(e) => failed(&e),
    }
}

/// What never changes: answered with its hash as ETag.
fn immutable(headers: &HeaderMap, hash: Hash, kind: &'static str, bytes: Bytes) -> Response {
    let tag = format!("\"{hash}\"");
    let asked = headers
        .get(IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    let known = asked.is_some_and(|asked| asked.split(',').any(|known| known.trim() == tag));
    let about = [
        (CONTENT_TYPE, kind.to_owned()),
        (CACHE_CONTROL, FOR_EVER.to_owned()),
        (ETAG, tag),
    ];
    if known {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    (about, bytes).into_response()
}

impl Web {
    /// What `answer` makes of a recording that has anything to show.
    fn with<T>(&self, id: &str, answer: impl FnOnce(RecordingId, &Recording) -> T) -> Option<T> {
        let id: RecordingId = id.parse().ok()?;
        let catalog = self.library.read();
        let recording = catalog.recordings.get(&id)?;
        (!recording.segments.is_empty()).then(|| answer(id, recording))
    }
}

#[derive(Template)]
#[template(path = "list.html", config = "src/receiver/pages/askama.toml")]
struct ListPage {
    rows: Vec<Row>,
    /// True while it may change by itself.
    asks_again: bool,
}

async fn list(Shared(web): Shared<Arc<Web>>) -> Response {
    let rows = view::rows(&web.library.read());
    let asks_again = rows.is_empty() || rows.iter().any(|row| row.state_class != "complete");
    html(&ListPage { rows, asks_again })
}

#[derive(Template)]
#[template(path = "recording.html", config = "src/receiver/pages/askama.toml")]
struct RecordingPage {
    row: Row,
    complete: bool,
    /// Of what the players are made; another value of it needs another page.
    tracks: String,
    /// True without a track of pictures.
    sound_only: bool,
    main_label: String,
    second: Option<(TrackId, String)>,
    audio: Option<TrackId>,
    gaps: Vec<String>,
}

async fn page(Shared(web): Shared<Arc<Web>>, Path(id): Path<String>) -> Response {
    let page = web.with(&id, |id, recording| {
        let players = view::players(recording);
        RecordingPage {
            row: view::row(id, recording),
            complete: recording.complete,
            tracks: view::track_names(recording),
            sound_only: players.sound_only,
            main_label: players.main,
            second: players.second,
            audio: players.audio,
            gaps: view::gaps(recording),
        }
    });
    match page {
        Some(page) => html(&page),
        None => problem(
            "There is no such recording here",
            "If it has only just begun, it appears within a few seconds: this page keeps looking.",
            id.parse::<RecordingId>().is_ok(),
        ),
    }
}

async fn state(Shared(web): Shared<Arc<Web>>, Path(id): Path<String>) -> Response {
    let state = web.with(&id, |id, recording| {
        let row = view::row(id, recording);
        serde_json::json!({
            "class": row.state_class,
            "text": row.state,
            "length": row.length,
            "tracks": view::track_names(recording),
        })
    });
    let Some(state) = state else {
        return not_found("There is no such recording here.");
    };
    let text = state.to_string();
    ([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NEVER)], text).into_response()
}

async fn manifest(Shared(web): Shared<Arc<Web>>, Path(id): Path<String>) -> Response {
    let Some(Some(id)) = web.with(&id, |id, recording| recording.complete.then_some(id)) else {
        return not_found("The recording is not complete: it has no manifest yet.");
    };
    let about = [(CONTENT_TYPE, JSON), (CACHE_CONTROL, ASK_AGAIN)];
    let answer = |bytes| (about, bytes).into_response();
    read(&web, &archive::manifest_path(id), answer).await
}

async fn multivariant(Shared(web): Shared<Arc<Web>>, Path(id): Path<String>) -> Response {
    let text = web.with(&id, |_, recording| {
        let text = playlist::multivariant(recording)?;
        Some((text, recording.state()))
    });
    playlist_answer(text.flatten())
}

fn playlist_answer(text: Option<(String, State)>) -> Response {
    let Some((text, state)) = text else {
        let mut response = not_found("There is nothing to play yet.");
        let never = HeaderValue::from_static(NEVER);
        response.headers_mut().insert(CACHE_CONTROL, never);
        return response;
    };
    let cache = if state == State::Complete {
        ASK_AGAIN
    } else {
        NEVER
    };
    ([(CONTENT_TYPE, PLAYLIST), (CACHE_CONTROL, cache)], text).into_response()
}

async fn init(
    Shared(web): Shared<Arc<Web>>,
    Path((id, file)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let hash = file.strip_suffix(".mp4").and_then(|hash| hash.parse().ok());
    let known = hash.and_then(|hash: Hash| {
        let found = web.with(&id, |id, recording| {
            recording.inits.contains(&hash).then_some((id, hash))
        });
        found.flatten()
    });
    let Some((id, hash)) = known else {
        return not_found("There is no such init here.");
    };
    object(&web, &headers, &archive::init_path(id, hash), hash).await
}

async fn track_file(
    Shared(web): Shared<Arc<Web>>,
    Path((id, track, file)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    // The events track is for the receiver, not for players.
    let track = track
        .parse()
        .ok()
        .map(TrackId)
        .filter(|track| *track != TrackId::EVENTS);
    let Some(track) = track else {
        return not_found("There is no such track here.");
    };
    if file == "index.m3u8" {
        let text = web.with(&id, |_, recording| {
            Some((playlist::media(recording, track)?, recording.state()))
        });
        return playlist_answer(text.flatten());
    }
    let sequence = file
        .strip_suffix(".m4s")
        .and_then(|number| number.parse().ok());
    let known = sequence.and_then(|sequence: u64| {
        let found = web.with(&id, |recording, known| {
            let stored = known.segments.get(&track)?.get(&sequence)?;
            let key = SegmentKey {
                recording,
                track,
                sequence,
            };
            Some((archive::segment_path(&key), stored.hash))
        });
        found.flatten()
    });
    match known {
        Some((name, hash)) => object(&web, &headers, &name, hash).await,
        None => not_found("There is no such segment here."),
    }
}

/// An archived object whose bytes must have `hash`.
async fn object(web: &Web, headers: &HeaderMap, name: &str, hash: Hash) -> Response {
    read(web, name, |bytes| match archive::hash(&bytes) == hash {
        true => immutable(headers, hash, MP4, bytes),
        false => failed(&format!(
            "{name} is damaged: its bytes have another hash than when they were archived; check the disk"
        )),
    })
    .await
}

async fn asset(Path(file): Path<String>, headers: HeaderMap) -> Response {
    let (kind, bytes): (_, &'static [u8]) = match file.as_str() {
        "hls.min.js" => (
            "text/javascript; charset=utf-8",
            include_bytes!("assets/hls.min.js"),
        ),
        "player.js" => (
            "text/javascript; charset=utf-8",
            include_bytes!("assets/player.js"),
        ),
        "boxes.js" => (
            "text/javascript; charset=utf-8",
            include_bytes!("assets/boxes.js"),
        ),
        "icon.svg" => ("image/svg+xml", include_bytes!("assets/icon.svg")),
        "style.css" => (
            "text/css; charset=utf-8",
            include_bytes!("assets/style.css"),
        ),
        _ => return not_found("There is no such file."),
    };
    // Its name stays over releases: a browser asks each time whether it is still the same.
    let mut response = immutable(
        &headers,
        archive::hash(bytes),
        kind,
        Bytes::from_static(bytes),
    );
    let again = HeaderValue::from_static(ASK_AGAIN);
    response.headers_mut().insert(CACHE_CONTROL, again);
    response
}

async fn film(
    Shared(web): Shared<Arc<Web>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let complete = web.with(&id, |id, recording| {
        recording.complete.then(|| (id, recording.clone()))
    });
    let (id, recording) = match complete {
        Some(Some(complete)) => complete,
        Some(None) => {
            let text =
                "The recording is not complete yet: its file can be had once its page says so.\n";
            return (StatusCode::CONFLICT, [(CACHE_CONTROL, NEVER)], text).into_response();
        }
        None => return not_found("There is no such recording here."),
    };
    let made = web.films.get(&web.library.archive, id, &recording).await;
    if web.library.read().erased.contains_key(&id) {
        // It was erased while its file was made or waited for.
        if let Err(e) = web.films.forget(id).await {
            log::error!("erased recording {id}: {e}");
        }
        return not_found("There is no such recording here.");
    }
    match made {
        Ok(path) => match file::answer(&path, id, &headers).await {
            Ok(response) => response,
            Err(e) => failed(&format!("{}: {e}", path.display())),
        },
        Err(e) => failed(&e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_answered() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:1",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "localhost.example.org:80",
            "10.0.0.1",
            "[::2]:1",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }
}
