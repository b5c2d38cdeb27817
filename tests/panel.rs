//! The real box with a button and lamps on a real GPIO chip's driver (gpio-sim), in the rig's guest.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]
#![cfg(feature = "software")]

#[path = "panel/lines.rs"]
mod lines;
#[path = "../src/station/recorder/reading.rs"]
mod reading;
#[path = "panel/sequences.rs"]
mod sequences;
mod support;

use gpiocdev::Request as Lines;
use gpiocdev::line::Value;
use hallcast::clock;
use hallcast::media::Monotonic;
use hallcast::station::{Reply, Request, ask};
use lines::{BUTTON, CHIP, LAMP, MIRROR, TRACES, Watcher, button, press};
use sequences::Hall;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::chance::{Chance, Excuses, Stalls, quantiles};
use support::programs::{BOX, CaptureBox, alone, outcome, run, soak, wait_until};
use support::rig::{self, Guest};

/// From the press to the first durable chunk.
const DURABLE: Duration = Duration::from_secs(1);
/// The light is gone after the box was killed, stopped or its disk frozen.
const DARK: Duration = Duration::from_secs(2);
/// From a press, or any change of state, to what the lamp shows.
const FOLLOWS: Duration = Duration::from_millis(100);

/// A board with button and lamps, and settings with `more`; gives the arguments of a box. `button` is what
/// the board says of its button beside the line.
fn board(home: &Path, name: &str, more: &str, button: &str) -> Vec<String> {
    let board = home.join(format!("{name}.toml"));
    let text = format!(
        "schema = 1\nname = \"{name}\"\n\
         [presenter.pattern]\nwidth = 320\nheight = 180\nrate = \"30\"\n[microphone.tone]\n\
         [panel.gpio]\nchip = \"{CHIP}\"\n\
         record-button = {{ line = {BUTTON}, active = \"low\"{button} }}\n\
         lamp = {{ line = \"GPIO{LAMP}\", active = \"high\" }}\n\
         mirrors = [{{ line = {MIRROR}, active = \"low\" }}]\n"
    );
    fs::write(&board, text).unwrap();
    let settings = home.join(format!("{name}.box.toml"));
    fs::write(&settings, more).unwrap();
    [
        "--board".into(),
        path(&board),
        "--config".into(),
        path(&settings),
    ]
    .into()
}

fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn start(home: &Path, name: &str, more: &str) -> CaptureBox {
    start_with(home, name, more, "")
}

fn start_with(home: &Path, name: &str, more: &str, button: &str) -> CaptureBox {
    let arguments = board(home, name, more, button);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    CaptureBox::start(home, name, None, &arguments)
}

fn state(capture_box: &CaptureBox) -> String {
    capture_box.status()["state"].as_str().unwrap().to_owned()
}

fn alarms(capture_box: &CaptureBox) -> String {
    capture_box.status()["alarms"].to_string()
}

/// Presses start: it is durable, and the lamp says so.
fn presses(capture_box: &CaptureBox, watcher: &Watcher, stalls: &Stalls) {
    let times = soak(30, 200);
    let socket = capture_box.home.join("control");
    let (mut durable, mut shown) = (Vec::new(), Vec::new());
    let mut excuses = Excuses::among(times);
    for n in 0..times {
        let pressed = press(TRACES[n as usize % TRACES.len()]);
        while lines::state(&socket).as_deref() != Some("recording") {
            assert!(clock::now().since(pressed) < 20 * DURABLE);
            clock::sleep(Duration::from_millis(2));
        }
        durable.push(clock::now().since(pressed));
        wait_until(20, "solid light", || {
            let (lit, since, long) = watcher.now();
            lit && since > pressed && long > Duration::from_millis(150)
        });
        let solid = watcher.now().1;
        shown.push(solid.since(pressed));
        let took = durable[durable.len() - 1].max(solid.since(pressed));
        let stood = stalls.between(pressed, pressed.plus(took));
        excuses.judge("press to durable", took, DURABLE, stood);
        button(false);
        let answer = ask(&socket, &Request::Stop).unwrap();
        assert!(matches!(answer, Reply::Done { .. }), "{answer:?}");
        // Beyond the lock-out, and not always at the same phase of anything.
        clock::sleep(Duration::from_millis(250 + solid.as_nanos() % 100));
    }
    println!(
        "press to durable, as told: {}; to the lamp's steady light: {}; {excuses}",
        quantiles(&durable),
        quantiles(&shown)
    );
}

