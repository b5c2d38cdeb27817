//! Custody over a real disk, with the receiver's words given by hand.
//!
//! Longer than most files: a case for each word of the receiver.

use super::*;
use crate::media::{Chunk, MediaTime};
use crate::spool::twin::TwinDisk;
use crate::spool::{self, LocalDisk};
use tempfile::TempDir;

const RECORDING: RecordingId = RecordingId([7; 16]);
const TRACK: TrackId = TrackId(1);

fn open(directory: &TempDir, epoch: u64) -> (Custody, Vec<Recovered>) {
    open_with(directory, epoch, Config::default())
}

fn open_with(directory: &TempDir, epoch: u64, config: Config) -> (Custody, Vec<Recovered>) {
    let spool = spool::Config::new(directory.path());
    let (spool, recovered) = Spool::open(Arc::new(LocalDisk), spool).unwrap();
    let custody = Custody::new(Arc::new(Mutex::new(spool)), epoch, config);
    (custody, recovered)
}

fn key(sequence: u64) -> SegmentKey {
    SegmentKey {
        recording: RECORDING,
        track: TRACK,
        sequence,
    }
}

fn chunk(sequence: u64, index: u32) -> Segmented {
    Segmented::Chunk(Chunk {
        key: key(sequence),
        init: None,
        index,
        start: MediaTime::ZERO,
        duration: 1,
        captured: Monotonic::default(),
        bytes: vec![sequence as u8; 100],
    })
}

fn sync(custody: &mut Custody) {
    let due = custody.sync_at().unwrap();
    let job = custody.start_sync(due).unwrap();
    let errors = custody.synced(job.run());
    assert!(errors.is_empty(), "{errors:?}");
}

/// `count` whole segments of two chunks, kept.
fn record(custody: &mut Custody, count: u64) {
    custody.begin(RECORDING, 0).unwrap();
    let first = custody.next_sequence(RECORDING, TRACK);
    for sequence in first..first + count {
        assert_eq!(
            custody.append(RECORDING, &chunk(sequence, 0)).unwrap(),
            Some(100)
        );
        assert_eq!(
            custody.append(RECORDING, &chunk(sequence, 1)).unwrap(),
            Some(200)
        );
        custody
            .append(RECORDING, &Segmented::Seal(key(sequence)))
            .unwrap();
    }
    sync(custody);
}

fn words(custody: &mut Custody) -> Vec<Word> {
    std::iter::from_fn(|| custody.next_word()).collect()
}

/// The numbers of the segments offered with their seal, and whether that was live.
fn offered(words: &[Word]) -> Vec<(u64, bool)> {
    let sealed = words.iter().filter_map(|word| match word {
        Word::Offer(Offer::Sealed { key, length, .. }) if key.track == TRACK => {
            Some((key.sequence, *length))
        }
        _ => None,
    });
    let mut found = Vec::new();
    for (sequence, length) in sealed {
        let chunks = words.iter().filter_map(|word| match word {
            Word::Offer(Offer::Chunk {
                key,
                offset,
                length,
                live,
                ..
            }) if (key.track, key.sequence) == (TRACK, sequence) => Some((*offset, *length, *live)),
            _ => None,
        });
        let chunks: Vec<(u64, u32, bool)> = chunks.collect();
        assert_eq!(chunks[0].0, 0, "from the segment's beginning");
        assert_eq!(
            chunks.iter().map(|chunk| u64::from(chunk.1)).sum::<u64>(),
            length
        );
        found.push((sequence, chunks[0].2));
    }
    found
}

fn durable(track: TrackId, durable: Sequences) -> Report {
    Report::Durable {
        recording: RECORDING,
        track,
        durable,
    }
}

