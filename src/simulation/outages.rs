//! A link that is away for minutes and hours while a lecture is recorded, and what a long backlog costs.

use super::hall::{Hall, Keys, in_virtual_time};
use super::lecture::{Arrival, Lecture, Sizes};
use super::network::Link;
use super::random::Random;
use crate::media::{
    BoxId, Chunk, MediaTime, Monotonic, RecordingId, SegmentKey, Segmented, Sequences, TrackId,
};
use crate::spool::{self, LocalDisk, Spool};
use crate::station::custody::{self, Custody, Word};
use crate::uplink::Action;
use crate::uplink::session::{self, Session};
use crate::wire::Message;
use crate::wire::message::{Durable, Limits, SegmentHash, Welcome};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Backfill goes oldest first, on so many streams at once.
const STREAMS: usize = 8;

async fn dropped_for(keys: &Keys, away: Duration) {
    let mut random = Random::new(away.as_secs());
    let link = Link {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(5),
        reordered: 10_000,
        lost: 5_000,
        twice: 0,
        rate: Some(1_000_000),
        queue: 60_000,
    };
    let mut hall = Hall::new(keys, &mut random, link, link);
    let began = hall.network.now();
    let cut = began.plus(Duration::from_secs(20));
    let back = cut.plus(away);
    hall.lecture(Lecture {
        from: began.plus(Duration::from_secs(1)),
        until: back.plus(Duration::from_secs(90)),
        sizes: Sizes {
            rate: "1".parse().unwrap(),
            ..Sizes::small()
        },
    });
    hall.start_receiver().await;
    hall.start_box();
    hall.pass(cut).await;
    hall.network.cut(away);
    hall.pass(back).await;
    let settled = hall.settle(Duration::from_secs(3600)).await;
    assert!(settled, "{}", hall.why_not());
    hall.judge().await.unwrap();
    let plan = hall.plan.lock().unwrap();
    let again = *plan.connected.last().unwrap();
    assert_eq!(plan.connected.len(), 2, "{:?}", plan.ends);
    let reconnected = again.since(back);
    // The longest pause between two attempts, an attempt that fails, and one that does not.
    assert!(reconnected <= Duration::from_secs(45), "{reconnected:?}");
    let media = |arrival: &&Arrival| arrival.key.track != TrackId::EVENTS;
    let past = || {
        let all = plan.chunks.values().filter(media);
        // The newest segments are late or live, not backfill, and go before it.
        let newest = again.minus(Duration::from_secs(15));
        all.filter(move |arrival| cut <= arrival.offered && arrival.offered < newest)
    };
    let backfilled = past().filter_map(|arrival| arrival.received).max().unwrap();
    let live = plan.chunks.values().filter(media);
    let live: Vec<Duration> = live
        .filter(|arrival| again < arrival.offered && arrival.offered < backfilled)
        .filter_map(|arrival| Some(arrival.received?.since(arrival.offered)))
        .collect();
    let first = live.first().expect("live comes before the backfill ends");
    let latest = live.iter().max().unwrap();
    assert!(*latest < Duration::from_secs(2), "live was {latest:?} late");
    // Oldest first: what is further behind than there are streams came later.
    let mut order: BTreeMap<TrackId, BTreeMap<SegmentKey, _>> = BTreeMap::new();
    for arrival in past() {
        let track = order.entry(arrival.key.track).or_default();
        track.insert(arrival.key, arrival.received.unwrap());
    }
    let mut early = 0;
    for (track, segments) in &order {
        let times: Vec<_> = segments.values().collect();
        let overtaken = |pair: &&[_]| pair[0] > pair[STREAMS];
        let found = times.windows(STREAMS + 1).filter(overtaken).count();
        // A few come with what is late, at once: never in the way of what is older for long.
        assert!(
            found * 50 <= times.len(),
            "track {track}: {found} out of order"
        );
        early += found;
    }
    println!(
        "away for {} s: back {:.1} s after the link; {} segments behind arrived in {:.1} s, oldest \
         first but for {early}; meanwhile {} live chunks, the first {} ms late and the latest {} ms; complete",
        away.as_secs(),
        reconnected.as_secs_f64(),
        order.values().map(BTreeMap::len).sum::<usize>(),
        backfilled.since(again).as_secs_f64(),
        live.len(),
        first.as_millis(),
        latest.as_millis()
    );
}

#[test]
fn after_minutes_and_after_hours_everything_arrives_and_live_first() {
    let keys = Keys::make();
    let hours = if std::env::var_os("HALLCAST_SOAK").is_some() {
        6
    } else {
        1
    };
    for away in [600, hours * 3600] {
        in_virtual_time(dropped_for(&keys, Duration::from_secs(away)));
    }
}

