//! The response body: an event stream, or anything else unchanged.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{cancel::NeverCancel, event_stream::EventStream, frame::poll_bytes};

pin_project! {
    /// Response body of [`SseCompletion`](crate::SseCompletion).
    ///
    /// `B` is the body of the inner service, and `C` is the future of the cancellation: the body of an `SseCompletion<S, C>` is a
    /// `ResponseBody<B, C::Cancellation>`. For a [`BoxCancellation`](crate::BoxCancellation), name the future as
    /// `<BoxCancellation as MakeCancellation>::Cancellation`.
    ///
    /// Its data is [`Bytes`], and its error is the error of the upstream: the body of the inner service. A response that is
    /// not an event stream passes through unchanged. The default is a pass-through of the upstream's default, so that layers
    /// that make their own responses, such as CORS and authorization, can wrap this layer.
    ///
    /// An error of the upstream waits in the body until buffered bytes have been returned. Therefore the body is `Send` if the
    /// upstream, its error and the cancellation are, and `Sync` likewise.
    ///
    /// # States of an event stream
    ///
    /// | state | what is polled | next state |
    /// |---|---|---|
    /// | streaming | the upstream; the cancellation and the deadlines when the upstream is pending, and before every 32nd frame that is ready | stopping, when the cancellation has fired or a deadline has passed; ending, when the upstream has ended or failed; finished, when the upstream says so with its last frame |
    /// | stopping | the upstream, for up to 32 frames that it has ready | ending |
    /// | finished | the upstream, if the server polls again | done |
    /// | ending | nothing: the upstream is dropped. The buffered bytes or the close event are returned, then the trailers or the error | done |
    /// | done | nothing | |
    ///
    /// [`is_end_stream`](Body::is_end_stream) is `true` in the states finished and done. The [size](Body::size_hint) is
    /// unknown until the last data has been returned, regardless of the upstream's hint.
    ///
    /// # Cancellation safety
    ///
    /// Nothing is lost between two polls. Dropping the body drops the upstream and the cancellation.
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
        PassThrough {
            #[pin]
            upstream: B,
        },
        // Boxed, because every response is moved several times, and most are no event streams.
        EventStream {
            stream: Pin<Box<EventStream<B, C>>>,
        },
    }
}

impl<B: Body, C> ResponseBody<B, C> {
    pub(crate) fn pass_through(upstream: B) -> Self {
        Self {
            kind: Kind::PassThrough { upstream },
        }
    }

    pub(crate) fn event_stream(stream: EventStream<B, C>) -> Self {
        Self {
            kind: Kind::EventStream {
                stream: Box::pin(stream),
            },
        }
    }
}

impl<B: Body + Default, C> Default for ResponseBody<B, C> {
    fn default() -> Self {
        Self::pass_through(B::default())
    }
}

impl<B: Body, C> fmt::Debug for ResponseBody<B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

impl<B, C> Body for ResponseBody<B, C>
where
    B: Body<Data: Into<Bytes>>,
    C: Future<Output = ()>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::PassThrough { upstream } => poll_bytes(upstream, cx),
            KindProjection::EventStream { stream } => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::PassThrough { upstream } => upstream.is_end_stream(),
            Kind::EventStream { stream } => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::PassThrough { upstream } => upstream.size_hint(),
            Kind::EventStream { stream } => stream.size_hint(),
        }
    }
}
