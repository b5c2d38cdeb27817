//! Source to pacer in real time: every picture of the pattern comes out once, in order, in buffers
//! that go round.
// An unwrap in a helper of a test is its assertion.
#![allow(clippy::unwrap_used)]

use hallcast::board::{Camera, PatternCamera};
use hallcast::clock;
use hallcast::media::{Monotonic, Picture};
use hallcast::pacer::{Action, Config, Pacer};
use hallcast::source::{Received, VideoPump, open_camera, read_counter};
use std::collections::BTreeSet;
use std::time::Duration;

/// Polls until there is nothing to do; gives the time at which there will be.
fn work_off(
    pump: &VideoPump,
    pacer: &mut Pacer<Picture>,
    shown: &mut Option<Picture>,
    mut emitted: impl FnMut(u64, &Picture),
) -> Monotonic {
    let at_the_latest = clock::now().plus(Duration::from_secs(1));
    loop {
        match pacer.poll(clock::now()) {
            Action::Emit { tick, picture } => {
                emitted(tick, &picture);
                if let Some(before) = shown.replace(picture) {
                    pump.recycle(before);
                }
            }
            Action::Repeat { .. } => {}
            Action::Drop { picture, .. } => pump.recycle(picture),
            Action::Wait(until) => return until.unwrap_or(at_the_latest).min(at_the_latest),
        }
    }
}

#[test]
fn the_pattern_is_paced_without_loss_in_a_handful_of_buffers() {
    let camera = Camera::Pattern(PatternCamera {
        width: 640,
        height: 360,
        rate: "50".parse().unwrap(),
    });
    let pump = VideoPump::start("camera", move || open_camera(&camera)).unwrap();
    let soon = clock::now().plus(Duration::from_secs(5));
    let Received::Opened(settings) = pump.receive(soon) else {
        panic!("the pattern always opens")
    };
    let mut pacer = Pacer::new(Config::at(settings.rate));
    let (mut shown, mut buffers) = (None, BTreeSet::new());
    let mut first: Option<u32> = None;
    let mut wait = soon;
    while pacer.stats().ticks() < 100 {
        match pump.receive(wait) {
            Received::Block(picture) => {
                buffers.insert(picture.data.as_ptr() as usize);
                pacer.offer(picture.captured, picture);
            }
            Received::Timeout => {}
            other => panic!("{other:?}"),
        }
        wait = work_off(&pump, &mut pacer, &mut shown, |tick, picture| {
            let number = read_counter(&picture.data, 640, 360, 640).unwrap();
            let first = *first.get_or_insert(number);
            assert_eq!(
                u64::from(number - first),
                tick,
                "each picture on its own tick"
            );
        });
    }
    let stats = pacer.stats();
    println!(
        "{} emitted, {} repeats, {} drops, decided {:?} (p50) {:?} (p99) {:?} (max) after the tick, {} buffers",
        stats.emitted,
        stats.repeats(),
        stats.drops(),
        stats.lateness.p50(),
        stats.lateness.p99(),
        stats.lateness.max(),
        buffers.len()
    );
    // A busy machine may make the pattern skip, or wake us too late; nothing else may cost a picture.
    let late = stats.dropped_late + pump.stats().losses.lost + pump.stats().dropped;
    assert!(stats.repeats() <= late, "{stats:?} {:?}", pump.stats());
    assert_eq!(stats.drops(), stats.dropped_late, "{stats:?}");
    assert!(buffers.len() <= 4, "{} buffers", buffers.len());
}
