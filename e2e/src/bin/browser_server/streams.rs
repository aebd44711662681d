//! Streams that are always in the middle of an event, and the signals that end them.

use std::{collections::HashMap, future::Future, io, time::Duration};

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

/// The commands that end streams.
#[derive(Clone, Default)]
pub struct Signals {
    pub close: Signal,
    pub cut: Signal,
}

/// Can be given again and again, each time to those who wait by then.
#[derive(Clone, Default)]
pub struct Signal(watch::Sender<()>);

/// `interval_ms`, if it is there.
type Parameters = HashMap<String, u64>;

impl Signal {
    pub fn give(&self) {
        self.0.send_replace(());
    }

    pub fn next(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut receiver = self.0.subscribe();
        async move {
            // An error would mean that the sender is gone, and the process with it.
            let _ = receiver.changed().await;
        }
    }
}

/// Numbered events for ever, behind the last one that the client got. Every frame ends within an event whose ID is
/// already out, and completes the one before.
pub async fn halves(
    Query(parameters): Query<Parameters>,
    Extension(signals): Extension<Signals>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let cut = signals.cut.next();
    let cut = stream::once(async move {
        cut.await;
        Err(io::Error::other("cut"))
    });
    event_stream(stream::select(frames(&parameters, &headers).map(Ok), cut))
}

/// The same, without a layer. Its close event is written by hand, where the stream happens to be.
pub async fn halves_closed_by_hand(
    Query(parameters): Query<Parameters>,
    Extension(signals): Extension<Signals>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let close = stream::iter(["\n\nevent: close\ndata:\n\n".to_owned()]);
    event_stream(
        frames(&parameters, &headers)
            .take_until(signals.close.next())
            .chain(close)
            .map(Ok),
    )
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

fn event_stream(
    frames: impl Stream<Item = io::Result<String>> + Send + 'static,
) -> impl IntoResponse {
    (
        [(CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(frames),
    )
}
