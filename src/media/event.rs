//! The facts of a recording: what its events track is made of.

use super::{BoxId, Hash, MediaTime, TrackId, TrackInfo, WallClock};

/// One fact and when it held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The span in which it was noted.
    pub span: u32,
    /// Nanoseconds after that span's start on the monotonic clock.
    pub at_nanos: u64,
    /// The fact.
    pub event: Event,
}

/// What can be known about a recording. Kinds not known here are kept untouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The recording began.
    Started {
        /// The box that makes it.
        box_id: BoxId,
        /// Who gave the start.
        by: StartedBy,
        /// The room, as the box is configured.
        room: Option<String>,
        /// The title, where one was given.
        title: Option<String>,
    },
    /// A run of the box's process took the recording up; media time counts from here.
    Span {
        /// The box's boot epoch.
        epoch: u64,
        /// The span's start in UTC, as far as it is known.
        wall: Option<WallClock>,
        /// How long the box was away before it; none for the first span.
        gap: Option<GapLength>,
    },
    /// Where a span lies, once UTC is known: it amends the span's [`Event::Span`].
    SpanPlaced {
        /// The span concerned.
        span: u32,
        /// Its start in UTC.
        wall: WallClock,
        /// How long the box was away before it; none for the first span.
        gap: Option<GapLength>,
    },
    /// What a later run needs to go on from here; noted at the start of each span.
    Run {
        /// The boot of the machine; absent where it has no name.
        boot: Option<[u8; 16]>,
        /// The span's start in nanoseconds since that boot, suspend included.
        boot_nanos: u64,
        /// Nanoseconds recorded in the spans before.
        recorded_nanos: u64,
    },
    /// The wall clock stepped. Nothing else did: media time counts on the monotonic clock.
    ClockStepped {
        /// UTC after the step.
        wall: WallClock,
        /// By how much, in nanoseconds; negative for a step back.
        by_nanos: i64,
    },
    /// A track exists from here on, or has a new init.
    Track(TrackInfo),
    /// A stretch that the device did not deliver, filled in the track so that the timeline holds.
    Gap {
        /// The track it is in.
        track: TrackId,
        /// Where it begins on the track's timeline.
        start: MediaTime,
        /// How long it is, in units of the track's timescale.
        duration: u64,
        /// Why.
        cause: GapCause,
    },
    /// The lecturer pressed for a mark.
    Mark,
    /// The recording was paused, and the span ends here: nothing is captured until the next one.
    Paused,
    /// The recording may last longer than the box's settings say; noted anew in each span.
    Extended {
        /// So much may be recorded, in nanoseconds.
        recorded_nanos: u64,
    },
    /// A device or stage is in trouble, or is well again; the recording goes on.
    Alarm {
        /// Stable name, such as `camera-missing`.
        code: String,
        /// The track concerned.
        track: Option<TrackId>,
        /// True when it begins, false when it ends.
        raised: bool,
        /// For people: which device, what was tried, what to do.
        message: String,
    },
    /// Segments that will never come: the only legal way for data to be missing.
    Lost {
        /// The track they belong to.
        track: TrackId,
        /// The first segment missing.
        first: u64,
        /// The last segment missing.
        last: u64,
        /// Why.
        reason: LostReason,
    },
    /// The recording is over and this is all of it.
    End {
        /// Who or what ended it.
        reason: StopReason,
        /// What each track holds in total; the events track is not listed.
        tracks: Vec<TrackTotal>,
    },
    /// A kind of a later release: its number and its CBOR body.
    Other {
        /// The kind's number.
        kind: u16,
        /// The body's CBOR bytes.
        body: Vec<u8>,
    },
}

/// Who gave a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartedBy {
    /// The button on the box.
    Button,
    /// The local control socket.
    Socket,
    /// A schedule.
    Schedule,
    /// The receiver.
    Network,
}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The button on the box.
    Button,
    /// The local control socket.
    Socket,
    /// A schedule.
    Schedule,
    /// The receiver.
    Network,
    /// The longest allowed recording was reached.
    MaximumLength,
    /// The box's process was asked to end.
    Shutdown,
    /// The box was away longer than `resume_within`.
    AwayTooLong,
    /// The disk was full.
    NoSpace,
    /// The disk refused it, and when it worked again the recording could not go on.
    DiskFailed,
}

/// Why a stretch is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapCause {
    /// The device could not be opened, or vanished.
    DeviceMissing,
    /// The device delivered nothing for too long.
    DeviceStalled,
    /// Sound arrived faster than it was read (an ALSA overrun).
    Overrun,
    /// The recording was paused.
    Paused,
    /// The box was without power or its process was not running.
    BoxAway,
    /// No encoder took the pictures.
    EncoderFailed,
}

/// How long a box was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapLength {
    /// Not known until UTC is.
    Unknown,
    /// Known to within `uncertainty_nanos`.
    Known {
        /// The length.
        nanos: u64,
        /// How far off it may be.
        uncertainty_nanos: u64,
    },
}

/// Why segments are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// Damaged on the box's disk.
    Damaged,
    /// Given up for want of space.
    NoSpace,
    /// The receiver forgot what it had acknowledged and the box no longer has it.
    ReceiverForgot,
}

/// What one track holds in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackTotal {
    /// The track.
    pub track: TrackId,
    /// Number of segments: the last sequence number is one less.
    pub segments: u64,
    /// Bytes of all segments together.
    pub bytes: u64,
    /// BLAKE3 over the segments' hashes in order.
    pub root: Hash,
}
