//! The engine in virtual time, against a transport that loses everything in flight when it breaks
//! and a receiver that acknowledges in any order.
//!
//! Longer than most files: one case for each word of a receiver and each of its breaches.

mod model;

use super::*;
use crate::wire::message::{Action as Commanded, ErrorMessage, Limits, SegmentHash, Welcome};
use crate::wire::message::{Complete, Durable, HeldRecording, HeldTrack, InitDurable, Received};
use model::{Model, RECORDING, config, key};
use proptest::prelude::*;

const T0: Monotonic = Monotonic::from_nanos(1_000_000_000);

fn at(millis: u64) -> Monotonic {
    T0.plus(Duration::from_millis(millis))
}

fn chunk(track: u8, sequence: u64, offset: u64, length: u32, live: bool) -> Offer {
    Offer::Chunk {
        key: key(track, sequence),
        kind: match track {
            1 => TrackKind::Video,
            2 => TrackKind::Audio,
            _ => TrackKind::Events,
        },
        init: (track > 0).then_some(Hash([track; 32])),
        offset,
        length,
        live,
    }
}

fn sealed(track: u8, sequence: u64, length: u64) -> Offer {
    Offer::Sealed {
        key: key(track, sequence),
        length,
        hash: Hash([9; 32]),
    }
}

fn welcome(tracks: Vec<(u8, Sequences)>, complete: bool) -> Message {
    let held = |(track, durable)| HeldTrack {
        track: TrackId(track),
        hashes: hashes(&durable),
        durable,
    };
    let recordings = match tracks.is_empty() {
        true => vec![],
        false => vec![HeldRecording {
            recording: RECORDING,
            tracks: tracks.into_iter().map(held).collect(),
        }],
    };
    Message::Welcome(Welcome {
        recordings,
        complete: if complete { vec![RECORDING] } else { vec![] },
        clock: None,
        limits: Limits::default(),
        software: String::new(),
        erased: vec![],
        abridged: false,
    })
}

/// The hashes of these segments, as [`sealed`] has them.
fn hashes(of: &Sequences) -> Vec<SegmentHash> {
    let hash = |sequence| SegmentHash {
        sequence,
        hash: Hash([9; 32]),
    };
    let numbers = of.parts().flat_map(|range| range.first..=range.last);
    numbers.map(hash).collect()
}

fn durable(track: u8, durable: Sequences) -> Message {
    Message::Durable(Durable {
        recording: RECORDING,
        track: TrackId(track),
        hashes: hashes(&durable),
        durable,
    })
}

fn received(track: u8, sequence: u64, offset: u64) -> Message {
    Message::Received(Received {
        key: key(track, sequence),
        offset,
    })
}

fn session(offers: Vec<Offer>) -> Session {
    let mut session = Session::new(config());
    for offer in offers {
        session.offer(offer, T0);
    }
    session
}

/// A session that was welcomed by a receiver that holds nothing.
fn welcomed(offers: Vec<Offer>) -> Session {
    let mut session = session(offers);
    session.connected(None, T0);
    session.received(welcome(vec![], false), T0);
    session
}

/// Everything that the engine wants done at `now`; every write is done at once.
fn drain(session: &mut Session, now: Monotonic) -> Vec<Action> {
    let mut actions = Vec::new();
    loop {
        match session.next(now) {
            Action::Wait(_) => return actions,
            action => {
                if let Action::Write { key, .. } | Action::Finish { key, .. } = &action {
                    session.written(*key);
                }
                actions.push(action);
            }
        }
    }
}

fn closes(actions: &[Action]) -> Option<ErrorCode> {
    actions.iter().find_map(|action| match action {
        Action::Close { code, .. } => Some(*code),
        _ => None,
    })
}

fn freed(actions: &[Action]) -> bool {
    let durable = |action: &Action| matches!(action, Action::Report(Report::Durable { .. }));
    actions.iter().any(durable)
}

#[test]
fn a_segment_goes_out_after_its_init_and_ends_only_when_sealed() {
    let mut session = welcomed(vec![Offer::Ready, chunk(1, 0, 0, 100, true)]);
    let actions = drain(&mut session, T0);
    let (video, init) = (key(1, 0), Hash([1; 32]));
    let expected = [
        Action::SendInit {
            hash: init,
            priority: 20,
        },
        Action::Open {
            key: video,
            init: Some(init),
            priority: 20,
        },
        Action::Write {
            key: video,
            offset: 0,
            length: 100,
            again: false,
        },
    ];
    assert!(matches!(actions[0], Action::Control(Message::Hello(_))));
    assert_eq!(actions[1], Action::Report(Report::Connected));
    assert_eq!(actions[2..], expected);
    session.offer(chunk(1, 0, 100, 7, true), T0);
    session.offer(sealed(1, 0, 107), T0);
    let expected = [
        Action::Write {
            key: video,
            offset: 100,
            length: 7,
            again: false,
        },
        Action::Finish {
            key: video,
            length: 107,
            hash: Hash([9; 32]),
        },
    ];
    assert_eq!(drain(&mut session, T0), expected);
    session.received(durable(1, Sequences::below(1)), T0);
    let report = Report::Durable {
        recording: RECORDING,
        track: TrackId(1),
        durable: Sequences::below(1),
    };
    assert_eq!(drain(&mut session, T0), [Action::Report(report)]);
    assert_eq!(session.pending(), 0);
}

