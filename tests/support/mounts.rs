//! A small file system in memory, for tests of full disks.

#![allow(dead_code, reason = "each test file uses its own part")]

use super::network::in_namespaces;
use super::programs::{outcome, run};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Runs the test called `name` of this same file where it may mount: here, or in a mount namespace of
/// its own, for which any user may make a user namespace. True where it may: then the test does its
/// work. A machine that allows neither leaves it out, and is told what it takes.
pub fn where_it_may_mount(name: &str) -> bool {
    match in_namespaces("m", name) {
        Ok(here) => here,
        Err(refused) => {
            println!("left out: {name}: it mounts a small file system: {refused}");
            false
        }
    }
}

/// A small file system in memory; gone with this value.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    pub fn mount(path: &Path, megabytes: u32) -> Self {
        fs::create_dir_all(path).unwrap();
        let (size, target) = (format!("size={megabytes}m"), path.to_str().unwrap());
        run("mount", &["-t", "tmpfs", "-o", &size, "none", target]);
        Self(path.into())
    }

    /// Leaves no room at all.
    pub fn fill(&self) {
        let mut file = self.filler();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    /// Leaves so many bytes.
    pub fn leave(&self, bytes: u64) {
        let told = run("df", &["--output=avail", "-B1", self.0.to_str().unwrap()]);
        let free: u64 = told.lines().nth(1).unwrap().trim().parse().unwrap();
        let mut file = self.filler();
        for _ in 0..free.saturating_sub(bytes) / 4096 {
            file.write_all(&[1; 4096]).unwrap();
        }
    }

    /// Leaves no name for another file either.
    pub fn take_all_names(&self) {
        let path = self.0.to_str().unwrap();
        let told = run("df", &["--output=iused", path]);
        self.allow_names(told.lines().nth(1).unwrap().trim());
        assert!(fs::write(self.0.join("one-more"), "").is_err());
    }

    fn allow_names(&self, most: &str) {
        let most = format!("remount,nr_inodes={most}");
        run("mount", &["-o", &most, self.0.to_str().unwrap()]);
    }

    fn filler(&self) -> fs::File {
        let path = self.0.join("filler");
        let mut options = fs::OpenOptions::new();
        options.create(true).append(true).open(path).unwrap()
    }

    pub fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
        self.allow_names("100000");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        outcome("umount", &["--lazy", self.0.to_str().unwrap()]);
    }
}
