//! A button for boards without one: pressed through the control socket, or by a test.

use super::debounce::HOLD;
use super::{Debounce, Press};
use crate::media::Monotonic;
use std::time::Duration;

/// How long a simulated finger rests on the button.
const TOUCH: Duration = Duration::from_millis(150);

/// A button that a program presses; its edges go through the same [`Debounce`] as a real one's.
#[derive(Clone, Debug, Default)]
pub struct SimulatedButton {
    debounce: Debounce,
    let_go: Option<Monotonic>,
}

impl SimulatedButton {
    /// A button that is up.
    pub fn new() -> Self {
        Self::default()
    }

    /// Presses it at `now` and lets go a moment later. A press while it is down lengthens that one.
    pub fn press(&mut self, now: Monotonic) -> Option<Press> {
        self.down_until(now, now.plus(TOUCH))
    }

    /// Presses it at `now` for long enough to be a hold.
    pub fn hold(&mut self, now: Monotonic) -> Option<Press> {
        self.down_until(now, now.plus(HOLD).plus(TOUCH))
    }

    /// What happens by itself up to `now`; due at the instant that [`SimulatedButton::next`] names.
    pub fn poll(&mut self, now: Monotonic) -> Option<Press> {
        match self.let_go {
            Some(let_go) if now >= let_go => {
                self.let_go = None;
                self.debounce.edge(false, now)
            }
            _ => self.debounce.poll(now),
        }
    }

    /// When [`SimulatedButton::poll`] is due.
    pub fn next(&self) -> Option<Monotonic> {
        [self.let_go, self.debounce.next()]
            .into_iter()
            .flatten()
            .min()
    }

    fn down_until(&mut self, now: Monotonic, let_go: Monotonic) -> Option<Press> {
        self.let_go = self.let_go.max(Some(let_go));
        self.debounce.edge(true, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn it_can_be_pressed_held_and_pressed_again() {
        let mut button = SimulatedButton::new();
        let mut found = Vec::new();
        for (ms, hold) in [(0, false), (1000, true), (5000, false)] {
            // What was due before.
            while let Some(due) = button.next().filter(|due| *due <= at(ms)) {
                found.extend(button.poll(due).map(|press| (due, press)));
            }
            let press = if hold {
                button.hold(at(ms))
            } else {
                button.press(at(ms))
            };
            found.extend(press.map(|press| (at(ms), press)));
        }
        let down = |ms| (at(ms), Press::Down);
        assert_eq!(
            found,
            [down(0), down(1000), (at(3000), Press::Held), down(5000)]
        );
        let let_go = button.next().unwrap();
        assert_eq!(button.poll(let_go), None);
        assert_eq!(button.next(), None);
    }
}
