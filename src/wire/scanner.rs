//! Finds event boundaries and delivered events in the bytes of one event stream.
//!
//! The scanner follows the parser of the [HTML standard, 9.2.6][html]: lines end in LF, CR or CRLF. A blank line dispatches
//! the event, if it has a `data` field. A line that starts with a colon is a comment. One byte order mark at the start of
//! the stream is ignored.
//!
//! [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

use memchr::{memchr, memchr2, memmem, memrchr2, memrchr2_iter};

/// Scanner of one stream, which is fed every byte of it in pieces of any size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scanner {
    line: Line,
    /// A field line has begun since the last blank line: the client has an unfinished event.
    in_event: bool,
    /// A finished field line of that event is `data`.
    has_data: bool,
}

/// Result of scanning one piece of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// Length of the longest prefix of the piece that ends at a boundary. `None` if no prefix does.
    pub(crate) boundary: Option<usize>,
    /// An event was delivered within that prefix. Exact if the caller requested it, otherwise possibly `false`.
    pub(crate) delivered: bool,
}

/// Receives the lines and the ends of events from a scanner. `()` receives nothing, at no cost.
pub(crate) trait Lines {
    /// `true` if every line must be reported.
    const RECEIVES: bool;

    /// Appends to the current line, which does not end here.
    fn extend_line(&mut self, part: &[u8]);

    /// Discards the current line so far: a byte order mark.
    fn discard_line(&mut self);

    /// Ends the current line with this part. Comments and blank lines are lines too.
    fn end_line(&mut self, part: &[u8]);

    /// Ends the event at a blank line. `delivers` is `true` if the event has a `data` field. Returns `true` if the scan ends with
    /// this event.
    fn end_event(&mut self, delivers: bool) -> bool;
}

/// Scanned part of the current line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// The stream so far is this many bytes of a byte order mark.
    ByteOrderMark(u8),
    /// The line is empty so far, and the line before it did not end in CR.
    Start,
    /// The line is empty so far. The line before it ended in CR, so an LF would belong to that line end.
    AfterCr,
    /// The line has this many bytes, which are the start of `data`.
    Field(u8),
    /// The line starts with `data:`.
    Data,
    /// The line is a field with another name.
    Other,
    Comment,
}

/// Result of a line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Nothing: the LF of a CRLF. The line ended with the CR.
    CrLf,
    Line,
    /// An event, or the blank line between two events.
    Event {
        delivers: bool,
    },
}

pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
const DATA: &[u8] = b"data";

/// Number of line ends that are searched backwards for a blank line before the whole piece is searched forwards.
const LINE_ENDS_SEARCHED: usize = 16;

impl Lines for () {
    const RECEIVES: bool = false;

    fn extend_line(&mut self, _part: &[u8]) {}

    fn discard_line(&mut self) {}

    fn end_line(&mut self, _part: &[u8]) {}

    fn end_event(&mut self, _delivers: bool) -> bool {
        false
    }
}

impl Scanner {
    pub(crate) const fn new() -> Self {
        Self {
            line: Line::ByteOrderMark(0),
            in_event: false,
            has_data: false,
        }
    }

    /// Scans the next bytes of the stream. With `detect_delivery`, the result states whether an event has been delivered.
    /// Without `detect_delivery`, most bytes need not be read.
    #[inline]
    pub(crate) fn feed(&mut self, bytes: &[u8], detect_delivery: bool) -> Scanned {
        if !detect_delivery && ends_in_blank_line(bytes) {
            self.restart(bytes);
            return Scanned {
                boundary: Some(bytes.len()),
                delivered: false,
            };
        }
        self.feed_slow(bytes, detect_delivery)
    }

    /// Scans the next bytes of the stream line by line, and reports lines and ends of events to `lines`. Stops after the event for
    /// which `lines` returns `true`.
    pub(crate) fn read(&mut self, bytes: &[u8], lines: &mut impl Lines) -> Scanned {
        self.feed_lines(bytes, false, lines)
    }

    /// Returns `true` if the stream ends inside an event.
    pub(crate) fn is_in_event(&self) -> bool {
        self.in_event
    }

    /// Returns `true` if the stream ends in a CR, so that an LF would belong to the same line end.
    pub(crate) fn is_after_cr(&self) -> bool {
        self.line == Line::AfterCr
    }

