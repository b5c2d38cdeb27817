//! What `hallcast status` says, and what the process says of itself.

use crate::media::health::{Drops, Lateness as TickLateness, Repeats};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// How a box is. Published as JSON by `hallcast status --json`; fields are added, never renamed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The box's id.
    pub box_id: String,
    /// The room, as configured.
    pub room: Option<String>,
    /// The board's name.
    pub board: String,
    /// The program's version.
    pub version: String,
    /// `idle`, `starting`, `recording`, `paused`, `stopping` or `fault`.
    pub state: String,
    /// The lamp's pattern.
    pub lamp: String,
    /// The recording in hand.
    pub recording: Option<Recording>,
    /// Each track and its device.
    pub tracks: Vec<Track>,
    /// The spool.
    pub spool: Spool,
    /// The way to the receiver.
    pub uplink: Uplink,
    /// What is wrong now, for people.
    pub alarms: Vec<String>,
    /// Resident memory of the process, bytes.
    pub resident_bytes: u64,
    /// CPU seconds that the process has used.
    pub cpu_seconds: f64,
}

/// The recording in hand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// Its id.
    pub id: String,
    /// Seconds recorded so far; pauses and absences do not count.
    pub seconds: u64,
}

/// One track and its device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// `presenter`, `slides` or `microphone`.
    pub name: String,
    /// The device is open.
    pub open: bool,
    /// What the device is set to, for people.
    pub settings: String,
    /// Why the device gives nothing.
    pub error: Option<String>,
    /// Pictures or blocks of samples that the device delivered since the process started.
    pub delivered: u64,
    /// Pictures or blocks dropped before the pacer because it was late.
    pub dropped: u64,
    /// What the device itself lost.
    pub lost: u64,
    /// Ticks of the running recording, or of the last one.
    pub ticks: u64,
    /// Of these, filled with the previous picture.
    pub repeats: u64,
    /// Pictures that no tick wanted.
    pub drops: u64,
    /// From a tick to the decision which picture it shows; none for sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick_lateness: Option<TickLateness>,
    /// Repeats by reason.
    pub repeats_by: Repeats,
    /// Drops by reason.
    pub drops_by: Drops,
    /// Gaps of the running recording, or of the last one, that are over.
    pub gaps: u64,
    /// How long they are together.
    pub gap_seconds: f64,
    /// The loudest sample and the root of the mean square of the last chunk, in dBFS; none for silence.
    pub level_dbfs: Option<(f64, f64)>,
    /// The card's error against this machine's clock, in millionths.
    pub ppm: Option<f64>,
    /// Times that sound was lost because nobody took it.
    pub xruns: u64,
    /// Pictures or blocks that wait in the ring before the pacer.
    pub ring_waiting: u64,
    /// Times that the track waited for the keeper since the process started.
    pub keeper_waits: u64,
    /// Silence put in for samples that the device lost, in samples.
    pub silence: u64,
    /// CPU seconds spent in the encoder.
    pub encode_cpu_seconds: f64,
    /// From the capture of a chunk's first picture or sample to the receiver's word that it has the
    /// chunk, in milliseconds: median, 99th of a hundred, and how many were measured. The chunk's
    /// own length is in it, and an encoder's delay.
    pub capture_to_received_ms: Option<(u64, u64, usize)>,
}

/// The spool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spool {
    /// Recordings on the box.
    pub recordings: usize,
    /// Bytes that the receiver does not hold durably.
    pub waiting_bytes: u64,
    /// Chunks written since the process started.
    pub chunks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Syncs that returned well.
    pub syncs: u64,
    /// Syncs that failed.
    pub sync_failures: u64,
    /// How long a sync takes, in milliseconds: median, 99th of a hundred, and how many were measured.
    pub sync_ms: Option<(u64, u64, usize)>,
    /// Bytes that recordings take on the disk.
    pub used_bytes: Option<u64>,
    /// Bytes that may still be written, within the quota and on the disk.
    pub free_bytes: Option<u64>,
    /// Hours that can still be recorded at the full rate; what the receiver holds makes room.
    pub hours_left: Option<f64>,
    /// How short of space the box is, and so what it gives up.
    pub level: String,
}

