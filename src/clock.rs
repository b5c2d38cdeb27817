//! Layer 0: the only file that reads a clock or sleeps on one.
//!
//! Engines never come here: they take `now` as an argument. Their drivers do. Real time is
//! CLOCK_MONOTONIC throughout; the asynchronous half runs on tokio's timer, which a test can pause,
//! so that hours pass in milliseconds (`#[tokio::test(start_paused = true)]`).
#![allow(clippy::disallowed_methods)]

use crate::media::{Monotonic, WallClock};
use rustix::thread::{ClockId, clock_nanosleep_absolute, futex};
use rustix::time::{Timespec, clock_gettime};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// CLOCK_MONOTONIC now.
pub fn now() -> Monotonic {
    Monotonic::from_nanos(nanos_of(clock_gettime(rustix::time::ClockId::Monotonic)) as u64)
}

/// UTC now; how far off it may be is the word of the NTP client that keeps the kernel's clock, and
/// `None` without one.
pub fn wall() -> WallClock {
    let unix_nanos = nanos_of(clock_gettime(rustix::time::ClockId::Realtime));
    #[cfg(test)]
    let unix_nanos = unix_nanos + STEPS.get();
    WallClock {
        unix_nanos,
        uncertainty: crate::sys::clock_error(),
    }
}

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
}

/// From now on [`wall`] is so far off on this thread, in nanoseconds.
#[cfg(all(test, feature = "receiver"))]
pub fn set_wall_off_by(nanos: i64) {
    STEPS.set(nanos);
}

/// UTC for judging certificates: the wall clock, but never before an instant known to have passed, in
/// seconds since 1970. A machine without a battery wakes in 1970 and must not be cut off for it.
#[derive(Debug)]
pub struct NotBefore(pub i64);

impl TimeProvider for NotBefore {
    fn current_time(&self) -> Option<UnixTime> {
        let wall = wall().unix_nanos / 1_000_000_000;
        let seconds = u64::try_from(wall.max(self.0)).unwrap_or(0);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// CLOCK_BOOTTIME now, in nanoseconds: as [`now`], and it goes on in suspend.
pub fn since_boot() -> u64 {
    nanos_of(clock_gettime(rustix::time::ClockId::Boottime)) as u64
}

/// What tells this boot of the machine from every other one; `None` where the kernel does not say.
pub fn boot() -> Option<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16)
        .ok()
        .map(u128::to_be_bytes)
}

/// CPU time that this process has used.
pub fn process_cpu() -> Duration {
    cpu(rustix::time::ClockId::ProcessCPUTime)
}

/// CPU time that the calling thread has used.
pub fn thread_cpu() -> Duration {
    cpu(rustix::time::ClockId::ThreadCPUTime)
}

/// Blocks the calling thread until `deadline`, absolutely: being interrupted adds no error.
pub fn sleep_until(deadline: Monotonic) {
    let request = timespec(deadline);
    while clock_nanosleep_absolute(ClockId::Monotonic, &request) == Err(rustix::io::Errno::INTR) {}
}

/// Blocks the calling thread for `duration`.
pub fn sleep(duration: Duration) {
    sleep_until(now().plus(duration));
}

/// Where one thread waits for the word of others, until an absolute instant at most.
///
/// An absolute wait on a futex: being held up between reading a clock and waiting adds no error, as it
/// does with the relative wait of a condition variable. A `timerfd` and an `eventfd` in one `poll` were
/// measured beside it: 50 us earlier at the median (the thread's timer slack, which they escape), the
/// same from p99 up, for a sixth more CPU time and two descriptors. Not worth it at 33 ms a tick.
#[derive(Debug, Default)]
pub struct Bell {
    /// Counts the rings, and goes round.
    rung: AtomicU32,
}

/// How often a [`Bell`] had been rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings(u32);

impl Bell {
    /// How often it was rung so far. Ask before looking at what the others change: what they change
    /// after that rings again, and [`Bell::wait`] returns at once.
    pub fn rings(&self) -> Rings {
        Rings(self.rung.load(Ordering::Acquire))
    }

