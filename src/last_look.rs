//! The last look at an upstream that is going to be dropped: does it have nothing, or does it only say so?

use std::task::{Context, Poll};

/// Polls, and returns beside the result whether an upstream that is pending has to be asked again.
///
/// With tokio's cooperative budget spent, a channel that holds a message is pending, as is any future that gives way to
/// other tasks. Both wake the task: such a future at once, tokio only after the task has yielded, so it has to be asked.
#[cfg(feature = "tokio")]
pub(crate) fn poll<T>(
    cx: &mut Context<'_>,
    poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
) -> (Poll<T>, bool) {
    use std::{
        future::Future,
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        task::{Wake, Waker},
    };

    struct WakeFlag(AtomicBool);

    impl Wake for WakeFlag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }

    let flag = Arc::new(WakeFlag(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&flag));
    let polled = poll(&mut Context::from_waker(&waker));
    let ask_again = polled.is_pending() && {
        // A permit is there to be had, so what keeps it back is the budget.
        let semaphore = tokio::sync::Semaphore::const_new(1);
        let budget_is_spent = pin!(semaphore.acquire()).poll(cx).is_pending();
        budget_is_spent || flag.0.load(Ordering::Acquire)
    };
    (polled, ask_again)
}

/// Without tokio there is nobody to ask, so a pending upstream always is.
#[cfg(not(feature = "tokio"))]
pub(crate) fn poll<T>(
    cx: &mut Context<'_>,
    poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
) -> (Poll<T>, bool) {
    (poll(cx), true)
}
