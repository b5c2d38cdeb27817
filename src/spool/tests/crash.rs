//! One scripted life of three recordings, cut at every call that the spool makes of the disk, and with
//! every one of these calls failing: what was promised holds afterwards.

use super::*;
use crate::media::{LostReason, Range, TrackTotal, WallClock};
use std::collections::{BTreeMap, BTreeSet};

/// Ends, is acknowledged, complete and released.
const ENDED: RecordingId = RecordingId([1; 16]);
/// Goes on; what is acknowledged of it is freed.
const RUNNING: RecordingId = RecordingId([2; 16]);
/// Is erased while it is running.
const ERASED: RecordingId = RecordingId([3; 16]);

const DAY: u64 = 24 * 3600;

/// One thing asked of the spool.
#[derive(Clone, Debug)]
enum Step {
    Begin(RecordingId),
    Init(RecordingId, u8),
    Chunk(SegmentKey, u32, usize),
    Seal(SegmentKey),
    Sync,
    Acknowledge(RecordingId, u8, u64),
    Lose(RecordingId, u8, u64),
    End(RecordingId, u64),
    Complete(RecordingId),
    /// Days since the clock was known; without one it is unknown.
    Release(Option<u64>),
    /// As the one before, unknown, but for want of space.
    ReleaseForSpace,
    Erase(RecordingId),
}

/// What was promised, and what was asked.
#[derive(Clone, Default)]
struct World {
    /// Bytes written by segment.
    written: BTreeMap<SegmentKey, Vec<u8>>,
    /// How many of them were said to be kept.
    kept: BTreeMap<SegmentKey, usize>,
    sealed: BTreeSet<SegmentKey>,
    /// Asked for, whether it was recorded or not.
    acknowledged: BTreeSet<SegmentKey>,
    lost: BTreeSet<SegmentKey>,
    said_lost: BTreeSet<SegmentKey>,
    ends: BTreeMap<RecordingId, (SegmentKey, Vec<TrackTotal>)>,
    ended: BTreeSet<RecordingId>,
    complete: BTreeSet<RecordingId>,
    erasing: BTreeSet<RecordingId>,
    erased: BTreeSet<RecordingId>,
    releasing: bool,
    now: u64,
}

fn at(recording: RecordingId, track: u8, sequence: u64) -> SegmentKey {
    SegmentKey {
        recording,
        track: TrackId(track),
        sequence,
    }
}

/// The bytes of a chunk: they name it, so that no other can stand in for it.
fn body(key: SegmentKey, index: u32, length: usize) -> Vec<u8> {
    let name = format!("{key}/{index} ");
    name.bytes().cycle().take(length.max(name.len())).collect()
}

fn chunk_of(key: SegmentKey, index: u32, length: usize) -> Chunk {
    let Segmented::Chunk(chunk) = chunk(key, index, &body(key, index, length)) else {
        unreachable!()
    };
    chunk
}

/// Three tracks of three recordings, side by side, with small files so that many are made and freed.
fn script() -> Vec<Step> {
    let mut steps = Vec::new();
    for recording in [ENDED, RUNNING, ERASED] {
        steps.push(Step::Begin(recording));
        steps.push(Step::Init(recording, 1));
        steps.push(Step::Chunk(at(recording, 0, 0), 0, 90));
        steps.push(Step::Seal(at(recording, 0, 0)));
    }
    for sequence in 0..4 {
        for index in 0..2 {
            for recording in [ENDED, RUNNING, ERASED] {
                for track in [1, 3] {
                    let length = 100 + 700 * (track as usize % 2) * (index as usize);
                    steps.push(Step::Chunk(at(recording, track, sequence), index, length));
                }
            }
            steps.push(Step::Sync);
        }
        for recording in [ENDED, RUNNING, ERASED] {
            for track in [1, 3] {
                steps.push(Step::Seal(at(recording, track, sequence)));
            }
        }
        if sequence == 1 {
            steps.push(Step::Lose(RUNNING, 2, 0));
        }
        steps.push(Step::Sync);
        if sequence > 0 {
            steps.push(Step::Acknowledge(RUNNING, 1, sequence));
            steps.push(Step::Acknowledge(RUNNING, 3, sequence - 1));
            steps.push(Step::Acknowledge(ENDED, 1, sequence));
        }
        if sequence == 2 {
            steps.push(Step::Erase(ERASED));
            steps.push(Step::Release(None));
            steps.push(Step::ReleaseForSpace);
        }
    }
    steps.retain({
        let mut erased = false;
        move |step| {
            let of_erased = match step {
                Step::Chunk(key, ..) | Step::Seal(key) => key.recording == ERASED,
                _ => false,
            };
            let keeps = !(erased && of_erased);
            erased |= matches!(step, Step::Erase(_));
            keeps
        }
    });
    steps.extend([
        Step::Chunk(at(ENDED, 1, 4), 0, 400),
        Step::Seal(at(ENDED, 1, 4)),
        Step::End(ENDED, 1),
        Step::Sync,
        Step::Sync,
        Step::Release(Some(0)),
        Step::Sync,
        Step::Acknowledge(ENDED, 1, 5),
        Step::Acknowledge(ENDED, 3, 4),
        Step::Acknowledge(ENDED, 0, 2),
        Step::Sync,
        Step::Complete(ENDED),
        Step::Sync,
        Step::Release(Some(8)),
        Step::Sync,
        Step::Release(Some(16)),
        Step::Sync,
        Step::Chunk(at(RUNNING, 1, 4), 0, 300),
        Step::Sync,
    ]);
    steps
}

