//! Reports for the crates `tracing` and `metrics`, each with its feature.

use super::stream_report::StreamReport;

/// The span of the request, for the report of its stream. Empty without the feature `tracing`.
#[derive(Debug, Clone)]
pub(crate) struct Telemetry {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

impl Telemetry {
    /// `true` if one of the features is enabled, so that every stream is recorded.
    pub(crate) const IS_ON: bool = cfg!(any(feature = "tracing", feature = "metrics"));

    /// Captures the current span. Called with the request.
    pub(crate) fn of_request() -> Self {
        Self {
            #[cfg(feature = "tracing")]
            span: tracing::Span::current(),
        }
    }

    /// Describes the metrics to the recorder that is installed.
    pub(crate) fn describe() {
        #[cfg(feature = "metrics")]
        {
            use metrics::Unit::{Count, Seconds};

            metrics::describe_gauge!("sse_streams_open", Count, "Event streams that are open.");
            metrics::describe_counter!(
                "sse_streams_ended_total",
                Count,
                "Event streams that have ended, by ending."
            );
            metrics::describe_counter!(
                "sse_close_events_sent_total",
                Count,
                "Close events that have been sent."
            );
            metrics::describe_histogram!(
                "sse_stream_duration_seconds",
                Seconds,
                "Time from the response to the end of an event stream, by ending."
            );
            metrics::describe_histogram!(
                "sse_time_to_first_event_seconds",
                Seconds,
                "Time from the response to the first event of a stream."
            );
            metrics::describe_counter!(
                "sse_connections_cut_total",
                Count,
                "Connections that a drain or a write timeout has cut, by reason."
            );
        }
    }

    pub(crate) fn opened(&self) {
        #[cfg(feature = "metrics")]
        metrics::gauge!("sse_streams_open").increment(1);
    }

    #[cfg_attr(
        not(any(feature = "tracing", feature = "metrics")),
        allow(unused_variables, reason = "no feature is enabled")
    )]
    pub(crate) fn ended(&self, report: &StreamReport) {
        #[cfg(feature = "metrics")]
        {
            let ending = report.ending().as_str();
            metrics::gauge!("sse_streams_open").decrement(1);
            metrics::counter!("sse_streams_ended_total", "ending" => ending).increment(1);
            metrics::counter!("sse_close_events_sent_total")
                .increment(u64::from(report.close_event_sent()));
            metrics::histogram!("sse_stream_duration_seconds", "ending" => ending)
                .record(report.duration());
            if let Some(time) = report.time_to_first_event() {
                metrics::histogram!("sse_time_to_first_event_seconds").record(time);
            }
        }
        #[cfg(feature = "tracing")]
        self.span.in_scope(|| trace(report));
    }
}

#[cfg(feature = "tracing")]
fn trace(report: &StreamReport) {
    use super::ending::Ending;

    // The level of an event must be a constant.
    macro_rules! event {
        ($level:ident) => {
            tracing::event!(
                target: "tower_sse_completion",
                tracing::Level::$level,
                sse.ending = report.ending().as_str(),
                sse.close_event_sent = report.close_event_sent(),
                sse.delivered = report.delivered(),
                sse.data_frames = report.data_frames(),
                sse.bytes_received = report.bytes_received(),
                sse.duration = report.duration().as_secs_f64(),
                sse.time_to_first_event =
                    report.time_to_first_event().map(|time| time.as_secs_f64()),
                http.response.body.size = report.bytes_sent(),
                error.type = (report.ending() == Ending::Failed).then_some("upstream"),
                "event stream ended"
            )
        };
    }
    match report.ending() {
        Ending::Failed => event!(ERROR),
        Ending::Cancelled | Ending::Expired | Ending::Idle | Ending::Truncated => event!(INFO),
        Ending::Completed | Ending::Empty | Ending::Dropped => event!(DEBUG),
    }
}
