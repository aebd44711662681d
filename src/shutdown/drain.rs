//! Waits until the streams of a shutdown have ended.

use std::{
    future::{self, Future},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::{
    Shutdown,
    waiters::{Phase, Shared},
};

/// Result of a [`drain`](Shutdown::drain).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    ended: usize,
    still_open: usize,
}

/// Time between the close and the return of a drain. A client that reads has its close event long before.
const AFTER_CLOSE: Duration = Duration::from_secs(1);

impl Shutdown {
    /// Lets streams finish until the grace period is over, and then ends the rest.
    ///
    /// The future completes as soon as no stream is open, and at the latest one second after the grace period: a client that
    /// has stopped reading keeps its stream open, because the server does not poll its body. [`Drained::still_open`] counts
    /// these streams. When the future completes, every stream that has ended has been reported, and its close event has been
    /// returned to the server, which may still have to write it: wait for the server too.
    ///
    /// A stream that starts during the drain has what is left of the grace period. Stop accepting connections first,
    /// because clients reconnect as soon as their streams end. With a grace period of zero all streams end at once.
    ///
    /// Streams that never finish, such as subscriptions, need not use up the grace period: see
    /// [`draining`](Self::draining).
    ///
    /// # Cancellation safety
    ///
    /// The drain begins when the future is first polled. If the future is dropped before it completes, streams run on and
    /// [`close`](Self::close) ends them.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime, or if the runtime's timer is disabled.
    pub fn drain(&self, grace: Duration) -> impl Future<Output = Drained> + Send + use<> {
        let shutdown = self.clone();
        async move {
            let shared = &shutdown.shared;
            let ended_before = shared.streams().ended();
            shared.enter(Phase::Draining);
            // A grace period that the clock cannot represent has no end.
            match Instant::now().checked_add(grace) {
                Some(end) => all_reported_until(shared, end).await,
                None => all_reported(shared).await,
            }
            shutdown.close();
            all_reported_until(shared, Instant::now() + AFTER_CLOSE).await;
            Drained {
                ended: shared.streams().ended() - ended_before,
                still_open: shared.streams().open(),
            }
        }
    }
}

impl Drained {
    /// Returns the number of streams that ended during the drain.
    pub fn ended(&self) -> usize {
        self.ended
    }

    /// Returns the number of streams that are still open although they have been closed. Their clients do not read.
    pub fn still_open(&self) -> usize {
        self.still_open
    }
}

async fn all_reported(shared: &Arc<Shared>) {
    future::poll_fn(|cx| shared.streams().poll_all_reported(cx)).await;
}

async fn all_reported_until(shared: &Arc<Shared>, end: Instant) {
    // A timeout is a result too: the caller counts what is open.
    let _ = timeout_at(end, all_reported(shared)).await;
}
