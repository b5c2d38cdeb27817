//! Reading back what was written, by segment and offset.

use super::Error;
use super::index::Place;
use super::log::{Held, Spool};
use crate::media::{Hash, RecordingId, SegmentKey};

impl Spool {
    /// Bytes `offset..offset + length` of a segment.
    pub fn read(&self, key: SegmentKey, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        let absent = || Error::NotHeld {
            key,
            offset,
            length,
        };
        let held = self.recordings.get(&key.recording).ok_or_else(absent)?;
        let segment = held
            .state
            .tracks
            .get(&key.track)
            .and_then(|track| track.segments.get(&key.sequence))
            .ok_or_else(absent)?;
        let (mut bytes, mut start) = (Vec::new(), 0);
        for &(place, chunk) in &segment.chunks {
            let (from, to) = (offset.max(start), (offset + length).min(start + chunk));
            if from < to {
                let at = place.at + (from - start);
                bytes.extend(self.read_place(
                    key.recording,
                    held,
                    Place { at, ..place },
                    (to - from) as usize,
                )?);
            }
            start += chunk;
        }
        if bytes.len() as u64 == length {
            Ok(bytes)
        } else {
            Err(absent())
        }
    }

    /// The bytes of an init.
    pub fn read_init(&self, hash: &Hash) -> Result<Option<Vec<u8>>, Error> {
        for (&recording, held) in &self.recordings {
            if let Some(&(place, length)) = held.state.inits.get(hash) {
                return self.read_place(recording, held, place, length).map(Some);
            }
        }
        Ok(None)
    }

    fn read_place(
        &self,
        recording: RecordingId,
        held: &Held,
        place: Place,
        length: usize,
    ) -> Result<Vec<u8>, Error> {
        let path = self.log_path(recording, place.file);
        let mut bytes = vec![0; length];
        let open = held
            .open
            .iter()
            .find(|file| file.number == place.file)
            .map(|file| file.file.clone());
        let file = match open {
            Some(file) => Ok(file),
            None => self.disk.open(&path),
        };
        file.and_then(|file| file.read_at(&mut bytes, place.at))
            .map_err(|error| Error::disk(path, "reading a chunk back", error))?;
        Ok(bytes)
    }
}
