//! The table of endings.

use tower_sse_completion::Ending;

/// The reason why a stream stopped before the end of its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A cancellation fired.
    Cancelled,
    /// The stream reached its maximum age.
    Expired,
    /// No event was delivered for too long.
    Idle,
}

/// The end of an upstream, by its last poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamEnd {
    /// The upstream has not ended.
    Open,
    /// The upstream returned `None`, or reported with its last frame that no frame follows.
    Eof,
    /// The upstream returned trailers.
    Trailers,
    /// The upstream returned an error.
    Error,
}

/// The ends of an upstream that have a close event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Streams have a close event at all.
    pub close_event: bool,
    /// Ends without an event.
    pub close_on_empty: bool,
    /// Ends after a delivered event.
    pub close_on_completed: bool,
    /// Ends inside an event.
    pub close_on_truncated: bool,
    /// Errors.
    pub close_on_failed: bool,
}

/// The facts about the forwarded bytes that decide the end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// An event has been delivered.
    pub delivered: bool,
    /// The upstream has sent the start of an event without its end.
    pub unfinished: bool,
    /// The forwarded bytes end inside an event that is too large for the buffer.
    pub mid_event: bool,
    /// The stream is complete with an end mark only.
    pub expects_end_mark: bool,
    /// The released bytes end in an end mark.
    pub has_end_mark: bool,
    /// The unfinished event is an end mark, if the upstream ends here.
    pub ends_in_end_mark: bool,
}

/// The end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The ending that is reported.
    pub ending: Ending,
    /// A close event is sent in place of the buffered bytes and of an error.
    pub close_event: bool,
    /// The buffered bytes and an error of the upstream are forwarded.
    pub keeps_rest: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            close_event: true,
            close_on_empty: true,
            close_on_completed: false,
            close_on_truncated: false,
            close_on_failed: false,
        }
    }
}

impl Outcome {
    /// Returns how a stream ends. Without a stop and with an open upstream, the server has dropped the body.
    pub fn decide(stop: Option<Stop>, end: UpstreamEnd, facts: Facts, policy: Policy) -> Self {
        use UpstreamEnd::{Eof, Error, Open, Trailers};
        // An end mark overrules everything.
        let has_ended = matches!(end, Eof | Trailers);
        if facts.has_end_mark || facts.ends_in_end_mark && has_ended {
            return Self {
                ending: Ending::Completed,
                close_event: false,
                keeps_rest: true,
            };
        }
        // A deadline does not overrule an upstream that has ended. A cancellation does.
        let stop = stop.filter(|&stop| stop == Stop::Cancelled || end == Open);
        let (ending, is_due) = match (stop, end) {
            (Some(Stop::Cancelled), _) => (Ending::Cancelled, true),
            (Some(Stop::Expired), _) => (Ending::Expired, true),
            (Some(Stop::Idle), _) => (Ending::Idle, true),
            (None, Eof | Trailers)
                if facts.unfinished || facts.delivered && facts.expects_end_mark =>
            {
                (Ending::Truncated, policy.close_on_truncated)
            }
            (None, Eof | Trailers) if facts.delivered => {
                (Ending::Completed, policy.close_on_completed)
            }
            (None, Eof | Trailers) => (Ending::Empty, policy.close_on_empty),
            (None, Error) => (Ending::Failed, policy.close_on_failed),
            (None, Open) => (Ending::Dropped, false),
        };
        let close_event = policy.close_event && is_due && !facts.mid_event;
        // Without a close event, a stopped stream ends at a boundary as well.
        let ends_at_boundary = close_event || stop.is_some() && !facts.mid_event;
        Self {
            ending,
            close_event,
            keeps_rest: !ends_at_boundary && ending != Ending::Dropped,
        }
    }
}
