//! The whole road from real Linux drivers: the real programs with vivid and snd-aloop, in the rig's
//! guest; what they archive is judged on the host, by ffprobe and ffmpeg.
//!
//! Each test here starts itself again inside the guest, records there, and leaves films and figures
//! in a folder below /tmp.
//!
//! Longer than most files: each trouble of a device is set up, recorded through and judged here.
// An unwrap in a helper of a test is its assertion.
#![allow(clippy::unwrap_used)]
#![cfg(all(
    feature = "v4l2",
    feature = "alsa",
    feature = "software",
    feature = "receiver"
))]

#[path = "devices/ports.rs"]
mod ports;
#[path = "devices/silence.rs"]
mod silence;
#[path = "devices/steps.rs"]
mod steps;
mod support;

use hallcast::clock;
use serde_json::{Value, json};
use std::f64::consts::TAU;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use support::archive::{alarms, assert_archive_is_the_spool};
use support::film::{Film, RATE, frequency_hz};
use support::programs::{BOX, CaptureBox, Receiver, alone, outcome, pause, run, soak, wait_until};
use support::rig;

const CAMERA: &str = "/dev/video0";
const BY_PATH: &str = "/dev/v4l/by-path/platform-vivid.0-video-index0";
const SPEAKER: &str = "hw:Loopback,0";
const MICROPHONE: &str = "hw:Loopback,1";

// ---- in the guest ----

/// A process that ends with the value.
struct Process(Child);

