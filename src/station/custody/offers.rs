//! What the spool holds, as offers.

use crate::media::{Hash, RecordingId, SegmentKey};
use crate::spool::{SegmentState, Spool};
use crate::station::pipeline::kind_of;
use crate::uplink::Offer;

/// Bytes of an old segment offered at once: what is not RECEIVED stays within the bound that protects
/// live.
const PIECE: usize = 256 << 10;

/// What the spool holds of the recordings that are `meant`, by name; and where what the receiver lacks begins on each track. A greeting
/// names the recordings that are not whole, oldest first, then the whole ones, newest first, some at a
/// time: a receiver that was restored from an older copy says what it misses.
pub(super) fn backlog(
    spool: &Spool,
    meant: impl Fn(RecordingId) -> bool,
) -> (Vec<Offer>, Vec<SegmentKey>) {
    let all = spool.recordings();
    let mut recordings: Vec<_> = all.filter(|(id, _)| meant(*id)).collect();
    // Ids are random; the epoch and the span's clock tell the age.
    recordings.sort_by_key(|(_, state)| {
        let opened = state.opened.map(|opened| (opened.epoch, opened.wall_nanos));
        (state.complete, opened)
    });
    let (mut offers, mut marks) = (Vec::new(), Vec::new());
    for (recording, state) in recordings {
        for (&track, held) in &state.tracks {
            offers.push(Offer::Track {
                recording,
                track,
                durable: held.acknowledged.clone(),
                end: state.next_sequence(track),
            });
            let first = held.waiting().next().filter(|_| !state.complete);
            marks.extend(first.map(|(sequence, _)| SegmentKey {
                recording,
                track,
                sequence,
            }));
        }
        if state.complete {
            offers.push(Offer::Whole { recording });
        }
    }
    (offers, marks)
}

/// A segment as far as it is written: its bytes in pieces, then its seal, once that is kept.
pub(super) fn segment_offers(key: SegmentKey, segment: &SegmentState, live: bool) -> Vec<Offer> {
    let mut offers = Vec::new();
    for offset in (0..segment.length).step_by(PIECE) {
        let length = (segment.length - offset).min(PIECE as u64);
        offers.push(chunk_offer(key, segment.init, (offset, length), live));
    }
    if let Some((length, hash)) = segment.seal.filter(|_| segment.seal_kept) {
        offers.push(Offer::Sealed { key, length, hash });
    }
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
