//! What the README and `docs/` say is what the programs do: commands, settings, boards, features,
//! files, tests and the fields of `status --json`.

#![cfg(all(feature = "receiver", feature = "software"))]
#![allow(clippy::unwrap_used, missing_docs, reason = "a test ends by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::programs::{BOX, CaptureBox, RECEIVER, alone, outcome, run, small_bench, wait_until};

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn text_of(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn readme() -> String {
    text_of("README.md")
}

/// The fenced blocks of `language`, in order.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, opened)) = rest.split_once("\n```") {
        let (head, body) = opened.split_once('\n').unwrap();
        let (body, after) = body.split_once("```").expect("a fence is closed");
        if head == language {
            found.push(body.to_owned());
        }
        rest = after;
    }
    found
}

/// Whatever is between single backticks outside of the fenced blocks.
fn spans(text: &str) -> Vec<String> {
    let prose: String = text
        .split("\n```")
        .step_by(2)
        .flat_map(|part| [part, "\n"])
        .collect();
    let spans = prose.split('`').skip(1).step_by(2);
    spans
        .map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// The part of `text` below the heading `title`, down to the next heading.
fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let start = text
        .find(&format!("\n{title}\n"))
        .unwrap_or_else(|| panic!("there is no heading {title}"));
    let body = &text[start + title.len() + 2..];
    body.find("\n#").map_or(body, |end| &body[..end])
}

/// The rows of the tables in `text` without their heads, cell by cell.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_matches('|');
        inner.split(" | ").map(|cell| cell.trim().into()).collect()
    };
    let lines: Vec<&str> = text.lines().collect();
    let is_row = |line: &str| line.starts_with('|');
    (0..lines.len())
        .filter(|&n| is_row(lines[n]) && !lines[n].starts_with("|---"))
        .filter(|&n| {
            !lines
                .get(n + 1)
                .is_some_and(|next| next.starts_with("|---"))
        })
        .map(|n| cells(lines[n]))
        .collect()
}

/// The names in backticks of a cell.
fn names(cell: &str) -> Vec<String> {
    let names = cell.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

fn first_names(rows: &[Vec<String>]) -> BTreeSet<String> {
    rows.iter().flat_map(|row| names(&row[0])).collect()
}

#[test]
fn the_first_two_commands_are_the_demo_and_the_tests_that_ci_runs() {
    let first = &blocks(&readme(), "sh")[0];
    let commands: Vec<&str> = first
        .lines()
        .map(|line| line.split('#').next().unwrap().trim())
        .collect();
    assert_eq!(commands, ["make demo", "make test"]);
    let ci = text_of(".ci/run");
    let last = ci.trim_end().lines().last().unwrap();
    assert_eq!(last, "exec make test");
}

#[test]
fn make_knows_every_target_that_is_named() {
    let makefile = text_of("Makefile");
    let is_target = |name: &str| makefile.lines().any(|line| line == format!("{name}:"));
    let text = readme();
    let code: Vec<String> = blocks(&text, "sh")
        .iter()
        .flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>())
        .chain(spans(&text))
        .collect();
    let named: BTreeSet<&str> = code
        .iter()
        .filter_map(|line| line.strip_prefix("make "))
        .filter_map(|rest| rest.split_whitespace().next())
        .collect();
    assert!(named.len() >= 4, "{named:?}");
    for name in named {
        assert!(is_target(name), "the Makefile has no target {name}");
    }
}

#[test]
fn the_packages_of_make_demo_and_make_test_are_all_named() {
    let (script, spans) = (text_of("tests/support/packages"), spans(&readme()));
    let named: BTreeSet<&str> = spans.iter().flat_map(|span| span.split(' ')).collect();
    for group in ["build", "test", "rig"] {
        let opens = format!("{group}) echo ");
        let list = script
            .lines()
            .find_map(|line| line.trim().strip_prefix(&opens))
            .unwrap_or_else(|| panic!("no group {group}"));
        for package in list.trim_end_matches(";;").split_whitespace() {
            assert!(named.contains(package), "{package} is not named");
        }
    }
}

/// The help of a program's command, and what it takes.
struct Help {
    flags: BTreeSet<String>,
    commands: BTreeSet<String>,
}