impl Process {
    fn start(program: &str, arguments: &[&str], errors: Stdio) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("{program}: {error}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Plays 440 Hz into the loopback.
struct Tone {
    _player: Process,
    log: PathBuf,
}

impl Tone {
    /// How often the player fell behind, as it says: a guest whose host stops it for longer than the
    /// player's buffer lasts has silence to record.
    fn underruns(&self) -> usize {
        let log = fs::read_to_string(&self.log).unwrap();
        log.matches("underrun").count()
    }
}

/// Plays the tone, for at most `seconds`.
fn play(home: &Path, seconds: u64) -> Tone {
    let one_second: Vec<u8> = (0..RATE)
        .flat_map(|n| {
            let turns = f64::from(n * 440 % RATE) / f64::from(RATE);
            let sample = (8_000.0 * (TAU * turns).sin()) as i16;
            [sample.to_le_bytes(), sample.to_le_bytes()].concat()
        })
        .collect();
    let path = home.join("tone.raw");
    // 440 whole turns each second: the seconds join without a click.
    fs::write(&path, one_second.repeat(seconds as usize)).unwrap();
    let format = "-q -t raw -f S16_LE -c 2 -r 48000 --buffer-time=2000000 -D";
    let arguments: Vec<&str> = format.split(' ').collect();
    // Ahead of all else in the guest: where the player falls behind, there is silence to record.
    let log = home.join("tone.log");
    let player = Process::start(
        "nice",
        &[
            &["-n", "-20", "aplay"],
            &arguments[..],
            &[SPEAKER, path.to_str().unwrap()],
        ]
        .concat(),
        fs::File::create(&log).unwrap().into(),
    );
    Tone {
        _player: player,
        log,
    }
}

/// Plays the tone, and waits until the microphone, which nobody may have open, hears it.
fn tone(home: &Path, seconds: u64) -> Tone {
    let tone = play(home, seconds);
    let listen = "-q -t raw -f S16_LE -c 2 -r 48000 -d 1 -D".split(' ');
    let listen: Vec<&str> = listen.chain([MICROPHONE]).collect();
    wait_until(20, "the tone", || {
        // It is there when the whole second is loud: some sample of each 10 ms is.
        let heard = outcome("arecord", &listen).stdout;
        let loud = |pair: &[u8]| i16::from_le_bytes([pair[0], pair[1]]) > 4_000;
        heard.len() >= 100_000
            && heard
                .chunks(1920)
                .all(|block| block.chunks_exact(2).any(loud))
    });
    tone
}

/// A place that is no file of the host: its spool and store are as quick as the guest.
fn guest_home() -> PathBuf {
    let home = PathBuf::from("/dev/shm/hallcast");
    fs::create_dir_all(&home).unwrap();
    home
}

/// A board whose presenter is vivid, asked for this.
fn board(home: &Path, name: &str, asked: &str) -> String {
    let path = home.join(format!("{name}.toml"));
    let text = format!(
        "schema = 1\nname = \"{name}\"\n[presenter.v4l2]\ndevice = \"{BY_PATH}\"\n{asked}\n\
         [microphone.alsa]\ncard = \"Loopback\"\ndevice = 1\n[panel.simulated]\n"
    );
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn track<'a>(status: &'a Value, name: &str) -> &'a Value {
    let tracks = status["tracks"].as_array().unwrap();
    tracks.iter().find(|track| track["name"] == name).unwrap()
}

/// Leaves the film and the figures of a recording for the host.
fn leave(results: &Path, name: &str, receiver: &Receiver, recording: &str, figures: Value) {
    fs::copy(
        receiver.film(recording),
        results.join(format!("{name}.mp4")),
    )
    .unwrap();
    let text = serde_json::to_vec_pretty(&figures).unwrap();
    fs::write(results.join(format!("{name}.json")), text).unwrap();
}

/// Records for `seconds` and leaves what came of it; the box records everything it has. Where the
/// player fell behind, the sound says nothing of the box, and it is done again, twice at most.
fn record(
    results: &Path,
    name: &str,
    receiver: &Receiver,
    capture_box: &CaptureBox,
    tone: &Tone,
    seconds: u64,
) {
    for _ in 0..3 {
        let before = tone.underruns();
        record_once(results, name, receiver, capture_box, seconds);
        if tone.underruns() == before {
            return;
        }
        println!("{name}: the player fell behind: once more");
    }
}

fn record_once(
    results: &Path,
    name: &str,
    receiver: &Receiver,
    capture_box: &CaptureBox,
    seconds: u64,
) {
    wait_until(20, "both devices", || {
        let status = capture_box.status();
        ["presenter", "microphone"]
            .iter()
            .all(|name| track(&status, name)["open"] == true)
    });
    let asked = clock::now();
    let recording = capture_box.record();
    pause(seconds);
    assert_eq!(capture_box.stop(), recording);
    let took = clock::now().since(asked);
    let status = capture_box.status();
    let manifest = receiver.wait_complete(&recording, 60);
    let objects = assert_archive_is_the_spool(receiver, capture_box, &recording);
    let figures = json!({
        "asked_seconds": seconds, "most_seconds": took.as_secs_f64(), "objects": objects,
        "status": status, "manifest": manifest, "alarms": alarms(receiver, &recording),
    });
    leave(results, name, receiver, &recording, figures);
}

// ---- on the host ----

/// What a recording left.
struct Found {
    figures: Value,
    film: Film,
}

impl Found {
    fn open(results: &Path, name: &str) -> Self {
        let figures = fs::read(results.join(format!("{name}.json"))).unwrap();
        let film = Film::open(&results.join(format!("{name}.mp4")));
        film.assert_decodes();
        film.assert_moov_first();
        Self {
            figures: serde_json::from_slice(&figures).unwrap(),
            film,
        }
    }

    /// The track's segments follow each other without a hole; where the first starts and the last
    /// ends, in seconds, in the manifest.
    fn extent(&self, name: &str) -> Option<(f64, f64)> {
        let tracks = self.figures["manifest"]["tracks"].as_array().unwrap();
        let track = tracks.iter().find(|track| track["name"] == name)?;
        let segments = track["segments"].as_array().unwrap();
        let (first, mut end) = (&segments[0], None);
        for segment in segments {
            let start = segment["start"].as_u64().unwrap();
            assert_eq!(end.unwrap_or(start), start, "{name}: {segment}");
            end = Some(start + segment["duration"].as_u64().unwrap());
        }
        let scale = first["timescale"].as_f64().unwrap();
        let start = first["start"].as_f64().unwrap();
        Some((start / scale, end.unwrap() as f64 / scale))
    }

