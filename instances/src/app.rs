//! The routes of one instance.

use std::{convert::Infallible, ops::RangeInclusive, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::{get, post},
};
use futures_util::{StreamExt, stream};
use redis::RedisResult;
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};

use crate::{
    Error,
    log::{Id, Log, Message},
    sessions::Sessions,
};

/// Range of the times after which clients reconnect, so that they do not reconnect at the same moment.
const RETRY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(5);

/// One instance.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The log that all instances share.
    pub log: Log,
    sessions: Sessions,
}

impl Instance {
    /// Connects to the log in Redis, which has about `limit` entries at most.
    pub async fn connect(url: &str, limit: usize) -> RedisResult<Self> {
        let sessions = Sessions::default();
        let log = Log::connect(url, limit, sessions.clone()).await?;
        Ok(Self { log, sessions })
    }

    /// Returns the routes.
    pub fn app(self, shutdown: &Shutdown) -> Result<Router, Error> {
        let layer = SseCompletionLayer::new()
            .shutdown(shutdown)
            .close_event(CloseEvent::new().retry_between(RETRY)?)
            // A stream ends on its own if the connection to Redis is lost.
            .close_on_completed(true);
        Ok(Router::new()
            .route("/events/{user}", get(events))
            .layer(layer)
            .route("/publish", post(publish))
            .route("/logout/{user}", post(log_out))
            .with_state(self))
    }
}

async fn events(
    State(instance): State<Instance>,
    Path(user): Path<String>,
    headers: HeaderMap,
) -> Response {
    let last_event_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    // Without a cursor, and with a cursor that is not an ID, the stream starts with a reset.
    let cursor = last_event_id
        .and_then(|id| id.parse().ok())
        .unwrap_or_default();
    let session = instance.sessions.shutdown(&user);
    let attached = Arc::clone(&session);
    let messages = instance.log.follow(cursor).map(move |message| {
        // The session is kept as long as the stream.
        let _session = &session;
        encode(message)
    });
    // A process that is killed sends no close event, so each stream starts with a reconnection time.
    let range = *RETRY.end() - *RETRY.start();
    let retry = Event::default().retry(*RETRY.start() + range.mul_f64(fastrand::f64()));
    let events = stream::iter([retry]).chain(messages);
    let mut response = Sse::new(events.map(Ok::<_, Infallible>)).into_response();
    attached.attach(response.extensions_mut());
    response
}

fn encode(message: Message) -> Event {
    let event = Event::default();
    match message {
        Message::Event(id, data) => event.id(id.to_string()).data(data),
        // Clients ignore an event without data, and axum writes no field for empty data.
        Message::Reset(id) => event.event("reset").id(id.to_string()).data("{}"),
    }
}

async fn publish(State(instance): State<Instance>, data: String) -> Response {
    respond(instance.log.publish(&data).await)
}

async fn log_out(State(instance): State<Instance>, Path(user): Path<String>) -> Response {
    respond(instance.log.log_out(&user).await)
}

fn respond(appended: RedisResult<Id>) -> Response {
    match appended {
        Ok(id) => format!("{id}\n").into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}
