use super::*;
use crate::media::{Event, Fact, Monotonic, Rate};
use crate::mp4::{Content, Segment, parse_segment};
use crate::wire;
use proptest::prelude::*;
use std::time::Duration;

const CHUNK: Duration = Duration::from_millis(250);
const SEGMENT: Duration = Duration::from_secs(2);

fn segmenter(cut: Cut, timescale: Timescale) -> Segmenter {
    Segmenter::new(Config {
        recording: RecordingId([7; 16]),
        track: TrackId(1),
        epoch: 3,
        span: 2,
        first_sequence: 40,
        timescale,
        cut,
    })
}

fn unit(time: i64, duration: u32, keyframe: bool) -> AccessUnit {
    AccessUnit {
        time: MediaTime(time),
        duration,
        keyframe,
        captured: Monotonic::from_nanos(time as u64),
        data: time.to_be_bytes().to_vec(),
    }
}

fn pictures() -> Segmenter {
    let rate: Rate = "30".parse().unwrap();
    segmenter(Cut::pictures(rate, CHUNK, SEGMENT), rate.timescale())
}

fn sound() -> Segmenter {
    let cut = Cut::sound(1024, "30".parse().unwrap(), CHUNK, SEGMENT);
    segmenter(cut, Timescale::SOUND)
}

/// What was given, in short: `I`nit, chunk with its number of units, `|` for a seal.
fn short(given: &[Segmented]) -> String {
    let mut bytes = Vec::new();
    let mut chunks = Vec::new();
    let mut text = String::new();
    for one in given {
        match one {
            Segmented::Init(_) => text.push('I'),
            Segmented::Chunk(chunk) => {
                bytes.extend_from_slice(&chunk.bytes);
                chunks.push(chunk.clone());
            }
            Segmented::Seal(key) => {
                let parsed = parse_segment(&bytes).unwrap();
                assert_eq!(parsed.provenance.key, *key);
                text += &units_of(&parsed, &chunks);
                text.push('|');
                (bytes, chunks) = (Vec::new(), Vec::new());
            }
        }
    }
    text + &"c".repeat(chunks.len())
}

/// The parsed segment agrees with what was said of its chunks.
fn units_of(parsed: &Segment<'_>, given: &[Chunk]) -> String {
    let Content::Media(parts) = &parsed.content else {
        panic!("facts");
    };
    assert_eq!(parts.len(), given.len());
    let counts = parts
        .iter()
        .zip(given)
        .enumerate()
        .map(|(index, (part, chunk))| {
            assert_eq!(
                (chunk.index, chunk.init),
                (index as u32, parsed.provenance.init)
            );
            assert_eq!(part.chunk.base_time as i64, chunk.start.0);
            assert_eq!(part.chunk.duration(), chunk.duration);
            assert_eq!(part.bytes.len(), chunk.bytes.len());
            assert_eq!(chunk.captured.as_nanos() as i64, chunk.start.0);
            part.chunk.samples.len().to_string()
        });
    counts.collect::<Vec<_>>().join(",")
}

#[test]
fn pictures_are_cut_at_keyframes_and_chunks_leave_as_soon_as_they_are_whole() {
    let mut segmenter = pictures();
    let mut given = Vec::new();
    segmenter
        .set_init(vec![1], &mut |one| given.push(one))
        .unwrap();
    let mut after = Vec::new();
    for n in 0..70 {
        segmenter
            .push(unit(n * 3000, 3000, n % 60 == 0), &mut |one| {
                given.push(one)
            })
            .unwrap();
        after.push(given.len());
    }
    assert_eq!(
        (after[6], after[7], after[8]),
        (1, 2, 2),
        "the eighth picture completes a chunk"
    );
    assert_eq!(
        after[59] - after[58],
        1,
        "the sixtieth completes the last one"
    );
    segmenter.flush(&mut |one| given.push(one)).unwrap();
    segmenter.flush(&mut |one| given.push(one)).unwrap();
    assert_eq!(short(&given), "I8,8,8,8,8,8,8,4|8,2|");
    let stats = Stats {
        units: 70,
        chunks: 10,
        segments: 2,
        bytes: segmenter.stats().bytes,
    };
    assert_eq!((segmenter.stats(), segmenter.sequence()), (stats, 42));
}

