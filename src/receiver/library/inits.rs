//! Inits that boxes sent, for the segments that need them.
//!
//! An init comes on a stream of its own and names no recording; the first segment that needs it says to
//! which it belongs, and it is archived there. Until then it is in memory only: it was acknowledged to
//! nobody, and a box sends it again on each connection and whenever a segment misses it. So nothing is
//! left over in the store of an init that no recording needs any more.

use crate::clock;
use crate::media::{BoxId, Hash};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How long a segment waits for an init that it has overtaken.
const WITHIN: Duration = Duration::from_secs(10);
/// Bytes held of one box; the oldest go first. An init takes about 1 kB.
const OF_ONE_BOX: usize = 512 * 1024;

/// What each box has sent, the oldest first.
#[derive(Default)]
pub(super) struct Inits {
    held: Mutex<BTreeMap<BoxId, VecDeque<(Hash, Bytes)>>>,
    arrived: Notify,
}

impl Inits {
    /// Holds an init of `sender`, whose hash is checked.
    pub fn take(&self, sender: BoxId, hash: Hash, bytes: Bytes) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_box = held.entry(sender).or_default();
        of_box.retain(|(known, _)| *known != hash);
        of_box.push_back((hash, bytes));
        let mut length: usize = of_box.iter().map(|(_, bytes)| bytes.len()).sum();
        while length > OF_ONE_BOX
            && let Some((_, oldest)) = of_box.pop_front()
        {
            length -= oldest.len();
        }
        drop(held);
        self.arrived.notify_waiters();
    }

    fn find(&self, sender: BoxId, hash: Hash) -> Option<Bytes> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of_box = held.get(&sender)?.iter();
        let found = of_box.find(|(known, _)| *known == hash);
        found.map(|(_, bytes)| bytes.clone())
    }

    /// The init, once it is here: streams overtake each other. None when it did not come in time.
    pub async fn wait_for(&self, sender: BoxId, hash: Hash) -> Option<Bytes> {
        clock::within(WITHIN, async {
            loop {
                // Registered before the look, so that an init between the two is not missed.
                let mut arrived = pin!(self.arrived.notified());
                arrived.as_mut().enable();
                if let Some(bytes) = self.find(sender, hash) {
                    return bytes;
                }
                arrived.await;
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOX: BoxId = BoxId([1; 16]);

    fn hash(number: u8) -> Hash {
        Hash([number; 32])
    }

    #[tokio::test(start_paused = true)]
    async fn a_box_s_inits_are_its_own_and_the_oldest_go_first() {
        let inits = Inits::default();
        let most = 8;
        for number in 0..=most {
            let bytes = Bytes::from(vec![number; OF_ONE_BOX / usize::from(most)]);
            inits.take(BOX, hash(number), bytes);
        }
        assert_eq!(inits.wait_for(BOX, hash(0)).await, None);
        for number in 1..=most {
            let found = inits.wait_for(BOX, hash(number)).await;
            assert_eq!(found.unwrap()[0], number);
        }
        assert_eq!(inits.wait_for(BoxId([2; 16]), hash(1)).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_overtaken_is_waited_for() {
        let inits = Inits::default();
        let coming = async {
            clock::pause(WITHIN / 2).await;
            inits.take(BOX, hash(2), Bytes::from_static(b"other"));
            clock::pause(WITHIN / 4).await;
            inits.take(BOX, hash(1), Bytes::from_static(b"init"));
        };
        let (found, ()) = tokio::join!(inits.wait_for(BOX, hash(1)), coming);
        assert_eq!(found.unwrap(), b"init"[..]);
    }
}
