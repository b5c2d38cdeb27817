//! What the objects are called, and which names are ours.

use crate::media::{BoxId, Hash, LostReason, RecordingId, SegmentKey, TrackId};
use crate::receiver::catalog::LostRange;

/// The name of a segment's object.
pub fn segment_path(key: &SegmentKey) -> String {
    format!(
        "recordings/{}/{}/{:08}.m4s",
        key.recording, key.track, key.sequence
    )
}

/// The name of an init's object.
pub fn init_path(recording: RecordingId, hash: Hash) -> String {
    format!("recordings/{recording}/init/{hash}.mp4")
}

/// The name of a LOST range.
pub fn lost_path(recording: RecordingId, range: &LostRange, reason: &str) -> String {
    let LostRange { track, first, last } = range;
    format!("recordings/{recording}/lost/{track}.{first}-{last}.{reason}")
}

/// The name of a recording's manifest.
pub fn manifest_path(recording: RecordingId) -> String {
    format!("recordings/{recording}/manifest.json")
}

/// The name of the tombstone of an erased recording.
pub fn tombstone_path(recording: RecordingId) -> String {
    format!("erased/{recording}")
}

/// The name of a box's word that its copy of an erased recording is gone.
pub fn confirmation_path(recording: RecordingId, box_id: BoxId) -> String {
    format!("erased/{recording}.{box_id}")
}

/// What stands under a name below `recordings/`.
pub(super) enum Object {
    Segment(TrackId, u64),
    Init(Hash),
    Lost(LostRange, LostReason),
    Manifest,
}

/// The recording and object that `name` means; none for a name that is not ours.
pub(super) fn parse(name: &str) -> Option<(RecordingId, Object)> {
    let mut parts = name.split('/');
    let (Some("recordings"), Some(id)) = (parts.next(), parts.next()) else {
        return None;
    };
    let recording = id.parse().ok()?;
    let object = match (parts.next()?, parts.next(), parts.next()) {
        ("manifest.json", None, None) => Object::Manifest,
        ("init", Some(file), None) => Object::Init(file.strip_suffix(".mp4")?.parse().ok()?),
        ("lost", Some(file), None) => {
            let mut words = file.splitn(3, '.');
            let (track, range, reason) = (words.next()?, words.next()?, words.next()?);
            let (first, last) = range.split_once('-')?;
            let range = LostRange {
                track: TrackId(track.parse().ok()?),
                first: first.parse().ok()?,
                last: last.parse().ok()?,
            };
            let reason = match reason {
                "damaged" => LostReason::Damaged,
                "no-space" => LostReason::NoSpace,
                "receiver-forgot" => LostReason::ReceiverForgot,
                _ => return None,
            };
            Object::Lost(range, reason)
        }
        (track, Some(file), None) => {
            let track = TrackId(track.parse().ok()?);
            let sequence = file.strip_suffix(".m4s")?.parse().ok()?;
            let key = SegmentKey {
                recording,
                track,
                sequence,
            };
            // Only the one spelling of a name: "+1" and "1" are no objects of ours.
            (segment_path(&key) == name).then_some(Object::Segment(track, sequence))?
        }
        _ => return None,
    };
    Some((recording, object))
}

/// The erased recording, and the box whose confirmation this is rather than the tombstone itself.
pub(super) fn parse_erased(name: &str) -> Option<(RecordingId, Option<BoxId>)> {
    let file = name.strip_prefix("erased/")?;
    match file.split_once('.') {
        Some((recording, box_id)) => Some((recording.parse().ok()?, Some(box_id.parse().ok()?))),
        None => Some((file.parse().ok()?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_spelling_of_a_name_is_an_object() {
        let id = RecordingId([7; 16]);
        for name in [
            format!("recordings/{id}/1/1.m4s"),
            format!("recordings/{id}/+1/00000001.m4s"),
            format!("recordings/{id}/256/00000001.m4s"),
            format!("recordings/{id}/1/00000001.mp4"),
            format!("recordings/{id}/1/2/00000001.m4s"),
            format!("recordings/{id}/init/xyz.mp4"),
            "recordings/x/manifest.json".to_owned(),
            format!("other/{id}/manifest.json"),
        ] {
            assert!(parse(&name).is_none(), "{name}");
        }
        let key = SegmentKey {
            recording: id,
            track: TrackId(1),
            sequence: 5,
        };
        assert!(parse(&segment_path(&key)).is_some());
        let box_id = BoxId([2; 16]);
        assert_eq!(parse_erased(&tombstone_path(id)), Some((id, None)));
        assert_eq!(
            parse_erased(&confirmation_path(id, box_id)),
            Some((id, Some(box_id)))
        );
        assert_eq!(parse_erased("erased/note.txt"), None);
    }
}
