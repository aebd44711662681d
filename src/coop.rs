//! tokio's cooperative budget.
//!
//! With the budget exhausted, tokio's channels and timers are pending regardless of their state, and register no waker: the
//! task is polled again once it has yielded. A poll that is not repeated must not depend on the budget.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll},
};

/// Polls the future as if the budget were not exhausted.
#[cfg(feature = "tokio")]
pub(crate) fn poll_unconstrained<F: Future>(future: F, cx: &mut Context<'_>) -> Poll<F::Output> {
    pin!(tokio::task::coop::unconstrained(future)).poll(cx)
}

/// Polls the future. Without the feature `tokio` the budget cannot be lifted.
#[cfg(not(feature = "tokio"))]
pub(crate) fn poll_unconstrained<F: Future>(future: F, cx: &mut Context<'_>) -> Poll<F::Output> {
    pin!(future).poll(cx)
}

/// Returns `true` if a future that is pending has been polled within the budget, so that a second poll would change nothing.
/// Without the feature `tokio` the budget is unknown, and the result is `false`.
pub(crate) fn has_budget_remaining() -> bool {
    #[cfg(feature = "tokio")]
    return tokio::task::coop::has_budget_remaining();
    #[cfg(not(feature = "tokio"))]
    false
}
