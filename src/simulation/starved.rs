//! A link whose rate falls below what the encoders make, and comes back: the breaker over real quinn.

use super::hall::{Hall, Keys, in_virtual_time};
use super::lecture::{Arrival, Lecture, Pictures, Sizes};
use super::network::Link;
use super::random::Random;
use crate::media::{Monotonic, TrackId};
use crate::uplink::breaker::{Config, SPOOL_ONLY};
use std::time::Duration;

const ONE_WAY: Duration = Duration::from_millis(20);

/// A link of so many kbit/s with a queue of 200 ms.
fn link(kbits: u64) -> Link {
    Link {
        delay: ONE_WAY,
        jitter: Duration::ZERO,
        reordered: 0,
        lost: 0,
        twice: 0,
        rate: Some(kbits * 1000),
        queue: kbits * 25,
    }
}

/// How late the chunks were that were offered in the last `seconds` before `until`: the median, 95 of
/// 100, and how many are not there.
fn lateness(hall: &Hall, until: Monotonic, seconds: u64) -> (Duration, Duration, usize) {
    let from = until.minus(Duration::from_secs(seconds));
    let plan = hall.plan.lock().unwrap();
    let offered = |arrival: &&Arrival| (from..until).contains(&arrival.offered);
    let chunks = plan.chunks.values().filter(offered);
    let media = chunks.filter(|arrival| arrival.key.track != TrackId::EVENTS);
    let received: Vec<_> = media.map(|a| (a.offered, a.received)).collect();
    let mut late: Vec<_> = received
        .iter()
        .filter_map(|(offered, received)| Some((*received)?.since(*offered) - ONE_WAY))
        .collect();
    late.sort_unstable();
    let at = |percent| {
        let at = late.len() * percent / 100;
        late.get(at).copied().unwrap_or(Duration::MAX)
    };
    (at(50), at(95), received.len() - late.len())
}

/// Lets so many seconds pass and says what came of live in the last ten; gives its p95, how many
/// chunks did not come, and the steps.
async fn pass(hall: &mut Hall, what: &str, seconds: u64) -> (Duration, usize, Vec<u8>) {
    let began = hall.network.now();
    let until = began.plus(Duration::from_secs(seconds));
    hall.pass(until).await;
    let (median, p95, missing) = lateness(hall, until.minus(Duration::from_secs(1)), 10);
    let plan = hall.plan.lock().unwrap();
    let steps = plan.steps.iter().filter(|(at, _)| *at >= began);
    let steps: Vec<_> = steps
        .map(|(at, step)| (at.since(began).as_secs(), *step))
        .collect();
    print!("{what}: steps (s, step) {steps:?}; at the end ");
    match p95 {
        Duration::MAX => println!("nothing live arrives, {missing} chunks wait"),
        _ => println!("live p50 {median:.0?}, p95 {p95:.0?}, {missing} chunks wait"),
    }
    (
        p95,
        missing,
        steps.into_iter().map(|(_, step)| step).collect(),
    )
}

/// Pictures of 1 Mbit/s and sound of 64 kbit/s.
async fn starve(keys: &Keys) {
    let mut random = Random::new(5);
    let mut hall = Hall::new(keys, &mut random, link(4000), link(4000));
    let began = hall.network.now();
    let end = began.plus(Duration::from_secs(480));
    hall.lecture(Lecture {
        from: began.plus(Duration::from_secs(1)),
        until: end,
        sizes: Sizes {
            rate: "30".parse().unwrap(),
            pictures: Pictures::Any {
                keyframe: 17_000,
                others: (2800, 5000),
            },
            sound: 266,
        },
    });
    hall.start_receiver().await;
    hall.start_box();
    let (well, missing, steps) = pass(&mut hall, "4 Mbit/s", 20).await;
    assert_eq!((missing, steps), (0, vec![]));

    hall.network.set_links(link(700), link(4000));
    let (narrow, missing, steps) = pass(&mut hall, "0.7 Mbit/s", 35).await;
    let settled = steps.last().is_some_and(|step| *step < SPOOL_ONLY);
    assert!(settled && steps.is_sorted(), "{steps:?}: a rung carries it");
    assert_eq!(missing, 0);
    let behind = Config::default().behind;
    assert!(narrow < behind, "{narrow:?}: live is in time again");

    hall.network.set_links(link(150), link(4000));
    let (_, missing, steps) = pass(&mut hall, "0.15 Mbit/s", 30).await;
    assert_eq!(steps.last(), Some(&SPOOL_ONLY), "to the spool only");
    assert!(missing > 0, "nothing is sent live");

    hall.network.set_links(link(4000), link(4000));
    let (again, missing, steps) = pass(&mut hall, "4 Mbit/s again", 300).await;
    assert_eq!(steps.last(), Some(&0), "the full rate");
    assert_eq!(missing, 0);
    assert!(again <= 2 * well, "{again:?}, {well:?} before");

    hall.pass(end).await;
    assert!(
        hall.settle(Duration::from_secs(120)).await,
        "{}",
        hall.why_not()
    );
    hall.judge().await.unwrap();
    println!(
        "complete {:.0} s after its end",
        hall.network.now().since(end).as_secs_f64()
    );
}

#[test]
fn on_a_starved_link_the_breaker_steps_down_to_the_spool_and_comes_back() {
    in_virtual_time(starve(&Keys::make()));
}
