//! The panel's threads: one hears the button, one keeps the lamp's guard alive.
//!
//! Takes the board's panel and where the keeper takes inputs; gives presses, the way to the guard, and
//! alarms. To `check` it gives a lamp that is lit for a while ([`light`]). What a press means and what the
//! lamp shows is not decided here.

use super::config::Config;
use super::keeper::Input;
use crate::board::{ActiveLevel, GpioPanel, Lamp, Line};
use crate::clock;
use crate::journal::say;
use crate::media::Event;
use crate::panel::{self, ButtonLine, Debounce, HELD, Lamp as Pattern, SILENCE, Tell};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, SyncSender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How soon what failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// The longest wait for an edge.
const PATIENCE: Duration = Duration::from_secs(3600);
/// What the alarm `button` says of one that is down from the start, and what to do after the colon.
pub(super) const STUCK: &str = "the button is down since the start, which is no press: let go of it; if nobody holds it, look at its wires and at `active` and `bias` of `record-button` in the board file";
/// A guard that does not hold the lamp by then hangs; a slow machine takes a while to start one.
const STARTS: Duration = Duration::from_secs(10);

/// The board's panel.
#[derive(Serialize, Deserialize)]
pub(super) struct Panel {
    /// Its lines.
    pub lines: GpioPanel,
    /// The board is a Raspberry Pi.
    pub raspberry_pi: bool,
}

impl Panel {
    /// That of the settings; `None` for a board without lines.
    pub(super) fn of(config: &Config) -> Option<Self> {
        let lines = config.lines()?.clone();
        let raspberry_pi = config.raspberry_pi;
        Some(Self {
            lines,
            raspberry_pi,
        })
    }
}

/// Hears the button until nobody listens any more.
pub(super) fn hear_button(panel: &Panel, keeper: &SyncSender<Input>) {
    let driver = panel::driver(&panel.lines.chip, panel.raspberry_pi);
    loop {
        let outcome = driver
            .button(&panel.lines.record_button)
            .and_then(|mut button| hear(button.as_mut(), keeper));
        let Err(error) = outcome else { return };
        if !alarm(keeper, true, &format!("the button: {error}")) {
            return;
        }
        clock::sleep(AGAIN);
    }
}

/// `Ok` when nobody listens any more.
fn hear(button: &mut dyn ButtonLine, keeper: &SyncSender<Input>) -> Result<(), panel::Error> {
    let mut stuck = button.is_down()?;
    let (mut debounce, message) = match stuck {
        true => (Debounce::stuck(), STUCK),
        false => (Debounce::new(), "the button can be heard"),
    };
    if !alarm(keeper, stuck, message) {
        return Ok(());
    }
    loop {
        let now = clock::now();
        let stuck_at = debounce.stuck_at().filter(|_| !stuck);
        if stuck_at.is_some_and(|at| at <= now) {
            stuck = true;
            let message = "the button stays down after it was pressed: let go of it; if nobody holds it, look at the button and its wires";
            if !alarm(keeper, true, message) {
                return Ok(());
            }
            continue;
        }
        let due = [debounce.next(), stuck_at].into_iter().flatten().min();
        let patience = due.map_or(PATIENCE, |due| due.since(now));
        let (press, at) = match button.edge(patience)? {
            Some(edge) => {
                if stuck && !edge.down {
                    stuck = false;
                    if !alarm(keeper, false, "the button is up") {
                        return Ok(());
                    }
                }
                (debounce.edge(edge.down, edge.at), edge.at)
            }
            None => {
                let now = clock::now();
                (debounce.poll(now), now)
            }
        };
        if let Some(press) = press
            && keeper.send(Input::Pressed(press, at)).is_err()
        {
            return Ok(());
        }
    }
}

/// Raises or clears the alarm of the button; false when nobody listens any more.
fn alarm(keeper: &SyncSender<Input>, raised: bool, message: &str) -> bool {
    let event = Event::Alarm {
        code: "button".into(),
        track: None,
        raised,
        message: message.into(),
    };
    keeper.send(Input::Noted(event)).is_ok()
}

/// Keeps a guard for the lamp until nobody listens any more.
pub(super) fn keep_guard(panel: &Panel, keeper: &SyncSender<Input>) {
    loop {
        let began = clock::now();
        let why = match guarded(panel, keeper) {
            Ok(Some(why)) => why,
            Ok(None) => return,
            Err(error) => {
                format!("its guard cannot be started: {error}; the machine may be out of memory")
            }
        };
        if keeper
            .send(Input::Lamp(Err(format!("the lamp: {why}"))))
            .is_err()
        {
            return;
        }
        // One that had worked is replaced at once.
        if clock::now().since(began) < AGAIN {
            clock::sleep(AGAIN);
        }
    }
}

