//! The last look at an upstream that is going to be dropped: does it have nothing, or does it only say so?
//!
//! With tokio's cooperative budget spent, a channel that holds a message is pending, and so is a future that gives way to
//! other tasks. Both wake the task: such a future at once, but tokio only when the task has yielded. The budget is not
//! ignored here, as it is elsewhere, because it may be all that bounds a poll of the upstream: of a filter, say.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll},
};
#[cfg(feature = "tokio")]
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
};

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
    pub(crate) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> (Poll<T>, bool) {
        let wakes = self.wakes.0.load(Ordering::SeqCst);
        let polled = poll(&mut Context::from_waker(&self.waker));
        let ask_again = polled.is_pending()
            && (self.wakes.0.load(Ordering::SeqCst) != wakes || budget_is_spent(cx));
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
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> (Poll<T>, bool) {
        (poll(cx), true)
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

/// A permit is there to be had, so what keeps it back is the budget.
#[cfg(feature = "tokio")]
fn budget_is_spent(cx: &mut Context<'_>) -> bool {
    let semaphore = tokio::sync::Semaphore::const_new(1);
    pin!(semaphore.acquire()).poll(cx).is_pending()
}

/// Polls as if the budget were not spent.
#[cfg(feature = "tokio")]
pub(crate) fn poll_unconstrained<F: Future>(future: F, cx: &mut Context<'_>) -> Poll<F::Output> {
    pin!(tokio::task::unconstrained(future)).poll(cx)
}

/// Without the feature there is no way to say so.
#[cfg(not(feature = "tokio"))]
pub(crate) fn poll_unconstrained<F: Future>(future: F, cx: &mut Context<'_>) -> Poll<F::Output> {
    pin!(future).poll(cx)
}
