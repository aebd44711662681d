//! Buffers an unfinished event until the rest of it arrives, so that a close event is never written inside an event.

use std::mem;

use bytes::{Buf, Bytes};

use super::{
    event_match::EventReader,
    scanner::{BYTE_ORDER_MARK, Scanner},
};
use crate::report::Totals;

/// Buffers upstream data so that the forwarded bytes always end at an event boundary, unless an event exceeds the limit.
#[derive(Debug)]
pub(crate) struct EventBuffer {
    scanner: Scanner,
    position: Position,
    /// An event has been delivered.
    delivered: bool,
    /// `true` if a frame that ends in a blank line and an LF needs no scan: the client is at a boundary after an LF, an event has
    /// been delivered, and nothing is held.
    skips_scan: bool,
    /// A keep-alive comment preceded the first byte of the upstream, so a byte order mark must be stripped.
    strip_byte_order_mark: bool,
    /// Upstream data frames that have been forwarded, in whole or in part.
    frames: u64,
    /// Upstream bytes that have been forwarded.
    bytes: u64,
    /// Upstream bytes that have been discarded.
    discarded: u64,
    /// Bytes of the layer that have been sent: comments and the close event.
    added: u64,
    /// `None` while every frame consists of whole events.
    held: Option<Box<Held>>,
}

/// Data that is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) data: Bytes,
    /// The data delivers an event. After the first such event, `delivered` is exact only if the caller of
    /// [`push`](EventBuffer::push) requests it.
    pub(crate) delivered: bool,
    /// The data ends with an end mark.
    pub(crate) is_end_mark: bool,
}

/// Position of the client, once everything that is queued has been forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Boundary,
    /// A boundary. The last byte is a CR, so an LF would still belong to the same line end.
    AfterCr,
    /// Inside an event or a comment that exceeds the limit. Nothing is held then.
    InsideEvent,
}

/// Bytes that have not been forwarded yet.
#[derive(Debug, Default)]
struct Held {
    /// Second half of the frame returned last. Must be returned next.
    queued: Option<Forward>,
    /// The unfinished event. The bytes are a copy, so that a few bytes do not keep a large buffer of the upstream alive.
    bytes: Vec<u8>,
    /// Upstream data frames of which nothing has been forwarded yet.
    frames: u64,
}

/// Maximum length of a frame that joins a buffered event with its rest. Above this length, a copy costs more than a frame.
const MAX_JOINED: usize = 4096;

impl EventBuffer {
    pub(crate) const fn new() -> Self {
        Self {
            scanner: Scanner::new(),
            position: Position::Boundary,
            delivered: false,
            skips_scan: false,
            strip_byte_order_mark: false,
            frames: 0,
            bytes: 0,
            discarded: 0,
            added: 0,
            held: None,
        }
    }

    /// Returns `true` if a frame that ends in a blank line and an LF needs no scan.
    #[inline(always)]
    pub(crate) fn skips_scan(&self) -> bool {
        self.skips_scan
    }

    /// Records that a frame is forwarded without a scan.
    #[inline(always)]
    pub(crate) fn record_forwarded(&mut self, data: &[u8]) {
        self.frames += 1;
        self.bytes += data.len() as u64;
    }

