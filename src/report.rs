//! The endings of event streams, and their reports.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use http::request::Parts;

use crate::{clock::Instant, wire::close_event::CloseEvent};

/// The ending of an event stream.
///
/// The report that [`close_event_with`](crate::SseCompletionLayer::close_event_with) receives has the ending, so that a close
/// event can state the reason:
///
/// ```
/// use tower_sse_completion::{CloseEvent, SseCompletionLayer};
///
/// let layer = SseCompletionLayer::new()
///     .close_event_with(|report| CloseEvent::new().data(report.ending().as_str()));
/// # let _ = layer;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// The upstream ended after it had delivered an event. With [end marks](crate::SseCompletionLayer::end_mark): an end mark was
    /// returned, even if the body was dropped then.
    Completed,
    /// The upstream ended without an event. Comments and blocks without `data` do not count.
    Empty,
    /// The upstream ended inside an event. With [end marks](crate::SseCompletionLayer::end_mark): the upstream ended after an
    /// event, without an end mark.
    Truncated,
    /// A cancellation fired before the upstream ended. The report does not name the cancellation, if there are several.
    Cancelled,
    /// The stream reached its maximum age.
    Expired,
    /// No event that counts was delivered for the idle timeout.
    Idle,
    /// The upstream returned an error or panicked.
    Failed,
    /// The server dropped the body before its end, because the client left, a drain has cut the connection, or the server was
    /// dropped. SDKs that disconnect at the last event of their protocol, before the response ends, cause this ending for a complete
    /// response, unless that event is an [end mark](crate::SseCompletionLayer::end_mark).
    Dropped,
}

impl Ending {
    /// Returns the ending as one lower-case word: `completed`, `empty`, `truncated`, `cancelled`, `expired`, `idle`, `failed`
    /// or `dropped`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Empty => "empty",
            Self::Truncated => "truncated",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Idle => "idle",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Report of one event stream, for [`on_end`](crate::SseCompletionLayer::on_end).
///
/// ```
/// use tower_sse_completion::SseCompletionLayer;
///
/// let layer = SseCompletionLayer::new().on_end(|report| {
///     println!("{} after {:?}, {} bytes", report.ending(), report.duration(), report.bytes_sent());
/// });
/// # let _ = layer;
/// ```
///
/// Build one to test an observer:
///
/// ```
/// use std::time::Duration;
/// use tower_sse_completion::{CloseEvent, Ending, StreamReport};
///
/// let report = StreamReport::new(Ending::Cancelled)
///     .with_close_event(CloseEvent::new())
///     .with_duration(Duration::from_secs(3));
/// assert_eq!(report.bytes_sent(), 0);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamReport {
    ending: Ending,
    close_event: Option<CloseEvent>,
    totals: Totals,
    duration: Duration,
    time_to_first_event: Option<Duration>,
}

/// Totals of the frames and bytes of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) delivered: bool,
    pub(crate) data_frames: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
}

impl StreamReport {
    /// Returns the report of a stream that ended like this, at once and without a byte. The other methods set the rest.
    pub fn new(ending: Ending) -> Self {
        Self::with_totals(ending, Totals::default())
    }

    pub(crate) fn with_totals(ending: Ending, totals: Totals) -> Self {
        Self {
            ending,
            close_event: None,
            totals,
            duration: Duration::ZERO,
            time_to_first_event: None,
        }
    }

    /// Returns how the stream ended.
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// Returns the close event that the layer has sent.
    ///
    /// A shutdown that ends a stream decides its close event, unless the response has one or the layer has none. Therefore an
    /// observer can distinguish the reasons for which streams are cancelled:
    ///
    /// ```
    /// use tower_sse_completion::{CloseEvent, Ending, StreamReport};
    ///
    /// fn reason(report: &StreamReport) -> &str {
    ///     report.close_event().map_or(report.ending().as_str(), CloseEvent::name)
    /// }
    ///
    /// let report = StreamReport::new(Ending::Cancelled);
    /// assert_eq!(reason(&report), "cancelled");
    /// let report = report.with_close_event(CloseEvent::from_static("logged-out"));
    /// assert_eq!(reason(&report), "logged-out");
    /// ```
    pub fn close_event(&self) -> Option<&CloseEvent> {
        self.close_event.as_ref()
    }

    /// Returns `true` if the layer has sent a [close event](Self::close_event).
    pub fn close_event_sent(&self) -> bool {
        self.close_event.is_some()
    }

    /// Returns `true` if an event of the upstream was delivered: its blank line was forwarded, and it has a `data` field.
    pub fn delivered(&self) -> bool {
        self.totals.delivered
    }

    /// Returns the number of the upstream's data frames that were forwarded, in whole or in part. Empty frames do not count,
    /// nor do the close event and keep-alive comments. The frames of a byte order mark that is dropped after a comment count.
    pub fn data_frames(&self) -> u64 {
        self.totals.data_frames
    }

