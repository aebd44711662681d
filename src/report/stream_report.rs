//! The report of an event stream.

use std::time::Duration;

use super::ending::Ending;

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
/// use tower_sse_completion::{Ending, StreamReport};
///
/// let report = StreamReport::new(Ending::Cancelled)
///     .with_close_event_sent(true)
///     .with_duration(Duration::from_secs(3));
/// assert_eq!(report.bytes_sent(), 0);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamReport {
    pub(super) ending: Ending,
    pub(super) close_event_sent: bool,
    pub(super) counts: Counts,
    pub(super) duration: Duration,
    pub(super) time_to_first_event: Option<Duration>,
}

/// Counts of the frames and bytes of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) delivered: bool,
    pub(crate) data_frames: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
}

impl StreamReport {
    /// Returns the report of a stream that ended like this, at once and without a byte. The other methods set the rest.
    pub fn new(ending: Ending) -> Self {
        Self::of(ending, Counts::default())
    }

    pub(crate) fn of(ending: Ending, counts: Counts) -> Self {
        Self {
            ending,
            close_event_sent: false,
            counts,
            duration: Duration::ZERO,
            time_to_first_event: None,
        }
    }

    /// Returns how the stream ended.
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// Returns `true` if the layer has sent a close event.
    pub fn close_event_sent(&self) -> bool {
        self.close_event_sent
    }

    /// Returns `true` if an event of the upstream was delivered: its blank line was forwarded, and it has a `data` field.
    pub fn delivered(&self) -> bool {
        self.counts.delivered
    }

    /// Returns the number of the upstream's data frames that were forwarded, in whole or in part. Empty frames do not count,
    /// nor do the close event and keep-alive comments.
    pub fn data_frames(&self) -> u64 {
        self.counts.data_frames
    }

    /// Returns the number of bytes that the upstream has returned. Those of an unfinished event that was discarded count.
    pub fn bytes_received(&self) -> u64 {
        self.counts.bytes_received
    }

    /// Returns the number of bytes that the body has returned to the server. Those of the close event and of keep-alive
    /// comments count.
    pub fn bytes_sent(&self) -> u64 {
        self.counts.bytes_sent
    }

    /// Returns the time from the response to the end of the stream.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Returns the time from the response to the frame that delivered the first event. `None` if no event was delivered.
    pub fn time_to_first_event(&self) -> Option<Duration> {
        self.time_to_first_event
    }

    /// Sets [`close_event_sent`](Self::close_event_sent).
    #[must_use]
    pub fn with_close_event_sent(mut self, sent: bool) -> Self {
        self.close_event_sent = sent;
        self
    }

    /// Sets [`delivered`](Self::delivered).
    #[must_use]
    pub fn with_delivered(mut self, delivered: bool) -> Self {
        self.counts.delivered = delivered;
        self
    }

    /// Sets [`data_frames`](Self::data_frames).
    #[must_use]
    pub fn with_data_frames(mut self, frames: u64) -> Self {
        self.counts.data_frames = frames;
        self
    }

    /// Sets [`bytes_received`](Self::bytes_received).
    #[must_use]
    pub fn with_bytes_received(mut self, bytes: u64) -> Self {
        self.counts.bytes_received = bytes;
        self
    }

    /// Sets [`bytes_sent`](Self::bytes_sent).
    #[must_use]
    pub fn with_bytes_sent(mut self, bytes: u64) -> Self {
        self.counts.bytes_sent = bytes;
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
