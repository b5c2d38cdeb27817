//! What boxes say of themselves: the newest report of each, in memory only.
//!
//! A box that is gone stays on the list for a day, marked as such. One that the roster does not know any
//! more, or that was revoked, is not shown. Nothing here is kept over a restart: a box that is connected
//! says it again within seconds.

use super::roster::Roster;
use crate::blocking;
use crate::media::health::Health;
use crate::media::{BoxId, Hash, Monotonic};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A report older than this says how the box was, not how it is.
pub const FRESH: Duration = Duration::from_secs(15);
/// A box that said nothing for so long is not shown any more.
const SHOWN: Duration = Duration::from_secs(24 * 3600);

/// A box and the newest that it said.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The box.
    pub box_id: BoxId,
    /// Its room, by the roster.
    pub room: String,
    /// Its session is up and its report is fresh.
    pub current: bool,
    /// How old the report is.
    pub age: Duration,
    /// The report.
    pub health: Health,
}

#[derive(Debug)]
struct Entry {
    room: String,
    certificate: Hash,
    /// The session that it came on, and whether that is up.
    session: u64,
    connected: bool,
    at: Monotonic,
    health: Health,
}

/// The newest report of each box.
#[derive(Debug)]
pub struct Fleet {
    roster: Roster,
    boxes: Mutex<BTreeMap<BoxId, Entry>>,
}