/// The way to the receiver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Uplink {
    /// A receiver is configured.
    pub configured: bool,
    /// A session is up.
    pub connected: bool,
    /// Why none is, for people.
    pub error: Option<String>,
    /// Names of chunks and segments that the uplink has not taken yet.
    pub offers_waiting: u64,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.state)?;
        if let Some(recording) = &self.recording {
            write!(f, " {} for {} s", recording.id, recording.seconds)?;
        }
        writeln!(f, ", lamp {}", self.lamp)?;
        for track in &self.tracks {
            match &track.error {
                Some(error) => writeln!(f, "{:<11} {error}", track.name)?,
                None => writeln!(
                    f,
                    "{:<11} {}: {} ticks, {} repeats, {} drops",
                    track.name, track.settings, track.ticks, track.repeats, track.drops
                )?,
            }
            let mut more = Vec::new();
            if let Some((peak, rms)) = track.level_dbfs {
                more.push(format!("level {rms:.0} dBFS, peak {peak:.0}"));
            }
            if let Some(ppm) = track.ppm {
                more.push(format!("clock {ppm:+.1} ppm"));
            }
            if track.xruns > 0 {
                more.push(format!("{} xruns", track.xruns));
            }
            if track.gaps > 0 {
                let plural = if track.gaps == 1 { "" } else { "s" };
                let seconds = track.gap_seconds;
                more.push(format!("{} gap{plural}, {seconds:.1} s in all", track.gaps));
            }
            if !more.is_empty() {
                writeln!(f, "{:<11} {}", "", more.join("; "))?;
            }
        }
        let link = match (&self.uplink.error, self.uplink.connected) {
            _ if !self.uplink.configured => "no receiver is configured",
            (_, true) => "connected",
            (Some(error), false) => error,
            (None, false) => "the receiver is away",
        };
        writeln!(
            f,
            "spool       {} bytes wait for the receiver",
            self.spool.waiting_bytes
        )?;
        if let Some(hours) = self.spool.hours_left {
            writeln!(f, "disk        room for {hours:.1} h of recording")?;
        }
        writeln!(f, "uplink      {link}")?;
        self.alarms
            .iter()
            .try_for_each(|alarm| writeln!(f, "alarm       {alarm}"))
    }
}

/// How long chunks take, the last 4096 of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Lateness {
    millis: Vec<u64>,
    next: usize,
}

impl Lateness {
    const MOST: usize = 4096;

    pub(super) fn record(&mut self, lateness: Duration) {
        let millis = u64::try_from(lateness.as_millis()).unwrap_or(u64::MAX);
        if self.millis.len() < Self::MOST {
            self.millis.push(millis);
        } else {
            self.millis[self.next] = millis;
            self.next = (self.next + 1) % Self::MOST;
        }
    }

    pub(super) fn summary(mut self) -> Option<(u64, u64, usize)> {
        self.millis.sort_unstable();
        let count = self.millis.len();
        let at = |percent: usize| {
            self.millis
                .get((count * percent).div_ceil(100).saturating_sub(1))
                .copied()
        };
        Some((at(50)?, at(99)?, count))
    }
}

/// Resident memory of this process; 0 where the kernel does not say.
pub(super) fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// CPU seconds of this process.
pub(super) fn cpu_seconds() -> f64 {
    crate::clock::process_cpu().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_a_median_and_a_tail_of_the_latest() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.clone().summary(), None);
        (0..Lateness::MOST).for_each(|_| lateness.record(Duration::from_secs(9)));
        for _ in 0..41 {
            (1..=100).for_each(|millis| lateness.record(Duration::from_millis(millis)));
        }
        // The first four of the 4100 have made room.
        assert_eq!(lateness.summary(), Some((51, 100, Lateness::MOST)));
    }
}
