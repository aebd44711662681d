//! Event streams of frameworks whose bodies are streams of bytes.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::{FusedStream, Stream, TryStream};
use http::{Extensions, Request};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;

use crate::{
    body::Polled,
    cancel::{MakeCancellation, NeverCancel},
    event_stream::EventStream,
    future::StreamParts,
    layer::SseCompletionLayer,
};

pin_project! {
    /// An event stream of bytes that ends on purpose. Made by [`SseCompletionLayer::byte_stream`].
    ///
    /// It holds back, closes and reports just as a [`ResponseBody`](crate::ResponseBody) does. Its items are whole
    /// events where those of the upstream are, and its error is that of the upstream.
    ///
    /// # Cancellation safety
    ///
    /// Nothing is lost between two polls. With the stream, the upstream and the cancellation are dropped.
    pub struct ByteStream<S, C = NeverCancel>
    where
        S: TryStream<Ok = Bytes>,
    {
        #[pin]
        events: EventStream<Upstream<S>, C>,
    }
}

pin_project! {
    // A stream of bytes as a body without trailers.
    struct Upstream<S> {
        #[pin]
        stream: S,
    }
}

impl<C: MakeCancellation> SseCompletionLayer<C> {
    /// Ends an event stream on purpose that is not the body of a Tower service's response.
    ///
    /// For frameworks whose bodies are streams of bytes, such as actix-web, poem, salvo and Rocket: the handler hands
    /// them this stream in place of its own. Every option of the layer holds. What a handler behind the layer
    /// says in the extensions of its response, a handler says here on a clone of the layer:
    ///
    /// ```
    /// use bytes::Bytes;
    /// use futures_util::{StreamExt, stream};
    /// use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};
    /// # use std::convert::Infallible;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let shutdown = Shutdown::new();
    /// let completion = SseCompletionLayer::new().shutdown(&shutdown);
    ///
    /// // In a handler: an upstream that never ends by itself.
    /// let first = Ok::<_, Infallible>(Bytes::from("data: hello\n\n"));
    /// let upstream = stream::iter([first]).chain(stream::pending());
    /// let body = completion
    ///     .clone()
    ///     .close_event(CloseEvent::new().data("bye"))
    ///     .byte_stream(upstream);
    ///
    /// shutdown.close();
    /// let received: Vec<_> = body.map(|bytes| bytes.unwrap()).collect().await;
    /// assert_eq!(received, ["data: hello\n\n", "event: close\ndata: bye\n\n"]);
    /// # }
    /// ```
    ///
    /// The response is the handler's own: it must be one with a body, of the type `text/event-stream`, without
    /// `Content-Length` and `Content-Encoding`, and no answer to `HEAD`. Should a layer be around the handler all the same,
    /// a [`SkipCompletion`](crate::SkipCompletion) in that response keeps the two from both writing a close event. The closure of
    /// [`cancel_when`](Self::cancel_when) is called once for each stream, with an empty `GET` request; what depends on
    /// the real request, the handler can add by another `cancel_when`.
    ///
    /// # Fairness
    ///
    /// One poll takes at most 64 items of the upstream. See [`cancel_when`](Self::cancel_when) for when the cancellation
    /// is looked at.
    ///
    /// # Panics
    ///
    /// With a deadline or a keep-alive, outside of a tokio runtime with its timer enabled.
    pub fn byte_stream<S>(&self, upstream: S) -> ByteStream<S, C::Cancellation>
    where
        S: TryStream<Ok = Bytes>,
    {
        let (_request, cancellation) = self.cancel.make(Request::new(()));
        let parts = StreamParts::new(cancellation, &self.config);
        ByteStream {
            events: EventStream::new(Upstream { stream: upstream }, parts, &Extensions::new()),
        }
    }
}

impl<S, C> Stream for ByteStream<S, C>
where
    S: TryStream<Ok = Bytes>,
    C: Future<Output = ()>,
{
    type Item = Result<Bytes, S::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut events = self.project().events;
        loop {
            let frame = ready!(events.as_mut().poll_frame(cx)?);
            // There are no trailers, because the upstream has none.
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => return Poll::Ready(Some(Ok(data))),
                Some(Err(_trailers)) => {}
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<S, C> FusedStream for ByteStream<S, C>
where
    S: TryStream<Ok = Bytes>,
    C: Future<Output = ()>,
{
    fn is_terminated(&self) -> bool {
        self.events.is_end_stream()
    }
}

impl<S, C> fmt::Debug for ByteStream<S, C>
where
    S: TryStream<Ok = Bytes>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream").finish_non_exhaustive()
    }
}

impl<S> Body for Upstream<S>
where
    S: TryStream<Ok = Bytes>,
{
    type Data = Bytes;
    type Error = S::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<Bytes, S::Error> {
        self.project().stream.try_poll_next(cx).map_ok(Frame::data)
    }
}
