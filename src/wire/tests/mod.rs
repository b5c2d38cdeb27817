//! What the wire promises: round trips, skipping what is unknown, bounded parsers, golden bytes.

mod golden;
mod values;

use super::event;
use super::framing::{self, FramingError, MAX_MESSAGE, MessageReader};
use super::message::{ErrorMessage, Message};
use super::stream::{
    self, Finished, MAX_CHUNK, SegmentHeader, StreamError, StreamEvent, StreamReader,
};
use super::{ErrorCode, Sequences};
use crate::media::{Event, Fact, Hash, RecordingId, SegmentKey, TrackId};
use proptest::prelude::*;

fn read_control(bytes: &[u8], piece: usize) -> Result<Vec<Message>, FramingError> {
    let mut reader = MessageReader::new();
    let mut found = Vec::new();
    for mut input in bytes.chunks(piece.max(1)) {
        while let Some(message) = reader.next(&mut input)? {
            found.push(message);
        }
    }
    Ok(found)
}

fn header(sequence: u64) -> SegmentHeader {
    SegmentHeader {
        key: SegmentKey {
            recording: RecordingId([7; 16]),
            track: TrackId(2),
            sequence,
        },
        init: Some(Hash([9; 32])),
    }
}

fn segment_stream(header: &SegmentHeader, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = stream::segment_head(header);
    let whole = chunks.concat();
    for chunk in chunks {
        bytes.extend_from_slice(&stream::chunk_head(chunk.len() as u32));
        bytes.extend_from_slice(chunk);
    }
    bytes.extend_from_slice(&stream::trailer(whole.len() as u64, &stream::hash(&whole)));
    bytes
}

/// Header, chunks and end of a stream that arrives in pieces.
type Read = (Option<SegmentHeader>, Vec<Vec<u8>>, Finished);

fn read_stream(bytes: &[u8], piece: usize) -> Result<Read, StreamError> {
    let mut reader = StreamReader::new();
    let (mut header, mut chunks, mut open) = (None, Vec::new(), Vec::new());
    for mut input in bytes.chunks(piece.max(1)) {
        while let Some(event) = reader.next(&mut input)? {
            match event {
                StreamEvent::Header(read) => header = Some(read),
                StreamEvent::ChunkStart(_) => assert!(open.is_empty()),
                StreamEvent::ChunkBytes(piece) => open.extend_from_slice(piece),
                StreamEvent::ChunkEnd => chunks.push(std::mem::take(&mut open)),
            }
        }
        assert!(input.is_empty(), "a reader that stops leaves nothing");
    }
    Ok((header, chunks, reader.finish()?))
}

proptest! {
    #[test]
    fn any_message_round_trips_in_pieces_of_any_size(
        messages in prop::collection::vec(values::message(), 1..6),
        piece in 1usize..300,
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| framing::encode(message).unwrap()).collect();
        prop_assert_eq!(read_control(&bytes, piece).unwrap(), messages);
    }

    #[test]
    fn any_batch_of_facts_round_trips(facts in prop::collection::vec(values::fact(), 0..8)) {
        let mut batch = Vec::new();
        for fact in &facts {
            event::encode(fact, &mut batch);
        }
        prop_assert_eq!(event::decode(&batch).unwrap(), facts);
    }

    #[test]
    fn any_segment_is_read_in_pieces_of_any_size(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..5),
        sequence: u64,
        piece in 1usize..400,
    ) {
        let bytes = segment_stream(&header(sequence), &chunks);
        let (read, found, finished) = read_stream(&bytes, piece).unwrap();
        let whole = chunks.concat();
        prop_assert_eq!(read, Some(header(sequence)));
        prop_assert_eq!(found, chunks);
        let (length, hash) = (whole.len() as u64, stream::hash(&whole));
        prop_assert_eq!(finished, Finished::Segment { length, hash });
    }

    #[test]
    fn one_changed_byte_never_passes_as_the_same_segment(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 1..4),
        at: prop::sample::Index,
        flip in 1u8..,
    ) {
        let mut bytes = segment_stream(&header(3), &chunks);
        let good = read_stream(&bytes, 4096).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        // Only the header is outside the hash; what it names then is another key or init.
        if let Ok(read) = read_stream(&bytes, 4096) {
            prop_assert_ne!(read, good);
            prop_assert!(at < stream::segment_head(&header(3)).len());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), piece in 1usize..64) {
        let control = read_control(&bytes, piece);
        let stream = read_stream(&bytes, piece);
        let events = event::decode(&bytes);
        // How the bytes are cut into pieces changes nothing.
        prop_assert_eq!(control, read_control(&bytes, 600));
        prop_assert_eq!(stream, read_stream(&bytes, 600));
        if let Ok(facts) = events {
            let mut again = Vec::new();
            facts.iter().for_each(|fact| event::encode(fact, &mut again));
            prop_assert_eq!(event::decode(&again).unwrap(), facts);
        }
    }
}

