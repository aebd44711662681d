//! The methods of the layer that need a timer.

use std::{ops::RangeInclusive, time::Duration};

use super::SseCompletionLayer;
use crate::deadlines::KeepAlive;

impl<C> SseCompletionLayer<C> {
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

    /// Ends a stream that has delivered no event for this time, with a close event. Comments are no events.
    ///
    /// Frames that the upstream has ready by then are still forwarded, as for [`max_age`](Self::max_age). A timeout of zero
    /// ends the stream as soon as it starts.
    ///
    /// # Panics
    ///
    /// Panics as [`max_age`](Self::max_age) does.
    pub fn idle_timeout(self, timeout: Duration) -> Self {
        self.configure(|config| config.deadlines.idle_timeout = Some(timeout))
    }

    /// Sends a comment when nothing has been sent for an interval, so that proxies do not close the connection. For handlers
    /// that send no comments themselves.
    ///
    /// The comment is sent at an event boundary only, never between a CR and an LF. [`KeepAlive`] sets its text and its shape.
    ///
    /// A byte order mark at the start of the upstream is dropped after such a comment. It is only ignored at the very start of
    /// a stream, and would become a part of the first field name.
    ///
    /// # Panics
    ///
    /// Panics as [`max_age`](Self::max_age) does.
    pub fn keep_alive(self, keep_alive: impl Into<KeepAlive>) -> Self {
        self.configure(|config| config.deadlines.keep_alive = Some(keep_alive.into()))
    }
}
