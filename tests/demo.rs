//! `make demo` as a newcomer runs it.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod support;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use support::film::{Film, offsets_ms};
use support::programs::{alone, pause, run};

/// `make demo` with a home and a port of its own, and without what cargo tells its tests.
fn make_demo(home: &Path) -> Command {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "demo"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("DEMO_HOME", home)
        .env("DEMO_PORT", port.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_")
            && !["CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_INCREMENTAL"].contains(&&*text)
        {
            make.env_remove(&name);
        }
    }
    make
}

/// The film that the last line names, after the checks that every demo must pass.
fn film_of(stdout: &[u8], least_seconds: u64) -> Film {
    let text = String::from_utf8_lossy(stdout);
    let last = text.lines().last().unwrap_or_default();
    let path = last
        .strip_prefix("recording: ")
        .unwrap_or_else(|| panic!("the last line is {last:?} of\n{text}"));
    let page = text
        .lines()
        .find_map(|line| line.strip_prefix("watch it:"))
        .unwrap()
        .trim();
    assert!(page.starts_with("http://127.0.0.1:"), "{page}");
    let film = Film::open(Path::new(path));
    film.assert_decodes();
    film.assert_moov_first();
    assert_eq!(film.stream("video")["codec_name"], "h264");
    assert_eq!(film.stream("audio")["codec_name"], "aac");
    assert!(
        film.pictures() >= 30 * least_seconds,
        "{} pictures",
        film.pictures()
    );
    let offsets = offsets_ms(&film.clicks(), &film.flashes());
    assert!(
        !offsets.is_empty() && offsets.iter().all(|offset| offset.abs() <= 20.0),
        "{offsets:?} ms"
    );
    film
}

#[test]
fn the_demo_records_and_ends_by_itself() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let output = make_demo(home.path())
        .env("DEMO_SECONDS", "5")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    film_of(&output.stdout, 4);
    // And a second time with the same keys.
    let output = make_demo(home.path())
        .env("DEMO_SECONDS", "3")
        .output()
        .unwrap();
    film_of(&output.stdout, 2);
}

#[test]
fn ctrl_c_ends_the_demo_in_order() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("out");
    let mut demo = make_demo(home.path());
    demo.stdout(std::fs::File::create(&log).unwrap());
    // What a terminal does: the whole foreground group gets the signal.
    std::os::unix::process::CommandExt::process_group(&mut demo, 0);
    let mut child = demo.spawn().unwrap();
    support::programs::wait_until(600, "the recording", || {
        std::fs::read_to_string(&log).unwrap().contains("Ctrl-C")
    });
    pause(4);
    run("kill", &["-INT", "--", &format!("-{}", child.id())]);
    child.wait().unwrap();
    film_of(&std::fs::read(&log).unwrap(), 3);
}
