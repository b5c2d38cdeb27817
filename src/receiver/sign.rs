//! `hallcast-receiver sign`: one box, or forty at once.
//!
//! Every request is read and judged before the first box is entered: a mistake in one leaves the roster as
//! it was. Signing a request again gives the same certificate, so that a folder can be signed again after
//! some of its boxes were enrolled. Another certificate for a box that is entered is not signed: whoever
//! names a box's id in a request of their own does not take its place.

use super::authority::{self, Authority, Signed};
use super::roster::{self, Entry, Refused, Roster};
use crate::media::BoxId;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why no box was entered, or not all were.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Authority(#[from] authority::Error),
    #[error("{}: {source}; {advice}", path.display())]
    File {
        path: PathBuf,
        source: io::Error,
        advice: &'static str,
    },
    #[error("{}: there is no *.csr in it: put what `hallcast enroll --csr` printed on each box there", .0.display())]
    Empty(PathBuf),
    #[error(
        "--room names one room, and these are {0} requests: sign them one by one, or leave --room out where they name their rooms"
    )]
    OneRoom(usize),
    #[error("no box was entered; mend these, or take them out:\n{0}")]
    Wrong(String),
    #[error("{}: it would be overwritten by its own certificate; name requests *.csr", .0.display())]
    Name(PathBuf),
}

fn file(path: &Path, advice: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        path,
        source,
        advice,
    }
}

/// Signs; what to print.
pub(super) fn sign(
    state_dir: &Path,
    requests: &[PathBuf],
    room: Option<&str>,
    output: Option<&Path>,
) -> Result<String, Error> {
    let is_one = matches!(requests, [one] if !one.is_dir());
    let requests = list(requests)?;
    if room.is_some() && requests.len() > 1 {
        return Err(Error::OneRoom(requests.len()));
    }
    let (authority, roster) = (Authority::load(state_dir)?, Roster::new(state_dir));
    let judged = judge(&authority, &roster, &requests, room)?;

    let mut said = String::new();
    for (request, (signed, room)) in requests.iter().zip(judged) {
        let entry = Entry {
            certificate_blake3: roster::fingerprint(&signed.certificate).to_string(),
            revoked: false,
            room,
        };
        let entered = roster.enter(signed.box_id, &entry);
        entered.map_err(file(
            &roster.path(signed.box_id),
            "make the roster writable for this user",
        ))?;
        if is_one && output.is_none() {
            return Ok(signed.chain_pem);
        }
        let path = beside(request, output)?;
        let advice =
            "make its folder writable; the box is in the roster already, and may be signed again";
        fs::write(&path, &signed.chain_pem).map_err(file(&path, advice))?;
        let serial = signed.serial.as_deref().unwrap_or("-");
        let (path, id) = (path.display(), signed.box_id);
        // A string takes all that is written into it.
        let _ = writeln!(said, "{path}: box {id}, machine {serial}, {}", entry.room);
    }
    Ok(said)
}

/// The requests meant: folders are those in them.
fn list(named: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for path in named {
        if !path.is_dir() {
            found.push(path.clone());
            continue;
        }
        let read = |error| file(path, "give a folder that this user may read")(error);
        let mut inside = Vec::new();
        for entry in fs::read_dir(path).map_err(read)? {
            let entry = entry.map_err(read)?.path();
            if entry.extension().is_some_and(|ending| ending == "csr") {
                inside.push(entry);
            }
        }
        if inside.is_empty() {
            return Err(Error::Empty(path.clone()));
        }
        inside.sort();
        found.append(&mut inside);
    }
    Ok(found)
}