/// Starts a guard and waits for its end; gives why it ended, or `None` when nobody listens any more.
fn guarded(panel: &Panel, keeper: &SyncSender<Input>) -> std::io::Result<Option<String>> {
    let mut child = start(panel)?;
    let outcome = follow(&mut child, keeper);
    // It ends with its input; it is only waited for.
    drop(child.stdin.take());
    let status = child.wait()?;
    Ok(outcome?.map(|said| match said.is_empty() {
        true => format!("its guard has ended ({status}) and is started again"),
        false => said,
    }))
}

/// Hands the guard to the keeper once it holds the lamp; gives what it said last, once it ends. One that
/// is silent is ended: it may be stopped, with a lamp that stays as it is.
fn follow(child: &mut Child, keeper: &SyncSender<Input>) -> std::io::Result<Option<String>> {
    let mut said = String::new();
    let Some(mut output) = child.stdout.take() else {
        return Ok(Some(said));
    };
    let mut heard = Vec::new();
    loop {
        // What it is told by is the keeper's once it holds the lamp.
        let patience = if child.stdin.is_some() {
            STARTS
        } else {
            SILENCE
        };
        if !is_heard(&output, patience)? {
            child.kill()?;
            let ms = patience.as_millis();
            return Ok(Some(format!(
                "its guard has said nothing for {ms} ms: it is ended, and another one started"
            )));
        }
        let mut piece = [0; 256];
        match output.read(&mut piece)? {
            0 => return Ok(Some(said)),
            count => heard.extend_from_slice(&piece[..count]),
        }
        while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = heard.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]);
            if line != HELD {
                said = line.into_owned();
            } else if let Some(stdin) = child.stdin.take() {
                let guard = Tell::new(OwnedFd::from(stdin))?;
                if keeper.send(Input::Lamp(Ok(guard))).is_err() {
                    return Ok(None);
                }
            }
        }
    }
}