#[test]
fn what_is_written_is_offered_live_and_its_seal_once_it_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (mut custody, _) = open(&directory, 1);
    custody.begin(RECORDING, 0).unwrap();
    custody.append(RECORDING, &chunk(0, 0)).unwrap();
    custody.append(RECORDING, &Segmented::Seal(key(0))).unwrap();
    assert!(matches!(
        words(&mut custody)[..],
        [Word::Offer(Offer::Chunk {
            live: true,
            length: 100,
            ..
        })]
    ));
    sync(&mut custody);
    let after = words(&mut custody);
    assert!(after.contains(&Word::Kept(key(0))));
    assert!(after.contains(&Word::Sealed(key(0))));
    assert!(matches!(
        after.iter().find(|word| matches!(word, Word::Offer(_))),
        Some(Word::Offer(Offer::Sealed { length: 100, .. }))
    ));
}

#[test]
fn the_hashes_of_seals_are_named_when_they_are_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let (mut custody, _) = open(&directory, 1);
    custody.begin(RECORDING, 0).unwrap();
    custody.append(RECORDING, &chunk(0, 0)).unwrap();
    custody.append(RECORDING, &Segmented::Seal(key(0))).unwrap();
    custody.append(RECORDING, &chunk(1, 0)).unwrap();
    sync(&mut custody);
    words(&mut custody);
    let keys = vec![key(0), key(1), key(7)];
    custody.report(&Report::Claims { keys }).unwrap();
    let hash = *blake3::hash(&custody.spool().read(key(0), 0, 100).unwrap()).as_bytes();
    let hashes = BTreeMap::from([(key(0), Hash(hash))]);
    let answer = Word::Offer(Offer::Hashes { hashes });
    assert_eq!(words(&mut custody), [answer]);
}

#[test]
fn a_later_run_offers_what_is_not_recorded_as_durable_and_counts_on() {
    let directory = tempfile::tempdir().unwrap();
    let (mut custody, _) = open(&directory, 1);
    record(&mut custody, 3);
    custody
        .report(&durable(TRACK, Sequences::below(1)))
        .unwrap();
    sync(&mut custody);
    drop(custody);

    let (mut custody, recovered) = open(&directory, 2);
    custody.take_up(&recovered);
    let said = words(&mut custody);
    assert_eq!(offered(&said), [(1, false), (2, false)]);
    let watermark = Word::Offer(Offer::Track {
        recording: RECORDING,
        track: TRACK,
        durable: Sequences::below(1),
        end: 3,
    });
    assert_eq!(said[..2], [watermark, Word::Offer(Offer::Ready)]);
    assert_eq!(custody.begin(RECORDING, 0).unwrap(), 1, "the next span");
    assert_eq!(custody.next_sequence(RECORDING, TRACK), 3);
}

fn named(track: TrackId, end: u64) -> Word {
    Word::Offer(Offer::Track {
        recording: RECORDING,
        track,
        durable: Sequences::default(),
        end,
    })
}

