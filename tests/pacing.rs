//! Source to pacer in real time: every picture of the pattern comes out once or is counted, in buffers
//! that go round, and ticks are decided as punctually as a bare sleep to the same instants ends.
// An unwrap in a helper of a test is its assertion.
#![allow(clippy::unwrap_used)]

mod support;

use hallcast::board::PatternCamera;
use hallcast::clock;
use hallcast::media::{Monotonic, Picture, Rate};
use hallcast::pacer::{Action, Config, Grid, Pacer};
use hallcast::source::{
    Error, Losses, Pattern, Received, Source, VideoPump, VideoSettings, VideoSource, read_counter,
};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use support::programs::{alone, soak};
use support::rig;

/// Counts the allocations of the threads that ask for it.
#[allow(unsafe_code, reason = "an allocator cannot be replaced without")]
mod allocations {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Counting;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    static COUNT: AtomicU64 = AtomicU64::new(0);

    thread_local! {
        static COUNTED: Cell<bool> = const { Cell::new(false) };
    }

    /// From now on those of this thread count.
    pub fn count_this_thread() {
        COUNTED.set(true);
    }

    pub fn so_far() -> u64 {
        COUNT.load(Ordering::Relaxed)
    }

    fn note() {
        if COUNTED.try_with(Cell::get).unwrap_or(false) {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
    }

    // SAFETY: everything is left to the system's allocator.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            note();
            unsafe { System.alloc(layout) }
        }

        unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            note();
            unsafe { System.realloc(at, layout, size) }
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            unsafe { System.dealloc(at, layout) }
        }
    }
}

const WIDTH: u32 = 320;
const HEIGHT: u32 = 180;

/// The pattern for a given number of its ticks; then it vanishes.
struct Camera {
    pattern: Pattern,
    ticks: u64,
    /// Every so many pictures it stands still for so long.
    stops: Option<(u64, Duration)>,
    /// The first and the last number that were drawn.
    drawn: Arc<Mutex<Option<(u64, u64)>>>,
}

impl Camera {
    fn new(rate: Rate, ticks: u64) -> Self {
        let settings = PatternCamera {
            width: WIDTH,
            height: HEIGHT,
            rate,
        };
        Self {
            pattern: Pattern::open(&settings),
            ticks,
            stops: None,
            drawn: Arc::default(),
        }
    }
}

impl Source for Camera {
    type Block = Picture;

    fn settings(&self) -> VideoSettings {
        self.pattern.settings()
    }

    fn next(&mut self, into: &mut Picture) -> Result<(), Error> {
        allocations::count_this_thread();
        let drawn = *self.drawn.lock().unwrap();
        if drawn.is_some_and(|(first, last)| last + 1 >= first + self.ticks) {
            return Err(Error::Vanished {
                device: "the pattern".into(),
                reason: "it has shown what was asked for".into(),
            });
        }
        if let (Some((first, last)), Some((every, stop))) = (drawn, self.stops)
            && (last - first) % every == every - 1
        {
            clock::sleep(stop);
        }
        self.pattern.next(into)?;
        let first = drawn.map_or(into.sequence, |(first, _)| first);
        *self.drawn.lock().unwrap() = Some((first, into.sequence));
        Ok(())
    }

    fn losses(&self) -> Losses {
        self.pattern.losses()
    }
}

/// What the lane of a picture track does, without the encoder.
struct Lane {
    pump: VideoPump,
    pacer: Pacer<Picture>,
    shown: Option<Picture>,
    wait: Monotonic,
    offered: u64,
    ended: bool,
}

/// A tick that was decided.
struct Decided<'a> {
    tick: u64,
    at: Monotonic,
    picture: &'a Picture,
    repeated: bool,
}

impl Lane {
    fn open(camera: Camera) -> Self {
        let rate = camera.settings().rate;
        let mut camera = Some(camera);
        let open = move || -> Result<VideoSource, Error> { Ok(Box::new(camera.take().unwrap())) };
        let pump = VideoPump::start("camera", open).unwrap();
        let soon = clock::now().plus(Duration::from_secs(5));
        let Received::Opened(_) = pump.receive(soon) else {
            panic!("the pattern always opens")
        };
        Self {
            pump,
            pacer: Pacer::new(Config::at(rate)),
            shown: None,
            wait: soon,
            offered: 0,
            ended: false,
        }
    }