    /// The recording's gap for which the camera was away: where it starts and how long it is, in
    /// seconds. Any other may only be a short one in which the guest, of one CPU, stood still.
    fn camera_gap(&self) -> (f64, f64) {
        let gaps = self.figures["manifest"]["gaps"].as_array().unwrap();
        assert!(gaps.iter().all(|gap| gap["track"] == 1), "{gaps:?}");
        let (away, stalled): (Vec<_>, Vec<_>) = gaps
            .iter()
            .partition(|gap| gap["cause"] == "device-missing");
        let seconds = |gap: &Value, key: &str| gap[key].as_f64().unwrap() / 90_000.0;
        let stalls: f64 = stalled
            .iter()
            .map(|gap| seconds(gap, "duration"))
            .fold(0.0, |sum, gap| sum + gap);
        assert!(away.len() == 1 && stalls < 3.0, "{gaps:?}");
        println!("  beside it the guest stalled for {stalls:.2} s");
        (seconds(away[0], "start"), seconds(away[0], "duration"))
    }

    /// The sound is 440 Hz from end to end, but for its first and last 0.2 s; gives the frequency.
    /// Zero, and nothing said, when the player fell behind.
    fn assert_tone(&self) -> f64 {
        let microphone = track(&self.figures["status"], "microphone");
        if self.figures["underruns"].as_u64().is_some_and(|n| n > 0) {
            println!("the player fell behind: the tone is not judged; {microphone}");
            return 0.0;
        }
        let samples = self.film.samples();
        let margin = RATE as usize / 5;
        let inner = &samples[margin..samples.len() - margin];
        for (at, block) in inner.chunks_exact(RATE as usize / 50).enumerate() {
            let loudest = block.iter().map(|sample| sample.unsigned_abs()).max();
            assert!(
                (7_000..9_000).contains(&loudest.unwrap()),
                "{loudest:?} at {} ms; {microphone}",
                at * 20 + 200
            );
        }
        let hz = frequency_hz(inner);
        assert!((hz - 440.0).abs() <= 0.1, "{hz} Hz");
        hz
    }
}

/// Pictures per second as the settings text of `status` gives them: "... at 30/s, ...".
fn reported_rate(settings: &str) -> f64 {
    let (_, rest) = settings.split_once(" at ").expect(settings);
    let rate = rest.split_once("/s").expect(settings).0;
    let (num, den) = rate.split_once('/').unwrap_or((rate, "1"));
    num.parse::<f64>().unwrap() / den.parse::<f64>().unwrap()
}

/// A recording of camera and tone is what the grid says; `expected` begins the settings text.
fn assert_on_the_grid(results: &Path, name: &str, expected: &str) {
    let found = Found::open(results, name);
    let presenter = track(&found.figures["status"], "presenter");
    let microphone = track(&found.figures["status"], "microphone");
    let count = |of: &Value, key: &str| of[key].as_u64().unwrap();
    let settings = presenter["settings"].as_str().unwrap();
    assert!(settings.starts_with(expected), "{settings}");
    let rate = reported_rate(settings);

    let ticks = count(presenter, "ticks");
    let (start, end) = found.extent("presenter").unwrap();
    assert_eq!(start, 0.0);
    assert!(
        ((end * rate) - ticks as f64).abs() < 0.01,
        "{end} s, {ticks} ticks"
    );
    assert_eq!(found.film.pictures(), ticks, "one picture per tick");
    let least = found.figures["asked_seconds"].as_f64().unwrap() * rate;
    let most = found.figures["most_seconds"].as_f64().unwrap() * rate;
    assert!(
        (least - 1.0..=most + 1.0).contains(&(ticks as f64)),
        "{ticks} ticks, {least} to {most} expected"
    );
    let sound = found.film.sound_seconds() * rate;
    assert!(
        (sound - ticks as f64).abs() <= 1.0,
        "sound lasts {sound} ticks, pictures {ticks}"
    );
    let (sound_start, _) = found.extent("microphone").unwrap();
    assert!(
        sound_start.abs() * rate <= 1.0,
        "sound starts at {sound_start} s"
    );
    let hz = found.assert_tone();
    let (repeats, stills) = (count(presenter, "repeats"), found.film.stills());
    assert!(
        stills as u64 <= repeats,
        "{stills} stills, {repeats} repeats"
    );
    assert_eq!(found.figures["alarms"], json!([]));

    println!("{name}: {settings}");
    println!(
        "  pictures: {:.1} to {:.1} expected, {ticks} ticks, {} found, {stills} stills; {repeats} repeats, \
         {} drops, {} lost by the camera, {} dropped before the pacer",
        least,
        most,
        found.film.pictures(),
        count(presenter, "drops"),
        count(presenter, "lost"),
        count(presenter, "dropped"),
    );
    println!(
        "  sound: {sound:.2} ticks, {hz:.4} Hz, {} samples of silence put in, {} lost by the card",
        count(microphone, "silence"),
        count(microphone, "lost"),
    );
    println!(
        "  tick to decision (p50, p99, p99.9, worst): {} us; capture to RECEIVED (p50, p99, chunks): {} ms; \
         {} objects, each as in the spool",
        json!(["p50", "p99", "p999", "max"].map(|figure| &presenter["tick_lateness"][figure])),
        presenter["capture_to_received_ms"],
        found.figures["objects"],
    );
}

// ---- the tests ----

#[test]
fn a_lecture_from_real_drivers_is_what_the_grid_says() {
    let seconds = soak(20, 300);
    if let Some(results) = rig::inside() {
        let home = guest_home();
        let tone = tone(&home, 3 * seconds + 90);
        let receiver = Receiver::start(&home);
        let devices = ["--presenter", CAMERA, "--microphone", MICROPHONE];
        let devices = [&devices[..], &["--board", "bench"]].concat();
        let capture_box = CaptureBox::start(&home, "hall", Some(&receiver), &devices);
        record(&results, "720p30", &receiver, &capture_box, &tone, seconds);
        drop(capture_box);
        let asked = board(&home, "small", "width = 640\nheight = 360\nrate = \"25\"");
        let capture_box = CaptureBox::start(&home, "small", Some(&receiver), &["--board", &asked]);
        record(&results, "360p25", &receiver, &capture_box, &tone, 5);
        return;
    }
    let _alone = alone();
    let results = tempfile::tempdir_in("/tmp").unwrap();
    let name = "a_lecture_from_real_drivers_is_what_the_grid_says";
    if rig::ran_in_the_guest(name, 3 * seconds + 150, results.path()) {
        assert_on_the_grid(results.path(), "720p30", "1280x720 ");
        assert_on_the_grid(results.path(), "360p25", "640x360 ");
    }
}

/// A device that cannot be had, and what people are told.
struct Trouble<'a> {
    name: &'a str,
    /// The track it would be.
    track: &'a str,
    /// What the error says, in parts.
    says: &'a [&'a str],
    code: &'a str,
}

