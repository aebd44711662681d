//! The bytes of the upstream that may be forwarded.

use crate::decoder::{BYTE_ORDER_MARK, Decoder};

use super::{
    event_match::{Match, RawEvent},
    outcome::Facts,
};

/// The bytes that an upstream has sent so far, and how many of them may be forwarded: everything up to the last boundary,
/// or everything if the rest exceeds the buffer limit; and nothing after an end mark.
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
    end_marks: Vec<Match>,
    ignored: Vec<Match>,
    received: Vec<u8>,
    decoder: Decoder,
    /// The position at which the current event starts.
    event_start: usize,
    /// The positions after which an event is delivered.
    deliveries: Vec<usize>,
    /// Those of them that reset an idle timeout.
    traffic: Vec<usize>,
    /// The position at which the stream ends with an end mark.
    end_mark: Option<usize>,
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
            end_marks: Vec::new(),
            ignored: Vec::new(),
            received: Vec::new(),
            decoder: Decoder::new(),
            event_start: 0,
            deliveries: Vec::new(),
            traffic: Vec::new(),
            end_mark: None,
            frame_starts: Vec::new(),
            released: 0,
            mid_event: false,
            is_untouched: false,
            drops_byte_order_mark: false,
        }
    }

    /// Sets the end marks, and the events that do not reset an idle timeout.
    pub fn matching(mut self, end_marks: &[Match], ignored: &[Match]) -> Self {
        self.end_marks = end_marks.to_vec();
        self.ignored = ignored.to_vec();
        self
    }

    /// Adds the next frame of the upstream.
    pub fn receive(&mut self, frame: &[u8]) {
        if frame.is_empty() {
            return;
        }
        let had_buffered = self.released < self.received.len();
        self.frame_starts.push(self.received.len());
        let mut boundary = None;
        for (index, byte) in frame.iter().enumerate() {
            self.received.push(*byte);
            if self.end_mark.is_some() {
                continue;
            }
            let position = self.received.len();
            if !self.decoder.feed(&[*byte]).is_empty() {
                self.deliver(frame[index..].starts_with(b"\r\n"));
            }
            if !self.decoder.is_pending() {
                self.event_start = position;
                boundary = self.end_mark.or(Some(position));
            }
        }
        let unfinished = match self.end_mark {
            Some(_) => 0,
            None => self.received.len() - boundary.unwrap_or(self.released),
        };
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
        let is_changed = drops || self.end_mark.is_some() && !self.line_ends().is_empty();
        self.is_untouched = !had_buffered && self.buffered().is_empty() && !is_changed;
    }

    /// Delivers the event that the last byte ends. `is_crlf` is `true` if that byte is the CR of a CRLF in the same frame.
    fn deliver(&mut self, is_crlf: bool) {
        let position = self.received.len();
        let event = self.event(b"");
        let matches = |it: &Match| it.matches(&event, self.buffer_limit);
        let is_end_mark = self.end_marks.iter().any(matches);
        let is_ignored = self.ignored.iter().any(matches);
        self.deliveries.push(position);
        if !is_ignored {
            self.traffic.push(position);
        }
        if is_end_mark {
            self.end_mark = Some(position + usize::from(is_crlf));
        }
    }

    /// Returns the current event as it is with these bytes after it.
    fn event(&self, added: &[u8]) -> RawEvent {
        let lines = &self.received[self.event_start..];
        let lines = match self.event_start {
            0 => lines.strip_prefix(BYTE_ORDER_MARK).unwrap_or(lines),
            _ => lines,
        };
        RawEvent::read(&[lines, added].concat())
    }

    /// Returns the line ends that an end mark lacks: an LF after the CR in which it ends, or the end of its last line and its
    /// blank line if the upstream ends here.
    pub fn line_ends(&self) -> &'static [u8] {
        match self.end_mark {
            Some(end) if self.received[..end].ends_with(b"\r") => b"\n",
            Some(_) => b"",
            None if self.received.ends_with(b"\n") => b"\n",
            None => b"\n\n",
        }
    }

    /// Returns `true` if the unfinished event is an end mark, provided that the upstream ends here.
    fn ends_in_end_mark(&self) -> bool {
        let delivers = !self.decoder.clone().feed(self.line_ends()).is_empty();
        let is_in_line = !matches!(self.received.last(), Some(b'\n' | b'\r'));
        let event = self.event(self.line_ends());
        let is_mark = |end_mark: &Match| match end_mark {
            Match::Data(_) => end_mark.matches(&event, self.buffer_limit),
            _ => !is_in_line && end_mark.matches(&event, self.buffer_limit),
        };
        self.end_mark.is_none()
            && self.decoder.is_in_event()
            && delivers
            && self.end_marks.iter().any(is_mark)
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
        let end = self.end_mark.unwrap_or(self.received.len());
        &self.received[self.released.max(self.dropped()).min(end)..end]
    }

    /// Returns the number of bytes at the start that are never forwarded: those of a byte order mark after a comment.
    pub fn dropped(&self) -> usize {
        if self.drops_byte_order_mark && self.received.starts_with(BYTE_ORDER_MARK) {
            BYTE_ORDER_MARK.len()
        } else {
            0
        }
    }

    /// Returns `true` if the last frame has to be forwarded without a copy: it ends at a boundary or has an end mark, and nothing
    /// was buffered before it.
    pub fn is_untouched(&self) -> bool {
        self.is_untouched
    }

    /// Returns the facts about the released bytes that decide the end of the stream.
    pub fn facts(&self) -> Facts {
        Facts {
            delivered: self.delivered_within(self.released) > 0,
            unfinished: self.decoder.is_in_event(),
            mid_event: self.mid_event,
            expects_end_mark: !self.end_marks.is_empty(),
            has_end_mark: self.end_mark.is_some(),
            ends_in_end_mark: self.ends_in_end_mark(),
        }
    }

    /// Returns the number of events that reset an idle timeout and that the bytes up to this position deliver.
    pub fn traffic_within(&self, position: usize) -> usize {
        self.traffic.partition_point(|&end| end <= position)
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
                mid_event: false,
                expects_end_mark: false,
                has_end_mark: false,
                ends_in_end_mark: false,
            }
        );
        assert_eq!(forwarding.released_from(4), b"data:1\n\n");
        assert_eq!(forwarding.buffered(), b"id: 7\n");
        assert_eq!(forwarding.frames_within(11), 2);
        assert_eq!(forwarding.frames_within(12), 3);
    }

    #[test]
    fn end_mark_ends_the_released_bytes() {
        let marked = || Forwarding::new(64).matching(&[Match::Data("x".to_owned())], &[]);
        for (stream, released, line_ends) in [
            ("data: 1\n\ndata: x\n\ndata: 2", 18, ""),
            ("data: x\r\n\r\n\n", 11, ""),
            ("data: x\r\rdata: x\n\n", 9, "\n"),
        ] {
            let mut forwarding = marked();
            forwarding.receive(stream.as_bytes());
            let facts = forwarding.facts();
            assert!(facts.has_end_mark && !facts.ends_in_end_mark);
            assert_eq!(forwarding.released(), released);
            assert_eq!(forwarding.line_ends(), line_ends.as_bytes());
            assert_eq!(forwarding.buffered(), b"");
        }
        for (stream, is_mark) in [
            ("data: x", true),
            ("\u{feff}data: x\r", true),
            ("data: x\ndata", false),
            ("data: x\n\n", false),
            ("event: x\n", false),
        ] {
            let mut forwarding = marked();
            forwarding.receive(stream.as_bytes());
            assert_eq!(forwarding.facts().ends_in_end_mark, is_mark, "{stream:?}");
        }
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
