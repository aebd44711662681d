//! The tonic example: gRPC and event streams on one port.

#[path = "../../examples/tonic.rs"]
#[allow(dead_code, reason = "main is not called")]
mod example;

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use testkit::{
    server::{VERSIONS, Version, listen, send, serve},
    wait::within,
};
use tonic::{Code, transport::Endpoint};
use tonic_health::{
    ServingStatus::{NotServing, Serving},
    pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
    server::{HealthReporter, health_reporter},
};
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};

use super::{assert_closed, open};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Messages on the wire: a flag for compression, a length, and the bytes.
const SERVER_REQUEST: &[u8] = b"\0\0\0\0\0";
const UNKNOWN_SERVICE_REQUEST: &[u8] = b"\0\0\0\0\x06\x0a\x04none";
const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";
const NOT_SERVING: &[u8] = b"\0\0\0\0\x02\x08\x02";

/// All parts of a response that a client receives.
#[derive(Debug, PartialEq)]
struct Received {
    status: u16,
    headers: HeaderMap,
    ends_with_headers: bool,
    messages: Vec<Bytes>,
    trailers: Option<HeaderMap>,
}

/// Serves the same service without the layer, and with a layer that closes every stream that it can.
async fn start_servers() -> [(SocketAddr, HealthReporter); 2] {
    let closed = Shutdown::new();
    closed.close_with(CloseEvent::new().data("this must not be seen"));
    let layer = SseCompletionLayer::new()
        .shutdown(&closed)
        .close_on_completed(true)
        .close_on_failed(true);
    let (without, service) = health_reporter();
    let without = (serve(example::routes(service)).await, without);
    let (with, service) = health_reporter();
    let app = example::routes(service).layer(layer);
    [without, (serve(app).await, with)]
}

async fn call(address: SocketAddr, path: &str, message: &'static [u8]) -> Response<Incoming> {
    let request = Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::<Bytes>::from(message))
        .expect("a valid request");
    send(Version::Http2, request).await
}

/// Reads a call to its end. `after_message` runs after each message, so that each message is one frame.
async fn read(response: Response<Incoming>, mut after_message: impl AsyncFnMut(usize)) -> Received {
    let (mut head, mut body) = response.into_parts();
    head.headers.remove("date");
    let mut received = Received {
        status: head.status.as_u16(),
        headers: head.headers,
        ends_with_headers: body.is_end_stream(),
        messages: Vec::new(),
        trailers: None,
    };
    while let Some(frame) = within(body.frame()).await {
        match frame.expect("no error").into_data() {
            Ok(message) => {
                received.messages.push(message);
                after_message(received.messages.len()).await;
            }
            Err(frame) => received.trailers = frame.into_trailers().ok(),
        }
    }
    received
}

fn grpc_status(headers: &HeaderMap) -> Option<&str> {
    headers.get("grpc-status")?.to_str().ok()
}

#[tokio::test]
async fn c2_unary_call_is_the_same_with_the_layer() {
    let [(without, _), (with, _)] = start_servers().await;
    for (path, message, code) in [
        (CHECK, SERVER_REQUEST, Code::Ok),
        (CHECK, UNKNOWN_SERVICE_REQUEST, Code::NotFound),
        (WATCH, UNKNOWN_SERVICE_REQUEST, Code::NotFound),
        ("/none.None/None", SERVER_REQUEST, Code::Unimplemented),
    ] {
        let receive = async |address| read(call(address, path, message).await, async |_| {}).await;
        let (without, with) = (receive(without).await, receive(with).await);
        assert_eq!(without, with);

        assert_eq!(with.status, 200);
        let is_ok = code == Code::Ok;
        assert_eq!(with.ends_with_headers, !is_ok, "{path}");
        assert_eq!(with.messages, vec![SERVING; usize::from(is_ok)], "{path}");
        let statuses = if is_ok {
            with.trailers.as_ref()
        } else {
            Some(&with.headers)
        };
        let code = (code as i32).to_string();
        assert_eq!(
            statuses.and_then(grpc_status),
            Some(code.as_str()),
            "{path}"
        );
    }
}

#[tokio::test]
async fn c2_streaming_call_is_the_same_with_the_layer() {
    let calls = start_servers().await.map(async |(address, mut reporter)| {
        let response = call(address, WATCH, SERVER_REQUEST).await;
        read(response, async |messages| match messages {
            1 => reporter.set_service_status("", NotServing).await,
            2 => reporter.set_service_status("", Serving).await,
            _ => reporter.clear_service_status("").await,
        })
        .await
    });
    let [without, with] = calls;
    let (without, with) = (without.await, with.await);
    assert_eq!(without, with);

    assert_eq!(with.messages, [SERVING, NOT_SERVING, SERVING]);
    assert_eq!(grpc_status(&with.trailers.expect("trailers")), Some("0"));
}

#[tokio::test]
async fn shutdown_closes_event_streams_and_ends_calls_on_the_same_port() {
    let (listener, address) = listen().await;
    let shutdown = Shutdown::new();
    let server = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { example::serve(listener, &shutdown).await }
    });

    let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let mut client = HealthClient::new(channel.connect().await.expect("a connection"));
    let server_request = HealthCheckRequest::default();
    let health = client.check(server_request.clone()).await;
    let health = health.expect("a health").into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    let unknown = HealthCheckRequest {
        service: "none".to_owned(),
    };
    let unknown = client.check(unknown).await.expect_err("an error");
    assert_eq!(unknown.code(), Code::NotFound);
    let watch = client.watch(server_request).await;
    let mut watch = watch.expect("a watch").into_inner();
    let first = within(watch.message()).await.expect("no error");
    assert_eq!(first.expect("a message").status(), ServingStatus::Serving);
    let mut streams = Vec::new();
    for version in VERSIONS {
        let (first, body) = open(address, version, "GET", "/events").await;
        assert_eq!(first, "data: 1\n\n");
        streams.push(body);
    }

    shutdown.close();
    for body in streams {
        assert_closed(body).await;
    }
    let last = within(watch.message()).await.expect("no error");
    assert_eq!(last.expect("a message").status(), ServingStatus::NotServing);
    assert_eq!(within(watch.message()).await.expect("no error"), None);
    let served = within(server).await.expect("no panic");
    served.expect("a clean end");
}
