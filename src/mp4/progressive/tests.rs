use super::*;
use crate::media::{AccessUnit, Hash, Monotonic, Provenance, RecordingId, SegmentKey, TrackId};
use crate::mp4::init::tests::{AAC, PPS, SPS};
use crate::mp4::{audio_init, encode_chunk, encode_provenance, video_init};

/// A segment of chunks of `per_chunk` units of `duration` each, the first one a keyframe; each
/// unit's bytes tell its number.
fn segment(start: i64, duration: u32, units: i64, per_chunk: usize, size: usize) -> Vec<u8> {
    let key = SegmentKey {
        recording: RecordingId([1; 16]),
        track: TrackId(1),
        sequence: 0,
    };
    let mut bytes = Vec::new();
    let provenance = Provenance {
        key,
        epoch: 1,
        span: 0,
        start: MediaTime(start),
        timescale: 1,
        init: Some(Hash([0; 32])),
    };
    encode_provenance(&provenance, &mut bytes);
    let units: Vec<AccessUnit> = (0..units)
        .map(|n| {
            let time = start + n * i64::from(duration);
            let mut data = vec![0; size];
            data[..8].copy_from_slice(&time.to_be_bytes());
            AccessUnit {
                time: MediaTime(time),
                duration,
                keyframe: n == 0,
                captured: Monotonic::default(),
                data,
            }
        })
        .collect();
    for (n, units) in units.chunks(per_chunk).enumerate() {
        encode_chunk(n as u32, units, &mut bytes).unwrap();
    }
    bytes
}

fn video(height: u32) -> Vec<u8> {
    video_init(SPS, PPS, 640, height, Timescale::VIDEO).unwrap()
}

fn track(name: &str, inits: Vec<Vec<u8>>, segments: &[(usize, i64)]) -> ProgressiveTrack {
    let segments = segments
        .iter()
        .map(|&(init, span_start_nanos)| SegmentSource {
            init,
            span_start_nanos,
        });
    ProgressiveTrack {
        name: name.into(),
        inits,
        segments: segments.collect(),
    }
}

fn written(tracks: &[ProgressiveTrack], bytes: &[Vec<Vec<u8>>]) -> (Written, Vec<u8>) {
    let mut out = Vec::new();
    let written = write_progressive(tracks, |t, s| Ok(bytes[t][s].clone()), &mut out).unwrap();
    assert_eq!(written.bytes, out.len() as u64);
    (written, out)
}

fn kinds(bytes: &[u8]) -> Vec<[u8; 4]> {
    let (mut at, mut found) = (0, Vec::new());
    while at < bytes.len() {
        let one = crate::mp4::boxes::box_at(bytes, at, bytes.len()).unwrap();
        (at, _) = (one.body.end, found.push(one.kind));
    }
    found
}

#[test]
fn two_tracks_lie_interleaved_and_another_reader_finds_every_sample() {
    let tracks = [
        track("presenter", vec![video(360)], &[(0, 0), (0, 0)]),
        track(
            "microphone",
            vec![audio_init(AAC, 48_000, 2, Timescale::SOUND).unwrap()],
            &[(0, 0), (0, 0)],
        ),
    ];
    let bytes = [
        vec![
            segment(0, 3000, 60, 8, 90),
            segment(180_000, 3000, 60, 8, 90),
        ],
        vec![
            segment(0, 1024, 94, 12, 20),
            segment(94 * 1024, 1024, 94, 12, 20),
        ],
    ];
    let (written, file) = written(&tracks, &bytes);
    assert_eq!(kinds(&file), [*b"ftyp", *b"moov", *b"mdat"]);
    assert_eq!((written.samples, written.nanos), (120 + 188, 4_010_666_667));

    let other = re_mp4::Mp4::read_bytes(&file).unwrap();
    let mut places = Vec::new();
    for (id, step, count) in [(1, 3000, 120), (2, 1024, 188)] {
        let samples = &other.tracks()[&id].samples;
        assert_eq!(samples.len(), count);
        for (n, sample) in samples.iter().enumerate() {
            assert_eq!(sample.decode_timestamp, n as i64 * step);
            assert_eq!(sample.duration, step as u64);
            let told = file[sample.byte_range()].first_chunk::<8>().unwrap();
            assert_eq!(i64::from_be_bytes(*told), n as i64 * step);
            assert_eq!(
                sample.is_sync,
                id == 2 && n % 94 == 0 || id == 1 && n % 60 == 0
            );
            places.push((
                sample.offset,
                sample.decode_timestamp as f64 / sample.timescale as f64,
            ));
        }
    }
    // Reading from front to back, time never steps back by much more than a second.
    places.sort_by_key(|(offset, _)| *offset);
    let mut furthest = 0f64;
    for (_, time) in places {
        assert!(time > furthest - 1.6, "{time} after {furthest}");
        furthest = furthest.max(time);
    }
}

