//! The end of a stream: clauses C7, C9, C11, C12 and C16 of the contract as one pure function.

use crate::{
    config::ClosePolicy,
    report::{Ending, Stop},
};

/// State of the upstream when the stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamEnd {
    /// The upstream has not ended. Only a stream that is stopped ends like this.
    Open,
    Eof,
    Trailers,
    Error,
}

/// The facts about a stream that decide its end, besides the stop and the end of the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// An event has been delivered.
    pub(crate) delivered: bool,
    /// The upstream has sent the start of an event without its end.
    pub(crate) unfinished: bool,
    /// The client is inside an event that exceeds the buffer limit.
    pub(crate) mid_event: bool,
    /// Another layer inside of this one has wrapped the stream.
    pub(crate) wraps_another_layer: bool,
    /// That layer has written its close event.
    pub(crate) inner_close_event: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) ending: Ending,
    /// The close event replaces buffered bytes. It is left out if the last event has its type.
    pub(crate) closes: bool,
    /// An error of the upstream is returned.
    pub(crate) forwards_error: bool,
}

impl Outcome {
    /// A cancellation takes precedence over the upstream. A deadline does not: a stream that ends on its own is not reported
    /// as expired or idle.
    ///
    /// | stop | upstream | ending | close event |
    /// |---|---|---|---|
    /// | cancelled | any | cancelled | at a boundary, unless an inner layer has written one |
    /// | deadline | open | expired, idle | at a boundary, unless an inner layer has written one |
    /// | deadline or none | end, trailers | completed, empty, truncated | by policy, at a boundary, not around another layer |
    /// | deadline or none | error | failed | by policy, at a boundary, not around another layer |
    pub(crate) fn decide(
        stop: Option<Stop>,
        upstream: UpstreamEnd,
        facts: Facts,
        policy: &ClosePolicy,
    ) -> Self {
        let ending = match (stop, upstream) {
            (Some(Stop::Cancelled), _) => Ending::Cancelled,
            (Some(Stop::Expired), UpstreamEnd::Open) => Ending::Expired,
            (Some(Stop::Idle), UpstreamEnd::Open) => Ending::Idle,
            (_, UpstreamEnd::Error) => Ending::Failed,
            _ if facts.unfinished => Ending::Truncated,
            _ if facts.delivered => Ending::Completed,
            _ => Ending::Empty,
        };
        let is_due = match ending {
            Ending::Cancelled | Ending::Expired | Ending::Idle => true,
            _ if facts.wraps_another_layer => false,
            Ending::Completed => policy.on_completed,
            Ending::Empty => policy.on_empty,
            Ending::Truncated => policy.on_truncated,
            Ending::Failed => policy.on_failed,
            Ending::Dropped => false,
        };
        let replaces_rest = is_due && !facts.mid_event;
        Self {
            ending,
            closes: replaces_rest && !facts.inner_close_event,
            forwards_error: !replaces_rest,
        }
    }
}

#[cfg(test)]
mod tests;
