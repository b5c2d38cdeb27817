//! What the uplink tells: acknowledgements go into the spool, troubles become facts.

use super::Keeper;
use crate::clock;
use crate::media::{Event, SegmentKey};
use crate::uplink::{Offer, Report};

impl Keeper {
    pub(super) fn report(&mut self, report: Report) {
        let recorded = match report {
            Report::Connected => {
                self.reachable = true;
                self.uplink_error = None;
                Ok(())
            }
            Report::Disconnected { text, .. } => {
                self.uplink_error = Some(text);
                self.reachable = false;
                self.travelling.clear();
                Ok(())
            }
            Report::Received { key, offset } => {
                self.arrived(key, offset);
                Ok(())
            }
            Report::Durable {
                recording,
                track,
                durable,
            } => self.spool().acknowledge(recording, track, &durable),
            Report::Forgot {
                recording, track, ..
            } => {
                let message = format!(
                    "the receiver lost segments of recording {recording} that it had acknowledged"
                );
                self.note(Event::Alarm {
                    code: "receiver-forgot".into(),
                    track: Some(track),
                    raised: true,
                    message,
                });
                Ok(())
            }
            Report::Refused { key, code } => {
                let message = format!("the receiver refuses segment {key}: {code}");
                self.note(Event::Alarm {
                    code: "segment-refused".into(),
                    track: Some(key.track),
                    raised: true,
                    message,
                });
                Ok(())
            }
            Report::Unreadable { key, text } => {
                let message = format!("segment {key} cannot be read from the spool: {text}");
                self.note(Event::Alarm {
                    code: "spool-unreadable".into(),
                    track: Some(key.track),
                    raised: true,
                    message,
                });
                Ok(())
            }
            Report::Complete { recording } => {
                log::info!("recording {recording} is whole at the receiver");
                let recorded = self.spool().complete(recording);
                self.offer(Offer::Forget { recording });
                recorded
            }
        };
        if let Err(error) = recorded {
            self.fault(&error);
        }
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
