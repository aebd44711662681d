//! Prints the table of `COMPARE.md`: for each tool, the events and the end that a client receives in five situations, and
//! whether the server returns after a signal.

use std::{future::IntoFuture, io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    http::header::CONTENT_TYPE,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::get,
};
use bytes::Bytes;
use futures_util::{
    Stream, StreamExt,
    future::{self, join_all},
    stream,
};
use http_body_util::BodyExt;
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use testkit::{client::connect, decoder::Decoder, listener::MapSocket, server::listen};
use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tower_http::timeout::ResponseBodyTimeoutLayer;
use tower_sse_completion::{Shutdown, SseCompletionLayer};

const EVENT: &str = "data: hello\n\n";
const UNFINISHED: &str = "data: {\"answer\":";
const CLOSE: &str = "event: close\ndata:\n\n";

/// Time limit of the tools that have one.
const LIMIT: Duration = Duration::from_secs(1);

/// Time after the signal until a server counts as waiting. Far above all time limits. A stream that is open after twice this
/// time counts as open.
const PATIENCE: Duration = Duration::from_secs(6);

#[derive(Clone, Copy)]
enum Tool {
    KeepAlive,
    Combinators,
    Select,
    BodyTimeout,
    AxumServer,
    Layer { closes_failures: bool },
}

#[derive(Clone, Copy)]
enum Situation {
    Idle,
    Empty,
    Failed,
    Truncated,
    Unread,
}

const TOOLS: [(&str, Tool); 7] = [
    ("axum, with `KeepAlive`", Tool::KeepAlive),
    ("`take_until` and `chain`", Tool::Combinators),
    ("`select!` in the handler", Tool::Select),
    ("tower-http's `ResponseBodyTimeoutLayer`", Tool::BodyTimeout),
    (
        "axum-server's `Handle`, with a time limit",
        Tool::AxumServer,
    ),
    (
        "this layer",
        Tool::Layer {
            closes_failures: false,
        },
    ),
    (
        "this layer, `close_on_failed` and `close_on_truncated`",
        Tool::Layer {
            closes_failures: true,
        },
    ),
];

const SITUATIONS: [(&str, Situation); 5] = [
    ("idle stream at SIGTERM", Situation::Idle),
    ("empty stream", Situation::Empty),
    ("upstream error after two events", Situation::Failed),
    (
        "upstream truncated inside the second event",
        Situation::Truncated,
    ),
    ("client that does not read, at SIGTERM", Situation::Unread),
];

#[tokio::main]
async fn main() {
    let titles = SITUATIONS.map(|(title, _)| title).join(" | ");
    println!("| | {titles} |\n|---|---|---|---|---|---|");
    let rows = TOOLS.map(|(title, tool)| async move {
        let cells = SITUATIONS.map(|(_, situation)| observe(tool, situation));
        format!("| {title} | {} |", join_all(cells).await.join(" | "))
    });
    for row in join_all(rows).await {
        println!("{row}");
    }
}

/// Serves one stream to one client, and returns the cell of the table.
async fn observe(tool: Tool, situation: Situation) -> String {
    let stop = CancellationToken::new();
    let (listener, address) = listen().await;
    let handler_stop = stop.clone();
    let handler = get(async move || respond(tool, situation, handler_stop));
    let app = Router::new().route("/", handler);
    let server = tokio::spawn(serve(tool, listener, app, stop.clone()));

    // Until the signal, an idle stream has time to send its event, and the stream of a client that does not read has time to
    // fill all buffers.
    let returns = async {
        time::sleep(LIMIT).await;
        stop.cancel();
        match time::timeout(PATIENCE, server).await {
            Ok(_) => "server returns",
            Err(_) => "server waits",
        }
    };
    match situation {
        Situation::Idle => {
            let (received, returns) = tokio::join!(receive(address), returns);
            format!("{received}; {returns}")
        }
        Situation::Unread => {
            let mut client = connect(address).await;
            let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
            let sent = client.write_all(request).await;
            sent.expect("the server reads the request");
            returns.await.to_owned()
        }
        Situation::Empty | Situation::Failed | Situation::Truncated => receive(address).await,
    }
}

