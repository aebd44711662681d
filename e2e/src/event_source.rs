//! A client with the semantics of `EventSource`, written from the HTML standard, 9.2. It shares nothing with the crate.

mod connection;
mod decoder;

use std::{net::SocketAddr, time::Duration};

use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time;

pub use self::{
    connection::{Connection, Version},
    decoder::{Decoder, Event},
};

/// Reads an event stream, and connects again when it has ended, as often as it ends.
#[derive(Debug)]
pub struct EventSource {
    address: SocketAddr,
    path: String,
    last_event_id: String,
    reconnection_time: Duration,
    state: State,
}

/// What an [`EventSource`] has to tell.
#[derive(Debug)]
pub enum Happening {
    /// It connects for the first time, or again.
    Connecting,
    /// The answer is an event stream, with these headers.
    Opened(HeaderMap),
    Event(Event),
    /// The stream has ended, and it will connect again.
    Ended {
        /// With a last chunk, rather than by a connection that was cut.
        clean: bool,
    },
    /// Nobody took the connection, and it will try again.
    Unreachable,
    /// The answer was no event stream. It will not connect again.
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
    /// In the order in which they were dispatched, the next one last.
    events: Vec<Event>,
    _connection: Connection,
}

/// "Probably in the region of a few seconds", says the standard. This is what Chromium takes.
const RECONNECTION_TIME: Duration = Duration::from_secs(3);

impl EventSource {
    /// One that has not connected yet.
    pub fn new(address: SocketAddr, path: &str) -> Self {
        Self {
            address,
            path: path.to_owned(),
            last_event_id: String::new(),
            reconnection_time: RECONNECTION_TIME,
            state: State::Waiting(Duration::ZERO),
        }
    }

    /// Waits for what happens next.
    pub async fn next(&mut self) -> Happening {
        loop {
            match &mut self.state {
                State::Waiting(delay) => {
                    time::sleep(*delay).await;
                    self.state = State::Connecting;
                    return Happening::Connecting;
                }
                State::Connecting => return self.connect().await,
                State::Open(stream) => {
                    if let Some(event) = stream.events.pop() {
                        return Happening::Event(event);
                    }
                    if let Some(clean) = stream.read().await {
                        self.state = State::Waiting(self.reconnection_time);
                        return Happening::Ended { clean };
                    }
                    self.last_event_id = stream.decoder.last_event_id().to_owned();
                    if let Some(time) = stream.decoder.reconnection_time() {
                        self.reconnection_time = time;
                    }
                }
                State::Failed(status) => return Happening::Failed(*status),
            }
        }
    }

    async fn connect(&mut self) -> Happening {
        let answer = async {
            let mut connection = Connection::open(self.address, Version::Http1).await?;
            let response = connection.get(&self.path, &self.last_event_id).await?;
            Ok::<_, connection::Error>((response, connection))
        };
        let Ok((response, connection)) = answer.await else {
            self.state = State::Waiting(self.reconnection_time);
            return Happening::Unreachable;
        };
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK || !is_event_stream(&head.headers) {
            self.state = State::Failed(head.status);
            return Happening::Failed(head.status);
        }
        self.state = State::Open(Box::new(Stream {
            body,
            decoder: Decoder::resuming(&self.last_event_id),
            events: Vec::new(),
            _connection: connection,
        }));
        Happening::Opened(head.headers)
    }
}

impl Stream {
    /// Reads on, or tells whether the stream has ended cleanly.
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
