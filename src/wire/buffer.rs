//! Buffers an unfinished event until the rest of it arrives.

use std::mem;

use bytes::{Buf, Bytes};

use super::{
    event_types::EventTypes,
    scanner::{BYTE_ORDER_MARK, Scanner},
};
use crate::report::Counts;

/// Buffers upstream data so that the forwarded bytes always end at an event boundary, unless an event exceeds the limit.
#[derive(Debug)]
pub(crate) struct EventBuffer {
    scanner: Scanner,
    position: Position,
    /// An event has been delivered.
    delivered: bool,
    /// A keep-alive comment has been sent before the first byte of the upstream, so a byte order mark is no longer one.
    strip_byte_order_mark: bool,
    /// Upstream data frames that have been forwarded, in whole or in part.
    frames: u64,
    /// `None` while whole events arrive in whole frames.
    held: Option<Box<Held>>,
    /// Upstream bytes that have been forwarded.
    bytes: u64,
    /// Upstream bytes that have been discarded.
    discarded: u64,
    /// Bytes of the layer that have been sent: comments and the close event.
    added: u64,
    event_types: EventTypes,
}

impl EventBuffer {
    pub(crate) const fn new() -> Self {
        Self {
            scanner: Scanner::new(),
            position: Position::Boundary,
            delivered: false,
            strip_byte_order_mark: false,
            frames: 0,
            bytes: 0,
            discarded: 0,
            added: 0,
            held: None,
            event_types: EventTypes::new(),
        }
    }

    /// Returns `true` if the fast path may be taken.
    #[inline(always)]
    pub(crate) fn is_aligned(&self) -> bool {
        self.position == Position::Aligned
    }

    /// Returns `true` if this data leaves an aligned stream aligned. Data that may have the type of the close event does not.
    #[inline(always)]
    pub(crate) fn stays_aligned(data: &[u8]) -> bool {
        // Both ends are read once the length is known to allow it. Nearly every frame starts with `data` or `id`.
        data.len() >= 4
            && (data.ends_with(b"\n\n") || data.ends_with(b"\n\r\n"))
            && !data.starts_with(b"even")
    }

    /// Forwards data that leaves an aligned stream aligned.
    #[inline(always)]
    pub(crate) fn forward_aligned(&mut self, data: &[u8]) {
        self.frames += 1;
        self.bytes += data.len() as u64;
        self.event_types.forwarded_without_type();
    }

    /// Takes the next data of the upstream, and returns what is forwarded now. More may follow from
    /// [`next_queued`](Self::next_queued), which must be forwarded before the next call.
    ///
    /// With `detect_delivery`, the result states for each event whether it has been delivered.
    pub(crate) fn push(
        &mut self,
        mut data: Bytes,
        limit: usize,
        detect_delivery: bool,
    ) -> Option<Forward> {
        if data.is_empty() {
            return None;
        }
        if self.is_aligned()
            && Self::stays_aligned(&data)
            && !detect_delivery
            && !self.event_types.tracks_all()
        {
            self.forward_aligned(&data);
            return Some(Forward::new(data, false));
        }
        let was_inside_event = self.position == Position::MidEvent;
        let scanned = self.scanner.feed(&data, detect_delivery || !self.delivered);
        match scanned.boundary {
            Some(end) if data.len() - end > limit => self.position = Position::MidEvent,
            Some(end) if data[..end].ends_with(b"\r") => self.position = Position::AfterCr,
            Some(_) => self.position = Position::Boundary,
            None if was_inside_event => {}
            None if self.exceeds(&data, limit) => self.position = Position::MidEvent,
            None => {
                self.hold(&data, limit).frames += 1;
                return None;
            }
        }

        let (before, frames_before) = self.take_bytes();
        let forwarded = match self.position {
            Position::MidEvent => data.len(),
            _ => scanned.boundary.unwrap_or(data.len()),
        };
        if forwarded < data.len() {
            self.hold(&data[forwarded..], limit);
            data.truncate(forwarded);
        } else if before.is_empty() {
            self.held = None;
        }
        let delivered = scanned.delivered;
        if before.is_empty() {
            let forward = self.forward(data, 1, delivered, !was_inside_event);
            if self.delivered && self.held.is_none() && self.position == Position::Boundary {
                self.position = Position::Aligned;
            }
            return Some(forward);
        }
        if self.strips_byte_order_mark() {
            // In one piece, because the mark may be in both.
            let whole = [before, data].concat().into();
            return Some(self.forward(whole, frames_before + 1, delivered, true));
        }
        self.held.get_or_insert_default().queued = Some(Forward::new(data, delivered));
        Some(self.forward(before, frames_before, false, true))
    }

    /// Returns the rest of what [`push`](Self::push) has returned.
    pub(crate) fn next_queued(&mut self) -> Option<Forward> {
        let Forward { data, delivered } = self.held.as_mut()?.queued.take()?;
        Some(self.forward(data, 1, delivered, false))
    }

    /// Forwards the unfinished event, when nothing follows it.
    pub(crate) fn take_held(&mut self) -> Option<Bytes> {
        let (held, frames) = self.take_bytes();
        self.held = None;
        if held.is_empty() {
            return None;
        }
        // A byte order mark may be all that was buffered.
        let data = self.forward(held, frames, false, true).data;
        (!data.is_empty()).then_some(data)
    }

