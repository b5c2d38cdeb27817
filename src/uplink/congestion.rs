//! Congestion control: quinn's Cubic (RFC 9438) with a floor under what the encoders make.
//!
//! Cubic takes every lost packet for a full queue. On a link that loses one packet in a hundred for
//! other reasons it cannot carry even 4 Mbit/s, and live falls behind for good. So, beside what Cubic
//! allows, the bytes in flight may reach a floor:
//!
//! * the most of twice the encoders' bit rate over the *minimum* round trip (the present one grows
//!   with every queue, and the floor would feed what it waits for) and of the largest live chunk;
//! * but over time no more than twice what the encoders make, with headers: each live chunk that is
//!   offered pays for two and a quarter times its length, and a lost packet, up to one in eight, for
//!   itself. Live goes first, so it never waits for this; what is left carries a backfill at about the
//!   bit rate. Without live the floor is empty, and this is Cubic;
//! * none at all from persistent congestion (RFC 9002, section 7.6) on until a round trip has passed
//!   without a loss.
//!
//! Above the floor a backfill beside live gives way, as a scavenger does (RFC 6817): while the queue,
//! which is what the smoothed round trip has over the minimum one, is longer than 25 ms, Cubic's
//! window does not grow. A TCP flow fills the queue whatever it is: each loss then takes its part of
//! the window, and the floor is what stays. By itself the uplink grows until the link is full; slow
//! start, too, stops at a queue (as in RFC 9406). Without live this is Cubic, one flow like any other:
//! two of them share as chance has it for minutes (a TCP flow kept 15 to 68 % beside plain Cubic).
//!
//! The window is also what quinn's pacer spreads over a round trip, so a floor in use is paced too.

use crate::media::Monotonic;
use quinn::congestion::{
    BbrConfig, Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig,
};
use quinn_proto::RttEstimator;
use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The bit rate and the largest chunk are those of this long: a few segments, keyframes included.
const RECENT: Duration = Duration::from_secs(6);

/// What a live chunk of this length pays for: itself, as much of what comes after it, and an eighth of
/// both for headers and acknowledgements.
const fn paid_for(length: u64) -> u64 {
    length.saturating_mul(9) / 4
}

/// One byte in so many may be lost and sent again beside that.
const LOSS: u64 = 8;

/// A backfill beside live does not make a queue longer than this.
const STANDING: Duration = Duration::from_millis(25);

/// When live has offered nothing for so long there is none.
const OVER: Duration = Duration::from_secs(3);

/// The floor of an absurd track: well below the transport's send window.
const HIGHEST: u64 = 1024 * 1024;

/// Which controller; anything but the first is for comparison in tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// Cubic with the encoders' floor.
    #[default]
    Floor,
    /// quinn's Cubic.
    Cubic,
    /// quinn's BBR.
    Bbr,
}

impl Congestion {
    /// Makes the controllers of a connection.
    pub(super) fn factory(self, live: &Arc<Live>) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Floor => Arc::new(Factory(live.clone())),
            Self::Cubic => Arc::new(CubicConfig::default()),
            Self::Bbr => Arc::new(BbrConfig::default()),
        }
    }
}

/// What the encoders make: told by the driver, read by the controller.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Bytes of all live chunks so far.
    offered: AtomicU64,
    bits_per_second: AtomicU64,
    largest: AtomicU64,
}

/// Takes the measure of the live chunks.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub live: Arc<Live>,
    recent: VecDeque<(Monotonic, u64)>,
}

impl Meter {
    /// A live chunk of this length was offered while there is a connection for it.
    pub fn offered(&mut self, length: u64, now: Monotonic) {
        self.recent.push_back((now, length));
        while let Some((at, _)) = self.recent.front()
            && now.since(*at) > RECENT
        {
            self.recent.pop_front();
        }
        let began = self.recent.front().map_or(now, |(at, _)| *at);
        let span = now.since(began).max(Duration::from_secs(1));
        let bytes: u64 = self.recent.iter().map(|(_, length)| length).sum();
        let per_second = u128::from(bytes) * 8_000_000_000 / span.as_nanos();
        let largest = self.recent.iter().map(|(_, length)| *length).max();
        let live = &self.live;
        let per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
        live.bits_per_second.store(per_second, Ordering::Relaxed);
        live.largest.store(largest.unwrap_or(0), Ordering::Relaxed);
        live.offered.fetch_add(length, Ordering::Relaxed);
    }
}

