//! Log files of every release, kept as bytes: they stay readable, and what is written today is what
//! was written then.

use super::*;
use crate::spool::record::{FILE_HEADER, read_record};

/// A log file, and what it holds: ended, segments by track, acknowledged of track 1, bytes of segments.
type Golden = (
    &'static str,
    &'static [u8],
    bool,
    &'static [(u8, &'static [u64])],
    u64,
    u64,
);

const RELEASES: &[Golden] = &[
    (
        "0.1, ended",
        include_bytes!("release-0.1-ended.log"),
        true,
        &[(1, &[0, 1, 2])],
        1,
        120,
    ),
    (
        "0.1, running",
        include_bytes!("release-0.1-running.log"),
        false,
        &[(1, &[0, 1, 2])],
        1,
        120,
    ),
];

#[test]
fn the_files_of_every_release_stay_readable() {
    for (name, bytes, ended, tracks, acknowledged, length) in RELEASES {
        let recording = RecordingId([7; 16]);
        let disk = TwinDisk::default();
        let path = Path::new("/spool")
            .join(recording.to_string())
            .join("00000000.log");
        disk.place(Path::new("/spool"), None);
        disk.place(path.parent().unwrap(), None);
        disk.place(&path, Some(bytes));
        let (mut spool, found) = open(&disk);
        assert_eq!(
            (found[0].damaged_bytes, found[0].torn_bytes),
            (0, 0),
            "{name}"
        );
        assert!(
            found[0].lost.is_empty() && found[0].problems.is_empty(),
            "{name}"
        );
        spool.load(recording).unwrap();
        let state = spool.state(recording).unwrap();
        let held: Vec<(u8, Vec<u64>)> = state
            .tracks
            .iter()
            .map(|(id, track)| (id.0, track.segments.keys().copied().collect()))
            .collect();
        let told: Vec<(u8, Vec<u64>)> =
            tracks.iter().map(|(id, all)| (*id, all.to_vec())).collect();
        assert_eq!((state.ended, held), (*ended, told), "{name}");
        let known = state.tracks[&TrackId(1)].acknowledged.cumulative();
        let verified = spool.verify(recording);
        assert!(
            verified.findings.is_empty(),
            "{name}: {:?}",
            verified.findings
        );
        assert_eq!((known, verified.bytes), (*acknowledged, *length), "{name}");
        // Every record is written today as it was then.
        let mut at = FILE_HEADER;
        while at < bytes.len() {
            let (record, size) = read_record(&bytes[at..]).unwrap();
            assert_eq!(record.encode(), &bytes[at..at + size], "{name}: byte {at}");
            at += size;
        }
    }
}