#[test]
fn sound_goes_before_pictures_before_the_past() {
    let mut session = welcomed(vec![
        chunk(1, 0, 0, 10, false),
        sealed(1, 0, 10),
        Offer::Ready,
        chunk(1, 1, 0, 10, true),
        chunk(2, 0, 0, 10, true),
    ]);
    let opened: Vec<_> = drain(&mut session, T0)
        .into_iter()
        .filter_map(|action| match action {
            Action::Open { key, priority, .. } => Some((key, priority)),
            _ => None,
        })
        .collect();
    assert_eq!(opened, [(key(2, 0), 30), (key(1, 1), 20), (key(1, 0), 0)]);
}

#[test]
fn backfill_waits_for_received_and_live_does_not() {
    let mut offers: Vec<Offer> = (0..4)
        .flat_map(|at| [chunk(1, at, 0, 400, false), sealed(1, at, 400)])
        .collect();
    offers.push(Offer::Ready);
    let mut session = welcomed(offers);
    let written = |actions: Vec<Action>| -> Vec<SegmentKey> {
        let key = |action| match action {
            Action::Write { key, .. } => Some(key),
            _ => None,
        };
        actions.into_iter().filter_map(key).collect()
    };
    // The model's bound is 1000 bytes: two of 400, oldest first.
    assert_eq!(written(drain(&mut session, T0)), [key(1, 0), key(1, 1)]);
    session.offer(chunk(2, 0, 0, 5000, true), T0);
    assert_eq!(written(drain(&mut session, T0)), [key(2, 0)]);
    session.received(received(1, 0, 400), T0);
    assert_eq!(written(drain(&mut session, T0)), [key(1, 2)]);
    session.received(received(1, 1, 199), T0);
    assert_eq!(written(drain(&mut session, T0)), []);
}

#[test]
fn a_chunk_larger_than_the_bound_goes_alone() {
    let mut session = welcomed(vec![
        chunk(1, 0, 0, 5000, false),
        chunk(1, 1, 0, 10, false),
        Offer::Ready,
    ]);
    let actions = drain(&mut session, T0);
    let writes = actions.iter().filter(|a| matches!(a, Action::Write { .. }));
    assert_eq!(writes.count(), 1);
}

#[test]
fn a_live_chunk_that_waits_too_long_makes_its_segment_late() {
    let mut session = welcomed(vec![Offer::Ready, chunk(1, 0, 0, 100, true)]);
    drain(&mut session, T0);
    assert_eq!(session.next(at(0)), Action::Wait(Some(at(2000))));
    let demoted = Action::Reprioritise {
        key: key(1, 0),
        priority: 10,
    };
    assert_eq!(drain(&mut session, at(2000)), [demoted]);
    // The next segment is live again.
    session.offer(chunk(1, 1, 0, 100, true), at(2100));
    let opens = |action: &Action| matches!(action, Action::Open { priority: 20, .. });
    assert!(drain(&mut session, at(2100)).iter().any(opens));
}

#[test]
fn a_chunk_received_in_time_stays_live() {
    let mut session = welcomed(vec![Offer::Ready, chunk(1, 0, 0, 100, true)]);
    drain(&mut session, T0);
    session.offer(chunk(1, 0, 100, 50, true), at(1900));
    session.received(received(1, 0, 100), at(1900));
    let mut actions = drain(&mut session, at(2500));
    actions.retain(|action| !matches!(action, Action::Report(Report::Received { .. })));
    assert_eq!(actions.len(), 1, "one write, no demotion");
    assert_eq!(session.next(at(2500)), Action::Wait(Some(at(3900))));
}

#[test]
fn a_receiver_that_does_not_answer_is_left() {
    let mut session = session(vec![Offer::Ready]);
    session.connected(None, T0);
    drain(&mut session, at(9_999));
    assert_eq!(
        closes(&drain(&mut session, at(10_000))),
        Some(ErrorCode::SILENT)
    );
}

#[test]
fn after_a_lost_connection_everything_not_durable_starts_over() {
    let mut session = welcomed(vec![
        Offer::Ready,
        chunk(1, 0, 0, 100, true),
        sealed(1, 0, 100),
        chunk(1, 1, 0, 30, true),
    ]);
    drain(&mut session, T0);
    session.received(received(1, 0, 100), T0);
    session.disconnected(None, "gone".into(), at(10));
    drain(&mut session, at(10));
    session.connected(None, at(20));
    session.received(welcome(vec![], false), at(20));
    let actions = drain(&mut session, at(20));
    let again = |sequence, length| Action::Write {
        key: key(1, sequence),
        offset: 0,
        length,
        again: true,
    };
    assert!(actions.contains(&again(0, 100)), "{actions:?}");
    assert!(actions.contains(&again(1, 30)));
    let inits = actions
        .iter()
        .filter(|a| matches!(a, Action::SendInit { .. }));
    assert_eq!(inits.count(), 1, "inits start over too, once");
}

#[test]
fn a_welcome_frees_what_the_receiver_holds() {
    let mut session = session(vec![
        chunk(1, 0, 0, 10, false),
        sealed(1, 0, 10),
        chunk(1, 1, 0, 10, false),
        sealed(1, 1, 10),
        Offer::Ready,
    ]);
    session.connected(None, T0);
    session.received(welcome(vec![(1, Sequences::below(1))], false), T0);
    let actions = drain(&mut session, T0);
    assert!(freed(&actions));
    let opened = actions.iter().filter(|a| matches!(a, Action::Open { .. }));
    assert_eq!(opened.count(), 1);
}

