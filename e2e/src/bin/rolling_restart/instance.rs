//! One of the servers: a process that ends at SIGTERM.

use std::{convert::Infallible, error::Error, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, header},
    response::{IntoResponse, Response},
    routing::get,
};
use e2e::process::Process;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use instances::{
    app,
    log::{FIRST, Log, Message},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time,
};
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};

use crate::{FIXED, SPREAD, VARIANTS, Variant, flow::LIMIT};

/// The header with the number of the instance.
pub const INSTANCE: HeaderName = HeaderName::from_static("instance");

/// Maximum time between the first part of an event and the rest of it.
const LAG: Duration = Duration::from_millis(80);

#[derive(Debug, Clone)]
pub struct Instance {
    pub address: SocketAddr,
    /// The URL of the Redis that has the log.
    pub redis: String,
    /// Counts all instances of a run.
    pub number: usize,
    pub variant: Variant,
}

#[derive(Debug)]
struct Server {
    instance: Instance,
    log: Log,
    shutdown: Shutdown,
}

impl Instance {
    /// Starts this program again as this instance, and returns when the instance accepts connections.
    pub async fn start(&self) -> Result<Process, Box<dyn Error>> {
        Process::start(&[
            "instance".to_owned(),
            self.address.to_string(),
            self.redis.clone(),
            self.number.to_string(),
            (self.variant as usize).to_string(),
        ])
        .await
    }

    /// Parses the arguments of [`start`](Self::start). Returns `None` for other arguments.
    pub fn parse(arguments: &[&str]) -> Option<Result<Self, Box<dyn Error>>> {
        let ["instance", address, redis, number, variant] = arguments[..] else {
            return None;
        };
        let parse = || {
            Ok(Self {
                address: address.parse()?,
                redis: redis.to_owned(),
                number: number.parse()?,
                variant: VARIANTS[variant.parse::<usize>()?].1,
            })
        };
        Some(parse())
    }

    /// Serves until SIGTERM, and then until the last client has left.
    pub async fn serve(self) -> Result<(), Box<dyn Error>> {
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = Shutdown::new();
        let variant = self.variant;
        let listener = TcpListener::bind(self.address).await?;
        let server = Arc::new(Server {
            log: app::Instance::connect(&self.redis, LIMIT).await?.log,
            instance: self,
            shutdown: shutdown.clone(),
        });
        let layer = SseCompletionLayer::new()
            .shutdown(&shutdown)
            .close_on_completed(true);
        let mut app = Router::new()
            .route("/events", get(events))
            .with_state(server);
        app = match variant {
            Variant::Fixed => app.layer(layer.close_event(CloseEvent::new().retry(FIXED)?)),
            Variant::Spread => {
                let close_event = CloseEvent::new().retry_between(SPREAD[0]..=SPREAD[1])?;
                app.layer(layer.close_event(close_event))
            }
            Variant::HandWritten | Variant::Killed => app,
        };
        println!("ready");
        axum::serve(listener, app)
            .with_graceful_shutdown(shutdown.after(async move { terminate.recv().await }))
            .await?;
        Ok(())
    }
}

async fn events(State(server): State<Arc<Server>>, headers: HeaderMap) -> Response {
    let last_event_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    // A client without an ID receives all events, so that each client has to receive the same.
    let cursor = last_event_id.map_or(FIRST, |id| id.parse().unwrap_or_default());
    let frames = frames(server.log.follow(cursor));
    let frames = match server.instance.variant {
        Variant::HandWritten => {
            let close_event = format!("event: close\ndata:\nretry: {}\n\n", FIXED.as_millis());
            let close_event = stream::iter([Bytes::from(close_event)]);
            let draining = server.shutdown.draining();
            frames.take_until(draining).chain(close_event).boxed()
        }
        _ => frames.boxed(),
    };
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream".to_owned()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (INSTANCE, server.instance.number.to_string()),
    ];
    (headers, Body::from_stream(frames.map(Ok::<_, Infallible>))).into_response()
}

/// Encodes messages, in frames that end anywhere.
fn frames(messages: impl Stream<Item = Message> + Send) -> impl Stream<Item = Bytes> + Send {
    messages.ready_chunks(100).flat_map(|messages| {
        let mut frame = Bytes::from_iter(messages.into_iter().flat_map(encode));
        let rest = frame.split_off(fastrand::usize(1..frame.len()));
        let rest = time::sleep(LAG.mul_f64(fastrand::f64())).map(|()| rest);
        stream::iter([frame]).chain(rest.into_stream())
    })
}

fn encode(message: Message) -> Vec<u8> {
    let event = match message {
        Message::Event(id, data) => {
            format!("id: {id}\ndata: {}\n\n", data.replace('\n', "\ndata: "))
        }
        Message::Reset(id) => format!("event: reset\nid: {id}\ndata:\n\n"),
    };
    event.into_bytes()
}
