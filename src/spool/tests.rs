//! The invariants of the spool, each by its number, on the disk that forgets.

use super::twin::TwinDisk;
use super::*;
use crate::media::{
    Chunk, Hash, Init, MediaTime, Monotonic, RecordingId, SegmentKey, Segmented, Sequences, TrackId,
};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

mod crash;
mod faults;
mod golden;
mod release;

const RECORDING: RecordingId = RecordingId([5; 16]);
const OPENED: Opened = Opened {
    epoch: 1,
    span: 0,
    wall_nanos: 0,
};

fn open(disk: &TwinDisk) -> (Spool, Vec<Recovered>) {
    let config = Config {
        reserve_bytes: 0,
        ..Config::new("/spool")
    };
    Spool::open(Arc::new(disk.clone()), config).unwrap()
}

fn begun(disk: &TwinDisk) -> Spool {
    let (mut spool, _) = open(disk);
    spool.begin(RECORDING, OPENED).unwrap();
    spool
}

fn key(track: u8, sequence: u64) -> SegmentKey {
    SegmentKey {
        recording: RECORDING,
        track: TrackId(track),
        sequence,
    }
}

fn chunk(key: SegmentKey, index: u32, bytes: &[u8]) -> Segmented {
    Segmented::Chunk(Chunk {
        key,
        init: Some(Hash([1; 32])),
        index,
        start: MediaTime::ZERO,
        duration: 1,
        captured: Monotonic::default(),
        bytes: bytes.to_vec(),
    })
}

fn append(spool: &mut Spool, given: Segmented) -> Option<Notice> {
    spool.append(RECORDING, &given).unwrap()
}

fn sync(spool: &mut Spool, at: u64) -> Vec<Notice> {
    match spool.start_sync(Monotonic::from_nanos(at)) {
        Some(job) => taken(spool.synced(job.run())),
        None => Vec::new(),
    }
}

/// The notices of a sync that raised no error.
fn taken((notices, errors): (Vec<Notice>, Vec<(RecordingId, Error)>)) -> Vec<Notice> {
    assert!(errors.is_empty(), "{errors:?}");
    notices
}

const LATER: u64 = 3_600_000_000_000;

#[test]
fn invariant_1_kept_only_after_the_sync_and_sealed_only_when_all_is_kept() {
    let disk = TwinDisk::default();
    let mut spool = begun(&disk);
    let first = key(1, 0);
    let written = append(&mut spool, chunk(first, 0, b"one"));
    assert_eq!(
        written,
        Some(Notice::Written {
            key: first,
            init: Some(Hash([1; 32])),
            offset: 0,
            length: 3
        })
    );
    append(&mut spool, chunk(first, 1, b"two!"));
    let job = spool.start_sync(Monotonic::default()).unwrap();
    // Written while the sync runs: the sync says nothing of it.
    append(&mut spool, chunk(first, 2, b"three"));
    assert_eq!(append(&mut spool, Segmented::Seal(first)), None);
    assert_eq!(
        taken(spool.synced(job.run())),
        [
            Notice::Kept {
                key: first,
                bytes: 3
            },
            Notice::Kept {
                key: first,
                bytes: 7
            }
        ]
    );
    let hash = Hash(*blake3::hash(b"onetwo!three").as_bytes());
    assert_eq!(
        sync(&mut spool, LATER),
        [
            Notice::Kept {
                key: first,
                bytes: 12
            },
            Notice::Sealed {
                key: first,
                length: 12,
                hash
            }
        ]
    );
    assert_eq!(spool.read(first, 2, 6).unwrap(), b"etwo!t");
    assert!(spool.read(first, 2, 11).is_err());
}

