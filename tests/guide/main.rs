//! The snippets of the guide, and the claims of `docs/shutdown.md` about servers, over loopback sockets.
//!
//! The servers that end although clients do not read are in `tests/signal`.

use std::{
    convert::Infallible,
    future::IntoFuture,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::get,
};
use futures_util::{StreamExt, stream};
use hyper_util::rt::TokioIo;
use testkit::{
    client::Client,
    listener::serve_axum,
    server::{VERSIONS, Version, listen, next_data, receive, request},
    wait::{until, within},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tower_sse_completion::{Drained, Shutdown, SseCompletionLayer};

mod migrate;
mod recipes;

mod lame_duck {
    include!("snippets/lame_duck.rs");

    pub(crate) fn layer(routes: Router, is_stopping: Arc<AtomicBool>) -> Router {
        close_connections(routes, is_stopping)
    }
}

mod progress {
    include!("snippets/progress.rs");

    pub(crate) async fn run(shutdown: &Shutdown, drain: Drain) -> Drained {
        drain_with_progress(shutdown, drain).await
    }
}

mod hook {
    include!("snippets/hook.rs");

    pub(crate) async fn run(
        listener: TcpListener,
        hooks: TcpListener,
        routes: Router,
    ) -> io::Result<Drained> {
        serve(listener, hooks, routes).await
    }
}

const GUIDE: &str = include_str!("../../docs/shutdown.md");

const CLOSE: &str = "event: close\ndata:\n\n";

/// Longer than a test waits for anything.
const GRACE: Duration = Duration::from_secs(600);

/// A server that stops accepting connections when a drain begins.
#[derive(Default)]
struct Site {
    shutdown: Shutdown,
    /// Requests for `/count`.
    counted: Arc<AtomicUsize>,
}

impl Site {
    /// Returns `/quiet`, a stream of one event that does not end, and `/count`.
    fn routes(&self) -> Router {
        let quiet = async || {
            let hello = Ok::<_, Infallible>(Event::default().data("hello"));
            Sse::new(stream::iter([hello]).chain(stream::pending()))
        };
        let counted = Arc::clone(&self.counted);
        let count = async move || {
            counted.fetch_add(1, Ordering::SeqCst);
            "counted"
        };
        Router::new()
            .route("/quiet", get(quiet))
            .route("/count", get(count))
            .route("/upgrade", get(upgrade))
            .layer(SseCompletionLayer::new().shutdown(&self.shutdown))
    }

    async fn serve(&self) -> (SocketAddr, JoinHandle<()>) {
        serve_axum(self.routes(), self.shutdown.draining(), |socket| socket).await
    }

    /// Serves connections that the drain can cut.
    async fn serve_wrapped(&self) -> (SocketAddr, JoinHandle<()>) {
        let shutdown = self.shutdown.clone();
        let draining = self.shutdown.draining();
        serve_axum(self.routes(), draining, move |socket| {
            shutdown.connection(socket)
        })
        .await
    }

    async fn drain(&self) -> JoinHandle<Drained> {
        let drain = tokio::spawn(self.shutdown.drain(GRACE));
        until(|| self.shutdown.is_draining()).await;
        drain
    }
}

/// Upgrades the connection to a protocol that echoes bytes, as a WebSocket is upgraded.
async fn upgrade(request: Request) -> Response {
    tokio::spawn(async {
        let upgraded = hyper::upgrade::on(request).await.expect("an upgrade");
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        // The drain cuts the connection.
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let headers = [("connection", "upgrade"), ("upgrade", "echo")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Sends a GET request over a connection of HTTP/1.1.
async fn send(socket: &mut TcpStream, path: &str, headers: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.expect("room");
}

/// Connects, and upgrades the connection.
async fn connect_websocket(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    let headers = "connection: upgrade\r\nupgrade: echo\r\n";
    send(&mut socket, "/upgrade", headers).await;
    read_until(&mut socket, "\r\n\r\n").await;
    socket
}

/// Reads until the bytes end with this text, and returns them.
async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let length = within(socket.read_buf(&mut bytes)).await.expect("no error");
        assert!(length > 0, "{}", bytes.escape_ascii());
    }
    String::from_utf8(bytes).expect("text")
}

/// Reads everything until the connection ends.
async fn read_rest(socket: &mut TcpStream) -> String {
    let mut text = String::new();
    let read = within(socket.read_to_string(&mut text)).await;
    read.expect("a clean end");
    text
}

#[tokio::test]
async fn new_request_on_an_open_connection_does_not_reach_a_server_that_drains() {
    let site = Site::default();
    let (address, server) = site.serve().await;
    let connect = async || TcpStream::connect(address).await.expect("a connection");

    let mut idle = connect().await;
    send(&mut idle, "/count", "").await;
    read_until(&mut idle, "counted").await;
    let mut pipelined = [connect().await, connect().await];
    for socket in &mut pipelined {
        send(socket, "/quiet", "").await;
        read_until(socket, "hello\n\n\r\n").await;
    }
    send(&mut pipelined[0], "/count", "").await;
    let mut http2 = Client::connect(address, Version::Http2).await;
    let mut quiet = http2.get("/quiet").await.into_body();
    next_data(&mut quiet).await;

    let drain = site.drain().await;
    assert_eq!(
        read_rest(&mut idle).await,
        "",
        "an idle connection is closed"
    );
    send(&mut pipelined[1], "/count", "").await;
    // A request that is sent before GOAWAY arrives is served.
    within(async { while http2.try_send("GET", "/none", Body::empty()).await.is_ok() {} }).await;
    site.shutdown.close();
    for mut socket in pipelined {
        let text = read_rest(&mut socket).await;
        assert!(text.ends_with(&format!("{CLOSE}\r\n0\r\n\r\n")), "{text:?}");
    }
    assert_eq!(receive(quiet).await.text(), CLOSE);
    within(server).await.expect("no panic");
    assert_eq!(within(drain).await.expect("no panic").ended(), 3);
    assert_eq!(site.counted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn c24_drain_cuts_a_websocket_and_unfinished_requests() {
    let site = Site::default();
    let (address, server) = site.serve_wrapped().await;
    let connect = async || TcpStream::connect(address).await.expect("a connection");

    let mut head = connect().await;
    head.write_all(b"GET / HTTP/1.1\r\nhost:")
        .await
        .expect("room");
    let mut preface = connect().await;
    let without_settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    preface.write_all(without_settings).await.expect("room");
    // The server sends its own settings at once.
    within(preface.read_u8()).await.expect("a byte");
    let mut websocket = connect_websocket(address).await;
    websocket.write_all(b"echo").await.expect("room");
    read_until(&mut websocket, "echo").await;
    assert_eq!(site.shutdown.open_streams(), 0);

    let drained = within(site.shutdown.drain(Duration::ZERO)).await;
    assert_eq!(drained.connections_cut(), 3);
    within(server).await.expect("no panic");
    for mut socket in [head, preface, websocket] {
        // The connection ends, with a reset if bytes of the client are unread.
        let _ = within(socket.read_to_end(&mut Vec::new())).await;
    }
}

#[tokio::test]
async fn server_does_not_wait_for_a_websocket_on_a_plain_connection() {
    let site = Site::default();
    let (address, server) = site.serve().await;
    let mut websocket = connect_websocket(address).await;

    let drained = within(site.shutdown.drain(GRACE)).await;
    assert_eq!((drained.ended(), drained.connections_cut()), (0, 0));
    within(server).await.expect("no panic");
    websocket.write_all(b"echo").await.expect("room");
    read_until(&mut websocket, "echo").await;
}

#[tokio::test]
async fn lame_duck_closes_connections_of_http_1_one_by_one() {
    assert!(GUIDE.contains(include_str!("snippets/lame_duck.rs")));
    let (listener, address) = listen().await;
    let is_stopping = Arc::<AtomicBool>::default();
    let routes = Site::default().routes();
    let app = lame_duck::layer(routes, Arc::clone(&is_stopping));
    let server = tokio::spawn(axum::serve(listener, app).into_future());

    let mut kept = TcpStream::connect(address).await.expect("a connection");
    send(&mut kept, "/count", "").await;
    let response = read_until(&mut kept, "counted").await;
    assert!(!response.contains("connection: close"), "{response}");

    is_stopping.store(true, Ordering::SeqCst);
    send(&mut kept, "/count", "").await;
    let response = read_rest(&mut kept).await;
    assert!(response.contains("connection: close\r\n"), "{response}");
    for version in VERSIONS {
        let response = request(address, version, "GET", "/count").await;
        let closes = response.headers().contains_key("connection");
        assert_eq!(closes, version == Version::Http1);
        assert_eq!(receive(response.into_body()).await.text(), "counted");
    }
    server.abort();
}

#[tokio::test]
async fn progress_returns_the_result_of_the_drain() {
    assert!(GUIDE.contains(include_str!("snippets/progress.rs")));
    let site = Site::default();
    let (address, server) = site.serve().await;
    let mut client = Client::connect(address, Version::Http1).await;
    let mut quiet = client.get("/quiet").await.into_body();
    next_data(&mut quiet).await;

    let drain = site.shutdown.drain(Duration::ZERO);
    let drained = within(progress::run(&site.shutdown, drain)).await;
    assert_eq!(drained.ended(), 1);
    assert_eq!(receive(quiet).await.text(), CLOSE);
    within(server).await.expect("no panic");
}

#[tokio::test]
async fn hook_begins_the_drain() {
    assert!(GUIDE.contains(include_str!("snippets/hook.rs")));
    let (listener, address) = listen().await;
    let (hooks, hook_address) = listen().await;
    let routes = Router::new().route("/", get(async || "hello"));
    let server = tokio::spawn(hook::run(listener, hooks, routes));
    let response = request(address, Version::Http1, "GET", "/").await;
    assert_eq!(receive(response.into_body()).await.text(), "hello");

    let response = request(hook_address, Version::Http1, "GET", "/drain").await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let drained = within(server).await.expect("no panic").expect("a handler");
    assert_eq!(drained.still_open(), 0);
}
