//! What leaves, and what does not; the reserve; damage found late; what recovery reads.
//!
//! Longer than most files: each case sets its own disk up and looks at what is left on it.

use super::*;
use crate::media::{LostReason, Range, WallClock};
use crate::spool::index::Place;
use crate::spool::record::Record;

fn small(disk: &TwinDisk, reserve: u64) -> (Spool, Vec<Recovered>) {
    let config = Config {
        file_bytes: 4000,
        reserve_bytes: reserve << 20,
        ..Config::new("/spool")
    };
    Spool::open(Arc::new(disk.clone()), config).unwrap()
}

fn wall(days: i64, known: bool) -> Option<WallClock> {
    Some(WallClock {
        unix_nanos: (1_800_000_000 + days * 24 * 3600) * 1_000_000_000,
        uncertainty: known.then_some(Duration::from_secs(1)),
    })
}

/// A recording with `segments` of 1000 bytes on track 1, all kept; in files of four.
fn recorded(disk: &TwinDisk, segments: u64) -> Spool {
    let (mut spool, _) = small(disk, 0);
    spool.begin(RECORDING, OPENED).unwrap();
    for sequence in 0..segments {
        append(
            &mut spool,
            chunk(key(1, sequence), 0, &[sequence as u8; 1000]),
        );
        append(&mut spool, Segmented::Seal(key(1, sequence)));
        sync(&mut spool, LATER * (sequence + 1));
    }
    spool
}

fn released(spool: &mut Spool, wall: Option<WallClock>) -> u64 {
    let released = spool.release(wall);
    released.iter().map(|released| released.bytes).sum()
}

#[test]
fn invariant_5_an_unknown_clock_lets_nothing_go_and_a_known_one_after_seven_days() {
    let disk = TwinDisk::default();
    let mut spool = recorded(&disk, 20);
    let twelve = Sequences::below(12);
    assert_eq!(
        released(&mut spool, wall(0, true)),
        0,
        "nothing is acknowledged"
    );
    spool.release(wall(-20_000, false));
    spool.acknowledge(RECORDING, TrackId(1), &twelve).unwrap();
    sync(&mut spool, 100 * LATER);
    // At 1970, then for a thousand days of it.
    for days in [-20_800, -19_800] {
        assert_eq!(released(&mut spool, wall(days, false)), 0);
        assert_eq!(released(&mut spool, None), 0);
    }
    // Known: the retention begins.
    assert_eq!(released(&mut spool, wall(0, true)), 0);
    sync(&mut spool, 101 * LATER);
    assert_eq!(released(&mut spool, wall(6, true)), 0);
    // A clock that jumps back does no harm.
    assert_eq!(released(&mut spool, wall(-100, true)), 0);
    let bytes = released(&mut spool, wall(7, true));
    assert!(bytes > 8000, "{bytes}");
    // Asked for, and only gone once its facts are kept.
    assert!(spool.read(key(1, 0), 0, 1000).is_ok());
    sync(&mut spool, 102 * LATER);
    assert!(spool.read(key(1, 0), 0, 1000).is_err());
    assert_eq!(spool.read(key(1, 12), 0, 1000).unwrap(), [12; 1000]);
    let (after, found) = small(&disk.crash(0), 0);
    let state = after.state(RECORDING).unwrap();
    assert_eq!(found[0].lost, []);
    assert_eq!(state.next_sequence(TrackId(1)), 20);
    assert_eq!(state.totals(), spool.state(RECORDING).unwrap().totals());
    assert_eq!(state.totals()[0].bytes, 20_000);
}

#[test]
fn invariant_5_what_is_not_acknowledged_stays_whatever_the_level() {
    let disk = TwinDisk::default();
    let mut spool = recorded(&disk, 20);
    disk.set_room(Some(0));
    let before = disk.files();
    assert_eq!(spool.room().unwrap().level, Level::Reserve);
    assert_eq!(released(&mut spool, wall(1000, true)), 0);
    // Nor what was acknowledged without ever having left.
    let mut never = Sequences::default();
    never.insert_range(Range {
        first: 20,
        last: 40,
    });
    spool.acknowledge(RECORDING, TrackId(1), &never).unwrap();
    assert_eq!(spool.stats().impossible_acknowledgements, 1);
    assert_eq!(
        spool.state(RECORDING).unwrap().next_sequence(TrackId(1)),
        20
    );
    assert_eq!(released(&mut spool, wall(2000, true)), 0);
    assert_eq!(disk.files(), before);
}