#[test]
fn a_receiver_that_forgot_is_reported_and_gets_it_again() {
    let mut session = session(vec![
        Offer::Track {
            recording: RECORDING,
            track: TrackId(1),
            durable: Sequences::below(5),
            end: 6,
        },
        Offer::Ready,
    ]);
    session.connected(None, T0);
    session.received(welcome(vec![(1, Sequences::below(3))], false), T0);
    let forgot = Report::Forgot {
        recording: RECORDING,
        track: TrackId(1),
        held: Sequences::below(3),
    };
    assert!(drain(&mut session, T0).contains(&Action::Report(forgot)));
    session.offer(chunk(1, 3, 0, 10, false), T0);
    let opens = |action: &Action| matches!(action, Action::Open { .. });
    assert!(drain(&mut session, T0).iter().any(opens));
}

/// What the engine reports about claims that it cannot have earned.
fn ahead(actions: &[Action]) -> usize {
    let ahead = |action: &&Action| matches!(action, Action::Report(Report::Ahead { .. }));
    actions.iter().filter(ahead).count()
}

const OTHER: RecordingId = RecordingId([0xee; 16]);

fn other(offset: u64) -> Offer {
    Offer::Chunk {
        key: SegmentKey {
            recording: OTHER,
            track: TrackId(1),
            sequence: 0,
        },
        kind: TrackKind::Video,
        init: None,
        offset,
        length: 10,
        live: true,
    }
}

#[test]
fn a_claim_beyond_what_was_sent_frees_nothing_and_holds_only_its_recording_back() {
    let sent = vec![
        Offer::Ready,
        chunk(1, 0, 0, 100, true),
        sealed(1, 0, 100),
        chunk(1, 1, 0, 50, true),
        other(0),
    ];
    let mut gap = Sequences::default();
    gap.insert(1);
    let complete = Message::Complete(Complete {
        recording: RECORDING,
    });
    let lies = [
        ("beyond what exists", durable(1, Sequences::below(3))),
        ("not sealed", durable(1, Sequences::below(2))),
        ("not sealed, as a range", durable(1, gap)),
        ("another track", durable(7, Sequences::below(1))),
        ("complete with segments missing", complete),
    ];
    for (what, lie) in lies {
        let mut session = welcomed(sent.clone());
        drain(&mut session, T0);
        session.received(lie, T0);
        let actions = drain(&mut session, T0);
        assert_eq!(ahead(&actions), 1, "{what}");
        assert_eq!(closes(&actions), None, "{what}");
        // Nothing on it counts any more on this connection, not even the truth.
        session.received(durable(1, Sequences::below(1)), T0);
        assert!(!freed(&drain(&mut session, T0)), "{what}");
        assert_eq!(session.pending(), 3, "{what}");
        session.offer(chunk(1, 1, 50, 5, true), T0);
        session.offer(other(10), T0);
        let actions = drain(&mut session, T0);
        let written = |action: &Action| match action {
            Action::Write { key, .. } => Some(key.recording),
            _ => None,
        };
        let written: Vec<_> = actions.iter().filter_map(written).collect();
        assert_eq!(written, [OTHER], "{what}: the other recording goes on");
    }
}

#[test]
fn no_false_word_frees_anything() {
    let sent = vec![
        Offer::Ready,
        chunk(1, 0, 0, 100, true),
        sealed(1, 0, 100),
        chunk(1, 1, 0, 50, true),
    ];
    let stray = Message::Durable(Durable {
        recording: OTHER,
        track: TrackId(1),
        durable: Sequences::below(1),
        hashes: vec![],
    });
    let unsent = Message::InitDurable(InitDurable {
        hashes: vec![Hash([5; 32])],
    });
    let lies = [
        ("another recording", stray),
        ("received beyond what was sent", received(1, 1, 51)),
        ("received of nothing", received(1, 9, 1)),
        ("an init never sent", unsent),
        ("a second welcome", welcome(vec![], false)),
    ];
    for (what, lie) in lies {
        let mut session = welcomed(sent.clone());
        drain(&mut session, T0);
        session.received(lie, T0);
        let actions = drain(&mut session, T0);
        assert_eq!(closes(&actions), Some(ErrorCode::PROTOCOL), "{what}");
        assert!(!freed(&actions), "{what}");
        assert_eq!(session.pending(), 2, "{what}");
        // Nothing counts any more on this connection, not even the truth.
        session.received(durable(1, Sequences::below(1)), T0);
        assert_eq!(drain(&mut session, T0), []);
    }
}

#[test]
fn no_false_welcome_frees_anything() {
    let offers = vec![chunk(1, 0, 0, 10, false), sealed(1, 0, 10), Offer::Ready];
    let mut stray = welcome(vec![(1, Sequences::below(1))], false);
    if let Message::Welcome(welcome) = &mut stray {
        welcome.recordings[0].recording = OTHER;
    }
    let more = welcome(vec![(1, Sequences::below(2))], false);
    let track = welcome(vec![(3, Sequences::below(1))], false);
    let lies = [
        ("more than exists", more, true),
        ("another track", track, true),
        ("complete, holding nothing", welcome(vec![], true), true),
        ("another recording", stray, false),
        ("no welcome", durable(1, Sequences::below(1)), false),
    ];
    for (what, lie, possible) in lies {
        let mut session = session(offers.clone());
        session.connected(None, T0);
        session.received(lie, T0);
        let actions = drain(&mut session, T0);
        assert_eq!(ahead(&actions), usize::from(possible), "{what}");
        let close = (!possible).then_some(ErrorCode::PROTOCOL);
        assert_eq!(closes(&actions), close, "{what}");
        assert!(!freed(&actions) && session.pending() == 1, "{what}");
        let opens = |action: &Action| matches!(action, Action::Open { .. });
        assert!(!actions.iter().any(opens), "{what}");
    }
}

