//! A receiver and boxes, as the processes that people run, on loopback ports of their own.

use hallcast::clock;
use hallcast::media::Monotonic;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub const BOX: &str = env!("CARGO_BIN_EXE_hallcast");
pub const RECEIVER: &str = env!("CARGO_BIN_EXE_hallcast-receiver");

/// A running receiver with its store; killed when dropped.
pub struct Receiver {
    pub home: PathBuf,
    pub quic: String,
    pub web: String,
    process: Child,
}

/// A running box; killed when dropped.
pub struct CaptureBox {
    pub home: PathBuf,
    /// The program and its arguments.
    command: Vec<String>,
    process: Child,
}

/// Waits until `ready` says so; fails with `what` after `seconds`.
pub fn wait_until(seconds: u64, what: &str, mut ready: impl FnMut() -> bool) {
    let patience = clock::now().plus(Duration::from_secs(seconds));
    while !ready() {
        assert!(clock::now() < patience, "{what}: not within {seconds} s");
        clock::sleep(Duration::from_millis(20));
    }
}

/// Waits this many seconds.
pub fn pause(seconds: u64) {
    clock::sleep(Duration::from_secs(seconds));
}

/// Holds the machine for one test in real time: those of one file would run side by side.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `long` in `make soak`, else `short`.
pub fn soak(short: u64, long: u64) -> u64 {
    if std::env::var_os("HALLCAST_SOAK").is_some() {
        long
    } else {
        short
    }
}

/// Resident memory of a process.
pub fn resident_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Pictures and blocks of all tracks that the last recording is without, between a status before it and one
/// after it: a machine that stands still costs some, and a recording that shall show all is made again.
pub fn losses(before: &serde_json::Value, after: &serde_json::Value) -> u64 {
    let sum = |status: &serde_json::Value, key: &str| -> u64 {
        let tracks = status["tracks"].as_array().unwrap().iter();
        tracks.filter_map(|track| track[key].as_u64()).sum()
    };
    // The first two are counted since the process started.
    let new = |key| sum(after, key) - sum(before, key);
    new("lost") + new("dropped") + sum(after, "drops")
}

/// The bench board with small pictures: for tests of everything but pictures.
pub fn small_bench(home: &Path) -> String {
    let path = home.join("small-bench.toml");
    let board = "schema = 1\nname = \"small-bench\"\n\
        [presenter.pattern]\nwidth = 320\nheight = 180\nrate = \"30\"\n[microphone.tone]\n[panel.simulated]\n";
    fs::write(&path, board).unwrap();
    text(&path).to_owned()
}