    /// Takes the next data of the upstream, and returns the data that is forwarded now. More may follow from
    /// [`next_queued`](Self::next_queued), which must be forwarded before the next call.
    ///
    /// With `detect_delivery` or a reader, the result states for each event whether it has been delivered. Bytes after an end mark
    /// of the reader are discarded.
    pub(crate) fn push(
        &mut self,
        mut data: Bytes,
        limit: usize,
        detect_delivery: bool,
        mut reader: Option<&mut EventReader>,
    ) -> Option<Forward> {
        if data.is_empty() {
            return None;
        }
        self.skips_scan = false;
        let was_inside_event = self.position == Position::InsideEvent;
        let scanned = match &mut reader {
            Some(reader) => self.scanner.read(&data, *reader),
            None => self.scanner.feed(&data, detect_delivery || !self.delivered),
        };
        let is_end_mark = reader.is_some_and(|reader| reader.has_end_mark());
        if let (true, Some(end)) = (is_end_mark, scanned.boundary) {
            self.discarded += (data.len() - end) as u64;
            data.truncate(end);
        }
        match scanned.boundary {
            Some(end) if data.len() - end > limit => self.position = Position::InsideEvent,
            Some(end) if data[..end].ends_with(b"\r") => self.position = Position::AfterCr,
            Some(_) => self.position = Position::Boundary,
            None if was_inside_event => {}
            None if self.exceeds(&data, limit) => self.position = Position::InsideEvent,
            None => {
                self.hold(&data, limit).frames += 1;
                return None;
            }
        }

        let forwarded = match self.position {
            Position::InsideEvent => data.len(),
            _ => scanned.boundary.unwrap_or(data.len()),
        };
        if self.held.is_none() && forwarded == data.len() {
            let forward = self.forward(data, 1, scanned.delivered, is_end_mark);
            self.skips_scan = self.delivered && self.position == Position::Boundary;
            return Some(forward);
        }
        let joins = self.held_bytes() as usize + forwarded <= MAX_JOINED || self.may_strip();
        let held = match joins {
            true => self.take_held(&data[..forwarded]),
            false => self.take_held(&[]),
        };
        if forwarded < data.len() {
            self.hold(&data[forwarded..], limit);
            data.truncate(forwarded);
        } else if held.is_none() {
            // The memory is released once whole events arrive in whole frames.
            self.held = None;
        }
        let delivered = scanned.delivered;
        let forward = match held {
            None => self.forward(data, 1, delivered, is_end_mark),
            Some((joined, frames)) if joins => {
                self.forward(joined, frames + 1, delivered, is_end_mark)
            }
            Some((held, frames)) => {
                self.held.get_or_insert_default().queued = Some(Forward {
                    data,
                    delivered,
                    is_end_mark,
                });
                self.forward(held, frames, false, false)
            }
        };
        self.skips_scan =
            self.delivered && self.held.is_none() && self.position == Position::Boundary;
        Some(forward)
    }

    /// Returns the second half of the data that [`push`](Self::push) has returned.
    pub(crate) fn next_queued(&mut self) -> Option<Forward> {
        let Forward {
            data,
            delivered,
            is_end_mark,
        } = self.held.as_mut()?.queued.take()?;
        Some(self.forward(data, 1, delivered, is_end_mark))
    }

    /// Returns the unfinished event at the end of the stream, if there is one.
    pub(crate) fn forward_held(&mut self) -> Option<Bytes> {
        let (held, frames) = self.take_held(&[])?;
        self.held = None;
        // A byte order mark may be all that was held.
        let data = self.forward(held, frames, false, false).data;
        (!data.is_empty()).then_some(data)
    }

    /// Forwards the unfinished event with the line ends that it lacks, so that the event is delivered.
    pub(crate) fn forward_completed(&mut self) -> Bytes {
        let ends_in_lf = !self.scanner.is_in_line() && !self.scanner.is_after_cr();
        let line_ends: &[u8] = if ends_in_lf { b"\n" } else { b"\n\n" };
        let event = self.forward_held().unwrap_or_default();
        self.added += line_ends.len() as u64;
        self.delivered = true;
        [&event, line_ends].concat().into()
    }

    /// Discards the unfinished event at the end of the stream.
    pub(crate) fn discard_held(&mut self) {
        self.discarded += self.held_bytes();
        self.held = None;
    }

    /// Records that a keep-alive comment is sent.
    #[cfg(feature = "tokio")]
    pub(crate) fn record_comment(&mut self, comment: &[u8]) {
        self.record_added(comment);
        self.strip_byte_order_mark |= self.bytes == 0;
    }

    /// Records that bytes of the layer are sent: the close event or a line end.
    pub(crate) fn record_added(&mut self, bytes: &[u8]) {
        self.added += bytes.len() as u64;
    }

    /// Returns `true` if anything is held.
    pub(crate) fn is_holding(&self) -> bool {
        self.held_bytes() > 0
    }

    /// Returns `true` if a keep-alive comment may be sent: at a boundary, but not between a CR and an LF.
    #[cfg(feature = "tokio")]
    pub(crate) fn may_comment(&self) -> bool {
        self.position == Position::Boundary
    }

    /// Returns `true` if the forwarded bytes end inside an event or a comment.
    pub(crate) fn is_inside_event(&self) -> bool {
        self.position == Position::InsideEvent
    }