#[test]
fn the_past_is_offered_by_a_window_oldest_first_and_whatever_befalls_it_makes_room() {
    let directory = tempfile::tempdir().unwrap();
    let (mut custody, _) = open(&directory, 1);
    record(&mut custody, 12);
    drop(custody);
    let (mut custody, recovered) = open_with(&directory, 2, Config { window: 2 });
    custody.take_up(&recovered);
    let said = words(&mut custody);
    assert_eq!(said[..2], [named(TRACK, 12), Word::Offer(Offer::Ready)]);
    assert_eq!(offered(&said), [(0, false), (1, false)]);
    assert_eq!(words(&mut custody), []);
    let mut next = |report: Report| {
        custody.report(&report).unwrap();
        while custody.sync_at().is_some() {
            sync(&mut custody);
        }
        let said = words(&mut custody);
        offered(&said)
            .iter()
            .map(|(sequence, _)| *sequence)
            .collect::<Vec<_>>()
    };
    // Out of order; and numbers that were never offered in this run.
    let mut had = Sequences::default();
    had.insert(1);
    assert_eq!(next(durable(TRACK, had.clone())), [2]);
    had.insert(4);
    assert_eq!(next(durable(TRACK, had.clone())), [] as [u64; 0]);
    had.insert(0);
    assert_eq!(next(durable(TRACK, had.clone())), [3]);
    let unreadable = || Report::Unreadable {
        key: key(2),
        damaged: true,
        text: String::new(),
    };
    for _ in 1..MOST_TRIES {
        assert_eq!(next(unreadable()), [] as [u64; 0]);
    }
    assert_eq!(next(unreadable()), [5], "2 is LOST, 4 is durable");
    // What was held back waits for the next connection, and takes nobody's room.
    let gone = || Report::Disconnected {
        code: None,
        text: String::new(),
    };
    let ahead = Report::Ahead {
        recording: RECORDING,
        track: TRACK,
        held: Sequences::default(),
    };
    assert_eq!(next(ahead), [] as [u64; 0]);
    had.insert(3);
    had.insert(5);
    assert_eq!(next(durable(TRACK, had.clone())), [] as [u64; 0]);
    assert_eq!(next(gone()), [6, 7]);
    let refused = Report::Refused {
        key: key(6),
        code: crate::uplink::ErrorCode::CONFLICT,
    };
    assert_eq!(next(refused), [] as [u64; 0]);
    had.insert(6);
    assert_eq!(next(durable(TRACK, had)), [] as [u64; 0]);
    assert_eq!(next(gone()), [8]);
    // A restored receiver: what it lost comes before what is younger.
    let forgot = Report::Forgot {
        recording: RECORDING,
        track: TRACK,
        held: Sequences::below(1),
    };
    assert_eq!(next(forgot), [] as [u64; 0], "7 and 8 are offered");
    let mut had = Sequences::below(1);
    had.insert(7);
    had.insert(8);
    assert_eq!(next(durable(TRACK, had)), [1, 3]);
    let erase = Report::Erase {
        recording: RECORDING,
    };
    assert_eq!(next(erase), [] as [u64; 0]);
}

#[test]
fn without_room_what_is_recorded_now_waits_and_joins_when_a_connection_stands() {
    let directory = tempfile::tempdir().unwrap();
    let (mut custody, _) = open_with(&directory, 1, Config { window: 1 });
    record(&mut custody, 3);
    let said = words(&mut custody);
    assert_eq!(offered(&said), [(0, true)]);
    let names = said
        .iter()
        .filter(|word| matches!(word, Word::Offer(Offer::Track { .. })));
    let names: Vec<_> = names.cloned().collect();
    assert_eq!(names, [named(TRACK, 2), named(TRACK, 3)]);
    custody.append(RECORDING, &chunk(3, 0)).unwrap();
    custody.append(RECORDING, &chunk(3, 1)).unwrap();
    assert_eq!(words(&mut custody), [named(TRACK, 4)]);
    custody.report(&Report::Connected).unwrap();
    let live = |offset, length| {
        let chunk = chunk_offer(key(3), None, (offset, length), true);
        Word::Offer(chunk)
    };
    assert_eq!(words(&mut custody), [live(0, 200)], "from its beginning");
    custody.append(RECORDING, &chunk(3, 2)).unwrap();
    assert_eq!(words(&mut custody), [live(200, 100)]);
    // As much of the present as of the past; then the past is due again, oldest first.
    custody.append(RECORDING, &Segmented::Seal(key(3))).unwrap();
    custody.append(RECORDING, &chunk(4, 0)).unwrap();
    sync(&mut custody);
    let said = words(&mut custody);
    let sealed = |word: &Word| matches!(word, Word::Offer(Offer::Sealed { key: of, length: 300, .. }) if *of == key(3));
    assert!(said.iter().any(sealed), "{said:?}");
    assert_eq!(said[0], named(TRACK, 5));
    for (had, then) in [(0, vec![]), (3, vec![(1, false)]), (1, vec![(2, false)])] {
        let mut one = Sequences::default();
        one.insert(had);
        custody.report(&durable(TRACK, one)).unwrap();
        assert_eq!(offered(&words(&mut custody)), then, "after {had}");
    }
}

