//! Counts one stream of a shutdown.

use std::{
    mem,
    task::{Context, Poll},
};

use super::waiters::{Phase, Shared, Waiter};
use crate::{sync::Arc, wire::close_event::CloseEvent};

/// A stream that watches a shutdown and, unless an inner layer does so, is counted by it.
///
/// Dropping the guard lets a waiting drain return, so the report of the stream is made first.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    waiter: Waiter,
    is_counted: bool,
    is_open: bool,
}

impl StreamGuard {
    /// Counts a stream that starts now, and that this phase of the shutdown ends.
    pub(crate) fn new(shared: &Arc<Shared>, phase: Phase) -> Self {
        shared.streams().start();
        Self {
            waiter: Waiter::new(shared, phase),
            is_counted: true,
            is_open: true,
        }
    }

    /// Watches the shutdown for a stream that an inner layer counts.
    pub(crate) fn uncounted(shared: &Arc<Shared>, phase: Phase) -> Self {
        Self {
            waiter: Waiter::new(shared, phase),
            is_counted: false,
            is_open: false,
        }
    }

    /// Returns `true` if the shutdown ends the stream.
    #[inline]
    pub(crate) fn has_fired(&self) -> bool {
        self.waiter.has_reached()
    }

    #[inline(always)]
    pub(crate) fn is_registered(&self, cx: &Context<'_>) -> bool {
        self.waiter.is_registered(cx)
    }

    #[inline]
    pub(crate) fn poll_fired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.waiter.poll(cx)
    }

    /// Returns the event with which the shutdown was closed or drained.
    pub(crate) fn close_event(&self) -> Option<CloseEvent> {
        self.waiter.shared().close_event().cloned()
    }

    /// Removes the stream from the count of open streams.
    pub(crate) fn leave(&mut self) {
        if mem::take(&mut self.is_open) {
            self.waiter.shared().streams().leave();
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.leave();
        let shared = self.waiter.shared();
        let is_last = self.is_counted && shared.streams().reported();
        if is_last && shared.has_reached(Phase::Draining) {
            shared.streams().wake_drains();
        }
    }
}
