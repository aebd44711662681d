//! Servers and clients over loopback sockets, with HTTP/1.1 and HTTP/2.
#![cfg(not(miri))]

use std::{
    convert::Infallible,
    future::IntoFuture,
    io::Read,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    response::sse::{Event, Sse},
    routing::get,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Response, StatusCode, header::CONTENT_LENGTH};
use http_body_util::Channel;
use testkit::{
    exchange::{cancellation_layer, event_stream_response},
    script::{AfterScript, Script, Step, data, trailers},
    server::{VERSIONS, listen, next_data, raw, receive, request, serve, serve_responses},
    wait::{until, within},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_http::compression::{CompressionLayer, predicate::SizeAbove};
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
async fn c1_compression_around_the_layer_compresses_the_close_event() {
    let compression = CompressionLayer::new().compress_when(SizeAbove::new(0));
    let around = ServiceBuilder::new()
        .layer(compression.clone())
        .layer(SseCompletionLayer::new());
    let inside = ServiceBuilder::new()
        .layer(SseCompletionLayer::new())
        .layer(compression);
    let respond = || event_stream_response(Body::from(":\n"));
    for (address, expected) in [
        (
            serve_responses(around, respond).await,
            format!(":\n{CLOSE}"),
        ),
        // An encoded body is forwarded unchanged.
        (serve_responses(inside, respond).await, ":\n".to_owned()),
    ] {
        for version in VERSIONS {
            let response = request(address, version, "GET", "/").await;
            assert_eq!(response.headers()["content-encoding"], "gzip");
            let received = receive(response.into_body()).await;
            let mut text = String::new();
            let mut decoder = flate2::read::GzDecoder::new(&received.bytes[..]);
            decoder.read_to_string(&mut text).expect("valid gzip");
            assert_eq!(text, expected);
        }
    }
}

/// Two events and an error, in one poll of the server.
fn failing() -> Response<Body> {
    let steps = [data("data: 1\n\n"), data("data: 2\n\n"), Step::Error];
    event_stream_response(Body::new(Script::new(steps)))
}

#[tokio::test]
async fn c12_error_truncates_the_response() {
    let address = serve_responses(SseCompletionLayer::new(), failing).await;
    let response = raw(address, "GET / HTTP/1.1").await;
    assert!(!response.ends_with("\r\n0\r\n\r\n"), "{response:?}");
    assert!(!response.contains("close\ndata:"), "{response:?}");
}

#[tokio::test]
async fn c12_close_event_in_place_of_an_error_preserves_earlier_frames() {
    let layer = SseCompletionLayer::new().close_on_failed(true);
    let address = serve_responses(layer, failing).await;
    for version in VERSIONS {
        let body = request(address, version, "GET", "/").await.into_body();
        let text = receive(body).await.text();
        assert_eq!(text, format!("data: 1\n\ndata: 2\n\n{CLOSE}"));
    }
}

#[tokio::test]
async fn upstream_is_dropped_when_its_client_leaves() {
    for version in VERSIONS {
        let upstream = Script::frames(["data: 1\n\n"]).then(AfterScript::Pending);
        let log = upstream.log();
        let respond = once(Body::new(upstream));
        let address = serve_responses(SseCompletionLayer::new(), respond).await;
        let mut body = request(address, version, "GET", "/").await.into_body();
        next_data(&mut body).await;
        assert!(!log.dropped());
        drop(body);
        until(|| log.dropped()).await;
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

#[tokio::test]
async fn c11_last_message_before_the_cancellation_reaches_the_client() {
    for version in VERSIONS {
        let token = CancellationToken::new();
        let (mut sender, channel) = Channel::<Bytes, Infallible>::new(4);
        let respond = once(Body::new(channel));
        let address = serve_responses(cancellation_layer(&token), respond).await;
        let body = request(address, version, "GET", "/").await.into_body();
        let message = Bytes::from_static(b"data: last words\n\n");
        sender.send_data(message).await.expect("the body is there");
        token.cancel();
        let text = receive(body).await.text();
        assert_eq!(text, format!("data: last words\n\n{CLOSE}"));
    }
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

#[tokio::test]
async fn axum_shuts_down_gracefully_with_open_streams() {
    let token = CancellationToken::new();
    let ticks = || async {
        let events = stream::iter(1..=3).map(|number: u32| {
            Ok::<_, Infallible>(Event::default().id(number.to_string()).data("tick"))
        });
        Sse::new(events.chain(stream::pending()))
    };
    let app = Router::new()
        .route("/", get(ticks))
        .layer(cancellation_layer(&token));
    let (listener, address) = listen().await;
    let server = tokio::spawn(
        axum::serve(listener, app)
            .with_graceful_shutdown(token.clone().cancelled_owned())
            .into_future(),
    );

    let mut bodies = Vec::new();
    for version in VERSIONS {
        let mut body = request(address, version, "GET", "/").await.into_body();
        next_data(&mut body).await;
        bodies.push(receive(body));
    }
    token.cancel();
    let served = within(server).await.expect("no panic");
    assert!(served.is_ok(), "the server returns with its streams open");
    for body in bodies {
        let text = body.await.text();
        let expected = format!("id: 3\ndata: tick\n\n{CLOSE}");
        assert!(text.ends_with(&expected), "{text:?}");
    }
}