/// Random sequences on a box with either kind of button.
fn sequences_on(home: &Path, press_to_stop: bool, chance: &mut Chance, watcher: &Watcher) {
    // The kernel waits until the contact is still, at the worst trace for longer than the lamp may take.
    let (name, settings, line, traces) = match press_to_stop {
        true => (
            "press",
            "[recording]\nbutton = \"press-to-stop\"\n",
            ", debounce-ms = 0",
            &TRACES[..],
        ),
        false => ("hold", "", "", &TRACES[..3]),
    };
    let stalls = Stalls::watch();
    let capture_box = start_with(home, name, settings, line);
    wait_until(10, "the lamp", || !alarms(&capture_box).contains("lamp: "));
    let mut hall = Hall::new(&capture_box, press_to_stop, traces, watcher);
    let times = soak(3, 50);
    let most = (times / 10).max(1);
    let (mut played, mut void, mut late) = (0, 0, Vec::new());
    while played < times {
        match hall.sequence(chance, &capture_box, &stalls) {
            Ok(found) => {
                late.extend(found);
                played += 1;
            }
            Err((what, stood)) => {
                println!("the machine stood still for {stood:?} in a sequence in which {what}");
                void += 1;
                assert!(!stood.is_zero() && void <= most, "{name} to stop: {what}");
            }
        }
    }
    println!(
        "{times} sequences, {name} to stop: the box was where the table says; the lamp came late by {} changes; {void} excused (at most {most} may be)",
        quantiles(&late)
    );
}

/// Killed, stopped, frozen: the light goes.
fn goes_dark(capture_box: &mut CaptureBox, watcher: &Watcher) {
    let recording = capture_box.record();
    watcher.steady(true);
    let pid = capture_box.pid().to_string();
    let judge = |what: &str, from: Monotonic| {
        let took = watcher.steady(false).since(from);
        println!("dark after {what}: {took:?}");
        assert!(took <= DARK, "{what}: {took:?}");
    };

    let from = clock::now();
    run("kill", &["-STOP", &pid]);
    judge("SIGSTOP", from);
    run("kill", &["-CONT", &pid]);
    watcher.steady(true);

    let from = clock::now();
    run("fsfreeze", &["-f", "/run/disk"]);
    // Blinking fast would do too, but the box's own loop hangs with its disk.
    judge("the disk froze", from);
    run("fsfreeze", &["-u", "/run/disk"]);
    watcher.steady(true);

    let guard = run("pgrep", &["-P", &pid]);
    let from = clock::now();
    run("kill", &["-KILL", guard.trim()]);
    wait_until(10, "another guard", || {
        run("pgrep", &["-P", &pid]) != guard && !alarms(capture_box).contains("lamp")
    });
    let took = watcher.steady(true).since(from);
    println!("another guard after {took:?}");
    assert!(took <= DARK, "{took:?}");
    assert_eq!(
        capture_box.status()["recording"]["id"],
        *recording,
        "it went on"
    );
    assert_eq!(state(capture_box), "recording");

    let guard = run("pgrep", &["-P", &pid]);
    run("kill", &["-STOP", guard.trim()]);
    let from = clock::now();
    // Half of the time the lamp is dark then.
    assert!(capture_box.ask("pause").status.success());
    judge("SIGSTOP of the guard alone and a pause", from);
    // Refused until there is another guard.
    wait_until(10, "another guard", || {
        capture_box.ask("resume").status.success()
    });
    watcher.steady(true);

    let from = capture_box.kill();
    judge("SIGKILL", from);
    capture_box.restart();
    watcher.steady(true);
    assert_eq!(capture_box.stop(), recording);
}

