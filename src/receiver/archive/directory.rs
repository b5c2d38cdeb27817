//! What a directory needs beyond `object_store`: a lock, no leftovers, durable deletion, and a reserve
//! of space for what must still be written when the disk is full.
//!
//! The reserve is a preallocated file. While it is there, segments may be stored. A manifest, a LOST
//! range or a tombstone that finds no room takes its place; from then on no segment is stored until
//! the file could be made again, so that segments never eat what was set aside.

use super::Error;
use rustix::fs::{FallocateFlags, FlockOperation};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The manifest of a day with three tracks takes some 20 MB.
const RESERVE: u64 = 24 * 1024 * 1024;
/// Of a small file system the reserve is this part.
const RESERVE_PART: u64 = 64;
/// So much is free before a file system that was full counts as having room: any segment fits.
const ROOM: u64 = 8 * 1024 * 1024;
/// Of a small file system it is this part.
const ROOM_PART: u64 = 8;
const RESERVE_NAME: &str = "reserve";
/// The folder of the tombstones; its lock is shared by those who erase, and held alone by who cleans up.
const ERASED: &str = "erased";

/// A directory that holds an archive.
#[derive(Debug)]
pub(super) struct Directory {
    dir: PathBuf,
    /// Held while the reserve is made.
    making: Mutex<()>,
    /// Folders that are known to survive a power cut, and so do those above them.
    settled: Mutex<BTreeSet<PathBuf>>,
    /// The directory, locked for as long as this receiver runs; or the folder of the tombstones.
    _locked: Option<File>,
    /// What was synced, in this order.
    #[cfg(test)]
    synced: Mutex<Vec<PathBuf>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn is_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

fn unusable(
    dir: &Path,
    action: &'static str,
    advice: &'static str,
) -> impl FnOnce(io::Error) -> Error + use<> {
    let dir = dir.to_path_buf();
    move |source| Error::Directory {
        dir,
        action,
        source,
        advice,
    }
}

impl Directory {
    /// Opens or makes the directory for this receiver alone, removes what a crash left half written,
    /// and makes durable what is listed: an object may have been linked just before a crash of the
    /// process, its directory not yet synced.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let tried = |action| unusable(dir, action, "check that it is a directory and writable");
        std::fs::create_dir_all(dir).map_err(tried("make the directory"))?;
        let handle = File::open(dir).map_err(tried("open the directory"))?;
        // Another one's half-written objects would be taken for leftovers.
        rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .map_err(unusable(
                dir,
                "lock the directory",
                "only one receiver may write to it: end the other one",
            ))?;
        remove_leftovers(dir).map_err(tried("remove what a crash left"))?;
        rustix::fs::syncfs(&handle)
            .map_err(io::Error::from)
            .map_err(tried("sync the file system"))?;
        match probe(dir) {
            // What is archived can be shown all the same; boxes keep theirs until there is room.
            Err(e) if is_no_room(&e) => log::error!(
                "archive {}: {e}: nothing can be kept until there is room",
                dir.display()
            ),
            probed => probed.map_err(tried("write a file"))?,
        }
        Ok(Self::new(dir, Some(handle)))
    }

    /// The directory beside a receiver that may be writing to it.
    pub fn look(dir: &Path) -> Result<Self, Error> {
        let advice = "name the receiver's store with --store-dir";
        std::fs::read_dir(dir).map_err(unusable(dir, "read the directory", advice))?;
        Ok(Self::new(dir, None))
    }

    /// The directory for a program that erases, beside a receiver: one that starts meanwhile leaves
    /// alone what this program is writing.
    pub fn erasing(dir: &Path) -> Result<Self, Error> {
        let directory = Self::look(dir)?;
        let folder = dir.join(ERASED);
        let locked = || {
            match std::fs::create_dir_all(&folder) {
                // There is a reserve for what is needed to erase.
                Err(e) if is_no_room(&e) && directory.release_reserve()? => {
                    std::fs::create_dir_all(&folder)?;
                }
                made => made?,
            }
            let handle = File::open(&folder)?;
            rustix::fs::flock(&handle, FlockOperation::LockShared)?;
            Ok(handle)
        };
        let advice = "check that `erased` in it is a directory and writable";
        let handle = locked().map_err(unusable(dir, "lock the tombstones", advice))?;
        Ok(Self::new(dir, Some(handle)))
    }

