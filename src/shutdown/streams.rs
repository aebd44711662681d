//! Counts the streams of a shutdown.

use std::{
    mem,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
};

#[cfg(feature = "tokio")]
use std::task::{Context, Poll};

use super::wake::{lock, wake_all};

/// Counts of the streams of a shutdown.
#[derive(Default)]
pub(crate) struct Streams {
    /// Streams that have not ended.
    open: AtomicUsize,
    /// Streams that have not been reported. A stream that has ended is reported a moment later.
    unreported: AtomicUsize,
    ended: AtomicUsize,
    /// The wakers of drains, which wait until every stream has been reported.
    drains: Mutex<Vec<Waker>>,
}

impl Streams {
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// A stream starts.
    pub(super) fn start(&self) {
        self.open.fetch_add(1, Ordering::SeqCst);
        self.unreported.fetch_add(1, Ordering::SeqCst);
    }

    /// A stream ends.
    pub(super) fn leave(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    /// A stream that has ended has been reported. Returns `true` if it was the last one.
    pub(super) fn reported(&self) -> bool {
        self.unreported.fetch_sub(1, Ordering::SeqCst) == 1
    }

    /// Wakes the drains that wait for the last report.
    pub(super) fn wake_drains(&self) {
        let drains = mem::take(&mut *lock(&self.drains));
        wake_all(drains.into_iter());
    }
}

#[cfg(feature = "tokio")]
impl Streams {
    pub(super) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// Completes when every stream has ended and has been reported.
    pub(super) fn poll_all_reported(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.unreported.load(Ordering::SeqCst) == 0 {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        let mut drains = lock(&self.drains);
        if !drains.iter().any(|drain| drain.will_wake(&waker)) {
            drains.push(waker);
        }
        drop(drains);
        // The last stream counts itself out before it takes the wakers. Therefore either this load sees that, or that stream
        // sees this waker.
        match self.unreported.load(Ordering::SeqCst) {
            0 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}