/// As [`welcome`] and [`durable`], each with these hashes of track 1 instead.
fn both_words(held: &Sequences, told: &[SegmentHash]) -> [Message; 2] {
    let mut words = [
        welcome(vec![(1, held.clone())], false),
        durable(1, held.clone()),
    ];
    for word in &mut words {
        match word {
            Message::Welcome(welcome) => {
                welcome.recordings[0].tracks[0].hashes = told.to_vec();
            }
            Message::Durable(durable) => durable.hashes = told.to_vec(),
            _ => unreachable!(),
        }
    }
    words
}

#[test]
fn a_segment_is_freed_by_the_hash_of_its_own_bytes_and_by_nothing_else() {
    let offers = vec![
        chunk(1, 0, 0, 10, false),
        sealed(1, 0, 10),
        chunk(1, 1, 0, 10, false),
        sealed(1, 1, 10),
        Offer::Ready,
    ];
    let told = |sequence, hash| SegmentHash {
        sequence,
        hash: Hash([hash; 32]),
    };
    let held = Sequences::below(2);
    // What is told, the segments that wait after it, and whether the recording is held back.
    let cases = [
        (vec![told(0, 9), told(1, 9)], 0, false),
        (vec![told(1, 9)], 1, false),
        (vec![], 2, false),
        (vec![told(0, 9), told(1, 8)], 2, true),
        (vec![told(0, 8)], 2, true),
    ];
    for (hashes, waiting, held_back) in cases {
        for (word, is_welcome) in both_words(&held, &hashes).into_iter().zip([true, false]) {
            let mut session = session(offers.clone());
            session.connected(None, T0);
            if !is_welcome {
                session.received(welcome(vec![], false), T0);
                drain(&mut session, T0);
            }
            session.received(word, T0);
            let actions = drain(&mut session, T0);
            let refused =
                |action: &Action| matches!(action, Action::Report(Report::Refused { .. }));
            assert_eq!(session.pending(), waiting, "{hashes:?}");
            assert_eq!(freed(&actions), waiting < 2, "{hashes:?}");
            assert_eq!(actions.iter().any(refused), held_back, "{hashes:?}");
            assert_eq!((ahead(&actions), closes(&actions)), (0, None));
            if is_welcome {
                // A number without a hash is sent again, unless another machine holds the name.
                let opens = |action: &&Action| matches!(action, Action::Open { .. });
                let again = if held_back { 0 } else { waiting };
                assert_eq!(actions.iter().filter(opens).count(), again, "{hashes:?}");
            }
        }
    }
}

#[test]
fn what_is_not_on_offer_is_judged_by_the_hashes_that_the_station_names() {
    let offers = vec![
        Offer::Track {
            recording: RECORDING,
            track: TrackId(1),
            durable: Sequences::below(2),
            end: 9,
        },
        Offer::Ready,
    ];
    let held = Sequences::below(4);
    for (own, is_ours) in [(9, true), (8, false)] {
        let mut session = session(offers.clone());
        session.connected(None, T0);
        drain(&mut session, T0);
        session.received(welcome(vec![(1, held.clone())], false), T0);
        let keys = vec![key(1, 2), key(1, 3)];
        let hashes = keys.iter().map(|key| (*key, Hash([own; 32]))).collect();
        let asked = Action::Report(Report::Claims { keys });
        assert_eq!(drain(&mut session, T0), [asked]);
        session.offer(chunk(1, 5, 0, 10, true), T0);
        session.received(Message::Erase(message::Erase { recording: OTHER }), T0);
        assert_eq!(drain(&mut session, T0), [], "nothing before it is known");
        session.offer(Offer::Hashes { hashes }, T0);
        let actions = drain(&mut session, T0);
        let durable = Action::Report(Report::Durable {
            recording: RECORDING,
            track: TrackId(1),
            durable: held.clone(),
        });
        let refused = Action::Report(Report::Refused {
            key: key(1, 2),
            code: ErrorCode::CONFLICT,
        });
        assert!(actions.contains(&Action::Report(Report::Connected)));
        assert_eq!(actions.contains(&durable), is_ours, "{actions:?}");
        assert_eq!(actions.contains(&refused), !is_ours, "{actions:?}");
        let opens = |action: &Action| matches!(action, Action::Open { .. });
        assert_eq!(actions.iter().any(opens), is_ours, "{actions:?}");
        assert_eq!(closes(&actions), None);
    }
}

#[test]
fn a_recording_is_complete_once_the_last_acknowledgement_is_there() {
    let whole = [chunk(1, 0, 0, 10, true), sealed(1, 0, 10)];
    let mut session = welcomed([vec![Offer::Ready], whole.into()].concat());
    drain(&mut session, T0);
    let complete = Message::Complete(Complete {
        recording: RECORDING,
    });
    let report = Action::Report(Report::Complete {
        recording: RECORDING,
    });
    session.received(complete, T0);
    assert_eq!(drain(&mut session, T0), []);
    session.received(durable(1, Sequences::below(1)), T0);
    let actions = drain(&mut session, T0);
    assert!(freed(&actions) && actions.contains(&report), "{actions:?}");
}