/// The pages of this process in memory, as the kernel counts them.
fn resident() -> u64 {
    let counts = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = counts.split(' ').nth(1).unwrap();
    pages.parse::<u64>().unwrap() * 4096
}

/// A spool with so many hours of three tracks that no receiver has, and what an uplink knows of them:
/// segments at most, bytes of the whole process for the spool and for the uplink.
fn backlog_of(hours: u64) -> (u64, usize, [u64; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let open = || Spool::open(Arc::new(LocalDisk), spool::Config::new(directory.path())).unwrap();
    let now = Monotonic::default();
    let recording = RecordingId([7; 16]);
    let tracks = [TrackId(1), TrackId(2), TrackId(3)];
    let segments = hours * 1800;
    {
        let mut custody = Custody::new(
            Arc::new(Mutex::new(open().0)),
            1,
            custody::Config::default(),
        );
        custody.begin(recording, 0).unwrap();
        for sequence in 0..segments {
            for track in tracks {
                let key = SegmentKey {
                    recording,
                    track,
                    sequence,
                };
                let chunk = |index| {
                    Segmented::Chunk(Chunk {
                        key,
                        init: None,
                        index,
                        start: MediaTime::ZERO,
                        duration: 1,
                        captured: now,
                        bytes: vec![index as u8; 16],
                    })
                };
                for index in 0..8 {
                    custody.append(recording, &chunk(index)).unwrap();
                }
                custody.append(recording, &Segmented::Seal(key)).unwrap();
            }
            while custody.next_word().is_some() {}
            let due = custody.sync_at().unwrap();
            if sequence % 16 == 15 || sequence + 1 == segments {
                let job = custody.start_sync(due).unwrap();
                assert!(custody.synced(job.run()).is_empty());
            }
        }
    }
    let before = resident();
    let (spool, recovered) = open();
    let opened = resident();
    let mut custody = Custody::new(Arc::new(Mutex::new(spool)), 2, custody::Config::default());
    let mut session = Session::new(session::Config::new(BoxId([1; 16]), 2, 1));
    custody.take_up(&recovered);
    let (mut most, mut held, mut had) = (0, BTreeMap::<TrackId, Sequences>::new(), 0);
    let mut fed = 0;
    loop {
        while let Some(word) = custody.next_word() {
            if let Word::Offer(offer) = word {
                session.offer(offer, now);
            }
        }
        most = most.max(session.pending());
        if fed == 0 {
            fed = resident();
            session.connected(None, now);
            let welcome = Welcome {
                recordings: vec![],
                complete: vec![],
                clock: None,
                limits: Limits::default(),
                software: String::new(),
                erased: vec![],
                abridged: false,
            };
            session.received(Message::Welcome(welcome), now);
        }
        match session.next(now) {
            Action::Wait(_) => break,
            Action::Write { key, .. } => session.written(key),
            Action::Finish { key, hash, .. } => {
                session.written(key);
                had += 1;
                let durable = held.entry(key.track).or_default();
                durable.insert(key.sequence);
                let durable = Durable {
                    recording,
                    track: key.track,
                    durable: durable.clone(),
                    hashes: vec![SegmentHash {
                        sequence: key.sequence,
                        hash,
                    }],
                };
                session.received(Message::Durable(durable), now);
            }
            Action::Report(report) => {
                custody.report(&report).unwrap();
                if let Some(due) = custody.sync_at().filter(|_| had % 64 == 0) {
                    let job = custody.start_sync(due).unwrap();
                    assert!(custody.synced(job.run()).is_empty());
                }
            }
            _ => {}
        }
    }
    assert_eq!((had, session.pending()), (3 * segments, 0), "all of it");
    let cost = [opened.saturating_sub(before), fed.saturating_sub(opened)];
    (3 * segments, most, cost)
}

#[test]
fn what_the_uplink_knows_of_a_backlog_does_not_grow_with_it() {
    let hours: &[u64] = match std::env::var_os("HALLCAST_SOAK") {
        Some(_) => &[1, 10, 100],
        None => &[1, 3],
    };
    for hours in hours {
        let (segments, most, [spool, uplink]) = backlog_of(*hours);
        println!(
            "{hours} h, {segments} segments: the uplink knows at most {most} of them; resident memory \
             grew by {} KiB with the spool and {} KiB with the uplink",
            spool >> 10,
            uplink >> 10
        );
        assert_eq!(most, custody::Config::default().window);
    }
}
