//! The close events of the streams.

use std::time::Duration;

use testkit::model::CloseEventSpec;
use tower_sse_completion::{CloseEvent, Ending, SseCompletionLayer};

/// One of a few close events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    Default,
    /// Data of several lines.
    Lines,
    /// A name and data that look like fields and events.
    Forged,
    /// A reconnection time.
    Retry,
    /// A reconnection time from a range.
    RetryBetween,
    /// The ending as data, if the event is made by the layer.
    PerStream,
}

impl Choice {
    pub(super) fn new(number: u8) -> Self {
        match number % 8 {
            1 => Self::Lines,
            2 => Self::Forged,
            3 => Self::Retry,
            4 => Self::RetryBetween,
            5 => Self::PerStream,
            _ => Self::Default,
        }
    }

    pub(super) fn event(self) -> CloseEvent {
        let milliseconds = Duration::from_millis;
        let event = match self {
            Self::Default | Self::PerStream => Ok(CloseEvent::new()),
            Self::Lines => CloseEvent::named("bye").map(|event| event.data("\r\na\n\nb\rc\n")),
            Self::Forged => {
                CloseEvent::named("id: 9").map(|event| event.data("\n\nid: 9\ndata: x\n\n"))
            }
            Self::Retry => CloseEvent::new().data("{}").retry(milliseconds(9)),
            Self::RetryBetween => {
                CloseEvent::new().retry_between(milliseconds(8)..=milliseconds(9))
            }
        };
        event.expect("a valid close event")
    }

    pub(super) fn configure(self, layer: SseCompletionLayer) -> SseCompletionLayer {
        match self {
            Self::PerStream => {
                layer.close_event_with(|report| CloseEvent::new().data(report.ending().as_str()))
            }
            _ => layer.close_event(self.event()),
        }
    }

    /// Returns the event as clients see it. `ending` is `None` unless the layer makes the event.
    pub(super) fn spec(self, ending: Option<Ending>) -> CloseEventSpec {
        let (event_type, data, retry) = match self {
            Self::PerStream => ("close", ending.map_or("", Ending::as_str), None),
            Self::Default => ("close", "", None),
            Self::Lines => ("bye", "\na\n\nb\nc\n", None),
            Self::Forged => ("id: 9", "\n\nid: 9\ndata: x\n\n", None),
            Self::Retry => ("close", "{}", Some(9..=9)),
            Self::RetryBetween => ("close", "", Some(8..=9)),
        };
        CloseEventSpec {
            event_type: event_type.to_owned(),
            data: data.to_owned(),
            retry,
        }
    }
}