    /// Discards the unfinished event, when nothing follows it.
    pub(crate) fn discard_held(&mut self) {
        self.discarded += self.held_bytes();
        self.held = None;
    }

    /// Finds the type of every event that is forwarded from now on, wherever its `event` field is.
    pub(crate) fn track_types(&mut self) {
        self.event_types.track_all(self.is_mid_event());
    }

    /// Notes that a keep-alive comment is sent.
    #[cfg(feature = "tokio")]
    pub(crate) fn comment_sent(&mut self, comment: &[u8]) {
        self.added += comment.len() as u64;
        self.strip_byte_order_mark |= self.bytes == 0;
    }

    /// Notes that a close event is sent.
    pub(crate) fn close_event_sent(&mut self, event: &[u8]) {
        self.added += event.len() as u64;
    }

    fn forward(
        &mut self,
        mut data: Bytes,
        frames: u64,
        delivered: bool,
        from_boundary: bool,
    ) -> Forward {
        if self.strips_byte_order_mark() && data.starts_with(BYTE_ORDER_MARK) {
            data.advance(BYTE_ORDER_MARK.len());
            self.discarded += BYTE_ORDER_MARK.len() as u64;
        }
        self.frames += frames;
        self.bytes += data.len() as u64;
        self.delivered |= delivered;
        self.event_types.forwarded(&data, from_boundary);
        Forward::new(data, delivered)
    }

    fn exceeds(&self, data: &[u8], limit: usize) -> bool {
        let held = self.held.as_deref().map_or(&[][..], Held::bytes);
        held.len() + data.len() > limit && !self.is_strippable_mark(held, data)
    }

    /// Returns `true` while a byte order mark would be stripped. It is one at the start only, where the keep-alive comment is
    /// now, and clients would take it for a part of the first field name.
    fn strips_byte_order_mark(&self) -> bool {
        self.strip_byte_order_mark && self.bytes == 0
    }

    /// Returns `true` if the whole stream so far is a strippable mark or its start. That is buffered regardless of the limit.
    fn is_strippable_mark(&self, held: &[u8], data: &[u8]) -> bool {
        let rest = BYTE_ORDER_MARK.strip_prefix(held);
        self.strips_byte_order_mark() && rest.is_some_and(|rest| rest.starts_with(data))
    }

    fn hold(&mut self, bytes: &[u8], limit: usize) -> &mut Held {
        if self.is_aligned() {
            self.position = Position::Boundary;
        }
        let held = self.held.get_or_insert_default();
        held.push(bytes, limit);
        held
    }

    /// Takes the buffered bytes, and the number of their frames.
    fn take_bytes(&mut self) -> (Bytes, u64) {
        let held = self.held.as_deref_mut();
        held.map_or_else(Default::default, Held::take)
    }
}

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
    fn held_bytes(&self) -> u64 {
        self.held.as_deref().map_or(0, Held::len)
    }
}

/// Position of the client, which has everything that has been forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// A boundary. An event has been delivered and nothing is buffered, so frames of whole events need no scan.
    Aligned,
    Boundary,
    /// A boundary. The last byte is a CR, so an LF would still belong to the same line end.
    AfterCr,
    /// Inside an event or a comment that exceeds the limit.
    MidEvent,
}

/// Data that is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) data: Bytes,
    /// The data ends an event that has a `data` field. After the first such event, it is known only if the caller of
    /// [`push`](EventBuffer::push) requests it.
    pub(crate) delivered: bool,
}

impl Forward {
    fn new(data: Bytes, delivered: bool) -> Self {
        Self { data, delivered }
    }
}

#[derive(Debug, Default)]
struct Held {
    /// The rest of what has been forwarded last, which is forwarded next.
    queued: Option<Forward>,
    /// The unfinished event. It is a copy, so that a few bytes do not keep a large buffer of the upstream alive.
    bytes: Vec<u8>,
    /// Upstream data frames of which nothing has been forwarded yet.
    frames: u64,
}

/// Up to this length, buffered bytes are copied once more when they are forwarded, and the memory is reused.
const MAX_COPIED: usize = 1024;

impl Held {
    fn is_empty(&self) -> bool {
        self.queued.is_none() && self.bytes.is_empty()
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the number of bytes, those of the rest included.
    fn len(&self) -> u64 {
        let queued = self.queued.as_ref();
        (self.bytes.len() + queued.map_or(0, |rest| rest.data.len())) as u64
    }

    /// Appends these bytes. The memory grows by powers of two up to the limit.
    fn push(&mut self, bytes: &[u8], limit: usize) {
        let length = self.bytes.len() + bytes.len();
        if length > self.bytes.capacity() {
            let capacity = length.next_power_of_two().min(limit.max(length));
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the bytes, and the number of their frames.
    fn take(&mut self) -> (Bytes, u64) {
        let bytes = match self.bytes.len() {
            0 => Bytes::new(),
            1..=MAX_COPIED => {
                let copy = Bytes::copy_from_slice(&self.bytes);
                self.bytes.clear();
                copy
            }
            _ => mem::take(&mut self.bytes).into(),
        };
        (bytes, mem::take(&mut self.frames))
    }
}
