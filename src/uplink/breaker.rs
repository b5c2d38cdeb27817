//! The circuit breaker: when the link stays too poor for live, make less of it.
//!
//! Pure: takes a [`Sample`] about every half second while there is a connection, and says when the
//! step changes. Step 0 is the track's full bit rate; each step up to [`SPOOL_ONLY`] is one rung of
//! the station's ladder; at `SPOOL_ONLY` nothing is sent as live any more: what is recorded waits in
//! the spool and goes as backfill, as far as Cubic alone lets it.
//!
//! A link is bad when live is behind or much is lost, good when neither is near; between the two
//! nothing changes. Going up needs a good link for a while; when a step up is taken back soon, that
//! while doubles. After a step only what is offered once the encoders follow counts: what waits from
//! before goes after it, and says nothing about the step. An outage is no sample: making less does not
//! bring a link back.

use crate::media::{Monotonic, RecordingId, SegmentKey};
use crate::uplink::{Offer, Report};
use std::collections::VecDeque;
use std::time::Duration;

/// The last step: live is not sent.
pub const SPOOL_ONLY: u8 = 5;

/// The bounds of the breaker.
#[derive(Clone, Debug)]
pub struct Config {
    /// Live that the receiver does not have after this long is behind.
    pub behind: Duration,
    /// Live that is behind no more than this is well.
    pub in_time: Duration,
    /// Packets lost of a hundred: at least so many are bad.
    pub lossy: u64,
    /// Packets lost of a hundred: fewer are well.
    pub clean: u64,
    /// A link that is bad for so long means a step down.
    pub down_after: Duration,
    /// A step takes so long to be felt: the encoder follows at the next keyframe, and a queue drains.
    pub settle: Duration,
    /// A link that is good for so long means a step up, at first and at most.
    pub up_after: (Duration, Duration),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            behind: Duration::from_millis(1500),
            in_time: Duration::from_millis(600),
            lossy: 15,
            clean: 6,
            down_after: Duration::from_secs(5),
            settle: Duration::from_secs(6),
            up_after: (Duration::from_secs(20), Duration::from_secs(320)),
        }
    }
}

/// How the link is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// How long the oldest live chunk that the receiver does not have has been waiting.
    pub behind: Duration,
    /// Packets sent since the last sample.
    pub sent: u64,
    /// Packets found lost since the last sample.
    pub lost: u64,
}

/// The breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    config: Config,
    step: u8,
    /// The link has been bad, or good, since then.
    bad: Option<Monotonic>,
    good: Option<Monotonic>,
    changed: Option<Monotonic>,
    /// The last change was a step up.
    raised: bool,
    /// How long the link must be good before the next step up.
    patience: Duration,
    /// Sent and lost of late: one sample holds too few packets to judge by.
    recent: (u64, u64),
}

impl Breaker {
    /// A breaker at full rate.
    pub fn new(config: Config) -> Self {
        Self {
            patience: config.up_after.0,
            config,
            step: 0,
            bad: None,
            good: None,
            changed: None,
            raised: false,
            recent: (0, 0),
        }
    }

    /// The step in force.
    pub fn step(&self) -> u8 {
        self.step
    }

    /// Judges the link; the step when it changes.
    pub fn sample(&mut self, now: Monotonic, sample: &Sample) -> Option<u8> {
        // Each sample counts for three quarters of the one after it: about two seconds of packets.
        let (sent, lost) = &mut self.recent;
        (*sent, *lost) = (*sent * 3 / 4 + sample.sent, *lost * 3 / 4 + sample.lost);
        // A few packets say nothing.
        let loss = match *sent {
            0..50 => 0,
            sent => *lost * 100 / sent,
        };
        let Config {
            behind,
            in_time,
            lossy,
            clean,
            ..
        } = self.config;
        if sample.behind >= behind || loss >= lossy {
            self.good = None;
            let since = *self.bad.get_or_insert(now);
            self.step_down(now, since)
        } else if sample.behind <= in_time && loss < clean {
            self.bad = None;
            let since = *self.good.get_or_insert(now);
            self.step_up(now, since)
        } else {
            (self.bad, self.good) = (None, None);
            None
        }
    }

