//! Arbitrary messages and facts.

use crate::media::health::{Alarm, Drops, Health, Lateness, Level, Repeats, TrackHealth};
use crate::media::{
    BoxId, Codec, Event, Fact, GapCause, GapLength, Hash, LostReason, MediaTime, Rate, RecordingId,
    SegmentKey, StartedBy, StopReason, Timescale, TrackId, TrackInfo, TrackKind, TrackTotal,
    WallClock,
};
use crate::wire::message::*;
use crate::wire::{ErrorCode, Range, Sequences};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use std::time::Duration;

fn recording() -> impl Strategy<Value = RecordingId> {
    any::<[u8; 16]>().prop_map(RecordingId)
}

fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}

fn track() -> impl Strategy<Value = TrackId> {
    any::<u8>().prop_map(TrackId)
}

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..12).prop_map(|text| text.into_iter().collect())
}

fn clock() -> impl Strategy<Value = Option<WallClock>> {
    of((any::<i64>(), of(any::<u64>()))).prop_map(|clock| {
        clock.map(|(unix_nanos, error)| WallClock {
            unix_nanos,
            uncertainty: error.map(Duration::from_nanos),
        })
    })
}

fn sequences() -> impl Strategy<Value = Sequences> {
    (0u64..1000, vec((0u64..5000, 0u64..30), 0..8)).prop_map(|(below, ranges)| {
        let mut set = Sequences::below(below);
        for (first, length) in ranges {
            set.insert_range(Range {
                first,
                last: first + length,
            });
        }
        set
    })
}

fn key() -> impl Strategy<Value = SegmentKey> {
    (recording(), track(), any::<u64>()).prop_map(|(recording, track, sequence)| SegmentKey {
        recording,
        track,
        sequence,
    })
}

fn lost_reason() -> impl Strategy<Value = LostReason> {
    select(vec![
        LostReason::Damaged,
        LostReason::NoSpace,
        LostReason::ReceiverForgot,
    ])
}

fn hello() -> impl Strategy<Value = Message> {
    let watermark = (track(), any::<u64>()).prop_map(|(track, next)| Watermark { track, next });
    let open = (recording(), vec(watermark, 0..4))
        .prop_map(|(recording, tracks)| OpenRecording { recording, tracks });
    let numbers = any::<([u8; 16], u64, u64, u64)>();
    (numbers, text(), vec(open, 0..4), clock()).prop_map(
        |((id, epoch, connection, nonce), software, recordings, clock)| {
            Message::Hello(Hello {
                box_id: BoxId(id),
                epoch,
                connection,
                nonce,
                software,
                recordings,
                clock,
            })
        },
    )
}

fn hashes() -> impl Strategy<Value = Vec<SegmentHash>> {
    let one = (any::<u64>(), hash());
    vec(
        one.prop_map(|(sequence, hash)| SegmentHash { sequence, hash }),
        0..4,
    )
}

fn welcome() -> impl Strategy<Value = Message> {
    let held = (track(), sequences(), hashes()).prop_map(|(track, durable, hashes)| HeldTrack {
        track,
        durable,
        hashes,
    });
    let held = (recording(), vec(held, 0..4))
        .prop_map(|(recording, tracks)| HeldRecording { recording, tracks });
    let rest = (clock(), of(any::<u64>()), text(), vec(recording(), 0..4));
    (vec(held, 0..4), vec(recording(), 0..4), rest).prop_map(
        |(recordings, complete, (clock, backfill, software, erased))| {
            Message::Welcome(Welcome {
                recordings,
                complete,
                clock,
                limits: Limits { backfill },
                software,
                erased,
                abridged: false,
            })
        },
    )
}

fn track_health() -> impl Strategy<Value = TrackHealth> {
    let counts = any::<[u64; 7]>();
    let reasons = any::<([u64; 3], [u64; 5])>();
    let lateness = of(any::<([u64; 5], [u64; 15])>());
    let rest = (track(), text(), any::<bool>(), of(any::<i32>()));
    (counts, reasons, lateness, rest).prop_map(
        |(counts, (repeats, drops), lateness, (track, name, open, ppm))| TrackHealth {
            track,
            name,
            open,
            ticks: counts[0],
            repeats: Repeats {
                slower_source: repeats[0],
                no_picture: repeats[1],
                before_first: repeats[2],
            },
            drops: Drops {
                faster_source: drops[0],
                late: drops[1],
                before_start: drops[2],
                out_of_order: drops[3],
                not_polled: drops[4],
            },
            gaps: counts[1],
            gap_ms: counts[2],
            lateness: lateness.map(|(figures, counts)| Lateness {
                p50: figures[0],
                p99: figures[1],
                p999: figures[2],
                max: figures[3],
                sum: figures[4],
                counts,
            }),
            ppm,
            xruns: counts[3],
            silence: counts[4],
            ring_waiting: counts[5],
            ring_dropped: counts[6],
            device_lost: counts[0],
            keeper_waits: counts[1],
        },
    )
}