    /// Returns `true` if the forwarded bytes end in a CR, so that an LF must precede the close event.
    pub(crate) fn ends_in_cr(&self) -> bool {
        self.position == Position::AfterCr
    }

    /// Returns `true` if the upstream has sent the start of an event without its end.
    pub(crate) fn has_unfinished_event(&self) -> bool {
        self.scanner.is_in_event()
    }

    /// Returns `true` if the upstream has sent the start of a line without its end.
    pub(crate) fn has_unfinished_line(&self) -> bool {
        self.scanner.is_in_line()
    }

    /// Returns `true` if anything has been sent to the client, comments included.
    pub(crate) fn has_sent(&self) -> bool {
        self.bytes + self.added > 0
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals {
            delivered: self.delivered,
            data_frames: self.frames,
            bytes_received: self.bytes + self.discarded + self.held_bytes(),
            bytes_sent: self.bytes + self.added,
        }
    }

    fn forward(
        &mut self,
        mut data: Bytes,
        frames: u64,
        delivered: bool,
        is_end_mark: bool,
    ) -> Forward {
        if self.may_strip() && data.starts_with(BYTE_ORDER_MARK) {
            data.advance(BYTE_ORDER_MARK.len());
            self.discarded += BYTE_ORDER_MARK.len() as u64;
        }
        self.frames += frames;
        self.bytes += data.len() as u64;
        self.delivered |= delivered;
        Forward {
            data,
            delivered,
            is_end_mark,
        }
    }

    fn exceeds(&self, data: &[u8], limit: usize) -> bool {
        let held = self.held.as_deref().map_or(&[][..], |held| &held.bytes);
        // A byte order mark that will be stripped, or its start, is held regardless of the limit.
        let mark = BYTE_ORDER_MARK.strip_prefix(held);
        let is_mark = self.may_strip() && mark.is_some_and(|rest| rest.starts_with(data));
        held.len() + data.len() > limit && !is_mark
    }

    /// Returns `true` if a byte order mark at the start of the upstream must be stripped. After a comment, a client would read the
    /// mark as part of the first field name.
    fn may_strip(&self) -> bool {
        self.strip_byte_order_mark && self.bytes == 0
    }

    /// Appends to the held bytes. The memory grows by powers of two up to the limit.
    fn hold(&mut self, bytes: &[u8], limit: usize) -> &mut Held {
        let held = self.held.get_or_insert_default();
        let length = held.bytes.len() + bytes.len();
        if length > held.bytes.capacity() {
            let capacity = length.next_power_of_two().min(limit.max(length));
            held.bytes.reserve_exact(capacity - held.bytes.len());
        }
        held.bytes.extend_from_slice(bytes);
        held
    }

    /// Takes the held bytes and the number of their frames. `rest` is appended to the bytes.
    fn take_held(&mut self, rest: &[u8]) -> Option<(Bytes, u64)> {
        let held = self.held.as_deref_mut()?;
        if held.bytes.is_empty() {
            return None;
        }
        let bytes = match held.bytes.len() + rest.len() > MAX_JOINED && rest.is_empty() {
            true => mem::take(&mut held.bytes).into(),
            false => {
                // A copy of the exact length, so that the memory is used again for the next event.
                let copy = [&held.bytes, rest].concat().into();
                held.bytes.clear();
                copy
            }
        };
        Some((bytes, mem::take(&mut held.frames)))
    }

    /// Returns the number of held bytes.
    fn held_bytes(&self) -> u64 {
        let held = self.held.as_deref();
        held.map_or(0, |held| {
            let queued = held.queued.as_ref().map_or(0, |queued| queued.data.len());
            (held.bytes.len() + queued) as u64
        })
    }
}

/// Returns `true` if these bytes end in a blank line whose last byte is an LF, regardless of the bytes before them.
#[inline(always)]
pub(crate) fn ends_in_lf_blank_line(bytes: &[u8]) -> bool {
    const LF_LF: u16 = u16::from_ne_bytes(*b"\n\n");
    const CR_LF: u16 = u16::from_ne_bytes(*b"\r\n");

    let Some((before, last)) = bytes.split_last_chunk::<2>() else {
        return false;
    };
    match u16::from_ne_bytes(*last) {
        LF_LF => true,
        CR_LF => before.ends_with(b"\n"),
        _ => false,
    }
}