#[test]
fn invariant_5_a_new_recording_is_refused_without_room_and_a_running_one_is_not() {
    let disk = TwinDisk::default();
    let mut spool = recorded(&disk, 2);
    spool.set_rate(1_000_000);
    disk.set_room(Some(500_000_000));
    let new = RecordingId([9; 16]);
    let refused = spool.begin(new, OPENED).unwrap_err();
    assert!(
        matches!(refused, Error::NoRoom { minutes: 8, .. }),
        "{refused}"
    );
    assert!(spool.state(new).is_none());
    spool.begin(RECORDING, OPENED).unwrap();
    disk.set_room(Some(2_000_000_000));
    spool.begin(new, OPENED).unwrap();
}

#[test]
fn invariant_6_the_reserve_takes_facts_when_nothing_else_fits() {
    let disk = TwinDisk::default();
    let (mut spool, _) = small(&disk, 2);
    spool.begin(RECORDING, OPENED).unwrap();
    append(&mut spool, chunk(key(1, 0), 0, b"kept"));
    sync(&mut spool, 0);
    disk.set_room(Some(0));
    let full = spool
        .append(RECORDING, &chunk(key(1, 0), 1, b"no"))
        .unwrap_err();
    assert!(matches!(full, Error::NoSpace { .. }), "{full}");
    // The segment is sealed where it is, what is missing is LOST, and that is kept.
    append(&mut spool, Segmented::Seal(key(1, 0)));
    let range = Range { first: 1, last: 1 };
    spool
        .lose(RECORDING, TrackId(1), range, LostReason::NoSpace)
        .unwrap();
    append(&mut spool, chunk(key(0, 0), 0, b"a fact"));
    append(&mut spool, Segmented::Seal(key(0, 0)));
    let notices = sync(&mut spool, LATER);
    assert!(notices.contains(&Notice::Lost {
        recording: RECORDING,
        track: TrackId(1),
        range,
        reason: LostReason::NoSpace,
    }));
    spool
        .acknowledge(RECORDING, TrackId(1), &Sequences::below(1))
        .unwrap();
    let Segmented::Chunk(last) = chunk(key(0, 1), 0, b"the end") else {
        unreachable!()
    };
    spool.end(RECORDING, &last).unwrap();
    sync(&mut spool, 2 * LATER);
    sync(&mut spool, 3 * LATER);
    let (after, found) = small(&disk.crash(0), 2);
    let state = after.state(RECORDING).unwrap();
    assert!(state.ended && found[0].damaged_bytes == 0 && found[0].torn_bytes == 0);
    assert_eq!(found[0].lost, [(TrackId(1), 1, 1)]);
    assert_eq!(after.read(key(1, 0), 0, 4).unwrap(), b"kept");
    assert_eq!(after.read(key(0, 0), 0, 6).unwrap(), b"a fact");
    // Space again: recording goes on elsewhere, and the reserve is whole again.
    disk.set_room(Some(1 << 30));
    (0..2).for_each(|_| drop(spool.release(None)));
    let reserve = disk
        .files()
        .iter()
        .filter(|path| path.to_string_lossy().contains("reserve-"))
        .count();
    assert_eq!(reserve, 2);
}

#[test]
fn invariant_6_the_quota_counts_as_a_full_disk() {
    let disk = TwinDisk::default();
    let config = Config {
        quota_bytes: 3000,
        reserve_bytes: 1 << 20,
        thresholds: Thresholds {
            floor_bytes: 0,
            ..Thresholds::default()
        },
        ..Config::new("/spool")
    };
    let (mut spool, _) = Spool::open(Arc::new(disk.clone()), config).unwrap();
    spool.begin(RECORDING, OPENED).unwrap();
    append(&mut spool, chunk(key(1, 0), 0, &[1; 2000]));
    let full = spool
        .append(RECORDING, &chunk(key(1, 0), 1, &[1; 2000]))
        .unwrap_err();
    assert!(matches!(full, Error::NoSpace { .. }), "{full}");
    append(&mut spool, Segmented::Seal(key(1, 0)));
    let room = spool.room().unwrap();
    assert!(room.capacity == 3000 && room.free < 1000, "{room:?}");
}

