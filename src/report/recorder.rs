//! Records one stream while it runs, and reports it once.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use super::{
    ending::Ending,
    observer::StreamObserver,
    stream_report::{Counts, StreamReport},
    telemetry::Telemetry,
};
use crate::clock::Instant;

#[derive(Debug)]
pub(crate) struct Recorder {
    observer: Option<StreamObserver>,
    /// `None` if another stream reports in place of this one.
    telemetry: Option<Telemetry>,
    started: Instant,
    /// A body that is dropped without a poll is not reported.
    polled: bool,
    time_to_first_event: Option<Duration>,
    /// The ending, once it is decided. The last frame may still have to be returned.
    ending: Option<Ending>,
    close_event_sent: bool,
    /// Code of the user has panicked, so the stream has failed.
    panicked: bool,
    /// Counts of the forwarded frames and bytes, once the stream has ended.
    counts: Option<Counts>,
}

impl Recorder {
    /// Starts to record a stream, whose report this observer and the telemetry receive.
    pub(crate) fn new(observer: Option<StreamObserver>, telemetry: Option<Telemetry>) -> Box<Self> {
        Box::new(Self {
            observer,
            telemetry,
            started: Instant::now(),
            polled: false,
            time_to_first_event: None,
            ending: None,
            close_event_sent: false,
            panicked: false,
            counts: None,
        })
    }

    pub(crate) fn first_poll(&mut self) {
        if !self.polled {
            self.polled = true;
            if let Some(telemetry) = &self.telemetry {
                telemetry.opened();
            }
        }
    }

    pub(crate) fn first_event(&mut self) {
        let started = self.started;
        self.time_to_first_event
            .get_or_insert_with(|| started.elapsed());
    }

    /// Sets the ending, unless code of the user has panicked.
    pub(crate) fn ended(&mut self, ending: Ending, close_event_sent: bool) {
        if !self.panicked {
            self.ending = Some(ending);
            self.close_event_sent = close_event_sent;
        }
    }

    /// Returns `true` once the ending is decided.
    pub(crate) fn has_ended(&self) -> bool {
        self.ending.is_some()
    }

    /// Notes a panic of the upstream or of the cancellation.
    pub(crate) fn panicked(&mut self) {
        self.ended(Ending::Failed, false);
        self.panicked = true;
    }

    /// Sets what the stream has forwarded. A stream that another one takes over keeps its own counts, except for what the
    /// other one has sent.
    pub(crate) fn count(&mut self, counts: Counts) {
        self.counts.get_or_insert(counts).bytes_sent = counts.bytes_sent;
    }

    /// Returns the report of a stream that is about to end like this.
    pub(crate) fn report(&self, ending: Ending, counts: Counts) -> StreamReport {
        StreamReport {
            close_event_sent: self.close_event_sent,
            duration: self.started.elapsed(),
            time_to_first_event: self.time_to_first_event,
            ..StreamReport::of(ending, counts)
        }
    }

    /// Reports the stream. Panics of the observer and of the telemetry are caught.
    pub(crate) fn finish(self) {
        if !self.polled {
            return;
        }
        let ending = self.ending.unwrap_or(Ending::Dropped);
        let report = self.report(ending, self.counts.unwrap_or_default());
        // This may run while a panic unwinds, when a second panic would abort the process. The panic hook has reported it.
        if let Some(telemetry) = self.telemetry {
            let _ = catch_unwind(AssertUnwindSafe(|| telemetry.ended(&report)));
        }
        if let Some(observer) = self.observer {
            let _ = catch_unwind(AssertUnwindSafe(|| observer.observe(&report)));
        }
    }
}
