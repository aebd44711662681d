//! Two instances of a server behind a proxy.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderName, header},
    response::IntoResponse,
    routing::get,
};
use e2e::{
    event_source::Version,
    proxy::{Config, Proxy, free_address},
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    net::TcpListener,
    sync::{broadcast, mpsc},
    task::JoinHandle,
};
use tokio_stream::wrappers::BroadcastStream;
use tower_sse_completion::{Ending, Shutdown, SseCompletionLayer};

use crate::client::{Client, in_time};

pub struct Site {
    pub a: Instance,
    pub b: Instance,
    pub proxy: Proxy,
}

/// A server with the layer.
pub struct Instance {
    name: &'static str,
    address: SocketAddr,
    shutdown: Shutdown,
    messages: broadcast::Sender<Message>,
    endings: mpsc::UnboundedReceiver<Ending>,
    server: JoinHandle<io::Result<()>>,
}

#[derive(Debug, Clone, Copy)]
enum Message {
    Word(&'static str),
    Failure,
}

/// The header with the name of the instance.
pub const INSTANCE: HeaderName = HeaderName::from_static("instance");

const HEARTBEAT: Duration = Duration::from_millis(100);

impl Site {
    pub async fn start(config: Config) -> Self {
        let [a, b] = [free_address(), free_address()].map(|address| address.expect("a port"));
        let a = Instance::start("a", a).await;
        let b = Instance::start("b", b).await;
        let proxy = config.start([a.address, b.address]).await;
        Self {
            a,
            b,
            proxy: proxy.unwrap_or_else(|error| panic!("the proxy does not start: {error}")),
        }
    }

    pub fn address(&self, version: Version) -> SocketAddr {
        self.proxy.address(version)
    }

    pub async fn open(&self, version: Version, path: &str) -> Client {
        Client::open(self.address(version), version, path).await
    }

    /// Opens one stream on each instance.
    pub async fn open_both(&self, version: Version) -> (Client, Client) {
        let first = self.open(version, "/events").await;
        let second = self.open(version, "/events").await;
        match (first.header(&INSTANCE), second.header(&INSTANCE)) {
            ("a", "b") => (first, second),
            ("b", "a") => (second, first),
            other => panic!("the proxy does not balance: {other:?}"),
        }
    }

    /// Returns the instance that responded to this client.
    pub fn responder(&mut self, client: &Client) -> &mut Instance {
        match client.header(&INSTANCE) {
            "a" => &mut self.a,
            _ => &mut self.b,
        }
    }
}

impl Instance {
    async fn start(name: &'static str, address: SocketAddr) -> Self {
        let shutdown = Shutdown::new();
        let (messages, _) = broadcast::channel(16);
        let (report, endings) = mpsc::unbounded_channel();
        let layer = SseCompletionLayer::new()
            .shutdown(&shutdown)
            .on_end(move |stream| report.send(stream.ending()).unwrap_or_default());
        let heartbeat = layer.clone().keep_alive(HEARTBEAT);

        let subscribe = {
            let messages = messages.clone();
            move || {
                stream::iter([Ok(Message::Word("hello"))])
                    .chain(BroadcastStream::new(messages.subscribe()))
            }
        };
        let unbuffered = subscribe.clone();
        let events = move || async move { event_stream(encode(subscribe())) };
        let unbuffered = move || async move {
            (
                [("x-accel-buffering", "no")],
                event_stream(encode(unbuffered())),
            )
        };
        let routes = Router::new()
            .route("/events", get(events))
            .route("/unbuffered", get(unbuffered))
            .route(
                "/empty",
                get(async || event_stream(stream::empty::<Result<Bytes, Infallible>>())),
            )
            .route(
                "/silent",
                get(async || event_stream(stream::pending::<Result<Bytes, Infallible>>())),
            )
            .layer(layer);
        let heartbeat = Router::new()
            .route(
                "/heartbeat",
                get(async || event_stream(stream::pending::<Result<Bytes, Infallible>>())),
            )
            .layer(heartbeat);
        let app =
            routes
                .merge(heartbeat)
                .layer(axum::middleware::map_response(
                    move |response: axum::response::Response| async move {
                        ([(INSTANCE, name)], response)
                    },
                ));

        let listener = TcpListener::bind(address).await.expect("the port");
        let server = axum::serve(listener, app).with_graceful_shutdown({
            let shutdown = shutdown.clone();
            async move { shutdown.draining().await }
        });
        Self {
            name,
            address,
            shutdown,
            messages,
            endings,
            server: tokio::spawn(server.into_future()),
        }
    }

    /// Sends an event to every stream of `/events`.
    pub fn send(&self, word: &'static str) {
        self.messages.send(Message::Word(word)).expect("a stream");
    }

    /// Makes every stream of `/events` fail.
    pub fn fail(&self) {
        self.messages.send(Message::Failure).expect("a stream");
    }

    /// Starts the server again at the same address.
    pub async fn restart(&mut self) {
        *self = Self::start(self.name, self.address).await;
    }

    /// Ends every stream, and stops accepting connections.
    pub fn shut_down(&self) {
        self.shutdown.close();
    }

    /// Waits until the server has returned.
    pub async fn ended(&mut self) {
        let served = in_time("the server returns", &mut self.server).await;
        served.expect("no panic").expect("no error");
    }

    /// Waits for the end of a stream, and returns its ending.
    pub async fn next_ending(&mut self) -> Ending {
        self.endings.recv().await.expect("a running server")
    }
}

fn encode<S, E>(messages: S) -> impl Stream<Item = Result<String, io::Error>>
where
    S: Stream<Item = Result<Message, E>>,
{
    messages.map(|message| match message {
        Ok(Message::Word(word)) => Ok(format!("data: {word}\n\n")),
        _ => Err(io::Error::other("the upstream has failed")),
    })
}

fn event_stream<S, D, E>(frames: S) -> impl IntoResponse
where
    S: Stream<Item = Result<D, E>> + Send + 'static,
    D: Into<Bytes> + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Body::from_stream(frames))
}
