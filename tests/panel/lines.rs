//! The button and the lamps as the guest's GPIO chip has them, and who watches them.

use hallcast::clock;
use hallcast::media::Monotonic;
use hallcast::station::{Reply, Request, ask};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::programs::wait_until;

pub const CHIP: &str = "pinctrl-bcm2711";
pub const BUTTON: u32 = 17;
pub const LAMP: u32 = 27;
pub const MIRROR: u32 = 22;

/// Contacts closing, in milliseconds after the first touch: levels that follow one another, closed first.
/// After pushbuttons of the trade: a good one, two usual ones, and one that bounced for 81 ms. They open
/// in the same way.
pub const TRACES: [&[u64]; 4] = [
    &[0],
    &[0, 1, 2],
    &[0, 1, 3, 4, 6, 7, 9],
    &[0, 2, 5, 6, 11, 12, 19, 24, 38, 40, 57, 63, 64, 70, 81],
];

fn line(number: u32, file: &str) -> PathBuf {
    format!("/run/rig/gpio/sim_gpio{number}/{file}").into()
}

/// Moves the button; it is active low.
pub fn button(down: bool) {
    let pull = if down { "pull-down" } else { "pull-up" };
    fs::write(line(BUTTON, "pull"), pull).unwrap();
}

/// Presses as the trace says, ending closed; gives the instant of the first touch.
pub fn press(trace: &[u64]) -> Monotonic {
    bounce(trace, true)
}

/// Lets go as the trace says; gives the instant at which it first opens.
pub fn let_go(trace: &[u64]) -> Monotonic {
    bounce(trace, false)
}

fn bounce(trace: &[u64], first: bool) -> Monotonic {
    let began = clock::now();
    for (n, ms) in trace.iter().enumerate() {
        clock::sleep_until(began.plus(Duration::from_millis(*ms)));
        button((n % 2 == 0) == first);
    }
    began
}

/// Does something again and again on a thread of its own until it is dropped.
struct Again(Arc<AtomicBool>);

impl Again {
    fn every(nap: Duration, mut look: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                look();
                clock::sleep(nap);
            }
        });
        Self(stop)
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What was seen of the lamps.
struct Seen {
    /// From when on the lamp is lit or dark. It is so since the sample before at the earliest: the later
    /// instant is told.
    changes: Vec<(Monotonic, bool)>,
    /// When the mirror showed anything else.
    astray: Vec<Monotonic>,
    looked: Monotonic,
}

/// Samples the lamps' lines.
pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    _again: Again,
}

impl Watcher {
    pub fn start() -> Self {
        let looked = clock::now();
        let seen = Arc::new(Mutex::new(Seen {
            changes: vec![(looked, false)],
            astray: Vec::new(),
            looked,
        }));
        let [lamp, mirror] = [LAMP, MIRROR].map(|n| File::open(line(n, "value")).unwrap());
        let is_high = |file: &File| {
            let mut value = [0];
            file.read_at(&mut value, 0).unwrap();
            value == *b"1"
        };
        let shared = seen.clone();
        let look = move || {
            // The mirror is active low.
            let (lit, mirrored, still) = (is_high(&lamp), !is_high(&mirror), is_high(&lamp));
            let now = clock::now();
            let mut seen = shared.lock().unwrap();
            if lit == still && lit != mirrored {
                seen.astray.push(now);
            }
            if seen.changes.last().unwrap().1 != still {
                seen.changes.push((now, still));
            }
            seen.looked = now;
        };
        Self {
            seen,
            _again: Again::every(Duration::from_millis(3), look),
        }
    }

    /// Lit or dark, and since when; as long as it was looked at.
    pub fn now(&self) -> (bool, Monotonic, Duration) {
        let seen = self.seen.lock().unwrap();
        let (since, lit) = *seen.changes.last().unwrap();
        (lit, since, seen.looked.since(since))
    }

    /// Waits until it is `lit` for at least 400 ms without a break; gives since when.
    pub fn steady(&self, lit: bool) -> Monotonic {
        wait_until(20, if lit { "light" } else { "darkness" }, || {
            let (found, _, long) = self.now();
            found == lit && long >= Duration::from_millis(400)
        });
        self.now().1
    }

    /// What it was at `from`, then each change before `to`.
    pub fn changes(&self, from: Monotonic, to: Monotonic) -> Vec<(Monotonic, bool)> {
        let changes = &self.seen.lock().unwrap().changes;
        let first = changes.partition_point(|(at, _)| *at <= from);
        let later = changes.iter().take_while(|(at, _)| *at < to);
        later.copied().skip(first.saturating_sub(1)).collect()
    }

    /// How often the mirror showed something else in that time.
    pub fn astray(&self, from: Monotonic, to: Monotonic) -> usize {
        let seen = self.seen.lock().unwrap();
        let within = |at: &&Monotonic| (from..to).contains(at);
        seen.astray.iter().filter(within).count()
    }
}

/// What the box was heard to say of its state: asked at, answered at, the state.
pub type Look = (Monotonic, Monotonic, String);

/// Asks a box for its state again and again.
pub struct Teller {
    looks: Arc<Mutex<Vec<Look>>>,
    _again: Again,
}

impl Teller {
    pub fn start(socket: PathBuf) -> Self {
        let looks: Arc<Mutex<Vec<Look>>> = Arc::default();
        let heard = looks.clone();
        let listen = move || {
            let asked = clock::now();
            if let Some(state) = state(&socket) {
                heard.lock().unwrap().push((asked, clock::now(), state));
            }
        };
        Self {
            looks,
            _again: Again::every(Duration::from_millis(15), listen),
        }
    }

    /// All after the first `before`.
    pub fn looks(&self, before: usize) -> Vec<Look> {
        let looks = self.looks.lock().unwrap();
        looks.get(before..).unwrap_or_default().to_vec()
    }
}

/// A box's state, if it answers.
pub fn state(socket: &Path) -> Option<String> {
    match ask(socket, &Request::Status) {
        Ok(Reply::Status(status)) => Some(status.state),
        _ => None,
    }
}
