//! Disks that fail in part: copies that fail too, files of which one is left, a bad sector, no room for
//! what is LOST, and a page cache that holds what the disk never took.

use super::*;
use crate::media::{LostReason, Range};

const EIO: i32 = 5;

fn small(disk: &TwinDisk) -> (Spool, Vec<Recovered>) {
    let config = Config {
        file_bytes: 4000,
        reserve_bytes: 0,
        ..Config::new("/spool")
    };
    Spool::open(Arc::new(disk.clone()), config).unwrap()
}

fn log(number: u64) -> std::path::PathBuf {
    let directory = Path::new("/spool").join(RECORDING.to_string());
    directory.join(format!("{number:08}.log"))
}

/// Segment `sequence` as two chunks of 500 bytes, kept.
fn segment(spool: &mut Spool, sequence: u64) {
    for index in 0..2 {
        append(
            spool,
            chunk(key(1, sequence), index, &[sequence as u8; 500]),
        );
    }
    append(spool, Segmented::Seal(key(1, sequence)));
    sync(spool, LATER * (sequence + 1));
}

fn recorded(disk: &TwinDisk, segments: u64) -> Spool {
    let (mut spool, _) = small(disk);
    spool.begin(RECORDING, OPENED).unwrap();
    (0..segments).for_each(|sequence| segment(&mut spool, sequence));
    spool
}

fn lost(spool: &Spool) -> Vec<(u64, u64, LostReason)> {
    let lost = spool.state(RECORDING).unwrap().lost();
    lost.map(|(_, range, reason)| (range.first, range.last, reason))
        .collect()
}

/// What waits for the receiver with its seal kept: what is uploaded.
fn leaves(spool: &Spool) -> Vec<u64> {
    let Some(track) = spool.state(RECORDING).unwrap().tracks.get(&TrackId(1)) else {
        return Vec::new();
    };
    let whole = track
        .waiting()
        .filter(|(_, segment)| segment.is_whole() && segment.seal_kept);
    whole.map(|(sequence, _)| sequence).collect()
}

#[test]
fn invariant_4_what_could_not_be_copied_is_tried_again_in_the_same_run() {
    let disk = TwinDisk::default();
    let mut spool = recorded(&disk, 6);
    // Not synced when the process died.
    append(&mut spool, chunk(key(1, 6), 0, b"in the cache"));
    append(&mut spool, Segmented::Seal(key(1, 6)));
    drop(spool);
    let files = disk.files();
    // No sync of what is there returns well, and none of a copy.
    disk.fail_syncs(files.len() as u32 + 5);
    let (mut spool, found) = small(&disk);
    assert_eq!(disk.files(), files, "no part of a copy is left");
    assert_eq!((found[0].ended, &found[0].lost), (true, &Vec::new()));
    assert!(found[0].problems[1].contains("a later try"), "{found:?}");
    // Nothing of it is promised, and nobody goes on with it.
    assert_eq!((leaves(&spool), sync(&mut spool, 0)), (vec![], vec![]));
    let next = chunk(key(1, 7), 0, b"x");
    assert!(spool.append(RECORDING, &next).is_err());
    // A second failure is waited for longer.
    for (calls, copies_fail) in [(30, true), (60, false)] {
        if copies_fail {
            disk.fail_syncs(5);
        }
        for call in 0..calls {
            assert_eq!(spool.try_again(), [], "call {call}");
        }
        let again = spool.try_again();
        assert_eq!(again.is_empty(), copies_fail, "{again:?}");
    }
    // All that was ever kept.
    assert_eq!(leaves(&spool), (0..6).collect::<Vec<_>>());
    let (after, found) = small(&disk.crash(0));
    assert_eq!((found[0].ended, &found[0].lost), (false, &Vec::new()));
    assert_eq!(after.read(key(1, 5), 0, 1000).unwrap(), [5; 1000]);
    assert_eq!(spool.try_again(), [], "there is nothing left to do");
}

