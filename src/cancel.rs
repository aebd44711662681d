//! Cancellations: futures that are made for each request, and whose completion ends the stream.

mod boxed;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::request::Parts;
use pin_project_lite::pin_project;

pub use self::boxed::BoxCancellation;

/// The cancellation of a layer without one: the layer never cancels a stream on its own.
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
    /// Two cancellations of one layer, or the futures that they make for a request. The first that completes cancels the stream.
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
/// `Future<Output = ()>`, by [`FirstOf`] for two implementations, and by [`BoxCancellation`]. With a
/// [`Shutdown`](crate::Shutdown) alone, a layer stays an `SseCompletionLayer<NeverCancel>`.
///
/// # In a library
///
/// A layer of your own that takes cancellations as [`cancel_when`](crate::SseCompletionLayer::cancel_when) does:
///
/// ```
/// use http::request::Parts;
/// use tower::Layer;
/// use tower_sse_completion::{
///     CancelWhen, FirstOf, MakeCancellation, NeverCancel, SseCompletion, SseCompletionLayer,
/// };
///
/// #[derive(Clone)]
/// pub struct MyLayer<C = NeverCancel> {
///     completion: SseCompletionLayer<C>,
/// }
///
/// impl MyLayer {
///     pub fn new() -> Self {
///         MyLayer { completion: SseCompletionLayer::new() }
///     }
/// }
///
/// impl<C: MakeCancellation> MyLayer<C> {
///     pub fn cancel_when<F, Fut>(self, make: F) -> MyLayer<FirstOf<C, CancelWhen<F>>>
///     where
///         F: Fn(&Parts) -> Fut,
///         Fut: Future<Output = ()>,
///     {
///         MyLayer { completion: self.completion.cancel_when(make) }
///     }
/// }
///
/// impl<S, C: Clone> Layer<S> for MyLayer<C> {
///     type Service = SseCompletion<S, C>;
///
///     fn layer(&self, inner: S) -> Self::Service {
///         self.completion.layer(inner)
///     }
/// }
///
/// let layer = MyLayer::new().cancel_when(|_request| std::future::pending());
/// # let _ = layer.layer(());
/// ```
///
/// A service of your own around [`SseCompletion<S, C>`](crate::SseCompletion) has the response
/// `Response<ResponseBody<B, C::Cancellation>>` and the future `ResponseFuture<S::Future, C::Cancellation>`, where
/// `S: Service<Request<R>, Response = Response<B>>`, `B: Body` and `C: MakeCancellation`.
///
/// A cancellation that captures something has no name. A function returns a layer with such a cancellation as
/// `impl MakeCancellation`. With the bounds below, the layer fits `axum::Router::layer`:
///
/// ```
/// use tokio_util::sync::CancellationToken;
/// use tower_sse_completion::{MakeCancellation, SseCompletionLayer};
///
/// fn completion(
///     token: CancellationToken,
/// ) -> SseCompletionLayer<impl MakeCancellation<Cancellation: Send + 'static> + Clone> {
///     SseCompletionLayer::new().cancel_when(move |_request| token.clone().cancelled_owned())
/// }
///
/// let app = axum::Router::<()>::new().layer(completion(CancellationToken::new()));
/// # let _ = app;
/// ```
///
/// For a field, erase the type of the cancellation:
///
/// ```
/// use tokio_util::sync::CancellationToken;
/// use tower_sse_completion::{BoxCancellation, SseCompletionLayer};
///
/// struct Server {
///     completion: SseCompletionLayer<BoxCancellation>,
/// }
///
/// fn server(token: CancellationToken) -> Server {
///     let completion = SseCompletionLayer::new()
///         .cancel_when(move |_request| token.clone().cancelled_owned())
///         .boxed();
///     Server { completion }
/// }
/// # let _ = server(CancellationToken::new()).completion;
/// ```
///
/// The [crate's documentation](crate#body-type-change) has a service whose types are all erased.
pub trait MakeCancellation: sealed::Sealed {
    /// The future whose completion cancels the stream. It is not polled again after that.
    type Cancellation: Future<Output = ()>;

    /// Makes the future for this request.
    #[doc(hidden)]
    fn make(&self, head: &Parts) -> Self::Cancellation;

    /// Makes the future, if it is the same for every request.
    #[doc(hidden)]
    #[inline]
    fn make_without_request(&self) -> Option<Self::Cancellation> {
        None
    }
}

mod sealed {
    #[expect(unnameable_types, reason = "the trait seals another one")]
    pub trait Sealed {}

    impl Sealed for super::NeverCancel {}
    impl<F> Sealed for super::CancelWhen<F> {}
    impl Sealed for super::BoxCancellation {}
    impl<A, B> Sealed for super::FirstOf<A, B> {}
}

impl MakeCancellation for NeverCancel {
    type Cancellation = Self;

    #[inline]
    fn make(&self, _head: &Parts) -> Self {
        Self
    }

    #[inline]
    fn make_without_request(&self) -> Option<Self> {
        Some(Self)
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