#[test]
fn a_gap_between_spans_prolongs_the_last_picture_and_a_new_init_is_a_new_description() {
    let tracks = [track(
        "slides",
        vec![video(360), video(480), video(360)],
        &[(0, 0), (1, 10_000_000_000), (2, 10_000_000_000)],
    )];
    let bytes = [vec![
        segment(0, 3000, 30, 8, 9),
        segment(0, 3000, 30, 8, 9),
        segment(90_000, 3000, 30, 8, 9),
    ]];
    let (_, file) = written(&tracks, &bytes);
    let other = re_mp4::Mp4::read_bytes(&file).unwrap();
    let samples = &other.tracks()[&1].samples;
    assert_eq!(samples[29].duration, 9 * 90_000 + 3000);
    assert_eq!(samples[30].decode_timestamp, 900_000);
    let stbl = &other.moov.traks[0].mdia.minf.stbl;
    let descriptions: Vec<u32> = stbl
        .stsc
        .entries
        .iter()
        .map(|entry| entry.sample_description_index)
        .collect();
    assert_eq!(descriptions, [1, 2, 1]);
    let count = file.windows(4).filter(|four| four == b"avcC").count();
    assert_eq!(count, 2, "the third init is the first one again");
}

#[test]
fn a_hole_in_the_sound_holds_silent_packets() {
    let sound = audio_init(AAC, 48_000, 2, Timescale::SOUND).unwrap();
    // Four packets; then 90 packets and a half of another in which nothing came; then four.
    let after = 4 * 1024 + 90 * 1024 + 512;
    let bytes = [vec![
        segment(0, 1024, 4, 2, 100),
        segment(after, 1024, 4, 2, 100),
    ]];
    let tracks = [track("microphone", vec![sound], &[(0, 0), (0, 0)])];
    let (written, file) = written(&tracks, &bytes);
    assert_eq!(written.samples, 4 + 90 + 4);
    let mp4 = re_mp4::Mp4::read_bytes(&file).unwrap();
    let samples = &mp4.tracks().values().next().unwrap().samples;
    let sizes: Vec<u64> = samples.iter().map(|sample| sample.size).collect();
    assert_eq!(sizes, [vec![100; 4], vec![9; 90], vec![100; 4]].concat());
    for (n, sample) in samples.iter().enumerate() {
        let data = &file[sample.offset as usize..][..sample.size as usize];
        match n {
            4..94 => assert_eq!(data, [0x21, 0x00, 0x49, 0x90, 0x02, 0x19, 0x00, 0x23, 0x80]),
            // Each packet of the segments begins with its own time.
            _ => assert_eq!(data[..8], sample.decode_timestamp.to_be_bytes()),
        }
    }
}

