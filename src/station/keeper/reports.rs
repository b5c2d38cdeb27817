//! What the uplink tells: the state of the link is for people, the rest is custody's.

use super::Keeper;
use crate::clock;
use crate::media::{RecordingId, SegmentKey};
use crate::station::lane::LADDER;
use crate::uplink::breaker::SPOOL_ONLY;
use crate::uplink::{ErrorCode, Report};

impl Keeper {
    pub(super) fn report(&mut self, report: &Report) {
        match report {
            Report::Connected => {
                self.reachable = true;
                self.telling.forget();
                self.uplink_error = None;
                for code in ["fenced", "cloned"] {
                    self.calm(code, (None, None), "the receiver takes this box again");
                }
            }
            Report::Disconnected { text, code } => {
                match code {
                    Some(ErrorCode::FENCED) => self.alarm("fenced", (None, None), text),
                    Some(ErrorCode::CLONED) => self.alarm("cloned", (None, None), text),
                    _ => {}
                }
                self.uplink_error = Some(text.clone());
                self.reachable = false;
                self.travelling.clear();
                self.commands.forget();
            }
            Report::Command { command, at } => self.commanded(command, *at),
            Report::Clock { wall, at } => self.utc.hear(*wall, *at),
            Report::Complete { recording } => self.alarms.forget(*recording),
            Report::Received { key, offset } => self.arrived(*key, *offset),
            Report::Link { step } => self.link(*step),
            _ => {}
        }
        let outcome = self.parts.custody.report(report);
        if let Some(recording) = concerns(report) {
            if outcome.is_ok() {
                let concern = (Some(recording), None);
                self.calm("spool", concern, "the disk takes it again");
            }
            self.check(recording, outcome);
        }
    }

    /// The link asks for another bit rate of pictures.
    fn link(&mut self, step: u8) {
        let lowest = LADDER[LADDER.len() - 1];
        let percent = LADDER.get(usize::from(step)).copied().unwrap_or(lowest);
        self.link = step;
        self.command();
        let message: String = match step {
            0 => "the link carries live again".into(),
            SPOOL_ONLY.. => "the link does not carry live: what is recorded is kept here and sent \
                             as far as the link lets it; look at the network"
                .into(),
            _ => format!(
                "the link loses too much or is too slow: pictures are encoded at {percent} % of \
                 their bit rate; look at the network"
            ),
        };
        if step == 0 {
            return self.calm("link-slow", (None, None), &message);
        }
        self.alarm("link-slow", (None, None), &message);
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

/// The recording of which the spool is told something.
fn concerns(report: &Report) -> Option<RecordingId> {
    match report {
        Report::Durable { recording, .. }
        | Report::Forgot { recording, .. }
        | Report::Complete { recording } => Some(*recording),
        Report::Unreadable { key, .. } => Some(key.recording),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_of_the_breaker_but_the_last_is_a_rung_of_the_ladder() {
        assert_eq!(LADDER.len(), usize::from(SPOOL_ONLY));
        assert!(LADDER.is_sorted_by(|a, b| a > b));
    }
}
