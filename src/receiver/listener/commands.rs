//! Commands to boxes: each goes to the box's present session, and waits there for its answer.
//!
//! An answer counts only on the session that was asked, so that no box answers for another one.

use super::lock;
use super::session::Outgoing;
use crate::clock;
use crate::media::{BoxId, RecordingId};
use crate::receiver::ingest::printable;
use crate::wire::Message;
use crate::wire::message::{Action, Answer, Command};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long a box may take: a stop waits for the encoders and for the disk.
const ANSWER_WITHIN: Duration = Duration::from_secs(25);

/// Why a box did not do it, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum Uncommanded {
    /// No connected box has this id, or stands in this room.
    #[error(
        "`{0}`: no box of this id or in this room is connected to this receiver: the page /boxes shows \
         which are; on the box, `hallcast status` says why it is not"
    )]
    NotConnected(String),
    /// Several do.
    #[error("`{room}`: several connected boxes are in this room: name one by its id: {ids}")]
    Several {
        /// The room.
        room: String,
        /// Their ids.
        ids: String,
    },
    /// The box said so.
    #[error("box {0} refuses: {1}")]
    Refused(BoxId, String),
    /// It had the command, or was about to have it.
    #[error(
        "box {0} was connected and is gone before it answered: it may have done it; look at the page /boxes"
    )]
    Gone(BoxId),
    /// It is connected, and silent.
    #[error(
        "box {0} did not answer within {secs} s: it may have done it all the same, its disk may hang, or its \
         version knows no commands; look at the page /boxes and at its log",
        secs = ANSWER_WITHIN.as_secs()
    )]
    Unanswered(BoxId),
}

/// A session that was welcomed.
struct Taker {
    session: u64,
    room: String,
    messages: mpsc::Sender<Outgoing>,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
}

/// The boxes that are connected, and who waits for an answer of theirs.
pub(super) struct Commands {
    boxes: Mutex<HashMap<BoxId, Taker>>,
    /// The next command's id. They begin anywhere, so that an answer to an earlier run of the receiver
    /// is none to this one.
    next: Mutex<u64>,
}

impl Default for Commands {
    fn default() -> Self {
        Self {
            boxes: Mutex::default(),
            next: Mutex::new(RandomState::new().hash_one(())),
        }
    }
}

impl Commands {
    /// The box's session is welcomed: commands go to this one from now on. Sessions count up, and one that
    /// a newer one displaces may be welcomed late.
    pub fn take_in(
        &self,
        (box_id, session): (BoxId, u64),
        room: &str,
        messages: mpsc::Sender<Outgoing>,
    ) {
        let taker = Taker {
            session,
            room: room.to_owned(),
            messages,
            waiting: HashMap::new(),
        };
        let mut boxes = lock(&self.boxes);
        if boxes.get(&box_id).is_none_or(|t| t.session < session) {
            boxes.insert(box_id, taker);
        }
    }

    /// A session of the box is over; who waits for its answers learns it.
    pub fn ended(&self, box_id: BoxId, session: u64) {
        let mut boxes = lock(&self.boxes);
        if boxes.get(&box_id).is_some_and(|t| t.session == session) {
            boxes.remove(&box_id);
        }
    }

    /// The box answered on this session.
    pub fn answered(&self, (box_id, session): (BoxId, u64), answer: Answer) {
        let mut boxes = lock(&self.boxes);
        let taker = boxes.get_mut(&box_id).filter(|t| t.session == session);
        let waiting = taker.and_then(|taker| taker.waiting.remove(&answer.id));
        match waiting {
            // Whoever waited may have just given up.
            Some(waiting) => drop(waiting.send(answer)),
            None => log::debug!("box {box_id} answers what nobody waits for"),
        }
    }