#[test]
fn invariant_1_a_segment_cut_short_is_sealed_at_its_last_kept_chunk() {
    let disk = TwinDisk::default();
    let mut spool = begun(&disk);
    append(&mut spool, chunk(key(1, 0), 0, b"kept"));
    sync(&mut spool, 0);
    append(&mut spool, chunk(key(1, 0), 1, b"gone"));
    for torn in [0, 1, 50, 1000] {
        let after = disk.cut_power(torn);
        let (mut spool, recovered) = open(&after);
        assert!(
            !recovered[0].ended && recovered[0].lost.is_empty() && recovered[0].damaged_bytes == 0
        );
        let whole: &[u8] = if torn == 1000 { b"keptgone" } else { b"kept" };
        let sealed = sync(&mut spool, 0);
        let hash = Hash(*blake3::hash(whole).as_bytes());
        assert_eq!(
            sealed,
            [Notice::Sealed {
                key: key(1, 0),
                length: whole.len() as u64,
                hash
            }]
        );
        assert_eq!(spool.state(RECORDING).unwrap().next_sequence(TrackId(1)), 1);
    }
}

#[test]
fn invariant_2_sync_is_driven_by_time_and_the_first_chunk_does_not_wait() {
    let disk = TwinDisk::default();
    let mut spool = begun(&disk);
    let start = Monotonic::from_nanos(7);
    append(&mut spool, chunk(key(1, 0), 0, b"a"));
    let job = spool
        .start_sync(start)
        .expect("the first chunk is synced at once");
    assert!(spool.start_sync(start).is_none(), "one sync at a time");
    taken(spool.synced(job.run()));
    assert_eq!(spool.sync_at(), None, "nothing waits");
    append(&mut spool, chunk(key(1, 0), 1, b"a still slide is a byte"));
    let due = start.plus(Duration::from_millis(500));
    assert_eq!(spool.sync_at(), Some(due));
    assert!(
        spool
            .start_sync(due.minus(Duration::from_nanos(1)))
            .is_none()
    );
    assert!(spool.start_sync(due).is_some());
}

#[test]
fn invariant_2_a_new_file_is_named_durably_before_its_first_chunk_counts() {
    let disk = TwinDisk::default();
    let config = Config {
        file_bytes: 300,
        ..Config::new("/spool")
    };
    let (mut spool, _) = Spool::open(Arc::new(disk.clone()), config).unwrap();
    spool.begin(RECORDING, OPENED).unwrap();
    for index in 0..20 {
        append(&mut spool, chunk(key(1, 0), index, &[index as u8; 40]));
        if index % 3 == 0 {
            let kept = sync(&mut spool, LATER * u64::from(index + 1));
            assert!(!kept.is_empty());
            let (after, _) = open(&disk.cut_power(0));
            assert_eq!(
                after
                    .read(key(1, 0), 0, 40 * u64::from(index + 1))
                    .unwrap()
                    .len(),
                40 * (index as usize + 1)
            );
        }
    }
}

#[test]
fn invariant_3_a_failed_sync_costs_the_file_and_no_chunk() {
    let disk = TwinDisk::default();
    let mut spool = begun(&disk);
    append(&mut spool, chunk(key(1, 0), 0, b"one"));
    sync(&mut spool, 0);
    append(&mut spool, chunk(key(1, 0), 1, b"two"));
    disk.fail_syncs(1);
    assert_eq!(sync(&mut spool, LATER), []);
    assert_eq!(spool.stats().sync_failures, 1);
    append(&mut spool, chunk(key(1, 0), 2, b"three"));
    let kept = sync(&mut spool, 2 * LATER);
    assert_eq!(
        kept,
        [
            Notice::Kept {
                key: key(1, 0),
                bytes: 6
            },
            Notice::Kept {
                key: key(1, 0),
                bytes: 11
            }
        ]
    );
    let (after, _) = open(&disk.cut_power(0));
    assert_eq!(after.read(key(1, 0), 0, 11).unwrap(), b"onetwothree");
}

