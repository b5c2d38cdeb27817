//! Presses out of a button's bouncing contact.
//!
//! A press acts on its first edge, so that nothing waits; what follows within the lock-out is the
//! contact bouncing. A button that stays down becomes a hold, once.

use crate::media::Monotonic;
use std::time::Duration;

/// Edges this soon after a press or a release are its bouncing.
pub const LOCK_OUT: Duration = Duration::from_millis(100);

/// How long a button is held for a hold.
pub const HOLD: Duration = Duration::from_secs(2);

/// A button that is down for so long after it was held is not held by a finger.
const STUCK: Duration = Duration::from_secs(30);

/// What a finger did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Press {
    /// The button went down.
    Down,
    /// It has now been down for [`HOLD`]; the `Down` came before.
    Held,
}

/// One button.
#[derive(Clone, Debug, Default)]
pub struct Debounce {
    /// The level that was accepted last.
    down: bool,
    /// The level that was seen last.
    level: bool,
    /// When `down` last changed.
    changed: Option<Monotonic>,
    held: bool,
}

impl Debounce {
    /// A button that is up.
    pub fn new() -> Self {
        Self::default()
    }

    /// A button that is down already: that is no press, it has to come up first.
    pub fn stuck() -> Self {
        Self {
            down: true,
            level: true,
            changed: None,
            held: true,
        }
    }

    /// The level changed (`pressed`: towards active) at `now`.
    pub fn edge(&mut self, pressed: bool, now: Monotonic) -> Option<Press> {
        self.level = pressed;
        self.poll(now)
    }

    /// Nothing changed up to `now`; due at the instant that [`Debounce::next`] names.
    pub fn poll(&mut self, now: Monotonic) -> Option<Press> {
        let settled = self
            .changed
            .is_none_or(|changed| now >= changed.plus(LOCK_OUT));
        if settled && self.level != self.down {
            self.down = self.level;
            self.changed = Some(now);
            self.held = false;
            return self.down.then_some(Press::Down);
        }
        let due = self.changed.map(|changed| changed.plus(HOLD));
        if self.down && self.level && !self.held && due.is_some_and(|due| now >= due) {
            self.held = true;
            return Some(Press::Held);
        }
        None
    }

    /// When a button that was held is taken for stuck, if it does not come up before.
    pub fn stuck_at(&self) -> Option<Monotonic> {
        let held = self
            .changed
            .filter(|_| self.down && self.level && self.held)?;
        Some(held.plus(HOLD).plus(STUCK))
    }

    /// When [`Debounce::poll`] is due, if no edge comes before.
    pub fn next(&self) -> Option<Monotonic> {
        let changed = self.changed?;
        if self.level != self.down {
            Some(changed.plus(LOCK_OUT))
        } else if self.down && !self.held {
            Some(changed.plus(HOLD))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_nanos(ms * 1_000_000)
    }

    /// Runs edges (at, pressed) and time until `end`; gives what was reported, and when.
    fn run(edges: &[(u64, bool)], end: u64) -> Vec<(u64, Press)> {
        let mut button = Debounce::new();
        let mut found = Vec::new();
        let mut edges = edges.iter().peekable();
        loop {
            let due = button.next().map(|due| due.as_nanos() / 1_000_000);
            let (now, press) = match (edges.peek(), due) {
                (Some((edge, _)), due) if due.is_none_or(|due| *edge <= due) => {
                    let (edge, pressed) = edges.next().unwrap();
                    (*edge, button.edge(*pressed, at(*edge)))
                }
                (_, Some(due)) if due <= end => (due, button.poll(at(due))),
                _ => return found,
            };
            found.extend(press.map(|press| (now, press)));
        }
    }

    #[test]
    fn a_press_acts_on_its_first_edge_and_its_bouncing_does_not() {
        let bouncing = [(10, true), (11, false), (13, true), (14, false), (18, true)];
        assert_eq!(run(&bouncing, 1000), [(10, Press::Down)]);
        // Let go, bouncing again.
        let mut edges = bouncing.to_vec();
        edges.extend([(500, false), (501, true), (503, false)]);
        assert_eq!(run(&edges, 5000), [(10, Press::Down)]);
        // And pressed again.
        edges.push((700, true));
        assert_eq!(run(&edges, 1000), [(10, Press::Down), (700, Press::Down)]);
    }

    #[test]
    fn a_brush_shorter_than_the_lock_out_is_one_press() {
        assert_eq!(run(&[(10, true), (30, false)], 5000), [(10, Press::Down)]);
    }

    #[test]
    fn a_hold_is_reported_once_and_only_when_it_lasted() {
        let expected = [(10, Press::Down), (2010, Press::Held)];
        assert_eq!(run(&[(10, true)], 60_000), expected);
        assert_eq!(
            run(&[(10, true), (2009, false)], 60_000),
            [(10, Press::Down)]
        );
        assert_eq!(run(&[(10, true), (2011, false)], 60_000), expected);
    }

    #[test]
    fn a_button_that_stays_down_after_a_hold_is_stuck() {
        let mut button = Debounce::new();
        button.edge(true, at(10));
        assert_eq!(button.stuck_at(), None, "it may come up");
        assert_eq!(button.poll(at(2010)), Some(Press::Held));
        assert_eq!(button.stuck_at(), Some(at(32_010)));
        button.edge(false, at(32_009));
        assert_eq!(button.stuck_at(), None);
        assert_eq!(Debounce::stuck().stuck_at(), None, "known from the start");
    }

    proptest! {
        /// Presses are never closer together than the lock-out allows, and a hold belongs to one.
        #[test]
        fn no_contact_however_bad_makes_presses_out_of_one(
            steps in prop::collection::vec((1u64..400, any::<bool>()), 1..100),
        ) {
            let mut now = 0;
            let edges: Vec<(u64, bool)> = steps
                .iter()
                .map(|(step, pressed)| {
                    now += step;
                    (now, *pressed)
                })
                .collect();
            let found = run(&edges, now + 10_000);
            for pair in found.windows(2) {
                let apart = pair[1].0 - pair[0].0;
                match pair[1].1 {
                    // Down, up, down: two lock-outs; after a hold the first is long over.
                    Press::Down if pair[0].1 == Press::Held => prop_assert!(apart >= 100, "{found:?}"),
                    Press::Down => prop_assert!(apart >= 200, "{found:?}"),
                    Press::Held => {
                        prop_assert_eq!(pair[0].1, Press::Down);
                        prop_assert_eq!(apart, 2000);
                    }
                }
            }
            // The first edge towards active is never missed.
            let first = edges.iter().find(|(_, pressed)| *pressed).map(|(at, _)| *at);
            prop_assert_eq!(found.first().map(|(at, _)| *at), first);
        }
    }
}