fn config() -> Config {
    Config {
        file_bytes: 1500,
        reserve_bytes: 0,
        ..Config::new("/spool")
    }
}

fn start(disk: &TwinDisk) -> (Spool, Vec<Recovered>) {
    Spool::open(Arc::new(disk.clone()), config()).unwrap()
}

/// Does one step; what is promised goes into the world.
fn take(spool: &mut Spool, world: &mut World, step: &Step) -> Result<(), Error> {
    match step {
        Step::Begin(recording) => drop(spool.begin(*recording, OPENED)?),
        Step::Init(recording, track) => {
            let init = Init {
                track: TrackId(*track),
                hash: Hash([1; 32]),
                bytes: b"an init".to_vec(),
            };
            spool.append(*recording, &Segmented::Init(init))?;
        }
        Step::Chunk(key, index, length) => {
            let chunk = chunk_of(*key, *index, *length);
            spool.append(key.recording, &Segmented::Chunk(chunk.clone()))?;
            world.written.entry(*key).or_default().extend(chunk.bytes);
        }
        Step::Seal(key) => {
            spool.append(key.recording, &Segmented::Seal(*key))?;
        }
        Step::Sync => {
            world.now += LATER;
            if let Some(job) = spool.start_sync(Monotonic::from_nanos(world.now)) {
                let (notices, errors) = spool.synced(job.run());
                for notice in notices {
                    match notice {
                        Notice::Kept { key, bytes } => {
                            let kept = world.kept.entry(key).or_default();
                            *kept = (*kept).max(bytes as usize);
                        }
                        Notice::Sealed { key, length, hash } => {
                            let bytes = &world.written[&key];
                            assert_eq!(bytes.len() as u64, length);
                            assert_eq!(hash, Hash(*blake3::hash(bytes).as_bytes()));
                            world.kept.insert(key, bytes.len());
                            world.sealed.insert(key);
                            let ends = world.ends.get(&key.recording);
                            if ends.is_some_and(|(end, _)| *end == key) {
                                world.ended.insert(key.recording);
                            }
                        }
                        Notice::Lost {
                            recording,
                            track,
                            range,
                            ..
                        } => {
                            let key = at(recording, track.0, range.first);
                            world.said_lost.insert(key);
                        }
                        Notice::Written { .. } | Notice::InitWritten(_) => {}
                    }
                }
                if let Some((_, error)) = errors.into_iter().next() {
                    return Err(error);
                }
            }
        }
        Step::Acknowledge(recording, track, below) => {
            let all = 0..*below;
            let keys = all.map(|sequence| at(*recording, *track, sequence));
            world.acknowledged.extend(keys);
            spool.acknowledge(*recording, TrackId(*track), &Sequences::below(*below))?;
        }
        Step::Lose(recording, track, sequence) => {
            world.lost.insert(at(*recording, *track, *sequence));
            let range = Range {
                first: *sequence,
                last: *sequence,
            };
            spool.lose(*recording, TrackId(*track), range, LostReason::NoSpace)?;
        }
        Step::End(recording, sequence) => {
            let key = at(*recording, 0, *sequence);
            let totals = spool.state(*recording).unwrap().totals();
            let last = chunk_of(key, 0, 70);
            world.written.insert(key, last.bytes.clone());
            world.ends.insert(*recording, (key, totals));
            spool.end(*recording, &last)?;
        }
        Step::Complete(recording) => {
            world.complete.insert(*recording);
            assert!(spool.complete(*recording)?);
        }
        Step::Release(days) => {
            world.releasing = true;
            let wall = WallClock {
                unix_nanos: (days.unwrap_or(0) * DAY) as i64 * 1_000_000_000
                    + 1_800_000_000_000_000_000,
                uncertainty: days.map(|_| Duration::from_secs(1)),
            };
            spool.release(Some(wall));
        }
        Step::ReleaseForSpace => {
            world.releasing = true;
            // Less than eight hours are left at this rate.
            spool.set_rate(40_000_000);
            spool.release(None);
            spool.set_rate(0);
        }
        Step::Erase(recording) => {
            world.erasing.insert(*recording);
            spool.erase(*recording)?;
            world.erased.insert(*recording);
        }
    }
    Ok(())
}

