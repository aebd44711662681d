//! Ends the streams of a shutdown, and waits until they have ended.

use std::{
    fmt,
    future::{self, Future},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::{Shutdown, connection, phase::Phase};
use crate::wire::close_event::CloseEvent;

/// Future that ends the streams of a [`Shutdown`], and waits until they have ended. Returned by [`Shutdown::drain`].
///
/// The methods set options. They have no effect once the future has been polled.
///
/// ```no_run
/// use std::{future::IntoFuture, time::Duration};
/// use axum::Router;
/// use tower_sse_completion::{CloseEvent, Shutdown};
/// # fn stop_signal() -> std::io::Result<std::future::Pending<()>> { Ok(std::future::pending()) }
///
/// # async fn serve(app: Router, listener: tokio::net::TcpListener, shutdown: Shutdown) -> std::io::Result<()> {
/// let drain = shutdown
///     .drain(Duration::from_secs(10))
///     .after(stop_signal()?)
///     .close_event(CloseEvent::from_static("restart"));
/// let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.draining());
/// let (_, drained) = tokio::join!(server.into_future(), drain);
/// println!("{} streams ended", drained.ended());
/// # Ok(())
/// # }
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct Drain {
    shutdown: Shutdown,
    grace: Duration,
    linger: Duration,
    close_event: Option<CloseEvent>,
    signal: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// `None` until the first poll.
    running: Option<Pin<Box<dyn Future<Output = Drained> + Send>>>,
}

/// Result of a [`drain`](Shutdown::drain).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    ended: usize,
    still_open: usize,
    connections_cut: usize,
}

/// Default time between the end of the grace period and the cut of the connections. A client that reads has its close event
/// long before.
const LINGER: Duration = Duration::from_secs(1);

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
    /// The future panics outside of a tokio runtime, or if the runtime's timer is disabled.
    pub fn drain(&self, grace: Duration) -> Drain {
        Drain {
            shutdown: self.clone(),
            grace,
            linger: LINGER,
            close_event: None,
            signal: None,
            running: None,
        }
    }
}

impl Drain {
    /// Begins the drain when this future completes. Its output is discarded. By default the drain begins when it is first
    /// polled.
    ///
    /// # Cancellation safety
    ///
    /// If the drain is dropped before the signal arrives, nothing is drained.
    pub fn after<F>(mut self, signal: F) -> Self
    where
        F: Future + Send + 'static,
    {
        self.signal = Some(Box::pin(async {
            signal.await;
        }));
        self
    }

    /// Sets the time between the end of the grace period, when streams are closed, and the cut of the connections. The default is
    /// one second.
    pub fn linger(mut self, time: Duration) -> Self {
        self.linger = time;
        self
    }

    /// Sets the close event of the streams that the drain ends, unless their responses have brought their own.
    ///
    /// The event is set when the drain begins. If the shutdown has a close event already, from another drain or from
    /// [`close_with`](Shutdown::close_with), that event is used.
    pub fn close_event(mut self, event: CloseEvent) -> Self {
        self.close_event = Some(event);
        self
    }
}

impl Future for Drain {
    type Output = Drained;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Drained> {
        let this = &mut *self;
        let running = this.running.get_or_insert_with(|| {
            let (shutdown, grace, linger) = (this.shutdown.clone(), this.grace, this.linger);
            let (close_event, signal) = (this.close_event.take(), this.signal.take());
            Box::pin(async move {
                if let Some(signal) = signal {
                    signal.await;
                }
                run(shutdown, grace, linger, close_event).await
            })
        });
        running.as_mut().poll(cx)
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("grace", &self.grace)
            .field("linger", &self.linger)
            .finish_non_exhaustive()
    }
}

async fn run(
    shutdown: Shutdown,
    grace: Duration,
    linger: Duration,
    close_event: Option<CloseEvent>,
) -> Drained {
    let shared = &shutdown.shared;
    let (ended_before, _) = shared.streams().counts();
    let cut_before = shared.connections_cut();
    if let Some(event) = close_event {
        shared.set_close_event(event);
    }
    shared.enter(Phase::Draining);
    // A grace period that the clock cannot represent has no end.
    let grace_ends = Instant::now().checked_add(grace);
    let all_reported = future::poll_fn(|cx| shared.streams().poll_all_reported(cx));
    complete_until(grace_ends, all_reported).await;
    shutdown.close();
    let ends = grace_ends.and_then(|end| end.checked_add(linger));
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
