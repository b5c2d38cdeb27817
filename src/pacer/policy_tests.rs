//! The pacer in simulated time, against sources with jitter, drift, losses and delays.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

pub(super) const MS: u64 = 1_000_000;
const ORIGIN: u64 = 1_000_000 * MS;

pub(super) fn at(nanos: u64) -> Monotonic {
    Monotonic::from_nanos(ORIGIN + nanos)
}

pub(super) fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

/// What one run decided: for each tick the capture time shown (from [`ORIGIN`]) and whether it was
/// repeated.
pub(super) struct Run {
    pub(super) ticks: Vec<(u64, bool)>,
    pub(super) stats: Stats,
}

/// Feeds pictures (captured, arrives) and lets time pass until `end`.
pub(super) fn run(config: Config, mut pictures: Vec<(u64, u64)>, end: u64) -> Run {
    pictures.sort_by_key(|(_, arrives)| *arrives);
    let mut pacer = Pacer::new(config);
    let mut ticks: Vec<(u64, bool)> = Vec::new();
    let mut pictures = pictures.into_iter().peekable();
    let mut now = 0;
    loop {
        let wake = loop {
            match pacer.poll(at(now)) {
                Action::Emit { tick, picture } => {
                    assert_eq!(tick, ticks.len() as u64, "the grid has no gap");
                    ticks.push((picture, false));
                }
                Action::Repeat { tick, .. } => {
                    assert_eq!(tick, ticks.len() as u64, "the grid has no gap");
                    let shown = ticks.last().expect("a repeat needs a picture").0;
                    ticks.push((shown, true));
                }
                Action::Drop { .. } => {}
                Action::Wait(until) => {
                    break until.map_or(u64::MAX, |until| until.as_nanos() - ORIGIN);
                }
            }
        };
        assert!(wake > now, "waiting for the past is a busy loop");
        match pictures.peek().map(|(_, arrives)| *arrives) {
            Some(arrives) if arrives <= wake => {
                now = now.max(arrives);
                let (captured, _) = pictures.next().unwrap();
                pacer.offer(at(now), at(captured), captured);
            }
            _ if wake <= end => now = wake,
            _ => break,
        }
    }
    let stats = pacer.stats().clone();
    assert_eq!(stats.ticks(), ticks.len() as u64);
    Run { ticks, stats }
}

/// Pictures at exact times, each arriving `delay` after its capture.
pub(super) fn exact(source: Rate, count: u64, delay: u64) -> Vec<(u64, u64)> {
    (0..count)
        .map(|n| (source.tick_nanos(n), source.tick_nanos(n) + delay))
        .collect()
}

pub(super) fn config(source: &str, grid: &str) -> Config {
    Config {
        source_rate: rate(source),
        ..Config::at(rate(grid))
    }
}

#[test]
fn equal_rates_pass_everything_on_arrival() {
    let source = exact(rate("30"), 300, 5 * MS);
    let run = run(Config::at(rate("30")), source, 9_990 * MS);
    assert_eq!(
        (run.stats.emitted, run.stats.repeats(), run.stats.drops()),
        (300, 0, 0)
    );
    assert!(run.stats.lateness.max() <= Duration::from_millis(5));
}

#[test]
fn a_conversion_chooses_the_nearest_within_half_a_tick() {
    for (source, grid) in [
        ("30", "25"),
        ("24", "30"),
        ("30000/1001", "30"),
        ("30", "30000/1001"),
        ("60", "30"),
        ("15", "30"),
        ("10", "25"),
        ("50", "30"),
    ] {
        let (from, to) = (rate(source), rate(grid));
        let seconds = 120;
        let count = u64::from(from.num()) * seconds / u64::from(from.den());
        let pictures = exact(from, count, 3 * MS);
        let run = run(config(source, grid), pictures.clone(), seconds * 1000 * MS);
        let expected = u64::from(to.num()) * seconds / u64::from(to.den());
        let found = run.ticks.len() as u64;
        assert!(
            found.abs_diff(expected) <= 6,
            "{source} to {grid}: {found} of {expected}"
        );
        let half = to.tick_nanos(1) / 2;
        for (n, (captured, repeated)) in run.ticks.iter().enumerate().take(count as usize / 2) {
            let tick = to.tick_nanos(n as u64);
            // Independent of the engine: the nearest of all pictures there are.
            let near = tick * u64::from(from.num()) / u64::from(from.den()) / 1_000_000_000;
            let nearest = (near.saturating_sub(1)..=near + 2)
                .map(|n| from.tick_nanos(n))
                .min_by_key(|captured| captured.abs_diff(tick))
                .unwrap();
            if *repeated {
                assert!(
                    nearest.abs_diff(tick) + 2 >= half,
                    "{source} to {grid}: tick {n} repeats, a picture was {} ns away",
                    nearest.abs_diff(tick)
                );
            } else {
                assert!(
                    captured.abs_diff(tick) <= nearest.abs_diff(tick) + 2,
                    "{source} to {grid}: tick {n}"
                );
            }
        }
        assert_eq!(run.stats.dropped_late, 0);
    }
}