#[test]
fn invariant_5_what_the_receiver_forgot_is_given_again_or_lost() {
    let disk = TwinDisk::default();
    let mut spool = recorded(&disk, 12);
    spool.release(wall(0, true));
    spool
        .acknowledge(RECORDING, TrackId(1), &Sequences::below(10))
        .unwrap();
    sync(&mut spool, 100 * LATER);
    assert!(released(&mut spool, wall(8, true)) > 0);
    sync(&mut spool, 101 * LATER);
    let freed = (0..10)
        .take_while(|&n| spool.read(key(1, n), 0, 1000).is_err())
        .count() as u64;
    assert!((1..10).contains(&freed));
    let mut held = Sequences::below(1);
    held.insert(9);
    let forgotten = spool.forgot(RECORDING, TrackId(1), &held).unwrap();
    let again: Vec<u64> = forgotten.again.iter().map(|key| key.sequence).collect();
    assert_eq!(again, (freed..9).collect::<Vec<_>>());
    assert_eq!(
        forgotten.lost,
        [Range {
            first: 1,
            last: freed - 1
        }]
    );
    sync(&mut spool, 102 * LATER);
    let (after, found) = small(&disk.crash(0), 0);
    assert_eq!(found[0].lost, [(TrackId(1), 1, freed - 1)]);
    let waiting: Vec<u64> = after.state(RECORDING).unwrap().tracks[&TrackId(1)]
        .waiting()
        .map(|(sequence, _)| sequence)
        .collect();
    assert_eq!(waiting, (freed..9).chain([10, 11]).collect::<Vec<_>>());
}

#[test]
fn invariant_4_damage_in_a_recording_that_has_ended_is_lost_and_not_sealed_anew() {
    let disk = TwinDisk::default();
    let mut spool = recorded(&disk, 3);
    let totals = spool.state(RECORDING).unwrap().totals();
    let Segmented::Chunk(last) = chunk(key(0, 0), 0, b"the end") else {
        unreachable!()
    };
    spool.end(RECORDING, &last).unwrap();
    (100..103).for_each(|turn| drop(sync(&mut spool, turn * LATER)));
    assert_eq!(spool.state(RECORDING).unwrap().totals(), totals);
    let file = &disk.files()[0];
    disk.damage(file, |bytes| {
        let at = bytes.windows(99).position(|part| part == [1; 99]).unwrap();
        bytes[at] = 0;
        // Without its index the file is read whole.
        let length = bytes.len();
        bytes[length - 1] ^= 1;
    });
    let (after, found) = small(&disk.crash(0), 0);
    assert_eq!(
        (found[0].ended, &found[0].lost),
        (true, &vec![(TrackId(1), 1, 1)])
    );
    let state = after.state(RECORDING).unwrap();
    assert!(
        state
            .segment(TrackId(1), 1)
            .unwrap()
            .seal
            .is_some_and(|(length, _)| length == 1000)
    );
    assert!(after.read(key(1, 1), 0, 1000).is_err());
    assert_eq!(after.read(key(1, 2), 0, 1000).unwrap(), [2; 1000]);
}

#[test]
fn invariant_4_damage_behind_an_index_is_found_when_it_is_read() {
    let disk = TwinDisk::default();
    drop(recorded(&disk, 9));
    let file = &disk.files()[0];
    disk.damage(file, |bytes| {
        let at = bytes.windows(99).position(|part| part == [1; 99]).unwrap();
        bytes[at] = 0;
    });
    let (mut after, found) = small(&disk.crash(0), 0);
    assert_eq!(
        found[0].damaged_bytes, 0,
        "its index was read, and nothing else"
    );
    let damaged = after.read(key(1, 1), 0, 1000).unwrap_err();
    assert!(matches!(damaged, Error::Damaged { .. }), "{damaged}");
    let findings = after.verify(RECORDING).findings;
    assert_eq!(findings.len(), 2, "the place and the segment: {findings:?}");
    let range = Range { first: 1, last: 1 };
    after
        .lose(RECORDING, TrackId(1), range, LostReason::Damaged)
        .unwrap();
    assert_eq!(
        after.state(RECORDING).unwrap().tracks[&TrackId(1)]
            .waiting()
            .count(),
        8
    );
}

