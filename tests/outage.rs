//! What fails is killed, cut off or copied while it records; nothing is lost, and nothing is mixed.
//!
//! Real programs; the network between them is two namespaces of the test's own.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]
#![cfg(all(feature = "software", feature = "receiver"))]

mod support;

use hallcast::clock;
use hallcast::media::{Hash, Monotonic, SegmentKey, TrackId, WallClock};
use hallcast::spool::{LocalDisk, Spool};
use hallcast::station::{Reply, Request, Status, ask};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::archive::{assert_archive_is_the_spool, facts};
use support::chance::{Chance, Excuses, Stalls, spread};
use support::film::Film;
use support::network::{HERE, Network, in_a_network_of_its_own};
use support::programs::{
    BOX, CaptureBox, RECEIVER, Receiver, alone, outcome, pause, run, small_bench, soak, wait_until,
};
use support::timeline::spans;

/// What a kill or a power cut may take from the end of a recording.
const PROMISE: Duration = Duration::from_secs(1);

/// How soon after a change of its network a box is connected again.
const RECONNECT: Duration = Duration::from_secs(2);

/// A box on `small-bench` at its end of the network.
fn box_behind(network: &Network, home: &Path, receiver: &Receiver) -> CaptureBox {
    let mut program = network.enter();
    program.push(BOX.into());
    let program: Vec<&str> = program.iter().map(String::as_str).collect();
    let board = small_bench(home);
    CaptureBox::start_through(&program, home, "hall", Some(receiver), &["--board", &board])
}

/// One kill of the box's process.
struct Kill {
    at: Monotonic,
    /// The epoch that the process had, if it came that far.
    epoch: u64,
    spawned: Monotonic,
}

/// When the box's devices were open, by the log of all its processes, whose lines carry UTC; an instant of
/// the monotonic clock and of UTC tell how the two go together.
fn opened(log: &str, (now, wall): (Monotonic, WallClock)) -> Vec<Monotonic> {
    const DAY: i64 = 24 * 3600 * 1_000_000_000;
    let at = |line: &str| {
        let time = line.strip_prefix('[')?.split(['T', 'Z']).nth(1)?;
        let mut words = time.split(':');
        let mut next = || words.next()?.parse::<f64>().ok();
        let seconds = next()? * 3600.0 + next()? * 60.0 + next()?;
        let later = ((seconds * 1e9) as i64 - wall.unix_nanos).rem_euclid(DAY);
        Some(now.plus(Duration::from_nanos(later as u64)))
    };
    let lines = log.lines().filter(|line| line.contains(": open, "));
    lines.filter_map(at).collect()
}