/// What must hold on a disk after a crash. `during` is the world with the step in hand taken.
fn judge(disk: &TwinDisk, before: &World, during: &World, what: &str) {
    let (mut spool, found) = start(disk);
    for recording in &before.erased {
        assert!(
            spool.state(*recording).is_none(),
            "{what}: {recording} is back"
        );
    }
    for recovered in &found {
        let recording = recovered.recording;
        assert!(
            recovered.problems.is_empty(),
            "{what}: {:?}",
            recovered.problems
        );
        if during.erasing.contains(&recording) {
            continue;
        }
        if spool.state(recording).unwrap().complete {
            assert!(
                during.complete.contains(&recording),
                "{what}: complete too soon"
            );
            spool.load(recording).unwrap();
        }
        // Nothing is LOST but what was lost, or never kept.
        for &(track, first, last) in &recovered.lost {
            for sequence in first..=last {
                let key = at(recording, track.0, sequence);
                let kept = before.kept.get(&key).is_some_and(|kept| *kept > 0);
                assert!(during.lost.contains(&key) || !kept, "{what}: {key} is LOST");
            }
        }
        let state = spool.state(recording).unwrap();
        for (&track, held) in &state.tracks {
            // Nothing counts as acknowledged that was not.
            for sequence in 0..held.acknowledged.end() {
                let key = at(recording, track.0, sequence);
                let said =
                    !held.acknowledged.contains(sequence) || during.acknowledged.contains(&key);
                assert!(said, "{what}: {key} counts as acknowledged");
            }
            for (sequence, segment) in held.waiting() {
                // What waits is whole, and is a beginning of what was written.
                let key = at(recording, track.0, sequence);
                assert!(segment.is_whole(), "{what}: {key} is not sealed");
                let bytes = spool.read(key, 0, segment.length).unwrap();
                let written = &during.written[&key];
                assert!(written.starts_with(&bytes), "{what}: {key} has other bytes");
                let hash = segment.seal.unwrap().1;
                assert_eq!(
                    hash,
                    Hash(*blake3::hash(&bytes).as_bytes()),
                    "{what}: {key}"
                );
                if before.sealed.contains(&key) {
                    assert_eq!(
                        bytes.len(),
                        written.len(),
                        "{what}: {key} was sealed longer"
                    );
                }
            }
        }
        // An End and the word that the recording is over are there both, or neither.
        if let Some((end, totals)) = during.ends.get(&recording) {
            let has_end = state
                .segment(end.track, end.sequence)
                .is_some_and(|end| end.seal.is_some());
            assert_eq!(has_end, state.ended, "{what}: an End by halves");
            assert!(
                state.ended || !before.ended.contains(&recording),
                "{what}: the end is gone"
            );
            if state.ended {
                assert_eq!(
                    state.totals(),
                    *totals,
                    "{what}: another root than the End's"
                );
                assert!(
                    recovered.lost.is_empty() || !during.lost.is_empty(),
                    "{what}"
                );
            }
        } else {
            assert!(!state.ended, "{what}: ended by itself");
        }
    }
    for (key, kept) in &before.kept {
        if during.erasing.contains(&key.recording) {
            continue;
        }
        let acknowledged = during.acknowledged.contains(key);
        let Some(state) = spool.state(key.recording) else {
            let may_go = during.releasing && during.complete.contains(&key.recording);
            assert!(may_go, "{what}: {} is gone", key.recording);
            continue;
        };
        assert!(
            state.next_sequence(key.track) > key.sequence,
            "{what}: {key} would be used again"
        );
        let bytes = spool.read(*key, 0, *kept as u64);
        match bytes {
            Ok(bytes) => assert_eq!(bytes, before.written[key][..*kept], "{what}: {key}"),
            Err(error) => assert!(acknowledged && during.releasing, "{what}: {key}: {error}"),
        }
    }
    for key in &before.said_lost {
        let state = spool.state(key.recording).unwrap();
        assert!(
            state.tracks[&key.track].is_lost(key.sequence),
            "{what}: {key} was said to be LOST"
        );
    }
}

