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

/// All cameras, and what else has a node.
pub(super) fn present() -> Vec<Found> {
    let entries = fs::read_dir(Path::new(SYSFS).join("class/video4linux"));
    let nodes = entries.into_iter().flatten().flatten().filter_map(|entry| {
        let at = PathBuf::from("/dev").join(entry.file_name());
        found(&entry.path(), at.display().to_string())
    });
    nodes.collect()
}

fn found(folder: &Path, at: String) -> Option<Found> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
    // One camera may have several nodes, for metadata or a second stream.
    let node = format!("video-index{}", read("index").trim());
    let unit = unit(folder, &node, read("name").trim())?;
    Some(Found { at, unit })
}
