//! How the box is, for the receiver: every two seconds, and soon when state, lamp or alarms change.

use super::Keeper;
use crate::clock;
use crate::media::health::{Alarm, Health, Level, TrackHealth};
use crate::media::{Event, Monotonic, RecordingId, Timescale, TrackId, TrackKind};
use crate::station::pipeline::kind_of;
use crate::station::status;
use crate::uplink::Offer;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often the receiver is told, and how soon again after a change.
const EVERY: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(250);

/// What a change of is told at once: the state, the lamp, and how often alarms have changed.
type Striking = (&'static str, &'static str, u64);

/// What was told, and what is counted for it.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// When the receiver was told last on this connection, and what struck then.
    told: Option<(Monotonic, Striking)>,
    gaps: Gaps,
}

/// The gaps of one recording.
#[derive(Debug, Default)]
struct Gaps {
    of: Option<RecordingId>,
    /// Units per second of each track, once it is described.
    timescales: BTreeMap<TrackId, Timescale>,
    /// How many, and nanoseconds together.
    tracks: BTreeMap<TrackId, (u64, u64)>,
}

impl Telling {
    /// The connection is another one: its receiver knows nothing yet.
    pub(super) fn forget(&mut self) {
        self.told = None;
    }

    /// Whether the receiver is to be told now.
    fn is_due(&self, striking: Striking, now: Monotonic) -> bool {
        match self.told {
            None => true,
            Some((at, before)) => {
                let wait = if striking == before { EVERY } else { AGAIN };
                now >= at.plus(wait)
            }
        }
    }
}

impl Gaps {
    /// Takes a fact of a recording whose cameras run at `pictures` units per second.
    fn note(&mut self, recording: RecordingId, event: &Event, pictures: Timescale) {
        if self.of != Some(recording) {
            *self = Self {
                of: Some(recording),
                ..Self::default()
            };
        }
        match event {
            Event::Track(info) => drop(self.timescales.insert(info.id, info.timescale)),
            Event::Gap {
                track, duration, ..
            } => {
                let otherwise = match kind_of(*track) {
                    TrackKind::Audio => Timescale::SOUND,
                    _ => pictures,
                };
                let scale = self.timescales.get(track).unwrap_or(&otherwise).get();
                let nanos = u128::from(*duration) * 1_000_000_000 / u128::from(scale);
                let (count, total) = self.tracks.entry(*track).or_default();
                *count += 1;
                *total = total.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX));
            }
            _ => {}
        }
    }
}

impl Keeper {
    /// Counts the gaps of the running recording.
    pub(super) fn count_gaps(&mut self, event: &Event) {
        if let Some(running) = &self.running {
            let (recording, rate) = (running.take.recording, running.take.rate);
            self.telling.gaps.note(recording, event, rate.timescale());
        }
    }

    /// The gaps of a track in the running recording, or in the last one: how many, and milliseconds.
    pub(super) fn gaps_of(&self, track: TrackId) -> (u64, u64) {
        let gaps = &self.telling.gaps;
        let running = self.running.as_ref().map(|running| running.take.recording);
        if running.is_some_and(|running| gaps.of != Some(running)) {
            return (0, 0);
        }
        let (count, nanos) = gaps.tracks.get(&track).copied().unwrap_or_default();
        (count, nanos / 1_000_000)
    }

    /// When the receiver is to be told at the latest.
    pub(super) fn telling_due(&self) -> Option<Monotonic> {
        let (told, _) = self.telling.told?;
        self.reachable.then(|| told.plus(AGAIN.max(EVERY)))
    }

    /// Tells the receiver how the box is, if that is due and there is one.
    pub(super) fn tell(&mut self, now: Monotonic) {
        let Some(offers) = self.parts.offers.as_ref().filter(|_| self.reachable) else {
            return;
        };
        let (state, lamp) = (self.state().0, self.lamp(now).name());
        let striking = (state, lamp, self.alarms.changes());
        if !self.telling.is_due(striking, now) {
            return;
        }
        // Where there is no room, the next report is newer.
        let _ = offers.try_send(Offer::Health(Box::new(self.health())));
        self.telling.told = Some((now, striking));
    }

