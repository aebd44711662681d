//! Close events with any name, data and reconnection time: refused for the documented reasons only, and otherwise received
//! by a client with the values that were set (C8).

use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};
use http::Request;
use testkit::{
    driver::Driver,
    exchange::{event_stream, event_stream_response, send_response},
    model::CloseEventSpec,
    script::Script,
};
use tower_sse_completion::{CloseEvent, InvalidCloseEvent, SseCompletionLayer};

#[derive(Debug)]
pub struct Input {
    name: String,
    data: String,
    retry: Option<(Duration, Duration)>,
    /// The upstream has an event.
    has_events: bool,
    retry_first: bool,
    in_response: bool,
}

/// The number of bytes before the name.
const OPTIONS: usize = 6;

/// Ends a name.
const END: u8 = 0xFF;

/// The meanings of the bytes from 0x80 on.
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
    /// Returns the bytes from which this name and this data are read. Characters outside of ASCII are replaced.
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
        let spec = CloseEventSpec {
            event_type: self.name.clone(),
            // Clients join the lines with LF.
            data: self.data.replace("\r\n", "\n").replace('\r', "\n"),
            retry: self
                .retry
                .map(|(first, last)| milliseconds(first)..=milliseconds(last)),
        };
        let encoded = self.send(&event);
        assert!(spec.matches(&encoded), "C8: {}", encoded.escape_ascii());
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
            (milliseconds(first) == 0, "below 1 ms"),
            (milliseconds(last) > i32::MAX as u64, "above 2147483647 ms"),
        ];
        let range = assert_refused(event.clone().retry_between(first..=last), &reasons);
        if first == last {
            let retry = assert_refused(event.retry(first), &reasons);
            assert_eq!(retry, range);
        }
        range
    }

    /// Asserts that events are equal regardless of the order of the calls and of replaced values.
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

    /// Sends a stream through a layer, and returns the bytes that follow the stream.
    fn send(&self, event: &CloseEvent) -> Vec<u8> {
        let upstream: &[u8] = if self.has_events {
            b"id: 7\ndata: x\n\n"
        } else {
            b""
        };
        let layer = SseCompletionLayer::new().close_on_completed(true);
        let script = Script::frames([upstream]);
        let body = if self.in_response {
            let mut response = event_stream_response(script);
            response.extensions_mut().insert(event.clone());
            send_response(&layer, Request::new(()), response).into_body()
        } else {
            event_stream(&layer.close_event(event.clone()), script)
        };
        let output = Driver::new(body).rest().bytes();
        output
            .strip_prefix(upstream)
            .expect("C4: a prefix")
            .to_vec()
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

/// Asserts that the event is refused if a reason holds, and that the error names such a reason.
#[track_caller]
fn assert_refused(
    built: std::result::Result<CloseEvent, InvalidCloseEvent>,
    reasons: &[(bool, &str)],
) -> Option<CloseEvent> {
    let mut holding = reasons.iter().filter(|(holds, _)| *holds).peekable();
    let is_refused = holding.peek().is_some();
    match built {
        Ok(event) => {
            assert!(!is_refused, "C8: accepted despite {reasons:?}");
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

/// Returns the time in milliseconds, as on the wire.
fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
