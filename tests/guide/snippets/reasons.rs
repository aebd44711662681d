use tower_sse_completion::{CloseEvent, StreamReport};

/// Returns `logged-out`, `restart`, or the ending of a stream without a close event.
fn reason(report: &StreamReport) -> &str {
    let close_event = report.close_event();
    close_event.map_or(report.ending().as_str(), CloseEvent::name)
}