#[test]
fn invariant_4_recovery_goes_on_behind_damage_and_says_what_is_lost() {
    let disk = TwinDisk::default();
    let mut spool = begun(&disk);
    for sequence in 0..3 {
        append(
            &mut spool,
            chunk(
                key(1, sequence),
                0,
                format!("segment {sequence}").as_bytes(),
            ),
        );
        append(&mut spool, Segmented::Seal(key(1, sequence)));
    }
    sync(&mut spool, 0);
    let path = Path::new("/spool")
        .join(RECORDING.to_string())
        .join("00000000.log");
    disk.damage(&path, |bytes| {
        let at = bytes
            .windows(9)
            .position(|bytes| bytes == b"segment 1")
            .unwrap();
        bytes[at] ^= 1;
    });
    let before = disk.cut_power(0);
    let (mut after, recovered) = open(&before);
    assert_eq!(recovered[0].lost, [(TrackId(1), 1, 1)]);
    assert!(recovered[0].damaged_bytes > 9 && recovered[0].torn_bytes == 0);
    assert_eq!(after.read(key(1, 2), 0, 9).unwrap(), b"segment 2");
    assert!(after.read(key(1, 1), 0, 9).is_err());
    // Never appends to an old file.
    after
        .begin(
            RECORDING,
            Opened {
                epoch: 2,
                span: 1,
                wall_nanos: 0,
            },
        )
        .unwrap();
    append(&mut after, chunk(key(1, 3), 0, b"new"));
    sync(&mut after, 0);
    assert_eq!(
        before.list(path.parent().unwrap()).unwrap(),
        ["00000000.log", "00000001.log"]
    );
}

#[test]
fn invariant_4_what_is_recovered_is_synced_before_it_counts() {
    let disk = TwinDisk::default();
    let mut spool = begun(&disk);
    append(&mut spool, chunk(key(1, 0), 0, b"one"));
    append(&mut spool, Segmented::Seal(key(1, 0)));
    // The process dies: what it wrote is in the page cache, and nothing of it is synced.
    drop(spool);
    let (after, _) = open(&disk);
    assert_eq!(after.read(key(1, 0), 0, 3).unwrap(), b"one");
    // The new process may have told others of it: now it survives a power cut.
    let (later, _) = open(&disk.cut_power(0));
    assert_eq!(later.read(key(1, 0), 0, 3).unwrap(), b"one");
}

#[test]
fn invariant_4_damage_to_the_seal_of_what_is_acknowledged_costs_nothing() {
    let disk = TwinDisk::default();
    let mut spool = begun(&disk);
    for sequence in 0..2 {
        append(&mut spool, chunk(key(1, sequence), 0, b"one"));
        append(&mut spool, Segmented::Seal(key(1, sequence)));
    }
    let first = Sequences::below(1);
    sync(&mut spool, 0);
    spool.acknowledge(RECORDING, TrackId(1), &first).unwrap();
    sync(&mut spool, LATER);
    let directory = Path::new("/spool").join(RECORDING.to_string());
    disk.damage(&directory.join("00000000.log"), |bytes| {
        // Records: opened, chunk, seal.
        let records = bytes.windows(4).enumerate();
        let mut starts = records.filter(|(_, four)| four == super::record::MAGIC);
        let (seal, _) = starts.nth(2).unwrap();
        bytes[seal] ^= 1;
    });
    let (after, recovered) = open(&disk.cut_power(0));
    assert!(recovered[0].damaged_bytes > 0 && recovered[0].lost.is_empty());
    assert_eq!(after.read(key(1, 1), 0, 3).unwrap(), b"one");
}

#[test]
fn invariant_5_an_acknowledgement_counts_once_it_is_recorded() {
    let disk = TwinDisk::default();
    let mut spool = begun(&disk);
    append(&mut spool, chunk(key(1, 0), 0, b"one"));
    append(&mut spool, Segmented::Seal(key(1, 0)));
    sync(&mut spool, 0);
    assert_eq!(spool.state(RECORDING).unwrap().waiting_bytes(), 3);
    spool
        .acknowledge(RECORDING, TrackId(1), &Sequences::below(1))
        .unwrap();
    assert_eq!(spool.state(RECORDING).unwrap().waiting_bytes(), 0);
    // Not synced: after a power cut it has to be acknowledged again.
    let (forgot, _) = open(&disk.cut_power(0));
    assert_eq!(forgot.state(RECORDING).unwrap().waiting_bytes(), 3);
    sync(&mut spool, LATER);
    let (knows, _) = open(&disk.cut_power(0));
    assert_eq!(knows.state(RECORDING).unwrap().waiting_bytes(), 0);
}