    /// Returns `true` if the stream ends inside a line.
    pub(crate) fn is_in_line(&self) -> bool {
        !matches!(self.line, Line::Start | Line::AfterCr)
    }

    #[cold]
    fn feed_slow(&mut self, bytes: &[u8], detect_delivery: bool) -> Scanned {
        let Some(blank) = last_blank_line(bytes) else {
            return self.feed_lines(bytes, true, &mut ());
        };
        let (events, rest) = bytes.split_at(blank);
        let whole_lines = match self.line {
            Line::Start => events,
            _ => after_first_line(events),
        };
        if detect_delivery && !surely_delivers(whole_lines) {
            return self.feed_lines(bytes, false, &mut ());
        }
        self.restart(events);
        let rest = self.feed_lines(rest, true, &mut ()).boundary;
        Scanned {
            boundary: Some(blank + rest.unwrap_or(0)),
            delivered: detect_delivery,
        }
    }

    /// Scans line by line. With `no_blank_line`, no two line ends follow each other within these bytes.
    fn feed_lines<L: Lines>(
        &mut self,
        bytes: &[u8],
        no_blank_line: bool,
        lines: &mut L,
    ) -> Scanned {
        let mut scanned = Scanned {
            boundary: None,
            delivered: false,
        };
        let mut at = 0;
        // Start of the current line, or of its part in these bytes.
        let mut start = 0;
        while let Some(&byte) = bytes.get(at) {
            if L::RECEIVES && self.line == Line::Start && !matches!(byte, b'\n' | b'\r') {
                if let Some(length) = memchr2(b'\n', b'\r', &bytes[at..]) {
                    // A whole line, as most lines are.
                    let (line, line_end) = (&bytes[at..at + length], bytes[at + length]);
                    lines.end_line(line);
                    self.in_event |= byte != b':';
                    self.has_data |= is_data(line);
                    self.line = after_line_end(line_end);
                    at += length + 1;
                    start = at;
                    if !self.in_event {
                        scanned.boundary = Some(at);
                    }
                    continue;
                }
            }
            match (self.line, byte) {
                (_, b'\n' | b'\r') => {
                    let ended = self.end_line(byte);
                    scanned.delivered |= ended == Ended::Event { delivers: true };
                    if L::RECEIVES {
                        let is_last = match ended {
                            Ended::CrLf => false,
                            Ended::Line => {
                                lines.end_line(&bytes[start..at]);
                                false
                            }
                            Ended::Event { delivers } => lines.end_event(delivers),
                        };
                        start = at + 1;
                        if is_last {
                            let ends_in_crlf = byte == b'\r' && bytes.get(start) == Some(&b'\n');
                            scanned.boundary = Some(start + usize::from(ends_in_crlf));
                            return scanned;
                        }
                    }
                    at += 1;
                    if !self.in_event {
                        scanned.boundary = Some(at);
                    } else if no_blank_line && self.has_data {
                        // The event does not end within these bytes, so only its last line matters.
                        if let Some(last) = memrchr2(b'\n', b'\r', &bytes[at..]) {
                            self.line = after_line_end(bytes[at + last]);
                            at += last + 1;
                        }
                    }
                }
                (Line::ByteOrderMark(matched), _) => {
                    if BYTE_ORDER_MARK.get(usize::from(matched)) == Some(&byte) {
                        self.line = Line::ByteOrderMark(matched + 1);
                        at += 1;
                    } else if matched == 0 || usize::from(matched) == BYTE_ORDER_MARK.len() {
                        self.line = Line::Start;
                        lines.discard_line();
                        start = at;
                    } else {
                        self.begin_field(Line::Other);
                    }
                }
                (Line::Start | Line::AfterCr, b':') => self.line = Line::Comment,
                (Line::Start | Line::AfterCr, _) if bytes[at..].starts_with(b"data:") => {
                    self.begin_field(Line::Data);
                    at += 5;
                }
                (Line::Start | Line::AfterCr, _) => self.begin_field(Line::Field(0)),
                (Line::Field(matched), _) => {
                    if DATA.get(usize::from(matched)) == Some(&byte) {
                        self.line = Line::Field(matched + 1);
                        at += 1;
                    } else if byte == b':' && usize::from(matched) == DATA.len() {
                        self.line = Line::Data;
                    } else {
                        self.line = Line::Other;
                    }
                }
                (Line::Data | Line::Other | Line::Comment, _) => {
                    at = memchr2(b'\n', b'\r', &bytes[at..]).map_or(bytes.len(), |end| at + end);
                }
            }
        }
        lines.extend_line(&bytes[start..]);
        scanned
    }