#[test]
fn invariant_4_nothing_foreign_or_unreadable_stops_the_start() {
    let disk = TwinDisk::default();
    drop(recorded(&disk, 9));
    let directory = Path::new("/spool");
    let own = directory.join(RECORDING.to_string());
    let log = own.join("00000000.log");
    disk.place(&directory.join("lost+found"), None);
    disk.place(&directory.join("notes.txt"), Some(b"not ours"));
    disk.place(
        &directory.join(RecordingId([8; 16]).to_string()),
        Some(b"a file, not a directory"),
    );
    disk.place(&own.join("99999999999999999999999.log"), Some(b"no number"));
    let foreign = crate::spool::record::file_header(RecordingId([1; 16]));
    disk.place(&own.join("00000077.log"), Some(&foreign));
    disk.place(&own.join("00000078.log"), Some(b""));
    disk.place(&own.join("00000079.log"), None);
    // Damage to the first chunk, and so none of its index counts either.
    disk.damage(&log, |bytes| bytes.truncate(bytes.len() - 1));
    disk.damage(&log, |bytes| bytes[300..310].fill(7));
    let (mut spool, found) = small(&disk, 0);
    let problems: Vec<&String> = found.iter().flat_map(|found| &found.problems).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    let of = found
        .iter()
        .find(|found| found.recording == RECORDING)
        .unwrap();
    assert!(of.damaged_bytes + of.torn_bytes > 1000, "{of:?}");
    assert!(!of.lost.is_empty());
    assert_eq!(spool.read(key(1, 8), 0, 1000).unwrap(), [8; 1000]);
    append(&mut spool, chunk(key(1, 9), 0, b"goes on"));
    let kept = Notice::Kept {
        key: key(1, 9),
        bytes: 7,
    };
    assert!(sync(&mut spool, 0).contains(&kept));
}

#[test]
fn invariant_4_a_read_only_disk_is_looked_at_and_refuses_to_record() {
    let disk = TwinDisk::default();
    drop(recorded(&disk, 5));
    disk.set_read_only(true);
    let (spool, found) = Spool::look(Arc::new(disk.clone()), "/spool").unwrap();
    assert_eq!((found.len(), spool.verify(RECORDING).segments), (1, 5));
    let (mut spool, _) = small(&disk, 0);
    let refused = spool.begin(RecordingId([9; 16]), OPENED).unwrap_err();
    assert!(matches!(refused, Error::Disk { .. }), "{refused}");
    assert_eq!(spool.read(key(1, 4), 0, 1000).unwrap(), [4; 1000]);
}

#[test]
fn a_look_writes_nothing() {
    let disk = TwinDisk::default();
    let mut spool = recorded(&disk, 5);
    append(&mut spool, chunk(key(1, 5), 0, b"cut short"));
    let after = disk.crash(1);
    let (look, _) = Spool::look(Arc::new(after.clone()), "/spool").unwrap();
    assert_eq!(after.calls(), 0);
    assert!(
        look.state(RECORDING)
            .unwrap()
            .segment(TrackId(1), 5)
            .unwrap()
            .is_whole()
    );
}

#[test]
fn invariant_4_recovery_reads_little_of_what_is_finished() {
    let disk = TwinDisk::default();
    let (mut spool, _) = open(&disk);
    let (recordings, chunks, bytes) = (200u8, 10, 50_000);
    for number in 0..recordings {
        let id = RecordingId([number; 16]);
        spool.begin(id, OPENED).unwrap();
        for sequence in 0..chunks {
            let key = SegmentKey {
                recording: id,
                ..key(1, sequence)
            };
            spool
                .append(id, &chunk(key, 0, &vec![number; bytes]))
                .unwrap();
            spool.append(id, &Segmented::Seal(key)).unwrap();
        }
        let end = SegmentKey {
            recording: id,
            ..key(0, 0)
        };
        let Segmented::Chunk(last) = chunk(end, 0, b"the end") else {
            unreachable!()
        };
        spool.end(id, &last).unwrap();
        (0..3).for_each(|turn| drop(sync(&mut spool, (u64::from(number) * 8 + turn) * LATER)));
        // Every tenth waits for a receiver.
        if number % 10 != 0 {
            for (track, below) in [(0, 1), (1, chunks)] {
                let all = Sequences::below(below);
                spool.acknowledge(id, TrackId(track), &all).unwrap();
            }
            assert!(spool.complete(id).unwrap());
            sync(&mut spool, (u64::from(number) * 8 + 4) * LATER);
        }
    }
    let after = disk.crash(1);
    let (mut spool, found) = open(&after);
    let (read, held) = (
        after.bytes_read(),
        u64::from(recordings) * chunks * bytes as u64,
    );
    println!("{held} bytes in {recordings} recordings: recovery read {read}");
    assert_eq!(found.len(), 200);
    assert!(read < held / 100, "{read} of {held} bytes were read");
    let complete = spool
        .recordings()
        .filter(|(_, state)| state.complete)
        .count();
    assert_eq!(complete, 180);
    // What waits is all there, and what is complete can be given again.
    assert_eq!(
        spool.state(RecordingId([0; 16])).unwrap().waiting_bytes(),
        500_007
    );
    let one = RecordingId([1; 16]);
    spool.load(one).unwrap();
    let key = SegmentKey {
        recording: one,
        ..key(1, 9)
    };
    assert_eq!(spool.read(key, 0, 3).unwrap(), [1; 3]);
}

