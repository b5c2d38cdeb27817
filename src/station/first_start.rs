//! What a card says of the box it is in: forty boxes from forty identical cards.
//!
//! Takes the boot partition's folder (on a Raspberry Pi the part of the card that any computer can
//! write) and the machine's serial number; gives the settings file there and this machine's row of the
//! list of the fleet. Both are read at every start and copied nowhere, so that what stands on the card
//! is what holds, under a read-only root too. What does not belong here: identity (`uplink::identity`
//! makes it, in the state directory), and what the settings mean (`config`).

mod list;

pub(super) use list::Row;

use crate::settings::{self, Error};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Where the boot partition is: on Raspberry Pi OS since 2023, and everywhere else. The first folder that
/// holds one of the two files is taken.
const FOLDERS: [&str; 2] = ["/boot/firmware", "/boot"];
/// The site's settings on the boot partition.
const SETTINGS: &str = "box.toml";
/// The list of the fleet.
const LIST: &str = "fleet.csv";

/// Where Linux says the machine's serial number, in the order in which it is asked. What a PC's firmware
/// says is for root only, unless the site allows more.
const SERIALS: [&str; 3] = [
    "/sys/firmware/devicetree/base/serial-number",
    "/sys/class/dmi/id/product_serial",
    "/sys/class/dmi/id/board_serial",
];
/// What makers leave in place of a serial number.
const NO_SERIAL: [&str; 6] = [
    "to be filled by o.e.m.",
    "default string",
    "system serial number",
    "not specified",
    "not applicable",
    "none",
];

/// The alarm of a machine that the list does not name.
pub(super) const NOT_IN_FLEET: &str = "not-in-fleet";
/// The alarm of an identity that was made on another machine.
pub(super) const OTHER_MACHINE: &str = "other-machine";

/// The files on the boot partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Card {
    /// The settings, where there are some.
    pub settings: Option<PathBuf>,
    /// The list of the fleet, where there is one.
    pub list: Option<PathBuf>,
}

impl Card {
    /// Looks into `folder`, or else where boot partitions are.
    pub fn find(folder: Option<&Path>) -> Self {
        match folder {
            Some(folder) => Self::look(folder),
            None => FOLDERS
                .iter()
                .map(|folder| Self::look(Path::new(folder)))
                .find(|card| *card != Self::default())
                .unwrap_or_default(),
        }
    }

    fn look(folder: &Path) -> Self {
        let existing = |name| {
            let path = folder.join(name);
            match path.metadata() {
                Ok(_) => Some(path),
                Err(error) => {
                    // A folder that only root may enter is no card for us; whoever meant it to be one
                    // reads why.
                    if error.kind() == ErrorKind::PermissionDenied {
                        log::info!("{}: not looked at: {error}", path.display());
                    }
                    None
                }
            }
        };
        Self {
            settings: existing(SETTINGS),
            list: existing(LIST),
        }
    }

    /// This machine's row, where there is a list; else what is wrong, for people.
    pub fn row(&self, serial: Option<&str>) -> Result<Option<Result<Row, String>>, Error> {
        let Some(file) = &self.list else {
            return Ok(None);
        };
        let bytes = std::fs::read(file).map_err(|source| Error::Unreadable {
            file: file.clone(),
            source,
        })?;
        let found = list::row(&bytes, file, serial)?;
        let file = file.display();
        Ok(Some(found.map_err(|line| match serial {
            Some(serial) => format!(
                "{file} has no row for this machine, whose serial number is {serial}: add the line \
                 `{line}` and restart hallcast; until then it records without the list"
            ),
            None => format!(
                "{file} cannot be used, for this machine tells no serial number: name a file that holds \
                 one by `serial-file` in box.toml, such as /sys/class/net/eth0/address, and restart \
                 hallcast; until then it records without the list"
            ),
        })))
    }
}

/// Whether a spool has never held a recording that is still there: each has a directory in it.
pub(super) fn is_unused(spool: &Path) -> bool {
    let entries = match std::fs::read_dir(spool) {
        Ok(entries) => entries,
        Err(error) => return error.kind() == ErrorKind::NotFound,
    };
    let is_file = |entry: std::io::Result<std::fs::DirEntry>| {
        entry
            .and_then(|entry| entry.file_type())
            .is_ok_and(|kind| kind.is_file())
    };
    entries.into_iter().all(is_file)
}

