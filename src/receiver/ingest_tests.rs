//! Tests of the engine: bytes in, work out.

use super::*;
use crate::media::{Sequences, TrackId};
use crate::wire::message::{HeldTrack, OpenRecording, Watermark};
use crate::wire::stream::{self, chunk_head, init_stream, segment_head, trailer};
use proptest::prelude::*;
use std::sync::atomic::Ordering;

const BOX: BoxId = BoxId([9; 16]);

fn hello(box_id: BoxId) -> Message {
    Message::Hello(Hello {
        box_id,
        epoch: 1,
        connection: 1,
        nonce: 1,
        software: "test".into(),
        recordings: vec![OpenRecording {
            recording: RecordingId([7; 16]),
            tracks: vec![Watermark {
                track: TrackId(1),
                next: 0,
            }],
        }],
        clock: None,
    })
}

fn welcome() -> Welcome {
    Welcome {
        recordings: vec![],
        complete: vec![],
        clock: None,
        limits: Default::default(),
        software: "test".into(),
        erased: vec![],
        abridged: false,
    }
}

fn open(config: Config) -> Ingest {
    let mut engine = Ingest::new(BOX, config);
    let work = engine.control(&framing::encode(&hello(BOX)).unwrap());
    assert!(matches!(work.as_slice(), [Work::Greet(_)]), "{work:?}");
    engine.welcome(welcome());
    engine
}

fn key() -> SegmentKey {
    SegmentKey {
        recording: RecordingId([7; 16]),
        track: TrackId(1),
        sequence: 3,
    }
}

fn segment_stream(chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = segment_head(&SegmentHeader {
        key: key(),
        init: None,
    });
    for chunk in chunks {
        bytes.extend(chunk_head(chunk.len() as u32));
        bytes.extend(chunk);
    }
    let all = chunks.concat();
    bytes.extend(trailer(all.len() as u64, &stream::hash(&all)));
    bytes
}

fn offsets(work: &[Work]) -> Vec<u64> {
    let offset = |work: &Work| match work {
        Work::Send(Message::Received(received)) => Some(received.offset),
        _ => None,
    };
    work.iter().filter_map(offset).collect()
}

#[test]
fn a_segment_is_received_step_by_step_and_kept_only_at_its_end() {
    let mut engine = open(Config::default());
    let chunks = vec![vec![1; 150_000], vec![2; 1000]];
    let stream = segment_stream(&chunks);
    let mut work = Vec::new();
    for piece in stream.chunks(10_000) {
        work.extend(engine.stream(5, piece));
    }
    let offsets = offsets(&work);
    assert!(offsets.is_sorted(), "{offsets:?}");
    assert!(offsets.contains(&150_000) && offsets.ends_with(&[151_000]));
    assert!(
        offsets
            .windows(2)
            .all(|pair| pair[1] - pair[0] <= 64 * 1024 + 10_000)
    );
    assert_eq!(work.len(), offsets.len());
    let mut work = engine.finished(5);
    let Some(Work::Keep {
        header,
        bytes,
        hash,
        ..
    }) = work.pop()
    else {
        panic!("{work:?}")
    };
    assert_eq!((header.key, &bytes), (key(), &chunks.concat()));
    assert_eq!(hash, stream::hash(&bytes));
    let kept = Kept {
        durable: Sequences::below(4),
        hash,
        complete: true,
    };
    let work = engine.kept(key(), bytes.len() as u64, Ok(kept));
    let [
        Work::Send(Message::Durable(durable)),
        Work::Send(Message::Complete(_)),
    ] = work.as_slice()
    else {
        panic!("{work:?}")
    };
    assert!(durable.durable.contains(3));
    let sequence = key().sequence;
    assert_eq!(durable.hashes, [SegmentHash { sequence, hash }]);
    assert_eq!(engine.held, 0);
}

