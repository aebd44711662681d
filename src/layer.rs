//! The layer, which is a builder of its configuration.

use std::{future::Future, sync::Arc};
#[cfg(feature = "tokio")]
use std::{ops::RangeInclusive, time::Duration};

use http::request::Parts;

#[cfg(feature = "tokio")]
use crate::deadlines::{IdleTimeout, KeepAlive};
use crate::{
    config::{Cancellation, CloseEventSource, Config, Settings},
    report::{LayerObserver, StreamReport},
    shutdown::Shutdown,
    wire::{close_event::CloseEvent, event_match::EventMatch},
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
/// [`cancel_when`](Self::cancel_when), [`shutdown`](Self::shutdown) and [`end_mark`](Self::end_mark) add to the configuration of the
/// layer. Every other method replaces the previous value: for example, the last of [`on_end`](Self::on_end) and
/// [`on_end_with`](Self::on_end_with) is used.
#[derive(Debug, Clone, Default)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct SseCompletionLayer {
    pub(crate) config: Arc<Config>,
}

impl SseCompletionLayer {
    /// Returns a layer that closes empty streams and cancels none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels a stream when the future of its request completes.
    ///
    /// The closure is called for every request, even if the response is not an event stream, so keep it cheap. The future is
    /// boxed, and dropped without a poll if it is not needed. The head of the request, which has the extensions of earlier
    /// middleware, can decide which streams end: all of them, or those of one user.
    ///
    /// A layer can have several cancellations. The first that completes cancels the stream, even if it was complete before the
    /// request. No cancellation is polled after that.
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
    pub fn cancel_when<F, Fut>(self, make: F) -> Self
    where
        F: Fn(&Parts) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.configure(|config| {
            let make = Arc::new(move |head: &Parts| Cancellation::new(make(head)));
            config.cancellations.push(make);
        })
    }

    /// Ends the streams of this layer when the shutdown closes, and counts them. A layer can have several shutdowns.
    ///
    /// A shutdown costs one atomic load per poll. A stream takes a lock only when it starts, when it moves to another task, and
    /// when it ends.
    pub fn shutdown(self, shutdown: &Shutdown) -> Self {
        self.configure(|config| config.add_shutdown(shutdown.shared()))
    }

    /// Selects streams that end when a [drain](Shutdown::drain) of one of their shutdowns begins, instead of after the grace period.
    /// The default is none.
    ///
    /// Use it for streams that never finish, such as subscriptions. The function receives the head of every request, even if
    /// the response is not an event stream, and returns `true` if the stream ends with the drain. If several layers wrap one
    /// stream, the choice of one layer holds for the shutdowns of all.
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
    #[doc(alias = "drain")]
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
        self.set(|settings| settings.buffer_limit = Some(bytes))
    }

    /// Sets an observer that is called with the report of every event stream, once, when the stream has ended: when its last
    /// frame is returned to the server, or when its body is dropped.
    ///
    /// A body that is dropped without a poll is not reported. If several layers wrap one stream, the observer of each layer
    /// receives the one report.
    ///
    /// # Panics
    ///
    /// A panic of the observer or of its destructor is caught, because a stream may end while another panic unwinds.
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
    /// The function is called for every request, even if the response is not an event stream, and the observer is
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

    /// Sets the close event. The default is [`CloseEvent::new`].
    ///
    /// A [`CloseEvent`] in the extensions of a response takes precedence, as does the close event of the shutdown that ends the
    /// stream.
    ///
    /// With `None`, streams have no close event, for protocols whose clients refuse unknown events. A stream that is stopped then
    /// ends cleanly after its last whole event; an end, a truncation and an error of the upstream are forwarded as they are. The
    /// event of a shutdown is not used. A [`CloseEvent`] in the extensions of a response is still sent.
    ///
    /// ```
    /// use tower_sse_completion::SseCompletionLayer;
    ///
    /// // Clients of GraphQL over SSE fail at an unknown event, and resume a subscription after a clean end.
    /// let layer = SseCompletionLayer::new().close_event(None);
    /// # let _ = layer;
    /// ```
    pub fn close_event(self, event: impl Into<Option<CloseEvent>>) -> Self {
        let source = event
            .into()
            .map_or(CloseEventSource::None, CloseEventSource::Same);
        self.set(|settings| settings.close_event = Some(source))
    }

    /// Sets a function that makes the close event of each stream, in place of [`close_event`](Self::close_event).
    ///
    /// The function receives the report of the stream up to its close event. It is called at most once for each stream, when
    /// a close event is due, by the task that polls the body.
    ///
    /// ```
    /// use tower_sse_completion::{CloseEvent, SseCompletionLayer};
    ///
    /// let layer = SseCompletionLayer::new().close_event_with(|report| {
    ///     CloseEvent::new().data(format!(r#"{{"reason":"{}"}}"#, report.ending()))
    /// });
    /// # let _ = layer;
    /// ```
    ///
    /// # Panics
    ///
    /// A panic of the function reaches the server that polls the body, and the stream ends.
    pub fn close_event_with<F>(self, make: F) -> Self
    where
        F: Fn(&StreamReport) -> CloseEvent + Send + Sync + 'static,
    {
        self.set(|settings| {
            settings.close_event = Some(CloseEventSource::PerStream(Arc::new(make)));
        })
    }

    /// Adds an end mark: an event with which the protocol ends its streams, such as `data: [DONE]`. A layer can have several.
    ///
    /// The stream ends with the event: the rest of its frame is discarded, the upstream is dropped, and nothing follows,
    /// regardless of the other options. The ending is [`Completed`](crate::Ending::Completed) as soon as the event is returned.
    ///
    /// An upstream that ends after an event and without an end mark is [truncated](Self::close_on_truncated). An end mark that lacks
    /// its blank line at the end of the upstream counts, and the missing line ends are added. If the end of its last line is missing too,
    /// only an [`EventMatch::data`] counts.
    ///
    /// ```
    /// use tower_sse_completion::{EventMatch, SseCompletionLayer};
    ///
    /// let layer = SseCompletionLayer::new().end_mark(EventMatch::data("[DONE]"));
    /// # let _ = layer;
    /// ```
    ///
    /// Do not set an end mark for MCP, where a response may end with any message.
    pub fn end_mark(self, end_mark: EventMatch) -> Self {
        self.configure(|config| config.end_marks.push(end_mark))
    }

    /// Sets whether a stream that ends without an event is closed. The default is `true`.
    ///
    /// An upstream that ends inside its first event is [truncated](Self::close_on_truncated), not empty.
    pub fn close_on_empty(self, close: bool) -> Self {
        self.set(|settings| settings.close_policy.on_empty = Some(close))
    }

    /// Sets whether a stream that ends on its own after an event is closed. The default is `false`, because protocol clients
    /// treat an event after their own last event as an error.
    pub fn close_on_completed(self, close: bool) -> Self {
        self.set(|settings| settings.close_policy.on_completed = Some(close))
    }

    /// Sets whether the close event replaces the unfinished event of an upstream that ends inside an event. The default is
    /// `false`: the stream is forwarded as it is, because lenient clients accept a last event without its blank line.
    ///
    /// Use it in proxies: without a length or a final chunk, HTTP cannot tell a truncated response from a complete one.
    pub fn close_on_truncated(self, close: bool) -> Self {
        self.set(|settings| settings.close_policy.on_truncated = Some(close))
    }

    /// Sets whether the close event replaces an error of the upstream. The default is `false`: the error is forwarded.
    ///
    /// A server reacts to an error by resetting the stream or the connection. With the close event in its place the stream
    /// ends cleanly. The text of the error is never sent.
    pub fn close_on_failed(self, close: bool) -> Self {
        self.set(|settings| settings.close_policy.on_failed = Some(close))
    }

    fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    fn set(self, change: impl FnOnce(&mut Settings)) -> Self {
        self.configure(|config| change(Arc::make_mut(&mut config.settings)))
    }
}

