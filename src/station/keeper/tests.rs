//! The keeper over a real spool, without lanes: what becomes of a recording when clocks, people and the
//! receiver have their say.
//!
//! Longer than most files: each case is a recording of its own, from its start to what is on the disk.

use super::*;
use crate::media::{Chunk, GapLength, MediaTime, Sequences};
use crate::panel::Lamp;
use crate::segmenter::read_facts;
use crate::spool::twin::TwinDisk;
use crate::spool::{Config, Disk, Level, LocalDisk};
use crate::station::custody;
use crate::station::recorder::{Button, State};
use crate::uplink::{Answer, Commanded};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use tempfile::TempDir;

const OLD: RecordingId = RecordingId([5; 16]);
const SECOND: i64 = 1_000_000_000;
/// When the earlier run began, in UTC.
const THEN: i64 = 1_795_000_000 * SECOND;
const WITHIN: Duration = Duration::from_secs(600);
const RULES: Rules = Rules {
    maximum: Duration::from_secs(3600),
    button: Button::HoldToStop,
};

fn unset() -> WallClock {
    WallClock {
        unix_nanos: 60 * SECOND,
        uncertainty: None,
    }
}

struct Bench {
    keeper: Keeper,
    jobs: Receiver<SyncJob>,
    now: Monotonic,
    _directory: TempDir,
}

impl Bench {
    /// A keeper that finds what an earlier run left in `directory`; its clock is not set.
    fn open(directory: TempDir, epoch: u64) -> Self {
        Self::over(Arc::new(LocalDisk), directory, epoch)
    }

    fn over(disk: Arc<dyn Disk>, directory: TempDir, epoch: u64) -> Self {
        let config = Config::new(directory.path());
        let (spool, recovered) = Spool::open(disk, config).unwrap();
        Self::with(spool, &recovered, directory, epoch)
    }

    fn with(spool: Spool, recovered: &[spool::Recovered], directory: TempDir, epoch: u64) -> Self {
        Self::on(None, spool, recovered, directory, epoch)
    }

    /// On a board whose lamp recordings need, or do not; `None`: without one.
    fn on(
        lamp_needed: Option<bool>,
        spool: Spool,
        recovered: &[spool::Recovered],
        directory: TempDir,
        epoch: u64,
    ) -> Self {
        let (syncs, jobs) = channel();
        let parts = Parts {
            custody: Custody::new(
                Arc::new(Mutex::new(spool)),
                epoch,
                custody::Config::default(),
            ),
            syncs,
            offers: None,
            lanes: Vec::new(),
            box_id: BoxId([1; 16]),
            room: None,
            concerns: Vec::new(),
            board: "bench".into(),
            rules: RULES,
            lamp_needed,
            network_commands: Vec::new(),
            resume_within: WITHIN,
            sync_interval: Duration::from_millis(500),
            wall: unset,
        };
        let mut bench = Self {
            keeper: Keeper::new(parts, recovered),
            jobs,
            now: clock::now(),
            _directory: directory,
        };
        bench.settle();
        bench
    }

    /// Turns until nothing is left to do: every sync runs at once.
    fn settle(&mut self) {
        // No interval is waited for.
        for _ in 0..10 {
            self.now = self.now.plus(Duration::from_secs(1));
            let (off, error, _) = SET.get();
            SET.set((off, error, self.now));
            self.keeper.turn(self.now);
            for job in self.jobs.try_iter().collect::<Vec<_>>() {
                let result = job.run();
                self.keeper.handle(Input::Synced(result, Duration::ZERO));
            }
        }
    }

    fn hear_utc(&mut self, unix_nanos: i64) {
        self.hear_utc_unsettled(unix_nanos);
        self.settle();
    }

    fn hear_utc_unsettled(&mut self, unix_nanos: i64) {
        let wall = WallClock {
            unix_nanos,
            uncertainty: Some(Duration::from_millis(20)),
        };
        let at = self.keeper.running.as_ref().unwrap().take.start;
        self.keeper
            .handle(Input::Report(Report::Clock { wall, at }));
    }

    fn start(&mut self) -> Reply {
        let (reply, answer) = channel();
        self.keeper.handle(Input::Request(Request::Start, reply));
        self.settle();
        answer.recv().unwrap()
    }

    fn running(&self) -> Option<RecordingId> {
        let running = self.keeper.running.as_ref();
        running.map(|running| running.take.recording)
    }

    fn facts(&self, recording: RecordingId) -> Vec<Fact> {
        facts(&self.keeper.spool(), recording)
    }

    fn end_of(&self, recording: RecordingId) -> Option<StopReason> {
        self.facts(recording)
            .into_iter()
            .find_map(|fact| match fact.event {
                Event::End { reason, .. } => Some(reason),
                _ => None,
            })
    }
}

fn facts(spool: &Spool, recording: RecordingId) -> Vec<Fact> {
    let events = &spool.state(recording).unwrap().tracks[&TrackId::EVENTS];
    let read = |(&sequence, segment): (&u64, &spool::SegmentState)| {
        let key = SegmentKey {
            recording,
            track: TrackId::EVENTS,
            sequence,
        };
        read_facts(&spool.read(key, 0, segment.length).unwrap()).unwrap()
    };
    events.segments.iter().flat_map(read).collect()
}

/// A spool with a recording that an earlier boot left open, at a known time; it kept nothing but facts.
fn left_open() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(Arc::new(LocalDisk), Config::new(directory.path())).unwrap();
    let mut custody = Custody::new(Arc::new(Mutex::new(spool)), 1, custody::Config::default());
    custody.begin(OLD, 0).unwrap();
    let placed = WallClock {
        unix_nanos: THEN,
        uncertainty: Some(Duration::from_millis(20)),
    };
    let events = [
        Event::Span {
            epoch: 1,
            wall: Some(unset()),
            gap: None,
        },
        Event::Run {
            boot: Some([0xee; 16]),
            boot_nanos: 0,
            recorded_nanos: 0,
        },
        Event::SpanPlaced {
            span: 0,
            wall: placed,
            gap: None,
        },
    ];
    let facts = events.map(|event| Fact {
        span: 0,
        at_nanos: 0,
        event,
    });
    custody
        .write_facts(OLD, &facts, Monotonic::default())
        .unwrap();
    let job = custody.start_sync(clock::now()).unwrap();
    assert!(custody.synced(job.run()).is_empty());
    directory
}

