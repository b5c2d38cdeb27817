//! Reading a log file record by record, resynchronised after damage; or, where its last record is an
//! index of the others, only that.

use super::disk::ReadFile;
use super::record::{
    Entry, FILE_HEADER, HEADER, MAGIC, OVERHEAD, Record, RecordError, read_file_header, read_index,
    read_record,
};
use crate::media::RecordingId;
use std::io;

const READ: usize = 256 << 10;
/// What a disk that cannot read a part of a file may be asked for instead.
const SECTOR: usize = 4096;
/// Bytes behind an index's body: its length in the record's header is what finds it.
const LONGEST_INDEX: u64 = 4 << 20;

/// What is wrong with a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Damage before or between valid records: where, and how many bytes.
    pub damaged: Vec<(u64, u64)>,
    /// Bytes behind the last valid record: what a power cut tore.
    pub torn: u64,
    /// It belongs to another recording: nothing was taken from it.
    pub foreign: bool,
    /// A part of it could not be read.
    pub unread: bool,
    /// Valid records.
    pub records: u64,
}

/// Hands every valid record to `each`, with where it begins and its length.
pub(super) fn scan(
    file: &dyn ReadFile,
    recording: RecordingId,
    mut each: impl FnMut(Record<'_>, u64, usize),
) -> io::Result<Scan> {
    let length = file.length()?;
    let mut window = Window {
        file,
        length,
        start: 0,
        bytes: Vec::new(),
        passed: 0,
        unread: false,
    };
    let mut found = Scan::default();
    let mut at = 0;
    match read_file_header(window.at(0, FILE_HEADER)) {
        Some(named) if named == recording => at = FILE_HEADER as u64,
        Some(_) => {
            found.foreign = true;
            return Ok(found);
        }
        // Damaged, like any other part.
        None => {}
    }
    let mut bad_from = None;
    while at < length {
        let mut wanted = OVERHEAD;
        let outcome = loop {
            let bytes = window.at(at, wanted);
            let all = at + bytes.len() as u64 >= length;
            match read_record(bytes) {
                Err(RecordError::Short) if !all => wanted = bytes.len() + READ,
                Ok((record, size)) => {
                    each(record, at, size);
                    break Some(size as u64);
                }
                Err(_) => break None,
            }
        };
        match outcome {
            Some(size) => {
                found.records += 1;
                if let Some(from) = bad_from.take() {
                    found.damaged.push((from, at - from));
                }
                at += size;
            }
            None => {
                bad_from.get_or_insert(at);
                at = window.next_magic(at + 1);
            }
        }
    }
    found.unread = window.unread;
    // A preallocated file ends in zeros: nothing was written there.
    found.torn = bad_from.map_or(0, |from| window.last_written(from).saturating_sub(from));
    Ok(found)
}

/// Hands to `each` what the index at the file's end says of its records; false if there is none.
pub(super) fn scan_index(
    file: &dyn ReadFile,
    recording: RecordingId,
    each: impl FnMut(Entry<'_>, u64),
) -> io::Result<bool> {
    let length = file.length()?;
    let mut header = [0; FILE_HEADER];
    if length < (FILE_HEADER + OVERHEAD) as u64 {
        return Ok(false);
    }
    file.read_at(&mut header, 0)?;
    if read_file_header(&header) != Some(recording) {
        return Ok(false);
    }
    // The index says at its own end how long it is.
    let mut tail = [0; 4];
    file.read_at(&mut tail, length - 20)?;
    let body = u64::from(u32::from_be_bytes(tail));
    let whole = body + OVERHEAD as u64;
    if body < HEADER as u64 || body > LONGEST_INDEX || whole > length - FILE_HEADER as u64 {
        return Ok(false);
    }
    let mut record = vec![0; whole as usize];
    file.read_at(&mut record, length - whole)?;
    match read_record(&record) {
        Ok((Record::Index(index), size)) if size == record.len() => {
            // Behind the lines comes the length.
            let lines = &index[..index.len() - 4];
            // It tells of the whole file before it, or it is none.
            let is_right = read_index(lines, |_, _| {}) == Some(length - whole);
            Ok(is_right && read_index(lines, each).is_some())
        }
        _ => Ok(false),
    }
}

/// A part of a file in memory: logs may be larger than what a box can spare.
struct Window<'a> {
    file: &'a dyn ReadFile,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
    /// Bytes at the beginning of `bytes` that are not wanted any more.
    passed: usize,
    unread: bool,
}

impl Window<'_> {
    /// The bytes from `at` on: at least `wanted`, or all that the file has.
    fn at(&mut self, at: u64, wanted: usize) -> &[u8] {
        let end = self.start + self.bytes.len() as u64;
        if at < self.start || at > end {
            (self.start, self.passed) = (at, 0);
            self.bytes.clear();
        } else {
            self.passed = (at - self.start) as usize;
        }
        if self.bytes.len() - self.passed < wanted {
            self.bytes.drain(..self.passed);
            (self.start, self.passed) = (at, 0);
            let held = self.bytes.len();
            let left = self.length.saturating_sub(at + held as u64);
            let more = ((wanted - held).max(READ) as u64).min(left) as usize;
            self.bytes.resize(held + more, 0);
            self.unread |= !read_around(self.file, &mut self.bytes[held..], at + held as u64);
        }
        &self.bytes[self.passed..]
    }

    /// The next place at or after `from` where a record may begin, or the file's end.
    fn next_magic(&mut self, mut from: u64) -> u64 {
        while from < self.length {
            let bytes = self.at(from, MAGIC.len());
            match bytes.windows(MAGIC.len()).position(|four| four == MAGIC) {
                Some(at) => return from + at as u64,
                // The magic may straddle the window's end.
                None => from += bytes.len().saturating_sub(MAGIC.len() - 1).max(1) as u64,
            }
        }
        self.length
    }

    /// The end of the last byte from `from` on that is not zero.
    fn last_written(&mut self, mut from: u64) -> u64 {
        let mut last = from;
        while from < self.length {
            let bytes = self.at(from, 1);
            let passed = bytes.len() as u64;
            if let Some(at) = bytes.iter().rposition(|byte| *byte != 0) {
                last = from + at as u64 + 1;
            }
            from += passed;
        }
        last
    }
}

/// Reads what a failing disk still gives; the rest stays zero, which is no record. True for all of it.
fn read_around(file: &dyn ReadFile, bytes: &mut [u8], at: u64) -> bool {
    if bytes.is_empty() || file.read_at(bytes, at).is_ok() {
        return true;
    }
    // Sector by sector as the disk has them, so that a bad one costs nothing beside it.
    let (mut all, mut rest, mut at) = (true, bytes, at);
    while !rest.is_empty() {
        let length = (SECTOR - (at % SECTOR as u64) as usize).min(rest.len());
        let (sector, behind) = rest.split_at_mut(length);
        if let Err(error) = file.read_at(sector, at) {
            ::log::debug!("{length} bytes cannot be read: {error}");
            sector.fill(0);
            all = false;
        }
        (rest, at) = (behind, at + length as u64);
    }
    all
}
