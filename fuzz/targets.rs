// Every parser of bytes from outside, as a function that must not panic and holds bounded memory.
//
// Shared by `cargo fuzz` (fuzz_targets/) and by `cargo test --test fuzz` on stable Rust. To add a
// parser: a line in TARGETS, at least one file in corpus/<name>/, a one-line file in fuzz_targets/
// and its [[bin]] in Cargo.toml; the test says which of them is missing.

use hallcast::wire::event;
use hallcast::wire::framing::{self, MessageReader};
use hallcast::wire::stream::{Finished, StreamReader};

/// Name (also of the corpus folder) and parser.
type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("control", control),
    ("stream", stream),
    ("init", stream),
    ("events", events),
];

/// Runs one target.
pub fn run(name: &str, bytes: &[u8]) {
    for (known, parse) in TARGETS {
        if *known == name {
            parse(bytes);
        }
    }
}

/// A segment or init that ends well, as the receiver would take it; `piece` bytes at a time.
pub fn finished(bytes: &[u8], piece: usize) -> Option<Finished> {
    let mut reader = StreamReader::new();
    for mut input in bytes.chunks(piece) {
        while reader.next(&mut input).ok()?.is_some() {}
    }
    reader.finish().ok()
}

fn control(bytes: &[u8]) {
    let mut reader = MessageReader::new();
    let mut input = bytes;
    while let Ok(Some(message)) = reader.next(&mut input) {
        // What was understood can be said again and means the same.
        let Ok(again) = framing::encode(&message) else {
            continue;
        };
        let read = MessageReader::new().next(&mut again.as_slice());
        assert_eq!(read, Ok(Some(message)));
    }
}

fn stream(bytes: &[u8]) {
    assert_eq!(finished(bytes, 7), finished(bytes, 4096));
}

fn events(bytes: &[u8]) {
    if let Ok(facts) = event::decode(bytes) {
        let mut again = Vec::new();
        facts
            .iter()
            .for_each(|fact| event::encode(fact, &mut again));
        assert_eq!(event::decode(&again), Ok(facts));
    }
}
