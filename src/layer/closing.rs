//! The methods of the layer for its close events.

use std::sync::Arc;

use super::SseCompletionLayer;
use crate::{
    config::CloseEventSource, report::stream_report::StreamReport, wire::close_event::CloseEvent,
};

impl<C> SseCompletionLayer<C> {
    /// Sets the close event. The default is [`CloseEvent::new`].
    ///
    /// A [`CloseEvent`] in the extensions of a response replaces it for that stream. So does the event of a shutdown that was
    /// closed or drained with one, if that shutdown ends the stream.
    pub fn close_event(self, event: CloseEvent) -> Self {
        self.configure(|config| config.close_event = CloseEventSource::Same(event))
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
        self.configure(|config| config.close_event = CloseEventSource::PerStream(Arc::new(make)))
    }

    /// Sets whether a stream is closed that ends without an event. The default is `true`.
    ///
    /// An upstream that ends inside its first event is [truncated](Self::close_on_truncated), not empty.
    pub fn close_on_empty(self, close: bool) -> Self {
        self.configure(|config| config.close_policy.on_empty = close)
    }

    /// Sets whether a stream is closed that ends on its own after an event. The default is `false`, because protocol clients
    /// treat an event after their own last event as an error.
    pub fn close_on_completed(self, close: bool) -> Self {
        self.configure(|config| config.close_policy.on_completed = close)
    }

    /// Sets whether the close event replaces the unfinished event of an upstream that ends inside an event. The default is
    /// `false`: the stream is forwarded as it is, because lenient clients accept a last event without its blank line.
    ///
    /// For proxies. A truncated response without a length and without chunks looks like a complete response.
    pub fn close_on_truncated(self, close: bool) -> Self {
        self.configure(|config| config.close_policy.on_truncated = close)
    }

    /// Sets whether the close event replaces an error of the upstream. The default is `false`: the error is forwarded.
    ///
    /// A server reacts to an error by resetting the stream or the connection. With the close event in its place the stream
    /// ends cleanly. The text of the error is never sent.
    pub fn close_on_failed(self, close: bool) -> Self {
        self.configure(|config| config.close_policy.on_failed = close)
    }
}
