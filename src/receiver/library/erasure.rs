//! Erasure: a tombstone first, durably; then nothing of the recording is kept, shown or taken again.
//!
//! ```text
//! erased/<id> durable -> out of the catalog -> boxes are told -> objects deleted -> box confirms
//! ```
//!
//! A crash at any point leaves the tombstone or leaves nothing: the next start, or the next look of
//! any receiver of the store, goes on from it.

use super::{Library, read};
use crate::clock;
use crate::media::{BoxId, RecordingId};
use crate::receiver::archive::{self, Archive, Tombstone};
use bytes::Bytes;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::broadcast;

/// Notices that wait for a slow session; it looks at all of them after it has missed some.
pub(super) const WAITING: usize = 64;
/// How often tombstones that other programs made are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Erases a recording of `box_id` from the store, also beside running receivers: they notice. Gives
/// how many objects there were.
pub async fn erase(
    archive: &Archive,
    id: RecordingId,
    box_id: Option<BoxId>,
) -> Result<usize, archive::Error> {
    let nanos = u64::try_from(clock::wall().unix_nanos).unwrap_or(0);
    let erased_at = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(nanos));
    let tombstone = serde_json::to_vec(&Tombstone {
        box_id: box_id.map(|box_id| box_id.to_string()),
        erased_at: erased_at.to_string(),
        ..Tombstone::default()
    });
    // Only text is in it, which always can be written.
    let bytes = Bytes::from(tombstone.unwrap_or_default());
    let name = archive::tombstone_path(id);
    match archive.create_record(&name, bytes).await {
        // It was erased before; perhaps not to the end.
        Err(archive::Error::Conflict { .. }) => {}
        created => created?,
    }
    archive.delete_recording(id).await
}

impl Library {
    /// Looks for tombstones for as long as the receiver runs.
    pub async fn watch_erased(&self) {
        loop {
            clock::pause(LOOK_EVERY).await;
            if let Err(e) = self.look_for_erased().await {
                log::error!("looking for erased recordings: {e}");
            }
        }
    }

    /// Takes recordings out of the catalog whose tombstone another program made, and deletes what is
    /// left of them.
    pub async fn look_for_erased(&self) -> Result<(), archive::Error> {
        for (id, confirmed) in self.archive.erased().await? {
            if self.read().erased.contains_key(&id) {
                continue;
            }
            self.note_erased(id, !confirmed.is_empty()).await?;
        }
        self.sweep().await;
        Ok(())
    }

    /// Takes a recording out of the catalog whose tombstone was found.
    pub(super) async fn note_erased(
        &self,
        id: RecordingId,
        confirmed: bool,
    ) -> Result<(), archive::Error> {
        // Its box is about to delete the other copy.
        self.archive.secure(&archive::tombstone_path(id)).await?;
        let mut erased = read::read_tombstone(&self.archive, id).await?;
        erased.confirmed = confirmed;
        {
            let mut catalog = self.write();
            let known = catalog.recordings.remove(&id);
            if catalog.erased.contains_key(&id) {
                return Ok(());
            }
            erased.box_id = erased.box_id.or(known.and_then(|known| known.owner()));
            catalog.erased.insert(id, erased);
        }
        log::info!("recording {id} was erased");
        // Nobody may be listening.
        let _ = self.erasures.send(id);
        Ok(())
    }

    /// Deletes what is left of erased recordings.
    pub(super) async fn sweep(&self) {
        let left: Vec<_> = {
            let catalog = self.read();
            let left = catalog.erased.iter().filter(|(_, erased)| !erased.swept);
            left.map(|(id, _)| *id).collect()
        };
        for id in left {
            match self.archive.delete_recording(id).await {
                Ok(_) => {
                    if let Some(erased) = self.write().erased.get_mut(&id) {
                        erased.swept = true;
                    }
                }
                Err(e) => log::error!("erased recording {id}: {e}; it is tried again"),
            }
        }
    }

    /// Each recording whose tombstone is found from now on.
    pub fn erasures(&self) -> broadcast::Receiver<RecordingId> {
        self.erasures.subscribe()
    }

    /// The erased recordings of a box whose copy is not known to be gone.
    pub fn unconfirmed(&self, box_id: BoxId) -> Vec<RecordingId> {
        let catalog = self.read();
        let of_box = catalog
            .erased
            .iter()
            .filter(|(_, erased)| erased.box_id == Some(box_id) && !erased.confirmed);
        of_box.map(|(id, _)| *id).collect()
    }

    /// The box has said that its copy of an erased recording is gone.
    pub async fn confirm_erased(
        &self,
        box_id: BoxId,
        id: RecordingId,
    ) -> Result<(), archive::Error> {
        let of_this_box = {
            let catalog = self.read();
            let erased = catalog.erased.get(&id);
            erased.is_some_and(|erased| erased.box_id.is_none_or(|owner| owner == box_id))
        };
        if !of_this_box {
            log::warn!("box {box_id} has erased {id}, which nobody asked it to erase");
            return Ok(());
        }
        let name = archive::confirmation_path(id, box_id);
        self.archive.create_record(&name, Bytes::new()).await?;
        if let Some(erased) = self.write().erased.get_mut(&id) {
            erased.confirmed = true;
        }
        log::info!("recording {id}: box {box_id} has erased its copy");
        Ok(())
    }
}
