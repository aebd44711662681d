//! Real servers and real clients, over loopback, with HTTP/1.1 and HTTP/2.

use std::{
    convert::Infallible,
    future::{Future, IntoFuture},
    net::SocketAddr,
    pin::Pin,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    response::sse::{Event, Sse},
    routing::get,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, request::Parts};
use http_body_util::{BodyExt, Channel};
use testkit::{
    exchange::event_stream_response,
    script::{AfterScript, Script, Step, data, trailers},
    server::{VERSIONS, raw, receive, request, serve},
};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tower::{Layer, ServiceBuilder, service_fn};
use tower_http::compression::{CompressionLayer, predicate::SizeAbove};
use tower_sse_completion::SseCompletionLayer;

const CLOSE: &str = "event: close\ndata:\n\n";
const LONG: Duration = Duration::from_secs(20);

/// A server whose every answer this makes, behind the layer.
async fn serve_responses<F>(layer: SseCompletionLayer, respond: F) -> SocketAddr
where
    F: Fn() -> Response<Body> + Clone + Send + 'static,
{
    serve(layer.layer(service_fn(move |_: Request<_>| {
        let response = respond();
        async { Ok::<_, Infallible>(response) }
    })))
    .await
}

/// A server of one event stream, as axum makes it, that is cancelled by the token.
async fn serve_until(token: &CancellationToken, frames: &'static [&'static str]) -> SocketAddr {
    let token = token.clone();
    serve(
        SseCompletionLayer::new()
            .cancel_when(move |_: &Parts| token.clone().cancelled_owned())
            .layer(service_fn(move |_: Request<_>| async move {
                let body = Body::new(Script::frames(frames).then(AfterScript::Pending));
                Ok::<_, Infallible>(event_stream_response(body))
            })),
    )
    .await
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("it takes too long")
}

#[tokio::test]
async fn c10_idle_stream_ends_with_the_close_event_when_it_is_cancelled() {
    for version in VERSIONS {
        let token = CancellationToken::new();
        let address = serve_until(&token, &["data: 1\n\n"]).await;
        let mut body = request(address, version, "GET", "/").await.into_body();
        let first = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(first.into_data().expect("data"), "data: 1\n\n");
        token.cancel();
        assert_eq!(within(receive(body)).await.text(), CLOSE);
    }
}

#[tokio::test]
async fn c6_torn_event_never_reaches_the_client() {
    for version in VERSIONS {
        let token = CancellationToken::new();
        let address = serve_until(&token, &["data: 1\n\n", "id: 77\ndata: {\"a\":1"]).await;
        let body = request(address, version, "GET", "/").await.into_body();
        token.cancel();
        let text = within(receive(body)).await.text();
        assert_eq!(text, format!("data: 1\n\n{CLOSE}"));
    }
}

#[tokio::test]
async fn c14_empty_streams_are_closed() {
    let empty: [fn() -> Body; 3] = [
        Body::empty,
        || Body::from_stream(stream::empty::<Result<Bytes, Infallible>>()),
        || Body::from(":\n"),
    ];
    for body in empty {
        let address = serve_responses(SseCompletionLayer::new(), move || {
            event_stream_response(body())
        })
        .await;
        for version in VERSIONS {
            let response = request(address, version, "GET", "/").await;
            assert_eq!(response.headers().get("content-length"), None);
            let text = within(receive(response.into_body())).await.text();
            assert_eq!(text.trim_start_matches(":\n"), CLOSE);
        }
    }
}

#[tokio::test]
async fn c3_content_length_of_the_handler_does_not_cut_the_close_event_off() {
    let address = serve_responses(SseCompletionLayer::new(), || {
        let mut response = event_stream_response(Body::from(":\n"));
        let length = http::HeaderValue::from_static("2");
        response.headers_mut().insert("content-length", length);
        response
    })
    .await;
    for version in VERSIONS {
        let body = request(address, version, "GET", "/").await.into_body();
        let text = within(receive(body)).await.text();
        assert_eq!(text, format!(":\n{CLOSE}"));
    }
}

#[tokio::test]
async fn c3_content_length_that_axum_sets_does_not_cut_the_close_event_off() {
    let handler = || async { ([("content-type", "text/event-stream")], ":\n") };
    let app = Router::new()
        .route("/", get(handler))
        .layer(SseCompletionLayer::new());
    let address = serve(app).await;
    for version in VERSIONS {
        let body = request(address, version, "GET", "/").await.into_body();
        let text = within(receive(body)).await.text();
        assert_eq!(text, format!(":\n{CLOSE}"));
    }
}

