//! The MCP example: how its streams end when the server shuts down.

#[path = "../../examples/mcp.rs"]
#[allow(dead_code, reason = "main is not called")]
mod example;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use example::EndedBy;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use testkit::{
    decoder::decode,
    server::{Version, listen, next_data, receive, send},
    wait::within,
};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

/// Far longer than the end of a stream takes.
const FOR_A_WHILE: Duration = Duration::from_secs(3);

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25",
    "capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const COUNT: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"count","arguments":{"to":4},
    "_meta":{"progressToken":2}}}"#;

/// A server with a session, a GET that subscribes to the session, and a POST whose answer has begun.
struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), String>>,
    session: String,
    get: Incoming,
    post: Incoming,
}

impl Server {
    async fn start(ended_by: EndedBy) -> Self {
        let (listener, address) = listen().await;
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let served = example::serve(listener, ended_by, stopped).await;
            served.map_err(|error| error.to_string())
        });

        let answer = call(address, "POST", &[], INITIALIZE).await;
        let session = answer.headers()["mcp-session-id"].to_str().expect("text");
        let session = session.to_owned();
        assert!(text(answer.into_body()).await.contains("serverInfo"));
        let headers = [("mcp-session-id", session.as_str())];
        call(address, "POST", &headers, INITIALIZED).await;
        let mut get = call(address, "GET", &headers, "").await.into_body();
        let mut post = call(address, "POST", &headers, COUNT).await.into_body();
        for stream in [&mut get, &mut post] {
            let first = next_data(stream).await;
            assert!(String::from_utf8_lossy(&first).contains("retry: 3000"));
        }
        Self {
            address,
            stop,
            running,
            session,
            get,
            post,
        }
    }
}

async fn call(
    address: SocketAddr,
    method: &str,
    headers: &[(&str, &str)],
    body: &'static str,
) -> Response<Incoming> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://{address}/mcp"))
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from_static(body.as_bytes())));
    let response = send(Version::Http1, request.expect("a valid request")).await;
    assert!(response.status().is_success(), "{response:?}");
    response
}

async fn text(body: Incoming) -> String {
    receive(body).await.text()
}

/// Asserts that the last event is the close event, with the reconnection time of the example.
#[track_caller]
fn assert_closed(text: &str) {
    let decoded = decode(text.as_bytes());
    let last = decoded.events.last().expect("an event");
    assert_eq!(
        (last.event_type.as_str(), last.data.as_str()),
        ("close", "")
    );
    let retry = decoded.retry.expect("a reconnection time");
    assert!((500..=2000).contains(&retry.as_millis()), "{retry:?}");
}

async fn assert_returns(server: JoinHandle<Result<(), String>>) {
    let served = within(server).await.expect("no panic");
    assert_eq!(served, Ok(()));
}

#[tokio::test]
async fn subscription_ends_at_once_and_answer_in_progress_has_its_result() {
    let server = Server::start(EndedBy::Layer).await;
    let answer = tokio::spawn(text(server.post));
    server.stop.send(()).expect("the server runs");

    assert_closed(&text(server.get).await);
    assert!(!answer.is_finished(), "the tool still counts");
    let answer = answer.await.expect("no panic");
    assert!(answer.contains("counted to 4"), "{answer}");
    assert!(!answer.contains("event: close"), "{answer}");
    assert_returns(server.running).await;
}

#[tokio::test]
async fn without_the_layer_the_subscription_keeps_the_server_from_ending() {
    let server = Server::start(EndedBy::Nothing).await;
    server.stop.send(()).expect("the server runs");

    let answer = text(server.post).await;
    assert!(answer.contains("counted to 4"), "{answer}");
    let mut get = server.get;
    let more = timeout(FOR_A_WHILE, get.frame()).await;
    assert!(more.is_err(), "the stream is still open, got {more:?}");
    assert!(!server.running.is_finished());
    drop(get);
    assert_returns(server.running).await;
}

#[tokio::test]
async fn token_of_rmcp_ends_every_stream_and_loses_the_result() {
    let server = Server::start(EndedBy::Token).await;
    server.stop.send(()).expect("the server runs");

    let (get, answer) = (text(server.get).await, text(server.post).await);
    assert_eq!(get, "", "the subscription ends without a close event");
    assert!(!answer.contains("counted to 4"), "{answer}");
    assert!(!answer.contains("event: close"), "{answer}");
    assert_returns(server.running).await;
}

#[tokio::test]
async fn answer_that_is_resumed_by_a_get_has_its_result_too() {
    let server = Server::start(EndedBy::Layer).await;
    drop(server.post);
    let headers = [
        ("mcp-session-id", server.session.as_str()),
        ("last-event-id", "0/0"),
    ];
    let resumed = call(server.address, "GET", &headers, "").await.into_body();
    server.stop.send(()).expect("the server runs");

    assert_closed(&text(server.get).await);
    let answer = text(resumed).await;
    assert!(answer.contains("counted to 4"), "{answer}");
    assert_returns(server.running).await;
}
