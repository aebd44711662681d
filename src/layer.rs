//! The layer: everything there is to configure.

#[cfg(feature = "tokio")]
use std::time::Duration;
use std::{future::Future, sync::Arc};

use http::request;
use tower_layer::Layer;

use crate::{
    cancel::{CancelWhen, MakeCancellation, NeverCancel},
    config::{CloseEventSource, Config, OnEnd},
    report::ending::Ending,
    report::stream_report::StreamReport,
    service::SseCompletion,
    wire::close_event::CloseEvent,
};
#[cfg(feature = "tokio")]
use crate::{
    deadlines::{Deadlines, InvalidDeadline},
    shutdown::Shutdown,
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
    pub(crate) cancel: C,
    pub(crate) config: Arc<Config>,
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
    /// an endless upstream ends all the same. Where the upstream ends, the future is polled as if tokio's cooperative budget
    /// were not spent, so that it is not taken for pending for want of that.
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
    /// A [`CloseEvent`] in the extensions of a response goes before it, and then, where a shutdown has cancelled the
    /// stream, the one that the shutdown was closed with.
    #[must_use]
    pub fn close_event(self, event: CloseEvent) -> Self {
        self.configure(|config| config.close_event = CloseEventSource::Same(event))
    }

    /// Sends the event that this function makes when a stream is closed, in the place of that of
    /// [`close_event`](Self::close_event).
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
    /// An unfinished event is held back until the rest of it has come, so that a close event never ends up inside of
    /// it. A larger one flows through as it comes; a stream that is cancelled in the middle of it ends without a
    /// close event. Frames that end with an event, as every framework's encoder makes them, are never held.
    #[must_use]
    pub fn hold_limit(self, bytes: usize) -> Self {
        self.configure(|config| config.hold_limit = bytes)
    }

    /// Calls this with the report of every event stream, once, when it has ended: when its last frame was handed to the
    /// server, or its body was dropped.
    ///
    /// A body that was dropped without having been polled was no stream, and is not reported. Where one layer wraps
    /// another, the inner one reports.
    ///
    /// # Panics
    ///
    /// A panic of the observer is caught: streams end while panics unwind, too.
    #[must_use]
    pub fn on_end<F>(self, observer: F) -> Self
    where
        F: Fn(&StreamReport) + Send + Sync + 'static,
    {
        self.configure(|config| config.on_end = OnEnd(Some(Arc::new(observer))))
    }

    fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

#[cfg(feature = "tokio")]
impl<C> SseCompletionLayer<C> {
    /// Ends the streams of this layer when this is closed, and counts them. A layer may have several.
    ///
    /// It costs an atomic load where a stream is polled, and shares no lock with other streams except at its start
    /// and end.
    #[must_use]
    pub fn shutdown(self, shutdown: &Shutdown) -> Self {
        self.configure(|config| {
            if !config.has_shutdown(shutdown) {
                config.shutdowns.push(shutdown.clone());
            }
        })
    }

    /// Ends a stream at this age, counted from its response, between two events and with a close event.
    ///
    /// Gateways and load balancers cut connections at fixed ages; a server that cycles its streams before that gives
    /// its clients a clean end. With [`retry_between`](CloseEvent::retry_between) in the close event, or with
    /// [`max_age_jitter`](Self::max_age_jitter), they do not all come back at once.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sse_completion::SseCompletionLayer;
    ///
    /// # fn main() -> Result<(), tower_sse_completion::InvalidDeadline> {
    /// let layer = SseCompletionLayer::new()
    ///     .max_age(Duration::from_secs(10 * 60))?
    ///     .max_age_jitter(0.2)?
    ///     .idle_timeout(Duration::from_secs(60))?
    ///     .keep_alive(Duration::from_secs(15))?;
    /// # let _ = layer;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// An age of zero is refused.
    ///
    /// # Panics
    ///
    /// Not here, but a response panics outside of a tokio runtime with its timer enabled.
    pub fn max_age(self, age: Duration) -> Result<Self, InvalidDeadline> {
        self.set_deadline(|deadlines| deadlines.set_max_age(age))
    }

    /// Draws the greatest age of each stream from this fraction at the end of [`max_age`](Self::max_age): with 0.2,
    /// from 80 to 100 percent of it. The default is 0. Without a greatest age it does nothing.
    ///
    /// With 1 a stream may end as soon as it has started, and its client comes back at once; keep it well below.
    ///
    /// # Errors
    ///
    /// A fraction that is not between 0 and 1 is refused.
    pub fn max_age_jitter(self, fraction: f64) -> Result<Self, InvalidDeadline> {
        self.set_deadline(|deadlines| deadlines.set_max_age_jitter(fraction))
    }

    /// Ends a stream that has delivered no event for so long, with a close event. Comments are no events.
    ///
    /// What the upstream has ready by then still goes out, up to 32 frames. If it ends by itself within those, with an
    /// error or without, then that is its ending. The same holds for [`max_age`](Self::max_age).
    ///
    /// # Errors
    ///
    /// A timeout of zero is refused.
    ///
    /// # Panics
    ///
    /// Not here, but a response panics outside of a tokio runtime with its timer enabled.
    pub fn idle_timeout(self, timeout: Duration) -> Result<Self, InvalidDeadline> {
        self.set_deadline(|deadlines| deadlines.set_idle_timeout(timeout))
    }

    /// Sends a comment line (`:` and LF) when nothing was sent for so long, so that no proxy takes the connection for
    /// dead. For handlers that send none themselves.
    ///
    /// It is only ever sent between two events, never between a CR and an LF, and no client sees it. The [HTML
    /// standard, 9.2.7][html] suggests every 15 seconds.
    ///
    /// An interval of less than a millisecond is taken for one, because timers are no finer.
    ///
    /// A byte order mark with which the upstream starts after such a comment is left out: clients only know one at
    /// the start.
    ///
    /// [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html#authoring-notes
    ///
    /// # Errors
    ///
    /// An interval of zero is refused.
    ///
    /// # Panics
    ///
    /// Not here, but a response panics outside of a tokio runtime with its timer enabled.
    pub fn keep_alive(self, interval: Duration) -> Result<Self, InvalidDeadline> {
        self.set_deadline(|deadlines| deadlines.set_keep_alive(interval))
    }

    fn set_deadline(
        mut self,
        set: impl FnOnce(&mut Deadlines) -> Result<(), InvalidDeadline>,
    ) -> Result<Self, InvalidDeadline> {
        set(&mut Arc::make_mut(&mut self.config).deadlines)?;
        Ok(self)
    }
}

impl<S, C: Clone> Layer<S> for SseCompletionLayer<C> {
    type Service = SseCompletion<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        SseCompletion::new(inner, self.clone())
    }
}