    /// Waits for the next thing to happen, and does what the pacer says then.
    fn step(&mut self, mut decided: impl FnMut(Decided<'_>)) {
        match self.pump.receive(self.wait) {
            Received::Block(picture) => {
                self.offered += 1;
                let captured = picture.captured;
                self.pacer.offer(clock::now(), captured, picture);
            }
            Received::Timeout => {}
            Received::Failed(_) => self.ended = true,
            Received::Opened(_) => panic!("it was not opened again"),
        }
        loop {
            let at = clock::now();
            let (tick, repeated) = match self.pacer.poll(at) {
                Action::Emit { tick, picture } => {
                    if let Some(before) = self.shown.replace(picture) {
                        self.pump.recycle(before);
                    }
                    (tick, false)
                }
                Action::Repeat { tick, .. } => (tick, true),
                Action::Drop { picture, .. } => {
                    self.pump.recycle(picture);
                    continue;
                }
                Action::Wait(until) => {
                    let at_the_latest = at.plus(Duration::from_secs(1));
                    self.wait = until.unwrap_or(at_the_latest).min(at_the_latest);
                    return;
                }
            };
            decided(Decided {
                tick,
                at,
                picture: self.shown.as_ref().unwrap(),
                repeated,
            });
        }
    }
}

fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

fn number(picture: &Picture) -> u64 {
    let (width, height) = (WIDTH as usize, HEIGHT as usize);
    read_counter(&picture.data, width, height, width)
        .unwrap()
        .into()
}

#[test]
fn the_pattern_is_paced_without_loss_in_a_handful_of_buffers() {
    let _alone = alone();
    let mut lane = Lane::open(Camera::new(rate("50"), 1_000));
    let (mut buffers, mut first) = (BTreeSet::new(), None);
    while lane.pacer.stats().ticks() < 100 {
        lane.step(|decided| {
            buffers.insert(decided.picture.data.as_ptr() as usize);
            let number = number(decided.picture);
            let first = *first.get_or_insert(number);
            assert!(
                decided.repeated || number - first == decided.tick,
                "each picture on its own tick"
            );
        });
    }
    let (stats, pump) = (lane.pacer.stats(), lane.pump.stats());
    println!(
        "{} emitted, {} repeats, {} drops, decided {:?} (p50) {:?} (p99) {:?} (p99.9) {:?} (max) after \
         the tick, {} buffers",
        stats.emitted,
        stats.repeats(),
        stats.drops(),
        stats.lateness.p50(),
        stats.lateness.p99(),
        stats.lateness.p999(),
        stats.lateness.max(),
        buffers.len()
    );
    // A busy machine may make the pattern skip, or wake us too late; nothing else may cost a picture.
    let late = stats.dropped_late + pump.losses.lost + pump.dropped;
    assert!(stats.repeats() <= late, "{stats:?} {pump:?}");
    assert_eq!(stats.drops(), stats.dropped_late, "{stats:?}");
    assert!(
        buffers.len() <= 4 + late as usize,
        "{} buffers",
        buffers.len()
    );
}

// ---- lateness ----

/// When something was due, and how late it was.
type Late = (Monotonic, Duration);

/// Sleeps to each instant and does nothing else, in a thread of its own; or in one whose word another one
/// waits for, and it is that one's lateness.
fn bare(instants: Vec<Monotonic>, chained: bool) -> JoinHandle<Vec<Late>> {
    let late = |at: Monotonic| (at, clock::now().since(at));
    let (give, take) = std::sync::mpsc::channel();
    let first = std::thread::spawn(move || {
        let wake = |at: Monotonic| {
            clock::sleep_until(at);
            if chained {
                give.send(at).unwrap();
            }
            late(at)
        };
        instants.into_iter().map(wake).collect()
    });
    match chained {
        true => std::thread::spawn(move || take.into_iter().map(late).collect()),
        false => first,
    }
}

/// Runs a camera of `pictures` pictures through the pacer for `ticks` ticks, of which each is due as
/// `due` says, and the bare loop beside it. Gives the lateness of those that were decided for the
/// expected reason, of the bare loop, and how many were decided for another one.
fn side_by_side(
    rate: Rate,
    pictures: u64,
    ticks: u64,
    due: fn(Grid, Rate, u64) -> Monotonic,
) -> (Vec<Late>, Vec<Late>, u64) {
    /// Ticks until all threads run.
    const START: u64 = 20;
    let mut lane = Lane::open(Camera::new(rate, pictures));
    let (mut ours, mut others, mut beside) = (Vec::new(), 0, None);
    let by_deadline = pictures == 1;
    while lane.pacer.stats().ticks() < START + ticks {
        let grid = lane.pacer.grid();
        lane.step(|decided| {
            let Some(grid) = grid.filter(|_| decided.tick >= START) else {
                return;
            };
            let due = due(grid, rate, decided.tick);
            match decided.repeated == by_deadline {
                true => ours.push((due, decided.at.since(due))),
                false => others += 1,
            }
        });
        if let (None, Some(grid)) = (&beside, lane.pacer.grid()) {
            let instants = (START..START + ticks).map(|tick| due(grid, rate, tick));
            // A picture has two wake-ups behind it, the pattern's and its reader's, and a repeat one.
            beside = Some(bare(instants.collect(), !by_deadline));
        }
    }
    (ours, beside.unwrap().join().unwrap(), others)
}

fn quantile(of: &[Late], per_mille: usize) -> Duration {
    let mut late: Vec<Duration> = of.iter().map(|(_, late)| *late).collect();
    late.sort_unstable();
    let index = (late.len() * per_mille).div_ceil(1000).max(1) - 1;
    late.get(index).copied().unwrap_or_default()
}

fn row(name: &str, of: &[Late]) {
    let micros = |per_mille| quantile(of, per_mille).as_micros();
    println!(
        "{name:44} {:6} {:6} {:6} {:6}",
        micros(500),
        micros(990),
        micros(999),
        micros(1000)
    );
}

/// By how much the p99 of `ours` exceeds that of the bare loop: the median over the seconds, since a
/// host that stops one of two threads for a moment says nothing of either.
fn excess(ours: &[Late], bare: &[Late]) -> Duration {
    let begin = bare[0].0;
    let second = |of: &[Late], n: u64| -> Vec<Late> {
        let inside = |(due, _): &&Late| due.since(begin).as_secs() == n;
        of.iter().filter(inside).copied().collect()
    };
    let seconds = bare[bare.len() - 1].0.since(begin).as_secs();
    let mut by: Vec<Duration> = (0..seconds)
        .map(|n| (second(ours, n), second(bare, n)))
        .map(|(ours, bare)| quantile(&ours, 990).saturating_sub(quantile(&bare, 990)))
        .collect();
    by.sort_unstable();
    by[by.len() / 2]
}

/// The rate is higher than a lecture's so that ten seconds hold a thousand ticks.
fn measure_lateness(seconds: u64) {
    const A_SECOND: u64 = 100;
    let ticks = seconds * A_SECOND;
    let by_pictures = std::thread::spawn(move || {
        let due = |grid: Grid, _: Rate, tick| grid.time_of(tick);
        side_by_side(rate("100"), u64::MAX / 2, ticks, due)
    });
    // One picture and no more: each tick after it repeats it, when its time has run out.
    let (repeats, bare_repeats, _) = side_by_side(rate("100"), 1, ticks, |grid, rate, tick| {
        let half = Duration::from_nanos(rate.tick_nanos(1) / 2);
        grid.time_of(tick).plus(half + Config::DELIVERY_ALLOWANCE)
    });
    let (pictures, bare_pictures, repeated) = by_pictures.join().unwrap();
    let (picture_excess, repeat_excess) = (
        excess(&pictures, &bare_pictures),
        excess(&repeats, &bare_repeats),
    );
    println!("{ticks} ticks each, all side by side; how late, in us:");
    println!(
        "{:44} {:>6} {:>6} {:>6} {:>6}",
        "", "p50", "p99", "p99.9", "max"
    );
    row("pictures of the pattern, after their tick", &pictures);
    row(
        "bare sleep to them, and one that waits for it",
        &bare_pictures,
    );
    row("repeats, after their deadline", &repeats);
    row("bare sleep to the same instants", &bare_repeats);
    println!(
        "p99 above the bare one's, median of the seconds: pictures {picture_excess:?}, repeats \
         {repeat_excess:?} (at most 1 ms); {repeated} pictures repeated"
    );
    // Neither the drawing nor what is decided takes a millisecond, which is what the whole pacer is allowed.
    assert!(picture_excess <= Duration::from_millis(1));
    assert!(repeat_excess <= Duration::from_millis(1));
    assert!(repeats.len() as u64 == ticks && repeated < ticks / 10);
}

#[test]
fn ticks_are_as_punctual_as_a_bare_sleep() {
    let _alone = alone();
    measure_lateness(soak(10, 120));
}

#[test]
fn ticks_in_the_guest_are_as_punctual_as_a_bare_sleep() {
    if rig::inside().is_some() {
        return measure_lateness(10);
    }
    let _alone = alone();
    let results = tempfile::tempdir_in("/tmp").unwrap();
    rig::ran_in_the_guest(
        "ticks_in_the_guest_are_as_punctual_as_a_bare_sleep",
        120,
        results.path(),
    );
}

// ---- loss ----

/// Threads that never rest, on the processor of the thread that starts them.
struct Hogs(Arc<AtomicBool>, Vec<JoinHandle<u64>>);

impl Hogs {
    /// The calling thread and all that it starts stay on this processor from now on: on another one these
    /// would only disturb what else is tested at the time, and not what is tested here.
    fn start() -> Self {
        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        sched_setaffinity(None, &here).unwrap();
        let run = Arc::new(AtomicBool::new(true));
        let hog = |_| {
            let run = Arc::clone(&run);
            std::thread::spawn(move || {
                let mut turns = 0_u64;
                while run.load(Ordering::Relaxed) {
                    turns = std::hint::black_box(turns.wrapping_add(1));
                }
                turns
            })
        };
        let threads = (0..3).map(hog).collect();
        Self(run, threads)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
        for thread in self.1.drain(..) {
            let _ = thread.join();
        }
    }
}

#[test]
fn with_hogs_beside_it_no_picture_is_lost_silently() {
    let _alone = alone();
    let hogs = Hogs::start();
    let mut camera = Camera::new(rate("50"), 50 * soak(10, 120));
    // The hogs may not be enough: the device and the reader stand still as well.
    camera.stops = Some((90, Duration::from_millis(150)));
    let drawn = Arc::clone(&camera.drawn);
    let mut lane = Lane::open(camera);
    let (mut shown, mut changes, mut stills) = (None, 0_u64, 0_u64);
    let (mut first, mut missing) = (0, 0);
    while !lane.ended || lane.pacer.stats().emitted + lane.pacer.stats().drops() < lane.offered {
        lane.step(|decided| {
            let number = number(decided.picture);
            match shown {
                None => (first, changes) = (number, 1),
                Some(before) if before == number => stills += 1,
                Some(before) => {
                    assert!(number > before, "{number} after {before}");
                    missing += number - before - 1;
                    changes += 1;
                }
            }
            shown = Some(number);
            if decided.tick % 120 == 60 {
                clock::sleep(Duration::from_millis(400));
            }
        });
    }
    let count = hogs.1.len();
    drop(hogs);
    let (stats, pump) = (lane.pacer.stats(), lane.pump.stats());
    let (drawn_first, drawn_last) = drawn.lock().unwrap().unwrap();
    // What the numbers say: those that were skipped, and those before the first and after the last.
    let cut = |number: u64| number % (1 << 24);
    missing += first - cut(drawn_first) + cut(drawn_last) - shown.unwrap();
    let counted = pump.losses.lost + pump.dropped + stats.drops();
    println!(
        "{count} hogs: {} numbers drawn or skipped, {changes} shown, {missing} missing; counted: {} not \
         drawn, {} dropped before the pacer, {} by it ({} late); {stills} stills, {} repeats; silent \
         loss {} (must be 0)",
        drawn_last - drawn_first + 1,
        pump.losses.lost,
        pump.dropped,
        stats.drops(),
        stats.dropped_late,
        stats.repeats(),
        missing as i64 - counted as i64
    );
    assert_eq!(missing, counted, "{stats:?} {pump:?}");
    assert_eq!(stills, stats.repeats());
    assert_eq!(changes, stats.emitted);
    assert_eq!(pump.delivered, lane.offered + pump.dropped);
    assert!(pump.losses.lost > 0 && pump.dropped > 0, "it was disturbed");
}

#[test]
fn in_steady_state_no_picture_costs_an_allocation() {
    let _alone = alone();
    allocations::count_this_thread();
    let mut lane = Lane::open(Camera::new(rate("100"), u64::MAX / 2));
    let mut counts = Vec::new();
    // A machine that holds up the reader makes the buffers more, once; each time is another chance.
    while counts.len() < 4 && counts.last() != Some(&0) {
        let (before, end) = (allocations::so_far(), lane.pacer.stats().emitted + 300);
        while lane.pacer.stats().emitted < end {
            lane.step(|_| {});
        }
        counts.push(allocations::so_far() - before);
    }
    println!("allocations in each 300 pictures, the first with the buffers: {counts:?}");
    assert!(counts[0] > 0, "they are counted");
    assert_eq!(counts.last(), Some(&0), "{counts:?}");
}