    /// Wakes the thread that waits here. Ring after each change that it waits for.
    pub fn ring(&self) {
        self.rung.fetch_add(1, Ordering::Release);
        // It fails only for addresses that are none.
        let _ = futex::wake(&self.rung, futex::Flags::PRIVATE, 1);
    }

    /// Blocks the calling thread until the bell is rung after `heard`, or until `deadline`; without
    /// one until it is rung. It may return early.
    pub fn wait(&self, heard: Rings, deadline: Option<Monotonic>) {
        let deadline = deadline.map(timespec);
        // Rung since, woken, interrupted or past the deadline: the caller looks again in any case.
        let _ = futex::wait_bitset(
            &self.rung,
            futex::Flags::PRIVATE,
            heard.0,
            deadline.as_ref(),
            NonZeroU32::MAX,
        );
    }
}

/// CLOCK_MONOTONIC as tokio's timer sees it: real time, or the paused clock of a test, which starts
/// at an arbitrary instant and advances only when every task waits.
pub struct TaskClock {
    origin: tokio::time::Instant,
    origin_monotonic: Monotonic,
}

impl TaskClock {
    /// A clock for the tasks of the current runtime.
    pub fn new() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
            origin_monotonic: now(),
        }
    }

    /// Now, on the same scale as [`now`].
    pub fn now(&self) -> Monotonic {
        self.origin_monotonic.plus(self.origin.elapsed())
    }

    /// Completes at `deadline`.
    pub async fn sleep_until(&self, deadline: Monotonic) {
        let after_origin = deadline.since(self.origin_monotonic);
        tokio::time::sleep_until(self.origin + after_origin).await;
    }
}

impl Default for TaskClock {
    fn default() -> Self {
        Self::new()
    }
}

/// Completes after `duration` of the runtime's clock.
pub async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// `work`'s result, or `None` when `duration` passes first.
pub async fn within<F: Future>(duration: Duration, work: F) -> Option<F::Output> {
    tokio::time::timeout(duration, work).await.ok()
}

fn cpu(clock: rustix::time::ClockId) -> Duration {
    Duration::from_nanos(u64::try_from(nanos_of(clock_gettime(clock))).unwrap_or(0))
}

fn timespec(at: Monotonic) -> Timespec {
    let nanos = at.as_nanos();
    Timespec {
        tv_sec: (nanos / 1_000_000_000) as i64,
        tv_nsec: (nanos % 1_000_000_000) as i64,
    }
}

#[allow(
    clippy::unnecessary_cast,
    reason = "the fields are 32 bits wide on armv7"
)]
fn nanos_of(time: Timespec) -> i64 {
    (time.tv_sec as i64)
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absolute_sleep_ends_after_its_deadline() {
        let deadline = now().plus(Duration::from_millis(2));
        sleep_until(deadline);
        assert!(now() >= deadline);
    }

    #[test]
    fn a_bell_wakes_and_a_deadline_ends_the_wait() {
        let bell = Bell::default();
        let heard = bell.rings();
        let deadline = now().plus(Duration::from_millis(2));
        while now() < deadline {
            bell.wait(heard, Some(deadline));
        }
        assert_eq!(bell.rings(), heard);
        // Rung between the question and the wait: it does not wait at all.
        bell.ring();
        bell.wait(heard, None);
        let heard = bell.rings();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sleep(Duration::from_millis(5));
                bell.ring();
            });
            while bell.rings() == heard {
                bell.wait(heard, None);
            }
        });
    }

    #[test]
    fn a_boot_has_a_name_and_a_clock_of_its_own() {
        assert_eq!(boot(), boot());
        let (monotonic, since) = (now(), since_boot());
        println!(
            "boot {:?}, {} s old, UTC {:?}",
            boot(),
            since / 1_000_000_000,
            wall()
        );
        assert!(since >= monotonic.as_nanos());
    }

    #[tokio::test(start_paused = true)]
    async fn hours_pass_at_once_when_the_clock_is_paused() {
        let clock = TaskClock::new();
        let start = clock.now();
        clock
            .sleep_until(start.plus(Duration::from_secs(6 * 3600)))
            .await;
        assert_eq!(clock.now().since(start).as_secs(), 6 * 3600);
    }
}
