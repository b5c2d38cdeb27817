//! What a receiver has archived: compared with a box's spool, and read for its facts.

use super::programs::{CaptureBox, Receiver, spool_hashes};
use hallcast::media::{Event, Fact, Hash, TrackId};
use hallcast::mp4::{Content, parse_segment};

/// Every segment that the box sealed is in the archive, byte for byte, and nothing else is; gives how
/// many there are.
pub fn assert_archive_is_the_spool(
    receiver: &Receiver,
    capture_box: &CaptureBox,
    recording: &str,
) -> usize {
    let sealed: Vec<_> = spool_hashes(&capture_box.home.join("state"))
        .into_iter()
        .filter(|(key, _, _)| key.recording.to_string() == recording)
        .collect();
    assert!(
        sealed
            .iter()
            .any(|(key, _, _)| key.track == TrackId::EVENTS),
        "the facts are a track"
    );
    let folder = receiver.archive(recording);
    for (key, length, hash) in &sealed {
        let path = folder.join(format!("{}/{:08}.m4s", key.track, key.sequence));
        let bytes =
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            (bytes.len() as u64, Hash(*blake3::hash(&bytes).as_bytes())),
            (*length, *hash),
            "{key}"
        );
        let url = format!("/hls/{recording}/{}/{:08}.m4s", key.track, key.sequence);
        if key.track != TrackId::EVENTS {
            assert!(
                receiver.get(&url) == bytes,
                "{url}: a browser gets other bytes than were archived"
            );
        }
    }
    let tracks = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let objects: usize = tracks
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .parse::<u8>()
                .is_ok()
        })
        .map(|path| std::fs::read_dir(path).unwrap().count())
        .sum();
    assert_eq!(objects, sealed.len());
    sealed.len()
}

/// The recording's facts in order, as the archived objects hold them.
pub fn facts(receiver: &Receiver, recording: &str) -> Vec<Fact> {
    let folder = receiver
        .archive(recording)
        .join(TrackId::EVENTS.to_string());
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        let Content::Events(batch) = parse_segment(&bytes).unwrap().content else {
            panic!("{} holds no facts", path.display())
        };
        hallcast::wire::event::decode(batch).unwrap()
    };
    paths.iter().flat_map(read).collect()
}

/// The alarms of devices among the recording's facts: code, whether it was raised, and its message.
/// Those of the box (its disk, its clock, its link) tell of the machine that the test runs on.
pub fn alarms(receiver: &Receiver, recording: &str) -> Vec<(String, bool, String)> {
    let alarm = |fact: Fact| match fact.event {
        Event::Alarm {
            track: Some(_),
            code,
            raised,
            message,
            ..
        } => Some((code, raised, message)),
        _ => None,
    };
    facts(receiver, recording)
        .into_iter()
        .filter_map(alarm)
        .collect()
}
