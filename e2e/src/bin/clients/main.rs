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
//!
//! [`first_event`] has the situations of an upstream that dies before its first event.
//!
//! The server prints its URL, and ends when its input ends.

mod first_event;
mod samples;
mod table;

use std::{error::Error, future, io, process, thread, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{Html, IntoResponse, Response},
    routing::{any, get},
};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use tokio::{net::TcpListener, time};
use tower_sse_completion::{CloseEvent, Shutdown, SkipCompletion, SseCompletionLayer};

use crate::{
    samples::{AFTER_FEED, Sample},
    table::CLIENTS,
};

const PAGE: &str = "<!doctype html><title>clients</title><link rel=icon href=data:,><body>";
const KEEP_ALIVE: Duration = Duration::from_millis(50);

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

fn app() -> Router {
    let page = first_event::routes().route("/", get(async || Html(PAGE)));
    CLIENTS.iter().fold(page, |app, (name, layer, sample)| {
        let respond = async move |Path(path): Path<String>, headers: HeaderMap| {
            let last_id = headers.get("last-event-id").map(HeaderValue::as_bytes);
            respond(*sample, &path, last_id)
        };
        let layer = layer(SseCompletionLayer::new().keep_alive(KEEP_ALIVE));
        let routes = Router::new().route("/{*path}", any(respond)).layer(layer);
        app.nest(&format!("/{name}"), routes)
    })
}

/// Returns the response for the situation that the first segment of the path names. A client that resumes a stream receives the
/// event after its last event ID, and the stream stays open.
fn respond(sample: Sample, path: &str, last_id: Option<&[u8]>) -> Response {
    let [whole, half, rest] = sample;
    let shutdown = Shutdown::new();
    let close = shutdown.clone();
    let frames = |frames: &[&'static str]| stream::iter(frames.to_vec());
    // The upstream stays silent after the shutdown.
    let closed = async move { close.close() }.then(|()| future::pending());
    let situation = path.split('/').next().unwrap_or_default();
    let stream = match situation {
        _ if last_id == Some(b"1") => frames(&[half, rest]).chain(stream::pending()).boxed(),
        _ if last_id.is_some() => frames(&[AFTER_FEED]).chain(stream::pending()).boxed(),
        "complete" => frames(&sample).boxed(),
        "shutdown" | "default" => frames(&[whole, half]).chain(stream::once(closed)).boxed(),
        "truncated" | "skipped" => frames(&[whole, half]).boxed(),
        "unmarked" => frames(&[whole]).boxed(),
        "silence" => {
            let pause = time::sleep(4 * KEEP_ALIVE).map(|()| "");
            frames(&[whole])
                .chain(stream::once(pause))
                .chain(frames(&[half, rest]))
                .boxed()
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let mut response = event_stream(stream);
    shutdown.attach(response.extensions_mut());
    if situation == "default" {
        response.extensions_mut().insert(CloseEvent::new());
    }
    if situation == "skipped" {
        response.extensions_mut().insert(SkipCompletion);
    }
    response
}

fn event_stream(frames: impl Stream<Item = &'static str> + Send + 'static) -> Response {
    let body = Body::from_stream(frames.map(Ok::<_, io::Error>));
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}