#[test]
fn invariant_2_no_crash_leaves_an_end_by_halves() {
    let mut ended = 0;
    for call in 0..12 {
        let disk = TwinDisk::default();
        let mut spool = recorded(&disk, 2);
        append(&mut spool, chunk(key(1, 2), 0, &[7; 600]));
        append(&mut spool, Segmented::Seal(key(1, 2)));
        let totals = spool.state(RECORDING).unwrap().totals();
        let seeds: Vec<u64> = (0..64).collect();
        disk.cut_before(call, &seeds);
        let Segmented::Chunk(last) = chunk(key(0, 0), 0, b"the end") else {
            unreachable!()
        };
        spool.end(RECORDING, &last).unwrap();
        (100..104).for_each(|turn| drop(sync(&mut spool, turn * LATER)));
        for left in disk.left() {
            let (after, found) = small(&left, 0);
            let state = after.state(RECORDING).unwrap();
            let end = state.segment(TrackId::EVENTS, 0);
            assert_eq!(end.is_some_and(|end| end.length > 0), state.ended);
            if state.ended {
                ended += 1;
                assert_eq!((state.totals(), found[0].lost.len()), (totals.clone(), 0));
            }
        }
    }
    assert!(ended > 50, "{ended}");
}

#[test]
fn what_is_lost_stays_lost_and_its_bytes_are_not_taken_again() {
    let place = Place { file: 0, at: 0 };
    let mut state = RecordingState::default();
    let chunk = Record::Chunk {
        track: TrackId(1),
        sequence: 3,
        index: 0,
        init: None,
        bytes: b"x",
    };
    state.apply(&chunk, place);
    for (first, last, reason) in [
        (3, 3, LostReason::Damaged),
        (4, 6, LostReason::Damaged),
        (5, 5, LostReason::NoSpace),
    ] {
        let range = Range { first, last };
        let track = TrackId(1);
        state.apply(
            &Record::Lost {
                track,
                range,
                reason,
            },
            place,
        );
    }
    state.apply(&chunk, place);
    let lost: Vec<_> = state
        .lost()
        .map(|(_, range, reason)| (range.first, range.last, reason))
        .collect();
    assert_eq!(lost, [(3, 6, LostReason::Damaged)]);
    assert_eq!(
        (state.waiting_bytes(), state.next_sequence(TrackId(1))),
        (0, 7)
    );
    assert_eq!(
        state.tracks[&TrackId(1)].missing(false),
        [Range { first: 0, last: 2 }]
    );
}

const WHOLE: RecordingId = RecordingId([9; 16]);

/// A recording of `segments` that the receiver has whole, in files of four.
fn whole(spool: &mut Spool, segments: u64) {
    spool.begin(WHOLE, OPENED).unwrap();
    let of = |track, sequence| SegmentKey {
        recording: WHOLE,
        ..key(track, sequence)
    };
    for sequence in 0..segments {
        let key = of(1, sequence);
        spool.append(WHOLE, &chunk(key, 0, &[1; 1000])).unwrap();
        spool.append(WHOLE, &Segmented::Seal(key)).unwrap();
        sync(spool, 1000 * LATER);
    }
    let Segmented::Chunk(last) = chunk(of(0, 0), 0, b"the end") else {
        unreachable!()
    };
    spool.end(WHOLE, &last).unwrap();
    (0..3).for_each(|_| drop(sync(spool, 1000 * LATER)));
    for (track, below) in [(0, 1), (1, segments)] {
        let all = Sequences::below(below);
        spool.acknowledge(WHOLE, TrackId(track), &all).unwrap();
    }
    assert!(spool.complete(WHOLE).unwrap());
    sync(spool, 1001 * LATER);
}

