//! Cancellations: futures that are made for each request, and whose completion ends the stream.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, request::Parts};
use pin_project_lite::pin_project;

/// The cancellation of a layer without one: the layer never cancels a stream by itself.
///
/// A layer that has only a [`Shutdown`](crate::Shutdown) keeps this type, because a shutdown is not part of the layer's type.
#[derive(Debug, Clone, Copy, Default)]
pub struct NeverCancel;

/// The cancellation that [`cancel_when`](crate::SseCompletionLayer::cancel_when) makes with a closure.
#[derive(Clone)]
pub struct CancelWhen<F> {
    make: F,
}

pin_project! {
    /// Two cancellations of one layer. The first that completes cancels the stream.
    #[derive(Debug, Clone)]
    pub struct FirstOf<A, B> {
        #[pin]
        first: A,
        #[pin]
        second: B,
    }
}

/// The cancellations of a layer: makes the future of each request.
///
/// The trait is sealed. It is implemented by [`NeverCancel`], by [`CancelWhen`] for closures that return a
/// `Future<Output = ()>`, and by [`FirstOf`] for two implementations.
pub trait MakeCancellation: sealed::Sealed {
    /// The future whose completion cancels the stream. It is not polled again after that.
    type Cancellation: Future<Output = ()>;

    /// Makes the future for this request.
    #[doc(hidden)]
    fn make(&self, head: &Parts) -> Self::Cancellation;

    /// Makes the future for this request, and returns the request.
    #[doc(hidden)]
    fn make_for_request<B>(&self, request: Request<B>) -> (Request<B>, Self::Cancellation) {
        let (head, body) = request.into_parts();
        let cancellation = self.make(&head);
        (Request::from_parts(head, body), cancellation)
    }
}

mod sealed {
    #[expect(unnameable_types, reason = "the trait seals another one")]
    pub trait Sealed {}

    impl Sealed for super::NeverCancel {}
    impl<F> Sealed for super::CancelWhen<F> {}
    impl<A, B> Sealed for super::FirstOf<A, B> {}
}

impl MakeCancellation for NeverCancel {
    type Cancellation = Self;

    #[inline]
    fn make(&self, _head: &Parts) -> Self {
        Self
    }

    #[inline]
    fn make_for_request<B>(&self, request: Request<B>) -> (Request<B>, Self) {
        (request, Self)
    }
}

impl Future for NeverCancel {
    type Output = ();

    #[inline]
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl<F> CancelWhen<F> {
    pub(crate) fn new(make: F) -> Self {
        Self { make }
    }
}

impl<F> fmt::Debug for CancelWhen<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelWhen").finish_non_exhaustive()
    }
}

impl<F, Fut> MakeCancellation for CancelWhen<F>
where
    F: Fn(&Parts) -> Fut,
    Fut: Future<Output = ()>,
{
    type Cancellation = Fut;

    fn make(&self, head: &Parts) -> Fut {
        (self.make)(head)
    }
}

impl<A, B> FirstOf<A, B> {
    pub(crate) fn new(first: A, second: B) -> Self {
        Self { first, second }
    }
}

impl<A, B> MakeCancellation for FirstOf<A, B>
where
    A: MakeCancellation,
    B: MakeCancellation,
{
    type Cancellation = FirstOf<A::Cancellation, B::Cancellation>;

    fn make(&self, head: &Parts) -> Self::Cancellation {
        FirstOf::new(self.first.make(head), self.second.make(head))
    }
}

impl<A, B> Future for FirstOf<A, B>
where
    A: Future<Output = ()>,
    B: Future<Output = ()>,
{
    type Output = ();

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        match this.first.poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => this.second.poll(cx),
        }
    }
}
