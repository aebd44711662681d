//! The server, the requests and the assertions that the tests share. The examples and the axum app serve streams of ticks.

use std::{convert::Infallible, io, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    http::header::{CONTENT_TYPE, HeaderName},
    routing::get,
};
use futures_util::StreamExt;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use testkit::{
    server::{Version, listen, next_data, receive, request},
    wait::within,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::oneshot,
    task::JoinHandle,
};
use tower_sse_completion::{Shutdown, SseCompletionLayer};

pub const CLOSE: &str = "event: close\ndata:\n\n";

/// An example that serves until it receives a signal.
pub struct Server {
    pub address: SocketAddr,
    shutdown: Shutdown,
    signal: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Starts an example, which receives its listener, its shutdown and its signal.
    pub async fn start<F>(
        example: impl FnOnce(TcpListener, Shutdown, oneshot::Receiver<()>) -> F,
    ) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let (listener, address) = listen().await;
        let (signal, signalled) = oneshot::channel();
        let shutdown = Shutdown::new();
        Self {
            address,
            task: tokio::spawn(example(listener, shutdown.clone(), signalled)),
            shutdown,
            signal,
        }
    }

    /// Asserts that an empty stream is closed, and that an open stream and the server end after the signal.
    pub async fn assert_closes_and_ends(self) {
        assert_empty_is_closed(self.address).await;
        let stream = open(self.address, "/events").await;
        assert_eq!(self.shutdown.open_streams(), 1);
        self.signal
            .send(())
            .expect("the server waits for the signal");
        assert_closed(stream, CLOSE).await;
        within(self.task)
            .await
            .expect("no panic")
            .expect("no error");
        assert_eq!(self.shutdown.open_streams(), 0);
    }
}

/// Sends a request for a stream of ticks to an example, receives the first tick, and returns the rest of the body.
pub async fn open(address: SocketAddr, path: &str) -> Incoming {
    receive_first(get_chunked(address, path).await).await
}

/// Asserts that the rest of a stream is more ticks and then this close event.
pub async fn assert_closed(body: Incoming, close_event: &str) {
    assert_rest(&within(receive(body)).await.text(), close_event);
}

/// Asserts that a stream without events consists of the close event.
pub async fn assert_empty_is_closed(address: SocketAddr) {
    let body = get_chunked(address, "/empty").await.into_body();
    assert_eq!(within(receive(body)).await.text(), CLOSE);
}

/// Sends a request to an example. The response is chunked, so that a client can tell a clean end.
async fn get_chunked(address: SocketAddr, path: &str) -> Response<Incoming> {
    let response = request(address, Version::Http1, "GET", path).await;
    assert_eq!(response.headers()["transfer-encoding"], "chunked");
    response
}

/// Receives the first tick of a response, and returns the rest of the body.
async fn receive_first(response: Response<Incoming>) -> Incoming {
    let content_type = response.headers()["content-type"].as_bytes();
    assert!(content_type.starts_with(b"text/event-stream"));
    let mut body = response.into_body();
    let first = next_data(&mut body).await;
    assert!(first.ends_with(b"\n\n"), "{first:?}");
    assert_ticks(1, std::str::from_utf8(&first).expect("text"));
    body
}

/// Asserts that the rest of a stream is consecutive ticks from the second, and then this close event.
#[track_caller]
pub fn assert_rest(rest: &str, close_event: &str) {
    let ticks = rest.strip_suffix(close_event);
    assert_ticks(2, ticks.unwrap_or_else(|| panic!("not closed: {rest:?}")));
}

/// Asserts that the text is consecutive ticks, and that the first tick has this number. The order of an event's fields and the
/// space after a colon depend on the framework.
#[track_caller]
fn assert_ticks(first: usize, ticks: &str) {
    let ticks = ticks.replace(": ", ":");
    let events = ticks.split_terminator("\n\n").map(|event| {
        let mut fields: Vec<_> = event.split('\n').collect();
        fields.sort_unstable();
        fields.join("\n")
    });
    for (number, event) in (first..).zip(events) {
        assert_eq!(event, format!("data:tick\nid:{number}"));
    }
}

/// Returns an axum app with the routes of the examples.
pub fn app(shutdown: &Shutdown) -> Router {
    const HEADERS: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "text/event-stream")];
    let events = async || {
        let ticks = frameworks::ticks::<Infallible>();
        (HEADERS, Body::from_stream(ticks))
    };
    let empty = async || {
        let none = frameworks::ticks::<Infallible>().take(0);
        (HEADERS, Body::from_stream(none))
    };
    Router::new()
        .route("/events", get(events))
        .route("/empty", get(empty))
        .layer(SseCompletionLayer::new().shutdown(shutdown))
}

/// Sends a request for a stream of ticks over this connection, receives the first tick, and returns the rest of the body.
pub async fn open_body<T>(connection: T, version: Version) -> Incoming
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    receive_first(send_get(connection, version, "/events").await).await
}

/// Sends a request over this connection. The connection stays open until the server closes it.
pub async fn send_get<T>(connection: T, version: Version, path: &str) -> Response<Incoming>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    use hyper::client::conn::{http1, http2};

    let request = Request::get(format!("http://localhost{path}")).header("host", "localhost");
    let request = request.body(String::new()).expect("a valid request");
    let io = TokioIo::new(connection);
    let response = match version {
        Version::Http1 => {
            let (mut sender, connection) = within(http1::handshake(io)).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            within(sender.send_request(request)).await
        }
        Version::Http2 => {
            let executor = TokioExecutor::new();
            let (mut sender, connection) = within(http2::handshake(executor, io))
                .await
                .expect("HTTP/2");
            tokio::spawn(connection);
            within(sender.send_request(request)).await
        }
    };
    response.expect("a response")
}
