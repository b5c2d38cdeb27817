//! The box's half of the control stream.
//!
//! What must be said is waited for. How the box is ([`Control::tell`]) is not: it goes in pieces as the
//! transport takes them, and while one report is on its way only the newest waits behind it.

use super::Error;
use crate::wire::Message;
use crate::wire::framing;
use quinn::{SendStream, WriteError};

pub(super) struct Control {
    stream: SendStream,
    /// What is left of the report on its way.
    under_way: Vec<u8>,
    /// The newest one after it.
    next: Option<Message>,
}

impl Control {
    pub fn new(stream: SendStream) -> Self {
        Self {
            stream,
            under_way: Vec::new(),
            next: None,
        }
    }

    /// Says it, after what is left of a report.
    pub async fn say(&mut self, message: &Message) -> Result<(), Error> {
        let bytes = encode(message)?;
        while !self.under_way.is_empty() {
            self.write_on().await?;
        }
        self.stream.write_all(&bytes).await.map_err(failed)
    }

    /// Says it when the transport can take it, unless a newer one comes before.
    pub fn tell(&mut self, message: Message) {
        self.next = Some(message);
    }

    /// Something is told.
    pub fn is_telling(&self) -> bool {
        self.next.is_some() || !self.under_way.is_empty()
    }

    /// Gives the transport what it takes now of what is told. May be cancelled at any time.
    pub async fn write_on(&mut self) -> Result<(), Error> {
        if self.under_way.is_empty()
            && let Some(message) = self.next.take()
        {
            self.under_way = encode(&message)?;
        }
        let written = self.stream.write(&self.under_way).await.map_err(failed)?;
        self.under_way.drain(..written);
        Ok(())
    }
}

fn encode(message: &Message) -> Result<Vec<u8>, Error> {
    framing::encode(message).map_err(|e| Error::coded(e.code(), e))
}

fn failed(error: WriteError) -> Error {
    match error {
        WriteError::ConnectionLost(error) => error.into(),
        error => Error::Plain(format!("the control stream: {error}")),
    }
}