fn logs(directory: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let folder = directory.join(OLD.to_string());
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

#[test]
fn a_gap_of_unknown_length_is_told_once_utc_is_known_and_no_kept_byte_changes() {
    let directory = left_open();
    let path = directory.path().to_owned();
    let before = logs(&path);
    let mut bench = Bench::open(directory, 2);
    assert_eq!(
        bench.running(),
        Some(OLD),
        "nothing says that it was too long"
    );
    let spans = |bench: &Bench| -> Vec<(u32, Option<GapLength>)> {
        let facts = bench.facts(OLD).into_iter();
        facts
            .filter_map(|fact| match fact.event {
                Event::Span { gap, .. } => Some((fact.span, gap)),
                Event::SpanPlaced { span: 1, gap, .. } => Some((101, gap)),
                _ => None,
            })
            .collect()
    };
    let unknown = (1, Some(GapLength::Unknown));
    assert_eq!(spans(&bench), [(0, None), unknown]);
    // Ten minutes, less what is not certain.
    bench.hear_utc(THEN + 600 * SECOND);
    let known = GapLength::Known {
        nanos: 600 * SECOND as u64,
        uncertainty_nanos: 40_000_000,
    };
    assert_eq!(spans(&bench), [(0, None), unknown, (101, Some(known))]);
    assert_eq!(bench.running(), Some(OLD), "it goes on");
    bench.hear_utc(THEN + 600 * SECOND);
    assert_eq!(
        spans(&bench).len(),
        3,
        "a span is placed once by the same word"
    );
    let after = logs(&path);
    for (file, bytes) in before {
        assert_eq!(after[&file], bytes, "{}", file.display());
    }
}

#[test]
fn a_recording_ends_when_it_is_learned_that_the_box_was_away_for_too_long() {
    let mut bench = Bench::open(left_open(), 2);
    bench.hear_utc(THEN + 3 * 3600 * SECOND);
    assert_eq!(bench.running(), None);
    assert_eq!(bench.end_of(OLD), Some(StopReason::AwayTooLong));
    let said = bench.keeper.alarms.texts();
    println!("{said:?}");
    assert!(
        said.iter().any(|text| text.contains("away for 180 min")),
        "{said:?}"
    );
    assert!(matches!(bench.start(), Reply::Done { .. }));
    assert!(
        !bench
            .keeper
            .alarms
            .texts()
            .iter()
            .any(|text| text.contains("180 min"))
    );
}

#[test]
fn who_asked_for_a_recording_while_the_old_one_ran_gets_one() {
    let mut bench = Bench::open(left_open(), 2);
    assert!(matches!(bench.start(), Reply::Refused(why) if why == "already recording"));
    bench.hear_utc(THEN + 3 * 3600 * SECOND);
    let fresh = bench.running().unwrap();
    assert_ne!(fresh, OLD);
    assert_eq!(bench.end_of(OLD), Some(StopReason::AwayTooLong));
    assert_eq!(bench.end_of(fresh), None);
}

#[test]
fn who_paused_the_old_recording_gets_no_other_one() {
    let mut bench = Bench::open(left_open(), 2);
    ask(&mut bench, Request::Start);
    ask(&mut bench, Request::Pause);
    bench.hear_utc(THEN + 3600 * SECOND);
    assert_eq!(bench.end_of(OLD), Some(StopReason::AwayTooLong));
    assert_eq!((bench.running(), state(&bench)), (None, "idle"));
}

#[test]
fn a_box_that_is_asked_to_end_while_the_old_recording_ends_records_no_more() {
    let mut bench = Bench::open(left_open(), 2);
    ask(&mut bench, Request::Start);
    bench.hear_utc_unsettled(THEN + 3600 * SECOND);
    bench.now = bench.now.plus(Duration::from_secs(1));
    bench.keeper.turn(bench.now);
    assert_eq!(state(&bench), "stopping");
    bench.keeper.handle(Input::Terminate);
    bench.settle();
    assert_eq!(bench.end_of(OLD), Some(StopReason::AwayTooLong));
    assert!(!bench.keeper.turn(bench.now), "{}", state(&bench));
    assert_eq!(bench.keeper.spool().recordings().count(), 1);
}

#[test]
fn what_is_known_to_be_too_old_at_start_is_ended_and_not_taken_up() {
    let mut bench = Bench::open(left_open(), 2);
    bench.hear_utc(THEN + 60 * SECOND);
    // The same boot, but the process was away for longer than the setting allows.
    let Bench {
        keeper,
        _directory: directory,
        ..
    } = bench;
    drop(keeper);
    let config = Config::new(directory.path());
    let (spool, recovered) = Spool::open(Arc::new(LocalDisk), config).unwrap();
    let (syncs, jobs) = channel();
    let parts = Parts {
        custody: Custody::new(Arc::new(Mutex::new(spool)), 3, custody::Config::default()),
        syncs,
        offers: None,
        lanes: Vec::new(),
        box_id: BoxId([1; 16]),
        room: None,
        concerns: Vec::new(),
        board: "bench".into(),
        rules: RULES,
        lamp_needed: None,
        network_commands: Vec::new(),
        resume_within: Duration::ZERO,
        sync_interval: Duration::from_millis(500),
        wall: unset,
    };
    crate::clock::sleep(Duration::from_millis(20));
    let keeper = Keeper::new(parts, &recovered);
    let mut bench = Bench {
        keeper,
        jobs,
        now: clock::now(),
        _directory: directory,
    };
    bench.settle();
    assert_eq!(bench.running(), None);
    assert_eq!(bench.end_of(OLD), Some(StopReason::AwayTooLong));
}

/// What an earlier run left open gets its end, though the disk refuses everything at the start: before
/// the spool is read, or between that and the keeper's start.
#[test]
fn what_the_disk_does_not_let_end_at_start_is_ended_once_it_does() {
    for before in [true, false] {
        let disk = TwinDisk::default();
        let directory = tempfile::tempdir().unwrap();
        let folder = "/spool";
        let open = || Spool::open(Arc::new(disk.clone()), Config::new(folder)).unwrap();
        let older = RecordingId([4; 16]);
        for (epoch, recording) in [(1, older), (2, OLD)] {
            let spool = Arc::new(Mutex::new(open().0));
            let mut custody = Custody::new(spool, epoch, custody::Config::default());
            custody.begin(recording, 0).unwrap();
            custody.append(recording, &chunk(recording, 0, 0)).unwrap();
            let job = custody.start_sync(clock::now().plus(Duration::from_secs(1)));
            let _ = custody.synced(job.unwrap().run());
        }
        disk.set_read_only(before);
        let (spool, recovered) = open();
        disk.set_read_only(true);
        let mut bench = Bench::with(spool, &recovered, directory, 3);
        // What a power cut would leave.
        let ended = || {
            let (left, _) = Spool::look(Arc::new(disk.crash(0)), folder).unwrap();
            left.state(older).is_some_and(|state| state.ended)
        };
        assert!(!ended());
        disk.set_read_only(false);
        (0..4).for_each(|_| wait(&mut bench));
        assert!(ended(), "refused before the spool was read: {before}");
        let reason = bench.end_of(older);
        assert_eq!(reason, Some(StopReason::AwayTooLong));
    }
}

#[test]
fn a_recording_that_is_erased_while_it_runs_is_over_and_another_may_begin() {
    let mut bench = Bench::open(tempfile::tempdir().unwrap(), 1);
    bench.start();
    let recording = bench.running().unwrap();
    bench
        .keeper
        .handle(Input::Report(Report::Erase { recording }));
    bench.settle();
    assert_eq!(bench.running(), None);
    assert!(bench.keeper.spool().state(recording).is_none());
    assert!(matches!(bench.start(), Reply::Done { .. }));
}

#[test]
fn sleep_of_the_machine_begins_a_span_and_a_long_one_ends_the_recording() {
    let mut bench = Bench::open(tempfile::tempdir().unwrap(), 1);
    bench.start();
    let recording = bench.running().unwrap();
    bench.keeper.woke(clock::now(), Duration::from_secs(30));
    bench.settle();
    let spans: Vec<(u32, bool)> = bench
        .facts(recording)
        .into_iter()
        .filter_map(|fact| match fact.event {
            Event::Span { gap, .. } => {
                Some((fact.span, matches!(gap, Some(GapLength::Known { .. }))))
            }
            _ => None,
        })
        .collect();
    assert_eq!(spans, [(0, false), (1, true)]);
    assert_eq!(bench.running(), Some(recording));
    bench
        .keeper
        .woke(clock::now(), WITHIN + Duration::from_secs(1));
    bench.settle();
    assert_eq!(bench.running(), None);
    assert_eq!(bench.end_of(recording), Some(StopReason::AwayTooLong));
}

#[test]
fn a_step_of_the_clock_is_a_fact_and_nothing_else() {
    let mut bench = Bench::open(tempfile::tempdir().unwrap(), 1);
    bench.start();
    let recording = bench.running().unwrap();
    let before = bench.keeper.running.as_ref().unwrap().take.clone();
    bench.keeper.parts.wall = || WallClock {
        unix_nanos: 86_400 * SECOND,
        uncertainty: None,
    };
    bench.settle();
    let facts = bench.facts(recording);
    assert!(facts.iter().any(|fact| matches!(
        fact.event,
        Event::ClockStepped { by_nanos, .. } if by_nanos > 86_000 * SECOND
    )));
    let after = &bench.keeper.running.as_ref().unwrap().take;
    assert_eq!((after.span, after.start), (before.span, before.start));
}

thread_local! {
    /// How far the machine's clock is off the monotonic one, by whose error it is kept, and the time.
    static SET: std::cell::Cell<(i64, Option<Duration>, Monotonic)> =
        const { std::cell::Cell::new((0, None, Monotonic::from_nanos(0))) };
}

fn as_set() -> WallClock {
    let (off, uncertainty, now) = SET.get();
    WallClock {
        unix_nanos: now.as_nanos() as i64 + off,
        uncertainty,
    }
}

/// Virtual seconds pass with the clock off by this.
fn run_with(bench: &mut Bench, off: i64, error_ms: Option<u64>, seconds: u64) {
    bench.keeper.parts.wall = as_set;
    for _ in 0..seconds {
        bench.now = bench.now.plus(Duration::from_secs(1));
        SET.set((off, error_ms.map(Duration::from_millis), bench.now));
        bench.keeper.turn(bench.now);
    }
}

fn placed(bench: &Bench, recording: RecordingId) -> Vec<WallClock> {
    let facts = bench.facts(recording).into_iter();
    facts
        .filter_map(|fact| match fact.event {
            Event::SpanPlaced { wall, .. } => Some(wall),
            _ => None,
        })
        .collect()
}

/// Five steps of a day, forth and back, each for `seconds`, made by hand or by an NTP client; then the
/// truth. Gives how the start of the recording was corrected, and how far off the last word is.
fn step_by_days(kept: Option<u64>, seconds: u64) -> (Vec<WallClock>, i64) {
    const TRUTH: i64 = 1_800_000_000 * SECOND;
    const DAY: i64 = 86_400 * SECOND;
    let mut bench = Bench::open(tempfile::tempdir().unwrap(), 1);
    // An NTP client that is wrong.
    run_with(&mut bench, TRUTH + DAY, Some(20), 5);
    bench.start();
    let recording = bench.running().unwrap();
    let take = bench.keeper.running.as_ref().unwrap().take.clone();
    for days in [0, 2, 0, 2, 0] {
        let off = days * DAY;
        run_with(&mut bench, TRUTH + off, kept, seconds);
    }
    run_with(&mut bench, TRUTH, Some(10), 1);
    let (reply, answer) = channel();
    bench.keeper.handle(Input::Request(Request::Stop, reply));
    bench.settle();
    assert!(matches!(answer.recv().unwrap(), Reply::Done { .. }));
    let facts = bench.facts(recording);
    let steps = facts
        .iter()
        .filter(|fact| matches!(fact.event, Event::ClockStepped { .. }));
    assert!(steps.count() >= 5);
    let spans = facts
        .iter()
        .filter(|fact| matches!(fact.event, Event::Span { .. }));
    assert_eq!(spans.count(), 1, "one span, whatever the clock says");
    let truth = take.start.as_nanos() as i64 + TRUTH;
    let placed = placed(&bench, recording);
    let last = placed.last().unwrap();
    let off = last.unix_nanos - truth;
    let said = last.uncertainty.unwrap();
    println!(
        "{} corrections, the last off by {off} ns of {said:?}",
        placed.len()
    );
    assert!(u128::from(off.unsigned_abs()) <= said.as_nanos());
    (placed, off)
}

#[test]
fn a_clock_set_by_hand_corrects_nothing_and_its_keeper_corrects_what_was_noted() {
    let (by_hand, _) = step_by_days(None, 30);
    assert_eq!(by_hand.len(), 1, "{by_hand:?}");
    let (by_keeper, _) = step_by_days(Some(20), 30);
    // The start was right by the first, third and fifth step, and wrong by the others.
    assert!((5..=6).contains(&by_keeper.len()), "{by_keeper:?}");
}

#[test]
fn a_clock_that_jumps_every_second_is_no_fact_every_second() {
    let (placed, _) = step_by_days(Some(20), 1);
    assert!(placed.len() <= 2, "{placed:?}");
}

#[test]
fn a_full_disk_refuses_a_start_and_ends_what_runs() {
    let room = |level| Room {
        used: 0,
        free: 1,
        freeable: 0,
        capacity: 2,
        rate: 1,
        level,
    };
    let mut bench = Bench::open(tempfile::tempdir().unwrap(), 1);
    // Looked at just now, so that the real disk has no say.
    let set = |bench: &mut Bench, level| {
        bench.keeper.room_looked = Some(Monotonic::from_nanos(u64::MAX));
        bench.keeper.has_room(room(level));
        bench.settle();
    };
    set(&mut bench, Level::Normal);
    bench.start();
    let recording = bench.running().unwrap();
    set(&mut bench, Level::RefuseNew);
    assert_eq!(bench.running(), Some(recording), "what runs goes on");
    set(&mut bench, Level::Reserve);
    assert_eq!(bench.running(), None);
    assert_eq!(bench.end_of(recording), Some(StopReason::NoSpace));
    assert!(matches!(bench.start(), Reply::Refused(why) if why.contains("too full")));
    let alarms = bench.keeper.alarms.texts();
    assert!(
        alarms.iter().any(|text| text.starts_with("disk-low: ")),
        "{alarms:?}"
    );
    assert!(
        alarms.iter().any(|text| text.starts_with("disk-full: ")),
        "{alarms:?}"
    );
    set(&mut bench, Level::Normal);
    assert!(matches!(bench.start(), Reply::Done { .. }));
    assert!(
        !bench
            .keeper
            .alarms
            .texts()
            .iter()
            .any(|text| text.starts_with("disk-full"))
    );
}

/// A chunk of track 1 in segment `sequence`.
fn chunk(recording: RecordingId, sequence: u64, index: u32) -> Segmented {
    Segmented::Chunk(Chunk {
        key: SegmentKey {
            recording,
            track: TrackId(1),
            sequence,
        },
        init: None,
        index,
        start: MediaTime::ZERO,
        duration: 1,
        captured: clock::now(),
        bytes: vec![7; 20_000],
    })
}

#[test]
fn a_disk_that_is_full_at_once_ends_the_recording_with_what_was_kept() {
    for synced in [true, false] {
        let disk = TwinDisk::default();
        let directory = tempfile::tempdir().unwrap();
        let mut bench = Bench::over(Arc::new(disk.clone()), directory, 1);
        assert!(matches!(bench.start(), Reply::Done { .. }));
        let recording = bench.running().unwrap();
        let key = |sequence| match chunk(recording, sequence, 0) {
            Segmented::Chunk(chunk) => chunk.key,
            _ => unreachable!(),
        };
        for given in [
            chunk(recording, 0, 0),
            Segmented::Seal(key(0)),
            chunk(recording, 1, 0),
        ] {
            bench.keeper.handle(Input::Given(recording, given));
        }
        if synced {
            bench.settle();
        }
        // The look before was a moment ago: only the refusal tells.
        bench.keeper.room_looked = Some(Monotonic::from_nanos(u64::MAX));
        disk.set_room(Some(0));
        if !synced {
            // What was written is refused by its sync, too.
            disk.fail_syncs(1);
        }
        for given in [
            chunk(recording, 1, 1),
            Segmented::Seal(key(1)),
            chunk(recording, 2, 0),
        ] {
            bench.keeper.handle(Input::Given(recording, given));
        }
        bench.settle();
        let alarms = bench.keeper.alarms.texts();
        println!("{alarms:?}");
        assert!(
            alarms.iter().any(|text| text.starts_with("disk-full: ")),
            "{alarms:?}"
        );
        assert_eq!(bench.running(), None);
        assert_eq!(bench.end_of(recording), Some(StopReason::NoSpace));
        {
            let spool = bench.keeper.spool();
            let state = spool.state(recording).unwrap();
            let track = &state.tracks[&TrackId(1)];
            assert!(state.ended);
            let kept: Vec<_> = track
                .waiting()
                .map(|(sequence, segment)| (sequence, segment.length, segment.seal_kept))
                .collect();
            assert_eq!(kept, [(0, 20_000, true), (1, 20_000, true)]);
        }
        let lamp = bench.keeper.lamp(bench.now);
        assert_eq!(lamp, crate::panel::Lamp::FastBlink);
        assert!(matches!(bench.start(), Reply::Refused(why) if why.contains("too full")));
        disk.set_room(None);
        bench.keeper.room_looked = None;
        bench.settle();
        assert!(matches!(bench.start(), Reply::Done { .. }));
    }
}

#[test]
fn a_recording_whose_beginning_was_lost_is_ended_with_what_there_is() {
    let directory = left_open();
    {
        let config = Config::new(directory.path());
        let (spool, _) = Spool::open(Arc::new(LocalDisk), config).unwrap();
        let mut custody = Custody::new(Arc::new(Mutex::new(spool)), 1, custody::Config::default());
        let reason = LostReason::ReceiverForgot;
        custody.lose(OLD, TrackId(1), (0, 3), reason).unwrap();
        let job = custody.start_sync(clock::now()).unwrap();
        assert!(custody.synced(job.run()).is_empty());
    }
    let log = directory.path().join(OLD.to_string()).join("00000000.log");
    let mut bytes = std::fs::read(&log).unwrap();
    // The first record says when and in which span it was taken up.
    let first = bytes.windows(4).position(|four| four == b"HcR1").unwrap();
    bytes[first + 30] ^= 0xff;
    std::fs::write(&log, bytes).unwrap();
    let bench = Bench::open(directory, 2);
    assert_eq!(bench.running(), None);
    assert!(bench.keeper.spool().state(OLD).unwrap().opened.is_none());
    assert_eq!(bench.end_of(OLD), Some(StopReason::AwayTooLong));
    let facts = bench.facts(OLD);
    assert!(
        facts
            .iter()
            .any(|fact| matches!(fact.event, Event::Run { .. }))
    );
    let lost = facts.iter().filter_map(|fact| match fact.event {
        Event::Lost {
            first,
            last,
            reason,
            ..
        } => Some((first, last, reason)),
        _ => None,
    });
    assert_eq!(
        lost.collect::<Vec<_>>(),
        [(0, 3, LostReason::ReceiverForgot)]
    );
}

/// A running recording with a chunk that is kept, on a disk that then refuses everything.
fn refused() -> (Bench, TwinDisk, RecordingId) {
    let disk = TwinDisk::default();
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::over(Arc::new(disk.clone()), directory, 1);
    assert!(matches!(bench.start(), Reply::Done { .. }));
    let recording = bench.running().unwrap();
    let first = chunk(recording, 0, 0);
    bench.keeper.handle(Input::Given(recording, first));
    bench.settle();
    disk.set_read_only(true);
    bench.keeper.handle(Input::Noted(Event::Mark));
    bench.settle();
    assert_eq!(bench.running(), None);
    assert!(matches!(bench.keeper.recorder.state(), State::Fault));
    assert_eq!(spool_alarms(&bench), 1);
    (bench, disk, recording)
}

fn spool_alarms(bench: &Bench) -> usize {
    let alarms = bench.keeper.alarms.texts();
    let of_the_spool = alarms.iter().filter(|text| text.starts_with("spool: "));
    of_the_spool.count()
}

/// Longer than the longest time until the disk is tried again.
fn wait(bench: &mut Bench) {
    (0..8).for_each(|_| bench.settle());
}

#[test]
fn a_recording_that_the_disk_let_down_goes_on_once_it_works_again_and_no_fact_is_missing() {
    let (mut bench, disk, recording) = refused();
    wait(&mut bench);
    assert_eq!(bench.running(), None, "the disk still refuses");
    disk.set_read_only(false);
    wait(&mut bench);
    assert_eq!(bench.running(), Some(recording));
    let next = chunk(recording, 1, 0);
    bench.keeper.handle(Input::Given(recording, next));
    bench.settle();
    assert!(matches!(bench.keeper.recorder.state(), State::Recording(_)));
    assert_eq!(spool_alarms(&bench), 0);
    let facts = bench.facts(recording);
    let spans: Vec<_> = facts
        .iter()
        .filter_map(|fact| match fact.event {
            Event::Span { gap, .. } => Some((fact.span, gap)),
            _ => None,
        })
        .collect();
    println!("{spans:?}");
    assert_eq!(spans[0], (0, None));
    assert!(matches!(spans[1], (1, Some(GapLength::Known { .. }))));
    assert_eq!(spans.len(), 2);
    let marks = facts.iter().filter(|fact| fact.event == Event::Mark);
    assert_eq!(marks.map(|fact| fact.span).collect::<Vec<_>>(), [0]);
    let spool = bench.keeper.spool();
    let track = &spool.state(recording).unwrap().tracks[&TrackId(1)];
    assert!(track.segments[&0].seal_kept, "what was begun is sealed");
}

#[test]
fn a_recording_that_the_disk_let_down_is_ended_if_it_may_not_go_on() {
    for stop in [true, false] {
        let (mut bench, disk, recording) = refused();
        let reason = if stop {
            let (reply, answer) = channel();
            bench.keeper.handle(Input::Request(Request::Stop, reply));
            assert!(matches!(answer.recv().unwrap(), Reply::Refused(_)));
            disk.set_read_only(false);
            StopReason::Socket
        } else {
            disk.set_read_only(false);
            // Before the disk is tried again.
            let (reply, answer) = channel();
            bench.keeper.handle(Input::Request(Request::Start, reply));
            assert!(matches!(answer.recv().unwrap(), Reply::Done { .. }));
            StopReason::DiskFailed
        };
        wait(&mut bench);
        assert_eq!(bench.end_of(recording), Some(reason));
        assert_eq!(bench.running().is_some(), !stop);
        assert_ne!(bench.running(), Some(recording));
        if stop {
            assert!(matches!(bench.keeper.recorder.state(), State::Idle));
            assert_eq!(spool_alarms(&bench), 0);
        }
    }
}

#[test]
fn trouble_with_an_old_recording_does_not_end_the_one_that_runs() {
    let disk = TwinDisk::default();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let mut bench = Bench::over(Arc::new(disk.clone()), directory, 1);
    bench.start();
    let old = bench.running().unwrap();
    let key = |sequence| SegmentKey {
        recording: old,
        track: TrackId(1),
        sequence,
    };
    for sequence in 0..2 {
        let given = [chunk(old, sequence, 0), Segmented::Seal(key(sequence))];
        for given in given {
            bench.keeper.handle(Input::Given(old, given));
        }
    }
    let (reply, _answer) = channel();
    bench.keeper.handle(Input::Request(Request::Stop, reply));
    bench.settle();
    assert!(matches!(bench.start(), Reply::Done { .. }));
    let running = bench.running();
    let durable = |below| {
        Input::Report(Report::Durable {
            recording: old,
            track: TrackId(1),
            durable: Sequences::below(below),
        })
    };
    let acknowledged = |bench: &Bench| {
        let spool = bench.keeper.spool();
        spool.state(old).unwrap().tracks[&TrackId(1)]
            .acknowledged
            .end()
    };
    // Its record is refused.
    disk.refuse_files_in(Some(path.join(old.to_string())));
    bench.keeper.handle(durable(1));
    bench.settle();
    assert_eq!(bench.running(), running);
    assert_eq!((spool_alarms(&bench), acknowledged(&bench)), (1, 0));
    disk.refuse_files_in(None);
    bench.keeper.handle(durable(1));
    bench.settle();
    assert_eq!((spool_alarms(&bench), acknowledged(&bench)), (0, 1));
    // Its record is written, and its sync refused.
    bench.keeper.handle(durable(2));
    disk.fail_syncs(2);
    disk.refuse_files_in(Some(path.join(old.to_string())));
    bench.settle();
    assert_eq!((bench.running(), spool_alarms(&bench)), (running, 1));
    // Of one that has just left.
    let recording = OLD;
    bench
        .keeper
        .handle(Input::Report(Report::Complete { recording }));
    bench.settle();
    assert_eq!((bench.running(), spool_alarms(&bench)), (running, 1));
    assert!(!matches!(bench.keeper.recorder.state(), State::Fault));
}

fn ask(bench: &mut Bench, request: Request) -> Reply {
    let (reply, answer) = channel();
    bench.keeper.handle(Input::Request(request, reply));
    bench.settle();
    answer.recv().unwrap()
}

fn state(bench: &Bench) -> &'static str {
    bench.keeper.state().0
}