#[test]
fn two_hundred_kills_cost_at_most_the_last_second_each() {
    let name = "two_hundred_kills_cost_at_most_the_last_second_each";
    let _alone = alone();
    if !in_a_network_of_its_own(name) {
        return;
    }
    let kills = soak(200, 1000);
    let mut chance = Chance::new(name);
    let home = tempfile::tempdir().unwrap();
    let network = Network::new(None);
    let mut receiver = Receiver::start_at(home.path(), HERE);
    let mut capture_box = box_behind(&network, home.path(), &receiver);
    let epoch_now = |capture_box: &CaptureBox| -> u64 {
        let text = fs::read_to_string(capture_box.home.join("state/epoch")).unwrap();
        text.trim().parse().unwrap()
    };
    let stalls = Stalls::watch();
    let recording = capture_box.record();
    let mut of_box: Vec<Kill> = Vec::new();
    let mut of_receiver = 0;
    let (began, wall) = (clock::now(), clock::wall());
    let mut spawned = began;
    for _ in 0..kills {
        // One in eight falls into a start or a recovery.
        let most = if chance.below(8) == 0 { 100 } else { 1500 };
        clock::sleep(chance.within(most));
        if chance.below(2) == 0 {
            let at = capture_box.kill();
            let epoch = epoch_now(&capture_box);
            of_box.push(Kill { at, epoch, spawned });
            spawned = clock::now();
            capture_box.spawn_again();
        } else {
            receiver.kill_and_go_on();
            of_receiver += 1;
        }
    }
    let lasted = clock::now().since(began);
    capture_box.wait();
    wait_until(10, "the recording to be taken up", || {
        capture_box.status()["state"] == "recording"
    });
    pause(2);
    assert_eq!(capture_box.stop(), recording, "one recording");
    let stopped = clock::now();
    let manifest = receiver.wait_complete(&recording, 60);
    let complete_after = clock::now().since(stopped);
    assert_eq!(manifest["ended_by"], "socket", "{manifest}");
    let kept = fs::read_dir(receiver.home.join("store/recordings")).unwrap();
    assert_eq!(kept.count(), 1, "one recording at the receiver");
    let segments = assert_archive_is_the_spool(&receiver, &capture_box, &recording);
    let lost = facts(&receiver, &recording)
        .into_iter()
        .filter(|fact| matches!(fact.event, hallcast::media::Event::Lost { .. }))
        .count();
    Film::open(&receiver.film(&recording)).assert_decodes();

    let spans = spans(&receiver.archive(&recording), began);
    let by_epoch = |epoch: u64| spans.iter().find(|span| span.epoch == epoch);
    // Those of the first process were open when it was told to record.
    let mut open = vec![began];
    open.extend(opened(&capture_box.log(), (began, wall)));
    assert!(open.len() > 1, "the log says when a device is open");
    let (mut losses, mut starts, mut nothing, mut unopened) = (Vec::new(), Vec::new(), 0, 0);
    let mut seen = 0;
    let mut excuses = Excuses::among(kills);
    for kill in &of_box {
        if kill.epoch == seen {
            continue; // killed before it was anybody: it had captured nothing
        }
        seen = kill.epoch;
        let span = by_epoch(kill.epoch);
        if let Some(begin) = span.and_then(support::timeline::Span::begin) {
            starts.push(begin.since(kill.spawned));
        }
        // Of a track without a chunk, everything since the first device was open is what the kill took:
        // what was not captured yet cannot be lost.
        let tracks = [TrackId(1), TrackId(3)];
        let ends = tracks.map(|track| span.and_then(|span| span.end_of(track)));
        nothing += usize::from(ends.contains(&None));
        let own = open.iter().copied();
        let first = own.filter(|at| (kill.spawned..kill.at).contains(at)).min();
        let Some(end) = ends.map(|end| end.or(first)).into_iter().min().flatten() else {
            assert_eq!(ends, [None, None], "media that no device gave");
            unopened += 1;
            continue;
        };
        let loss = kill.at.since(end);
        let stood = stalls.between(end, kill.at);
        let ran = kill.at.since(kill.spawned);
        let what = format!("epoch {}, killed after {ran:?}", kill.epoch);
        excuses.judge(&what, loss, PROMISE, stood);
        losses.push(loss);
    }
    let (stood, longest) = stalls.summary();
    let (least, median, most) = spread(&losses);
    println!(
        "{} kills of the box and {of_receiver} of the receiver in {:.0} s; {} spans, {segments} objects, {lost} LOST, complete {:.1} s after the stop",
        of_box.len(),
        lasted.as_secs_f64(),
        spans.len(),
        complete_after.as_secs_f64()
    );
    println!(
        "taken by a kill of the box: least {least}, median {median}, most {most} ms; {excuses}; {nothing} were killed before both tracks had a chunk, {unopened} of them before a device was open"
    );
    println!(
        "from the start of a process to its first picture: {:?} ms (least, median, most)",
        spread(&starts)
    );
    println!("the machine stood still for 20 ms or more {stood} times, at most {longest:?}");
    assert_eq!(lost, 0);
    assert!(
        losses.len() as u64 > kills / 4,
        "{} kills judged",
        losses.len()
    );
}

