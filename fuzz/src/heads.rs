//! Heads of responses: completed when the contract says so (C1), without the headers that no longer hold (C3), and
//! otherwise untouched (C2).

use arbitrary::{Arbitrary, Result, Unstructured};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::SizeHint;
use tower_sse_completion::{SkipCompletion, SseCompletionLayer};

use crate::{
    steps,
    support::{
        CLOSE, Reports,
        driver::Driver,
        script::{EndStream, Script, Step},
        through,
    },
};

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

/// How many bytes are in front of the steps.
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

/// The first five do not outlive a completion.
const STALE: [&str; 5] = [
    "content-length",
    "content-md5",
    "digest",
    "content-digest",
    "repr-digest",
];

/// What a byte of a value from 0x80 on stands for.
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
    b"=",
];

/// What another layer or the server may have put there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extension(u8);

impl Input {
    /// What a successful response to a `GET` is read from, with these headers, of those that the target knows.
    pub fn encode(headers: &[(&str, &str)], steps: &[u8]) -> Vec<u8> {
        let mut encoded = [&[0; OPTIONS], steps].concat();
        for (name, value) in headers {
            let number = NAMES.iter().position(|known| known == name);
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
        let (head, body) = through(&layer, request, self.response()).into_parts();
        let (before, upstream) = self.response().into_parts();

        assert_eq!(head.status, before.status);
        assert_eq!(head.version, before.version);
        assert_eq!(head.extensions.get(), Some(&Extension(7)));
        let mut expected = before.headers;
        if self.is_completed() {
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
            reports.one();
        } else {
            assert_eq!(head.headers, expected, "C2");
            assert_eq!(head.extensions.len(), before.extensions.len(), "C2");
            assert_same(Driver::new(body), Driver::new(upstream), self.steps.len());
            assert_eq!(reports.count(), 0, "C16: no stream");
        }
    }

    /// C1.
    fn is_completed(&self) -> bool {
        let method = !["HEAD", "CONNECT"].contains(&self.method.as_str());
        let status = matches!(self.status.as_u16(), 200..=203 | 207..=299);
        let content_type = self.headers.get("content-type").is_some_and(|value| {
            let essence = lower_case(value);
            let essence = essence
                .split(|&byte| byte == b';')
                .next()
                .unwrap_or_default();
            without_spaces(essence) == b"text/event-stream"
        });
        let mut codings = Vec::new();
        for value in self.headers.get_all("content-encoding") {
            for coding in lower_case(value).split(|&byte| byte == b',') {
                codings.push(without_spaces(coding).to_vec());
            }
        }
        // An empty element of a list is none.
        codings.retain(|coding| !coding.is_empty());
        let unencoded = codings.iter().all(|coding| coding == b"identity");
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
        // The first of the statuses are the ones that differ.
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
            end_stream: [EndStream::Unsaid, EndStream::Said, EndStream::Lied]
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

/// The stream was cancelled before it began, so it ends in a close event, whatever its content.
fn assert_closes<B>(mut body: Driver<B>, steps: &[Step])
where
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: std::fmt::Debug,
{
    assert!(!body.is_end_stream(), "C14: a close event is to come");
    assert_eq!(body.size_hint().exact(), None, "C14: nobody knows");
    let output = body.rest();
    assert!(
        output.error.is_none(),
        "C11: a cancelled stream does not fail"
    );
    let bytes = output.bytes();
    let forwarded = bytes.strip_suffix(CLOSE).expect("C9: a close event");
    let whole: Vec<u8> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Data(data) => Some(&data[..]),
            _ => None,
        })
        .collect::<Vec<_>>()
        .concat();
    let is_beginning = whole.starts_with(forwarded);
    let completes_crlf =
        forwarded.ends_with(b"\r\n") && whole.starts_with(&forwarded[..forwarded.len() - 1]);
    assert!(is_beginning || completes_crlf, "C4: a beginning");
}

/// C2: the same at every poll.
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

fn lower_case(value: &HeaderValue) -> Vec<u8> {
    value.as_bytes().to_ascii_lowercase()
}

/// Without the white space of RFC 9110 around it.
fn without_spaces(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}