/// Whether there is something to read, or the end of it, within `patience`.
fn is_heard(output: &impl AsFd, patience: Duration) -> std::io::Result<bool> {
    let until = clock::now().plus(patience);
    loop {
        let left = Timespec::try_from(until.since(clock::now())).ok();
        match poll(&mut [PollFd::new(output, PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

fn start(panel: &Panel) -> std::io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("hallcast")
        .args(["hold-lamp", "--chip", &panel.lines.chip]);
    if panel.raspberry_pi {
        command.arg("--raspberry-pi");
    }
    for lamp in panel.lines.lamps() {
        let level = match lamp.active {
            ActiveLevel::Low => "low",
            ActiveLevel::High => "high",
        };
        command.args(["--line", &format!("{}={level}", lamp.line)]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
}

/// A lamp that shows capture as long as this lives, and no longer however that ends: a guard holds it.
pub(super) struct Lit {
    guard: Child,
    beats: Option<(Sender<()>, JoinHandle<()>)>,
}

/// Lights the lamp; or says why it cannot be lit, and what to do.
pub(super) fn light(panel: &Panel) -> Result<Lit, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut guard = start(panel).map_err(text)?;
    let mut said = String::new();
    if let Some(output) = &mut guard.stdout {
        BufReader::new(output).read_line(&mut said).map_err(text)?;
    }
    let pipe = guard.stdin.take().filter(|_| said.trim_end() == HELD);
    let Some(pipe) = pipe else {
        let status = guard.wait().map_err(text)?;
        return Err(match said.trim_end() {
            "" => format!("its guard has ended ({status}); see the log"),
            why => why.to_owned(),
        });
    };
    let mut tell = Tell::new(OwnedFd::from(pipe)).map_err(text)?;
    tell.tell(Pattern::Solid).map_err(text)?;
    let (alive, ended) = channel();
    let beats = move || {
        let goes_on = || ended.recv_timeout(SILENCE / 8) == Err(RecvTimeoutError::Timeout);
        while goes_on() && tell.tell(Pattern::Solid).is_ok() {}
    };
    let beats = thread::Builder::new().name("lamp".into()).spawn(beats);
    let beats = Some((alive, beats.map_err(text)?));
    Ok(Lit { guard, beats })
}

impl Lit {
    /// Whether the guard still holds it.
    pub(super) fn is_held(&self) -> bool {
        let beats = self.beats.as_ref();
        beats.is_some_and(|(_, beats)| !beats.is_finished())
    }
}

impl Drop for Lit {
    fn drop(&mut self) {
        if let Some((alive, beats)) = self.beats.take() {
            drop(alive);
            let _ = beats.join();
        }
        // It makes the lamp dark at the end of the pipe.
        let _ = self.guard.wait();
    }
}

/// The flags of `hallcast hold-lamp`, which the box calls.
#[derive(clap::Args)]
pub(super) struct Flags {
    /// The chip's label
    #[arg(long)]
    chip: String,
    /// The board is a Raspberry Pi
    #[arg(long)]
    raspberry_pi: bool,
    /// A line and the level that lights it, such as 27=high
    #[arg(long, required = true, value_parser = line)]
    line: Vec<Lamp>,
}

fn line(text: &str) -> Result<Lamp, String> {
    let (line, active) = match text.rsplit_once('=') {
        Some((line, "low")) => (line, ActiveLevel::Low),
        Some((line, "high")) => (line, ActiveLevel::High),
        _ => return Err("a line and `low` or `high`, such as 27=high".into()),
    };
    let line = match line.parse() {
        Ok(offset) => Line::Offset(offset),
        Err(_) => Line::Name(line.into()),
    };
    Ok(Lamp { line, active })
}

/// Is the lamp's guard: shows what standard input tells, until it ends.
pub(super) fn hold_lamp(flags: &Flags) -> Result<(), super::Error> {
    // The service manager and a terminal signal the box and all its processes: the guard ends when the
    // box has ended, not before.
    super::on_signal(|| {})?;
    let refused = |error: panel::Error| {
        // The box makes an alarm of it, and starts another guard: said twice, it would fill the log.
        match say(format_args!("{error}\n")) {
            Ok(()) => super::Error::Told,
            Err(error) => error.into(),
        }
    };
    let driver = panel::driver(&flags.chip, flags.raspberry_pi);
    let mut lamp = driver.lamp(&flags.line).map_err(refused)?;
    // Not buffered: what waits in the pipe is all that waits.
    let told = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let answers = std::io::stdout().as_fd().try_clone_to_owned()?;
    let flags = fcntl_getfl(&answers).map_err(std::io::Error::from)?;
    fcntl_setfl(&answers, flags | OFlags::NONBLOCK).map_err(std::io::Error::from)?;
    panel::guard(lamp.as_mut(), told, File::from(answers)).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Monotonic;
    use std::sync::mpsc::sync_channel;

    /// A button that was pressed then; what it did is asked for so often.
    struct Pressed(Monotonic, u32);

    impl ButtonLine for Pressed {
        fn is_down(&mut self) -> Result<bool, panel::Error> {
            Ok(false)
        }

        fn edge(&mut self, _patience: Duration) -> Result<Option<panel::Edge>, panel::Error> {
            self.1 += 1;
            let edge = |down, at| Some(panel::Edge { down, at });
            match self.1 {
                1 => Ok(edge(true, self.0)),
                2 => Ok(None),
                3 => Ok(edge(false, clock::now())),
                _ => Err(panel::Error::Denied {
                    device: "the end".into(),
                }),
            }
        }
    }

    #[test]
    fn a_button_that_sticks_after_a_press_raises_an_alarm_until_it_is_up() {
        let alarms = |held: u64| {
            let pressed = clock::now().minus(Duration::from_secs(held));
            let (keeper, inputs) = sync_channel(9);
            hear(&mut Pressed(pressed, 0), &keeper).unwrap_err();
            drop(keeper);
            let alarm = |input| match input {
                Input::Noted(Event::Alarm { raised, .. }) => Some(raised),
                _ => None,
            };
            inputs.iter().filter_map(alarm).collect::<Vec<_>>()
        };
        assert_eq!(alarms(25), [false]);
        assert_eq!(alarms(40), [false, true, false]);
    }

    #[test]
    fn a_guard_that_is_silent_is_ended() {
        let mut guard = Command::new("sh");
        guard.args(["-c", "echo held; sleep 0.3; echo held; exec sleep 60"]);
        guard.stdin(Stdio::piped()).stdout(Stdio::piped());
        let (keeper, inputs) = sync_channel(9);
        let began = clock::now();
        let mut guard = guard.spawn().unwrap();
        let why = follow(&mut guard, &keeper).unwrap().unwrap();
        assert!(
            why.starts_with("its guard has said nothing for 800 ms"),
            "{why}"
        );
        assert!(!guard.wait().unwrap().success());
        let took = clock::now().since(began);
        assert!(took >= SILENCE + Duration::from_millis(300), "{took:?}");
        drop(keeper);
        let told: Vec<Input> = inputs.iter().collect();
        assert!(matches!(told[..], [Input::Lamp(Ok(_))]), "handed over once");
    }

    #[test]
    fn what_a_guard_says_at_its_end_is_why() {
        let mut guard = Command::new("sh");
        guard.args(["-c", "echo the line is taken; exit 1"]);
        guard.stdin(Stdio::piped()).stdout(Stdio::piped());
        let (keeper, inputs) = sync_channel(9);
        let mut guard = guard.spawn().unwrap();
        let why = follow(&mut guard, &keeper).unwrap();
        assert_eq!(why.as_deref(), Some("the line is taken"));
        guard.wait().unwrap();
        assert!(inputs.try_recv().is_err());
    }
}
