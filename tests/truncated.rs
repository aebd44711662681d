//! Upstreams that end on their own inside an event, and upstreams that end empty.

use std::{convert::Infallible, net::SocketAddr};

use http::Request;
use hyper::body::Incoming;
use testkit::{
    MIRI_STRIDE,
    decoder::{boundaries, decode},
    exchange::{CLOSE, drive},
    reports::Reports,
    script::{EndStream, Script, ScriptError, Step, data, trailers},
    server::{self, VERSIONS, Version},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Layer, service_fn};
use tower_sse_completion::{Ending, SseCompletionLayer, StreamReport};

/// Streams that end inside an event.
const TRUNCATED: [&[u8]; 10] = [
    b"data: {\"answer\":42}\n",
    b"data: {\"answer\":42}",
    b"data: 1\n\ndata: 2",
    b"data: 1\n\nid: 7\n",
    b"data: 1\r\rdata: 2\r",
    b"data: 1\r\n\r\nevent: x\r\ndata: 2\r\n",
    b"retry: 5\n",
    b"\xEF\xBB\xBFdata",
    b": a comment\ndata: 1\n: another comment\n",
    b"d",
];

/// Streams that end between two events, without an event.
const EMPTY: [&[u8]; 8] = [
    b"",
    b"\n",
    b"\r\n\r",
    b": a comment\n",
    b": a comment\n\n: another\r",
    b"retry: 5\n\n",
    b"id: 7\nevent: x\n\n",
    b"\xEF\xBB\xBF\n",
];

fn observed() -> (Reports, SseCompletionLayer) {
    let reports = Reports::default();
    let layer = SseCompletionLayer::new().on_end(reports.observer());
    (reports, layer)
}

/// Returns all splits of these bytes into two frames, with and without a correct `is_end_stream`.
fn upstreams(bytes: &'static [u8]) -> impl Iterator<Item = Script> {
    let cuts = (0..=bytes.len()).step_by(MIRI_STRIDE);
    cuts.flat_map(move |cut| {
        let hints = [EndStream::Unknown, EndStream::Known].into_iter();
        let (first, second) = bytes.split_at(cut);
        hints.map(move |hint| Script::frames([first, second]).end_stream(hint))
    })
}

fn last_boundary(bytes: &[u8]) -> &[u8] {
    let end = boundaries(bytes).last().copied().unwrap_or_default();
    &bytes[..end]
}

fn facts(report: &StreamReport) -> (Ending, bool, bool) {
    let (ending, closed) = (report.ending(), report.close_event_sent());
    (ending, closed, report.delivered())
}

#[test]
fn c9_truncated_stream_is_forwarded_unchanged() {
    for bytes in TRUNCATED {
        for upstream in upstreams(bytes) {
            let (reports, layer) = observed();
            let case = format!("{:?}, {upstream:?}", bytes.escape_ascii());
            // All policies except that for truncated ends.
            let layer = layer.close_on_completed(true).close_on_failed(true);
            assert_eq!(drive(&layer, upstream).rest().bytes(), bytes, "{case}");
            let delivered = !decode(bytes).events.is_empty();
            let expected = (Ending::Truncated, false, delivered);
            assert_eq!(facts(&reports.only()), expected, "{case}");
            assert_eq!(reports.only().bytes_sent(), bytes.len() as u64, "{case}");
        }
    }
}

#[test]
fn c9_close_on_truncated_replaces_the_unfinished_event() {
    for bytes in TRUNCATED {
        for upstream in upstreams(bytes) {
            let (reports, layer) = observed();
            let case = format!("{:?}, {upstream:?}", bytes.escape_ascii());
            let layer = layer.close_on_truncated(true).close_on_empty(false);
            let output = drive(&layer, upstream).rest().bytes();
            let kept = last_boundary(bytes);
            let rest = output.strip_prefix(kept).expect("the whole events");
            // C5: an LF completes the CR of a line end.
            assert_eq!(rest.strip_prefix(b"\n").unwrap_or(rest), CLOSE, "{case}");
            assert_eq!(rest.len() > CLOSE.len(), kept.ends_with(b"\r"), "{case}");
            let decoded = decode(&output);
            let [events @ .., close] = &decoded.events[..] else {
                panic!("{case}: no event");
            };
            assert_eq!(events, decode(bytes).events, "{case}");
            assert_eq!(close.event_type, "close", "{case}");
            let expected = (Ending::Truncated, true, !events.is_empty());
            assert_eq!(facts(&reports.only()), expected, "{case}");
        }
    }
}

