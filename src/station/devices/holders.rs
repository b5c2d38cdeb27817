//! Who has a device open: what the kernel shows of processes, to root of all and to others of their own.

use std::fs;
use std::path::{Path, PathBuf};

/// Every process's device files.
pub(super) struct Holders(Vec<(PathBuf, String)>);

impl Holders {
    /// As it is now.
    pub(super) fn now() -> Self {
        Self::below(Path::new("/proc"), std::process::id())
    }

    fn below(proc: &Path, own: u32) -> Self {
        let mut found = Vec::new();
        for process in fs::read_dir(proc).into_iter().flatten().flatten() {
            let id = process.file_name().to_string_lossy().into_owned();
            match id.parse::<u32>() {
                Ok(id) if id != own => {}
                _ => continue,
            }
            let files = fs::read_dir(process.path().join("fd"));
            let files = files.into_iter().flatten().flatten();
            let files = files.filter_map(|file| fs::read_link(file.path()).ok());
            let devices = files.filter(|file| file.starts_with("/dev/"));
            let mut devices: Vec<PathBuf> = devices.collect();
            devices.sort();
            devices.dedup();
            if devices.is_empty() {
                continue;
            }
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let who = format!("{} (process {id})", name.trim());
            found.extend(devices.into_iter().map(|device| (device, who.clone())));
        }
        Self(found)
    }

    /// Those who have `device` open.
    pub(super) fn of(&self, device: &Path) -> Option<String> {
        let holders = self.0.iter().filter(|(held, _)| held == device);
        let holders: Vec<&str> = holders.map(|(_, who)| who.as_str()).collect();
        (!holders.is_empty()).then(|| holders.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_device_open_is_named_and_the_asker_is_not() {
        let home = tempfile::tempdir().unwrap();
        for (id, name) in [
            ("7", "hallcast"),
            ("8", "ffmpeg"),
            ("9", "me"),
            ("self", "x"),
        ] {
            let fd = home.path().join(id).join("fd");
            fs::create_dir_all(&fd).unwrap();
            fs::write(home.path().join(id).join("comm"), format!("{name}\n")).unwrap();
            for (n, to) in ["/dev/video0", "/dev/video0", "/tmp/x"].iter().enumerate() {
                std::os::unix::fs::symlink(to, fd.join(n.to_string())).unwrap();
            }
        }
        let holders = Holders::below(home.path(), 9);
        let of = holders.of(Path::new("/dev/video0")).unwrap();
        assert!(
            of.contains("hallcast (process 7)") && of.contains("ffmpeg (process 8)"),
            "{of}"
        );
        assert_eq!(of.matches("process").count(), 2, "{of}");
        assert_eq!(holders.of(Path::new("/dev/video1")), None);
    }
}