    fn new(dir: &Path, locked: Option<File>) -> Self {
        Self {
            dir: dir.into(),
            making: Mutex::default(),
            settled: Mutex::default(),
            _locked: locked,
            #[cfg(test)]
            synced: Mutex::default(),
        }
    }

    fn sync_one(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()?;
        #[cfg(test)]
        lock(&self.synced).push(path.into());
        Ok(())
    }

    /// Syncs an object that somebody else created: another session that is still about to sync it, or
    /// a program that was killed before it did.
    pub fn sync(&self, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        self.sync_one(&path)?;
        if let Some(folder) = path.parent() {
            self.sync_one(folder)?;
        }
        self.settle(name)
    }

    /// Syncs the folders above an object, once each. `object_store` syncs those that it makes itself;
    /// where another session has just made them, that one may not have come to it.
    pub fn settle(&self, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        let above = path.ancestors().skip(1);
        let mut fresh = Vec::new();
        for folder in above.take_while(|folder| *folder != self.dir) {
            if lock(&self.settled).contains(folder) {
                break;
            }
            if let Some(parent) = folder.parent() {
                self.sync_one(parent)?;
            }
            fresh.push(folder.to_path_buf());
        }
        lock(&self.settled).extend(fresh);
        Ok(())
    }

    /// Removes the folders below `name` that hold nothing any more, and makes deletions durable. Another
    /// program may be removing them too.
    pub fn sweep(&self, name: &str) -> io::Result<()> {
        let top = self.dir.join(name);
        lock(&self.settled).retain(|folder| !folder.starts_with(&top));
        if !top.exists() {
            return Ok(());
        }
        let mut folders = vec![top.clone()];
        let mut at = 0;
        while let Some(folder) = folders.get(at).cloned() {
            at += 1;
            for entry in there(std::fs::read_dir(&folder))?.into_iter().flatten() {
                let entry = entry?;
                if there(entry.file_type())?.is_some_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
            }
        }
        for folder in folders.iter().rev() {
            if let Some(opened) = there(File::open(folder))? {
                opened.sync_all()?;
            }
            match there(std::fs::remove_dir(folder)) {
                Err(e) if e.kind() != io::ErrorKind::DirectoryNotEmpty => return Err(e),
                _ => {}
            }
        }
        match top.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }

    fn reserve_path(&self) -> PathBuf {
        self.dir.join(RESERVE_NAME)
    }

    /// Sees to it that the reserve is there; an error of [`is_no_room`] when there is no room for it.
    pub fn hold_reserve(&self) -> io::Result<()> {
        let _one_at_a_time = lock(&self.making);
        let path = self.reserve_path();
        if path.exists() {
            return Ok(());
        }
        let volume = rustix::fs::statvfs(&self.dir)?;
        let total = volume.f_blocks.saturating_mul(volume.f_frsize);
        let length = RESERVE.min(total / RESERVE_PART);
        // The name of a leftover, in case that this is interrupted.
        let staged = self.dir.join(format!("{RESERVE_NAME}#0"));
        let made = allocate(&staged, length).and_then(|()| std::fs::rename(&staged, &path));
        if made.is_err() {
            // It may not even have been made.
            let _ = std::fs::remove_file(&staged);
        }
        made
    }

    /// Whether the reserve is there, and as much beside it as the next segments may need.
    pub fn has_room(&self) -> io::Result<bool> {
        self.hold_reserve()?;
        let volume = rustix::fs::statvfs(&self.dir)?;
        let free = volume.f_bavail.saturating_mul(volume.f_frsize);
        let total = volume.f_blocks.saturating_mul(volume.f_frsize);
        Ok(free >= ROOM.min(total / ROOM_PART))
    }

    /// Gives the reserve's space to what has to be written now; false when it was given before.
    pub fn release_reserve(&self) -> io::Result<bool> {
        match std::fs::remove_file(self.reserve_path()) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
}

fn allocate(path: &Path, length: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length) {
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let block = [0; 64 * 1024];
            let mut left = length;
            while left > 0 {
                let part = left.min(block.len() as u64);
                file.write_all(&block[..usize::try_from(part).unwrap_or(block.len())])?;
                left -= part;
            }
        }
        allocated => allocated?,
    }
    file.sync_all()
}

