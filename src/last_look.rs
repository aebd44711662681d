//! The last look at an upstream that is going to be dropped: does it have nothing, or does it only say so?
//!
//! A future that gives way to other tasks is pending, and wakes the task at once. A tokio channel that holds a message is
//! pending where the budget is spent, which does not count here.

use std::task::{Context, Poll, Waker};
#[cfg(feature = "tokio")]
use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Wake,
};

#[cfg(feature = "tokio")]
use crate::budget::poll_unconstrained;

/// Shared by all streams of a layer: when another stream's upstream wakes, this one's is asked once more in vain.
#[derive(Debug, Clone)]
pub(crate) struct LastLook {
    #[cfg(feature = "tokio")]
    wakes: Arc<Wakes>,
    #[cfg(feature = "tokio")]
    waker: Waker,
}

#[cfg(feature = "tokio")]
#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

#[cfg(feature = "tokio")]
impl LastLook {
    pub(crate) fn new() -> Self {
        let wakes = Arc::<Wakes>::default();
        Self {
            waker: Waker::from(Arc::clone(&wakes)),
            wakes,
        }
    }

    /// Polls, and returns beside the result whether an upstream that is pending has to be asked again.
    pub(crate) fn poll<T>(&self, poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> (Poll<T>, bool) {
        let wakes = self.wakes.0.load(Ordering::SeqCst);
        let mut counting = Context::from_waker(&self.waker);
        let polled = poll_unconstrained(future::poll_fn(poll), &mut counting);
        let ask_again = polled.is_pending() && self.wakes.0.load(Ordering::SeqCst) != wakes;
        (polled, ask_again)
    }
}

#[cfg(not(feature = "tokio"))]
impl LastLook {
    pub(crate) fn new() -> Self {
        Self {}
    }

    /// Without tokio nobody knows of a budget, so an upstream that is pending is always asked again.
    pub(crate) fn poll<T>(
        &self,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> (Poll<T>, bool) {
        (poll(&mut Context::from_waker(Waker::noop())), true)
    }
}

#[cfg(feature = "tokio")]
impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
