//! adjtimex(2), read only: whether an NTP client keeps the kernel's clock, and how far off it may be.

use std::time::Duration;

/// The most by which CLOCK_REALTIME may be wrong; `None` while nobody keeps it, or where the kernel
/// does not say.
pub fn clock_error() -> Option<Duration> {
    // SAFETY: `timex` is a structure of integers, for which all bits zero is a value.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `timex` that outlives the call; `modes` is 0, so nothing is set.
    let outcome = unsafe { libc::adjtimex(&mut state) };
    let kept = (0..libc::TIME_ERROR).contains(&outcome) && state.status & libc::STA_UNSYNC == 0;
    // In microseconds; the kernel lets it grow from the client's last word on.
    let micros = u64::try_from(state.maxerror).ok().filter(|_| kept)?;
    Some(Duration::from_micros(micros))
}