/// Each span, with how long nothing was captured before it, and each that ended with a pause.
fn spans_and_pauses(
    bench: &Bench,
    recording: RecordingId,
) -> (Vec<(u32, Option<GapLength>)>, Vec<u32>) {
    let facts = bench.facts(recording);
    let spans = facts.iter().filter_map(|fact| match fact.event {
        Event::Span { gap, .. } => Some((fact.span, gap)),
        _ => None,
    });
    let pauses = facts.iter().filter(|fact| fact.event == Event::Paused);
    (spans.collect(), pauses.map(|fact| fact.span).collect())
}

#[test]
fn a_pause_is_a_gap_between_two_spans_of_one_recording_and_takes_no_time_of_it() {
    let mut bench = Bench::open(tempfile::tempdir().unwrap(), 1);
    bench.start();
    let recording = bench.running().unwrap();
    clock::sleep(Duration::from_millis(50));
    let asked = clock::now();
    assert!(matches!(
        ask(&mut bench, Request::Pause),
        Reply::Done { .. }
    ));
    let paused = clock::now();
    assert_eq!(state(&bench), "paused");
    let begun = bench.keeper.running.as_ref().unwrap().take.start;
    let recorded = bench.keeper.state().1.unwrap();
    assert!(recorded.1 <= paused.since(begun), "{recorded:?}");
    // Nobody marks, starts or pauses what is paused.
    for request in [Request::Mark, Request::Start, Request::Pause] {
        assert!(
            matches!(ask(&mut bench, request), Reply::Refused(why) if why.starts_with("paused"))
        );
    }
    clock::sleep(Duration::from_millis(200));
    assert_eq!(bench.keeper.state().1, Some(recorded), "no time passes");
    assert!(matches!(
        ask(&mut bench, Request::Resume),
        Reply::Done { .. }
    ));
    let resumed = bench.keeper.running.as_ref().unwrap().take.start;
    assert_eq!(state(&bench), "starting");
    let next = chunk(recording, 0, 0);
    bench.keeper.handle(Input::Given(recording, next));
    bench.settle();
    assert_eq!(state(&bench), "recording");
    assert!(matches!(ask(&mut bench, Request::Mark), Reply::Done { .. }));
    assert!(matches!(ask(&mut bench, Request::Stop), Reply::Done { .. }));
    assert_eq!(bench.end_of(recording), Some(StopReason::Socket));
    let (spans, pauses) = spans_and_pauses(&bench, recording);
    let [
        (0, None),
        (
            1,
            Some(GapLength::Known {
                nanos,
                uncertainty_nanos,
            }),
        ),
    ] = spans[..]
    else {
        panic!("{spans:?}");
    };
    let (least, most) = (resumed.since(paused), resumed.since(asked));
    println!(
        "paused for {least:?} to {most:?}, on record {} us",
        nanos / 1000
    );
    let (length, error) = (Duration::from_nanos(nanos), Duration::from_millis(1));
    assert!(least <= length + error && length <= most + error);
    assert_eq!((uncertainty_nanos, pauses), (1_000_000, vec![0]));
    let facts = bench.facts(recording);
    let marks = facts.iter().filter(|fact| fact.event == Event::Mark);
    assert_eq!(marks.map(|fact| fact.span).collect::<Vec<_>>(), [1]);
}