fn help(program: &str, command: &[&str]) -> Help {
    let text = run(program, &[command, &["--help"]].concat());
    let of = |title: &str| -> Vec<&str> {
        let lines = text.lines().skip_while(|line| *line != title).skip(1);
        lines.take_while(|line| !line.is_empty()).collect()
    };
    let commands = of("Commands:")
        .into_iter()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    let flags = of("Options:")
        .into_iter()
        .filter(|line| line.trim_start().starts_with('-'))
        .flat_map(|line| line.split_whitespace())
        .filter(|word| word.starts_with("--"))
        .map(|word| word.trim_end_matches(',').to_owned())
        .collect();
    Help { flags, commands }
}

/// Fails unless the words after a program's name are commands and flags that its help knows.
fn assert_known(program: &str, words: &[&str], line: &str) {
    let mut command = Vec::new();
    let mut known = help(program, &command);
    for word in words {
        if word.starts_with("--") {
            assert!(known.flags.contains(*word), "{word} is not known: {line}");
        } else if !known.commands.is_empty() {
            let is_command = known.commands.contains(*word);
            assert!(is_command, "{word} is not a command: {line}");
            command.push(*word);
            known = help(program, &command);
        }
    }
}

#[test]
fn every_command_line_uses_what_help_knows() {
    let mut lines: Vec<String> = Vec::new();
    for document in [
        "README.md",
        "CHANGELOG.md",
        "docs/status.md",
        "docs/boards.md",
        "docs/fleet.md",
    ] {
        let text = text_of(document);
        lines.extend(blocks(&text, "sh").iter().flat_map(|block| {
            let lines = block.lines().map(str::to_owned);
            lines.collect::<Vec<_>>()
        }));
        lines.extend(spans(&text));
    }
    let mut seen = 0;
    for line in &lines {
        let line = line.replace("$(", "").replace(')', "");
        let line = line.split_once('=').map_or(&*line, |(name, value)| {
            let is_variable = name.chars().all(|c| c.is_ascii_lowercase());
            if is_variable { value } else { &line }
        });
        let mut words = line.split_whitespace();
        let program = match words.next() {
            Some("hallcast") => BOX,
            Some("hallcast-receiver") => RECEIVER,
            _ => continue,
        };
        let words: Vec<&str> = words
            .take_while(|word| !word.starts_with(['&', '|', '>', '<']))
            .collect();
        assert_known(program, &words, line);
        seen += usize::from(!words.is_empty());
    }
    assert!(seen >= 15, "{seen} command lines were found");
}

#[test]
fn a_receiver_and_a_box_run_by_hand_as_it_is_written() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let boxes = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let page = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let text = readme();
    let script = blocks(section(&text, "## By hand, on one machine"), "sh");
    // The first block builds the programs, which the test has done.
    let script = script[1..]
        .concat()
        .replace("127.0.0.1:4433", &boxes.to_string())
        .replace("127.0.0.1:8080", &page.to_string())
        .replace("sleep 10", "sleep 3");
    let programs = Path::new(BOX).parent().unwrap().display();
    let ends = "set -eu\ntrap 'kill $(jobs -p)' EXIT\n";
    let output = Command::new("timeout")
        .args(["60", "bash", "-c", &format!("{ends}{script}")])
        .env(
            "PATH",
            format!("{programs}:{}", std::env::var("PATH").unwrap()),
        )
        .current_dir(home.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    let film = fs::read(home.path().join("lecture.mp4")).unwrap();
    assert_eq!(&film[4..8], b"ftyp");
}

#[test]
fn every_file_and_test_that_is_named_exists() {
    for document in [
        "README.md",
        "CHANGELOG.md",
        "docs/status.md",
        "docs/boards.md",
        "docs/errors.md",
        "docs/fleet.md",
        "docs/manifest.md",
    ] {
        let text = text_of(document);
        let folder = root().join(document).parent().unwrap().to_owned();
        let links = text.split("](").skip(1);
        for link in links.map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => root().join(document),
                file => folder.join(file),
            };
            assert!(target.exists(), "{document}: {link}");
            if !anchor.is_empty() {
                let text = fs::read_to_string(target).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let mut anchors = headings.map(|line| {
                    line.trim_start_matches(['#', ' '])
                        .to_lowercase()
                        .replace(' ', "-")
                });
                assert!(anchors.any(|found| found == anchor), "{document}: {link}");
            }
        }
        for span in spans(&text) {
            let is_path = ["src/", "tests/", "docs/", "boards/", "systemd/"];
            if is_path.iter().any(|folder| span.starts_with(folder)) {
                assert!(root().join(&span).exists(), "{document}: {span}");
            }
        }
    }
    let text = readme();
    let table = section(&text, "## What it promises, and what is shown today");
    let promises = rows(table);
    assert!(promises.len() >= 10);
    let ten = promises.iter().take(10);
    let shown = ten.filter(|row| row[1].starts_with("**shown**")).count();
    let numbers = ["five", "six", "seven", "eight", "nine", "ten"];
    let counted = format!("promises, {} are shown by tests now", numbers[shown - 5]);
    assert!(table.contains(&counted), "{shown} of ten are shown");
    for promise in promises {
        let mut file = String::new();
        for name in names(&promise[2]) {
            if name.contains('/') {
                file = text_of(&name);
            } else {
                let is_there = file.contains(&format!("fn {name}("));
                assert!(is_there, "there is no test {name} for: {}", promise[0]);
            }
        }
        assert!(!file.is_empty(), "nothing shows: {}", promise[0]);
    }
}

