//! A network of the test's own: two network namespaces and a wire between them that can be cut.

#![allow(dead_code, reason = "each test file uses its own part")]

use super::programs::{outcome, run};
use std::process::{Child, Command, Stdio};

/// Set where the test runs in namespaces of its own.
const INSIDE: &str = "HALLCAST_IN_NAMESPACES";

/// Addresses of the test's end (and the receiver's) and of the box's.
pub const HERE: &str = "10.77.0.1";
const THERE: &str = "10.77.0.2";

/// Runs the test called `name` of this same file in a network namespace of its own, unless this is
/// there already: then it gives true and the test does its work.
pub fn in_a_network_of_its_own(name: &str) -> bool {
    // Mounts show the networks.
    in_namespaces("nm", name).unwrap_or_else(|refused| panic!("{refused}"))
}

/// The same with namespaces of these kinds, as unshare's options name them; what it takes where the
/// machine allows none.
pub fn in_namespaces(kinds: &str, name: &str) -> Result<bool, String> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(true);
    }
    // Without root, or without all of its rights, a user namespace gives them.
    let (own, user) = (format!("-{kinds}"), format!("-Ur{kinds}"));
    let mut refused = String::new();
    let allowed = [&own, &user].into_iter().find(|namespaces| {
        let tried = outcome("unshare", &[namespaces, "true"]);
        refused += String::from_utf8_lossy(&tried.stderr).trim();
        refused += "; ";
        tried.status.success()
    });
    let Some(namespaces) = allowed else {
        return Err(format!(
            "this machine allows no namespaces (`unshare {user} true`: {refused}as root it takes the capability \
             SYS_ADMIN (of a container: --cap-add SYS_ADMIN), as another user \
             kernel.unprivileged_userns_clone=1 and user.max_user_namespaces above 0)"
        ));
    };
    let program = std::env::current_exe().unwrap();
    // What is mounted in there may keep the test from removing its own folders; from here they are bare.
    let folders = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .arg(namespaces)
        .arg(program)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env("TMPDIR", folders.path())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("inside: {line}");
    }
    assert!(
        output.status.success(),
        "{name} in namespaces of its own: {}",
        output.status
    );
    Ok(false)
}

/// A namespace that a sleeping process holds.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let holder = Command::new("unshare")
            .args(["-n", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let namespace = Self(holder);
        let pid = namespace.0.id();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        super::programs::wait_until(10, "a namespace", || {
            std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|its| its != own)
        });
        tool(&namespace.enter(), "ip link set lo up");
        namespace
    }

    /// What to put before a command that shall run in it.
    fn enter(&self) -> Vec<String> {
        let pid = self.0.id().to_string();
        ["nsenter", "-t", &pid, "-n", "--"]
            .map(String::from)
            .to_vec()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The box's end of the wire.
pub struct Network {
    end: Namespace,
}

impl Network {
    /// Makes both ends, with `rate` (as tc writes it) from the box to here if it is given.
    pub fn new(rate: Option<&str>) -> Self {
        let end = Namespace::new();
        let pid = end.0.id();
        let network = Self { end };
        let here = |words: &str| tool(&[], words);
        here("ip link set lo up");
        here(&format!(
            "ip link add here type veth peer name there netns {pid}"
        ));
        here(&format!("ip addr add {HERE}/24 dev here"));
        here("ip link set here up");
        network.there(&format!("ip addr add {THERE}/24 dev there"));
        network.there("ip link set there up");
        if let Some(rate) = rate {
            network.there(&format!(
                "tc qdisc add dev there root tbf rate {rate} burst 32kb latency 200ms"
            ));
        }
        network
    }

    /// What to put before a command that shall run at the box's end.
    pub fn enter(&self) -> Vec<String> {
        self.end.enter()
    }

    fn there(&self, words: &str) {
        tool(&self.enter(), words);
    }

    /// Pulls the plug at this end: the box loses its carrier.
    pub fn cut(&self) {
        tool(&[], "ip link set here down");
    }

    /// Puts it back.
    pub fn join(&self) {
        tool(&[], "ip link set here up");
    }
}

/// A router on a second way from the box to here, which the box takes; its last stretch carries packets
/// of 1000 bytes.
pub struct Router(Namespace);

impl Router {
    pub fn new(network: &Network) -> Self {
        let router = Self(Namespace::new());
        let (pid, box_pid) = (router.0.0.id(), network.end.0.id());
        tool(
            &[],
            &format!("ip link add onwards type veth peer name hall netns {pid}"),
        );
        tool(&[], "ip addr add 10.99.0.1/24 dev onwards");
        tool(&[], "ip link set onwards mtu 1000 up");
        router.run(&format!(
            "ip link add box type veth peer name router netns {box_pid}"
        ));
        router.run("ip addr add 10.88.0.1/24 dev box");
        router.run("ip link set box up");
        router.run("ip addr add 10.99.0.2/24 dev hall");
        router.run("ip link set hall mtu 1000 up");
        router.run("sysctl -qw net.ipv4.ip_forward=1");
        router.run(&format!("ip route add {HERE} via 10.99.0.1"));
        network.there("ip addr add 10.88.0.2/24 dev router");
        network.there("ip link set router up");
        network.there(&format!("ip route add {HERE} via 10.88.0.1"));
        tool(&[], "ip route add 10.88.0.0/24 via 10.99.0.2");
        router
    }

    /// Refuses what goes to the receiver, as a firewall does, or no longer.
    pub fn refuse(&self, refuses: bool) {
        let way = match refuses {
            true => format!("prohibit {HERE}"),
            false => format!("{HERE} via 10.99.0.1"),
        };
        self.run(&format!("ip route replace {way}"));
    }

    fn run(&self, words: &str) {
        tool(&self.0.enter(), words);
    }
}

fn tool(enter: &[String], words: &str) {
    let all: Vec<&str> = enter
        .iter()
        .map(String::as_str)
        .chain(words.split(' '))
        .collect();
    run(all[0], &all[1..]);
}
