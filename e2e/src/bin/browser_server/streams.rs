//! Streams whose frames all end inside an event, and the signal that ends the streams.

use std::{collections::HashMap, convert::Infallible, future::Future, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::Query,
    http::{HeaderMap, header::CONTENT_TYPE},
    response::IntoResponse,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{sync::watch, time};
use tokio_stream::wrappers::IntervalStream;

/// A signal that can be sent repeatedly, each time to its current receivers.
#[derive(Clone, Default)]
pub struct Signal(watch::Sender<()>);

/// The optional `interval_ms`.
type Parameters = HashMap<String, u64>;

impl Signal {
    pub fn send(&self) {
        self.0.send_replace(());
    }

    pub fn next(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut receiver = self.0.subscribe();
        async move {
            // The sender lives as long as the process.
            let _ = receiver.changed().await;
        }
    }
}

/// Returns numbered events after the last event that the client has received. Every frame completes an event, and has the ID
/// and the first half of the next event.
pub async fn halves(Query(parameters): Query<Parameters>, headers: HeaderMap) -> impl IntoResponse {
    event_stream(frames(&parameters, &headers))
}

/// Returns the same events with a hand-written close event at any position, for a route without the layer.
pub async fn halves_hand_written(
    Query(parameters): Query<Parameters>,
    Extension(close): Extension<Signal>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let close_event = stream::iter(["\n\nevent: close\ndata:\n\n".to_owned()]);
    let frames = frames(&parameters, &headers).take_until(close.next());
    event_stream(frames.chain(close_event))
}

fn frames(
    parameters: &Parameters,
    headers: &HeaderMap,
) -> impl Stream<Item = String> + Send + use<> {
    let last = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse::<u64>().ok())
        .unwrap_or(0);
    let interval = Duration::from_millis(parameters.get("interval_ms").copied().unwrap_or(20));
    let ticks = IntervalStream::new(time::interval(interval));
    ticks.zip(stream::iter(last..)).map(move |(_, number)| {
        let rest = match number == last {
            true => "retry: 50\n".to_owned(),
            false => format!(", second half of {number}\n\n"),
        };
        let next = number + 1;
        format!("{rest}id: {next}\ndata: first half of {next}")
    })
}

fn event_stream(frames: impl Stream<Item = String> + Send + 'static) -> impl IntoResponse {
    let body = Body::from_stream(frames.map(Ok::<_, Infallible>));
    ([(CONTENT_TYPE, "text/event-stream")], body)
}
