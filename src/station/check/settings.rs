//! The settings and the board: whether they can be read, and what came of them.

use super::Line;
use crate::station::config::{Config, ConfigError};
use std::path::PathBuf;

pub(super) fn judge(file: Option<PathBuf>, settled: &Result<Config, ConfigError>) -> Line {
    let config = match settled {
        Ok(config) => config,
        // It names file, line, key and what is allowed.
        Err(error) => {
            let next = "mend that line; nothing else was tried";
            return Line::wrong("settings", error.to_string(), next);
        }
    };
    let file = match file {
        Some(file) => file.display().to_string(),
        None => "no settings file".into(),
    };
    let room = match &config.room {
        Some(room) => format!(", room {room}"),
        None => String::new(),
    };
    let found = format!("{file}, board {}{room}", config.board);
    let tracks = [
        config.presenter.is_some(),
        config.slides.is_some(),
        config.microphone.is_some(),
    ];
    if tracks == [false; 3] {
        let next = "name a board that has a camera or a microphone (`board = \"...\"`)";
        return Line::wrong(
            "settings",
            format!("{found}: no camera, no microphone"),
            next,
        );
    }
    if !config.concerns.is_empty() {
        let concerns = config.concerns.iter().map(|(_, what)| what.as_str());
        let next = "see docs/fleet.md; the box works all the same";
        let all: Vec<&str> = std::iter::once(found.as_str()).chain(concerns).collect();
        return Line::warn("settings", all.join("\n"), next);
    }
    Line::ok("settings", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::station::check::Verdict;
    use crate::station::config;

    fn load(text: &str) -> Line {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("box.toml");
        std::fs::write(&path, text).unwrap();
        let flags = config::Flags {
            config: Some(path),
            ..config::Flags::default()
        };
        judge(config::file(&flags), &config::load(&flags))
    }

    #[test]
    fn a_wrong_line_is_named_and_a_right_file_too() {
        let line = load("board = \"bench\"\nroom = \"A\"");
        assert_eq!(line.verdict, Verdict::Ok);
        assert!(
            line.found.ends_with("box.toml, board bench, room A"),
            "{line}"
        );
        let line = load("board = \"bench\"\nroom = 7");
        assert_eq!(line.verdict, Verdict::Wrong);
        assert!(
            line.found.contains("box.toml:2: `room`: invalid type"),
            "{line}"
        );
    }

    #[test]
    fn settings_on_the_boot_partition_are_named() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("box.toml"), "board = \"bench\"").unwrap();
        let flags = config::Flags {
            boot_directory: Some(home.path().into()),
            ..config::Flags::default()
        };
        let line = judge(config::file(&flags), &config::load(&flags));
        assert!(line.found.ends_with("box.toml, board bench"), "{line}");
    }
}