#[test]
fn a_stream_cut_at_any_byte_never_was() {
    let segment = segment_stream(&header(1), &[vec![1; 40], vec![2; 50]]);
    let init = stream::init_stream(&stream::hash(b"moov"), b"moov");
    for whole in [segment, init] {
        for cut in 0..whole.len() {
            assert_eq!(
                read_stream(&whole[..cut], 7),
                Err(StreamError::Cut),
                "{cut}"
            );
        }
        assert!(read_stream(&whole, 7).is_ok());
        let longer = [whole.as_slice(), &[0]].concat();
        assert_eq!(read_stream(&longer, 7), Err(StreamError::Surplus));
        assert_eq!(read_stream(&longer, 4096), Err(StreamError::Surplus));
    }
}

#[test]
fn a_segment_states_its_own_length_and_hash_or_is_refused() {
    let chunk = vec![5; 10];
    let mut bytes = stream::segment_head(&header(0));
    bytes.extend_from_slice(&stream::chunk_head(10));
    bytes.extend_from_slice(&chunk);
    let with = |trailer: [u8; 41]| read_stream(&[bytes.as_slice(), &trailer].concat(), 64);
    assert!(with(stream::trailer(10, &stream::hash(&chunk))).is_ok());
    let short = with(stream::trailer(9, &stream::hash(&chunk))).unwrap_err();
    assert_eq!(
        short,
        StreamError::WrongLength {
            stated: 9,
            found: 10
        }
    );
    let wrong = with(stream::trailer(10, &Hash([0; 32]))).unwrap_err();
    assert_eq!(wrong.code(), ErrorCode::HASH_MISMATCH);
    let empty = [
        stream::segment_head(&header(0)),
        stream::trailer(0, &stream::hash(b"")).into(),
    ];
    assert_eq!(
        read_stream(&empty.concat(), 64).unwrap_err().code(),
        ErrorCode::MALFORMED
    );
}

#[test]
fn lengths_beyond_the_limits_are_refused_before_their_bytes_come() {
    let head = stream::segment_head(&header(0));
    let chunk = [head.as_slice(), &stream::chunk_head(MAX_CHUNK + 1)].concat();
    assert_eq!(
        read_stream(&chunk, 64).unwrap_err().code(),
        ErrorCode::OVERSIZED
    );
    let init = stream::init_stream(&Hash([0; 32]), &[]);
    assert_eq!(
        read_stream(&init, 64).unwrap_err().code(),
        ErrorCode::MALFORMED
    );
    let mut init = init;
    init[33..].copy_from_slice(&(stream::MAX_INIT + 1).to_be_bytes());
    assert_eq!(
        read_stream(&init, 64).unwrap_err().code(),
        ErrorCode::OVERSIZED
    );
    let control = (MAX_MESSAGE as u32 + 1).to_be_bytes();
    assert_eq!(
        read_control(&control, 4),
        Err(FramingError::Oversized(MAX_MESSAGE + 1))
    );
}

