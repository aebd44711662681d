//! The state of the client and the counts of the forwarded bytes.

use super::{
    super::{held::Held, position::Position},
    EventBuffer,
};
use crate::report::stream_report::Counts;

impl EventBuffer {
    /// Returns `true` if anything is buffered.
    pub(crate) fn is_holding(&self) -> bool {
        self.held.as_deref().is_some_and(|held| !held.is_empty())
    }

    /// Returns `true` if a keep-alive comment may be sent: at a boundary, but not between a CR and an LF.
    #[cfg(feature = "tokio")]
    pub(crate) fn may_comment(&self) -> bool {
        matches!(self.position, Position::Aligned | Position::Boundary)
    }

    /// Returns `true` if the client is inside an event or a comment, even if everything that is buffered is discarded.
    pub(crate) fn is_mid_event(&self) -> bool {
        self.position == Position::MidEvent
    }

    /// Returns `true` if an LF must precede the close event.
    pub(crate) fn ends_in_cr(&self) -> bool {
        self.position == Position::AfterCr
    }

    /// Returns `true` if the upstream has sent the start of an event without its end.
    pub(crate) fn has_unfinished_event(&self) -> bool {
        self.scanner.is_in_event()
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            delivered: self.delivered,
            data_frames: self.frames,
            bytes_received: self.bytes + self.discarded + self.held_bytes(),
            bytes_sent: self.bytes + self.added,
        }
    }

    /// Returns `true` if anything has been sent to the client, comments included.
    pub(crate) fn has_sent(&self) -> bool {
        self.bytes + self.added > 0
    }

    /// Returns `true` if the last event that was forwarded is known to have an `event` field of this value.
    pub(crate) fn ends_with_event(&self, event_type: &str) -> bool {
        self.event_types.last_is(event_type)
    }

    /// Returns the number of buffered bytes.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held.as_deref().map_or(0, Held::len)
    }
}
