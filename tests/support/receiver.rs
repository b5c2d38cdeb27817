//! The real `hallcast-receiver` as a process with directories of its own.

#![allow(dead_code, reason = "each test that includes this uses a part of it")]

use std::io::{BufRead, BufReader};
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
        let mut child = Command::new(program)
            .args([
                "run",
                "--listen",
                "127.0.0.1:0",
                "--web-listen",
                "127.0.0.1:0",
            ])
            .arg("--store-dir")
            .arg(&store_dir)
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
