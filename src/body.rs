//! The response body: an event stream, or anything else as it is.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::Extensions;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{cancel::NeverCancel, event_stream::EventStream, future::StreamParts};

pin_project! {
    /// Response body of [`SseCompletion`](crate::SseCompletion).
    ///
    /// Its data is [`Bytes`], and its error that of the upstream: the inner service's body. A response that is
    /// not an event stream passes through untouched.
    ///
    /// # States of an event stream
    ///
    /// | state | what is polled | next state |
    /// |---|---|---|
    /// | streaming | the upstream, and now and then the cancellation | cancelled, when the cancellation has fired; ending, when the upstream has ended or failed; finished, when it says so with its last frame |
    /// | cancelled | the upstream, for what it has ready | ending, when it has no more, or after 32 frames |
    /// | ending | nothing: the upstream is dropped | done, when the rest is out: what was held or the close event, then trailers or the error |
    /// | finished | the upstream, if the server asks for more all the same | done, when the upstream has ended |
    /// | done | nothing | |
    ///
    /// The stream [is at its end](Body::is_end_stream) when it is finished or done. Until its last data is out its
    /// [size](Body::size_hint) is unknown, whatever the upstream says.
    ///
    /// # Cancellation safety
    ///
    /// Nothing is lost between two polls. With the body, the upstream and the cancellation are dropped.
    pub struct ResponseBody<B, C = NeverCancel>
    where
        B: Body,
    {
        #[pin]
        kind: Kind<B, C>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B, C>
    where
        B: Body,
    {
        Passthrough {
            #[pin]
            upstream: B,
        },
        EventStream {
            #[pin]
            stream: EventStream<B, C>,
        },
    }
}

/// What a poll for a frame gives.
pub(crate) type Polled<D, E> = Poll<Option<Result<Frame<D>, E>>>;

impl<B: Body, C> ResponseBody<B, C> {
    pub(crate) fn passthrough(upstream: B) -> Self {
        Self {
            kind: Kind::Passthrough { upstream },
        }
    }

    pub(crate) fn event_stream(upstream: B, parts: StreamParts<C>, response: &Extensions) -> Self {
        Self {
            kind: Kind::EventStream {
                stream: EventStream::new(upstream, parts, response),
            },
        }
    }
}

impl<B: Body, C> fmt::Debug for ResponseBody<B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

impl<B, C> Body for ResponseBody<B, C>
where
    B: Body,
    C: Future<Output = ()>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Passthrough { upstream } => poll_untouched(upstream, cx),
            KindProjection::EventStream { stream } => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Passthrough { upstream } => upstream.is_end_stream(),
            Kind::EventStream { stream } => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passthrough { upstream } => upstream.size_hint(),
            Kind::EventStream { stream } => stream.size_hint(),
        }
    }
}

pub(crate) fn poll_untouched<B: Body>(
    upstream: Pin<&mut B>,
    cx: &mut Context<'_>,
) -> Polled<Bytes, B::Error> {
    upstream.poll_frame(cx).map_ok(into_bytes_frame)
}

#[inline(always)]
pub(crate) fn into_bytes_frame(frame: Frame<impl Buf>) -> Frame<Bytes> {
    match frame.into_data() {
        Ok(data) => Frame::data(into_bytes(data)),
        Err(trailers) => trailers.map_data(into_bytes),
    }
}

/// Without a copy where the data is `Bytes` already.
#[inline(always)]
pub(crate) fn into_bytes(mut data: impl Buf) -> Bytes {
    data.copy_to_bytes(data.remaining())
}
