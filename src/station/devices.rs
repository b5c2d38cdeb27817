//! `hallcast devices`: what this machine has, and with `--propose` the settings that name it.
//!
//! Takes nothing that must be right: settings that cannot be read are said and passed over, because people
//! run this to write them. Gives a report for people or for programs; `look` gathers it, `tell` writes
//! it for people, `propose` makes a board and a `box.toml` of it. What does not belong here: judging
//! whether a box would work (`check`).
//!
//! People run it beside the service: a microphone that the running box records from is asked of the box,
//! not opened.

mod holders;
mod look;
mod propose;
mod tell;

use super::config;
use crate::journal::say;
use serde::Serialize;
use std::path::PathBuf;

/// The flags of `hallcast devices`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Asked {
    #[command(flatten)]
    config: config::Flags,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Write settings for what was found into this directory: box.toml, and a board where none fits
    #[arg(long, value_name = "DIRECTORY")]
    propose: Option<PathBuf>,
}

/// What this machine has.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    /// How the running box is, where there is one.
    running: Option<String>,
    /// Why the settings were passed over.
    settings_error: Option<String>,
    /// Features that this program was built without.
    not_built: Vec<&'static str>,
    /// None without `v4l2`.
    cameras: Option<Vec<Camera>>,
    /// None without `alsa`.
    microphones: Option<Vec<Microphone>>,
    chips: Vec<Chip>,
    encoders: Vec<Encoder>,
    disk: Disk,
    /// The files that `--propose` wrote.
    proposed: Vec<PathBuf>,
}

/// Which machine it is.
#[derive(Debug, Serialize)]
struct Machine {
    /// As it calls itself.
    model: Option<String>,
    /// Its names in the device tree.
    compatible: Vec<String>,
    /// The board that is taken unless the settings name another.
    board: String,
    /// Why that one.
    why: String,
}

#[derive(Debug, Serialize)]
struct Camera {
    device: PathBuf,
    names: Vec<PathBuf>,
    name: String,
    driver: String,
    port: String,
    formats: Vec<Format>,
    held_by: Option<String>,
    trouble: Option<String>,
}

#[derive(Debug, Serialize)]
struct Format {
    format: String,
    usable: bool,
    sizes: Vec<Size>,
}

#[derive(Debug, Serialize)]
struct Size {
    size: String,
    rates: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Microphone {
    /// As ALSA writes it.
    device: String,
    /// The card's id, for a board.
    card: String,
    number: String,
    name: String,
    names: Vec<PathBuf>,
    port: String,
    rates_hz: Vec<u32>,
    channels: Option<(u32, u32)>,
    formats: Vec<String>,
    held_by: Option<String>,
    trouble: Option<String>,
    level: Level,
}

/// How loud it is, in dB below full scale, over one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Level {
    /// None where it was not measured, or every sample is zero.
    peak_dbfs: Option<f64>,
    rms_dbfs: Option<f64>,
    /// It gives nothing that moves.
    silent: bool,
}

#[derive(Debug, Serialize)]
struct Chip {
    device: PathBuf,
    label: String,
    lines: u32,
    used: Vec<Used>,
    trouble: Option<String>,
}

#[derive(Debug, Serialize)]
struct Used {
    line: u32,
    name: String,
    by: String,
}

#[derive(Clone, Debug, Serialize)]
struct Encoder {
    name: &'static str,
    /// `pictures` or `sound`.
    of: &'static str,
    speeds: Vec<Speed>,
}

/// How fast it is at one size.
#[derive(Clone, Debug, Serialize)]
struct Speed {
    size: String,
    rate: String,
    /// Seconds of pictures encoded in one second, by one track alone.
    times: Option<f64>,
    error: Option<String>,
}

/// The disk that recordings go to.
#[derive(Clone, Debug, Default, Serialize)]
struct Disk {
    directory: PathBuf,
    free_bytes: Option<u64>,
    total_bytes: Option<u64>,
    /// At the rate of the settings' tracks.
    hours_left: Option<f64>,
    /// Written and synced in blocks of 256 KiB.
    write_bytes_per_second: Option<u64>,
    fdatasync_p99_ms: Option<f64>,
    trouble: Option<String>,
}

/// Looks, writes what was asked for, and prints what was found.
pub(super) fn run(asked: &Asked) -> Result<(), super::Error> {
    let looked = look::look(&asked.config)?;
    let mut report = looked.report();
    if let Some(directory) = &asked.propose {
        let proposal = propose::propose(&looked)?;
        let written = proposal.write(directory);
        report.proposed = written.map_err(super::Error::Refused)?;
    }
    if asked.json {
        let text = serde_json::to_string_pretty(&report);
        let text = text.map_err(|error| super::Error::Refused(error.to_string()))?;
        say(format_args!("{text}\n"))?;
    } else {
        say(report)?;
    }
    Ok(())
}
