//! tokio's cooperative budget.
//!
//! With the budget exhausted, tokio's channels and timers are pending regardless of their state, and register no waker: the
//! task is polled again once it has yielded. A poll that is not repeated must not depend on the budget.

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

#[cfg(feature = "tokio")]
use tokio::task::coop;

/// Polls the upstream of a stream that is about to end, and returns whether the upstream must be polled again.
///
/// An upstream that is pending may still have a message: tokio's budget is exhausted, or the upstream has woken its task and
/// yielded. The upstream is polled within the budget, because the budget may be all that bounds that poll: of a filter over a
/// channel, for example.
#[derive(Debug, Clone)]
pub(crate) struct FinalPoll {
    /// Shared by all streams of a layer. The wake-up of another stream's upstream costs one spurious poll.
    #[cfg(feature = "tokio")]
    wakes: Arc<Wakes>,
    #[cfg(feature = "tokio")]
    waker: Waker,
}

#[cfg(feature = "tokio")]
#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

/// Polls the future as if the budget were not exhausted.
#[cfg(feature = "tokio")]
pub(crate) fn poll_unconstrained<F: Future>(future: F, cx: &mut Context<'_>) -> Poll<F::Output> {
    pin!(coop::unconstrained(future)).poll(cx)
}

/// Polls the future. Without the feature `tokio` the budget cannot be lifted.
#[cfg(not(feature = "tokio"))]
pub(crate) fn poll_unconstrained<F: Future>(future: F, cx: &mut Context<'_>) -> Poll<F::Output> {
    pin!(future).poll(cx)
}

#[cfg(feature = "tokio")]
impl FinalPoll {
    pub(crate) fn new() -> Self {
        let wakes = Arc::<Wakes>::default();
        Self {
            waker: Waker::from(Arc::clone(&wakes)),
            wakes,
        }
    }

    /// Polls, and returns beside the result whether an upstream that is pending must be polled again.
    pub(crate) fn poll<T>(
        &self,
        _cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> (Poll<T>, bool) {
        let wakes = self.wakes.0.load(Ordering::SeqCst);
        let polled = poll(&mut Context::from_waker(&self.waker));
        let yielded = self.wakes.0.load(Ordering::SeqCst) != wakes;
        let repoll = polled.is_pending() && (yielded || !coop::has_budget_remaining());
        (polled, repoll)
    }
}

#[cfg(not(feature = "tokio"))]
impl FinalPoll {
    pub(crate) fn new() -> Self {
        Self {}
    }

    /// Polls. An upstream that is pending is always polled again, because the budget is unknown.
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
