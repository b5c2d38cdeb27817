//! The GPIO chips that are present, and who uses their lines: for people who wire a panel.

use gpiocdev::{Chip, chip};
use std::fs::File;
use std::path::PathBuf;

/// A GPIO chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundChip {
    /// Its present node, such as `/dev/gpiochip0`.
    pub device: PathBuf,
    /// What a board names it by; empty where it could not be asked.
    pub label: String,
    /// How many lines it has.
    pub lines: u32,
    /// Those in use.
    pub used: Vec<UsedLine>,
    /// Why it could not be asked.
    pub trouble: Option<String>,
}

/// A line that somebody uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedLine {
    /// Its number on the chip.
    pub offset: u32,
    /// Its name, where it has one.
    pub name: String,
    /// Who uses it, as the kernel says.
    pub consumer: String,
}

/// The chips that are present. Looking at them changes nothing.
pub fn chips() -> Vec<FoundChip> {
    let chips = chip::chips().unwrap_or_default().into_iter();
    chips.map(look).collect()
}

fn look(device: PathBuf) -> FoundChip {
    let mut found = FoundChip {
        label: String::new(),
        lines: 0,
        used: Vec::new(),
        trouble: None,
        device,
    };
    // Ours to open first: the library's error does not tell why it could not.
    if let Err(error) = File::open(&found.device) {
        found.trouble = Some(format!("{error}: be root, or a member of the group `gpio`"));
        return found;
    }
    let chip = Chip::from_path(&found.device);
    let asked = chip.and_then(|chip| Ok((chip.info()?, chip)));
    match asked {
        Ok((info, chip)) => {
            found.label = info.label;
            found.lines = info.num_lines;
            let infos = (0..info.num_lines).filter_map(|offset| chip.line_info(offset).ok());
            let used = infos.filter(|info| info.used).map(|info| UsedLine {
                offset: info.offset,
                name: info.name,
                consumer: info.consumer,
            });
            found.used = used.collect();
        }
        Err(error) => found.trouble = Some(error.to_string()),
    }
    found
}