#[test]
fn invariant_4_a_cut_while_copying_takes_back_nothing_that_was_said_last() {
    // Acknowledged, and then the receiver forgot it: a part of a copy must not say the first alone.
    let before = |disk: &TwinDisk| {
        let mut spool = recorded(disk, 9);
        let all = Sequences::below(9);
        spool.acknowledge(RECORDING, TrackId(1), &all).unwrap();
        (9..12).for_each(|sequence| segment(&mut spool, sequence));
        let none = Sequences::default();
        spool.forgot(RECORDING, TrackId(1), &none).unwrap();
        sync(&mut spool, 100 * LATER);
    };
    let mut disks = 0;
    for call in 0..60 {
        let disk = TwinDisk::default();
        before(&disk);
        let seeds: Vec<u64> = (0..8).collect();
        disk.cut_before(call, &seeds);
        disk.fail_syncs(disk.files().len() as u32 + 1);
        small(&disk);
        for left in disk.left() {
            disks += 1;
            let (after, found) = small(&left);
            let track = &after.state(RECORDING).unwrap().tracks[&TrackId(1)];
            assert_eq!(track.acknowledged, Sequences::default(), "call {call}");
            assert_eq!((leaves(&after).len(), &found[0].lost), (12, &vec![]));
        }
    }
    assert!(disks > 100, "{disks} disks");
}

#[test]
fn invariant_4_what_only_a_page_cache_holds_does_not_count() {
    let disk = TwinDisk::default();
    let mut spool = recorded(&disk, 1);
    append(&mut spool, chunk(key(1, 1), 0, b"the disk never took it"));
    append(&mut spool, Segmented::Seal(key(1, 1)));
    // The sync fails, nothing can be written again, and the process dies: the pages count as clean.
    disk.fail_syncs(1);
    disk.set_room(Some(0));
    assert_eq!(sync(&mut spool, LATER * 10), []);
    drop(spool);
    disk.set_room(None);
    assert_eq!(
        disk.open(&log(0)).unwrap().length().unwrap(),
        disk.open_uncached(&log(0)).unwrap().length().unwrap()
    );
    let (restarted, _) = small(&disk);
    assert_eq!(leaves(&restarted), [0]);
    let (after, _) = small(&disk.crash(0));
    assert_eq!(leaves(&after), [0]);
}

/// Segment 3 lies half in the first file, half in the second; then come others.
fn over_two_files(disk: &TwinDisk) -> Spool {
    let spool = recorded(disk, 12);
    let segment = spool.state(RECORDING).unwrap().segment(TrackId(1), 3);
    let files: Vec<u64> = segment.unwrap().chunks.iter().map(|c| c.0.file).collect();
    assert_eq!(files, [0, 1]);
    spool
}

/// Frees all that is acknowledged.
fn free(spool: &mut Spool, acknowledged: Range) {
    let mut all = Sequences::default();
    all.insert_range(acknowledged);
    spool.acknowledge(RECORDING, TrackId(1), &all).unwrap();
    sync(spool, 100 * LATER);
    spool.set_rate(40_000_000);
    assert_eq!(spool.release(None).len(), 1);
    spool.set_rate(0);
    sync(spool, 101 * LATER);
}

