//! A disk for tests: it forgets what was not synced, tears what it half forgets, and fails on demand.

use super::{Disk, DiskFile};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Bytes {
    written: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Arc<Mutex<Bytes>>>,
    durable_names: BTreeSet<PathBuf>,
    failing_syncs: u32,
    room: Option<usize>,
}

/// The twin of [`super::LocalDisk`].
#[derive(Clone, Default)]
pub(crate) struct TwinDisk(Arc<Mutex<State>>);

struct TwinFile {
    disk: TwinDisk,
    bytes: Arc<Mutex<Bytes>>,
}

impl TwinDisk {
    /// The next `count` syncs of a file fail.
    pub(crate) fn fail_syncs(&self, count: u32) {
        self.0.lock().unwrap().failing_syncs = count;
    }

    /// Only `bytes` more can be written; `None` for no limit.
    pub(crate) fn set_room(&self, bytes: Option<usize>) {
        self.0.lock().unwrap().room = bytes;
    }

    /// The power is cut: what was not synced is gone, but for the first `torn` bytes of it.
    pub(crate) fn cut_power(&self, torn: usize) -> Self {
        let state = self.0.lock().unwrap();
        let mut after = State::default();
        for (path, bytes) in &state.files {
            let directory = path.parent().unwrap();
            if !state.durable_names.contains(path) || !state.durable_names.contains(directory) {
                continue;
            }
            let bytes = bytes.lock().unwrap();
            let mut left = bytes.synced.clone();
            let unsynced = bytes.written.get(left.len()..).unwrap_or_default();
            left.extend(&unsynced[..torn.min(unsynced.len())]);
            after.files.insert(
                path.clone(),
                Arc::new(Mutex::new(Bytes {
                    written: left.clone(),
                    synced: left,
                })),
            );
            after
                .durable_names
                .extend([path.clone(), directory.to_owned()]);
        }
        Self(Arc::new(Mutex::new(after)))
    }

    /// Changes the bytes of a file behind everyone's back.
    pub(crate) fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let file = self.0.lock().unwrap().files[path].clone();
        let mut bytes = file.lock().unwrap();
        change(&mut bytes.written);
        bytes.synced = bytes.written.clone();
    }

    fn file(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let found = self.0.lock().unwrap().files.get(path).cloned();
        let bytes = found.ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(TwinFile {
            disk: self.clone(),
            bytes,
        }))
    }
}

impl Disk for TwinDisk {
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock().unwrap();
        let below = state
            .files
            .keys()
            .filter_map(|path| path.strip_prefix(directory).ok());
        let names: BTreeSet<String> = below
            .filter_map(|path| Some(path.components().next()?.as_os_str().to_str()?.to_owned()))
            .collect();
        Ok(names.into_iter().collect())
    }

    fn make_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let inside: Vec<PathBuf> = state
            .files
            .keys()
            .flat_map(|path| [path.clone(), path.parent().unwrap().to_owned()])
            .filter(|path| path.parent() == Some(directory))
            .collect();
        state.durable_names.extend(inside);
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock().unwrap();
        if state.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.files.insert(path.to_owned(), Arc::default());
        drop(state);
        self.file(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.file(path)
    }
}

impl DiskFile for TwinFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let mut file = self.bytes.lock().unwrap();
        let fits = state.room.map_or(bytes.len(), |room| room.min(bytes.len()));
        file.written.resize(offset as usize, 0);
        file.written.extend(&bytes[..fits]);
        if let Some(room) = &mut state.room {
            *room -= fits;
        }
        if fits < bytes.len() {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let file = self.bytes.lock().unwrap();
        let from = offset as usize;
        let held = file
            .written
            .get(from..from + bytes.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(held);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().written.len() as u64)
    }

    fn modified_nanos(&self) -> Option<i64> {
        None
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let mut file = self.bytes.lock().unwrap();
        if state.failing_syncs > 0 {
            state.failing_syncs -= 1;
            // As Linux does: the pages count as clean afterwards and their content is lost.
            file.written = file.synced.clone();
            return Err(io::Error::other("input/output error"));
        }
        file.synced = file.written.clone();
        Ok(())
    }
}
