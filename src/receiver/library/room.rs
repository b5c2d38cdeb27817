//! A store that takes nothing, because it is full or away: segments wait here until it takes them
//! again, and so does whoever sends them.

use super::{Error, Library};
use crate::clock;
use crate::wire::ErrorCode;
use std::sync::Arc;
use std::time::Duration;

/// How often such a store is asked whether it takes segments.
const ASK_EVERY: Duration = Duration::from_secs(2);

impl Library {
    /// Why the store takes no segments at present, if so: STORE_FULL or STORE_FAILED.
    pub fn refusal(&self) -> Option<ErrorCode> {
        *self.refusal.borrow()
    }

    /// Waits until the store takes segments; at once where it does.
    pub async fn await_store(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.refusal.subscribe().wait_for(Option::is_none).await;
    }

    /// Whether `error` is the store's, which then takes nothing from anybody until it is back, rather
    /// than that of one object.
    pub async fn takes_nothing(self: &Arc<Self>, error: &Error) -> bool {
        let code = error.code();
        if code == ErrorCode::STORE_FAILED {
            // One question answers all who met it.
            let _one_at_a_time = self.probing.lock().await;
            if self.refusal().is_none() && self.archive.has_room().await {
                return false;
            }
        } else if code != ErrorCode::STORE_FULL {
            return false;
        }
        if self.refusal.send_replace(Some(code)).is_some() {
            return true;
        }
        log::error!(
            "{error}; boxes are held back until it takes segments, and keep what they have"
        );
        let library = self.clone();
        tokio::spawn(async move {
            let since = clock::now();
            while !library.archive.has_room().await {
                clock::pause(ASK_EVERY).await;
            }
            let seconds = clock::now().since(since).as_secs();
            log::info!("the archive takes segments again, after {seconds} s: boxes go on sending");
            library.refusal.send_replace(None);
        });
        true
    }
}
