//! One transcript per release, byte for byte: a later release must read it, and write the same
//! until it says in its notes that it does not.

use super::{header, read_control, read_stream, segment_stream};
use crate::media::health::{
    Alarm, Drops, Health, LATENESS_BOUNDS_US, Lateness, Level, Repeats, TrackHealth,
};
use crate::media::{
    BoxId, Codec, Event, Fact, GapCause, GapLength, Hash, LostReason, MediaTime, Rate, RecordingId,
    StartedBy, StopReason, Timescale, TrackId, TrackInfo, TrackKind, TrackTotal, WallClock,
};
use crate::wire::message::*;
use crate::wire::{ErrorCode, Range, Sequences, event, framing, stream};
use std::time::Duration;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

const RECORDING: RecordingId = RecordingId([0x11; 16]);

fn clock() -> Option<WallClock> {
    Some(WallClock {
        unix_nanos: 1_763_800_000_000_000_000,
        uncertainty: Some(Duration::from_millis(20)),
    })
}

fn conversation() -> Vec<Message> {
    let mut durable = Sequences::below(4);
    durable.insert_range(Range { first: 6, last: 7 });
    vec![
        Message::Hello(Hello {
            box_id: BoxId([0x22; 16]),
            epoch: 7,
            connection: 2,
            nonce: 0x0123_4567_89ab_cdef,
            software: "hallcast 0.1.0".into(),
            recordings: vec![OpenRecording {
                recording: RECORDING,
                tracks: vec![Watermark {
                    track: TrackId(1),
                    next: 3,
                }],
            }],
            clock: clock(),
        }),
        Message::Welcome(Welcome {
            recordings: vec![HeldRecording {
                recording: RECORDING,
                tracks: vec![HeldTrack {
                    track: TrackId(1),
                    durable: durable.clone(),
                    hashes: vec![SegmentHash {
                        sequence: 7,
                        hash: Hash([0x88; 32]),
                    }],
                }],
            }],
            complete: vec![RecordingId([0x33; 16])],
            clock: clock(),
            limits: Limits {
                backfill: Some(524_288),
            },
            software: "hallcast-receiver 0.1.0".into(),
            erased: vec![RecordingId([0x34; 16])],
            abridged: false,
        }),
        Message::Received(Received {
            key: header(4).key,
            offset: 65_536,
        }),
        Message::Durable(Durable {
            recording: RECORDING,
            track: TrackId(1),
            durable,
            hashes: vec![SegmentHash {
                sequence: 6,
                hash: Hash([0x99; 32]),
            }],
        }),
        Message::InitDurable(InitDurable {
            hashes: vec![Hash([0x44; 32])],
        }),
        Message::Complete(Complete {
            recording: RECORDING,
        }),
        Message::Status(Health {
            recording: Some(RECORDING),
            levels: vec![Level {
                track: TrackId(2),
                peak: -310,
                rms: -1820,
            }],
            alarms: vec![Alarm {
                code: "camera-missing".into(),
                track: Some(TrackId(1)),
                message: "unplugged".into(),
                seconds: None,
            }],
            waiting_bytes: Some(1_000_000),
            seconds_left: Some(36_000),
            ..Health::default()
        }),
        Message::Command(Command {
            id: 1,
            action: Action::Identify,
        }),
        Message::Lost(Lost {
            recording: RECORDING,
            track: TrackId(1),
            first: 8,
            last: 9,
            reason: LostReason::Damaged,
        }),
        Message::Error(ErrorMessage {
            code: ErrorCode::CONFLICT,
            text: "held with another hash".into(),
            key: Some(header(5).key),
            epoch: None,
        }),
        Message::Error(ErrorMessage {
            code: ErrorCode::FENCED,
            text: "a newer one is here".into(),
            key: None,
            epoch: Some(9),
        }),
        Message::Erase(Erase {
            recording: RECORDING,
        }),
        Message::Erased(Erased {
            recording: RECORDING,
        }),
    ]
}

