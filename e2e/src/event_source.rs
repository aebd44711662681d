//! A client with the semantics of `EventSource`, written from the HTML standard, 9.2.

mod connection;

use std::{sync::Arc, time::Duration};

use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use testkit::decoder::{Decoder, Event};
use tokio::time;

pub use self::connection::{Connection, Entrance, Version};

/// Reads an event stream, and reconnects whenever the stream has ended.
#[derive(Debug)]
pub struct EventSource {
    entrance: Arc<Entrance>,
    path: String,
    last_event_id: String,
    reconnection_time: Duration,
    state: State,
}

/// A step in the life of an [`EventSource`].
#[derive(Debug)]
pub enum ClientEvent {
    /// The client connects, for the first time or again.
    Connecting,
    /// The response is an event stream with these headers.
    Opened(HeaderMap),
    /// An event has been dispatched.
    Event(Event),
    /// The stream has ended. The client reconnects.
    Ended {
        /// `true` after a last chunk, `false` if the connection was cut.
        clean: bool,
    },
    /// The connection was refused. The client tries again.
    Unreachable,
    /// The response is not an event stream. The client does not reconnect.
    Failed(StatusCode),
}

#[derive(Debug)]
enum State {
    Waiting(Duration),
    Connecting,
    Open(Box<Stream>),
    Failed(StatusCode),
}

#[derive(Debug)]
struct Stream {
    body: Incoming,
    decoder: Decoder,
    /// The events that `next` has not returned yet, the next one last.
    events: Vec<Event>,
    _connection: Connection,
}

/// The reconnection time of Chromium. The standard recommends "a few seconds".
const RECONNECTION_TIME: Duration = Duration::from_secs(3);

impl EventSource {
    /// Returns a client that has not connected yet.
    pub fn new(entrance: Arc<Entrance>, path: &str) -> Self {
        Self {
            entrance,
            path: path.to_owned(),
            last_event_id: String::new(),
            reconnection_time: RECONNECTION_TIME,
            state: State::Waiting(Duration::ZERO),
        }
    }

    /// Waits for the next step.
    pub async fn next(&mut self) -> ClientEvent {
        loop {
            match &mut self.state {
                State::Waiting(delay) => {
                    time::sleep(*delay).await;
                    self.state = State::Connecting;
                    return ClientEvent::Connecting;
                }
                State::Connecting => return self.connect().await,
                State::Open(stream) => {
                    if let Some(event) = stream.events.pop() {
                        return ClientEvent::Event(event);
                    }
                    if let Some(clean) = stream.read().await {
                        self.state = State::Waiting(self.reconnection_time);
                        return ClientEvent::Ended { clean };
                    }
                    self.last_event_id = stream.decoder.last_event_id().to_owned();
                    if let Some(time) = stream.decoder.retry() {
                        self.reconnection_time = time;
                    }
                }
                State::Failed(status) => return ClientEvent::Failed(*status),
            }
        }
    }

    async fn connect(&mut self) -> ClientEvent {
        let response = self.entrance.get(&self.path, &self.last_event_id);
        let Ok((response, connection)) = response.await else {
            self.state = State::Waiting(self.reconnection_time);
            return ClientEvent::Unreachable;
        };
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK || !is_event_stream(&head.headers) {
            self.state = State::Failed(head.status);
            return ClientEvent::Failed(head.status);
        }
        self.state = State::Open(Box::new(Stream {
            body,
            decoder: Decoder::resuming(&self.last_event_id),
            events: Vec::new(),
            _connection: connection,
        }));
        ClientEvent::Opened(head.headers)
    }
}

impl Stream {
    /// Reads the next frame. Returns `Some` at the end of the stream, with `true` if the end is clean.
    async fn read(&mut self) -> Option<bool> {
        match self.body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.events = self.decoder.feed(&data);
                    self.events.reverse();
                }
                None
            }
            Some(Err(_)) => Some(false),
            None => Some(true),
        }
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("text/event-stream"))
}
