//! Why a device gives nothing: one variant per reaction, each saying what a person can do.

use std::fmt;

/// Why a camera or microphone cannot be had, or is had no longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not there. Reopen with backoff: it may be plugged in.
    #[error("{device}: not found. {advice}{}", table("Present", present))]
    Missing {
        /// The device's name as configured.
        device: String,
        /// What to do.
        advice: String,
        /// Devices of the same kind that are there, one line each.
        present: Vec<String>,
    },
    /// The configured name leads to a device on another port than the track's, whose own is empty.
    /// Reopen with backoff: the device may be plugged in where it was.
    #[error(
        "{device}: now leads to the device on port {leads_to}, while this track's device was on port \
         {port}, which is empty. Plug the device in there again, or restart hallcast to use the other \
         one from now on"
    )]
    Elsewhere {
        /// The device's name as configured.
        device: String,
        /// The track's port.
        port: String,
        /// The other port, and the device on it.
        leads_to: String,
    },
    /// Another program has it. Reopen with backoff: the program may end.
    #[error(
        "{device}: busy: another program uses it. {advice}{}",
        table("Present", present)
    )]
    Busy {
        /// The device's name as configured.
        device: String,
        /// What to do.
        advice: String,
        /// Devices of the same kind that are there, one line each.
        present: Vec<String>,
    },
    /// This program may not use it. Reopening helps only after a person acted.
    #[error("{device}: not permitted. {advice}")]
    NotPermitted {
        /// The device's name as configured.
        device: String,
        /// What to do.
        advice: String,
    },
    /// It cannot do what was asked. Reopening helps only after the configuration was changed.
    #[error(
        "{device}: cannot do what was asked: {asked}. {advice}{}",
        table("It offers", offers)
    )]
    CannotDo {
        /// The device's name as configured.
        device: String,
        /// What was asked.
        asked: String,
        /// What to do.
        advice: String,
        /// What the device offers, one line each.
        offers: Vec<String>,
    },
    /// It is open but delivered nothing for too long. Reopen at once, then with backoff.
    #[error(
        "{device}: delivered nothing for {waited_ms} ms; it is opened again. If that goes on, look at its \
         cable and its power"
    )]
    Stalled {
        /// The device's name as configured.
        device: String,
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// It was there and is gone: unplugged, or a replayed film ended. Reopen with backoff.
    #[error("{device}: gone: {reason}")]
    Vanished {
        /// The device's name as configured.
        device: String,
        /// What happened.
        reason: String,
    },
    /// Anything else. Reopen with backoff, and show it to a person.
    #[error("{device}: {what} failed: {reason}")]
    Other {
        /// The device's name as configured.
        device: String,
        /// What was tried.
        what: String,
        /// What the system says.
        reason: String,
    },
}

/// What to do about a device that cannot do what it was asked for.
#[allow(dead_code, reason = "used by the back ends of real devices")]
pub(super) const ASK_FOR: &str = "Ask in the board file for something that it offers.";
/// What to do about one that is gone.
#[allow(dead_code, reason = "used by the back ends of real devices")]
pub(super) const PLUG_IN: &str = "Plug it in again where it was: it is used as soon as it is there";

/// Every [`Error::code`]: while one of them stands for a device, it gives nothing.
pub const CODES: [&str; 8] = [
    "missing",
    "elsewhere",
    "busy",
    "not-permitted",
    "cannot-do",
    "stalled",
    "vanished",
    "other",
];

impl Error {
    /// The stable name of this kind, for alarms and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Elsewhere { .. } => "elsewhere",
            Self::Busy { .. } => "busy",
            Self::NotPermitted { .. } => "not-permitted",
            Self::CannotDo { .. } => "cannot-do",
            Self::Stalled { .. } => "stalled",
            Self::Vanished { .. } => "vanished",
            Self::Other { .. } => "other",
        }
    }

    /// A back end that this program was built without.
    #[allow(
        dead_code,
        reason = "every back end is built in when all features are on"
    )]
    pub(super) fn not_built(device: &dyn fmt::Display, feature: &str) -> Self {
        Self::Other {
            device: device.to_string(),
            what: "opening".into(),
            reason: format!(
                "this program was built without `{feature}`; build it with `--features {feature}`"
            ),
        }
    }

    /// What the kernel refused for no reason that a person could have told.
    #[allow(dead_code, reason = "used by the back ends of real devices")]
    pub(super) fn refused(
        device: &dyn fmt::Display,
        what: &str,
        reason: &dyn fmt::Display,
    ) -> Self {
        let reason = format!(
            "{reason}; it is tried again. Look at its cable, its power and the kernel's log (`dmesg`)"
        );
        Self::other(device, what, &reason)
    }

    #[allow(dead_code, reason = "used by the back ends that features add")]
    pub(super) fn other(device: &dyn fmt::Display, what: &str, reason: &dyn fmt::Display) -> Self {
        Self::Other {
            device: device.to_string(),
            what: what.into(),
            reason: reason.to_string(),
        }
    }
}

/// `lines` as an indented table below `title`; nothing when there are none.
fn table(title: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    lines.iter().fold(format!("\n  {title}:"), |table, line| {
        table + "\n    " + line
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_device_the_reason_and_what_is_offered_instead() {
        let error = Error::CannotDo {
            device: "/dev/hallcast/presenter".into(),
            asked: "4096x2160 at 60".into(),
            advice: "Ask for something else.".into(),
            offers: vec!["YUYV 1280x720: 30, 25".into(), "NV12 640x480: 30".into()],
        };
        assert_eq!(
            error.to_string(),
            "/dev/hallcast/presenter: cannot do what was asked: 4096x2160 at 60. Ask for something \
             else.\n  It offers:\n    \
             YUYV 1280x720: 30, 25\n    NV12 640x480: 30"
        );
    }
}