/// Whether a file can be made. Its name is that of a leftover, in case that this is interrupted.
fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join("probe#0");
    File::create(&path)?;
    std::fs::remove_file(&path)
}

/// Removes the files that `object_store` stages beside an object (`name#number`); not those of a
/// program that is erasing now, which also removes objects meanwhile.
fn remove_leftovers(dir: &Path) -> io::Result<()> {
    let erased = dir.join(ERASED);
    let alone = match there(File::open(&erased))? {
        Some(folder) => {
            match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Some(folder),
                Err(rustix::io::Errno::WOULDBLOCK) => None,
                Err(e) => return Err(e.into()),
            }
        }
        None => None,
    };
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        if folder == erased && alone.is_none() {
            log::info!("{} is in use: left as it is", folder.display());
            continue;
        }
        for entry in there(std::fs::read_dir(&folder))?.into_iter().flatten() {
            let entry = entry?;
            let name = entry.file_name();
            let staged = name
                .to_str()
                .and_then(|name| name.rsplit_once('#'))
                .is_some_and(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()));
            let Some(kind) = there(entry.file_type())? else {
                continue;
            };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if staged {
                log::info!("removing {}: a crash left it", entry.path().display());
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// What was found, if it was there.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_held_released_once_and_held_again() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        assert!(!directory.release_reserve().unwrap());
        for _ in 0..2 {
            directory.hold_reserve().unwrap();
            let length = std::fs::metadata(directory.reserve_path()).unwrap().len();
            assert!(length > 0 && length <= RESERVE, "{length}");
        }
        assert!(directory.release_reserve().unwrap());
        assert!(!directory.release_reserve().unwrap());
        directory.hold_reserve().unwrap();
        assert!(directory.reserve_path().exists());
    }

    #[test]
    fn the_file_that_a_running_erasure_stages_is_leftalone() {
        let dir = tempfile::tempdir().unwrap();
        let erasing = Directory::erasing(dir.path()).unwrap();
        let also = Directory::erasing(dir.path()).unwrap();
        let staged = dir.path().join(ERASED).join("a#1");
        let other = dir.path().join("b#1");
        let open = || {
            std::fs::write(&staged, b"half").unwrap();
            std::fs::write(&other, b"half").unwrap();
            drop(Directory::open(dir.path()).unwrap());
            assert!(!other.exists());
            staged.exists()
        };
        assert!(open());
        drop(erasing);
        assert!(open());
        drop(also);
        assert!(!open(), "what a crash left stays");
    }

    #[test]
    fn folders_that_somebody_else_made_are_synced_once() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::look(dir.path()).unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("recordings/a/1")).unwrap();
        std::fs::write(path("recordings/a/1/0"), b"").unwrap();
        let synced = |name: &str, whole: bool| {
            match whole {
                true => directory.sync(name).unwrap(),
                false => directory.settle(name).unwrap(),
            }
            std::mem::take(&mut *lock(&directory.synced))
        };
        let above = [path("recordings/a"), path("recordings"), path("")];
        let object = [path("recordings/a/1/0"), path("recordings/a/1")];
        assert_eq!(
            synced("recordings/a/1/0", true),
            [&object[..], &above].concat()
        );
        assert_eq!(synced("recordings/a/1/0", true), object);
        assert_eq!(synced("recordings/a/2/0", false), [path("recordings/a")]);
        assert_eq!(synced("recordings/a/2/1", false), Vec::<PathBuf>::new());
        directory.sweep("recordings/a").unwrap();
        std::fs::create_dir_all(path("recordings/a/1")).unwrap();
        assert_eq!(
            synced("recordings/a/1/0", false),
            [path("recordings/a"), path("recordings")]
        );
    }

    #[test]
    fn empty_folders_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("recordings/a/1")).unwrap();
        std::fs::create_dir_all(path("recordings/b/1")).unwrap();
        std::fs::write(path("recordings/b/note"), b"").unwrap();
        for name in ["recordings/a", "recordings/b", "recordings/c"] {
            directory.sweep(name).unwrap();
        }
        assert!(!path("recordings/a").exists() && path("recordings").exists());
        assert!(path("recordings/b/note").exists() && !path("recordings/b/1").exists());
    }
}
