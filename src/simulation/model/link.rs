//! The transport of one connection as the box sees it: streams with priorities over one narrow link
//! that delays, reorders between streams, stalls and breaks.

use super::Time;
use crate::media::SegmentKey;
use crate::simulation::random::Random;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The control stream's number.
pub(super) const CONTROL: u64 = 0;
/// What the transport takes before it says that it is full.
const WINDOW: usize = 6_000;

/// What the network of a schedule is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub delay: Duration,
    pub loss_per_million: u32,
    pub bits_per_second: u64,
    /// The longest that the receiver's store takes for a put.
    pub slowest_put: Time,
}

impl Weather {
    pub fn of(random: &mut Random) -> Self {
        Self {
            delay: random.millis(5, 300),
            loss_per_million: random.between(0, 50_000) as u32,
            bits_per_second: [200_000, 1_000_000, 8_000_000][random.between(0, 2) as usize],
            slowest_put: [200_000_000, 200_000_000, 6_000_000_000][random.between(0, 2) as usize],
        }
    }

    /// When what is sent at `now` arrives: a loss costs another journey there and back.
    pub fn arrival(&self, now: Time, random: &mut Random) -> Time {
        let mut at = now + self.delay.as_nanos() as Time;
        at += random.between(0, self.delay.as_nanos() as Time / 4);
        while random.per_million(self.loss_per_million) {
            at += 3 * self.delay.as_nanos() as Time;
        }
        at
    }
}

#[derive(Default)]
struct Out {
    key: Option<SegmentKey>,
    priority: i32,
    waiting: VecDeque<u8>,
    fin: bool,
    /// Nothing of the stream arrives earlier than what went before it.
    last: Time,
}

/// Bytes under way on one stream.
pub(super) struct Burst {
    pub stream: u64,
    pub bytes: Vec<u8>,
    pub fin: bool,
    pub at: Time,
    /// When the link is free again.
    pub free: Time,
}

/// See the module.
pub(super) struct Pipe {
    pub id: u64,
    streams: BTreeMap<u64, Out>,
    by_key: BTreeMap<SegmentKey, u64>,
    opened: u64,
    buffered: usize,
    /// Writes not yet taken, in order.
    untaken: VecDeque<SegmentKey>,
    pub busy: bool,
}

impl Pipe {
    pub fn new(id: u64) -> Self {
        let control = Out {
            priority: 100,
            ..Out::default()
        };
        Self {
            id,
            streams: BTreeMap::from([(CONTROL, control)]),
            by_key: BTreeMap::new(),
            opened: 0,
            buffered: 0,
            untaken: VecDeque::new(),
            busy: false,
        }
    }

    pub fn open(&mut self, key: Option<SegmentKey>, priority: i32) -> u64 {
        self.opened += 1;
        let out = Out {
            key,
            priority,
            ..Out::default()
        };
        self.streams.insert(self.opened, out);
        if let Some(key) = key {
            self.by_key.insert(key, self.opened);
        }
        self.opened
    }

    pub fn stream_of(&self, key: SegmentKey) -> Option<u64> {
        self.by_key.get(&key).copied()
    }

    pub fn write(&mut self, stream: u64, bytes: &[u8], fin: bool) {
        if let Some(out) = self.streams.get_mut(&stream) {
            out.waiting.extend(bytes);
            out.fin |= fin;
            self.buffered += bytes.len();
        }
    }

    /// A write of the segment waits to be taken.
    pub fn await_taken(&mut self, key: SegmentKey) {
        self.untaken.push_back(key);
    }

    /// Writes that the transport has room for by now.
    pub fn taken(&mut self) -> Option<SegmentKey> {
        (self.buffered <= WINDOW).then(|| self.untaken.pop_front())?
    }

    pub fn set_priority(&mut self, key: SegmentKey, priority: i32) {
        let stream = self.by_key.get(&key);
        if let Some(out) = stream.and_then(|stream| self.streams.get_mut(stream)) {
            out.priority = priority;
        }
    }

    pub fn priority(&self, key: SegmentKey) -> i32 {
        let stream = self.by_key.get(&key);
        let out = stream.and_then(|stream| self.streams.get(stream));
        out.map_or(0, |out| out.priority)
    }

    /// Gives a segment's stream up; its number, if it was open.
    pub fn reset(&mut self, key: SegmentKey) -> Option<u64> {
        let stream = self.by_key.remove(&key)?;
        self.untaken.retain(|untaken| *untaken != key);
        let out = self.streams.remove(&stream)?;
        self.buffered -= out.waiting.len();
        Some(stream)
    }

    /// The next bytes that the link takes: of the most urgent stream that has any.
    pub fn burst(&mut self, now: Time, weather: &Weather, random: &mut Random) -> Option<Burst> {
        let ready = self
            .streams
            .iter()
            .filter(|(_, out)| !out.waiting.is_empty() || out.fin);
        let (&stream, _) = ready.max_by_key(|(id, out)| (out.priority, u64::MAX - **id))?;
        let out = self.streams.get_mut(&stream)?;
        let length = out.waiting.len().min(random.between(1, 1500) as usize);
        let bytes: Vec<u8> = out.waiting.drain(..length).collect();
        self.buffered -= length;
        let fin = out.fin && out.waiting.is_empty();
        out.last = weather.arrival(now, random).max(out.last);
        let at = out.last;
        if fin {
            let key = out.key;
            self.streams.remove(&stream);
            if let Some(key) = key
                && self.by_key.get(&key) == Some(&stream)
            {
                self.by_key.remove(&key);
            }
        }
        let nanos = (length as u64 + 40) * 8 * 1_000_000_000 / weather.bits_per_second;
        Some(Burst {
            stream,
            bytes,
            fin,
            at,
            free: now + nanos,
        })
    }
}
