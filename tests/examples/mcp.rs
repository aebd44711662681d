//! The MCP example: how its streams end when the server shuts down, for clients of the revision 2026-07-28, rmcp's own
//! client among them, and for older ones.

#[path = "../../examples/mcp.rs"]
#[allow(dead_code, reason = "main is not called")]
mod example;

use std::{net::SocketAddr, time::Duration};

use axum::Router;
use bytes::Bytes;
use example::{EndedBy, Tools};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use rmcp::{
    ClientHandler, ClientLifecycleMode, ClientServiceExt, RoleClient, ServiceError,
    model::{
        CallToolRequestParams, ProgressNotificationParam, ProtocolVersion, SubscriptionFilter,
    },
    service::{NotificationContext, RunningService, Subscription, SubscriptionEnd},
    transport::{StreamableHttpClientTransport, StreamableHttpService},
};
use testkit::{
    decoder::decode,
    server::{Version, listen, next_data, receive, send},
    wait::within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, oneshot},
    task::JoinHandle,
};
use tower_sse_completion::{Shutdown, SseCompletionLayer};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25",
    "capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const COUNT: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"count","arguments":{"to":4},
    "_meta":{"progressToken":2}}}"#;

const NEWEST: [(&str, &str); 2] = [
    ("mcp-protocol-version", "2026-07-28"),
    ("mcp-method", "subscriptions/listen"),
];
const LISTEN: &str = r#"{"jsonrpc":"2.0","id":"one","method":"subscriptions/listen","params":{
    "notifications":{"toolsListChanged":true},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",
    "io.modelcontextprotocol/clientCapabilities":{}}}}"#;

/// A server with a session, a GET that subscribes to the session, and a POST whose response has begun.
struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    running: Running,
    session: String,
    get: Incoming,
    post: Incoming,
}

