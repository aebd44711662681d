//! Counts the streams and the connections of a shutdown.

use std::{mem, task::Waker};

#[cfg(feature = "tokio")]
use std::task::{Context, Poll};

use super::wake::{lock, wake_all};
use crate::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

/// Counts of the streams and the connections of a shutdown.
#[derive(Default)]
pub(crate) struct Streams {
    started: AtomicUsize,
    ended: AtomicUsize,
    /// Streams that have not been reported. A stream that has ended is reported a moment later.
    unreported: AtomicUsize,
    /// Connections that have not been dropped.
    #[cfg(feature = "tokio")]
    connections: AtomicUsize,
    /// The wakers of drains, which wait until every stream has been reported and every connection has been dropped.
    drains: Mutex<Vec<Waker>>,
}

impl Streams {
    /// Returns the number of streams that have ended, and of those that are open, at one moment.
    pub(super) fn counts(&self) -> (usize, usize) {
        let mut ended = self.ended.load(Ordering::SeqCst);
        loop {
            let started = self.started.load(Ordering::SeqCst);
            // If no stream has ended in the meantime, both numbers are those of the moment of the second load.
            match self.ended.load(Ordering::SeqCst) {
                now if now == ended => return (ended, started.wrapping_sub(ended)),
                now => ended = now,
            }
        }
    }

    /// A stream starts.
    pub(super) fn start(&self) {
        self.started.fetch_add(1, Ordering::SeqCst);
        self.unreported.fetch_add(1, Ordering::SeqCst);
    }

    /// A stream ends.
    pub(super) fn leave(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    /// A stream that has ended has been reported. Returns `true` if it was the last one.
    pub(super) fn reported(&self) -> bool {
        self.unreported.fetch_sub(1, Ordering::SeqCst) == 1
    }

    /// Wakes the drains that wait for the last report, or for the last connection.
    pub(super) fn wake_drains(&self) {
        let drains = mem::take(&mut *lock(&self.drains));
        wake_all(drains.into_iter());
    }
}

#[cfg(feature = "tokio")]
impl Streams {
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// A connection starts.
    pub(super) fn connect(&self) {
        self.connections.fetch_add(1, Ordering::SeqCst);
    }

    /// A connection has been dropped. Returns `true` if it was the last one.
    pub(super) fn disconnect(&self) -> bool {
        self.connections.fetch_sub(1, Ordering::SeqCst) == 1
    }

    /// Completes when every stream has ended and has been reported.
    pub(super) fn poll_all_reported(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_drained(cx, || self.unreported.load(Ordering::SeqCst) == 0)
    }

    /// Completes when every stream has been reported, and every connection has been dropped.
    pub(super) fn poll_all_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_drained(cx, || {
            self.unreported.load(Ordering::SeqCst) == 0 && self.connections() == 0
        })
    }

    fn poll_drained(&self, cx: &mut Context<'_>, is_drained: impl Fn() -> bool) -> Poll<()> {
        if is_drained() {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        let mut drains = lock(&self.drains);
        if !drains.iter().any(|drain| drain.will_wake(&waker)) {
            drains.push(waker);
        }
        drop(drains);
        // The last stream and the last connection count themselves out before they take the wakers. Therefore either these
        // counts are seen here, or this waker is seen there.
        match is_drained() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}
