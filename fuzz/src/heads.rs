//! Heads of responses: wrapped where the contract demands it (C1), without the headers that no longer hold (C3), and
//! otherwise unchanged (C2).

use arbitrary::{Arbitrary, Result, Unstructured};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::SizeHint;
use testkit::{
    decoder::decode,
    driver::Driver,
    exchange::{CLOSE, send_response},
    reports::Reports,
    script::{EndStream, Script, Step},
};
use tower_sse_completion::{SkipCompletion, SseCompletionLayer};

use crate::steps;

#[derive(Debug)]
pub struct Input {
    method: Method,
    status: StatusCode,
    headers: HeaderMap,
    skips: bool,
    end_stream: EndStream,
    size: SizeHint,
    steps: Vec<Step>,
}

/// The number of bytes before the steps.
const OPTIONS: usize = 4;

/// Ends the steps, and each header but the last.
const END: u8 = 0xFF;

const METHODS: [&str; 8] = [
    "GET", "POST", "HEAD", "CONNECT", "OPTIONS", "head", "REPORT", "PUT",
];

const NAMES: [&str; 16] = [
    "content-type",
    "content-type",
    "content-type",
    "content-encoding",
    "content-encoding",
    "content-length",
    "content-md5",
    "digest",
    "content-digest",
    "repr-digest",
    "want-digest",
    "transfer-encoding",
    "cache-control",
    "etag",
    "content-range",
    "x-accel-buffering",
];

/// The headers that a wrapped response loses.
const STALE: [&str; 5] = [
    "content-length",
    "content-md5",
    "digest",
    "content-digest",
    "repr-digest",
];

/// The meanings of the bytes from 0x80 on in a value.
const PIECES: [&[u8]; 16] = [
    b"text/event-stream",
    b"Text/EVENT-stream",
    b"text/",
    b"event-stream",
    b";",
    b"; charset=utf-8",
    b" ",
    b"\t",
    b",",
    b"identity",
    b"IDENTITY",
    b"gzip",
    b"\xFF",
    b"\"",
    b"application/grpc",
    b"none",
];

/// An extension of another layer or of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extension(u8);

impl Input {
    /// Returns the bytes from which a successful response to a `GET` with these headers is read, one header in each line.
    /// The names have to be known to the target.
    pub fn encode(head: &str, steps: &[u8]) -> Vec<u8> {
        let mut encoded = [&[0; OPTIONS], steps].concat();
        for line in head.lines() {
            let (name, value) = line.split_once(": ").expect("a header");
            let number = NAMES.iter().position(|known| *known == name);
            encoded.push(END);
            encoded.push(number.expect("a known header") as u8);
            encoded.extend_from_slice(value.as_bytes());
        }
        encoded
    }

    pub fn check(&self) {
        let reports = Reports::default();
        let layer = SseCompletionLayer::new()
            .cancel_when(|_| std::future::ready(()))
            .on_end(reports.observer());
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        let (head, body) = send_response(&layer, request, self.response()).into_parts();
        let (before, upstream) = self.response().into_parts();

        assert_eq!(head.status, before.status);
        assert_eq!(head.version, before.version);
        assert_eq!(head.extensions.get(), Some(&Extension(7)));
        let mut expected = before.headers;
        if self.is_wrapped() {
            for name in STALE {
                while expected.remove(name).is_some() {}
            }
            assert_eq!(head.headers, expected, "C3");
            assert_eq!(
                head.extensions.len(),
                before.extensions.len() + 1,
                "C3: a marker"
            );
            assert_closes(Driver::new(body), &self.steps);
            reports.only();
        } else {
            assert_eq!(head.headers, expected, "C2");
            assert_eq!(head.extensions.len(), before.extensions.len(), "C2");
            assert_same(Driver::new(body), Driver::new(upstream), self.steps.len());
            assert_eq!(reports.count(), 0, "C21: no stream");
        }
    }

    /// C1.
    fn is_wrapped(&self) -> bool {
        let method = !["HEAD", "CONNECT"].contains(&self.method.as_str());
        let status = matches!(self.status.as_u16(), 200..=203 | 207..=299);
        let content_types = self.headers.get_all("content-type").iter();
        let content_types: Vec<_> = content_types.map(|value| value.as_bytes()).collect();
        let essences = split(&content_types.join(&b", "[..]));
        let mut essences = essences.iter().filter_map(|value| essence(value));
        let content_type = essences.next_back().as_deref() == Some("text/event-stream");
        let codings = self.headers.get_all("content-encoding");
        let mut codings = codings
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
        // An element of a list may be empty.
        let allowed = ["identity", "none", ""];
        let unencoded =
            codings.all(|coding| allowed.iter().any(|name| is_ignoring_case(coding, name)));
        method && status && content_type && unencoded && !self.skips
    }

