//! Chance that can be repeated, and what the machine itself did while a test ran.

#![allow(dead_code, reason = "each test file uses its own part")]

use hallcast::clock;
use hallcast::media::Monotonic;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Random numbers from a seed (splitmix64).
pub struct Chance(u64);

impl Chance {
    /// The seed in HALLCAST_SEED; without one always the same, and in the soak a new one each time.
    /// Prints it.
    pub fn new(test: &str) -> Self {
        let given = std::env::var("HALLCAST_SEED").ok();
        let seed = match given {
            Some(text) => text.parse().expect("HALLCAST_SEED is a number"),
            None if std::env::var_os("HALLCAST_SOAK").is_some() => clock::wall().unix_nanos as u64,
            None => 1,
        };
        println!("{test}: HALLCAST_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `most`.
    pub fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    /// A time up to `most_ms` milliseconds.
    pub fn within(&mut self, most_ms: u64) -> Duration {
        Duration::from_micros(self.below(most_ms * 1000))
    }
}

/// A bare loop that sleeps: what keeps it from waking in time keeps every program of this machine from
/// working.
pub struct Stalls {
    found: Arc<Mutex<Vec<(Monotonic, Duration)>>>,
    /// When the loop was last awake, in nanoseconds of the monotonic clock.
    awake: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How long the loop sleeps at a time.
const NAP: Duration = Duration::from_millis(10);
/// What counts as a stall. Several short ones may come close together.
const STALL: Duration = Duration::from_millis(20);

impl Stalls {
    pub fn watch() -> Self {
        let (found, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let awake = Arc::new(AtomicU64::new(0));
        let thread = std::thread::spawn({
            let (found, stop): (Arc<Mutex<Vec<_>>>, _) = (Arc::clone(&found), stop.clone());
            let awake = awake.clone();
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let due = clock::now().plus(NAP);
                    clock::sleep_until(due);
                    let now = clock::now();
                    let late = now.since(due);
                    if late >= STALL {
                        found.lock().unwrap().push((due, late));
                    }
                    awake.store(now.as_nanos(), Ordering::Release);
                }
            }
        });
        Self {
            found,
            awake,
            stop,
            thread: Some(thread),
        }
    }

    /// How long the machine stood still between two instants that are over.
    pub fn between(&self, from: Monotonic, to: Monotonic) -> Duration {
        // Whoever asks may have woken from a stall before the loop did.
        while self.awake.load(Ordering::Acquire) < to.as_nanos() && clock::now() >= to {
            clock::sleep(NAP);
        }
        let found = self.found.lock().unwrap();
        let overlap = |(start, late): &(Monotonic, Duration)| {
            let end = (*start).plus(*late).min(to);
            end.since((*start).max(from))
        };
        found.iter().map(overlap).sum()
    }

    /// How many there were, and the longest.
    pub fn summary(&self) -> (usize, Duration) {
        let found = self.found.lock().unwrap();
        let longest = found.iter().map(|(_, late)| *late).max();
        (found.len(), longest.unwrap_or_default())
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a promise may be exceeded by because the machine itself stood still: seldom, and not by much.
/// On a machine that stands still more than that nothing is shown, and the test fails.
pub struct Excuses {
    most: usize,
    given: Vec<Duration>,
}

/// One excuse is good for so much.
const EXCUSE: Duration = Duration::from_millis(500);

impl Excuses {
    /// For a run of so many trials: one in ten may be excused.
    pub fn among(trials: u64) -> Self {
        let most = usize::try_from(trials / 10).unwrap().max(1);
        Self {
            most,
            given: Vec::new(),
        }
    }

    /// Fails when `what` took more than the promise, but for what the machine stood still in that time.
    pub fn judge(&mut self, what: &str, took: Duration, promise: Duration, stood: Duration) {
        let Some(over) = took
            .checked_sub(promise)
            .filter(|over| *over > Duration::ZERO)
        else {
            return;
        };
        assert!(
            over <= stood.min(EXCUSE),
            "{what}: {took:?}, promised {promise:?}; the machine stood still {stood:?}, of which {EXCUSE:?} count"
        );
        println!("excused: {what}: {took:?}, for the machine stood still {stood:?}");
        self.given.push(over);
        assert!(
            self.given.len() <= self.most,
            "{what}: {took:?}, and too many excuses before it: {self}"
        );
    }
}

impl std::fmt::Display for Excuses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let longest = self.given.iter().max().copied().unwrap_or_default();
        let (given, most) = (self.given.len(), self.most);
        write!(
            f,
            "{given} excused (at most {most} may be), {longest:?} at most"
        )
    }
}

/// The least, the median and the most of some times, in milliseconds.
pub fn spread(times: &[Duration]) -> (u128, u128, u128) {
    let mut times: Vec<u128> = times.iter().map(Duration::as_millis).collect();
    times.sort_unstable();
    let at = |n: usize| times.get(n).copied().unwrap_or_default();
    (
        at(0),
        at(times.len() / 2),
        at(times.len().saturating_sub(1)),
    )
}

/// The median and the tail of some times; of fewer than a hundred the most alone.
pub fn quantiles(times: &[Duration]) -> String {
    let mut times: Vec<u128> = times.iter().map(Duration::as_millis).collect();
    times.sort_unstable();
    let count = times.len();
    let at = |percent: usize| {
        let rank = (count * percent).div_ceil(100);
        times
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    };
    let tail = match count {
        ..100 => String::new(),
        _ => format!("p99 {} ms, ", at(99)),
    };
    format!("median {} ms, {tail}most {} ms of {count}", at(50), at(100))
}
