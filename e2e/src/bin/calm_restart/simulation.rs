//! A drain on tokio's paused clock, with the layer and its shutdown, and without sockets.

use std::{convert::Infallible, future::ready, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{Request, Response, header},
};
use futures_util::{StreamExt, stream, stream::FuturesUnordered};
use http_body_util::BodyExt;
use testkit::decoder;
use tokio::{runtime::Builder, time::Instant};
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};

use crate::{
    Result,
    reconnects::Outcome,
    site::{self, Retry},
};

/// Ends so many subscriptions over a window. A client reconnects as soon as the `retry` of its stream permits.
pub fn run(clients: usize, window: Duration, retry: Retry) -> Result<Outcome> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(simulate(clients, window, retry))
}

async fn simulate(clients: usize, window: Duration, retry: Retry) -> Result<Outcome> {
    let shutdown = Shutdown::new();
    let layer = SseCompletionLayer::new()
        .shutdown(&shutdown)
        .end_on_drain(|_| true)
        .close_event(CloseEvent::new().retry_between(retry[0]..=retry[1])?);
    let service = layer.layer(service_fn(|_request: Request<()>| ready(subscription())));
    let streams = FuturesUnordered::new();
    for _ in 0..clients {
        let response = service.clone().oneshot(Request::new(())).await?;
        streams.push(async {
            let body = response.into_body().collect().await;
            let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
            (decoder::decode(&bytes), Instant::now())
        });
    }
    let start = Instant::now();
    let drain = shutdown.drain(Duration::ZERO).spread_over(window);
    let (streams, drained) = tokio::join!(streams.collect::<Vec<_>>(), drain);
    let ends = streams.into_iter().filter_map(|(stream, end)| {
        let is_closed = stream.events.last().is_some_and(site::is_close_event);
        let retry = stream.retry.filter(|_| is_closed)?;
        Some((end + retry - start, retry))
    });
    let (reconnects, offline): (Vec<_>, Vec<_>) = ends.unzip();
    Ok(Outcome {
        ended: drained.ended(),
        closed: reconnects.len(),
        reconnects,
        offline,
    })
}

/// Returns a stream that never ends on its own.
fn subscription() -> std::result::Result<Response<Body>, Infallible> {
    let body = Body::from_stream(stream::pending::<std::result::Result<Bytes, Infallible>>());
    let mut response = Response::new(body);
    let event_stream = header::HeaderValue::from_static("text/event-stream");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, event_stream);
    Ok(response)
}
