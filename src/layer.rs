//! The layer, which is a builder of its configuration.

mod closing;
#[cfg(feature = "tokio")]
mod deadlines;

use std::{future::Future, sync::Arc};

use http::request::Parts;

use crate::{
    cancel::{BoxCancellation, CancelWhen, FirstOf, MakeCancellation, NeverCancel},
    config::Config,
    report::{observer::LayerObserver, stream_report::StreamReport, telemetry::Telemetry},
    shutdown::Shutdown,
};

/// Layer that ends the event streams of a service with a close event.
///
/// The [crate's documentation](crate) describes the layer. A layer from [`new`](Self::new) closes streams that end empty. A
/// [`shutdown`](Self::shutdown) or another cancellation also closes the streams that it cancels:
///
/// ```
/// use tokio_util::sync::CancellationToken;
/// use tower_sse_completion::{CloseEvent, SseCompletionLayer};
///
/// let token = CancellationToken::new();
/// let on_shutdown = token.clone();
/// let layer = SseCompletionLayer::new()
///     .cancel_when(move |_request| on_shutdown.clone().cancelled_owned())
///     .close_event(CloseEvent::new().data(r#"{"reason":"restart"}"#));
/// # let _ = layer;
/// ```
///
/// [`cancel_when`](Self::cancel_when) and [`shutdown`](Self::shutdown) add to what the layer has. Every other method replaces
/// what was set before: the last of [`on_end`](Self::on_end) and [`on_end_with`](Self::on_end_with) is used, for example.
#[derive(Debug, Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct SseCompletionLayer<C = NeverCancel> {
    pub(crate) cancel: C,
    pub(crate) config: Arc<Config>,
}

impl SseCompletionLayer {
    /// Returns a layer that closes empty streams and cancels none.
    pub fn new() -> Self {
        Telemetry::describe();
        Self {
            cancel: NeverCancel,
            config: Arc::default(),
        }
    }
}

impl Default for SseCompletionLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: MakeCancellation> SseCompletionLayer<C> {
    /// Cancels a stream when the future of its request completes.
    ///
    /// The closure is called for every request, also if the response is not an event stream, so keep it cheap.
    /// A future that is not needed is dropped without a poll. The head of the request, which has the extensions of earlier
    /// middleware, can decide which streams end: all of them, or those of one user.
    ///
    /// A layer can have several cancellations. The first that completes cancels the stream, also if it was complete before
    /// the request. It is not polled again after that.
    ///
    /// The stream is cancelled when the future completes, regardless of the reason. If the future's source can disappear, such as
    /// the sender of a channel, decide in the future what that means. For a `watch` channel it usually means "never":
    ///
    /// ```
    /// use tokio::sync::watch;
    /// use tower_sse_completion::SseCompletionLayer;
    ///
    /// let (_close, closed) = watch::channel(false);
    /// let layer = SseCompletionLayer::new().cancel_when(move |_request| {
    ///     let mut closed = closed.clone();
    ///     async move {
    ///         if closed.wait_for(|closed| *closed).await.is_err() {
    ///             std::future::pending().await
    ///         }
    ///     }
    /// });
    /// # let _ = layer;
    /// ```
    ///
    /// The closure is called for each request, and its future cannot borrow from the closure or from the head. Clone what the
    /// future takes before the `async move` block, as above. An `async fn(&Parts)` and an `async` closure fail to compile with
    /// "one type is more general than the other" or "does not implement `Fn`". A closure that is stored in a variable first
    /// needs the type of its argument: `|_request: &Parts|`.
    ///
    /// The layer is `Clone`, `Send` and `Sync` if the closure is. `axum::Router::layer` requires all of them, and a future that
    /// is `Send` and `'static`.
    ///
    /// # Fairness
    ///
    /// The future is polled when the upstream is pending, when the upstream ends, and before the first and every 32nd frame of
    /// an upstream that is always ready. After it has completed, up to 32 frames that the upstream has ready are still
    /// forwarded. Therefore a message that was queued before the cancellation is not lost, and an endless upstream ends. When
    /// the upstream ends, the future is polled regardless of tokio's cooperative budget.
    ///
    /// # Cancellation safety
    ///
    /// The upstream is dropped at its current await point, before the close event is returned.
    pub fn cancel_when<F, Fut>(self, make: F) -> SseCompletionLayer<FirstOf<C, CancelWhen<F>>>
    where
        F: Fn(&Parts) -> Fut,
        Fut: Future<Output = ()>,
    {
        SseCompletionLayer {
            cancel: FirstOf::new(self.cancel, CancelWhen::new(make)),
            config: self.config,
        }
    }

