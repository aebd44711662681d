//! The end of an answer, as the API marks it.

use axum::BoxError;
use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};

/// Name and value.
pub(crate) type Field = (&'static str, &'static str);

/// To HTTP, an answer that stops between two events is whole. Here its end mark decides: nothing comes behind it, and
/// without it the end is an error.
pub(crate) fn until(
    end_mark: Field,
    body: Incoming,
) -> impl Stream<Item = Result<Frame<Bytes>, BoxError>> {
    stream::try_unfold((body, Vec::new()), move |(mut body, mut last)| async move {
        if ends_with(end_mark, &last) {
            return Ok(None);
        }
        match body.frame().await.transpose()? {
            Some(frame) => {
                last.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                // Enough for the last event.
                last.drain(..last.len().saturating_sub(256));
                Ok(Some((frame, (body, last))))
            }
            None if last.is_empty() => Ok(None),
            None => Err("the upstream has stopped before the end of its answer".into()),
        }
    })
}

/// A line of its own: a model may well say the same, but its words are in JSON, which breaks no lines.
fn ends_with(end_mark: Field, last: &[u8]) -> bool {
    let last = String::from_utf8_lossy(last);
    let mut fields = last.lines().filter_map(|line| line.split_once(':'));
    (last.ends_with("\n\n") || last.ends_with("\r\n\r\n"))
        && fields.any(|(name, value)| (name, value.trim()) == end_mark)
}
