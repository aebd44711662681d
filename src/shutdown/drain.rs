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
use crate::wire::close_event::CloseEvent;

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
    /// [`end_on_drain`](crate::SseCompletionLayer::end_on_drain).
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

impl Shutdown {
    /// Drains as [`drain`](Self::drain). The streams that the drain ends get this close event, unless their responses have
    /// brought their own.
    ///
    /// If the shutdown has a close event already, from an earlier call or from [`close_with`](Self::close_with), that event
    /// is used.
    ///
    /// # Cancellation safety
    ///
    /// As [`drain`](Self::drain). The event is set when the future is first polled.
    ///
    /// # Panics
    ///
    /// As [`drain`](Self::drain).
    pub fn drain_with(
        &self,
        grace: Duration,
        event: CloseEvent,
    ) -> impl Future<Output = Drained> + Send + use<> {
        let shutdown = self.clone();
        async move {
            shutdown.shared.set_close_event(event);
            shutdown.drain(grace).await
        }
    }

    /// Returns a future that waits for the signal, discards its output, and [drains](Self::drain).
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use axum::Router;
    /// use tower_sse_completion::Shutdown;
    ///
    /// # async fn serve(app: Router, listener: tokio::net::TcpListener, shutdown: Shutdown) -> std::io::Result<()> {
    /// let drain = tokio::spawn(shutdown.drain_after(tokio::signal::ctrl_c(), Duration::from_secs(10)));
    /// axum::serve(listener, app)
    ///     .with_graceful_shutdown(shutdown.draining())
    ///     .await?;
    /// let drained = drain.await?;
    /// println!("{} streams ended", drained.ended());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancellation safety
    ///
    /// If the future is dropped before the signal arrives, nothing is drained. After that, as [`drain`](Self::drain).
    ///
    /// # Panics
    ///
    /// As [`drain`](Self::drain).
    pub fn drain_after<F>(
        &self,
        signal: F,
        grace: Duration,
    ) -> impl Future<Output = Drained> + use<F>
    where
        F: Future,
    {
        let shutdown = self.clone();
        async move {
            signal.await;
            shutdown.drain(grace).await
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
