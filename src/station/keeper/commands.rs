//! What the receiver asks for. What the site's settings allow is carried out like a request at the control
//! socket, and answered when that is; everything else is refused by the key that would allow it.

use super::Keeper;
use crate::clock;
use crate::media::health::{MOST_TEXT, cut};
use crate::media::{Monotonic, RecordingId, StartedBy, StopReason};
use crate::panel::Lamp;
use crate::station::control::{Reply, Request};
use crate::station::recorder::State;
use crate::uplink::{Answer, Command, Commanded, Offer};
use serde::Deserialize;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

/// Whoever gave a command this long ago was told that it came to nothing: a recording that begins only
/// then, after the disk hung, say, would surprise everybody.
const STALE: Duration = Duration::from_secs(20);
/// How long the lamp shows which box it is.
const IDENTIFYING: Duration = Duration::from_secs(10);

/// What a site can allow its receiver: a word of `recording.network-commands`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkCommand {
    /// To have things captured: to start a recording, and to go on after a pause.
    Start,
    /// To have nothing captured any more: to stop a recording, and to pause it.
    Stop,
    /// To set a mark.
    Mark,
    /// To show by the lamp which box it is.
    Identify,
}

/// Commands of the present connection.
#[derive(Debug, Default)]
pub(super) struct Commands {
    /// Those under way, and where their answers come. The uplink lets few through at once.
    waiting: Vec<(u64, Receiver<Reply>)>,
    /// Until when the lamp shows which box it is.
    identifying: Option<Monotonic>,
}

impl Commands {
    /// The connection is over: nobody waits for an answer any more.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
    }

    /// Whether the lamp shows which box it is.
    pub(super) fn identifies(&self, now: Monotonic) -> bool {
        self.identifying.is_some_and(|until| now < until)
    }
}

impl Keeper {
    /// The receiver asked for something at this instant.
    pub(super) fn commanded(&mut self, command: &Command, at: Monotonic) {
        let action = command.action;
        log::info!("the receiver asks: {action:?}");
        let request = match self.refusal(action, at) {
            Some(why) => return self.answer(command.id, Some(&why), None),
            None => match action {
                Commanded::Start => Request::Start,
                Commanded::Stop => Request::Stop,
                Commanded::Pause => Request::Pause,
                Commanded::Resume => Request::Resume,
                Commanded::Mark => Request::Mark,
                Commanded::Identify | Commanded::Other(_) => {
                    self.commands.identifying = Some(clock::now().plus(IDENTIFYING));
                    return self.answer(command.id, None, None);
                }
            },
        };
        let (reply, answer) = channel();
        self.commands.waiting.push((command.id, answer));
        self.carry_out(request, (StartedBy::Network, StopReason::Network), reply);
    }

    /// Why the command is not even tried.
    fn refusal(&self, action: Commanded, at: Monotonic) -> Option<String> {
        let (needed, word) = match action {
            Commanded::Start | Commanded::Resume => (NetworkCommand::Start, "start"),
            Commanded::Stop | Commanded::Pause => (NetworkCommand::Stop, "stop"),
            Commanded::Mark => (NetworkCommand::Mark, "mark"),
            Commanded::Identify => (NetworkCommand::Identify, "identify"),
            Commanded::Other(number) => {
                return Some(format!(
                    "this version of the box knows no command {number}: upgrade the box"
                ));
            }
        };
        if !self.parts.network_commands.contains(&needed) {
            return Some(format!(
                "the settings of this box do not allow it: add \"{word}\" to \
                 recording.network-commands in its box.toml"
            ));
        }
        if clock::now().since(at) > STALE {
            return Some("the box was held up for too long to do it now: ask again".into());
        }
        let identify = needed == NetworkCommand::Identify;
        if identify && self.parts.lamp_needed.is_none() {
            return Some("this box has no lamp".into());
        }
        // What the lamp says of a recording or a fault, nothing may stand in the way of.
        let idle = self.recorder.state() == State::Idle;
        let free = idle && self.lamp(clock::now()) != Lamp::FastBlink;
        (identify && !free)
            .then(|| "its lamp shows a recording or a fault: ask when there is neither".into())
    }

    /// Says what became of the commands that are done by now.
    pub(super) fn answer_commands(&mut self) {
        for (id, waiting) in std::mem::take(&mut self.commands.waiting) {
            match waiting.try_recv() {
                Err(TryRecvError::Empty) => self.commands.waiting.push((id, waiting)),
                Ok(Reply::Done { recording }) => self.answer(id, None, recording.parse().ok()),
                Ok(Reply::Refused(why)) => self.answer(id, Some(&why), None),
                // Nothing else is answered to what can be commanded.
                Ok(_) | Err(TryRecvError::Disconnected) => {
                    let why = "what became of it is not known: see the log of the box";
                    self.answer(id, Some(why), None);
                }
            }
        }
    }

    fn answer(&self, id: u64, refused: Option<&str>, recording: Option<RecordingId>) {
        self.offer(Offer::Answer(Answer {
            id,
            refused: refused.map(|why| cut(why, MOST_TEXT).to_owned()),
            recording,
        }));
    }
}