#[tokio::test]
async fn c13_trailers_arrive_behind_the_close_event() {
    let address = serve_responses(SseCompletionLayer::new(), || {
        let mut response =
            event_stream_response(Body::new(Script::new([data(":\n"), Step::Trailers])));
        let names = http::HeaderValue::from_static("x-checksum");
        response.headers_mut().insert("trailer", names);
        response
    })
    .await;
    for version in VERSIONS {
        let body = request(address, version, "GET", "/").await.into_body();
        let received = within(receive(body)).await;
        assert_eq!(received.trailers, Some(trailers()), "{version:?}");
        assert_eq!(received.text(), format!(":\n{CLOSE}"));
    }
}

#[tokio::test]
async fn c1_head_of_an_endless_stream_is_answered_at_once() {
    // axum drops the body, because hyper sends it over HTTP/2.
    let endless =
        || async { event_stream_response(Body::new(Script::new([]).then(AfterScript::Pending))) };
    let app = Router::new()
        .route("/", get(endless))
        .layer(SseCompletionLayer::new());
    let address = serve(app).await;
    for version in VERSIONS {
        let response = within(request(address, version, "HEAD", "/")).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(within(receive(response.into_body())).await.text(), "");
    }
}

#[tokio::test]
async fn c1_answer_without_a_body_stays_without_one() {
    let address = serve_responses(SseCompletionLayer::new(), || {
        let mut response = event_stream_response(Body::empty());
        *response.status_mut() = http::StatusCode::NO_CONTENT;
        response
    })
    .await;
    for version in VERSIONS {
        let body = request(address, version, "GET", "/").await.into_body();
        assert_eq!(within(receive(body)).await.text(), "");
    }
}

#[tokio::test]
async fn c2_other_response_keeps_its_exact_length() {
    let address = serve_responses(SseCompletionLayer::new(), || {
        Response::new(Body::from("{\"a\":1}"))
    })
    .await;
    for version in VERSIONS {
        let response = request(address, version, "GET", "/").await;
        assert_eq!(response.headers()["content-length"], "7");
        let text = within(receive(response.into_body())).await.text();
        assert_eq!(text, "{\"a\":1}");
    }
}

#[tokio::test]
async fn c1_compression_outside_of_the_layer_compresses_the_close_event() {
    let compression = CompressionLayer::new().compress_when(SizeAbove::new(0));
    let respond = service_fn(|_: Request<_>| async {
        Ok::<_, Infallible>(event_stream_response(Body::from(":\n")))
    });
    let outside = ServiceBuilder::new()
        .layer(compression.clone())
        .layer(SseCompletionLayer::new())
        .service(respond);
    let inside = ServiceBuilder::new()
        .layer(SseCompletionLayer::new())
        .layer(compression)
        .service(respond);
    let expected = [
        (serve(outside).await, format!(":\n{CLOSE}")),
        (serve(inside).await, ":\n".to_owned()),
    ];
    for (address, expected) in expected {
        for version in VERSIONS {
            let response = request(address, version, "GET", "/").await;
            assert_eq!(response.headers()["content-encoding"], "gzip");
            let received = within(receive(response.into_body())).await;
            let mut text = String::new();
            let mut decoder = flate2::read::GzDecoder::new(&received.bytes[..]);
            std::io::Read::read_to_string(&mut decoder, &mut text).expect("valid gzip");
            assert_eq!(text, expected, "an encoded body is not touched");
        }
    }
}

/// Two events and an error, in one poll.
fn failing() -> Response<Body> {
    let steps = [data("data: 1\n\n"), data("data: 2\n\n"), Step::Error];
    event_stream_response(Body::new(Script::new(steps)))
}

#[tokio::test]
async fn c12_error_cuts_the_stream() {
    let address = serve_responses(SseCompletionLayer::new(), failing).await;
    let answer = within(raw(address, "GET / HTTP/1.1")).await;
    assert!(
        !answer.ends_with("\r\n0\r\n\r\n"),
        "no clean end: {answer:?}"
    );
    assert!(
        !answer.contains("close\ndata:"),
        "no close event: {answer:?}"
    );
}

#[tokio::test]
async fn c12_close_event_in_place_of_an_error_saves_the_frames_before_it() {
    let layer = SseCompletionLayer::new().close_on_failed(true);
    let address = serve_responses(layer, failing).await;
    for version in VERSIONS {
        let body = request(address, version, "GET", "/").await.into_body();
        let text = within(receive(body)).await.text();
        assert_eq!(text, format!("data: 1\n\ndata: 2\n\n{CLOSE}"));
    }
}