/// Numbers that the spool holds and has not offered: their names are enough to judge a receiver's word.
#[test]
fn what_is_not_offered_yet_is_judged_like_what_is() {
    let track = |durable, end| Offer::Track {
        recording: RECORDING,
        track: TrackId(1),
        durable: Sequences::below(durable),
        end,
    };
    let complete = || {
        Message::Complete(Complete {
            recording: RECORDING,
        })
    };
    let whole = |actions: &[Action]| {
        let whole = |action: &Action| matches!(action, Action::Report(Report::Complete { .. }));
        actions.iter().any(whole)
    };
    for (held, says_complete, expected) in
        [(5, true, 0), (4, true, 1), (4, false, 0), (6, false, 1)]
    {
        let mut session = session(vec![track(2, 5), Offer::Ready]);
        session.connected(None, T0);
        let said = welcome(vec![(1, Sequences::below(held))], says_complete);
        session.received(said, T0);
        // The spool has no seals of them: a number alone says nothing.
        let hashes = BTreeMap::new();
        session.offer(Offer::Hashes { hashes }, T0);
        let actions = drain(&mut session, T0);
        let got = (ahead(&actions), freed(&actions), whole(&actions));
        assert_eq!(got, (expected, false, false), "{held} {says_complete}");
    }
    for said_first in [true, false] {
        let mut session = session(vec![Offer::Ready, track(0, 3)]);
        session.connected(None, T0);
        session.received(welcome(vec![], false), T0);
        for (sequence, last) in [(0, false), (2, false), (1, true)] {
            session.offer(chunk(1, sequence, 0, 10, false), T0);
            session.offer(sealed(1, sequence, 10), T0);
            drain(&mut session, T0);
            let mut had = Sequences::below(1);
            had.insert(2);
            had.insert(sequence);
            session.received(durable(1, had), T0);
            // Everything that was offered is durable, and 1 is still to come.
            if said_first {
                session.received(complete(), T0);
            }
            let actions = drain(&mut session, T0);
            let expected = (0, last && said_first);
            assert_eq!((ahead(&actions), whole(&actions)), expected, "{sequence}");
        }
        session.received(complete(), T0);
        assert_eq!(whole(&drain(&mut session, T0)), !said_first);
    }
    let mut session = session(vec![Offer::Ready, track(0, 1)]);
    session.connected(None, T0);
    session.received(welcome(vec![], false), T0);
    let lost = Lost {
        recording: RECORDING,
        track: TrackId(1),
        first: 0,
        last: 4,
        reason: crate::media::LostReason::NoSpace,
    };
    let is_fact = true;
    session.offer(Offer::Lost { lost, is_fact }, T0);
    session.received(complete(), T0);
    assert!(whole(&drain(&mut session, T0)), "LOST is all there is");
}

#[test]
fn what_an_abridged_welcome_leaves_out_is_not_forgotten() {
    let mut known = Sequences::below(3);
    known.insert(7);
    let track = Offer::Track {
        recording: RECORDING,
        track: TrackId(1),
        durable: known.clone(),
        end: 9,
    };
    for abridged in [true, false] {
        let waits = [chunk(1, 3, 0, 10, false), sealed(1, 3, 10)];
        let offers = [vec![track.clone()], waits.into(), vec![Offer::Ready]];
        let mut session = session(offers.concat());
        session.connected(None, T0);
        let mut said = welcome(vec![(1, Sequences::below(4))], false);
        if let Message::Welcome(welcome) = &mut said {
            welcome.abridged = abridged;
        }
        session.received(said, T0);
        let forgot = |action: &Action| matches!(action, Action::Report(Report::Forgot { .. }));
        let actions = drain(&mut session, T0);
        assert_eq!(actions.iter().any(forgot), !abridged);
        assert!(freed(&actions) && session.pending() == 0);
    }
}

#[test]
fn an_erased_recording_is_reported_dropped_and_confirmed() {
    let erased = |message| matches!(message, Action::Control(Message::Erased(_)));
    let erase = Action::Report(Report::Erase {
        recording: RECORDING,
    });
    let offers = vec![Offer::Ready, chunk(1, 0, 0, 100, true), other(0)];
    let mut by_welcome = session(offers.clone());
    by_welcome.connected(None, T0);
    let mut said = welcome(vec![], false);
    if let Message::Welcome(welcome) = &mut said {
        welcome.erased = vec![RECORDING];
    }
    by_welcome.received(said, T0);
    let mut by_message = welcomed(offers.clone());
    drain(&mut by_message, T0);
    by_message.received(
        Message::Erase(message::Erase {
            recording: RECORDING,
        }),
        T0,
    );
    let mut by_refusal = welcomed(offers);
    drain(&mut by_refusal, T0);
    by_refusal.stopped(key(1, 0), ErrorCode::ERASED, T0);
    for mut session in [by_welcome, by_message, by_refusal] {
        let actions = drain(&mut session, T0);
        assert_eq!(actions.iter().filter(|a| **a == erase).count(), 1);
        assert_eq!(session.pending(), 1, "the other recording's");
        // The lanes may still give some of it.
        session.offer(chunk(1, 0, 100, 10, true), T0);
        session.offer(chunk(2, 0, 0, 10, true), T0);
        assert_eq!(session.pending(), 1);
        let gone = Offer::Erased {
            recording: RECORDING,
        };
        session.offer(gone, T0);
        assert!(drain(&mut session, T0).into_iter().any(erased));
    }
    // Said while nobody listens, it is confirmed on the next connection.
    let mut session = session(vec![Offer::Ready]);
    session.offer(
        Offer::Erased {
            recording: RECORDING,
        },
        T0,
    );
    session.connected(None, T0);
    session.received(welcome(vec![], false), T0);
    assert!(drain(&mut session, T0).into_iter().any(erased));
}

