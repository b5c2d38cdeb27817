//! Tests of the playlists, read back with an independent parser.

use super::*;
use crate::media::{Event, GapLength, MediaTime, RecordingId};
use crate::receiver::samples::*;
use m3u8_rs::{MediaPlaylist, MediaPlaylistType, Playlist};
use proptest::prelude::*;

fn parse(recording: &Recording, track: TrackId) -> MediaPlaylist {
    let text = media(recording, track).unwrap();
    m3u8_rs::parse_media_playlist_res(text.as_bytes()).unwrap()
}

fn is_gap(segment: &m3u8_rs::MediaSegment) -> bool {
    segment.unknown_tags.iter().any(|tag| tag.tag == "X-GAP")
}

#[test]
fn the_multivariant_playlist_names_video_with_sound_and_sound_alone() {
    let text = multivariant(&recording(3)).unwrap();
    let Ok(Playlist::MasterPlaylist(read)) = m3u8_rs::parse_playlist_res(text.as_bytes()) else {
        panic!("{text}")
    };
    assert!(read.independent_segments);
    let [video, sound] = read.variants.as_slice() else {
        panic!("{text}")
    };
    assert_eq!(video.codecs.as_deref(), Some("avc1.42c01f,mp4a.40.2"));
    let size = video.resolution.unwrap();
    assert_eq!((size.width, size.height), (1280, 720));
    assert_eq!(video.frame_rate, Some(30.0));
    assert_eq!(video.uri, "1/index.m3u8");
    // 500 000 bytes in 2 s, twice; configured for more than that only where it is more.
    assert_eq!(video.bandwidth, 2_500_000 + 2_000_000);
    assert_eq!(sound.codecs.as_deref(), Some("mp4a.40.2"));
    assert_eq!(sound.uri, "2/index.m3u8");
    assert!(sound.resolution.is_none());
    let [group] = read.alternatives.as_slice() else {
        panic!("{text}")
    };
    assert_eq!(group.uri.as_deref(), Some("2/index.m3u8"));
    assert_eq!(video.audio.as_ref(), Some(&group.group_id));
}

#[test]
fn a_player_is_not_told_before_each_track_has_a_segment() {
    let mut only_video = recording(0);
    assert_eq!(multivariant(&only_video), None);
    only_video.insert(0, VIDEO, stored(VIDEO, 0, 0, 0), vec![]);
    assert_eq!(multivariant(&only_video), None);
    // A microphone that gives nothing does not keep the picture away for ever.
    for sequence in 1..3 {
        only_video.insert(
            sequence,
            VIDEO,
            stored(VIDEO, sequence, 0, sequence),
            vec![],
        );
    }
    let text = multivariant(&only_video).unwrap();
    assert_eq!(text.matches("STREAM-INF").count(), 1, "{text}");
}

#[test]
fn live_grows_and_vod_ends() {
    let mut running = recording(3);
    let live = parse(&running, VIDEO);
    assert_eq!(live.playlist_type, Some(MediaPlaylistType::Event));
    assert!(!live.end_list);
    assert_eq!(live.target_duration, TARGET_SECONDS);
    assert_eq!(live.segments.len(), 3);
    assert_eq!(live.segments[0].duration, 2.0);
    let map = live.segments[0].map.as_ref().unwrap();
    assert_eq!(map.uri, format!("../init/{VIDEO_INIT}.mp4"));
    let before = media(&running, VIDEO).unwrap();
    running.insert(3, VIDEO, stored(VIDEO, 3, 0, 3), vec![]);
    assert!(media(&running, VIDEO).unwrap().starts_with(&before));
    running.complete = true;
    let vod = parse(&running, VIDEO);
    // The type may not change while a playlist grows; the end is what makes it whole.
    assert_eq!(vod.playlist_type, Some(MediaPlaylistType::Event));
    assert!(vod.end_list);
    assert_eq!(vod.segments.len(), 4);
}

