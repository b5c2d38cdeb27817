use super::*;

const RECORDING: RecordingId = RecordingId([7; 16]);
const TRACK: TrackId = TrackId(1);

fn key(sequence: u64) -> SegmentKey {
    SegmentKey {
        recording: RECORDING,
        track: TRACK,
        sequence,
    }
}

fn hash(bytes: &[u8]) -> Hash {
    Hash(*blake3::hash(bytes).as_bytes())
}

fn made(sequence: u64, content: &[u8]) -> [Happening; 4] {
    let (key, length) = (key(sequence), content.len() as u64);
    let bytes = content.to_vec();
    [
        Happening::Segmented {
            key,
            offset: 0,
            bytes: bytes.clone(),
        },
        Happening::Kept { key, bytes: length },
        Happening::Sent {
            key,
            offset: 0,
            bytes,
            bulk: false,
        },
        Happening::Trailer {
            key,
            length,
            hash: hash(content),
        },
    ]
}

fn durable(below: u64) -> Happening {
    Happening::Durable {
        recording: RECORDING,
        track: TRACK,
        durable: Sequences::below(below),
    }
}

fn store(objects: &[(u64, &[u8])], complete: bool) -> Happening {
    let object =
        |(sequence, bytes): &(u64, &[u8])| (key(*sequence), bytes.len() as u64, hash(bytes));
    Happening::Store {
        objects: objects.iter().map(object).collect(),
        complete: if complete { vec![RECORDING] } else { vec![] },
    }
}

fn ended(total: u64) -> Happening {
    Happening::Ended {
        recording: RECORDING,
        totals: vec![(TRACK, total)],
    }
}

fn verdict(happenings: impl IntoIterator<Item = Happening>) -> String {
    let mut history = History::with_backfill_bound(4);
    happenings.into_iter().for_each(|it| history.note(it));
    history.judge().err().unwrap_or_default().join("\n")
}

#[test]
fn a_whole_recording_is_in_order() {
    let good = made(0, b"abc").into_iter().chain(made(1, b"de"));
    let rest = [
        durable(2),
        ended(2),
        store(&[(0, b"abc"), (1, b"de")], true),
        Happening::Released {
            key: key(0),
            recorded: true,
            hash: None,
        },
    ];
    assert_eq!(verdict(good.chain(rest)), "");
}

#[test]
fn each_kind_of_breach_is_found() {
    let one = || made(0, b"abc").into_iter();
    let whole = |store: Happening| one().chain([durable(1), ended(1), store]);
    let restarted = |held| Happening::Restarted {
        held,
        acknowledged: vec![],
        trusted: vec![],
    };
    let lost = Happening::Lost {
        recording: RECORDING,
        track: TRACK,
        first: 0,
        last: 0,
        reason: LostReason::ReceiverForgot,
    };
    let cases: Vec<(&str, Vec<Happening>)> = vec![
        ("false DURABLE", whole(store(&[], false)).collect()),
        (
            "is not what was segmented",
            whole(store(&[(0, b"abd")], true)).collect(),
        ),
        (
            "twice",
            whole(store(&[(0, b"abc"), (0, b"abc")], true)).collect(),
        ),
        ("no manifest", whole(store(&[(0, b"abc")], false)).collect()),
        (
            "neither stored nor LOST",
            one()
                .chain([ended(2), store(&[(0, b"abc")], true)])
                .collect(),
        ),
        ("reason that never was", one().chain([lost]).collect()),
        (
            "never said durable",
            one()
                .chain([Happening::Released {
                    key: key(0),
                    recorded: true,
                    hash: None,
                }])
                .collect(),
        ),
        (
            "recorded and kept",
            one()
                .chain([
                    durable(1),
                    Happening::Released {
                        key: key(0),
                        recorded: false,
                        hash: None,
                    },
                ])
                .collect(),
        ),
        (
            "a restart finds 2 bytes",
            one()
                .chain([Happening::BoxCrashed, restarted(vec![(key(0), 2)])])
                .collect(),
        ),
        (
            "used for a second content",
            one()
                .chain([Happening::BoxCrashed, restarted(vec![(key(0), 3)])])
                .chain(made(0, b"xyz"))
                .collect(),
        ),
        (
            "not kept",
            made(0, b"abc")
                .into_iter()
                .filter(|it| !matches!(it, Happening::Kept { .. }))
                .collect(),
        ),
        (
            "never segmented there",
            one()
                .chain([Happening::Read {
                    key: key(0),
                    offset: 1,
                    bytes: b"bx".to_vec(),
                }])
                .collect(),
        ),
        (
            "after its recording was erased",
            whole(store(&[(0, b"abc")], true))
                .chain([Happening::Erased {
                    recording: RECORDING,
                }])
                .collect(),
        ),
    ];
    let other = Happening::Released {
        key: key(0),
        recorded: true,
        hash: Some(hash(b"xyz")),
    };
    let two_machines = whole(store(&[(0, b"abc")], true)).chain([
        Happening::Cloned {
            recordings: [RECORDING].into(),
        },
        other,
        store(&[(0, b"abc")], true),
    ]);
    let cases = cases
        .into_iter()
        .chain([("acknowledgement of other bytes", two_machines.collect())]);
    for (expected, happenings) in cases {
        let said = verdict(happenings);
        assert!(said.contains(expected), "`{expected}` is not in `{said}`");
    }
}

#[test]
fn what_was_not_kept_may_begin_anew_and_what_is_erased_is_owed_to_nobody() {
    let torn = [
        Happening::Segmented {
            key: key(0),
            offset: 0,
            bytes: b"torn".to_vec(),
        },
        Happening::BoxCrashed,
        Happening::Restarted {
            held: vec![],
            acknowledged: vec![],
            trusted: vec![],
        },
    ];
    let again = made(0, b"abc").into_iter();
    let rest = [durable(1), ended(1), store(&[(0, b"abc")], true)];
    let erased = [
        Happening::Erased {
            recording: RECORDING,
        },
        store(&[], false),
    ];
    assert_eq!(
        verdict(torn.into_iter().chain(again).chain(rest).chain(erased)),
        ""
    );
}

#[test]
fn backfill_has_a_bound() {
    let sent = |sequence: u64| Happening::Sent {
        key: key(sequence),
        offset: 0,
        bytes: b"abc".to_vec(),
        bulk: true,
    };
    let segmented = |sequence: u64| made(sequence, b"abc").into_iter().next();
    let both = || {
        segmented(0)
            .into_iter()
            .chain(segmented(1))
            .chain([sent(0)])
    };
    let heard = Happening::Received {
        key: key(0),
        offset: 3,
    };
    assert!(verdict(both().chain([sent(1)])).contains("more than 4"));
    assert_eq!(verdict(both().chain([heard, sent(1)])), "");
}