#[tokio::test]
async fn client_that_leaves_drops_the_upstream() {
    for version in VERSIONS {
        let upstream = Script::frames(["data: 1\n\n"]).then(AfterScript::Pending);
        let log = upstream.log();
        let body = std::sync::Arc::new(std::sync::Mutex::new(Some(Body::new(upstream))));
        let address = serve_responses(SseCompletionLayer::new(), move || {
            let body = body.lock().expect("no panic").take();
            event_stream_response(body.unwrap_or_default())
        })
        .await;
        let mut body = request(address, version, "GET", "/").await.into_body();
        body.frame().await.expect("a frame").expect("no error");
        assert!(!log.dropped());
        drop(body);
        within(async {
            while !log.dropped() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn http_1_1_client_sees_the_close_event_and_the_last_chunk() {
    let address = serve_responses(SseCompletionLayer::new(), || {
        event_stream_response(Body::empty())
    })
    .await;
    let answer = within(raw(address, "GET / HTTP/1.1")).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert_eq!(body, format!("14\r\n{CLOSE}\r\n0\r\n\r\n"));
}

#[tokio::test]
async fn http_1_0_client_sees_the_close_event_and_the_end_of_the_connection() {
    let address = serve_responses(SseCompletionLayer::new(), || {
        event_stream_response(Body::empty())
    })
    .await;
    let answer = within(raw(address, "GET / HTTP/1.0")).await;
    assert!(answer.ends_with(&format!("\r\n\r\n{CLOSE}")), "{answer:?}");
}

/// Sends frames into a body from outside.
#[tokio::test]
async fn c11_last_message_before_the_cancellation_reaches_the_client() {
    for version in VERSIONS {
        let token = CancellationToken::new();
        let (mut sender, channel) = Channel::<Bytes, Infallible>::new(4);
        let channel = std::sync::Arc::new(std::sync::Mutex::new(Some(channel)));
        let cancel = token.clone();
        let layer = SseCompletionLayer::new()
            .cancel_when(move |_: &Parts| cancel.clone().cancelled_owned());
        let address = serve(layer.layer(service_fn(move |_: Request<_>| {
            let channel = channel.lock().expect("no panic").take();
            async {
                Ok::<_, Infallible>(event_stream_response(
                    channel.map(Body::new).unwrap_or_default(),
                ))
            }
        })))
        .await;
        let body = request(address, version, "GET", "/").await.into_body();
        let message = Bytes::from_static(b"data: last words\n\n");
        sender.send_data(message).await.expect("the body is there");
        token.cancel();
        let text = within(receive(body)).await.text();
        assert_eq!(text, format!("data: last words\n\n{CLOSE}"));
    }
}

/// The replay spends tokio's cooperative budget of the connection's task, more than once.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn c19_keep_alive_comes_behind_a_long_replay()
-> Result<(), tower_sse_completion::InvalidDeadline> {
    for version in VERSIONS {
        let layer = SseCompletionLayer::new().keep_alive(Duration::from_millis(50))?;
        let address = serve_responses(layer, || {
            let (sender, receiver) = tokio::sync::mpsc::channel(300);
            for _ in 0..300 {
                let event = Bytes::from("data: 1\n\n");
                sender.try_send(Ok::<_, Infallible>(event)).expect("room");
            }
            // Open for as long as the stream is, and silent.
            let events = tokio_stream::wrappers::ReceiverStream::new(receiver).map(move |event| {
                let _sender = &sender;
                event
            });
            event_stream_response(Body::from_stream(events))
        })
        .await;
        let mut body = request(address, version, "GET", "/").await.into_body();
        let mut text = String::new();
        let mut events = 0;
        // A machine that is busy may send one before, too.
        while events < 300 || !text.ends_with("\n\n:\n") {
            let frame = within(body.frame()).await.expect("a frame");
            let data = frame.expect("no error").into_data().expect("data");
            text += std::str::from_utf8(&data).expect("text");
            events = text.matches("data: 1\n\n").count();
        }
        assert_eq!(text.replace(":\n", ""), "data: 1\n\n".repeat(300));
    }
    Ok(())
}

#[tokio::test]
async fn axum_shuts_down_gracefully_with_open_streams() {
    let shutdown = CancellationToken::new();
    let cancel = shutdown.clone();
    let ticks = || async {
        let events = stream::iter(1..).then(|number: u32| async move {
            if number > 3 {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Event::default().id(number.to_string()).data("tick"))
        });
        Sse::new(events)
    };
    let app = Router::new().route("/", get(ticks)).layer(
        SseCompletionLayer::new().cancel_when(move |_: &Parts| cancel.clone().cancelled_owned()),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = tokio::spawn(
        axum::serve(listener, app)
            .with_graceful_shutdown(shutdown.clone().cancelled_owned())
            .into_future(),
    );

    let mut bodies: Vec<Pin<Box<_>>> = Vec::new();
    for version in VERSIONS {
        let mut body = request(address, version, "GET", "/").await.into_body();
        body.frame().await.expect("a frame").expect("no error");
        bodies.push(Box::pin(receive(body)));
    }
    shutdown.cancel();
    let served = within(server).await.expect("no panic");
    assert!(served.is_ok(), "the server returns with its streams open");
    for body in bodies {
        let text = within(body).await.text();
        assert!(
            text.ends_with(&format!("id: 3\ndata: tick\n\n{CLOSE}")),
            "{text:?}"
        );
    }
}
