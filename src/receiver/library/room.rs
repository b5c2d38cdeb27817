//! A full store: segments wait here until there is room again, and so does whoever sends them.

use super::Library;
use crate::clock;
use std::sync::Arc;
use std::time::Duration;

/// How often a full store is asked whether it has room.
const ASK_EVERY: Duration = Duration::from_secs(2);

impl Library {
    /// False while segments find no room.
    pub fn has_room(&self) -> bool {
        *self.room.borrow()
    }

    /// Waits until segments find room; at once where they do.
    pub async fn await_room(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.room.subscribe().wait_for(|room| *room).await;
    }

    /// Notes that a segment found no room, and keeps asking until there is some.
    pub fn found_full(self: &Arc<Self>, error: &super::Error) {
        if !self.room.send_replace(false) {
            return;
        }
        log::error!("{error}; boxes are held back until there is room, and keep what they have");
        let library = self.clone();
        tokio::spawn(async move {
            let since = clock::now();
            while !library.archive.has_room().await {
                clock::pause(ASK_EVERY).await;
            }
            let seconds = clock::now().since(since).as_secs();
            log::info!("the archive has room again, after {seconds} s: boxes go on sending");
            library.room.send_replace(true);
        });
    }
}
