//! The file operations that the spool uses, as a trait: a real disk, and in tests a twin that forgets
//! what was not synced and fails on demand.

use rustix::fs::{FallocateFlags, OFlags, fallocate, statvfs};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
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
    /// Opens an existing file to read what the disk holds, whatever memory holds of it. Fails where
    /// the file system has no such way.
    fn open_uncached(&self, path: &Path) -> io::Result<Arc<dyn ReadFile>>;
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

/// An open file, to read.
pub trait ReadFile: Send + Sync {
    /// Fills `bytes` from `offset`.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// The file's length in bytes.
    fn length(&self) -> io::Result<u64>;
}

/// An open file, shared between the writer, the syncing thread and readers.
pub trait DiskFile: ReadFile {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the file `bytes` long and takes the space for it: what is written there later needs none.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Makes the file's bytes survive a power cut (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
}

/// The machine's own file system.
pub struct LocalDisk;

/// A file read with `O_DIRECT`: advice to drop the page cache may be ignored, this may not.
struct Uncached(File);

/// Memory, offset and length of such a read are whole multiples of this.
const ALIGNED: usize = 4096;

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

    fn open_uncached(&self, path: &Path) -> io::Result<Arc<dyn ReadFile>> {
        let direct = OFlags::DIRECT.bits() as i32;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(direct)
            .open(path)?;
        let file = Uncached(file);
        // Some file systems refuse only the reading.
        match file.read_at(&mut [0], 0) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(error),
            _ => Ok(Arc::new(file)),
        }
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

impl ReadFile for Uncached {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let skip = (offset % ALIGNED as u64) as usize;
        let (from, wanted) = (offset - skip as u64, skip + bytes.len());
        let mut memory = vec![0; wanted.next_multiple_of(ALIGNED) + ALIGNED];
        let start = memory.as_ptr().align_offset(ALIGNED);
        let blocks = memory
            .get_mut(start..)
            .ok_or(io::ErrorKind::OutOfMemory)?
            .as_chunks_mut::<ALIGNED>()
            .0
            .as_flattened_mut();
        let mut read = 0;
        while read < wanted {
            match FileExt::read_at(&self.0, &mut blocks[read..], from + read as u64) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(more) => {
                    read += more;
                    // Only the file's end is no whole block.
                    if read < wanted && (more == 0 || read % ALIGNED > 0) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
        bytes.copy_from_slice(&blocks[skip..wanted]);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

impl ReadFile for File {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_past_the_cache_is_what_was_synced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let written: Vec<u8> = (0..20_011).map(|n: u32| (n % 251) as u8).collect();
        let file = LocalDisk.create(&path).unwrap();
        file.write_at(&written, 0).unwrap();
        file.sync().unwrap();
        let uncached = LocalDisk.open_uncached(&path).unwrap();
        assert_eq!(uncached.length().unwrap(), 20_011);
        for (from, to) in [
            (0, 1),
            (0, 20_011),
            (4096, 8192),
            (4095, 8193),
            (20_010, 20_011),
            (16_384, 20_011),
            (5, 5),
        ] {
            let mut bytes = vec![0; to - from];
            uncached.read_at(&mut bytes, from as u64).unwrap();
            assert_eq!(bytes, written[from..to], "{from}..{to}");
        }
        for (at, length) in [(20_011, 1), (20_000, 12), (4096, 20_011), (90_000, 1)] {
            let beyond = uncached.read_at(&mut vec![0; length], at).unwrap_err();
            assert_eq!(
                beyond.kind(),
                io::ErrorKind::UnexpectedEof,
                "{length} at {at}"
            );
        }
    }
}
