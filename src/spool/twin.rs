//! A disk for tests: what was not synced may be lost, in whole, in blocks or torn at any byte, in any
//! order; names too; it fills up, turns read-only, and fails any one call.
//!
//! [`TwinDisk::crash`] gives the disk as a power cut leaves it, by a seed; the twin that was cut stays
//! as it was, so that one run can be cut in many ways.
//!
//! Longer than most files: every way to fail is decided in one place, under one lock.

use super::{Disk, DiskFile, ReadFile, Space};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Un-synced bytes survive a crash in pieces of this size, unless one is torn.
const BLOCK: usize = 512;

/// A file's bytes.
#[derive(Clone, Default)]
struct Bytes {
    /// What a reader sees: the page cache.
    seen: Vec<u8>,
    /// What a power cut leaves at least.
    synced: Vec<u8>,
    /// Written and not synced, in order: each may survive in part.
    dirty: Vec<(usize, Vec<u8>)>,
    /// Space taken, in bytes.
    allocated: usize,
}

type Node = Arc<Mutex<Bytes>>;

#[derive(Clone)]
enum Entry {
    File(Node),
    Directory,
}

/// A change of names that no sync has made durable.
#[derive(Clone)]
enum Change {
    Add(PathBuf, Entry),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    pending: Vec<Change>,
    /// Calls that write, sync, or change names, so far.
    calls: u64,
    /// The call that fails, by its number, and how.
    failing: Option<(u64, i32)>,
    failing_syncs: u32,
    refusing: Option<PathBuf>,
    capacity: Option<usize>,
    read_only: bool,
    bytes_read: u64,
    unreadable: Vec<(PathBuf, std::ops::Range<u64>)>,
    /// Files open at once, now and at most.
    open: (usize, Option<usize>),
    /// The power is cut before this call, in these ways; the disks that it leaves.
    cut: Option<(u64, Vec<u64>)>,
    left: Vec<TwinDisk>,
}

/// The twin of [`super::LocalDisk`].
#[derive(Clone, Default)]
pub(crate) struct TwinDisk(Arc<Mutex<State>>);

struct TwinFile {
    disk: TwinDisk,
    path: PathBuf,
    bytes: Node,
    /// It is read past the page cache.
    uncached: bool,
}

/// splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

