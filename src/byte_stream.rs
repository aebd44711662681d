//! Event streams of frameworks whose bodies are streams of bytes.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::{FusedStream, Stream, TryStream};
use http::{Extensions, request::Parts};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;

use crate::{
    body::ResponseBody,
    event_stream::{EventStream, PollFrame, RequestContext},
    layer::SseCompletionLayer,
    slot::Slot,
};

pin_project! {
    /// A stream of bytes that ends like a wrapped response. Returned by [`SseCompletionLayer::byte_stream`].
    ///
    /// The stream buffers, closes and reports as a [`ResponseBody`](crate::ResponseBody) does. Its items are whole events if
    /// the items of the upstream are, and its error is the error of the upstream.
    ///
    /// The stream is `Unpin` if the upstream is. Otherwise pin it, for example with `std::pin::pin!`.
    ///
    /// # Cancellation safety
    ///
    /// Nothing is lost between two polls. Dropping the stream drops the upstream and the cancellations.
    #[must_use = "streams do nothing unless polled"]
    pub struct ByteStream<S>
    where
        S: TryStream<Ok = Bytes>,
    {
        #[pin]
        body: ResponseBody<StreamBody<S>>,
    }
}

pin_project! {
    // A stream of bytes as a body without trailers.
    struct StreamBody<S> {
        #[pin]
        stream: S,
    }
}

impl SseCompletionLayer {
    /// Wraps an event stream that is not the body of a Tower service's response.
    ///
    /// For frameworks whose bodies are streams of bytes, such as actix-web, poem and Rocket: the handler returns this
    /// stream in place of its own. Every option of the layer applies. `request` is the head of the request that the handler
    /// serves; the closures of the layer, such as that of [`cancel_when`](Self::cancel_when), receive the head. In a framework
    /// with request types of its own, build a head from `http::Request::get(uri)` and the headers that the closures read.
    /// Convert items of another type with `TryStreamExt::map_ok`. The options that a wrapped handler sets in the extensions of
    /// its response are set here on a clone of the layer:
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
    /// // In a handler: an upstream that never ends on its own.
    /// # let (request, ()) = http::Request::new(()).into_parts();
    /// let first = Ok::<_, Infallible>(Bytes::from("data: hello\n\n"));
    /// let upstream = stream::iter([first]).chain(stream::pending());
    /// let body = completion
    ///     .clone()
    ///     .close_event(CloseEvent::new().data("bye"))
    ///     .byte_stream(&request, upstream);
    ///
    /// shutdown.close();
    /// let received: Vec<_> = body.map(|bytes| bytes.unwrap()).collect().await;
    /// assert_eq!(received, ["data: hello\n\n", "event: close\ndata: bye\n\n"]);
    /// # }
    /// ```
    ///
    /// The handler makes the response. It must have a body, the type `text/event-stream`, no `Content-Length` and no
    /// `Content-Encoding`, and must not be the response to a `HEAD` request. If a layer is around the handler too, insert
    /// [`SkipCompletion`](crate::SkipCompletion) into the extensions of that response.
    ///
    /// # Fairness
    ///
    /// One poll takes at most 64 items of the upstream. [`cancel_when`](Self::cancel_when) documents when the cancellation is
    /// polled.
    ///
    /// # Panics
    ///
    /// Panics if the layer has a deadline or a keep-alive, and the caller is outside of a tokio runtime or the runtime's timer
    /// is disabled.
    pub fn byte_stream<S>(&self, request: &Parts, upstream: S) -> ByteStream<S>
    where
        S: TryStream<Ok = Bytes>,
    {
        let request = RequestContext::of_request(&self.config, request);
        let slot = Slot::new(EventStream::start(request, &Extensions::new()));
        ByteStream {
            body: ResponseBody::event_stream(StreamBody { stream: upstream }, slot),
        }
    }
}

impl<S> Stream for ByteStream<S>
where
    S: TryStream<Ok = Bytes>,
{
    type Item = Result<Bytes, S::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut body = self.project().body;
        loop {
            let frame = ready!(body.as_mut().poll_frame(cx)?);
            // There are no trailers, because the upstream has none.
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => return Poll::Ready(Some(Ok(data))),
                Some(Err(_trailers)) => {}
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<S> FusedStream for ByteStream<S>
where
    S: TryStream<Ok = Bytes>,
{
    fn is_terminated(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl<S> fmt::Debug for ByteStream<S>
where
    S: TryStream<Ok = Bytes>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream").finish_non_exhaustive()
    }
}

impl<S> Body for StreamBody<S>
where
    S: TryStream<Ok = Bytes>,
{
    type Data = Bytes;
    type Error = S::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame<Bytes, S::Error> {
        self.project().stream.try_poll_next(cx).map_ok(Frame::data)
    }
}