#[test]
fn a_span_said_to_begin_before_the_last_ended_is_put_behind_it() {
    let tracks = [track(
        "slides",
        vec![video(360)],
        &[(0, 0), (0, 200_000_000)],
    )];
    let bytes = [vec![segment(0, 3000, 60, 8, 9), segment(0, 3000, 60, 8, 9)]];
    let (_, file) = written(&tracks, &bytes);
    let other = re_mp4::Mp4::read_bytes(&file).unwrap();
    for (n, sample) in other.tracks()[&1].samples.iter().enumerate() {
        assert_eq!(sample.decode_timestamp, n as i64 * 3000);
        let told = file[sample.byte_range()].first_chunk::<8>().unwrap();
        assert_eq!(i64::from_be_bytes(*told), (n % 60) as i64 * 3000);
    }
}

#[test]
fn a_late_track_gets_an_empty_edit() {
    let sound = audio_init(AAC, 48_000, 2, Timescale::SOUND).unwrap();
    let tracks = [track("microphone", vec![sound], &[(0, 0)])];
    let (written, file) = written(&tracks, &[vec![segment(1023, 1024, 10, 12, 9)]]);
    assert_eq!(written.nanos, (1023 + 10_240) * 1_000_000_000_u64 / 48_000);
    let other = re_mp4::Mp4::read_bytes(&file).unwrap();
    let edits = &other.moov.traks[0]
        .edts
        .as_ref()
        .unwrap()
        .elst
        .as_ref()
        .unwrap()
        .entries;
    assert_eq!(edits[0].segment_duration, 1023 * 15);
    assert_eq!(edits[1].segment_duration, 10_240 * 15);
    assert_eq!(edits[1].media_time, 0);
}

#[test]
fn what_cannot_be_read_is_named() {
    let tracks = [track("slides", vec![video(360)], &[(0, 0), (0, 0)])];
    let good = segment(0, 3000, 60, 8, 9);
    let fail = |second: io::Result<Vec<u8>>| {
        let mut second = Some(second);
        let fetch = |_, s| {
            if s == 0 {
                Ok(good.clone())
            } else {
                second.take().unwrap()
            }
        };
        write_progressive(&tracks, fetch, &mut Vec::new())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        fail(Err(io::Error::other("no disk"))),
        "reading segment 1 of track 0: no disk"
    );
    assert!(fail(Ok(vec![0; 9])).starts_with("segment 1 of track 0: malformed MP4"));
    assert!(write_progressive(&[], |_, _| Ok(vec![]), &mut Vec::new()).is_err());
}

/// Keeps where each large write began, and the headers.
#[derive(Default)]
struct Watch {
    at: u64,
    head: Vec<u8>,
    large: Vec<u64>,
}

impl Write for Watch {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > 1 << 20 {
            self.large.push(self.at);
        } else {
            self.head.extend_from_slice(bytes);
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn beyond_4_gib_offsets_and_sizes_are_64_bits_wide() {
    let spans: Vec<(usize, i64)> = (0..68).map(|n| (0, n * 1_000_000_000)).collect();
    let tracks = [track("slides", vec![video(360)], &spans)];
    let large = segment(0, 90_000, 1, 1, 64 << 20);
    let mut out = Watch::default();
    let written = write_progressive(&tracks, |_, _| Ok(large.clone()), &mut out).unwrap();
    assert!(written.bytes > 1 << 32);
    assert_eq!(written.bytes, out.at);

    let mdat = out.head.len() - 16;
    assert_eq!(out.head[mdat..mdat + 8], *b"\0\0\0\x01mdat");
    let size = u64::from_be_bytes(*out.head.last_chunk::<8>().unwrap());
    assert_eq!(mdat as u64 + size, written.bytes);
    let co64 = out
        .head
        .windows(4)
        .position(|four| four == b"co64")
        .unwrap();
    for (n, at) in out.large.iter().enumerate() {
        let entry = co64 + 12 + 8 * n;
        assert_eq!(
            u64::from_be_bytes(*out.head[entry..].first_chunk().unwrap()),
            *at
        );
    }
    assert_eq!(out.large.len(), 68);
}