#[test]
fn what_was_captured_before_a_pause_does_not_count_as_kept_after_it() {
    let mut bench = Bench::open(tempfile::tempdir().unwrap(), 1);
    bench.start();
    let recording = bench.running().unwrap();
    ask(&mut bench, Request::Pause);
    ask(&mut bench, Request::Resume);
    let take = Arc::new(Take {
        recording,
        epoch: 1,
        span: 1,
        start: clock::now(),
        rate: crate::media::Rate::THIRTY,
        first_sequences: BTreeMap::from([(TrackId(1), 1)]),
    });
    bench.keeper.running.as_mut().unwrap().take = take;
    for (sequence, expected) in [(0, "starting"), (1, "recording")] {
        let given = chunk(recording, sequence, 0);
        bench.keeper.handle(Input::Given(recording, given));
        bench.settle();
        assert_eq!(state(&bench), expected, "segment {sequence}");
    }
}

#[test]
fn a_paused_recording_can_be_stopped_and_its_end_is_in_the_span_that_was_paused() {
    let mut bench = Bench::open(tempfile::tempdir().unwrap(), 1);
    bench.start();
    let recording = bench.running().unwrap();
    ask(&mut bench, Request::Pause);
    assert!(matches!(ask(&mut bench, Request::Stop), Reply::Done { .. }));
    assert_eq!((bench.running(), state(&bench)), (None, "idle"));
    let (spans, pauses) = spans_and_pauses(&bench, recording);
    assert_eq!((spans.len(), pauses), (1, vec![0]));
    assert_eq!(bench.end_of(recording), Some(StopReason::Socket));
    let refused = ask(&mut bench, Request::Resume);
    assert!(matches!(refused, Reply::Refused(why) if why == "not recording"));
}

