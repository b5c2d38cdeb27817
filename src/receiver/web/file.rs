//! Answers with a file of this machine, whole or in part.

use super::{ASK_AGAIN, MP4};
use crate::media::RecordingId;
use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use std::io::SeekFrom;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// A file, or the range of it that was asked for (RFC 9110, section 14), streamed.
pub(super) async fn answer(
    path: &Path,
    id: RecordingId,
    headers: &HeaderMap,
) -> std::io::Result<Response> {
    let mut file = tokio::fs::File::open(path).await?;
    let total = file.metadata().await?.len();
    let asked = headers.get(RANGE).and_then(|range| range.to_str().ok());
    let range = match asked.map(|asked| parse_range(asked, total)) {
        Some(Range::Unsatisfiable) => {
            let about = [(CONTENT_RANGE, format!("bytes */{total}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, about).into_response());
        }
        Some(Range::Part(first, last)) => Some((first, last)),
        Some(Range::Whole) | None => None,
    };
    let (first, length) = match range {
        Some((first, last)) => (first, last - first + 1),
        None => (0, total),
    };
    file.seek(SeekFrom::Start(first)).await?;
    let part = file.take(length);
    let stream = futures_util::stream::try_unfold(part, |mut part| async move {
        let mut piece = Vec::with_capacity(64 * 1024);
        let read = (&mut part).take(64 * 1024).read_to_end(&mut piece).await?;
        Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(piece), part)))
    });
    let about = [
        (CONTENT_TYPE, MP4.to_owned()),
        (CONTENT_LENGTH, length.to_string()),
        (ACCEPT_RANGES, "bytes".to_owned()),
        (CACHE_CONTROL, ASK_AGAIN.to_owned()),
        (ETAG, format!("\"{id}\"")),
    ];
    let body = Body::from_stream(stream);
    Ok(match range {
        Some((first, last)) => {
            let place = [(CONTENT_RANGE, format!("bytes {first}-{last}/{total}"))];
            (StatusCode::PARTIAL_CONTENT, about, place, body).into_response()
        }
        None => (about, body).into_response(),
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// Not one range of bytes: the whole is a right answer to it.
    Whole,
    /// First and last byte.
    Part(u64, u64),
    Unsatisfiable,
}

fn parse_range(asked: &str, total: u64) -> Range {
    let Some((first, last)) = asked
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Range::Whole;
    };
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), _) if first >= total => Range::Unsatisfiable,
        (Ok(first), Ok(last)) if first <= last => Range::Part(first, last.min(total - 1)),
        (Ok(first), Err(_)) if last.is_empty() => Range::Part(first, total - 1),
        (Err(_), Ok(suffix)) if first.is_empty() => match (suffix, total) {
            (0, _) | (_, 0) => Range::Unsatisfiable,
            _ => Range::Part(total.saturating_sub(suffix), total - 1),
        },
        _ => Range::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_those_of_rfc_9110() {
        for (asked, expected) in [
            ("bytes=0-0", Range::Part(0, 0)),
            ("bytes=10-", Range::Part(10, 99)),
            ("bytes=-5", Range::Part(95, 99)),
            ("bytes=-500", Range::Part(0, 99)),
            ("bytes=90-500", Range::Part(90, 99)),
            ("bytes=100-", Range::Unsatisfiable),
            ("bytes=-0", Range::Unsatisfiable),
            ("bytes=5-2", Range::Whole),
            ("bytes=0-1,5-6", Range::Whole),
            ("pages=1-2", Range::Whole),
            ("", Range::Whole),
        ] {
            assert_eq!(parse_range(asked, 100), expected, "{asked}");
        }
    }

    proptest! {
        #[test]
        fn a_range_lies_within_the_file(asked in "bytes=[0-9]{0,20}-[0-9]{0,20}", total in 0u64..1000) {
            if let Range::Part(first, last) = parse_range(&asked, total) {
                prop_assert!(first <= last && last < total);
            }
        }
    }
}