#[test]
fn c9_empty_streams_are_not_truncated() {
    for bytes in EMPTY {
        for (upstream, closes) in upstreams(bytes).zip([true, false].into_iter().cycle()) {
            let (reports, layer) = observed();
            let case = format!("{:?}, {upstream:?}", bytes.escape_ascii());
            let layer = layer.close_on_truncated(!closes).close_on_empty(closes);
            let output = drive(&layer, upstream).rest().bytes();
            let rest = output.strip_prefix(bytes).expect("the upstream's bytes");
            let close: &[u8] = if closes { CLOSE } else { b"" };
            assert!(
                rest.len() <= close.len() + 1 && rest.ends_with(close),
                "{case}"
            );
            let expected = (Ending::Empty, closes, false);
            assert_eq!(facts(&reports.only()), expected, "{case}");
        }
    }
}

#[test]
fn c9_comment_after_an_event_does_not_truncate() {
    for bytes in [
        &b"data: 1\n\n: half a comment"[..],
        b"data: 1\n\n: a comment\r",
    ] {
        for upstream in upstreams(bytes) {
            let (reports, layer) = observed();
            let layer = layer.close_on_truncated(true);
            assert_eq!(drive(&layer, upstream).rest().bytes(), bytes);
            let expected = (Ending::Completed, false, true);
            assert_eq!(
                facts(&reports.only()),
                expected,
                "{:?}",
                bytes.escape_ascii()
            );
        }
    }
}

#[test]
fn c7_truncated_event_above_the_limit_has_no_close_event() {
    for bytes in [
        &b"data: 0123456789abcdef"[..],
        b"data: 1\n\ndata: 0123456789abcdef\n",
    ] {
        for upstream in upstreams(bytes) {
            let (reports, layer) = observed();
            let layer = layer.close_on_truncated(true).buffer_limit(8);
            let output = drive(&layer, upstream).rest().bytes();
            let case = bytes.escape_ascii();
            assert_eq!(output, bytes, "{case:?}: the client is inside the event");
            let report = reports.only();
            assert_eq!(report.ending(), Ending::Truncated, "{case:?}");
            assert!(!report.close_event_sent(), "{case:?}");
        }
    }
}

#[test]
fn c9_trailers_follow_a_truncated_stream() {
    for (closes, expected) in [(false, &b"data: 1\n\ndata: 2"[..]), (true, b"data: 1\n\n")] {
        let (reports, layer) = observed();
        let layer = layer.close_on_truncated(closes);
        let steps = [data("data: 1\n\ndata: 2"), Step::Trailers];
        let output = drive(&layer, Script::new(steps)).rest();
        let close: &[u8] = if closes { CLOSE } else { b"" };
        assert_eq!(output.bytes(), [expected, close].concat());
        assert_eq!(output.trailers, Some(trailers()));
        assert_eq!(reports.only().ending(), Ending::Truncated);
    }
}

#[test]
fn c12_error_inside_an_event_is_failed_and_not_truncated() {
    let (reports, layer) = observed();
    let steps = [data("data: 1\n\ndata: 2"), Step::Error];
    let output = drive(&layer.close_on_truncated(true), Script::new(steps)).rest();
    assert_eq!(output.text(), "data: 1\n\ndata: 2");
    assert_eq!(output.error, Some(ScriptError));
    assert_eq!(reports.only().ending(), Ending::Failed);
}

/// Serves one response without a length and without chunks, which ends with its connection.
async fn serve_unframed(body: &'static [u8]) -> SocketAddr {
    let (listener, address) = server::listen().await;
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let length = connection.read(&mut request).await.expect("a request");
            assert!(request[..length].ends_with(b"\r\n\r\n"), "in one piece");
            let head =
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
            let response = [head, body].concat();
            connection
                .write_all(&response)
                .await
                .expect("a client that reads");
        }
    });
    address
}

#[tokio::test]
#[cfg_attr(miri, ignore = "needs sockets")]
async fn c9_upstream_of_a_proxy_that_closes_inside_an_event_is_truncated() {
    let upstream = serve_unframed(b"data: 1\n\ndata: {\"answer\":").await;
    for version in VERSIONS {
        for (closes, rest) in [(false, &b"data: {\"answer\":"[..]), (true, CLOSE)] {
            let (reports, layer) = observed();
            let proxy = service_fn(move |_: Request<Incoming>| async move {
                let response = server::request(upstream, Version::Http1, "GET", "/").await;
                Ok::<_, Infallible>(response)
            });
            let proxy = server::serve(layer.close_on_truncated(closes).layer(proxy)).await;
            let response = server::request(proxy, version, "GET", "/").await;
            let text = server::receive(response.into_body()).await.text();
            let expected = [b"data: 1\n\n", rest].concat();
            assert_eq!(text.as_bytes(), expected, "{version:?}");
            let expected = (Ending::Truncated, closes, true);
            assert_eq!(facts(&reports.only()), expected, "{version:?}");
        }
    }
}