#[test]
fn a_segment_of_many_legal_chunks_still_has_a_limit() {
    let mut reader = StreamReader::new();
    let head = stream::segment_head(&header(0));
    let chunk = vec![0; MAX_CHUNK as usize];
    let mut feed = |bytes: &[u8]| -> Result<(), StreamError> {
        let mut input = bytes;
        while reader.next(&mut input)?.is_some() {}
        Ok(())
    };
    feed(&head).unwrap();
    for _ in 0..2 {
        feed(&stream::chunk_head(MAX_CHUNK)).unwrap();
        feed(&chunk).unwrap();
    }
    let refused = feed(&stream::chunk_head(1)).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::OVERSIZED);
    assert_eq!(feed(&[]), Err(refused), "an error stays");
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body].concat()
}

#[test]
fn what_a_later_release_adds_is_skipped_unless_critical() {
    let complete = Message::Complete(super::message::Complete {
        recording: RecordingId([1; 16]),
    });
    let known = framing::encode(&complete).unwrap();
    // [999, false, {0: [1, {}]}], then the same marked critical.
    let unknown = framed(&[0x83, 0x19, 0x03, 0xe7, 0xf4, 0xa1, 0, 0x82, 1, 0xa0]);
    let critical = framed(&[0x83, 0x19, 0x03, 0xe7, 0xf5, 0xa0]);
    let both = [unknown.as_slice(), &known].concat();
    assert_eq!(
        read_control(&both, 3).unwrap(),
        std::slice::from_ref(&complete)
    );
    let refused = read_control(&critical, 3).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::UNSUPPORTED);
    // A key of a later release inside a known body: {0: recording, 77: [false]}.
    let mut body = known[4..].to_vec();
    assert_eq!(body[3], 0xa1);
    body[3] = 0xa2;
    body.extend_from_slice(&[0x18, 77, 0x81, 0xf4]);
    assert_eq!(read_control(&framed(&body), 5).unwrap(), [complete]);
}

#[test]
fn a_message_of_another_shape_is_malformed() {
    for body in [
        &[][..],
        &[0x80],
        &[0x82, 7, 0xf4],
        &[0x83, 7, 0xf4, 0x80],
        &[0x83, 7, 0xf4, 0xa0, 0],
        &[0x83, 0x1a, 0, 1, 0, 0, 0xf4, 0xa0],
    ] {
        let refused = read_control(&framed(body), 64).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::MALFORMED, "{body:?}");
    }
}

#[test]
fn an_event_of_a_later_release_is_written_back_unchanged() {
    // A kind not known, and a known kind (GAP) with a cause not known.
    let track_cause = [0xa4, 0, 1, 1, 0, 2, 5, 3, 0x18, 99];
    for (kind, body) in [
        (4000, &[0xa1, 0, 0x63, b'a', b'b', b'c'][..]),
        (4, &track_cause),
    ] {
        let fact = Fact {
            span: 2,
            at_nanos: 5,
            event: Event::Other {
                kind,
                body: body.to_vec(),
            },
        };
        let mut bytes = Vec::new();
        event::encode(&fact, &mut bytes);
        assert_eq!(event::decode(&bytes).unwrap(), [fact]);
    }
}

#[test]
fn a_batch_cut_inside_a_fact_names_where_it_begins() {
    let fact = Fact {
        span: 0,
        at_nanos: 7,
        event: Event::Mark,
    };
    let mut batch = Vec::new();
    event::encode(&fact, &mut batch);
    let first = batch.len();
    event::encode(&fact, &mut batch);
    assert_eq!(
        event::decode(&batch[..batch.len() - 1]).unwrap_err().at,
        first
    );
}

#[test]
fn a_welcome_that_is_too_long_loses_ranges_not_watermarks() {
    let mut durable = Sequences::below(9);
    for at in 0..crate::wire::MAX_RANGES as u64 {
        durable.insert(1 << 40 | (2 * at));
    }
    let recordings = (0..64u8).map(|id| super::message::HeldRecording {
        recording: RecordingId([id; 16]),
        tracks: vec![super::message::HeldTrack {
            track: TrackId(1),
            durable: durable.clone(),
            hashes: vec![],
        }],
    });
    let welcome = super::message::Welcome {
        recordings: recordings.collect(),
        complete: vec![],
        clock: None,
        limits: Default::default(),
        software: String::new(),
        erased: vec![],
        abridged: false,
    };
    let bytes = framing::encode(&Message::Welcome(welcome)).unwrap();
    let Message::Welcome(read) = read_control(&bytes, 9999).unwrap().remove(0) else {
        panic!("another message");
    };
    assert_eq!(read.recordings.len(), 64);
    assert_eq!(read.recordings[63].tracks[0].durable, Sequences::below(9));
}

