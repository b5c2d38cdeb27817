//! A real recording in a store directory: made by the box's own encoders and segmenter.

#![allow(dead_code, reason = "each test that includes this uses a part of it")]

use hallcast::encoder::{self, AudioConfig, Scene, Tick};
use hallcast::media::{
    BoxId, Codec, Event, Fact, Hash, MediaTime, Monotonic, PictureLayout, PixelFormat, Rate,
    RecordingId, Segmented, StartedBy, StopReason, Timescale, TrackId, TrackInfo, TrackKind,
    TrackTotal,
};
use hallcast::mp4;
use hallcast::receiver::archive::{init_path, segment_path};
use hallcast::segmenter::{self, Cut, Events, Segmenter};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Size of the pictures.
pub const SIZE: (u32, u32) = (320, 180);
const CHUNK: Duration = Duration::from_millis(250);
const SEGMENT: Duration = Duration::from_secs(2);

/// Objects by name.
pub type Objects = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
struct Store {
    objects: Objects,
}

impl Store {
    fn take(&mut self, recording: RecordingId, segmented: Segmented) {
        match segmented {
            Segmented::Init(init) => {
                let name = init_path(recording, init.hash);
                self.objects.insert(name, init.bytes);
            }
            Segmented::Chunk(chunk) => {
                let object = self.objects.entry(segment_path(&chunk.key)).or_default();
                object.extend(chunk.bytes);
            }
            Segmented::Seal(_) => {}
        }
    }

    fn total(&self, recording: RecordingId, track: TrackId) -> TrackTotal {
        let folder = format!("recordings/{recording}/{track}/");
        let of_track = self
            .objects
            .iter()
            .filter(|(name, _)| name.starts_with(&folder));
        let mut root = blake3::Hasher::new();
        let (mut segments, mut bytes) = (0, 0);
        for (_, object) in of_track {
            root.update(blake3::hash(object).as_bytes());
            segments += 1;
            bytes += object.len() as u64;
        }
        TrackTotal {
            track,
            segments,
            bytes,
            root: Hash(*root.finalize().as_bytes()),
        }
    }
}

/// A bright bar that moves over a dark ground: each picture differs from the one before.
fn picture(n: u64, shade: u8) -> Vec<u8> {
    let (width, height) = (SIZE.0 as usize, SIZE.1 as usize);
    let mut data = vec![shade; width * height];
    let at = (n as usize * 5) % (width - 40);
    for row in data.chunks_exact_mut(width) {
        row[at..at + 40].fill(220);
    }
    data.extend(vec![128; width * height / 2]);
    data
}

fn video(store: &mut Store, id: RecordingId, track: u8, name: &str, seconds: u64) -> TrackInfo {
    let rate: Rate = "25".parse().unwrap();
    let layout = PictureLayout::tight(SIZE.0, SIZE.1, PixelFormat::I420);
    let config = encoder::Config::new(Scene::Camera, layout, rate);
    let mut encoder = encoder::open_video(&config, layout, rate).unwrap();
    let cut = Cut::pictures(rate, CHUNK, SEGMENT);
    let per_segment = cut.segment_units().unwrap();
    let mut segmenter = Segmenter::new(segmenter::Config {
        recording: id,
        track: TrackId(track),
        epoch: 1,
        span: 0,
        first_sequence: 0,
        timescale: rate.timescale(),
        cut,
    });
    let mut give = |segmented| store.take(id, segmented);
    let mut info = None;
    for n in 0..25 * seconds {
        let tick = Tick {
            time: MediaTime((n * u64::from(rate.tick_units())) as i64),
            duration: rate.tick_units(),
            captured: Monotonic::from_nanos(rate.tick_nanos(n)),
            keyframe: n % per_segment == 0,
        };
        let unit = encoder.encode(&picture(n, 30 * track), &tick).unwrap();
        if info.is_none() {
            let sets = encoder.parameters().unwrap();
            let init = mp4::video_init(&sets.sps, &sets.pps, SIZE.0, SIZE.1, rate.timescale());
            let codec_tag = mp4::avc_codec_tag(&sets.sps).unwrap();
            let init = segmenter.set_init(init.unwrap(), &mut give).unwrap();
            info = Some(TrackInfo {
                id: TrackId(track),
                name: name.into(),
                kind: TrackKind::Video,
                codec: Codec::H264 {
                    width: SIZE.0,
                    height: SIZE.1,
                    rate: Some(rate),
                },
                codec_tag,
                timescale: rate.timescale(),
                bit_rate: config.bit_rate,
                init,
                language: None,
                alternate_of: None,
            });
        }
        segmenter.push(unit, &mut give).unwrap();
    }
    segmenter.flush(&mut give).unwrap();
    info.unwrap()
}