#[test]
fn invariant_5_a_segment_of_which_one_file_is_left_is_given_whole_or_not_at_all() {
    // What is acknowledged, which file of segment 3 leaves, and what is given again when the receiver
    // forgets all of it, before or after a power cut.
    for (first, last, freed, again) in [(0, 4, 0, vec![4]), (2, 9, 1, vec![2, 7, 8, 9])] {
        for cut in [false, true] {
            let disk = TwinDisk::default();
            let mut spool = over_two_files(&disk);
            let hash = |spool: &Spool| {
                let state = spool.state(RECORDING).unwrap();
                state.segment(TrackId(1), 3).unwrap().seal
            };
            let sealed = hash(&spool);
            free(&mut spool, Range { first, last });
            assert!(!disk.files().contains(&log(freed)));
            assert!(disk.files().contains(&log(1 - freed)));
            let (disk, mut spool) = match cut {
                true => {
                    // With the name of what was removed gone.
                    let disk = disk.crash(1);
                    let (spool, found) = small(&disk);
                    assert_eq!(found[0].lost, []);
                    (disk, spool)
                }
                false => (disk, spool),
            };
            assert!(!leaves(&spool).contains(&3));
            let none = Sequences::default();
            let forgotten = spool.forgot(RECORDING, TrackId(1), &none).unwrap();
            let given: Vec<u64> = forgotten.again.iter().map(|key| key.sequence).collect();
            assert_eq!(given, again, "{first} to {last}, cut: {cut}");
            sync(&mut spool, 200 * LATER);
            let (after, _) = small(&disk.crash(0));
            let why = LostReason::ReceiverForgot;
            let gone: Vec<_> = forgotten
                .lost
                .iter()
                .map(|r| (r.first, r.last, why))
                .collect();
            assert_eq!(lost(&after), gone);
            let is_gone = |n: u64| gone.iter().any(|(from, to, _)| (*from..=*to).contains(&n));
            assert!(is_gone(3), "{gone:?}");
            assert_eq!(hash(&after), sealed, "never under another hash");
            let rest: Vec<u64> = (0..12).filter(|n| !is_gone(*n)).collect();
            assert_eq!(leaves(&after), rest);
        }
    }
}

#[test]
fn invariant_4_of_a_segment_whose_beginning_is_gone_nothing_is_given() {
    let disk = TwinDisk::default();
    drop(over_two_files(&disk));
    disk.remove(&log(0)).unwrap();
    let (mut spool, found) = small(&disk);
    assert_eq!(found[0].lost, [(TrackId(1), 0, 3)]);
    assert_eq!(leaves(&spool), (4..12).collect::<Vec<_>>());
    let told = Notice::Lost {
        recording: RECORDING,
        track: TrackId(1),
        range: Range { first: 0, last: 3 },
        reason: LostReason::Damaged,
    };
    assert!(sync(&mut spool, 0).contains(&told));
    let (after, _) = small(&disk.crash(0));
    assert_eq!(lost(&after), [(0, 3, LostReason::Damaged)]);
    assert_eq!(
        after.state(RECORDING).unwrap().next_sequence(TrackId(1)),
        12
    );
}

#[test]
fn invariant_5_no_crash_leaves_what_the_receiver_forgot_without_its_reason() {
    let (mut forgot, mut not_yet) = (0, 0);
    for call in 0..8 {
        let disk = TwinDisk::default();
        let mut spool = recorded(&disk, 12);
        free(&mut spool, Range { first: 0, last: 9 });
        let seeds: Vec<u64> = (0..64).collect();
        disk.cut_before(call, &seeds);
        let mut held = Sequences::default();
        held.insert(1);
        let forgotten = spool.forgot(RECORDING, TrackId(1), &held).unwrap();
        assert_eq!(forgotten.lost.len(), 2, "around what it still holds");
        let told = sync(&mut spool, 200 * LATER);
        let told = told
            .iter()
            .filter(|told| matches!(told, Notice::Lost { .. }));
        assert_eq!(told.count(), 2);
        sync(&mut spool, 201 * LATER);
        for left in disk.left() {
            let (after, _) = small(&left);
            for (_, _, reason) in lost(&after) {
                assert_eq!(reason, LostReason::ReceiverForgot, "call {call}");
            }
            match lost(&after).len() {
                0 => not_yet += 1,
                found => forgot += u32::from(found == 2),
            }
        }
    }
    println!("{forgot} disks that know, {not_yet} that do not yet");
    assert!(forgot > 10 && not_yet > 10);
}

fn lose(spool: &mut Spool, sequence: u64) {
    let range = Range {
        first: sequence,
        last: sequence,
    };
    let reason = LostReason::NoSpace;
    spool.lose(RECORDING, TrackId(1), range, reason).unwrap();
}

