//! What holds of the pacer whatever arrives and whenever it is polled, the choice of picture against a
//! search through all pictures, and repeats and drops against what the rates alone make unavoidable.

use super::tests::{MS, Run, at, config, exact, rate, run};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Grid rates, and those of sources.
const RATES: [&str; 6] = ["24", "25", "30000/1001", "30", "50", "60"];

/// A stretch of what a source may do.
#[derive(Clone, Debug)]
enum Stretch {
    /// Pictures at a rate, each captured and delivered up to so much later than it should.
    Steady(&'static str, u64, u64, u64),
    /// Intervals as they come.
    Variable(Vec<u64>),
    /// Nothing.
    Stall(u64),
    /// Pictures of 30 Hz, delivered all at once.
    Burst(u64),
    /// The same stamp again and again.
    Duplicates(u64),
    /// Stamps this much before or after what they should be.
    Stamped(u64, i64),
    /// Pictures of 30 Hz, delivered the last first.
    Backwards(u64),
}

fn stretches() -> impl Strategy<Value = Stretch> {
    let rates = || prop::sample::select(RATES.to_vec());
    prop_oneof![
        (rates(), 1u64..60, 0..40 * MS, 0..200 * MS)
            .prop_map(|(rate, count, jitter, delay)| Stretch::Steady(rate, count, jitter, delay)),
        prop::collection::vec(0..150 * MS, 1..30).prop_map(Stretch::Variable),
        (0..3_000 * MS).prop_map(Stretch::Stall),
        (1u64..30).prop_map(Stretch::Burst),
        (1u64..5).prop_map(Stretch::Duplicates),
        (1u64..20, -2_000 * MS as i64..5_000_000 * MS as i64)
            .prop_map(|(count, ahead)| Stretch::Stamped(count, ahead)),
        (1u64..12).prop_map(Stretch::Backwards),
    ]
}

/// Pictures (captured, arrives) in the order of their arrival.
fn pictures(stretches: &[Stretch], seed: u64) -> Vec<(u64, u64)> {
    let mut random = seed;
    let mut below = |most: u64| {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (random >> 33) % most.max(1)
    };
    let mut found = Vec::new();
    // Stamps may lie before it.
    let mut now = 10_000 * MS;
    let tick = |n| rate("30").tick_nanos(n);
    for stretch in stretches {
        match stretch {
            Stretch::Steady(source, count, jitter, delay) => {
                for n in 0..*count {
                    let captured = now + rate(source).tick_nanos(n) + below(*jitter);
                    found.push((captured, captured + below(*delay)));
                }
                now += rate(source).tick_nanos(*count);
            }
            Stretch::Variable(intervals) => {
                for interval in intervals {
                    now += interval;
                    found.push((now, now + below(20 * MS)));
                }
            }
            Stretch::Stall(length) => now += length,
            Stretch::Burst(count) => {
                let arrives = now + tick(*count);
                found.extend((0..*count).map(|n| (now + tick(n), arrives)));
                now = arrives;
            }
            Stretch::Duplicates(count) => {
                found.extend((0..*count).map(|n| (now, now + n)));
                now += tick(1);
            }
            Stretch::Stamped(count, ahead) => {
                for n in 0..*count {
                    found.push(((now + tick(n)).saturating_add_signed(*ahead), now + tick(n)));
                }
                now += tick(*count);
            }
            Stretch::Backwards(count) => {
                let last = now + tick(*count);
                found.extend((0..*count).map(|n| (now + tick(n), last + tick(*count - n))));
                now = last + tick(*count);
            }
        }
    }
    found.sort_by_key(|(_, arrives)| *arrives);
    found
}

/// A pacer of numbered pictures with all that can be said of each of its steps.
struct Watched {
    pacer: Pacer<usize>,
    offered: usize,
    ticks: u64,
    shown: Option<usize>,
    gone: BTreeSet<usize>,
    counted: Stats,
}

impl Watched {
    fn new(config: Config) -> Self {
        Self {
            pacer: Pacer::new(config),
            offered: 0,
            ticks: 0,
            shown: None,
            gone: BTreeSet::new(),
            counted: Stats::default(),
        }
    }

    fn offer(&mut self, now: u64, captured: u64) {
        self.pacer.offer(at(now), at(captured), self.offered);
        self.offered += 1;
        self.conserved();
    }