/// The box's status, asked by this process.
fn status(capture_box: &CaptureBox) -> Status {
    match ask(&capture_box.home.join("control"), &Request::Status).unwrap() {
        Reply::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// Chunks of the presenter that were timed from capture to RECEIVED: live ones.
fn live_received(status: &Status) -> usize {
    let presenter = &status.tracks[0];
    presenter
        .capture_to_received_ms
        .map_or(0, |(_, _, count)| count)
}

#[test]
fn after_a_minute_without_a_link_live_comes_first_and_all_of_it_in_order() {
    let name = "after_a_minute_without_a_link_live_comes_first_and_all_of_it_in_order";
    let _alone = alone();
    if !in_a_network_of_its_own(name) {
        return;
    }
    let seconds = soak(60, 600);
    let home = tempfile::tempdir().unwrap();
    let stalls = Stalls::watch();
    // Narrow enough that what waits takes a while.
    let network = Network::new(Some("2mbit"));
    let receiver = Receiver::start_at(home.path(), HERE);
    let capture_box = box_behind(&network, home.path(), &receiver);
    wait_until(20, "the connection", || {
        status(&capture_box).uplink.connected
    });
    let recording = capture_box.record();
    pause(5);
    network.cut();
    let cut = clock::wall();
    pause(seconds);
    let before = status(&capture_box);
    assert_eq!(before.state, "recording");
    network.join();
    let (joined, joined_wall) = (clock::now(), clock::wall());
    wait_until(60, "the connection", || {
        status(&capture_box).uplink.connected
    });
    let connected = clock::now().since(joined);
    wait_until(20, "a live chunk", || {
        live_received(&status(&capture_box)) > live_received(&before)
    });
    let (live, at_live, live_wall) = (
        clock::now().since(joined),
        status(&capture_box),
        clock::wall(),
    );
    wait_until(300, "the backlog", || {
        status(&capture_box).spool.waiting_bytes < before.spool.waiting_bytes / 10
    });
    let caught_up = clock::now().since(joined);
    pause(2);
    capture_box.stop();
    receiver.wait_complete(&recording, 30);
    assert_archive_is_the_spool(&receiver, &capture_box, &recording);
    Film::open(&receiver.film(&recording)).assert_decodes();

    // When each of the presenter's segments became an object.
    let folder = receiver.archive(&recording).join("1");
    let mut objects: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name(),
                entry.metadata().unwrap().modified().unwrap(),
            )
        })
        .collect();
    objects.sort();
    let nanos = |time: &std::time::SystemTime| {
        time.duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos() as i64
    };
    let arrived: Vec<i64> = objects.iter().map(|(_, time)| nanos(time)).collect();
    let first_of_outage = arrived.iter().position(|at| *at > cut.unix_nanos).unwrap();
    let captured_in_outage = (seconds / 2) as usize - 1;
    let backlog = &arrived[first_of_outage..first_of_outage + captured_in_outage];
    assert!(backlog.iter().all(|at| *at > joined_wall.unix_nanos));
    let after_live = backlog
        .iter()
        .filter(|at| **at > live_wall.unix_nanos)
        .count();
    // Several are under way at once, and each waits for the disk by itself: one that is synced late
    // says nothing of the order in which they were sent. Newest first would be all of them.
    let early = backlog.windows(4).filter(|of| of[0] > of[3]).count();
    println!(
        "{seconds} s without a link, {} kB waited; connected {connected:.1?} after it, first live chunk RECEIVED after {live:.1?} with {} kB waiting, caught up after {caught_up:.1?}",
        before.spool.waiting_bytes / 1000,
        at_live.spool.waiting_bytes / 1000,
    );
    println!(
        "{after_live} of the {} segments that waited became objects after the first live chunk was there; {early} of them before the third one older",
        backlog.len()
    );
    assert!(
        2 * after_live > backlog.len(),
        "live waited for the backlog"
    );
    assert!(10 * early < backlog.len(), "the oldest goes first");
    let stood = stalls.between(joined, joined.plus(connected));
    Excuses::among(1).judge("from the link to a session", connected, RECONNECT, stood);
}