/// The floor under Cubic's window.
#[derive(Clone)]
struct Floor {
    live: Arc<Live>,
    /// Of [`Live::offered`], what `credit` has in it.
    seen: u64,
    /// When it last grew.
    fed: Option<Instant>,
    /// There is live, and a queue that stands: nothing beside live may make it longer.
    gives_way: bool,
    /// Bytes that may still be sent beside what Cubic allows.
    credit: u64,
    /// Lost bytes that are paid for when they are lost.
    forgiven: u64,
    in_flight: u64,
    min_rtt: Option<Duration>,
    /// The last loss since persistent congestion, until that is over.
    persistent: Option<Instant>,
}

impl Floor {
    fn new(live: Arc<Live>) -> Self {
        Self {
            seen: live.offered.load(Ordering::Relaxed),
            live,
            fed: None,
            gives_way: false,
            credit: 0,
            forgiven: 0,
            in_flight: 0,
            min_rtt: None,
            persistent: None,
        }
    }

    fn height(&self) -> u64 {
        let (Some(rtt), None) = (self.min_rtt, self.persistent) else {
            return 0;
        };
        let bits = self.live.bits_per_second.load(Ordering::Relaxed);
        let path = 2 * u128::from(bits) * rtt.as_nanos() / 8_000_000_000;
        let path = u64::try_from(path).unwrap_or(u64::MAX);
        path.max(self.live.largest.load(Ordering::Relaxed))
            .min(HIGHEST)
    }

    fn credit_now(&self) -> u64 {
        let new = self.live.offered.load(Ordering::Relaxed) - self.seen;
        // What is not used while Cubic allows more does not pile up.
        (self.credit + paid_for(new)).min(paid_for(self.height()))
    }

    /// Bytes in flight that are allowed whatever Cubic says.
    fn window(&self) -> u64 {
        self.height().min(self.in_flight + self.credit_now())
    }

    /// `bytes` were sent while Cubic alone would have allowed `cubic` in flight.
    fn sent(&mut self, now: Instant, bytes: u64, cubic: u64) {
        self.credit = self.credit_now();
        let offered = self.live.offered.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.seen, offered) != offered {
            self.fed = Some(now);
        }
        self.in_flight += bytes;
        let beside = self.in_flight.saturating_sub(cubic).min(bytes);
        self.credit = self.credit.saturating_sub(beside);
        self.forgiven = (self.forgiven + beside / LOSS).min(self.height() / LOSS);
    }

    /// A packet sent at `sent` was acknowledged.
    fn acknowledged(&mut self, now: Instant, sent: Instant, (rtt, min_rtt): (Duration, Duration)) {
        self.min_rtt = Some(min_rtt);
        let live = |fed| now.saturating_duration_since(fed) < OVER;
        self.gives_way = self.fed.is_some_and(live) && rtt > min_rtt + STANDING;
        if self
            .persistent
            .is_some_and(|loss| sent > loss && now.saturating_duration_since(loss) >= 2 * rtt)
        {
            self.persistent = None;
        }
    }

    fn lost(&mut self, now: Instant, persistent: bool, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        if persistent || self.persistent.is_some() {
            self.persistent = Some(now);
        }
        let again = bytes.min(self.forgiven);
        self.forgiven -= again;
        self.credit += again;
    }
}

struct Factory(Arc<Live>);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Cubic::new(Arc::new(CubicConfig::default()), now, current_mtu);
        let floor = Floor::new(self.0.clone());
        Box::new(Floored { cubic, floor })
    }
}

/// Cubic on its floor.
#[derive(Clone)]
struct Floored {
    cubic: Cubic,
    floor: Floor,
}

