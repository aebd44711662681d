//! The type of the last event that has been forwarded.

use std::mem;

use memchr::{memchr, memchr2};

/// Tracks the type of the last forwarded event, as far as it is needed: of every event once the stream is stopped, and before
/// that of a frame that starts with its `event` field.
///
/// A close event is not added after an event of its own type. A marker beside the bytes is not enough: middleware rebuilds
/// responses, and a process behind a gateway shares no extensions with it.
#[derive(Debug)]
pub(super) struct EventTypes {
    tracks_all: bool,
    last: Option<Box<LastEventType>>,
}

/// Finds the `event` field of the last event in bytes that begin at a boundary.
#[derive(Debug, Default)]
struct LastEventType {
    /// The bytes began at a boundary.
    is_active: bool,
    /// The current event began before the bytes did, so its type is unknown.
    skips_event: bool,
    /// The previous byte was a CR, so an LF belongs to the same line end.
    after_cr: bool,
    /// The unfinished line, or as much of it as matters.
    line: Vec<u8>,
    /// Fields of the current event.
    event_type: Vec<u8>,
    has_data: bool,
    /// The `event` field of the last event. Empty if it has none, or if there was no event.
    last: Vec<u8>,
}

/// Maximum length of a line of which more than its field name is known. A longer `event` field counts as unknown.
const MAX_LINE: usize = 512;

impl EventTypes {
    pub(super) const fn new() -> Self {
        Self {
            tracks_all: false,
            last: None,
        }
    }

    pub(super) fn tracks_all(&self) -> bool {
        self.tracks_all
    }

    /// Finds the type of every event from now on, wherever its `event` field is.
    pub(super) fn track_all(&mut self, is_mid_event: bool) {
        self.tracks_all = true;
        if is_mid_event {
            self.last.get_or_insert_default().start_inside_event();
        }
    }

    /// Notes that whole events are forwarded that do not begin with an `event` field.
    #[inline(always)]
    pub(super) fn forwarded_without_type(&mut self) {
        if let Some(last) = &mut self.last {
            last.is_active = false;
        }
    }

    /// Notes that data is forwarded. `from_boundary` is `true` if the data begins at a boundary.
    pub(super) fn forwarded(&mut self, data: &[u8], from_boundary: bool) {
        if self.tracks_all || self.last.is_some() || may_start_with_event(data) {
            self.scan(data, from_boundary);
        }
    }

    /// Returns `true` if the last event is known to have an `event` field of this value.
    pub(super) fn last_is(&self, event_type: &str) -> bool {
        let last = self.last.as_ref();
        last.is_some_and(|last| last.is_active && last.last == event_type.as_bytes())
    }

    #[inline(never)]
    fn scan(&mut self, data: &[u8], from_boundary: bool) {
        let is_active = self.last.as_ref().is_some_and(|last| last.is_active);
        // An LF alone is the end of a CRLF, or a blank line.
        let continues = is_active && (self.tracks_all || !from_boundary || data == b"\n");
        let starts = from_boundary && (self.tracks_all || may_start_with_event(data));
        if continues || starts {
            let last = self.last.get_or_insert_default();
            if !continues {
                last.start();
            }
            last.feed(data);
        } else if let Some(last) = &mut self.last {
            last.is_active = false;
        }
    }
}

impl LastEventType {
    /// Starts at a boundary.
    fn start(&mut self) {
        self.is_active = true;
        self.skips_event = false;
        self.after_cr = false;
        self.has_data = false;
        self.line.clear();
        self.event_type.clear();
        self.last.clear();
    }

    /// Starts inside an event, which is skipped.
    fn start_inside_event(&mut self) {
        self.start();
        self.skips_event = true;
    }

    /// Scans the next bytes.
    fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            if mem::take(&mut self.after_cr) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', bytes) else {
                self.extend_line(bytes);
                return;
            };
            if self.line.is_empty() {
                self.end_line(&bytes[..end]);
            } else {
                self.extend_line(&bytes[..end]);
                let line = mem::take(&mut self.line);
                self.end_line(&line);
            }
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
        }
    }

    fn extend_line(&mut self, bytes: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_line(&mut self, line: &[u8]) {
        let (name, value) = match memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        match name {
            [] if line.is_empty() => self.end_event(),
            b"data" => self.has_data = true,
            b"event" => {
                self.event_type.clear();
                if line.len() < MAX_LINE {
                    let value = value.strip_prefix(b" ").unwrap_or(value);
                    self.event_type.extend_from_slice(value);
                }
            }
            _ => {}
        }
    }

    fn end_event(&mut self) {
        if self.has_data && !self.skips_event {
            mem::swap(&mut self.last, &mut self.event_type);
        }
        self.event_type.clear();
        self.has_data = false;
        self.skips_event = false;
    }
}

/// Returns `true` if this data starts with an `event` field, whose name may be split over two frames.
fn may_start_with_event(data: &[u8]) -> bool {
    const EVENT: &[u8] = b"event:";
    data.starts_with(EVENT) || EVENT.starts_with(data)
}
