//! Tests of the published clients in Rust: the events and the errors that a program receives from a stream.

use std::process::Stdio;

use eventsource_client::{Client, ClientBuilder, SSE};
use futures_util::{Stream, StreamExt};
use launchdarkly_sdk_transport::HyperTransport;
use reqwest_eventsource::{Event, EventSource};
use testkit::wait::within;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

#[tokio::test]
async fn reqwest_eventsource_returns_the_close_event_and_then_resumes() {
    let server = Server::start().await;
    for (situation, expected) in [
        (
            "complete",
            &["one", "two", "close", "StreamEnded", "three"][..],
        ),
        ("silence", &["one", "two", "close", "StreamEnded", "three"]),
        ("shutdown", &["one", "close", "StreamEnded", "two"]),
        ("truncated", &["one", "StreamEnded", "two"]),
    ] {
        let events =
            EventSource::get(server.url(situation)).filter_map(async |event| match event {
                Ok(Event::Open) => None,
                Ok(Event::Message(message)) => Some(describe(message.event, message.data)),
                Err(error) => Some(format!("{error:?}")),
            });
        assert_eq!(first(expected.len(), events).await, expected, "{situation}");
    }
}

#[tokio::test]
async fn eventsource_client_returns_the_close_event_and_then_resumes() {
    let server = Server::start().await;
    for (situation, expected) in [
        ("complete", &["one", "two", "close", "Eof", "three"][..]),
        ("silence", &["one", "two", "close", "Eof", "three"]),
        ("shutdown", &["one", "close", "Eof", "two"]),
        ("truncated", &["one", "UnexpectedEof", "two"]),
    ] {
        let client = ClientBuilder::for_url(&server.url(situation)).expect("a URL");
        let transport = HyperTransport::new().expect("a transport");
        let events = client.build_with_transport(transport).stream();
        let events = events.filter_map(async |event| match event {
            Ok(SSE::Connected(_) | SSE::Comment(_)) => None,
            Ok(SSE::Event(event)) => Some(describe(event.event_type, event.data)),
            Err(error) => Some(format!("{error:?}")),
        });
        assert_eq!(first(expected.len(), events).await, expected, "{situation}");
    }
}

/// Returns the data of an event, or its type if it has none.
fn describe(event_type: String, data: String) -> String {
    if data.is_empty() { event_type } else { data }
}

/// Returns the first items of a stream, because a stream that has been resumed does not end.
async fn first(count: usize, stream: impl Stream<Item = String>) -> Vec<String> {
    within(stream.take(count).collect()).await
}

/// The server of the tests with published clients.
struct Server {
    _process: Child,
    url: String,
}

impl Server {
    async fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_clients"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the server");
        let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let line = within(lines.next_line()).await.expect("text");
        Self {
            _process: process,
            url: line.expect("a URL"),
        }
    }

    fn url(&self, situation: &str) -> String {
        format!("{}/event_source/{situation}", self.url)
    }
}
