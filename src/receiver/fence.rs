//! Which of a box's connections counts: the newest (epoch, connection number).
//!
//! A box may come back while its old connection still looks alive; the old one then ends with
//! FENCED. An older claim is refused, and the refusal names the epoch held, so that a box whose card
//! was restored can go past it; another process has to go past the epoch, not only past the number of
//! its connection. Two machines with one key would go past each other for ever: a process that comes
//! back after another one took over is told CLONED instead. Pure.

use crate::media::BoxId;
use std::collections::{HashMap, VecDeque};

/// What a connection claims in its `Hello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The box's boot epoch.
    pub epoch: u64,
    /// Counts the connections of the epoch.
    pub connection: u64,
    /// Random for each run of the box's process.
    pub nonce: u64,
}

impl Claim {
    fn order(&self) -> (u64, u64) {
        (self.epoch, self.connection)
    }
}

/// What becomes of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts from now on; this session, if any, ends with FENCED.
    Admitted {
        /// The session that it displaces.
        displaced: Option<u64>,
    },
    /// It is older than the claim held: FENCED.
    Older(Claim),
    /// Its process was displaced by another one and is back: CLONED.
    Cloned {
        /// The session of the other one, if it lasts.
        by: Option<u64>,
    },
}

/// How many displaced processes of a box are remembered.
const REMEMBERED: usize = 8;

struct Held {
    claim: Claim,
    session: Option<u64>,
    displaced: VecDeque<u64>,
}

/// The claims held, of every box that connected since the start of the process.
#[derive(Default)]
pub struct Fence {
    boxes: HashMap<BoxId, Held>,
}

impl Fence {
    /// Judges the claim of `session`. Callers let only boxes of the roster in, which bounds the table.
    pub fn claim(&mut self, id: BoxId, claim: Claim, session: u64) -> Verdict {
        let Some(held) = self.boxes.get_mut(&id) else {
            let held = Held {
                claim,
                session: Some(session),
                displaced: VecDeque::new(),
            };
            self.boxes.insert(id, held);
            return Verdict::Admitted { displaced: None };
        };
        let other_process = claim.nonce != held.claim.nonce;
        if other_process && held.displaced.contains(&claim.nonce) {
            let by = held.session;
            return Verdict::Cloned { by };
        }
        let newer = match other_process {
            true => claim.epoch > held.claim.epoch,
            false => claim.order() > held.claim.order(),
        };
        if !newer {
            return Verdict::Older(held.claim);
        }
        if other_process {
            held.displaced.push_back(held.claim.nonce);
            if held.displaced.len() > REMEMBERED {
                held.displaced.pop_front();
            }
        }
        held.claim = claim;
        Verdict::Admitted {
            displaced: held.session.replace(session),
        }
    }

    /// The session has ended. Its claim stays: an older one is refused also after it.
    pub fn end(&mut self, id: BoxId, session: u64) {
        if let Some(held) = self.boxes.get_mut(&id)
            && held.session == Some(session)
        {
            held.session = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOX: BoxId = BoxId([1; 16]);

    fn claim(epoch: u64, connection: u64, nonce: u64) -> Claim {
        Claim {
            epoch,
            connection,
            nonce,
        }
    }

    #[test]
    fn the_newest_wins_and_the_older_session_ends() {
        let mut fence = Fence::default();
        let admitted = |displaced| Verdict::Admitted { displaced };
        assert_eq!(fence.claim(BOX, claim(5, 1, 7), 1), admitted(None));
        assert_eq!(fence.claim(BOX, claim(5, 2, 7), 2), admitted(Some(1)));
        assert_eq!(
            fence.claim(BOX, claim(5, 2, 7), 3),
            Verdict::Older(claim(5, 2, 7))
        );
        fence.end(BOX, 2);
        assert_eq!(
            fence.claim(BOX, claim(5, 1, 7), 4),
            Verdict::Older(claim(5, 2, 7))
        );
        assert_eq!(fence.claim(BOX, claim(6, 1, 8), 5), admitted(None));
        assert_eq!(
            fence.claim(BoxId([2; 16]), claim(1, 1, 9), 6),
            admitted(None)
        );
    }

    #[test]
    fn a_restored_card_goes_past_the_epoch_it_is_told() {
        let mut fence = Fence::default();
        fence.claim(BOX, claim(50, 1, 7), 1);
        let Verdict::Older(held) = fence.claim(BOX, claim(3, 1, 8), 2) else {
            panic!("an older epoch was let in")
        };
        let past = claim(held.epoch + 1, 1, 8);
        assert_eq!(
            fence.claim(BOX, past, 3),
            Verdict::Admitted { displaced: Some(1) }
        );
    }

    #[test]
    fn another_process_does_not_come_in_under_the_same_epoch() {
        let mut fence = Fence::default();
        fence.claim(BOX, claim(5, 1, 7), 1);
        let verdict = fence.claim(BOX, claim(5, 9, 8), 2);
        assert_eq!(verdict, Verdict::Older(claim(5, 1, 7)));
    }

    #[test]
    fn two_machines_with_one_key_are_told_apart() {
        let mut fence = Fence::default();
        fence.claim(BOX, claim(5, 1, 7), 1);
        fence.claim(BOX, claim(6, 1, 8), 2);
        let cloned = Verdict::Cloned { by: Some(2) };
        assert_eq!(fence.claim(BOX, claim(7, 1, 7), 3), cloned);
        // The process that holds the key goes on undisturbed.
        assert_eq!(
            fence.claim(BOX, claim(6, 2, 8), 4),
            Verdict::Admitted { displaced: Some(2) }
        );
    }

    proptest! {
        #[test]
        fn at_most_one_session_of_a_box_counts(claims in proptest::collection::vec((0u64..4, 0u64..4, 0u64..3), 1..40)) {
            let mut fence = Fence::default();
            let mut alive = std::collections::BTreeSet::new();
            let mut best = None;
            for (session, (epoch, connection, nonce)) in claims.into_iter().enumerate() {
                if let Verdict::Admitted { displaced } = fence.claim(BOX, claim(epoch, connection, nonce), session as u64) {
                    prop_assert!(best < Some((epoch, connection)));
                    best = Some((epoch, connection));
                    if let Some(old) = displaced {
                        prop_assert!(alive.remove(&old));
                    }
                    alive.insert(session as u64);
                }
                prop_assert!(alive.len() <= 1);
            }
        }
    }
}
