//! The parser of event streams of the HTML standard, 9.2.5 and 9.2.6, for bytes as they come.

use std::{mem, time::Duration};

/// An event that a page would get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: String,
    pub data: String,
    pub last_event_id: String,
}

/// Turns bytes into events.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Of the line that has not ended yet.
    line: Vec<u8>,
    /// An LF that follows belongs to the end of the line before.
    after_carriage_return: bool,
    after_first_line: bool,
    data_buffer: String,
    event_type_buffer: String,
    last_event_id_buffer: String,
    last_event_id: String,
    reconnection_time: Option<Duration>,
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

impl Decoder {
    /// For a connection that follows another.
    ///
    /// The standard starts each stream with an empty ID buffer, so that an event without an ID takes the resume point away.
    /// Browsers start with the ID that they have, and so does this.
    pub fn resuming(last_event_id: &str) -> Self {
        Self {
            last_event_id_buffer: last_event_id.to_owned(),
            last_event_id: last_event_id.to_owned(),
            ..Self::default()
        }
    }

    /// What a client sends as `Last-Event-ID` when it reconnects.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// What the stream has set the reconnection time to, if it has.
    pub fn reconnection_time(&self) -> Option<Duration> {
        self.reconnection_time
    }

    /// The events that these bytes complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_carriage_return = mem::take(&mut self.after_carriage_return);
            match byte {
                b'\n' if after_carriage_return => {}
                b'\n' | b'\r' => {
                    self.after_carriage_return = byte == b'\r';
                    events.extend(self.end_of_line());
                }
                _ => self.line.push(byte),
            }
        }
        events
    }

    fn end_of_line(&mut self) -> Option<Event> {
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
            Some(("", _)) => {}
            Some((field, value)) => self.field(field, value.strip_prefix(' ').unwrap_or(value)),
            None => self.field(&line, ""),
        }
        None
    }

    fn field(&mut self, field: &str, value: &str) {
        match field {
            "event" => self.event_type_buffer = value.to_owned(),
            "data" => {
                self.data_buffer.push_str(value);
                self.data_buffer.push('\n');
            }
            "id" if !value.contains('\0') => self.last_event_id_buffer = value.to_owned(),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                if let Ok(milliseconds) = value.parse() {
                    self.reconnection_time = Some(Duration::from_millis(milliseconds));
                }
            }
            _ => {}
        }
    }

    fn dispatch(&mut self) -> Option<Event> {
        self.last_event_id = self.last_event_id_buffer.clone();
        let kind = mem::take(&mut self.event_type_buffer);
        let mut data = mem::take(&mut self.data_buffer);
        // The LF behind the last line.
        data.pop()?;
        Some(Event {
            kind: if kind.is_empty() {
                "message".to_owned()
            } else {
                kind
            },
            data,
            last_event_id: self.last_event_id.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        "\u{FEFF}id: 1\ndata: one\n\n: comment\r\n\r\nevent:two\rdata\rdata:  è\r\r\
        id: 3\nretry: 70\n\nid: 4\ndata: unfinished\n"
            .as_bytes();

    fn event(kind: &str, data: &str, last_event_id: &str) -> Event {
        Event {
            kind: kind.to_owned(),
            data: data.to_owned(),
            last_event_id: last_event_id.to_owned(),
        }
    }

    #[test]
    fn every_cut_of_a_stream_gives_the_same_events() {
        for cut in 0..STREAM.len() {
            let mut decoder = Decoder::default();
            let mut events = decoder.feed(&STREAM[..cut]);
            events.extend(decoder.feed(&STREAM[cut..]));
            let expected = [event("message", "one", "1"), event("two", "\n è", "1")];
            assert_eq!(events, expected, "cut at {cut}");
            assert_eq!(decoder.last_event_id(), "3", "the fourth has not ended");
            let time = Duration::from_millis(70);
            assert_eq!(decoder.reconnection_time(), Some(time));
        }
    }

    #[test]
    fn a_field_without_a_colon_and_one_with_a_nul_follow_the_standard() {
        let mut decoder = Decoder::resuming("9");
        let events = decoder.feed(b"data\n\nid: a\0b\nretry: 1x\ndata:x\n\nid\ndata:y\n\n");
        let expected = [
            event("message", "", "9"),
            event("message", "x", "9"),
            event("message", "y", ""),
        ];
        assert_eq!(events, expected);
        assert_eq!(decoder.reconnection_time(), None);
    }
}
