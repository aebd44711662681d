//! The keep-alive comment.

use std::time::Duration;

use bytes::Bytes;

use crate::wire::encoding::push_lines;

/// The comment that keeps a silent stream alive, and the interval after which it is sent.
///
/// Pass it to [`keep_alive`](crate::SseCompletionLayer::keep_alive), which also takes an interval alone:
///
/// ```
/// use std::time::Duration;
/// use tower_sse_completion::{KeepAlive, SseCompletionLayer};
///
/// let layer = SseCompletionLayer::new().keep_alive(Duration::from_secs(30));
///
/// let keep_alive = KeepAlive::new().interval(Duration::from_secs(30)).text("ping");
/// let layer = SseCompletionLayer::new().keep_alive(keep_alive);
/// # let _ = layer;
/// ```
///
/// # On the wire
///
/// The default is `:` followed by a blank line, as axum and sse-starlette send it. Clients ignore a comment
/// ([HTML standard, 9.2.6][html]), and a blank line without an event dispatches nothing. Clients that split the stream at
/// blank lines instead of parsing it lose the next event without that blank line, because the comment is its first line then.
///
/// [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepAlive {
    pub(crate) interval: Duration,
    pub(crate) comment: Bytes,
    text: String,
    blank_line: bool,
}

const DEFAULT_COMMENT: &[u8] = b":\n\n";

impl KeepAlive {
    /// Returns the default: an empty comment after every 15 seconds of silence, as the [HTML standard, 9.2.7][html] suggests.
    ///
    /// [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html#authoring-notes
    pub fn new() -> Self {
        Self {
            interval: Duration::from_secs(15),
            comment: Bytes::from_static(DEFAULT_COMMENT),
            text: String::new(),
            blank_line: true,
        }
    }

    /// Sets the duration of the silence after which the comment is sent. An interval below 1 ms counts as 1 ms.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets the text of the comment. Each line of the text becomes a comment line.
    #[must_use]
    pub fn text(mut self, text: impl AsRef<str>) -> Self {
        text.as_ref().clone_into(&mut self.text);
        self.encode()
    }

    /// Sets whether a blank line follows the comment. The default is `true`.
    ///
    /// Without it the comment is one or two bytes shorter, and some clients that do not follow the HTML standard do not take
    /// it for an empty message.
    #[must_use]
    pub fn blank_line(mut self, blank_line: bool) -> Self {
        self.blank_line = blank_line;
        self.encode()
    }

    fn encode(mut self) -> Self {
        let mut comment = String::new();
        push_lines(&mut comment, ":", &self.text);
        if self.blank_line {
            comment.push('\n');
        }
        self.comment = comment.into();
        self
    }
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Duration> for KeepAlive {
    fn from(interval: Duration) -> Self {
        Self::new().interval(interval)
    }
}
