//! `hallcast check`: tries everything for two seconds without recording, and says in plain words what
//! will work and what will not.
//!
//! One file per subject below; each probes (files, devices, sockets) and hands what it measured to a
//! function that judges it and touches nothing. Takes the settings; gives lines for people or for
//! programs. What does not belong here: repairing anything. Nothing is left behind, but for the one
//! picture that `--picture` asks for.
//!
//! People run it beside the service: devices that a running box holds are asked of it, not opened.

mod certificate;
mod clock;
pub(super) mod devices;
pub(super) mod disk;
pub(super) mod encoder;
mod link;
mod panel;
mod picture;
pub(super) mod running;
mod settings;

use super::config::{self, Config};
use crate::journal::say;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// How long devices are tried.
const TRIAL: std::time::Duration = std::time::Duration::from_secs(2);

/// The flags of `hallcast check`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Asked {
    #[command(flatten)]
    config: config::Flags,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Keep one picture in this file (PPM), to aim the camera by
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Of which camera the picture is
    #[arg(long, value_name = "TRACK", requires = "picture", default_value = "presenter",
          value_parser = ["presenter", "slides"])]
    of: String,
}

/// What is to be said of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// It works.
    Ok,
    /// It works, and a person should know.
    Warn,
    /// It does not work until a person mends it.
    Wrong,
}

/// One thing, how it is, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    what: String,
    verdict: Verdict,
    found: String,
    next: Option<String>,
}

impl Line {
    fn new(what: impl Into<String>, verdict: Verdict, found: String, next: Option<String>) -> Self {
        Self {
            what: what.into(),
            verdict,
            found,
            next,
        }
    }

    fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(what, Verdict::Ok, found.into(), None)
    }

    fn warn(what: impl Into<String>, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(what, Verdict::Warn, found.into(), Some(next.into()))
    }

    fn wrong(what: impl Into<String>, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(what, Verdict::Wrong, found.into(), Some(next.into()))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Wrong => "WRONG",
        };
        let found = self
            .found
            .trim_end()
            .replace('\n', "\n                        ");
        writeln!(f, "{verdict:<6}{:<17} {found}", self.what)?;
        match &self.next {
            Some(next) => writeln!(f, "{:<23} -> {next}", ""),
            None => Ok(()),
        }
    }
}

/// All that was found.
#[derive(Debug, Serialize)]
struct Report {
    verdict: Verdict,
    lines: Vec<Line>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| write!(f, "{line}"))
    }
}

/// Tries everything and prints what was found; fails when something takes a person.
pub(super) fn run(asked: &Asked) -> Result<(), super::Error> {
    let settled = config::load(&asked.config);
    let mut lines = vec![settings::judge(config::file(&asked.config), &settled)];
    if let Ok(config) = &settled {
        lines.extend(try_all(config, asked)?);
    }
    let worst = lines.iter().map(|line| line.verdict).max();
    let report = Report {
        verdict: worst.unwrap_or(Verdict::Ok),
        lines,
    };
    if asked.json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => say(format_args!("{text}\n"))?,
            Err(error) => return Err(super::Error::Refused(error.to_string())),
        }
    } else {
        say(&report)?;
    }
    let wrong = report.lines.iter();
    let wrong = wrong.filter(|line| line.verdict == Verdict::Wrong).count();
    match wrong {
        0 => Ok(()),
        wrong => Err(super::Error::Wrong(wrong)),
    }
}

fn try_all(config: &Config, asked: &Asked) -> Result<Vec<Line>, super::Error> {
    let running = running::ask(&config.control_socket);
    let mut lines: Vec<Line> = running::judge(&running, &config.control_socket)
        .into_iter()
        .collect();
    let known = certificate::look(&config.state_directory);
    let of_panel = panel::lines(config, &running);
    let lamp = picture::lamp(config, asked.picture.as_deref(), &running);
    // The network is tried while the devices are.
    let (mut of_devices, of_link) = std::thread::scope(|scope| -> Result<_, super::Error> {
        let link = std::thread::Builder::new()
            .name("check link".into())
            .spawn_scoped(scope, || link::lines(config, &known, &running))?;
        let devices = devices::look(config, &running)?;
        let link = link.join().unwrap_or_else(|_| {
            vec![Line::wrong(
                "receiver",
                "the trial of the network ended early",
                "report it: this is a fault of the program",
            )]
        });
        Ok((devices, link))
    })?;
    lines.append(&mut of_devices.lines);
    lines.extend(of_panel);
    if let Some(file) = &asked.picture {
        let seen = of_devices
            .pictures
            .iter()
            .find(|seen| seen.track == asked.of);
        lines.push(picture::line(file, &asked.of, seen, &lamp, &running));
    }
    drop(lamp);
    // In turn: what is measured here would disturb what else is measured.
    lines.extend(disk::lines(config, &running));
    lines.extend(encoder::lines(config, &of_devices.layouts, &running));
    lines.extend(certificate::lines(config, &known));
    lines.extend(of_link);
    Ok(lines)
}

/// A part of something on a scale of `unit`, for people.
fn seconds(duration: std::time::Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.0} s", ms / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_how_it_is_and_what_to_do() {
        let line = Line::wrong("disk", "full\nindeed", "free space");
        assert_eq!(
            line.to_string(),
            "WRONG disk              full\n                        indeed\n                        -> free space\n"
        );
        assert_eq!(
            Line::ok("clock", "kept").to_string(),
            "ok    clock             kept\n"
        );
        assert!(Verdict::Wrong > Verdict::Warn && Verdict::Warn > Verdict::Ok);
    }
}
