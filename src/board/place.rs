//! Where in a file an error is, in words a person can follow.

/// The line (from 1) and the key's path at a byte offset of a TOML text.
pub(super) fn of(text: &str, offset: usize) -> (usize, String) {
    let offset = (0..=offset.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    let line = text[..offset].matches('\n').count();
    let mut table = String::new();
    let mut key = String::new();
    for (number, content) in text.lines().enumerate().take(line + 1) {
        let content = content.trim();
        if let Some(header) = content.strip_prefix('[') {
            table = header.split(']').next().unwrap_or("").trim().to_owned();
            key = table.clone();
        } else if number == line {
            let name = content.split_once('=').map_or("", |(name, _)| name.trim());
            key = match (table.as_str(), name) {
                ("", name) => name.to_owned(),
                (table, "") => table.to_owned(),
                (table, name) => format!("{table}.{name}"),
            };
        }
    }
    (line + 1, key)
}

/// The offset of the line that sets the top-level key `key`; 0 when there is none.
pub(super) fn line_of_key(text: &str, key: &str) -> usize {
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let name = line.split('=').next().unwrap_or("").trim();
        if name == key {
            return offset;
        }
        offset += line.len();
    }
    0
}

/// serde's message in the words of a board file.
pub(super) fn plain(message: &str) -> String {
    message
        .replace(
            "wanted exactly 1 element, more than 1 element",
            "two back ends are named, only one is allowed",
        )
        .replace(
            "wanted exactly 1 element, found 0 elements",
            "no back end is named",
        )
        .replace("unknown variant", "unknown value")
        .replace("unknown field", "unknown key")
        .replace("missing field", "missing key")
        .trim_end()
        .replace('\n', "; ")
}