    /// One poll; false when there is nothing to do.
    fn poll(&mut self, now: u64) -> bool {
        match self.pacer.poll(at(now)) {
            Action::Emit { tick, picture } => {
                self.decided(tick, now);
                assert!(self.shown < Some(picture), "shown in the order they came");
                assert!(self.gone.insert(picture), "shown or dropped, and once");
                self.shown = Some(picture);
                self.counted.emitted += 1;
            }
            Action::Repeat { tick, reason } => {
                self.decided(tick, now);
                assert!(self.shown.is_some(), "there is something to repeat");
                self.counted.repeat(reason);
            }
            Action::Drop { picture, reason } => {
                assert!(self.gone.insert(picture), "shown or dropped, and once");
                self.counted.drop(reason);
            }
            Action::Wait(until) => {
                assert!(until.is_none_or(|until| until > at(now)), "a busy loop");
                self.in_time(now);
                return false;
            }
        }
        self.conserved();
        true
    }

    fn decided(&mut self, tick: u64, now: u64) {
        assert_eq!(tick, self.ticks, "each tick once, in order, without a gap");
        self.ticks += 1;
        let grid = self.pacer.grid().unwrap();
        let earliest = grid.time_of(tick.saturating_sub(1));
        assert!(tick == 0 || at(now) >= earliest, "tick {tick} is too early");
    }

    /// Nothing to do at `now`: then no tick is overdue.
    fn in_time(&self, now: u64) {
        let (Some(grid), Some(_)) = (self.pacer.grid(), self.shown) else {
            return;
        };
        let half = Duration::from_nanos(self.pacer.half as u64);
        let due = grid
            .time_of(self.ticks)
            .plus(half + Config::LONGEST_ALLOWANCE);
        assert!(at(now) <= due, "tick {} is overdue", self.ticks);
    }

    /// Nothing appears or disappears without a count.
    fn conserved(&self) {
        let (pacer, stats) = (&self.pacer, self.pacer.stats());
        let waiting = (pacer.pending.len() + pacer.rejected.len()) as u64;
        assert_eq!(
            self.offered as u64,
            stats.emitted + stats.drops() + waiting,
            "{stats:?}"
        );
        assert_eq!(self.ticks, stats.emitted + stats.repeats(), "{stats:?}");
    }

