//! Waits with a limit, so that a test fails instead of hanging.

use std::{future::Future, time::Duration};

use tokio::time::{sleep, timeout};

/// Maximum time that a test waits. A correct program takes a small part of it.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits for this future, and returns its output.
///
/// # Panics
///
/// Panics if the future takes longer than [`LIMIT`].
pub async fn within<F: Future>(future: F) -> F::Output {
    timeout(LIMIT, future)
        .await
        .expect("the future completes in time")
}

/// Returns once this condition, which is checked every few milliseconds, holds.
///
/// # Panics
///
/// Panics if the condition does not hold within [`LIMIT`].
pub async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