#[test]
fn conversions_repeat_and_drop_exactly_as_often_as_the_rates_differ() {
    let count = |source: &str, grid: &str, seconds: u64| {
        let from = rate(source);
        let pictures = exact(
            from,
            u64::from(from.num()) * seconds / u64::from(from.den()),
            MS,
        );
        run(config(source, grid), pictures, seconds * 1000 * MS).stats
    };
    let stats = count("30", "25", 60);
    assert!(
        stats.drops().abs_diff(300) <= 1 && stats.repeated_slower_source == 0,
        "{stats:?}"
    );
    let stats = count("24", "30", 60);
    assert!(
        stats.repeated_slower_source.abs_diff(360) <= 1 && stats.drops() == 0,
        "{stats:?}"
    );
    // One tick in 1001 has no picture.
    let stats = count("30000/1001", "30", 1001);
    assert!(
        stats.repeated_slower_source.abs_diff(30) <= 1 && stats.drops() == 0,
        "{stats:?}"
    );
}

#[test]
fn drift_and_jitter_at_half_a_tick_slip_once_and_not_to_and_fro() {
    // A camera that is 200 ppm fast or slow, with 4 ms of jitter to either side, over an hour: its
    // phase crosses half a tick some 21 times, and each crossing costs one picture.
    for ppm in [200_i64, -200] {
        let mut random = 12345_u64;
        let pictures: Vec<(u64, u64)> = (0..108_000)
            .map(|n| {
                random = random
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let jitter = (random >> 33) % (8 * MS);
                let steady = rate("30").tick_nanos(n) as i64;
                let captured = (steady + steady / 1_000_000 * ppm) as u64 + 20 * MS + jitter;
                (captured, captured + 2 * MS)
            })
            .collect();
        let last = pictures[pictures.len() - 1].1;
        let run = run(Config::at(rate("30")), pictures, last);
        let slips = run.stats.repeats() + run.stats.drops();
        assert!(
            (20..=24).contains(&slips),
            "{ppm} ppm: {slips} slips {:?}",
            run.stats
        );
        // Longer intervals cost repeats, shorter ones drops.
        let wrong_way = if ppm > 0 {
            run.stats.drops()
        } else {
            run.stats.repeats()
        };
        assert_eq!(wrong_way, 0, "{ppm} ppm");
    }
}

#[test]
fn a_lost_picture_is_one_repeat() {
    let mut pictures = exact(rate("25"), 100, 10 * MS);
    pictures.remove(50);
    let run = run(Config::at(rate("25")), pictures, 3_960 * MS);
    assert_eq!(
        (
            run.stats.emitted,
            run.stats.repeated_no_picture,
            run.stats.drops()
        ),
        (99, 1, 0)
    );
    assert!(run.ticks[50].1);
}

#[test]
fn a_stall_is_filled_in_time_and_late_pictures_are_dropped() {
    let mut pictures = exact(rate("25"), 100, 10 * MS);
    // Ten pictures wait 300 ms in the device.
    for picture in &mut pictures[50..60] {
        picture.1 = picture.1.max(2_300 * MS);
    }
    let run = run(Config::at(rate("25")), pictures, 3_960 * MS);
    assert_eq!(run.ticks.len(), 100);
    assert!(run.stats.dropped_late >= 1, "{:?}", run.stats);
    assert_eq!(run.stats.dropped_late, run.stats.repeated_no_picture);
    assert!(run.stats.lateness.max() <= Duration::from_millis(310));
}

#[test]
fn a_source_that_always_takes_longer_is_shown_after_all() {
    let run = run(
        Config::at(rate("30")),
        exact(rate("30"), 300, 250 * MS),
        9_990 * MS,
    );
    assert!(run.stats.emitted > 280, "{:?}", run.stats);
}

#[test]
fn a_given_start_is_tick_zero_and_the_first_picture_stands_in_for_those_before_it() {
    let config = Config {
        start: Some(at(1000 * MS)),
        ..Config::at(rate("25"))
    };
    // From before the start, then nothing until 200 ms after it.
    let captured = [900, 940, 1200, 1240, 1280];
    let pictures = captured.map(|ms| (ms * MS, ms * MS + MS)).to_vec();
    let run = run(config, pictures, 1290 * MS);
    let shown: Vec<u64> = run
        .ticks
        .iter()
        .map(|(captured, _)| captured / MS)
        .collect();
    assert_eq!(shown, [1200, 1200, 1200, 1200, 1200, 1200, 1240, 1280]);
    assert_eq!(
        (
            run.stats.dropped_before_start,
            run.stats.repeated_before_first
        ),
        (2, 5)
    );
}

