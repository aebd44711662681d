//! Upstreams that end on their own inside an event. `endings_table` has the other options, trailers and errors.

use std::{convert::Infallible, net::SocketAddr};

use http::Request;
use hyper::body::Incoming;
use testkit::{
    MIRI_STRIDE,
    exchange::{CLOSE, drive},
    reports::Reports,
    script::{EndStream, Script},
    server::{self, VERSIONS, Version},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Layer, service_fn};
use tower_sse_completion::{Ending, SseCompletionLayer, StreamReport};

fn observed() -> (Reports, SseCompletionLayer) {
    let reports = Reports::default();
    let layer = SseCompletionLayer::new().on_end(reports.observer());
    (reports, layer)
}

/// Returns all splits of these bytes into two frames, with and without a correct `is_end_stream`.
fn upstreams(bytes: &[u8]) -> impl Iterator<Item = Script> {
    let cuts = (0..=bytes.len()).step_by(MIRI_STRIDE);
    cuts.flat_map(move |cut| {
        let hints = [EndStream::Unknown, EndStream::Known].into_iter();
        let (first, second) = bytes.split_at(cut);
        hints.map(move |hint| Script::frames([first, second]).end_stream(hint))
    })
}

fn facts(report: &StreamReport) -> (Ending, bool, bool) {
    let (ending, closed) = (report.ending(), report.close_event_sent());
    (ending, closed, report.delivered())
}

#[test]
fn c9_close_on_truncated_replaces_the_unfinished_event_of_a_truncated_stream_only() {
    use Ending::{Completed, Empty, Truncated};
    // The whole events, what follows them, and the ending.
    for (whole, rest, ending) in [
        ("", "data: {\"answer\":42}\n", Truncated),
        ("", "data: {\"answer\":42}", Truncated),
        ("data: 1\n\n", "data: 2", Truncated),
        ("data: 1\n\n", "id: 7\n", Truncated),
        ("data: 1\r\r", "data: 2\r", Truncated),
        ("data: 1\r\n\r\n", "event: x\r\ndata: 2\r\n", Truncated),
        ("", "retry: 5\n", Truncated),
        ("", "\u{feff}data", Truncated),
        (": a comment\n", "data: 1\n: another comment\n", Truncated),
        ("", "d", Truncated),
        // A comment is no part of an event.
        ("data: 1\n\n: half a comment", "", Completed),
        ("data: 1\n\n: a comment\r", "", Completed),
        ("", "", Empty),
        ("\n", "", Empty),
        (": a comment\n\n: another\r", "", Empty),
        ("retry: 5\n\n", "", Empty),
        ("id: 7\nevent: x\n\n", "", Empty),
        ("\u{feff}\n", "", Empty),
    ] {
        let bytes = [whole, rest].concat();
        for closes in [false, true] {
            for upstream in upstreams(bytes.as_bytes()) {
                let (reports, layer) = observed();
                let case = format!("{upstream:?}, {closes}");
                let layer = layer
                    .close_on_empty(false)
                    .close_on_failed(true)
                    .close_on_truncated(closes);
                let is_closed = closes && ending == Truncated;
                let output = drive(&layer, upstream).rest().text();
                let expected = match is_closed {
                    // C5: an LF completes the CR of a line end.
                    true if whole.ends_with('\r') => format!("{whole}\nevent: close\ndata:\n\n"),
                    true => format!("{whole}event: close\ndata:\n\n"),
                    false => bytes.clone(),
                };
                assert_eq!(output, expected, "{case}");
                let delivered = whole.contains("data");
                let expected = (ending, is_closed, delivered);
                assert_eq!(facts(&reports.only()), expected, "{case}");
            }
        }
    }
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
