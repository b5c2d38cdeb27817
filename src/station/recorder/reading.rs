//! The recorder's table, read by a second reading of the rules: what an input does is looked up by the
//! history of what happened, searched anew each time.
//!
//! It names nothing of this crate: `tests/panel.rs` reads the table by this same file, beside a real box
//! with a real button.

#![allow(dead_code, reason = "each test uses its own part")]

use std::collections::BTreeMap;
use std::time::Duration;

const TOGETHER: Duration = Duration::from_secs(1);
const WARNING: Duration = Duration::from_secs(5 * 60);
const EXTENSION: Duration = Duration::from_secs(30 * 60);

/// The table of the module: input, state, what becomes of it.
pub(super) fn table() -> Vec<(String, String, String)> {
    let text = include_str!("../recorder.rs");
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("//! | "));
    let cells = |row: &str| -> Vec<String> {
        let cells = row.trim_end_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    let head = cells(rows.next().unwrap());
    let all = rows.map(cells).flat_map(|row| {
        assert_eq!(row.len(), head.len(), "{row:?}");
        let pairs = head.clone().into_iter().zip(row.clone()).skip(1);
        pairs.map(move |(state, cell)| (row[0].clone(), state, cell))
    });
    all.collect()
}

/// One thing that happened: when, by which row, what the table says.
struct Entry {
    at: Duration,
    row: String,
    cell: String,
}

/// The table, read by the history.
pub(super) struct Reading {
    cells: BTreeMap<(String, String), String>,
    press_to_stop: bool,
    maximum: Duration,
    history: Vec<Entry>,
    /// A column of the table.
    pub(super) state: String,
    /// Captured so far, and since when it is being captured.
    pub(super) recorded: Duration,
    since: Option<Duration>,
    most: Duration,
    /// There is room on the disk; the lamp can be driven.
    pub(super) room: bool,
    pub(super) lamp: bool,
}

impl Reading {
    /// Idle, with nothing behind it.
    pub(super) fn new(press_to_stop: bool, maximum: Duration) -> Self {
        let cells = table()
            .into_iter()
            .map(|(row, column, cell)| ((row, column), cell));
        Self {
            cells: cells.collect(),
            press_to_stop,
            maximum,
            history: Vec::new(),
            state: "Idle".into(),
            recorded: Duration::ZERO,
            since: None,
            most: maximum,
            room: true,
            lamp: true,
        }
    }

    /// How much of the recording in hand is recorded at `now`, a time since any one instant.
    pub(super) fn length(&self, now: Duration) -> Duration {
        self.recorded + self.since.map_or(Duration::ZERO, |since| now - since)
    }

    /// Whether a press now is one with something that took effect less than a second ago.
    fn is_same(&self, now: Duration) -> bool {
        for entry in self.history.iter().rev() {
            let press = entry.row.starts_with("`Pressed`");
            let asked = ["`Start`", "`Resume`"].contains(&&*entry.row);
            let acted = (press || asked)
                && (entry.cell.starts_with("Begin") || entry.cell.starts_with("Continue"))
                || press && (entry.cell.starts_with("End") || entry.cell == "Extend");
            if acted {
                return now - entry.at < TOGETHER;
            }
            if entry.cell.starts_with("End")
                || entry.cell.starts_with("Abandon")
                || entry.cell == "→ Idle" && entry.row == "`Erased`"
            {
                return false;
            }
        }
        false
    }

    /// Whether a press now is the second of two.
    fn is_second(&self, now: Duration) -> bool {
        for entry in self.history.iter().rev() {
            if entry.row.starts_with("`Pressed`") {
                let first = entry.row == "`Pressed`" && entry.cell == "answered";
                return first && now - entry.at < TOGETHER;
            }
            if entry.cell.starts_with("Begin")
                || entry.row == "`Resume`" && entry.cell.starts_with("Continue")
            {
                return false;
            }
        }
        false
    }

    /// Whether a hold now is of the press that started the recording.
    fn is_of_the_start(&self) -> bool {
        let by_itself = ["`TakeUp`", "the lamp is back, in a pause for it"];
        let told = |entry: &&Entry| {
            entry.cell.starts_with("Begin")
                || entry.row.starts_with("`Pressed`") && !entry.row.contains("just after")
                || !by_itself.contains(&&*entry.row) && entry.cell.starts_with("Continue")
        };
        let last = self.history.iter().rev().find(told);
        last.is_some_and(|entry| entry.cell.starts_with("Begin"))
    }

    /// Whether the pause in hand is over with the lamp's absence.
    pub(super) fn is_for_lamp(&self) -> bool {
        let paused = |entry: &&Entry| entry.cell.ends_with("→ Paused") || entry.cell == "Break";
        let last = self.history.iter().rev().find(paused);
        let for_lamp = ["the lamp is away for too long", "`TakeUp`"];
        self.state == "Paused" && last.is_some_and(|last| for_lamp.contains(&&*last.row))
    }

    fn row(&self, input: &str, now: Duration) -> String {
        let warning = WARNING.min(self.maximum / 2);
        let near = matches!(&*self.state, "Starting" | "Recording")
            && self.length(now) + warning >= self.most;
        match input {
            "Pressed" if self.is_same(now) => "`Pressed`, just after one that acted".into(),
            "Pressed" if self.press_to_stop && near => {
                "`Pressed`, press to stop, near the end".into()
            }
            "Pressed" if self.press_to_stop => "`Pressed`, press to stop".into(),
            "Pressed" if self.is_second(now) => "`Pressed`, twice".into(),
            "Held" if self.is_of_the_start() => "`Held`, the press that started".into(),
            "Pause" if self.is_for_lamp() => "`Pause`, in a pause for the lamp".into(),
            "TakeUp, paused" => "`TakeUp`, paused".into(),
            "the end of the time"
            | "the lamp is away for too long"
            | "the lamp is back, in a pause for it" => input.into(),
            input => format!("`{input}`"),
        }
    }

    /// What the table says of this input.
    pub(super) fn take(&mut self, input: &str, now: Duration) -> String {
        let row = self.row(input, now);
        let cell = match &*self.cells[&(row.clone(), self.state.clone())] {
            begin if begin.starts_with("Begin") && !self.room => "no room",
            begin if begin.starts_with("Begin") && !self.lamp => "no lamp",
            go_on if go_on.starts_with("Continue") && !self.lamp => match &*row {
                "`TakeUp`" => "Rest → Paused",
                _ => "no lamp",
            },
            cell => cell,
        };
        let cell = cell.to_owned();
        if cell == "Mark" || cell == "Extend" {
            let extended = self.length(now) + EXTENSION.min(self.maximum);
            self.most = self.most.max(extended);
        }
        if let Some((_, next)) = cell.split_once("→ ") {
            if cell.starts_with("Begin") {
                (self.recorded, self.most) = (Duration::ZERO, self.maximum);
            }
            let captures = |state: &str| matches!(state, "Starting" | "Recording");
            match (captures(&self.state), captures(next)) {
                (false, true) => self.since = Some(now),
                (true, false) => {
                    self.recorded = self.length(now);
                    self.since = None;
                }
                _ => {}
            }
            self.state = next.into();
        }
        self.history.push(Entry {
            at: now,
            row,
            cell: cell.clone(),
        });
        cell
    }
}
