//! Ends the streams of a shutdown, and waits until they have ended.

use std::{
    fmt,
    future::{self, Future},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use super::{
    Shutdown, connection,
    phase::{Idle, Phase, Shared},
};
use crate::{sync::Arc, wire::close_event::CloseEvent};

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
    unanswered_requests: usize,
    connections_cut: usize,
}

/// The wait of a drain, with its one timer.
struct Wait<'a> {
    idle: Idle<'a>,
    timer: Pin<Box<Sleep>>,
}

/// Default time between the end of the grace period and the cut of the connections. A client that reads has its close event
/// long before.
const LINGER: Duration = Duration::from_secs(1);

/// Maximum time for the server to drop the connections that have been cut. A server that polls them takes milliseconds.
const AFTER_CUT: Duration = Duration::from_secs(1);

/// Minimum number of steps in which the time after the grace period is counted, each from its own begin. A pause of the process
/// counts as a single step: streams that have been closed would otherwise be cut without a poll.
const STEPS: u32 = 10;

/// Resolution of tokio's timer, which rounds up.
const TICK: Duration = Duration::from_millis(1);

/// Maximum length of a step. A step that takes longer counts at most twice its length.
const STEP: Duration = Duration::from_millis(100);

impl Shutdown {
    /// Lets streams finish until the grace period is over, ends the rest, and cuts the connections that are left.
    ///
    /// The drain waits for streams, for requests that a layer with this shutdown has passed on and whose responses are pending,
    /// and for wrapped [connections](Self::connection). It completes as soon as none of them is left. A stream that starts during
    /// the drain has what is left of the grace period. With a grace period of zero all streams end at once.
    ///
    /// A client that has stopped reading, or that reads too slowly, keeps its stream open, because the server does not poll its
    /// body. [`Drained::still_open`] counts these streams. One second after the streams have been closed (see
    /// [`linger`](Drain::linger)), the connections that are open are cut. The drain then waits until the server has dropped them,
    /// with the streams on them, which takes milliseconds and at most one second. Without wrapped connections, such streams stay
    /// open until their clients leave. A drain takes at most the grace period, the linger and one second after a cut. Let the
    /// supervisor of the process wait some seconds longer.
    ///
    /// When the drain completes, every stream that has ended has been reported, and its close event has been returned to
    /// the server, which may still have to write it: wait for the server too.
    ///
    /// Stop accepting connections before or with the drain, because clients reconnect as soon as their streams end. A graceful
    /// shutdown of the server that waits for [`draining`](Self::draining) begins with the drain, and closes idle connections too.
    /// Without it, an idle connection that is wrapped is open until it is cut.
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
    /// The first poll of the future panics outside of a tokio runtime, or if the runtime's timer is disabled. Nothing has begun
    /// then.
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

    /// Sets the time between the end of the grace period, when the streams are closed, and the cut of the connections that are
    /// left. The default is one second.
    ///
    /// Time in which the process does not run, such as that of a paused virtual machine, does not count. With zero, a
    /// connection may be cut before its stream has returned the close event.
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
        let running = match &mut this.running {
            Some(running) => running,
            None => {
                // Panics without a timer, before the signal is awaited and before anything has begun.
                let timer = Box::pin(sleep(Duration::ZERO));
                let (shutdown, grace, linger) = (this.shutdown.clone(), this.grace, this.linger);
                let (close_event, signal) = (this.close_event.take(), this.signal.take());
                this.running.insert(Box::pin(async move {
                    if let Some(signal) = signal {
                        signal.await;
                    }
                    run(&shutdown.shared, grace, linger, close_event, timer).await
                }))
            }
        };
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
    shared: &Arc<Shared>,
    grace: Duration,
    linger: Duration,
    close_event: Option<CloseEvent>,
    timer: Pin<Box<Sleep>>,
) -> Drained {
    let counts = shared.counts();
    let (ended_before, _) = counts.streams();
    let cut_before = shared.connections_cut();
    if let Some(event) = close_event {
        shared.set_close_event(event);
    }
    shared.enter(Phase::Draining);
    let mut wait = Wait {
        idle: counts.idle(),
        timer,
    };
    wait.until(after(grace)).await;
    shared.enter(Phase::Closed);
    wait.running_for(linger).await;
    let (ended, still_open) = counts.streams();
    let unanswered_requests = counts.requests();
    connection::cut_all(shared);
    let connections_cut = match cut_before {
        None => shared.connections_cut().unwrap_or_default(),
        Some(_) => 0,
    };
    // A connection that has been dropped already may have streams that are left.
    if connections_cut > 0 || counts.connections() > 0 {
        wait.running_for(AFTER_CUT).await;
    }
    Drained {
        ended: ended.wrapping_sub(ended_before),
        still_open,
        unanswered_requests,
        connections_cut,
    }
}

impl Wait<'_> {
    /// Waits until nothing is open, and no longer than until this moment. Returns `true` if nothing is open.
    async fn until(&mut self, end: Option<Instant>) -> bool {
        match end {
            Some(end) if end <= Instant::now() => return false,
            Some(end) => self.timer.as_mut().reset(end),
            None => {}
        }
        future::poll_fn(|cx| {
            if self.idle.poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            match end {
                Some(_) => self.timer.as_mut().poll(cx).map(|()| false),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Waits until nothing is open, and no longer than for this time. A pause of the process counts as one step.
    async fn running_for(&mut self, mut time: Duration) {
        let step = (time / STEPS).clamp(TICK, STEP);
        let mut begin = Instant::now();
        while time > Duration::ZERO && !self.until(begin.checked_add(step.min(time))).await {
            let now = Instant::now();
            time = time.saturating_sub((now - begin).min(step * 2));
            begin = now;
        }
    }
}

/// Returns the moment after this time from now, or `None` if the timer cannot represent that moment.
fn after(time: Duration) -> Option<Instant> {
    let end = Instant::now().checked_add(time)?;
    end.checked_add(TICK).map(|_| end)
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

    /// Returns the number of requests whose responses were still pending when the time after the grace period was over, once for
    /// each layer with this shutdown that the request has passed.
    pub fn unanswered_requests(&self) -> usize {
        self.unanswered_requests
    }

    /// Returns the number of connections that were cut during the drain, with streams or without. A connection counts if
    /// [`Shutdown::connection`] wraps it.
    pub fn connections_cut(&self) -> usize {
        self.connections_cut
    }
}
