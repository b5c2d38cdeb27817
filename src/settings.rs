//! Layer 0: reading a strict TOML file so that whoever wrote it can find the mistake.
//!
//! Takes a text and the name of its file; gives the typed settings, or an [`Error`] that names file,
//! line and key and says what is allowed. What the keys mean belongs to the module that owns them.

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// A settings file that cannot be used. It does not heal by itself: stop (exit code 78, `EX_CONFIG`)
/// and let a person mend the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: cannot read the file: {source}; look at its name, and at who may read it", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file says something that is not allowed.
    #[error("{}:{line}: {}{message}", file.display(), if key.is_empty() { String::new() } else { format!("`{key}`: ") })]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key's path, such as `presenter.v4l2.device`; empty where none is concerned.
        key: String,
        /// What is wrong and what is allowed.
        message: String,
    },
}

/// Reads `file`'s text.
pub fn read(file: &Path) -> Result<String, Error> {
    let bytes = std::fs::read(file).map_err(|source| Error::Unreadable {
        file: file.to_owned(),
        source,
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let right = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        Error::Invalid {
            file: file.to_owned(),
            line: 1 + right.iter().filter(|byte| **byte == b'\n').count(),
            key: String::new(),
            message: "a letter is not UTF-8: save the file as UTF-8 (umlauts, say, are in an older encoding)".into(),
        }
    })
}

/// Reads the settings in `text`; `file` names it in errors.
pub fn parse<T: DeserializeOwned>(text: &str, file: &Path) -> Result<T, Error> {
    toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        invalid_at(text, file, offset, plain(error.message()))
    })
}

/// The error that the value of `key` (a path such as `receiver.address`) deserves.
pub fn invalid(text: &str, file: &Path, key: &str, message: impl Into<String>) -> Error {
    Error::Invalid {
        file: file.to_owned(),
        line: line_of(text, key),
        key: key.to_owned(),
        message: message.into(),
    }
}

fn invalid_at(text: &str, file: &Path, offset: usize, message: String) -> Error {
    let (line, key) = place_of(text, offset);
    Error::Invalid {
        file: file.to_owned(),
        line,
        key,
        message,
    }
}

/// Each line's number from 1 and the path of the key it sets, or of the table it opens.
fn keys(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut table = String::new();
    text.lines().enumerate().map(move |(number, line)| {
        let line = line.trim();
        let key = if let Some(header) = line.strip_prefix('[') {
            table = header.split(']').next().unwrap_or("").trim().to_owned();
            table.clone()
        } else {
            let name = line.split_once('=').map_or("", |(name, _)| name.trim());
            match (table.as_str(), name) {
                ("", name) => name.to_owned(),
                (table, "") => table.to_owned(),
                (table, name) => format!("{table}.{name}"),
            }
        };
        (number + 1, key)
    })
}

fn place_of(text: &str, offset: usize) -> (usize, String) {
    let before = text
        .bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count();
    keys(text)
        .nth(before)
        .unwrap_or((before + 1, String::new()))
}

fn line_of(text: &str, key: &str) -> usize {
    keys(text)
        .find(|(_, found)| found == key)
        .map_or(1, |(line, _)| line)
}

/// serde's message in the words of a settings file.
fn plain(message: &str) -> String {
    let words = [
        (
            "wanted exactly 1 element, more than 1 element",
            "two back ends are named, only one is allowed",
        ),
        (
            "wanted exactly 1 element, found 0 elements",
            "no back end is named",
        ),
        ("unknown variant", "unknown value"),
        ("unknown field", "unknown key"),
        ("missing field", "missing key"),
    ];
    let plain = words
        .iter()
        .fold(message.to_owned(), |text, (theirs, ours)| {
            text.replace(theirs, ours)
        });
    plain.trim_end().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(rename = "table")]
        _table: Option<std::collections::BTreeMap<String, u8>>,
    }

    fn message(text: &str) -> String {
        parse::<Sample>(text, Path::new("box.toml"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn an_error_names_file_line_and_key() {
        assert_eq!(
            message("\nroom = 1"),
            "box.toml:2: `room`: unknown key `room`, expected `table`"
        );
        assert!(
            message("[table]\na = 1\nb = \"x\"").starts_with("box.toml:3: `table.b`: invalid type")
        );
        assert!(
            message("[table]\na = 1\na = 2").starts_with("box.toml:3: `table.a`: duplicate key")
        );
        assert!(message("é = ").starts_with("box.toml:1: "));
    }

    #[test]
    fn a_value_refused_later_is_found_again() {
        let error = invalid(
            "x = 1\n[table]\na = 1",
            Path::new("box.toml"),
            "table.a",
            "too small",
        );
        assert_eq!(error.to_string(), "box.toml:3: `table.a`: too small");
    }
}
