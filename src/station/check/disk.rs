//! The disk under the spool: whether it can be written, how long a sync takes, how much fits.

use super::running::Running;
use super::{Line, seconds};
use crate::clock;
use crate::encoder;
use crate::source;
use crate::spool::{self, Disk, LocalDisk, Space};
use crate::station::config::Config;
use crate::station::lane;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// From the press to the first chunk that a power cut cannot take: the promise.
const PROMISE: Duration = Duration::from_secs(1);
/// How long syncs are measured.
const TRIAL: Duration = Duration::from_secs(1);
/// No more than so many syncs: they wear a card.
const MOST_SYNCS: usize = 100;
/// A card that is slow to the utmost is measured by so many all the same.
const LEAST_SYNCS: usize = 3;

/// What the disk was seen to do.
#[derive(Debug)]
pub(in crate::station) struct Measured {
    /// How long each sync took, the shortest first.
    pub(in crate::station) syncs: Vec<Duration>,
    /// Bytes written and synced per second.
    pub(in crate::station) bytes_per_second: u64,
    pub(in crate::station) space: io::Result<Space>,
}

pub(super) fn lines(config: &Config, running: &Running) -> Vec<Line> {
    let spool = spool::Config::new(config.state_directory.join("spool"));
    if running.is_recording() {
        return running.status().map(of_status).into_iter().collect();
    }
    if let Some(file) = in_the_way(&spool.directory) {
        let found = format!("{}: a file is where a directory should be", file.display());
        let next =
            "move it away, or name another place with `state-directory`: no box starts on it";
        return vec![Line::wrong("disk", found, next)];
    }
    let directory = existing(&spool.directory);
    let rate = bytes_per_second(config);
    // What a sync usually waits for.
    let bytes = rate * spool.sync_interval.as_millis() as u64 / 1000;
    let name = directory.display().to_string();
    let quota = (config.quota_bytes > 0).then(|| {
        let status = running.status();
        let used = status.and_then(|status| status.spool.used_bytes);
        (
            config.quota_bytes,
            used.unwrap_or_else(|| taken(&spool.directory)),
        )
    });
    match measure(&directory, bytes as usize) {
        Ok(measured) => vec![
            judge_syncs(&measured.syncs, spool.sync_interval + lane::CHUNK, &name),
            judge_space(measured.space, quota, rate, &spool.thresholds, &name),
        ],
        Err(error) => vec![judge_error(&error, &name)],
    }
}

/// The directory, or the nearest above it that exists: nothing is made.
pub(in crate::station) fn existing(directory: &Path) -> PathBuf {
    let found = directory.ancestors().find(|path| path.is_dir());
    // Above a relative path is where we are.
    found.unwrap_or(Path::new(".")).to_owned()
}

/// Bytes of the recordings' files in a spool that no box works on.
fn taken(spool: &Path) -> u64 {
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    let recordings = entries(spool).map(|recording| recording.path());
    let files = recordings
        .filter(|path| path.is_dir())
        .flat_map(|recording| {
            let files = entries(&recording).filter_map(|file| file.metadata().ok());
            files.map(|file| file.len()).collect::<Vec<u64>>()
        });
    files.sum()
}

/// What is no directory, of this one and those above it.
pub(super) fn in_the_way(directory: &Path) -> Option<&Path> {
    let there = |path: &&Path| path.symlink_metadata().is_ok();
    let nearest = directory.ancestors().find(there)?;
    (!nearest.is_dir()).then_some(nearest)
}

/// What a recording with all tracks makes.
pub(in crate::station) fn bytes_per_second(config: &Config) -> u64 {
    let mut bits = 0;
    let tracks = [
        (encoder::Scene::Camera, &config.presenter),
        (encoder::Scene::Slides, &config.slides),
    ];
    for (scene, track) in tracks {
        let Some(track) = track else { continue };
        let usual = || {
            let expected = source::expected(&track.camera)?;
            let rate = track.rate.unwrap_or(expected.rate);
            Some(encoder::Config::new(scene, expected.layout, rate).bit_rate)
        };
        bits += u64::from(track.bit_rate.or_else(usual).unwrap_or(2_100_000));
    }
    if let Some(track) = &config.microphone {
        let channels = track.microphone.channels().clamp(1, 2) as u8;
        let usual = encoder::AudioConfig::new(channels).bit_rate;
        bits += u64::from(track.bit_rate.unwrap_or(usual));
    }
    bits / 8
}