#[test]
fn what_is_lost_is_dropped_and_said_until_the_recording_is_whole() {
    let lost = Lost {
        recording: RECORDING,
        track: TrackId(1),
        first: 0,
        last: 1,
        reason: crate::media::LostReason::ReceiverForgot,
    };
    let said = |actions: &[Action]| actions.contains(&Action::Control(Message::Lost(lost)));
    let offers = || {
        vec![
            Offer::Ready,
            chunk(1, 0, 0, 9, true),
            chunk(1, 2, 0, 9, true),
        ]
    };
    for is_fact in [false, true] {
        let mut session = welcomed(offers());
        session.offer(Offer::Lost { lost, is_fact }, T0);
        assert_eq!(said(&drain(&mut session, T0)), !is_fact);
        assert_eq!(session.pending(), 1);
        session.received(received(1, 0, 9), T0);
        session.disconnected(None, String::new(), T0);
        session.connected(None, T0);
        session.received(welcome(vec![], false), T0);
        let actions = drain(&mut session, T0);
        assert_eq!((said(&actions), closes(&actions)), (!is_fact, None));
    }
}

#[test]
fn a_refused_epoch_is_reported_once_and_gone_past() {
    let fenced = |epoch| {
        Message::Error(ErrorMessage {
            code: ErrorCode::FENCED,
            text: String::new(),
            key: None,
            epoch: Some(epoch),
        })
    };
    let mut session = session(vec![Offer::Ready]);
    session.connected(None, T0);
    drain(&mut session, T0);
    session.received(fenced(6), T0);
    assert_eq!(drain(&mut session, T0), [], "ours is 7");
    session.received(fenced(50), T0);
    let report = Action::Report(Report::Fenced { epoch: 50 });
    assert_eq!(drain(&mut session, T0), [report]);
    session.set_epoch(51);
    session.disconnected(Some(ErrorCode::FENCED), String::new(), T0);
    drain(&mut session, T0);
    session.connected(None, T0);
    let Action::Control(Message::Hello(hello)) = session.next(T0) else {
        panic!("no greeting");
    };
    assert_eq!((hello.epoch, hello.connection), (51, 1));
    // Displaced by a later process of the same key it does not fight.
    session.received(welcome(vec![], false), T0);
    drain(&mut session, T0);
    session.received(fenced(90), T0);
    assert_eq!(drain(&mut session, T0), []);
}

#[test]
fn a_whole_recording_is_still_asked_for_after_the_open_ones() {
    let track = |recording| Offer::Track {
        recording,
        track: TrackId(1),
        durable: Sequences::below(2),
        end: 2,
    };
    let mut session = session(vec![
        track(RECORDING),
        Offer::Whole {
            recording: RECORDING,
        },
        track(OTHER),
        Offer::Ready,
    ]);
    session.connected(None, T0);
    let Action::Control(Message::Hello(hello)) = session.next(T0) else {
        panic!("no greeting");
    };
    let named: Vec<_> = hello.recordings.iter().map(|r| r.recording).collect();
    assert_eq!(named, [OTHER, RECORDING]);
    // It was restored from an older copy and says so.
    session.received(welcome(vec![(1, Sequences::below(1))], false), T0);
    let forgot = |action: &Action| matches!(action, Action::Report(Report::Forgot { recording, .. }) if *recording == RECORDING);
    assert!(drain(&mut session, T0).iter().any(forgot));
    session.offer(chunk(1, 1, 0, 10, false), T0);
    session.offer(sealed(1, 1, 10), T0);
    drain(&mut session, T0);
    session.received(durable(1, Sequences::below(2)), T0);
    session.received(
        Message::Complete(Complete {
            recording: RECORDING,
        }),
        T0,
    );
    let whole = Action::Report(Report::Complete {
        recording: RECORDING,
    });
    assert!(drain(&mut session, T0).contains(&whole));
}

#[test]
fn every_recording_of_a_large_spool_is_asked_about_once_nothing_else_is_to_do() {
    let id = |number: u8| RecordingId([number; 16]);
    let mut offers = Vec::new();
    for number in 0..150 {
        let (recording, track) = (id(number), TrackId(1));
        offers.push(Offer::Track {
            recording,
            track,
            durable: Sequences::below(2),
            end: 2,
        });
        offers.push(Offer::Whole { recording });
    }
    offers.push(Offer::Ready);
    let mut session = session(offers);
    // Answers as a receiver that has everything, but that recording 3 was erased; gives what was named.
    let greet = |session: &mut Session| -> BTreeSet<RecordingId> {
        session.connected(None, T0);
        let Action::Control(Message::Hello(hello)) = session.next(T0) else {
            panic!("no greeting");
        };
        let held = |open: &OpenRecording| HeldRecording {
            recording: open.recording,
            tracks: vec![HeldTrack {
                track: TrackId(1),
                durable: Sequences::below(2),
                hashes: vec![],
            }],
        };
        let named: BTreeSet<_> = hello.recordings.iter().map(|open| open.recording).collect();
        let erased: Vec<_> = named.iter().copied().filter(|of| *of == id(3)).collect();
        let rest = hello
            .recordings
            .iter()
            .filter(|open| ![id(3), OTHER].contains(&open.recording));
        session.received(
            Message::Welcome(Welcome {
                recordings: rest.clone().map(held).collect(),
                complete: rest.map(|open| open.recording).collect(),
                clock: None,
                limits: Limits::default(),
                software: String::new(),
                erased,
                abridged: false,
            }),
            T0,
        );
        named
    };
    // While a lecture is recorded, no connection ends for this.
    session.offer(other(0), T0);
    let mut asked = greet(&mut session);
    assert_eq!(asked.len(), message::MAX_RECORDINGS);
    assert_eq!(closes(&drain(&mut session, T0)), None);
    session.offer(Offer::Forget { recording: OTHER }, T0);
    let mut erased = false;
    for round in 0..3 {
        let actions = drain(&mut session, T0);
        let erase = |action: &Action| matches!(action, Action::Report(Report::Erase { recording }) if *recording == id(3));
        erased |= actions.iter().any(erase);
        let more = (round < 2).then_some(ErrorCode::DONE);
        assert_eq!(closes(&actions), more, "{}", asked.len());
        if more.is_some() {
            session.disconnected(more, String::new(), T0);
            drain(&mut session, T0);
            asked.append(&mut greet(&mut session));
        }
    }
    assert!(erased, "the oldest are asked about, too");
    assert_eq!((0..150).find(|number| !asked.contains(&id(*number))), None);
    // Another connection may be to a receiver that was restored: the round begins anew.
    session.disconnected(None, String::new(), T0);
    drain(&mut session, T0);
    greet(&mut session);
    assert_eq!(closes(&drain(&mut session, T0)), Some(ErrorCode::DONE));
}

