use axum::extract::{MatchedPath, Request};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::{Router, http::Extensions};
use std::time::Instant;
use tower_sse_completion::{Shutdown, SseCompletionLayer};

fn measured(routes: Router, shutdown: &Shutdown) -> Router {
    let completion = SseCompletionLayer::new().shutdown(shutdown).on_end_with(|request| {
        let route = route(&request.extensions);
        move |report| {
            let ending = report.ending().as_str();
            let labels = [("route", route), ("ending", ending.to_owned())];
            metrics::histogram!("sse_stream_duration_seconds", &labels).record(report.duration());
        }
    });
    routes.layer(completion).layer(from_fn(measure))
}

/// Records the latency of every response that is not an event stream.
async fn measure(request: Request, next: Next) -> Response {
    let (route, started) = (route(request.extensions()), Instant::now());
    let response = next.run(request).await;
    let content_type = response.headers().get(CONTENT_TYPE);
    let is_event_stream =
        content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    if !is_event_stream {
        metrics::histogram!("http_request_duration_seconds", "route" => route)
            .record(started.elapsed());
    }
    response
}

/// Returns the route as the router has it, such as `/events/{user}`.
fn route(extensions: &Extensions) -> String {
    let route = extensions.get::<MatchedPath>();
    route.map_or("none", MatchedPath::as_str).to_owned()
}