#[test]
fn what_is_not_kept_is_never_acknowledged() {
    let mut engine = open(Config::default());
    let work = engine.kept(key(), 0, Err(KeepError::OtherName(key())));
    let [Work::Send(Message::Error(error))] = work.as_slice() else {
        panic!("{work:?}")
    };
    assert_eq!((error.code, error.key), (ErrorCode::PROTOCOL, Some(key())));
}

#[test]
fn an_init_is_kept_by_its_hash() {
    let mut engine = open(Config::default());
    let stream = init_stream(&stream::hash(b"init"), b"init");
    assert!(engine.stream(1, &stream).is_empty());
    let work = engine.finished(1);
    let [Work::KeepInit { hash, bytes }] = work.as_slice() else {
        panic!("{work:?}")
    };
    assert_eq!(
        (*hash, bytes.as_slice()),
        (stream::hash(b"init"), &b"init"[..])
    );
    assert_eq!(engine.held, 4);
    let work = engine.init_kept(stream::hash(b"init"), 4, Ok(()));
    assert!(matches!(work, Work::Send(Message::InitDurable(_))));
    assert_eq!(engine.held, 0);
}

#[test]
fn only_hello_of_the_certificate_s_box_opens_a_session() {
    for (message, code) in [
        (hello(BoxId([1; 16])), ErrorCode::WRONG_BOX),
        (Message::Status(Default::default()), ErrorCode::PROTOCOL),
        (Message::Welcome(welcome()), ErrorCode::PROTOCOL),
    ] {
        let mut engine = Ingest::new(BOX, Config::default());
        let bytes = framing::encode(&message).unwrap();
        let work = engine.control(&bytes);
        assert!(
            matches!(work.as_slice(), [Work::Close { code: found, .. }] if *found == code),
            "{work:?}"
        );
        assert!(
            engine.control(&bytes).is_empty(),
            "a closed session answers"
        );
    }
    let mut engine = open(Config::default());
    let again = engine.control(&framing::encode(&hello(BOX)).unwrap());
    assert!(matches!(
        again.as_slice(),
        [Work::Close {
            code: ErrorCode::PROTOCOL,
            ..
        }]
    ));
}

#[test]
fn nothing_is_read_of_streams_before_the_welcome() {
    let mut engine = Ingest::new(BOX, Config::default());
    assert!(engine.stream(0, &segment_stream(&[vec![1; 10]])).is_empty());
    assert!(engine.finished(0).is_empty());
}

#[test]
fn memory_is_bounded_and_freed() {
    let mut engine = open(Config {
        held_bytes: 1000,
        ..Config::default()
    });
    let stream = segment_stream(&[vec![1; 900]]);
    engine.stream(0, &stream[..stream.len() - 50]);
    let work = engine.stream(4, &stream);
    let [
        Work::Send(Message::Error(error)),
        Work::Stop {
            stream: 4,
            code: ErrorCode::BUSY,
            ..
        },
    ] = work.as_slice()
    else {
        panic!("{work:?}")
    };
    assert_eq!(error.key, Some(key()));
    engine.cut(0);
    assert_eq!(engine.held, 0);
    let work = engine.stream(8, &stream);
    assert_eq!(offsets(&work), [900]);
}

#[test]
fn inits_count_as_memory() {
    let mut engine = open(Config {
        held_bytes: 1000,
        ..Config::default()
    });
    let init = [1; 600];
    let stream = init_stream(&stream::hash(&init), &init);
    for piece in stream.chunks(100) {
        assert!(engine.stream(0, piece).is_empty());
    }
    assert_eq!(engine.held, 600);
    let work = engine.stream(4, &stream);
    let is_stopped = matches!(
        work.as_slice(),
        [
            Work::Send(Message::Error(_)),
            Work::Stop {
                stream: 4,
                code: ErrorCode::BUSY,
                ..
            }
        ]
    );
    assert!(is_stopped, "{work:?}");
    engine.cut(0);
    assert_eq!(engine.held, 0);
    assert!(engine.stream(8, &stream[..500]).is_empty());
    engine.finished(8);
    assert_eq!(engine.held, 0);
}

