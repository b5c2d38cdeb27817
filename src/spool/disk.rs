//! The file operations that the spool uses, as a trait: a real disk, and in tests a twin that forgets
//! what was not synced and fails on demand.

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, statvfs};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// A disk.
pub trait Disk: Send + Sync {
    /// Names of the entries of `directory`, in no order.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Creates `directory` and those above it, unless they exist.
    fn make_directory(&self, directory: &Path) -> io::Result<()>;
    /// Makes the entries of `directory` survive a power cut.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// Creates a file that must not exist yet, to read and write.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file to read and to sync.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file to read and write.
    fn open_to_write(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Removes a file; who has it open goes on reading it.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_directory(&self, directory: &Path) -> io::Result<()>;
    /// Gives a file or directory another name, at once or not at all.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// The space of the file system that holds `directory`.
    fn space(&self, directory: &Path) -> io::Result<Space>;
}

/// The space of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What can still be written.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// An open file, shared between the writer, the syncing thread and readers.
pub trait DiskFile: Send + Sync {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Fills `bytes` from `offset`.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// The file's length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Makes the file `bytes` long and takes the space for it: what is written there later needs none.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Makes the file's bytes survive a power cut (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Forgets what memory holds of the file's synced bytes: they are read from the disk from now on.
    fn drop_cache(&self) -> io::Result<()>;
}

/// The machine's own file system.
pub struct LocalDisk;

impl Disk for LocalDisk {
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)?,
        ))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::open(path)?))
    }

    fn open_to_write(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(
            OpenOptions::new().read(true).write(true).open(path)?,
        ))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        fs::remove_dir(directory)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    #[allow(
        clippy::useless_conversion,
        reason = "the fields are 32 bits wide on armv7"
    )]
    fn space(&self, directory: &Path) -> io::Result<Space> {
        let about = statvfs(directory)?;
        let bytes = |blocks: u64| blocks.saturating_mul(about.f_frsize.into());
        Ok(Space {
            free: bytes(about.f_bavail.into()),
            total: bytes(about.f_blocks.into()),
        })
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match fallocate(self, FallocateFlags::empty(), 0, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                // What a file system cannot promise is taken by writing.
                let zeros = [0; 64 << 10];
                let mut at = 0;
                while at < bytes {
                    let length = (bytes - at).min(zeros.len() as u64);
                    self.write_all_at(&zeros[..length as usize], at)?;
                    at += length;
                }
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(fadvise(self, 0, None, Advice::DontNeed)?)
    }
}