/// A file without a name beside the spool, gone when it is closed.
fn scratch(directory: &Path) -> io::Result<File> {
    let name = format!(".hallcast-check-{}", std::process::id());
    let path = directory.join(name);
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Writes and syncs `bytes` again and again for a second.
pub(in crate::station) fn measure(directory: &Path, bytes: usize) -> io::Result<Measured> {
    let mut file = scratch(directory)?;
    // A card that compresses shall find nothing to gain.
    let mut data = vec![0; bytes.clamp(4096, 1 << 20)];
    for block in data.chunks_mut(256) {
        // Zeros would do as well: what fails here fails below.
        let _ = rustix::rand::getrandom(block, rustix::rand::GetRandomFlags::empty());
    }
    let began = clock::now();
    let mut syncs = Vec::new();
    while syncs.len() < LEAST_SYNCS
        || (clock::now().since(began) < TRIAL && syncs.len() < MOST_SYNCS)
    {
        file.write_all(&data)?;
        let before = clock::now();
        file.sync_data()?;
        syncs.push(clock::now().since(before));
    }
    let took = clock::now().since(began).as_secs_f64().max(1e-6);
    drop(file);
    syncs.sort_unstable();
    Ok(Measured {
        bytes_per_second: ((data.len() * syncs.len()) as f64 / took) as u64,
        syncs,
        space: LocalDisk.space(directory),
    })
}

fn judge_error(error: &io::Error, name: &str) -> Line {
    let next = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount it writable, or name another place with `state-directory`: nothing can be recorded"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on it, or name another disk with `state-directory`: nothing can be recorded"
        }
        io::ErrorKind::PermissionDenied => {
            let found = format!("{name}: this user may not write there, so it was not tried");
            let next = "run the check as root, as in `sudo hallcast check`";
            return Line::warn("disk", found, next);
        }
        _ => "look at the kernel's log (`dmesg`): the disk may be dying; have another one ready",
    };
    Line::wrong("disk", format!("{name}: {error}"), next)
}

/// `before` is what passes before a sync begins, at the most.
fn judge_syncs(syncs: &[Duration], before: Duration, name: &str) -> Line {
    let at = |percent: usize| {
        let place = (syncs.len() * percent).div_ceil(100).saturating_sub(1);
        syncs.get(place).copied().unwrap_or_default()
    };
    let (p50, p99, longest) = (at(50), at(99), at(100));
    let budget = PROMISE.saturating_sub(before);
    let found = format!(
        "{name}: fdatasync takes {} (p50), {} (p99), {} (longest of {}); {} are left of the second \
         in which a press is to be safe",
        seconds(p50),
        seconds(p99),
        seconds(longest),
        syncs.len(),
        seconds(budget)
    );
    let next = "use another card or an SSD (an A2 card, not one that is nearly full): a power cut would \
                cost more than the promised second";
    if p50 > budget {
        Line::wrong("disk", found, next)
    } else if longest > budget {
        Line::warn("disk", found, next)
    } else {
        Line::ok("disk", found)
    }
}

/// A quota comes with what recordings take of it.
fn judge_space(
    space: io::Result<Space>,
    quota: Option<(u64, u64)>,
    rate: u64,
    thresholds: &spool::Thresholds,
    name: &str,
) -> Line {
    let space = match space {
        Ok(space) => space,
        Err(error) => {
            let next = "look at the kernel's log (`dmesg`)";
            return Line::warn("room", format!("{name}: {error}"), next);
        }
    };
    let free = match quota {
        None => space.free,
        Some((quota, used)) => space.free.min(quota.saturating_sub(used)),
    };
    let left = Duration::from_secs(free.checked_div(rate).unwrap_or(u64::MAX));
    let mut found = format!(
        "{:.1} GB of {:.1} GB can be used: {:.1} h of recording at {:.1} Mbit/s",
        free as f64 / 1e9,
        space.total as f64 / 1e9,
        left.as_secs_f64() / 3600.0,
        rate as f64 * 8.0 / 1e6
    );
    if let Some((quota, used)) = quota {
        found += &format!(
            "; recordings take {:.1} GB of their quota of {:.1} GB",
            used as f64 / 1e9,
            quota as f64 / 1e9
        );
    }
    let next = "make room, take a larger disk or quota, or let the receiver take what waits";
    // What the receiver holds of a quota makes room when it is needed; how much that is the box knows.
    let may_be_freed = free < space.free && quota.is_some_and(|(_, used)| used > 0);
    let is_short = left < thresholds.refuse_new || free < thresholds.floor_bytes;
    if is_short && may_be_freed {
        found += ": none begins unless the receiver holds some of that";
        Line::warn("room", found, next)
    } else if is_short {
        Line::wrong("room", format!("{found}: too little to begin one"), next)
    } else if left < thresholds.free_acknowledged {
        Line::warn("room", found, next)
    } else {
        Line::ok("room", found)
    }
}