/// What the guard says of a lamp that it cannot have.
fn refused(program: &[&str], arguments: &[&str]) -> String {
    let all = [&program[1..], &["hold-lamp"], arguments].concat();
    let output = outcome(program[0], &all);
    assert!(!output.status.success(), "{arguments:?}");
    let said = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    println!("{said}");
    said
}

fn errors(home: &Path) {
    let on = |chip: &str, line: &str| refused(&[BOX], &["--chip", chip, "--line", line]);
    let said = on("pinctrl-rp1", "27=high");
    assert!(said.starts_with(
        "no GPIO chip is labelled `pinctrl-rp1`: there are `pinctrl-bcm2711` (/dev/gpiochip0)"
    ));
    let said = on(CHIP, "58=high");
    assert!(said.starts_with("GPIO chip `pinctrl-bcm2711` has no line 58: its lines are 0 to 57"));
    let said = on(CHIP, "DOOR=low");
    assert!(
        said.starts_with(
            "GPIO chip `pinctrl-bcm2711` has no line DOOR: no line there has that name"
        )
    );
    // Where everybody may read the program.
    let copy = home.join("hallcast-copy");
    fs::copy(BOX, &copy).unwrap();
    run("chmod", &["755", &path(home), &path(&copy)]);
    run("chmod", &["600", "/dev/gpiochip0"]);
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        &path(&copy),
    ];
    let said = refused(&nobody, &["--chip", CHIP, "--line", "27=high"]);
    assert!(said.starts_with("/dev/gpiochip0 cannot be opened (permission denied)"));
    #[cfg(feature = "rppal")]
    {
        let said = refused(
            &[BOX],
            &["--raspberry-pi", "--chip", CHIP, "--line", "27=high"],
        );
        assert!(said.starts_with("the header of a Raspberry Pi: opening the GPIO (rppal, by /dev/gpiomem and /dev/gpiochip*) failed: Unknown Raspberry Pi model"));
        // Another chip of a Raspberry Pi is not its header.
        let said = refused(
            &[BOX],
            &["--raspberry-pi", "--chip", "mcp23017", "--line", "1=high"],
        );
        assert!(said.starts_with("no GPIO chip is labelled `mcp23017`"));
    }
}

/// The chip is gone with the guard: the recording is paused, and goes on by itself once it is there again.
fn loses_the_lamp(capture_box: &CaptureBox) {
    let pid = capture_box.pid().to_string();
    fs::rename("/dev/gpiochip0", "/dev/away").unwrap();
    let guard = run("pgrep", &["-P", &pid]);
    let from = clock::now();
    run("kill", &["-KILL", guard.trim()]);
    let socket = capture_box.home.join("control");
    wait_until(10, "a pause", || {
        lines::state(&socket).as_deref() == Some("paused")
    });
    let took = clock::now().since(from);
    println!("paused {took:?} after the lamp was lost");
    assert!(took <= DARK, "{took:?}");
    assert!(!capture_box.ask("resume").status.success());
    fs::rename("/dev/away", "/dev/gpiochip0").unwrap();
    wait_until(10, "the recording goes on", || {
        state(capture_box) == "recording"
    });
}

