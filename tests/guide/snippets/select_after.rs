use axum::{Router, response::sse::{Event, Sse}, routing::get};
use futures_util::{Stream, stream};
use std::convert::Infallible;
use tokio::sync::broadcast::{Receiver, Sender};
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};

fn app(events: Sender<String>, shutdown: &Shutdown) -> Router {
    let completion = SseCompletionLayer::new()
        .shutdown(shutdown)
        .close_event(CloseEvent::new().data("restart"));
    let handler = async move || Sse::new(stream_of(events.subscribe()));
    Router::new().route("/events", get(handler)).layer(completion)
}

fn stream_of(events: Receiver<String>) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(events, async |mut events| {
        let event = events.recv().await.ok()?;
        Some((Ok(Event::default().data(event)), events))
    })
}
