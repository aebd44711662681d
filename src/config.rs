//! Configuration of a layer, shared by all streams it wraps.

use std::{
    fmt,
    future::{self, Future},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use http::request::Parts;

#[cfg(feature = "tokio")]
use crate::deadlines::Deadlines;
use crate::{
    report::{LayerObserver, StreamReport},
    shutdown::phase::Shared,
    sync,
    wire::{close_event::CloseEvent, event_match::EventMatch},
};

#[derive(Clone, Default)]
pub(crate) struct Config {
    pub(crate) shutdowns: Vec<sync::Arc<Shared>>,
    pub(crate) cancellations: Vec<Arc<MakeCancellation>>,
    /// Chooses the streams that end as soon as a drain begins.
    pub(crate) ends_on_drain: Option<Arc<Choose>>,
    pub(crate) observer: LayerObserver,
    pub(crate) end_marks: Vec<EventMatch>,
    #[cfg(feature = "tokio")]
    pub(crate) deadlines: Deadlines,
    pub(crate) settings: Arc<Settings>,
}

/// Settings for which the innermost layer takes precedence. `None` means not set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) close_event: Option<CloseEventSource>,
    pub(crate) close_policy: ClosePolicy,
    /// In bytes.
    pub(crate) buffer_limit: Option<usize>,
}

/// Ends of the upstream after which a close event is written. `None` means not set.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ClosePolicy {
    pub(crate) on_empty: Option<bool>,
    pub(crate) on_completed: Option<bool>,
    pub(crate) on_truncated: Option<bool>,
    pub(crate) on_failed: Option<bool>,
}

/// Source of the close event of a stream, unless the response has a `CloseEvent` in its extensions.
#[derive(Clone)]
pub(crate) enum CloseEventSource {
    /// Streams have no close event.
    None,
    Same(CloseEvent),
    PerStream(Arc<dyn Fn(&StreamReport) -> CloseEvent + Send + Sync>),
}

/// A future of the user whose completion cancels a stream.
///
/// The mutex is never locked. Its only purpose is to make the future `Sync`, so that a body is `Sync` if its upstream is.
pub(crate) struct Cancellation(Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>);

pub(crate) type MakeCancellation = dyn Fn(&Parts) -> Cancellation + Send + Sync;
type Choose = dyn Fn(&Parts) -> bool + Send + Sync;

const DEFAULT_BUFFER_LIMIT: usize = 64 * 1024;

impl Cancellation {
    pub(crate) fn new(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Mutex::new(Box::pin(future)))
    }

    /// Joins two cancellations. The first that completes cancels the stream.
    pub(crate) fn or(mut self, mut other: Self) -> Self {
        Self::new(future::poll_fn(move |cx| match self.poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => other.poll(cx),
        }))
    }

    /// Polls the future. Must not be called after the future has completed.
    #[inline(always)]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let future = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        future.as_mut().poll(cx)
    }
}

impl Config {
    pub(crate) fn add_shutdown(&mut self, shutdown: &sync::Arc<Shared>) {
        let mut shutdowns = self.shutdowns.iter();
        if !shutdowns.any(|known| sync::Arc::ptr_eq(known, shutdown)) {
            self.shutdowns.push(sync::Arc::clone(shutdown));
        }
    }

    /// Returns `true` if a closure of the layer reads the head of the request.
    pub(crate) fn reads_request(&self) -> bool {
        !self.cancellations.is_empty()
            || self.ends_on_drain.is_some()
            || self.observer.is_per_request()
    }
}

impl Settings {
    /// Merges the settings of two layers around one stream. `self` is the inner layer.
    pub(crate) fn merge_outer(&self, outer: &Self) -> Self {
        let (inner, of_outer) = (&self.close_policy, &outer.close_policy);
        Self {
            close_event: self.close_event.clone().or(outer.close_event.clone()),
            close_policy: ClosePolicy {
                on_empty: inner.on_empty.or(of_outer.on_empty),
                on_completed: inner.on_completed.or(of_outer.on_completed),
                on_truncated: inner.on_truncated.or(of_outer.on_truncated),
                on_failed: inner.on_failed.or(of_outer.on_failed),
            },
            buffer_limit: self.buffer_limit.or(outer.buffer_limit),
        }
    }

    pub(crate) fn buffer_limit(&self) -> usize {
        self.buffer_limit.unwrap_or(DEFAULT_BUFFER_LIMIT)
    }

    /// Returns `false` after `close_event(None)`. A `CloseEvent` in the extensions of a response is still sent.
    pub(crate) fn has_close_event(&self) -> bool {
        !matches!(self.close_event, Some(CloseEventSource::None))
    }

    /// Returns `true` if the close event is made from the report of the stream.
    pub(crate) fn close_event_needs_report(&self) -> bool {
        matches!(self.close_event, Some(CloseEventSource::PerStream(_)))
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Config");
        debug
            .field("shutdowns", &self.shutdowns.len())
            .field("cancellations", &self.cancellations.len())
            .field("ends_on_drain", &self.ends_on_drain.is_some())
            .field("observer", &self.observer)
            .field("end_marks", &self.end_marks);
        #[cfg(feature = "tokio")]
        debug.field("deadlines", &self.deadlines);
        debug.field("settings", &self.settings).finish()
    }
}

impl fmt::Debug for CloseEventSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Same(event) => event.fmt(f),
            Self::PerStream(_) => f.write_str("PerStream(..)"),
        }
    }
}
