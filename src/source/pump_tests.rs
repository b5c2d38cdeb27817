//! The pump against a device that a test drives.

use super::*;
use crate::media::{PictureLayout, PixelFormat, Rate};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Delivers what the test sends; when the sender is gone, it has vanished.
struct Puppet(Receiver<Result<u64, Error>>);

impl Source for Puppet {
    type Block = Picture;

    fn settings(&self) -> VideoSettings {
        VideoSettings {
            layout: PictureLayout::tight(16, 16, PixelFormat::I420),
            rate: Rate::new(30, 1).unwrap(),
        }
    }

    fn next(&mut self, into: &mut Picture) -> Result<(), Error> {
        match self.0.recv() {
            Ok(Ok(sequence)) => {
                into.sequence = sequence;
                into.data.resize(16 * 24, 0);
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(vanished()),
        }
    }

    fn losses(&self) -> Losses {
        Losses {
            lost: 1,
            damaged: 2,
        }
    }
}

fn vanished() -> Error {
    Error::Vanished {
        device: "puppet".into(),
        reason: "the test let go".into(),
    }
}

fn soon() -> Monotonic {
    clock::now().plus(Duration::from_secs(5))
}

type Strings = Sender<Result<u64, Error>>;

/// A pump whose device can be opened as many times as there are strings to pull.
fn puppets<const N: usize>(times: usize) -> (Pump<Picture, N>, Vec<Strings>) {
    let (strings, mut devices): (Vec<_>, Vec<_>) = (0..times).map(|_| channel()).unzip();
    devices.reverse();
    let open = move || match devices.pop() {
        Some(device) => Ok(Box::new(Puppet(device))),
        None => Err(Error::Busy {
            device: "puppet".into(),
            advice: String::new(),
            present: Vec::new(),
        }),
    };
    (Pump::start("puppet", open).unwrap(), strings)
}

fn sequence<const N: usize>(pump: &Pump<Picture, N>) -> u64 {
    match pump.receive(soon()) {
        Received::Block(picture) => picture.sequence,
        other => panic!("{other:?}"),
    }
}

fn wait_for<const N: usize>(pump: &Pump<Picture, N>, delivered: u64) {
    let end = soon();
    while pump.stats().delivered < delivered {
        assert!(clock::now() < end, "{:?}", pump.stats());
        clock::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_late_reader_gets_the_newest_and_the_rest_is_counted() {
    let (pump, strings) = puppets::<4>(1);
    for n in 0..10 {
        strings[0].send(Ok(n)).unwrap();
    }
    wait_for(&pump, 10);
    assert!(matches!(pump.receive(soon()), Received::Opened(_)));
    let got: Vec<u64> = (0..4).map(|_| sequence(&pump)).collect();
    assert_eq!(got, [6, 7, 8, 9]);
    assert_eq!(pump.stats().dropped, 6);
    drop(strings);
}

#[test]
fn a_run_ends_after_its_blocks_and_waits_to_be_reopened() {
    let (pump, mut strings) = puppets::<4>(2);
    strings[0].send(Ok(1)).unwrap();
    strings[0].send(Err(vanished())).unwrap();
    assert!(matches!(pump.receive(soon()), Received::Opened(_)));
    assert_eq!(sequence(&pump), 1);
    assert!(matches!(pump.receive(soon()), Received::Failed(error) if error == vanished()));
    let short = clock::now().plus(Duration::from_millis(20));
    assert!(matches!(pump.receive(short), Received::Timeout));
    assert_eq!(pump.stats().opened, 1, "it was not asked to reopen yet");

    let when = clock::now().plus(Duration::from_millis(20));
    pump.reopen_at(when);
    strings[1].send(Ok(2)).unwrap();
    assert!(matches!(pump.receive(soon()), Received::Opened(_)));
    assert!(clock::now() >= when);
    assert_eq!(sequence(&pump), 2);

    strings.clear();
    assert!(matches!(pump.receive(soon()), Received::Failed(_)));
    pump.reopen_at(clock::now());
    let busy = pump.receive(soon());
    assert!(
        matches!(&busy, Received::Failed(error) if error.code() == "busy"),
        "{busy:?}"
    );
    let losses = Losses {
        lost: 2,
        damaged: 4,
    };
    assert_eq!(pump.stats().losses, losses, "of both runs");
}

#[test]
fn a_pump_that_waits_to_reopen_ends_when_it_is_dropped() {
    let (pump, strings) = puppets::<4>(1);
    drop(strings);
    assert!(matches!(pump.receive(soon()), Received::Failed(_)));
    let before = clock::now();
    pump.reopen_at(before.plus(Duration::from_secs(3600)));
    drop(pump);
    assert!(clock::now() < before.plus(Duration::from_secs(2)));
}

#[test]
fn a_device_that_opens_and_gives_nothing_was_never_open() {
    let (pump, strings) = puppets::<4>(2);
    for string in &strings {
        string.send(Err(vanished())).unwrap();
        let received = pump.receive(soon());
        assert!(matches!(received, Received::Failed(_)), "{received:?}");
        pump.reopen_at(clock::now());
    }
    assert_eq!(pump.stats().opened, 0);
}

#[test]
fn buffers_are_reused() {
    let (pump, strings) = puppets::<4>(1);
    assert!(strings[0].send(Ok(0)).is_ok());
    assert!(matches!(pump.receive(soon()), Received::Opened(_)));
    let mut seen = std::collections::BTreeSet::new();
    for n in 1..200 {
        let Received::Block(picture) = pump.receive(soon()) else {
            panic!("nothing came")
        };
        seen.insert(picture.data.as_ptr() as usize);
        pump.recycle(picture);
        strings[0].send(Ok(n)).unwrap();
    }
    assert!(
        seen.len() <= 3,
        "{} buffers for one block at a time",
        seen.len()
    );
    drop(strings);
}

#[test]
fn sound_that_was_dropped_is_lost_before_the_next() {
    let settings = AudioSettings {
        rate_hz: 48_000,
        channels: 2,
    };
    let block = |lost_before| Samples {
        captured: Monotonic::default(),
        lost_before,
        hears: false,
        data: vec![0; 960],
    };
    let mut oldest = block(7);
    oldest.follows_dropped(&block(5), settings);
    assert_eq!(oldest.lost_before, 7 + 5 + 480);
}

#[test]
fn a_library_that_panics_is_a_device_that_failed() {
    let mut times = 0;
    let open = move || -> Result<Box<Puppet>, Error> {
        times += 1;
        panic!("no such colour space ({times})")
    };
    let pump: Pump<Picture, 4> = Pump::start("puppet", open).unwrap();
    for time in 1..3 {
        let Received::Failed(error) = pump.receive(soon()) else {
            panic!("nothing came")
        };
        assert_eq!(
            error.to_string(),
            format!("puppet: its library failed: no such colour space ({time})")
        );
        pump.reopen_at(clock::now());
    }
}