/// What the parser of a settings file says of `text`, which it refuses.
fn refusal(program: &str, text: &str) -> String {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("settings.toml");
    fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let mut arguments = vec!["run", "--config", path];
    if program == BOX {
        arguments.extend(["--board", "bench"]);
    }
    let output = outcome(program, &arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}: {said}");
    said
}

/// The keys that a parser knows in `table` (of the whole file where it is empty).
fn keys_of(program: &str, table: &str) -> BTreeSet<String> {
    let head = match table {
        "" => String::new(),
        table => format!("[{table}]\n"),
    };
    let said = refusal(program, &format!("{head}no-such-key = 1\n"));
    let (_, expected) = said
        .split_once("expected ")
        .unwrap_or_else(|| panic!("{said}"));
    let prefix = if table.is_empty() { "" } else { "." };
    let keys = names(expected).into_iter();
    keys.map(|key| format!("{table}{prefix}{key}")).collect()
}

#[test]
fn the_settings_are_those_that_the_parsers_know() {
    let text = readme();
    let documented = first_names(&rows(section(&text, "### box.toml")));
    let tables: BTreeSet<&str> = documented
        .iter()
        .filter_map(|key| Some(key.split_once('.')?.0))
        .collect();
    let mut known: BTreeSet<String> = keys_of(BOX, "")
        .into_iter()
        .filter(|key| !tables.contains(key.as_str()))
        .collect();
    known.extend(tables.iter().flat_map(|table| keys_of(BOX, table)));
    assert_eq!(documented, known);

    let documented = first_names(&rows(section(&text, "### receiver.toml")));
    assert_eq!(documented, keys_of(RECEIVER, ""));
}

#[test]
fn the_ranges_of_the_settings_are_those_that_the_parser_allows() {
    let text = readme();
    let mut ranges = 0;
    for row in rows(section(&text, "### box.toml")) {
        let key = names(&row[0]).remove(0);
        let Some((low, high)) = row[2].split_once(" to ") else {
            continue;
        };
        let (Ok(low), Ok(high)) = (low.parse::<u32>(), high.parse::<u32>()) else {
            continue;
        };
        ranges += 1;
        let (table, name) = key.split_once('.').unwrap();
        let quote = if name == "rate" { "\"" } else { "" };
        for wrong in [low - 1, high + 1] {
            let said = refusal(BOX, &format!("[{table}]\n{name} = {quote}{wrong}{quote}\n"));
            let expected = format!("from {low} to {high}");
            assert!(
                said.contains(&format!("`{key}`")) && said.contains(&expected),
                "{said}"
            );
        }
    }
    assert!(ranges >= 6, "{ranges} ranges");
}

