//! Waits with a limit, so that a test fails instead of hanging.

use std::{future::Future, time::Duration};

use tokio::time::{sleep, timeout};

/// The longest time that a test waits: far longer than a correct program takes.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Returns the output of this future.
///
/// # Panics
///
/// Panics if the future takes longer than [`LIMIT`].
pub async fn within<F: Future>(future: F) -> F::Output {
    timeout(LIMIT, future).await.expect("it takes too long")
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
