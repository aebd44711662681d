//! One of the servers: a process that SIGTERM ends.

use std::{convert::Infallible, error::Error, pin::pin, sync::Arc, time::Duration};

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
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time,
};
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};

use super::{
    flow::Replay,
    options::{End, FIXED, Instance, SPREAD},
    publisher,
};

/// Tells a client which instance it has.
pub const INSTANCE: HeaderName = HeaderName::from_static("instance");

/// What an instance prints when it takes connections.
pub const READY: &str = "ready";

/// How long the rest of an event lags behind its start, at most.
const LAG: Duration = Duration::from_millis(80);

#[derive(Debug, Clone)]
struct Server {
    replay: Replay,
    number: usize,
    end: End,
    shutdown: Shutdown,
}

/// Where a stream of events is.
struct Position {
    sent: u64,
    newest: watch::Receiver<u64>,
    rest: Bytes,
}

/// Serves until SIGTERM, and then until the last client has left.
///
/// # Errors
///
/// Where there is no publisher, or the address is taken.
pub async fn serve(instance: Instance) -> Result<(), Box<dyn Error>> {
    // From here on SIGTERM does not end the process by itself.
    let mut terminate = signal(SignalKind::terminate())?;
    let replay = Replay::new();
    let following = publisher::subscribe(instance.publisher, replay.clone()).await?;

    let shutdown = Shutdown::new();
    let server = Server {
        replay,
        number: instance.number,
        end: instance.end,
        shutdown: shutdown.clone(),
    };
    let app = Router::new()
        .route("/events", get(events))
        .with_state(Arc::new(server));
    let app = match close_event(instance.end)? {
        Some(event) => app.layer(
            SseCompletionLayer::new()
                .shutdown(&shutdown)
                .close_event(event),
        ),
        None => app,
    };
    let listener = TcpListener::bind(instance.address).await?;
    println!("{READY}");
    let serving = axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.after(async move { terminate.recv().await }))
        .into_future();

    let (mut serving, following) = (pin!(serving), pin!(following));
    tokio::select! {
        served = &mut serving => return Ok(served?),
        // The publisher has gone, and with it the run.
        _ = following => {}
    }
    Ok(())
}

/// What the layer is to send, where there is one.
fn close_event(end: End) -> Result<Option<CloseEvent>, Box<dyn Error>> {
    Ok(match end {
        End::Spread => Some(CloseEvent::new().retry_between(SPREAD[0]..=SPREAD[1])?),
        End::Fixed => Some(CloseEvent::new().retry(FIXED)?),
        End::HandWritten | End::Killed => None,
    })
}

async fn events(State(server): State<Arc<Server>>, headers: HeaderMap) -> Response {
    let last_event_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let seen = last_event_id.and_then(|id| id.parse().ok()).unwrap_or(0);
    let frames = frames(server.replay.clone(), seen);
    let frames = match server.end {
        // What people write: the stream until the shutdown, and a close event behind it.
        End::HandWritten => {
            let close_event = format!("event: close\ndata:\nretry: {}\n\n", FIXED.as_millis());
            let draining = server.shutdown.draining();
            let close_event = stream::iter([Bytes::from(close_event)]);
            frames.take_until(draining).chain(close_event).boxed()
        }
        _ => frames.boxed(),
    };
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream".to_owned()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (INSTANCE, server.number.to_string()),
    ];
    (headers, Body::from_stream(frames.map(Ok::<_, Infallible>))).into_response()
}

/// All events behind this one, in frames that end anywhere: an upstream need not know what an event is.
fn frames(replay: Replay, seen: u64) -> impl Stream<Item = Bytes> + Send {
    let start = Position {
        sent: seen,
        newest: replay.newest(),
        rest: Bytes::new(),
    };
    stream::unfold((replay, start), async |(replay, mut position)| {
        if !position.rest.is_empty() {
            time::sleep(LAG.mul_f64(fastrand::f64())).await;
            let rest = std::mem::take(&mut position.rest);
            return Some((rest, (replay, position)));
        }
        let sent = position.sent;
        position
            .newest
            .wait_for(|newest| *newest > sent)
            .await
            .ok()?;
        let (events, sent) = replay.after(sent);
        position.sent = sent;
        let mut frame = Bytes::from(events);
        position.rest = frame.split_off(fastrand::usize(1..frame.len()));
        Some((frame, (replay, position)))
    })
}