#[test]
fn invariant_5_one_bad_recording_holds_no_other_back() {
    for full in [false, true] {
        let disk = TwinDisk::default();
        let (mut spool, _) = small(&disk, 0);
        spool.release(wall(0, true));
        spool.begin(RECORDING, OPENED).unwrap();
        let init = Init {
            track: TrackId(1),
            hash: Hash([1; 32]),
            bytes: b"the init".to_vec(),
        };
        append(&mut spool, Segmented::Init(init));
        for sequence in 0..20 {
            append(&mut spool, chunk(key(1, sequence), 0, &[2; 1000]));
            append(&mut spool, Segmented::Seal(key(1, sequence)));
            sync(&mut spool, LATER * (sequence + 1));
        }
        let all = Sequences::below(20);
        spool.acknowledge(RECORDING, TrackId(1), &all).unwrap();
        sync(&mut spool, 100 * LATER);
        whole(&mut spool, 4);
        let log = spool.log_path(RECORDING, 0);
        // A bad sector in an init, or no space to restate anything in.
        disk.make_unreadable(&log, 60..300);
        disk.set_room(full.then_some(0));
        let released = spool.release(wall(8, true));
        let of = |id| released.iter().find(|released| released.recording == id);
        assert!(
            of(WHOLE).is_some_and(|released| released.whole),
            "{released:?}"
        );
        assert!(spool.state(WHOLE).is_none() && spool.state(RECORDING).is_some());
        if !full {
            let parts = of(RECORDING).unwrap().bytes;
            assert!(parts > 8000, "the other files leave: {released:?}");
            sync(&mut spool, 2000 * LATER);
            assert!(disk.files().contains(&log), "its init is nowhere else");
            let (calls, read) = (disk.calls(), disk.bytes_read());
            assert_eq!(released_again(&mut spool), 0);
            assert_eq!(disk.bytes_read(), read, "a failing disk is asked once");
            assert!(
                disk.calls() - calls < 4,
                "nothing is restated over and over"
            );
        }
    }
}

fn released_again(spool: &mut Spool) -> usize {
    (0..3).map(|_| spool.release(wall(9, true)).len()).sum()
}

#[test]
fn invariant_5_an_erasure_whose_sync_fails_goes_on_where_it_was() {
    let disk = TwinDisk::default();
    let mut spool = recorded(&disk, 3);
    // The name is given, and not made durable.
    disk.fail_call(1, 5);
    assert!(spool.erase(RECORDING).is_err());
    // Whoever records goes on for a moment, or begins again.
    assert!(
        spool
            .append(RECORDING, &chunk(key(1, 3), 0, b"late"))
            .is_err()
    );
    assert!(spool.begin(RECORDING, OPENED).is_err());
    let directory = Path::new("/spool").join(RECORDING.to_string());
    assert!(!disk.files().iter().any(|path| path.starts_with(&directory)));
    // Nothing is removed before its new name is durable: a power cut brings all of it back.
    assert_eq!(small(&disk.crash(0), 0).1[0].lost, []);
    assert!(spool.erase(RECORDING).unwrap());
    for seed in 0..20 {
        let (after, _) = small(&disk.crash(seed), 0);
        assert!(after.state(RECORDING).is_none());
    }
    assert_eq!(disk.files(), [] as [&Path; 0]);
}

#[test]
fn invariant_5_what_has_the_name_of_the_gone_already_is_no_obstacle() {
    let disk = TwinDisk::default();
    let mut spool = recorded(&disk, 3);
    let earlier = Path::new("/spool").join(format!("{RECORDING}.gone"));
    disk.place(&earlier.join("00000000.log"), Some(b"of before"));
    assert!(spool.erase(RECORDING).unwrap());
    assert_eq!(disk.files(), [] as [&Path; 0]);
    assert_eq!(small(&disk.crash(0), 0).1, []);
}