impl TwinDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The next `count` syncs of a file fail.
    pub(crate) fn fail_syncs(&self, count: u32) {
        self.state().failing_syncs = count;
    }

    /// No file can be created in this directory from now on.
    pub(crate) fn refuse_files_in(&self, directory: Option<PathBuf>) {
        self.state().refusing = directory;
    }

    /// The call after the next `calls` ones that write, sync or change names fails with `errno`.
    pub(crate) fn fail_call(&self, calls: u64, errno: i32) {
        let mut state = self.state();
        state.failing = Some((state.calls + calls, errno));
    }

    /// Calls so far that write, sync, or change names.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Bytes asked for so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.state().bytes_read
    }

    /// Only `bytes` more can be written; `None` for no limit.
    pub(crate) fn set_room(&self, bytes: Option<usize>) {
        let mut state = self.state();
        let used = state.used();
        state.capacity = bytes.map(|bytes| used + bytes);
    }

    /// Whether every change is refused from now on.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        self.state().read_only = read_only;
    }

    /// These bytes of a file cannot be read any more.
    pub(crate) fn make_unreadable(&self, path: &Path, bytes: std::ops::Range<u64>) {
        self.state().unreadable.push((path.to_owned(), bytes));
    }

    /// No more than `most` files can be open at once from now on.
    pub(crate) fn set_most_open(&self, most: usize) {
        self.state().open.1 = Some(most);
    }

    /// Everything can be read again.
    pub(crate) fn heal(&self) {
        self.state().unreadable.clear();
    }

    /// The power is cut. With seed 0 nothing survives but what was synced; with seed 1 everything that
    /// was written; with another, any part of it: some changes of names, some blocks of what was
    /// written, in no order, and one of them torn.
    pub(crate) fn crash(&self, seed: u64) -> Self {
        self.state().crash(seed)
    }

    /// Cuts the power before the call after the next `calls` ones, once for each seed; see
    /// [`TwinDisk::left`].
    pub(crate) fn cut_before(&self, calls: u64, seeds: &[u64]) {
        let mut state = self.state();
        state.cut = Some((state.calls + calls, seeds.to_vec()));
    }

    /// What the power cut left, once it has happened.
    pub(crate) fn left(&self) -> Vec<Self> {
        self.state().left.clone()
    }

    /// The power is cut: what was not synced is gone, but for the first `torn` bytes of it in each
    /// file.
    pub(crate) fn cut_power(&self, torn: usize) -> Self {
        let after = self.crash(0);
        let state = self.state();
        for (path, entry) in &after.state().names {
            let (Entry::File(left), Some(Entry::File(before))) = (entry, state.durable.get(path))
            else {
                continue;
            };
            let before = before.lock().unwrap();
            let mut left = left.lock().unwrap();
            let from = left.seen.len();
            let more = before.seen.get(from..).unwrap_or_default();
            let more = more[..torn.min(more.len())].to_vec();
            left.seen.extend(&more);
            left.synced = left.seen.clone();
        }
        after
    }

    /// Changes the bytes of a file behind everyone's back.
    pub(crate) fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let Some(Entry::File(file)) = self.state().names.get(path).cloned() else {
            panic!("{} is not there", path.display());
        };
        let mut bytes = file.lock().unwrap();
        change(&mut bytes.seen);
        (bytes.synced, bytes.dirty) = (bytes.seen.clone(), Vec::new());
    }

    /// The paths of all files.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let state = self.state();
        let files = state.names.iter();
        let files = files.filter(|(_, entry)| matches!(entry, Entry::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }

    /// Puts a whole, durable file there, or a directory.
    pub(crate) fn place(&self, path: &Path, bytes: Option<&[u8]>) {
        let entry = match bytes {
            None => Entry::Directory,
            Some(bytes) => Entry::File(Arc::new(Mutex::new(Bytes {
                seen: bytes.to_vec(),
                synced: bytes.to_vec(),
                dirty: Vec::new(),
                allocated: bytes.len(),
            }))),
        };
        let mut state = self.state();
        if let Some(up) = path.parent() {
            state.names.entry(up.to_owned()).or_insert(Entry::Directory);
            state
                .durable
                .entry(up.to_owned())
                .or_insert(Entry::Directory);
        }
        state.names.insert(path.to_owned(), entry.clone());
        state.durable.insert(path.to_owned(), entry);
    }

    fn file(&self, path: &Path) -> io::Result<TwinFile> {
        let mut state = self.state();
        let (open, most) = &mut state.open;
        if most.is_some_and(|most| *open >= most) {
            return Err(io::Error::from_raw_os_error(24));
        }
        *open += 1;
        let found = state.names.get(path).cloned();
        if !matches!(found, Some(Entry::File(_))) {
            state.open.0 -= 1;
        }
        drop(state);
        match found {
            Some(Entry::File(bytes)) => Ok(TwinFile {
                disk: self.clone(),
                path: path.to_owned(),
                bytes,
                uncached: false,
            }),
            Some(Entry::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Drop for TwinFile {
    fn drop(&mut self) {
        self.disk.state().open.0 -= 1;
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, written: &[u8]) {
    if bytes.len() < at + written.len() {
        bytes.resize(at + written.len(), 0);
    }
    bytes[at..at + written.len()].copy_from_slice(written);
}

impl Bytes {
    /// What reading past the page cache gives: it writes what is dirty first. The file stays as long
    /// as it was; what the disk never took, because its sync failed, reads as zeros.
    fn on_disk(&self) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        bytes.resize(self.seen.len().max(bytes.len()), 0);
        for (at, written) in &self.dirty {
            put(&mut bytes, *at, written);
        }
        bytes
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Self::Add(path, entry) => drop(names.insert(path.clone(), entry.clone())),
            Self::Remove(path) => drop(names.remove(path)),
            Self::Rename(from, to) => {
                let below: Vec<PathBuf> = names
                    .keys()
                    .filter(|path| path.starts_with(from))
                    .cloned()
                    .collect();
                for path in below {
                    if let (Some(entry), Ok(rest)) = (names.remove(&path), path.strip_prefix(from))
                    {
                        let new = if rest.as_os_str().is_empty() {
                            to.clone()
                        } else {
                            to.join(rest)
                        };
                        names.insert(new, entry);
                    }
                }
            }
        }
    }

    /// A sync of `directory` makes it durable.
    fn concerns(&self, directory: &Path) -> bool {
        let inside = |path: &PathBuf| path.parent() == Some(directory);
        match self {
            Self::Add(path, _) | Self::Remove(path) => inside(path),
            Self::Rename(from, to) => inside(from) || inside(to),
        }
    }
}

impl State {
    fn used(&self) -> usize {
        let files = self.names.values().filter_map(|entry| match entry {
            Entry::File(node) => Some(node.lock().unwrap().allocated),
            Entry::Directory => None,
        });
        files.sum()
    }

    fn crash(&self, seed: u64) -> TwinDisk {
        let mut random = Random(seed);
        let mut survives = |of: usize| match seed {
            0 => false,
            1 => true,
            _ => random.below(of) == 0,
        };
        let mut names = self.durable.clone();
        for change in &self.pending {
            if survives(2) {
                change.apply(&mut names);
            }
        }
        let mut after = State::default();
        for (path, entry) in names {
            // What lies in a directory whose own name is gone is gone too; parents come first.
            let up = path.parent().filter(|up| up.parent().is_some());
            let reachable = up.is_none_or(|up| after.names.contains_key(up));
            if !reachable {
                continue;
            }
            let entry = match entry {
                Entry::Directory => Entry::Directory,
                Entry::File(node) => {
                    let bytes = node.lock().unwrap();
                    let mut left = bytes.synced.clone();
                    for (at, written) in &bytes.dirty {
                        let blocks = written.chunks(BLOCK).enumerate();
                        for (number, block) in blocks {
                            if survives(2) {
                                let torn = if seed > 1 && survives(8) {
                                    block.len() / 2
                                } else {
                                    block.len()
                                };
                                put(&mut left, at + number * BLOCK, &block[..torn]);
                            }
                        }
                    }
                    let after = Bytes {
                        allocated: left.len().max(bytes.allocated.min(left.len())),
                        seen: left.clone(),
                        synced: left,
                        dirty: Vec::new(),
                    };
                    Entry::File(Arc::new(Mutex::new(after)))
                }
            };
            after.names.insert(path, entry);
        }
        after.durable = after.names.clone();
        after.capacity = self.capacity;
        after.read_only = self.read_only;
        TwinDisk(Arc::new(Mutex::new(after)))
    }

    /// Counts a call that changes something; fails the one that is to fail.
    fn call(&mut self) -> io::Result<()> {
        let number = self.calls;
        self.calls += 1;
        if let Some((_, seeds)) = self.cut.take_if(|(at, _)| *at == number) {
            self.left = seeds.iter().map(|seed| self.crash(*seed)).collect();
        }
        match self.failing {
            Some((at, errno)) if at == number => {
                self.failing = None;
                Err(io::Error::from_raw_os_error(errno))
            }
            _ if self.read_only => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            _ => Ok(()),
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }
}

impl Disk for TwinDisk {
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        match state.names.get(directory) {
            Some(Entry::Directory) => {}
            Some(Entry::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        let inside = state
            .names
            .keys()
            .filter(|path| path.parent() == Some(directory));
        let names = inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        Ok(names.collect())
    }

    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.state();
        let mut missing: Vec<&Path> = directory
            .ancestors()
            .take_while(|path| path.parent().is_some() && !state.names.contains_key(*path))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        state.call()?;
        while let Some(path) = missing.pop() {
            state.change(Change::Add(path.to_owned(), Entry::Directory));
        }
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        let pending = std::mem::take(&mut state.pending);
        for change in pending {
            if change.concerns(directory) {
                change.apply(&mut state.durable);
            } else {
                state.pending.push(change);
            }
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.call()?;
        if state.refusing.is_some() && path.parent() == state.refusing.as_deref() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let directory = path.parent().and_then(|up| state.names.get(up));
        if !matches!(directory, Some(Entry::Directory)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(Change::Add(path.to_owned(), Entry::File(Node::default())));
        drop(state);
        Ok(Arc::new(self.file(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.file(path)?))
    }

    fn open_uncached(&self, path: &Path) -> io::Result<Arc<dyn ReadFile>> {
        let mut file = self.file(path)?;
        file.uncached = true;
        Ok(Arc::new(file))
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.state().call()?;
        Ok(Arc::new(self.file(path)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        if !matches!(state.names.get(path), Some(Entry::File(_))) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(Change::Remove(path.to_owned()));
        Ok(())
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        if !matches!(state.names.get(directory), Some(Entry::Directory)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state
            .names
            .keys()
            .any(|path| path.parent() == Some(directory))
        {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.change(Change::Remove(directory.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.names.keys().any(|path| path.parent() == Some(to)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        let state = self.state();
        let total = state.capacity.map_or(1 << 40, |bytes| bytes as u64);
        let free = total.saturating_sub(state.used() as u64);
        Ok(Space { free, total })
    }
}

impl ReadFile for TwinFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let wanted = offset..offset + bytes.len() as u64;
        let bad = |(path, range): &(PathBuf, std::ops::Range<u64>)| {
            *path == self.path && range.start < wanted.end && wanted.start < range.end
        };
        state.bytes_read += bytes.len() as u64;
        if state.unreadable.iter().any(bad) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let file = self.bytes.lock().unwrap();
        let from = offset as usize;
        let on_disk = self.uncached.then(|| file.on_disk());
        let held = on_disk
            .as_ref()
            .unwrap_or(&file.seen)
            .get(from..from + bytes.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(held);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().seen.len() as u64)
    }
}

impl DiskFile for TwinFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let at = offset as usize;
        let outcome = state.call();
        let room = state
            .capacity
            .map_or(usize::MAX, |capacity| capacity.saturating_sub(state.used()));
        let mut file = self.bytes.lock().unwrap();
        let fits = match &outcome {
            // A call that fails may have written a part.
            Err(_) if state.read_only => 0,
            Err(_) => bytes.len() / 2,
            Ok(()) => bytes.len(),
        };
        let fits = fits.min(file.allocated.saturating_add(room).saturating_sub(at));
        let written = &bytes[..fits];
        put(&mut file.seen, at, written);
        file.allocated = file.allocated.max(at + fits);
        file.dirty.push((at, written.to_vec()));
        outcome?;
        if fits < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.call()?;
        let room = state
            .capacity
            .map_or(usize::MAX, |capacity| capacity.saturating_sub(state.used()));
        let mut file = self.bytes.lock().unwrap();
        let bytes = bytes as usize;
        if bytes.saturating_sub(file.allocated) > room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.allocated = file.allocated.max(bytes);
        let more = vec![0; bytes.saturating_sub(file.seen.len())];
        let at = file.seen.len();
        put(&mut file.seen, at, &more);
        file.dirty.push((at, more));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let mut outcome = state.call();
        if state.failing_syncs > 0 {
            state.failing_syncs -= 1;
            outcome = Err(io::Error::from_raw_os_error(5));
        }
        // As Linux does: after a failure the pages count as clean, their content is still seen, and a
        // later sync returns well without it.
        let mut file = self.bytes.lock().unwrap();
        if !state.read_only {
            let dirty = std::mem::take(&mut file.dirty);
            if outcome.is_ok() {
                for (at, written) in dirty {
                    put(&mut file.synced, at, &written);
                }
            }
        }
        outcome
    }
}