    /// At the end: what was counted is what was done, reason by reason. Pictures freed because
    /// nobody polled were never handed out.
    fn check_counts(mut self) {
        let mut stats = self.pacer.stats().clone();
        stats.lateness = self.counted.lateness.clone();
        stats.stamped_ahead = 0;
        let freed = stats.dropped_not_polled - self.counted.dropped_not_polled;
        self.counted.dropped_not_polled += freed;
        assert_eq!(stats, self.counted);
        assert_eq!(self.gone.len() as u64 + freed, self.offered as u64);
    }
}

fn setups() -> impl Strategy<Value = Config> {
    let rates = || prop::sample::select(RATES.to_vec());
    (rates(), rates(), prop::option::of(9_000 * MS..11_000 * MS)).prop_map(
        |(source, grid, start)| Config {
            start: start.map(at),
            ..config(source, grid)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Polled as it asks for: after each offer, and when it said (or a little later).
    #[test]
    fn whatever_arrives_every_tick_is_decided_once_and_in_time(
        stretches in prop::collection::vec(stretches(), 1..12),
        setup in setups(),
        seed: u64,
        late in 0u64..30 * MS,
    ) {
        let arrivals = pictures(&stretches, seed);
        let end = arrivals.last().map_or(0, |(_, arrives)| *arrives) + 2_000 * MS;
        let mut arrivals = arrivals.into_iter().peekable();
        let mut watched = Watched::new(setup);
        let mut now = 0;
        while now < end {
            while watched.poll(now) {}
            let wake = match watched.pacer.poll(at(now)) {
                Action::Wait(until) => until.map_or(end, |until| until.offset_from(at(0)) as u64),
                other => panic!("{other:?} after it had said to wait"),
            };
            match arrivals.next_if(|(_, arrives)| *arrives <= wake + late) {
                Some((captured, arrives)) => {
                    now = now.max(arrives);
                    watched.offer(now, captured);
                }
                None => now = (wake + late).min(end),
            }
        }
        while watched.poll(now) {}
        // All of the time since its start is on the grid.
        if watched.shown.is_some() {
            let grid = watched.pacer.grid().unwrap();
            let passed = at(end).since(grid.start()).as_nanos() as u64;
            let ticks = setup.rate.ticks_covering(Duration::from_nanos(passed));
            let allowance = setup.rate.ticks_covering(Config::LONGEST_ALLOWANCE) + 2;
            prop_assert!(
                watched.ticks <= ticks + 1 && watched.ticks + allowance >= ticks,
                "{} ticks of {ticks}", watched.ticks
            );
        }
        watched.check_counts();
    }

    /// Polled at any instants, once or until there is nothing to do, and then not at all for seconds.
    #[test]
    fn whenever_it_is_polled_nothing_is_lost_from_the_counts(
        stretches in prop::collection::vec(stretches(), 1..8),
        setup in setups(),
        seed: u64,
        polls in prop::collection::vec((0u64..400 * MS, 0usize..4), 1..200),
    ) {
        let arrivals = pictures(&stretches, seed);
        let mut watched = Watched::new(setup);
        let mut arrivals = arrivals.into_iter().peekable();
        let mut now = 10_000 * MS;
        for (after, times) in polls {
            now += after;
            while let Some((captured, arrives)) = arrivals.next_if(|(_, arrives)| *arrives <= now) {
                watched.offer(arrives, captured);
            }
            match times {
                0 => while watched.poll(now) {},
                _ => (0..times).for_each(|_| { watched.poll(now); }),
            }
        }
        for (captured, arrives) in arrivals {
            now = now.max(arrives);
            watched.offer(now, captured);
        }
        now += 10_000 * MS;
        while watched.poll(now) {}
        watched.check_counts();
    }

    /// Between any two constant rates, at any phase: of all pictures there are, a tick shows the
    /// nearest, or repeats because none lies within half a tick.
    #[test]
    fn a_tick_shows_the_nearest_of_all_pictures(
        source in prop::sample::select(RATES.to_vec()),
        odd in prop::option::of((8u32..90, 1u32..4)),
        grid in prop::sample::select(RATES.to_vec()),
        phase in 0u64..100 * MS,
        delay in 0u64..60 * MS,
    ) {
        let from = odd.and_then(|(num, den)| Rate::new(num, den).ok()).unwrap_or(rate(source));
        prop_assume!(from.tick_nanos(1) <= 100 * MS);
        let to = rate(grid);
        let all: Vec<(u64, u64)> = exact(from, 400, 0)
            .into_iter()
            .map(|(captured, _)| (captured + phase, captured + phase + delay))
            .collect();
        let setup = Config { source_rate: from, start: Some(at(300 * MS)), ..Config::at(to) };
        let found = run(setup, all.clone(), all[all.len() - 1].1);
        prop_assert!(found.ticks.len() > 100);
        let half = to.tick_nanos(1) / 2;
        let mut before = 0;
        // When no picture lies within half of tick 0, the first after it stands in for those before
        // its own tick.
        let stand_in = match found.stats.repeated_before_first {
            0 => 0,
            repeats => repeats as usize + 1,
        };
        prop_assert!(stand_in as u64 <= to.ticks_covering(from.interval()) + 1);
        for (n, (shown, repeated)) in found.ticks.iter().enumerate().skip(stand_in) {
            let tick = 300 * MS + to.tick_nanos(n as u64);
            let nearest = all.iter().map(|(captured, _)| captured.abs_diff(tick)).min().unwrap();
            if *repeated {
                prop_assert!(nearest + 2 >= half, "tick {n} repeats, one is {nearest} ns away");
            } else {
                let away = shown.abs_diff(tick);
                prop_assert!(away <= nearest + 2, "tick {n} shows one {away} ns away, not {nearest}");
                prop_assert!(away <= half + 2);
                prop_assert!(*shown > before);
                before = *shown;
            }
        }
    }
}

/// How many ticks are nearest to no picture, and how many pictures share their tick with another:
/// from the capture times alone, and for the time from the first picture to the last.
fn unavoidable(pictures: &[(u64, u64)], to: Rate) -> (u64, u64) {
    let nearest = |captured: u64| {
        let doubled = 2 * u128::from(captured) * u128::from(to.num());
        let tick = 1_000_000_000 * u128::from(to.den());
        (doubled + tick) / (2 * tick)
    };
    let reached: BTreeSet<u128> = pictures.iter().map(|(at, _)| nearest(*at)).collect();
    let ticks = reached.last().map_or(0, |last| last + 1) as u64;
    let reached = reached.len() as u64;
    (ticks - reached, pictures.len() as u64 - reached)
}

/// The same for two constant rates, by a division: the slower of them is never short.
fn by_division(from: Rate, to: Rate, pictures: u64) -> (u64, u64) {
    let last = 2 * u128::from(pictures - 1) * u128::from(from.den()) * u128::from(to.num());
    let per = u128::from(from.num()) * u128::from(to.den());
    let ticks = ((last + per) / (2 * per)) as u64 + 1;
    (
        ticks.saturating_sub(pictures),
        pictures.saturating_sub(ticks),
    )
}

/// Until the last tick that has a picture is decided, and no longer.
fn an_hour(source: Rate, grid: Rate, pictures: &[(u64, u64)]) -> Run {
    let setup = Config {
        source_rate: source,
        ..Config::at(grid)
    };
    let wait = grid.tick_nanos(1) / 2 + Config::DELIVERY_ALLOWANCE.as_nanos() as u64;
    let (last, _) = pictures[pictures.len() - 1];
    let nanos = u128::from(last) * u128::from(grid.num());
    let tick = 1_000_000_000 * u128::from(grid.den());
    let last_tick = ((2 * nanos + tick) / (2 * tick)) as u64;
    run(setup, pictures.to_vec(), grid.tick_nanos(last_tick) + wait)
}

#[test]
fn an_hour_of_each_conversion_repeats_and_drops_no_more_than_the_rates_demand() {
    println!("repeats and drops in an hour, and what the rates alone make unavoidable:");
    println!("source      grid         ticks  repeats (least)   drops (least)");
    let mut random = 20_261_123_u64;
    let mut chance = |below: u64| {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (random >> 33) % below
    };
    for source in RATES.iter().chain(&["vfr"]) {
        let from = rate(if *source == "vfr" { "30" } else { source });
        let count = 3600 * u64::from(from.num()) / u64::from(from.den()) + 1;
        let mut pictures = exact(from, count, 2 * MS);
        if *source == "vfr" {
            // As a telephone in the dark: nominally 30, between 10 and 30 in fact.
            let mut at = 0;
            pictures.clear();
            while at < 3_600_000 * MS {
                pictures.push((at, at + 2 * MS));
                at += rate("30").tick_nanos(1) + chance(66 * MS);
            }
        }
        for grid in RATES {
            let to = rate(grid);
            let least = unavoidable(&pictures, to);
            let found = an_hour(from, to, &pictures).stats;
            let counted = (found.repeats(), found.drops());
            println!(
                "{source:10}  {grid:10} {:7}  {:7} ({:6})  {:7} ({:6})",
                found.ticks(),
                counted.0,
                least.0,
                counted.1,
                least.1
            );
            assert_eq!(counted, least, "{source} to {grid}");
            if *source != "vfr" {
                let divided = by_division(from, to, count);
                assert_eq!(
                    least, divided,
                    "{source} to {grid}: the arithmetic disagrees"
                );
            }
        }
    }
    // With jitter: between different rates exactly what the capture times make unavoidable; between
    // nearly equal ones less, because the point of comparison moves at a slip.
    println!("the same with 6 ms of jitter to either side:");
    for (source, grid) in [
        ("24", "30"),
        ("25", "30"),
        ("50", "30"),
        ("60", "25"),
        ("30000/1001", "30"),
        ("30", "30"),
    ] {
        let (from, to) = (rate(source), rate(grid));
        let mut pictures = exact(
            from,
            3600 * u64::from(from.num()) / u64::from(from.den()),
            0,
        );
        for (n, (captured, arrives)) in pictures.iter_mut().enumerate() {
            // The first one begins the grid.
            *captured += if n == 0 { 6 * MS } else { chance(12 * MS) };
            *arrives = *captured + 2 * MS;
        }
        let origin = pictures[0].0;
        for (captured, arrives) in &mut pictures {
            *captured = captured.saturating_sub(origin);
            *arrives = arrives.saturating_sub(origin);
        }
        let least = unavoidable(&pictures, to);
        let found = an_hour(from, to, &pictures).stats;
        let counted = (found.repeats(), found.drops());
        println!("{source:10}  {grid:10} {counted:?} {least:?}");
        if source.contains("30") && grid == "30" {
            assert!(
                counted.0 <= least.0 && counted.1 <= least.1,
                "{source} to {grid}"
            );
        } else {
            assert_eq!(counted, least, "{source} to {grid}");
        }
    }
}

#[test]
fn a_stamp_from_the_future_decides_nothing_before_its_time() {
    let mut watched = Watched::new(Config::at(rate("30")));
    let tick = |n| rate("30").tick_nanos(n);
    for n in 0..60 {
        // Picture 30 claims to be from an hour later.
        let ahead = if n == 30 { 3_600_000 * MS } else { 0 };
        watched.offer(tick(n) + MS, tick(n) + ahead);
        while watched.poll(tick(n) + MS) {}
    }
    let stats = watched.pacer.stats();
    println!("{stats:?}");
    assert_eq!((stats.stamped_ahead, stats.ticks()), (1, 60));
    assert_eq!((stats.emitted, stats.repeats(), stats.drops()), (60, 0, 0));
}
