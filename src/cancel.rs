//! What a cancellation is: a future that is made for each request, and that is ready when its stream shall end.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, request};
use pin_project_lite::pin_project;

/// The cancellation of a layer that was given none: no stream is ever cancelled.
#[derive(Debug, Clone, Copy, Default)]
pub struct NeverCancel;

/// The cancellation that [`cancel_when`](crate::SseCompletionLayer::cancel_when) makes of a closure.
#[derive(Clone)]
pub struct CancelWhen<F> {
    make: F,
}

pin_project! {
    /// Two cancellations on one layer: a stream is cancelled by the first that fires.
    #[derive(Debug, Clone)]
    pub struct FirstOf<A, B> {
        #[pin]
        first: A,
        #[pin]
        second: B,
    }
}

/// Makes the cancellation of each request. Implemented by the types of this module alone.
pub trait MakeCancellation {
    /// Ready when the stream shall end; never polled again after that.
    type Cancellation: Future<Output = ()>;

    /// This and another one.
    type Or<M: MakeCancellation>: MakeCancellation;

    fn make<B>(&self, request: Request<B>) -> (Request<B>, Self::Cancellation);

    fn or<M: MakeCancellation>(self, other: M) -> Self::Or<M>;
}

impl MakeCancellation for NeverCancel {
    type Cancellation = Self;
    type Or<M: MakeCancellation> = M;

    #[inline]
    fn make<B>(&self, request: Request<B>) -> (Request<B>, Self) {
        (request, Self)
    }

    fn or<M: MakeCancellation>(self, other: M) -> M {
        other
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
    F: Fn(&request::Parts) -> Fut,
    Fut: Future<Output = ()>,
{
    type Cancellation = Fut;
    type Or<M: MakeCancellation> = FirstOf<Self, M>;

    fn make<B>(&self, request: Request<B>) -> (Request<B>, Fut) {
        let (head, body) = request.into_parts();
        let cancellation = (self.make)(&head);
        (Request::from_parts(head, body), cancellation)
    }

    fn or<M: MakeCancellation>(self, other: M) -> Self::Or<M> {
        FirstOf {
            first: self,
            second: other,
        }
    }
}

impl<A, B> MakeCancellation for FirstOf<A, B>
where
    A: MakeCancellation,
    B: MakeCancellation,
{
    type Cancellation = FirstOf<A::Cancellation, B::Cancellation>;
    type Or<M: MakeCancellation> = FirstOf<Self, M>;

    fn make<T>(&self, request: Request<T>) -> (Request<T>, Self::Cancellation) {
        let (request, first) = self.first.make(request);
        let (request, second) = self.second.make(request);
        (request, FirstOf { first, second })
    }

    fn or<M: MakeCancellation>(self, other: M) -> Self::Or<M> {
        FirstOf {
            first: self,
            second: other,
        }
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
