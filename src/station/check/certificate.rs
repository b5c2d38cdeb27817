//! Who the box is, and whether a receiver knows: read, never made.

use super::Line;
use super::clock::date;
use crate::clock;
use crate::station::config::Config;
use crate::uplink::identity::{Credentials, Error, Identity};
use std::fs::File;
use std::io;
use std::path::Path;

/// A certificate that ends within this many days is said.
const SOON: i64 = 30;
const DAY: i64 = 86_400;

/// What the state directory holds.
#[derive(Debug)]
pub(super) enum Known {
    /// The box has a key, and perhaps a certificate.
    Box(Box<Identity>, Result<Credentials, Error>),
    /// Nothing yet: it is made at the first start.
    Nothing,
    /// This user may not look.
    Hidden,
    /// Files that are no identity.
    Damaged(Error),
}

impl Known {
    /// The box, where it is enrolled.
    pub(super) fn enrolled(&self) -> Option<(&Identity, &Credentials)> {
        match self {
            Self::Box(identity, Ok(credentials)) => Some((identity, credentials)),
            _ => None,
        }
    }
}

/// Looks into the state directory; where nothing is, nothing is made.
pub(super) fn look(state: &Path) -> Known {
    for file in ["box-id", "box.key"] {
        match File::open(state.join(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Known::Nothing,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Known::Hidden,
            // What else is wrong, the identity says.
            _ => {}
        }
    }
    match Identity::open(state) {
        Ok(identity) => {
            let credentials = identity.credentials();
            Known::Box(Box::new(identity), credentials)
        }
        Err(error) => Known::Damaged(error),
    }
}

pub(super) fn lines(config: &Config, known: &Known) -> Vec<Line> {
    // Without a receiver it takes no certificate, but no box starts on an identity that cannot be read.
    if config.receiver.is_none() && !matches!(known, Known::Damaged(_)) {
        return Vec::new();
    }
    let now = clock::wall().unix_nanos / 1_000_000_000;
    vec![judge(known, now)]
}

fn judge(known: &Known, now: i64) -> Line {
    const ENROL: &str = "enrol the box: `hallcast enroll --csr`, have the request signed \
                         (`hallcast-receiver sign`), then `hallcast enroll --install`";
    let (identity, credentials) = match known {
        Known::Box(identity, Ok(credentials)) => (identity, credentials),
        Known::Box(identity, Err(Error::NotEnrolled(_))) => {
            let found = format!("box {} is not enrolled at a receiver", identity.box_id());
            return Line::wrong("certificate", found, ENROL);
        }
        Known::Nothing => {
            let found = "not enrolled: this box has no key yet, it makes one at its first start";
            return Line::wrong("certificate", found, ENROL);
        }
        Known::Hidden => {
            let found = "this user may not read the box's key";
            let next = "run the check as root, as in `sudo hallcast check`";
            return Line::warn("certificate", found, next);
        }
        Known::Box(_, Err(error)) | Known::Damaged(error) => {
            // The error says what to do after its semicolon.
            let text = error.to_string();
            let (found, next) = text.split_once("; ").unwrap_or((&text, ENROL));
            return Line::wrong("certificate", found, next);
        }
    };
    let Some((from, to, authority)) = credentials.validity() else {
        return Line::wrong("certificate", "it cannot be read", ENROL);
    };
    judge_validity(
        &format!("box {}, enrolled at {authority}", identity.box_id()),
        (from, to),
        now.max(credentials.passed),
    )
}

/// Judges a certificate at `now`, in seconds since 1970.
fn judge_validity(who: &str, (from, to): (i64, i64), now: i64) -> Line {
    let found = format!("{who}, valid from {} to {}", date(from), date(to));
    let again = "enrol the box again: `hallcast enroll --csr`, sign, `hallcast enroll --install`";
    if now > to {
        let found = format!("{found}: it has ended, by this box's clock ({})", date(now));
        Line::wrong("certificate", found, again)
    } else if to - now < SOON * DAY {
        let found = format!("{found}: it ends in {} days", (to - now) / DAY);
        Line::warn("certificate", found, again)
    } else {
        Line::ok("certificate", found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::station::check::Verdict;

    #[test]
    fn a_certificate_is_judged_by_its_end() {
        let at = |now: i64| judge_validity("box x", (0, 1000 * DAY), now * DAY).verdict;
        assert_eq!(at(1), Verdict::Ok);
        assert_eq!(at(969), Verdict::Ok);
        assert_eq!(at(971), Verdict::Warn);
        assert_eq!(at(1001), Verdict::Wrong);
    }

    #[test]
    fn looking_makes_no_identity() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        let known = look(&state);
        assert!(matches!(known, Known::Nothing));
        assert!(!state.exists());
        assert_eq!(judge(&known, 0).verdict, Verdict::Wrong);
        Identity::open(&state).unwrap();
        let known = look(&state);
        let line = judge(&known, 0);
        assert!(line.found.contains("is not enrolled"), "{line}");
        assert_eq!(line.verdict, Verdict::Wrong);
        std::fs::write(state.join("box.pem"), "nonsense").unwrap();
        let line = judge(&look(&state), 0);
        assert!(line.found.contains("box.pem"), "{line}");
        assert_eq!(line.verdict, Verdict::Wrong);
    }

    #[test]
    fn what_keeps_a_box_from_starting_is_wrong_without_a_receiver_too() {
        let home = tempfile::tempdir().unwrap();
        let flags = crate::station::config::Flags {
            board: Some("bench".into()),
            boot_directory: Some(home.path().into()),
            state_directory: Some(home.path().join("state")),
            ..Default::default()
        };
        let config = crate::station::config::load(&flags).unwrap();
        assert!(config.receiver.is_none());
        let state = &config.state_directory;
        let check = || lines(&config, &look(state));
        assert_eq!(check(), []);
        std::fs::write(state, "").unwrap();
        assert_eq!(check()[0].verdict, Verdict::Wrong, "a file");
        std::fs::remove_file(state).unwrap();
        Identity::open(state).unwrap();
        assert_eq!(check(), []);
        std::fs::write(state.join("box.key"), "nonsense").unwrap();
        let damaged = check();
        assert_eq!(damaged[0].verdict, Verdict::Wrong);
        assert!(damaged[0].found.contains("box.key"), "{}", damaged[0]);
    }
}