impl Fleet {
    /// Nothing was said yet.
    pub fn new(roster: Roster) -> Self {
        let boxes = Mutex::default();
        Self { roster, boxes }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BoxId, Entry>> {
        self.boxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A box in `room` said how it is; `session` counts up. What an older session still says is not
    /// heard.
    pub fn heard(
        &self,
        (box_id, certificate): (BoxId, Hash),
        room: &str,
        session: u64,
        mut health: Health,
        now: Monotonic,
    ) {
        // Each by its name only once, or the metrics would be refused.
        let mut tracks = BTreeSet::new();
        health.tracks.retain(|track| tracks.insert(track.track));
        let mut levels = BTreeSet::new();
        health.levels.retain(|level| levels.insert(level.track));
        let mut alarms = BTreeSet::new();
        let mut first = |code: &str, track| alarms.insert((code.to_owned(), track));
        health
            .alarms
            .retain(|alarm| first(&alarm.code, alarm.track));
        let mut boxes = self.lock();
        boxes.retain(|_, entry| now.since(entry.at) < SHOWN);
        if boxes
            .get(&box_id)
            .is_some_and(|known| known.session > session)
        {
            return;
        }
        let entry = Entry {
            room: room.to_owned(),
            certificate,
            session,
            connected: true,
            at: now,
            health,
        };
        boxes.insert(box_id, entry);
    }

    /// A session of the box is over.
    pub fn ended(&self, box_id: BoxId, session: u64) {
        if let Some(entry) = self.lock().get_mut(&box_id)
            && entry.session == session
        {
            entry.connected = false;
        }
    }

    /// Every box that is shown, by room.
    pub fn seen(&self, now: Monotonic) -> Vec<Seen> {
        self.with_certificates(now)
            .into_iter()
            .filter(|(seen, certificate)| self.roster.admit(seen.box_id, *certificate).is_ok())
            .map(|(seen, _)| seen)
            .collect()
    }

    /// The same off the tasks that carry media: the roster is files.
    pub async fn read(self: std::sync::Arc<Self>, now: Monotonic) -> Vec<Seen> {
        let read = blocking::run(move || self.seen(now)).await;
        read.unwrap_or_default()
    }

    fn with_certificates(&self, now: Monotonic) -> Vec<(Seen, Hash)> {
        let boxes = self.lock();
        let seen = |(box_id, entry): (&BoxId, &Entry)| {
            let age = now.since(entry.at);
            let seen = Seen {
                box_id: *box_id,
                room: entry.room.clone(),
                current: entry.connected && age < FRESH,
                age,
                health: entry.health.clone(),
            };
            (age < SHOWN).then_some((seen, entry.certificate))
        };
        let mut all: Vec<_> = boxes.iter().filter_map(seen).collect();
        all.sort_by(|(a, _), (b, _)| (&a.room, a.box_id).cmp(&(&b.room, b.box_id)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::TrackId;
    use crate::media::health::{Alarm, Level, TrackHealth};
    use crate::receiver::roster::Entry as Enrolled;

    #[test]
    fn the_newest_session_speaks_for_a_box_until_it_ends_or_is_silent_or_the_box_is_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let roster = Roster::new(dir.path());
        let (id, certificate) = (BoxId([1; 16]), Hash([2; 32]));
        let mut enrolled = Enrolled {
            room: "Hall".into(),
            certificate_blake3: certificate.to_string(),
            revoked: false,
        };
        let fleet = Fleet::new(Roster::new(dir.path()));
        let at = |s| Monotonic::default().plus(Duration::from_secs(s));
        let track = TrackHealth {
            track: TrackId(1),
            ..TrackHealth::default()
        };
        let level = Level {
            track: TrackId(1),
            ..Level::default()
        };
        let alarm = |track| Alarm {
            track,
            ..Alarm::default()
        };
        let health = |state: &str| Health {
            state: state.into(),
            alarms: [None, None, Some(TrackId(1)), Some(TrackId(1))]
                .map(alarm)
                .into(),
            tracks: vec![track.clone(); 3],
            levels: vec![level; 3],
            ..Health::default()
        };
        fleet.heard((id, certificate), "Hall", 5, health("idle"), at(0));
        assert!(fleet.seen(at(0)).is_empty(), "not in the roster");
        roster.enter(id, &enrolled).unwrap();
        fleet.heard((id, certificate), "Hall", 4, health("old"), at(1));
        let look = |now| fleet.seen(now).pop().map(|s| (s.health.state, s.current));
        assert_eq!(look(at(14)), Some(("idle".into(), true)));
        assert_eq!(look(at(15)), Some(("idle".into(), false)), "silent");
        fleet.heard((id, certificate), "Hall", 5, health("recording"), at(20));
        fleet.ended(id, 4);
        assert_eq!(look(at(21)), Some(("recording".into(), true)));
        fleet.ended(id, 5);
        assert_eq!(look(at(21)), Some(("recording".into(), false)), "gone");
        let seen = fleet.seen(at(21)).pop().unwrap();
        let lists = (seen.health.alarms.len(), seen.health.tracks.len());
        assert_eq!((lists, seen.health.levels.len()), ((2, 1), 1), "each once");
        assert_eq!(look(at(20 + 24 * 3600)), None, "forgotten");
        enrolled.revoked = true;
        roster.enter(id, &enrolled).unwrap();
        assert_eq!(look(at(21)), None, "revoked");
    }

    #[test]
    fn boxes_stand_in_the_order_of_their_rooms_and_take_no_memory_after_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let roster = Roster::new(dir.path());
        let fleet = Fleet::new(Roster::new(dir.path()));
        let at = |s| Monotonic::default().plus(Duration::from_secs(s));
        let certificate = Hash([2; 32]);
        for (id, room, heard) in [(1, "C", 0), (2, "A", 1), (3, "B", 2)] {
            let enrolled = Enrolled {
                room: room.into(),
                certificate_blake3: certificate.to_string(),
                revoked: false,
            };
            let box_id = BoxId([id; 16]);
            roster.enter(box_id, &enrolled).unwrap();
            let about = (box_id, certificate);
            fleet.heard(about, room, 1, Health::default(), at(heard));
        }
        let rooms: Vec<_> = fleet.seen(at(3)).into_iter().map(|s| s.room).collect();
        assert_eq!(rooms, ["A", "B", "C"]);
        let day = 24 * 3600;
        let about = (BoxId([2; 16]), certificate);
        fleet.heard(about, "A", 1, Health::default(), at(day + 1));
        let kept: Vec<_> = fleet.lock().keys().copied().collect();
        assert_eq!(kept, [BoxId([2; 16]), BoxId([3; 16])]);
    }
}
