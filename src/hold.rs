//! Holding back an unfinished event until the rest of it has come.

use bytes::{Buf, Bytes, BytesMut};

use crate::boundary::Boundary;

/// Takes the data of the upstream and lets it out, so that what is out never ends inside of an event, as long as
/// that takes no more than the limit.
#[derive(Debug)]
pub(crate) struct HoldBack {
    boundary: Boundary,
    /// The client has a part of an event that was too large to hold.
    mid_event: bool,
    /// The last byte that went out is a CR.
    ends_in_cr: bool,
    /// An event, its blank line included, went out.
    delivered: bool,
    /// All of the above is settled: events were delivered, and all that came went out and ended in LF.
    aligned: bool,
    /// There only while something waits.
    waiting: Option<Box<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Goes out next: it belongs right behind what went out last.
    queued: Option<Bytes>,
    /// An unfinished event. A copy, so that a small rest does not keep the upstream's large buffer alive.
    held: BytesMut,
}

impl HoldBack {
    pub(crate) const fn new() -> Self {
        Self {
            boundary: Boundary::new(),
            mid_event: false,
            ends_in_cr: false,
            delivered: false,
            aligned: false,
            waiting: None,
        }
    }

    /// Whether data that [`passes_aligned`](Self::passes_aligned) may go out as it is.
    #[inline]
    pub(crate) fn is_aligned(&self) -> bool {
        self.aligned
    }

    /// Whether this data leaves an aligned stream just as it was.
    #[inline]
    pub(crate) fn passes_aligned(data: &impl Buf) -> bool {
        let bytes = data.chunk();
        bytes.len() == data.remaining() && (bytes.ends_with(b"\n\n") || bytes.ends_with(b"\n\r\n"))
    }

    /// Takes the next data of the upstream, and returns what goes out now. There may be more in
    /// [`next_queued`](Self::next_queued), which has to go out before the next call.
    pub(crate) fn push(&mut self, mut data: Bytes, limit: usize) -> Option<Bytes> {
        let boundary = self.boundary.feed(&data);
        match boundary {
            Some(end) => {
                self.ends_in_cr = data[..end].ends_with(b"\r");
                self.mid_event = data.len() - end > limit;
            }
            None if self.mid_event => {}
            None if self.held().len() + data.len() > limit => self.mid_event = true,
            None => {
                self.hold(&data, limit);
                self.settle();
                return None;
            }
        }

        let mut first = None;
        if let Some(waiting) = &mut self.waiting {
            first = Some(waiting.held.split().freeze()).filter(|held| !held.is_empty());
        }
        if let Some(end) = boundary {
            if !self.mid_event {
                self.hold(&data[end..], limit);
                data.truncate(end);
            }
        }
        if first.is_some() {
            self.waiting.get_or_insert_default().queued = Some(data);
        } else {
            first = Some(data);
        }
        self.settle();
        first
    }

    #[inline]
    pub(crate) fn next_queued(&mut self) -> Option<Bytes> {
        let queued = self.waiting.as_mut()?.queued.take();
        if queued.is_some() {
            self.settle();
        }
        queued
    }

    /// The unfinished event, when nothing more comes.
    pub(crate) fn take_held(&mut self) -> Option<Bytes> {
        let waiting = self.waiting.take()?;
        Some(waiting.held.freeze())
    }

    /// Whether anything still has to go out, if the stream ends here without a close event.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether a close event would stand between two events, if what is held is discarded.
    pub(crate) fn may_close(&self) -> bool {
        !self.mid_event
    }

    pub(crate) fn ends_in_cr(&self) -> bool {
        self.ends_in_cr
    }

    pub(crate) fn delivered(&self) -> bool {
        self.delivered
    }

    fn held(&self) -> &[u8] {
        self.waiting.as_ref().map_or(&[], |waiting| &waiting.held)
    }

    /// Grows by powers of two up to the limit, never past it.
    fn hold(&mut self, bytes: &[u8], limit: usize) {
        if bytes.is_empty() {
            return;
        }
        let held = &mut self.waiting.get_or_insert_default().held;
        let length = held.len() + bytes.len();
        if length > held.capacity() {
            held.reserve(length.next_power_of_two().min(limit) - held.len());
        }
        held.extend_from_slice(bytes);
    }

    fn settle(&mut self) {
        if let Some(waiting) = &self.waiting {
            self.aligned = false;
            if waiting.queued.is_some() {
                return;
            }
            if waiting.held.is_empty() {
                self.waiting = None;
            }
        }
        self.delivered = self.boundary.delivered();
        self.aligned =
            self.delivered && self.waiting.is_none() && !self.mid_event && !self.ends_in_cr;
    }
}