impl Controller for Floored {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.floor.sent(now, bytes, self.cubic.window());
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.floor.acknowledged(now, sent, (rtt.get(), rtt.min()));
        // What is not used to the full does not grow (RFC 9438, section 5.8).
        let limited = app_limited || self.floor.gives_way;
        self.cubic.on_ack(now, sent, bytes, limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.floor.in_flight = in_flight;
        self.cubic
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.floor.lost(now, is_persistent_congestion, lost_bytes);
        self.cubic
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window().max(self.floor.window())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    #[allow(
        clippy::disallowed_methods,
        reason = "an instant to count from: quinn has no other type for it"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    fn quarter(n: u64) -> Monotonic {
        Monotonic::from_nanos(n * 250_000_000)
    }

    /// 4 Mbit/s: eight chunks in two seconds, the first twice as long as the others.
    fn lecture() -> (Meter, Floor) {
        let mut meter = Meter::default();
        for n in 0..24u64 {
            let length = if n % 8 == 0 { 222_222 } else { 111_111 };
            let now = quarter(n);
            meter.offered(length, now);
        }
        let mut floor = Floor::new(meter.live.clone());
        floor.acknowledged(start(), start(), (RTT, RTT));
        (meter, floor)
    }

    #[test]
    fn the_floor_is_what_the_encoders_need_and_no_more() {
        for (bits, largest, rtt_ms, expected) in [
            // Twice the bit rate over the round trip, or the largest chunk.
            (4_000_000, 10_000, 40, 40_000),
            (4_000_000, 10_000, 300, 300_000),
            (4_000_000, 120_000, 40, 120_000),
            (4_000_000, 120_000, 1, 120_000),
            // Nothing live.
            (0, 0, 40, 0),
            // Absurd.
            (u64::MAX / 2, 0, 40, HIGHEST),
            (0, u64::MAX, 40, HIGHEST),
        ] {
            let live = Live {
                offered: 0.into(),
                bits_per_second: bits.into(),
                largest: largest.into(),
            };
            let mut floor = Floor::new(Arc::new(live));
            assert_eq!(floor.height(), 0, "the round trip is not known yet");
            let rtt = Duration::from_millis(rtt_ms);
            floor.acknowledged(start(), start(), (rtt * 3, rtt));
            assert_eq!(floor.height(), expected, "{bits} {largest} {rtt_ms}");
            assert_eq!(floor.window(), 0, "nothing is offered: nothing is paid for");
        }
    }

    #[test]
    fn the_meter_counts_a_few_segments_and_forgets_what_is_older() {
        let (mut meter, _) = lecture();
        let live = meter.live.clone();
        let bits = || live.bits_per_second.load(Ordering::Relaxed) as f64 / 1e6;
        println!("{:.2} Mbit/s", bits());
        assert!((3.8..=4.6).contains(&bits()), "{}", bits());
        assert_eq!(live.largest.load(Ordering::Relaxed), 222_222);
        // The encoder was told to make less.
        for n in 24..56u64 {
            meter.offered(28_000, quarter(n));
        }
        assert!((0.85..=1.0).contains(&bits()), "{}", bits());
        assert_eq!(live.largest.load(Ordering::Relaxed), 28_000);
    }

    #[test]
    fn over_time_the_floor_carries_twice_what_the_encoders_make() {
        // Per cent lost, and what is sent, in multiples of what was offered.
        for (loss, least, most) in [(0, 2.2, 2.35), (10, 2.45, 2.65), (50, 2.5, 2.7)] {
            let share = carried(loss);
            println!("{loss} % lost: {share:.3} of what was offered is sent");
            assert!((least..=most).contains(&share), "{share}");
        }
    }

    /// Two minutes of live in which `loss` per cent are lost.
    fn carried(loss: u64) -> f64 {
        let (mut meter, mut floor) = lecture();
        let (mut sent, mut offered) = (0, 0);
        for n in 24..504u64 {
            let length = if n % 8 == 0 { 222_222 } else { 111_111 };
            meter.offered(length, quarter(n));
            offered += length;
            // Cubic allows next to nothing, a backfill takes all it gets, six round trips per chunk.
            let mut at_once = 0;
            for _ in 0..6 {
                while floor.in_flight + 1200 < floor.window() {
                    floor.sent(start(), 1200, 2400);
                    sent += 1200;
                    at_once = at_once.max(floor.in_flight);
                }
                floor.lost(start(), false, floor.in_flight * loss / 100);
                floor.in_flight = 0;
            }
            assert!(at_once <= 222_222, "never more in flight than the floor");
            assert!(at_once + 2400 > length.min(222_222), "a chunk goes at once");
        }
        sent as f64 / offered as f64
    }

    #[test]
    fn what_cubic_allows_costs_nothing_and_does_not_pile_up() {
        let (mut meter, mut floor) = lecture();
        for n in 24..264u64 {
            meter.offered(111_111, quarter(n));
            floor.sent(start(), 111_111, u64::MAX);
            floor.in_flight = 0;
        }
        assert!(floor.credit_now() <= paid_for(floor.height()));
        assert!(floor.credit_now() >= 111_111);
    }

    #[test]
    fn persistent_congestion_takes_the_floor_away_until_a_round_trip_is_clean() {
        let (mut meter, mut floor) = lecture();
        meter.offered(111_111, quarter(24));
        let begin = start();
        let at = |ms| begin + Duration::from_millis(ms);
        assert!(floor.window() > 100_000);
        // Loss by itself is no reason.
        floor.lost(at(0), false, 1200);
        assert!(floor.window() > 100_000);
        floor.lost(at(10), true, 1200);
        assert_eq!(floor.window(), 0);
        for (now, sent, back) in [
            // Sent before the loss was noticed.
            (60, 5, false),
            // Sent after it, but too early to know.
            (70, 20, false),
            (89, 40, false),
            (90, 50, true),
        ] {
            floor.acknowledged(at(now), at(sent), (RTT, RTT));
            assert_eq!(floor.window() > 0, back, "{now} {sent}");
        }
        // Another loss while it lasts begins the wait again.
        floor.lost(at(100), true, 1200);
        floor.lost(at(150), false, 1200);
        floor.acknowledged(at(190), at(149), (RTT, RTT));
        assert_eq!(floor.window(), 0);
        floor.acknowledged(at(230), at(190), (RTT, RTT));
        assert!(floor.window() > 0);
    }

    #[test]
    fn beside_live_a_window_grows_only_while_no_queue_stands() {
        let (mut meter, mut floor) = lecture();
        let begin = start();
        let at = |ms| begin + Duration::from_millis(ms);
        let standing = (RTT + STANDING * 2, RTT);
        floor.acknowledged(at(0), at(0), standing);
        assert!(!floor.gives_way, "nothing was offered");
        meter.offered(111_111, quarter(24));
        floor.sent(at(100), 1200, 2400);
        for (now, rtt, expected) in [
            (200, RTT, false),
            (200, RTT + STANDING, false),
            (200, RTT + STANDING * 2, true),
            (3000, RTT + STANDING * 2, true),
            // The lecture is over.
            (3200, RTT + STANDING * 2, false),
        ] {
            floor.acknowledged(at(now), at(now), (rtt, RTT));
            assert_eq!(floor.gives_way, expected, "{now} {rtt:?}");
        }
    }

    #[test]
    fn without_live_the_window_is_cubics_own() {
        let live = Arc::new(Live::default());
        let now = start();
        let mut ours = Congestion::Floor.factory(&live).build(now, 1452);
        let mut cubic = Congestion::Cubic.factory(&live).build(now, 1452);
        let later = |ms| now + Duration::from_millis(ms);
        for (at, persistent) in [(0, false), (50, false), (100, true)] {
            for controller in [&mut ours, &mut cubic] {
                controller.on_sent(later(at), 1452, 1);
                controller.on_congestion_event(later(at + 40), later(at), persistent, 1452);
            }
            assert_eq!(ours.window(), cubic.window());
        }
        assert_eq!(ours.window(), 2 * 1452);
    }
}