#[test]
fn what_a_receiver_forgot_is_offered_again_in_its_whole_length() {
    let directory = tempfile::tempdir().unwrap();
    let (mut custody, _) = open(&directory, 1);
    record(&mut custody, 4);
    words(&mut custody);
    custody
        .report(&durable(TRACK, Sequences::below(4)))
        .unwrap();
    assert_eq!(words(&mut custody), []);
    let mut held = Sequences::below(1);
    held.insert(2);
    let forgot = Report::Forgot {
        recording: RECORDING,
        track: TRACK,
        held,
    };
    custody.report(&forgot).unwrap();
    let said = words(&mut custody);
    assert_eq!(offered(&said), [(1, false), (3, false)]);
    assert!(said.iter().any(|word| matches!(
        word,
        Word::Alarm {
            recording: RECORDING,
            code: "receiver-forgot",
            ..
        }
    )));
    sync(&mut custody);
    drop(custody);
    let (mut custody, recovered) = open(&directory, 2);
    custody.take_up(&recovered);
    let said = words(&mut custody);
    assert_eq!(offered(&said), [(1, false), (3, false)], "on record, too");
}

fn lost(said: &[Word]) -> Vec<(u64, u64, bool, bool)> {
    let offers = said.iter().filter_map(|word| match word {
        Word::Offer(Offer::Lost { lost, is_fact }) => Some((lost.first, lost.last, *is_fact)),
        _ => None,
    });
    offers
        .map(|(first, last, is_fact)| {
            let fact = said.iter().any(|word| {
                matches!(word, Word::Fact(RECORDING, Event::Lost { first: f, last: l, .. }) if (*f, *l) == (first, last))
            });
            (first, last, is_fact, fact)
        })
        .collect()
}

#[test]
fn what_is_lost_is_a_fact_while_the_recording_is_open_and_a_message_once_it_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let (mut custody, _) = open(&directory, 1);
    record(&mut custody, 2);
    words(&mut custody);
    custody
        .lose(RECORDING, TRACK, (2, 5), LostReason::NoSpace)
        .unwrap();
    assert_eq!(lost(&words(&mut custody)), [], "not before it is kept");
    sync(&mut custody);
    assert_eq!(lost(&words(&mut custody)), [(2, 5, true, true)]);
    assert_eq!(custody.next_sequence(RECORDING, TRACK), 6);
    finish(&mut custody);
    // The disk fails to give a segment back: that may pass. What it gives back is damaged: for some
    // time it is tried again.
    let unreadable = |damaged| Report::Unreadable {
        key: key(1),
        damaged,
        text: "what the spool said".into(),
    };
    for _ in 0..=MOST_TRIES {
        custody.report(&unreadable(false)).unwrap();
    }
    for _ in 1..MOST_TRIES {
        custody.report(&unreadable(true)).unwrap();
    }
    assert_eq!(custody.sync_at(), None, "nothing is given up");
    assert_eq!(lost(&words(&mut custody)), []);
    custody.report(&unreadable(true)).unwrap();
    sync(&mut custody);
    assert_eq!(lost(&words(&mut custody)), [(1, 1, false, false)]);
    drop(custody);

    let (mut custody, recovered) = open(&directory, 2);
    custody.take_up(&recovered);
    let said = words(&mut custody);
    assert_eq!(offered(&said)[..1], [(0, false)]);
    let numbers: Vec<u64> = lost(&said).iter().flat_map(|l| l.0..=l.1).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5], "said again to whoever asks");
}

#[test]
fn what_recovery_finds_lost_is_told_once_that_is_kept_and_by_each_later_run_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (mut custody, _) = open(&directory, 1);
    record(&mut custody, 3);
    drop(custody);
    let log = directory.path().join(RECORDING.to_string());
    let log = log.join("00000000.log");
    let mut bytes = std::fs::read(&log).unwrap();
    let at = bytes.windows(100).position(|bytes| bytes == [1; 100]);
    bytes[at.unwrap()] ^= 1;
    std::fs::write(&log, bytes).unwrap();

    let (mut custody, recovered) = open(&directory, 2);
    custody.take_up(&recovered);
    let said = words(&mut custody);
    assert_eq!(offered(&said), [(0, false), (2, false)]);
    assert_eq!(lost(&said), [], "a power cut now would bring it back");
    sync(&mut custody);
    assert_eq!(lost(&words(&mut custody)), [(1, 1, true, true)]);
    drop(custody);
    let (mut custody, recovered) = open(&directory, 3);
    custody.take_up(&recovered);
    assert_eq!(lost(&words(&mut custody)), [(1, 1, true, true)]);
}

