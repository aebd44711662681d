//! The server of the end-to-end tests with published clients. A path names the client and the situation, and the client may
//! append the path of its API:
//!
//! ```text
//! /openai/shutdown/chat/completions
//! ```
//!
//! | situation | the stream |
//! |---|---|
//! | `complete` | is complete |
//! | `shutdown` | is closed by a `Shutdown` inside an event |
//! | `default` | the same, with the default close event |
//! | `truncated` | ends inside an event |
//! | `skipped` | the same, and opts out of the layer |
//! | `unmarked` | ends between two events, without the protocol's end mark |
//! | `silence` | is complete, and pauses for longer than the interval of the keep-alive |
//! | `unframed` | is an error object that is not an event |
//! | `upstream_error` | ends with an error of the upstream, in an event |
//! | `skipped_unframed` | the same, and opts out of the layer |
//! | `unfinished_mark` | is complete, but for the blank line of its end mark |
//! | `failed_after_mark` | fails after its end mark |
//! | `shutdown_after_mark` | is closed by a `Shutdown` after its end mark |
//! | `hang` | stays open after its end mark |
//! | `leave` | the same, for a client that leaves at the end mark |
//!
//! A path below `/without_end_marks` has the layer of the protocol without its end marks. A path below `/endings` waits for the end
//! of the first stream with the rest of the path, and responds with the ending in its report.
//!
//! [`first_event`] has the situations of an upstream that dies before its first event.
//!
//! The server prints its URL, and ends when its input ends.

mod first_event;
mod samples;
mod table;
mod without_end_marks;

use std::{
    collections::HashMap, error::Error, future, io, process, sync::Arc, thread, time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, RawQuery},
    http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{Html, IntoResponse, Response},
    routing::{any, get},
};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use tokio::{net::TcpListener, sync::watch, time};
use tower_sse_completion::{CloseEvent, Ending, Shutdown, SkipCompletion, SseCompletionLayer};

use crate::samples::{AFTER_FEED, Sample};

const PAGE: &str = "<!doctype html><title>clients</title><link rel=icon href=data:,><body>";
const KEEP_ALIVE: Duration = Duration::from_millis(50);
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// An error in an event, as the APIs of OpenAI and Anthropic send it.
const UPSTREAM_ERROR: &str = concat!(
    "event: error\n",
    r#"data: {"type":"error","error":{"type":"overloaded_error","message":"overloaded"}}"#,
    "\n\n",
);
/// An error of an upstream that does not frame its errors.
const UNFRAMED: &str = r#"{"error":{"message":"overloaded"}}"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    thread::spawn(|| {
        // An error of a read also ends the server.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });
    axum::serve(listener, app()).await?;
    Ok(())
}

/// The endings of the first stream of each client in each situation.
type Endings = watch::Sender<HashMap<String, Ending>>;

fn app() -> Router {
    let endings = Arc::new(Endings::default());
    let reports = Arc::clone(&endings);
    let ending = async move |Path(path): Path<String>| ending(&reports, &path).await;
    let mut app = first_event::routes()
        .route("/", get(async || Html(PAGE)))
        .route("/endings/{*path}", get(ending));
    let marked = without_end_marks::CLIENTS;
    for (name, layer, sample) in table::CLIENTS {
        let mut layer = layer();
        if marked.iter().any(|(other, ..)| other == name) {
            layer = layer.idle_timeout(IDLE_TIMEOUT);
        }
        app = app.nest(&format!("/{name}"), client(name, layer, *sample, &endings));
    }
    for (name, layer, sample) in marked {
        let name = format!("without_end_marks/{name}");
        let layer = layer().idle_timeout(IDLE_TIMEOUT);
        app = app.nest(&format!("/{name}"), client(&name, layer, *sample, &endings));
    }
    app
}

