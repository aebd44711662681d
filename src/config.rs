//! What a layer was told, shared by all of its streams.

use std::{fmt, sync::Arc};

use crate::{
    coop::LastLook, report::ending::Ending, report::stream_report::StreamReport,
    wire::close_event::CloseEvent,
};
#[cfg(feature = "tokio")]
use crate::{deadlines::Deadlines, shutdown::Shutdown};

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) close_event: CloseEventSource,
    pub(crate) close_on_empty: bool,
    pub(crate) close_on_completed: bool,
    pub(crate) close_on_failed: bool,
    /// In bytes.
    pub(crate) hold_limit: usize,
    pub(crate) on_end: OnEnd,
    pub(crate) last_look: LastLook,
    #[cfg(feature = "tokio")]
    pub(crate) shutdowns: Vec<Shutdown>,
    #[cfg(feature = "tokio")]
    pub(crate) deadlines: Deadlines,
}

/// The user's observer, if there is one.
#[derive(Clone, Default)]
pub(crate) struct OnEnd(pub(crate) Option<Arc<Observer>>);

pub(crate) type Observer = dyn Fn(&StreamReport) + Send + Sync;

/// Where the close event of a stream comes from, unless its response brought one.
#[derive(Clone)]
pub(crate) enum CloseEventSource {
    Same(CloseEvent),
    PerStream(Arc<dyn Fn(Ending) -> CloseEvent + Send + Sync>),
}

impl Config {
    pub(crate) fn closes_on(&self, ending: Ending) -> bool {
        match ending {
            Ending::Completed => self.close_on_completed,
            Ending::Empty => self.close_on_empty,
            Ending::Cancelled | Ending::Expired | Ending::Idle => true,
            Ending::Failed => self.close_on_failed,
            Ending::Dropped => false,
        }
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn has_shutdown(&self, shutdown: &Shutdown) -> bool {
        self.shutdowns.iter().any(|one| one.is(shutdown))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            close_event: CloseEventSource::Same(CloseEvent::new()),
            close_on_empty: true,
            close_on_completed: false,
            close_on_failed: false,
            hold_limit: 64 * 1024,
            on_end: OnEnd::default(),
            last_look: LastLook::new(),
            #[cfg(feature = "tokio")]
            shutdowns: Vec::new(),
            #[cfg(feature = "tokio")]
            deadlines: Deadlines::default(),
        }
    }
}

impl CloseEventSource {
    pub(crate) fn close_event(&self, ending: Ending) -> CloseEvent {
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

impl fmt::Debug for OnEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Some(..)" } else { "None" })
    }
}