#[test]
fn a_complete_recording_is_reported_once() {
    let mut session = welcomed(vec![
        Offer::Ready,
        chunk(0, 0, 0, 10, true),
        sealed(0, 0, 10),
    ]);
    drain(&mut session, T0);
    let complete = Message::Complete(Complete {
        recording: RECORDING,
    });
    session.received(durable(0, Sequences::below(1)), T0);
    session.received(complete.clone(), T0);
    session.received(complete, T0);
    let actions = drain(&mut session, T0);
    let report = Action::Report(Report::Complete {
        recording: RECORDING,
    });
    assert_eq!(
        actions.iter().filter(|action| **action == report).count(),
        1
    );
    session.disconnected(None, String::new(), T0);
    drain(&mut session, T0);
    session.connected(None, T0);
    let Action::Control(Message::Hello(hello)) = session.next(T0) else {
        panic!("no greeting");
    };
    assert_eq!((hello.recordings.len(), hello.connection), (1, 2));
}

#[test]
fn a_stopped_stream_is_tried_again_later_and_a_conflict_holds_its_recording_back() {
    let offers = vec![Offer::Ready, chunk(1, 0, 0, 100, false), sealed(1, 0, 100)];
    let mut session = welcomed(offers.clone());
    drain(&mut session, T0);
    session.stopped(key(1, 0), ErrorCode::STORE_FAILED, T0);
    assert_eq!(drain(&mut session, at(999)), []);
    let opens = |action: &Action| matches!(action, Action::Open { .. });
    assert!(drain(&mut session, at(1000)).iter().any(opens));

    let mut session = welcomed(offers);
    drain(&mut session, T0);
    let conflict = Message::Error(ErrorMessage {
        code: ErrorCode::CONFLICT,
        text: String::new(),
        key: Some(key(1, 0)),
        epoch: None,
    });
    session.received(conflict, T0);
    let refused = Report::Refused {
        key: key(1, 0),
        code: ErrorCode::CONFLICT,
    };
    assert_eq!(drain(&mut session, at(100_000)), [Action::Report(refused)]);
    session.offer(chunk(1, 1, 0, 10, true), at(100_000));
    session.received(durable(1, Sequences::below(1)), at(100_000));
    assert_eq!(drain(&mut session, at(100_000)), []);
    assert_eq!(session.pending(), 2, "refused is not durable");
}

