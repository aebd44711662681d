//! Chunks, and the lines of the event stream in them.

use std::io;

use memchr::memchr2;

#[derive(Debug, Default)]
pub struct Decoder {
    chunk: Chunk,
    lines: Lines,
}

#[derive(Debug)]
enum Chunk {
    /// In the line with its length, of which these bytes have come.
    Length(Vec<u8>),
    /// In its data, of which so much is left, and the line break behind it.
    Data(usize),
    /// In the line break behind the last one.
    Last(usize),
    End,
}

#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    /// An LF that comes next belongs to a CR that has ended the line.
    after_cr: bool,
    has_data: bool,
    is_named_close: bool,
    saw_close_event: bool,
}

const LINE_BREAK: usize = 2;

impl Decoder {
    /// How many events were dispatched by these bytes, close events left out.
    pub fn feed(&mut self, mut bytes: &[u8]) -> io::Result<u64> {
        let mut events = 0;
        while !bytes.is_empty() {
            match &mut self.chunk {
                Chunk::Length(digits) => {
                    let (byte, rest) = (bytes[0], &bytes[1..]);
                    bytes = rest;
                    if byte == b'\n' {
                        self.chunk = match length(digits)? {
                            0 => Chunk::Last(LINE_BREAK),
                            length => Chunk::Data(length + LINE_BREAK),
                        };
                    } else {
                        digits.push(byte);
                    }
                }
                Chunk::Data(left) => {
                    let (here, rest) = bytes.split_at(bytes.len().min(*left));
                    let data = here.len().min(left.saturating_sub(LINE_BREAK));
                    events += self.lines.feed(&here[..data]);
                    *left -= here.len();
                    bytes = rest;
                    if *left == 0 {
                        self.chunk = Chunk::default();
                    }
                }
                Chunk::Last(left) => {
                    let here = bytes.len().min(*left);
                    *left -= here;
                    bytes = &bytes[here..];
                    if *left == 0 {
                        self.chunk = Chunk::End;
                    }
                }
                Chunk::End => return Err(io::Error::other("bytes behind the end")),
            }
        }
        Ok(events)
    }

    pub fn is_at_end(&self) -> bool {
        matches!(self.chunk, Chunk::End)
    }

    pub fn saw_close_event(&self) -> bool {
        self.lines.saw_close_event
    }
}

impl Default for Chunk {
    fn default() -> Self {
        Self::Length(Vec::new())
    }
}

impl Lines {
    fn feed(&mut self, mut bytes: &[u8]) -> u64 {
        let mut events = 0;
        if self.after_cr && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            self.after_cr = false;
        }
        while let Some(end) = memchr2(b'\r', b'\n', bytes) {
            self.line.extend_from_slice(&bytes[..end]);
            events += u64::from(self.end_line());
            let is_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if is_cr {
                self.after_cr = bytes.is_empty();
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
        }
        self.line.extend_from_slice(bytes);
        events
    }

    /// Whether that was the end of an event other than a close event.
    fn end_line(&mut self) -> bool {
        let mut is_event = false;
        match &self.line[..] {
            [] => {
                self.saw_close_event |= self.has_data && self.is_named_close;
                is_event = self.has_data && !self.is_named_close;
                (self.has_data, self.is_named_close) = (false, false);
            }
            b"event: close" | b"event:close" => self.is_named_close = true,
            line => self.has_data |= line == b"data" || line.starts_with(b"data:"),
        }
        self.line.clear();
        is_event
    }
}

fn length(digits: &[u8]) -> io::Result<usize> {
    let digits = std::str::from_utf8(digits).unwrap_or_default().trim();
    usize::from_str_radix(digits, 16).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_however_the_bytes_are_cut() {
        let response = [
            chunk("id: 1\r\ndata: x\r\n\r\n"),
            chunk(": a\n"),
            chunk("data:y\n\nevent: close\ndata:\n"),
            chunk("\n"),
            chunk(""),
        ]
        .concat();
        for cut in 0..response.len() {
            let mut decoder = Decoder::default();
            let (start, rest) = response.split_at(cut);
            let mut events = decoder.feed(start.as_bytes()).expect("chunks");
            assert!(!decoder.is_at_end(), "cut at {cut}");
            events += decoder.feed(rest.as_bytes()).expect("chunks");
            assert_eq!(events, 2, "cut at {cut}");
            assert!(decoder.saw_close_event() && decoder.is_at_end());
        }
    }

    #[test]
    fn a_close_event_without_data_is_not_seen() {
        let mut decoder = Decoder::default();
        let response = chunk("event: close\n\n");
        let events = decoder.feed(response.as_bytes()).expect("chunks");
        assert_eq!((events, decoder.saw_close_event()), (0, false));
    }

    fn chunk(data: &str) -> String {
        format!("{:x}\r\n{data}\r\n", data.len())
    }
}
