//! Which picture each tick gets.
//!
//! A tick gets the picture whose *capture* time is nearest to it, if one lies within half a tick. It is
//! decided as soon as no later picture can be nearer, judging by the source's nominal interval: with
//! equal rates that is when the picture arrives, so the pacer adds no latency. A tick for which nothing
//! came by half a tick plus the delivery allowance after it repeats the picture before.
//!
//! **Hysteresis.** When source and grid have nearly the same rate, their phase drifts slowly, and near
//! half a tick jitter would throw successive pictures to either side: a repeat and a drop for nothing,
//! again and again. So a slip (a repeat or a drop because the phase crossed half a tick) moves the
//! point of comparison by a quarter tick to the side where the pictures now are, until their phase is
//! within a quarter tick again. The slip itself still happens at half a tick exactly; jitter of less
//! than a quarter tick, peak to peak, changes nothing after it. A first picture that is farther than a
//! quarter tick from its tick counts as such a slip, unless the nominal rates say that it drifts on
//! towards half a tick.
//!
//! **Stamps from the future.** Nothing is captured after it has arrived. A stamp more than a quarter
//! tick later than that (drivers stamp by other timers, so some lead is usual) is taken to be that
//! quarter tick ahead, and counted: believed, it would repeat every tick up to it at once, and leave
//! out every picture until then. So no tick is decided more than one tick before its time.

use super::grid::Grid;
use super::stats::{DropReason, RepeatReason, Stats};
use crate::media::{Monotonic, Rate};
use heapless::Deque;
use std::cmp::Ordering;
use std::time::Duration;

/// How a [`Pacer`] is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Ticks per second.
    pub rate: Rate,
    /// Pictures per second that the source reports.
    pub source_rate: Rate,
    /// When tick 0 is; `None`: when the first picture was captured.
    pub start: Option<Monotonic>,
    /// How long after its capture a picture may arrive; it grows, up to half a second, when a source
    /// shows that it takes longer.
    pub delivery_allowance: Duration,
}

impl Config {
    /// The usual delivery allowance: three pictures of a 30 Hz camera.
    pub const DELIVERY_ALLOWANCE: Duration = Duration::from_millis(100);
    /// What the allowance grows to at most.
    pub const LONGEST_ALLOWANCE: Duration = Duration::from_millis(500);

