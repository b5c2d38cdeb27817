//! What an earlier run left: offered again, continued or ended.

use super::Keeper;
use crate::media::{Event, Fact, Hash, LostReason, RecordingId, SegmentKey, StopReason};
use crate::spool::{self, Spool};
use crate::station::pipeline::kind_of;
use crate::station::recorder::Input as Happening;
use crate::uplink::Offer;

/// No chunk on the wire is longer.
const MOST_CHUNK: u64 = 8 << 20;

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
        let mut open: Vec<(u64, RecordingId)> = self
            .spool()
            .recordings()
            .filter(|(_, state)| !state.ended)
            .map(|(id, state)| (state.opened.map_or(0, |opened| opened.epoch), id))
            .collect();
        open.sort_unstable();
        let latest = open.pop().map(|(_, recording)| recording);
        for (_, recording) in open {
            self.end_unattended(recording, recovered);
        }
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
                // One chunk for the whole of it: only live viewers need smaller ones.
                let whole = (0 < segment.length && segment.length <= MOST_CHUNK)
                    .then_some((0, segment.length));
                let spans = if whole.is_some() {
                    Vec::new()
                } else {
                    segment.chunk_spans().collect()
                };
                for span in whole.into_iter().chain(spans) {
                    offers.push(chunk_offer(key, segment.init, span, false));
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
