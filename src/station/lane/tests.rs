//! Lanes over the pattern and the tone, in real time.

use super::*;
use crate::board::{Camera, Microphone, PatternCamera, ToneMicrophone};
use crate::media::{Chunk, MediaTime, TrackInfo};
use crate::station::config::{AudioTrack, VideoTrack};
use crate::station::sound::SoundLane;
use crate::station::video::VideoLane;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};

const RECORDING: RecordingId = RecordingId([5; 16]);
const BIT_RATE: u32 = 16_000_000;
/// What is waited for comes sooner, or never.
const PATIENCE: Duration = Duration::from_secs(60);

fn camera_lane(keeper: SyncSender<Input>) -> LaneView {
    let camera = Camera::Pattern(PatternCamera {
        width: 320,
        height: 192,
        rate: Rate::THIRTY,
    });
    let (bit_rate, rate) = (Some(BIT_RATE), None);
    let (ends, view) = Ends::new(TrackId(1), "presenter", keeper);
    let track = VideoTrack {
        camera,
        bit_rate,
        rate,
    };
    std::thread::spawn(move || VideoLane::new(ends, track).run());
    view
}

fn microphone_lane(keeper: SyncSender<Input>) -> LaneView {
    let microphone = Microphone::Tone(ToneMicrophone::default());
    let (ends, view) = Ends::new(TrackId(3), "microphone", keeper);
    let track = AudioTrack {
        microphone,
        bit_rate: None,
    };
    std::thread::spawn(move || SoundLane { ends, track }.run());
    view
}

/// What a lane gave of one span.
#[derive(Default)]
struct Given {
    chunks: Vec<Chunk>,
    seals: Vec<u64>,
    described: Vec<TrackInfo>,
    lost: Vec<(u64, u64)>,
}

impl Given {
    /// Segment, media time and bytes of its chunks, per segment.
    fn segments(&self) -> BTreeMap<u64, (MediaTime, u64, usize)> {
        let mut segments = BTreeMap::new();
        for chunk in &self.chunks {
            let (_, duration, bytes) =
                segments
                    .entry(chunk.key.sequence)
                    .or_insert((chunk.start, 0, 0));
            *duration += chunk.duration;
            *bytes += chunk.bytes.len();
        }
        segments
    }
}

/// Runs a span of 9 s: `script` says what the lane is told, and in which second.
fn span(lane: fn(SyncSender<Input>) -> LaneView, script: &[(u64, Command)]) -> Given {
    let (keeper, given) = sync_channel(64);
    let lane = lane(keeper);
    let begun = clock::now();
    while !lane.is_open() {
        assert!(
            clock::now().since(begun) < PATIENCE,
            "the device does not open"
        );
        clock::sleep(Duration::from_millis(5));
    }
    let start = clock::now();
    let second = |n: u64| start.plus(Duration::from_secs(n));
    lane.tell(Command::Begin(Arc::new(Take {
        recording: RECORDING,
        epoch: 1,
        span: 0,
        start,
        rate: Rate::THIRTY,
        first_sequences: BTreeMap::new(),
    })));
    let mut script: Vec<(u64, Command)> = script.to_vec();
    script.push((9, Command::End(RECORDING, second(9))));
    let mut all = Given::default();
    let mut script = script.into_iter().peekable();
    loop {
        if let Some((_, command)) = script.next_if(|(at, _)| second(*at) <= clock::now()) {
            lane.tell(command);
        }
        match given.recv_timeout(Duration::from_millis(50)) {
            Ok(Input::Given(_, Segmented::Chunk(chunk))) => all.chunks.push(chunk),
            Ok(Input::Given(_, Segmented::Seal(key))) => all.seals.push(key.sequence),
            Ok(Input::Noted(Event::Track(info))) => all.described.push(info),
            Ok(Input::GivenUp(_, _, first, last)) => {
                // It comes before what follows it.
                assert!(all.chunks.iter().all(|chunk| chunk.key.sequence < first));
                all.lost.push((first, last));
            }
            Ok(Input::Finished(..)) => return all,
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("the lane's thread is gone"),
        }
        assert!(
            clock::now() < second(9).plus(PATIENCE),
            "the span does not end"
        );
    }
}

#[test]
fn a_lower_bit_rate_holds_from_the_next_segment_and_is_a_fact() {
    let given = span(camera_lane, &[(1, Command::BitRate { percent: 25 })]);
    let rates: Vec<u32> = given.described.iter().map(|info| info.bit_rate).collect();
    assert_eq!(rates, [BIT_RATE, BIT_RATE / 4]);
    let segments = given.segments();
    println!("{segments:?}");
    // The pattern is too simple to cost fewer bytes; the encoder declares a lower level of H.264.
    let inits: Vec<_> = given.described.iter().map(|info| info.init).collect();
    assert_ne!(inits[0], inits[1]);
    let of = |sequence| {
        let chunk = |chunk: &&Chunk| chunk.key.sequence == sequence;
        given.chunks.iter().find(chunk).and_then(|chunk| chunk.init)
    };
    assert_eq!([of(0), of(1)], [Some(inits[0]), Some(inits[1])]);
    // The timeline is whole.
    for (sequence, (start, duration, _)) in segments.iter().take(4) {
        let seconds = u64::from(Rate::THIRTY.timescale().get());
        assert_eq!(start.0 as u64, sequence * 2 * seconds);
        assert_eq!(*duration, 2 * seconds);
    }
}

/// Told in the second segment, a lane leaves out the third; told again in the third, it gives the
/// fourth, whose place on the timeline is what it would have been.
fn given_up_and_taken_up(lane: fn(SyncSender<Input>) -> LaneView, seconds: u64, tolerance: u64) {
    let given = span(lane, &[(3, Command::GiveUp), (5, Command::TakeUp)]);
    let segments = given.segments();
    println!("{segments:?}, lost {:?}", given.lost);
    assert_eq!(segments.keys().copied().collect::<Vec<_>>(), [0, 1, 3, 4]);
    assert_eq!(given.seals, [0, 1, 3, 4]);
    assert_eq!(given.lost, [(2, 2)]);
    let off = (segments[&3].0.0 as u64).abs_diff(6 * seconds);
    assert!(off <= tolerance, "{segments:?}");
}

#[test]
fn pictures_given_up_leave_a_hole_of_whole_segments() {
    given_up_and_taken_up(camera_lane, Rate::THIRTY.timescale().get().into(), 0);
}

#[test]
fn sound_given_up_leaves_a_hole_of_whole_segments() {
    // A packet may begin half its length off the boundary.
    given_up_and_taken_up(microphone_lane, 48_000, 512);
}

#[test]
fn a_track_that_stays_given_up_says_so_of_each_segment() {
    let given = span(camera_lane, &[(1, Command::GiveUp)]);
    assert_eq!(given.seals, [0]);
    assert_eq!(given.lost, [(1, 1), (2, 2), (3, 3), (4, 4)]);
}
