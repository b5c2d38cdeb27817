//! `fleet.csv`: which machine stands in which room.
//!
//! Comma-separated (or semicolon-separated, as spreadsheets of some languages write it) in UTF-8; the
//! first line names the columns. The whole list is checked, not only this machine's row, so that a
//! mistake shows at the first box and not at the fortieth.

use crate::settings::Error;
use std::collections::HashMap;
use std::path::Path;

/// The columns there may be; the first two must be.
const COLUMNS: [&str; 4] = ["serial", "room", "receiver", "note"];

/// A machine's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::station) struct Row {
    /// Its line in the file, from 1.
    pub line: usize,
    /// The room.
    pub room: String,
    /// The receiver's `host:port`, where the row gives one.
    pub receiver: Option<String>,
}

/// The row of the machine with this serial number; where the list has none, the line to add.
pub(super) fn row(
    bytes: &[u8],
    file: &Path,
    serial: Option<&str>,
) -> Result<Result<Row, String>, Error> {
    let wrong = |line: usize, key: &str, message: String| Error::Invalid {
        file: file.into(),
        line,
        key: key.into(),
        message,
    };
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + count_lines(&bytes[..error.valid_up_to()]);
        let message = "this is not UTF-8: save the list as `CSV UTF-8`";
        wrong(line, "", message.into())
    })?;
    let first = text.lines().next().unwrap_or("");
    let delimiter = match first.contains(';') && !first.contains(',') {
        true => b';',
        false => b',',
    };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());

    let (mut read, mut line) = (0, 1);
    let mut columns: Option<[Option<usize>; 4]> = None;
    let (mut names, mut found) = (csv::StringRecord::new(), None);
    let mut lines_of = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(|error| wrong(line, "", error.to_string()))?;
        // The record begins behind what ended the one before, and behind empty lines.
        let begins = record.position().map_or(read, |at| at.byte() as usize);
        let ends = text.as_bytes()[begins..].iter();
        let begins = begins + ends.take_while(|byte| b"\r\n".contains(byte)).count();
        line += count_lines(&text.as_bytes()[read..begins]);
        read = begins;
        // A spreadsheet's rows that were emptied.
        if record.iter().all(str::is_empty) {
            continue;
        }
        if record.iter().any(|cell| cell.contains(char::is_control)) {
            let message = "a cell holds a line break or another control character: a double quote may \
                not be closed";
            return Err(wrong(line, "", message.into()));
        }
        let Some(columns) = columns else {
            names = record.clone();
            columns = Some(header(&record).map_err(|(key, message)| wrong(line, &key, message))?);
            continue;
        };
        // Cells that are left out at the end are empty.
        if record.len() > names.len() {
            let message = format!(
                "{} cells where the first line names {} columns: put a text that holds the separator \
                 between double quotes",
                record.len(),
                names.len()
            );
            return Err(wrong(line, "", message));
        }
        let [number, room, receiver, _] =
            columns.map(|column| column.and_then(|column| record.get(column)).unwrap_or(""));
        let key = number.to_lowercase();
        if number.is_empty() {
            return Err(wrong(line, "serial", "the serial number is missing".into()));
        }
        if key.contains("e+") {
            let message = format!(
                "`{number}` is what a spreadsheet makes of a number: give the column the format text"
            );
            return Err(wrong(line, "serial", message));
        }
        if room.is_empty() {
            return Err(wrong(line, "room", format!("{number} has no room")));
        }
        if let Some(message) = crate::station::config::no_room(room) {
            return Err(wrong(line, "room", message.into()));
        }
        if !receiver.is_empty() && !crate::station::config::is_address(receiver) {
            let message = crate::station::config::no_address(receiver);
            return Err(wrong(line, "receiver", message));
        }
        if serial.is_some_and(|serial| serial.to_lowercase() == key) {
            found = Some(Row {
                line,
                room: room.into(),
                receiver: (!receiver.is_empty()).then(|| receiver.into()),
            });
        }
        if let Some(before) = lines_of.insert(key, line) {
            let message =
                format!("{number} stands in line {before} already: one row for each machine");
            return Err(wrong(line, "serial", message));
        }
    }
    if columns.is_none() {
        let message = "the list is empty: its first line is `serial,room`";
        return Err(wrong(1, "", message.into()));
    }
    let cell = |name: &str| match name.to_lowercase().as_str() {
        "serial" => serial.unwrap_or("SERIAL").to_owned(),
        "room" => "ROOM".to_owned(),
        _ => String::new(),
    };
    let cells: Vec<String> = names.iter().map(cell).collect();
    Ok(found.ok_or_else(|| cells.join(&char::from(delimiter).to_string())))
}

