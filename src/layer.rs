//! The layer: everything there is to configure.

use std::{future::Future, sync::Arc};

use http::request;
use tower_layer::Layer;

use crate::{
    cancel::{CancelWhen, MakeCancellation, NeverCancel},
    close_event::CloseEvent,
    config::{CloseEventSource, Config},
    ending::Ending,
    service::SseCompletion,
};

/// Layer that ends every event stream of a service on purpose.
///
/// See the [crate's documentation](crate) for what it does. A layer made by [`new`](Self::new) closes streams that end
/// empty; give it a cancellation, and it closes the streams that are cancelled.
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
#[derive(Debug, Clone, Default)]
pub struct SseCompletionLayer<C = NeverCancel> {
    cancel: C,
    config: Arc<Config>,
}

impl SseCompletionLayer {
    /// A layer that closes empty streams, and never cancels one.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<C: MakeCancellation> SseCompletionLayer<C> {
    /// Cancels a stream when this future is ready.
    ///
    /// The closure is called for every request, also for those that are not answered with an event stream, so
    /// keep it cheap. Its future is dropped unpolled where it is not needed. The request's headers and
    /// extensions tell which streams to end: all of them, or those of one user.
    ///
    /// A layer can have several cancellations; the first that fires ends the stream. A future that was ready before the
    /// request came ends the stream as well as one that becomes ready later. It is not polled again after that.
    ///
    /// Ready means cancelled, for whatever reason. A future whose source may go away has to say what that means.
    /// With a `watch` channel, for which a dropped sender is an error, it usually means "never":
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
    /// # Fairness
    ///
    /// The future is polled whenever the upstream is pending, when it ends, and before the first and then every 32nd
    /// frame of an upstream that is always ready. Once it has fired, up to 32 frames that the
    /// upstream has ready are still forwarded, so a message that was queued just before the cancellation gets out, and
    /// an endless upstream ends all the same.
    ///
    /// # Cancellation safety
    ///
    /// The upstream is dropped before the close event is handed out, in the middle of whatever it was doing.
    pub fn cancel_when<F, Fut>(self, make: F) -> SseCompletionLayer<C::Or<CancelWhen<F>>>
    where
        F: Fn(&request::Parts) -> Fut,
        Fut: Future<Output = ()>,
    {
        SseCompletionLayer {
            cancel: self.cancel.or(CancelWhen::new(make)),
            config: self.config,
        }
    }
}

impl<C> SseCompletionLayer<C> {
    /// Sends this event when a stream is closed. The default is [`CloseEvent::new`].
    ///
    /// A handler that knows better puts a [`CloseEvent`] into the extensions of its response.
    #[must_use]
    pub fn close_event(self, event: CloseEvent) -> Self {
        self.configure(|config| config.close_event = CloseEventSource::Same(event))
    }

    /// Sends the event that this function makes when a stream is closed.
    ///
    /// It is called once for each close event, when that is handed out, on the task that polls the body.
    ///
    /// # Panics
    ///
    /// A panic of the function reaches the server that polls the body, and the stream is over.
    #[must_use]
    pub fn close_event_with<F>(self, make: F) -> Self
    where
        F: Fn(Ending) -> CloseEvent + Send + Sync + 'static,
    {
        self.configure(|config| config.close_event = CloseEventSource::PerStream(Arc::new(make)))
    }

    /// Whether to close a stream that ends without having delivered an event. The default is `true`.
    #[must_use]
    pub fn close_on_empty(self, close: bool) -> Self {
        self.configure(|config| config.close_on_empty = close)
    }

    /// Whether to close a stream that ends by itself after it has delivered an event. The default is `false`:
    /// protocol clients that have seen their own last event take one behind it for an error.
    #[must_use]
    pub fn close_on_completed(self, close: bool) -> Self {
        self.configure(|config| config.close_on_completed = close)
    }

    /// Whether to close a stream whose upstream returns an error, in place of that error. The default is
    /// `false`: the error is passed on.
    ///
    /// A server answers an error by cutting the connection, and may drop events that it has not sent yet. With
    /// a close event in its place the stream ends cleanly. The text of the error is never sent.
    #[must_use]
    pub fn close_on_failed(self, close: bool) -> Self {
        self.configure(|config| config.close_on_failed = close)
    }

    /// How many bytes of an unfinished event are held back at most, per stream. The default is 64 KiB.
    ///
    /// An unfinished event is held back until the rest of it has come, so that a close event never ends up
    /// inside of it. A larger one flows through as it comes; a stream that is cancelled in the middle of it ends without
    /// a close event. Frames that end with an event, as every framework's encoder makes them, are never held.
    #[must_use]
    pub fn hold_limit(self, bytes: usize) -> Self {
        self.configure(|config| config.hold_limit = bytes)
    }

    pub(crate) fn into_parts(self) -> (C, Arc<Config>) {
        (self.cancel, self.config)
    }

    fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S, C: Clone> Layer<S> for SseCompletionLayer<C> {
    type Service = SseCompletion<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        SseCompletion::new(inner, self.clone())
    }
}
