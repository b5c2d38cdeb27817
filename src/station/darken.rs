//! `hallcast darken`: makes the board's lamp dark once the box has ended, whatever ended it.
//!
//! The lamp's guard does that by itself. It cannot where it was killed at one stroke with the box: then
//! nobody holds the lamp's lines, and many chips leave such a line as it was driven last. The service
//! manager calls this after each end.

use super::{Error, config};
use crate::clock;
use crate::panel;
use std::time::Duration;

/// The longest wait for whoever holds the lamp: a guard that lives lets go within a moment, dark.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) fn run(flags: &config::Flags) -> Result<(), Error> {
    // Wrong settings have been told by the box, which has lit nothing then.
    let Ok(config) = config::load(flags) else {
        return Ok(());
    };
    let Some(lines) = config.lines() else {
        return Ok(());
    };
    let lamps: Vec<_> = [&lines.lamp]
        .into_iter()
        .chain(&lines.mirrors)
        .cloned()
        .collect();
    let driver = panel::driver(&lines.chip, config.raspberry_pi);
    let until = clock::now().plus(PATIENCE);
    loop {
        match driver.lamp(&lamps) {
            // Opened is dark.
            Ok(_) => return Ok(()),
            Err(panel::Error::Taken { .. }) if clock::now() < until => {
                clock::sleep(PATIENCE / 50);
            }
            Err(error) => return Err(Error::Refused(format!("the lamp: {error}"))),
        }
    }
}
