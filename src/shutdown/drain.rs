//! Waits until the streams of a shutdown have ended.

use std::{
    future::{self, Future},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::{Shutdown, connection, phase::Phase};
use crate::wire::close_event::CloseEvent;

/// Result of a [`drain`](Shutdown::drain).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    ended: usize,
    still_open: usize,
    connections_cut: usize,
}

/// Time between the end of the grace period and the cut of the connections. A client that reads has its close event long before.
const AFTER_GRACE: Duration = Duration::from_secs(1);

/// Maximum time for the server to drop the connections that have been cut. A server that polls them takes milliseconds.
const AFTER_CUT: Duration = Duration::from_secs(1);

impl Shutdown {
    /// Lets streams finish until the grace period is over, ends the rest, and cuts the connections that are left.
    ///
    /// The future completes as soon as no stream and no [`connection`](Self::connection) is open, and at the latest one
    /// second after the grace period: a client that has stopped reading, or that reads too slowly, keeps its stream open,
    /// because the server does not poll its body. [`Drained::still_open`] counts these streams. The connections that are open
    /// at that moment are cut. The future then waits until the server has dropped them, with the streams on them, which
    /// takes milliseconds and at most one second more. Without wrapped connections, such streams stay open until their
    /// clients leave. Let the supervisor of the process wait some seconds longer than the grace period.
    ///
    /// When the future completes, every stream that has ended has been reported, and its close event has been returned to
    /// the server, which may still have to write it: wait for the server too.
    ///
    /// Stop accepting connections before or with the drain, because clients reconnect as soon as their streams end, and a
    /// stream that starts during the drain has what is left of the grace period. A graceful shutdown of the server that waits
    /// for [`draining`](Self::draining) begins with the drain, and closes idle connections too. Without it, an idle connection
    /// that is wrapped is open until it is cut. With a grace period of zero all streams end at once.
    ///
    /// Streams that never finish, such as subscriptions, need not use up the grace period: see
    /// [`end_on_drain`](crate::SseCompletionLayer::end_on_drain).
    ///
    /// # Cancellation safety
    ///
    /// The drain begins when the future is first polled. If the future is dropped before it completes, streams run on and
    /// [`close`](Self::close) ends them; no connection is cut. If several drains run at once, each returns when its own
    /// grace period is over, and the first that is over ends the streams and cuts the connections of all.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime, or if the runtime's timer is disabled.
    pub fn drain(&self, grace: Duration) -> impl Future<Output = Drained> + Send + use<> {
        let shutdown = self.clone();
        async move {
            let shared = &shutdown.shared;
            let (ended_before, _) = shared.streams().counts();
            let cut_before = shared.connections_cut();
            shared.enter(Phase::Draining);
            // A grace period that the clock cannot represent has no end.
            let grace_ends = Instant::now().checked_add(grace);
            let all_reported = future::poll_fn(|cx| shared.streams().poll_all_reported(cx));
            complete_until(grace_ends, all_reported).await;
            shutdown.close();
            let ends = grace_ends.and_then(|end| end.checked_add(AFTER_GRACE));
            let all_gone = || future::poll_fn(|cx| shared.streams().poll_all_gone(cx));
            complete_until(ends, all_gone()).await;
            let (ended, still_open) = shared.streams().counts();
            connection::cut_all(shared);
            if shared.streams().connections() > 0 {
                complete_until(Instant::now().checked_add(AFTER_CUT), all_gone()).await;
            }
            Drained {
                ended: ended.wrapping_sub(ended_before),
                still_open,
                connections_cut: match cut_before {
                    None => shared.connections_cut().unwrap_or_default(),
                    Some(_) => 0,
                },
            }
        }
    }

    /// Drains as [`drain`](Self::drain). The streams that the drain ends get this close event, unless their responses have
    /// brought their own.
    ///
    /// If the shutdown has a close event already, from an earlier call or from [`close_with`](Self::close_with), that event
    /// is used.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sse_completion::{CloseEvent, Shutdown};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let shutdown = Shutdown::new();
    /// let restart = CloseEvent::from_static("restart");
    /// let drained = shutdown.drain_with(Duration::from_secs(10), restart).await;
    /// assert_eq!(drained.ended(), 0);
    /// # }
    /// ```
    ///
    /// # Cancellation safety
    ///
    /// The same as for [`drain`](Self::drain). The event is set when the future is first polled.
    ///
    /// # Panics
    ///
    /// Panics as [`drain`](Self::drain) does.
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
    /// For a close event, wait for the signal and call [`drain_with`](Self::drain_with).
    ///
    /// ```no_run
    /// use std::{future::IntoFuture, time::Duration};
    /// use axum::Router;
    /// use tower_sse_completion::Shutdown;
    /// # fn stop_signal() -> std::io::Result<std::future::Pending<()>> { Ok(std::future::pending()) }
    ///
    /// # async fn serve(app: Router, listener: tokio::net::TcpListener, shutdown: Shutdown) -> std::io::Result<()> {
    /// let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.draining());
    /// let drain = shutdown.drain_after(stop_signal()?, Duration::from_secs(10));
    /// let (_, drained) = tokio::join!(server.into_future(), drain);
    /// println!("{} streams ended", drained.ended());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The server returns when its last connection has ended. Wrap the connections with [`connection`](Self::connection), or
    /// limit the time for which you wait for the server: a client that has stopped reading keeps a plain connection open.
    ///
    /// # Cancellation safety
    ///
    /// If the future is dropped before the signal arrives, nothing is drained. After that, as [`drain`](Self::drain).
    ///
    /// # Panics
    ///
    /// Panics as [`drain`](Self::drain) does.
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
    /// Returns the number of streams that ended during the drain. Streams that are [still open](Self::still_open) one second
    /// after the grace period do not count, also if their connections are cut then.
    pub fn ended(&self) -> usize {
        self.ended
    }

    /// Returns the number of streams that were still open one second after the grace period, although they had been closed.
    /// Their clients do not read, or read too slowly. If their connections are wrapped, these streams have been cut.
    pub fn still_open(&self) -> usize {
        self.still_open
    }

    /// Returns the number of connections that were cut during the drain, with streams or without. A connection counts if
    /// [`Shutdown::connection`] wraps it.
    pub fn connections_cut(&self) -> usize {
        self.connections_cut
    }
}

/// Waits for the future, and no longer than until this end.
async fn complete_until(end: Option<Instant>, future: impl Future<Output = ()>) {
    match end {
        // A timeout is a result too: the caller counts what is open.
        Some(end) => drop(timeout_at(end, future).await),
        None => future.await,
    }
}