/// What recovery says is durable itself, and the recording goes on behind it.
fn judge_twice(disk: &TwinDisk, before: &World, during: &World, what: &str) {
    judge(disk, before, during, what);
    // The power goes again right after that recovery.
    let again = disk.crash(0);
    judge(&again, before, during, &format!("{what}, again"));
    let (mut spool, _) = start(&again);
    let open = spool
        .state(RUNNING)
        .is_some_and(|state| state.opened.is_some());
    if !open {
        return;
    }
    let opened = Opened {
        epoch: 2,
        span: 1,
        wall_nanos: 0,
    };
    let next = spool
        .begin(RUNNING, opened)
        .unwrap()
        .next_sequence(TrackId(1));
    let mut world = during.clone();
    let key = at(RUNNING, 1, next);
    world.written.remove(&key);
    for step in [Step::Chunk(key, 0, 200), Step::Seal(key), Step::Sync] {
        take(&mut spool, &mut world, &step).unwrap();
    }
    let (after, _) = start(&again.crash(0));
    assert_eq!(
        after.read(key, 0, 200).unwrap(),
        body(key, 0, 200),
        "{what}"
    );
}

#[test]
fn invariants_1_to_6_hold_when_the_power_goes_before_any_call_of_the_disk() {
    let script = script();
    let calls = {
        let disk = TwinDisk::default();
        let (mut spool, mut world) = (start(&disk).0, World::default());
        for step in &script {
            take(&mut spool, &mut world, step).unwrap();
        }
        assert!(world.ended.contains(&ENDED) && !world.said_lost.is_empty());
        assert!(
            spool.state(ENDED).is_none(),
            "complete and past its retention"
        );
        let freed = spool.stats().freed_bytes;
        assert!(freed > 10_000, "{freed} bytes were freed");
        judge(&disk.crash(0), &world, &world, "the end");
        disk.calls()
    };
    let mut disks = 0;
    for call in 0..calls {
        let disk = TwinDisk::default();
        let seeds = [0, 1, 2 + 2 * call, 3 + 2 * call];
        disk.cut_before(call, &seeds);
        let (mut spool, mut world) = (start(&disk).0, World::default());
        let mut before = world.clone();
        for step in &script {
            if !disk.left().is_empty() {
                break;
            }
            before = world.clone();
            take(&mut spool, &mut world, step).unwrap();
        }
        for (left, seed) in disk.left().iter().zip(seeds) {
            judge_twice(left, &before, &world, &format!("call {call}, seed {seed}"));
            disks += 1;
        }
    }
    println!("{calls} calls of the disk, {disks} disks after a power cut");
    assert!(calls > 150 && disks as u64 == 4 * calls);
}

#[test]
fn invariants_1_to_6_hold_when_any_call_of_the_disk_fails() {
    let script = script();
    let (mut failures, mut refused) = (0, 0);
    for errno in [5, 28] {
        for call in 0.. {
            let disk = TwinDisk::default();
            let (mut spool, mut world) = (start(&disk).0, World::default());
            disk.fail_call(call, errno);
            let first = disk.calls();
            for step in &script {
                let mut tries = 0;
                while let Err(error) = take(&mut spool, &mut world, step) {
                    // What was asked for is asked for again; an end that waits is tried by itself.
                    refused += 1;
                    tries += 1;
                    assert!(tries < 3, "call {call}, errno {errno}, {step:?}: {error}");
                    if matches!(step, Step::End(..)) {
                        break;
                    }
                }
            }
            if disk.calls() - first <= call {
                break;
            }
            failures += 1;
            for seed in [0, 1, 2 + call] {
                let what = format!("call {call} failed with {errno}, seed {seed}");
                judge(&disk.crash(seed), &world, &world, &what);
            }
            assert!(
                world.ended.contains(&ENDED),
                "call {call}, errno {errno}: no end"
            );
        }
    }
    println!("{failures} failing calls, {refused} of them seen by the caller");
    assert!(failures > 300);
}
