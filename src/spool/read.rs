//! Reading back what was written, by segment and offset: planned under the spool's lock, read outside it.

use super::Error;
use super::disk::{Disk, DiskFile};
use super::index::Place;
use super::log::Spool;
use super::record::{FILE_HEADER, HEADER, OVERHEAD, Record, read_record};
use crate::media::{Hash, RecordingId, SegmentKey, TrackId};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Where bytes of the spool lie. [`ReadPlan::read`] needs the spool no more.
pub struct ReadPlan {
    disk: Arc<dyn Disk>,
    key: SegmentKey,
    pieces: Vec<Piece>,
}

/// A part of one record's body.
struct Piece {
    path: PathBuf,
    file: Option<Arc<dyn DiskFile>>,
    record_at: u64,
    record_length: usize,
    from: usize,
    to: usize,
}

impl ReadPlan {
    /// The bytes. Every record concerned is read whole and its check looked at, so that damage is
    /// found here and not by the receiver.
    pub fn read(&self) -> Result<Vec<u8>, Error> {
        let mut bytes =
            Vec::with_capacity(self.pieces.iter().map(|piece| piece.to - piece.from).sum());
        for piece in &self.pieces {
            let opened;
            let file = match &piece.file {
                Some(file) => file,
                None => {
                    opened = self
                        .disk
                        .open(&piece.path)
                        .map_err(|error| self.failed(piece, error))?;
                    &opened
                }
            };
            let mut record = vec![0; piece.record_length];
            file.read_at(&mut record, piece.record_at)
                .map_err(|error| self.failed(piece, error))?;
            let body = match read_record(&record) {
                Ok((
                    Record::Chunk { bytes, .. }
                    | Record::Init { bytes, .. }
                    | Record::Final { bytes, .. },
                    length,
                )) if length == record.len() => bytes,
                _ => return Err(self.damaged(piece)),
            };
            // The plan was made from the length of this body.
            bytes.extend(
                body.get(piece.from..piece.to)
                    .ok_or_else(|| self.damaged(piece))?,
            );
        }
        Ok(bytes)
    }

    fn failed(&self, piece: &Piece, error: io::Error) -> Error {
        match error.kind() {
            // Freed or erased since the plan was made.
            io::ErrorKind::NotFound => Error::NotHeld {
                key: self.key,
                offset: 0,
                length: 0,
            },
            io::ErrorKind::UnexpectedEof => self.damaged(piece),
            // A bad sector. Where the disk gives nothing of the file, it may do so later.
            _ if self.gives_its_beginning(piece) => self.damaged(piece),
            _ => Error::disk(&piece.path, "reading a chunk back", error),
        }
    }

    fn gives_its_beginning(&self, piece: &Piece) -> bool {
        let file = self.disk.open_uncached(&piece.path);
        file.is_ok_and(|file| file.read_at(&mut [0; FILE_HEADER], 0).is_ok())
    }

    fn damaged(&self, piece: &Piece) -> Error {
        Error::Damaged {
            path: piece.path.clone(),
            at: piece.record_at,
            key: self.key,
        }
    }
}

impl Spool {
    /// A plan to read bytes `offset..offset + length` of a segment.
    pub fn plan_read(&self, key: SegmentKey, offset: u64, length: u64) -> Result<ReadPlan, Error> {
        let absent = || Error::NotHeld {
            key,
            offset,
            length,
        };
        let held = self.recordings.get(&key.recording).ok_or_else(absent)?;
        let segment = held.state.segment(key.track, key.sequence);
        let segment = segment.ok_or_else(absent)?;
        let end = offset.checked_add(length).ok_or_else(absent)?;
        if end > segment.length {
            return Err(absent());
        }
        let (mut pieces, mut start) = (Vec::new(), 0);
        for &(place, chunk) in &segment.chunks {
            let (from, to) = (offset.max(start), end.min(start + chunk));
            if from < to {
                let (from, to) = ((from - start) as usize, (to - start) as usize);
                let mut piece = self.piece(key.recording, place, chunk as usize);
                (piece.from, piece.to) = (from, to);
                pieces.push(piece);
            }
            start += chunk;
        }
        Ok(ReadPlan {
            disk: self.disk.clone(),
            key,
            pieces,
        })
    }

    /// A plan to read an init, if the spool holds it.
    pub fn plan_read_init(&self, hash: &Hash) -> Option<ReadPlan> {
        self.recordings.iter().find_map(|(&recording, held)| {
            let &(place, length, _) = held.state.inits.get(hash)?;
            Some(self.plan_place(recording, place, length))
        })
    }

    /// Bytes `offset..offset + length` of a segment.
    pub fn read(&self, key: SegmentKey, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        self.plan_read(key, offset, length)?.read()
    }

    /// The bytes of an init.
    pub fn read_init(&self, hash: &Hash) -> Result<Option<Vec<u8>>, Error> {
        self.plan_read_init(hash)
            .map(|plan| plan.read())
            .transpose()
    }

    /// A plan to read the body of one record.
    pub(super) fn plan_place(
        &self,
        recording: RecordingId,
        place: Place,
        length: usize,
    ) -> ReadPlan {
        let key = SegmentKey {
            recording,
            track: TrackId::EVENTS,
            sequence: 0,
        };
        ReadPlan {
            disk: self.disk.clone(),
            key,
            pieces: vec![self.piece(recording, place, length)],
        }
    }

    fn piece(&self, recording: RecordingId, place: Place, body: usize) -> Piece {
        let open = self.recordings.get(&recording).and_then(|held| {
            let mut open = held.open.iter();
            open.find(|file| file.number == place.file)
        });
        Piece {
            path: self.log_path(recording, place.file),
            file: open.map(|file| file.file.clone()),
            record_at: place.at.saturating_sub(HEADER as u64),
            record_length: OVERHEAD + body,
            from: 0,
            to: body,
        }
    }
}
