//! The metrics example: the metrics that Prometheus reads.

#[path = "../../examples/metrics.rs"]
#[allow(dead_code, reason = "main is not called")]
mod example;

use metrics_exporter_prometheus::PrometheusBuilder;
use testkit::server::{Version, serve};
use tower_sse_completion::Shutdown;

use super::receive_text;

#[tokio::test]
async fn prometheus_reads_the_counts_of_each_ending() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let prometheus = recorder.handle();
    // The server runs on this thread.
    let _recording = metrics::set_default_local_recorder(&recorder);
    let address = serve(example::app(prometheus, &Shutdown::new())).await;
    let get = async |path| receive_text(address, Version::Http1, "GET", path).await;

    assert_eq!(get("/finite").await, "data: 1\n\ndata: 2\n\ndata: 3\n\n");
    assert_eq!(get("/empty").await, "event: close\ndata:\n\n");
    let text = get("/metrics").await;
    for line in [
        "sse_streams_open 0",
        "sse_streams_ended_total{ending=\"completed\"} 1",
        "sse_streams_ended_total{ending=\"empty\"} 1",
        "sse_close_events_sent_total 1",
        "sse_stream_duration_seconds_count{ending=\"completed\"} 1",
        "sse_time_to_first_event_seconds_count 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}
