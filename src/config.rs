//! Configuration of a layer, shared by all streams it wraps.

use std::{fmt, sync::Arc};

#[cfg(feature = "tokio")]
use crate::deadlines::Deadlines;
use crate::{
    coop::FinalPoll,
    report::{ending::Ending, recorder::Observer},
    shutdown::Shutdown,
    wire::close_event::CloseEvent,
};

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) close_event: CloseEventSource,
    pub(crate) close_policy: ClosePolicy,
    /// In bytes.
    pub(crate) buffer_limit: usize,
    pub(crate) observer: Observer,
    pub(crate) final_poll: FinalPoll,
    pub(crate) shutdowns: Arc<[Shutdown]>,
    #[cfg(feature = "tokio")]
    pub(crate) deadlines: Deadlines,
}

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
    PerStream(Arc<dyn Fn(Ending) -> CloseEvent + Send + Sync>),
}

impl Config {
    pub(crate) fn add_shutdown(&mut self, shutdown: &Shutdown) {
        if !self.shutdowns.iter().any(|known| known.is(shutdown)) {
            let shutdowns = self.shutdowns.iter().chain([shutdown]);
            self.shutdowns = shutdowns.cloned().collect();
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            close_event: CloseEventSource::Same(CloseEvent::new()),
            close_policy: ClosePolicy::default(),
            buffer_limit: 64 * 1024,
            observer: Observer::default(),
            final_poll: FinalPoll::new(),
            shutdowns: Arc::default(),
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

impl CloseEventSource {
    pub(crate) fn make(&self, ending: Ending) -> CloseEvent {
        match self {
            Self::Same(event) => event.clone(),
            Self::PerStream(make) => make(ending),
        }
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
