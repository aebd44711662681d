//! Counts of event streams by their ending, for Prometheus.
//!
//! ```text
//! cargo run --features metrics,signal --example metrics [-- --port 3000]
//! curl -N http://127.0.0.1:3000/finite
//! curl http://127.0.0.1:3000/metrics
//! ```

use std::{convert::Infallible, error::Error, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::time;
use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};

#[path = "support/listen.rs"]
mod listen;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let prometheus = PrometheusBuilder::new().install_recorder()?;
    let shutdown = Shutdown::new();
    let listener = listen::listen(&["curl -N /finite", "curl /metrics"]).await?;
    axum::serve(listener, app(prometheus, &shutdown))
        .with_graceful_shutdown(shutdown.after(stop_signal()?))
        .await?;
    Ok(())
}

pub(crate) fn app(prometheus: PrometheusHandle, shutdown: &Shutdown) -> Router {
    Router::new()
        .route("/events", get(async || Sse::new(ticks())))
        .route("/finite", get(async || Sse::new(ticks().take(3))))
        .route("/empty", get(async || Sse::new(ticks().take(0))))
        .layer(SseCompletionLayer::new().shutdown(shutdown))
        .route("/metrics", get(async move || prometheus.render()))
}

fn ticks() -> impl Stream<Item = Result<Event, Infallible>> {
    stream::iter(1..).then(async |number: u32| {
        time::sleep(Duration::from_millis(300)).await;
        Ok(Event::default().data(number.to_string()))
    })
}