/// A tone of 440 Hz.
fn audio(store: &mut Store, id: RecordingId, track: u8, seconds: u64) -> TrackInfo {
    let config = AudioConfig::new(1);
    let mut encoder = encoder::open_audio(&config).unwrap();
    let block = encoder.block();
    let rate: Rate = "25".parse().unwrap();
    let mut segmenter = Segmenter::new(segmenter::Config {
        recording: id,
        track: TrackId(track),
        epoch: 1,
        span: 0,
        first_sequence: 0,
        timescale: Timescale::SOUND,
        cut: Cut::sound(block as u32, rate, CHUNK, SEGMENT),
    });
    let init = mp4::audio_init(encoder.parameters(), 48_000, 1, Timescale::SOUND).unwrap();
    let codec_tag = mp4::aac_codec_tag(encoder.parameters()).unwrap();
    let mut give = |segmented| store.take(id, segmented);
    let init = segmenter.set_init(init, &mut give).unwrap();
    let mut units = Vec::new();
    for first in (0..48_000 * seconds as usize).step_by(block) {
        let sample = |n: usize| {
            let turn = (n as f64) * 440.0 / 48_000.0 * std::f64::consts::TAU;
            (turn.sin() * 12_000.0) as i16
        };
        let samples: Vec<i16> = (first..first + block).map(sample).collect();
        let time = MediaTime(first as i64);
        let captured = Monotonic::from_nanos(time.as_nanos(Timescale::SOUND) as u64);
        encoder
            .encode(&samples, time, captured, &mut |unit| units.push(unit))
            .unwrap();
    }
    encoder.finish(&mut |unit| units.push(unit)).unwrap();
    for unit in units {
        segmenter.push(unit, &mut give).unwrap();
    }
    segmenter.flush(&mut give).unwrap();
    TrackInfo {
        id: TrackId(track),
        name: "microphone".into(),
        kind: TrackKind::Audio,
        codec: Codec::AacLc {
            sample_rate: 48_000,
            channels: 1,
        },
        codec_tag,
        timescale: Timescale::SOUND,
        bit_rate: config.bit_rate,
        init,
        language: None,
        alternate_of: None,
    }
}

/// The objects of a recording of `seconds`; with an END if `ended`, with slides if `slides`.
pub fn make(id: RecordingId, seconds: u64, ended: bool, slides: bool) -> Objects {
    make_by(BoxId([9; 16]), id, seconds, ended, slides)
}

/// [`make`], as the box `box_id` makes it.
pub fn make_by(box_id: BoxId, id: RecordingId, seconds: u64, ended: bool, slides: bool) -> Objects {
    let mut store = Store::default();
    let mut tracks = vec![video(&mut store, id, 1, "presenter", seconds)];
    if slides {
        tracks.push(video(&mut store, id, 3, "slides", seconds));
    }
    tracks.push(audio(&mut store, id, 2, seconds));
    with_facts(store, tracks, box_id, id, ended)
}

/// The objects of a recording without a camera, with an END.
pub fn sound_only(id: RecordingId, seconds: u64) -> Objects {
    let mut store = Store::default();
    let tracks = vec![audio(&mut store, id, 2, seconds)];
    with_facts(store, tracks, BoxId([9; 16]), id, true)
}

fn with_facts(
    mut store: Store,
    tracks: Vec<TrackInfo>,
    box_id: BoxId,
    id: RecordingId,
    ended: bool,
) -> Objects {
    let mut events = vec![
        Event::Started {
            box_id,
            by: StartedBy::Button,
            room: Some("Lecture hall 1".into()),
            title: None,
        },
        Event::Span {
            epoch: 1,
            wall: Some(hallcast::media::WallClock {
                unix_nanos: 1_795_000_000_000_000_000,
                uncertainty: Some(Duration::from_millis(5)),
            }),
            gap: None,
        },
    ];
    let totals = tracks.iter().map(|info| store.total(id, info.id)).collect();
    events.extend(tracks.into_iter().map(Event::Track));
    if ended {
        events.push(Event::End {
            reason: StopReason::Button,
            tracks: totals,
        });
    }
    let facts: Vec<Fact> = events
        .into_iter()
        .map(|event| Fact {
            span: 0,
            at_nanos: 0,
            event,
        })
        .collect();
    Events::new(id, 1, 0, 0)
        .push(&facts, Monotonic::from_nanos(0), &mut |segmented| {
            store.take(id, segmented);
        })
        .unwrap();
    store.objects
}

/// Writes objects into a store directory.
pub fn write(objects: &Objects, store_dir: &Path) {
    for (name, bytes) in objects {
        let path = store_dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}
