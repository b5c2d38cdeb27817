//! What a receiver's store promises: what is acknowledged is there after any crash, what is full says
//! so and recovers, what is erased stays erased, and `verify` finds what is damaged.
//!
//! Longer than most files: one archive, its life and its faults.

#![cfg(all(feature = "receiver", feature = "software"))]
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

#[path = "support/bucket.rs"]
mod bucket;
#[path = "support/device.rs"]
mod device;
#[allow(dead_code, reason = "shared with the tests of the whole road")]
#[path = "support/programs.rs"]
mod programs;
#[path = "support/receiver.rs"]
mod receiver;
#[path = "support/recording.rs"]
mod recording;
#[path = "store/through_a_bucket.rs"]
mod through_a_bucket;
#[path = "support/twin.rs"]
mod twin;

use bytes::Bytes;
use device::{Device, Identity, ended, segment_stream};
use hallcast::media::{
    BoxId, Event, Fact, LostReason, Monotonic, RecordingId, SegmentKey, Segmented, TrackId,
};
use hallcast::mp4::parse_provenance;
use hallcast::receiver::archive::{
    Archive, init_path, manifest_path, segment_path, tombstone_path,
};
use hallcast::receiver::catalog::LostRange;
use hallcast::receiver::library::{Error as KeepError, Library, erase};
use hallcast::receiver::verify;
use hallcast::segmenter::Events;
use hallcast::wire::ErrorCode;
use hallcast::wire::message::{Erased, Lost, Message, OpenRecording};
use hallcast::wire::stream::{SegmentHeader, hash, init_stream};
use object_store::memory::InMemory;
use object_store::path::Path as Name;
use object_store::{ObjectStore, ObjectStoreExt};
use receiver::{Receiver, get};
use recording::Objects;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use twin::{Fault, Twin};

const ID: RecordingId = RecordingId([7; 16]);
/// The box that `recording::make` says it is.
const BOX: BoxId = BoxId([9; 16]);
/// Erased before anything of it has arrived.
const EARLY: RecordingId = RecordingId([1; 16]);
/// What the box never sends, but declares lost.
const NEVER: SegmentKey = SegmentKey {
    recording: ID,
    track: TrackId(2),
    sequence: 1,
};

fn is_init(name: &str) -> bool {
    name.contains("/init/")
}

fn open() -> [OpenRecording; 1] {
    [OpenRecording {
        recording: ID,
        tracks: vec![],
    }]
}

/// What a box was told, and may act on.
#[derive(Default)]
struct Told {
    durable: BTreeSet<SegmentKey>,
    lost: bool,
    complete: bool,
    erased: bool,
    confirmed: bool,
}

/// Sends everything that is not durable, as a box does on each connection.
async fn deliver(library: &Library, objects: &Objects, told: &mut Told) -> Result<(), KeepError> {
    for bytes in objects
        .iter()
        .filter_map(|(name, bytes)| is_init(name).then_some(bytes))
    {
        library.take_init(BOX, hash(bytes), Bytes::from(bytes.clone()));
    }
    let (held, complete) = library.held(&open());
    told.complete |= complete.contains(&ID);
    for (name, bytes) in objects.iter().filter(|(name, _)| !is_init(name)) {
        let provenance = parse_provenance(bytes).unwrap().0;
        let (key, init) = (provenance.key, provenance.init);
        assert_eq!(&segment_path(&key), name);
        let tracks = held.iter().flat_map(|held| &held.tracks);
        let of_track = tracks.into_iter().find(|held| held.track == key.track);
        if of_track.is_some_and(|held| held.durable.contains(key.sequence)) {
            told.durable.insert(key);
            continue;
        }
        if key == NEVER {
            continue;
        }
        let bytes = Bytes::from(bytes.clone());
        let hash = hash(&bytes);
        let header = SegmentHeader { key, init };
        let kept = library.keep_segment(BOX, &header, bytes, hash).await?;
        assert!(kept.durable.contains(key.sequence));
        told.durable.insert(key);
        told.complete |= kept.complete;
    }
    let range = LostRange {
        track: NEVER.track,
        first: NEVER.sequence,
        last: NEVER.sequence,
    };
    let complete = library
        .keep_lost(BOX, ID, range, LostReason::Damaged)
        .await?;
    told.lost = true;
    told.complete |= complete;
    Ok(())
}

/// A recording's whole life, erasure included; ends early when the process does.
async fn life(
    archive: &Archive,
    is_dead: impl Fn() -> bool,
    objects: &Objects,
    told: &mut Told,
) -> Result<(), String> {
    let words = |e: &dyn std::fmt::Display| e.to_string();
    // What fails once is tried again: by the box, by systemd, by the person.
    let mut opened = Library::over(archive.clone()).await;
    if opened.is_err() && !is_dead() {
        opened = Library::over(archive.clone()).await;
    }
    let library = opened.map_err(|e| words(&e))?;
    let mut delivered = deliver(&library, objects, told).await;
    if delivered.is_err() && !is_dead() {
        // Before it comes again: what was acknowledged is there already.
        let there = are_there(archive, objects, told).await;
        assert!(there.is_ok() || is_dead(), "at the second try: {there:?}");
        delivered = deliver(&library, objects, told).await;
    }
    delivered.map_err(|e| words(&e))?;
    let there = are_there(archive, objects, told).await;
    assert!(there.is_ok() || is_dead(), "at the erasure: {there:?}");
    there?;
    assert!(told.complete);
    let mut gone = erase(archive, ID, Some(BOX)).await;
    if gone.is_err() && !is_dead() {
        gone = erase(archive, ID, Some(BOX)).await;
    }
    gone.map_err(|e| words(&e))?;
    told.erased = true;
    for _ in 0..2 {
        let looked = library.look_for_erased().await;
        if looked.is_err() && is_dead() {
            return looked.map_err(|e| words(&e));
        }
    }
    assert!(library.unconfirmed(BOX) == [ID]);
    let mut confirmed = library.confirm_erased(BOX, ID).await;
    if confirmed.is_err() && !is_dead() {
        confirmed = library.confirm_erased(BOX, ID).await;
    }
    confirmed.map_err(|e| words(&e))?;
    told.confirmed = true;
    Ok(())
}