    /// A grid at the source's own rate, from its first picture on.
    pub fn at(rate: Rate) -> Self {
        Self {
            rate,
            source_rate: rate,
            start: None,
            delivery_allowance: Self::DELIVERY_ALLOWANCE,
        }
    }
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<P> {
    /// `tick` shows `picture`. Keep it until the next `Emit`: a repeat shows it again.
    Emit {
        /// Counts from 0 without gaps.
        tick: u64,
        /// The picture.
        picture: P,
    },
    /// `tick` shows the picture that was emitted last.
    Repeat {
        /// Counts from 0 without gaps.
        tick: u64,
        /// Why.
        reason: RepeatReason,
    },
    /// No tick wants `picture`: recycle it.
    Drop {
        /// The picture.
        picture: P,
        /// Why.
        reason: DropReason,
    },
    /// Nothing until this instant or the next offer; `None`: until the first picture.
    Wait(Option<Monotonic>),
}

/// More than ever wait when the pacer is polled after each offer.
const PENDING: usize = 8;

/// Puts pictures on a grid. `P` is the picture, or whatever stands for it.
#[derive(Debug)]
pub struct Pacer<P> {
    config: Config,
    grid: Option<Grid>,
    /// Half a tick, in nanoseconds.
    half: i64,
    next_tick: u64,
    pending: Deque<(Monotonic, P), PENDING>,
    rejected: Deque<(P, DropReason), PENDING>,
    /// Capture time of the newest picture that was taken into account.
    newest: Option<Monotonic>,
    /// Capture time of the last picture that was emitted.
    shown: Option<Monotonic>,
    /// Capture time of a first picture that stands in for the ticks before it.
    stand_in: Option<Monotonic>,
    /// The last tick that was repeated because time ran out.
    timed_out: Option<u64>,
    /// How far the point of comparison is moved from the tick, in nanoseconds (see the module).
    shift: i64,
    stats: Stats,
}

impl<P> Pacer<P> {
    /// A pacer that has seen nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            grid: config.start.map(|start| Grid::new(start, config.rate)),
            half: config.rate.tick_nanos(1) as i64 / 2,
            config,
            next_tick: 0,
            pending: Deque::new(),
            rejected: Deque::new(),
            newest: None,
            shown: None,
            stand_in: None,
            timed_out: None,
            shift: 0,
            stats: Stats::default(),
        }
    }

    /// The grid; `None` while it waits for the first picture to start it.
    pub fn grid(&self) -> Option<Grid> {
        self.grid
    }

    /// Counts so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The source was opened again and now reports this rate.
    pub fn set_source_rate(&mut self, rate: Rate) {
        self.config.source_rate = rate;
    }

    /// Does not wait for a first picture any longer: ticks are repeats of nothing until one comes. For
    /// a grid with a given start.
    pub fn go_without(&mut self) {
        if let Some(grid) = self.grid {
            self.shown.get_or_insert(grid.start());
        }
    }

    /// Takes a picture into account that arrived at `now`. Poll until [`Action::Wait`] after each
    /// offer.
    pub fn offer(&mut self, now: Monotonic, captured: Monotonic, picture: P) {
        let latest = now.plus(Duration::from_nanos(self.half as u64 / 2));
        self.stats.stamped_ahead += u64::from(captured > latest);
        let captured = captured.min(latest);
        if self.newest.is_some_and(|newest| captured <= newest) {
            self.reject(picture, DropReason::OutOfOrder);
            return;
        }
        self.newest = Some(captured);
        if self.grid.is_none() {
            self.grid = Some(Grid::new(captured, self.config.rate));
        }
        if self.pending.is_full()
            && let Some((_, oldest)) = self.pending.pop_front()
        {
            self.reject(oldest, DropReason::NotPolled);
        }
        // There is room: one was just taken out if there was none.
        let _ = self.pending.push_back((captured, picture));
    }

    /// What to do at `now`; poll again until it is [`Action::Wait`].
    pub fn poll(&mut self, now: Monotonic) -> Action<P> {
        if let Some((picture, reason)) = self.rejected.pop_front() {
            return self.dropped(picture, reason);
        }
        let Some(grid) = self.grid else {
            return Action::Wait(None);
        };
        let tick = grid.time_of(self.next_tick);
        if let Some(stand_in) = self.stand_in {
            if stand_in < grid.boundary_after(self.next_tick) {
                self.stand_in = None;
                self.lean_towards(stand_in.offset_from(tick));
            }
            return self.repeat(tick, now, RepeatReason::BeforeFirst);
        }
        let deadline = tick
            .plus(Duration::from_nanos(self.half as u64))
            .plus(self.config.delivery_allowance);
        let Some(&(captured, _)) = self.pending.front() else {
            return match self.shown {
                None => Action::Wait(None),
                Some(_) if now < deadline => Action::Wait(Some(deadline)),
                Some(_) => {
                    self.timed_out = Some(self.next_tick);
                    self.repeat(tick, now, RepeatReason::NoPicture)
                }
            };
        };
        let compared = self.compared(captured);
        let window = match self.next_tick {
            0 => tick.minus(Duration::from_nanos(self.half as u64)),
            n => grid.boundary_after(n - 1),
        };
        if compared < window {
            let reason = self.reason_too_early(captured, grid, now);
            return self.take(reason);
        }
        if compared >= grid.boundary_after(self.next_tick) {
            if self.shown.is_some() {
                let reason = self.reason_too_late(captured);
                return self.repeat(tick, now, reason);
            }
            self.stand_in = Some(captured);
            return self.emit(tick, now);
        }
        let distance = compared.offset_from(tick);
        if let Some((next, _)) = self.pending.iter().nth(1) {
            return if self.compared(*next).offset_from(tick).abs() < distance.abs() {
                self.take(DropReason::FasterSource)
            } else {
                self.emit(tick, now)
            };
        }
        // The next picture is one source interval away: no nearer unless this one is early by more
        // than half of that.
        let interval = self.config.source_rate.tick_nanos(1) as i64;
        if 2 * distance >= -interval || now >= deadline {
            self.emit(tick, now)
        } else {
            Action::Wait(Some(deadline))
        }
    }

    /// `captured` as it is compared with ticks: moved instead of the ticks.
    fn compared(&self, captured: Monotonic) -> Monotonic {
        let by = Duration::from_nanos(self.shift.unsigned_abs());
        if self.shift < 0 {
            captured.plus(by)
        } else {
            captured.minus(by)
        }
    }

    /// Moves the point of comparison a quarter tick towards pictures that lie `phase` from their
    /// ticks; at a quarter tick or less, back to the tick.
    fn lean_towards(&mut self, phase: i64) {
        let quarter = self.half / 2;
        if phase.abs() <= quarter {
            self.shift = 0;
        } else if self.nearly_equal_rates() && !self.drifts_towards(phase) {
            self.shift = quarter * phase.signum();
        }
    }

    /// Whether the rates say that pictures move on to this side of their ticks. Leaning there would
    /// put off the slip for which they are bound, past half a tick.
    fn drifts_towards(&self, phase: i64) -> bool {
        let (tick, interval) = (self.config.rate, self.config.source_rate);
        match interval.tick_nanos(1).cmp(&tick.tick_nanos(1)) {
            Ordering::Greater => phase > 0,
            Ordering::Less => phase < 0,
            Ordering::Equal => false,
        }
    }

    /// Why the picture before this tick's window is in no tick.
    fn reason_too_early(&mut self, captured: Monotonic, grid: Grid, now: Monotonic) -> DropReason {
        if self.shown.is_none() {
            return DropReason::BeforeStart;
        }
        let late = self
            .timed_out
            .is_some_and(|tick| self.compared(captured) < grid.boundary_after(tick));
        if !late {
            self.lean_towards(self.half);
            return DropReason::FasterSource;
        }
        // A source that takes longer than was allowed would otherwise never be seen at all.
        let taken = now.since(captured).min(Config::LONGEST_ALLOWANCE);
        self.config.delivery_allowance = self.config.delivery_allowance.max(taken);
        DropReason::Late
    }

    /// Why there is no picture between the last one and this one, which is after this tick's window.
    fn reason_too_late(&mut self, captured: Monotonic) -> RepeatReason {
        let interval = self.config.source_rate.interval();
        let since_last = self.shown.map(|shown| captured.since(shown));
        if since_last.is_some_and(|passed| passed > interval * 3 / 2) {
            RepeatReason::NoPicture
        } else {
            self.lean_towards(-self.half);
            RepeatReason::SlowerSource
        }
    }

    fn emit(&mut self, tick: Monotonic, now: Monotonic) -> Action<P> {
        let Some((captured, picture)) = self.pending.pop_front() else {
            unreachable!("it was looked at");
        };
        let phase = captured.offset_from(tick);
        if self.stand_in.is_none() && (self.shown.is_none() || phase.abs() <= self.half / 2) {
            self.lean_towards(phase);
        }
        self.shown = Some(captured);
        self.stats.emitted += 1;
        Action::Emit {
            tick: self.decided(tick, now),
            picture,
        }
    }

    /// Within 2 %: drift and 29.97 against 30, but not 24 against 25.
    fn nearly_equal_rates(&self) -> bool {
        let tick = self.config.rate.tick_nanos(1);
        tick.abs_diff(self.config.source_rate.tick_nanos(1)) * 50 <= tick
    }

    fn repeat(&mut self, tick: Monotonic, now: Monotonic, reason: RepeatReason) -> Action<P> {
        self.stats.repeat(reason);
        Action::Repeat {
            tick: self.decided(tick, now),
            reason,
        }
    }

    /// The number of the tick that was just decided.
    fn decided(&mut self, tick: Monotonic, now: Monotonic) -> u64 {
        self.stats.lateness.note(now.since(tick));
        self.next_tick += 1;
        self.next_tick - 1
    }

    fn take(&mut self, reason: DropReason) -> Action<P> {
        match self.pending.pop_front() {
            Some((_, picture)) => self.dropped(picture, reason),
            None => unreachable!("it was looked at"),
        }
    }

    fn dropped(&mut self, picture: P, reason: DropReason) -> Action<P> {
        self.stats.drop(reason);
        Action::Drop { picture, reason }
    }

    fn reject(&mut self, picture: P, reason: DropReason) {
        if self.rejected.push_back((picture, reason)).is_err() {
            // The caller does not poll: the picture is freed instead of recycled.
            self.stats.drop(DropReason::NotPolled);
        }
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "policy_properties.rs"]
mod properties;
