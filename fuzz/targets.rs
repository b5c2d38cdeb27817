// Every parser of bytes from outside, as a function that must not panic and holds bounded memory.
//
// Shared by `cargo fuzz` (fuzz_targets/) and by `cargo test --test fuzz` on stable Rust. To add a
// parser: a line in TARGETS, at least one file in corpus/<name>/, a one-line file in fuzz_targets/
// and its [[bin]] in Cargo.toml; the test says which of them is missing. What holds between what is
// read and what is written again is asserted too, so that a parser that misreads quietly is found.

use hallcast::board::Board;
use hallcast::encoder;
use hallcast::media::{AccessUnit, MediaTime, Monotonic};
use hallcast::mp4::{self, Content, ProgressiveTrack, SegmentSource};
use hallcast::receiver::config::{Config, Flags};
use hallcast::receiver::manifest::Manifest;
use hallcast::settings;
use hallcast::spool::{self, Disk, DiskFile, ReadFile, Space, Spool};
use hallcast::station::{Reply, Request};
use hallcast::wire::event;
use hallcast::wire::framing::{self, MessageReader};
use hallcast::wire::stream::{Finished, StreamReader};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Name (also of the corpus folder), what one execution costs in those of the cheapest, and the
/// parser, which says whether it understood the bytes.
type Target = (&'static str, u64, fn(&[u8]) -> bool);

/// All of them.
pub const TARGETS: &[Target] = &[
    ("control", 1, control),
    ("stream", 1, stream),
    ("init", 1, stream),
    ("events", 1, events),
    ("provenance", 1, provenance),
    ("chunk", 1, chunk),
    ("segment", 1, segment),
    ("mp4_init", 1, mp4_init),
    ("film", 4, film),
    ("record", 1, record),
    ("spool", 10, recovery),
    ("request", 1, request),
    ("board", 4, board),
    ("receiver_settings", 2, receiver_settings),
    ("manifest", 4, manifest),
    ("annex_b", 1, annex_b),
];

/// Runs one target; whether it understood the bytes.
pub fn run(name: &str, bytes: &[u8]) -> bool {
    let of_name = TARGETS.iter().find(|(known, _, _)| *known == name);
    of_name.is_some_and(|(_, _, parse)| parse(bytes))
}

/// A segment or init that ends well, as the receiver would take it; `piece` bytes at a time.
pub fn finished(bytes: &[u8], piece: usize) -> Option<Finished> {
    let mut reader = StreamReader::new();
    for mut input in bytes.chunks(piece) {
        while reader.next(&mut input).ok()?.is_some() {}
    }
    reader.finish().ok()
}

fn annex_b(bytes: &[u8]) -> bool {
    let parsed = encoder::parse_annex_b(bytes);
    // Given again between start codes it is the same picture.
    let (mut again, mut rest) = (Vec::new(), parsed.data.as_slice());
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (nal, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
        again.extend([0, 0, 1]);
        again.extend(nal);
        rest = behind;
    }
    let read = encoder::parse_annex_b(&again);
    assert_eq!(
        (read.data, read.keyframe),
        (parsed.data.clone(), parsed.keyframe && !again.is_empty())
    );
    !parsed.data.is_empty()
}

fn control(bytes: &[u8]) -> bool {
    let mut reader = MessageReader::new();
    let mut input = bytes;
    let mut understood = false;
    while let Ok(Some(message)) = reader.next(&mut input) {
        understood = true;
        // What was understood can be said again and means the same.
        let Ok(again) = framing::encode(&message) else {
            continue;
        };
        let read = MessageReader::new().next(&mut again.as_slice());
        assert_eq!(read, Ok(Some(message)));
    }
    understood
}

fn stream(bytes: &[u8]) -> bool {
    let whole = finished(bytes, 4096);
    assert_eq!(finished(bytes, 7), whole);
    whole.is_some()
}

fn events(bytes: &[u8]) -> bool {
    let Ok(facts) = event::decode(bytes) else {
        return false;
    };
    let mut again = Vec::new();
    facts
        .iter()
        .for_each(|fact| event::encode(fact, &mut again));
    assert_eq!(event::decode(&again), Ok(facts));
    true
}

fn provenance(bytes: &[u8]) -> bool {
    let Ok((provenance, end)) = mp4::parse_provenance(bytes) else {
        return false;
    };
    let mut again = Vec::new();
    mp4::encode_provenance(&provenance, &mut again);
    assert_eq!(again, bytes[..end]);
    true
}

fn chunk(bytes: &[u8]) -> bool {
    let Ok(parsed) = mp4::parse_chunk(bytes) else {
        return false;
    };
    assert_eq!(parsed.data.end, bytes.len());
    let mut time = MediaTime(parsed.base_time as i64);
    let mut at = parsed.data.start;
    let units: Vec<AccessUnit> = (parsed.samples.iter())
        .map(|sample| {
            let data = bytes[at..at + sample.size as usize].to_vec();
            let unit = AccessUnit {
                time,
                duration: sample.duration,
                keyframe: sample.keyframe,
                captured: Monotonic::default(),
                data,
            };
            time.0 += i64::from(sample.duration);
            at += sample.size as usize;
            unit
        })
        .collect();
    let mut again = Vec::new();
    mp4::encode_chunk(parsed.sequence_number, &units, &mut again)
        .expect("what was read can be written");
    let read = mp4::parse_chunk(&again).expect("what was written can be read");
    assert_eq!(
        (read.sequence_number, read.base_time, &read.samples),
        (parsed.sequence_number, parsed.base_time, &parsed.samples)
    );
    assert_eq!(again[read.data], bytes[parsed.data]);
    true
}

fn segment(bytes: &[u8]) -> bool {
    let Ok(parsed) = mp4::parse_segment(bytes) else {
        return false;
    };
    let opening = mp4::parse_provenance(bytes).expect("a segment opens with it");
    assert_eq!(opening.0, parsed.provenance);
    match parsed.content {
        Content::Events(facts) => {
            let again = mp4::events_segment(&parsed.provenance, facts);
            assert_eq!(again.expect("what was read can be written"), bytes);
        }
        Content::Media(chunks) => {
            // The chunks cover the segment without a hole, and each is one by itself.
            let mut end = 0;
            for (number, media) in chunks.iter().enumerate() {
                assert_eq!(media.bytes.start, end);
                end = media.bytes.end;
                let start = if number == 0 {
                    opening.1
                } else {
                    media.bytes.start
                };
                let alone = mp4::parse_chunk(&bytes[start..end]).expect("it was read in place");
                assert_eq!(alone.samples, media.chunk.samples);
                assert_eq!(alone.data.len(), media.chunk.data.len());
            }
            assert_eq!(end, bytes.len());
        }
    }
    true
}

fn mp4_init(bytes: &[u8]) -> bool {
    let Ok(init) = mp4::parse_init(bytes) else {
        return false;
    };
    let Ok(tag) = init.codec_tag() else {
        return false;
    };
    assert_eq!(init.size().is_some(), tag.starts_with("avc1."), "{tag}");
    assert!(tag.is_ascii() && tag.len() <= 16, "{tag}");
    true
}

/// A segment, with an init behind it whose length is in the last two bytes: one whole film.
fn film(bytes: &[u8]) -> bool {
    let Some((rest, length)) = bytes.split_last_chunk::<2>() else {
        return false;
    };
    let length = usize::from(u16::from_be_bytes(*length));
    let Some(at) = rest.len().checked_sub(length) else {
        return false;
    };
    let (segment, init) = rest.split_at(at);
    let source = SegmentSource {
        init: 0,
        span_start_nanos: 0,
    };
    let track = ProgressiveTrack {
        name: "presenter".into(),
        inits: vec![init.to_vec()],
        segments: vec![source],
    };
    let mut out = Vec::new();
    let written = mp4::write_progressive(&[track], |_, _| Ok(segment.to_vec()), &mut out);
    let Ok(written) = written else {
        return false;
    };
    assert_eq!(written.bytes, out.len() as u64);
    true
}

/// The bytes with the check that a record of their announced length would have: a mutation would
/// otherwise never get past it.
fn with_check(bytes: &[u8]) -> Vec<u8> {
    const HEADER: usize = 56;
    let mut bytes = bytes.to_vec();
    if let Some(length) = bytes.get(8..12) {
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let end = HEADER.saturating_add(length);
        if bytes.len() >= end.saturating_add(16) {
            let check = blake3::hash(&bytes[..end]);
            bytes[end..end + 16].copy_from_slice(&check.as_bytes()[..16]);
        }
    }
    bytes
}

fn record(bytes: &[u8]) -> bool {
    let _ = spool::read_record(bytes);
    let checked = with_check(bytes);
    let Ok((record, length)) = spool::read_record(&checked) else {
        return false;
    };
    assert!(length <= checked.len());
    let again = record.encode();
    assert_eq!(spool::read_record(&again), Ok((record, again.len())));
    true
}

/// A disk in memory: a spool's recovery syncs, and a real disk takes milliseconds for it.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<PathBuf, Arc<File>>>);

#[derive(Default)]
struct File(Mutex<Vec<u8>>);

const UNPOISONED: &str = "no other thread";

impl Disk for Memory {
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let files = self.0.lock().expect(UNPOISONED);
        let below = |path: &PathBuf| {
            let first = path.strip_prefix(directory).ok()?.iter().next()?;
            Some(first.to_str()?.to_owned())
        };
        let mut names: Vec<String> = files.keys().filter_map(below).collect();
        names.dedup();
        Ok(names)
    }

    fn make_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::new(File::default());
        let files = &mut self.0.lock().expect(UNPOISONED);
        files.insert(path.to_owned(), file.clone());
        Ok(file)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let files = self.0.lock().expect(UNPOISONED);
        let file = files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(file.clone())
    }

    fn open_uncached(&self, path: &Path) -> io::Result<Arc<dyn ReadFile>> {
        Ok(self.open(path)?)
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.0.lock().expect(UNPOISONED).remove(path);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn remove_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl ReadFile for File {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let held = self.0.lock().expect(UNPOISONED);
        let from = usize::try_from(offset).ok();
        let part = from.and_then(|from| held.get(from..from.checked_add(bytes.len())?));
        bytes.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect(UNPOISONED).len() as u64)
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut held = self.0.lock().expect(UNPOISONED);
        let end = offset as usize + bytes.len();
        let length = held.len().max(end);
        held.resize(length, 0);
        held[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A spool whose only log file is these bytes.
fn recovery(bytes: &[u8]) -> bool {
    let disk = Arc::new(Memory::default());
    let recording = "07070707070707070707070707070707";
    let log = Path::new("spool").join(recording).join("00000000.log");
    let file = disk.create(&log).expect("memory");
    file.write_at(bytes, 0).expect("memory");
    let open = || {
        let disk: Arc<dyn Disk> = disk.clone();
        let config = spool::Config {
            reserve_bytes: 0,
            ..spool::Config::new("spool")
        };
        Spool::open(disk, config).expect("a log can be damaged, never fatal")
    };
    let (spool, recovered) = open();
    let bad: u64 = (recovered.iter())
        .map(|found| found.damaged_bytes + found.torn_bytes)
        .sum();
    assert!(bad <= bytes.len() as u64);
    // Of a file that was finished only its index is read then: damage to the rest is found later.
    let indexed = bytes.windows(5).any(|five| five == b"HcR1\x0c");
    assert_whole(&spool, indexed);
    // What was recovered is there again, and recovering it costs nothing more.
    let (again, twice) = open();
    assert_whole(&again, indexed);
    let lost = |found: &[spool::Recovered]| -> Vec<_> {
        found
            .iter()
            .map(|one| (one.recording, one.ended, one.lost.clone()))
            .collect()
    };
    assert_eq!(lost(&recovered), lost(&twice));
    let segments = |spool: &Spool| -> Vec<_> {
        let states = spool
            .recordings()
            .flat_map(|(_, state)| state.tracks.iter());
        let of = states.flat_map(|(track, held)| held.segments.iter().map(move |one| (track, one)));
        of.map(|(track, (number, one))| (*track, *number, one.length, one.seal))
            .collect()
    };
    assert_eq!(segments(&spool), segments(&again));
    !segments(&spool).is_empty()
}

/// Every segment that is still wanted is sealed at the bytes that can be read; behind an index damage
/// may be found only by the reader, who is told.
fn assert_whole(spool: &Spool, indexed: bool) {
    for (recording, state) in spool.recordings() {
        for (&track, held) in &state.tracks {
            for (&sequence, segment) in &held.segments {
                if segment.length == 0 || held.acknowledged.contains(sequence) {
                    continue;
                }
                let key = hallcast::media::SegmentKey {
                    recording,
                    track,
                    sequence,
                };
                assert!(segment.is_whole(), "{key}");
                match spool.read(key, 0, segment.length) {
                    Ok(read) => assert_eq!(read.len() as u64, segment.length),
                    Err(spool::Error::Damaged { key: told, .. }) if indexed => {
                        assert_eq!(told, key)
                    }
                    Err(error) => panic!("{key}: {error}"),
                }
            }
        }
    }
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn request(bytes: &[u8]) -> bool {
    let text = text(bytes);
    let request = serde_json::from_str::<Request>(&text);
    if let Ok(request) = &request {
        let again = serde_json::to_string(request).expect("it has no map with odd keys");
        let read: Request = serde_json::from_str(&again).expect("what was written can be read");
        assert_eq!(read, *request);
    }
    let reply = serde_json::from_str::<Reply>(&text);
    if let Ok(reply) = &reply {
        let again = serde_json::to_string(reply).expect("it has no map with odd keys");
        let read: Reply = serde_json::from_str(&again).expect("what was written can be read");
        assert_eq!(std::mem::discriminant(&read), std::mem::discriminant(reply));
    }
    request.is_ok() || reply.is_ok()
}

fn board(bytes: &[u8]) -> bool {
    let text = text(bytes);
    match settings::parse::<Board>(&text, Path::new("board.toml")) {
        Ok(board) => {
            // The one thing more that a board's file must have is the board's name.
            let file = Path::new("/boards").join(format!("{}.toml", board.name));
            let stem = file.file_stem();
            let named = stem.is_some_and(|stem| stem == board.name.as_str());
            assert_eq!(Board::parse(&text, &file).is_ok(), named);
            true
        }
        Err(settings::Error::Invalid { line, message, .. }) => {
            let lines = 1..=text.lines().count() + 1;
            assert!(lines.contains(&line), "{line}: {message}");
            assert!(!message.is_empty() && !message.contains('\n'), "{message}");
            false
        }
        Err(other) => panic!("{other}"),
    }
}

fn receiver_settings(bytes: &[u8]) -> bool {
    let settled = Config::from_text(&text(bytes), Path::new("receiver.toml"), &Flags::default());
    if let Err(error) = &settled {
        assert!(error.to_string().contains("receiver.toml"), "{error}");
    }
    settled.is_ok()
}

fn manifest(bytes: &[u8]) -> bool {
    let Ok(manifest) = Manifest::from_json(bytes) else {
        return false;
    };
    let again = manifest.to_json().expect("it has no map with odd keys");
    let read = Manifest::from_json(&again).expect("what was written can be read");
    assert_eq!(read, manifest);
    manifest.segments().is_ok()
}