    fn response(&self) -> Response<Script> {
        let script = Script::new(self.steps.iter().cloned())
            .end_stream(self.end_stream)
            .size_hint(self.size);
        let mut response = Response::new(script);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        response.extensions_mut().insert(Extension(7));
        if self.skips {
            response.extensions_mut().insert(SkipCompletion);
        }
        response
    }
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let [method, status, ways, size] = u.arbitrary::<[u8; 4]>()?;
        let hundreds = match ways & 7 {
            0..=4 => 200,
            5 => 100,
            6 => 300,
            _ => 500,
        };
        // The rules distinguish the first statuses of a hundred.
        let status = hundreds
            + u16::from(if status < 64 {
                status % 10
            } else {
                status % 100
            });
        let mut headers = HeaderMap::new();
        let mut parts = u.bytes(u.len())?.split(|&byte| byte == END);
        let body = parts.next().unwrap_or_default();
        for part in parts {
            if let [name, value @ ..] = part {
                let name = NAMES[usize::from(*name) % NAMES.len()];
                headers.append(HeaderName::from_static(name), header_value(value));
            }
        }
        Ok(Self {
            method: METHODS[usize::from(method) % METHODS.len()]
                .parse()
                .expect("a method"),
            status: StatusCode::from_u16(status).expect("a status"),
            headers,
            skips: ways & 0b11_0000 == 0b11_0000,
            end_stream: [EndStream::Unknown, EndStream::Known, EndStream::Wrong]
                [usize::from(ways >> 6) % 3],
            size: match ways & 8 {
                0 => SizeHint::default(),
                _ => SizeHint::with_exact(size.into()),
            },
            steps: steps::read(body),
        })
    }

    fn size_hint(_depth: usize) -> (usize, Option<usize>) {
        (OPTIONS, None)
    }
}

/// Asserts that a stream that was cancelled before its start ends with a close event after any content.
fn assert_closes<B>(mut body: Driver<B>, steps: &[Step])
where
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: std::fmt::Debug,
{
    assert!(!body.is_end_stream(), "C14: before the close event");
    assert_eq!(body.size_hint().exact(), None, "C14: unknown");
    let output = body.rest();
    assert!(
        output.error.is_none(),
        "C11: a cancelled stream does not fail"
    );
    let bytes = output.bytes();
    let last = decode(&bytes).events.pop().expect("C9: a close event");
    assert_eq!(last.event_type, "close", "C9: a close event");
    // The upstream may have sent its own close event.
    let forwarded = bytes.strip_suffix(CLOSE).unwrap_or(&bytes);
    let mut whole = Vec::new();
    for step in steps {
        if let Step::Data(data) = step {
            whole.extend_from_slice(data);
        }
    }
    let is_prefix = whole.starts_with(forwarded);
    let completes_crlf =
        forwarded.ends_with(b"\r\n") && whole.starts_with(&forwarded[..forwarded.len() - 1]);
    assert!(is_prefix || completes_crlf, "C4: a prefix");
}

/// C2: asserts that every poll of the body returns the result of the upstream.
fn assert_same<A, B>(mut body: Driver<A>, mut upstream: Driver<B>, steps: usize)
where
    A: http_body::Body<Data = bytes::Bytes, Error = B::Error>,
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: PartialEq + std::fmt::Debug,
{
    // The upstream panics when it is polled after its end.
    for _ in 0..=steps {
        assert_eq!(body.is_end_stream(), upstream.is_end_stream());
        let (size, expected) = (body.size_hint(), upstream.size_hint());
        assert_eq!(
            (size.lower(), size.upper()),
            (expected.lower(), expected.upper())
        );
        let (polled, expected) = (body.poll(), upstream.poll());
        assert_eq!(body.wakes(), upstream.wakes());
        assert_eq!(format!("{polled:?}"), format!("{expected:?}"), "C2");
        if matches!(expected, std::task::Poll::Ready(None | Some(Err(_)))) {
            break;
        }
    }
}

fn header_value(bytes: &[u8]) -> HeaderValue {
    let mut value = Vec::new();
    for &byte in bytes {
        match byte {
            b'\t' | b' '..=b'~' => value.push(byte),
            0x80.. => value.extend_from_slice(PIECES[usize::from(byte) % PIECES.len()]),
            _ => value.push(b' '),
        }
    }
    HeaderValue::from_bytes(&value).expect("a value")
}

/// Compares values, ignoring case and the white space of RFC 9110 around the value.
fn is_ignoring_case(mut value: &[u8], expected: &str) -> bool {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value.eq_ignore_ascii_case(expected.as_bytes())
}

/// "Get, decode, and split" of the Fetch standard, step by step.
fn split(input: &[u8]) -> Vec<Vec<u8>> {
    let mut values = vec![Vec::new()];
    let mut input = input.iter().copied();
    while let Some(byte) = input.next() {
        if byte == b',' {
            values.push(Vec::new());
            continue;
        }
        let value = values.last_mut().expect("the list is never empty");
        value.push(byte);
        if byte == b'"' {
            // A quoted string, up to its closing quote.
            while let Some(byte) = input.next() {
                value.push(byte);
                match byte {
                    b'"' => break,
                    b'\\' => value.extend(input.next()),
                    _ => {}
                }
            }
        }
    }
    values
}

/// "Parse a MIME type" of the MIME Sniffing standard: the essence of a valid type other than `*/*`, in lower case.
fn essence(value: &[u8]) -> Option<String> {
    let text: String = value.iter().copied().map(char::from).collect();
    let text = text.trim_matches(['\t', '\n', '\r', ' ']);
    let (kind, rest) = text.split_once('/')?;
    let subtype = rest
        .split(';')
        .next()?
        .trim_end_matches(['\t', '\n', '\r', ' ']);
    let is_token = |text: &str| {
        let is_token_char =
            |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char);
        !text.is_empty() && text.chars().all(is_token_char)
    };
    let is_valid = is_token(kind) && is_token(subtype) && (kind, subtype) != ("*", "*");
    is_valid.then(|| format!("{kind}/{subtype}").to_ascii_lowercase())
}
