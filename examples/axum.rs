//! Event streams that end on purpose, in an axum app with a page to watch them.
//!
//! ```text
//! cargo run --example axum [-- --port 3000]
//! curl -N http://127.0.0.1:3000/events?interval_ms=200
//! ```
//!
//! Open the page, and press Ctrl-C while a stream is open: it ends with a close event, and the process is gone at
//! once. With axum alone it would wait for the last client to leave.

use std::{convert::Infallible, env, error::Error, process::ExitCode, time::Duration};

use axum::{
    Router,
    extract::Query,
    handler::Handler,
    http::HeaderMap,
    response::{
        Html,
        sse::{Event, Sse},
    },
    routing::get,
};
use futures_util::{Stream, stream};
use tokio::{net::TcpListener, time};
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let port = port()?;
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| format!("cannot listen on 127.0.0.1:{port}: {error}"))?;
    println!("http://127.0.0.1:{port}  (Ctrl-C ends all streams, and this process)");

    let shutdown = Shutdown::new();
    axum::serve(listener, app(&shutdown))
        .with_graceful_shutdown(shutdown.after(tokio::signal::ctrl_c()))
        .await?;
    Ok(())
}

fn app(shutdown: &Shutdown) -> Router {
    let completion = SseCompletionLayer::new()
        .shutdown(shutdown)
        .close_on_completed(true)
        .close_event_with(|ending| CloseEvent::new().data(format!(r#"{{"reason":"{ending}"}}"#)));
    let after_three_seconds = completion
        .clone()
        .cancel_when(|_request| time::sleep(Duration::from_secs(3)));

    Router::new()
        .route("/events", get(events))
        .route("/empty", get(empty))
        .route("/finite", get(finite))
        .layer(completion)
        .route("/closed", get(events.layer(after_three_seconds)))
        .route("/", get(async || Html(include_str!("axum.html"))))
}

#[derive(serde::Deserialize)]
struct Interval {
    #[serde(default = "one_second")]
    interval_ms: u64,
}

#[derive(serde::Deserialize)]
struct Count {
    #[serde(default = "five")]
    count: u64,
}

/// Numbered events for ever. A client that comes back goes on behind the last one that it got.
async fn events(
    Query(Interval { interval_ms }): Query<Interval>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let last = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok())
        .unwrap_or(0_u64);
    let interval = time::interval(Duration::from_millis(interval_ms.max(1)));
    Sse::new(stream::unfold(
        (interval, last),
        async |(mut interval, last)| {
            interval.tick().await;
            let number = last.saturating_add(1);
            Some((Ok(numbered(number)), (interval, number)))
        },
    ))
}

async fn empty() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::empty())
}

async fn finite(
    Query(Count { count }): Query<Count>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter((1..=count).map(|number| Ok(numbered(number)))))
}

fn numbered(number: u64) -> Event {
    Event::default()
        .id(number.to_string())
        .data(format!("event {number}"))
}

fn one_second() -> u64 {
    1000
}

fn five() -> u64 {
    5
}

/// From `--port`, or from `PORT`, or 3000.
fn port() -> Result<u16, String> {
    let mut arguments = env::args().skip(1);
    let port = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => env::var("PORT").unwrap_or_else(|_| "3000".to_owned()),
        (Some("--port"), Some(port)) => port,
        _ => return Err("usage: axum [--port PORT]".to_owned()),
    };
    port.parse().map_err(|_| format!("not a port: {port:?}"))
}
