//! The bytes of the upstream that may be forwarded.

use crate::decoder::{BYTE_ORDER_MARK, Decoder};

use super::outcome::Facts;

/// The bytes that an upstream has sent so far, and how many of them may be forwarded: everything up to the last boundary,
/// or everything if the rest exceeds the buffer limit.
///
/// ```
/// use testkit::model::Forwarding;
///
/// let mut forwarding = Forwarding::new(8);
/// forwarding.receive(b"data: 1\n\ndata");
/// assert_eq!(forwarding.released(), 9);
/// forwarding.receive(b": 2 and");
/// assert_eq!(forwarding.released(), 20, "more than the limit");
/// assert!(forwarding.facts().mid_event);
/// ```
#[derive(Debug)]
pub struct Forwarding {
    buffer_limit: usize,
    received: Vec<u8>,
    decoder: Decoder,
    /// The positions after which an event is delivered.
    deliveries: Vec<usize>,
    /// The positions at which the frames start that are not empty.
    frame_starts: Vec<usize>,
    released: usize,
    mid_event: bool,
    is_untouched: bool,
    /// A comment precedes the first byte of the upstream, so a byte order mark there is dropped.
    drops_byte_order_mark: bool,
}

impl Forwarding {
    /// Returns the state before the first frame.
    pub fn new(buffer_limit: usize) -> Self {
        Self {
            buffer_limit,
            received: Vec::new(),
            decoder: Decoder::new(),
            deliveries: Vec::new(),
            frame_starts: Vec::new(),
            released: 0,
            mid_event: false,
            is_untouched: false,
            drops_byte_order_mark: false,
        }
    }

    /// Adds the next frame of the upstream.
    pub fn receive(&mut self, frame: &[u8]) {
        if frame.is_empty() {
            return;
        }
        let had_buffered = self.released < self.received.len();
        self.frame_starts.push(self.received.len());
        let mut boundary = None;
        for byte in frame {
            self.received.push(*byte);
            if !self.decoder.feed(&[*byte]).is_empty() {
                self.deliveries.push(self.received.len());
            }
            if !self.decoder.is_pending() {
                boundary = Some(self.received.len());
            }
        }
        let unfinished = self.received.len() - boundary.unwrap_or(self.released);
        let is_mark_to_drop =
            self.drops_byte_order_mark && BYTE_ORDER_MARK.starts_with(&self.received);
        let exceeds_limit = unfinished > self.buffer_limit && !is_mark_to_drop;
        self.mid_event = exceeds_limit || self.mid_event && boundary.is_none();
        self.released = match boundary {
            _ if self.mid_event => self.received.len(),
            Some(boundary) => boundary,
            None => self.released,
        };
        let drops = self.dropped() > self.frame_starts[self.frame_starts.len() - 1];
        self.is_untouched = !had_buffered && self.buffered().is_empty() && !drops;
    }

    /// Records that a comment of the layer precedes the first byte of the upstream.
    pub fn comment_precedes(&mut self) {
        self.drops_byte_order_mark = true;
    }

    /// Returns all bytes so far.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// Returns the number of bytes that may be forwarded.
    pub fn released(&self) -> usize {
        self.released
    }

    /// Returns the bytes from this position on that may be forwarded, without a byte order mark that is dropped.
    pub fn released_from(&self, position: usize) -> &[u8] {
        &self.received[position.max(self.dropped()).min(self.released)..self.released]
    }

    /// Returns the unfinished event, which is forwarded if the stream ends without a close event.
    pub fn buffered(&self) -> &[u8] {
        &self.received[self.released.max(self.dropped())..]
    }

    /// Returns the number of bytes at the start that are never forwarded: those of a byte order mark after a comment.
    pub fn dropped(&self) -> usize {
        if self.drops_byte_order_mark && self.received.starts_with(BYTE_ORDER_MARK) {
            BYTE_ORDER_MARK.len()
        } else {
            0
        }
    }

    /// Returns `true` if the last frame has to be forwarded without a copy: it ends at a boundary, and nothing was
    /// buffered before it.
    pub fn is_untouched(&self) -> bool {
        self.is_untouched
    }

    /// Returns the facts about the released bytes that decide the end of the stream.
    pub fn facts(&self) -> Facts {
        Facts {
            delivered: self.delivered_within(self.released) > 0,
            unfinished: self.decoder.is_in_event(),
            mid_event: self.mid_event,
        }
    }

    /// Returns the number of events that the bytes up to this position deliver.
    pub fn delivered_within(&self, position: usize) -> usize {
        self.deliveries.partition_point(|&end| end <= position)
    }

    /// Returns the number of frames that have a byte before this position.
    pub fn frames_within(&self, position: usize) -> usize {
        self.frame_starts.partition_point(|&start| start < position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_event_is_buffered_up_to_the_limit() {
        let mut forwarding = Forwarding::new(6);
        forwarding.receive(b": a\ndata:");
        assert_eq!(forwarding.released_from(0), b": a\n");
        assert_eq!(forwarding.buffered(), b"data:");
        forwarding.receive(b"1\n");
        assert!(forwarding.facts().mid_event);
        assert_eq!(forwarding.released(), 11);
        forwarding.receive(b"\nid: 7\n");
        assert_eq!(
            forwarding.facts(),
            Facts {
                delivered: true,
                unfinished: true,
                mid_event: false
            }
        );
        assert_eq!(forwarding.released_from(4), b"data:1\n\n");
        assert_eq!(forwarding.buffered(), b"id: 7\n");
        assert_eq!(forwarding.frames_within(11), 2);
        assert_eq!(forwarding.frames_within(12), 3);
    }

    #[test]
    fn frame_is_untouched_between_boundaries_only() {
        let mut forwarding = Forwarding::new(64);
        for (frame, is_untouched) in [
            ("data: 1\n\n", true),
            ("data: 2\n", false),
            ("\n", false),
            (":\n", true),
        ] {
            forwarding.receive(frame.as_bytes());
            assert_eq!(forwarding.is_untouched(), is_untouched, "{frame:?}");
        }
    }

    #[test]
    fn byte_order_mark_after_a_comment_is_dropped_and_never_exceeds_the_limit() {
        let mut forwarding = Forwarding::new(0);
        forwarding.comment_precedes();
        forwarding.receive(b"\xEF\xBB");
        assert_eq!(
            (forwarding.released(), forwarding.buffered()),
            (0, &b"\xEF\xBB"[..])
        );
        forwarding.receive(b"\xBF");
        assert_eq!(
            (forwarding.released(), forwarding.buffered()),
            (0, &b""[..])
        );
        forwarding.receive(b":\n");
        assert_eq!(forwarding.released_from(0), b":\n");
    }
}
