//! Frames of bodies.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};

/// Return type of [`Body::poll_frame`].
pub(crate) type PollFrame<D, E> = Poll<Option<Result<Frame<D>, E>>>;

/// Converts the data of a frame. Trailers and frames of unknown kinds stay as they are.
#[inline]
pub(crate) fn into_bytes(frame: Frame<impl Into<Bytes>>) -> Frame<Bytes> {
    frame.map_data(Into::into)
}

/// Polls a body, and converts its data.
#[inline]
pub(crate) fn poll_bytes<B>(body: Pin<&mut B>, cx: &mut Context<'_>) -> PollFrame<Bytes, B::Error>
where
    B: Body<Data: Into<Bytes>>,
{
    body.poll_frame(cx).map_ok(into_bytes)
}