/// Receives a stream, and describes its end and the events that an `EventSource` would dispatch.
async fn receive(address: SocketAddr) -> String {
    let io = TokioIo::new(connect(address).await);
    let (mut requests, connection) = http1::handshake(io).await.expect("a connection");
    tokio::spawn(connection);
    let Ok(response) = requests.send_request(Request::new(Body::empty())).await else {
        return "no response".to_owned();
    };
    let mut body = response.into_body();
    let mut decoder = Decoder::new();
    let (mut hello, mut close, mut torn) = (0, 0, 0);
    let deadline = Instant::now() + 2 * PATIENCE;
    let end = loop {
        match time::timeout_at(deadline, body.frame()).await {
            Err(_) => break "still open",
            Ok(None) => break "clean end",
            Ok(Some(Err(_))) => break "aborted",
            Ok(Some(Ok(frame))) => {
                for event in decoder.feed(&frame.into_data().unwrap_or_default()) {
                    match (&event.event_type[..], &event.data[..]) {
                        ("message", "hello") => hello += 1,
                        ("close", "") => close += 1,
                        _ => torn += 1,
                    }
                }
            }
        }
    };
    let counts = [
        (hello, "event"),
        (torn, "torn event"),
        (close, "close event"),
    ];
    let mut parts: Vec<_> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}{}", if *count > 1 { "s" } else { "" }))
        .collect();
    parts.push(end.to_owned());
    parts.join(", ")
}

/// Returns the response of the handler.
fn respond(tool: Tool, situation: Situation, stop: CancellationToken) -> Response {
    let upstream = upstream(situation);
    match tool {
        Tool::KeepAlive => {
            // A handler that decodes its upstream has whole events only.
            let events = upstream.filter_map(|data| {
                let is_whole = !matches!(&data, Ok(data) if data == UNFINISHED);
                let event = data.map(|data| {
                    let data = str::from_utf8(&data).expect("UTF-8");
                    Event::default().data(data.trim_start_matches("data: ").trim_end())
                });
                future::ready(is_whole.then_some(event))
            });
            let keep_alive = KeepAlive::new().interval(LIMIT);
            Sse::new(events).keep_alive(keep_alive).into_response()
        }
        Tool::Combinators => {
            let close = stream::once(async { Ok(Bytes::from(CLOSE)) });
            event_stream(upstream.take_until(stop.cancelled_owned()).chain(close))
        }
        Tool::Select => {
            let state = Some((Box::pin(upstream), stop));
            event_stream(stream::unfold(state, async |state| {
                let (mut upstream, stop) = state?;
                tokio::select! {
                    () = stop.cancelled() => Some((Ok(Bytes::from(CLOSE)), None)),
                    data = upstream.next() => Some((data?, Some((upstream, stop)))),
                }
            }))
        }
        Tool::BodyTimeout | Tool::AxumServer | Tool::Layer { .. } => event_stream(upstream),
    }
}

fn event_stream(data: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response {
    (
        [(CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(data),
    )
        .into_response()
}

fn upstream(situation: Situation) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let event = || Ok(Bytes::from(EVENT));
    match situation {
        Situation::Idle => stream::iter([event()]).chain(stream::pending()).boxed(),
        Situation::Empty => stream::empty().boxed(),
        Situation::Failed => {
            let error = Err(io::Error::other("the upstream has failed"));
            stream::iter([event(), event(), error]).boxed()
        }
        Situation::Truncated => stream::iter([event(), Ok(Bytes::from(UNFINISHED))]).boxed(),
        Situation::Unread => {
            let event = Bytes::from(format!("data: {}\n\n", "x".repeat(1 << 20)));
            stream::repeat(event).map(Ok).boxed()
        }
    }
}

/// Runs the axum server with a tool until the server returns. The token takes the place of a signal.
async fn serve(tool: Tool, listener: TcpListener, app: Router, stop: CancellationToken) {
    let signal = stop.clone().cancelled_owned();
    match tool {
        Tool::KeepAlive | Tool::Combinators | Tool::Select => {
            let server = axum::serve(listener, app).with_graceful_shutdown(signal);
            server.await.expect("axum's server does not fail");
        }
        Tool::BodyTimeout => {
            let app = app.layer(ResponseBodyTimeoutLayer::new(LIMIT));
            let server = axum::serve(listener, app).with_graceful_shutdown(signal);
            server.await.expect("axum's server does not fail");
        }
        Tool::AxumServer => {
            let handle = axum_server::Handle::new();
            let listener = listener.into_std().expect("a listener");
            let server = axum_server::from_tcp(listener)
                .expect("a listener")
                .handle(handle.clone())
                .serve(app.into_make_service());
            let stop = async {
                signal.await;
                handle.graceful_shutdown(Some(LIMIT));
            };
            tokio::join!(async { server.await.expect("no error") }, stop);
        }
        Tool::Layer { closes_failures } => {
            let shutdown = Shutdown::new();
            let layer = SseCompletionLayer::new()
                .shutdown(&shutdown)
                .close_on_failed(closes_failures)
                .close_on_truncated(closes_failures);
            let app = app.layer(layer);
            let sockets = shutdown.clone();
            let listener = MapSocket::new(listener, move |socket| sockets.connection(socket));
            let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.draining());
            let drain = shutdown.drain(LIMIT).after(signal);
            let (server, _) = tokio::join!(server.into_future(), drain);
            server.expect("axum's server does not fail");
        }
    }
}
