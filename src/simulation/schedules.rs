//! Many ways in which things go wrong, by seed, with real quinn on both sides.

use super::hall::{Counts, Crash, Hall, Keys, in_virtual_time};
use super::history::{self, Happening};
use super::lecture::{Lecture, Sizes};
use super::network::{self, Link};
use super::random::Random;
use crate::media::Monotonic;
use std::time::Duration;

/// Set to run one schedule: the reproduction that a failing one prints.
const SEED: &str = "HALLCAST_SEED";

/// What happens to a hall, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Outage(Duration),
    /// The receiver's process ends, and comes back after so long.
    Receiver(Duration),
    Box(Crash, Duration),
    /// So many of the next syncs of the box's disk fail.
    Syncs(u32),
    /// So many of the next puts into the receiver's store fail.
    Puts(u32),
    /// The receiver's store is full for so long.
    Full(Duration),
    /// The box's disk has room for so much more, for so long.
    Disk(usize, Duration),
    /// Somebody erases the latest recording.
    Erase,
    /// A copy of the receiver's store is made.
    Copy,
    /// The receiver is away for so long, and then has the copy of its store.
    Restored(Duration),
    /// UTC steps, at both ends.
    Clock(i64),
    /// The box gets another address, and may notice.
    Move(bool),
    /// The links become others.
    Links,
}

/// A link as campus networks and mobile ones are: 5 to 300 ms, up to 5 % loss.
fn link(random: &mut Random) -> Link {
    let clean = random.per_million(250_000);
    let delay = match random.per_million(500_000) {
        true => random.millis(5, 40),
        false => random.millis(5, 300),
    };
    Link {
        delay,
        jitter: delay.mul_f64(0.5) + Duration::from_millis(2),
        reordered: random.between(0, 100_000) as u32,
        lost: if clean {
            0
        } else {
            random.between(0, 50_000) as u32
        },
        twice: random.between(0, 10_000) as u32,
        rate: (!random.per_million(200_000)).then(|| random.between(500_000, 20_000_000)),
        queue: random.between(20_000, 250_000),
    }
}

fn fault(random: &mut Random) -> Fault {
    let away = |random: &mut Random| match random.between(0, 9) {
        0..=5 => random.millis(1_000, 20_000),
        6..=8 => random.millis(20_000, 900_000),
        _ => random.millis(900_000, 4 * 3_600_000),
    };
    match random.between(0, 17) {
        0..=2 => Fault::Outage(away(random)),
        3..=4 => Fault::Receiver(away(random)),
        5..=7 => {
            let crash = match random.per_million(300_000) {
                true => Crash::Process,
                false => Crash::Power(random.next()),
            };
            Fault::Box(crash, away(random))
        }
        8 => match random.per_million(500_000) {
            true => Fault::Syncs(random.between(1, 3) as u32),
            false => Fault::Full(away(random)),
        },
        9 => Fault::Puts(random.between(1, 6) as u32),
        10 => Fault::Move(random.per_million(500_000)),
        12 => {
            let room = random.between(0, 30_000) as usize;
            Fault::Disk(room, random.millis(1_000, 60_000))
        }
        13 => Fault::Erase,
        14 => Fault::Copy,
        15 => Fault::Restored(away(random)),
        16..=17 => {
            let day = 86_400_000_000_000;
            Fault::Clock(random.between(0, 2 * day) as i64 - day as i64)
        }
        _ => Fault::Links,
    }
}

/// What a run was, counted.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    runs: u64,
    faults: u64,
    recordings: u64,
    virtual_time: Duration,
    network: network::Counts,
    hall: Counts,
    segments: u64,
    listings: u64,
    lost: u64,
    released: u64,
    full_disks: u64,
    clock_steps: u64,
}

struct Ran {
    verdict: Result<(), Vec<String>>,
    trace: blake3::Hash,
    totals: Totals,
    faults: Vec<(Duration, Fault)>,
}

