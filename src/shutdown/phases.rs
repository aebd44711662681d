//! Futures that complete when a shutdown reaches a phase.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::waiters::{Phase, Shared, Waiter};
use crate::sync::Arc;

/// Future that completes when a [`Shutdown`](crate::Shutdown) begins to drain or closes. Returned by [`Shutdown::draining`](crate::Shutdown::draining).
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Draining {
    waiter: Waiter,
}

/// Future that completes when a [`Shutdown`](crate::Shutdown) closes. Returned by [`Shutdown::closed`](crate::Shutdown::closed).
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Closed {
    waiter: Waiter,
}

impl Draining {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            waiter: Waiter::new(shared, Phase::Draining),
        }
    }
}

impl Closed {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            waiter: Waiter::new(shared, Phase::Closed),
        }
    }
}

impl Future for Draining {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.waiter.poll(cx)
    }
}

impl Future for Closed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.waiter.poll(cx)
    }
}
