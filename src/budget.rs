//! tokio's cooperative budget. With it spent, tokio's channels, timers and the like are pending whatever they hold, and
//! leave no waker behind: the task is polled again once it has yielded. Where a poll is not repeated then, the budget must
//! not count.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll},
};

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