#[test]
fn an_error_text_beyond_the_limit_is_refused_by_its_writer() {
    let long = Message::Error(ErrorMessage {
        code: ErrorCode::INTERNAL,
        text: "x".repeat(MAX_MESSAGE),
        key: None,
        epoch: None,
    });
    assert!(matches!(
        framing::encode(&long),
        Err(FramingError::Oversized(_))
    ));
}

#[test]
fn why_a_command_was_refused_is_cut_by_its_writer_and_by_its_reader() {
    use super::message::Answer;
    use crate::media::health::MOST_TEXT;
    let answer = |letters: usize| Answer {
        id: 1,
        refused: Some("\u{e4}".repeat(letters)),
        recording: None,
    };
    let short = answer(MOST_TEXT / 2);
    let written = framing::encode(&Message::Answer(answer(MAX_MESSAGE))).unwrap();
    assert_eq!(
        read_control(&written, 4096).unwrap(),
        [Message::Answer(short.clone())]
    );
    // Written by hand: our own writer keeps to the bound.
    let mut body = Vec::new();
    let mut e = minicbor::Encoder::new(&mut body);
    e.array(3).unwrap().u16(13).unwrap().bool(false).unwrap();
    e.map(2).unwrap().u8(0).unwrap().u8(1).unwrap();
    e.u8(1).unwrap().str(&"\u{e4}".repeat(1000)).unwrap();
    assert_eq!(
        read_control(&framed(&body), 4096).unwrap(),
        [Message::Answer(short)]
    );
}

#[test]
fn a_report_beyond_its_bounds_is_cut_not_refused() {
    use crate::media::health::{Alarm, Health, MOST_ALARMS, MOST_TEXT, MOST_TRACKS, TrackHealth};
    // Written by hand: our own writer keeps to the bounds.
    let mut body = Vec::new();
    let mut e = minicbor::Encoder::new(&mut body);
    e.array(3).unwrap().u16(7).unwrap().bool(false).unwrap();
    e.map(4).unwrap();
    e.u8(2).unwrap().array(5000).unwrap();
    for _ in 0..5000 {
        e.map(0).unwrap();
    }
    e.u8(5).unwrap().str(&"\u{e4}".repeat(1000)).unwrap();
    e.u8(8).unwrap().array(5000).unwrap();
    for _ in 0..5000 {
        e.map(0).unwrap();
    }
    e.u16(4000).unwrap().str("of a later release").unwrap();
    let read = read_control(&framed(&body), 4096).unwrap();
    let expected = Health {
        alarms: vec![Alarm::default(); MOST_ALARMS],
        state: "\u{e4}".repeat(MOST_TEXT / 2),
        tracks: vec![TrackHealth::default(); MOST_TRACKS],
        ..Health::default()
    };
    assert_eq!(read, [Message::Status(expected)]);

    // The longest report of all still is a message.
    let text = "\u{e4}".repeat(MOST_TEXT);
    let alarm = Alarm {
        code: text.clone(),
        message: text.clone(),
        ..Alarm::default()
    };
    let track = TrackHealth {
        name: text.clone(),
        lateness: Some(Default::default()),
        ..TrackHealth::default()
    };
    let longest = Health {
        alarms: vec![alarm; 1000],
        tracks: vec![track; 1000],
        state: text,
        ..Health::default()
    };
    let written = framing::encode(&Message::Status(longest)).unwrap();
    println!("the longest report: {} bytes", written.len());
    assert_eq!(read_control(&written, 4096).unwrap().len(), 1);
}
