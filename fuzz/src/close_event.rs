//! Close events of any name, data and reconnection time: refused for the documented reasons alone (C8), and otherwise
//! just that at the client.

use std::{iter, time::Duration};

use arbitrary::{Arbitrary, Result, Unstructured};
use tower_sse_completion::{CloseEvent, SseCompletionLayer};

use crate::support::{decoder::decode, driver::Driver, event_stream, script::Script};

#[derive(Debug)]
pub struct Input {
    name: String,
    data: String,
    retry: Option<(Duration, Duration)>,
    /// Ends with an event of the upstream, or is empty.
    has_events: bool,
    retry_first: bool,
    in_response: bool,
}

/// How many bytes are in front of the name.
const OPTIONS: usize = 6;

/// Ends a name.
const END: u8 = 0xFF;

/// What a byte from 0x80 on stands for.
const PIECES: [&str; 16] = [
    "\n",
    "\r",
    "\r\n",
    "\0",
    ": ",
    "data: ",
    "id: 9",
    "event: ",
    "\n\n",
    "\u{feff}",
    "\u{e9}",
    "\u{1f600}",
    "\u{2028}",
    "\u{85}",
    "retry: 1",
    "\x0b",
];

impl Input {
    /// What this name and this data are read from, as far as they are ASCII.
    pub fn encode(name: &str, data: &str) -> Vec<u8> {
        let ascii = |text: &str| {
            text.replace(|char: char| !char.is_ascii(), "?")
                .into_bytes()
        };
        [vec![0; OPTIONS], ascii(name), vec![END], ascii(data)].concat()
    }

    pub fn check(&self) {
        let event = match self.named() {
            Some(event) => event.data(&self.data),
            None => return,
        };
        let Some(event) = self.with_retry(event) else {
            return;
        };
        self.assert_equal(&event);
        let (upstream, out) = self.send(&event);
        let encoded = out.strip_prefix(&*upstream).expect("C4: a beginning");

        assert!(
            encoded.ends_with(b"\n\n") && !encoded.contains(&b'\r'),
            "C5: LF"
        );
        let lines = encoded.split(|&byte| byte == b'\n');
        let ids = lines.filter(|line| line.starts_with(b"id"));
        assert_eq!(ids.count(), 0, "C8: no id");

        let decoded = decode(&out);
        assert!(!decoded.pending);
        let events = decoded.events.len();
        assert_eq!(events, 1 + usize::from(self.has_events), "C8: one event");
        let close = &decoded.events[events - 1];
        assert_eq!(close.kind, self.name, "C8: the name");
        assert_eq!(close.data, self.normalised_data(), "C8: the data");
        assert_eq!(close.last_event_id, decode(&upstream).last_event_id);
        assert_eq!(
            decoded.last_event_id, close.last_event_id,
            "C8: the resume point"
        );
        match (self.retry, decoded.reconnection_time) {
            (None, None) => {}
            (Some((first, last)), Some(time)) => {
                assert!(
                    milliseconds(first) <= time && time <= milliseconds(last),
                    "C8: {time}"
                );
            }
            (_, time) => panic!("C8: a reconnection time of {time:?}"),
        }
    }

    fn named(&self) -> Option<CloseEvent> {
        let reasons = [
            (self.name.is_empty(), "is empty"),
            (self.name.contains(['\n', '\r']), "line break"),
            (self.name.contains('\0'), "NUL"),
        ];
        assert_refused(CloseEvent::named(&self.name), &reasons)
    }

    fn with_retry(&self, event: CloseEvent) -> Option<CloseEvent> {
        let Some((first, last)) = self.retry else {
            return Some(event);
        };
        let reasons = [
            (last < first, "ends before it starts"),
            (milliseconds(first) == 0, "less than one millisecond"),
        ];
        let range = assert_refused(event.clone().retry_between(first..=last), &reasons);
        if first == last {
            let retry = assert_refused(event.retry(first), &reasons);
            assert_eq!(retry, range);
        }
        range
    }

    /// The order of the calls makes no difference, nor does what they replace.
    fn assert_equal(&self, event: &CloseEvent) {
        let other = CloseEvent::named(&self.name).expect("a valid name");
        let other = if self.retry_first {
            self.with_retry(other)
                .expect("a valid time")
                .data(&self.data)
        } else {
            let replaced = other.data("replaced").data(&self.data);
            self.with_retry(replaced).expect("a valid time")
        };
        assert_eq!(*event, other);
        assert_eq!(format!("{event:?}"), format!("{other:?}"));
    }

    /// What the upstream sends, and what comes out.
    fn send(&self, event: &CloseEvent) -> (Vec<u8>, Vec<u8>) {
        let upstream: &[u8] = if self.has_events {
            b"id: 7\ndata: x\n\n"
        } else {
            b""
        };
        let layer = SseCompletionLayer::new().close_on_completed(true);
        let script = Script::frames(iter::once(upstream));
        let body = if self.in_response {
            let mut response = http::Response::new(script);
            let event_stream = http::HeaderValue::from_static("text/event-stream");
            response
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, event_stream);
            response.extensions_mut().insert(event.clone());
            crate::support::through(&layer, http::Request::new(()), response).into_body()
        } else {
            event_stream(&layer.close_event(event.clone()), script)
        };
        (upstream.to_vec(), Driver::new(body).rest().bytes())
    }

    /// As a client joins its lines.
    fn normalised_data(&self) -> String {
        self.data.replace("\r\n", "\n").replace('\r', "\n")
    }
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let [ways, units] = u.arbitrary::<[u8; 2]>()?;
        let [first, last] = u.arbitrary::<[u16; 2]>()?;
        let retry = match ways & 3 {
            0 => None,
            1 => Some((first, first)),
            2 => Some((first, last)),
            _ => Some((first.min(last), first.max(last))),
        };
        let duration = |number: u16, unit| match unit & 3 {
            0 => Duration::from_millis(number.into()),
            1 => Duration::from_nanos(u64::from(number) * 100),
            2 => Duration::from_secs(u64::MAX - u64::from(number)),
            _ => Duration::from_secs(u64::from(number) << 32),
        };
        let mut texts = u.bytes(u.len())?.splitn(2, |&byte| byte == END).map(text);
        Ok(Self {
            name: texts.next().unwrap_or_default(),
            data: texts.next().unwrap_or_default(),
            retry: retry.map(|(first, last)| (duration(first, units), duration(last, units >> 2))),
            has_events: ways & 4 != 0,
            retry_first: ways & 8 != 0,
            in_response: ways & 16 != 0,
        })
    }

    fn size_hint(_depth: usize) -> (usize, Option<usize>) {
        (OPTIONS, None)
    }
}

/// Refused for one of the reasons that hold, or not at all if none does.
#[track_caller]
fn assert_refused(
    built: std::result::Result<CloseEvent, tower_sse_completion::InvalidCloseEvent>,
    reasons: &[(bool, &str)],
) -> Option<CloseEvent> {
    let mut holding = reasons.iter().filter(|(holds, _)| *holds).peekable();
    let is_refused = holding.peek().is_some();
    match built {
        Ok(event) => {
            assert!(!is_refused, "C8: accepted in spite of {reasons:?}");
            Some(event)
        }
        Err(error) => {
            let error = error.to_string();
            assert!(
                holding.any(|(_, text)| error.contains(text)),
                "C8: refused: {error}"
            );
            None
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            0..0x80 => text.push(char::from(byte)),
            _ => text.push_str(PIECES[usize::from(byte) % PIECES.len()]),
        }
    }
    text
}

/// As the time goes on the wire.
fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