#[test]
fn a_hole_is_a_gap_that_keeps_the_time_and_is_filled_under_the_same_name() {
    let mut holed = recording(6);
    let segments = holed.segments.get_mut(&VIDEO).unwrap();
    let taken = [segments.remove(&2).unwrap(), segments.remove(&3).unwrap()];
    let read = parse(&holed, VIDEO);
    let gaps: Vec<_> = read.segments.iter().map(is_gap).collect();
    assert_eq!(gaps, [false, false, true, true, false, false]);
    let total: f32 = read.segments.iter().map(|segment| segment.duration).sum();
    assert_eq!(total, 12.0);
    assert!(!read.segments.iter().any(|segment| segment.discontinuity));
    for (sequence, stored) in [(2, taken[0]), (3, taken[1])] {
        holed.insert(sequence, VIDEO, stored, vec![]);
    }
    let filled = parse(&holed, VIDEO);
    assert_eq!(filled.segments[2].uri, read.segments[2].uri);
    assert!(!filled.segments.iter().any(is_gap));
}

#[test]
fn a_new_span_is_a_discontinuity_with_its_map_and_its_date() {
    let mut recording = recording(2);
    let second = Event::Span {
        epoch: 2,
        wall: Some(wall()),
        gap: None,
    };
    recording.insert(
        1,
        TrackId::EVENTS,
        stored(TrackId::EVENTS, 1, 1, 0),
        vec![fact(1, second)],
    );
    recording.insert(2, VIDEO, stored(VIDEO, 2, 1, 0), vec![]);
    let read = parse(&recording, VIDEO);
    let breaks: Vec<_> = read
        .segments
        .iter()
        .map(|segment| segment.discontinuity)
        .collect();
    assert_eq!(breaks, [false, false, true]);
    assert!(read.segments[2].map.is_some());
    let dated: Vec<_> = read
        .segments
        .iter()
        .map(|segment| segment.program_date_time.is_some())
        .collect();
    assert_eq!(dated, [true, false, true]);
    let text = media(&recording, VIDEO).unwrap();
    assert!(
        text.contains("#EXT-X-PROGRAM-DATE-TIME:2026-11-18T11:06:40.000Z"),
        "{text}"
    );
    // Sound has nothing in span 1 and goes on in span 2: it stands after two discontinuities.
    recording.insert(2, AUDIO, stored(AUDIO, 2, 2, 0), vec![]);
    let text = media(&recording, AUDIO).unwrap();
    assert_eq!(text.matches("#EXT-X-DISCONTINUITY\n").count(), 2, "{text}");
}

#[test]
fn a_clock_known_in_the_middle_of_a_span_dates_what_follows_and_all_of_it_in_the_end() {
    let mut recording = recording(4);
    let opened = Event::Span {
        epoch: 2,
        wall: None,
        gap: Some(GapLength::Unknown),
    };
    let mut placed = fact(
        1,
        Event::SpanPlaced {
            span: 1,
            wall: wall(),
            gap: Some(GapLength::Known {
                nanos: 600_000_000_000,
                uncertainty_nanos: 5,
            }),
        },
    );
    placed.at_nanos = 3_000_000_000;
    for (sequence, fact) in [(1, fact(1, opened)), (2, placed)] {
        let events = stored(TrackId::EVENTS, sequence, 1, 0);
        recording.insert(sequence, TrackId::EVENTS, events, vec![fact]);
    }
    for n in 0..3 {
        recording.insert(4 + n, VIDEO, stored(VIDEO, 4 + n, 1, n), vec![]);
    }
    let dated = |recording: &Recording| -> Vec<usize> {
        let segments = parse(recording, VIDEO).segments.into_iter().enumerate();
        segments
            .filter(|(_, segment)| segment.program_date_time.is_some())
            .map(|(at, _)| at)
            .collect()
    };
    assert_eq!(dated(&recording), [0, 6], "what was shown stands");
    recording.complete = true;
    assert_eq!(dated(&recording), [0, 4]);
    let span = recording.spans()[&1];
    assert_eq!(span.epoch, 2);
    assert!(matches!(
        span.gap,
        Some(GapLength::Known {
            nanos: 600_000_000_000,
            ..
        })
    ));
    let manifest = crate::receiver::manifest::Manifest::of(RecordingId([1; 16]), &recording);
    assert_eq!(manifest.spans[1].away_ns, Some(600_000_000_000));
    assert_eq!(manifest.spans[1].start_uncertainty_ns, Some(5_000_000));

    // The box's clock was wrong by a day: what was shown stands until the recording is whole.
    recording.complete = false;
    let right = WallClock {
        unix_nanos: wall().unix_nanos - 86_400_000_000_000,
        ..wall()
    };
    let corrected = Event::SpanPlaced {
        span: 1,
        wall: right,
        gap: None,
    };
    let before = media(&recording, VIDEO).unwrap();
    let events = stored(TrackId::EVENTS, 3, 1, 0);
    recording.insert(3, TrackId::EVENTS, events, vec![fact(1, corrected)]);
    assert_eq!(media(&recording, VIDEO).unwrap(), before);
    recording.complete = true;
    let whole = media(&recording, VIDEO).unwrap();
    assert!(whole.contains("TIME:2026-11-17T11:06:40.000Z"), "{whole}");
    assert_eq!(recording.spans()[&1].wall, Some(right));
}

