//! A link that is away for minutes and hours while a lecture is recorded.

use super::hall::{Hall, Keys, in_virtual_time};
use super::lecture::{Arrival, Lecture, Sizes};
use super::network::Link;
use super::random::Random;
use crate::media::{SegmentKey, TrackId};
use std::collections::BTreeMap;
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