#[test]
fn a_copied_card_is_told_and_mixes_nothing() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let board = small_bench(home.path());
    let mut first = CaptureBox::start(home.path(), "first", Some(&receiver), &["--board", &board]);
    wait_until(10, "the connection", || status(&first).uplink.connected);
    let _ = first.terminate();
    // The card as it is, down to the epoch.
    fs::create_dir_all(home.path().join("second")).unwrap();
    let (from, to) = (first.home.join("state"), home.path().join("second/state"));
    run("cp", &["-a", from.to_str().unwrap(), to.to_str().unwrap()]);
    first.restart();
    let address = receiver.quic.clone();
    let second = CaptureBox::start(
        home.path(),
        "second",
        None,
        &["--board", &board, "--receiver", &address],
    );
    assert_eq!(status(&first).box_id, status(&second).box_id);
    let recordings = [(&first, first.record()), (&second, second.record())];
    let seconds = soak(20, 300);
    let told = |capture_box: &CaptureBox| {
        let error = status(capture_box).uplink.error;
        error.is_some_and(|error| error.contains("cloned"))
    };
    let mut ever_told = false;
    let end = clock::now().plus(Duration::from_secs(seconds));
    while clock::now() < end {
        ever_told |= told(&first) || told(&second);
        clock::sleep(Duration::from_millis(100));
    }
    let log = receiver.log();
    let admitted = log.matches(": session of epoch ").count();
    let refused = log.matches("cloned").count();
    println!(
        "one key on two machines for {seconds} s: {admitted} connections admitted, {refused} lines with `cloned` in the receiver's log"
    );
    assert!(ever_told, "a box's status says that its key is used twice");
    assert!(refused > 0, "the receiver's log says it");
    assert!(
        admitted as u64 <= 10 + seconds / 20,
        "a fencing war: {admitted}"
    );
    for (capture_box, recording) in &recordings {
        assert_eq!(&capture_box.stop(), recording);
    }
    // Whose recording arrives depends on who was first; none of it comes from the other.
    pause(5);
    let mut whole = 0;
    for (capture_box, recording) in &recordings {
        let folder = receiver.archive(recording);
        let sealed = support::programs::spool_hashes(&capture_box.home.join("state"));
        for (key, length, hash) in sealed
            .iter()
            .filter(|(key, _, _)| key.recording.to_string() == *recording)
        {
            let path = folder.join(format!("{}/{:08}.m4s", key.track, key.sequence));
            let Ok(bytes) = fs::read(&path) else { continue };
            let found = (bytes.len() as u64, blake3::hash(&bytes).into());
            assert_eq!(found, (*length, hash.0), "{key}");
        }
        whole += usize::from(receiver.manifest(recording).is_some());
    }
    println!("{whole} of the 2 recordings are complete at the receiver");
    assert!(whole >= 1, "one of the two may send");
}

/// Each segment that a stopped box's spool holds of a recording: its hash, and whether it waits there
/// for an acknowledgement, whole.
fn spooled(capture_box: &CaptureBox, recording: &str) -> BTreeMap<SegmentKey, (Hash, bool)> {
    let directory = capture_box.home.join("state/spool");
    let (spool, _) = Spool::look(Arc::new(LocalDisk), directory).unwrap();
    let recording = recording.parse().unwrap();
    let state = spool.state(recording).unwrap();
    assert_eq!(state.lost().count(), 0);
    let segments = state.tracks.iter().flat_map(|(&track, held)| {
        held.segments.iter().map(move |(&sequence, segment)| {
            let key = SegmentKey {
                recording,
                track,
                sequence,
            };
            let waits = !held.acknowledged.contains(sequence);
            assert!(segment.is_whole(), "{key}");
            (key, (segment.seal.unwrap().1, waits))
        })
    });
    segments.collect()
}

