//! The close events of these streams, and how a client has to see them.

use std::time::Duration;

use tower_sse_completion::{CloseEvent, Ending, SseCompletionLayer};

use crate::support::{CLOSE, decoder::decode};

/// One of a few close events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    Default,
    /// With data of several lines.
    Lines,
    /// Whose data tries to be more events.
    Forged,
    /// With a reconnection time.
    Retry,
    /// With one from a range.
    RetryBetween,
    /// With the ending as its data, where the layer makes it.
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

    pub(super) fn configure<C>(self, layer: SseCompletionLayer<C>) -> SseCompletionLayer<C> {
        match self {
            Self::PerStream => {
                layer.close_event_with(|ending| CloseEvent::new().data(ending.as_str()))
            }
            _ => layer.close_event(self.event()),
        }
    }

    /// The bytes have to be this close event, behind an LF where that completes a CRLF. `by_layer` is how the stream
    /// ended, if the layer itself made the event.
    #[track_caller]
    pub(super) fn assert_is(self, bytes: &[u8], after_cr: bool, by_layer: Option<Ending>) {
        let event = match after_cr {
            true => bytes.strip_prefix(b"\n").expect("C5: an LF behind a CR"),
            false => bytes,
        };
        let (kind, data, reconnection_times) = match self {
            Self::PerStream => ("close", by_layer.map_or("", Ending::as_str), None),
            Self::Default => ("close", "", None),
            Self::Lines => ("bye", "\na\n\nb\nc\n", None),
            Self::Forged => ("id: 9", "\n\nid: 9\ndata: x\n\n", None),
            Self::Retry => ("close", "{}", Some(9..=9)),
            Self::RetryBetween => ("close", "", Some(8..=9)),
        };
        if self == Self::Default {
            assert_eq!(event, CLOSE, "C8: the default close event");
        }
        assert!(event.starts_with(b"event: "), "C5: nothing in front");
        assert!(!event.contains(&b'\r'), "C5: always LF");
        let decoded = decode(event);
        assert!(!decoded.pending);
        assert_eq!(decoded.events.len(), 1, "C8: one event");
        assert_eq!(decoded.events[0].kind, kind);
        assert_eq!(decoded.events[0].data, data);
        assert_eq!(decoded.last_event_id, "", "C8: no id");
        assert_eq!(
            decoded.reconnection_time.is_some(),
            reconnection_times.is_some()
        );
        if let (Some(time), Some(times)) = (decoded.reconnection_time, reconnection_times) {
            assert!(times.contains(&time), "C8: {time} is not in {times:?}");
        }
    }
}