fn status() -> impl Strategy<Value = Message> {
    let level = (track(), any::<i32>(), any::<i32>()).prop_map(|(track, peak, rms)| Level {
        track,
        peak,
        rms,
    });
    let alarm = (text(), of(track()), text(), of(any::<u64>())).prop_map(
        |(code, track, message, seconds)| Alarm {
            code,
            track,
            message,
            seconds,
        },
    );
    let lists = (
        vec(level, 0..3),
        vec(alarm, 0..3),
        vec(track_health(), 0..3),
    );
    let numbers = any::<([Option<u64>; 4], [u64; 2])>();
    let texts = (text(), text(), text(), text());
    (of(recording()), lists, numbers, texts).prop_map(
        |(recording, (levels, alarms, tracks), (some, all), texts)| {
            Message::Status(Health {
                recording,
                levels,
                alarms,
                waiting_bytes: some[0],
                seconds_left: some[1],
                state: texts.0,
                lamp: texts.1,
                recording_seconds: some[2],
                tracks,
                spool_level: texts.2,
                sync_p99_ms: some[3],
                offers_waiting: all[0],
                software: texts.3,
                resident_bytes: all[1],
            })
        },
    )
}

pub fn message() -> impl Strategy<Value = Message> {
    let action = prop_oneof![
        select(vec![
            Action::Start,
            Action::Stop,
            Action::Pause,
            Action::Resume,
            Action::Mark,
            Action::Identify
        ]),
        (1000u16..).prop_map(Action::Other),
    ];
    prop_oneof![
        hello(),
        welcome(),
        status(),
        (key(), any::<u64>()).prop_map(|(key, offset)| Message::Received(Received { key, offset })),
        (recording(), track(), sequences(), hashes()).prop_map(
            |(recording, track, durable, hashes)| {
                Message::Durable(Durable {
                    recording,
                    track,
                    durable,
                    hashes,
                })
            }
        ),
        vec(hash(), 0..4).prop_map(|hashes| Message::InitDurable(InitDurable { hashes })),
        recording().prop_map(|recording| Message::Complete(Complete { recording })),
        (any::<u64>(), action).prop_map(|(id, action)| Message::Command(Command { id, action })),
        (
            recording(),
            track(),
            any::<u64>(),
            any::<u64>(),
            lost_reason()
        )
            .prop_map(|(recording, track, first, last, reason)| {
                Message::Lost(Lost {
                    recording,
                    track,
                    first,
                    last,
                    reason,
                })
            }),
        (any::<u16>(), text(), of(key()), of(any::<u64>())).prop_map(|(code, text, key, epoch)| {
            Message::Error(ErrorMessage {
                code: ErrorCode(code),
                text,
                key,
                epoch,
            })
        }),
        recording().prop_map(|recording| Message::Erase(Erase { recording })),
        recording().prop_map(|recording| Message::Erased(Erased { recording })),
        (any::<u64>(), of(text()), of(recording())).prop_map(|(id, refused, recording)| {
            Message::Answer(Answer {
                id,
                refused,
                recording,
            })
        }),
    ]
}

fn track_info() -> impl Strategy<Value = TrackInfo> {
    let rate = of((1u32..240).prop_map(|num| Rate::new(num, 1).unwrap()));
    let codec = prop_oneof![
        (any::<u32>(), any::<u32>(), rate).prop_map(|(width, height, rate)| Codec::H264 {
            width,
            height,
            rate
        }),
        (any::<u32>(), any::<u8>()).prop_map(|(sample_rate, channels)| Codec::AacLc {
            sample_rate,
            channels
        }),
    ];
    let kind = prop_oneof![
        select(vec![TrackKind::Events, TrackKind::Video, TrackKind::Audio]),
        (3u16..).prop_map(TrackKind::Other),
    ];
    let names = (text(), text(), of(text()));
    let numbers = (1u32.., any::<u32>());
    (track(), names, kind, codec, numbers, hash(), of(track())).prop_map(
        |(id, (name, codec_tag, language), kind, codec, (scale, bit_rate), init, alternate_of)| {
            TrackInfo {
                id,
                name,
                kind,
                codec,
                codec_tag,
                timescale: Timescale::new(scale).unwrap(),
                bit_rate,
                init,
                language,
                alternate_of,
            }
        },
    )
}