/// What was acknowledged is in the archive, with its init.
async fn are_there(archive: &Archive, objects: &Objects, told: &Told) -> Result<(), String> {
    for key in &told.durable {
        let bytes = &objects[&segment_path(key)];
        let found = read(archive, &segment_path(key)).await;
        let found = found.map_err(|e| format!("{key} was acknowledged: {e}"))?;
        assert_eq!(&found[..], &bytes[..], "{key}");
        if let Some(init) = parse_provenance(bytes).unwrap().0.init {
            let init = read(archive, &init_path(ID, init)).await;
            init.map_err(|e| format!("the init of {key}: {e}"))?;
        }
    }
    Ok(())
}

/// Reads an object; what fails once is tried again.
async fn read(archive: &Archive, path: &str) -> Result<Bytes, String> {
    match archive.read(path).await {
        Ok(bytes) => Ok(bytes),
        Err(_) => archive.read(path).await.map_err(|e| e.to_string()),
    }
}

/// What must be true of the archive, whatever has happened to the process that wrote it.
async fn judge(archive: &Archive, objects: &Objects, told: &Told, what: &str) {
    let erased = archive.erased().await.unwrap().contains_key(&ID);
    assert!(erased || !told.erased, "{what}: the tombstone is gone");
    let listed = archive.list_one(ID).await.unwrap();
    if !erased {
        let there = are_there(archive, objects, told).await;
        assert_eq!(there, Ok(()), "{what}");
        // Whatever is listed by a manifest is there.
        if let Some(listing) = listed.filter(|listing| listing.manifest) {
            let report = verify::check(archive, ID, &listing).await;
            assert!(report.faults.is_empty(), "{what}: {report}");
        }
    }
    // The receiver starts again, and the box sends what is not durable.
    let library = Library::over(archive.clone()).await.unwrap();
    let delivered = deliver(&library, objects, &mut Told::default()).await;
    let listed = archive.list_one(ID).await.unwrap();
    if erased {
        let refused = matches!(delivered, Err(KeepError::Erased(ID)));
        assert!(refused, "{what}: {delivered:?}");
        assert!(!library.read().recordings.contains_key(&ID), "{what}");
        assert_eq!(library.erased_of(&open()), [ID], "{what}");
        assert_eq!(listed, None, "{what}: it is back");
        let asked = library.unconfirmed(BOX);
        assert!(asked.is_empty() || !told.confirmed, "{what}");
    } else {
        delivered.unwrap_or_else(|e| panic!("{what}: {e}"));
        let listing = listed.unwrap();
        assert!(listing.manifest, "{what}");
        let report = verify::check(archive, ID, &listing).await;
        assert!(report.faults.is_empty(), "{what}: {report}");
    }
}

#[tokio::test]
async fn a_crash_or_a_failure_of_the_store_at_any_point_of_a_recording_s_life_costs_nothing() {
    let objects = recording::make(ID, 5, true, false);
    let faults = [
        Fault::Fails,
        Fault::FailsLate,
        Fault::Collides,
        Fault::Crashes,
        Fault::CrashesLate,
        Fault::CrashesUndone,
    ];
    for fault in faults {
        let mut at = 0;
        let (mut completed, mut erased) = (0, 0);
        loop {
            let twin = Twin::with(fault, at);
            let mut told = Told::default();
            let archive = Archive::over(Arc::new(twin.clone()), "twin");
            let lived = life(&archive, || twin.is_dead(), &objects, &mut told).await;
            let (struck, crashed) = (twin.struck(), twin.is_dead());
            assert_eq!(lived.is_err(), crashed, "{fault:?} at {at}: {lived:?}");
            completed += u32::from(told.complete);
            erased += u32::from(told.erased);
            let operations = twin.operations();
            twin.restart().await;
            judge(&archive, &objects, &told, &format!("{fault:?} at {at}")).await;
            if !struck {
                println!(
                    "{fault:?}: {at} operations of the store tried; after {completed} the recording \
                     was complete, after {erased} erased"
                );
                assert!(at == operations && at > 30, "{at} {operations}");
                break;
            }
            at += 1;
        }
    }
}

