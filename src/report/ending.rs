//! The endings of event streams.

use std::fmt;

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
    /// The upstream ended after it had delivered an event.
    Completed,
    /// The upstream ended without an event. Comments and blocks without `data` do not count.
    Empty,
    /// The upstream ended inside an event.
    Truncated,
    /// A cancellation fired before the upstream ended. The report does not name the cancellation, if there are several.
    Cancelled,
    /// The stream reached its maximum age.
    Expired,
    /// No event was delivered for the idle timeout.
    Idle,
    /// The upstream returned an error or panicked.
    Failed,
    /// The server dropped the body before its end: usually because the client left, or because a drain has cut its
    /// connection.
    Dropped,
}

impl Ending {
    /// Returns `true` if a cancellation or a deadline has ended the stream.
    pub(crate) const fn is_stopped(self) -> bool {
        matches!(self, Self::Cancelled | Self::Expired | Self::Idle)
    }

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
