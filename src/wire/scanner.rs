//! Where in an event stream nothing is pending at the client, and whether an event was delivered.
//!
//! This follows the parser of the [HTML standard, 9.2.6][html]: lines end in LF, CR or CRLF; a blank line
//! dispatches the event, if it had a `data` line; a line that starts with a colon is a comment; one byte
//! order mark at the start is skipped.
//!
//! [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

use memchr::{memchr2, memrchr2_iter};

/// A scanner that is fed every byte of one stream, in pieces of any size.
#[derive(Debug, Clone)]
pub(crate) struct Boundary {
    line: Line,
    /// A field line has begun since the last blank line: the client holds an unfinished event.
    event: bool,
    /// One of those field lines, a finished one, was `data`.
    data: bool,
    delivered: bool,
}

/// How much of the current line has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Nothing of the stream but this many bytes of a byte order mark.
    ByteOrderMark(u8),
    /// Nothing of the line, and the line before did not end in CR.
    Start,
    /// Nothing of the line; the line before ended in CR, so that an LF would still belong to that one.
    AfterCr,
    /// This many bytes, all of them the start of `data`.
    Field(u8),
    /// `data:` and more.
    Data,
    /// A field with another name.
    Other,
    Comment,
}

pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
const DATA: &[u8] = b"data";

impl Boundary {
    pub(crate) const fn new() -> Self {
        Self {
            line: Line::ByteOrderMark(0),
            event: false,
            data: false,
            delivered: false,
        }
    }

    /// Whether an event was delivered within the bytes fed so far, or since that was forgotten.
    pub(crate) fn delivered(&self) -> bool {
        self.delivered
    }

    /// From here on, [`delivered`](Self::delivered) is about what is still to come.
    pub(crate) fn forget_delivered(&mut self) {
        self.delivered = false;
    }

    /// Takes the next bytes of the stream, and returns how many of them lead up to the last place among them
    /// where nothing is pending at the client; `None` if there is no such place.
    #[inline]
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Option<usize> {
        // Once an event was delivered, what is in front of a blank line no longer matters.
        if self.delivered && ends_in_blank_line(bytes) {
            self.restart(bytes);
            return Some(bytes.len());
        }
        self.feed_unaligned(bytes)
    }

    #[cold]
    fn feed_unaligned(&mut self, bytes: &[u8]) -> Option<usize> {
        if let Some(blank) = last_blank_line(bytes) {
            let (events, rest) = bytes.split_at(blank);
            self.delivered = self.delivered || surely_delivers(behind_first_line(events));
            if self.delivered {
                self.restart(events);
                let tail = self.feed_forward(rest).unwrap_or(0);
                return Some(blank + tail);
            }
        }
        self.feed_forward(bytes)
    }

    fn feed_forward(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut boundary = None;
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match (self.line, byte) {
                (_, b'\n' | b'\r') => {
                    self.end_line(byte);
                    at += 1;
                    if !self.event {
                        boundary = Some(at);
                    }
                }
                (Line::ByteOrderMark(matched), _) => {
                    if BYTE_ORDER_MARK.get(usize::from(matched)) == Some(&byte) {
                        self.line = Line::ByteOrderMark(matched + 1);
                        at += 1;
                    } else if matched == 0 || usize::from(matched) == BYTE_ORDER_MARK.len() {
                        self.line = Line::Start;
                    } else {
                        self.begin_field(Line::Other);
                    }
                }
                (Line::Start | Line::AfterCr, b':') => self.line = Line::Comment,
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
        boundary
    }

    fn begin_field(&mut self, line: Line) {
        self.event = true;
        self.line = line;
    }

    fn end_line(&mut self, byte: u8) {
        match self.line {
            // The end of a CRLF, whose line ended with the CR.
            Line::AfterCr if byte == b'\n' => {}
            Line::Data => self.data = true,
            Line::Field(matched) if usize::from(matched) == DATA.len() => self.data = true,
            Line::Field(_) | Line::Other | Line::Comment => {}
            Line::ByteOrderMark(1 | 2) => self.event = true,
            Line::ByteOrderMark(_) | Line::Start | Line::AfterCr => {
                self.delivered |= self.data;
                self.event = false;
                self.data = false;
            }
        }
        self.line = after_line_end(byte);
    }

    /// What follows a blank line, which is how `bytes` end.
    #[inline]
    fn restart(&mut self, bytes: &[u8]) {
        self.line = bytes
            .last()
            .map_or(Line::Start, |&byte| after_line_end(byte));
        self.event = false;
        self.data = false;
    }
}

#[inline]
fn after_line_end(byte: u8) -> Line {
    if byte == b'\r' {
        Line::AfterCr
    } else {
        Line::Start
    }
}

/// Whether these bytes end in a blank line, whatever came before them. `false` where that depends on it.
#[inline]
fn ends_in_blank_line(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [.., b'\n', b'\n'] | [.., b'\n' | b'\r', b'\r'] | [.., b'\n' | b'\r', b'\r', b'\n']
    )
}

/// Whether an event is delivered within these lines, as a `data:` line shows, if they begin with a whole line and end in a
/// blank one. `false` where that needs a closer look.
pub(crate) fn surely_delivers(mut lines: &[u8]) -> bool {
    while !lines.starts_with(b"data:") {
        if lines.is_empty() {
            return false;
        }
        lines = behind_first_line(lines);
    }
    true
}

fn behind_first_line(lines: &[u8]) -> &[u8] {
    memchr2(b'\n', b'\r', lines).map_or(&[], |end| &lines[end + 1..])
}

/// How many of these bytes lead up to the end of the last blank line that can be told from them alone.
fn last_blank_line(bytes: &[u8]) -> Option<usize> {
    memrchr2_iter(b'\n', b'\r', bytes)
        .map(|newline| newline + 1)
        .find(|&end| ends_in_blank_line(&bytes[..end]))
}
