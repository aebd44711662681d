//! What is reported of an event stream.

use std::time::Duration;

use super::ending::Ending;

/// Report of one event stream, for [`on_end`](crate::SseCompletionLayer::on_end).
///
/// ```
/// use tower_sse_completion::SseCompletionLayer;
///
/// let layer = SseCompletionLayer::new().on_end(|report| {
///     println!("{} after {:?}, {} bytes", report.ending(), report.duration(), report.bytes());
/// });
/// # let _ = layer;
/// ```
#[derive(Debug, Clone)]
pub struct StreamReport {
    pub(super) ending: Ending,
    pub(super) close_event_sent: bool,
    pub(super) counts: Counts,
    pub(super) duration: Duration,
    pub(super) time_to_first_event: Option<Duration>,
}

/// Counts of the frames and bytes that a stream has forwarded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) delivered: bool,
    pub(crate) data_frames: u64,
    pub(crate) bytes: u64,
}

impl StreamReport {
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

    /// Returns the number of the upstream's bytes that were forwarded.
    pub fn bytes(&self) -> u64 {
        self.counts.bytes
    }

    /// Returns the time from the response to the end of the stream.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Returns the time from the response to the frame that delivered the first event. `None` if no event was delivered.
    pub fn time_to_first_event(&self) -> Option<Duration> {
        self.time_to_first_event
    }
}