#[test]
fn invariant_5_lost_is_owed_until_there_is_room_for_it() {
    for by_release in [false, true] {
        let disk = TwinDisk::default();
        let mut spool = recorded(&disk, 1);
        disk.set_room(Some(0));
        (1..5).for_each(|sequence| lose(&mut spool, sequence));
        assert_eq!(sync(&mut spool, 10 * LATER), [], "not kept, not told");
        // So it is nevertheless, and nothing else gets there first.
        let why = LostReason::NoSpace;
        assert_eq!(lost(&spool), [(1, 4, why)]);
        assert_eq!(spool.state(RECORDING).unwrap().next_sequence(TrackId(1)), 5);
        assert_eq!(spool.recordings[&RECORDING].owed.len(), 1, "one record");
        assert_eq!(lost(&small(&disk.crash(1)).0), []);
        // No more than the record needs.
        disk.set_room(Some(400));
        if by_release {
            spool.release(None);
            assert_eq!(spool.recordings[&RECORDING].owed.len(), 0);
        }
        let told: Vec<Notice> = (11..13)
            .flat_map(|at| sync(&mut spool, at * LATER))
            .collect();
        let range = Range { first: 1, last: 4 };
        assert_eq!(
            told,
            [Notice::Lost {
                recording: RECORDING,
                track: TrackId(1),
                range,
                reason: why
            }]
        );
        assert_eq!(lost(&small(&disk.crash(0)).0), [(1, 4, why)]);
        disk.set_room(None);
        segment(&mut spool, 5);
    }
}

#[test]
fn invariant_5_lost_takes_the_reserve_as_soon_as_there_is_one() {
    let disk = TwinDisk::default();
    let config = Config {
        reserve_bytes: 1 << 20,
        ..Config::new("/spool")
    };
    let (mut spool, _) = Spool::open(Arc::new(disk.clone()), config).unwrap();
    spool.begin(RECORDING, OPENED).unwrap();
    spool.reserve.clear();
    disk.set_room(Some(0));
    lose(&mut spool, 0);
    assert_eq!(spool.recordings[&RECORDING].owed.len(), 1);
    spool.reserve.push(0);
    spool.release(None);
    assert_eq!(spool.recordings[&RECORDING].owed.len(), 0);
    let told = sync(&mut spool, LATER);
    assert!(matches!(told[..], [Notice::Lost { .. }]), "{told:?}");
}

#[test]
fn invariant_5_any_number_of_segments_can_be_lost_between_two_syncs() {
    let disk = TwinDisk::default();
    let mut spool = recorded(&disk, 1);
    // None continues the one before.
    for sequence in 1..=2000 {
        let range = Range {
            first: sequence,
            last: sequence,
        };
        let reason = match sequence % 2 {
            0 => LostReason::NoSpace,
            _ => LostReason::Damaged,
        };
        spool.lose(RECORDING, TrackId(1), range, reason).unwrap();
    }
    // Recording goes on.
    append(&mut spool, chunk(key(3, 0), 0, b"sound"));
    let told = sync(&mut spool, 10 * LATER);
    assert_eq!(told.len(), 2001, "each, and the sound");
    assert_eq!(lost(&small(&disk.crash(0)).0).len(), 2000);
    // On a disk that hangs pictures are refused; what is LOST is owed, and told after the sync.
    let job = {
        append(&mut spool, chunk(key(1, 2001), 0, b"x"));
        spool.start_sync(Monotonic::from_nanos(20 * LATER)).unwrap()
    };
    let refused = (1..2000).find(|index| {
        let next = chunk(key(1, 2001), *index, b"x");
        spool.append(RECORDING, &next).is_err()
    });
    println!("refused at chunk {refused:?}");
    assert!(refused.is_some());
    (5000..5100).for_each(|sequence| lose(&mut spool, sequence));
    assert_eq!(spool.recordings[&RECORDING].owed.len(), 1);
    taken(spool.synced(job.run()));
    let told = sync(&mut spool, 21 * LATER);
    let range = Range {
        first: 5000,
        last: 5099,
    };
    assert!(
        told.iter()
            .any(|told| matches!(told, Notice::Lost { range: of, .. } if *of == range))
    );
}

