//! Which responses the layer wraps, and which headers they lose.

use http::{
    HeaderMap, HeaderName, Method, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};

/// A response extension with which a handler opts out: its response passes through unchanged.
///
/// ```
/// use http::Response;
/// use tower_sse_completion::SkipCompletion;
///
/// let response = Response::builder()
///     .header("content-type", "text/event-stream")
///     .extension(SkipCompletion)
///     .body("data: unchanged\n\n".to_owned());
/// # assert!(response.is_ok());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SkipCompletion;

/// Headers that state the length of the body or digest its bytes, both of which a close event changes: `Content-Length`
/// ([RFC 9110, 8.6](https://www.rfc-editor.org/rfc/rfc9110.html#section-8.6)), `Content-MD5` (RFC 1864), `Digest`
/// (RFC 3230), `Content-Digest` and `Repr-Digest` (RFC 9530).
const STALE: [HeaderName; 5] = [
    CONTENT_LENGTH,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

const EVENT_STREAM: &[u8] = b"text/event-stream";

/// Returns `false` for methods whose responses have no event stream as their body (RFC 9110, 9.3.2 and 9.3.6).
pub(crate) fn method_allows(method: &Method) -> bool {
    !matches!(*method, Method::HEAD | Method::CONNECT)
}

pub(crate) fn is_event_stream<B>(response: &Response<B>) -> bool {
    has_event_stream_type(response.headers())
        && status_allows(response.status())
        && is_unencoded(response.headers())
        && response.extensions().get::<SkipCompletion>().is_none()
}

pub(crate) fn remove_stale_headers(headers: &mut HeaderMap) {
    // Most responses have few headers, and none of these. Comparing the names costs less than five removals.
    if headers.keys().any(|name| STALE.contains(name)) {
        for name in &STALE {
            headers.remove(name);
        }
    }
}

/// Returns `true` for a 2xx status with a whole body: 204 and 205 have none, 206 has a part.
fn status_allows(status: StatusCode) -> bool {
    status.is_success()
        && !matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::PARTIAL_CONTENT
        )
}

/// Returns `true` if the MIME type, extracted as browsers do ([Fetch standard, 2.2.2][fetch]: the last valid value), is
/// `text/event-stream`.
///
/// [fetch]: https://fetch.spec.whatwg.org/#concept-header-extract-mime-type
fn has_event_stream_type(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let Some(first) = values.next().map(|value| value.as_bytes()) else {
        return false;
    };
    if values.next().is_some() {
        return last_type_is_event_stream(headers);
    }
    // Most responses are decided by their length.
    first.len() >= EVENT_STREAM.len()
        && match memchr::memchr(b',', first) {
            None => is_event_stream_type(first),
            Some(_) => last_type_is_event_stream(headers),
        }
}

#[cold]
fn last_type_is_event_stream(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONTENT_TYPE).iter();
    let values: Vec<_> = values.map(|value| value.as_bytes()).collect();
    let joined = values.join(&b", "[..]);
    let valid = split_at_commas(&joined).filter(|value| is_mime_type(value));
    valid.last().is_some_and(is_event_stream_type)
}

/// Returns `true` if the essence of this MIME type is `text/event-stream`, in any case and with any parameters.
fn is_event_stream_type(value: &[u8]) -> bool {
    let value = value.trim_ascii_start();
    let Some((essence, rest)) = value.split_at_checked(EVENT_STREAM.len()) else {
        return false;
    };
    essence.eq_ignore_ascii_case(EVENT_STREAM)
        && matches!(rest.trim_ascii_start().first(), None | Some(b';'))
}

/// Returns `true` for a valid MIME type ([MIME Sniffing standard, 4.4][sniff]) other than `*/*`.
///
/// [sniff]: https://mimesniff.spec.whatwg.org/#parsing-a-mime-type
fn is_mime_type(value: &[u8]) -> bool {
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    let mut parts = value[..end].trim_ascii().splitn(2, |&byte| byte == b'/');
    let is_token = |token: &[u8]| !token.is_empty() && token.iter().all(is_token_byte);
    match (parts.next(), parts.next()) {
        (Some(b"*"), Some(b"*")) => false,
        (Some(kind), Some(subtype)) => is_token(kind) && is_token(subtype),
        _ => false,
    }
}

fn is_token_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// Splits at the commas outside of quoted strings.
fn split_at_commas(values: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    values.split(move |&byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    })
}

/// Returns `true` if no coding but `identity` and `none` is applied. `none` is not registered: servers send it to keep proxies from
/// compressing, and browsers ignore it.
fn is_unencoded(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .all(|coding| {
            // An empty element of a list does not count (RFC 9110, 5.6.1.2).
            coding.is_empty()
                || coding.eq_ignore_ascii_case(b"identity")
                || coding.eq_ignore_ascii_case(b"none")
        })
}