#[test]
fn a_segment_is_unreadable_when_the_receiver_misses_an_init_that_could_not_be_read() {
    let offers = vec![Offer::Ready, chunk(1, 0, 0, 100, false), sealed(1, 0, 100)];
    let mut session = welcomed(offers);
    let init = Hash([1; 32]);
    let told = |actions: &[Action]| {
        let told = actions.iter().filter_map(|action| match action {
            Action::Report(Report::Unreadable { damaged, .. }) => Some(*damaged),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    let missing = ErrorCode::INIT_MISSING;
    // Damaged twice, then a disk that fails, then it is read and the receiver misses it all the same.
    let mut now = T0;
    for (kind, expected) in [
        (Some(io::ErrorKind::InvalidData), vec![true]),
        (Some(io::ErrorKind::UnexpectedEof), vec![true]),
        (Some(io::ErrorKind::Other), vec![false]),
        (None, vec![]),
    ] {
        let actions = drain(&mut session, now);
        let sent =
            |action: &Action| matches!(action, Action::SendInit { hash, .. } if *hash == init);
        assert!(actions.iter().any(sent), "it is asked for again");
        let error = kind.map(io::Error::from);
        session.init_read(init, error.as_ref().map_or(Ok(()), Err));
        let before = drain(&mut session, now);
        assert!(told(&before).is_empty(), "the receiver may have it");
        session.stopped(key(1, 0), missing, now);
        assert_eq!(told(&drain(&mut session, now)), expected);
        now = now.plus(Duration::from_secs(61));
    }
}

/// What waits in the spool may be weeks of a lecture hall: this is what each segment of it costs.
#[test]
fn a_pending_segment_costs_little_memory() {
    let place = std::mem::size_of::<Place>();
    let segment = std::mem::size_of::<Segment>();
    let pieces = 4 * std::mem::size_of::<segment::Piece>();
    let key = std::mem::size_of::<SegmentKey>();
    // A B-tree's nodes are at least half full.
    let most = 2 * (place + key + segment) + pieces;
    println!(
        "segment {segment} + key {key} + place {place} + pieces {pieces}: at most {most} bytes"
    );
    assert!(most <= 650, "{most}");
}

#[test]
fn a_forgotten_recording_is_given_up_and_late_words_on_it_do_no_harm() {
    let mut session = welcomed(vec![Offer::Ready, chunk(1, 0, 0, 100, true)]);
    drain(&mut session, T0);
    session.offer(
        Offer::Forget {
            recording: RECORDING,
        },
        T0,
    );
    assert_eq!(drain(&mut session, T0), [Action::Reset { key: key(1, 0) }]);
    for word in [received(1, 0, 100), durable(1, Sequences::below(1))] {
        session.received(word, T0);
        assert_eq!(drain(&mut session, T0), []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_breaks_everything_sealed_becomes_durable_and_nothing_else(
        steps in prop::collection::vec(model::step(), 1..250),
    ) {
        let mut model = Model::new();
        for step in steps {
            model.take(step);
        }
        model.settle();
    }
}

#[test]
fn only_the_newest_report_of_health_is_said_after_all_else_and_to_nobody_unless_connected() {
    use crate::media::health::Health;
    let report = |state: &str| {
        Offer::Health(Box::new(Health {
            state: state.into(),
            ..Health::default()
        }))
    };
    let said = |actions: &[Action]| -> Vec<(usize, String)> {
        let said = |(at, action): (usize, &Action)| match action {
            Action::Control(Message::Status(health)) => Some((at, health.state.clone())),
            _ => None,
        };
        actions.iter().enumerate().filter_map(said).collect()
    };
    let mut session = welcomed(vec![Offer::Ready]);
    session.offer(report("old"), T0);
    session.offer(chunk(1, 0, 0, 9, true), T0);
    session.offer(report("new"), T0);
    let actions = drain(&mut session, T0);
    let last = actions.len() - 1;
    assert!(last > 0, "the chunk is sent first");
    assert_eq!(said(&actions), [(last, "new".to_owned())]);
    assert_eq!(said(&drain(&mut session, T0)), []);

    session.offer(report("unsaid"), T0);
    session.disconnected(None, String::new(), T0);
    session.connected(None, T0);
    session.received(welcome(vec![], false), T0);
    assert_eq!(
        said(&drain(&mut session, T0)),
        [],
        "of the connection before"
    );

    session.disconnected(None, String::new(), T0);
    session.offer(report("away"), T0);
    session.connected(None, T0);
    session.offer(report("greeting"), T0);
    session.received(welcome(vec![], false), T0);
    assert_eq!(said(&drain(&mut session, T0)), []);
}

fn command(id: u64) -> Message {
    let action = Commanded::Start;
    Message::Command(Command { id, action })
}

fn answer(id: u64) -> Offer {
    Offer::Answer(Answer {
        id,
        refused: None,
        recording: Some(RECORDING),
    })
}

/// The commands reported among these, and the answers with what they refuse.
fn commands(actions: &[Action]) -> (Vec<u64>, Vec<(u64, Option<String>)>) {
    let reported = actions.iter().filter_map(|action| match action {
        Action::Report(Report::Command { command, .. }) => Some(command.id),
        _ => None,
    });
    let answered = actions.iter().filter_map(|action| match action {
        Action::Control(Message::Answer(answer)) => Some((answer.id, answer.refused.clone())),
        _ => None,
    });
    (reported.collect(), answered.collect())
}

#[test]
fn a_command_before_the_welcome_or_said_twice_is_not_heard_and_what_is_over_is_not_answered() {
    let mut session = session(vec![Offer::Ready]);
    session.connected(None, T0);
    session.received(command(1), T0);
    session.offer(answer(1), T0);
    session.received(welcome(vec![], false), T0);
    session.received(command(2), at(5));
    session.received(command(2), at(6));
    let actions = drain(&mut session, at(7));
    assert_eq!(closes(&actions), None);
    assert_eq!(commands(&actions), (vec![2], vec![]));
    session.disconnected(None, String::new(), at(8));
    session.connected(None, at(9));
    session.received(welcome(vec![], false), at(9));
    session.offer(answer(2), at(10));
    assert_eq!(commands(&drain(&mut session, at(10))), (vec![], vec![]));
}

#[test]
fn no_more_than_a_few_commands_wait_and_the_others_are_refused_at_once() {
    let mut session = welcomed(vec![Offer::Ready]);
    (0..20).for_each(|id| session.received(command(id), T0));
    let (reported, refused) = commands(&drain(&mut session, T0));
    assert_eq!(reported, (0..8).collect::<Vec<_>>());
    let busy = |(id, why): &(u64, Option<String>)| {
        *id >= 8 && why.as_ref().is_some_and(|why| why.starts_with("busy"))
    };
    assert!(
        refused.len() == 12 && refused.iter().all(busy),
        "{refused:?}"
    );
    session.offer(answer(3), at(1));
    session.received(command(30), at(1));
    let (reported, answered) = commands(&drain(&mut session, at(1)));
    assert_eq!((reported, answered), (vec![30], vec![(3, None)]));
    // Another connection begins anew.
    session.disconnected(None, String::new(), at(2));
    session.connected(None, at(3));
    session.received(welcome(vec![], false), at(3));
    (40..48).for_each(|id| session.received(command(id), at(3)));
    let (reported, refused) = commands(&drain(&mut session, at(3)));
    assert_eq!((reported.len(), refused.len()), (8, 0));
}
