use axum::{Router, response::sse::{Event, Sse}, routing::get};
use futures_util::{Stream, stream};
use std::convert::Infallible;
use tokio::sync::broadcast::{Receiver, Sender};
use tokio_util::sync::CancellationToken;

fn app(events: Sender<String>, stop: CancellationToken) -> Router {
    let handler = async move || Sse::new(stream_of(events.subscribe(), stop.clone()));
    Router::new().route("/events", get(handler))
}

fn stream_of(
    events: Receiver<String>,
    stop: CancellationToken,
) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(Some((events, stop)), async |state| {
        let (mut events, stop) = state?;
        tokio::select! {
            () = stop.cancelled() => Some((Ok(Event::default().event("close").data("restart")), None)),
            event = events.recv() => Some((Ok(Event::default().data(event.ok()?)), Some((events, stop)))),
        }
    })
}