#[tokio::test]
async fn what_comes_after_a_tombstone_is_refused_before_anybody_has_looked_for_it() {
    let objects = recording::make(ID, 5, true, false);
    for there in [false, true] {
        let twin = Twin::default();
        let archive = Archive::over(Arc::new(twin), "twin");
        let library = Library::over(archive.clone()).await.unwrap();
        if there {
            deliver(&library, &objects, &mut Told::default())
                .await
                .unwrap();
        }
        let mut noticed = library.erasures();
        let gone = erase(&archive, ID, Some(BOX)).await.unwrap();
        assert_eq!(gone > 0, there);
        let mut told = Told::default();
        let refused = deliver(&library, &objects, &mut told).await;
        assert!(matches!(refused, Err(KeepError::Erased(ID))), "{refused:?}");
        assert!(there || told.durable.is_empty());
        assert_eq!(library.erased_of(&open()), [ID]);
        assert_eq!(library.unconfirmed(BOX), [ID]);
        assert_eq!(noticed.try_recv(), Ok(ID));
        assert_eq!(archive.list_one(ID).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_tombstone_that_is_made_while_a_receiver_starts_is_found_by_it() {
    // One that has ended, whose manifest is due, and one that goes on.
    for ended in [true, false] {
        let objects = recording::make(ID, 5, ended, false);
        let mut at = 0;
        while tombstone_before(&objects, at).await {
            at += 1;
        }
        println!("ended: {ended}: a tombstone was made before each of {at} operations of a start");
        assert!(at > 8, "{at}");
    }
}

/// Makes a tombstone before this operation of a receiver's start; false when it has fewer.
async fn tombstone_before(objects: &Objects, at: u64) -> bool {
    let twin = Twin::default();
    let archive = Archive::over(Arc::new(twin.clone()), "twin");
    let library = Library::over(archive.clone()).await.unwrap();
    deliver(&library, objects, &mut Told::default())
        .await
        .unwrap();
    drop(library);
    // Each segment is read at the start.
    archive.delete(&manifest_path(ID)).await.unwrap();
    let begin = twin.operations();
    twin.made_beside(begin + at, &tombstone_path(ID));
    let library = Library::over(archive.clone()).await.unwrap();
    if twin.operations() == begin + at {
        return false;
    }
    let what = format!("made before operation {at}");
    assert_eq!(library.erased_of(&open()), [ID], "{what}");
    assert!(library.read().recordings.is_empty(), "{what}");
    library.look_for_erased().await.unwrap();
    assert_eq!(archive.list_one(ID).await.unwrap(), None, "{what}");
    true
}

/// A library over a store in memory, with the whole recording in it.
async fn complete_store(objects: &Objects) -> (Arc<InMemory>, Library) {
    let store = Arc::new(InMemory::new());
    for (name, bytes) in objects {
        let bytes = bytes.clone();
        store
            .put(&Name::from(name.as_str()), bytes.into())
            .await
            .unwrap();
    }
    let archive = Archive::over(store.clone() as Arc<dyn ObjectStore>, "memory");
    (store, Library::over(archive).await.unwrap())
}

#[tokio::test]
async fn one_damaged_object_keeps_nothing_else_from_being_read() {
    let objects = recording::make(ID, 5, true, false);
    let other = RecordingId([8; 16]);
    let (store, library) = complete_store(&recording::make(other, 5, true, false)).await;
    assert!(library.read().recordings[&other].complete);
    // Half of a segment, and a manifest that is none.
    for (name, bytes) in &objects {
        let bytes = match is_init(name) || !name.contains("/1/00000001") {
            true => bytes.clone(),
            false => bytes[..bytes.len() / 2].to_vec(),
        };
        store
            .put(&Name::from(name.as_str()), bytes.into())
            .await
            .unwrap();
    }
    let manifest = Name::from(manifest_path(ID));
    store.put(&manifest, b"{".to_vec().into()).await.unwrap();
    let library = Library::over(library.archive).await.unwrap();
    let catalog = library.read();
    assert!(catalog.recordings[&other].complete);
    let damaged = &catalog.recordings[&ID];
    assert!(!damaged.complete);
    assert_eq!(damaged.durable(TrackId(1)).cumulative(), 1);
    assert_eq!(damaged.durable(TrackId(1)).end(), 3);
    assert_eq!(damaged.durable(TrackId(2)).cumulative(), 3);
}

/// A file system in memory; gone with this value.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// None where this process may not mount.
    fn mount(path: &std::path::Path, megabytes: u32) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let size = format!("size={megabytes}m");
        let target = path.to_str().unwrap();
        let mounted = programs::outcome("mount", &["-t", "tmpfs", "-o", &size, "none", target]);
        mounted.status.success().then(|| Self(path.into()))
    }

    /// Leaves no room at all.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        programs::outcome("umount", &["--lazy", self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_box_waits_for_a_full_store_which_shows_what_it_has_and_recovers() {
    let home = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&home.path().join("receiver/store"), 16) else {
        println!("left out: this process may not mount a file system");
        return;
    };
    recording::write(&recording::make(ID, 4, true, false), &disk.0);
    let receiver = programs::Receiver::start(home.path());
    let first = ID.to_string();
    let whole = receiver.wait_complete(&first, 20);
    let board = programs::small_bench(home.path());
    let arguments = ["--board", board.as_str()];
    let hall = programs::CaptureBox::start(home.path(), "hall", Some(&receiver), &arguments);

    disk.fill();
    let second = hall.record();
    programs::pause(5);
    hall.stop();
    let status = hall.status();
    assert!(
        status["spool"]["waiting_bytes"].as_u64().unwrap() > 100_000,
        "{status}"
    );
    assert!(
        receiver.log().contains("there is no room for segments"),
        "{}",
        receiver.log()
    );
    assert!(receiver.manifest(&second).is_none());
    // What was archived before still plays, and the film of it is made elsewhere.
    for segment in whole["tracks"][1]["segments"].as_array().unwrap() {
        let sequence = segment["sequence"].as_u64().unwrap();
        let track = whole["tracks"][1]["track"].as_u64().unwrap();
        receiver.get(&format!("/hls/{first}/{track}/{sequence:08}.m4s"));
    }
    receiver.film(&first);
    let output = disk.0.join("film.mp4");
    let store = receiver.home.join("store");
    let exported = programs::outcome(
        programs::RECEIVER,
        &[
            "export",
            &first,
            "--output",
            output.to_str().unwrap(),
            "--store-dir",
            store.to_str().unwrap(),
        ],
    );
    let said = String::from_utf8(exported.stderr).unwrap();
    assert!(
        !exported.status.success() && said.contains("No space left"),
        "{said}"
    );
    let names = || {
        std::fs::read_dir(&disk.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
    };
    assert!(names().all(|name| !name.to_string_lossy().contains("film")));

    disk.make_room();
    let began = hallcast::clock::now();
    receiver.wait_complete(&second, 90);
    println!(
        "complete {:?} after there was room",
        hallcast::clock::now().since(began)
    );
    receiver.film(&second);
}

/// Waits for a message that `wanted` takes; others are given to it too.
async fn until(device: &mut Device, mut wanted: impl FnMut(&Message) -> bool) -> Message {
    loop {
        let message = device.next().await;
        if wanted(&message) {
            return message;
        }
    }
}

/// Waits until a box that sends has not sent on for 2 s, of 30 s; gives how much it has sent.
async fn until_held_back(sent: &std::sync::atomic::AtomicUsize) -> usize {
    let (mut held, mut still) = (0, 0);
    for _ in 0..300 {
        hallcast::clock::pause(Duration::from_millis(100)).await;
        let now = sent.load(std::sync::atomic::Ordering::Relaxed);
        still = if now == held { still + 1 } else { 0 };
        held = now;
        if still == 20 {
            return held;
        }
    }
    panic!("the box goes on sending: {held} bytes");
}

/// A box that sends a recording `times` over to a receiver whose store takes nothing is told `code` once
/// and held back, what is `shown` still plays, and all of it is kept once the store is `back`.
async fn held_back(
    receiver: &Receiver,
    device: &mut Device,
    code: ErrorCode,
    times: usize,
    shown: &Objects,
    back: impl FnOnce(),
) {
    let next = RecordingId([6; 16]);
    let more = recording::make(next, 60, false, false);
    let before = programs::resident_bytes(receiver.pid());
    let connection = device.connection.clone();
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = sent.clone();
    let streams: Vec<Vec<u8>> = more
        .iter()
        .map(|(name, bytes)| match is_init(name) {
            true => init_stream(&hash(bytes), bytes),
            false => segment_stream(bytes),
        })
        .collect();
    let expected = more.keys().filter(|name| !is_init(name)).count();
    let total: usize = streams.iter().map(Vec::len).sum();
    let sending = tokio::spawn(async move {
        // The same again and again: it is the amount that counts.
        for bytes in streams.iter().cycle().take(streams.len() * times) {
            let mut stream = connection.open_uni().await.unwrap();
            for part in bytes.chunks(16 * 1024) {
                stream.write_all(part).await.unwrap();
                counter.fetch_add(part.len(), std::sync::atomic::Ordering::Relaxed);
            }
            stream.finish().unwrap();
        }
    });
    let mut told = 0;
    let refused = |message: &Message| {
        assert!(!matches!(message, Message::Durable(_)), "{message:?}");
        matches!(message, Message::Error(error) if error.code == code)
    };
    until(device, refused).await;
    told += 1;
    let held = until_held_back(&sent).await;
    let grown = programs::resident_bytes(receiver.pid()).saturating_sub(before);
    println!(
        "{code}: of {} bytes the box could send {held}; the receiver grew by {grown} bytes",
        total * times
    );
    assert!(held < total * times, "the box was never held back");
    assert!(grown < 24 << 20, "{grown}");
    // What was archived before still plays.
    for (name, bytes) in shown.iter().filter(|(name, _)| !name.contains("/0/")) {
        let url = name.replace("recordings/", "/hls/");
        assert!(get(&receiver.page, &url, "").2 == *bytes, "{url}");
    }

    let began = hallcast::clock::now();
    back();
    let mut durable = BTreeSet::new();
    until(device, |message| {
        if let Message::Durable(ack) = message
            && ack.recording == next
        {
            let numbers = 0..ack.durable.end();
            durable.extend(
                numbers
                    .filter(|n| ack.durable.contains(*n))
                    .map(|n| (ack.track, n)),
            );
        }
        if let Message::Error(error) = message {
            assert_eq!(error.code, code, "{error:?}");
            told += 1;
        }
        durable.len() == expected
    })
    .await;
    println!(
        "{expected} segments durable {:?} after it was back; {code} was said {told} times",
        hallcast::clock::now().since(began)
    );
    assert_eq!(told, 1);
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_holds_the_box_back_says_so_once_and_still_writes_a_manifest() {
    let home = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&home.path().join("store"), 24) else {
        println!("left out: this process may not mount a file system");
        return;
    };
    let receiver = Receiver::start(home.path());
    let identity = Identity::signed(&receiver.state_dir, BOX);
    let objects = recording::make(ID, 5, true, false);
    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    device.welcomed((1, 1), 1, &[ID]).await;
    for (name, bytes) in &objects {
        match is_init(name) {
            true => device.stream(&init_stream(&hash(bytes), bytes)).await,
            false if *name == segment_path(&NEVER) => {}
            false => device.stream(&segment_stream(bytes)).await,
        }
    }
    let mut due = objects.keys().filter(|name| !is_init(name)).count() - 1;
    until(&mut device, |message| {
        due -= usize::from(matches!(message, Message::Durable(_)));
        due == 0
    })
    .await;

    disk.fill();
    // What is small and must not wait has its space reserved: LOST, and then the manifest.
    let lost = Lost {
        recording: ID,
        track: NEVER.track,
        first: NEVER.sequence,
        last: NEVER.sequence,
        reason: LostReason::Damaged,
    };
    device.say(&Message::Lost(lost)).await;
    let complete = |message: &Message| matches!(message, Message::Complete(_));
    until(&mut device, complete).await;
    let manifest = receiver.store_dir.join(manifest_path(ID));
    println!(
        "a manifest of {} bytes was written on a full store",
        std::fs::metadata(manifest).unwrap().len()
    );

    let shown = objects
        .into_iter()
        .filter(|(name, _)| *name != segment_path(&NEVER))
        .collect();
    let code = ErrorCode::STORE_FULL;
    held_back(&receiver, &mut device, code, 20, &shown, || {
        disk.make_room()
    })
    .await;
    let said = programs::outcome(
        programs::RECEIVER,
        &[
            "verify",
            "--all",
            "--store-dir",
            receiver.store_dir.to_str().unwrap(),
        ],
    );
    assert!(said.status.success(), "{said:?}");
}

fn verify_command(store: &Path, what: &[&str]) -> (Option<i32>, String) {
    let store = ["--store-dir", store.to_str().unwrap()];
    let all = [&["verify"], what, &store[..]].concat();
    let said = programs::outcome(programs::RECEIVER, &all);
    let text = [said.stdout, said.stderr].concat();
    (said.status.code(), String::from_utf8(text).unwrap())
}

/// Every file below `folder`.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for path in std::fs::read_dir(next)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap();
                found.insert(name.to_str().unwrap().to_owned());
            }
        }
    }
    found
}