async fn schedule(keys: &Keys, seed: u64) -> Ran {
    let mut random = Random::new(seed);
    let (up, down) = (link(&mut random), link(&mut random));
    let mut hall = Hall::new(keys, &mut random, up, down);
    // Mostly so little that what waits is seen a few segments at a time.
    hall.custody.window = [3, 16, 256][(seed % 3) as usize];
    let began = hall.network.now();
    let after = |time: Duration| began.plus(time);
    let mut from = random.millis(100, 3_000);
    for _ in 0..random.between(1, 2) {
        let length = random.millis(5_000, 40_000);
        hall.lecture(Lecture {
            from: after(from),
            until: after(from + length),
            sizes: Sizes::small(),
        });
        from += length + random.millis(500, 10_000);
    }
    let mut faults: Vec<(Duration, Fault)> = (0..random.between(1, 7))
        .map(|_| {
            (
                random.millis(0, from.as_millis() as u64 + 10_000),
                fault(&mut random),
            )
        })
        .collect();
    faults.sort_by_key(|(at, _)| *at);
    // What was let go nobody gives to a receiver with an older store.
    let restored = |(_, fault): &(_, Fault)| matches!(fault, Fault::Restored(_));
    if !faults.iter().any(restored) && random.per_million(500_000) {
        hall.retention = Duration::from_secs([0, 60][random.between(0, 1) as usize]);
    }
    hall.start_receiver().await;
    hall.start_box();
    // What comes back, and when.
    let [
        mut box_back,
        mut receiver_back,
        mut room_back,
        mut disk_back,
    ] = [None::<Monotonic>; 4];
    let mut left = faults.iter().copied().peekable();
    loop {
        let next = left.peek().map(|(at, _)| after(*at));
        let Some(at) = [next, box_back, receiver_back, room_back, disk_back]
            .into_iter()
            .flatten()
            .min()
        else {
            break;
        };
        hall.pass(at).await;
        if box_back == Some(at) {
            box_back = None;
            hall.start_box();
        }
        if receiver_back == Some(at) {
            receiver_back = None;
            hall.start_receiver().await;
        }
        if room_back == Some(at) {
            room_back = None;
            hall.objects.set_full(false);
        }
        if disk_back == Some(at) {
            disk_back = None;
            hall.disk.set_room(None);
            if box_back.is_none() {
                hall.start_box();
            }
        }
        if next != Some(at) {
            continue;
        }
        let Some((_, fault)) = left.next() else {
            continue;
        };
        let back = |away: Duration| Some(hall.network.now().plus(away));
        match fault {
            Fault::Outage(length) => hall.network.cut(length),
            Fault::Receiver(away) => {
                receiver_back = back(away);
                hall.crash_receiver().await;
            }
            Fault::Box(crash, away) => {
                box_back = back(away);
                hall.crash_box(crash).await;
            }
            Fault::Syncs(count) => hall.disk.fail_syncs(count),
            Fault::Puts(count) => hall.objects.fail(count),
            Fault::Full(length) => {
                room_back = back(length);
                hall.objects.set_full(true);
            }
            Fault::Disk(room, length) => {
                disk_back = back(length);
                hall.note(Happening::DiskFull);
                hall.disk.set_room(Some(room));
            }
            Fault::Erase => hall.erase().await,
            Fault::Copy => hall.copy_store(),
            Fault::Restored(away) => {
                receiver_back = back(away);
                hall.restore_store().await;
            }
            Fault::Clock(step) => hall.step_clock(step),
            Fault::Move(noticed) => hall.network.move_box(noticed),
            Fault::Links => hall.network.set_links(link(&mut random), link(&mut random)),
        }
    }
    let mut verdict = match hall.settle(Duration::from_secs(12 * 3600)).await {
        true => Ok(()),
        false => Err(vec![hall.why_not()]),
    };
    if let Err(found) = hall.judge().await {
        verdict = match verdict {
            Ok(()) => Err(found),
            Err(first) => Err([first, found].concat()),
        };
    }
    let history: history::Counts = hall.history.lock().unwrap().counts();
    let count = |which: &dyn Fn(&Fault) -> bool| {
        faults.iter().filter(|(_, fault)| which(fault)).count() as u64
    };
    let totals = Totals {
        runs: 1,
        faults: faults.len() as u64,
        recordings: hall.plan.lock().unwrap().begun,
        virtual_time: hall.network.now().since(began),
        network: hall.network.counts(),
        hall: hall.counts,
        segments: history.segments,
        listings: history.listings,
        lost: history.lost,
        released: history.released,
        full_disks: count(&|fault| matches!(fault, Fault::Disk(..))),
        clock_steps: count(&|fault| matches!(fault, Fault::Clock(_))),
    };
    Ran {
        verdict,
        trace: hall.network.trace(),
        totals,
        faults,
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.runs += other.runs;
        self.faults += other.faults;
        self.recordings += other.recordings;
        self.virtual_time += other.virtual_time;
        self.network += other.network;
        self.hall += other.hall;
        self.segments += other.segments;
        self.listings += other.listings;
        self.lost += other.lost;
        self.released += other.released;
        self.full_disks += other.full_disks;
        self.clock_steps += other.clock_steps;
    }
}

