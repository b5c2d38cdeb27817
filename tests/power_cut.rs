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
use std::collections::BTreeMap;
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
/// The power goes between so long and so long after the guest is up.
const EARLIEST: Duration = Duration::from_millis(300);
const LATEST: Duration = Duration::from_secs(12);

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
    /// So long after the guest is up.
    After(Duration),
    /// Right after the box's spool has begun or let go a file: this word, and so long.
    Upon(&'static str, Duration),
}

/// `random` instants, most of them early and some up to [`LATEST`], in any order; then, for each word
/// of the guest's in `upon`, one right after it.
fn moments(random: u64, upon: &[&'static str], chance: &mut Chance) -> Vec<Moment> {
    let mut instants: Vec<Moment> = (0..random)
        .map(|n| {
            let of = (n as f64 + chance.below(1000) as f64 / 1000.0) / random as f64;
            Moment::After(EARLIEST + (LATEST - EARLIEST).mul_f64(of.powf(2.5)))
        })
        .collect();
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
    /// The same instant on the host's clock.
    struck: Monotonic,
    /// How long the guest had been up.
    up: Duration,
    /// The span that was being recorded, its epoch, and when it began.
    span: Option<(u32, u64, Monotonic)>,
    /// How long before, on the host's clock, the spool had begun and had let go a file.
    since: BTreeMap<&'static str, Duration>,
}

impl Cut {
    /// Fails when the cut took more than the promise from what reached to the first of these ends, but
    /// for what the host itself stood still in that time. Gives what it took of each.
    fn judge<const N: usize>(
        &self,
        ends: [Monotonic; N],
        stalls: &Stalls,
        excuses: &mut Excuses,
    ) -> [Duration; N] {
        let losses = ends.map(|end| self.at.since(end));
        let worst = losses.iter().max().copied().unwrap_or_default();
        let stood = stalls.between(self.struck.minus(worst), self.struck);
        let what = format!("a power cut {:?} after the guest was up", self.up);
        excuses.judge(&what, worst, PROMISE, stood);
        losses
    }
}

/// What a guest said, up to its end: when its power was cut, and in which span.
fn cut(
    (struck, said): (Monotonic, Vec<(Monotonic, String)>),
    recording: &mut Option<String>,
) -> Cut {
    let (mut now, mut heard, mut span) = (Monotonic::from_nanos(0), struck, None);
    let (mut up, mut since) = (struck, BTreeMap::new());
    for (arrived, line) in &said {
        if let Some(nanos) = line.strip_prefix("now ") {
            // The power may have gone in the middle of a line.
            if let Ok(nanos) = nanos.parse::<u64>()
                && nanos >= now.as_nanos()
            {
                (now, heard) = (Monotonic::from_nanos(nanos), *arrived);
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
    Cut {
        // What it might still have captured after its last word.
        at: now.plus(struck.since(heard).min(PROMISE)),
        struck,
        up: struck.since(up),
        span,
        since,
    }
}

const BEGUN: &str = "begun";
const FREED: &str = "freed";

/// Cuts the power at these moments during one recording; gives the cuts and the spans that came through.
fn cuts(name: &str, moments: &[Moment], results: &Path) -> Option<(Vec<Cut>, Vec<Span>)> {
    // Small enough that the box lets go what the receiver has.
    let disk = disk(results, 512 << 20);
    let (mut found, mut recording, mut boots) = (Vec::new(), None, Vec::new());
    for (n, moment) in moments.iter().enumerate() {
        let booted = clock::now();
        // Now and then the receiver is away, and the next boot has what waits to send, too.
        let task = if n % 4 == 2 { "cut alone" } else { "cut" };
        let mut guest = Guest::boot(name, task, results, &disk)?;
        guest.wait_for("up", 600);
        let up = clock::now();
        boots.push(up.since(booted));
        match *moment {
            Moment::After(time) => clock::sleep_until(up.plus(time)),
            Moment::Upon(word, time) => {
                // The first file of a span is no news.
                clock::sleep(Duration::from_millis(2500));
                guest.catch_up();
                guest.hear(word, LATEST);
                clock::sleep(time);
            }
        }
        found.push(cut(guest.cut(), &mut recording));
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
    let moments = moments(times, &upon, &mut chance);
    let Some((cuts, spans)) = cuts(name, &moments, results.path()) else {
        return;
    };
    let mut losses: BTreeMap<TrackId, Vec<Duration>> = BTreeMap::new();
    let (mut early, mut at_a_seal) = (0, 0);
    let mut excuses = Excuses::among(times);
    for cut in &cuts {
        let Some((number, epoch, began)) = cut.span else {
            early += 1;
            continue;
        };
        let same = |span: &&Span| (span.number, span.epoch) == (number, epoch);
        let span = spans.iter().find(same);
        // Pictures' segments end every two seconds.
        at_a_seal += usize::from(cut.at.since(began).as_millis() % 2000 < 250);
        let tracks = [PRESENTER, SLIDES, MICROPHONE];
        let ends = tracks.map(|track| span.and_then(|span| span.end_of(track)).unwrap_or(began));
        let lost = cut.judge(ends, &stalls, &mut excuses);
        for (track, loss) in tracks.into_iter().zip(lost) {
            losses.entry(track).or_default().push(loss);
        }
    }
    println!(
        "{} spans; {early} cuts came before the box recorded again, {at_a_seal} within 250 ms after a segment's end",
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
    println!(
        "the machine stood still for 50 ms or more {stood} times, at most {longest:?}; {excuses}"
    );
    assert!(
        early < cuts.len() / 3,
        "{early} of {} cuts were early",
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
    let stalls = Stalls::watch();
    let times = soak(8, 100);
    let moments = moments(times, &[], &mut chance);
    let Some((cuts, spans)) = cuts(name, &moments, results.path()) else {
        return;
    };
    let mut losses = Vec::new();
    let mut excuses = Excuses::among(times);
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
        losses.extend(cut.judge([end], &stalls, &mut excuses));
    }
    println!(
        "taken by a power cut, a still slide alone: {:?} ms (least, median, most; {}); {excuses}",
        spread(&losses),
        tenths(&losses)
    );
    assert!(losses.len() >= cuts.len() / 2, "{} judged", losses.len());
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
