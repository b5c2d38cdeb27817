//! `hallcast spool ls | verify | export`: a spool looked at, on a box or on a card out of a dead one.
//!
//! Nothing is locked and not a byte is written into it, so that it works on a card mounted read-only
//! and beside a running box.

use super::{Error, export};
use crate::journal::say;
use crate::media::RecordingId;
use crate::spool::{LocalDisk, RecordingState, Recovered, Spool};
use clap::Subcommand;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a box keeps it.
const DEFAULT: &str = "/var/lib/hallcast/spool";

/// What to do.
#[derive(Subcommand)]
pub(super) enum What {
    /// List the recordings
    Ls {
        /// The spool, or the state directory it is in
        #[arg(default_value = DEFAULT)]
        directory: PathBuf,
    },
    /// Read every record and every segment; exit 1 and say file and place if one is damaged
    Verify {
        /// A recording's id, its directory, or a spool
        #[arg(default_value = DEFAULT)]
        what: PathBuf,
        /// The spool, where only an id is given
        #[arg(long, default_value = DEFAULT)]
        directory: PathBuf,
    },
    /// Write a recording as one MP4 file that any player opens
    Export {
        /// The recording's id, or its directory
        recording: PathBuf,
        /// The file to write; it must not exist
        #[arg(short, long)]
        output: PathBuf,
        /// The spool, where only an id is given
        #[arg(long, default_value = DEFAULT)]
        directory: PathBuf,
    },
}

/// Does it.
pub(super) fn run(what: &What) -> Result<(), Error> {
    match what {
        What::Ls { directory } => ls(directory),
        What::Verify { what, directory } => {
            let (directory, recording) = which(what, directory);
            verify(&directory, recording)
        }
        What::Export {
            recording,
            output,
            directory,
        } => {
            let (directory, id) = which(recording, directory);
            let id = id.ok_or_else(|| {
                let name = recording.display();
                Error::Refused(format!(
                    "`{name}` names no recording: give its id (32 hexadecimal digits) or its directory; `hallcast spool ls` lists them"
                ))
            })?;
            let (spool, found) = look(&directory)?;
            known(&spool, &directory, id)?;
            warn(&found, Some(id))?;
            export::write(&spool, id, output)
        }
    }
}

/// The spool meant, and the recording, if one was named.
fn which(what: &Path, directory: &Path) -> (PathBuf, Option<RecordingId>) {
    let name = what.file_name().and_then(|name| name.to_str());
    match name.and_then(|name| name.parse().ok()) {
        None => (what.to_owned(), None),
        id => match what.parent().filter(|up| !up.as_os_str().is_empty()) {
            Some(up) => (up.to_owned(), id),
            None => (directory.to_owned(), id),
        },
    }
}

fn look(directory: &Path) -> Result<(Spool, Vec<Recovered>), Error> {
    let inner = directory.join("spool");
    let directory = if inner.is_dir() { &inner } else { directory };
    if !directory.is_dir() {
        return Err(Error::Refused(format!(
            "{}: no such directory; give the `spool` of a box's state directory",
            directory.display()
        )));
    }
    let (spool, found) = Spool::look(Arc::new(LocalDisk), directory)?;
    if found.is_empty() {
        return Err(Error::Refused(format!(
            "{}: holds no recording; give the `spool` of a box's state directory",
            directory.display()
        )));
    }
    Ok((spool, found))
}

/// Fails with what there is instead, unless `id` is there.
fn known(spool: &Spool, directory: &Path, id: RecordingId) -> Result<(), Error> {
    if spool.state(id).is_some() {
        return Ok(());
    }
    let there: Vec<String> = spool.recordings().map(|(id, _)| id.to_string()).collect();
    Err(Error::Refused(format!(
        "recording {id}: not in {}; there {}: {}",
        directory.display(),
        if there.len() == 1 { "is" } else { "are" },
        there.join(", ")
    )))
}

