//! Reading what an archive holds. An object that cannot be read does not count as durable, and keeps
//! nothing else from being read.

use crate::media::{RecordingId, SegmentKey, TrackId};
use crate::receiver::archive::{self, Archive, Listing};
use crate::receiver::catalog::{self, Catalog, Erased, Recording, Stored};
use crate::receiver::manifest::Manifest;
use bytes::Bytes;
use futures_util::StreamExt;
use std::collections::BTreeMap;

/// Objects read at the same time.
const AT_ONCE: usize = 8;

/// What the tombstones say.
pub(super) async fn read_erased(
    archive: &Archive,
    catalog: &mut Catalog,
) -> Result<(), archive::Error> {
    for (id, confirmed) in archive.erased().await? {
        let erased = read_tombstone(archive, id).await?;
        let confirmed = !confirmed.is_empty();
        let swept = true;
        catalog.erased.insert(
            id,
            Erased {
                confirmed,
                swept,
                ..erased
            },
        );
    }
    Ok(())
}

/// What one tombstone says; one that cannot be read is a tombstone all the same.
pub(super) async fn read_tombstone(
    archive: &Archive,
    id: RecordingId,
) -> Result<Erased, archive::Error> {
    let tombstone = readable(archive, archive.tombstone(id).await)?;
    let box_id = tombstone.and_then(|tombstone| tombstone.box_id?.parse().ok());
    Ok(Erased {
        box_id,
        ..Erased::default()
    })
}

/// None for an object that is damaged, an error for a store that cannot be asked now.
fn readable<T>(
    archive: &Archive,
    read: Result<T, archive::Error>,
) -> Result<Option<T>, archive::Error> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(e) if archive.is_shared() && !e.is_missing() => Err(e),
        Err(e) => {
            log::error!("{e}; it does not count as kept; `hallcast-receiver verify` says more");
            Ok(None)
        }
    }
}

/// What the objects of a recording say, beyond what is `known` of it.
pub async fn read_recording(
    archive: &Archive,
    id: RecordingId,
    listing: &Listing,
    known: Recording,
) -> Result<Recording, archive::Error> {
    let mut recording = known;
    recording.inits.extend(listing.inits.keys());
    for (range, reason) in &listing.lost {
        recording.insert_lost(*range, *reason);
    }
    let in_manifest = match listing.manifest {
        true => read_manifest(archive, id, &mut recording).await?,
        false => BTreeMap::new(),
    };
    let mut unread = Vec::new();
    for (&track, sequences) in &listing.segments {
        for &sequence in sequences.keys() {
            let here = recording.segments.get(&track);
            if here.is_some_and(|here| here.contains_key(&sequence)) {
                continue;
            }
            match in_manifest.get(&(track, sequence)) {
                Some(stored) if track != TrackId::EVENTS => {
                    recording.insert(sequence, track, *stored, Vec::new());
                }
                _ => unread.push(SegmentKey {
                    recording: id,
                    track,
                    sequence,
                }),
            }
        }
    }
    let read = |key: SegmentKey| async move {
        let read: Result<Bytes, _> = archive.read(&archive::segment_path(&key)).await;
        (key, read)
    };
    let mut objects = futures_util::stream::iter(unread)
        .map(read)
        .buffered(AT_ONCE);
    while let Some((key, bytes)) = objects.next().await {
        let Some(bytes) = readable(archive, bytes)? else {
            continue;
        };
        match catalog::read_segment(&bytes, archive::hash(&bytes)) {
            Ok(read) if read.provenance.key == key => {
                recording.claim_span(read.provenance.span, read.provenance.epoch);
                recording.insert(key.sequence, key.track, read.stored, read.facts);
            }
            Ok(_) => log::error!("segment {key}: the object holds another segment"),
            Err(e) => log::error!("segment {key}: the object is damaged: {e}"),
        }
    }
    for (track, sequence) in in_manifest.keys() {
        let listed = listing.segments.get(track);
        if !listed.is_some_and(|listed| listed.contains_key(sequence)) {
            log::error!(
                "recording {id}: the manifest names {track}/{sequence}, which is not there"
            );
        }
    }
    Ok(recording)
}

/// The segments that a complete recording's manifest names.
async fn read_manifest(
    archive: &Archive,
    id: RecordingId,
    recording: &mut Recording,
) -> Result<BTreeMap<(TrackId, u64), Stored>, archive::Error> {
    let read = archive.read(&archive::manifest_path(id)).await;
    let Some(bytes) = readable(archive, read)? else {
        return Ok(BTreeMap::new());
    };
    match Manifest::from_json(&bytes).and_then(|manifest| manifest.segments()) {
        Ok(segments) => {
            recording.complete = true;
            let by_name = |(track, sequence, stored)| ((track, sequence), stored);
            Ok(segments.into_iter().map(by_name).collect())
        }
        // It stays as it is; what is durable is in the objects.
        Err(e) => {
            log::error!("recording {id}: manifest.json: {e}");
            Ok(BTreeMap::new())
        }
    }
}
