//! Layer 0: reading a strict TOML file so that whoever wrote it can find the mistake.
//!
//! Takes a text and the name of its file; gives the typed settings, or an [`Error`] that names file,
//! line and key and says what is allowed. What the keys mean belongs to the module that owns them.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

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
        let (line, key) = place_of(text, error.span().unwrap_or_default());
        Error::Invalid {
            file: file.to_owned(),
            line,
            key,
            message: plain(error.message()),
        }
    })
}

/// A value as it stands in the file, of whatever kind: what it is checked with knows what is allowed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Written(toml::Value);

impl Written {
    /// The whole number, where it is one of these.
    pub fn within(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let number = u32::try_from(self.0.as_integer()?).ok();
        number.filter(|number| range.contains(number))
    }

    /// What it says, of a text without its quotes.
    pub fn text(&self) -> String {
        match &self.0 {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

impl From<u32> for Written {
    fn from(number: u32) -> Self {
        Self(number.into())
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
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

/// The line of what stands at `span`, from 1, and the path of the key that it belongs to. What a table
/// lacks has the place of the table, and what the file lacks has none.
fn place_of(text: &str, span: Range<usize>) -> (usize, String) {
    let line = line_at(text, span.start);
    let Ok(table) = DeTable::parse(text) else {
        return (line, key_on(text, line));
    };
    if span.is_empty() {
        return (line, String::new());
    }
    let places = places(table.get_ref(), "").into_iter();
    let around = places.filter(|(_, place)| place.start <= span.start && span.end <= place.end);
    let nearest = around.min_by_key(|(_, place)| place.len());
    (line, nearest.map_or(String::new(), |(key, _)| key))
}

/// The line of `key`, or of the nearest table above it that the file has.
fn line_of(text: &str, key: &str) -> usize {
    let places = DeTable::parse(text).map_or(Vec::new(), |table| places(table.get_ref(), ""));
    let paths = std::iter::successors(Some(key), |path| Some(path.rsplit_once('.')?.0));
    let mut found = paths.filter_map(|path| places.iter().find(|(key, _)| key == path));
    found
        .next()
        .map_or(1, |(_, place)| line_at(text, place.start))
}

/// The path of each key below `above`, in turn with where it stands and where its value does.
fn places(table: &DeTable<'_>, above: &str) -> Vec<(String, Range<usize>)> {
    let mut found = Vec::new();
    for (key, value) in table {
        let path = match above {
            "" => key.get_ref().to_string(),
            above => format!("{above}.{}", key.get_ref()),
        };
        found.extend([key.span(), value.span()].map(|place| (path.clone(), place)));
        match value.get_ref() {
            DeValue::Table(inner) => found.append(&mut places(inner, &path)),
            DeValue::Array(items) => {
                for item in items.iter() {
                    found.push((path.clone(), item.span()));
                    if let DeValue::Table(inner) = item.get_ref() {
                        found.append(&mut places(inner, &path));
                    }
                }
            }
            _ => {}
        }
    }
    found
}

fn line_at(text: &str, offset: usize) -> usize {
    let before = text.bytes().take(offset);
    1 + before.filter(|byte| *byte == b'\n').count()
}

/// The path of the key that a line sets, or of the table that it opens, in a text that is no TOML.
fn key_on(text: &str, number: usize) -> String {
    let mut table = "";
    let mut key = String::new();
    for line in text.trim_start_matches('\u{feff}').lines().take(number) {
        let line = line.trim();
        if line.starts_with('[') {
            let header = line.trim_start_matches('[');
            table = header.split(']').next().unwrap_or("").trim();
            key = table.to_owned();
            continue;
        }
        let name = line.split_once('=').map_or("", |(name, _)| name.trim());
        key = match (table, name) {
            ("", name) => name.to_owned(),
            (table, "") => table.to_owned(),
            (table, name) => format!("{table}.{name}"),
        };
    }
    key
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
        (
            "expected u32",
            "expected a whole number that is not negative",
        ),
        ("expected a boolean", "expected `true` or `false`"),
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

    /// Where the first value is that is no number.
    fn place(text: &str) -> (usize, String) {
        let at = text.find("no").unwrap_or(0);
        place_of(text, at..at + 2)
    }

    #[test]
    fn a_key_is_named_by_its_whole_path_however_it_is_written() {
        for (text, line, key) in [
            ("x = 1\ny = \"no\"", 2, "y"),
            ("\u{feff}[a]\nb = \"no\"", 2, "a.b"),
            ("x = 1\na = { b = 1, c = { d = \"no\" } }", 2, "a.c.d"),
            ("[a]\nb = [\n  1,\n  \"no\",\n]", 4, "a.b"),
            ("[[a.b]]\nc = 1\n[[a.b]]\nc = \"no\"", 4, "a.b.c"),
            ("[a.\"b c\"]\nd.e = \"no\"", 2, "a.b c.d.e"),
            ("[[a.b]]\nc = \"no", 2, "a.b.c"),
            ("\u{feff}[a]\nb = no", 2, "a.b"),
        ] {
            assert_eq!(place(text), (line, key.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_a_table_lacks_is_told_at_the_table_and_what_the_file_lacks_at_no_key() {
        #[derive(Debug, Deserialize)]
        struct Whole {
            #[serde(rename = "part")]
            _part: Part,
        }
        #[derive(Debug, Deserialize)]
        struct Part {
            #[serde(rename = "needed")]
            _needed: bool,
        }
        for (text, expected) in [
            ("other = 1", "f:1: missing key `part`"),
            ("other = 1\n[part]\n", "f:2: `part`: missing key `needed`"),
            ("other = 1\npart = {}", "f:2: `part`: missing key `needed`"),
            (
                "[part]\nneeded = 1",
                "f:2: `part.needed`: invalid type: integer `1`, expected `true` or `false`",
            ),
        ] {
            let error = parse::<Whole>(text, Path::new("f")).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_value_refused_later_is_found_again() {
        for (text, key, expected) in [
            ("x = 1\n[table]\na = 1", "table.a", 3),
            ("x = 1\ntable = { a = 1 }", "table.a", 2),
            ("x = 1\n[table]\nb = 1", "table.a", 2),
            ("x = 1\n[[table.a]]\nb = 1", "table.a", 2),
            ("x = 1", "table.a", 1),
        ] {
            let error = invalid(text, Path::new("box.toml"), key, "too small");
            let expected = format!("box.toml:{expected}: `{key}`: too small");
            assert_eq!(error.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn a_value_of_any_kind_can_be_said() {
        let written = |text: &str| toml::from_str::<toml::Table>(text).unwrap()["a"].clone();
        let of = |text: &str| Written(written(text));
        assert_eq!(of("a = 7").within(1..=9), Some(7));
        for (text, shown, said) in [
            ("a = -1", "-1", "-1"),
            ("a = 10", "10", "10"),
            ("a = \"7\"", "\"7\"", "7"),
            ("a = 7.5", "7.5", "7.5"),
            ("a = true", "true", "true"),
        ] {
            let written = of(text);
            assert_eq!(written.within(1..=9), None, "{text}");
            assert_eq!(written.to_string(), shown);
            assert_eq!(written.text(), said);
        }
    }
}