    /// Returns the number of bytes that the upstream has returned. Bytes of an unfinished event that was discarded count.
    pub fn bytes_received(&self) -> u64 {
        self.totals.bytes_received
    }

    /// Returns the number of bytes that the body has returned to the server. Bytes of the close event and of keep-alive
    /// comments count.
    pub fn bytes_sent(&self) -> u64 {
        self.totals.bytes_sent
    }

    /// Returns the time from the response to the end of the stream. The time that the handler took to respond is not included.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Returns the time from the response to the frame that delivered the first event. `None` if no event was delivered.
    ///
    /// The time that the handler took to respond is not included. An observer of
    /// [`on_end_with`](crate::SseCompletionLayer::on_end_with) that keeps the instant of its request measures from the request:
    /// the time between the request and the report, minus [`duration`](Self::duration), plus this time.
    pub fn time_to_first_event(&self) -> Option<Duration> {
        self.time_to_first_event
    }

    /// Sets [`close_event`](Self::close_event).
    #[must_use]
    pub fn with_close_event(mut self, event: CloseEvent) -> Self {
        self.close_event = Some(event);
        self
    }

    /// Sets [`delivered`](Self::delivered).
    #[must_use]
    pub fn with_delivered(mut self, delivered: bool) -> Self {
        self.totals.delivered = delivered;
        self
    }

    /// Sets [`data_frames`](Self::data_frames).
    #[must_use]
    pub fn with_data_frames(mut self, frames: u64) -> Self {
        self.totals.data_frames = frames;
        self
    }

    /// Sets [`bytes_received`](Self::bytes_received).
    #[must_use]
    pub fn with_bytes_received(mut self, bytes: u64) -> Self {
        self.totals.bytes_received = bytes;
        self
    }

    /// Sets [`bytes_sent`](Self::bytes_sent).
    #[must_use]
    pub fn with_bytes_sent(mut self, bytes: u64) -> Self {
        self.totals.bytes_sent = bytes;
        self
    }

    /// Sets [`duration`](Self::duration).
    #[must_use]
    pub fn with_duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// Sets [`time_to_first_event`](Self::time_to_first_event).
    #[must_use]
    pub fn with_time_to_first_event(mut self, time: Option<Duration>) -> Self {
        self.time_to_first_event = time;
        self
    }
}

/// Reasons for which a stream stops before its upstream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "tokio"),
    allow(dead_code, reason = "deadlines need a timer")
)]
pub(crate) enum Stop {
    /// A shutdown or the layer's cancellation has fired.
    Cancelled,
    /// The stream has reached its maximum age.
    Expired,
    /// No event has been delivered for the idle timeout.
    Idle,
}

/// Records one stream while it runs, and reports the stream once.
pub(crate) struct Recorder {
    observers: Vec<StreamObserver>,
    span: RequestSpan,
    started: Instant,
    /// `true` once the body has been polled. Other bodies are not reported.
    polled: bool,
    time_to_first_event: Option<Duration>,
    /// The ending, once it is decided. The last frame may still have to be returned.
    ending: Option<Ending>,
    close_event: Option<CloseEvent>,
}

impl Recorder {
    /// Starts to record a stream.
    pub(crate) fn new(span: RequestSpan) -> Box<Self> {
        Box::new(Self {
            observers: Vec::new(),
            span,
            started: Instant::now(),
            polled: false,
            time_to_first_event: None,
            ending: None,
            close_event: None,
        })
    }

    /// Adds an observer, unless several layers have the same one.
    pub(crate) fn add_observer(&mut self, observer: StreamObserver) {
        if !self.observers.iter().any(|known| known.is_same(&observer)) {
            self.observers.push(observer);
        }
    }

    pub(crate) fn record_poll(&mut self) {
        self.polled = true;
    }

    /// Records the first event that is delivered.
    pub(crate) fn record_delivery(&mut self) {
        let started = self.started;
        self.time_to_first_event
            .get_or_insert_with(|| started.elapsed());
    }

    pub(crate) fn set_ending(&mut self, ending: Ending, close_event: Option<CloseEvent>) {
        self.ending = Some(ending);
        self.close_event = close_event;
    }

    /// Records a panic of the user's code, which ends the stream.
    pub(crate) fn record_panic(&mut self) {
        self.set_ending(Ending::Failed, None);
    }

    /// Returns the report of a stream that is about to end like this.
    pub(crate) fn report(&self, ending: Ending, totals: Totals) -> StreamReport {
        StreamReport {
            close_event: self.close_event.clone(),
            duration: self.started.elapsed(),
            time_to_first_event: self.time_to_first_event,
            ..StreamReport::with_totals(ending, totals)
        }
    }