impl Server {
    async fn start() -> Self {
        let (address, stop, running) = serve(EndedBy::Layer).await;
        let response = call(address, "POST", &[], INITIALIZE).await;
        let session = response.headers()["mcp-session-id"].to_str().expect("text");
        let session = session.to_owned();
        assert!(text(response.into_body()).await.contains("serverInfo"));
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

type Running = JoinHandle<Result<(), String>>;

async fn serve(ended_by: EndedBy) -> (SocketAddr, oneshot::Sender<()>, Running) {
    serve_with_grace(ended_by, Duration::from_secs(10)).await
}

async fn serve_with_grace(
    ended_by: EndedBy,
    grace: Duration,
) -> (SocketAddr, oneshot::Sender<()>, Running) {
    let (listener, address) = listen().await;
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(async move {
        let served = example::serve(listener, ended_by, stopped, grace).await;
        served.map_err(|error| error.to_string())
    });
    (address, stop, running)
}

/// The handler of rmcp's client, which signals progress.
#[derive(Default)]
struct Notified {
    progress: Notify,
}

impl ClientHandler for Notified {
    async fn on_progress(
        &self,
        _params: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.progress.notify_one();
    }
}

type Client = RunningService<RoleClient, Notified>;

/// Connects rmcp's client, which negotiates the revision 2026-07-28.
async fn connect(address: SocketAddr) -> Client {
    let transport = StreamableHttpClientTransport::from_uri(format!("http://{address}/mcp"));
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    let lifecycle = ClientLifecycleMode::Discover { preferred_versions };
    let client = Notified::default().serve_with_lifecycle(transport, lifecycle);
    within(client).await.expect("a connection")
}

async fn subscribe(client: &Client) -> Subscription {
    let filter = SubscriptionFilter::builder().tools_list_changed().build();
    let subscription = within(client.listen(filter.clone())).await;
    let subscription = subscription.expect("a subscription");
    assert_eq!(subscription.acknowledged(), &filter);
    subscription
}

/// Returns the end of the subscription. Panics if a notification precedes the end.
async fn receive_end(mut subscription: Subscription) -> SubscriptionEnd {
    let next = within(subscription.next()).await.expect("no failure");
    assert!(next.is_none(), "{next:?}");
    subscription.end().expect("an end").clone()
}

/// Starts a call of the tool, and returns once the call has made progress.
async fn count(client: &Client) -> JoinHandle<Result<String, ServiceError>> {
    let peer = client.peer().clone();
    let arguments = rmcp::model::object(rmcp::serde_json::json!({ "to": 4 }));
    let call = CallToolRequestParams::new("count").with_arguments(arguments);
    let counting = tokio::spawn(async move {
        let result = within(peer.call_tool(call)).await?;
        let content = result.content.first().and_then(|content| content.as_text());
        Ok(content.expect("text").text.clone())
    });
    within(client.service().progress.notified()).await;
    counting
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

async fn assert_returns(server: Running) {
    let served = within(server).await.expect("no panic");
    assert_eq!(served, Ok(()));
}

#[tokio::test]
async fn subscription_ends_at_once_and_call_in_progress_has_its_result() {
    let server = Server::start().await;
    let response = tokio::spawn(text(server.post));
    server.stop.send(()).expect("the server runs");

    assert_closed(&text(server.get).await);
    assert!(!response.is_finished(), "the tool still counts");
    let response = response.await.expect("no panic");
    assert!(response.contains("counted to 4"), "{response}");
    assert!(!response.contains("event: close"), "{response}");
    assert_returns(server.running).await;
}

#[tokio::test]
async fn response_that_a_get_resumes_has_its_result() {
    let server = Server::start().await;
    drop(server.post);
    let headers = [
        ("mcp-session-id", server.session.as_str()),
        ("last-event-id", "0/0"),
    ];
    let resumed = call(server.address, "GET", &headers, "").await.into_body();
    server.stop.send(()).expect("the server runs");

    assert_closed(&text(server.get).await);
    let response = text(resumed).await;
    assert!(response.contains("counted to 4"), "{response}");
    assert_returns(server.running).await;
}

#[tokio::test]
async fn subscription_by_post_ends_with_its_result_and_without_a_close_event() {
    let (address, stop, running) = serve(EndedBy::Layer).await;
    let mut subscription = call(address, "POST", &NEWEST, LISTEN).await.into_body();
    let first = next_data(&mut subscription).await;
    let first = String::from_utf8_lossy(&first);
    assert!(first.contains("subscriptions/acknowledged"), "{first}");
    stop.send(()).expect("the server runs");

    let text = text(subscription).await;
    let decoded = decode(text.as_bytes());
    let [result] = decoded.events.as_slice() else {
        panic!("a single event: {text}");
    };
    assert_eq!(result.event_type, "message");
    assert!(result.data.contains(r#""id":"one","result":{"#), "{text}");
    assert!(result.data.contains(r#""resultType":"complete""#), "{text}");
    assert_returns(running).await;
}

#[tokio::test]
async fn client_of_rmcp_has_a_graceful_end_and_its_result_with_the_layer_and_neither_with_a_token()
{
    for ended_by in [EndedBy::Layer, EndedBy::Token] {
        let (address, stop, running) = serve(ended_by).await;
        let client = connect(address).await;
        let subscription = subscribe(&client).await;
        let counting = count(&client).await;
        stop.send(()).expect("the server runs");

        let end = receive_end(subscription).await;
        if ended_by == EndedBy::Layer {
            assert!(matches!(end, SubscriptionEnd::Graceful(_)), "{end:?}");
            assert!(!counting.is_finished(), "the tool still counts");
            let counted = counting.await.expect("no panic");
            assert_eq!(counted.expect("a result"), "counted to 4");
        } else {
            assert_eq!(end, SubscriptionEnd::Abrupt);
            let counted = counting.await.expect("no panic");
            counted.expect_err("the result is lost");
        }
        assert_returns(running).await;
    }
}

#[tokio::test]
async fn call_that_outlasts_the_grace_period_fails_when_its_stream_ends() {
    let (address, stop, running) = serve_with_grace(EndedBy::Layer, Duration::ZERO).await;
    let client = connect(address).await;
    let counting = count(&client).await;
    stop.send(()).expect("the server runs");

    let counted = counting.await.expect("no panic");
    counted.expect_err("the result comes too late");
    assert_returns(running).await;
}

#[tokio::test]
async fn call_without_a_first_message_is_cut_after_the_grace_period() {
    let (address, stop, running) = serve_with_grace(EndedBy::Layer, Duration::ZERO).await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"count","arguments":{"to":100},
        "_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",
        "io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    let length = body.len();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\naccept: application/json, text/event-stream\r\n\
        content-type: application/json\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\n\
        mcp-name: count\r\ncontent-length: {length}\r\n\r\n"
    );
    let mut caller = TcpStream::connect(address).await.expect("a connection");
    caller.write_all(head.as_bytes()).await.expect("a head");
    caller.write_all(body.as_bytes()).await.expect("a body");
    // The server accepts the caller before this client.
    connect(address).await;
    stop.send(()).expect("the server runs");

    let mut response = Vec::new();
    // The cut may be a reset.
    let _ = within(caller.read_to_end(&mut response)).await;
    assert_eq!(String::from_utf8_lossy(&response), "");
    assert_returns(running).await;
}

/// The tasks of the handler and of the response are woken at the same time. On one thread the response is polled first,
/// because the result has to pass through a task of rmcp.
#[tokio::test]
async fn layer_that_ends_subscriptions_by_post_loses_their_results() {
    let shutdown = Shutdown::new();
    let tools = Tools {
        shutdown: shutdown.clone(),
    };
    let service: example::Mcp = StreamableHttpService::new(
        move || Ok(tools.clone()),
        Default::default(),
        Default::default(),
    );
    let layer = SseCompletionLayer::new().shutdown(&shutdown);
    let app = Router::new()
        .route_service("/mcp", service)
        .layer(layer.end_on_drain(|_| true));
    let (listener, address) = listen().await;
    let draining = shutdown.draining();
    let server = axum::serve(listener, app).with_graceful_shutdown(draining);
    let running = tokio::spawn(async move { server.await.map_err(|error| error.to_string()) });

    let client = connect(address).await;
    let subscription = subscribe(&client).await;
    let response = call(address, "POST", &NEWEST, LISTEN).await;
    let wire = tokio::spawn(text(response.into_body()));
    within(shutdown.drain(Duration::from_secs(60))).await;

    assert_eq!(receive_end(subscription).await, SubscriptionEnd::Abrupt);
    let wire = wire.await.expect("no panic");
    assert!(wire.ends_with("event: close\ndata:\n\n"), "{wire}");
    assert!(!wire.contains("result"), "{wire}");
    assert_returns(running).await;
}