fn ls(directory: &Path) -> Result<(), Error> {
    let (spool, found) = look(directory)?;
    say(format_args!(
        "{:<32}  {:<16}  {:<8}  {:>9}  {:>8}  not sent\n",
        "recording", "begun (UTC)", "state", "MB", "segments"
    ))?;
    for (id, state) in spool.recordings() {
        let media = state.tracks.values().flat_map(|track| &track.segments);
        let (mut bytes, mut segments) = (0, 0);
        for (_, segment) in media {
            bytes += segment.length;
            segments += 1;
        }
        let begun = state.opened.map_or(0, |opened| opened.wall_nanos);
        say(format_args!(
            "{id}  {:<16}  {:<8}  {:>9.1}  {segments:>8}  {:.1} MB\n",
            minutes(begun),
            word(state),
            bytes as f64 / 1e6,
            state.waiting_bytes() as f64 / 1e6
        ))?;
    }
    warn(&found, None)?;
    Ok(())
}

fn word(state: &RecordingState) -> &'static str {
    match (state.complete, state.ended) {
        (true, _) => "complete",
        (false, true) => "ended",
        (false, false) => "open",
    }
}

/// Says what recovery found wrong.
fn warn(found: &[Recovered], only: Option<RecordingId>) -> Result<(), Error> {
    for found in found {
        if only.is_some_and(|id| id != found.recording) {
            continue;
        }
        for problem in &found.problems {
            say(format_args!("{}: {problem}\n", found.recording))?;
        }
        if found.damaged_bytes > 0 {
            say(format_args!(
                "{}: {} bytes are damaged; `hallcast spool verify` says where\n",
                found.recording, found.damaged_bytes
            ))?;
        }
        for (track, first, last) in &found.lost {
            say(format_args!(
                "{}: segments {first} to {last} of track {track} are lost\n",
                found.recording
            ))?;
        }
    }
    Ok(())
}

fn verify(directory: &Path, only: Option<RecordingId>) -> Result<(), Error> {
    let (spool, found) = look(directory)?;
    if let Some(id) = only {
        known(&spool, directory, id)?;
    }
    let mut wrong = 0;
    for found in &found {
        let id = found.recording;
        if only.is_some_and(|only| only != id) {
            continue;
        }
        let verified = spool.verify(id);
        for finding in &verified.findings {
            say(format_args!("{finding}\n"))?;
        }
        for problem in &found.problems {
            say(format_args!("{problem}\n"))?;
        }
        wrong += verified.findings.len() + found.problems.len();
        say(format_args!(
            "{id}: {} files, {} records, {} segments ({} bytes) are as they were written{}\n",
            verified.files,
            verified.records,
            verified.segments,
            verified.bytes,
            if verified.torn_bytes > 0 {
                format!(
                    "; a power cut tore {} bytes behind them",
                    verified.torn_bytes
                )
            } else {
                String::new()
            }
        ))?;
    }
    match wrong {
        0 => Ok(()),
        1 => Err(Error::Refused("1 place is damaged".into())),
        _ => Err(Error::Refused(format!("{wrong} places are damaged"))),
    }
}

/// UTC to the minute, as `2026-11-22 16:45`; a clock that was not set is not told.
fn minutes(unix_nanos: i64) -> String {
    let minutes = unix_nanos.div_euclid(60_000_000_000);
    if minutes < 365 * 24 * 60 {
        return "unknown".into();
    }
    let (days, minute) = (minutes / 1440, minutes % 1440);
    // Days since 1970 to the civil calendar, in years that begin in March.
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!(
        "{year}-{month:02}-{day:02} {:02}:{:02}",
        minute / 60,
        minute % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_told_to_the_minute() {
        for (seconds, told) in [
            (0, "unknown"),
            (951_782_400, "2000-02-29 00:00"),
            (1_798_761_599, "2026-12-31 23:59"),
            (1_798_761_600, "2027-01-01 00:00"),
        ] {
            assert_eq!(minutes(seconds * 1_000_000_000), told);
        }
    }

    #[test]
    fn a_recording_is_named_by_its_id_or_its_directory() {
        let id = RecordingId([0xab; 16]);
        let name = id.to_string();
        let spool = Path::new("/s");
        assert_eq!(which(Path::new(&name), spool), ("/s".into(), Some(id)));
        let below = Path::new("/card").join(&name);
        assert_eq!(which(&below, spool), ("/card".into(), Some(id)));
        assert_eq!(which(Path::new("/card"), spool), ("/card".into(), None));
    }
}