/// Starts a recording and checks what people are told of the trouble; gives its id.
fn begin(trouble: &Trouble, capture_box: &CaptureBox) -> String {
    let other = match trouble.track {
        "presenter" => "microphone",
        _ => "presenter",
    };
    wait_until(20, "the other device", || {
        track(&capture_box.status(), other)["open"] == true
    });
    let status = capture_box.status();
    let told = [
        ("status", track(&status, trouble.track)["error"].to_string()),
        ("alarms", status["alarms"].to_string()),
        ("log", capture_box.log()),
        (
            "plain status",
            String::from_utf8(capture_box.ask("status").stdout).unwrap(),
        ),
    ];
    for ((place, text), part) in told
        .iter()
        .flat_map(|told| trouble.says.iter().map(move |part| (told, part)))
    {
        assert!(text.contains(part), "{place} lacks `{part}`:\n{text}");
    }
    println!(
        "{}: {}",
        trouble.name,
        track(&status, trouble.track)["error"]
    );
    assert_eq!(
        status["lamp"], "short-blink",
        "the other device can be recorded"
    );
    capture_box.record()
}

/// Ends the recording, checks its facts, and leaves it for the host.
fn end(
    results: &Path,
    trouble: &Trouble,
    receiver: &Receiver,
    capture_box: &CaptureBox,
    tone: &Tone,
    recording: &str,
) {
    assert_eq!(capture_box.stop(), recording);
    let manifest = receiver.wait_complete(recording, 60);
    assert_archive_is_the_spool(receiver, capture_box, recording);
    let alarms = alarms(receiver, recording);
    let raised = alarms
        .iter()
        .find(|(code, raised, _)| code == trouble.code && *raised)
        .unwrap_or_else(|| panic!("no {} in {alarms:?}", trouble.code));
    for part in trouble.says {
        assert!(raised.2.contains(part), "{raised:?} lacks {part}");
    }
    let figures = json!({
        "manifest": manifest, "alarms": alarms, "status": capture_box.status(),
        "underruns": tone.underruns(),
    });
    leave(results, trouble.name, receiver, recording, figures);
}