    fn begin_field(&mut self, line: Line) {
        self.in_event = true;
        self.line = line;
    }

    fn end_line(&mut self, byte: u8) -> Ended {
        let mut ended = Ended::Line;
        match self.line {
            Line::AfterCr if byte == b'\n' => ended = Ended::CrLf,
            Line::Data => self.has_data = true,
            Line::Field(matched) if usize::from(matched) == DATA.len() => self.has_data = true,
            Line::Field(_) | Line::Other | Line::Comment => {}
            Line::ByteOrderMark(1 | 2) => self.in_event = true,
            Line::ByteOrderMark(_) | Line::Start | Line::AfterCr => {
                let delivers = self.has_data;
                ended = Ended::Event { delivers };
                self.in_event = false;
                self.has_data = false;
            }
        }
        self.line = after_line_end(byte);
        ended
    }

    /// Continues after these bytes, which end in a blank line.
    #[inline]
    fn restart(&mut self, bytes: &[u8]) {
        let last = bytes.last();
        self.line = last.map_or(Line::Start, |&byte| after_line_end(byte));
        self.in_event = false;
        self.has_data = false;
    }
}

/// Returns `true` if the line is a `data` field.
#[inline(always)]
fn is_data(line: &[u8]) -> bool {
    let rest = line.strip_prefix(DATA);
    rest.is_some_and(|rest| matches!(rest, [] | [b':', ..]))
}

#[inline]
fn after_line_end(byte: u8) -> Line {
    match byte {
        b'\r' => Line::AfterCr,
        _ => Line::Start,
    }
}

/// Returns `true` if these bytes end in a blank line regardless of the bytes before them.
#[inline]
fn ends_in_blank_line(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [.., b'\n', b'\n'] | [.., b'\n' | b'\r', b'\r'] | [.., b'\n' | b'\r', b'\r', b'\n']
    )
}

/// Returns `true` if a `data:` line shows that an event is delivered within these lines, which begin with a whole line and
/// end in a blank line. Events whose `data` field has no colon are not recognised.
#[inline(always)]
pub(crate) fn surely_delivers(lines: &[u8]) -> bool {
    lines.starts_with(b"data:") || later_line_delivers(lines)
}

/// Searches for a `data:` line after the first line, eight bytes at once, because the fields before the data are short. Stops
/// before the last seven bytes, in which no `data:` line ends in a blank line. Skips a line that ends in a CR alone, and the line
/// after it.
#[inline(never)]
fn later_line_delivers(mut lines: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const LFS: u64 = u64::from_ne_bytes([b'\n'; 8]);
    while let Some((chunk, rest)) = lines.split_first_chunk() {
        let zero_at_lf = u64::from_le_bytes(*chunk) ^ LFS;
        // The highest bit of a byte is set if the byte is zero. Above the first zero, the bits may be wrong.
        let found = zero_at_lf.wrapping_sub(ONES) & !zero_at_lf & (ONES << 7);
        if found == 0 {
            lines = rest;
            continue;
        }
        lines = &lines[found.trailing_zeros() as usize / 8 + 1..];
        if lines.starts_with(b"data:") {
            return true;
        }
    }
    false
}

fn after_first_line(lines: &[u8]) -> &[u8] {
    memchr2(b'\n', b'\r', lines).map_or(&[], |end| &lines[end + 1..])
}

/// Returns the end of the last blank line that is recognised without the bytes before these.
fn last_blank_line(bytes: &[u8]) -> Option<usize> {
    let is_blank = |end: &usize| ends_in_blank_line(&bytes[..*end]);
    let mut line_ends = memrchr2_iter(b'\n', b'\r', bytes).map(|line_end| line_end + 1);
    for _ in 0..LINE_ENDS_SEARCHED {
        let end = line_ends.next()?;
        if is_blank(&end) {
            return Some(end);
        }
    }
    // Inside a long event there is none, which a forward search proves faster.
    has_blank_line(bytes).then(|| line_ends.find(is_blank))?
}

fn has_blank_line(bytes: &[u8]) -> bool {
    let contains = |line_ends| memmem::find(bytes, line_ends).is_some();
    contains(b"\n\n")
        || (memchr(b'\r', bytes).is_some() && (contains(b"\n\r") || contains(b"\r\r")))
}
