//! The packages of `make deb`: what is in them, and that the box's installs, runs, waits with an
//! upgrade for the end of the recording, and leaves recordings where they are when it is purged.
//!
//! The packages are those in `target/debian`; what is not built there is left out.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test ends by panicking")]

use hallcast::clock::{self, sleep};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// An architecture's name in Debian, its processor's in an ELF file, qemu's program for it, and the
/// most bytes of the box's package, of its program, and of that without the software encoders (on amd64
/// they have code for several generations of processors).
struct Architecture {
    name: &'static str,
    machine: &'static str,
    emulator: &'static str,
    package: u64,
    program: u64,
    lean: u64,
}

const ARCHITECTURES: [Architecture; 3] = [
    Architecture {
        name: "amd64",
        machine: "Advanced Micro Devices X86-64",
        emulator: "qemu-x86_64",
        package: 3_500_000,
        program: 10_000_000,
        lean: 7_000_000,
    },
    Architecture {
        name: "arm64",
        machine: "AArch64",
        emulator: "qemu-aarch64",
        package: 3_000_000,
        program: 9_000_000,
        lean: 6_000_000,
    },
    Architecture {
        name: "armhf",
        machine: "ARM",
        emulator: "qemu-arm",
        package: 3_000_000,
        program: 9_000_000,
        lean: 6_000_000,
    },
];

/// The package that brings each library a program may want. libc6 itself depends on libgcc-s1.
const LIBRARIES: [(&str, &str); 7] = [
    ("libasound.so.2", "libasound2 "),
    ("libstdc++.so.6", "libstdc++6 "),
    ("libc.so.6", "libc6 "),
    ("libm.so.6", "libc6 "),
    ("libgcc_s.so.1", "libc6 "),
    ("ld-linux-aarch64.so.1", "libc6 "),
    ("ld-linux-armhf.so.3", "libc6 "),
];

fn built() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian")
}

fn packages(name: &str) -> Vec<(&'static Architecture, PathBuf)> {
    let version = concat!(env!("CARGO_PKG_VERSION"), "-1");
    let debs = ARCHITECTURES.iter().map(|architecture| {
        let file = format!("{name}_{version}_{}.deb", architecture.name);
        (architecture, built().join(file))
    });
    let found: Vec<_> = debs.filter(|(_, deb)| deb.exists()).collect();
    if found.is_empty() {
        println!("left out: no package {name} is built: `make deb` does that");
    }
    found
}

/// Fails unless `program` is for that architecture, its package's `depends` brings every library it
/// wants, and it starts, by qemu where this machine has another processor.
fn assert_runs_there(architecture: &Architecture, program: &Path, depends: &str) {
    let name = architecture.name;
    let header = run(Command::new("readelf").arg("-h").arg(program));
    let machine = header
        .lines()
        .find_map(|line| line.trim().strip_prefix("Machine:"));
    assert_eq!(machine.unwrap().trim(), architecture.machine, "{name}");
    let dynamic = run(Command::new("readelf").arg("-d").arg(program));
    let wanted = dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .map(|line| line.split(['[', ']']).nth(1).unwrap());
    for library in wanted {
        let bringing = LIBRARIES.iter().find(|(known, _)| *known == library);
        let (_, package) = bringing.unwrap_or_else(|| panic!("{name}: who brings {library}?"));
        assert!(depends.contains(package), "{name}: {library}: {depends}");
    }
    let mut version = Command::new(architecture.emulator);
    if architecture.emulator == format!("qemu-{}", std::env::consts::ARCH) {
        version = Command::new(program);
    } else if Command::new(architecture.emulator)
        .arg("--version")
        .output()
        .is_err()
    {
        return println!("left out: there is no {}", architecture.emulator);
    } else {
        version.arg(program);
    }
    let said = run(version.arg("--version"));
    assert!(said.contains(env!("CARGO_PKG_VERSION")), "{name}: {said}");
}