#[test]
fn what_leaves_is_removed_a_few_files_at_a_time() {
    let disk = TwinDisk::default();
    let (mut spool, _) = small(&disk, 0);
    spool.release(wall(0, true));
    whole(&mut spool, 60);
    let files = disk.files().len();
    let calls = disk.calls();
    assert_eq!(spool.release(wall(8, true)).len(), 1);
    let (spent, left) = (disk.calls() - calls, disk.files().len());
    println!("{files} files: {left} after one call, which asked {spent} things of the disk");
    assert!(spent < 8 && left > 8, "{spent} calls, {left} files left");
    // A crash in between: what is left leaves later, and nothing is back.
    let after = disk.crash(0);
    let (mut again, found) = small(&after, 0);
    assert_eq!(found, []);
    for (spool, disk) in [(&mut spool, &disk), (&mut again, &after)] {
        (0..files).for_each(|_| drop(spool.release(wall(8, true))));
        assert_eq!(disk.files(), [] as [&Path; 0]);
    }
    // Without room there is no time for that.
    whole(&mut spool, 60);
    disk.set_room(Some(0));
    spool.release(wall(16, true));
    assert_eq!(disk.files(), [] as [&Path; 0]);
    // An erasure says when it is done.
    disk.set_room(None);
    whole(&mut spool, 30);
    let calls = (0..20).take_while(|_| !spool.erase(WHOLE).unwrap()).count();
    assert!((1..20).contains(&calls), "{calls}");
    assert_eq!(disk.files(), [] as [&Path; 0]);
}

#[test]
fn the_reserve_is_made_one_file_a_call_and_takes_in_what_is_there() {
    let disk = TwinDisk::default();
    let (mut spool, _) = small(&disk, 3);
    assert_eq!(spool.reserve.len(), 3);
    // Whole, too short, and missing.
    spool.reserve.clear();
    disk.damage(Path::new("/spool/reserve-1"), |bytes| bytes.truncate(9));
    disk.remove(Path::new("/spool/reserve-2")).unwrap();
    for call in 1..5 {
        spool.release(None);
        assert!(spool.reserve.len() <= call);
    }
    let mut slots = spool.reserve.clone();
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2]);
}

#[test]
fn what_waits_for_a_hanging_disk_is_bounded_by_its_bytes() {
    let disk = TwinDisk::default();
    let (mut spool, _) = open(&disk);
    spool.begin(RECORDING, OPENED).unwrap();
    let large = vec![0; 9 << 20];
    let taken = (0..20)
        .take_while(|&n| {
            spool
                .append(RECORDING, &chunk(key(1, n), 0, &large))
                .is_ok()
        })
        .count();
    assert_eq!(taken, 4);
    sync(&mut spool, 0);
    append(&mut spool, chunk(key(1, 4), 0, b"goes on"));
}

#[test]
fn invariant_5_a_recording_is_not_complete_while_anything_of_it_waits() {
    let disk = TwinDisk::default();
    let mut spool = recorded(&disk, 4);
    let (events, pictures) = (TrackId::EVENTS, TrackId(1));
    let say = |spool: &mut Spool, track, below| {
        let all = Sequences::below(below);
        spool.acknowledge(RECORDING, track, &all).unwrap();
    };
    say(&mut spool, pictures, 3);
    assert!(!spool.complete(RECORDING).unwrap(), "it has not ended");
    let Segmented::Chunk(last) = chunk(key(0, 0), 0, b"the end") else {
        unreachable!()
    };
    spool.end(RECORDING, &last).unwrap();
    (100..103).for_each(|turn| drop(sync(&mut spool, turn * LATER)));
    say(&mut spool, events, 1);
    assert!(!spool.complete(RECORDING).unwrap(), "segment 3 waits");
    let range = Range { first: 5, last: 5 };
    let lose = |spool: &mut Spool, range| {
        let reason = LostReason::NoSpace;
        spool.lose(RECORDING, pictures, range, reason).unwrap();
    };
    lose(&mut spool, range);
    say(&mut spool, pictures, 4);
    assert!(!spool.complete(RECORDING).unwrap(), "nobody knows of 4");
    assert_eq!(spool.stats().impossible_completions, 3);
    assert!(!spool.state(RECORDING).unwrap().complete);
    lose(&mut spool, Range { first: 4, last: 4 });
    assert!(spool.complete(RECORDING).unwrap());
    sync(&mut spool, 200 * LATER);
    assert!(
        small(&disk.crash(0), 0)
            .0
            .state(RECORDING)
            .unwrap()
            .complete
    );
}

