//! Every parser of bytes from outside, on stable Rust: the kept corpus and seeded mutations of it.
//!
//! `FUZZ_EXECUTIONS=N` runs N mutations of the cheapest targets instead of 1 000 000 (dearer ones a part
//! of it, as targets.rs says), `FUZZ_SEED=N` others. A
//! failure prints the input; put it into `fuzz/corpus/<target>/` so that it stays covered.
// A test that cannot read its own files may well panic.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "receiver")]

#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use targets::TARGETS;

/// How much the process may grow while a target runs, in KiB: touched, and reserved.
const MOST_RESIDENT: u64 = 32 * 1024;
const MOST_RESERVED: u64 = 256 * 1024;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(name)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder("corpus").join(target))
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => otherwise,
    }
}

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        match limit {
            0 => 0,
            limit => (self.next() >> 16) as usize % limit,
        }
    }
}

/// One to four edits of the kinds that parsers trip over.
fn mutate(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let length = random.below(bytes.len() - at + 1).min(64);
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => {
                // Bytes that mean something in CBOR, in boxes and as lengths.
                let telling = [
                    0, 1, 2, 0x17, 0x1b, 0x3b, 0x5f, 0x7f, 0x80, 0x9f, 0xa0, 0xbf, 0xf6, 0xff,
                ];
                bytes[at] = telling[random.below(telling.len())];
            }
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..at + length)),
            4 => {
                let copy = bytes[at..at + length].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            5 => {
                let other = &corpus[random.below(corpus.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len())..]);
            }
            6 => {
                let telling = [
                    0,
                    1,
                    0xff,
                    0xffff,
                    0x7fff_ffff,
                    0xffff_ffff,
                    bytes.len() as u32,
                ];
                let value =
                    telling[random.below(telling.len())].wrapping_sub(random.below(3) as u32);
                let width = [1, 2, 4][random.below(3)];
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, value.to_be_bytes()[4 - width..].iter().copied());
            }
            _ => {
                let new: Vec<u8> = (0..random.below(9)).map(|_| random.next() as u8).collect();
                bytes.splice(at..at, new);
            }
        }
    }
    bytes.truncate(256 * 1024);
}

/// KiB that the process has touched and reserved at most so far.
fn memory() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (field("VmHWM:"), field("VmPeak:"))
}

/// Whether the target understood the bytes.
fn execute(name: &str, bytes: &[u8]) -> bool {
    let run = AssertUnwindSafe(|| targets::run(name, bytes));
    panic::catch_unwind(run).unwrap_or_else(|cause| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("target `{name}` failed on {} bytes: {hex}", bytes.len());
        panic::resume_unwind(cause)
    })
}

#[test]
fn no_input_panics_or_takes_more_memory_than_it_should() {
    let most = number("FUZZ_EXECUTIONS", 1_000_000);
    let seed = number("FUZZ_SEED", 0x5eed);
    for (name, cost, _) in TARGETS {
        let executions = most / cost;
        let started = hallcast::clock::now();
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "fuzz/corpus/{name} holds no file");
        let mut random = Random(seed | 1);
        // `unknown` is there to be skipped, all else is what a release wrote.
        let understood = corpus.iter().filter(|bytes| execute(name, bytes)).count();
        assert!(
            understood + 1 >= corpus.len(),
            "{name}: {understood} files are understood"
        );
        let before = memory();
        let (mut kept, mut understood) = (0, 0);
        for _ in 0..executions {
            let mut bytes = corpus[random.below(corpus.len())].clone();
            mutate(&mut bytes, &corpus, &mut random);
            kept = kept.max(bytes.len());
            understood += u64::from(execute(name, &bytes));
        }
        let after = memory();
        let (resident, reserved) = (after.0 - before.0, after.1 - before.1);
        println!(
            "{name}: {executions} executions ({understood} understood) from {} files, inputs up to {kept} bytes, grew by {resident} KiB, {:.1?}",
            corpus.len(),
            hallcast::clock::now().since(started)
        );
        assert!(resident <= MOST_RESIDENT, "{name} grew by {resident} KiB");
        assert!(reserved <= MOST_RESERVED, "{name} reserved {reserved} KiB");
    }
}

#[test]
fn a_kept_stream_cut_at_any_byte_never_was() {
    for name in ["stream", "init"] {
        for bytes in corpus(name) {
            if targets::finished(&bytes, 4096).is_none() {
                continue;
            }
            for cut in 0..bytes.len() {
                assert_eq!(
                    targets::finished(&bytes[..cut], 4096),
                    None,
                    "{name} at {cut}"
                );
            }
        }
    }
    let whole = |name| {
        corpus(name)
            .iter()
            .any(|bytes| targets::finished(bytes, 1).is_some())
    };
    assert!(
        whole("stream") && whole("init"),
        "the corpus holds streams that end well"
    );
}

#[test]
fn every_target_is_known_to_cargo_fuzz() {
    let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
    for (name, _, _) in TARGETS {
        let file = format!("fuzz_targets/{name}.rs");
        let text = fs::read_to_string(folder(&file)).unwrap_or_default();
        assert!(
            text.contains(&format!("targets::run(\"{name}\"")),
            "fuzz/{file}"
        );
        assert!(
            manifest.contains(&format!("path = \"{file}\"")),
            "fuzz/Cargo.toml: {file}"
        );
    }
    assert_eq!(
        fs::read_dir(folder("fuzz_targets")).unwrap().count(),
        TARGETS.len()
    );
}