fn output(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a command that shall succeed; gives what it printed on both.
fn run(command: &mut Command) -> String {
    let ended = output(command);
    let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    assert!(ended.status.success(), "{command:?}: {said}");
    said
}

fn dpkg_deb(arguments: &[&str], deb: &Path) -> String {
    run(Command::new("dpkg-deb").args(arguments).arg(deb))
}

/// All of a box's package. A settings file in `etc` would hide the one on the boot partition.
const FILES: [&str; 11] = [
    "usr/bin/hallcast",
    "usr/lib/modules-load.d/hallcast.conf",
    "usr/lib/systemd/system/hallcast.service",
    "usr/lib/sysusers.d/hallcast.conf",
    "usr/lib/udev/rules.d/70-hallcast.rules",
    "usr/share/doc/hallcast/README.md",
    "usr/share/doc/hallcast/changelog.Debian.gz",
    "usr/share/doc/hallcast/copyright",
    "usr/share/doc/hallcast/examples/box.toml",
    "usr/share/doc/hallcast/fleet.md",
    "usr/share/doc/hallcast/status.md",
];

/// Unpacks a package below `into`, its scripts in `DEBIAN`.
fn unpack(deb: &Path, into: &Path) {
    run(Command::new("dpkg-deb").arg("-R").args([deb, into]));
}

/// What tests/service.rs and tests/units.rs try is what is installed: each of the files of systemd/ in its
/// folder of usr/lib.
fn assert_as_in_the_tree(root: &Path, files: &[(&str, &str)]) {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    for (ours, folder) in files {
        let ours = tree.join(ours);
        let installed = root.join("usr/lib").join(folder);
        let installed = installed.join(ours.file_name().unwrap());
        let same = fs::read(&installed).unwrap() == fs::read(&ours).unwrap();
        assert!(same, "{} is not {}", installed.display(), ours.display());
    }
}

#[test]
fn the_box_s_package_holds_what_a_box_needs() {
    for (of, deb) in packages("hallcast") {
        let architecture = of.name;
        let home = tempfile::tempdir().unwrap();
        let at = home.path().join("root");
        unpack(&deb, &at);
        let listed = run(Command::new("find").arg(&at).args([
            "-name", "DEBIAN", "-prune", "-o", "-type", "f", "-printf", "%P\n",
        ]));
        let mut files: Vec<&str> = listed.lines().collect();
        files.sort_unstable();
        assert_eq!(files, FILES, "{architecture}");
        assert_as_in_the_tree(
            &at,
            &[
                ("hallcast.service", "systemd/system"),
                ("sysusers.d/hallcast.conf", "sysusers.d"),
                ("modules-load.d/hallcast.conf", "modules-load.d"),
                ("70-hallcast.rules", "udev/rules.d"),
            ],
        );
        let field = |name| {
            dpkg_deb(&["-f"], &deb)
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned))
        };
        assert_eq!(field("Architecture").unwrap(), architecture);
        let depends = field("Depends").unwrap();
        for wanted in ["libasound2", "libc6", "systemd", "udev"] {
            assert!(depends.contains(wanted), "{architecture}: {depends}");
        }
        let copyright = fs::read_to_string(at.join("usr/share/doc/hallcast/copyright")).unwrap();
        // The licence of the AAC encoder goes with every copy, whole: its first and last sentence.
        for sentence in [
            "Fraunhofer FDK AAC Codec Library for Android",
            "Am Wolfsmantel 33",
        ] {
            assert!(copyright.contains(sentence), "{sentence}");
        }
        // The service is started and, on an upgrade, asked; only a removal stops it.
        let script = |name| fs::read_to_string(at.join("DEBIAN").join(name)).unwrap();
        assert!(script("postinst").contains("deb-systemd-invoke start hallcast.service"));
        assert!(script("postinst").contains("hallcast restart"));
        assert!(!script("postinst").contains("_dh_action=restart"));
        assert!(script("prerm").contains("[ \"$1\" = remove ]"));
        assert!(!script("postrm").contains("rm -"));
        assert_runs_there(of, &at.join("usr/bin/hallcast"), &depends);
        println!("{architecture}: needs {depends}");
    }
}

#[test]
fn the_box_s_packages_and_programs_are_small() {
    for (of, deb) in packages("hallcast") {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().join("root");
        unpack(&deb, &at);
        let lean = built().join("lean").join(format!("hallcast_{}", of.name));
        let held = [
            ("package", deb, of.package),
            ("program", at.join("usr/bin/hallcast"), of.program),
            ("program without software encoders", lean, of.lean),
        ];
        for (what, file, most) in held {
            // `make deb DEB=...` builds what it was asked for.
            let Ok(file) = fs::metadata(file) else {
                if of.name == "arm64" {
                    println!(
                        "left out: the {what} for arm64: `make deb DEB=\"arm64 box lean\"` builds it"
                    );
                }
                continue;
            };
            println!("{}: {what} {} bytes (at most {most})", of.name, file.len());
            assert!(file.len() <= most, "{}: {what} {}", of.name, file.len());
        }
    }
}