#[test]
fn a_card_copied_while_it_records_loses_nothing_on_either_machine() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(home.path());
    let board = small_bench(home.path());
    let mut first = CaptureBox::start(home.path(), "first", Some(&receiver), &["--board", &board]);
    wait_until(10, "the connection", || status(&first).uplink.connected);
    let recording = first.record();
    pause(4);
    first.kill();
    fs::create_dir_all(home.path().join("second")).unwrap();
    let (from, to) = (first.home.join("state"), home.path().join("second/state"));
    run("cp", &["-a", from.to_str().unwrap(), to.to_str().unwrap()]);
    first.restart();
    wait_until(10, "the connection", || status(&first).uplink.connected);
    pause(4);
    let address = receiver.quic.clone();
    let arguments = ["--board", board.as_str(), "--receiver", &address];
    let mut second = CaptureBox::start(home.path(), "second", None, &arguments);
    for machine in [&first, &second] {
        let taken_up = || status(machine).state == "recording";
        wait_until(10, "the recording to be taken up", taken_up);
    }
    let cloned = |machine: &CaptureBox| {
        let alarms = status(machine).alarms;
        alarms.iter().any(|alarm| alarm.starts_with("cloned: "))
    };
    let seconds = soak(4, 30);
    for _ in 0..3 {
        pause(seconds);
        assert!(cloned(&first), "the other took over: {:?}", status(&first));
        second.kill_and_restart();
        wait_until(10, "the alarm", || cloned(&second));
    }
    // The recording is the first one's: it was there first.
    for _ in 0..2 {
        first.kill_and_restart();
        wait_until(10, "the connection", || status(&first).uplink.connected);
        pause(seconds);
        assert!(cloned(&second), "{:?}", status(&second));
    }
    assert_eq!(
        (first.stop(), second.stop()),
        (recording.clone(), recording.clone())
    );
    receiver.wait_complete(&recording, 30);
    pause(2);
    let _ = (first.terminate(), second.terminate());
    let archived = assert_archive_is_the_spool(&receiver, &first, &recording);
    let (of_first, of_second) = (spooled(&first, &recording), spooled(&second, &recording));
    let (mut alike, mut waiting) = (0, 0);
    for (key, (hash, waits)) in &of_second {
        let same = of_first.get(key).is_some_and(|(other, _)| other == hash);
        assert!(
            same || *waits,
            "{key} is on no other machine, and may be released"
        );
        alike += usize::from(same);
        waiting += usize::from(*waits && !same);
    }
    let log = receiver.log();
    println!(
        "{archived} segments of the first machine archived; of the second's {}, {alike} are from before the copy and {waiting} wait in its spool; {} sessions, {} lines with `cloned`",
        of_second.len(),
        log.matches(": session of epoch ").count(),
        log.matches("cloned").count()
    );
    assert!(alike > 2 && waiting > 10, "{alike} {waiting}");
    Film::open(&receiver.film(&recording)).assert_decodes();
}

/// The names in a directory; none where there is none.
fn names(directory: &Path) -> Vec<String> {
    let Ok(listing) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let name =
        |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    listing.map(name).collect()
}

