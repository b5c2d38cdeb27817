//! How the link to the receiver is: what live costs, whether it is carried, whether anyone answers.
//!
//! Joins the pure parts (meter, breaker, path) with the connection's own figures.

use super::{Connection, ConnectionStats};
use crate::media::Monotonic;
use crate::uplink::breaker::{self, Breaker, SPOOL_ONLY, Sample, Travelling};
use crate::uplink::congestion::{Live, Meter};
use crate::uplink::network::{LOOK, Path, Traffic};
use crate::uplink::session::Session;
use crate::uplink::{Offer, Report};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The link, over all connections.
pub(super) struct Link {
    meter: Meter,
    travelling: Travelling,
    breaker: Breaker,
    /// The present connection; none between two.
    path: Option<Path>,
    /// Packets sent and lost, when the breaker last looked.
    counted: (u64, u64),
    sample_at: Monotonic,
    /// Live that is offered before then was made for another step of the breaker.
    heeds_from: Monotonic,
}

/// An encoder follows a step at its next keyframe; then what it made before is on its way.
const FOLLOWS: Duration = Duration::from_secs(3);

/// What came of a look at the link.
pub(super) enum Verdict {
    /// Nothing, or a change of the breaker's step.
    Well(Option<u8>),
    /// The connection is to be given up.
    Dead,
}

impl Link {
    pub fn new() -> Self {
        Self {
            meter: Meter::default(),
            travelling: Travelling::default(),
            breaker: Breaker::new(breaker::Config::default()),
            path: None,
            counted: (0, 0),
            sample_at: Monotonic::from_nanos(0),
            heeds_from: Monotonic::from_nanos(0),
        }
    }

    /// What the controllers of a connection look at.
    pub fn live(&self) -> &Arc<Live> {
        &self.meter.live
    }

    /// The station offers; what is live is measured, or demoted when the link is too poor for live.
    /// What `session` does not send, now or ever, says nothing about the link.
    pub fn offered(&mut self, offer: &mut Offer, session: &Session, now: Monotonic) {
        self.travelling.withdrawn(offer);
        if let Offer::Chunk {
            key,
            offset,
            length,
            live,
            ..
        } = offer
        {
            *live &= self.breaker.step() < SPOOL_ONLY;
            // What cannot be sent now pays for nothing later.
            if *live && self.path.is_some() && session.sends(*key) {
                self.meter.offered((*length).into(), now);
                if now >= self.heeds_from {
                    let end = *offset + u64::from(*length);
                    self.travelling.offered(*key, end, now);
                }
            }
        }
    }

    /// The receiver said something.
    pub fn reported(&mut self, report: &Report) {
        self.travelling.reported(report);
    }

    /// A connection was made from `source`.
    pub fn connected(&mut self, connection: &Connection, source: Option<IpAddr>, now: Monotonic) {
        let stats = connection.stats();
        self.path = Some(Path::new(source, traffic(&stats)));
        self.counted = (stats.path.sent_packets, stats.path.lost_packets);
        self.sample_at = now.plus(LOOK);
    }

    /// It is gone.
    pub fn disconnected(&mut self) {
        self.path = None;
        self.breaker.disconnected();
    }

    /// The network changed; true when the connection needs another socket.
    pub fn changed(
        &mut self,
        connection: &Connection,
        source: Option<IpAddr>,
        now: Monotonic,
    ) -> bool {
        let Some(path) = &mut self.path else {
            return false;
        };
        path.look(now, traffic(&connection.stats()), connection.rtt());
        path.changed(now, source, connection.rtt())
    }

    /// When to look next.
    pub fn next_look(&self, now: Monotonic) -> Monotonic {
        match &self.path {
            Some(path) => path.next_look(now).min(self.sample_at.max(now)),
            None => now.plus(LOOK),
        }
    }