    /// Reports the stream to every observer.
    pub(crate) fn finish(self, totals: Totals) {
        let report = self.polled.then(|| {
            let ending = self.ending.unwrap_or(Ending::Dropped);
            self.report(ending, totals)
        });
        // A stream may end while a panic unwinds, when a second panic would abort the process. The panic hook has reported the
        // panic of an observer, of its destructor or of a subscriber.
        let catch = |run: &mut dyn FnMut()| drop(catch_unwind(AssertUnwindSafe(run)));
        if let Some(report) = &report {
            catch(&mut || self.span.record(report));
        }
        for observer in self.observers {
            let mut observer = Some(observer);
            catch(&mut || match (observer.take(), &report) {
                (Some(observer), Some(report)) => observer.observe(report),
                (observer, _) => drop(observer),
            });
        }
    }
}

/// The observer of a layer.
#[derive(Clone, Default)]
pub(crate) enum LayerObserver {
    #[default]
    None,
    Shared(Arc<Observe>),
    PerRequest(Arc<MakeObserver>),
}

/// The observer of one stream.
pub(crate) enum StreamObserver {
    Shared(Arc<Observe>),
    OfRequest(Box<ObserveOnce>),
}

type Observe = dyn Fn(&StreamReport) + Send + Sync;
pub(crate) type ObserveOnce = dyn FnOnce(&StreamReport) + Send + Sync;
type MakeObserver = dyn Fn(&Parts) -> Box<ObserveOnce> + Send + Sync;

impl LayerObserver {
    pub(crate) fn shared(observe: impl Fn(&StreamReport) + Send + Sync + 'static) -> Self {
        Self::Shared(Arc::new(observe))
    }

    pub(crate) fn per_request<F, O>(make: F) -> Self
    where
        F: Fn(&Parts) -> O + Send + Sync + 'static,
        O: FnOnce(&StreamReport) + Send + Sync + 'static,
    {
        Self::PerRequest(Arc::new(move |request| Box::new(make(request))))
    }

    pub(crate) fn is_per_request(&self) -> bool {
        matches!(self, Self::PerRequest(_))
    }

    /// Makes the observer of this request, if each request has its own.
    pub(crate) fn for_request(&self, request: &Parts) -> Option<Box<ObserveOnce>> {
        match self {
            Self::PerRequest(make) => Some(make(request)),
            Self::None | Self::Shared(_) => None,
        }
    }

    /// Returns the observer of a stream: that of its request, or else that of the layer.
    pub(crate) fn for_stream(
        &self,
        of_request: Option<Box<ObserveOnce>>,
    ) -> Option<StreamObserver> {
        match (of_request, self) {
            (Some(observe), _) => Some(StreamObserver::OfRequest(observe)),
            (None, Self::Shared(observe)) => Some(StreamObserver::Shared(Arc::clone(observe))),
            (None, Self::None | Self::PerRequest(_)) => None,
        }
    }
}

impl StreamObserver {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Shared(observe), Self::Shared(other)) => Arc::ptr_eq(observe, other),
            _ => false,
        }
    }

    fn observe(self, report: &StreamReport) {
        match self {
            Self::Shared(observe) => observe(report),
            Self::OfRequest(observe) => observe(report),
        }
    }
}

impl fmt::Debug for LayerObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Shared(_) => "Shared(..)",
            Self::PerRequest(_) => "PerRequest(..)",
        })
    }
}

/// The span of the request, in which the report of its stream is recorded. Empty without the feature `tracing`.
#[derive(Debug, Clone)]
pub(crate) struct RequestSpan {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

impl RequestSpan {
    /// `true` if the feature is enabled, so that every stream is recorded.
    pub(crate) const IS_ON: bool = cfg!(feature = "tracing");

    /// Captures the current span.
    pub(crate) fn current() -> Self {
        Self {
            #[cfg(feature = "tracing")]
            span: tracing::Span::current(),
        }
    }

    #[cfg_attr(
        not(feature = "tracing"),
        allow(unused_variables, reason = "the feature is not enabled")
    )]
    fn record(&self, report: &StreamReport) {
        #[cfg(feature = "tracing")]
        self.span.in_scope(|| trace(report));
    }
}

#[cfg(feature = "tracing")]
fn trace(report: &StreamReport) {
    // The level of an event must be a constant.
    macro_rules! event {
        ($level:ident) => {
            tracing::event!(
                target: "tower_sse_completion",
                tracing::Level::$level,
                sse.ending = report.ending().as_str(),
                sse.close_event = report.close_event().map(CloseEvent::name),
                sse.delivered = report.delivered(),
                sse.data_frames = report.data_frames(),
                sse.bytes_received = report.bytes_received(),
                sse.duration = report.duration().as_secs_f64(),
                sse.time_to_first_event =
                    report.time_to_first_event().map(|time| time.as_secs_f64()),
                http.response.body.size = report.bytes_sent(),
                error.type = (report.ending() == Ending::Failed).then_some("upstream"),
                "event stream ended"
            )
        };
    }
    match report.ending() {
        Ending::Failed => event!(ERROR),
        Ending::Cancelled | Ending::Expired | Ending::Idle | Ending::Truncated => event!(INFO),
        Ending::Completed | Ending::Empty | Ending::Dropped => event!(DEBUG),
    }
}
