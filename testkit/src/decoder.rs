//! An event stream decoder, written from the [HTML standard, 9.2.5 and 9.2.6][html].
//!
//! [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

use std::{mem, time::Duration};

use memchr::memchr2;

/// An event as a page receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The type: the value of the `event` field, or `message`.
    pub event_type: String,
    /// The values of the `data` fields, joined with LF.
    pub data: String,
    /// The last event ID at the time of the dispatch.
    pub last_event_id: String,
}

/// Decodes one event stream, in pieces of any size.
///
/// ```
/// use testkit::decoder::Decoder;
///
/// let mut decoder = Decoder::new();
/// assert!(decoder.feed(b"data: hel").is_empty());
/// assert!(decoder.is_pending());
/// assert_eq!(decoder.feed(b"lo\n\n")[0].data, "hello");
/// assert!(!decoder.is_pending());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    /// The bytes of the unfinished line.
    line: Vec<u8>,
    /// The previous byte was a CR, so an LF belongs to the same line end.
    after_cr: bool,
    after_first_line: bool,
    /// A field line has been read since the last blank line.
    in_event: bool,
    data: String,
    event_type: String,
    last_event_id_buffer: String,
    last_event_id: String,
    retry: Option<Duration>,
}

/// The result of decoding a whole stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoded {
    /// The dispatched events.
    pub events: Vec<Event>,
    /// The value of `Last-Event-ID` in the next request of the client.
    pub last_event_id: String,
    /// The reconnection time, if the stream has set it.
    pub retry: Option<Duration>,
    /// The stream ends inside an event, a line or a byte order mark.
    pub pending: bool,
}

pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

impl Decoder {
    /// Returns a decoder for the first connection of a client.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a decoder for a connection that resumes after the event with this ID.
    ///
    /// By the letter of the standard each stream starts with an empty ID buffer, so that an event without an ID would
    /// reset the resume point. Browsers keep the ID, and so does this decoder.
    pub fn resuming(last_event_id: &str) -> Self {
        Self {
            last_event_id_buffer: last_event_id.to_owned(),
            last_event_id: last_event_id.to_owned(),
            ..Self::default()
        }
    }

    /// Decodes the next bytes of the stream, and returns the events that they complete.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(&first) = bytes.first() {
            if mem::take(&mut self.after_cr) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', bytes) else {
                self.line.extend_from_slice(bytes);
                break;
            };
            self.line.extend_from_slice(&bytes[..end]);
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            events.extend(self.end_line());
        }
        events
    }

    /// Returns `true` inside an event, a line or a byte order mark: the client would discard something if the stream
    /// ended here.
    pub fn is_pending(&self) -> bool {
        self.in_event || !self.line.is_empty()
    }

    /// Returns `true` inside an event. Unlike [`is_pending`](Self::is_pending), a comment and a byte order mark do not count.
    pub fn is_in_event(&self) -> bool {
        let mut line = &self.line[..];
        if !self.after_first_line {
            line = match BYTE_ORDER_MARK.starts_with(line) {
                true => b"",
                false => line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line),
            };
        }
        self.in_event || !line.is_empty() && !line.starts_with(b":")
    }

    /// Returns the value of `Last-Event-ID` in the next request of the client.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// Returns the reconnection time, if the stream has set it.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = mem::take(&mut self.line);
        let mut line = &line[..];
        if !mem::replace(&mut self.after_first_line, true) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let line = String::from_utf8_lossy(line);
        match line.split_once(':') {
            Some(("", _comment)) => {}
            Some((name, value)) => {
                self.process_field(name, value.strip_prefix(' ').unwrap_or(value));
            }
            None => self.process_field(&line, ""),
        }
        None
    }

    fn process_field(&mut self, name: &str, value: &str) {
        self.in_event = true;
        match name {
            "event" => value.clone_into(&mut self.event_type),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.last_event_id_buffer),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                if let Ok(milliseconds) = value.parse() {
                    self.retry = Some(Duration::from_millis(milliseconds));
                }
            }
            _ => {}
        }
    }

    fn dispatch(&mut self) -> Option<Event> {
        self.in_event = false;
        self.last_event_id.clone_from(&self.last_event_id_buffer);
        let event_type = mem::take(&mut self.event_type);
        let mut data = mem::take(&mut self.data);
        // Every `data` field has appended an LF. The last one is removed.
        data.pop()?;
        Some(Event {
            event_type: match event_type.as_str() {
                "" => "message".to_owned(),
                _ => event_type,
            },
            data,
            last_event_id: self.last_event_id.clone(),
        })
    }
}

/// Decodes a whole stream.
pub fn decode(stream: &[u8]) -> Decoded {
    let mut decoder = Decoder::new();
    let events = decoder.feed(stream);
    Decoded {
        events,
        pending: decoder.is_pending(),
        last_event_id: decoder.last_event_id,
        retry: decoder.retry,
    }
}

/// Returns the lengths of all prefixes of this stream that end at a boundary, in ascending order.
pub fn boundaries(stream: &[u8]) -> Vec<usize> {
    let mut decoder = Decoder::new();
    let mut boundaries = vec![0];
    for (index, &byte) in stream.iter().enumerate() {
        decoder.feed(&[byte]);
        if !decoder.is_pending() {
            boundaries.push(index + 1);
        }
    }
    boundaries
}

/// Returns the lengths of the prefixes of this stream whose last byte delivers an event, in ascending order.
pub fn deliveries(stream: &[u8]) -> Vec<usize> {
    let mut decoder = Decoder::new();
    let ends = (1..).zip(stream);
    ends.filter(|(_, byte)| !decoder.feed(&[**byte]).is_empty())
        .map(|(end, _)| end)
        .collect()
}