#[test]
fn invariant_4_a_bad_sector_of_a_large_file_costs_what_lies_in_it_and_nothing_else() {
    const SECTOR: u64 = 4096;
    let (segments, length) = (30, 100_000);
    let mut recovered = 0;
    for bad in 0..segments {
        let disk = TwinDisk::default();
        let mut spool = begun(&disk);
        for sequence in 0..segments {
            append(&mut spool, chunk(key(1, sequence), 0, &vec![1; length]));
            append(&mut spool, Segmented::Seal(key(1, sequence)));
            sync(&mut spool, LATER * (sequence + 1));
        }
        let state = spool.state(RECORDING).unwrap();
        let at = state.segment(TrackId(1), bad).unwrap().chunks[0].0.at;
        // Its last whole sector: what is read beside it is the next record.
        let sector = (at + length as u64) / SECTOR * SECTOR - SECTOR;
        assert!(sector > at);
        drop(spool);
        disk.make_unreadable(&log(0), sector..sector + SECTOR);
        let (mut spool, found) = open(&disk);
        assert_eq!(found[0].lost, [(TrackId(1), bad, bad)]);
        assert_eq!((found[0].ended, &found[0].problems), (false, &vec![]));
        let rest: Vec<u64> = (0..segments).filter(|n| *n != bad).collect();
        assert_eq!(leaves(&spool), rest);
        for &sequence in &rest {
            let read = spool.read(key(1, sequence), 0, length as u64).unwrap();
            recovered += read.len();
        }
        // The recording goes on behind it, and what is LOST is told once that is kept.
        let opened = Opened { span: 1, ..OPENED };
        spool.begin(RECORDING, opened).unwrap();
        append(&mut spool, chunk(key(1, segments), 0, b"goes on"));
        let told = sync(&mut spool, LATER);
        let told = told
            .iter()
            .filter(|told| matches!(told, Notice::Lost { .. }));
        assert_eq!(told.count(), 1);
        let after = disk.crash(0);
        assert_eq!(lost(&open(&after).0), [(bad, bad, LostReason::Damaged)]);
    }
    println!("{segments} files with a bad sector: {recovered} bytes kept");
}

#[test]
fn invariant_4_a_bad_sector_found_when_it_is_read_is_damage_and_a_disk_that_is_away_is_none() {
    let disk = TwinDisk::default();
    drop(recorded(&disk, 9));
    let (spool, found) = small(&disk);
    assert_eq!(found[0].damaged_bytes, 0);
    disk.make_unreadable(&log(0), 600..700);
    let bad = spool.read(key(1, 0), 0, 1000).unwrap_err();
    assert!(matches!(bad, Error::Damaged { .. }), "{bad}");
    assert_eq!(spool.read(key(1, 2), 0, 1000).unwrap(), [2; 1000]);
    disk.make_unreadable(&log(0), 0..u64::MAX);
    let away = spool.read(key(1, 0), 0, 1000).unwrap_err();
    assert!(matches!(away, Error::Disk { .. }), "{away}");
    disk.heal();
    assert_eq!(spool.read(key(1, 0), 0, 1000).unwrap(), [0; 1000]);
}

#[test]
fn invariant_3_what_follows_a_failed_sync_never_counts_before_what_went_before_it() {
    // The segment's beginning is in a file whose sync fails, the rest in the next one, whose sync does not.
    for failing in 0..4 {
        let disk = TwinDisk::default();
        let (mut spool, _) = small(&disk);
        spool.begin(RECORDING, OPENED).unwrap();
        for index in 0..6 {
            append(&mut spool, chunk(key(1, 0), index, &[index as u8; 1000]));
        }
        append(&mut spool, Segmented::Seal(key(1, 0)));
        let job = spool.start_sync(Monotonic::default()).unwrap();
        disk.fail_call(failing, EIO);
        let mut told = taken(spool.synced(job.run()));
        let before = small(&disk.crash(0)).0;
        for notice in &told {
            if let Notice::Kept { key, bytes } = notice {
                assert_eq!(before.read(*key, 0, *bytes).unwrap().len() as u64, *bytes);
            }
        }
        told.extend((1..4).flat_map(|at| sync(&mut spool, at * LATER)));
        assert!(matches!(
            told.last(),
            Some(Notice::Sealed { length: 6000, .. })
        ));
        let after = small(&disk.crash(0)).0;
        assert_eq!(leaves(&after), [0], "call {failing}");
    }
}