#[test]
fn the_example_settings_are_accepted() {
    let home = tempfile::tempdir().unwrap();
    let text = readme();
    let example = &blocks(section(&text, "### box.toml"), "toml")[0];
    let file = home.path().join("box.toml");
    // What comes after the file is wrong on purpose, so that nothing starts.
    fs::write(&file, example).unwrap();
    let settings = [
        "run",
        "--config",
        file.to_str().unwrap(),
        "--board",
        "bench",
    ];
    let output = outcome(BOX, &[&settings[..], &["--microphone", "none"]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("hallcast: --microphone: "), "{said}");
}

#[test]
fn boards_features_and_modules_are_those_there_are() {
    let text = readme();
    let boards: BTreeSet<String> = hallcast::board::SHIPPED
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(first_names(&rows(section(&text, "## Boards"))), boards);

    let manifest: toml::Table = text_of("Cargo.toml").parse().unwrap();
    let features = manifest["features"].as_table().unwrap();
    let of = |name: &str| -> BTreeSet<&str> {
        let list = features[name].as_array().unwrap().iter();
        list.map(|feature| feature.as_str().unwrap()).collect()
    };
    let (boxes, default) = (of("box"), of("default"));
    let documented: BTreeMap<String, String> = rows(section(&text, "## Features and lean builds"))
        .into_iter()
        .map(|row| (names(&row[0]).remove(0), row[1].clone()))
        .collect();
    let expected: BTreeMap<String, String> = features
        .keys()
        .filter(|name| *name != "default")
        .map(|name| {
            let is_on = default.contains(name.as_str()) || boxes.contains(name.as_str());
            (name.clone(), if is_on { "yes" } else { "no" }.into())
        })
        .collect();
    assert_eq!(documented, expected);

    let modules: BTreeSet<String> = text_of("src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    assert_eq!(
        first_names(&rows(section(&text, "## How it is laid out"))),
        modules
    );
}

/// The paths of a document's values and their types: `tracks[].name` is text.
fn flatten(path: &str, value: &serde_json::Value, into: &mut BTreeMap<String, BTreeSet<String>>) {
    use serde_json::Value;
    let kind = match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(&format!("{path}{dot}{name}"), value, into);
            }
            return;
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for item in items {
                flatten(&format!("{path}[]"), item, into);
            }
            return;
        }
        Value::Array(_) => "array",
        Value::String(_) => "text",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    };
    into.entry(path.to_owned()).or_default().insert(kind.into());
}

#[test]
fn the_fields_of_the_status_are_those_that_are_documented() {
    let _alone = alone();
    let home = tempfile::tempdir().unwrap();
    let board = small_bench(home.path());
    let capture_box = CaptureBox::start(home.path(), "hall", None, &["--board", &board]);
    let recording = capture_box.record();
    wait_until(10, "a picture", || {
        capture_box.status()["tracks"][0]["ticks"].as_u64() > Some(0)
    });
    let mut found = BTreeMap::new();
    flatten("", &capture_box.status(), &mut found);
    assert_eq!(capture_box.stop(), recording);

    let whole = text_of("docs/status.md");
    let text = whole.split("\n## ").next().unwrap().to_owned();
    let (documented, lamps): (Vec<_>, Vec<_>) = rows(&text).into_iter().partition(|row| {
        ["text", "number", "boolean", "array"]
            .iter()
            .any(|kind| row[1].starts_with(kind))
    });
    let documented: BTreeMap<String, String> = documented
        .into_iter()
        .map(|row| (names(&row[0]).remove(0), row[1].clone()))
        .collect();
    assert_eq!(
        documented.keys().collect::<Vec<_>>(),
        found.keys().collect::<Vec<_>>()
    );
    for (field, kinds) in found {
        for kind in kinds {
            let allowed = &documented[&field];
            assert!(
                allowed.split(" or ").any(|one| one == kind),
                "{field}: {kind} is not {allowed}"
            );
        }
    }
    use hallcast::panel::Lamp;
    let patterns: BTreeSet<String> = Lamp::ALL.map(|lamp| lamp.name().into()).into();
    assert_eq!(first_names(&lamps), patterns);

    let folders = ["src/station", "src/station/keeper", "src/source"];
    let sources: String = folders
        .iter()
        .flat_map(|folder| fs::read_dir(root().join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for title in ["## Want of space", "## Alarms"] {
        for name in first_names(&rows(section(&whole, title))) {
            // Of any track: its name is put before what the code knows.
            let spelled = match name.strip_prefix("<track>-") {
                Some(ending) => vec![format!("\"{{}}-{ending}\""), format!("\"{ending}\"")],
                None => vec![format!("\"{name}\"")],
            };
            let is_known = spelled.iter().any(|name| sources.contains(name));
            assert!(is_known, "{name}: {title}");
        }
    }
}

#[test]
fn the_changelog_speaks_of_this_version() {
    let text = text_of("CHANGELOG.md");
    let version = env!("CARGO_PKG_VERSION");
    let is_released = text.contains(&format!("\n## [{version}] - "));
    let is_next = text.contains(&format!("\n## [Unreleased]\n\nBecomes {version}:"));
    assert!(is_released || is_next, "{version}");
}