/// What a recording box says of its disk.
fn of_status(status: &crate::station::Status) -> Line {
    let spool = &status.spool;
    let mut found = match spool.sync_ms {
        Some((p50, p99, count)) => {
            format!("syncs take {p50} ms (p50), {p99} ms (p99) of {count}")
        }
        None => "no sync yet".into(),
    };
    if let Some(hours) = spool.hours_left {
        found += &format!("; {hours:.1} h of recording left");
    }
    if spool.sync_failures > 0 {
        found += &format!("; {} syncs failed", spool.sync_failures);
        return Line::wrong("disk", found, "look at the kernel's log (`dmesg`)");
    }
    Line::ok("disk", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::station::check::Verdict;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn syncs_are_judged_by_what_is_left_of_the_second() {
        let before = MS * 750;
        let good = [MS * 10; 50];
        assert_eq!(judge_syncs(&good, before, "/x").verdict, Verdict::Ok);
        let mut one_late = good;
        one_late[49] = MS * 251;
        let line = judge_syncs(&one_late, before, "/x");
        assert_eq!(line.verdict, Verdict::Warn);
        assert!(
            line.found.contains("10 ms (p50), 251 ms (p99), 251 ms"),
            "{line}"
        );
        assert_eq!(
            judge_syncs(&[MS * 251; 3], before, "/x").verdict,
            Verdict::Wrong
        );
    }

    #[test]
    fn room_is_judged_in_hours() {
        let judged = |free: u64, quota: Option<(u64, u64)>| {
            let space = Ok(Space {
                free,
                total: 64_000_000_000,
            });
            judge_space(space, quota, 250_000, &spool::Thresholds::default(), "/x")
        };
        let line = judged(32_000_000_000, None);
        assert_eq!(line.verdict, Verdict::Ok);
        assert!(
            line.found.contains("35.6 h of recording at 2.0 Mbit/s"),
            "{line}"
        );
        let of_quota = |used| judged(32_000_000_000, Some((20_000_000_000, used)));
        assert_eq!(of_quota(0).verdict, Verdict::Ok);
        let line = of_quota(19_000_000_000);
        assert_eq!(line.verdict, Verdict::Warn);
        assert!(line.found.starts_with("1.0 GB of 64.0 GB"), "{line}");
        assert!(
            line.found
                .ends_with("take 19.0 GB of their quota of 20.0 GB")
        );
        let line = of_quota(21_000_000_000);
        assert_eq!(line.verdict, Verdict::Warn);
        assert!(line.found.ends_with("holds some of that"), "{line}");
        let too_small = judged(32_000_000_000, Some((1_000_000, 0)));
        assert_eq!(too_small.verdict, Verdict::Wrong);
        assert_eq!(judged(100_000_000, None).verdict, Verdict::Wrong);
        assert_eq!(judged(0, None).verdict, Verdict::Wrong);
        // However little a recording makes.
        let thresholds = spool::Thresholds::default();
        let space = Ok(Space {
            free: thresholds.floor_bytes - 1,
            total: 64_000_000_000,
        });
        let least = judge_space(space, None, 1, &thresholds, "/x");
        assert_eq!(least.verdict, Verdict::Wrong);
    }

    #[test]
    fn a_disk_that_refuses_is_wrong_and_a_user_who_may_not_is_told() {
        let of = |errno: rustix::io::Errno| judge_error(&errno.into(), "/x");
        assert_eq!(of(rustix::io::Errno::ROFS).verdict, Verdict::Wrong);
        assert_eq!(of(rustix::io::Errno::NOSPC).verdict, Verdict::Wrong);
        assert_eq!(of(rustix::io::Errno::IO).verdict, Verdict::Wrong);
        assert_eq!(of(rustix::io::Errno::ACCESS).verdict, Verdict::Warn);
    }

    #[test]
    fn measuring_leaves_nothing_behind_and_makes_nothing() {
        let home = tempfile::tempdir().unwrap();
        let measured = measure(home.path(), 100_000).unwrap();
        println!("{:?}", judge_syncs(&measured.syncs, MS, "here").found);
        assert!(measured.syncs.len() >= LEAST_SYNCS);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
        assert_eq!(existing(&home.path().join("a/b")), home.path());
        assert_eq!(existing(Path::new("no-such-folder/b")), Path::new("."));
    }

    #[test]
    fn recordings_take_what_their_files_hold() {
        let home = tempfile::tempdir().unwrap();
        let spool = home.path().join("spool");
        assert_eq!(taken(&spool), 0);
        fs::create_dir_all(spool.join("recording")).unwrap();
        fs::write(spool.join("reserve-1"), [0; 100]).unwrap();
        for file in ["0.log", "1.log"] {
            fs::write(spool.join("recording").join(file), [0; 1000]).unwrap();
        }
        assert_eq!(taken(&spool), 2000, "the reserve is no recording");
    }

    #[test]
    fn a_file_in_the_place_of_a_directory_is_found() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        assert_eq!(in_the_way(&state.join("spool")), None);
        fs::write(&state, "").unwrap();
        assert_eq!(in_the_way(&state.join("spool")), Some(&*state));
        fs::remove_file(&state).unwrap();
        fs::create_dir(&state).unwrap();
        assert_eq!(in_the_way(&state.join("spool")), None);
        assert_eq!(in_the_way(Path::new("no-such-folder/b")), None);
    }
}
