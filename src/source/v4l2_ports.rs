//! Which camera sits on which port: sysfs, read for V4L2.

use super::port::{Found, SYSFS, unit};
use rustix::fs::{major, minor};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The camera that `path` leads to, by whatever links.
pub(super) fn named(path: &Path) -> Option<Found> {
    let number = fs::metadata(path).ok()?.rdev();
    let folder = format!("{SYSFS}/dev/char/{}:{}", major(number), minor(number));
    let at = path.display().to_string();
    found(&fs::canonicalize(folder).ok()?, at)
}

/// The camera that now sits on `port`.
pub(super) fn on(port: &str) -> Option<Found> {
    let entries = fs::read_dir(Path::new(SYSFS).join("class/video4linux")).ok()?;
    let nodes = entries.flatten().filter_map(|entry| {
        let at = PathBuf::from("/dev").join(entry.file_name());
        found(&entry.path(), at.display().to_string())
    });
    nodes.into_iter().find(|found| found.unit.port == port)
}

fn found(folder: &Path, at: String) -> Option<Found> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
    // One camera may have several nodes, for metadata or a second stream.
    let node = format!("video-index{}", read("index").trim());
    let unit = unit(folder, &node, read("name").trim())?;
    Some(Found { at, unit })
}