#[test]
fn the_receiver_s_package_holds_what_a_server_needs() {
    for (of, deb) in packages("hallcast-receiver") {
        let architecture = of.name;
        let home = tempfile::tempdir().unwrap();
        let at = home.path().join("root");
        unpack(&deb, &at);
        for file in [
            "usr/bin/hallcast-receiver",
            "usr/share/doc/hallcast-receiver/copyright",
        ] {
            assert!(at.join(file).is_file(), "{architecture}: no {file}");
        }
        assert_as_in_the_tree(
            &at,
            &[
                ("hallcast-receiver.service", "systemd/system"),
                ("sysusers.d/hallcast-receiver.conf", "sysusers.d"),
                ("tmpfiles.d/hallcast-receiver.conf", "tmpfiles.d"),
            ],
        );
        let postinst = fs::read_to_string(at.join("DEBIAN/postinst")).unwrap();
        let made = "systemd-tmpfiles --create hallcast-receiver.conf";
        assert!(postinst.contains(made), "{postinst}");
        assert!(!at.join("usr/bin/hallcast").exists());
        // No sound library on a server.
        let depends = dpkg_deb(&["-f"], &deb);
        let depends = depends
            .lines()
            .find(|line| line.starts_with("Depends: "))
            .unwrap();
        assert!(!depends.contains("libasound2"), "{depends}");
        assert_runs_there(of, &at.join("usr/bin/hallcast-receiver"), depends);
        let packed = fs::metadata(&deb).unwrap().len();
        let bytes = fs::metadata(at.join("usr/bin/hallcast-receiver"))
            .unwrap()
            .len();
        println!("{architecture}: package {packed} bytes, program {bytes}");
    }
}

/// A root directory of its own over this machine's, and a network without interfaces; gone in the end.
struct Root {
    holder: Child,
    home: tempfile::TempDir,
}

impl Root {
    fn new() -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let mounts = "set -e; cd \"$0\"; mkdir over root shared; mount -t tmpfs none over; mkdir over/upper over/work
            mount -t overlay none -o lowerdir=/,upperdir=over/upper,workdir=over/work root
            mount --rbind /proc root/proc; mount --rbind /dev root/dev
            mount -t tmpfs none root/run; mount -t tmpfs none root/tmp; mount --bind shared root/mnt
            touch shared/up; exec sleep 600";
        let mut holder = Command::new("unshare")
            .args([
                "--mount",
                "--net",
                "--propagation",
                "private",
                "sh",
                "-c",
                mounts,
            ])
            .arg(home.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..200 {
            if home.path().join("shared/up").exists() {
                return Some(Self { holder, home });
            }
            if holder.try_wait().unwrap().is_some() {
                println!("left out: this user may not mount a root directory of its own");
                return None;
            }
            sleep(Duration::from_millis(50));
        }
        panic!("the root directory is not mounted after 10 s");
    }

