//! How event streams end.

use std::fmt;

/// How an event stream ended.
///
/// [`close_event_with`](crate::SseCompletionLayer::close_event_with) is given it, so that a close event can tell the
/// client why:
///
/// ```
/// use tower_sse_completion::{CloseEvent, SseCompletionLayer};
///
/// let layer = SseCompletionLayer::new()
///     .close_event_with(|ending| CloseEvent::new().data(ending.as_str()));
/// # let _ = layer;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// The upstream ended after it had delivered an event.
    Completed,
    /// The upstream ended without having delivered an event. Comments, fields without `data`, and an
    /// unfinished event do not count.
    Empty,
    /// A cancellation fired before the upstream ended.
    Cancelled,
    /// The stream had reached its greatest age.
    Expired,
    /// No event was delivered for too long.
    Idle,
    /// The upstream returned an error, or panicked.
    Failed,
    /// The server dropped the body before its end: mostly because the client left.
    Dropped,
}

impl Ending {
    /// The ending in one lower-case word: `completed`, `empty`, `cancelled`, `expired`, `idle`, `failed` or `dropped`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Empty => "empty",
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