    /// How things are, as the receiver is told.
    fn health(&self) -> Health {
        let now = clock::now();
        let status = self.status();
        let lanes = || self.parts.lanes.iter().map(|lane| lane.track);
        let level = |(track, seen): (TrackId, &status::Track)| {
            let (peak, rms) = seen.level_dbfs?;
            let (peak, rms) = (hundredths(peak), hundredths(rms));
            Some(Level { track, peak, rms })
        };
        let alarms = self.alarms.standing().map(|(code, track, message, since)| {
            let seconds = Some(now.since(since).as_secs());
            let (code, message) = (code.to_owned(), message.to_owned());
            Alarm {
                code,
                track,
                message,
                seconds,
            }
        });
        Health {
            recording: self.state().1.map(|(recording, _)| recording),
            levels: lanes().zip(&status.tracks).filter_map(level).collect(),
            alarms: alarms.collect(),
            waiting_bytes: Some(status.spool.waiting_bytes),
            seconds_left: (self.room.and_then(|room| room.left())).map(|left| left.as_secs()),
            state: status.state,
            lamp: status.lamp,
            recording_seconds: status.recording.map(|recording| recording.seconds),
            tracks: lanes()
                .zip(status.tracks)
                .map(|(track, seen)| track_health(track, seen))
                .collect(),
            spool_level: status.spool.level,
            sync_p99_ms: status.spool.sync_ms.map(|(_, p99, _)| p99),
            offers_waiting: status.uplink.offers_waiting,
            software: concat!("hallcast ", env!("CARGO_PKG_VERSION")).into(),
            resident_bytes: status.resident_bytes,
        }
    }
}

fn track_health(track: TrackId, seen: status::Track) -> TrackHealth {
    TrackHealth {
        track,
        name: seen.name,
        open: seen.open,
        ticks: seen.ticks,
        repeats: seen.repeats_by,
        drops: seen.drops_by,
        gaps: seen.gaps,
        gap_ms: (seen.gap_seconds * 1000.0) as u64,
        lateness: seen.tick_lateness,
        ppm: seen.ppm.map(hundredths),
        xruns: seen.xruns,
        silence: seen.silence,
        ring_waiting: seen.ring_waiting,
        ring_dropped: seen.dropped,
        device_lost: seen.lost,
        keeper_waits: seen.keeper_waits,
    }
}

/// A figure in hundredths; what is beyond an `i32` stays at its end.
fn hundredths(figure: f64) -> i32 {
    (figure * 100.0).round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Codec, GapCause, Hash, MediaTime, TrackInfo};

    fn gap(track: u8, duration: u64) -> Event {
        Event::Gap {
            track: TrackId(track),
            start: MediaTime::ZERO,
            duration,
            cause: GapCause::DeviceMissing,
        }
    }

    #[test]
    fn gaps_are_counted_per_track_and_recording_whatever_their_timescale() {
        let (one, two) = (RecordingId([1; 16]), RecordingId([2; 16]));
        let mut gaps = Gaps::default();
        gaps.note(one, &gap(1, 180_000), Timescale::VIDEO);
        gaps.note(one, &gap(1, 45_000), Timescale::VIDEO);
        gaps.note(one, &gap(3, 48_000), Timescale::VIDEO);
        assert_eq!(gaps.tracks[&TrackId(1)], (2, 2_500_000_000));
        assert_eq!(gaps.tracks[&TrackId(3)], (1, 1_000_000_000));
        gaps.note(two, &Event::Mark, Timescale::VIDEO);
        assert!(gaps.tracks.is_empty());
        // A track that was described counts in its own units.
        let described = TrackInfo {
            id: TrackId(1),
            name: "presenter".into(),
            kind: TrackKind::Audio,
            codec: Codec::AacLc {
                sample_rate: 48_000,
                channels: 2,
            },
            codec_tag: String::new(),
            timescale: Timescale::SOUND,
            bit_rate: 0,
            init: Hash([0; 32]),
            language: None,
            alternate_of: None,
        };
        gaps.note(two, &Event::Track(described), Timescale::VIDEO);
        gaps.note(two, &gap(1, 24_000), Timescale::VIDEO);
        assert_eq!(gaps.tracks[&TrackId(1)], (1, 500_000_000));
    }

    #[test]
    fn a_change_is_told_soon_and_never_more_than_four_times_a_second() {
        let at = |ms| Monotonic::default().plus(Duration::from_millis(ms));
        let mut telling = Telling::default();
        let (quiet, loud) = (("idle", "off", 0), ("idle", "off", 1));
        assert!(telling.is_due(quiet, at(0)));
        telling.told = Some((at(0), quiet));
        assert!(!telling.is_due(quiet, at(1999)) && telling.is_due(quiet, at(2000)));
        assert!(!telling.is_due(loud, at(249)) && telling.is_due(loud, at(250)));
        telling.forget();
        assert!(telling.is_due(quiet, at(1)));
    }
}