#[test]
fn what_is_erased_does_not_come_back_whatever_is_killed() {
    let name = "what_is_erased_does_not_come_back_whatever_is_killed";
    let _alone = alone();
    let mut chance = Chance::new(name);
    let home = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::start(home.path());
    let board = small_bench(home.path());
    let mut capture_box =
        CaptureBox::start(home.path(), "hall", Some(&receiver), &["--board", &board]);
    let record = |capture_box: &CaptureBox| {
        let recording = capture_box.record();
        pause(2);
        assert_eq!(capture_box.stop(), recording);
        recording
    };
    let stays = record(&capture_box);
    let mut erased: Vec<String> = (0..soak(4, 20)).map(|_| record(&capture_box)).collect();
    for recording in erased.iter().chain([&stays]) {
        receiver.wait_complete(recording, 20);
    }
    // One of which the receiver has the beginning and the box the rest.
    let partly = capture_box.record();
    pause(3);
    receiver.kill();
    pause(2);
    assert_eq!(capture_box.stop(), partly);
    erased.push(partly);
    let _ = capture_box.terminate();
    receiver.kill_and_restart();
    // What a card looks like that is put back months later.
    let state = capture_box.home.join("state");
    let old = home.path().join("old-card");
    let copy = |from: &Path, to: &Path| {
        run("rm", &["-rf", to.to_str().unwrap()]);
        run("cp", &["-a", from.to_str().unwrap(), to.to_str().unwrap()]);
    };
    copy(&state, &old);

    // The command and the receiver are killed while it works.
    let places = [receiver.home.join("state"), receiver.home.join("store")];
    let [state_dir, store_dir] = places.each_ref().map(|path| path.to_str().unwrap());
    let (mut kills, mut repeats) = (0, 0);
    for recording in &erased {
        let arguments = [
            "erase",
            recording,
            "--yes",
            "--state-dir",
            state_dir,
            "--store-dir",
            store_dir,
        ];
        for _ in 0..2 {
            let mut command = Command::new(RECEIVER)
                .args(arguments)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            clock::sleep(chance.within(30));
            command.kill().unwrap();
            command.wait().unwrap();
            receiver.kill_and_go_on();
            kills += 2;
        }
        // A receiver that starts may get in its way: then it says so, and goes on where it was.
        let again = "give the command again";
        wait_until(10, "the erasure", || {
            let outcome = outcome(RECEIVER, &arguments);
            repeats += u64::from(!outcome.status.success());
            let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
            assert!(outcome.status.success() || said.contains(again), "{said}");
            outcome.status.success()
        });
    }
    // The box returns, and both are killed while it learns what is gone.
    capture_box.spawn_again();
    for _ in 0..soak(12, 100) {
        clock::sleep(chance.within(300));
        if chance.below(3) == 0 {
            receiver.kill_and_go_on();
        } else {
            capture_box.kill();
            capture_box.spawn_again();
        }
        kills += 1;
    }
    // Fails unless one recording is left on the box and at the receiver.
    let gone = |capture_box: &mut CaptureBox, receiver: &Receiver| {
        capture_box.wait();
        wait_until(60, "the box's copies to go", || {
            status(capture_box).spool.recordings == 1
        });
        // What might still come would come now.
        pause(2);
        let _ = capture_box.terminate();
        let spool = names(&capture_box.home.join("state/spool"));
        let in_spool = |recording: &String| spool.iter().any(|name| name.contains(recording));
        assert!(in_spool(&stays), "{spool:?}");
        assert!(!erased.iter().any(in_spool), "{spool:?}");
        let archive = names(&receiver.home.join("store/recordings"));
        assert_eq!(archive, [stays.as_str()], "the archive");
        let page = String::from_utf8(receiver.get("/")).unwrap();
        assert!(
            !erased.iter().any(|recording| page.contains(recording)),
            "the page"
        );
        names(&receiver.home.join("store/erased"))
    };
    let tombstones = gone(&mut capture_box, &receiver);
    for recording in &erased {
        assert!(
            tombstones
                .iter()
                .any(|name| name.starts_with(recording.as_str())),
            "{tombstones:?}"
        );
    }
    let confirmed = tombstones.iter().filter(|name| name.contains('.')).count();
    // The old card comes back with all of it, and the box names all of it: every copy goes again.
    copy(&old, &state);
    capture_box.spawn_again();
    gone(&mut capture_box, &receiver);
    run(
        RECEIVER,
        &[
            "verify",
            "--all",
            "--state-dir",
            state_dir,
            "--store-dir",
            store_dir,
        ],
    );
    capture_box.restart();
    assert_archive_is_the_spool(&receiver, &capture_box, &stays);
    println!(
        "{} recordings erased through {kills} kills and a restored card; {confirmed} tombstones carry their box's word; the command had to be given again {repeats} times",
        erased.len()
    );
    assert_eq!(confirmed, erased.len());
}