    /// Erases the type of the cancellation, for a layer in a field or in a signature. The future of each request is allocated.
    /// A function can return the layer without the allocation: see [`MakeCancellation`](MakeCancellation#in-a-library).
    ///
    /// ```
    /// use tower_sse_completion::{BoxCancellation, SseCompletionLayer};
    ///
    /// let layer: SseCompletionLayer<BoxCancellation> = SseCompletionLayer::new()
    ///     .cancel_when(|_request| std::future::pending())
    ///     .boxed();
    /// # let _ = layer;
    /// ```
    pub fn boxed(self) -> SseCompletionLayer<BoxCancellation>
    where
        C: MakeCancellation<Cancellation: Send + 'static> + Send + Sync + 'static,
    {
        SseCompletionLayer {
            cancel: BoxCancellation::new(self.cancel),
            config: self.config,
        }
    }
}

impl<C> SseCompletionLayer<C> {
    /// Ends the streams of this layer when the shutdown closes, and counts them. A layer can have several shutdowns.
    ///
    /// A shutdown costs one atomic load per poll. A stream takes a lock only when it starts, when it moves to another task, and
    /// when it ends.
    pub fn shutdown(self, shutdown: &Shutdown) -> Self {
        self.configure(|config| config.add_shutdown(shutdown))
    }

    /// Sets which streams end as soon as a [drain](Shutdown::draining) of one of their shutdowns begins, without the grace
    /// period, or over a window from then on. The default is none.
    ///
    /// For streams that never finish, such as subscriptions. The function receives the head of every request, also if
    /// the response is not an event stream, and returns `true` if the stream ends with the drain.
    ///
    /// ```
    /// use http::Method;
    /// use tower_sse_completion::{Shutdown, SseCompletionLayer};
    ///
    /// let shutdown = Shutdown::new();
    /// let completion = SseCompletionLayer::new().shutdown(&shutdown);
    ///
    /// // On the route of the subscriptions:
    /// let of_route = completion.clone().end_on_drain(|_request| true);
    ///
    /// // For all routes: a GET is a subscription, and the response to a POST finishes.
    /// let of_app = completion.end_on_drain(|request| request.method == Method::GET);
    /// # let _ = (of_route, of_app);
    /// ```
    ///
    /// # Panics
    ///
    /// A panic of the function reaches the caller of the service.
    pub fn end_on_drain<F>(self, ends: F) -> Self
    where
        F: Fn(&Parts) -> bool + Send + Sync + 'static,
    {
        self.configure(|config| config.ends_on_drain = Some(Arc::new(ends)))
    }

    /// Sets the maximum number of bytes of an unfinished event that are buffered for each stream. The default is 64 KiB.
    ///
    /// An unfinished event is buffered until the rest of it arrives, so that a close event is never written inside it. A larger
    /// event is forwarded as it arrives, and a stream that is cancelled inside it ends without a close event. A frame that ends
    /// with an event, as the encoders of frameworks make it, is never buffered.
    ///
    /// With a limit of 0 nothing is buffered. Use it for plain text that is sent as `text/event-stream`.
    pub fn buffer_limit(self, bytes: usize) -> Self {
        self.configure(|config| config.buffer_limit = bytes)
    }

    /// Sets an observer that is called with the report of every event stream, once, when the stream has ended: when its last
    /// frame is returned to the server, or when its body is dropped.
    ///
    /// A body that is dropped without a poll is not reported. If one layer wraps another, the inner one reports.
    ///
    /// # Panics
    ///
    /// A panic of the observer is caught, because a stream may end while another panic unwinds.
    pub fn on_end<F>(self, observer: F) -> Self
    where
        F: Fn(&StreamReport) + Send + Sync + 'static,
    {
        self.configure(|config| config.observer = LayerObserver::shared(observer))
    }

    /// Sets a function that makes an observer for each request, in place of [`on_end`](Self::on_end). The observer can keep
    /// data of the request, such as the user:
    ///
    /// ```
    /// use tower_sse_completion::SseCompletionLayer;
    ///
    /// let layer = SseCompletionLayer::new().on_end_with(|request| {
    ///     let path = request.uri.path().to_owned();
    ///     move |report| println!("{path}: {}", report.ending())
    /// });
    /// # let _ = layer;
    /// ```
    ///
    /// The function is called for every request, also if the response is not an event stream, and the observer is
    /// allocated then. An observer that is not needed is dropped without a call.
    ///
    /// # Panics
    ///
    /// Panics as [`on_end`](Self::on_end) does. A panic of the function reaches the caller of the service.
    pub fn on_end_with<F, O>(self, make: F) -> Self
    where
        F: Fn(&Parts) -> O + Send + Sync + 'static,
        O: FnOnce(&StreamReport) + Send + Sync + 'static,
    {
        self.configure(|config| config.observer = LayerObserver::per_request(make))
    }

    fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}