fn erase_command(receiver: &Receiver, id: &str, yes: &[&str]) -> (bool, String) {
    let places = [
        "--store-dir",
        receiver.store_dir.to_str().unwrap(),
        "--state-dir",
        receiver.state_dir.to_str().unwrap(),
    ];
    let all = [&["erase", id], yes, &places[..]].concat();
    let said = programs::outcome(programs::RECEIVER, &all);
    let text = [said.stdout, said.stderr].concat();
    (said.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_recording_is_gone_everywhere_and_stays_gone() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(dir.path());
    let identity = Identity::signed(&receiver.state_dir, BOX);
    let objects = recording::make(ID, 5, true, false);
    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    device.welcomed((1, 1), 1, &[ID]).await;
    for (name, bytes) in &objects {
        match is_init(name) {
            true => device.stream(&init_stream(&hash(bytes), bytes)).await,
            false => device.stream(&segment_stream(bytes)).await,
        }
    }
    until(&mut device, |message| {
        matches!(message, Message::Complete(_))
    })
    .await;
    let film = format!("/recordings/{ID}/recording.mp4");
    assert_eq!(get(&receiver.page, &film, "").0, 200);
    let cached = receiver.state_dir.join(format!("films/{ID}.mp4"));
    assert!(cached.exists());

    let id = ID.to_string();
    let (done, said) = erase_command(&receiver, &EARLY.to_string(), &[]);
    assert!(
        !done && said.contains("not in") && said.contains("--yes"),
        "{said}"
    );
    let (done, said) = erase_command(&receiver, &id, &[]);
    assert!(!done && said.contains("nothing was erased"), "{said}");
    assert_eq!(get(&receiver.page, &film, "").0, 200);
    let began = hallcast::clock::now();
    let (done, said) = erase_command(&receiver, &id, &["--yes"]);
    assert!(
        done && said.contains("erased, 10 objects") && said.contains(&BOX.to_string()),
        "{said}"
    );

    // The box is told, and says when its copy is gone.
    let erase = until(&mut device, |message| matches!(message, Message::Erase(_))).await;
    println!(
        "the box was told after {:?}",
        hallcast::clock::now().since(began)
    );
    assert!(matches!(erase, Message::Erase(erase) if erase.recording == ID));
    let (code, said) = verify_command(&receiver.store_dir, &[&id]);
    assert!(
        code == Some(0) && said.contains("has not said yet"),
        "{said}"
    );
    device.say(&Message::Erased(Erased { recording: ID })).await;
    let confirmation = receiver.store_dir.join(format!("erased/{ID}.{BOX}"));
    programs::wait_until(10, "the confirmation", || confirmation.exists());
    let (code, said) = verify_command(&receiver.store_dir, &["--all"]);
    assert!(
        code == Some(0) && said.contains("has erased its copy"),
        "{said}"
    );

    // Nothing of it is there or shown: no init either.
    let left = [
        "reserve".to_owned(),
        format!("erased/{ID}"),
        format!("erased/{ID}.{BOX}"),
    ];
    assert_eq!(files(&receiver.store_dir), BTreeSet::from(left));
    programs::wait_until(10, "the film to go", || !cached.exists());
    assert!(!receiver.store_dir.join(format!("recordings/{ID}")).exists());
    for name in objects.keys() {
        let url = name.replace("recordings/", "/hls/");
        assert_eq!(get(&receiver.page, &url, "").0, 404, "{url}");
    }
    for path in [
        film.clone(),
        format!("/recordings/{ID}"),
        format!("/recordings/{ID}/manifest.json"),
        format!("/hls/{ID}/index.m3u8"),
    ] {
        assert_eq!(get(&receiver.page, &path, "").0, 404, "{path}");
    }
    let list = String::from_utf8(get(&receiver.page, "/", "").2).unwrap();
    assert!(!list.contains(&id), "{list}");
    let output = dir.path().join("film.mp4");
    let output = output.to_str().unwrap();
    let store = receiver.store_dir.to_str().unwrap();
    let arguments = ["export", &id, "--output", output, "--store-dir", store];
    let said = programs::outcome(programs::RECEIVER, &arguments);
    assert!(
        String::from_utf8(said.stderr)
            .unwrap()
            .contains("was erased")
    );

    // One that is only on its box never comes, even before anybody has looked for the tombstone.
    let early = recording::make(EARLY, 2, true, false);
    let (done, said) = erase_command(&receiver, &EARLY.to_string(), &["--yes"]);
    assert!(done && said.contains("erased, 0 objects"), "{said}");
    let mut sent = BTreeSet::new();
    for (name, bytes) in &early {
        match is_init(name) {
            true => device.stream(&init_stream(&hash(bytes), bytes)).await,
            false => {
                sent.insert(parse_provenance(bytes).unwrap().0.key);
                device.stream(&segment_stream(bytes)).await;
            }
        }
    }
    while !sent.is_empty() {
        let refused = |message: &Message| {
            assert!(!matches!(message, Message::Durable(_)), "{message:?}");
            matches!(message, Message::Error(error) if error.code == ErrorCode::ERASED)
        };
        if let Message::Error(error) = until(&mut device, refused).await {
            sent.remove(&error.key.unwrap());
        }
    }
    let left = receiver.store_dir.join(format!("recordings/{EARLY}"));
    programs::wait_until(10, "its folders to go", || !left.exists());

    // It does not come back: not from this box on this connection, on another, or after a restart.
    let bytes = &objects[&segment_path(&NEVER)];
    let refused = |message: &Message| matches!(message, Message::Error(error) if error.code == ErrorCode::ERASED && error.key == Some(NEVER));
    device.stream(&segment_stream(bytes)).await;
    until(&mut device, refused).await;
    drop(receiver); // SIGKILL
    let receiver = Receiver::start(dir.path());
    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    let welcome = device.welcomed((1, 2), 1, &[ID, EARLY]).await;
    assert_eq!(welcome.erased, [ID, EARLY]);
    assert!(welcome.recordings.is_empty());
    device.stream(&segment_stream(bytes)).await;
    until(&mut device, refused).await;
    assert!(!receiver.store_dir.join(format!("recordings/{ID}")).exists());
    assert_eq!(get(&receiver.page, &film, "").0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_was_away_is_told_of_an_erasure_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    recording::write(&recording::make(ID, 3, true, false), &store);
    let receiver = Receiver::start(dir.path());
    let identity = Identity::signed(&receiver.state_dir, BOX);
    let (done, said) = erase_command(&receiver, &ID.to_string(), &["--yes"]);
    assert!(done, "{said}");
    hallcast::clock::pause(Duration::from_secs(3)).await;
    // It has all of it acknowledged, so that its Hello does not name it.
    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    device.welcomed((1, 1), 1, &[]).await;
    until(
        &mut device,
        |message| matches!(message, Message::Erase(erase) if erase.recording == ID),
    )
    .await;
    // Another box is not told.
    let second = Identity::signed(&receiver.state_dir, BoxId([8; 16]));
    let mut other = Device::connect(&second, &receiver.boxes, &receiver.state_dir).await;
    other.welcomed((1, 1), 2, &[]).await;
    let quiet = hallcast::clock::within(Duration::from_secs(1), other.next()).await;
    assert!(quiet.is_none(), "{quiet:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_box_is_told_the_epoch_that_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(dir.path());
    let identity = Identity::signed(&receiver.state_dir, BOX);
    let connect = || Device::connect(&identity, &receiver.boxes, &receiver.state_dir);
    let mut held = connect().await;
    held.welcomed((50, 1), 1, &[]).await;
    let mut restored = connect().await;
    restored.hello((3, 1), 2, &[]).await;
    let told = restored.next().await;
    assert!(
        matches!(&told, Message::Error(error) if (error.code, error.epoch) == (ErrorCode::FENCED, Some(50))),
        "{told:?}"
    );
    assert_eq!(ended(&restored.connection).await, ErrorCode::FENCED);
    // Past it, it is let in, and the one that held it is told by which epoch.
    let mut past = connect().await;
    past.welcomed((51, 1), 2, &[]).await;
    let told = held.next().await;
    assert!(
        matches!(&told, Message::Error(error) if error.epoch == Some(51)),
        "{told:?}"
    );
    assert_eq!(ended(&held.connection).await, ErrorCode::FENCED);
}

/// A store with one complete recording, made anew for each fault that is planted.
fn planted(plant: impl FnOnce(&Path)) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    recording::write(&recording::make(ID, 5, true, false), &store);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let place = hallcast::receiver::archive::Place::Directory(store.clone());
    drop(runtime.block_on(Library::open(&place)).unwrap());
    plant(&store);
    verify_command(&store, &["--all"])
}

fn change(path: std::path::PathBuf, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn verify_finds_each_kind_of_damage_and_nothing_in_a_sound_store() {
    let segment = |track, sequence| {
        segment_path(&SegmentKey {
            recording: ID,
            track: TrackId(track),
            sequence,
        })
    };
    let (code, said) = planted(|_| {});
    print!("{said}");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("complete, 0:05, 10 objects") && said.contains("no fault"),
        "{said}"
    );

    let first_init = |store: &Path| {
        let folder = store.join(format!("recordings/{ID}/init"));
        let entry = std::fs::read_dir(folder).unwrap().next().unwrap();
        entry.unwrap().path()
    };
    let manifest = |store: &Path, from: &str, to: &str| {
        change(store.join(manifest_path(ID)), |bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert!(text.contains(from), "{text}");
            *bytes = text.replacen(from, to, 1).into_bytes();
        });
    };
    type Plant<'a> = Box<dyn FnOnce(&Path) + 'a>;
    let plants: Vec<(&str, Plant<'_>, &str)> = vec![
        (
            "a bit of sound changed",
            Box::new(|store| {
                change(store.join(segment(2, 1)), |bytes| {
                    *bytes.last_mut().unwrap() ^= 1
                });
            }),
            "segment 2/1: its bytes have the hash",
        ),
        (
            "half a segment",
            Box::new(|store| {
                change(store.join(segment(1, 0)), |bytes| {
                    bytes.truncate(bytes.len() / 2)
                });
            }),
            "segment 1/0: it is damaged",
        ),
        (
            "an empty segment",
            Box::new(|store| change(store.join(segment(1, 2)), Vec::clear)),
            "segment 1/2: it is damaged",
        ),
        (
            "a segment gone",
            Box::new(|store| std::fs::remove_file(store.join(segment(1, 1))).unwrap()),
            "segment 1/1: the manifest names it, and it is not there",
        ),
        (
            "a segment under another's name",
            Box::new(|store| {
                std::fs::copy(store.join(segment(1, 0)), store.join(segment(1, 1))).unwrap();
            }),
            "segment 1/1: the object holds segment",
        ),
        (
            "a segment too many",
            Box::new(|store| {
                let longer = recording::make(ID, 9, true, false);
                std::fs::write(store.join(segment(2, 3)), &longer[&segment(2, 3)]).unwrap();
            }),
            "END says that it has 3 segments",
        ),
        (
            "the facts gone",
            Box::new(|store| std::fs::remove_file(store.join(segment(0, 0))).unwrap()),
            "segment 0/0: the manifest names it",
        ),
        (
            "an init gone",
            Box::new(|store| std::fs::remove_file(first_init(store)).unwrap()),
            "is missing or damaged",
        ),
        (
            "an init changed",
            Box::new(|store| change(first_init(store), |bytes| bytes[20] ^= 1)),
            "its bytes have the hash",
        ),
        (
            "the manifest names another hash",
            Box::new(|store| manifest(store, "\"blake3\": \"", "\"blake3\": \"0")),
            "the manifest:",
        ),
        (
            "the manifest tells another start",
            Box::new(|store| manifest(store, "\"button\"", "\"network\"")),
            "something else than the facts",
        ),
        (
            "the manifest is cut",
            Box::new(|store| {
                change(store.join(manifest_path(ID)), |bytes| bytes.truncate(100));
            }),
            "the manifest:",
        ),
        (
            "the manifest gone",
            Box::new(|store| std::fs::remove_file(store.join(manifest_path(ID))).unwrap()),
            "there is no manifest",
        ),
        (
            "a tombstone beside objects",
            Box::new(|store| {
                std::fs::create_dir_all(store.join("erased")).unwrap();
                std::fs::write(store.join(format!("erased/{ID}")), b"{}").unwrap();
            }),
            "10 objects of it are still there",
        ),
    ];
    for (what, plant, expected) in plants {
        let (code, said) = planted(plant);
        let faults: Vec<_> = said
            .lines()
            .filter(|line| line.contains("FAULT:"))
            .collect();
        println!("{what}: {}", faults.first().unwrap_or(&"NOTHING FOUND"));
        assert_eq!(code, Some(1), "{what}: {said}");
        assert!(said.contains(expected), "{what}: {said}");
        assert!(
            said.contains("1 recordings, 1 with faults"),
            "{what}: {said}"
        );
    }
}

#[test]
fn an_erasure_reaches_a_box_that_was_away_through_kills_on_both_sides() {
    let _alone = programs::alone();
    let home = tempfile::tempdir().unwrap();
    let mut receiver = programs::Receiver::start(home.path());
    let board = programs::small_bench(home.path());
    let arguments = ["--board", board.as_str()];
    let mut hall = programs::CaptureBox::start(home.path(), "hall", Some(&receiver), &arguments);
    let record = || {
        let id = hall.record();
        programs::pause(2);
        hall.stop();
        receiver.wait_complete(&id, 30);
        id
    };
    let (erased, kept) = (record(), record());
    hall.terminate();
    let of = |id: &str| {
        let sealed = programs::spool_hashes(&home.path().join("hall/state"));
        let of_it = sealed
            .iter()
            .filter(|(key, ..)| key.recording.to_string() == id);
        of_it.count()
    };
    let (before, others) = (of(&erased), of(&kept));
    assert!(before > 2 && others > 2, "{before} {others}");
    let store = receiver.home.join("store");
    let state = receiver.home.join("state");
    let places = [
        "--store-dir",
        store.to_str().unwrap(),
        "--state-dir",
        state.to_str().unwrap(),
    ];
    let words = [&["erase", &erased, "--yes"], &places[..]].concat();
    programs::run(programs::RECEIVER, &words);
    let confirmed = || {
        let mut names = std::fs::read_dir(store.join("erased")).unwrap();
        let of_box = format!("{erased}.");
        names.any(|entry| {
            let name = entry.unwrap().file_name();
            name.to_string_lossy().starts_with(&of_box)
        })
    };
    assert!(!confirmed());
    // The box is back, and both are killed while it hears of it.
    hall.restart();
    let mut kills = 0;
    while kills < 8 {
        hallcast::clock::sleep(Duration::from_millis(40 * kills));
        match kills % 2 {
            0 => hall.kill_and_restart(),
            _ => receiver.kill_and_restart(),
        }
        kills += 1;
    }
    programs::wait_until(30, "the box's word", confirmed);
    hall.terminate();
    let (after, left) = (of(&erased), of(&kept));
    println!(
        "of {before} segments on the box {after} are left after {kills} kills, of another \
         recording's {others} {left}"
    );
    assert_eq!((after, left), (0, others));
    let (code, said) = verify_command(&store, &["--all"]);
    print!("{said}");
    assert!(
        code == Some(0) && said.contains("has erased its copy"),
        "{said}"
    );
    assert!(receiver.manifest(&kept).is_some());
    // And both remember.
    hall.restart();
    receiver.kill_and_restart();
    programs::pause(3);
    assert!(!store.join("recordings").join(&erased).exists());
    hall.terminate();
    assert_eq!(of(&erased), 0);
}

/// An archive in memory, and a library over it.
async fn library() -> (Archive, Library) {
    let archive = Archive::over(Arc::new(Twin::default()), "twin");
    let library = Library::over(archive.clone()).await.unwrap();
    (archive, library)
}

#[tokio::test]
async fn the_first_to_declare_a_loss_owns_the_recording_and_no_absurd_loss_is_taken() {
    let (_, library) = library().await;
    let lost = async |sender, track, first, last| {
        let range = LostRange { track, first, last };
        let kept = library.keep_lost(sender, ID, range, LostReason::NoSpace);
        kept.await.map_err(|e| e.code())
    };
    let track = NEVER.track;
    for (first, last) in [(5, u64::MAX), (5, 4)] {
        let refused = lost(BOX, track, first, last).await;
        assert_eq!(refused, Err(ErrorCode::PROTOCOL), "{first} {last}");
    }
    assert!(!library.read().recordings.contains_key(&ID));
    assert_eq!(lost(BOX, track, 1, 1).await, Ok(false));
    let other = lost(BoxId([8; 16]), track, 2, 2).await;
    assert_eq!(other, Err(ErrorCode::CONFLICT));
    assert_eq!(library.read().recordings[&ID].lost().len(), 1);
}

#[tokio::test]
async fn another_box_s_segment_leaves_no_init_in_a_recording() {
    let objects = recording::make(ID, 3, false, false);
    let (archive, library) = library().await;
    let range = LostRange {
        track: NEVER.track,
        first: 1,
        last: 1,
    };
    let kept = library.keep_lost(BOX, ID, range, LostReason::NoSpace).await;
    kept.unwrap();
    for (_, init) in objects.iter().filter(|(name, _)| is_init(name)) {
        for sender in [BOX, BoxId([8; 16])] {
            library.take_init(sender, hash(init), Bytes::from(init.clone()));
        }
    }
    let key = SegmentKey {
        recording: ID,
        track: TrackId(1),
        sequence: 0,
    };
    let bytes = Bytes::from(objects[&segment_path(&key)].clone());
    let init = parse_provenance(&bytes).unwrap().0.init;
    let header = SegmentHeader { key, init };
    let path = init_path(ID, init.unwrap());
    for (sender, is_owner) in [(BoxId([8; 16]), false), (BOX, true)] {
        let kept = library.keep_segment(sender, &header, bytes.clone(), hash(&bytes));
        let kept = kept.await.map(|_| ()).map_err(|e| e.code());
        assert_eq!(kept.is_ok(), is_owner, "{kept:?}");
        assert_eq!(archive.read(&path).await.is_ok(), is_owner);
        let known = library.read().recordings[&ID].inits.len();
        assert_eq!(known, usize::from(is_owner));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_said_right_after_welcome_is_kept_though_the_store_fails_at_first() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(dir.path());
    let identity = Identity::signed(&receiver.state_dir, BOX);
    let objects = recording::make(ID, 5, true, false);
    let of_recording = receiver.store_dir.join(format!("recordings/{ID}"));
    std::fs::create_dir_all(&of_recording).unwrap();
    // Where the folder of what is lost would be.
    std::fs::write(of_recording.join("lost"), b"").unwrap();
    let mut device = Device::connect(&identity, &receiver.boxes, &receiver.state_dir).await;
    device.welcomed((1, 1), 1, &[ID]).await;
    let lost = Lost {
        recording: ID,
        track: NEVER.track,
        first: NEVER.sequence,
        last: NEVER.sequence,
        reason: LostReason::Damaged,
    };
    device.say(&Message::Lost(lost)).await;
    for (name, bytes) in &objects {
        if is_init(name) {
            device.stream(&init_stream(&hash(bytes), bytes)).await;
        } else if *name != segment_path(&NEVER) {
            device.stream(&segment_stream(bytes)).await;
        }
    }
    let rest = objects.keys().filter(|name| !is_init(name)).count() - 1;
    for _ in 0..rest {
        until(&mut device, |said| matches!(said, Message::Durable(_))).await;
    }
    std::fs::remove_file(of_recording.join("lost")).unwrap();
    until(&mut device, |said| matches!(said, Message::Complete(_))).await;
}

/// A segment of the events track with one fact, as the run with this epoch writes it.
fn mark(epoch: u64, span: u32, sequence: u64) -> (SegmentKey, Bytes) {
    let fact = Fact {
        span,
        at_nanos: 0,
        event: Event::Mark,
    };
    let mut bytes = Vec::new();
    let mut give = |given| {
        if let Segmented::Chunk(chunk) = given {
            bytes.extend(chunk.bytes);
        }
    };
    let mut events = Events::new(ID, epoch, span, sequence);
    let now = Monotonic::default();
    events.push(&[fact], now, &mut give).unwrap();
    let key = SegmentKey {
        recording: ID,
        track: TrackId::EVENTS,
        sequence,
    };
    (key, bytes.into())
}

#[tokio::test]
async fn a_span_is_written_by_one_run_of_a_box_also_after_a_restart() {
    let (archive, first) = library().await;
    let keep = async |library: &Library, epoch, span, sequence| {
        let (key, bytes) = mark(epoch, span, sequence);
        let (header, hash) = (SegmentHeader { key, init: None }, hash(&bytes));
        let kept = library.keep_segment(BOX, &header, bytes, hash).await;
        kept.map(|_| ()).map_err(|e| e.code())
    };
    let conflict = Err(ErrorCode::CONFLICT);
    assert_eq!(keep(&first, 5, 0, 0).await, Ok(()));
    assert_eq!(keep(&first, 6, 0, 1).await, conflict);
    assert_eq!(keep(&first, 6, 1, 1).await, Ok(()));
    let restarted = Library::over(archive).await.unwrap();
    assert_eq!(keep(&restarted, 5, 1, 2).await, conflict);
    assert_eq!(keep(&restarted, 6, 1, 2).await, Ok(()));
}
