//! True power cuts: the rig's guest records onto an ext4 disk of its own and is killed from the host,
//! with everything that its kernel had not written yet.
//!
//! What was captured is known from outside: the guest says its monotonic clock all the time, so the
//! host knows the instant of the cut; the pictures carry the instant at which they were captured.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]
#![cfg(all(feature = "software", feature = "receiver"))]

#[path = "power_cut/guest.rs"]
mod guest;
mod support;

use hallcast::clock;
use hallcast::media::{Monotonic, TrackId};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::chance::{Chance, Excuses, Stalls, spread};
use support::programs::{alone, run, soak};
use support::rig::{self, Guest, SKIP};
use support::timeline::{Span, spans};

/// What a power cut may take from the end of a recording.
const PROMISE: Duration = Duration::from_secs(1);
/// Where the guest's disk is mounted.
const DISK: &str = "/run/disk";
/// How often the guest says its clock.
const BEAT: Duration = Duration::from_millis(10);
/// By how much a beat is late at least where the machine stood still: nothing that runs in the guest keeps
/// a sleeper waiting for so long.
const STALL: Duration = Duration::from_millis(20);
/// The power goes so long after the box records again, at most.
const LATEST: Duration = Duration::from_secs(12);
/// Or, now and then, between so long and so long after the guest is up, whether it does or not.
const EARLY: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(1500)];

const PRESENTER: TrackId = TrackId(1);
const SLIDES: TrackId = TrackId(2);
const MICROPHONE: TrackId = TrackId(3);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder that the guest can write to.
fn results() -> tempfile::TempDir {
    let folder = tempfile::Builder::new()
        .prefix("hallcast")
        .tempdir_in("/tmp");
    folder.unwrap()
}

/// A board with a moving picture, a still one, sound, or some of them; and settings by which the spool
/// begins a file every few seconds.
fn board(results: &Path, tracks: &[TrackId]) {
    let still = results.join("still.yuv");
    // A slide: dark text on light ground, as far as an encoder can tell.
    let luma: Vec<u8> = (0..320 * 180)
        .map(|n| if n / 7 % 3 == 0 { 60 } else { 200 })
        .collect();
    fs::write(&still, [luma, vec![128; 320 * 180 / 2]].concat()).unwrap();
    let mut words = String::from("schema = 1\nname = \"board\"\n[panel.simulated]\n");
    let size = "width = 320\nheight = 180\nrate = \"30\"\n";
    for track in tracks {
        words += &match *track {
            PRESENTER => format!("[presenter.pattern]\n{size}"),
            SLIDES => format!("[slides.replay]\nfile = \"{}\"\n{size}", still.display()),
            _ => "[microphone.tone]\n".to_owned(),
        };
    }
    fs::write(results.join("board.toml"), words).unwrap();
    let settings = "[spool]\nfile-kibibytes = 256\n";
    fs::write(results.join("box.toml"), settings).unwrap();
}

/// An empty disk for a guest: sparse.
fn disk(results: &Path, bytes: u64) -> PathBuf {
    let disk = results.join("disk");
    let file = fs::File::create(&disk).unwrap();
    file.set_len(bytes).unwrap();
    run("mkfs.ext4", &["-q", "-F", "-J", "size=16", text(&disk)]);
    disk
}

/// When the power goes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the guest is up: the box may not record yet.
    Early(Duration),
    /// So long after the box records again.
    After(Duration),
    /// Right after the box's spool has begun or let go a file: this word, and so long.
    Upon(&'static str, Duration),
}

/// A random instant after the box records again, among `all` of which this is the one with number `n`:
/// most of them are early and some up to [`LATEST`].
fn after(n: u64, all: u64, chance: &mut Chance) -> Moment {
    let of = (n as f64 + chance.below(1000) as f64 / 1000.0) / all as f64;
    Moment::After(LATEST.mul_f64(of.powf(2.5)))
}

