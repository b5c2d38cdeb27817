//! What is wrong now: raised once, cleared once, and attributed to the recording it concerns.
//!
//! An alarm of the box (a device, the clock, the disk) concerns whatever is recorded while it lasts; one
//! of a recording concerns that recording only, which may be long over.

use crate::clock;
use crate::media::{Event, Monotonic, RecordingId, TrackId};
use std::collections::BTreeMap;

/// Whom an alarm concerns: a recording, or none for the box; and a track.
pub(super) type Concern = (Option<RecordingId>, Option<TrackId>);

/// The microphone gives digital silence.
pub(super) const MICROPHONE_SILENT: &str = "microphone-silent";
/// How the code ends of a camera whose track shows a slate: `presenter-no-signal`.
pub(super) const NO_SIGNAL: &str = "-no-signal";

/// The alarms that stand.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    /// What they say, and since when they stand.
    standing: BTreeMap<(String, Concern), (String, Monotonic)>,
    changes: u64,
}

impl Alarms {
    /// Raises an alarm; the fact, unless it stands already.
    pub(super) fn raise(&mut self, code: &str, concern: Concern, message: &str) -> Option<Event> {
        let key = (code.to_owned(), concern);
        if let Some((text, _)) = self.standing.get_mut(&key) {
            *text = message.into();
            return None;
        }
        self.standing.insert(key, (message.into(), clock::now()));
        self.changes += 1;
        Some(event(code, concern, true, message))
    }

    /// Clears an alarm; the fact, unless it did not stand.
    pub(super) fn clear(&mut self, code: &str, concern: Concern, message: &str) -> Option<Event> {
        let known = self.standing.remove(&(code.into(), concern));
        self.changes += u64::from(known.is_some());
        known.map(|_| event(code, concern, false, message))
    }

    /// Clears all alarms of a recording.
    pub(super) fn forget(&mut self, recording: RecordingId) {
        self.keep(|_, concern| concern.0 != Some(recording));
    }

    /// Clears all alarms of this code: they were for whoever came next.
    pub(super) fn drop_all(&mut self, code: &str) {
        self.keep(|raised, _| raised != code);
    }

    fn keep(&mut self, keeps: impl Fn(&str, &Concern) -> bool) {
        let before = self.standing.len();
        self.standing
            .retain(|(code, concern), _| keeps(code, concern));
        self.changes += u64::from(self.standing.len() < before);
    }

    /// How often alarms came or went.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// All of them: code, track, what they say, since when they stand.
    pub(super) fn standing(
        &self,
    ) -> impl Iterator<Item = (&str, Option<TrackId>, &str, Monotonic)> {
        let alarms = self.standing.iter();
        alarms.map(|((code, concern), (text, since))| {
            (code.as_str(), concern.1, text.as_str(), *since)
        })
    }

    /// The alarms of the box as facts, for a recording that begins.
    pub(super) fn of_the_box(&self) -> Vec<Event> {
        let of_the_box = self
            .standing
            .iter()
            .filter(|((_, concern), _)| concern.0.is_none());
        of_the_box
            .map(|((code, concern), (message, _))| event(code, *concern, true, message))
            .collect()
    }

    /// Whether something is recorded that is not there: silence, or a slate.
    pub(super) fn want_attention(&self) -> bool {
        let mut codes = self.standing.keys().map(|(code, _)| code);
        codes.any(|code| code == MICROPHONE_SILENT || code.ends_with(NO_SIGNAL))
    }

    /// All of them, for people.
    pub(super) fn texts(&self) -> Vec<String> {
        let text = |(code, _, message, _)| format!("{code}: {message}");
        self.standing().map(text).collect()
    }
}

fn event(code: &str, (_, track): Concern, raised: bool, message: &str) -> Event {
    Event::Alarm {
        code: code.into(),
        track,
        raised,
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_a_fact_once_when_it_comes_and_once_when_it_goes() {
        let mut alarms = Alarms::default();
        let camera = (None, Some(TrackId(1)));
        let of_one = (Some(RecordingId([1; 16])), None);
        assert!(alarms.raise("camera-missing", camera, "gone").is_some());
        assert_eq!(alarms.raise("camera-missing", camera, "still gone"), None);
        assert!(
            alarms
                .raise("receiver-forgot", of_one, "it forgot")
                .is_some()
        );
        assert_eq!(
            alarms.texts(),
            ["camera-missing: still gone", "receiver-forgot: it forgot"]
        );
        assert_eq!(
            alarms.of_the_box().len(),
            1,
            "another recording is not concerned"
        );
        assert!(alarms.clear("camera-missing", camera, "back").is_some());
        assert_eq!(alarms.clear("camera-missing", camera, "back"), None);
        alarms.forget(RecordingId([1; 16]));
        assert!(alarms.texts().is_empty());
    }

    #[test]
    fn silence_and_a_slate_want_attention_and_nothing_else_does() {
        for (code, wanted) in [
            ("microphone-silent", true),
            ("presenter-no-signal", true),
            ("slides-no-signal", true),
            ("clock-unknown", false),
            ("link-slow", false),
        ] {
            let mut alarms = Alarms::default();
            alarms.raise(code, (None, Some(TrackId(1))), "for people");
            assert_eq!(alarms.want_attention(), wanted, "{code}");
            alarms.clear(code, (None, Some(TrackId(1))), "well");
            assert!(!alarms.want_attention(), "{code}");
        }
    }
}
