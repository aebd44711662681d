//! Configuration of a layer, shared by all streams it wraps.

use std::{fmt, sync::Arc};

use http::request::Parts;

#[cfg(feature = "tokio")]
use crate::deadlines::Deadlines;
use crate::{
    coop::FinalPoll,
    report::{LayerObserver, StreamReport},
    shutdown::Shutdown,
    wire::close_event::CloseEvent,
};

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) close_event: CloseEventSource,
    pub(crate) close_policy: ClosePolicy,
    /// In bytes.
    pub(crate) buffer_limit: usize,
    pub(crate) observer: LayerObserver,
    pub(crate) final_poll: FinalPoll,
    pub(crate) shutdowns: Arc<[Shutdown]>,
    /// Chooses the streams that end as soon as a drain begins.
    pub(crate) ends_on_drain: Option<Arc<Choose>>,
    #[cfg(feature = "tokio")]
    pub(crate) deadlines: Deadlines,
}

type Choose = dyn Fn(&Parts) -> bool + Send + Sync;

/// The ends of an upstream at which a close event is due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClosePolicy {
    pub(crate) on_empty: bool,
    pub(crate) on_completed: bool,
    pub(crate) on_truncated: bool,
    pub(crate) on_failed: bool,
}

/// Source of the close event of a stream whose response has not brought its own.
#[derive(Clone)]
pub(crate) enum CloseEventSource {
    Same(CloseEvent),
    PerStream(Arc<dyn Fn(&StreamReport) -> CloseEvent + Send + Sync>),
}

impl Config {
    pub(crate) fn add_shutdown(&mut self, shutdown: &Shutdown) {
        if !self.shutdowns.iter().any(|known| known.is(shutdown)) {
            let shutdowns = self.shutdowns.iter().chain([shutdown]);
            self.shutdowns = shutdowns.cloned().collect();
        }
    }

    /// Returns `true` if a closure of the layer chooses by the request, cancellations aside.
    pub(crate) fn reads_request(&self) -> bool {
        self.ends_on_drain.is_some() || self.observer.is_per_request()
    }

    /// Returns `true` if a stream has to be recorded for its close event.
    pub(crate) fn close_event_needs_report(&self) -> bool {
        matches!(self.close_event, CloseEventSource::PerStream(_))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            close_event: CloseEventSource::Same(CloseEvent::new()),
            close_policy: ClosePolicy::default(),
            buffer_limit: 64 * 1024,
            observer: LayerObserver::default(),
            final_poll: FinalPoll::new(),
            shutdowns: Arc::default(),
            ends_on_drain: None,
            #[cfg(feature = "tokio")]
            deadlines: Deadlines::default(),
        }
    }
}

impl Default for ClosePolicy {
    fn default() -> Self {
        Self {
            on_empty: true,
            on_completed: false,
            on_truncated: false,
            on_failed: false,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Config");
        debug
            .field("close_event", &self.close_event)
            .field("close_policy", &self.close_policy)
            .field("buffer_limit", &self.buffer_limit)
            .field("observer", &self.observer)
            .field("shutdowns", &self.shutdowns)
            .field("ends_on_drain", &self.ends_on_drain.is_some());
        #[cfg(feature = "tokio")]
        debug.field("deadlines", &self.deadlines);
        debug.finish_non_exhaustive()
    }
}

impl fmt::Debug for CloseEventSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same(event) => event.fmt(f),
            Self::PerStream(_) => f.write_str("PerStream(..)"),
        }
    }
}
