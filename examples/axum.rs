//! Event streams that end on purpose, in an axum app with a page to watch them.
//!
//! ```text
//! cargo run --features signal --example axum [-- --port 3000]
//! curl -N 'http://127.0.0.1:3000/events?interval_ms=200'
//! ```
//!
//! Open the page, and press Ctrl-C while a stream is open: the stream ends with a close event, and the process ends at
//! once. With axum alone, the process would wait until the last client has left.

use std::{convert::Infallible, error::Error, time::Duration};

use axum::{
    Extension, Router,
    extract::Query,
    handler::Handler,
    http::HeaderMap,
    response::{
        Html, IntoResponse,
        sse::{Event, Sse},
    },
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::time;
use tokio_stream::wrappers::IntervalStream;
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer, stop_signal};

#[path = "support/listen.rs"]
mod listen;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = listen::listen(&["curl -N /events"]).await?;
    // A client that has not read for this long is disconnected, so that it does not keep the server from shutting down.
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(&listener).set_tcp_user_timeout(Some(Duration::from_secs(30)))?;
    let shutdown = Shutdown::new();
    axum::serve(listener, app(&shutdown)?)
        .with_graceful_shutdown(shutdown.after(stop_signal()?))
        .await?;
    Ok(())
}

fn app(shutdown: &Shutdown) -> Result<Router, Box<dyn Error>> {
    // Browsers whose streams end at the same time reconnect at different times.
    let retry = Duration::from_secs(1)..=Duration::from_secs(3);
    let event = CloseEvent::new().retry_between(retry)?;
    let layer = SseCompletionLayer::new()
        .shutdown(shutdown)
        .close_on_completed(true)
        .close_event_with(move |report| {
            let data = format!(r#"{{"reason":"{}"}}"#, report.ending());
            event.clone().data(data)
        });
    // Routes with their own layer.
    let cancelling = layer
        .clone()
        .cancel_when(|_| time::sleep(Duration::from_secs(3)));
    let ageing = layer.clone().max_age(Duration::from_secs(5));

    Ok(Router::new()
        .route("/events", get(events))
        .route("/empty", get(empty))
        .route("/finite", get(finite))
        .layer(layer)
        .route("/closed", get(events.layer(cancelling.clone())))
        .route("/chosen", get(chosen.layer(cancelling)))
        .route("/aged", get(events.layer(ageing)))
        .route("/", get(async || Html(include_str!("axum.html")))))
}

#[derive(serde::Deserialize)]
struct Parameters {
    interval_ms: Option<u64>,
    count: Option<u64>,
}

/// Returns the natural numbers, one in each interval. A client that reconnects continues after the last number that the client has received.
fn numbers(parameters: &Parameters, headers: &HeaderMap) -> impl Stream<Item = u64> + use<> {
    let last = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok())
        .unwrap_or(0_u64);
    let milliseconds = parameters.interval_ms.unwrap_or(1000).max(1);
    let ticks = IntervalStream::new(time::interval(Duration::from_millis(milliseconds)));
    let numbers = stream::iter(last.saturating_add(1)..=u64::MAX);
    ticks.zip(numbers).map(|(_, number)| number)
}

async fn events(
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(numbers(&parameters, &headers).map(|number| Ok(numbered(number))))
}

/// Chooses a close event, which takes precedence over that of the layer.
async fn chosen(parameters: Query<Parameters>, headers: HeaderMap) -> impl IntoResponse {
    let event = CloseEvent::new().data(r#"{"reason":"lunch break","back":"13:00"}"#);
    (Extension(event), events(parameters, headers).await)
}

async fn finite(
    Query(parameters): Query<Parameters>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let numbers = 1..=parameters.count.unwrap_or(5);
    Sse::new(stream::iter(numbers.map(|number| Ok(numbered(number)))))
}

async fn empty() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::empty())
}

fn numbered(number: u64) -> Event {
    Event::default()
        .id(number.to_string())
        .data(format!("event {number}"))
}