#[test]
fn a_full_disk_is_named_and_what_follows_is_written_over_the_torn_record() {
    let disk = TwinDisk::default();
    let mut spool = begun(&disk);
    append(&mut spool, chunk(key(1, 0), 0, b"one"));
    disk.set_room(Some(10));
    let error = spool
        .append(RECORDING, &chunk(key(1, 0), 1, b"two"))
        .unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    disk.set_room(None);
    append(&mut spool, chunk(key(1, 0), 1, b"two"));
    append(&mut spool, Segmented::Seal(key(1, 0)));
    sync(&mut spool, 0);
    let (after, recovered) = open(&disk.cut_power(0));
    assert_eq!(after.read(key(1, 0), 0, 6).unwrap(), b"onetwo");
    assert_eq!(
        (recovered[0].damaged_bytes, recovered[0].torn_bytes),
        (0, 0)
    );
}

#[test]
fn an_init_and_the_totals_read_back() {
    let disk = TwinDisk::default();
    let mut spool = begun(&disk);
    let init = Init {
        track: TrackId(1),
        hash: Hash([1; 32]),
        bytes: b"moov".to_vec(),
    };
    append(&mut spool, Segmented::Init(init.clone()));
    append(&mut spool, chunk(key(1, 0), 0, b"one"));
    append(&mut spool, Segmented::Seal(key(1, 0)));
    append(&mut spool, chunk(key(0, 0), 0, b"fact"));
    sync(&mut spool, 0);
    let (after, _) = open(&disk.cut_power(0));
    assert_eq!(after.read_init(&init.hash).unwrap(), Some(init.bytes));
    let totals = after.state(RECORDING).unwrap().totals();
    let root = Hash(*blake3::hash(blake3::hash(b"one").as_bytes()).as_bytes());
    assert_eq!(
        totals,
        [crate::media::TrackTotal {
            track: TrackId(1),
            segments: 1,
            bytes: 3,
            root
        }]
    );
}

proptest! {
    /// Whatever is cut, torn or failing: what a notice said to be kept is there afterwards, byte for byte.
    #[test]
    fn what_was_said_to_be_kept_survives(
        steps in prop::collection::vec((0u8..4, 1u8..3, 0usize..90), 1..60),
        torn in 0usize..400,
        file_bytes in 200u64..2000,
    ) {
        let disk = TwinDisk::default();
        let config = Config { file_bytes, reserve_bytes: 0, ..Config::new("/spool") };
        let (mut spool, _) = Spool::open(Arc::new(disk.clone()), config).unwrap();
        spool.begin(RECORDING, OPENED).unwrap();
        let mut now = 0;
        let mut tracks = [(0u64, 0u32, Vec::new()), (0, 0, Vec::new())];
        let mut kept: std::collections::BTreeMap<SegmentKey, Vec<u8>> = Default::default();
        let mut written: std::collections::BTreeMap<SegmentKey, Vec<u8>> = Default::default();
        for (step, track, size) in steps {
            let (sequence, index, bytes) = &mut tracks[track as usize - 1];
            let at = key(track, *sequence);
            match step {
                0 | 1 => {
                    let body = vec![*index as u8 ^ size as u8; size + 1];
                    bytes.extend(&body);
                    append(&mut spool, chunk(at, *index, &body));
                    written.insert(at, bytes.clone());
                    *index += 1;
                }
                2 if *index > 0 => {
                    append(&mut spool, Segmented::Seal(at));
                    (*sequence, *index) = (*sequence + 1, 0);
                    bytes.clear();
                }
                _ => {
                    now += LATER;
                    if size % 5 == 0 {
                        disk.fail_syncs(1);
                    }
                    for notice in sync(&mut spool, now) {
                        if let Notice::Kept { key, bytes } = notice {
                            kept.insert(key, written[&key][..bytes as usize].to_vec());
                        }
                    }
                    disk.fail_syncs(0);
                }
            }
        }
        let (after, recovered) = open(&disk.cut_power(torn));
        prop_assert!(recovered.iter().all(|found| found.damaged_bytes == 0));
        for (key, bytes) in kept {
            prop_assert_eq!(after.read(key, 0, bytes.len() as u64).unwrap(), bytes);
        }
    }
}