    /// The connection is gone; the step stays.
    pub fn disconnected(&mut self) {
        (self.bad, self.good, self.recent) = (None, None, (0, 0));
    }

    fn step_down(&mut self, now: Monotonic, since: Monotonic) -> Option<u8> {
        let settled = |at: Monotonic| now.since(at) >= self.config.settle;
        if now.since(since) < self.config.down_after
            || !self.changed.is_none_or(settled)
            || self.step >= SPOOL_ONLY
        {
            return None;
        }
        let hasty = |at: Monotonic| self.raised && now.since(at) <= self.config.up_after.1;
        if self.changed.is_some_and(hasty) {
            self.patience = (self.patience * 2).min(self.config.up_after.1);
        }
        self.raised = false;
        self.step += 1;
        self.change(now)
    }

    fn step_up(&mut self, now: Monotonic, since: Monotonic) -> Option<u8> {
        let good = now.since(since);
        if self.step == 0 && good >= self.config.up_after.1 {
            self.patience = self.config.up_after.0;
        }
        if self.step == 0 || good < self.patience {
            return None;
        }
        self.raised = true;
        self.step -= 1;
        self.change(now)
    }

    fn change(&mut self, now: Monotonic) -> Option<u8> {
        // What was good or bad at the step before says nothing about this one.
        (self.changed, self.bad, self.good) = (Some(now), None, None);
        Some(self.step)
    }
}

/// Live chunks on their way, to see how far live is behind.
#[derive(Clone, Debug, Default)]
pub struct Travelling(VecDeque<(SegmentKey, u64, Monotonic)>);

impl Travelling {
    /// More than this is behind in any case.
    const MOST: usize = 1024;

    /// A live chunk of `key` that ends at `end` is to be sent.
    pub fn offered(&mut self, key: SegmentKey, end: u64, now: Monotonic) {
        if self.0.len() < Self::MOST {
            self.0.push_back((key, end, now));
        }
    }

    /// What the receiver said.
    pub fn reported(&mut self, report: &Report) {
        match report {
            Report::Received { key, offset } => {
                self.0.retain(|(of, end, _)| of != key || end > offset);
            }
            Report::Durable {
                recording,
                track,
                durable,
            } => self.0.retain(|(of, ..)| {
                (of.recording, of.track) != (*recording, *track) || !durable.contains(of.sequence)
            }),
            Report::Unreadable { key, .. } => self.0.retain(|(of, ..)| of != key),
            Report::Refused { key, .. } => self.forget(key.recording),
            Report::Erase { recording } | Report::Ahead { recording, .. } => {
                self.forget(*recording);
            }
            Report::Disconnected { .. } => self.0.clear(),
            _ => {}
        }
    }

    /// What the station will never have sent any more.
    pub fn withdrawn(&mut self, offer: &Offer) {
        match offer {
            Offer::Lost { lost, .. } => self.0.retain(|(of, ..)| {
                (of.recording, of.track) != (lost.recording, lost.track)
                    || !(lost.first..=lost.last).contains(&of.sequence)
            }),
            Offer::Forget { recording } | Offer::Erased { recording } => self.forget(*recording),
            _ => {}
        }
    }

    fn forget(&mut self, recording: RecordingId) {
        self.0.retain(|(of, ..)| of.recording != recording);
    }