/// This machine's serial number: what `file` holds, or else what the machine says, if it does.
pub(super) fn serial(file: Option<&Path>) -> Result<Option<String>, Error> {
    if let Some(file) = file {
        let text = settings::read(file)?;
        let serial = real(&text).ok_or_else(|| Error::Invalid {
            file: file.into(),
            line: 1,
            key: String::new(),
            message: "there is no serial number in it".into(),
        })?;
        return Ok(Some(serial));
    }
    let told = |path: &str| real(&std::fs::read_to_string(path).ok()?);
    let [tree, firmware @ ..] = SERIALS;
    Ok(told(tree)
        .or_else(|| of_cpuinfo(&std::fs::read_to_string("/proc/cpuinfo").ok()?))
        .or_else(|| firmware.into_iter().find_map(told)))
}

fn of_cpuinfo(text: &str) -> Option<String> {
    let values = text.lines().filter_map(|line| line.split_once(':'));
    let mut serials = values.filter(|(name, _)| name.trim() == "Serial");
    real(serials.next()?.1)
}

/// A serial number without what surrounds it; none for what only stands in its place.
fn real(text: &str) -> Option<String> {
    let line = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    let line = line.lines().next().unwrap_or("").trim();
    let is_one = line.chars().any(|c| c != '0')
        && !line.chars().any(char::is_control)
        && !NO_SERIAL.contains(&line.to_lowercase().as_str());
    is_one.then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_found_and_stand_ins_are_not_taken_for_one() {
        assert_eq!(
            real("10000000abcdef12\0").as_deref(),
            Some("10000000abcdef12")
        );
        assert_eq!(real(" ABC 7\r\nmore\n").as_deref(), Some("ABC 7"));
        for none in [
            "",
            "\0",
            "0000000000000000\0",
            "To Be Filled By O.E.M.\n",
            "None",
            " \n",
        ] {
            assert_eq!(real(none), None, "{none:?}");
        }
        let cpuinfo = "processor\t: 0\nModel\t\t: Raspberry Pi\nSerial\t\t: 00000000deadbeef\n";
        assert_eq!(of_cpuinfo(cpuinfo).as_deref(), Some("00000000deadbeef"));
        assert_eq!(of_cpuinfo("processor\t: 0\nmodel name\t: any\n"), None);

        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("serial");
        assert!(
            serial(Some(&file))
                .unwrap_err()
                .to_string()
                .contains("serial: cannot read")
        );
        std::fs::write(&file, "\n").unwrap();
        assert!(
            serial(Some(&file))
                .unwrap_err()
                .to_string()
                .ends_with("serial:1: there is no serial number in it")
        );
        std::fs::write(&file, "aa:bb:cc:00:11:22\n").unwrap();
        assert_eq!(
            serial(Some(&file)).unwrap().as_deref(),
            Some("aa:bb:cc:00:11:22")
        );
    }

    #[test]
    fn a_spool_is_used_once_it_has_a_recording() {
        let home = tempfile::tempdir().unwrap();
        let spool = home.path().join("spool");
        assert!(is_unused(&spool), "not made yet");
        std::fs::create_dir(&spool).unwrap();
        std::fs::write(spool.join("reserve"), "").unwrap();
        assert!(is_unused(&spool));
        assert!(!is_unused(&spool.join("reserve")), "nobody knows");
        std::fs::create_dir(spool.join("recording")).unwrap();
        assert!(!is_unused(&spool));
    }

    #[test]
    fn a_machine_without_a_row_or_a_serial_number_is_told_what_to_add() {
        let home = tempfile::tempdir().unwrap();
        let card = || Card::find(Some(home.path()));
        assert_eq!(card(), Card::default());
        assert_eq!(card().row(Some("7")).unwrap(), None);
        std::fs::write(home.path().join(LIST), "serial,room\n8,Hall 8\n").unwrap();
        let told = |serial| card().row(serial).unwrap().unwrap();
        assert_eq!(told(Some("8")).unwrap().room, "Hall 8");
        let missing = told(Some("7")).unwrap_err();
        assert!(missing.contains("fleet.csv has no row for this machine, whose serial number is 7: add the line `7,ROOM`"), "{missing}");
        assert!(
            told(None)
                .unwrap_err()
                .contains("`serial-file` in box.toml")
        );
    }
}
