//! One of the servers: a process that ends at SIGTERM.

use std::{
    convert::Infallible, error::Error, net::SocketAddr, process::Stdio, sync::Arc, time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time,
};
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};

use crate::{
    FIXED, SPREAD, VARIANTS, Variant,
    flow::{self, Flow},
};

/// The header with the number of the instance.
pub const INSTANCE: HeaderName = HeaderName::from_static("instance");

/// Maximum time between the first part of an event and the rest of it.
const LAG: Duration = Duration::from_millis(80);

#[derive(Debug, Clone, Copy)]
pub struct Instance {
    pub address: SocketAddr,
    pub flow: Flow,
    /// Counts all instances of a run.
    pub number: usize,
    pub variant: Variant,
}

#[derive(Debug)]
struct Server {
    instance: Instance,
    shutdown: Shutdown,
}

impl Instance {
    /// Starts this program again as this instance, and returns when it accepts connections.
    pub async fn start(self) -> Result<Child, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("instance")
            .arg(self.address.to_string())
            .arg(self.flow.id().to_string())
            .arg(self.number.to_string())
            .arg((self.variant as usize).to_string())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        match BufReader::new(stdout).lines().next_line().await? {
            Some(_ready) => Ok(child),
            None => Err(format!("instance {} does not start", self.number).into()),
        }
    }

    /// Parses the arguments of [`start`](Self::start), if these are such.
    pub fn parse(arguments: &[&str]) -> Option<Result<Self, Box<dyn Error>>> {
        let ["instance", address, flow, number, variant] = arguments[..] else {
            return None;
        };
        let parse = || {
            Ok(Self {
                address: address.parse()?,
                flow: Flow::of(flow.parse()?),
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
        let server = Arc::new(Server {
            instance: self,
            shutdown: shutdown.clone(),
        });
        let layer = SseCompletionLayer::new().shutdown(&shutdown);
        let mut app = Router::new()
            .route("/events", get(events))
            .with_state(server);
        app = match self.variant {
            Variant::Fixed => app.layer(layer.close_event(CloseEvent::new().retry(FIXED)?)),
            Variant::Spread => {
                let close_event = CloseEvent::new().retry_between(SPREAD[0]..=SPREAD[1])?;
                app.layer(layer.close_event(close_event))
            }
            Variant::HandWritten | Variant::Killed => app,
        };
        let listener = TcpListener::bind(self.address).await?;
        println!("ready");
        axum::serve(listener, app)
            .with_graceful_shutdown(shutdown.after(async move { terminate.recv().await }))
            .await?;
        Ok(())
    }
}

async fn events(State(server): State<Arc<Server>>, headers: HeaderMap) -> Response {
    let last_event_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let received = last_event_id.and_then(|id| id.parse().ok()).unwrap_or(0);
    let frames = frames(server.instance.flow, received);
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

/// Returns all events after this one, in frames that end anywhere.
fn frames(flow: Flow, received: u64) -> impl Stream<Item = Bytes> + Send {
    let start = (received, Bytes::new());
    stream::unfold(start, move |(sent, mut rest)| async move {
        if !rest.is_empty() {
            time::sleep(LAG.mul_f64(fastrand::f64())).await;
            return Some((rest, (sent, Bytes::new())));
        }
        flow.reach(sent + 1).await;
        let newest = flow.newest().max(sent + 1);
        let events: String = (sent + 1..=newest).map(flow::encode).collect();
        let mut frame = Bytes::from(events);
        rest = frame.split_off(fastrand::usize(1..frame.len()));
        Some((frame, (newest, rest)))
    })
}
