//! Examples and tests of frameworks and servers that take long to build, and the code that the examples share.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{Request, request::Parts};

/// Encodes an event, for frameworks that have no encoder whose output can be wrapped.
///
/// Each line of the data becomes a `data` field, whether it ends in LF, CR or CRLF, so that data cannot forge a field. A client
/// joins the fields with LF.
///
/// ```
/// assert_eq!(frameworks::event(7, "one\r\ntwo"), "id: 7\ndata: one\ndata: two\n\n");
/// ```
pub fn event(id: u64, data: &str) -> Bytes {
    let mut event = format!("id: {id}\n");
    // CRLF is one line end, so it is replaced before a lone CR.
    for line in data.replace("\r\n", "\n").split(['\n', '\r']) {
        event.push_str("data: ");
        event.push_str(line);
        event.push('\n');
    }
    event.push('\n');
    event.into()
}

/// Returns an endless stream of events, with 500 ms before each.
pub fn ticks<E>() -> impl Stream<Item = Result<Bytes, E>> + Send {
    stream::iter(1..).then(async |number| {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(event(number, "tick"))
    })
}

/// Returns the head that the closures of `cancel_when` receive, for frameworks with request types of their own.
///
/// ```
/// let head = frameworks::head("GET", "/events?user=7", [("last-event-id", &b"41"[..])]);
/// assert_eq!(head.uri.query(), Some("user=7"));
/// assert_eq!(head.headers["last-event-id"], "41");
/// ```
pub fn head<'a>(
    method: &str,
    uri: &str,
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Parts {
    let mut builder = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    // The framework has parsed the head, so the builder is not expected to fail. If it does, the closures receive the head of an
    // empty request.
    builder.body(()).unwrap_or_default().into_parts().0
}