/// Every request signed, and its room; or everything that is wrong with any of them.
fn judge(
    authority: &Authority,
    roster: &Roster,
    requests: &[PathBuf],
    room: Option<&str>,
) -> Result<Vec<(Signed, String)>, Error> {
    let (mut judged, mut wrong) = (Vec::new(), Vec::new());
    let mut seen: BTreeMap<BoxId, &Path> = BTreeMap::new();
    for request in requests {
        let signed = match authority.sign(request) {
            Ok(signed) => signed,
            Err(error) => {
                wrong.push(error.to_string());
                continue;
            }
        };
        let (path, id) = (request.display(), signed.box_id);
        if let Some(other) = seen.insert(id, request) {
            wrong.push(format!(
                "{path}: the same box {id} as {}: one of the cards was copied from the other after its first start; \
                 on that box stop hallcast, move its state directory away, start, and ask for the request anew",
                other.display()
            ));
            continue;
        }
        let known = match roster.entry(id) {
            Ok(Some(entry)) if entry.revoked => {
                let entry = roster.path(id);
                wrong.push(format!(
                    "{path}: box {id} {}; delete {} to let it in again",
                    Refused::Revoked,
                    entry.display()
                ));
                continue;
            }
            Ok(Some(entry))
                if entry.certificate_blake3
                    != roster::fingerprint(&signed.certificate).to_string() =>
            {
                let entry = roster.path(id);
                wrong.push(format!(
                    "{path}: box {id} is in the roster with another certificate, so this request is of another key (or \
                     the authority was made anew since), and signing it would shut that box out; if it is meant to take \
                     its place, delete {} first",
                    entry.display()
                ));
                continue;
            }
            Ok(known) => known.map(|entry| entry.room),
            Err(error) => {
                wrong.push(format!(
                    "{path}: box {id} {error} ({})",
                    roster.path(id).display()
                ));
                continue;
            }
        };
        let room = room.map(str::to_owned).or_else(|| signed.room.clone());
        match room.or(known) {
            Some(room) => judged.push((signed, room)),
            None => wrong.push(format!(
                "{path}: box {id} (machine {}) names no room: sign it with --room, or write its row into fleet.csv on \
                 its card, restart hallcast there, and ask for the request anew",
                signed.serial.as_deref().unwrap_or("not known")
            )),
        }
    }
    match wrong.is_empty() {
        true => Ok(judged),
        false => Err(Error::Wrong(wrong.join("\n"))),
    }
}

/// Where the certificate for a request goes.
fn beside(request: &Path, output: Option<&Path>) -> Result<PathBuf, Error> {
    let path = request.with_extension("pem");
    let path = match (output, path.file_name()) {
        (Some(folder), Some(name)) => {
            let made = fs::create_dir_all(folder);
            made.map_err(file(folder, "name another folder with --output"))?;
            folder.join(name)
        }
        _ => path,
    };
    match path == request {
        true => Err(Error::Name(path)),
        false => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::authority::tests::request;

    #[test]
    fn another_key_does_not_take_the_place_of_a_box_and_its_own_is_signed_again() {
        let home = tempfile::tempdir().unwrap();
        Authority::create(home.path(), &["localhost".into()], true).unwrap();
        let (own, other) = (home.path().join("own.csr"), home.path().join("other.csr"));
        let id = "ab".repeat(16);
        for path in [&own, &other] {
            fs::write(path, request(&id)).unwrap();
        }
        let signed =
            |path: &PathBuf, room| sign(home.path(), std::slice::from_ref(path), room, None);
        let first = signed(&own, Some("Hall 1")).unwrap();
        assert_eq!(signed(&own, None).unwrap(), first);
        let roster = Roster::new(home.path());
        let entry = roster.entry(id.parse().unwrap()).unwrap();
        let error = signed(&other, Some("Hall 2")).unwrap_err().to_string();
        let path = roster.path(id.parse().unwrap());
        let advice = format!("delete {} first", path.display());
        assert!(error.contains(&advice), "{error}");
        assert_eq!(roster.entry(id.parse().unwrap()).unwrap(), entry);
        fs::remove_file(path).unwrap();
        signed(&other, Some("Hall 2")).unwrap();
    }
}