/// A camera that encodes, at any times: the lengths of the chunks in pictures.
#[test]
fn what_a_camera_encoded_is_cut_by_time_at_its_keyframes() {
    let scale = Timescale::VIDEO;
    let mut segmenter = segmenter(Cut::passing(scale, CHUNK, SEGMENT), scale);
    let mut given = Vec::new();
    segmenter
        .set_init(vec![1], &mut |one| given.push(one))
        .unwrap();
    // Ten a second, a keyframe each second that comes a hair too early; then one picture in 400 ms.
    for n in 0..45 {
        let early = if n % 10 == 0 { 20 } else { 0 };
        let (time, lasts) = match n {
            44 => (44 * 9000, 36_000),
            _ => (n * 9000, 9000),
        };
        let unit = unit((time - early).max(0), lasts, n % 10 == 0);
        segmenter.push(unit, &mut |one| given.push(one)).unwrap();
    }
    segmenter.flush(&mut |one| given.push(one)).unwrap();
    assert_eq!(short(&given), "I3,3,3,3,3,3,2|3,3,3,3,3,3,2|3,2|");
}

#[test]
fn a_segment_without_a_keyframe_ends_at_ten_seconds_and_at_eight_megabytes() {
    let scale = Timescale::VIDEO;
    for (bytes, fits) in [(8, 100), (1_000_000, 8)] {
        let mut segmenter = segmenter(Cut::passing(scale, CHUNK, SEGMENT), scale);
        let mut given = Vec::new();
        segmenter
            .set_init(vec![1], &mut |one| given.push(one))
            .unwrap();
        for n in 0..110 {
            let mut unit = unit(n * 9000, 9000, n == 0 || n == 105);
            unit.data = vec![0; bytes];
            let taken = segmenter.push(unit, &mut |one| given.push(one));
            match taken {
                Ok(()) => assert!(n < fits || (105..105 + fits).contains(&n), "{n}"),
                Err(Error::TooLong(_)) => assert_eq!(n, fits),
                Err(Error::WaitsForKeyframe(_)) => assert!(n > fits && n < 105),
                Err(other) => panic!("{other}"),
            }
        }
        segmenter.flush(&mut |one| given.push(one)).unwrap();
        let stats = segmenter.stats();
        assert_eq!((stats.segments, stats.units as i64), (2, fits + 5));
    }
}

#[test]
fn a_new_init_seals_first_and_the_same_one_changes_nothing() {
    let mut segmenter = pictures();
    let mut given = Vec::new();
    let mut give = |one| given.push(one);
    let first = segmenter.set_init(vec![1], &mut give).unwrap();
    segmenter.push(unit(0, 3000, true), &mut give).unwrap();
    assert_eq!(segmenter.set_init(vec![1], &mut give).unwrap(), first);
    segmenter.push(unit(3000, 3000, false), &mut give).unwrap();
    assert_ne!(segmenter.set_init(vec![2], &mut give).unwrap(), first);
    segmenter.push(unit(6000, 3000, true), &mut give).unwrap();
    segmenter.flush(&mut give).unwrap();
    assert_eq!(short(&given), "I2|I1|");
}

#[test]
fn what_cannot_be_placed_is_refused_and_the_next_goes_on() {
    let mut segmenter = pictures();
    let mut given = Vec::new();
    let mut give = |one| given.push(one);
    assert!(matches!(
        segmenter.push(unit(0, 1, true), &mut give),
        Err(Error::NoInit(_))
    ));
    segmenter.set_init(vec![1], &mut give).unwrap();
    let waits = segmenter.push(unit(0, 3000, false), &mut give);
    assert!(matches!(waits, Err(Error::WaitsForKeyframe(_))));
    let before = segmenter.push(unit(-1, 3000, true), &mut give);
    assert!(matches!(before, Err(Error::OutOfOrder { .. })));
    segmenter.push(unit(3000, 3000, true), &mut give).unwrap();
    let twice = segmenter.push(unit(3000, 3000, true), &mut give);
    assert!(matches!(twice, Err(Error::OutOfOrder { .. })));
    segmenter.push(unit(6000, 3000, false), &mut give).unwrap();
    segmenter.flush(&mut give).unwrap();
    assert_eq!(short(&given), "I2|");
}

#[test]
fn a_segment_of_sound_is_sealed_by_its_own_last_packet() {
    let mut segmenter = sound();
    let mut given = Vec::new();
    let mut give = |one| given.push(one);
    segmenter.set_init(vec![1], &mut give).unwrap();
    // 2 s are 93.75 packets: the nearest boundaries are packets 94, 187 (187.5, a tie) and 281 (281.25).
    for n in 0..281 {
        segmenter
            .push(unit(n * 1024, 1024, true), &mut give)
            .unwrap();
    }
    assert_eq!(
        short(&given),
        "I12,12,12,12,12,12,12,10|12,12,12,12,12,12,12,9|12,12,12,12,12,12,12,10|"
    );
}