/// The methods that need a timer.
#[cfg(feature = "tokio")]
impl SseCompletionLayer {
    /// Ends a stream at this age, counted from its response, at an event boundary and with a close event.
    ///
    /// Gateways and load balancers cut connections at a fixed age. A server that ends its streams before that gives its clients
    /// a clean end. Use [`max_age_between`](Self::max_age_between) or
    /// [`retry_between`](crate::CloseEvent::retry_between), so that the clients do not reconnect all at once.
    ///
    /// A stream that ends on its own by the time that the deadline is seen, or within the up to 32 frames that are still
    /// forwarded then, is not reported as expired.
    ///
    /// An age of zero ends the stream as soon as it starts.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sse_completion::SseCompletionLayer;
    ///
    /// let layer = SseCompletionLayer::new()
    ///     .max_age(Duration::from_secs(10 * 60))
    ///     .idle_timeout(Duration::from_secs(60))
    ///     .keep_alive(Duration::from_secs(15));
    /// # let _ = layer;
    /// ```
    ///
    /// # Panics
    ///
    /// The wrapped service panics when it returns an event stream outside of a tokio runtime, or if the runtime's timer is
    /// disabled.
    pub fn max_age(self, age: Duration) -> Self {
        self.max_age_between(age..=age)
    }

    /// Ends each stream at an age that is drawn from this range, like [`max_age`](Self::max_age).
    ///
    /// A range that ends before it starts counts as its start.
    ///
    /// # Panics
    ///
    /// Panics as [`max_age`](Self::max_age) does.
    pub fn max_age_between(self, ages: RangeInclusive<Duration>) -> Self {
        self.configure(|config| config.deadlines.max_age = Some(ages))
    }

    /// Ends a stream that has delivered no event for this time, with a close event. Comments do not count. An [`IdleTimeout`]
    /// can ignore events, such as pings.
    ///
    /// Frames that the upstream has ready by then are still forwarded, as for [`max_age`](Self::max_age). A timeout of zero
    /// ends the stream as soon as it starts.
    ///
    /// # Panics
    ///
    /// Panics as [`max_age`](Self::max_age) does.
    pub fn idle_timeout(self, timeout: impl Into<IdleTimeout>) -> Self {
        self.configure(|config| config.deadlines.idle_timeout = Some(timeout.into()))
    }

    /// Sends a comment when nothing has been sent for an interval, so that proxies do not close the connection. Use it
    /// for handlers that send no comments themselves.
    ///
    /// The comment is sent at an event boundary only, never between a CR and an LF. [`KeepAlive`] sets its text and its shape.
    ///
    /// A byte order mark at the start of the upstream is dropped after such a comment. Clients ignore a byte order mark only at the
    /// very start of a stream, and would read it as part of the first field name.
    ///
    /// # Panics
    ///
    /// Panics as [`max_age`](Self::max_age) does.
    #[doc(alias = "heartbeat")]
    #[doc(alias = "ping")]
    pub fn keep_alive(self, keep_alive: impl Into<KeepAlive>) -> Self {
        self.configure(|config| config.deadlines.keep_alive = Some(keep_alive.into()))
    }
}
