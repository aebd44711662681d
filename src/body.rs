//! The response body: an event stream, or anything else unchanged.

use std::{fmt, mem, pin::Pin, task::Context};

use bytes::Bytes;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    event_stream::{EventStream, PollFrame, Upstream},
    slot::Slot,
};

pin_project! {
    /// Response body of [`SseCompletion`](crate::SseCompletion).
    ///
    /// `B` is the upstream: the body of the inner service. The data type is [`Bytes`], and the error type is that of the upstream. A
    /// response that is not an event stream passes through unchanged. The default is a pass-through of the upstream's default, so
    /// that layers that make their own responses, such as CORS and authorization, can wrap this layer.
    ///
    /// An error of the upstream waits in the body until buffered bytes have been returned. Therefore the body is `Send` if the
    /// upstream and its error are, and `Sync` likewise.
    ///
    /// # States of an event stream
    ///
    /// | state | what is polled | next state |
    /// |---|---|---|
    /// | streaming | the upstream; the cancellations and the deadlines when the upstream is pending, and before every 32nd frame that is ready | stopping, when a cancellation has fired or a deadline has passed; ending, when the upstream has ended or failed; finished, when the upstream's `is_end_stream` is `true` after its last frame |
    /// | stopping | the upstream, for up to 32 frames that it has ready | ending |
    /// | finished | the upstream, if the server polls again | done, when the upstream ends or fails |
    /// | ending | nothing: the upstream is dropped. The buffered bytes or the close event are returned, then the trailers or the error | done |
    /// | done | nothing | |
    ///
    /// [`is_end_stream`](Body::is_end_stream) is `true` in the states finished and done. The [size](Body::size_hint) is
    /// unknown until the last data has been returned, regardless of the upstream's hint.
    ///
    /// # Cancellation safety
    ///
    /// Nothing is lost between two polls. Dropping the body drops the upstream and the cancellations.
    pub struct ResponseBody<B>
    where
        B: Body,
    {
        #[pin]
        upstream: Upstream<B>,
        stream: Stream,
    }

    impl<B> PinnedDrop for ResponseBody<B>
    where
        B: Body,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if matches!(this.stream, Stream::PassThrough) {
                return;
            }
            // The stream is dropped after its upstream, even if the destructor of the upstream panics.
            if let Some(mut stream) = this.stream.take() {
                stream.drop_upstream(this.upstream);
            }
        }
    }
}

/// The state of a body besides its upstream.
enum Stream {
    PassThrough,
    /// The body has not been polled. If a layer around this one takes the state, the body is a pass-through.
    Unpolled(Slot),
    // Boxed, because every response is moved several times, and few are event streams.
    Polled(Box<EventStream>),
}

impl<B: Body> ResponseBody<B> {
    pub(crate) fn pass_through(upstream: B) -> Self {
        Self {
            upstream: Upstream::Open { body: upstream },
            stream: Stream::PassThrough,
        }
    }

    pub(crate) fn event_stream(upstream: B, slot: Slot) -> Self {
        Self {
            upstream: Upstream::Open { body: upstream },
            stream: Stream::Unpolled(slot),
        }
    }
}

impl Stream {
    /// Takes the state of an event stream. The body passes through after that.
    fn take(&mut self) -> Option<Box<EventStream>> {
        match mem::replace(self, Self::PassThrough) {
            Self::PassThrough => None,
            Self::Unpolled(slot) => slot.take(),
            Self::Polled(stream) => Some(stream),
        }
    }

    /// Takes the state out of the slot, and polls the body for the first time.
    #[cold]
    #[inline(never)]
    fn poll_first<B>(
        &mut self,
        upstream: Pin<&mut Upstream<B>>,
        cx: &mut Context<'_>,
    ) -> PollFrame<Bytes, B::Error>
    where
        B: Body<Data: Into<Bytes>>,
    {
        *self = self.take().map_or(Self::PassThrough, Self::Polled);
        match self {
            Self::Polled(stream) => stream.poll_slow(upstream, cx, None),
            _ => upstream.poll_frame(cx),
        }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data: Into<Bytes>>,
{
    type Data = Bytes;
    type Error = B::Error;

    // Inlined into the poll of an outer layer, where this body is a pass-through.
    #[inline(always)]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame<Bytes, B::Error> {
        let this = self.project();
        if let Stream::Polled(stream) = this.stream {
            return stream.poll_frame(this.upstream, cx);
        }
        match this.stream {
            Stream::Unpolled(_) => this.stream.poll_first(this.upstream, cx),
            _ => this.upstream.poll_frame(cx),
        }
    }

    #[inline(always)]
    fn is_end_stream(&self) -> bool {
        match &self.stream {
            Stream::Polled(stream) => stream.is_end_stream(),
            Stream::Unpolled(slot) if !slot.is_empty() => false,
            _ => self.upstream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.stream {
            Stream::Polled(stream) => stream.size_hint(),
            Stream::Unpolled(slot) if !slot.is_empty() => SizeHint::default(),
            _ => self.upstream.size_hint(),
        }
    }
}

impl<B: Body + Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::pass_through(B::default())
    }
}

impl<B: Body> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
