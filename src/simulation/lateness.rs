//! How late live is while a backfill runs beside it, by congestion controller and loss.
//!
//! The link is 20 Mbit/s and 40 ms; live is what a 720p encoder makes of 4 Mbit/s, a chunk of 8
//! pictures at a time, keyframes included, and sound. The backfill is a recording of the hour before.

use super::hall::{Hall, Keys, in_virtual_time};
use super::lecture::{Arrival, Lecture, Pictures, Sizes};
use super::network::Link;
use super::random::Random;
use crate::media::{Monotonic, TrackId};
use crate::uplink::congestion::Congestion;
use std::time::Duration;

const ONE_WAY: Duration = Duration::from_millis(20);

fn link(lost: u32) -> Link {
    Link {
        delay: ONE_WAY,
        jitter: Duration::ZERO,
        reordered: 0,
        lost,
        twice: 0,
        rate: Some(20_000_000),
        // 100 ms.
        queue: 250_000,
    }
}

/// What the software encoder makes of two seconds of 720p30 at 4 Mbit/s once its rate control has
/// settled, measured as tests/support/sender.rs does.
const ENCODED: &[u64] = &[
    67900, 9552, 7897, 9346, 9319, 10741, 9104, 6390, 10670, 11465, 14023, 16538, 16239, 21565,
    21600, 21364, 17737, 17447, 16916, 17129, 16552, 16587, 16364, 15380, 16719, 17575, 17256,
    16276, 17080, 16936, 16260, 15382, 17579, 17270, 16367, 17042, 16989, 16936, 16200, 15184,
    17565, 17541, 16501, 16177, 16123, 17036, 16628, 15585, 17941, 16803, 16333, 17001, 16986,
    16959, 16144, 15195, 16550, 17335, 17127, 17367,
];

fn live() -> Sizes {
    Sizes {
        rate: "30".parse().unwrap(),
        pictures: Pictures::Like(ENCODED, 1),
        sound: 530,
    }
}

struct Measured {
    /// From the offer of a chunk to RECEIVED, the way back taken off.
    lateness: Vec<Duration>,
    /// The same without what its last datagram waited in the link's queue.
    above_queue: Vec<Duration>,
    queue_p95: Duration,
    backfill: u64,
    dropped: f64,
    chunks: usize,
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(Duration::MAX)
}

async fn measure(keys: &Keys, congestion: Congestion, lost: u32, live_for: Duration) -> Measured {
    let mut random = Random::new(7);
    let mut hall = Hall::new(keys, &mut random, link(0), link(0));
    hall.uplink.congestion = congestion;
    let began = hall.network.now();
    let after = |seconds| began.plus(Duration::from_secs(seconds));
    // Recorded while the link is away: more than the link carries beside live.
    let past = Lecture {
        from: after(1),
        until: after(1 + live_for.as_secs()),
        sizes: Sizes {
            pictures: Pictures::Like(ENCODED, 4),
            ..live()
        },
    };
    hall.lecture(past);
    let start = past.until.plus(Duration::from_secs(2));
    let end = start.plus(live_for);
    hall.lecture(Lecture {
        from: start,
        until: end,
        sizes: live(),
    });
    hall.network.cut(start.since(began));
    hall.uplink.retry = (Duration::from_millis(100), Duration::from_millis(100));
    hall.start_receiver().await;
    hall.start_box();
    hall.pass(start.plus(Duration::from_secs(3))).await;
    // The connection stands; from here on it loses.
    hall.network.set_links(link(lost), link(0));
    let (from, before) = (hall.network.now(), hall.network.counts());
    let waited_before = hall.network.waits_up().len();
    hall.pass(end).await;
    let counts = hall.network.counts();
    let plan = hall.plan.lock().unwrap();
    let waits = hall.network.waits_up();
    let queue_at = |at: Monotonic| {
        let behind = waits.partition_point(|(arrived, _)| *arrived <= at);
        waits[..behind]
            .last()
            .map_or(Duration::ZERO, |(_, wait)| *wait)
    };
    let of_live = |arrival: &&Arrival| {
        arrival.offered >= from
            && arrival.offered < end.minus(Duration::from_secs(2))
            && arrival.key.track != TrackId::EVENTS
    };
    let mut measured = Measured {
        lateness: Vec::new(),
        above_queue: Vec::new(),
        queue_p95: Duration::ZERO,
        backfill: 0,
        dropped: (counts.overflowed - before.overflowed) as f64 * 100.0
            / (counts.sent - before.sent) as f64,
        chunks: 0,
    };
    for arrival in plan.chunks.values().filter(of_live) {
        // What did not arrive is as late as it can be seen to be.
        let heard = arrival.received.unwrap_or(hall.network.now());
        let there = heard.minus(ONE_WAY);
        let late = there.since(arrival.offered);
        measured.lateness.push(late);
        measured
            .above_queue
            .push(late.saturating_sub(queue_at(there)));
        measured.chunks += 1;
    }
    let mut queue: Vec<_> = waits[waited_before..]
        .iter()
        .map(|(_, wait)| *wait)
        .collect();
    queue.sort_unstable();
    measured.queue_p95 = percentile(&queue, 95);
    measured.lateness.sort_unstable();
    measured.above_queue.sort_unstable();
    let mut last_end = std::collections::BTreeMap::new();
    for ((key, end), arrival) in &plan.chunks {
        let start = last_end.insert(*key, *end).unwrap_or(0);
        if arrival.offered < past.until && arrival.received.is_some_and(|at| at >= from) {
            measured.backfill += end - start;
        }
    }
    drop(plan);
    measured.backfill = measured.backfill * 8 / (end.since(from).as_millis() as u64);
    measured
}

#[test]
fn live_is_not_late_beside_a_backfill_also_when_packets_are_lost() {
    let keys = Keys::make();
    let long = std::env::var_os("HALLCAST_SOAK").is_some();
    let live_for = Duration::from_secs(if long { 120 } else { 30 });
    println!(
        "20 Mbit/s, 40 ms, queue 100 ms; live 4 Mbit/s with sound, {} s; lateness in ms:",
        live_for.as_secs()
    );
    println!(
        "controller  loss   p50   p95   max   queue p95   above it p95   backfill kbit/s   dropped %"
    );
    for congestion in [Congestion::Cubic, Congestion::Bbr, Congestion::Floor] {
        for lost in [0, 10_000, 30_000] {
            let found = in_virtual_time(measure(&keys, congestion, lost, live_for));
            let above = percentile(&found.above_queue, 95);
            println!(
                "{:10} {:>3} % {:>6} {:>5} {:>5} {:>11} {:>14} {:>17} {:>11.1}",
                format!("{congestion:?}"),
                lost / 10_000,
                percentile(&found.lateness, 50).as_millis(),
                percentile(&found.lateness, 95).as_millis(),
                percentile(&found.lateness, 100).as_millis(),
                found.queue_p95.as_millis(),
                above.as_millis(),
                found.backfill,
                found.dropped
            );
            assert!(found.chunks > 100, "{} chunks measured", found.chunks);
            if congestion == Congestion::Floor {
                let limit = Duration::from_millis(150);
                assert!(above <= limit, "p95 {above:?} above the queue");
                assert!(
                    found.backfill >= 4_000,
                    "{} kbit/s of backfill",
                    found.backfill
                );
            }
        }
    }
}
