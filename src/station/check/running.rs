//! The running box, if there is one: what it says of the devices that it holds.

use super::{Line, disk};
use crate::clock;
use crate::station::Status;
use crate::station::control::{self, Reply, Request};
use std::fs;
use std::io;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

/// Whether a box runs here.
#[derive(Debug)]
pub(super) enum Running {
    /// None does.
    No,
    /// One does, and this is how it was before and after the trial.
    Yes(Box<(Status, Status)>),
    /// One does, and says nothing to this user.
    Mute(String),
}

impl Running {
    /// How it is, where it says so.
    pub(super) fn status(&self) -> Option<&Status> {
        match self {
            Self::Yes(both) => Some(&both.1),
            Self::No | Self::Mute(_) => None,
        }
    }

    /// What would disturb a recording is left alone.
    pub(super) fn is_recording(&self) -> bool {
        match self {
            Self::No => false,
            Self::Yes(both) => both.1.recording.is_some(),
            Self::Mute(_) => true,
        }
    }
}

/// How the box is that listens on `socket`; none where none does, or why it says nothing to this user.
pub(in crate::station) fn status(socket: &Path) -> Result<Option<Box<Status>>, String> {
    match control::ask(socket, &Request::Status) {
        Ok(Reply::Status(status)) => Ok(Some(status)),
        Ok(_) => Err("it did not say how it is".to_owned()),
        Err(control::Error::NotRunning { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Asks the box twice, so that what it counts in between can be told.
pub(super) fn ask(socket: &Path) -> Running {
    let first = match status(socket) {
        Ok(Some(first)) => first,
        Ok(None) => return Running::No,
        Err(why) => return Running::Mute(why),
    };
    clock::sleep(super::TRIAL);
    match status(socket) {
        Ok(Some(second)) => Running::Yes(Box::new((*first, *second))),
        Ok(None) | Err(_) => Running::Mute("it ended while it was asked".into()),
    }
}

/// Judges the box that runs; where none does, the `socket` that one would make.
pub(super) fn judge(running: &Running, socket: &Path) -> Option<Line> {
    match running {
        Running::No => judge_socket(socket, try_socket(socket)),
        Running::Yes(both) => {
            let mut found = format!(
                "one runs ({}): it is asked about the devices that it holds",
                both.1.state
            );
            if both.1.recording.is_some() {
                found += "; disk and encoder are not tried while it records";
            }
            Some(Line::ok("box", found))
        }
        Running::Mute(why) => Some(Line::warn(
            "box",
            format!("one runs, but {why}: its devices were not looked at"),
            "run the check as root or as a member of its group, or stop the box first",
        )),
    }
}

/// Makes a socket beside the box's, or where its directory would be made, and removes it.
fn try_socket(socket: &Path) -> io::Result<()> {
    // What is too long for a socket's name is refused here.
    SocketAddr::from_pathname(socket)?;
    // What an earlier run left there is replaced, but for a directory.
    if socket.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let parent = socket.parent().unwrap_or(Path::new(""));
    if let Some(file) = disk::in_the_way(parent) {
        return Err(io::Error::other(format!("{} is a file", file.display())));
    }
    let name = format!(".hallcast-check-{}.sock", std::process::id());
    let scratch = disk::existing(parent).join(name);
    // The name of a directory that is there may be longer than the socket's.
    if SocketAddr::from_pathname(&scratch).is_err() {
        return Ok(());
    }
    UnixListener::bind(&scratch)?;
    fs::remove_file(&scratch)
}

fn judge_socket(socket: &Path, tried: io::Result<()>) -> Option<Line> {
    let error = tried.err()?;
    if error.kind() == io::ErrorKind::PermissionDenied {
        let found = format!(
            "{}: this user may not make the control socket, so it was not tried",
            socket.display()
        );
        let next = "run the check as root, as in `sudo hallcast check`";
        return Some(Line::warn("control", found, next));
    }
    let path = socket.to_owned();
    let source = error;
    let text = control::Error::Listen { path, source }.to_string();
    // The error says what to do after its semicolon.
    let (found, next) = text.split_once("; ").unwrap_or((&text, "name another"));
    Some(Line::wrong("control", found, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::station::check::Verdict;

    #[test]
    fn a_control_socket_that_cannot_be_made_is_told() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for well in ["control.sock", "not/yet/there/control.sock"] {
            assert_eq!(judge(&Running::No, &at(well)), None);
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
        fs::write(at("file"), "").unwrap();
        fs::create_dir(at("directory")).unwrap();
        let long = "x".repeat(120);
        for (wrong, says) in [
            ("file/control.sock", "is a file"),
            ("directory", "is a directory"),
            (&long, "cannot listen on the control socket"),
        ] {
            let line = judge(&Running::No, &at(wrong)).unwrap();
            assert_eq!(line.verdict, Verdict::Wrong, "{line}");
            assert!(line.found.contains(says), "{line}");
            assert!(line.next.unwrap().starts_with("make its directory"));
        }
        let denied = Err(io::ErrorKind::PermissionDenied.into());
        let line = judge_socket(&at("control.sock"), denied).unwrap();
        assert_eq!(line.verdict, Verdict::Warn);
    }

    #[test]
    fn a_box_that_says_nothing_may_be_recording() {
        assert!(Running::Mute("not permitted".into()).is_recording());
        assert!(!Running::No.is_recording());
    }
}
