//! One segment on its way.

use crate::media::{Hash, Monotonic, SegmentKey, TrackKind};
use crate::uplink::backoff::Backoff;
use std::time::Duration;

/// What goes first. The order of the variants is the order on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Sound and facts being recorded now.
    LiveSound,
    /// Pictures being recorded now.
    LivePicture,
    /// Recorded a moment ago and not RECEIVED in time: no longer worth delaying what is live.
    Late,
    /// Everything else.
    Backfill,
}

impl Urgency {
    /// The stream's priority; the control stream has 100.
    pub fn priority(self) -> i32 {
        match self {
            Self::LiveSound => 30,
            Self::LivePicture => 20,
            Self::Late => 10,
            Self::Backfill => 0,
        }
    }

    /// Counts against the bound on bytes sent but not RECEIVED.
    pub fn is_bulk(self) -> bool {
        self >= Self::Late
    }
}

/// How far a segment is on the present connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No stream yet.
    Idle,
    /// Its stream is open.
    Open,
    /// The trailer is being written.
    Finishing,
    /// All of it is sent; DURABLE is awaited.
    Finished,
    /// The receiver stopped its stream; a new one may be opened then.
    Parked(Monotonic),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub length: u32,
    pub offered: Monotonic,
}

#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Counts offers: what came first is the oldest.
    pub order: u64,
    pub init: Option<Hash>,
    pub urgency: Urgency,
    pub pieces: Vec<Piece>,
    pub seal: Option<(u64, Hash)>,
    pub phase: Phase,
    /// A command for its stream is under way.
    pub busy: bool,
    /// The next piece to send and where it begins: also how many bytes were sent.
    pub next: usize,
    pub sent: u64,
    pub received: u64,
    /// The first piece not RECEIVED in full and where it ends.
    first_missing: usize,
    missing_end: u64,
    /// The most ever sent, over all connections.
    pub high: u64,
    pub backoff: Option<Box<Backoff>>,
}

impl Segment {
    pub fn new(order: u64, init: Option<Hash>, kind: TrackKind, live: bool) -> Self {
        let urgency = match (live, kind) {
            (false, _) => Urgency::Backfill,
            (true, TrackKind::Video) => Urgency::LivePicture,
            (true, _) => Urgency::LiveSound,
        };
        Self {
            order,
            init,
            urgency,
            pieces: Vec::new(),
            seal: None,
            phase: Phase::Idle,
            busy: false,
            next: 0,
            sent: 0,
            received: 0,
            first_missing: 0,
            missing_end: 0,
            high: 0,
            backoff: None,
        }
    }

    /// How long to wait after its stream was stopped once more.
    pub fn next_delay(&mut self) -> Duration {
        let new = || {
            Box::new(Backoff::new(
                Duration::from_secs(1),
                Duration::from_secs(60),
            ))
        };
        self.backoff.get_or_insert_with(new).next(u32::MAX)
    }

    /// Bytes offered so far.
    pub fn length(&self) -> u64 {
        self.pieces
            .iter()
            .map(|piece| u64::from(piece.length))
            .sum()
    }

    pub fn push(&mut self, length: u32, now: Monotonic) {
        if self.first_missing == self.pieces.len() {
            self.missing_end += u64::from(length);
        }
        self.pieces.push(Piece {
            length,
            offered: now,
        });
    }

    pub fn mark_received(&mut self, offset: u64) {
        self.received = self.received.max(offset);
        while self.first_missing < self.pieces.len() && self.missing_end <= self.received {
            self.first_missing += 1;
            if let Some(piece) = self.pieces.get(self.first_missing) {
                self.missing_end += u64::from(piece.length);
            }
        }
    }

    /// When the oldest piece that was not RECEIVED was offered.
    pub fn waiting_since(&self) -> Option<Monotonic> {
        self.pieces
            .get(self.first_missing)
            .map(|piece| piece.offered)
    }

    /// Bytes sent of which nobody knows whether they arrived.
    pub fn in_flight(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    pub fn has_stream(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Finishing)
    }

    /// Whether there is anything to do for it now.
    pub fn has_work(&self) -> bool {
        !self.busy
            && match self.phase {
                Phase::Idle => !self.pieces.is_empty(),
                Phase::Open => self.next < self.pieces.len() || self.seal.is_some(),
                _ => false,
            }
    }

    /// Back to its first byte: what was sent or RECEIVED means nothing any more.
    pub fn restart(&mut self) {
        self.phase = Phase::Idle;
        self.busy = false;
        self.next = 0;
        self.sent = 0;
        self.received = 0;
        self.first_missing = 0;
        self.missing_end = self
            .pieces
            .first()
            .map_or(0, |piece| u64::from(piece.length));
    }
}

/// Its place in a queue: most urgent first, then oldest.
pub(super) type Place = (Urgency, u64, SegmentKey);
