//! The form of a close event on the wire.

use std::ops::RangeInclusive;

use crate::{
    decoder::{Decoder, Event},
    exchange::CLOSE,
};

/// The close event that a stream should have.
///
/// ```
/// use testkit::{exchange::CLOSE, model::CloseEventSpec};
///
/// let spec = CloseEventSpec::default();
/// assert!(spec.matches(CLOSE));
/// assert!(!spec.matches(b"event: close\n\n"), "clients drop an event without data");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseEventSpec {
    /// The type.
    pub event_type: String,
    /// The data as clients receive it.
    pub data: String,
    /// The reconnection time in milliseconds, if the event has one.
    pub retry: Option<RangeInclusive<u64>>,
}

impl Default for CloseEventSpec {
    fn default() -> Self {
        Self {
            event_type: "close".to_owned(),
            data: String::new(),
            retry: None,
        }
    }
}

impl CloseEventSpec {
    /// Returns `true` if these bytes are this event and nothing else, with LF as the only line end and without an `id`.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut decoder = Decoder::resuming("resume point");
        let events = decoder.feed(bytes);
        let expected = Event {
            event_type: self.event_type.clone(),
            data: self.data.clone(),
            last_event_id: "resume point".to_owned(),
        };
        let mut lines = bytes.split(|&byte| byte == b'\n');
        let has_retry = match (&self.retry, decoder.retry()) {
            (None, None) => true,
            (Some(range), Some(retry)) => {
                u64::try_from(retry.as_millis()).is_ok_and(|retry| range.contains(&retry))
            }
            _ => false,
        };
        bytes.starts_with(b"event: ")
            && !bytes.contains(&b'\r')
            && !lines.any(|line| line.starts_with(b"id"))
            && !decoder.is_pending()
            && events == [expected]
            && has_retry
            && (*self != Self::default() || bytes == CLOSE)
    }

    /// Returns the close event in this frame, after the LF that completes a CRLF where the output so far ends in a CR.
    ///
    /// # Panics
    ///
    /// Panics if that LF is missing.
    #[track_caller]
    pub fn strip_lf<'a>(output: &[u8], frame: &'a [u8]) -> &'a [u8] {
        match output.ends_with(b"\r") {
            true => frame.strip_prefix(b"\n").expect("C5: an LF after a CR"),
            false => frame,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_event_matches() {
        let spec = CloseEventSpec {
            event_type: "bye".to_owned(),
            data: "a\nb".to_owned(),
            retry: Some(8..=9),
        };
        let right = "event: bye\ndata: a\ndata: b\nretry: 8\n\n";
        assert!(spec.matches(right.as_bytes()));
        for (part, wrong) in [
            ("bye", "close"),
            ("a\n", "a\r\n"),
            ("data: b\n", ""),
            ("retry: 8\n", ""),
            ("8", "7"),
            ("8\n", "8\nid: 1\n"),
            ("8\n", "8\nid: resume point\n"),
            ("\n\n", "\n"),
            ("\n\n", "\n\ndata:\n\n"),
            ("event", "\nevent"),
        ] {
            let wrong = right.replace(part, wrong);
            assert!(!spec.matches(wrong.as_bytes()), "{wrong:?}");
        }
    }
}