/// Where each of [`COLUMNS`] stands.
fn header(record: &csv::StringRecord) -> Result<[Option<usize>; 4], (String, String)> {
    let names: Vec<String> = record.iter().map(str::to_lowercase).collect();
    for (at, name) in names.iter().enumerate() {
        if !COLUMNS.contains(&name.as_str()) {
            let known = COLUMNS.map(|column| format!("`{column}`")).join(", ");
            let message = format!(
                "unknown column; the first line names some of {known}, separated by commas"
            );
            return Err((name.clone(), message));
        }
        if names[..at].contains(name) {
            return Err((name.clone(), "the column is there twice".into()));
        }
    }
    let columns = COLUMNS.map(|column| names.iter().position(|name| name == column));
    for (column, at) in COLUMNS.iter().zip(columns).take(2) {
        if at.is_none() {
            return Err(((*column).into(), "the column is missing".into()));
        }
    }
    Ok(columns)
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    fn find(text: &[u8], serial: &str) -> Result<Result<Row, String>, String> {
        row(text, Path::new("fleet.csv"), Some(serial)).map_err(|error| error.to_string())
    }

    fn some(
        line: usize,
        room: &str,
        receiver: Option<&str>,
    ) -> Result<Result<Row, String>, String> {
        Ok(Ok(Row {
            line,
            room: room.into(),
            receiver: receiver.map(str::to_owned),
        }))
    }

    #[test]
    fn a_row_is_found_whatever_program_wrote_the_list() {
        let plain = "serial,room\n10000000aaaaaaaa,Hörsaal 1\n10000000bbbbbbbb,\"Hall 2, Main\"\n";
        let windows = plain.replace('\n', "\r\n");
        let marked = format!("\u{feff}{windows}");
        let blank = windows.replace("room\r\n", "room\r\n\r\n\r\n,\r\n");
        let unended = plain.trim_end().to_owned();
        for (text, lines) in [
            (plain, [2, 3]),
            (&windows, [2, 3]),
            (&marked, [2, 3]),
            (&blank, [5, 6]),
            (&unended, [2, 3]),
        ] {
            assert_eq!(
                find(text.as_bytes(), "10000000AAAAAAAA"),
                some(lines[0], "Hörsaal 1", None),
                "{text:?}"
            );
            assert_eq!(
                find(text.as_bytes(), "10000000bbbbbbbb"),
                some(lines[1], "Hall 2, Main", None),
                "{text:?}"
            );
            assert_eq!(
                find(text.as_bytes(), "10000000cccccccc"),
                Ok(Err("10000000cccccccc,ROOM".into()))
            );
        }
        let other = "Room; Receiver ;NOTE;serial\nHall 1, Main;receiver.example.org:4433;by the door;7\nHall 2;;;8\n";
        assert_eq!(
            find(other.as_bytes(), "7"),
            some(2, "Hall 1, Main", Some("receiver.example.org:4433"))
        );
        assert_eq!(find(other.as_bytes(), "8"), some(3, "Hall 2", None));
        assert_eq!(find(other.as_bytes(), "9"), Ok(Err("ROOM;;;9".into())));
        let short = "serial,room,note\n7,Hall 7\n";
        assert_eq!(find(short.as_bytes(), "7"), some(2, "Hall 7", None));
    }

    #[test]
    fn what_is_wrong_in_any_row_is_named_by_file_and_line() {
        let twice = "serial,room\r\nab,Hall 1\r\n\r\nAB,Hall 2\r\n";
        let quote = "serial,room\n7,\"Hall 1\n8,Hall 2\n";
        for (text, message) in [
            (&b""[..], "fleet.csv:1: the list is empty"),
            (b"serial,hall\n", "fleet.csv:1: `hall`: unknown column"),
            (
                b"serial,room,room\n",
                "fleet.csv:1: `room`: the column is there twice",
            ),
            (
                b"serial,note\n",
                "fleet.csv:1: `room`: the column is missing",
            ),
            (
                b"10000000aaaaaaaa,Hall 1\n",
                "fleet.csv:1: `10000000aaaaaaaa`: unknown column",
            ),
            (
                b"serial,room\n7,Hall 1, Main\n",
                "fleet.csv:2: 3 cells where the first line names 2 columns",
            ),
            (b"serial,room\n7\n", "fleet.csv:2: `room`: 7 has no room"),
            (
                b"serial,room\n8,Hall\n7,\n",
                "fleet.csv:3: `room`: 7 has no room",
            ),
            (
                b"serial,room\n,Hall 1\n",
                "fleet.csv:2: `serial`: the serial number is missing",
            ),
            (
                b"serial,room\n1.00000012345E+15,Hall 1\n",
                "fleet.csv:2: `serial`: `1.00000012345E+15` is what a spreadsheet",
            ),
            (
                b"serial,room,receiver\n7,Hall 1,there\n",
                "fleet.csv:2: `receiver`: `there` is not host:port",
            ),
            (
                b"serial,room\n7,H\xf6rsaal\n",
                "fleet.csv:2: this is not UTF-8",
            ),
            (b"\xff\xfes\0e\0", "fleet.csv:1: this is not UTF-8"),
            (
                twice.as_bytes(),
                "fleet.csv:4: `serial`: AB stands in line 2 already",
            ),
            (quote.as_bytes(), "fleet.csv:2: a cell holds a line break"),
        ] {
            let found = find(text, "no machine").unwrap_err();
            assert!(found.starts_with(message), "{found}\n{message}");
        }
    }

    #[test]
    fn ten_thousand_machines_are_read() {
        let mut text = String::from("serial,room\n");
        for number in 0..10_000 {
            writeln!(text, "10000000{number:08x},Hall {number}").unwrap();
        }
        assert_eq!(
            find(text.as_bytes(), "100000000000270f"),
            some(10_001, "Hall 9999", None)
        );
    }

    proptest::proptest! {
        #[test]
        fn no_list_makes_it_panic(bytes: Vec<u8>, text in "(serial|room|[,;\"\r\n a]){0,40}") {
            let _ = find(&bytes, "7");
            let _ = find(text.as_bytes(), "7");
        }
    }
}