#[test]
fn invariant_4_a_file_that_cannot_be_read_now_is_no_damage() {
    let disk = TwinDisk::default();
    drop(recorded(&disk, 20));
    let logs = disk.files();
    assert!(logs.len() > 4);
    disk.make_unreadable(&logs[1], 0..u64::MAX);
    let (mut spool, found) = small(&disk, 0);
    assert!(found[0].problems[0].contains("not read"), "{found:?}");
    assert!(found[0].ended && found[0].lost.is_empty(), "{found:?}");
    // What could be read leaves for the receiver; nobody goes on with the rest.
    let state = spool.state(RECORDING).unwrap();
    let waits = state.tracks[&TrackId(1)].waiting().count();
    assert!((4..20).contains(&waits) && state.ended, "{waits}");
    assert!(
        spool
            .append(RECORDING, &chunk(key(1, 20), 0, b"x"))
            .is_err()
    );
    let all = Sequences::below(20);
    spool.acknowledge(RECORDING, TrackId(1), &all).unwrap();
    assert!(!spool.complete(RECORDING).unwrap());
    sync(&mut spool, LATER);
    let aged = |spool: &mut Spool| released(spool, wall(0, true)) + released(spool, wall(9, true));
    assert_eq!(aged(&mut spool), 0, "what it says cannot be restated whole");
    spool
        .forgot(RECORDING, TrackId(1), &Sequences::default())
        .unwrap();
    sync(&mut spool, 2 * LATER);
    // The next start finds all of it.
    disk.heal();
    let (after, found) = small(&disk, 0);
    assert_eq!((found[0].ended, &found[0].lost), (false, &Vec::new()));
    assert_eq!(found[0].problems, [] as [String; 0]);
    for n in 0..20 {
        assert_eq!(after.read(key(1, n), 0, 1000).unwrap(), [n as u8; 1000]);
    }
}

#[test]
fn invariant_4_recovery_opens_one_file_after_the_other() {
    let disk = TwinDisk::default();
    drop(recorded(&disk, 40));
    assert!(disk.files().len() > 8);
    disk.set_most_open(3);
    let (spool, found) = small(&disk, 0);
    assert_eq!((&found[0].lost, &found[0].problems), (&vec![], &vec![]));
    assert_eq!(spool.read(key(1, 39), 0, 1000).unwrap(), [39; 1000]);
}

#[test]
fn segments_given_up_one_by_one_are_one_range_on_record_and_when_told() {
    let disk = TwinDisk::default();
    let mut spool = recorded(&disk, 1);
    let lose = |spool: &mut Spool, sequence, reason| {
        let range = Range {
            first: sequence,
            last: sequence,
        };
        spool.lose(RECORDING, TrackId(1), range, reason).unwrap();
    };
    for sequence in (1..200).filter(|sequence| *sequence != 100).chain([100]) {
        lose(&mut spool, sequence, LostReason::NoSpace);
    }
    lose(&mut spool, 200, LostReason::Damaged);
    let lost = |spool: &Spool| -> Vec<_> {
        let lost = spool.state(RECORDING).unwrap().lost();
        lost.map(|(_, range, reason)| (range.first, range.last, reason))
            .collect()
    };
    let expected = [
        (1, 199, LostReason::NoSpace),
        (200, 200, LostReason::Damaged),
    ];
    assert_eq!(lost(&spool), expected);
    let told = sync(&mut spool, 100 * LATER);
    let told: u64 = told
        .iter()
        .filter(|notice| matches!(notice, Notice::Lost { .. }))
        .count() as u64;
    assert_eq!(told, 3, "up to 100, behind it, and the damaged one");
    let (after, _) = small(&disk.crash(0), 0);
    assert_eq!(lost(&after), expected);
    // What begins earlier and ends later counts for the next number, too.
    let mut state = RecordingState::default();
    for (first, last, reason) in [(5, 6, LostReason::Damaged), (0, 20, LostReason::NoSpace)] {
        let (track, range) = (TrackId(1), Range { first, last });
        let record = Record::Lost {
            track,
            range,
            reason,
        };
        state.apply(&record, Place { file: 0, at: 0 });
    }
    assert_eq!(state.next_sequence(TrackId(1)), 21);
}
