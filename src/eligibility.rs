//! Which responses the layer completes, and what their heads lose by it.

use std::sync::Arc;

use http::{
    Extensions, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};

use crate::config::Config;
#[cfg(feature = "tokio")]
use crate::shutdown::Shutdown;

/// A response extension with which a handler opts out: its response passes through untouched.
///
/// ```
/// use http::Response;
/// use tower_sse_completion::SkipCompletion;
///
/// let response = Response::builder()
///     .header("content-type", "text/event-stream")
///     .extension(SkipCompletion)
///     .body("data: as it is\n\n".to_owned());
/// # assert!(response.is_ok());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SkipCompletion;

/// Marks a response that a layer has completed, for the layers around that one.
#[derive(Debug, Clone)]
#[cfg_attr(
    not(feature = "tokio"),
    allow(dead_code, reason = "without tokio there are no shutdowns")
)]
pub(crate) struct Completed {
    /// What that layer was told.
    config: Arc<Config>,
    /// What the response had brought by then.
    #[cfg(feature = "tokio")]
    shutdown: Option<Shutdown>,
    /// The layer inside of that one.
    inner: Option<Arc<Completed>>,
}

/// Headers that state the length of the body or digest its bytes, which a close event changes: `Content-Length`
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

impl Completed {
    pub(crate) fn mark(extensions: &mut Extensions, config: Arc<Config>) {
        let inner = extensions.remove::<Self>().map(Arc::new);
        #[cfg(feature = "tokio")]
        let shutdown = extensions.get().cloned();
        extensions.insert(Self {
            config,
            #[cfg(feature = "tokio")]
            shutdown,
            inner,
        });
    }

    /// Whether this shutdown ends and counts the stream already.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_watched_by(&self, shutdown: &Shutdown) -> bool {
        self.config.has_shutdown(shutdown)
            || self.shutdown.as_ref().is_some_and(|it| it.is(shutdown))
            || self
                .inner
                .as_ref()
                .is_some_and(|it| it.is_watched_by(shutdown))
    }
}

/// Whether the answer to this method can have an event stream as its body (RFC 9110, 9.3.2 and 9.3.6).
pub(crate) fn method_allows(method: &Method) -> bool {
    !matches!(*method, Method::HEAD | Method::CONNECT)
}

pub(crate) fn is_completable<B>(response: &Response<B>) -> bool {
    is_event_stream(response.headers().get(CONTENT_TYPE))
        && status_allows(response.status())
        && is_unencoded(response)
        && response.extensions().get::<SkipCompletion>().is_none()
}

pub(crate) fn remove_stale_headers<B>(response: &mut Response<B>) {
    // Most responses have none of them, and few headers: to look at those costs less than five removals.
    if response.headers().keys().any(|name| STALE.contains(name)) {
        for name in &STALE {
            response.headers_mut().remove(name);
        }
    }
}

/// 204 and 205 have no body, and 206 carries a part of one.
fn status_allows(status: StatusCode) -> bool {
    status.is_success()
        && !matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::PARTIAL_CONTENT
        )
}

/// The essence, in any case, and any parameters.
fn is_event_stream(content_type: Option<&HeaderValue>) -> bool {
    let value = content_type.map_or(&[][..], HeaderValue::as_bytes);
    let Some((essence, rest)) = value
        .trim_ascii_start()
        .split_at_checked(EVENT_STREAM.len())
    else {
        return false;
    };
    essence.eq_ignore_ascii_case(EVENT_STREAM)
        && matches!(rest.trim_ascii_start().first(), None | Some(b';'))
}

fn is_unencoded<B>(response: &Response<B>) -> bool {
    response
        .headers()
        .get_all(CONTENT_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        // An empty element of a list is none (RFC 9110, 5.6.1.2).
        .all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"))
}
