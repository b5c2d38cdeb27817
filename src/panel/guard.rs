//! The lamp's guard: a process of its own that holds the lamp's lines, so that a box which is killed,
//! stopped or stuck does not leave them lit.
//!
//! It reads bytes from a pipe, each the pattern to show and the word that the box lives. After
//! [`SILENCE`] without one the lamp is dark until the next; at the pipe's end it is dark, and the guard
//! ends. [`Watch`] decides; [`guard`] carries it out, and says that it lives: whoever started it ends one
//! that is silent, which may have been stopped with a lamp that shows what is no longer so.

use super::{Error, Lamp, LampLines};
use crate::clock;
use crate::media::Monotonic;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The box is not heard for so long: it may be anything but well.
pub const SILENCE: Duration = Duration::from_millis(800);

/// What the guard says while it holds the lamp.
pub const HELD: &str = "held";

/// How often it says so.
const SAID: Duration = Duration::from_millis(200);

/// What the lamp shows, by what was heard and when.
#[derive(Debug, Default)]
pub struct Watch {
    /// The pattern, since when, and when the box was heard last.
    shown: Option<(Lamp, Monotonic, Monotonic)>,
}

impl Watch {
    /// A pattern was heard at `now`; the same again goes on without a break.
    pub fn hear(&mut self, lamp: Lamp, now: Monotonic) {
        let since = match self.shown {
            Some((before, since, heard)) if before == lamp && now.since(heard) < SILENCE => since,
            _ => now,
        };
        self.shown = Some((lamp, since, now));
    }

    /// Whether the lamp is lit at `now`, and for how long if nothing more is heard; `None`: for good.
    pub fn at(&self, now: Monotonic) -> (bool, Option<Duration>) {
        let Some((lamp, since, heard)) = self.shown else {
            return (false, None);
        };
        let silent = now.since(heard);
        if silent >= SILENCE {
            return (false, None);
        }
        let (lit, left) = lamp.at(now.since(since));
        let until = SILENCE - silent;
        (lit, Some(left.map_or(until, |left| left.min(until))))
    }
}

/// The box's end of the pipe; it never waits.
#[derive(Debug)]
pub struct Tell(File);

impl Tell {
    /// Tells the guard that reads from `pipe`.
    pub fn new(pipe: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&pipe)?;
        rustix::fs::fcntl_setfl(&pipe, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self(pipe.into()))
    }

    /// Says the pattern, and that the box lives.
    pub fn tell(&mut self, lamp: Lamp) -> io::Result<()> {
        self.0.write_all(&[lamp.byte()])
    }
}

/// Shows what `from` tells until it ends; the lamp is dark then, however it ends. `to`, which must not
/// wait, is told [`HELD`] meanwhile.
pub fn guard(
    lines: &mut dyn LampLines,
    mut from: impl Read + AsFd,
    mut to: impl Write,
) -> Result<(), Error> {
    let outcome = show(lines, &mut from, &mut to);
    lines.set(false)?;
    outcome
}

