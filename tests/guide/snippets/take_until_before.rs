use axum::{Router, response::sse::{Event, Sse}, routing::get};
use futures_util::{Stream, StreamExt, stream};
use std::convert::Infallible;
use tokio_util::sync::CancellationToken;

fn app<S>(events: fn() -> S, stop: CancellationToken) -> Router
where
    S: Stream<Item = Result<Event, Infallible>> + Send + 'static,
{
    let handler = async move || {
        let close = async { Ok(Event::default().event("bye").data("restart")) };
        let stopped = stop.clone().cancelled_owned();
        Sse::new(events().take_until(stopped).chain(stream::once(close)))
    };
    Router::new().route("/events", get(handler))
}
