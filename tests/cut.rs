//! A stream that is cut at any byte, in whatever way, leaves nothing in the real receiver's store and
//! is never acknowledged.

#![cfg(feature = "receiver")]
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

#[path = "support/device.rs"]
mod device;
#[path = "support/receiver.rs"]
mod receiver;

use device::{Device, Identity};
use hallcast::media::{
    AccessUnit, BoxId, Hash, MediaTime, Monotonic, Provenance, RecordingId, SegmentKey, Timescale,
    TrackId,
};
use hallcast::mp4::{audio_init, encode_chunk, encode_provenance};
use hallcast::receiver::archive::{init_path, segment_path};
use hallcast::wire::message::Message;
use hallcast::wire::stream::{SegmentHeader, chunk_head, hash, init_stream, segment_head, trailer};
use hallcast::wire::{ErrorCode, Sequences};
use quinn::{SendStream, VarInt};
use receiver::Receiver;
use std::collections::BTreeSet;
use std::path::Path;

const KEY: SegmentKey = SegmentKey {
    recording: RecordingId([7; 16]),
    track: TrackId(2),
    sequence: 0,
};
/// Below the receiver's limit of streams at once, with room for the one that marks the end.
const AT_ONCE: usize = 60;

fn init() -> Vec<u8> {
    // AAC-LC, 48 kHz, two channels.
    audio_init(&[0x11, 0x90], 48_000, 2, Timescale::SOUND).unwrap()
}

/// A segment of two chunks of one packet each, as it is archived and as it is sent.
fn segment(init: Hash) -> (Vec<u8>, Vec<u8>) {
    let mut stream = segment_head(&SegmentHeader {
        key: KEY,
        init: Some(init),
    });
    let mut whole = Vec::new();
    for number in 0..2 {
        let mut chunk = Vec::new();
        if number == 0 {
            let provenance = Provenance {
                key: KEY,
                epoch: 1,
                span: 0,
                start: MediaTime(0),
                timescale: Timescale::SOUND.get(),
                init: Some(init),
            };
            encode_provenance(&provenance, &mut chunk);
        }
        let unit = AccessUnit {
            time: MediaTime(1024 * i64::from(number)),
            duration: 1024,
            keyframe: true,
            captured: Monotonic::from_nanos(0),
            data: vec![number as u8; 24],
        };
        encode_chunk(number, &[unit], &mut chunk).unwrap();
        stream.extend(chunk_head(chunk.len() as u32));
        stream.extend(&chunk);
        whole.extend(chunk);
    }
    stream.extend(trailer(whole.len() as u64, &hash(&whole)));
    (whole, stream)
}

/// Every file below `folder`, whatever its name.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return found;
    };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.display().to_string());
        }
    }
    found
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// RESET_STREAM.
    Reset,
    /// FIN before the end.
    Finish,
    /// CONNECTION_CLOSE; streams are told nothing.
    Close,
    /// The box is gone without a word; its next connection fences the old one.
    Vanish,
}

/// Starts a stream for each length in `lengths`; gives them once the receiver has read all of it.
async fn begin(device: &mut Device, bytes: &[u8], lengths: &[usize]) -> Vec<SendStream> {
    let mut streams = Vec::new();
    for length in lengths {
        let mut stream = device.connection.open_uni().await.unwrap();
        stream.write_all(&bytes[..*length]).await.unwrap();
        streams.push(stream);
    }
    barrier(device).await;
    streams
}

/// A stream of one byte that ends: the word that it is malformed comes after all before it was read.
async fn barrier(device: &mut Device) {
    device.stream(&[1]).await;
    expect_malformed(device).await;
}

/// Anything but this one error, such as DURABLE, fails.
async fn expect_malformed(device: &mut Device) {
    match device.next().await {
        Message::Error(error) => assert_eq!(error.code, ErrorCode::MALFORMED, "{error:?}"),
        other => panic!("{other:?}"),
    }
}

/// Cuts a stream of `bytes` in `way` at each length in `lengths`, all on one connection.
async fn cut(device: &mut Device, way: Way, bytes: &[u8], lengths: &[usize]) {
    let mut streams = begin(device, bytes, lengths).await;
    match way {
        Way::Reset => {
            for stream in &mut streams {
                stream.reset(VarInt::from_u32(0)).unwrap();
            }
            barrier(device).await;
        }
        Way::Finish => {
            for stream in &mut streams {
                stream.finish().unwrap();
            }
            for _ in &streams {
                expect_malformed(device).await;
            }
        }
        Way::Close => {
            device.connection.close(VarInt::from_u32(0), b"");
            device.connection.closed().await;
        }
        // Nothing runs any more that could say that the streams or the connection are over.
        Way::Vanish => std::mem::forget(streams),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn a_stream_cut_at_every_byte_leaves_no_object() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(dir.path());
    let identity = Identity::signed(&receiver.state_dir, BoxId([9; 16]));
    let init = init();
    let init_hash = hash(&init);
    let (whole, segment) = segment(init_hash);
    let init_stream = init_stream(&init_hash, &init);
    let mut connections = 0;
    let mut connect = |runtime: &tokio::runtime::Runtime| {
        connections += 1;
        runtime.block_on(async {
            let (boxes, state) = (&receiver.boxes, &receiver.state_dir);
            let mut device = Device::connect(&identity, boxes, state).await;
            let welcome = device.welcomed((1, connections), 1, &[KEY.recording]).await;
            assert!(welcome.recordings.is_empty(), "{welcome:?}");
            device
        })
    };

    let mut cuts = 0;
    // The init first: without it no segment that names it would be kept, cut or not.
    for bytes in [&init_stream, &segment] {
        let before = files(&receiver.store_dir);
        for way in [Way::Reset, Way::Finish, Way::Close, Way::Vanish] {
            // Whole and with a FIN it would exist; whole and without one it does not.
            let end = bytes.len() + usize::from(way != Way::Finish);
            let lengths: Vec<usize> = (1..end).collect();
            for lengths in lengths.chunks(AT_ONCE) {
                let runtime = runtime();
                let mut device = connect(&runtime);
                runtime.block_on(cut(&mut device, way, bytes, lengths));
                if way == Way::Vanish {
                    runtime.shutdown_background();
                    std::mem::forget(device);
                }
                cuts += lengths.len();
                assert_eq!(files(&receiver.store_dir), before, "{way:?} {lengths:?}");
            }
        }
        // Nothing was kept of all that, and the same stream in one piece is welcome.
        let runtime = runtime();
        let mut device = connect(&runtime);
        runtime.block_on(async {
            barrier(&mut device).await;
            assert_eq!(files(&receiver.store_dir), before);
            device.stream(bytes).await;
            if bytes == &init_stream {
                // It is durable with the first segment that needs it.
                return barrier(&mut device).await;
            }
            let next = device.next().await;
            let of_init = matches!(&next, Message::InitDurable(init) if init.hashes == [init_hash]);
            assert!(of_init, "{next:?}");
            match device.next().await {
                Message::Durable(durable) => assert_eq!(durable.durable, Sequences::below(1)),
                other => panic!("{other:?}"),
            }
        });
    }
    let stored = |name: String| std::fs::read(receiver.store_dir.join(name)).unwrap();
    assert_eq!(stored(segment_path(&KEY)), whole);
    assert_eq!(stored(init_path(KEY.recording, init_hash)), init);
    println!(
        "{cuts} streams cut: a segment of {} and an init of {} bytes on the wire, each at every byte, \
         4 ways, {connections} connections",
        segment.len(),
        init_stream.len()
    );
}