fn gap() -> impl Strategy<Value = GapLength> {
    prop_oneof![
        Just(GapLength::Unknown),
        any::<(u64, u64)>().prop_map(|(nanos, uncertainty_nanos)| GapLength::Known {
            nanos,
            uncertainty_nanos
        }),
    ]
}

fn some_clock() -> impl Strategy<Value = WallClock> {
    clock().prop_map(|clock| {
        clock.unwrap_or(WallClock {
            unix_nanos: 0,
            uncertainty: None,
        })
    })
}

fn event() -> impl Strategy<Value = Event> {
    let by = select(vec![
        StartedBy::Button,
        StartedBy::Socket,
        StartedBy::Schedule,
        StartedBy::Network,
    ]);
    let stop = select(vec![
        StopReason::Button,
        StopReason::Socket,
        StopReason::Schedule,
        StopReason::Network,
        StopReason::MaximumLength,
        StopReason::Shutdown,
        StopReason::AwayTooLong,
        StopReason::NoSpace,
        StopReason::DiskFailed,
    ]);
    let cause = select(vec![
        GapCause::DeviceMissing,
        GapCause::DeviceStalled,
        GapCause::Overrun,
        GapCause::Paused,
        GapCause::BoxAway,
        GapCause::EncoderFailed,
    ]);
    let total =
        (track(), any::<u64>(), any::<u64>(), hash()).prop_map(|(track, segments, bytes, root)| {
            TrackTotal {
                track,
                segments,
                bytes,
                root,
            }
        });
    prop_oneof![
        (any::<[u8; 16]>(), by, of(text()), of(text())).prop_map(|(id, by, room, title)| {
            Event::Started {
                box_id: BoxId(id),
                by,
                room,
                title,
            }
        }),
        (any::<u64>(), clock(), of(gap())).prop_map(|(epoch, wall, gap)| Event::Span {
            epoch,
            wall,
            gap
        }),
        (any::<u32>(), some_clock(), of(gap())).prop_map(|(span, wall, gap)| Event::SpanPlaced {
            span,
            wall,
            gap
        }),
        (of(any::<[u8; 16]>()), any::<u64>(), any::<u64>()).prop_map(
            |(boot, boot_nanos, recorded_nanos)| Event::Run {
                boot,
                boot_nanos,
                recorded_nanos
            }
        ),
        (some_clock(), any::<i64>())
            .prop_map(|(wall, by_nanos)| Event::ClockStepped { wall, by_nanos }),
        track_info().prop_map(Event::Track),
        (track(), any::<i64>(), any::<u64>(), cause).prop_map(|(track, start, duration, cause)| {
            Event::Gap {
                track,
                start: MediaTime(start),
                duration,
                cause,
            }
        }),
        Just(Event::Mark),
        Just(Event::Paused),
        any::<u64>().prop_map(|recorded_nanos| Event::Extended { recorded_nanos }),
        (text(), of(track()), any::<bool>(), text()).prop_map(|(code, track, raised, message)| {
            Event::Alarm {
                code,
                track,
                raised,
                message,
            }
        }),
        (track(), any::<u64>(), any::<u64>(), lost_reason()).prop_map(
            |(track, first, last, reason)| {
                Event::Lost {
                    track,
                    first,
                    last,
                    reason,
                }
            }
        ),
        (stop, vec(total, 0..3)).prop_map(|(reason, tracks)| Event::End { reason, tracks }),
        (1000u16.., text()).prop_map(|(kind, text)| Event::Other {
            kind,
            body: minicbor::to_vec([text]).unwrap()
        }),
    ]
}

pub fn fact() -> impl Strategy<Value = Fact> {
    (any::<u32>(), any::<u64>(), event()).prop_map(|(span, at_nanos, event)| Fact {
        span,
        at_nanos,
        event,
    })
}
