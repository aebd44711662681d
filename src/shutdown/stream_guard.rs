//! Counts one stream of a shutdown.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use super::waiters::{CLOSED, DRAINING, Shared, Waiter};
use crate::wire::close_event::CloseEvent;

/// A stream that watches a shutdown and is counted by it.
///
/// Dropping the guard lets a waiting drain return, so the report of the stream comes before that.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    waiter: Waiter<CLOSED>,
    is_open: bool,
}

impl StreamGuard {
    /// Counts a stream that starts now.
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        shared.streams().start();
        Self {
            waiter: Waiter::new(shared),
            is_open: true,
        }
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.waiter.has_reached()
    }

    #[inline(always)]
    pub(crate) fn is_registered(&self, cx: &Context<'_>) -> bool {
        self.waiter.is_registered(cx)
    }

    #[inline]
    pub(crate) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.waiter.poll(cx)
    }

    /// Returns the event with which the shutdown was closed.
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
        if shared.streams().reported() && shared.has_reached(DRAINING) {
            shared.streams().wake_drains();
        }
    }
}
