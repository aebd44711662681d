use std::time::Duration;
use tokio::time::Instant;
use tower_sse_completion::SseCompletionLayer;

fn layer(record: impl Fn(Duration) + Clone + Send + Sync + 'static) -> SseCompletionLayer {
    SseCompletionLayer::new().on_end_with(move |_request| {
        let (record, requested) = (record.clone(), Instant::now());
        move |report| {
            if let Some(time) = report.time_to_first_event() {
                let before_response = requested.elapsed().saturating_sub(report.duration());
                record(before_response + time);
            }
        }
    })
}
