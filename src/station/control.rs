//! The local socket: what `hallcast start`, `stop`, `pause` and the others say, and what they are answered.
//!
//! A Unix stream socket; one JSON object per line in each direction. Who may open it is who may
//! start a recording: the socket file is readable and writable by its owner and group only.

use crate::clock;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// No request is longer.
const MOST_REQUEST: u64 = 16_384;
/// Connections served at once; one more is closed.
const MOST_CONNECTIONS: usize = 32;
/// A peer that does not speak or listen for this long is let go.
const PATIENCE: Duration = Duration::from_secs(30);

/// What can be asked of a running box.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Start a recording.
    Start,
    /// Stop the running recording; answered once its end is kept on the box.
    Stop,
    /// Capture nothing until somebody resumes.
    Pause,
    /// Go on with the paused recording.
    Resume,
    /// Set a mark; near the end of its time the recording may last longer for it.
    Mark,
    /// Press the simulated button, as a lecturer would.
    Press,
    /// Hold the simulated button.
    Hold,
    /// Say how things are.
    Status,
    /// End as soon as nothing is recorded; whatever keeps the box running then starts it again.
    Restart,
    /// Give the request for a certificate.
    CertificateRequest,
    /// Install the certificate that was signed and its authority's.
    Install {
        /// Both, in this order (PEM).
        chain: String,
    },
}

/// What a request is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done; the recording concerned.
    Done {
        /// The recording's id.
        recording: String,
    },
    /// The request for a certificate (PEM).
    CertificateRequest(String),
    /// The certificate is installed.
    Enrolled {
        /// The box's id.
        box_id: String,
    },
    /// Changed nothing, and why.
    Refused(String),
    /// How things are.
    Status(Box<super::Status>),
    /// It restarts at once, or once this recording is over.
    Restarting(Option<String>),
}

/// What went wrong with the socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another box listens there.
    #[error(
        "{path}: another hallcast listens on this control socket; end it, or name another with --socket"
    )]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something else than a socket is there.
    #[error(
        "{path}: this is no socket, and the control socket does not take its place; move it away, or name another path by `control-socket` or --socket"
    )]
    NoSocket {
        /// What is there.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error(
        "{path}: cannot listen on the control socket: {source}; make its directory writable for the user of hallcast, or name another with --socket"
    )]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Nobody answers there.
    #[error(
        "{path}: no running hallcast answers there ({source}); start it (`systemctl start hallcast`, by hand `hallcast run`), or name its socket with --socket"
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Somebody may answer there, but not to this user.
    #[error(
        "{path}: this user may not ask the running hallcast: be its owner, or a member of its group (`hallcast` where it is installed)"
    )]
    NotPermitted {
        /// The socket.
        path: PathBuf,
    },
    /// The answer is not one.
    #[error("{path}: the running hallcast did not answer as expected: {reason}")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Listens on `path`; `serve` answers each request on the connection's own thread.
pub fn listen(
    path: &Path,
    serve: impl Fn(Request) -> Reply + Send + Sync + Clone + 'static,
) -> Result<(), Error> {
    let listening = |source| Error::Listen {
        path: path.to_owned(),
        source,
    };
    if UnixStream::connect(path).is_ok() {
        return Err(Error::Taken {
            path: path.to_owned(),
        });
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(listening)?;
    }
    match std::fs::symlink_metadata(path) {
        // What an earlier run left behind answers nobody.
        Ok(about) if about.file_type().is_socket() => {
            std::fs::remove_file(path).map_err(listening)?;
        }
        Ok(_) => {
            return Err(Error::NoSocket {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(listening(error)),
    }
    let listener = UnixListener::bind(path).map_err(listening)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(listening)?;
    std::thread::spawn(move || {
        let open = Arc::new(());
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of file descriptors, say: give the others time to end.
                clock::sleep(Duration::from_millis(100));
                continue;
            };
            let (serve, counted) = (serve.clone(), open.clone());
            if Arc::strong_count(&open) > MOST_CONNECTIONS {
                continue;
            }
            let conversation =
                std::thread::Builder::new()
                    .name("control".into())
                    .spawn(move || {
                        if let Err(error) = converse(stream, serve) {
                            log::debug!("a control connection ended: {error}");
                        }
                        drop(counted);
                    });
            if let Err(error) = conversation {
                log::warn!("a control connection cannot be served: {error}");
            }
        }
    });
    Ok(())
}

fn converse(mut stream: UnixStream, serve: impl Fn(Request) -> Reply) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.by_ref().take(MOST_REQUEST).read_line(&mut line)? == 0 {
            return Ok(());
        }
        if !line.ends_with('\n') && line.len() as u64 == MOST_REQUEST {
            let reply = Reply::Refused(format!("a request has no more than {MOST_REQUEST} bytes"));
            return writeln!(stream, "{}", serde_json::to_string(&reply)?);
        }
        let reply = match serde_json::from_str(&line) {
            Ok(request) => serve(request),
            Err(error) => Reply::Refused(format!("not a request: {error}")),
        };
        writeln!(stream, "{}", serde_json::to_string(&reply)?)?;
    }
}

/// Asks the box that listens on `path`.
pub fn ask(path: &Path, request: &Request) -> Result<Reply, Error> {
    let refuse = |source: std::io::Error| {
        let path = path.to_owned();
        if source.kind() == std::io::ErrorKind::PermissionDenied {
            Error::NotPermitted { path }
        } else {
            Error::NotRunning { path, source }
        }
    };
    let mut stream = UnixStream::connect(path).map_err(refuse)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(refuse)?;
    let answer = |reason: String| Error::Answer {
        path: path.to_owned(),
        reason,
    };
    let text = serde_json::to_string(request).map_err(|error| answer(error.to_string()))?;
    writeln!(stream, "{text}").map_err(refuse)?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .map_err(|error| answer(error.to_string()))?;
    serde_json::from_str(&line).map_err(|error| answer(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_an_earlier_run_is_replaced_and_no_other_file() {
        let home = tempfile::tempdir().unwrap();
        let listen = |path: &Path| listen(path, |_| unreachable!());
        let left = home.path().join("control.sock");
        drop(UnixListener::bind(&left).unwrap());
        listen(&left).unwrap();
        let file = home.path().join("box.toml");
        std::fs::write(&file, "room = 1").unwrap();
        let error = listen(&file).unwrap_err();
        assert!(matches!(error, Error::NoSocket { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "room = 1");
    }

    #[test]
    fn a_request_that_is_too_long_is_told_so_and_a_nonsense_one_as_well() {
        let (mut asking, answering) = UnixStream::pair().unwrap();
        let serving = std::thread::spawn(move || converse(answering, |_| unreachable!()));
        let mut answers = BufReader::new(asking.try_clone().unwrap()).lines();
        writeln!(asking, "nonsense").unwrap();
        assert!(answers.next().unwrap().unwrap().contains("not a request"));
        let chain = "x".repeat(MOST_REQUEST as usize);
        let request = serde_json::to_string(&Request::Install { chain }).unwrap();
        writeln!(asking, "{request}").unwrap();
        let said = answers.next().unwrap().unwrap();
        assert!(said.contains("no more than 16384 bytes"), "{said}");
        serving.join().unwrap().unwrap();
    }
}