/// Returns the routes of a client.
fn client(name: &str, layer: SseCompletionLayer, sample: Sample, endings: &Arc<Endings>) -> Router {
    let respond =
        async move |Path(path): Path<String>, RawQuery(query): RawQuery, headers: HeaderMap| {
            let last_id = headers.get("last-event-id").map(HeaderValue::as_bytes);
            // event-source-polyfill sends the ID in the query.
            let query = query.as_deref().unwrap_or_default();
            let in_query = query.strip_prefix("lastEventId=").map(str::as_bytes);
            respond(sample, &path, last_id.or(in_query))
        };
    let (name, endings) = (name.to_owned(), Arc::clone(endings));
    let layer = layer.keep_alive(KEEP_ALIVE).on_end_with(move |request| {
        let path = format!("{name}/{}", situation(request.uri.path()));
        let endings = Arc::clone(&endings);
        move |report| {
            endings.send_modify(|endings| {
                endings.entry(path).or_insert(report.ending());
            });
        }
    });
    Router::new().route("/{*path}", any(respond)).layer(layer)
}

/// Waits for the end of the stream with this client and situation.
async fn ending(endings: &Endings, path: &str) -> Result<String, StatusCode> {
    let mut endings = endings.subscribe();
    let ended = endings.wait_for(|endings| endings.contains_key(path));
    match time::timeout(Duration::from_secs(20), ended).await {
        Ok(Ok(endings)) => Ok(endings[path].to_string()),
        _ => Err(StatusCode::NOT_FOUND),
    }
}

/// Returns the first segment of a path.
fn situation(path: &str) -> &str {
    path.trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default()
}

/// Returns the response for the situation that the first segment of the path names. A client that resumes a stream receives the
/// event after its last event ID, and the stream stays open.
fn respond(sample: Sample, path: &str, last_id: Option<&[u8]>) -> Response {
    let [whole, half, rest] = sample;
    let shutdown = Shutdown::new();
    let close = shutdown.clone();
    let frames = |frames: &[&'static str]| stream::iter(frames.to_vec());
    // The upstream stays silent after the shutdown.
    let closed = stream::once(async move { close.close() }.then(|()| future::pending()));
    let situation = situation(path);
    let stream = match situation {
        _ if last_id == Some(b"1") => frames(&[half, rest]).chain(stream::pending()).boxed(),
        _ if last_id.is_some() => frames(&[AFTER_FEED]).chain(stream::pending()).boxed(),
        "complete" => frames(&sample).boxed(),
        "shutdown" | "default" => frames(&[whole, half]).chain(closed).boxed(),
        "truncated" | "skipped" => frames(&[whole, half]).boxed(),
        "unmarked" => frames(&[whole]).boxed(),
        "silence" => {
            let pause = time::sleep(4 * KEEP_ALIVE).map(|()| "");
            frames(&[whole])
                .chain(stream::once(pause))
                .chain(frames(&[half, rest]))
                .boxed()
        }
        "unframed" | "skipped_unframed" => frames(&[UNFRAMED]).boxed(),
        "upstream_error" => frames(&[whole, UPSTREAM_ERROR]).boxed(),
        "unfinished_mark" => {
            let rest = rest.strip_suffix('\n').expect("a blank line");
            frames(&[whole, half, rest]).boxed()
        }
        "failed_after_mark" => frames(&sample).boxed(),
        "shutdown_after_mark" => frames(&sample).chain(closed).boxed(),
        "hang" | "leave" => frames(&sample).chain(stream::pending()).boxed(),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let error = (situation == "failed_after_mark").then(|| io::Error::other("failed"));
    let stream = stream.map(Ok).chain(stream::iter(error.map(Err)));
    let mut response = event_stream(stream);
    shutdown.attach(response.extensions_mut());
    if situation == "default" {
        response.extensions_mut().insert(CloseEvent::new());
    }
    if situation.starts_with("skipped") {
        response.extensions_mut().insert(SkipCompletion);
    }
    response
}

fn event_stream(frames: impl Stream<Item = io::Result<&'static str>> + Send + 'static) -> Response {
    (
        [(CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(frames),
    )
        .into_response()
}