fn run(keys: &Keys, seed: u64) -> Ran {
    in_virtual_time(schedule(keys, seed))
}

fn again(seed: u64) -> String {
    format!("{SEED}={seed} cargo test --lib simulation::schedules::every_recording -- --nocapture")
}

/// What is wrong with a run, with its one-line reproduction.
fn complaint(seed: u64, ran: &Ran) -> Option<String> {
    ran.verdict.as_ref().err().map(|found| {
        let faults: Vec<String> = ran
            .faults
            .iter()
            .map(|(at, fault)| format!("  {:.1} s: {fault:?}", at.as_secs_f64()))
            .collect();
        format!(
            "seed {seed}:\n{}\nfaults:\n{}\nagain: {}",
            found[..found.len().min(8)].join("\n"),
            faults.join("\n"),
            again(seed)
        )
    })
}

#[test]
fn every_recording_ends_complete_and_identical_whatever_breaks() {
    let keys = Keys::make();
    let one: Option<u64> = std::env::var(SEED).ok().map(|seed| seed.parse().unwrap());
    let many = if std::env::var_os("HALLCAST_SOAK").is_some() {
        5000
    } else {
        300
    };
    // RUST_LOG=info tells the story of a single run.
    if one.is_some() {
        let _ = env_logger::builder().is_test(true).try_init();
    }
    let seeds = one.map_or(0..many, |seed| seed..seed + 1);
    let (mut totals, mut complaints) = (Totals::default(), Vec::new());
    for seed in seeds {
        let ran = std::panic::catch_unwind(|| run(&keys, seed)).unwrap_or_else(|panic| {
            println!("seed {seed} panics: {}", again(seed));
            std::panic::resume_unwind(panic)
        });
        complaints.extend(complaint(seed, &ran));
        assert!(complaints.len() < 5, "{}", complaints.join("\n\n"));
        totals += ran.totals;
    }
    println!(
        "{} schedules, {} faults, {:.1} h of virtual time, {} recordings, {} segments, {} LOST, \
         {} let go by the box; {} full disks, {} steps of the clock",
        totals.runs,
        totals.faults,
        totals.virtual_time.as_secs_f64() / 3600.0,
        totals.recordings,
        totals.segments,
        totals.lost,
        totals.released,
        totals.full_disks,
        totals.clock_steps
    );
    println!(
        "{:?}\n{:?}\nlistings of the store: {}",
        totals.network, totals.hall, totals.listings
    );
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
    let (network, hall) = (totals.network, totals.hall);
    if one.is_none() {
        assert!(network.lost > 1000 && network.reordered > 1000 && network.twice > 100);
        assert!(hall.box_crashes > 100 && hall.receiver_crashes > 50 && network.moves > 20);
        assert!(hall.reconnects > 100 && hall.erased > 10 && hall.stores_restored > 3);
        assert!(totals.released > 100 && totals.full_disks > 10 && totals.clock_steps > 10);
    }
}

#[test]
fn a_seed_gives_the_same_datagrams_each_time() {
    let keys = Keys::make();
    for seed in [1, 2, 3] {
        let (first, second) = (run(&keys, seed), run(&keys, seed));
        let counts = first.totals.network;
        assert_eq!(counts, second.totals.network, "seed {seed}");
        assert_eq!(first.trace, second.trace, "seed {seed}");
        println!(
            "seed {seed}: {} datagrams, trace {}",
            counts.sent, first.trace
        );
    }
}
