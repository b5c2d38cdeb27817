//! `hallcast darken`: makes the board's lamp dark once the box has ended, whatever ended it.
//!
//! The lamp's guard does that by itself. It cannot where it was killed at one stroke with the box: then
//! nobody holds the lamp's lines, and many chips leave such a line as it was driven last. The service
//! manager calls this after each end.

//!
//! The lines are those that the box had at its start, which it leaves beside its control socket: the settings
//! may be others by now, or wrong.

use super::panel::Panel;
use super::{Error, config};
use crate::clock;
use crate::panel;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

/// The longest wait for whoever holds the lamp: a guard that lives lets go within a moment, dark.
const PATIENCE: Duration = Duration::from_secs(1);

/// Leaves the lines of the box that starts; without any, nothing of an earlier one.
pub(super) fn remember(socket: &Path, panel: Option<&Panel>) {
    let path = beside(socket);
    let outcome = match panel.map(serde_json::to_vec) {
        Some(Ok(text)) => fs::write(&path, text),
        Some(Err(error)) => Err(error.into()),
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    };
    if let Err(error) = outcome {
        log::warn!(
            "{}: cannot be written: {error}: if the settings change while the box runs, `hallcast darken` goes by \
             the new ones; make the directory writable for the user of hallcast",
            path.display()
        );
    }
}

/// What the box that listened on `socket` left.
fn remembered(socket: &Path) -> Option<Panel> {
    serde_json::from_slice(&fs::read(beside(socket)).ok()?).ok()
}

fn beside(socket: &Path) -> PathBuf {
    socket.with_extension("lamp")
}

pub(super) fn run(flags: &config::Flags) -> Result<(), Error> {
    // Wrong settings have been told by the box.
    let config = config::load(flags).ok();
    let socket = match &config {
        Some(config) => config.control_socket.clone(),
        None => (flags.socket.clone()).unwrap_or_else(|| config::DEFAULT_SOCKET.into()),
    };
    let settings = || config.as_ref().and_then(Panel::of);
    let Some(Panel {
        lines,
        raspberry_pi,
    }) = remembered(&socket).or_else(settings)
    else {
        return Ok(());
    };
    let lamps = lines.lamps();
    let driver = panel::driver(&lines.chip, raspberry_pi);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::{ActiveLevel, Bias, Button, GpioPanel, Lamp, Line};

    #[test]
    fn the_lines_of_the_last_start_are_found_again() {
        let lamp = |line, active| Lamp { line, active };
        let lines = GpioPanel {
            chip: "pinctrl-rp1".into(),
            record_button: Button {
                line: Line::Offset(17),
                active: ActiveLevel::Low,
                bias: Bias::PullUp,
                debounce_ms: 5,
            },
            lamp: lamp(Line::Name("GPIO27".into()), ActiveLevel::High),
            mirrors: vec![lamp(Line::Offset(22), ActiveLevel::Low)],
        };
        let panel = Panel {
            lines,
            raspberry_pi: true,
        };
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        assert!(remembered(&socket).is_none());
        remember(&socket, Some(&panel));
        let found = remembered(&socket).unwrap();
        assert_eq!((&found.lines, found.raspberry_pi), (&panel.lines, true));
        // The next board has none.
        remember(&socket, None);
        assert!(remembered(&socket).is_none());
        remember(&socket, None);
    }
}
