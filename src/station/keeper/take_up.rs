//! What an earlier run left: offered again, continued or ended.

use super::Keeper;
use crate::clock;
use crate::media::{Event, Fact, Hash, LostReason, RecordingId, SegmentKey, StopReason};
use crate::spool::{self, Spool};
use crate::station::pipeline::kind_of;
use crate::station::recorder::Input as Happening;
use crate::uplink::Offer;

/// A recording goes on after a restart if the box was away for no longer: 10 minutes.
const RESUME_WITHIN_NANOS: i64 = 600 * 1_000_000_000;
/// Bytes of an old segment offered at once.
const PIECE: usize = 256 << 10;

impl Keeper {
    /// What an earlier run left: everything that the receiver lacks is offered again; of the
    /// recordings without an end, the latest is taken up and the others are ended.
    pub(super) fn take_up(&mut self, recovered: &[spool::Recovered]) {
        for found in recovered {
            if found.damaged_bytes > 0 {
                log::error!(
                    "recording {}: {} bytes of the spool are damaged",
                    found.recording,
                    found.damaged_bytes
                );
            }
        }
        let offers = backlog(&self.spool());
        offers.into_iter().for_each(|offer| self.offer(offer));
        let mut open: Vec<((u64, i64), RecordingId)> = self
            .spool()
            .recordings()
            .filter(|(_, state)| !state.ended)
            // Without this record nobody was ever told that it had begun.
            .filter_map(|(id, state)| {
                state
                    .opened
                    .map(|opened| ((opened.epoch, opened.wall_nanos), id))
            })
            .collect();
        open.sort_unstable();
        let wall = clock::wall().unix_nanos;
        let latest = open.pop_if(|(_, recording)| !away_too_long(recovered, *recording, wall));
        for (_, recording) in open {
            log::info!("recording {recording} is over: the box was away for too long");
            self.end_unattended(recording, recovered);
        }
        let latest = latest.map(|(_, recording)| recording);
        if let Some(recording) = latest {
            let _ = self.happen(Happening::Resume(recording));
            lost_facts(recovered, recording)
                .into_iter()
                .for_each(|event| self.note(event));
        }
    }

    /// Ends a recording that nobody will take up.
    fn end_unattended(&mut self, recording: RecordingId, recovered: &[spool::Recovered]) {
        let state = self
            .spool()
            .state(recording)
            .map(|state| (state.opened.map_or(0, |opened| opened.span), state.totals()));
        let Some((span, tracks)) = state else { return };
        let mut events = lost_facts(recovered, recording);
        events.push(Event::End {
            reason: StopReason::AwayTooLong,
            tracks,
        });
        let facts: Vec<Fact> = events
            .into_iter()
            .map(|event| Fact {
                span,
                at_nanos: 0,
                event,
            })
            .collect();
        if let Err(error) = self.write_events(recording, span, &facts, true) {
            self.fault(&error);
        }
    }
}

/// Whether the box was away longer than a recording survives. A clock that says that the last write
/// lies ahead was not set yet: nothing is known then, and the recording goes on.
fn away_too_long(recovered: &[spool::Recovered], recording: RecordingId, wall: i64) -> bool {
    let found = recovered.iter().find(|found| found.recording == recording);
    let written = found.and_then(|found| found.written_nanos);
    written.is_some_and(|written| wall.saturating_sub(written) > RESUME_WITHIN_NANOS)
}

/// What recovery could not find, as the facts that say so.
fn lost_facts(recovered: &[spool::Recovered], recording: RecordingId) -> Vec<Event> {
    let lost = recovered
        .iter()
        .filter(|found| found.recording == recording)
        .flat_map(|found| &found.lost);
    let reason = LostReason::Damaged;
    lost.map(|&(track, first, last)| Event::Lost {
        track,
        first,
        last,
        reason,
    })
    .collect()
}

/// Everything in the spool that the receiver does not hold, oldest first.
fn backlog(spool: &Spool) -> Vec<Offer> {
    let mut offers = Vec::new();
    for (recording, state) in spool.recordings().filter(|(_, state)| !state.complete) {
        for (&track, held) in &state.tracks {
            offers.push(Offer::Track {
                recording,
                track,
                durable: held.acknowledged.clone(),
                end: state.next_sequence(track),
            });
            let missing = held
                .segments
                .iter()
                .filter(|(sequence, _)| !held.acknowledged.contains(**sequence));
            for (&sequence, segment) in missing {
                let key = SegmentKey {
                    recording,
                    track,
                    sequence,
                };
                // In pieces, so that what is not RECEIVED stays within the bound that protects live.
                for offset in (0..segment.length).step_by(PIECE) {
                    let length = (segment.length - offset).min(PIECE as u64);
                    offers.push(chunk_offer(key, segment.init, (offset, length), false));
                }
                if let Some((length, hash)) = segment.seal.filter(|_| segment.seal_kept) {
                    offers.push(Offer::Sealed { key, length, hash });
                }
            }
        }
    }
    offers.push(Offer::Ready);
    offers
}

pub(super) fn chunk_offer(
    key: SegmentKey,
    init: Option<Hash>,
    (offset, length): (u64, u64),
    live: bool,
) -> Offer {
    let kind = kind_of(key.track);
    // A record of the spool is far below 4 GiB.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    Offer::Chunk {
        key,
        kind,
        init,
        offset,
        length,
        live,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_outlives_ten_minutes_and_an_unset_clock() {
        let minute = 60 * 1_000_000_000;
        let found = |written_nanos| spool::Recovered {
            recording: RecordingId([1; 16]),
            ended: false,
            damaged_bytes: 0,
            torn_bytes: 0,
            written_nanos,
            lost: Vec::new(),
            problems: Vec::new(),
        };
        for (written, wall, over) in [
            (Some(100 * minute), 110 * minute, false),
            (Some(100 * minute), 110 * minute + 1, true),
            (Some(100 * minute), 0, false),
            (None, 110 * minute, false),
        ] {
            assert_eq!(
                away_too_long(&[found(written)], RecordingId([1; 16]), wall),
                over,
                "{written:?} {wall}"
            );
        }
    }
}