/// Holds the camera as another program would.
fn hold_the_camera() -> Process {
    for _ in 0..5 {
        let holder = Process::start(
            "v4l2-ctl",
            &["-d", CAMERA, "--stream-mmap", "--stream-count=0"],
            Stdio::null(),
        );
        // The look at it would take the camera itself, were it not held yet.
        pause(2);
        let other = outcome(
            "v4l2-ctl",
            &["-d", CAMERA, "--stream-mmap", "--stream-count=1"],
        );
        if String::from_utf8_lossy(&other.stderr).contains("busy") {
            return holder;
        }
    }
    panic!("v4l2-ctl does not hold {CAMERA}");
}

fn every_trouble(results: &Path) {
    let home = guest_home();
    let tone = tone(&home, 300);
    let receiver = Receiver::start(&home);
    let start =
        |name: &str, arguments: &[&str]| CaptureBox::start(&home, name, Some(&receiver), arguments);
    let without_camera = |trouble: &Trouble, capture_box: &CaptureBox| {
        let recording = begin(trouble, capture_box);
        pause(4);
        end(results, trouble, &receiver, capture_box, &tone, &recording);
    };
    let bench = ["--board", "bench", "--microphone", MICROPHONE];
    let with = |presenter: &'static str| [&bench[..], &["--presenter", presenter]].concat();

    let trouble = Trouble {
        name: "camera-missing",
        track: "presenter",
        says: &["/dev/video9: not found", "Plug it in", BY_PATH, "vivid"],
        code: "presenter-missing",
    };
    without_camera(&trouble, &start("missing", &with("/dev/video9")));

    let trouble = Trouble {
        name: "camera-that-cannot",
        track: "presenter",
        says: &[
            BY_PATH,
            "cannot do what was asked",
            "1234x568 at 30",
            "YUYV 1280x720: ",
        ],
        code: "presenter-cannot-do",
    };
    let asked = board(&home, "wide", "width = 1234\nheight = 568");
    without_camera(&trouble, &start("wide", &["--board", &asked]));

    let trouble = Trouble {
        name: "camera-not-permitted",
        track: "presenter",
        says: &["/dev/video0: not permitted", "group `video`"],
        code: "presenter-not-permitted",
    };
    without_camera(&trouble, &as_nobody(&home, &receiver, &with(CAMERA)));

    let trouble = Trouble {
        name: "microphone-missing",
        track: "microphone",
        says: &[
            "hw:CARD=Nobody,DEV=0: not found",
            "hw:CARD=Loopback,DEV=1 (Loopback PCM)",
        ],
        code: "microphone-missing",
    };
    let arguments = [
        "--board",
        "bench",
        "--presenter",
        CAMERA,
        "--microphone",
        "hw:Nobody,0",
    ];
    without_camera(&trouble, &start("deaf", &arguments));

    let trouble = Trouble {
        name: "camera-busy",
        track: "presenter",
        says: &[
            "/dev/video0: busy: another program uses it",
            "fuser -v /dev/video0",
        ],
        code: "presenter-busy",
    };
    let holder = hold_the_camera();
    let capture_box = start("busy", &with(CAMERA));
    let recording = begin(&trouble, &capture_box);
    pause(4);
    drop(holder);
    let freed = clock::now();
    wait_until(20, "the camera's first picture", || {
        track(&capture_box.status(), "presenter")["delivered"] != 0
    });
    let took = clock::now().since(freed).as_secs_f64();
    println!("camera-busy: its pictures joined {took:.2} s after it was free");
    assert!(took <= 3.0, "{took} s");
    pause(4);
    end(
        results,
        &trouble,
        &receiver,
        &capture_box,
        &tone,
        &recording,
    );
    drop(capture_box);

    let trouble = Trouble {
        name: "camera-unplugged",
        track: "presenter",
        says: &["/dev/video0: gone: unplugged"],
        code: "presenter-vanished",
    };
    let capture_box = start("plug", &with(CAMERA));
    let is_open = |open: bool| {
        wait_until(20, "the camera", || {
            track(&capture_box.status(), "presenter")["open"] == open
        });
    };
    is_open(true);
    let recording = capture_box.record();
    pause(3);
    let plug = |way: &str| {
        let driver = "/sys/bus/platform/drivers/vivid";
        fs::write(format!("{driver}/{way}"), "vivid.0").unwrap();
    };
    plug("unbind");
    is_open(false);
    pause(3);
    plug("bind");
    is_open(true);
    pause(3);
    end(
        results,
        &trouble,
        &receiver,
        &capture_box,
        &tone,
        &recording,
    );
}

