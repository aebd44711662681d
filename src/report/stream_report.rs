//! The account of one stream: kept while it runs, and reported once.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

#[cfg(not(feature = "tokio"))]
use std::time::Instant;
#[cfg(feature = "tokio")]
use tokio::time::Instant;

use crate::{config::OnEnd, report::ending::Ending, report::telemetry::Telemetry};

/// How an event stream went, for [`on_end`](crate::SseCompletionLayer::on_end).
///
/// ```
/// use tower_sse_completion::SseCompletionLayer;
///
/// let layer = SseCompletionLayer::new().on_end(|report| {
///     println!("{} after {:?}, {} bytes", report.ending(), report.duration(), report.bytes());
/// });
/// # let _ = layer;
/// ```
#[derive(Debug, Clone)]
pub struct StreamReport {
    ending: Ending,
    close_event_sent: bool,
    delivered: bool,
    data_frames: u64,
    bytes: u64,
    duration: Duration,
    time_to_first_event: Option<Duration>,
}

/// What is known of a stream before its end. Dropped with a body that was never polled, it says nothing.
#[derive(Debug)]
pub(crate) struct Account {
    started: Instant,
    polled: bool,
    time_to_first_event: Option<Duration>,
    /// Decided, while something may still have to go out.
    ending: Option<Ending>,
    close_event_sent: bool,
    telemetry: Telemetry,
}

impl StreamReport {
    /// How the stream ended.
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// Whether a close event was handed to the server.
    pub fn close_event_sent(&self) -> bool {
        self.close_event_sent
    }

    /// Whether any event of the upstream was delivered: its blank line was handed to the server, and it had data.
    pub fn delivered(&self) -> bool {
        self.delivered
    }

    /// How many data frames of the upstream were forwarded, in whole or in part. Empty ones do not count, nor do the close
    /// event and keep-alive comments.
    pub fn data_frames(&self) -> u64 {
        self.data_frames
    }

    /// How many bytes of the upstream were forwarded.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// From the response to the end of the stream.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// From the response to the frame that delivered the first event, if one did.
    pub fn time_to_first_event(&self) -> Option<Duration> {
        self.time_to_first_event
    }
}

impl Account {
    pub(crate) fn open(telemetry: Telemetry) -> Self {
        Self {
            started: Instant::now(),
            polled: false,
            time_to_first_event: None,
            ending: None,
            close_event_sent: false,
            telemetry,
        }
    }

    pub(crate) fn polled(&mut self) {
        if !self.polled {
            self.polled = true;
            self.telemetry.opened();
        }
    }

    pub(crate) fn delivered(&mut self) {
        let started = self.started;
        self.time_to_first_event
            .get_or_insert_with(|| started.elapsed());
    }

    pub(crate) fn decided(&mut self, ending: Ending, close_event_sent: bool) {
        self.ending = Some(ending);
        self.close_event_sent = close_event_sent;
    }

    pub(crate) fn report(self, on_end: &OnEnd, data_frames: u64, bytes: u64, delivered: bool) {
        if !self.polled {
            return;
        }
        let report = StreamReport {
            ending: self.ending.unwrap_or(Ending::Dropped),
            close_event_sent: self.close_event_sent,
            delivered,
            data_frames,
            bytes,
            duration: self.started.elapsed(),
            time_to_first_event: self.time_to_first_event,
        };
        // This may run while a panic unwinds, where a second one would end the process. The panic hook has told of it.
        let _ = catch_unwind(AssertUnwindSafe(|| self.telemetry.ended(&report)));
        if let Some(on_end) = &on_end.0 {
            let _ = catch_unwind(AssertUnwindSafe(|| on_end(&report)));
        }
    }
}