/// Another program has the lamp; then the button is down from the start.
fn troubles(home: &Path) {
    let take = |number: u32| {
        let mut lines = Lines::builder();
        lines
            .on_chip("/dev/gpiochip0")
            .with_consumer("the projector")
            .with_line(number);
        lines.as_output(Value::Inactive).request().unwrap()
    };
    let taken = take(LAMP);
    let lean = start(home, "lampless", "");
    wait_until(10, "the alarm", || alarms(&lean).contains("lamp: "));
    println!("{}", alarms(&lean));
    assert!(alarms(&lean).contains("is used by `the projector`"));
    let refused = lean.ask("start");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    println!("{said}");
    assert!(said.contains("the lamp cannot be driven") && !refused.status.success());
    drop(taken);
    wait_until(10, "the lamp", || !alarms(&lean).contains("lamp: "));
    lean.record();
    loses_the_lamp(&lean);
    lean.stop();
    drop(lean);
    clock::sleep(Duration::from_millis(500));

    let taken = (take(LAMP), take(BUTTON));
    let brave = start(home, "brave", "[recording]\nallow-without-lamp = true\n");
    wait_until(10, "both alarms", || {
        let alarms = alarms(&brave);
        alarms.contains("lamp: ") && alarms.contains("button: the button: line 17")
    });
    brave.record();
    brave.stop();
    drop((brave, taken));
    clock::sleep(Duration::from_millis(500));

    button(true);
    let stuck = start(home, "stuck", "");
    wait_until(10, "the alarm", || {
        alarms(&stuck).contains("down since the start")
    });
    clock::sleep(Duration::from_millis(2500));
    assert_eq!(state(&stuck), "idle", "no press and no hold");
    wait_until(10, "the lamp", || !alarms(&stuck).contains("lamp: "));
    stuck.record();
    stuck.stop();
    button(false);
    wait_until(10, "the button is up", || {
        !alarms(&stuck).contains("button: ")
    });
    clock::sleep(Duration::from_millis(1200));
    press(TRACES[3]);
    wait_until(10, "a press", || state(&stuck) == "recording");
    button(false);
    stuck.stop();
}

fn in_the_guest() {
    let home = PathBuf::from("/run/disk");
    fs::create_dir(&home).unwrap();
    run("mount", &["/dev/ubda", &path(&home)]);
    button(false);
    let stalls = Stalls::watch();
    errors(&home);
    let watcher = Watcher::start();
    {
        let mut capture_box = start(&home, "hall", "");
        wait_until(10, "the lamp", || !alarms(&capture_box).contains("lamp: "));
        presses(&capture_box, &watcher, &stalls);
        goes_dark(&mut capture_box, &watcher);
    }
    clock::sleep(Duration::from_millis(500));
    troubles(&home);
}

fn sequences_in_the_guest() {
    let home = tempfile::tempdir_in("/run").unwrap();
    button(false);
    let watcher = Watcher::start();
    let mut chance = Chance::new("every_sequence_of_presses_ends_where_the_table_says_on_a_chip");
    for press_to_stop in [false, true] {
        sequences_on(home.path(), press_to_stop, &mut chance, &watcher);
        clock::sleep(Duration::from_millis(500));
    }
}

#[test]
fn every_sequence_of_presses_ends_where_the_table_says_on_a_chip() {
    if rig::inside().is_some() {
        return sequences_in_the_guest();
    }
    let _alone = alone();
    let results = tempfile::Builder::new()
        .prefix("hallcast")
        .tempdir_in("/tmp")
        .unwrap();
    let name = "every_sequence_of_presses_ends_where_the_table_says_on_a_chip";
    rig::ran_in_the_guest(name, soak(300, 1500), results.path());
}

#[test]
fn button_and_lamp_on_a_chip() {
    if rig::inside().is_some() {
        return in_the_guest();
    }
    let _alone = alone();
    let results = tempfile::Builder::new()
        .prefix("hallcast")
        .tempdir_in("/tmp")
        .unwrap();
    let disk = results.path().join("disk");
    fs::File::create(&disk).unwrap().set_len(2 << 30).unwrap();
    run("mkfs.ext4", &["-q", "-F", "-J", "size=16", &path(&disk)]);
    if let Some(guest) = Guest::boot("button_and_lamp_on_a_chip", "panel", results.path(), &disk) {
        guest.finish();
    }
}
