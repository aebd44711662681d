//! Records one stream while it runs, and reports it once.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

#[cfg(not(feature = "tokio"))]
use std::time::Instant;
#[cfg(feature = "tokio")]
use tokio::time::Instant;

use super::{
    ending::Ending,
    stream_report::{Counts, StreamReport},
    telemetry::Telemetry,
};

/// The user's observer, if there is one.
#[derive(Clone, Default)]
pub(crate) struct Observer(Option<Arc<Observe>>);

type Observe = dyn Fn(&StreamReport) + Send + Sync;

#[derive(Debug)]
pub(crate) struct Recorder {
    observer: Observer,
    telemetry: Telemetry,
    started: Instant,
    /// A body that is dropped without a poll is not reported.
    polled: bool,
    time_to_first_event: Option<Duration>,
    /// The ending, once it is decided. The last frame may still have to be returned.
    ending: Option<Ending>,
    close_event_sent: bool,
    /// Code of the user has panicked, so the stream has failed.
    panicked: bool,
    /// What has been forwarded, once nothing more is.
    counts: Option<Counts>,
}

impl Observer {
    pub(crate) fn new(observer: impl Fn(&StreamReport) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(observer)))
    }
}

impl Recorder {
    /// Starts to record a stream. Returns `None` if no observer and no telemetry would receive the report.
    pub(crate) fn new(observer: &Observer, telemetry: Telemetry) -> Option<Box<Self>> {
        (observer.0.is_some() || Telemetry::IS_ON).then(|| {
            Box::new(Self {
                observer: observer.clone(),
                telemetry,
                started: Instant::now(),
                polled: false,
                time_to_first_event: None,
                ending: None,
                close_event_sent: false,
                panicked: false,
                counts: None,
            })
        })
    }

    pub(crate) fn first_poll(&mut self) {
        if !self.polled {
            self.polled = true;
            self.telemetry.opened();
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

    /// Sets what the stream has forwarded. A stream that another one takes over keeps its own counts.
    pub(crate) fn count(&mut self, counts: Counts) {
        self.counts.get_or_insert(counts);
    }

    /// Reports the stream. Panics of the observer and of the telemetry are caught.
    pub(crate) fn finish(self) {
        if !self.polled {
            return;
        }
        let report = StreamReport {
            ending: self.ending.unwrap_or(Ending::Dropped),
            close_event_sent: self.close_event_sent,
            counts: self.counts.unwrap_or_default(),
            duration: self.started.elapsed(),
            time_to_first_event: self.time_to_first_event,
        };
        // This may run while a panic unwinds, when a second panic would abort the process. The panic hook has reported it.
        let _ = catch_unwind(AssertUnwindSafe(|| self.telemetry.ended(&report)));
        if let Some(observer) = &self.observer.0 {
            let _ = catch_unwind(AssertUnwindSafe(|| observer(&report)));
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Some(..)" } else { "None" })
    }
}
