//! Buffers an unfinished event until the rest of it arrives.

mod state;

use bytes::{Buf, Bytes};

use super::{
    event_types::EventTypes,
    held::{Forward, Held},
    position::Position,
    scanner::{BYTE_ORDER_MARK, Scanner},
};

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