fn show(
    lines: &mut dyn LampLines,
    from: &mut (impl Read + AsFd),
    to: &mut impl Write,
) -> Result<(), Error> {
    let mut watch = Watch::default();
    let mut lit = false;
    let mut say_at = clock::now();
    loop {
        let now = clock::now();
        if now >= say_at {
            // Who does not listen is a box that hangs, or is gone: that shows where it tells.
            let _ = writeln!(to, "{HELD}");
            say_at = now.plus(SAID);
        }
        let (wanted, left) = watch.at(now);
        if wanted != lit {
            lines.set(wanted)?;
            lit = wanted;
        }
        let until = say_at.since(now);
        let left = Timespec::try_from(left.map_or(until, |left| left.min(until))).ok();
        let ready = poll(&mut [PollFd::new(&*from, PollFlags::IN)], left.as_ref());
        if matches!(ready, Ok(0) | Err(_)) {
            continue;
        }
        let mut heard = [0; 64];
        let count = match from.read(&mut heard) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Ok(()),
        };
        if let Some(lamp) = heard[..count]
            .last()
            .and_then(|byte| Lamp::from_byte(*byte))
        {
            watch.hear(lamp, clock::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn without_a_word_from_the_box_the_lamp_is_dark_until_the_next() {
        let mut watch = Watch::default();
        assert_eq!(watch.at(at(0)), (false, None));
        watch.hear(Lamp::Solid, at(100));
        let ms = Duration::from_millis;
        assert_eq!(watch.at(at(100)), (true, Some(SILENCE)));
        watch.hear(Lamp::Solid, at(300));
        assert_eq!(watch.at(at(900)), (true, Some(ms(200))));
        assert_eq!(watch.at(at(1100)), (false, None));
        watch.hear(Lamp::Solid, at(5000));
        assert_eq!(watch.at(at(5000)), (true, Some(SILENCE)));
    }

    #[test]
    fn words_do_not_break_a_rhythm_and_another_pattern_begins_at_once() {
        let mut watch = Watch::default();
        for beat in 0..20 {
            watch.hear(Lamp::SlowBlink, at(beat * 100));
        }
        assert!(watch.at(at(1499)).0 && !watch.at(at(1950)).0);
        watch.hear(Lamp::FastBlink, at(1950));
        assert_eq!(watch.at(at(1950)), (true, Some(Duration::from_millis(100))));
    }

    #[test]
    fn after_a_silence_a_pattern_begins_anew_and_none_is_lit_beyond_the_next() {
        let mut watch = Watch::default();
        watch.hear(Lamp::SlowBlink, at(0));
        watch.hear(Lamp::SlowBlink, at(5600));
        assert!(watch.at(at(5600)).0, "not in the dark half of its rhythm");
        watch.hear(Lamp::Wink, at(5700));
        assert_eq!(watch.at(at(5700)), (true, Some(SILENCE)));
    }

    #[test]
    fn a_pattern_survives_its_byte() {
        for lamp in Lamp::ALL {
            assert_eq!(Lamp::from_byte(lamp.byte()), Some(lamp));
        }
        assert_eq!(Lamp::from_byte(b'\n'), None);
    }

    /// Lines that note what they were set to.
    struct Noted(std::sync::mpsc::Sender<bool>);

    impl LampLines for Noted {
        fn set(&mut self, lit: bool) -> Result<(), Error> {
            self.0.send(lit).unwrap();
            Ok(())
        }
    }

    #[test]
    fn the_newest_word_counts_and_neither_silence_nor_the_end_leaves_a_light() {
        let (told, mut tell) = io::pipe().unwrap();
        let (mut answers, said) = io::pipe().unwrap();
        let (noted, shown) = std::sync::mpsc::channel();
        let guarding = std::thread::spawn(move || guard(&mut Noted(noted), told, said));
        // What waited in the pipe is old.
        tell.write_all(&[Lamp::Solid.byte(), Lamp::Off.byte()])
            .unwrap();
        assert!(shown.recv_timeout(SILENCE / 2).is_err());
        tell.write_all(&[Lamp::Off.byte(), Lamp::Solid.byte()])
            .unwrap();
        assert!(shown.recv().unwrap());
        assert!(!shown.recv().unwrap(), "silence");
        tell.write_all(&[Lamp::Solid.byte()]).unwrap();
        assert!(shown.recv().unwrap());
        drop(tell);
        assert_eq!(shown.iter().last(), Some(false), "the end");
        guarding.join().unwrap().unwrap();
        // It has lived through half a silence and a whole one.
        let mut text = String::new();
        answers.read_to_string(&mut text).unwrap();
        assert!(text.lines().all(|line| line == HELD), "{text}");
        assert!(text.lines().count() >= 6, "{text}");
    }
}