/// The end of the recording, kept.
fn finish(custody: &mut Custody) {
    let at = (0, 5);
    let end = custody
        .end(
            RECORDING,
            Vec::new(),
            at,
            StopReason::Button,
            Monotonic::default(),
        )
        .unwrap();
    let mut said = Vec::new();
    while custody.sync_at().is_some() {
        sync(custody);
        said.extend(words(custody));
    }
    assert!(said.contains(&Word::Sealed(end)), "{said:?}");
}

#[test]
fn an_erased_recording_goes_at_once_is_confirmed_and_does_not_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let (mut custody, _) = open(&directory, 1);
    record(&mut custody, 2);
    words(&mut custody);
    let erase = Report::Erase {
        recording: RECORDING,
    };
    let confirmed = [
        Word::Erased(RECORDING),
        Word::Offer(Offer::Erased {
            recording: RECORDING,
        }),
    ];
    custody.report(&erase).unwrap();
    assert_eq!(words(&mut custody), confirmed);
    assert!(custody.append(RECORDING, &chunk(2, 0)).is_err());
    // Nothing is left of it; a second order is confirmed as well.
    custody.report(&erase).unwrap();
    assert_eq!(words(&mut custody), confirmed);
    drop(custody);
    let (mut custody, recovered) = open(&directory, 2);
    assert!(recovered.is_empty());
    custody.take_up(&recovered);
    assert_eq!(words(&mut custody), [Word::Offer(Offer::Ready)]);
}

#[test]
fn a_whole_recording_stays_for_its_retention_and_is_forgotten_then() {
    let directory = tempfile::tempdir().unwrap();
    let (mut custody, _) = open(&directory, 1);
    record(&mut custody, 2);
    finish(&mut custody);
    let day = |days: i64| {
        Some(WallClock {
            unix_nanos: (20_000 + days) * 86_400_000_000_000,
            uncertainty: Some(std::time::Duration::ZERO),
        })
    };
    custody.release(day(0));
    custody
        .report(&durable(TRACK, Sequences::below(2)))
        .unwrap();
    custody
        .report(&durable(TrackId::EVENTS, Sequences::below(1)))
        .unwrap();
    let complete = Report::Complete {
        recording: RECORDING,
    };
    custody.report(&complete).unwrap();
    sync(&mut custody);
    for (days, clock) in [(6, day(6)), (30, None)] {
        custody.release(clock);
        assert_eq!(words(&mut custody), [], "{days} days");
    }
    custody.release(day(8));
    let forget = Offer::Forget {
        recording: RECORDING,
    };
    assert_eq!(words(&mut custody), [Word::Offer(forget)]);
    drop(custody);

    let (mut custody, recovered) = open(&directory, 2);
    custody.take_up(&recovered);
    assert_eq!(words(&mut custody), [Word::Offer(Offer::Ready)]);
}

