//! The real `hallcast-receiver` as a process with directories of its own.

#![allow(dead_code, reason = "each test that includes this uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running receiver with a development authority; ends with this value.
pub struct Receiver {
    child: Child,
    /// Where boxes connect, `address:port`.
    pub boxes: String,
    /// `http://address:port/`.
    pub page: String,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// Its archive.
    pub store_dir: PathBuf,
}

impl Receiver {
    /// Starts it in `dir`, on free ports; an authority is made if there is none.
    pub fn start(dir: &Path) -> Self {
        let (state_dir, store_dir) = (dir.join("state"), dir.join("store"));
        let program = env!("CARGO_BIN_EXE_hallcast-receiver");
        if !state_dir.join("ca.pem").exists() {
            let made = Command::new(program)
                .args(["ca", "init", "--development", "--state-dir"])
                .arg(&state_dir)
                .stdout(Stdio::null())
                .status()
                .unwrap();
            assert!(made.success());
        }
        // A test that wants the archive elsewhere has written settings.
        let settings = dir.join("receiver.toml");
        let archive = match settings.exists() {
            true => [Path::new("--config"), &settings],
            false => [Path::new("--store-dir"), &store_dir],
        };
        let mut child = Command::new(program)
            .args([
                "run",
                "--listen",
                "127.0.0.1:0",
                "--web-listen",
                "127.0.0.1:0",
            ])
            .args(archive)
            .arg("--state-dir")
            .arg(&state_dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut value = |name: &str| {
            let line = lines.next().expect("the receiver ended at once").unwrap();
            let value = line.strip_prefix(name).unwrap_or_else(|| panic!("{line}"));
            value.to_owned()
        };
        let (boxes, page) = (value("boxes: "), value("page: "));
        Self {
            child,
            boxes,
            page,
            state_dir,
            store_dir,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status line, headers in lower case, body.
pub fn get(page: &str, path: &str, headers: &str) -> (u16, String, Vec<u8>) {
    let host = page.trim_start_matches("http://").trim_end_matches('/');
    let mut socket = std::net::TcpStream::connect(host).unwrap();
    let host_line = if headers.contains("Host:") {
        String::new()
    } else {
        format!("Host: {host}\r\n")
    };
    write!(
        socket,
        "GET {path} HTTP/1.1\r\n{host_line}Connection: close\r\n{headers}\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(!head.to_ascii_lowercase().contains("chunked"), "{head}");
    (
        status,
        head.to_ascii_lowercase(),
        answer[end + 4..].to_vec(),
    )
}
