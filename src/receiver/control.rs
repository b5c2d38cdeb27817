//! The receiver's local socket: how `hallcast-receiver command` reaches the receiver that runs.
//!
//! A Unix stream socket in the state directory; one JSON object per line in each direction. Who may open it
//! may start recordings in every room whose box allows that: it is readable and writable by its owner only.
//! The pages have no sign-in, so this is not there.

use super::listener::Listener;
use crate::clock;
use crate::wire::message::Action;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as Asking;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncBufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// No request is longer.
const MOST_REQUEST: u64 = 4096;
/// Requests served at once; one more is closed.
const MOST_CONNECTIONS: usize = 32;
/// A peer that says nothing for this long is let go.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// Longer than the receiver waits for a box.
const PATIENCE: Duration = Duration::from_secs(40);

/// What a box can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// Start a recording
    Start,
    /// End the recording; returns once it is whole on the box
    Stop,
    /// Capture nothing until somebody resumes
    Pause,
    /// Go on with the paused recording
    Resume,
    /// Set a mark, and give the recording at least half an hour more
    Mark,
    /// Blink the lamp three times in a row for 10 s, to find the box; not while it records
    Identify,
}

impl From<Asked> for Action {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Start => Self::Start,
            Asked::Stop => Self::Stop,
            Asked::Pause => Self::Pause,
            Asked::Resume => Self::Resume,
            Asked::Mark => Self::Mark,
            Asked::Identify => Self::Identify,
        }
    }
}

/// A command for a box.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The box's id, or its room.
    pub box_or_room: String,
    /// What to do.
    pub action: Asked,
}

/// What a request is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done; the recording concerned, if one is.
    Done(Option<String>),
    /// Not done, or not known to be, and why.
    Refused(String),
}

/// What went wrong with the socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket cannot be made.
    #[error(
        "{path}: cannot listen for `hallcast-receiver command`: {source}; make the state directory writable for the user of hallcast-receiver and its path shorter than 90 letters"
    )]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Nobody answers there.
    #[error(
        "{path}: no running receiver answers there ({source}); start it (`systemctl start hallcast-receiver`, by hand `hallcast-receiver run`), or name its state directory with --state-dir"
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Somebody may answer there, but not to this user.
    #[error(
        "{path}: this user may not ask the running receiver: be its user (`sudo -u hallcast-receiver` where it is installed)"
    )]
    NotPermitted {
        /// The socket.
        path: PathBuf,
    },
    /// The answer is not one.
    #[error("{path}: the running receiver did not answer as expected: {reason}")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Where the receiver of this state directory listens.
fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Listens in the state directory, and serves until the process ends.
pub fn listen(state_dir: &Path, listener: Arc<Listener>) -> Result<(), Error> {
    let path = path(state_dir);
    let listening = |source| Error::Listen {
        path: path.clone(),
        source,
    };
    if Asking::connect(&path).is_ok() {
        let taken = std::io::Error::other("another receiver listens there");
        return Err(listening(taken));
    }
    // What an earlier run left behind answers nobody.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(listening(error)),
        _ => {}
    }
    let socket = UnixListener::bind(&path).map_err(listening)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(listening)?;
    tokio::spawn(async move {
        let free = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let Ok((stream, _)) = socket.accept().await else {
                // Out of file descriptors, say: give the others time to end.
                clock::pause(Duration::from_millis(100)).await;
                continue;
            };
            let (listener, Ok(permit)) = (listener.clone(), free.clone().try_acquire_owned())
            else {
                continue;
            };
            tokio::spawn(async move {
                if let Err(error) = converse(stream, &listener).await {
                    log::debug!("a control connection ended: {error}");
                }
                drop(permit);
            });
        }
    });
    Ok(())
}

/// One request and its reply.
async fn converse(stream: UnixStream, listener: &Listener) -> std::io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut line = String::new();
    let mut reader = AsyncBufReader::new(reading.take(MOST_REQUEST));
    let read = clock::within(REQUEST_WITHIN, reader.read_line(&mut line)).await;
    read.unwrap_or_else(|| Err(std::io::ErrorKind::TimedOut.into()))?;
    let reply = match serde_json::from_str::<Request>(&line) {
        Err(error) => Reply::Refused(format!("not a request: {error}")),
        Ok(Request {
            box_or_room,
            action,
        }) => match listener.command(&box_or_room, action.into()).await {
            Ok(recording) => Reply::Done(recording.map(|recording| recording.to_string())),
            Err(error) => Reply::Refused(error.to_string()),
        },
    };
    let text = format!("{}\n", serde_json::to_string(&reply)?);
    writing.write_all(text.as_bytes()).await
}

/// Asks the receiver of this state directory.
pub fn ask(state_dir: &Path, request: &Request) -> Result<Reply, Error> {
    let path = path(state_dir);
    let refuse = |source: std::io::Error| {
        let path = path.clone();
        if source.kind() == std::io::ErrorKind::PermissionDenied {
            Error::NotPermitted { path }
        } else {
            Error::NotRunning { path, source }
        }
    };
    let answer = |reason: String| Error::Answer {
        path: path.clone(),
        reason,
    };
    let mut stream = Asking::connect(&path).map_err(refuse)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(refuse)?;
    let text = serde_json::to_string(request).map_err(|error| answer(error.to_string()))?;
    writeln!(stream, "{text}").map_err(refuse)?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .map_err(|error| answer(error.to_string()))?;
    serde_json::from_str(&line).map_err(|error| answer(error.to_string()))
}
