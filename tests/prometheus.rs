//! The metrics example: what Prometheus reads.

#[path = "../examples/metrics.rs"]
#[allow(dead_code, reason = "main is not called")]
mod metrics_example;

use metrics_exporter_prometheus::PrometheusBuilder;
use testkit::server::{Version, receive, request, serve};
use tower_sse_completion::Shutdown;

#[tokio::test]
async fn prometheus_reads_how_streams_have_ended() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let prometheus = recorder.handle();
    // The server is on this thread.
    let _recording = metrics::set_default_local_recorder(&recorder);
    let address = serve(metrics_example::app(prometheus, &Shutdown::new())).await;
    let get = async |path| {
        let response = request(address, Version::Http1, "GET", path).await;
        receive(response.into_body()).await.text()
    };

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