    /// A command inside.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.holder.id()));
        command
            .args(["--mount", "--net", "chroot"])
            .arg(self.home.path().join("root"));
        // dpkg wants to find ldconfig, whatever path the test has.
        command
            .args(["env", "PATH=/mnt/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(words);
        command
    }

    fn run(&self, words: &[&str]) -> String {
        run(&mut self.command(words))
    }

    /// `shared` is `/mnt` inside.
    fn shared(&self, name: &str) -> PathBuf {
        self.home.path().join("shared").join(name)
    }

    /// Starts the installed box as its unit does; gives it once it said that it is ready, and when.
    fn start(&self) -> (Running, Duration) {
        let notify = self.shared("notify");
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let began = clock::now();
        let mut command = self.command(&["NOTIFY_SOCKET=/mnt/notify", "hallcast", "run"]);
        let log = fs::File::create(self.shared("log")).unwrap();
        let started = Running(command.stdin(Stdio::null()).stderr(log).spawn().unwrap());
        let mut said = [0; 4096];
        loop {
            let Ok(length) = socket.recv(&mut said) else {
                panic!(
                    "never ready: {}",
                    fs::read_to_string(self.shared("log")).unwrap()
                );
            };
            if said[..length].windows(7).any(|word| word == b"READY=1") {
                return (started, clock::now().since(began));
            }
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A running box, killed when the test ends.
struct Running(Child);

impl Running {
    fn id(&self) -> u32 {
        self.0.id()
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Whether it ends within 20 s.
    fn ends(&mut self) -> bool {
        (0..200).any(|_| {
            sleep(Duration::from_millis(100));
            !self.runs()
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What waits for connections or datagrams in a process's network.
fn listening(pid: u32) -> Vec<String> {
    let mut found = Vec::new();
    for (table, state) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap();
        let lines = text.lines().skip(1);
        found.extend(
            lines
                .filter(|line| line.split_whitespace().nth(3) == Some(state))
                .map(|line| format!("{table}: {line}")),
        );
    }
    found
}

fn resident_kilobytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

#[test]
fn the_package_installs_runs_waits_with_an_upgrade_and_keeps_recordings_when_purged() {
    let debs = packages("hallcast");
    let Some((_, deb)) = debs
        .iter()
        .find(|(architecture, _)| architecture.name == "amd64")
    else {
        return;
    };
    if !cfg!(target_arch = "x86_64") {
        return println!("left out: the package for amd64 runs on x86-64");
    }
    let Some(root) = Root::new() else { return };
    fs::copy(deb, root.shared("hallcast.deb")).unwrap();
    // Its dependencies are this machine's: what a build host has, and not all that a box wants.
    let install = ["dpkg", "--force-depends", "--install", "/mnt/hallcast.deb"];
    root.run(&install);
    let groups = root.run(&["getent", "group", "hallcast", "video", "audio", "gpio"]);
    assert_eq!(groups.lines().count(), 4, "{groups}");
    assert!(
        root.run(&["systemctl", "is-enabled", "hallcast.service"])
            .contains("enabled")
    );

    // As installed: no settings, no receiver, no device. It runs and is not enrolled.
    let mut times = Vec::new();
    for _ in 0..3 {
        let (mut idle, ready) = root.start();
        let status = root.run(&["hallcast", "status"]);
        assert!(status.contains("idle"), "{status}");
        let open = listening(idle.id());
        assert!(open.is_empty(), "a box listens on no port: {open:?}");
        println!(
            "ready after {} ms; {} kB resident",
            ready.as_millis(),
            resident_kilobytes(idle.id())
        );
        times.push(ready);
        root.run(&["hallcast", "restart"]);
        assert!(idle.ends(), "a box at rest restarts at once");
    }
    // nsenter, chroot and env start before it: their time is counted too.
    let fastest = times.iter().min().unwrap();
    assert!(*fastest <= Duration::from_millis(300), "{fastest:?}");

    // A service manager that says the unit runs, and writes down what it is asked.
    fs::create_dir_all(root.shared("bin")).unwrap();
    let manager = "#!/bin/sh\necho \"$*\" >>/mnt/asked\n";
    fs::write(root.shared("bin/systemctl"), manager).unwrap();
    root.run(&["chmod", "+x", "/mnt/bin/systemctl"]);
    root.run(&["mkdir", "-p", "/run/systemd/system", "/etc/hallcast"]);
    root.run(&[
        "sh",
        "-c",
        "echo 'board = \"bench\"' >/etc/hallcast/box.toml",
    ]);
    let (mut running, _) = root.start();
    let recording = root.run(&["hallcast", "start"]);
    let recording = recording.trim();
    sleep(Duration::from_secs(2));
    let said = root.run(&install);
    assert!(
        said.contains(&format!("once recording {recording} is over")),
        "{said}"
    );
    let asked = fs::read_to_string(root.shared("asked")).unwrap();
    assert!(
        !asked.contains("stop") && !asked.contains("restart"),
        "{asked}"
    );
    sleep(Duration::from_secs(2));
    assert!(running.runs(), "the upgrade cut a recording");
    assert!(root.run(&["hallcast", "status"]).contains(recording));
    println!(
        "{} kB resident while recording",
        resident_kilobytes(running.id())
    );
    let open = listening(running.id());
    assert!(open.is_empty(), "a box listens on no port: {open:?}");
    root.run(&["hallcast", "stop"]);
    assert!(running.ends(), "with the recording over it makes way");

    root.run(&["dpkg", "--remove", "hallcast"]);
    let said = root.run(&["dpkg", "--purge", "hallcast"]);
    assert!(
        said.contains("recordings stay in /var/lib/hallcast"),
        "{said}"
    );
    let left = root.run(&["find", "/var/lib/hallcast/spool", "-type", "f"]);
    assert!(left.contains(recording), "{left}");
    println!(
        "a purge leaves {} files of the box's state",
        left.lines().count()
    );
}
