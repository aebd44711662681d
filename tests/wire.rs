//! Servers and clients over loopback sockets, with HTTP/1.1 and HTTP/2.
#![cfg(not(miri))]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header::CONTENT_LENGTH};
use testkit::{
    exchange::{cancellation_layer, event_stream_response},
    script::{AfterScript, Script, Step, data, trailers},
    server::{VERSIONS, next_data, raw, receive, request, serve, serve_responses},
};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::SseCompletionLayer;

const CLOSE: &str = "event: close\ndata:\n\n";

/// Returns a closure whose first response is an event stream with this body.
fn once(body: Body) -> impl Fn() -> Response<Body> + Clone + Send {
    let body = Arc::new(Mutex::new(Some(body)));
    move || event_stream_response(body.lock().expect("no panic").take().unwrap_or_default())
}

#[tokio::test]
async fn c6_c10_cancelled_stream_ends_with_complete_events_and_the_close_event() {
    for frames in [
        &["data: 1\n\n"][..],
        &["data: 1\n\n", "id: 77\ndata: {\"a\":1"],
    ] {
        for version in VERSIONS {
            let token = CancellationToken::new();
            let upstream = Script::frames(frames).then(AfterScript::Pending);
            let respond = once(Body::new(upstream));
            let address = serve_responses(cancellation_layer(&token), respond).await;
            let mut body = request(address, version, "GET", "/").await.into_body();
            assert_eq!(next_data(&mut body).await, "data: 1\n\n");
            token.cancel();
            assert_eq!(receive(body).await.text(), CLOSE);
        }
    }
}

#[tokio::test]
async fn c14_empty_streams_are_closed() {
    let with_length = || {
        let mut response = event_stream_response(Body::from(":\n"));
        let length = HeaderValue::from_static("2");
        response.headers_mut().insert(CONTENT_LENGTH, length);
        response
    };
    let empty: [fn() -> Response<Body>; 4] = [
        || event_stream_response(Body::empty()),
        || {
            event_stream_response(Body::from_stream(
                stream::empty::<Result<Bytes, Infallible>>(),
            ))
        },
        || event_stream_response(Body::from(":\n")),
        with_length,
    ];
    // axum sets `Content-Length` itself.
    let handler = || async { ([("content-type", "text/event-stream")], ":\n") };
    let app = Router::new().route("/", get(handler));
    let mut addresses = vec![serve(app.layer(SseCompletionLayer::new())).await];
    for respond in empty {
        addresses.push(serve_responses(SseCompletionLayer::new(), respond).await);
    }
    for address in addresses {
        for version in VERSIONS {
            let response = request(address, version, "GET", "/").await;
            assert_eq!(response.headers().get(CONTENT_LENGTH), None);
            let text = receive(response.into_body()).await.text();
            assert_eq!(text.trim_start_matches(":\n"), CLOSE);
        }
    }
}

#[tokio::test]
async fn c1_response_without_a_body_is_forwarded_without_a_body() {
    let address = serve_responses(SseCompletionLayer::new(), || {
        let mut response = event_stream_response(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    })
    .await;
    for version in VERSIONS {
        let body = request(address, version, "GET", "/").await.into_body();
        assert_eq!(receive(body).await.text(), "");
    }
}

#[tokio::test]
async fn c1_head_request_for_an_endless_stream_has_a_response_at_once() {
    // axum drops the body, because hyper would send it over HTTP/2.
    let endless = || async { event_stream_response(Body::new(Script::silent())) };
    let app = Router::new().route("/", get(endless));
    let address = serve(app.layer(SseCompletionLayer::new())).await;
    for version in VERSIONS {
        let response = request(address, version, "HEAD", "/").await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(receive(response.into_body()).await.text(), "");
    }
}

#[tokio::test]
async fn c2_other_response_keeps_its_exact_length() {
    let respond = || Response::new(Body::from("{\"a\":1}"));
    let address = serve_responses(SseCompletionLayer::new(), respond).await;
    for version in VERSIONS {
        let response = request(address, version, "GET", "/").await;
        assert_eq!(response.headers()[CONTENT_LENGTH], "7");
        assert_eq!(receive(response.into_body()).await.text(), "{\"a\":1}");
    }
}

#[tokio::test]
async fn c13_trailers_follow_the_close_event() {
    let address = serve_responses(SseCompletionLayer::new(), || {
        let upstream = Script::new([data(":\n"), Step::Trailers]);
        let mut response = event_stream_response(Body::new(upstream));
        let names = HeaderValue::from_static("x-checksum");
        response.headers_mut().insert("trailer", names);
        response
    })
    .await;
    for version in VERSIONS {
        let body = request(address, version, "GET", "/").await.into_body();
        let received = receive(body).await;
        assert_eq!(received.trailers, Some(trailers()), "{version:?}");
        assert_eq!(received.text(), format!(":\n{CLOSE}"));
    }
}

#[tokio::test]
async fn close_event_precedes_the_last_chunk_of_http_1_1_and_the_end_of_http_1_0() {
    let respond = || event_stream_response(Body::empty());
    let address = serve_responses(SseCompletionLayer::new(), respond).await;
    let response = raw(address, "GET / HTTP/1.1").await;
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert_eq!(body, format!("14\r\n{CLOSE}\r\n0\r\n\r\n"));

    let response = raw(address, "GET / HTTP/1.0").await;
    let (_, body) = response.split_once("\r\n\r\n").expect("a head");
    assert_eq!(body, CLOSE);
}

/// The replay spends tokio's cooperative budget of the connection's task more than once.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn c17_keep_alive_follows_a_long_replay() {
    for version in VERSIONS {
        let interval = std::time::Duration::from_millis(50);
        let layer = SseCompletionLayer::new().keep_alive(interval);
        let (events, replay) = testkit::feed::feed();
        for _ in 0..300 {
            events.send("data: 1\n\n");
        }
        let address = serve_responses(layer, once(Body::new(replay))).await;
        let mut body = request(address, version, "GET", "/").await.into_body();
        let mut text = String::new();
        // A busy machine may send a comment before the replay is over.
        while text.matches("data: 1\n\n").count() < 300 || !text.ends_with(":\n\n") {
            let data = next_data(&mut body).await;
            text += std::str::from_utf8(&data).expect("text");
        }
        assert_eq!(text.replace(":\n\n", ""), "data: 1\n\n".repeat(300));
    }
}
