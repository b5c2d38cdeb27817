//! The guest's wall clock, set by hand and kept as an NTP client would.

#![allow(dead_code, reason = "each test file uses its own part")]

use super::programs::run;

/// What a person does; `time` is in seconds since 1970. The kernel then knows that nobody keeps it.
pub fn set(time: &str) {
    run("date", &["-s", &format!("@{time}")]);
}

/// What an NTP client does: the kernel's clock is right, within 10 ms. (adjtimex(2) with MAXERROR,
/// ESTERROR and STATUS; no program for it is on every Debian, but perl is.)
pub fn keep(time: &str) {
    set(time);
    let call =
        "$t = pack('L x4 q q q q l x204', 0x1c, 0, 0, 10000, 10000, 1); exit(syscall(159, $t) < 0)";
    run("perl", &["-e", call]);
}
