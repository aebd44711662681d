use axum::{Router, response::sse::{Event, Sse}, routing::get};
use futures_util::Stream;
use std::convert::Infallible;
use tower_sse_completion::{CloseEvent, InvalidCloseEvent, Shutdown, SseCompletionLayer};

fn app<S>(events: fn() -> S, shutdown: &Shutdown) -> Result<Router, InvalidCloseEvent>
where
    S: Stream<Item = Result<Event, Infallible>> + Send + 'static,
{
    let completion = SseCompletionLayer::new()
        .shutdown(shutdown)
        .close_event(CloseEvent::named("bye")?.data("restart"))
        // `chain` appends the close event to a stream that ends on its own, too.
        .close_on_completed(true);
    let handler = async move || Sse::new(events());
    Ok(Router::new().route("/events", get(handler)).layer(completion))
}
