//! Holding back an unfinished event until the rest of it has come.

use bytes::{Buf, Bytes, BytesMut};

use crate::wire::scanner::{BYTE_ORDER_MARK, Boundary};

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
    /// What went out last had the end of an event in it. Only kept up where every event counts.
    just_delivered: bool,
    every_event_counts: bool,
    /// A comment that is not the upstream's went out before anything else.
    comment_first: bool,
    /// All of the above is settled: events were delivered, and all that came went out and ended in LF.
    aligned: bool,
    /// The upstream's data frames that went out, in whole or in part.
    frames: u64,
    bytes: u64,
    /// There only while something waits.
    waiting: Option<Box<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Goes out next: it belongs right behind what went out last.
    queued: Option<Bytes>,
    /// An unfinished event. A copy, so that a small rest does not keep the upstream's large buffer alive.
    held: BytesMut,
    /// The upstream's frames of which nothing went out yet.
    held_frames: u64,
}

impl HoldBack {
    /// Where every event counts, [`just_delivered`](Self::just_delivered) is kept up.
    pub(crate) const fn new(every_event_counts: bool) -> Self {
        Self {
            boundary: Boundary::new(),
            mid_event: false,
            ends_in_cr: false,
            delivered: false,
            just_delivered: false,
            every_event_counts,
            comment_first: false,
            aligned: false,
            frames: 0,
            bytes: 0,
            waiting: None,
        }
    }

    /// Whether data that [`passes_aligned`](Self::passes_aligned) may go out as it is.
    #[inline]
    pub(crate) fn is_aligned(&self) -> bool {
        self.aligned
    }

    /// Whether this data leaves an aligned stream just as it was.
    #[inline(always)]
    pub(crate) fn passes_aligned(data: &impl Buf) -> bool {
        let bytes = data.chunk();
        bytes.len() == data.remaining() && (bytes.ends_with(b"\n\n") || bytes.ends_with(b"\n\r\n"))
    }

    /// Counts a frame that passed.
    #[inline]
    pub(crate) fn passed(&mut self, length: usize) {
        self.frames += 1;
        self.bytes += length as u64;
    }

    /// Takes the next data of the upstream, and returns what goes out now. There may be more in
    /// [`next_queued`](Self::next_queued), which has to go out before the next call.
    pub(crate) fn push(&mut self, mut data: Bytes, limit: usize) -> Option<Bytes> {
        if data.is_empty() {
            return None;
        }
        let boundary = self.boundary.feed(&data);
        match boundary {
            Some(end) => {
                self.ends_in_cr = data[..end].ends_with(b"\r");
                self.mid_event = data.len() - end > limit;
            }
            None if self.mid_event => {}
            None if self.held().len() + data.len() > limit && !self.only_mark_to_drop(&data) => {
                self.mid_event = true;
            }
            None => {
                self.hold(&data, limit).held_frames += 1;
                self.settle();
                return None;
            }
        }

        let (before, frames_before) = self.let_go();
        if let Some(end) = boundary.filter(|&end| end < data.len() && !self.mid_event) {
            self.hold(&data[end..], limit);
            data.truncate(end);
        }
        let first = if before.is_empty() {
            self.goes_out(data, 1)
        } else if self.drops_mark() {
            // In one piece, so that a byte order mark at its start is seen.
            let whole = [before, data].concat().into();
            self.goes_out(whole, frames_before + 1)
        } else {
            self.waiting.get_or_insert_default().queued = Some(data);
            self.goes_out(before, frames_before)
        };
        self.settle();
        Some(first)
    }

    #[inline]
    pub(crate) fn next_queued(&mut self) -> Option<Bytes> {
        let queued = self.waiting.as_mut()?.queued.take()?;
        let queued = self.goes_out(queued, 1);
        self.settle();
        Some(queued)
    }

    /// The unfinished event, when nothing more comes.
    pub(crate) fn take_held(&mut self) -> Option<Bytes> {
        let (held, frames) = self.let_go();
        self.waiting = None;
        let held = self.goes_out(held, frames);
        (!held.is_empty()).then_some(held)
    }

    /// Drops the unfinished event, when nothing more comes.
    pub(crate) fn discard_held(&mut self) {
        self.waiting = None;
    }

    /// Notes that a comment of ours goes out.
    pub(crate) fn comment_goes_out(&mut self) {
        self.comment_first |= self.bytes == 0;
    }

    /// Whether anything still has to go out, if the stream ends here without a close event.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether a comment may go out: where a close event may, but not between a CR and an LF that may belong to it.
    pub(crate) fn may_comment(&self) -> bool {
        self.may_close() && !self.ends_in_cr
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

    pub(crate) fn just_delivered(&self) -> bool {
        self.just_delivered
    }

    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn held(&self) -> &[u8] {
        self.waiting.as_ref().map_or(&[], |waiting| &waiting.held)
    }

    /// Whether a byte order mark of the upstream is left out, if it comes. It is one only at the start, where our
    /// comment is now: clients would take it for a part of the first field's name.
    fn drops_mark(&self) -> bool {
        self.comment_first && self.bytes == 0
    }

    /// Whether all that came is such a mark or its beginning, which has to wait for more whatever the limit is.
    fn only_mark_to_drop(&self, data: &[u8]) -> bool {
        let held = self.held();
        self.drops_mark()
            && BYTE_ORDER_MARK
                .strip_prefix(held)
                .is_some_and(|rest| rest.starts_with(data))
    }

    /// Grows by powers of two up to the limit, never past it.
    fn hold(&mut self, bytes: &[u8], limit: usize) -> &mut Waiting {
        let waiting = self.waiting.get_or_insert_default();
        let held = &mut waiting.held;
        let length = held.len() + bytes.len();
        if length > held.capacity() && !held.try_reclaim(bytes.len()) {
            // `reserve` may double what it is asked for.
            let mut larger = BytesMut::with_capacity(length.next_power_of_two().min(limit));
            larger.extend_from_slice(held);
            *held = larger;
        }
        held.extend_from_slice(bytes);
        waiting
    }

    /// Takes what is held, and the number of its frames.
    fn let_go(&mut self) -> (Bytes, u64) {
        let Some(waiting) = &mut self.waiting else {
            return (Bytes::new(), 0);
        };
        let frames = std::mem::take(&mut waiting.held_frames);
        (waiting.held.split().freeze(), frames)
    }

    fn goes_out(&mut self, mut data: Bytes, frames: u64) -> Bytes {
        if self.drops_mark() && data.starts_with(BYTE_ORDER_MARK) {
            data.advance(BYTE_ORDER_MARK.len());
        }
        self.frames += frames;
        self.bytes += data.len() as u64;
        data
    }

    fn settle(&mut self) {
        self.just_delivered = false;
        self.aligned = false;
        if let Some(waiting) = &self.waiting {
            if waiting.queued.is_some() {
                return;
            }
            if waiting.held.is_empty() {
                self.waiting = None;
            }
        }
        self.just_delivered = self.boundary.delivered();
        self.delivered |= self.just_delivered;
        if self.every_event_counts {
            self.boundary.forget_delivered();
        }
        self.aligned =
            self.delivered && self.waiting.is_none() && !self.mid_event && !self.ends_in_cr;
    }
}
