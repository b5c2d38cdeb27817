//! What the uplink tells: the state of the link is for people, the rest is custody's.

use super::Keeper;
use crate::clock;
use crate::media::SegmentKey;
use crate::uplink::Report;

impl Keeper {
    pub(super) fn report(&mut self, report: &Report) {
        match report {
            Report::Connected => {
                self.reachable = true;
                self.uplink_error = None;
            }
            Report::Disconnected { text, .. } => {
                self.uplink_error = Some(text.clone());
                self.reachable = false;
                self.travelling.clear();
            }
            Report::Clock { wall, at } => self.utc.hear(*wall, *at),
            Report::Complete { recording } => self.alarms.forget(*recording),
            Report::Received { key, offset } => self.arrived(*key, *offset),
            _ => {}
        }
        let outcome = self.parts.custody.report(report);
        self.check(outcome);
    }

    fn arrived(&mut self, key: SegmentKey, offset: u64) {
        let now = clock::now();
        let lateness = self.lateness.entry(key.track).or_default();
        self.travelling.retain(|(chunk, end, captured)| {
            let there = *chunk == key && *end <= offset;
            if there {
                lateness.record(now.since(*captured));
            }
            !there
        });
    }
}