    /// Has a box do something; gives the recording concerned.
    pub async fn give(
        &self,
        box_or_room: &str,
        action: Action,
    ) -> Result<Option<RecordingId>, Uncommanded> {
        let id = {
            let mut next = lock(&self.next);
            *next = next.wrapping_add(1);
            *next
        };
        let (answered, answer) = oneshot::channel();
        let (box_id, messages) = {
            let mut boxes = lock(&self.boxes);
            let (box_id, taker) = find(&mut boxes, box_or_room)?;
            taker.waiting.insert(id, answered);
            (box_id, taker.messages.clone())
        };
        log::info!("box {box_id} is asked: {action:?}");
        let command = Outgoing::Message(Message::Command(Command { id, action }));
        let answer = clock::within(ANSWER_WITHIN, async {
            // An error means that the session is over; the answer's sender goes with it.
            let _ = messages.send(command).await;
            answer.await
        });
        match answer.await {
            Some(Ok(answer)) => match answer.refused {
                Some(why) => Err(Uncommanded::Refused(box_id, printable(&why))),
                None => Ok(answer.recording),
            },
            Some(Err(_)) => Err(Uncommanded::Gone(box_id)),
            None => {
                if let Some(taker) = lock(&self.boxes).get_mut(&box_id) {
                    taker.waiting.remove(&id);
                }
                Err(Uncommanded::Unanswered(box_id))
            }
        }
    }
}

/// The connected box of this id, or in this room.
fn find<'a>(
    boxes: &'a mut HashMap<BoxId, Taker>,
    box_or_room: &str,
) -> Result<(BoxId, &'a mut Taker), Uncommanded> {
    let id = box_or_room.parse::<BoxId>().ok();
    let is_meant = |box_id: BoxId, taker: &Taker| Some(box_id) == id || taker.room == box_or_room;
    let meant = boxes.iter_mut().map(|(box_id, taker)| (*box_id, taker));
    let mut meant: Vec<_> = meant.filter(|(id, taker)| is_meant(*id, taker)).collect();
    if meant.len() > 1 {
        let mut ids: Vec<_> = meant.iter().map(|(id, _)| id.to_string()).collect();
        ids.sort();
        return Err(Uncommanded::Several {
            room: printable(box_or_room),
            ids: ids.join(", "),
        });
    }
    let none = || Uncommanded::NotConnected(printable(box_or_room));
    meant.pop().ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: BoxId = BoxId([1; 16]);
    const TWO: BoxId = BoxId([2; 16]);

    fn answer(id: u64) -> Answer {
        Answer {
            id,
            refused: None,
            recording: Some(RecordingId([9; 16])),
        }
    }

    async fn id_of(waiting: &mut mpsc::Receiver<Outgoing>) -> u64 {
        match waiting.recv().await {
            Some(Outgoing::Message(Message::Command(command))) => command.id,
            _ => panic!("no command"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_session_that_was_asked_answers_and_silence_ends() {
        let commands = Commands::default();
        let (one, mut to_one) = mpsc::channel(8);
        let (two, _to_two) = mpsc::channel(8);
        commands.take_in((ONE, 1), "Hall", one.clone());
        commands.take_in((TWO, 2), "Annex", two.clone());
        let asked = commands.give("Hall", Action::Start);
        let answering = async {
            let id = id_of(&mut to_one).await;
            commands.answered((TWO, 2), answer(id));
            commands.answered((ONE, 7), answer(id));
            commands.answered((ONE, 1), answer(id.wrapping_add(1)));
            commands.answered((ONE, 1), answer(id));
            commands.answered((ONE, 1), answer(id));
        };
        let (given, ()) = tokio::join!(asked, answering);
        assert_eq!(given.unwrap(), Some(RecordingId([9; 16])));

        let silent = commands.give(&ONE.to_string(), Action::Stop).await;
        assert!(
            matches!(silent, Err(Uncommanded::Unanswered(ONE))),
            "{silent:?}"
        );
        assert!(lock(&commands.boxes)[&ONE].waiting.is_empty());

        // The older session ends after the newer one is welcomed.
        commands.take_in((ONE, 3), "Hall", one.clone());
        commands.take_in((ONE, 2), "Hall", one);
        commands.ended(ONE, 1);
        let (gone, ()) = tokio::join!(commands.give("Hall", Action::Mark), async {
            commands.ended(ONE, 3);
        });
        assert!(matches!(gone, Err(Uncommanded::Gone(ONE))), "{gone:?}");
        let away = commands.give("Hall", Action::Mark).await.unwrap_err();
        assert!(
            away.to_string().starts_with("`Hall`: no box of this id"),
            "{away}"
        );

        commands.take_in((ONE, 4), "Annex", two);
        let which = commands.give("Annex", Action::Mark).await.unwrap_err();
        assert!(
            which.to_string().ends_with(&format!("{ONE}, {TWO}")),
            "{which}"
        );
    }
}
