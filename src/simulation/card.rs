//! What a box's disk holds and lets go, for the history: read from the disk itself, not from the spool
//! that changes it.

use super::history::{Happening, History};
use crate::media::{RecordingId, SegmentKey, WallClock};
use crate::spool::twin::TwinDisk;
use crate::spool::{self, Disk, Spool, SyncResult};
use crate::station::custody::Custody;
use std::sync::Arc;

/// Notes what leaves the disk in one run of the box.
#[derive(Default)]
pub(super) struct Card {
    /// Something was let go in this run.
    freeing: bool,
}

impl Card {
    /// Lets go what may go.
    pub fn tidy(
        &mut self,
        custody: &mut Custody,
        disk: &TwinDisk,
        history: &mut History,
        wall: WallClock,
    ) {
        let before = disk.crash(0);
        let freed = custody.spool().stats().freed_bytes;
        custody.release(Some(wall));
        if custody.spool().stats().freed_bytes == freed {
            return;
        }
        // Files of a recording that stays go after a later sync.
        self.freeing = true;
        note_released(before, disk, history);
    }

    /// A sync ended, and files may leave because of it.
    pub fn synced(
        &mut self,
        custody: &mut Custody,
        disk: &TwinDisk,
        history: &mut History,
        result: SyncResult,
    ) -> Vec<(RecordingId, spool::Error)> {
        let before = self.freeing.then(|| (disk.crash(0), disk.files()));
        let errors = custody.synced(result);
        if let Some((before, files)) = before {
            let left = disk.files();
            if files.iter().any(|file| !left.contains(file)) {
                note_released(before, disk, history);
            }
        }
        errors
    }
}

/// What recovery has left on the disk. Where it says that it could not make it durable, only what a
/// power cut would leave is a promise.
pub(super) fn note_state(
    disk: Arc<dyn Disk>,
    twin: &TwinDisk,
    recovered: &[spool::Recovered],
    history: &mut History,
) {
    let troubled = |id: RecordingId| {
        let of = recovered.iter().find(|found| found.recording == id);
        of.is_some_and(|found| !found.problems.is_empty())
    };
    let (Ok((found, _)), Ok((durable, _))) = (
        Spool::look(disk, "/spool"),
        Spool::look(Arc::new(twin.crash(0)), "/spool"),
    ) else {
        return;
    };
    let sound = found.recordings().filter(|(id, _)| !troubled(*id));
    let durable = durable.recordings().filter(|(id, _)| troubled(*id));
    let (mut held, mut acknowledged, mut trusted) = (Vec::new(), Vec::new(), Vec::new());
    for (recording, state) in sound.chain(durable) {
        for (&track, of_track) in &state.tracks {
            acknowledged.push((recording, track, of_track.acknowledged.clone()));
            for (&sequence, segment) in &of_track.segments {
                let key = SegmentKey {
                    recording,
                    track,
                    sequence,
                };
                if segment.length > 0 {
                    held.push((key, segment.length));
                }
                if let Some((_, hash)) = segment.seal
                    && (state.complete || of_track.acknowledged.contains(sequence))
                {
                    trusted.push((key, hash));
                }
            }
        }
    }
    history.note(Happening::Restarted {
        held,
        acknowledged,
        trusted,
    });
}

/// Notes the segments that left: `before` is what a power cut at the instant before would have found.
fn note_released(before: TwinDisk, disk: &TwinDisk, history: &mut History) {
    let look = |disk| Spool::look(Arc::new(disk), "/spool").map(|(spool, _)| spool);
    let (Ok(before), Ok(after)) = (look(before), look(disk.clone())) else {
        return;
    };
    for (recording, state) in before.recordings() {
        for (&track, of_track) in &state.tracks {
            let left = after
                .state(recording)
                .and_then(|state| state.tracks.get(&track));
            let held = of_track
                .segments
                .iter()
                .filter(|(_, segment)| segment.length > 0);
            for (&sequence, was) in held {
                let stays = left
                    .and_then(|track| track.segments.get(&sequence))
                    .is_some_and(|segment| segment.length >= was.length);
                if !stays {
                    let key = SegmentKey {
                        recording,
                        track,
                        sequence,
                    };
                    let recorded = state.complete || of_track.acknowledged.contains(sequence);
                    history.note(Happening::Released {
                        key,
                        recorded,
                        hash: was.seal.map(|(_, hash)| hash),
                    });
                }
            }
        }
    }
}
