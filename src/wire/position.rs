//! The position of the client in the event stream.

/// Position of the client, which has everything that has been forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// A boundary. An event has been delivered and nothing is buffered, so frames of whole events need no scan.
    Aligned,
    Boundary,
    /// A boundary. The last byte is a CR, so an LF would still belong to the same line end.
    AfterCr,
    /// Inside an event or a comment that exceeds the limit.
    MidEvent,
}