#[test]
fn facts_are_one_segment_per_batch() {
    let mut events = Events::new(RecordingId([7; 16]), 3, 2, 5);
    let mut given = Vec::new();
    let noted = Monotonic::from_nanos(99);
    let fact = Fact {
        span: 2,
        at_nanos: 12,
        event: Event::Mark,
    };
    for batch in [vec![fact.clone()], vec![fact.clone(), fact.clone()]] {
        events
            .push(&batch, noted, &mut |one| given.push(one))
            .unwrap();
    }
    let [
        Segmented::Chunk(first),
        Segmented::Seal(sealed),
        Segmented::Chunk(second),
        Segmented::Seal(_),
    ] = &given[..]
    else {
        panic!("{given:?}");
    };
    assert_eq!((first.key, first.captured), (*sealed, noted));
    assert_eq!(
        (first.key.sequence, second.key.sequence, events.sequence()),
        (5, 6, 7)
    );
    let parsed = parse_segment(&second.bytes).unwrap();
    assert_eq!((parsed.provenance.epoch, parsed.provenance.span), (3, 2));
    let Content::Events(cbor) = parsed.content else {
        panic!("{parsed:?}");
    };
    assert_eq!(wire::event::decode(cbor), Ok(vec![fact.clone(), fact]));
}

proptest! {
    /// At any rate, from any start, with packets missing: segments of sound begin within half a
    /// packet of the pictures' grid, nothing is lost, numbers have no hole.
    #[test]
    fn sound_aligns_with_pictures(rate in prop::sample::select(vec!["25", "30", "30000/1001", "24000/1001", "10", "7"]), start in 0i64..200_000, missing in prop::collection::vec(0usize..400, 0..6)) {
        let rate: Rate = rate.parse().unwrap();
        let cut = Cut::sound(1024, rate, CHUNK, SEGMENT);
        let grid = rate.tick_nanos(rate.ticks_covering(SEGMENT)) as f64 / 1e9 * 48_000.0;
        let mut segmenter = segmenter(cut, Timescale::SOUND);
        let mut given = Vec::new();
        segmenter.set_init(vec![1], &mut |one| given.push(one)).unwrap();
        let mut pushed = 0;
        for n in (0..400).filter(|n| !missing.contains(n)) {
            segmenter.push(unit(start + n as i64 * 1024, 1024, true), &mut |one| given.push(one)).unwrap();
            pushed += 1;
        }
        segmenter.flush(&mut |one| given.push(one)).unwrap();
        prop_assert_eq!(segmenter.stats().units, pushed);
        prop_assert!(short(&given).ends_with('|'));

        let mut next = 40;
        for one in &given {
            match one {
                Segmented::Chunk(chunk) => {
                    prop_assert_eq!(chunk.key.sequence, next);
                    // Where the grid's packet is missing, a later one begins the segment.
                    if chunk.index == 0 && chunk.start.0 > start && missing.is_empty() {
                        let off = (chunk.start.0 as f64 / grid).round() * grid - chunk.start.0 as f64;
                        prop_assert!(off.abs() <= 513.0, "{off}");
                    }
                }
                Segmented::Seal(key) => {
                    prop_assert_eq!(key.sequence, next);
                    next += 1;
                }
                Segmented::Init(_) => {}
            }
        }
    }
}

#[test]
fn what_is_left_out_takes_its_number_and_its_place() {
    let mut segmenter = pictures();
    let mut given = Vec::new();
    let mut lost = Vec::new();
    let units = i64::from("30".parse::<Rate>().unwrap().tick_units());
    segmenter
        .set_init(vec![1], &mut |part| given.push(part))
        .unwrap();
    for n in 0..300 {
        match n {
            70 => segmenter.set_skipping(true),
            200 => segmenter.set_skipping(false),
            _ => {}
        }
        let unit = unit(n * units, units as u32, n % 60 == 0);
        segmenter.push(unit, &mut |part| given.push(part)).unwrap();
        lost.extend(segmenter.take_skipped().map(|range| (n, range)));
    }
    segmenter.flush(&mut |part| given.push(part)).unwrap();
    // Segments 42 and 43 are left out; of each that is known once it is over, though it goes on.
    assert_eq!(lost, [(180, (42, 42)), (240, (43, 43))]);
    let seals: Vec<u64> = given
        .iter()
        .filter_map(|part| match part {
            Segmented::Seal(key) => Some(key.sequence),
            _ => None,
        })
        .collect();
    assert_eq!(seals, [40, 41, 44]);
    let start = given.iter().rev().find_map(|part| match part {
        Segmented::Chunk(chunk) if chunk.index == 0 => Some(chunk.start.0),
        _ => None,
    });
    assert_eq!(start, Some(240 * units));
}
