//! The lamp of a box that is killed at one stroke with the guard of its lamp: nobody holds the line then,
//! and a chip may leave it lit. The unit's stop hook makes it dark.

use super::support::programs::wait_until;
use super::{System, UNIT};
use gpiocdev::Chip;
use gpiocdev::line::{Direction, InfoChangeKind};
use hallcast::clock;
use hallcast::media::Monotonic;
use std::fs;
use std::time::Duration;

const LAMP: u32 = 27;
const BOARD: &str = "schema = 1\nname = \"lit\"\n[microphone.tone]\n\
    [panel.gpio]\nchip = \"pinctrl-bcm2711\"\nrecord-button = { line = 17, active = \"low\" }\n\
    lamp = { line = 27, active = \"high\" }\n";
/// What design section 2 promises of a box that was killed.
const DARK: Duration = Duration::from_secs(2);

fn pull(line: u32, way: &str) {
    fs::write(format!("/run/rig/gpio/sim_gpio{line}/pull"), way).unwrap();
}

fn is_lit() -> bool {
    let value = fs::read_to_string(format!("/run/rig/gpio/sim_gpio{LAMP}/value"));
    value.unwrap().trim() == "1"
}

/// The next time that the lamp's line is taken as an output, or let go.
fn next(chip: &Chip) -> (InfoChangeKind, Monotonic) {
    let patience = Duration::from_secs(20);
    assert!(chip.wait_line_info_change_event(patience).unwrap());
    let event = chip.read_line_info_change_event().unwrap();
    if event.kind == InfoChangeKind::Requested {
        assert_eq!(event.info.consumer, "hallcast");
        assert_eq!(event.info.direction, Direction::Output);
    }
    (event.kind, Monotonic::from_nanos(event.timestamp_ns))
}

/// What is running is run again with a lamp, and killed with its guard while it records.
pub(super) fn killed_with_its_guard(system: &System) {
    let settings = system.path("/etc/hallcast/box.toml");
    let before = fs::read_to_string(&settings).unwrap();
    fs::write(system.path("/etc/hallcast/lit.toml"), BOARD).unwrap();
    fs::write(&settings, "board = \"/etc/hallcast/lit.toml\"\n").unwrap();
    pull(17, "pull-up");
    system.systemctl("restart", UNIT);
    wait_until(20, "a recording", || {
        system.inside(&["hallcast", "start"]).status.success()
    });
    wait_until(10, "the light", is_lit);
    // Of a line that nobody drives, the pull decides on this chip: it stands for one that keeps the level.
    pull(LAMP, "pull-up");
    let chip = Chip::from_path("/dev/gpiochip0").unwrap();
    chip.watch_line_info(LAMP).unwrap();
    // The settings name no lamp any more: the one that is lit counts.
    fs::write(&settings, before).unwrap();
    let killed = clock::now();
    system.run(&["systemctl", "kill", "--signal=SIGKILL", UNIT]);
    assert_eq!(next(&chip).0, InfoChangeKind::Released, "the guard's end");
    println!(
        "killed with its guard, and nobody holds the lamp: lit {}",
        is_lit()
    );
    let (taken, at) = next(&chip);
    let (let_go, _) = next(&chip);
    let both = [taken, let_go];
    assert_eq!(both, [InfoChangeKind::Requested, InfoChangeKind::Released]);
    let took = at.since(killed);
    println!("the stop hook drove it dark after {took:?}");
    assert!(took <= DARK, "{took:?}");
    pull(LAMP, "pull-down");
    wait_until(20, "the recording goes on", || {
        system.inside(&["hallcast", "stop"]).status.success()
    });
}