fn facts() -> Vec<Fact> {
    let video = TrackInfo {
        id: TrackId(1),
        name: "presenter".into(),
        kind: TrackKind::Video,
        codec: Codec::H264 {
            width: 1280,
            height: 720,
            rate: Some(Rate::new(30, 1).unwrap()),
        },
        codec_tag: "avc1.42c01f".into(),
        timescale: Timescale::VIDEO,
        bit_rate: 4_000_000,
        init: Hash([0x44; 32]),
        language: None,
        alternate_of: None,
    };
    let sound = TrackInfo {
        id: TrackId(2),
        name: "microphone".into(),
        kind: TrackKind::Audio,
        codec: Codec::AacLc {
            sample_rate: 48_000,
            channels: 2,
        },
        codec_tag: "mp4a.40.2".into(),
        timescale: Timescale::SOUND,
        bit_rate: 128_000,
        init: Hash([0x55; 32]),
        language: Some("de".into()),
        alternate_of: Some(TrackId(1)),
    };
    let events = [
        Event::Started {
            box_id: BoxId([0x22; 16]),
            by: StartedBy::Button,
            room: Some("HS 1".into()),
            title: None,
        },
        Event::Span {
            epoch: 7,
            wall: clock(),
            gap: Some(GapLength::Known {
                nanos: 5,
                uncertainty_nanos: 1,
            }),
        },
        Event::Track(video),
        Event::Track(sound),
        Event::Gap {
            track: TrackId(1),
            start: MediaTime(900_000),
            duration: 180_000,
            cause: GapCause::DeviceStalled,
        },
        Event::Mark,
        Event::Alarm {
            code: "camera-missing".into(),
            track: Some(TrackId(1)),
            raised: true,
            message: "unplugged".into(),
        },
        Event::Lost {
            track: TrackId(1),
            first: 8,
            last: 9,
            reason: LostReason::NoSpace,
        },
        Event::End {
            reason: StopReason::Button,
            tracks: vec![TrackTotal {
                track: TrackId(1),
                segments: 10,
                bytes: 1_000_000,
                root: Hash([0x66; 32]),
            }],
        },
        Event::Other {
            kind: 4000,
            body: vec![0xa1, 0x00, 0xf5],
        },
        Event::SpanPlaced {
            span: 1,
            wall: clock().unwrap(),
            gap: Some(GapLength::Known {
                nanos: 600_000_000_000,
                uncertainty_nanos: 20_000_000,
            }),
        },
        Event::Run {
            boot: Some([0x77; 16]),
            boot_nanos: 9_000_000_000,
            recorded_nanos: 60_000_000_000,
        },
        Event::ClockStepped {
            wall: clock().unwrap(),
            by_nanos: -86_400_000_000_000,
        },
        Event::Paused,
        Event::Extended {
            recorded_nanos: 15_000_000_000_000,
        },
    ];
    let fact = |(at, event)| Fact {
        span: 1,
        at_nanos: 1_000_000_000 * at as u64,
        event,
    };
    events.into_iter().enumerate().map(fact).collect()
}

const CONTROL_0_1: &str = "
000000608301f5a700502222222222222222222222222222222201070202031b0123456789abcdef046e68616c6c6361
737420302e312e300581a20050111111111111111111111111111111110181a20001010306821b187a46c146d580001a
01312d00000000a38302f5a60081a20050111111111111111111111111111111110181a300010182048206070281a200
070158208888888888888888888888888888888888888888888888888888888888888888018150333333333333333333
3333333333333302821b187a46c146d580001a01312d0003a1001a00080000047768616c6c636173742d726563656976
657220302e312e30058150343434343434343434343434343434340000001f8303f4a200835007070707070707070707
0707070707070204011a00010000000000468304f5a40050111111111111111111111111111111110101028204820607
0381a200060158209999999999999999999999999999999999999999999999999999999999999999000000288305f4a1
008158204444444444444444444444444444444444444444444444444444444444444444000000168306f5a100501111
11111111111111111111111111110000004d8307f4a50050111111111111111111111111111111110181a30002013901
350239071b0281a3006e63616d6572612d6d697373696e6701010269756e706c7567676564031a000f424004198ca000
0000088308f4a2000101060000001e8309f5a50050111111111111111111111111111111110101020803090401000000
34830af4a3001831017668656c64207769746820616e6f74686572206861736802835007070707070707070707070707
07070702050000001e830af4a3001840017361206e65776572206f6e652069732068657265030900000016830bf4a100
501111111111111111111111111111111100000016830cf4a1005011111111111111111111111111111111";

const EVENTS_0_1: &str = "
84010100a300502222222222222222222222222222222201010264485320318402011a3b9aca00a3000701821b187a46
c146d580001a01312d00028205018403011a77359400ab0001016970726573656e74657202010301046b617663312e34
3263303166051a00015f90061a003d090007582044444444444444444444444444444444444444444444444444444444
444444440a1905000b1902d00c82181e018403011ab2d05e00ac0002016a6d6963726f70686f6e650202030204696d70
34612e34302e320519bb80061a0001f40007582055555555555555555555555555555555555555555555555555555555
555555550862646509010d19bb800e028404011aee6b2800a40001011a000dbba0021a0002bf2003028405011b000000
012a05f200a08406011b0000000165a0bc00a4006e63616d6572612d6d697373696e67010102f50369756e706c756767
65648407011b00000001a13b8600a400010108020903028408011b00000001dcd65000a200010181a40001010a021a00
0f4240035820666666666666666666666666666666666666666666666666666666666666666684190fa0011b00000002
18711a00a100f58409011b00000002540be400a3000101821b187a46c146d580001a01312d0002821b0000008bb2c970
001a01312d00840a011b000000028fa6ae00a3005077777777777777777777777777777777011b0000000218711a0002
1b0000000df8475800840b011b00000002cb417800a200821b187a46c146d580001a01312d00013b00004e94914effff
840c011b0000000306dc4200a0840d011b0000000342770c00a1001b00000da475abf000";

const SEGMENT_0_1: &str = "
010039a20083500707070707070707070707070707070702040158200909090909090909090909090909090909090909
090909090909090909090909010000000b6669727374206368756e6b01000000067365636f6e64020000000000000011
7ba4e4c07f670127f30b7f5f5e8169c2bd88b2774e413a4710a662a3e636bfa9";