/// `random` instants, in any order, and some early ones among them; then, for each word of the guest's in
/// `upon`, one right after it.
fn moments(random: u64, upon: &[&'static str], chance: &mut Chance) -> VecDeque<Moment> {
    let mut instants: Vec<Moment> = (0..random).map(|n| after(n, random, chance)).collect();
    let [from, to] = EARLY;
    instants.extend((0..random.div_ceil(15)).map(|_| {
        let more = chance.within((to - from).as_millis() as u64);
        Moment::Early(from + more)
    }));
    for n in (1..instants.len()).rev() {
        instants.swap(n, chance.below(n as u64 + 1) as usize);
    }
    let events = upon
        .iter()
        .map(|word| Moment::Upon(word, chance.within(60)));
    let events: Vec<Moment> = events.collect();
    instants.into_iter().chain(events).collect()
}

/// One power cut, on the guest's own clock.
struct Cut {
    at: Monotonic,
    /// How long the guest had been up.
    up: Duration,
    /// The span that was being recorded, its epoch, and when it began.
    span: Option<(u32, u64, Monotonic)>,
    /// Until when a beat was late, and by how much, where the machine stood still.
    late: Vec<(Monotonic, Duration)>,
    /// How long before, on the host's clock, the spool had begun and had let go a file.
    since: BTreeMap<&'static str, Duration>,
}

impl Cut {
    /// How long the machine stood still in so long before the cut, by the guest's own beats.
    fn stood(&self, before: Duration) -> Duration {
        let from = self.at.minus(before);
        let within =
            |(until, late): &(Monotonic, Duration)| until.since(until.minus(*late).max(from));
        self.late.iter().map(within).sum()
    }

    /// Whether the machine stood still shortly before: then it may show nothing, and there is another.
    fn is_doubtful(&self) -> bool {
        !self.stood(2 * PROMISE).is_zero()
    }

    /// Gives what the cut took of what reached to these ends; fails when it took more than the promise
    /// of one. None when that is no more than the machine itself stood still in that time: it is void.
    fn judge<const N: usize>(&self, ends: [Monotonic; N]) -> Option<[Duration; N]> {
        let losses = ends.map(|end| self.at.since(end));
        let worst = losses.iter().max().copied().unwrap_or_default();
        let Some(over) = worst.checked_sub(PROMISE).filter(|over| !over.is_zero()) else {
            return Some(losses);
        };
        let (stood, up) = (self.stood(worst), self.up);
        assert!(
            over <= stood,
            "a power cut {up:?} after the guest was up took {worst:?}, promised {PROMISE:?}; the machine stood still {stood:?}"
        );
        println!(
            "void: {up:?} after the guest was up, {worst:?}; the machine stood still {stood:?}"
        );
        None
    }
}

/// What a guest said, up to its end: when its power was cut, and in which span.
fn cut(
    (struck, said): (Monotonic, Vec<(Monotonic, String)>),
    recording: &mut Option<String>,
) -> Cut {
    let (mut now, mut heard, mut span) = (Monotonic::from_nanos(0), struck, None);
    let (mut up, mut since, mut late) = (struck, BTreeMap::new(), Vec::new());
    let mut beat = |until: Monotonic, took: Duration| {
        let by = took.saturating_sub(BEAT);
        if by >= STALL {
            late.push((until, by));
        }
    };
    for (arrived, line) in &said {
        if let Some(nanos) = line.strip_prefix("now ") {
            // The power may have gone in the middle of a line.
            if let Ok(nanos) = nanos.parse::<u64>()
                && nanos >= now.as_nanos()
            {
                let next = Monotonic::from_nanos(nanos);
                if now.as_nanos() > 0 {
                    beat(next, next.since(now));
                }
                (now, heard) = (next, *arrived);
            }
        } else if let Some(words) = line.strip_prefix("span ") {
            let mut words = words.split(' ');
            let (id, epoch, number) = (words.next(), words.next(), words.next());
            let same = recording.get_or_insert_with(|| id.unwrap().to_owned());
            assert_eq!(id, Some(same.as_str()), "the same recording goes on");
            if let Some(Ok(number)) = number.map(str::parse) {
                span = Some((number, epoch.unwrap().parse().unwrap(), now));
            }
        } else if line == "up" {
            up = *arrived;
        } else {
            for word in [BEGUN, FREED] {
                if line.starts_with(word) {
                    since.insert(word, struck.since(*arrived));
                }
            }
        }
    }
    // What it might still have captured after its last word.
    let after = struck.since(heard).min(PROMISE);
    let at = now.plus(after);
    beat(at, after);
    Cut {
        at,
        up: struck.since(up),
        span,
        late,
        since,
    }
}

const BEGUN: &str = "begun";
const FREED: &str = "freed";

/// Cuts the power at `wanted` random moments, and upon some words, during one recording; gives the cuts and
/// the spans that came through. Where the machine stood still, and where a word was not heard, there is
/// another cut, half as many more at most.
fn cuts(
    name: &str,
    wanted: u64,
    upon: &[&'static str],
    chance: &mut Chance,
    results: &Path,
) -> Option<(Vec<Cut>, Vec<Span>)> {
    // Small enough that the box lets go what the receiver has.
    let disk = disk(results, 512 << 20);
    let (mut found, mut recording, mut boots) = (Vec::new(), None, Vec::new());
    let (mut moments, mut spare) = (moments(wanted, upon, chance), wanted / 2);
    let mut n = 0;
    while let Some(moment) = moments.pop_front() {
        let booted = clock::now();
        // Now and then the receiver is away, and the next boot has what waits to send, too.
        n += 1;
        let alone = n % 4 == 2 && !matches!(moment, Moment::Upon(..));
        let task = if alone { "cut alone" } else { "cut" };
        let mut guest = Guest::boot(name, task, results, &disk)?;
        guest.wait_for("up", 600);
        boots.push(clock::now().since(booted));
        let mut again = None;
        match moment {
            Moment::Early(time) => clock::sleep(time),
            Moment::After(time) => {
                let began = guest.heard("span ", 60);
                clock::sleep_until(began.plus(time));
            }
            Moment::Upon(word, time) => {
                guest.heard("span ", 60);
                // The first file of a span is no news.
                clock::sleep(Duration::from_millis(1500));
                guest.catch_up();
                if guest.hear(word, LATEST).is_none() {
                    again = Some(moment);
                }
                clock::sleep(time);
            }
        }
        let cut = cut(guest.cut(), &mut recording);
        if again.is_none() && cut.is_doubtful() && !matches!(moment, Moment::Early(_)) {
            again = Some(after(chance.below(wanted), wanted, chance));
        }
        if let Some(moment) = again.filter(|_| spare > 0) {
            spare -= 1;
            moments.push_back(moment);
        }
        found.push(cut);
    }
    Guest::boot(name, "deliver", results, &disk)?.finish();
    println!(
        "{} power cuts; a boot takes {:?} ms (least, median, most)",
        found.len(),
        spread(&boots)
    );
    let mut ups: Vec<Duration> = found.iter().map(|cut| cut.up).collect();
    ups.sort_unstable();
    println!("after the guest was up: {ups:.1?}");
    for word in [BEGUN, FREED] {
        let since = |cut: &&Cut| {
            cut.since
                .get(word)
                .is_some_and(|since| since.as_millis() < 500)
        };
        let near = found.iter().filter(since).count();
        println!("within 500 ms after a file of the spool was {word}: {near} cuts");
    }
    let spans = spans(&results.join("archive"), Monotonic::from_nanos(0));
    Some((found, spans))
}

/// How many times fall into each tenth of a second: "0.3 s: 5, 0.4 s: 7".
fn tenths(times: &[Duration]) -> String {
    let mut counted: BTreeMap<u128, usize> = BTreeMap::new();
    for time in times {
        *counted.entry(time.as_millis() / 100).or_default() += 1;
    }
    let each = counted.iter();
    let each = each.map(|(tenth, count)| format!("{}.{} s: {count}", tenth / 10, tenth % 10));
    each.collect::<Vec<_>>().join(", ")
}

#[test]
fn a_power_cut_costs_at_most_the_last_second_of_moving_and_still_pictures_and_sound() {
    let name = "a_power_cut_costs_at_most_the_last_second_of_moving_and_still_pictures_and_sound";
    if let Some(results) = rig::inside() {
        return guest::work(&results);
    }
    let _alone = alone();
    let results = results();
    board(results.path(), &[PRESENTER, SLIDES, MICROPHONE]);
    let mut chance = Chance::new(name);
    let stalls = Stalls::watch();
    let times = soak(30, 200);
    let upon = [BEGUN, FREED, BEGUN, FREED, BEGUN, FREED];
    let cuts = cuts(name, times, &upon, &mut chance, results.path());
    let Some((cuts, spans)) = cuts else {
        return;
    };
    let mut losses: BTreeMap<TrackId, Vec<Duration>> = BTreeMap::new();
    let (mut early, mut void, mut judged, mut at_a_seal) = (0, 0, 0, 0);
    for cut in &cuts {
        let Some((number, epoch, began)) = cut.span else {
            early += 1;
            continue;
        };
        let same = |span: &&Span| (span.number, span.epoch) == (number, epoch);
        let span = spans.iter().find(same);
        let tracks = [PRESENTER, SLIDES, MICROPHONE];
        let ends = tracks.map(|track| span.and_then(|span| span.end_of(track)).unwrap_or(began));
        let Some(lost) = cut.judge(ends) else {
            void += 1;
            continue;
        };
        judged += 1;
        // Pictures' segments end every two seconds.
        at_a_seal += usize::from(cut.at.since(began).as_millis() % 2000 < 250);
        for (track, loss) in tracks.into_iter().zip(lost) {
            losses.entry(track).or_default().push(loss);
        }
    }
    println!(
        "{} spans; {judged} cuts judged, {void} void, {early} before the box recorded again, {at_a_seal} within 250 ms after a segment's end",
        spans.len()
    );
    for (track, what) in [
        (PRESENTER, "moving"),
        (SLIDES, "still"),
        (MICROPHONE, "sound"),
    ] {
        let (least, median, most) = spread(&losses[&track]);
        println!(
            "taken by a power cut, {what}: least {least}, median {median}, most {most} ms ({})",
            tenths(&losses[&track])
        );
    }
    let (stood, longest) = stalls.summary();
    println!("the machine stood still for 20 ms or more {stood} times, at most {longest:?}");
    assert!(
        judged >= times as usize + upon.len(),
        "{judged} of {} cuts are judged: the machine stood still in {void}",
        cuts.len()
    );
    let near = |word| {
        cuts.iter()
            .filter(|cut| {
                cut.since
                    .get(word)
                    .is_some_and(|since| since.as_millis() < 500)
            })
            .count()
    };
    assert!(
        near(BEGUN) >= 3 && near(FREED) >= 3,
        "files begin and leave, and the power goes then"
    );
}

#[test]
fn a_still_slide_with_nothing_beside_it_loses_no_more() {
    let name = "a_still_slide_with_nothing_beside_it_loses_no_more";
    if let Some(results) = rig::inside() {
        return guest::work(&results);
    }
    let _alone = alone();
    let results = results();
    board(results.path(), &[SLIDES]);
    let mut chance = Chance::new(name);
    let times = soak(8, 100);
    let cuts = cuts(name, times, &[], &mut chance, results.path());
    let Some((cuts, spans)) = cuts else {
        return;
    };
    let (mut losses, mut void) = (Vec::new(), 0);
    for cut in &cuts {
        let Some((number, epoch, began)) = cut.span else {
            continue;
        };
        let same = |span: &&Span| (span.number, span.epoch) == (number, epoch);
        let still = spans
            .iter()
            .find(same)
            .and_then(|span| span.tracks.get(&SLIDES));
        // No picture tells its time here: the span begins where the box says that it does.
        let end = still.map_or(0, |extent| extent.end.max(0) as u64);
        let end = began.plus(Duration::from_nanos(end));
        let lost = cut.judge([end]);
        void += usize::from(lost.is_none());
        losses.extend(lost.into_iter().flatten());
    }
    println!(
        "taken by a power cut, a still slide alone: {:?} ms (least, median, most; {}); {void} void",
        spread(&losses),
        tenths(&losses)
    );
    assert!(
        losses.len() >= times as usize,
        "{} of {} cuts are judged: the machine stood still in {void}",
        losses.len(),
        cuts.len()
    );
}

/// The time of NTP in a first boot, in seconds since 1970.
const THEN: i64 = 1_795_000_000;

/// What became of one recording with one power cut.
struct Away {
    manifest: Value,
    /// How long the box was away by the test's own reckoning, where the clocks tell it.
    truth: Option<Duration>,
    /// What the second guest said.
    said: Vec<String>,
}

impl Away {
    /// The rest of the second guest's line that begins with this word.
    fn told(&self, word: &str) -> &str {
        let found = self.said.iter().find_map(|line| line.strip_prefix(word));
        found.unwrap_or_default()
    }

    /// The gap before the second span as the manifest has it, and how far off it may be.
    fn gap(&self) -> Option<(Duration, Duration)> {
        let span = &self.manifest["spans"][1];
        let nanos = |name: &str| Some(Duration::from_nanos(span[name].as_u64()?));
        Some((nanos("away_ns")?, nanos("away_uncertainty_ns")?))
    }
}

/// One recording with one power cut: the clocks as the two boots are told.
fn away(name: &str, first: &str, second: &str) -> Option<Away> {
    let results = results();
    board(results.path(), &[PRESENTER, MICROPHONE]);
    // A small one would make the box free what the receiver has.
    let disk = disk(results.path(), 16 << 30);
    let mut guest = Guest::boot(name, first, results.path(), &disk)?;
    guest.wait_for("up", 600);
    if first.contains("ntp=") {
        guest.wait_for("clock", 60);
    }
    clock::sleep(Duration::from_secs(2));
    let (_, said) = guest.cut();
    // What was UTC at an instant of a boot, in the end.
    let clock = |said: &[(Monotonic, String)]| -> Option<(i64, i64)> {
        let mut lines = said.iter().rev();
        let words = lines.find_map(|(_, line)| line.strip_prefix("clock "))?;
        let (now, wall) = words.split_once(' ').unwrap();
        Some((now.parse().unwrap(), wall.parse().unwrap()))
    };
    let before = clock(&said);
    let booted = clock::now();
    let guest = Guest::boot(name, second, results.path(), &disk)?;
    let said = guest.finish();
    println!(
        "the second boot took {:.0?} of the host's time",
        clock::now().since(booted)
    );
    let after = clock(&said);
    let spans = spans(&results.path().join("archive"), Monotonic::from_nanos(0));
    assert_eq!(spans.len(), 2, "one recording of two spans");
    let ends = [PRESENTER, MICROPHONE].map(|track| spans[0].end_of(track));
    let (end, begin) = (ends.into_iter().max().flatten(), spans[1].begin());
    let utc = |at: Option<Monotonic>, clock: Option<(i64, i64)>| {
        let (now, wall) = clock?;
        Some(at?.as_nanos() as i64 - now + wall)
    };
    let truth = utc(begin, after).zip(utc(end, before));
    let truth = truth.map(|(begin, end)| Duration::from_nanos((begin - end).max(0) as u64));
    let manifest = fs::read(results.path().join("archive/manifest.json")).unwrap();
    Some(Away {
        manifest: serde_json::from_slice(&manifest).unwrap(),
        truth,
        said: said.into_iter().map(|(_, line)| line).collect(),
    })
}

#[test]
fn a_gap_is_amended_once_the_clock_is_known_and_ends_what_was_away_for_too_long() {
    let name = "a_gap_is_amended_once_the_clock_is_known_and_ends_what_was_away_for_too_long";
    if let Some(results) = rig::inside() {
        return guest::work(&results);
    }
    let _alone = alone();
    // Offline from 1970 on, UTC a second into the recording, the power gone for some minutes, 1970 again,
    // and UTC only ten minutes later (or after one and a half).
    let first = format!("cut alone clock=60 ntp=1:{THEN}");
    for (minutes, unknown, over, ended_by) in
        [(9, 600, "", "socket"), (13, 90, " over", "away-too-long")]
    {
        let utc = THEN + minutes * 60 + unknown;
        let second = format!("deliver {SKIP} clock=60 ntp={unknown}:{utc}{over}");
        let Some(away) = away(name, &first, &second) else {
            return;
        };
        let (gap, error) = away.gap().expect("the gap is known in the end");
        let truth = away.truth.unwrap();
        println!(
            "1970, and UTC {unknown} s into the recording: away for {:.2} s, the manifest says {:.2} s +- {:.3} s; {}; ended by {}; alarms before:{}, after:{}",
            truth.as_secs_f64(),
            gap.as_secs_f64(),
            error.as_secs_f64(),
            away.told("objects"),
            away.manifest["ended_by"],
            away.told("unknown"),
            away.told("alarms")
        );
        assert!(gap.abs_diff(truth) <= error + Duration::from_millis(100));
        assert!(error < Duration::from_millis(200));
        assert_eq!(away.manifest["ended_by"], ended_by);
        assert_eq!(
            away.told("alarms").contains("away-too-long"),
            !over.is_empty()
        );
        assert!(away.told("unknown").contains("clock-unknown"));
        assert!(!away.told("alarms").contains("clock-unknown"));
    }
    // UTC was never known before the cut: nobody can say how long it was, and nobody claims to.
    let second = format!("deliver clock=60 ntp=5:{THEN}");
    let Some(away) = away(name, "cut alone clock=60", &second) else {
        return;
    };
    println!(
        "UTC unknown before the cut, known after: {}",
        away.manifest["spans"]
    );
    assert_eq!(away.gap(), None);
    assert_eq!(away.manifest["ended_by"], "socket");
}

#[test]
fn an_excuse_is_for_a_stall_only_and_seldom_and_short() {
    let ms = Duration::from_millis;
    let fails = |excuses: &mut Excuses, took: u64, stood: u64| {
        let judged = std::panic::AssertUnwindSafe(|| {
            excuses.judge("a trial", ms(took), ms(1000), ms(stood));
        });
        std::panic::catch_unwind(judged).is_err()
    };
    let mut excuses = Excuses::among(20);
    assert!(!fails(&mut excuses, 1000, 0));
    assert!(fails(&mut excuses, 1001, 0), "nothing stood still");
    assert!(fails(&mut excuses, 1200, 199), "not for so long");
    assert!(fails(&mut excuses, 1501, 9000), "too much at once");
    assert!(!fails(&mut excuses, 1500, 500));
    assert!(!fails(&mut excuses, 1001, 500));
    assert_eq!(
        excuses.to_string(),
        "2 excused (at most 2 may be), 500ms at most"
    );
    assert!(fails(&mut excuses, 1001, 500), "the third of twenty");
}
