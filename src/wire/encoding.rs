//! The wire format of the close event and of the keep-alive comment, as the [HTML standard, 9.2.5][html] defines it.
//!
//! [html]: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

use std::ops::RangeInclusive;

use bytes::Bytes;

pub(crate) const DEFAULT_NAME: &str = "close";

/// The default close event after an LF, which is sliced off unless a CR precedes the event.
pub(crate) static DEFAULT_EVENT: &[u8] = b"\nevent: close\ndata:\n\n";

/// A close event other than the default.
#[derive(Clone)]
pub(crate) struct CustomEvent {
    pub(crate) name: String,
    pub(crate) data: String,
    /// In milliseconds.
    pub(crate) retry: Option<RangeInclusive<u64>>,
    /// The event after an LF. Without `retry` and its blank line if `retry` is drawn for each stream.
    encoded: Bytes,
}

impl CustomEvent {
    /// Returns an event of this type with empty data.
    pub(crate) fn named(name: &str) -> Self {
        let mut event = Self {
            name: name.to_owned(),
            data: String::new(),
            retry: None,
            encoded: Bytes::new(),
        };
        event.encode_in_advance();
        event
    }

    /// Encodes what is the same for all streams. Called after each change.
    pub(crate) fn encode_in_advance(&mut self) {
        let mut event = format!("\nevent: {}\n", self.name);
        push_lines(&mut event, "data:", &self.data);
        match &self.retry {
            None => event.push('\n'),
            Some(retry) if retry.start() == retry.end() => {
                event.push_str(&retry_and_end(*retry.start()));
            }
            Some(_) => {}
        }
        self.encoded = event.into();
    }

    /// Returns the event of one stream after an LF.
    pub(crate) fn encode(&self) -> Bytes {
        match &self.retry {
            Some(retry) if retry.start() < retry.end() => {
                let drawn = retry_and_end(fastrand::u64(retry.clone()));
                [&self.encoded, drawn.as_bytes()].concat().into()
            }
            _ => self.encoded.clone(),
        }
    }
}

fn retry_and_end(milliseconds: u64) -> String {
    format!("retry: {milliseconds}\n\n")
}

/// Appends one line for each line of the text, whether that ends in LF, CR or CRLF.
pub(crate) fn push_lines(to: &mut String, prefix: &str, text: &str) {
    // CRLF is one line end, so it is replaced before a lone CR.
    for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
        to.push_str(prefix);
        if !line.is_empty() {
            to.push(' ');
            to.push_str(line);
        }
        to.push('\n');
    }
}
