//! The picture lane beside an encoder that fails, in real time.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use super::*;
use crate::board::{Camera, PatternCamera};
use crate::media::{RecordingId, TrackId};
use crate::station::lane::Command;
use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;

/// Works until it has taken so many pictures, and fails from then on.
struct Failing {
    inner: Box<dyn VideoEncoder>,
    left: u32,
}

impl VideoEncoder for Failing {
    fn encode(&mut self, picture: &[u8], tick: &Tick) -> Result<AccessUnit, encoder::Error> {
        let reason = || "it was told to".to_owned();
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| encoder::Error::Failed {
                encoder: "failing",
                reason: reason(),
            })?;
        self.inner.encode(picture, tick)
    }

    fn parameters(&self) -> Option<&ParameterSets> {
        self.inner.parameters()
    }

    fn set_bit_rate(&mut self, bits_per_second: u32) {
        self.inner.set_bit_rate(bits_per_second);
    }

    fn name(&self) -> &'static str {
        "failing"
    }

    fn stats(&self) -> encoder::Stats {
        self.inner.stats()
    }
}

/// What a lane gave of a span of 4 s whose encoder fails after 45 pictures; `bit_rate` is that of those
/// that are opened after it. Chunks as start and length, and facts.
fn span(bit_rate: Option<u32>) -> (Vec<(i64, u64)>, Vec<Event>) {
    let (keeper, given) = sync_channel(64);
    let (ends, view) = Ends::new(TrackId(1), "presenter", keeper);
    let camera = PatternCamera {
        width: 320,
        height: 192,
        rate: Rate::THIRTY,
    };
    let track = VideoTrack {
        camera: Camera::Pattern(camera),
        bit_rate: None,
        rate: None,
    };
    let mut lane = VideoLane::new(ends, track);
    let layout = PictureLayout::tight(320, 192, crate::media::PixelFormat::I420);
    lane.open_for(layout, Rate::THIRTY).unwrap();
    let coder = lane.coder.take().unwrap();
    lane.coder = Some(Coder {
        encoder: Box::new(Failing {
            inner: coder.encoder,
            left: 45,
        }),
        ..coder
    });
    lane.track.bit_rate = bit_rate;
    std::thread::spawn(move || lane.run());
    while !view.is_open() {
        clock::sleep(Duration::from_millis(5));
    }
    let start = clock::now();
    let (recording, first_sequences) = (RecordingId([7; 16]), BTreeMap::new());
    view.tell(Command::Begin(Arc::new(Take {
        recording,
        epoch: 1,
        span: 0,
        start,
        rate: Rate::THIRTY,
        first_sequences,
    })));
    view.tell(Command::End(recording, start.plus(Duration::from_secs(4))));
    let (mut chunks, mut facts) = (Vec::new(), Vec::new());
    loop {
        match given.recv_timeout(Duration::from_secs(60)).unwrap() {
            Input::Given(_, Segmented::Chunk(chunk)) => {
                chunks.push((chunk.start.0, chunk.duration));
            }
            Input::Noted(event) => facts.push(event),
            Input::Finished(..) => return (chunks, facts),
            _ => {}
        }
    }
}

/// The alarms about the encoder: raised or cleared.
fn alarms(facts: &[Event]) -> Vec<bool> {
    let alarm = |fact: &Event| match fact {
        Event::Alarm { code, raised, .. } if code == "presenter-encoder" => Some(*raised),
        _ => None,
    };
    facts.iter().filter_map(alarm).collect()
}

fn gaps(facts: &[Event]) -> Vec<(i64, u64, GapCause)> {
    let gap = |fact: &Event| match fact {
        Event::Gap {
            start,
            duration,
            cause,
            ..
        } => Some((start.0, *duration, *cause)),
        _ => None,
    };
    facts.iter().filter_map(gap).collect()
}

/// Where the track ends, which must have no hole.
fn end(chunks: &[(i64, u64)]) -> u64 {
    chunks.iter().fold(0, |end, (start, length)| {
        assert_eq!(*start as u64, end, "{chunks:?}");
        end + length
    })
}

#[test]
fn an_encoder_that_fails_is_opened_anew_and_no_tick_is_lost() {
    let (chunks, facts) = span(None);
    assert_eq!(end(&chunks), 4 * 90_000);
    assert_eq!((alarms(&facts), gaps(&facts)), (vec![true, false], vec![]));
}

#[test]
fn ticks_that_no_encoder_takes_are_a_gap_and_an_alarm() {
    // Nothing encodes at one bit per second.
    let (chunks, facts) = span(Some(1));
    assert_eq!(end(&chunks), 45 * 3000);
    let gap = (45 * 3000, 75 * 3000, GapCause::EncoderFailed);
    assert_eq!((alarms(&facts), gaps(&facts)), (vec![true], vec![gap]));
}