/// Runs a command to its end and gives what it printed; fails when it fails.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = outcome(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command to its end, however it ends.
pub fn outcome(program: &str, arguments: &[&str]) -> Output {
    // Where an ordinary user's shell does not look for ip, tc and mkfs.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let started = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output();
    started.unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn log_file(path: &Path) -> File {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Receiver {
    /// A receiver on loopback with a development authority, its store and state below `home`.
    pub fn start(home: &Path) -> Self {
        Self::start_at(home, "127.0.0.1")
    }

    /// The same with boxes at another of this machine's addresses.
    pub fn start_at(home: &Path, address: &str) -> Self {
        let home = home.join("receiver");
        fs::create_dir_all(&home).unwrap();
        let state = home.join("state");
        let mut authority = vec!["ca", "init", "--state-dir", text(&state)];
        // A development authority is good on loopback only.
        match address {
            "127.0.0.1" => authority.push("--development"),
            far => authority.extend(["--name", far]),
        }
        run(RECEIVER, &authority);
        let quic = UdpSocket::bind((address, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let web = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let process = Self::spawn(&home, &quic, &web);
        let receiver = Self {
            home,
            quic,
            web,
            process,
        };
        receiver.wait();
        receiver
    }

    fn spawn(home: &Path, quic: &str, web: &str) -> Child {
        // A test that wants the archive elsewhere has written settings.
        let (settings, store) = (home.join("receiver.toml"), home.join("store"));
        let archive = match settings.exists() {
            true => ["--config", text(&settings)],
            false => ["--store-dir", text(&store)],
        };
        Command::new(RECEIVER)
            .args(["run", "--listen", quic, "--web-listen", web])
            .args(["--state-dir", text(&home.join("state"))])
            .args(archive)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file(&home.join("log")))
            .spawn()
            .unwrap()
    }

    fn wait(&self) {
        wait_until(20, "the receiver's page", || {
            TcpStream::connect(&self.web).is_ok()
        });
    }

    /// Kills the process with SIGKILL and starts it again.
    pub fn kill_and_restart(&mut self) {
        self.kill_and_go_on();
        self.wait();
    }

    /// The same without waiting for its page.
    pub fn kill_and_go_on(&mut self) {
        self.kill();
        self.process = Self::spawn(&self.home, &self.quic, &self.web);
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Stops the process; gives what [`Receiver::start_again`] needs.
    pub fn stop(self) -> PathBuf {
        self.home.clone()
    }

    /// Starts a stopped receiver at the same place and addresses.
    pub fn start_again(home: PathBuf, quic: String, web: String) -> Self {
        let process = Self::spawn(&home, &quic, &web);
        let receiver = Self {
            home,
            quic,
            web,
            process,
        };
        receiver.wait();
        receiver
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// The folder of a recording in the store.
    pub fn archive(&self, recording: &str) -> PathBuf {
        self.home.join("store/recordings").join(recording)
    }

    pub fn manifest(&self, recording: &str) -> Option<serde_json::Value> {
        let text = fs::read(self.archive(recording).join("manifest.json")).ok()?;
        Some(serde_json::from_slice(&text).expect("a manifest is JSON from its first moment on"))
    }

    /// Waits until the recording is whole at the receiver; gives its manifest.
    pub fn wait_complete(&self, recording: &str, seconds: u64) -> serde_json::Value {
        wait_until(seconds, "the manifest", || {
            self.manifest(recording).is_some()
        });
        self.manifest(recording).unwrap()
    }

    /// The body that a browser gets for `path`; fails unless the answer is 200.
    pub fn get(&self, path: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.web).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.web).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer
            .windows(4)
            .position(|bytes| bytes == b"\r\n\r\n")
            .expect("an HTTP answer");
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        assert!(head.split(' ').nth(1) == Some("200"), "{path}: {head}");
        answer.split_off(end + 4)
    }

    /// The recording's film, as a file below `home`.
    pub fn film(&self, recording: &str) -> PathBuf {
        let path = self.home.join(format!("{recording}.mp4"));
        fs::write(
            &path,
            self.get(&format!("/recordings/{recording}/recording.mp4")),
        )
        .unwrap();
        path
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("---- the receiver's log\n{}", self.log());
        }
    }
}

impl CaptureBox {
    /// A box called `name` below `home`, enrolled with `receiver` and running with `arguments`.
    pub fn start(home: &Path, name: &str, receiver: Option<&Receiver>, arguments: &[&str]) -> Self {
        Self::start_through(&[BOX], home, name, receiver, arguments)
    }

    /// The same through `program`: a command that becomes the box when the box's own arguments are
    /// appended to it.
    pub fn start_through(
        program: &[&str],
        home: &Path,
        name: &str,
        receiver: Option<&Receiver>,
        arguments: &[&str],
    ) -> Self {
        let home = home.join(name);
        fs::create_dir_all(&home).unwrap();
        let (state, control) = (home.join("state"), home.join("control"));
        let mut all: Vec<String> = program.iter().map(|word| (*word).to_owned()).collect();
        let own = [
            "run",
            "--state-directory",
            text(&state),
            "--socket",
            text(&control),
            "--room",
            name,
        ];
        all.extend(own.map(String::from));
        if let Some(receiver) = receiver {
            enroll(&state, receiver, name);
            all.extend(["--receiver".into(), receiver.quic.clone()]);
        }
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let process = Self::spawn(&home, &all);
        let capture_box = Self {
            home,
            command: all,
            process,
        };
        capture_box.wait();
        capture_box
    }

    /// A box called `name` below `home` that has its room and its receiver from its card.
    pub fn start_from_a_card(home: &Path, name: &str, arguments: &[&str]) -> Self {
        let home = home.join(name);
        fs::create_dir_all(&home).unwrap();
        let (state, control) = (home.join("state"), home.join("control"));
        let own = [
            "run",
            "--state-directory",
            text(&state),
            "--socket",
            text(&control),
        ];
        let command: Vec<String> = [&[BOX], &own[..], arguments]
            .concat()
            .into_iter()
            .map(String::from)
            .collect();
        let process = Self::spawn(&home, &command);
        let capture_box = Self {
            home,
            command,
            process,
        };
        capture_box.wait();
        capture_box
    }

    fn spawn(home: &Path, command: &[String]) -> Child {
        Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file(&home.join("log")))
            .spawn()
            .unwrap()
    }

    /// Waits until every device is open or in trouble.
    pub fn wait(&self) {
        wait_until(20, "the box's devices", || {
            self.try_status().is_some_and(|status| {
                let tracks = status["tracks"].as_array().unwrap();
                tracks
                    .iter()
                    .all(|track| track["open"] == true || !track["error"].is_null())
            })
        });
    }

    /// Kills the process with SIGKILL and starts it again.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// Kills the process with SIGKILL; gives the instant before.
    pub fn kill(&mut self) -> Monotonic {
        let before = clock::now();
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        before
    }

    /// Starts a process that has ended again, and does not wait for anything.
    pub fn spawn_again(&mut self) {
        self.process = Self::spawn(&self.home, &self.command);
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// Asks the process to end; gives how long it took.
    pub fn terminate(&mut self) -> Duration {
        let asked = clock::now();
        run("kill", &[&self.pid().to_string()]);
        assert!(self.process.wait().unwrap().success());
        clock::now().since(asked)
    }

    /// Starts a process that has ended again.
    pub fn restart(&mut self) {
        self.spawn_again();
        self.wait();
    }

    pub fn ask(&self, command: &str) -> Output {
        outcome(
            BOX,
            &[command, "--socket", text(&self.home.join("control"))],
        )
    }

    /// Starts a recording; gives its id.
    pub fn record(&self) -> String {
        self.demand("start")
    }

    /// Ends the recording; gives its id once it is whole on the box.
    pub fn stop(&self) -> String {
        self.demand("stop")
    }

    fn demand(&self, command: &str) -> String {
        let output = self.ask(command);
        assert!(
            output.status.success(),
            "{command}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn try_status(&self) -> Option<serde_json::Value> {
        let output = outcome(
            BOX,
            &[
                "status",
                "--json",
                "--socket",
                text(&self.home.join("control")),
            ],
        );
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    pub fn status(&self) -> serde_json::Value {
        self.try_status().expect("the box answers")
    }
}

impl Drop for CaptureBox {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!(
                "---- the box's log ({})\n{}",
                self.home.display(),
                self.log()
            );
        }
    }
}

/// Makes the box whose state is in `state` known to the receiver.
pub fn enroll(state: &Path, receiver: &Receiver, room: &str) {
    fs::create_dir_all(state).unwrap();
    let (request, signed) = (state.with_extension("csr"), state.with_extension("pem"));
    fs::write(
        &request,
        run(BOX, &["enroll", "--csr", "--state-directory", text(state)]),
    )
    .unwrap();
    let authority = receiver.home.join("state");
    let signing = [
        "sign",
        text(&request),
        "--room",
        room,
        "--state-dir",
        text(&authority),
    ];
    fs::write(&signed, run(RECEIVER, &signing)).unwrap();
    run(
        BOX,
        &[
            "enroll",
            "--install",
            text(&signed),
            "--state-directory",
            text(state),
        ],
    );
}

/// The hash of each sealed segment in a box's spool, by "track/sequence", read by the library.
pub fn spool_hashes(
    state: &Path,
) -> Vec<(hallcast::media::SegmentKey, u64, hallcast::media::Hash)> {
    use hallcast::spool::{LocalDisk, Spool};
    let (spool, _) = Spool::look(std::sync::Arc::new(LocalDisk), state.join("spool")).unwrap();
    let mut found = Vec::new();
    for (recording, held) in spool.recordings() {
        for (&track, state) in &held.tracks {
            for (&sequence, segment) in &state.segments {
                let key = hallcast::media::SegmentKey {
                    recording,
                    track,
                    sequence,
                };
                let (length, hash) = segment
                    .seal
                    .expect("every segment of an ended recording is sealed");
                found.push((key, length, hash));
            }
        }
    }
    found
}
