//! The running box, if there is one: what it says of the devices that it holds.

use super::Line;
use crate::clock;
use crate::station::Status;
use crate::station::control::{self, Reply, Request};
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

pub(super) fn judge(running: &Running) -> Option<Line> {
    match running {
        Running::No => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_that_says_nothing_may_be_recording() {
        assert!(Running::Mute("not permitted".into()).is_recording());
        assert!(!Running::No.is_recording());
    }
}
