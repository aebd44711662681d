//! Conditions on events: end marks (C26), and events that an idle timeout ignores (C16).

use tower_sse_completion::EventMatch;

/// A condition on a delivered event.
#[derive(Debug, Clone)]
pub enum Match {
    /// The event has this type.
    Event(String),
    /// The event has exactly this data.
    Data(String),
    /// The function returns `true` for the type and the data, if both fields are within the buffer limit.
    Function(fn(&str, &str) -> bool),
}

/// The value of the last `event` field of an event, and its data, in bytes.
#[derive(Debug, Default)]
pub(super) struct RawEvent {
    event_type: Vec<u8>,
    data: Vec<u8>,
}

impl Match {
    pub(super) fn matches(&self, event: &RawEvent, buffer_limit: usize) -> bool {
        let event_type = match &event.event_type[..] {
            b"" => b"message",
            event_type => event_type,
        };
        match self {
            Self::Event(text) => text.as_bytes() == event_type,
            Self::Data(text) => text.as_bytes() == event.data,
            Self::Function(function) => {
                let is_received = event.event_type.len().max(event.data.len()) <= buffer_limit;
                let text = String::from_utf8_lossy;
                is_received && function(&text(event_type), &text(&event.data))
            }
        }
    }
}

impl From<Match> for EventMatch {
    fn from(event_match: Match) -> Self {
        match event_match {
            Match::Event(text) => Self::event(text),
            Match::Data(text) => Self::data(text),
            Match::Function(function) => {
                Self::when(move |event| function(event.event_type(), event.data()))
            }
        }
    }
}

impl RawEvent {
    /// Reads the fields of an event from its lines, without a byte order mark.
    pub(super) fn read(lines: &[u8]) -> Self {
        let mut event = Self::default();
        let mut data = Vec::new();
        for line in lines.split(|byte| matches!(byte, b'\n' | b'\r')) {
            let colon = line.iter().position(|&byte| byte == b':');
            let (name, value) = line.split_at(colon.unwrap_or(line.len()));
            let value = value.strip_prefix(b":").unwrap_or(value);
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match name {
                b"event" => event.event_type = value.to_vec(),
                b"data" => data.push(value),
                _ => {}
            }
        }
        event.data = data.join(&b'\n');
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_has_the_last_type_and_all_data() {
        let event = RawEvent::read(b"data: 1\r\nevent: a\rdata\ndata:  2\nevent:b\nid: 3\n\n");
        assert_eq!(event.event_type, b"b");
        assert_eq!(event.data, b"1\n\n 2");
        for (event_match, limit, expected) in [
            (Match::Event("b".to_owned()), 0, true),
            (Match::Event("a".to_owned()), 9, false),
            (Match::Data("1\n\n 2".to_owned()), 0, true),
            (Match::Data("1".to_owned()), 9, false),
            (Match::Function(|_, _| true), 5, true),
            (Match::Function(|_, _| true), 4, false),
            (Match::Function(|_, data| data.is_empty()), 9, false),
        ] {
            assert_eq!(
                event_match.matches(&event, limit),
                expected,
                "{event_match:?}"
            );
        }
        let default = RawEvent::read(b"event: x\nevent\ndata\n");
        assert!(Match::Event("message".to_owned()).matches(&default, 0));
    }
}
