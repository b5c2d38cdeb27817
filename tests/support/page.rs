//! docs/errors.md: two tests make a part of it each, and fail when it says otherwise.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::fmt::Write;
use std::fs;
use std::path::Path;

/// The page.
const PAGE: &str = "docs/errors.md";
/// Its last chapter, which is made of devices in the rig's guest.
const DEVICES: &str = "\n## Devices of a box";

/// Whether the page is to be written anew rather than held to what the programs say.
pub fn is_rewritten() -> bool {
    std::env::var_os("HALLCAST_REWRITE").is_some()
}

/// Which part of the page a test makes.
#[derive(Clone, Copy)]
pub enum Part {
    /// All before the devices.
    Front,
    /// The devices.
    Devices,
}

/// Some of the page, and how many situations it holds.
#[derive(Default)]
pub struct Situations {
    pub text: String,
    pub count: usize,
}

impl Situations {
    /// Adds what is said, and where.
    pub fn add(&mut self, what: &str, place: &str, message: &str) {
        assert!(!message.is_empty(), "{what}");
        assert!(!message.contains("panicked"), "{what}: {message}");
        writeln!(
            self.text,
            "\n**{what}** ({place})\n\n```text\n{message}\n```"
        )
        .unwrap();
        self.count += 1;
    }
}

/// What a program said on standard error: of its log, whose lines begin with the time in brackets, only
/// what went wrong.
pub fn messages(errors: &[u8]) -> String {
    let errors = String::from_utf8_lossy(errors);
    let lines: Vec<&str> = errors
        .lines()
        .filter_map(|line| match line.strip_prefix('[') {
            Some(line) => line.split_once(" ERROR ")?.1.split_once("] "),
            None => Some(("", line)),
        })
        .map(|(_, message)| message)
        .collect();
    lines.join("\n")
}

/// Fails unless this part of the page is `text`, at the first line that differs.
pub fn assert_says(part: Part, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(&path).unwrap_or_default();
    let at = page.find(DEVICES).unwrap_or(page.len());
    let (front, devices) = page.split_at(at);
    let (written, anew) = match part {
        Part::Front => (front, format!("{text}{devices}")),
        Part::Devices => (devices, format!("{front}{text}")),
    };
    if is_rewritten() {
        return fs::write(&path, anew).unwrap();
    }
    let differs = text
        .lines()
        .zip(written.lines())
        .find(|(is, was)| is != was);
    assert!(
        written == text,
        "{PAGE} says otherwise, first at (is, was) {differs:?}; HALLCAST_REWRITE=1 writes it anew"
    );
}

/// The title of the last chapter, with what stands below it.
pub fn devices_chapter(intro: &str) -> String {
    format!("{DEVICES}\n\n{intro}\n")
}