/// The power goes in a pause, twice; the box stays paused, and what is on record says so.
#[test]
fn a_box_whose_power_goes_in_a_pause_comes_back_paused() {
    let disk = TwinDisk::default();
    let folder = "/spool";
    let over = |disk: &TwinDisk, epoch| {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let (spool, recovered) = Spool::open(disk, Config::new(folder)).unwrap();
        Bench::with(spool, &recovered, tempfile::tempdir().unwrap(), epoch)
    };
    let mut bench = over(&disk, 1);
    bench.start();
    let recording = bench.running().unwrap();
    bench.keeper.extend(Duration::from_secs(5000));
    ask(&mut bench, Request::Pause);
    let mut left = disk.crash(0);
    for epoch in [2, 3] {
        let bench = over(&left, epoch);
        assert_eq!(
            (bench.running(), state(&bench)),
            (Some(recording), "paused")
        );
        left = left.crash(0);
    }
    let mut bench = over(&left, 4);
    let most = bench.keeper.recorder.extended();
    assert_eq!(most, Some(Duration::from_secs(5000)), "so is its time");
    // A press goes on with it.
    assert!(matches!(
        ask(&mut bench, Request::Press),
        Reply::Done { .. }
    ));
    assert_eq!(
        (bench.running(), state(&bench)),
        (Some(recording), "starting")
    );
    let (spans, pauses) = spans_and_pauses(&bench, recording);
    let spans: Vec<u32> = spans.iter().map(|(span, _)| *span).collect();
    assert_eq!((spans, pauses), (vec![0, 1, 2, 3, 4], vec![0, 1, 2, 3]));
    // Not paused any more, it goes on by itself.
    let bench = over(&left.crash(0), 5);
    assert_eq!(bench.running(), Some(recording));
    drop(bench);
}