    /// Looks at the connection's figures.
    pub fn look(&mut self, connection: &Connection, now: Monotonic) -> Verdict {
        let stats = connection.stats();
        if let Some(path) = &mut self.path
            && path.look(now, traffic(&stats), stats.path.rtt)
        {
            return Verdict::Dead;
        }
        if now < self.sample_at {
            return Verdict::Well(None);
        }
        self.sample_at = now.plus(LOOK);
        let (sent, lost) = (stats.path.sent_packets, stats.path.lost_packets);
        let (sent_before, lost_before) = std::mem::replace(&mut self.counted, (sent, lost));
        let sample = Sample {
            behind: self.travelling.behind(now),
            sent: sent.saturating_sub(sent_before),
            lost: lost.saturating_sub(lost_before),
        };
        let step = self.breaker.sample(now, &sample);
        if step.is_some() {
            // What waits from before goes after what is live now: it says nothing about this step.
            self.travelling = Travelling::default();
            self.heeds_from = now.plus(FOLLOWS);
        }
        Verdict::Well(step)
    }
}

/// Frames that ask for an acknowledgement, and datagrams that came.
fn traffic(stats: &ConnectionStats) -> Traffic {
    let sent = &stats.frame_tx;
    Traffic {
        sent: sent.stream
            + sent.ping
            + sent.crypto
            + sent.reset_stream
            + sent.max_data
            + sent.max_stream_data
            + sent.retire_connection_id
            + sent.new_connection_id,
        received: stats.udp_rx.datagrams,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{RecordingId, SegmentKey, TrackId, TrackKind};
    use crate::uplink::{Action, session};
    use crate::wire::Message;
    use crate::wire::message::{Limits, Welcome};

    fn chunk(sequence: u64) -> Offer {
        Offer::Chunk {
            key: SegmentKey {
                recording: RecordingId([1; 16]),
                track: TrackId(1),
                sequence,
            },
            kind: TrackKind::Video,
            init: None,
            offset: 0,
            length: 100_000,
            live: true,
        }
    }

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn live_is_measured_on_a_connection_and_demoted_on_a_link_too_poor_for_it() {
        let mut link = Link::new();
        let box_id = crate::media::BoxId([1; 16]);
        let mut session = Session::new(session::Config::new(box_id, 1, 1));
        let is_live = |offer: &Offer| matches!(offer, Offer::Chunk { live: true, .. });
        let mut offer = chunk(0);
        link.offered(&mut offer, &session, at(0));
        assert!(
            is_live(&offer),
            "the session knows what to do without a connection"
        );
        assert_eq!(link.travelling.behind(at(9000)), Duration::ZERO);

        link.path = Some(Path::new(None, Traffic::default()));
        link.offered(&mut chunk(1), &session, at(100));
        assert_eq!(link.travelling.behind(at(9100)), Duration::from_secs(9));

        let (sent, lost) = (100, 0);
        for half in 1..100 {
            let behind = link.travelling.behind(at(500 * half));
            let sample = Sample { behind, sent, lost };
            link.breaker.sample(at(500 * half), &sample);
        }
        assert_eq!(link.breaker.step(), SPOOL_ONLY);
        let mut offer = chunk(2);
        link.travelling = Travelling::default();
        link.offered(&mut offer, &session, at(60_000));
        assert!(!is_live(&offer));
        assert_eq!(link.travelling.behind(at(69_000)), Duration::ZERO);

        // Erased at the receiver while it runs: what is recorded further says nothing about the link.
        link.breaker = Breaker::new(breaker::Config::default());
        let recording = RecordingId([1; 16]);
        link.offered(&mut chunk(3), &session, at(70_000));
        assert_eq!(link.travelling.behind(at(70_100)).as_millis(), 100);
        session.offer(chunk(3), at(70_000));
        session.connected(None, at(70_000));
        let welcome = Welcome {
            recordings: vec![],
            complete: vec![],
            clock: None,
            limits: Limits::default(),
            software: String::new(),
            erased: vec![recording],
            abridged: false,
        };
        session.received(Message::Welcome(welcome), at(70_000));
        loop {
            match session.next(at(70_000)) {
                Action::Report(report) => link.reported(&report),
                Action::Wait(_) => break,
                _ => {}
            }
        }
        link.offered(&mut chunk(4), &session, at(70_100));
        assert_eq!(link.travelling.behind(at(99_000)), Duration::ZERO);
    }
}