#[test]
fn nothing_is_made_up_before_the_first_picture() {
    let mut pacer: Pacer<u32> = Pacer::new(Config {
        start: Some(at(0)),
        ..Config::at(rate("30"))
    });
    assert_eq!(pacer.poll(at(3_600_000 * MS)), Action::Wait(None));
}

#[test]
fn a_stamp_that_goes_back_is_dropped() {
    let mut pacer = Pacer::new(Config::at(rate("30")));
    pacer.offer(at(50 * MS), at(50 * MS), "first");
    assert_eq!(
        pacer.poll(at(50 * MS)),
        Action::Emit {
            tick: 0,
            picture: "first"
        }
    );
    pacer.offer(at(50 * MS), at(50 * MS), "again");
    let reason = DropReason::OutOfOrder;
    assert_eq!(
        pacer.poll(at(51 * MS)),
        Action::Drop {
            picture: "again",
            reason
        }
    );
}

#[test]
fn a_caller_that_never_polls_is_bounded() {
    let mut pacer = Pacer::new(Config::at(rate("30")));
    for n in 0..100 {
        pacer.offer(at(n * MS), at(n * MS), n);
    }
    while !matches!(pacer.poll(at(100 * MS)), Action::Wait(_)) {}
    let stats = pacer.stats();
    assert_eq!(
        stats.emitted + stats.drops(),
        100,
        "each picture is accounted for"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever comes and however late, the grid has every tick once, in order, up to the end.
    #[test]
    fn any_arrivals_give_a_gapless_grid(
        steps in prop::collection::vec((0u64..120 * MS, 0u64..400 * MS), 1..200),
        grid in prop::sample::select(vec!["24", "25", "30000/1001", "30", "50"]),
        source in prop::sample::select(vec!["10", "24", "30", "60"]),
        given_start in prop::option::of(0u64..500 * MS),
    ) {
        let mut captured = 0;
        let pictures: Vec<(u64, u64)> = steps
            .iter()
            .map(|(step, delay)| {
                captured += step;
                (captured, captured + delay)
            })
            .collect();
        let config = Config { start: given_start.map(at), ..config(source, grid) };
        let end = 30_000 * MS;
        let count = pictures.len() as u64;
        let first = pictures.iter().map(|(captured, arrives)| (*arrives, *captured)).min().unwrap().1;
        // `run` asserts that ticks follow each other without a gap.
        let run = run(config, pictures, end);
        if !run.ticks.is_empty() {
            let length = end - given_start.unwrap_or(first);
            let expected = u128::from(length) * u128::from(rate(grid).num())
                / u128::from(rate(grid).den()) / 1_000_000_000;
            // All but those whose allowance has not passed yet.
            let found = run.ticks.len() as u128;
            let allowed = 0.6 * f64::from(rate(grid).num()) / f64::from(rate(grid).den()) + 2.0;
            prop_assert!(found <= expected + 1 && found + allowed as u128 >= expected, "{found} {expected}");
        }
        prop_assert_eq!(run.stats.emitted + run.stats.drops(), count);
        // No picture is shown twice but by a repeat.
        let mut shown = BTreeMap::new();
        for (captured, _) in run.ticks.iter().filter(|(_, repeated)| !repeated) {
            *shown.entry(*captured).or_insert(0) += 1;
        }
        prop_assert!(shown.values().all(|times| *times == 1));
    }

    /// Jitter below a quarter tick costs nothing once the rates are equal.
    #[test]
    fn jitter_alone_repeats_and_drops_nothing(
        phase in 0u64..33 * MS,
        jitter in prop::collection::vec(0u64..8 * MS, 300),
    ) {
        let source = rate("30");
        let pictures: Vec<(u64, u64)> = jitter
            .iter()
            .enumerate()
            .map(|(n, jitter)| {
                let captured = 500 * MS + phase + source.tick_nanos(n as u64) + jitter;
                (captured, captured + MS)
            })
            .collect();
        let config = Config { start: Some(at(500 * MS)), ..Config::at(source) };
        let run = run(config, pictures, 500 * MS + source.tick_nanos(299));
        // At most one slip, when the phase it began with lies across half a tick.
        let slips = run.stats.repeats() - run.stats.repeated_before_first + run.stats.drops();
        prop_assert!(slips <= 1, "{:?}", run.stats);
    }
}