#[test]
fn a_recording_that_the_disk_let_down_in_a_pause_stays_paused() {
    let disk = TwinDisk::default();
    let mut bench = Bench::over(Arc::new(disk.clone()), tempfile::tempdir().unwrap(), 1);
    bench.start();
    let recording = bench.running().unwrap();
    disk.set_read_only(true);
    ask(&mut bench, Request::Pause);
    assert_eq!(state(&bench), "fault");
    disk.set_read_only(false);
    wait(&mut bench);
    assert_eq!(
        (bench.running(), state(&bench)),
        (Some(recording), "paused")
    );
}

#[test]
fn a_restart_that_is_asked_for_waits_for_the_recording_and_for_nothing_else() {
    let later = |bench: &mut Bench, request| {
        let (reply, answer) = channel();
        bench.keeper.handle(Input::Request(request, reply));
        answer
    };
    let mut bench = Bench::open(tempfile::tempdir().unwrap(), 1);
    bench.start();
    let recording = bench.running().unwrap();
    let answer = later(&mut bench, Request::Restart).recv().unwrap();
    assert_eq!(answer, Reply::Restarting(Some(recording.to_string())));
    bench.settle();
    assert_eq!(bench.running(), Some(recording), "it is not cut");
    assert!(bench.keeper.turn(bench.now));
    later(&mut bench, Request::Pause);
    bench.settle();
    assert!(bench.keeper.turn(bench.now), "a pause is no end");
    let stopped = later(&mut bench, Request::Stop);
    bench.settle();
    assert!(matches!(stopped.recv().unwrap(), Reply::Done { .. }));
    assert_eq!(bench.end_of(recording), Some(StopReason::Socket));
    assert!(!bench.keeper.turn(bench.now), "the process ends");

    let mut idle = Bench::open(tempfile::tempdir().unwrap(), 1);
    assert!(idle.keeper.turn(idle.now));
    let answer = later(&mut idle, Request::Restart).recv().unwrap();
    assert_eq!(answer, Reply::Restarting(None));
    assert!(!idle.keeper.turn(idle.now));
}

