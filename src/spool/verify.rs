//! Every record's check and every segment's hash, read from the disk: for people who doubt it.

use super::index::RecordingState;
use super::log::Spool;
use super::scan::scan;
use crate::media::{Hash, RecordingId, SegmentKey};
use std::fmt;
use std::path::PathBuf;

/// What a recording's files turned out to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files read.
    pub files: u64,
    /// Valid records.
    pub records: u64,
    /// Segments whose bytes have the hash that their seal says.
    pub segments: u64,
    /// Bytes of these segments.
    pub bytes: u64,
    /// Bytes behind the last record of a file: what a power cut tore. Nothing of it was promised.
    pub torn_bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file or directory.
    pub path: PathBuf,
    /// Where in the file, if it is about a place.
    pub at: Option<u64>,
    /// What.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if let Some(at) = self.at {
            write!(f, "byte {at}: ")?;
        }
        f.write_str(&self.what)
    }
}

impl Spool {
    /// Reads all of a recording and says what is wrong with it; changes nothing.
    pub fn verify(&self, recording: RecordingId) -> Verified {
        let mut verified = Verified::default();
        let Some(held) = self.recordings.get(&recording) else {
            return verified;
        };
        for &number in held.files.keys() {
            let path = self.log_path(recording, number);
            let mut find = |at, what| {
                verified.findings.push(Finding {
                    path: path.clone(),
                    at,
                    what,
                });
            };
            let file = self.disk.open(&path);
            match file.and_then(|file| scan(file.as_ref(), recording, |_, _, _| {})) {
                Err(error) => find(None, format!("not read: {error}")),
                Ok(scan) => {
                    if scan.foreign {
                        find(None, "belongs to another recording".into());
                    }
                    for (at, bytes) in scan.damaged {
                        find(Some(at), format!("{bytes} bytes are damaged"));
                    }
                    verified.records += scan.records;
                    verified.torn_bytes += scan.torn;
                }
            }
            verified.files += 1;
        }
        self.verify_segments(recording, &held.state, &mut verified);
        verified
    }

    fn verify_segments(&self, recording: RecordingId, state: &RecordingState, to: &mut Verified) {
        for (&track, held) in &state.tracks {
            for (&sequence, segment) in &held.segments {
                let Some((length, hash)) = segment.seal.filter(|_| segment.is_whole()) else {
                    continue;
                };
                let key = SegmentKey {
                    recording,
                    track,
                    sequence,
                };
                let what = match self.read(key, 0, length) {
                    Ok(bytes) if Hash(*blake3::hash(&bytes).as_bytes()) == hash => {
                        to.segments += 1;
                        to.bytes += length;
                        continue;
                    }
                    Ok(_) => format!("segment {key} has another hash than its seal says"),
                    Err(error) => error.to_string(),
                };
                to.findings.push(Finding {
                    path: self.directory_of(recording),
                    at: None,
                    what,
                });
            }
        }
    }
}
