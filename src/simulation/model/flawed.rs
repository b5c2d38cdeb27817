//! A disk with a planted fault: it leaves out one kind of sync that the spool asks for.

use super::Bug;
use crate::spool::twin::TwinDisk;
use crate::spool::{Disk, DiskFile, ReadFile, Space};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// See the module.
pub(super) struct Flawed {
    disk: TwinDisk,
    bug: Option<Bug>,
    /// The spool is being opened.
    recovering: Arc<AtomicBool>,
}

struct FlawedFile {
    file: Arc<dyn DiskFile>,
    bug: Option<Bug>,
    recovering: Arc<AtomicBool>,
}

impl Flawed {
    /// The disk, and the switch that says whether the spool is being opened.
    pub fn new(disk: TwinDisk, bug: Option<Bug>) -> (Arc<Self>, Arc<AtomicBool>) {
        let recovering = Arc::new(AtomicBool::new(true));
        let flawed = Self {
            disk,
            bug,
            recovering: recovering.clone(),
        };
        (Arc::new(flawed), recovering)
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FlawedFile {
            file,
            bug: self.bug,
            recovering: self.recovering.clone(),
        })
    }
}

impl Disk for Flawed {
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.disk.list(directory)
    }

    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        self.disk.make_directory(directory)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        match self.bug {
            Some(Bug::NoDirectorySync) => Ok(()),
            _ => self.disk.sync_directory(directory),
        }
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.open(path)?))
    }

    fn open_uncached(&self, path: &Path) -> io::Result<Arc<dyn ReadFile>> {
        self.disk.open_uncached(path)
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.open_to_write(path)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        self.disk.remove_directory(directory)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        self.disk.space(directory)
    }
}

impl ReadFile for FlawedFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}

impl DiskFile for FlawedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        match self.bug {
            Some(Bug::RecoveryDoesNotSync) if self.recovering.load(Ordering::Relaxed) => Ok(()),
            _ => self.file.sync(),
        }
    }
}
