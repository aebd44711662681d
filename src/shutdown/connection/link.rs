//! The link of a connection to its shutdown, with its write timeout.

use std::{
    io::{Error, ErrorKind},
    pin::Pin,
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
    sync::Arc,
};

/// Counts a connection, and decides when it fails.
///
/// The reader and the writer may be two tasks, so each has a waiter.
#[derive(Debug)]
pub(super) struct Link {
    reader: Waiter,
    writer: Waiter,
    write_timeout: Option<Duration>,
    stall: Stall,
}

/// The state of the write timeout.
#[derive(Debug)]
enum Stall {
    /// No write is pending, or there is no timeout.
    None,
    /// A write is pending. The operation is the one that was pending first.
    Pending {
        operation: Operation,
        timer: Pin<Box<Sleep>>,
    },
    /// A write was pending for too long.
    TimedOut,
}

/// Kinds of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Accepts bytes.
    Write,
    /// A flush or a shutdown, which sends bytes that have been accepted.
    Flush,
}

impl Link {
    /// Counts a connection that starts now.
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.connect();
        Self {
            reader: Waiter::new(shared, Phase::Cut),
            writer: Waiter::new(shared, Phase::Cut),
            write_timeout: None,
            stall: Stall::None,
        }
    }

    pub(super) fn set_write_timeout(&mut self, limit: Duration) {
        self.write_timeout = Some(limit);
    }

    /// Returns `true` if the connection works and no write is timed, as nearly always.
    #[inline(always)]
    pub(super) fn is_clear(&self) -> bool {
        matches!(self.stall, Stall::None) && !self.reader.shared().has_reached(Phase::Cut)
    }

    /// Fails once the connection is cut or has timed out.
    pub(super) fn check(&self) -> Result<(), Error> {
        let has_timed_out = matches!(self.stall, Stall::TimedOut);
        match has_timed_out || self.reader.shared().has_reached(Phase::Cut) {
            true => Err(self.error()),
            false => Ok(()),
        }
    }

    #[cold]
    fn error(&self) -> Error {
        match self.stall {
            Stall::TimedOut => Error::new(
                ErrorKind::TimedOut,
                "the client does not read: the connection has made no progress within its write timeout",
            ),
            _ => Error::new(
                ErrorKind::ConnectionAborted,
                "the server has shut down and has cut the connection",
            ),
        }
    }

    /// Returns `true` if this task is woken when the connection fails.
    #[inline(always)]
    pub(super) fn is_reader_registered(&self, cx: &Context<'_>) -> bool {
        self.reader.is_registered(cx)
    }

    /// Registers the task of a read that is pending. Fails if the connection has been cut in the meantime.
    #[cold]
    pub(super) fn register_reader<T>(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Error>> {
        self.reader.poll_registered(cx).map(|()| Err(self.error()))
    }

    /// Completes with an error when the connection is cut, or when the timeout is over. Called when a write is pending.
    pub(super) fn poll_write_pending(
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
        if matches!(self.stall, Stall::None) {
            let timer = Box::pin(sleep(limit));
            self.stall = Stall::Pending { operation, timer };
        }
        if let Stall::Pending { timer, .. } = &mut self.stall {
            // With the budget exhausted, the timer would not register this task.
            if poll_unconstrained(timer.as_mut(), cx).is_pending() {
                return Poll::Pending;
            }
            if !coop::has_budget_remaining() {
                // The write may be pending because of the budget alone. It is polled again with a new one.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.stall = Stall::TimedOut;
            self.reader.wake();
            record_cut("write_timeout", 1);
        }
        Poll::Ready(())
    }

    /// Notes that a write has accepted bytes, or that a flush has completed.
    pub(super) fn progressed(&mut self, progress: Operation) {
        if let Stall::Pending { operation, .. } = self.stall {
            // The flush of a socket completes at once, and is no progress of a pending write.
            if progress == Operation::Write || progress == operation {
                self.stall = Stall::None;
            }
        }
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