#[test]
fn a_whole_recording_is_named_at_the_next_start_and_given_again_to_a_receiver_that_lost_it() {
    let directory = tempfile::tempdir().unwrap();
    let complete = Report::Complete {
        recording: RECORDING,
    };
    let (mut custody, _) = open(&directory, 1);
    record(&mut custody, 3);
    finish(&mut custody);
    let hold_all = |custody: &mut Custody| {
        let events = durable(TrackId::EVENTS, Sequences::below(1));
        custody.report(&events).unwrap();
        let pictures = durable(TRACK, Sequences::below(3));
        custody.report(&pictures).unwrap();
        custody.report(&complete).unwrap();
        sync(custody);
    };
    hold_all(&mut custody);
    drop(custody);

    let track = |track, end| Offer::Track {
        recording: RECORDING,
        track,
        durable: Sequences::below(end),
        end,
    };
    let named = [
        track(TrackId::EVENTS, 1),
        track(TRACK, 3),
        Offer::Whole {
            recording: RECORDING,
        },
        Offer::Ready,
    ]
    .map(Word::Offer);
    let (mut custody, recovered) = open(&directory, 2);
    custody.take_up(&recovered);
    assert_eq!(words(&mut custody), named);
    let held = |custody: &Custody| {
        let spool = custody.spool();
        let tracks = &spool.state(RECORDING).unwrap().tracks;
        tracks.values().map(|t| t.segments.len()).sum::<usize>()
    };
    assert_eq!(held(&custody), 0, "its segments are not in memory");
    // The receiver's store was restored from an older copy.
    for (track, held) in [(TRACK, 1), (TrackId::EVENTS, 0)] {
        let forgot = Report::Forgot {
            recording: RECORDING,
            track,
            held: Sequences::below(held),
        };
        custody.report(&forgot).unwrap();
    }
    let said = words(&mut custody);
    assert_eq!(offered(&said), [(1, false), (2, false)]);
    assert_eq!(lost(&said), []);
    let end = |word: &Word| matches!(word, Word::Offer(Offer::Sealed { key, .. }) if key.track == TrackId::EVENTS);
    assert!(said.iter().any(end), "the end, too");
    sync(&mut custody);
    drop(custody);

    let (mut custody, recovered) = open(&directory, 3);
    custody.take_up(&recovered);
    assert_eq!(offered(&words(&mut custody)), [(1, false), (2, false)]);
    hold_all(&mut custody);
    assert_eq!(words(&mut custody), []);
    drop(custody);
    let (mut custody, recovered) = open(&directory, 4);
    custody.take_up(&recovered);
    assert_eq!(words(&mut custody), named);
}

#[test]
fn what_begins_after_the_epoch_was_raised_has_the_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let (mut custody, _) = open(&directory, 1);
    let epoch = |custody: &Custody| {
        let opened = custody.spool().state(RECORDING).unwrap().opened;
        opened.unwrap().epoch
    };
    record(&mut custody, 1);
    custody.report(&Report::Fenced { epoch: 41 }).unwrap();
    custody.report(&Report::Raised { epoch: 42 }).unwrap();
    assert_eq!(epoch(&custody), 1, "the running span keeps its own");
    assert_eq!(custody.begin(RECORDING, 0).unwrap(), 1);
    assert_eq!(epoch(&custody), 42);
}

#[test]
fn what_recovery_could_not_make_durable_is_offered_once_it_could() {
    let disk = TwinDisk::default();
    let open = |epoch| {
        let (spool, recovered) =
            Spool::open(Arc::new(disk.clone()), spool::Config::new("/spool")).unwrap();
        let spool = Arc::new(Mutex::new(spool));
        (Custody::new(spool, epoch, Config::default()), recovered)
    };
    let (mut custody, _) = open(1);
    record(&mut custody, 3);
    let other = RecordingId([0xff; 16]);
    custody.begin(other, 0).unwrap();
    let marked = Fact {
        span: 0,
        at_nanos: 0,
        event: Event::Mark,
    };
    custody
        .write_facts(other, &[marked], Monotonic::default())
        .unwrap();
    sync(&mut custody);
    drop(custody);
    // Neither the file nor any copy of it can be synced.
    disk.fail_syncs(6);
    let (mut custody, recovered) = open(2);
    custody.take_up(&recovered);
    assert_eq!(offered(&words(&mut custody)), []);
    let mut said = Vec::new();
    let calls = (0..100).find(|_| {
        custody.release(None);
        said = words(&mut custody);
        !offered(&said).is_empty()
    });
    println!("offered with call {calls:?}");
    assert!(calls.is_some());
    // Of the other one the uplink may know more by now than the start of the process did.
    let of_other = format!("{other:?}");
    assert!(
        said.iter()
            .all(|word| !format!("{word:?}").contains(&of_other)),
        "{said:?}"
    );
    assert!(
        said.contains(&Word::TakenUp(RECORDING)),
        "it is to be ended"
    );
    let (mut again, recovered) = open(3);
    again.take_up(&recovered);
    assert_eq!(
        offered(&words(&mut again)),
        [(0, false), (1, false), (2, false)]
    );
}