/// A bench on a board with a lamp, over what was left on the disk.
fn lit(disk: &TwinDisk, lamp_needed: bool, epoch: u64) -> Bench {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (spool, recovered) = Spool::open(disk, Config::new("/spool")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    Bench::on(Some(lamp_needed), spool, &recovered, directory, epoch)
}

/// A disk on which the power has cut a recording.
fn cut() -> (TwinDisk, RecordingId) {
    let disk = TwinDisk::default();
    let mut bench = lit(&disk, false, 1);
    bench.start();
    (disk.crash(0), bench.running().unwrap())
}

fn hear_guard(bench: &mut Bench, held: bool) {
    let (_, pipe) = std::io::pipe().unwrap();
    let lamp = match held {
        true => Ok(Tell::new(pipe.into()).unwrap()),
        false => Err("the lamp: lost".into()),
    };
    bench.keeper.handle(Input::Lamp(lamp));
    bench.keeper.turn(clock::now());
}

/// The recording that is taken up, and its spans and pauses on record.
fn on_record(bench: &Bench, recording: RecordingId) -> (Vec<u32>, Vec<u32>) {
    let (spans, pauses) = spans_and_pauses(bench, recording);
    (spans.into_iter().map(|(span, _)| span).collect(), pauses)
}

#[test]
fn a_recording_that_is_taken_up_waits_for_the_lamp_without_a_span_of_its_own() {
    let (disk, recording) = cut();
    let unlit = lit(&disk.crash(0), false, 2);
    assert_eq!(state(&unlit), "starting", "it is not needed");
    // The power goes again before the guard is heard of.
    let bench = lit(&disk, true, 2);
    assert_eq!(state(&bench), "paused");
    let mut bench = lit(&disk.crash(0), true, 3);
    let refused = ask(&mut bench, Request::Resume);
    assert!(matches!(refused, Reply::Refused(why) if why.starts_with("the lamp cannot be driven")));
    hear_guard(&mut bench, true);
    assert_eq!(
        (bench.running(), state(&bench)),
        (Some(recording), "starting")
    );
    bench.settle();
    assert_eq!(on_record(&bench, recording), (vec![0, 1], vec![]));
}

#[test]
fn a_recording_that_waits_for_the_lamp_can_be_stopped_paused_and_erased() {
    let (disk, recording) = cut();
    let mut bench = lit(&disk.crash(0), true, 2);
    assert!(matches!(ask(&mut bench, Request::Stop), Reply::Done { .. }));
    assert_eq!(bench.end_of(recording), Some(StopReason::Socket));

    let mut bench = lit(&disk.crash(0), true, 2);
    let paused = ask(&mut bench, Request::Pause);
    assert!(matches!(paused, Reply::Done { .. }));
    hear_guard(&mut bench, true);
    assert_eq!(state(&bench), "paused", "somebody wants it so");
    bench.settle();
    assert_eq!(on_record(&bench, recording), (vec![0, 1], vec![1]));

    let mut bench = lit(&disk.crash(0), true, 2);
    bench
        .keeper
        .handle(Input::Report(Report::Erase { recording }));
    bench.settle();
    assert_eq!((bench.running(), state(&bench)), (None, "idle"));
}

#[test]
fn without_a_lamp_a_recording_is_paused_and_goes_on_with_it() {
    let (disk, recording) = cut();
    let mut bench = lit(&disk, true, 2);
    hear_guard(&mut bench, false);
    assert_eq!(
        (bench.running(), state(&bench)),
        (Some(recording), "paused")
    );
    hear_guard(&mut bench, true);
    assert_eq!(state(&bench), "starting");
    hear_guard(&mut bench, false);
    let lost = clock::now();
    bench.keeper.turn(lost.plus(Duration::from_millis(900)));
    assert_eq!(state(&bench), "starting");
    bench.keeper.turn(lost.plus(Duration::from_millis(1000)));
    assert_eq!(state(&bench), "paused");
    hear_guard(&mut bench, true);
    bench.settle();
    assert_eq!(state(&bench), "starting");
    assert_eq!(on_record(&bench, recording), (vec![0, 1, 2, 3], vec![2]));
}

impl Bench {
    /// The receiver asks for `action`, and what it is answered once nothing is left to do.
    fn command(&mut self, action: Commanded, at: Monotonic) -> Answer {
        let (offers, mut offered) = tokio::sync::mpsc::channel(64);
        self.keeper.parts.offers = Some(offers);
        let command = crate::uplink::Command { id: 7, action };
        self.keeper
            .handle(Input::Report(Report::Command { command, at }));
        self.settle();
        self.keeper.parts.offers = None;
        let mut answers =
            std::iter::from_fn(|| offered.try_recv().ok()).filter_map(|offer| match offer {
                Offer::Answer(answer) => Some(answer),
                _ => None,
            });
        let answer = answers.next().expect("every command is answered");
        assert!(answers.next().is_none() && answer.id == 7, "once");
        answer
    }

    fn refused(&mut self, action: Commanded) -> String {
        let answer = self.command(action, clock::now());
        answer.refused.expect("it is refused")
    }
}

#[test]
fn the_receiver_commands_nothing_that_the_settings_do_not_allow() {
    let mut bench = Bench::open(tempfile::tempdir().unwrap(), 1);
    for action in [
        Commanded::Start,
        Commanded::Stop,
        Commanded::Pause,
        Commanded::Resume,
        Commanded::Mark,
        Commanded::Identify,
    ] {
        let why = bench.refused(action);
        assert!(why.contains("recording.network-commands"), "{why}");
    }
    assert_eq!(bench.running(), None);
    assert!(
        bench
            .refused(Commanded::Other(99))
            .contains("no command 99")
    );
    // What is allowed says nothing about the rest.
    bench.keeper.parts.network_commands = vec![NetworkCommand::Start];
    assert_eq!(bench.command(Commanded::Start, clock::now()).refused, None);
    assert!(bench.refused(Commanded::Stop).contains("add \"stop\""));
    assert!(bench.running().is_some());
}

#[test]
fn what_the_receiver_starts_and_stops_says_so() {
    let mut bench = Bench::open(tempfile::tempdir().unwrap(), 1);
    bench.keeper.parts.network_commands = vec![
        NetworkCommand::Start,
        NetworkCommand::Stop,
        NetworkCommand::Mark,
    ];
    let now = clock::now();
    assert_eq!(bench.refused(Commanded::Stop), "not recording");
    let recording = bench.command(Commanded::Start, now).recording.unwrap();
    assert_eq!(bench.running(), Some(recording));
    assert_eq!(bench.refused(Commanded::Start), "already recording");
    assert_eq!(
        bench.command(Commanded::Mark, now).recording,
        Some(recording)
    );
    let stopped = bench.command(Commanded::Stop, now);
    assert_eq!(
        (stopped.refused, stopped.recording),
        (None, Some(recording))
    );
    assert_eq!(bench.end_of(recording), Some(StopReason::Network));
    let facts = bench.facts(recording);
    let started = |fact: &Fact| {
        let by = StartedBy::Network;
        matches!(&fact.event, Event::Started { by: who, .. } if *who == by)
    };
    assert!(facts.iter().any(started), "{facts:?}");
    assert!(facts.iter().any(|fact| fact.event == Event::Mark));
}

#[test]
fn a_command_that_waited_for_too_long_is_not_carried_out() {
    let mut bench = Bench::open(tempfile::tempdir().unwrap(), 1);
    bench.keeper.parts.network_commands = vec![NetworkCommand::Start];
    // When the machine booted.
    let answer = bench.command(Commanded::Start, Monotonic::default());
    assert!(answer.refused.unwrap().contains("held up"));
    assert_eq!(bench.running(), None);
}

#[test]
fn the_lamp_shows_which_box_it_is_only_where_nothing_else_is_to_be_said() {
    let mut bench = Bench::open(tempfile::tempdir().unwrap(), 1);
    bench.keeper.parts.network_commands = vec![NetworkCommand::Identify];
    let now = clock::now();
    assert_eq!(bench.refused(Commanded::Identify), "this box has no lamp");
    bench.keeper.parts.lamp_needed = Some(false);
    assert_eq!(bench.command(Commanded::Identify, now).refused, None);
    let lamp = |bench: &Bench, seconds| {
        let at = clock::now().plus(Duration::from_secs(seconds));
        bench.keeper.lamp(at)
    };
    assert_eq!(lamp(&bench, 5), Lamp::TripleBlink);
    assert_eq!(lamp(&bench, 11), Lamp::Off);
    bench.start();
    assert_ne!(lamp(&bench, 0), Lamp::TripleBlink);
    assert!(
        bench
            .refused(Commanded::Identify)
            .contains("its lamp shows")
    );
}