#[test]
fn an_unknown_clock_gives_no_date() {
    let unset = WallClock {
        unix_nanos: 1_000_000_000,
        uncertainty: None,
    };
    assert_eq!(date(unset, 0), None);
}

#[test]
fn a_new_init_within_a_span_is_announced() {
    let mut recording = recording(3);
    let mut changed = stored(VIDEO, 3, 0, 3);
    changed.init = Some(Hash([0x33; 32]));
    recording.insert(3, VIDEO, changed, vec![]);
    let read = parse(&recording, VIDEO);
    assert!(read.segments[3].discontinuity);
    assert!(read.segments[3].map.as_ref().unwrap().uri.contains("3333"));
}

#[test]
fn what_was_lost_at_the_end_is_a_gap_too() {
    let mut recording = recording(3);
    recording.insert(
        1,
        TrackId::EVENTS,
        stored(TrackId::EVENTS, 1, 0, 0),
        vec![end(4)],
    );
    recording.complete = true;
    let read = parse(&recording, VIDEO);
    assert_eq!(read.segments.len(), 4);
    assert!(is_gap(&read.segments[3]));
}

#[test]
fn a_segment_that_rounds_above_the_target_is_found() {
    let mut segment = stored(VIDEO, 0, 0, 0);
    segment.duration = 2 * 90_000 + 44_999;
    assert!(!is_too_long(&segment, TARGET_SECONDS));
    segment.duration = 2 * 90_000 + 45_000;
    assert!(is_too_long(&segment, TARGET_SECONDS));
}

#[test]
fn a_camera_that_encodes_is_given_ten_seconds_in_every_playlist() {
    let mut recording = recording(3);
    assert_eq!(parse(&recording, AUDIO).target_duration, TARGET_SECONDS);
    let mut info = tracks()[0].clone();
    info.codec = Codec::H264 {
        width: 1280,
        height: 720,
        rate: None,
    };
    recording.insert(
        1_000,
        TrackId::EVENTS,
        stored(TrackId::EVENTS, 1_000, 0, 0),
        vec![crate::media::Fact {
            span: 0,
            at_nanos: 0,
            event: Event::Track(info),
        }],
    );
    for track in [VIDEO, AUDIO] {
        assert_eq!(parse(&recording, track).target_duration, 10);
    }
    let mut segment = stored(VIDEO, 0, 0, 0);
    segment.duration = 10 * 90_000;
    assert!(!is_too_long(&segment, target_seconds(&recording)));
}

#[test]
fn a_name_from_the_network_cannot_break_out_of_its_quotes() {
    assert_eq!(quoted("a\",URI=\"x\n#EXT"), "aURI=x#EXT");
}

proptest! {
    #[test]
    fn whatever_is_here_the_playlist_reads_back_and_keeps_every_number(
        present in proptest::collection::btree_map(0u64..40, (0u32..3, 1u64..400_000, 0i64..10_000_000), 1..20),
        over in any::<bool>(),
    ) {
        let mut recording = recording(0);
        for (&sequence, &(span, duration, start)) in &present {
            let mut segment = stored(VIDEO, sequence, span, 0);
            (segment.duration, segment.start) = (duration, MediaTime(start));
            recording.insert(sequence, VIDEO, segment, vec![]);
        }
        recording.complete = over;
        let read = parse(&recording, VIDEO);
        let last = *present.keys().last().unwrap();
        prop_assert_eq!(read.segments.len() as u64, last + 1);
        for (sequence, segment) in read.segments.iter().enumerate() {
            prop_assert_eq!(segment.uri.clone(), format!("{sequence:08}.m4s"));
            prop_assert_eq!(is_gap(segment), !present.contains_key(&(sequence as u64)));
            if over {
                prop_assert!(f64::from(segment.duration).round() <= read.target_duration as f64);
            }
        }
        if !over {
            prop_assert_eq!(read.target_duration, TARGET_SECONDS, "it may not grow");
        }
        prop_assert_eq!(read.end_list, over);
    }
}
