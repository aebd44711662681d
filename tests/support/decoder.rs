//! An event stream decoder, written line by line from the HTML standard, 9.2.5 and 9.2.6, for a whole stream at once.
//! It is slow and simple, and shares nothing with the crate.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: String,
    pub data: String,
    pub last_event_id: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoded {
    pub events: Vec<Event>,
    /// What a client sends as `Last-Event-ID` when it reconnects.
    pub last_event_id: String,
    pub reconnection_time: Option<u64>,
    /// The stream ends in the middle of an event, of a line, or of a byte order mark.
    pub pending: bool,
}

pub fn decode(stream: &[u8]) -> Decoded {
    let mut decoded = Decoded::default();
    let mut data_buffer = String::new();
    let mut event_type_buffer = String::new();
    let mut last_event_id_buffer = String::new();

    // "Streams must be decoded using the UTF-8 decode algorithm", which strips one byte order mark.
    let text = String::from_utf8_lossy(stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream));
    let (lines, rest) = lines(&text);
    decoded.pending = !rest.is_empty() || (lines.is_empty() && !stream.is_empty());

    let mut fields_since_blank_line = false;
    for line in lines {
        if line.is_empty() {
            fields_since_blank_line = false;
            // Dispatch the event.
            decoded.last_event_id = last_event_id_buffer.clone();
            if data_buffer.is_empty() {
                event_type_buffer.clear();
                continue;
            }
            if data_buffer.ends_with('\n') {
                data_buffer.pop();
            }
            let kind = match event_type_buffer.as_str() {
                "" => "message",
                other => other,
            };
            decoded.events.push(Event {
                kind: kind.to_owned(),
                data: std::mem::take(&mut data_buffer),
                last_event_id: decoded.last_event_id.clone(),
            });
            event_type_buffer.clear();
            continue;
        }
        if line.starts_with(':') {
            continue;
        }
        fields_since_blank_line = true;
        let (field, value) = match line.split_once(':') {
            Some((field, value)) => (field, value.strip_prefix(' ').unwrap_or(value)),
            None => (line, ""),
        };
        match field {
            "event" => event_type_buffer = value.to_owned(),
            "data" => {
                data_buffer.push_str(value);
                data_buffer.push('\n');
            }
            "id" if !value.contains('\0') => last_event_id_buffer = value.to_owned(),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                if let Ok(milliseconds) = value.parse() {
                    decoded.reconnection_time = Some(milliseconds);
                }
            }
            _ => {}
        }
    }
    decoded.pending |= fields_since_blank_line;
    decoded
}

/// The finished lines, without their ends, and what follows the last of them.
fn lines(text: &str) -> (Vec<&str>, &str) {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(['\r', '\n']) {
        lines.push(&rest[..end]);
        let length = if rest[end..].starts_with("\r\n") {
            2
        } else {
            1
        };
        rest = &rest[end + length..];
    }
    (lines, rest)
}

/// The lengths of all beginnings of this stream after which nothing is pending at the client.
pub fn boundaries(stream: &[u8]) -> Vec<usize> {
    (0..=stream.len())
        .filter(|&length| !decode(&stream[..length]).pending)
        .collect()
}