    /// How long the oldest has been waiting.
    pub fn behind(&self, now: Monotonic) -> Duration {
        self.0
            .front()
            .map_or(Duration::ZERO, |(.., at)| now.since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{LostReason, TrackId};
    use crate::wire::Sequences;
    use crate::wire::message::Lost;

    const GOOD: Sample = Sample {
        behind: Duration::from_millis(80),
        sent: 200,
        lost: 2,
    };
    const BEHIND: Sample = Sample {
        behind: Duration::from_secs(3),
        ..GOOD
    };
    const LOSSY: Sample = Sample { lost: 60, ..GOOD };
    const BETWEEN: Sample = Sample {
        behind: Duration::from_secs(1),
        ..GOOD
    };

    /// Runs phases of so many seconds each; gives every change with its second.
    fn run(phases: &[(u64, Sample)]) -> Vec<(u64, u8)> {
        let mut breaker = Breaker::new(Config::default());
        let (mut at, mut changes) = (0, Vec::new());
        for (seconds, sample) in phases {
            for _ in 0..seconds * 2 {
                let now = Monotonic::from_nanos(at * 500_000_000);
                changes.extend(breaker.sample(now, sample).map(|step| (at / 2, step)));
                at += 1;
            }
        }
        changes
    }

    #[test]
    fn a_table_of_links() {
        type Case = (&'static str, &'static [(u64, Sample)], &'static [(u64, u8)]);
        let cases: [Case; 8] = [
            ("good", &[(600, GOOD)], &[]),
            ("neither", &[(600, BETWEEN)], &[]),
            (
                "a short trouble",
                &[(10, GOOD), (4, BEHIND), (10, GOOD)],
                &[],
            ),
            (
                "live falls behind: step by step, then nothing is sent live",
                &[(60, BEHIND)],
                &[(5, 1), (11, 2), (17, 3), (23, 4), (29, 5)],
            ),
            ("loss by itself", &[(14, LOSSY)], &[(5, 1), (11, 2)]),
            (
                "a trouble that passes: down one, and up again",
                &[(8, BEHIND), (60, GOOD)],
                &[(5, 1), (28, 0)],
            ),
            (
                "in and out of trouble: nothing is steady enough",
                &[(4, BEHIND), (4, BETWEEN), (4, BEHIND), (4, BETWEEN)],
                &[],
            ),
            (
                "idle after trouble: a few packets say nothing",
                &[
                    (8, BEHIND),
                    (
                        30,
                        Sample {
                            behind: Duration::ZERO,
                            sent: 2,
                            lost: 1,
                        },
                    ),
                ],
                &[(5, 1), (33, 0)],
            ),
        ];
        for (name, phases, expected) in cases {
            assert_eq!(run(phases), expected, "{name}");
        }
    }

    /// A link that carries three quarters of the rate, for an hour.
    #[test]
    fn a_step_up_that_fails_is_tried_less_and_less_often() {
        let mut breaker = Breaker::new(Config::default());
        let (mut ups, mut low) = (Vec::new(), 0);
        for at in 0..7200u64 {
            let sample = if breaker.step() == 0 { BEHIND } else { GOOD };
            low += u64::from(breaker.step() > 0);
            if breaker.sample(Monotonic::from_nanos(at * 500_000_000), &sample) == Some(0) {
                ups.push(at / 2);
            }
        }
        let waits: Vec<u64> = ups.windows(2).map(|pair| pair[1] - pair[0]).collect();
        println!(
            "tries after {waits:?} s, {:.1} % of the hour below",
            low as f64 / 72.0
        );
        assert!(waits[..4].is_sorted(), "{waits:?}");
        assert!(*waits.last().unwrap() >= 300, "{waits:?}");
        assert!(low > 7000, "of 7200 half seconds");
    }

    #[test]
    fn what_is_lost_at_times_is_judged_over_seconds() {
        let mut breaker = Breaker::new(Config::default());
        // One burst in ten seconds, 20 % of its half second: 2 % over all.
        for at in 0..2000u64 {
            let sample = if at % 20 == 0 { LOSSY } else { GOOD };
            let changed = breaker.sample(Monotonic::from_nanos(at * 500_000_000), &sample);
            assert_eq!(changed, None);
        }
    }

    #[test]
    fn an_outage_changes_nothing() {
        let mut breaker = Breaker::new(Config::default());
        let at = |half: u64| Monotonic::from_nanos(half * 500_000_000);
        for n in 0..9 {
            assert_eq!(breaker.sample(at(n), &BEHIND), None);
        }
        breaker.disconnected();
        assert_eq!(breaker.sample(at(7200), &BEHIND), None, "begins anew");
        assert_eq!(breaker.step(), 0);
    }

    #[test]
    fn live_is_behind_until_the_receiver_has_it() {
        let key = |track, sequence| SegmentKey {
            recording: RecordingId([1; 16]),
            track: TrackId(track),
            sequence,
        };
        let at = |ms: u64| Monotonic::from_nanos(ms * 1_000_000);
        let mut travelling = Travelling::default();
        let behind = |travelling: &Travelling, ms| travelling.behind(at(ms)).as_millis();
        assert_eq!(behind(&travelling, 100), 0);
        travelling.offered(key(1, 0), 100, at(0));
        travelling.offered(key(1, 0), 200, at(250));
        travelling.offered(key(3, 4), 50, at(300));
        assert_eq!(behind(&travelling, 400), 400);
        let received = |key, offset| Report::Received { key, offset };
        travelling.reported(&received(key(1, 0), 150));
        assert_eq!(behind(&travelling, 400), 150);
        travelling.reported(&Report::Durable {
            recording: RecordingId([1; 16]),
            track: TrackId(1),
            durable: Sequences::below(1),
        });
        assert_eq!(behind(&travelling, 400), 100);
        travelling.reported(&Report::Unreadable {
            key: key(3, 4),
            damaged: true,
            text: String::new(),
        });
        assert_eq!(behind(&travelling, 400), 0);
        // Segments 5 to 7 of one track are given up; then the whole recording is, in each way.
        let recording = RecordingId([1; 16]);
        let lost = Lost {
            recording,
            track: TrackId(1),
            first: 5,
            last: 7,
            reason: LostReason::NoSpace,
        };
        let is_fact = true;
        for (track, sequence, from) in [(1, 7, 0), (1, 8, 100), (3, 6, 200)] {
            travelling.offered(key(track, sequence), 1, at(from));
        }
        travelling.withdrawn(&Offer::Lost { lost, is_fact });
        assert_eq!(behind(&travelling, 400), 300, "neither another number");
        let received = |key, offset| Report::Received { key, offset };
        travelling.reported(&received(key(1, 8), 1));
        assert_eq!(behind(&travelling, 400), 200, "nor another track");
        let (track, held) = (TrackId(1), Sequences::default());
        let elsewhere = SegmentKey {
            recording: RecordingId([2; 16]),
            ..key(1, 0)
        };
        travelling.offered(elsewhere, 1, at(390));
        type Ending<'a> = &'a dyn Fn(&mut Travelling);
        let ahead = Report::Ahead {
            recording,
            track,
            held,
        };
        let endings: [Ending<'_>; 4] = [
            &|travelling| travelling.reported(&Report::Erase { recording }),
            &|travelling| travelling.reported(&ahead),
            &|travelling| travelling.withdrawn(&Offer::Forget { recording }),
            &|travelling| travelling.withdrawn(&Offer::Erased { recording }),
        ];
        for end in endings {
            let mut travelling = travelling.clone();
            end(&mut travelling);
            assert_eq!(behind(&travelling, 400), 10, "another recording goes on");
        }
        for n in 0..5000 {
            travelling.offered(key(1, n), 1, at(500));
        }
        assert_eq!(travelling.0.len(), Travelling::MOST);
        let (code, text) = (None, String::new());
        travelling.reported(&Report::Disconnected { code, text });
        assert_eq!(behind(&travelling, 9000), 0);
    }
}
