use tower_sse_completion::{Ending, Shutdown, SseCompletionLayer, StreamReport};

fn logged(
    shutdown: &Shutdown,
    log: impl Fn(&'static str) + Send + Sync + 'static,
) -> SseCompletionLayer {
    let process = shutdown.clone();
    let layer = SseCompletionLayer::new().shutdown(shutdown);
    layer.on_end(move |report| log(reason(report, &process)))
}

fn reason(report: &StreamReport, process: &Shutdown) -> &'static str {
    match report.ending() {
        // Other shutdowns of the stream are those of its session.
        Ending::Cancelled if process.is_draining() => "deploy",
        Ending::Cancelled => "logout",
        ending => ending.as_str(),
    }
}