/// A box whose user may use the microphone but not the camera.
fn as_nobody(home: &Path, receiver: &Receiver, arguments: &[&str]) -> CaptureBox {
    run("chmod", &["600", CAMERA]);
    run("sh", &["-c", "chmod 666 /dev/snd/*"]);
    // Wherever the program is, nobody may not reach into all folders above it.
    let program = "/run/hallcast-for-nobody";
    fs::write(program, "").unwrap();
    run("mount", &["--bind", BOX, program]);
    let state = home.join("nobody");
    let script = "chown -R 65534:65534 \"$0\" && \
        exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    let through = ["sh", "-c", script, state.to_str().unwrap(), program];
    CaptureBox::start_through(&through, home, "nobody", Some(receiver), arguments)
}

#[test]
fn a_device_that_cannot_be_had_is_named_and_the_other_one_is_recorded() {
    if let Some(results) = rig::inside() {
        return every_trouble(&results);
    }
    let _alone = alone();
    let results = tempfile::tempdir_in("/tmp").unwrap();
    let name = "a_device_that_cannot_be_had_is_named_and_the_other_one_is_recorded";
    if !rig::ran_in_the_guest(name, 240, results.path()) {
        return;
    }
    for name in [
        "camera-missing",
        "camera-that-cannot",
        "camera-not-permitted",
    ] {
        let found = Found::open(results.path(), name);
        assert_eq!(found.film.kinds(), ["video", "audio"], "{name}");
        let (start, end) = found.extent("microphone").unwrap();
        let seconds = found.film.sound_seconds();
        let hz = found.assert_tone();
        println!("{name}: sound {seconds:.2} s ({start:.3} to {end:.3}), {hz:.4} Hz, and a slate");
        assert!(seconds >= 4.0 && (seconds - end).abs() <= 0.1, "{name}");
        let (from, to) = found.extent("presenter").unwrap();
        assert!(from == 0.0 && (to - end).abs() <= 0.1, "{name}: {to}");
        assert_eq!(found.camera_gap(), (0.0, to), "{name}: all of it");
        assert!(found.film.slates("presenter").iter().all(|slate| *slate));
    }

    let found = Found::open(results.path(), "microphone-missing");
    assert_eq!(found.film.kinds(), ["video", "audio"]);
    let pictures = found.film.pictures();
    let loudest = found.film.samples().iter().map(|s| s.unsigned_abs()).max();
    let gaps = found.figures["manifest"]["gaps"].as_array().unwrap();
    println!("microphone-missing: {pictures} pictures, silence of {loudest:?} at most, {gaps:?}");
    // Whoever decodes it may dither.
    assert!(loudest <= Some(1), "{loudest:?}");
    let of_sound: Vec<_> = gaps.iter().filter(|gap| gap["track"] == 3).collect();
    assert!(of_sound.len() == 1 && of_sound[0]["start"] == 0, "{gaps:?}");
    assert_eq!(of_sound[0]["cause"], "device-missing");
    let silent = of_sound[0]["duration"].as_f64().unwrap() / f64::from(RATE);
    assert!(
        (silent - found.film.sound_seconds()).abs() < 0.1,
        "{silent} s"
    );
    assert_eq!(
        track(&found.figures["status"], "presenter")["ticks"],
        pictures
    );
    assert!(pictures >= 4 * 30);

    let found = Found::open(results.path(), "camera-busy");
    assert_eq!(found.film.kinds(), ["video", "audio"]);
    let hz = found.assert_tone();
    let (start, end) = found.extent("presenter").unwrap();
    let (_, sound_end) = found.extent("microphone").unwrap();
    println!(
        "camera-busy: pictures from {start:.2} to {end:.2} s, sound to {sound_end:.2} s, {hz:.4} Hz"
    );
    assert!((end - sound_end).abs() <= 0.1);
    let presenter = track(&found.figures["status"], "presenter");
    assert_eq!(
        presenter["ticks"],
        found.film.pictures(),
        "one picture per tick"
    );
    assert!((found.film.pictures() as f64 / 30.0 - (end - start)).abs() < 0.001);
    let (from, length) = found.camera_gap();
    println!(
        "camera-busy: a gap from {from:.2} s for {length:.2} s, {} pictures",
        found.film.pictures()
    );
    assert_eq!((start, from), (0.0, 0.0));
    assert!((4.0..=8.0).contains(&length), "{length} s");
    let tick = |seconds: f64| (seconds * 30.0).round() as usize;
    for (at, slate) in found.film.slates("presenter").into_iter().enumerate() {
        assert_eq!(slate, at < tick(length), "tick {at}");
    }
    let well = &found.figures["alarms"].as_array().unwrap().last().unwrap()[1];
    assert_eq!(*well, false, "the alarm ends: {}", found.figures["alarms"]);

    let found = Found::open(results.path(), "camera-unplugged");
    found.assert_tone();
    let presenter = track(&found.figures["status"], "presenter");
    assert_eq!(
        presenter["ticks"],
        found.film.pictures(),
        "one picture per tick"
    );
    found.extent("presenter").unwrap();
    let (from, length) = found.camera_gap();
    println!("camera-unplugged: a gap from {from:.2} s for {length:.2} s");
    assert!((2.0..=5.0).contains(&from) && (3.0..=7.0).contains(&length));
    let slates = found.film.slates("presenter");
    let shown = slates.iter().position(|slate| *slate).unwrap();
    println!(
        "camera-unplugged: the slate is there {:.2} s after the last picture",
        shown as f64 / 30.0 - from
    );
    assert!((tick(from)..=tick(from + 2.0)).contains(&shown));
    for (at, slate) in slates.into_iter().enumerate() {
        assert_eq!(
            slate,
            (shown..tick(from + length)).contains(&at),
            "tick {at}"
        );
    }
    let well = &found.figures["alarms"].as_array().unwrap().last().unwrap()[1];
    assert_eq!(*well, false, "the alarm ends: {}", found.figures["alarms"]);
}
