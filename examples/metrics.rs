//! Metrics of event streams, for Prometheus: an observer records each ended stream with the crate `metrics`.
//!
//! ```text
//! cargo run --features signal --example metrics [-- --port 3000]
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
use tower_sse_completion::{Shutdown, SseCompletionLayer, StreamReport, stop_signal};

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
    let completion = SseCompletionLayer::new().shutdown(shutdown).on_end(record);
    let shutdown = shutdown.clone();
    let scrape = async move || {
        // The shutdown counts the open streams, so the gauge cannot drift.
        metrics::gauge!("sse_streams_open").set(shutdown.open_streams() as f64);
        prometheus.render()
    };
    Router::new()
        .route("/events", get(async || Sse::new(ticks())))
        .route("/finite", get(async || Sse::new(ticks().take(3))))
        .route("/empty", get(async || Sse::new(ticks().take(0))))
        .layer(completion)
        .route("/metrics", get(scrape))
}

/// Records a stream that has ended.
fn record(report: &StreamReport) {
    let ending = report.ending().as_str();
    let close_events = u64::from(report.close_event_sent());
    metrics::counter!("sse_streams_ended_total", "ending" => ending).increment(1);
    metrics::counter!("sse_close_events_sent_total").increment(close_events);
    metrics::histogram!("sse_stream_duration_seconds", "ending" => ending)
        .record(report.duration());
    if let Some(time) = report.time_to_first_event() {
        metrics::histogram!("sse_time_to_first_event_seconds").record(time);
    }
}

fn ticks() -> impl Stream<Item = Result<Event, Infallible>> {
    stream::iter(1..).then(async |number: u32| {
        time::sleep(Duration::from_millis(300)).await;
        Ok(Event::default().data(number.to_string()))
    })
}
