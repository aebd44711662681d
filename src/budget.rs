//! tokio's cooperative budget. With it spent, tokio's channels, timers and the like are pending whatever they hold, and
//! leave no waker behind: the task is polled again once it has yielded. Where one answer decides, it must be the true one.

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

/// Without tokio nobody knows of a budget.
#[cfg(not(feature = "tokio"))]
pub(crate) fn poll_unconstrained<F: Future>(future: F, cx: &mut Context<'_>) -> Poll<F::Output> {
    pin!(future).poll(cx)
}