#[test]
fn memory_of_all_sessions_is_bounded_and_leaves_some_for_another() {
    let most = 320_000;
    let budget = Arc::new(Budget::new(most));
    let stream = segment_stream(&[vec![1; 900]]);
    let mut sessions = Vec::new();
    for _ in 0..40 {
        let mut greedy = open(Config::default()).sharing(budget.clone());
        let taken = (0..100)
            .take_while(|id| {
                let work = greedy.stream(*id, &stream[..stream.len() - 50]);
                !work.iter().any(|work| matches!(work, Work::Stop { .. }))
            })
            .count();
        sessions.push((greedy, taken));
    }
    let taken: Vec<_> = sessions.iter().map(|(_, taken)| *taken).collect();
    let held = budget.held.load(Ordering::Relaxed);
    println!("of {most} bytes {held} are held, in segments by session: {taken:?}");
    assert!(held <= most && held > most / 2);
    assert!(taken[0] > 1 && taken[0] <= 12, "{taken:?}");
    assert!(taken.iter().all(|taken| *taken > 0), "{taken:?}");
    for (engine, _) in &mut sessions[..20] {
        engine.cut(0);
    }
    assert!(budget.held.load(Ordering::Relaxed) < held);
    drop(sessions);
    assert_eq!(budget.held.load(Ordering::Relaxed), 0);
}

#[test]
fn a_welcome_that_does_not_fit_is_cut_not_refused() {
    let mut engine = open(Config::default());
    let mut sparse = Sequences::below(5);
    (0..256).for_each(|n| sparse.insert(u64::MAX / 2 + 3 * n));
    let track = |track| HeldTrack {
        track: TrackId(track),
        durable: sparse.clone(),
        hashes: vec![],
    };
    let mut big = welcome();
    for id in 0..64 {
        big.recordings.push(crate::wire::message::HeldRecording {
            recording: RecordingId([id; 16]),
            tracks: (0..8).map(track).collect(),
        });
    }
    let Work::Send(message) = engine.welcome(big) else {
        panic!("closed")
    };
    assert!(framing::encode(&message).is_ok());
    let Message::Welcome(sent) = message else {
        panic!("{message:?}")
    };
    assert_eq!(sent.recordings.len(), 64);
}

proptest! {
    #[test]
    fn a_stream_cut_at_any_byte_leaves_nothing(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 1..4),
        at in any::<prop::sample::Index>(),
        reset in any::<bool>(),
    ) {
        let stream = segment_stream(&chunks);
        let at = at.index(stream.len());
        let mut engine = open(Config::default());
        engine.stream(0, &stream[..at]);
        let work = if reset {
            engine.cut(0);
            Vec::new()
        } else {
            engine.finished(0)
        };
        let kept = work.iter().any(|work| matches!(work, Work::Keep { .. } | Work::KeepInit { .. }));
        prop_assert!(!kept);
        prop_assert_eq!(engine.held, 0);
    }

    #[test]
    fn a_changed_byte_is_never_kept_as_the_same_segment(
        chunk in proptest::collection::vec(any::<u8>(), 1..200),
        at in any::<prop::sample::Index>(),
        flip in 1u8..=255,
    ) {
        let mut stream = segment_stream(std::slice::from_ref(&chunk));
        let head = segment_head(&SegmentHeader { key: key(), init: None }).len();
        let at = head + at.index(stream.len() - head);
        stream[at] ^= flip;
        let mut engine = open(Config::default());
        engine.stream(0, &stream);
        let kept = engine.finished(0).iter().any(|work| matches!(work, Work::Keep { .. }));
        prop_assert!(!kept);
        prop_assert_eq!(engine.held, 0);
    }

    #[test]
    fn noise_on_the_control_stream_never_lets_anyone_in(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut engine = Ingest::new(BOX, Config::default());
        let work = engine.control(&bytes);
        let refused = work.iter().all(|work| matches!(work, Work::Close { .. }));
        prop_assert!(refused);
    }
}