const INIT_0_1: &str = "
02ea04fc591fad5203fb55ccc5289bc71f9b3cc96673ebd87dd37f80e0c87c5c2a0000000966747970206d6f6f76";

/// How a box is, with every field.
fn health() -> Health {
    Health {
        recording: Some(RECORDING),
        levels: vec![Level {
            track: TrackId(3),
            peak: -310,
            rms: -1820,
        }],
        alarms: vec![Alarm {
            code: "presenter-missing".into(),
            track: Some(TrackId(1)),
            message: "unplugged".into(),
            seconds: Some(12),
        }],
        waiting_bytes: Some(1_000_000),
        seconds_left: Some(36_000),
        state: "recording".into(),
        lamp: "solid".into(),
        recording_seconds: Some(61),
        tracks: vec![
            TrackHealth {
                track: TrackId(1),
                name: "presenter".into(),
                open: true,
                ticks: 1830,
                repeats: Repeats {
                    slower_source: 1,
                    no_picture: 2,
                    before_first: 3,
                },
                drops: Drops {
                    faster_source: 4,
                    late: 5,
                    before_start: 6,
                    out_of_order: 7,
                    not_polled: 8,
                },
                gaps: 1,
                gap_ms: 2040,
                lateness: Some(Lateness {
                    p50: 60,
                    p99: 200,
                    p999: 900,
                    max: 1000,
                    sum: 120_000,
                    counts: std::array::from_fn(|at| at as u64),
                }),
                ring_waiting: 1,
                ring_dropped: 9,
                device_lost: 10,
                keeper_waits: 11,
                ..TrackHealth::default()
            },
            TrackHealth {
                track: TrackId(3),
                name: "microphone".into(),
                ppm: Some(-2012),
                xruns: 1,
                silence: 960,
                ..TrackHealth::default()
            },
        ],
        spool_level: "normal".into(),
        sync_p99_ms: Some(9),
        offers_waiting: 2,
        software: "hallcast 0.1.0".into(),
        resident_bytes: 30_000_000,
    }
}

const HEALTH: &str = "
000000f28307f4ae0050111111111111111111111111111111110181a30003013901350239071b0281a4007170726573
656e7465722d6d697373696e6701010269756e706c7567676564030c031a000f424004198ca005697265636f7264696e
670665736f6c696407183d0882ad0001016970726573656e74657202f503190726048301020305850405060708060107
1907f80894183c18c81903841903e81a0001d4c0000102030405060708090a0b0c0d0e0c010d090e0a0f0ba50003016a
6d6963726f70686f6e65093907db0a010b1903c009666e6f726d616c0a090b020c6e68616c6c6361737420302e312e30
0d1a01c9c380";

#[test]
fn a_whole_report_of_health() {
    assert_eq!(
        LATENESS_BOUNDS_US.len(),
        14,
        "another length is another format"
    );
    let said = Message::Status(health());
    let written = framing::encode(&said).unwrap();
    println!("{} bytes", written.len());
    assert_eq!(hex(&written), hex(&unhex(HEALTH)));
    assert_eq!(read_control(&written, 11).unwrap(), [said]);
}

const ANSWERS: &str = "
00000018830df4a2000102501111111111111111111111111111111100000015830df4a20002016d6e6f74207265636f
7264696e67";

#[test]
fn answers_to_commands() {
    let done = Answer {
        id: 1,
        refused: None,
        recording: Some(RECORDING),
    };
    let refused = Answer {
        id: 2,
        refused: Some("not recording".into()),
        recording: None,
    };
    let said = [done, refused].map(Message::Answer);
    let written = said.iter().map(|said| framing::encode(said).unwrap());
    let written = written.collect::<Vec<_>>().concat();
    assert_eq!(hex(&written), hex(&unhex(ANSWERS)));
    assert_eq!(read_control(&written, 11).unwrap(), said);
}

#[test]
fn release_0_1_control() {
    let written: Vec<u8> = conversation()
        .iter()
        .flat_map(|message| framing::encode(message).unwrap())
        .collect();
    assert_eq!(hex(&written), hex(&unhex(CONTROL_0_1)));
    assert_eq!(read_control(&written, 11).unwrap(), conversation());
}

#[test]
fn release_0_1_events() {
    let mut written = Vec::new();
    for fact in facts() {
        event::encode(&fact, &mut written);
    }
    assert_eq!(hex(&written), hex(&unhex(EVENTS_0_1)));
    assert_eq!(event::decode(&written).unwrap(), facts());
}

#[test]
fn release_0_1_streams() {
    let chunks = [b"first chunk".to_vec(), b"second".to_vec()];
    let segment = segment_stream(&header(4), &chunks);
    assert_eq!(hex(&segment), hex(&unhex(SEGMENT_0_1)));
    assert_eq!(read_stream(&segment, 5).unwrap().1, chunks);
    let init = stream::init_stream(&stream::hash(b"ftyp moov"), b"ftyp moov");
    assert_eq!(hex(&init), hex(&unhex(INIT_0_1)));
    assert!(read_stream(&init, 5).is_ok());
}
