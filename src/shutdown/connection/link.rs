//! The part of a connection that knows its shutdown and its write timeout.

use std::{
    io::{Error, ErrorKind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    task::coop,
    time::{Sleep, sleep},
};

use crate::{
    coop::poll_unconstrained,
    shutdown::waiters::{Phase, Shared, Waiter},
};

/// Counts a connection, and decides when it fails.
///
/// The reader and the writer may be two tasks, so each has a waiter.
#[derive(Debug)]
pub(super) struct Link {
    reader: Waiter,
    writer: Waiter,
    write_timeout: Option<Duration>,
    /// A write that is pending, if there is a timeout.
    pending: Option<PendingWrite>,
    has_timed_out: bool,
}

/// Kinds of pending writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Accepts bytes.
    Write,
    /// A flush or a shutdown, which sends bytes that have been accepted.
    Flush,
}

#[derive(Debug)]
struct PendingWrite {
    /// The operation that was pending first.
    operation: Operation,
    timer: Pin<Box<Sleep>>,
}

impl Link {
    /// Counts a connection that starts now.
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.streams().connect();
        Self {
            reader: Waiter::new(shared, Phase::Cut),
            writer: Waiter::new(shared, Phase::Cut),
            write_timeout: None,
            pending: None,
            has_timed_out: false,
        }
    }

    pub(super) fn set_write_timeout(&mut self, limit: Duration) {
        self.write_timeout = Some(limit);
    }

    /// Fails once the connection is cut or has timed out.
    #[inline(always)]
    pub(super) fn check(&self) -> Result<(), Error> {
        match self.has_timed_out || self.reader.shared().has_reached(Phase::Cut) {
            true => Err(self.error()),
            false => Ok(()),
        }
    }

    #[cold]
    fn error(&self) -> Error {
        match self.has_timed_out {
            true => Error::new(
                ErrorKind::TimedOut,
                "the client does not read: the connection has made no progress within its write timeout",
            ),
            false => Error::new(
                ErrorKind::ConnectionAborted,
                "the server has shut down and has cut the connection",
            ),
        }
    }

    /// Completes with an error when the connection is cut. Called when a read is pending.
    #[inline]
    pub(super) fn poll_read_pending(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.reader.poll_registered(cx).map(|()| self.error())
    }

    /// Completes with an error when the connection is cut, or when the timeout is over. Called when a write is pending.
    #[inline]
    pub(super) fn poll_pending(
        &mut self,
        cx: &mut Context<'_>,
        operation: Operation,
    ) -> Poll<Error> {
        if self.writer.poll_registered(cx).is_ready() || self.poll_timeout(cx, operation).is_ready()
        {
            return Poll::Ready(self.error());
        }
        Poll::Pending
    }

    fn poll_timeout(&mut self, cx: &mut Context<'_>, operation: Operation) -> Poll<()> {
        let Some(limit) = self.write_timeout else {
            return Poll::Pending;
        };
        let pending = self.pending.get_or_insert_with(|| PendingWrite {
            operation,
            timer: Box::pin(sleep(limit)),
        });
        // With the budget exhausted, the timer would not register this task.
        if poll_unconstrained(pending.timer.as_mut(), cx).is_pending() {
            return Poll::Pending;
        }
        if !coop::has_budget_remaining() {
            // The write may be pending because of the budget alone. It is polled again with a new one.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.pending = None;
        self.has_timed_out = true;
        self.reader.wake();
        record_cut("write_timeout", 1);
        Poll::Ready(())
    }

    /// Notes that a write has accepted bytes, or that a flush has completed.
    #[inline(always)]
    pub(super) fn progressed(&mut self, operation: Operation) {
        if self.pending.is_some() {
            self.stop_timer(operation);
        }
    }

    #[cold]
    fn stop_timer(&mut self, operation: Operation) {
        // The flush of a socket completes at once, and says nothing about a write that is pending.
        self.pending
            .take_if(|pending| operation == Operation::Write || pending.operation == operation);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let shared = self.reader.shared();
        if shared.streams().disconnect() && shared.has_reached(Phase::Draining) {
            shared.streams().wake_drains();
        }
    }
}

/// Records connections that are cut for this reason.
#[cfg_attr(
    not(feature = "metrics"),
    allow(unused_variables, reason = "the feature is not enabled")
)]
pub(super) fn record_cut(reason: &'static str, connections: usize) {
    #[cfg(feature = "metrics")]
    if connections > 0 {
        metrics::counter!("sse_connections_cut_total", "reason" => reason)
            .increment(connections as u64);
    }
}
