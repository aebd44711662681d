//! Ends the streams of a shutdown, and waits until they have ended.

use std::{
    fmt,
    future::{self, Future},
    mem,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use super::{
    Shutdown,
    phase::{END, Idle, Phase, Shared},
};
use crate::wire::close_event::CloseEvent;

/// Future that ends the streams of a [`Shutdown`], and waits until they have ended. Returned by [`Shutdown::drain`].
///
/// The methods set options. They have no effect once the future has been polled.
///
/// ```no_run
/// use std::{future::IntoFuture, time::Duration};
/// use axum::Router;
/// use tokio::time::timeout;
/// use tower_sse_completion::{CloseEvent, Shutdown};
/// # fn stop_signal() -> std::io::Result<std::future::Pending<()>> { Ok(std::future::pending()) }
///
/// # async fn serve(app: Router, listener: tokio::net::TcpListener, shutdown: Shutdown) -> std::io::Result<()> {
/// let drain = shutdown
///     .drain(Duration::from_secs(10))
///     .after(stop_signal()?)
///     .close_event(CloseEvent::from_static("restart"));
/// let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.draining());
/// let server = tokio::spawn(server.into_future());
/// let drained = drain.await;
/// // The server may still have to write the last close events. It does not return if a client does not read.
/// let _ = timeout(Duration::from_secs(1), server).await;
/// println!("{} streams ended", drained.ended());
/// # Ok(())
/// # }
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct Drain {
    shutdown: Shutdown,
    times: Times,
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

#[derive(Debug, Clone, Copy)]
struct Times {
    grace: Duration,
    window: Duration,
    linger: Duration,
}

/// A drain that has begun, with its one timer.
struct Running<'a> {
    shared: &'a Shared,
    idle: Idle<'a>,
    timer: Pin<Box<Sleep>>,
    spreads: Vec<Spread>,
    /// The end of the last step.
    last: Instant,
}

/// Schedule of a phase whose streams end over a window.
#[derive(Debug)]
struct Spread {
    phase: Phase,
    /// Position at the start of the window.
    from: u32,
    window: Duration,
    elapsed: Duration,
}

/// Default time between the end of the grace period and the cut of the connections. A client that reads has its close event
/// long before.
const LINGER: Duration = Duration::from_secs(1);

/// Maximum time for the server to drop the connections that have been cut. A server that polls them takes milliseconds.
const AFTER_CUT: Duration = Duration::from_secs(1);

/// Minimum number of steps in which the time after the grace period is counted, each from its own start. A pause of the process
/// counts as a single step: streams that have been closed would otherwise be cut without a poll.
const STEPS: u32 = 10;

/// Resolution of tokio's timer, which rounds up.
const TICK: Duration = Duration::from_millis(1);

/// Maximum length of a step. A step that takes longer counts at most twice its length.
const STEP: Duration = Duration::from_millis(100);

/// Length of a step in which streams end over a window. Longer steps would end more streams at once.
const SPREAD_STEP: Duration = Duration::from_millis(20);

/// Maximum mean time between the ends of two streams. At least 200 streams end in a second.
const LONGEST_GAP: Duration = Duration::from_millis(5);

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
    /// open until their clients leave. A drain takes at most the grace period, the window of
    /// [`spread_over`](Drain::spread_over), the linger, and one second after a cut. Let the supervisor of the process wait some
    /// seconds longer.
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
    /// [`close`](Self::close) ends them; no connection is cut. If several drains run at once, the first whose grace period is
    /// over ends the streams of all, and the first whose linger is over cuts the connections of all.
    ///
    /// # Panics
    ///
    /// The first poll of the future panics outside of a tokio runtime, or if the runtime's timer is disabled. Nothing has begun
    /// then.
    pub fn drain(&self, grace: Duration) -> Drain {
        Drain {
            shutdown: self.clone(),
            times: Times {
                grace,
                window: Duration::ZERO,
                linger: LINGER,
            },
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

    /// Ends streams evenly over this time instead of all at once, so that their clients do not reconnect at the same moment.
    ///
    /// The streams that [end on drain](crate::SseCompletionLayer::end_on_drain) end from the start of the drain, and the
    /// others from the end of the grace period, when the shutdown [closes](Shutdown::is_closed). At least 200 streams end in a
    /// second: fewer streams end over a shorter time. A stream that starts while streams of its kind are ending ends at once.
    /// The linger begins when the last stream has been closed, so the drain takes up to this time longer. Time in which the
    /// process does not run makes it longer, too, because the streams would otherwise end at once after a pause.
    ///
    /// [`close`](Shutdown::close) ends all streams at once. If several drains run at once, streams end as early as any of them
    /// requires.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use tower_sse_completion::Shutdown;
    ///
    /// # async fn example(shutdown: Shutdown) {
    /// // Of 50,000 subscriptions, 2,500 end in each second.
    /// let drain = shutdown.drain(Duration::from_secs(30)).spread_over(Duration::from_secs(20));
    /// # drain.await;
    /// # }
    /// ```
    pub fn spread_over(mut self, window: Duration) -> Self {
        self.times.window = window;
        self
    }

    /// Sets the time between the end of the grace period, when the streams are closed, and the cut of the connections that are
    /// left. The default is one second.
    ///
    /// Time in which the process does not run, such as that of a paused virtual machine, does not count. With zero, a
    /// connection may be cut before its stream has returned the close event.
    pub fn linger(mut self, time: Duration) -> Self {
        self.times.linger = time;
        self
    }

    /// Sets the close event of the streams that the drain ends, unless a response has a close event in its extensions.
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
                let (shutdown, times) = (this.shutdown.clone(), this.times);
                let (close_event, signal) = (this.close_event.take(), this.signal.take());
                this.running.insert(Box::pin(async move {
                    if let Some(signal) = signal {
                        signal.await;
                    }
                    run(&shutdown.shared, times, close_event, timer).await
                }))
            }
        };
        running.as_mut().poll(cx)
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}

async fn run(
    shared: &Shared,
    times: Times,
    close_event: Option<CloseEvent>,
    timer: Pin<Box<Sleep>>,
) -> Drained {
    let counts = shared.counts();
    let (ended_before, _) = counts.streams();
    let cut_before = shared.connections_cut();
    if let Some(event) = close_event {
        shared.set_close_event(event);
    }
    let grace_ends = after(times.grace);
    let mut drain = Running {
        shared,
        idle: counts.idle(),
        timer,
        spreads: Vec::new(),
        last: Instant::now(),
    };
    drain.begin(Phase::Draining, times.window);
    drain.run_until(grace_ends).await;
    drain.begin(Phase::Closed, times.window);
    drain.finish_spreads().await;
    drain.run_for(times.linger).await;
    let (ended, still_open) = counts.streams();
    let unanswered_requests = counts.requests();
    shared.cut();
    let connections_cut = match cut_before {
        None => shared.connections_cut().unwrap_or_default(),
        Some(_) => 0,
    };
    // A connection that has been dropped already may have streams that are left.
    if connections_cut > 0 || counts.connections() > 0 {
        drain.run_for(AFTER_CUT).await;
    }
    Drained {
        ended: ended.wrapping_sub(ended_before),
        still_open,
        unanswered_requests,
        connections_cut,
    }
}

impl Running<'_> {
    /// Begins a phase, and schedules the ends of its streams over the window.
    fn begin(&mut self, phase: Phase, window: Duration) {
        let window = window.min(longest_window(self.shared.counts().open_in(phase)));
        // A phase before this one may be spread still, so only this one is complete without a window.
        let first = if window.is_zero() { END } else { 1 };
        self.shared.advance(phase, first);
        let from = self.shared.position(phase);
        if from < END {
            self.spreads.push(Spread {
                phase,
                from,
                window,
                elapsed: Duration::ZERO,
            });
            self.lap();
        }
    }

    /// Runs until this moment, or until nothing is open.
    async fn run_until(&mut self, end: Option<Instant>) {
        while end.is_none_or(|end| Instant::now() < end) && self.step(end).await {}
    }

    /// Runs until the spreads are complete, or until nothing is open.
    async fn finish_spreads(&mut self) {
        while !self.spreads.is_empty() && self.step(None).await {}
    }

    /// Runs for this time, or until nothing is open. A pause of the process counts as one step.
    async fn run_for(&mut self, mut time: Duration) {
        let step = (time / STEPS).clamp(TICK, STEP);
        self.lap();
        while !time.is_zero() && self.wait(Some(self.last + step.min(time))).await {
            time = time.saturating_sub(self.lap().min(step * 2));
        }
    }

    /// Waits until this moment, or for a step of the spreads if they are not complete, and advances them. Returns `false` if nothing
    /// is open.
    async fn step(&mut self, end: Option<Instant>) -> bool {
        if self.spreads.is_empty() {
            return self.wait(end).await;
        }
        let next = self.last + SPREAD_STEP;
        if !self.wait(Some(end.map_or(next, |end| end.min(next)))).await {
            return false;
        }
        let time = self.lap().min(SPREAD_STEP * 2);
        let shared = self.shared;
        self.spreads.retain_mut(|spread| {
            shared.advance(spread.phase, spread.advance(time));
            // Another drain, or a close, may be further on.
            shared.position(spread.phase) < END
        });
        true
    }

    /// Waits until this moment, or until nothing is open. Returns `false` if nothing is open.
    async fn wait(&mut self, end: Option<Instant>) -> bool {
        if let Some(end) = end {
            self.timer.as_mut().reset(end);
        }
        future::poll_fn(|cx| {
            if self.idle.poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            match end {
                Some(_) => self.timer.as_mut().poll(cx).map(|()| true),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Returns the time since the last lap.
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - mem::replace(&mut self.last, now)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        for spread in &self.spreads {
            self.shared.forget_order(spread.phase);
        }
    }
}

impl Spread {
    /// Returns the position after this further time.
    fn advance(&mut self, time: Duration) -> u32 {
        self.elapsed = self.elapsed.saturating_add(time).min(self.window);
        let way = u128::from(END - self.from) * self.elapsed.as_nanos() / self.window.as_nanos();
        // Not above the way, because the elapsed time is not above the window.
        self.from + way as u32
    }
}

/// Returns the time over which this number of streams ends at the slowest rate.
fn longest_window(streams: usize) -> Duration {
    LONGEST_GAP.saturating_mul(u32::try_from(streams).unwrap_or(u32::MAX))
}

/// Returns the moment after this time from now, or `None` if the timer cannot represent that moment.
fn after(time: Duration) -> Option<Instant> {
    let end = Instant::now().checked_add(time)?;
    end.checked_add(TICK).map(|_| end)
}

impl Drained {
    /// Returns the number of streams that ended during the drain. Streams that are [still open](Self::still_open) when the
    /// [linger](Drain::linger) is over do not count, even if their connections are cut then.
    pub fn ended(&self) -> usize {
        self.ended
    }

    /// Returns the number of streams that were still open when the [linger](Drain::linger) was over, although they had been closed.
    /// Their clients do not read, or read too slowly. If their connections are wrapped, these streams have been cut.
    pub fn still_open(&self) -> usize {
        self.still_open
    }

    /// Returns the number of requests whose responses were still pending when the [linger](Drain::linger) was over. A request
    /// counts once for each layer with this shutdown that it has passed.
    pub fn unanswered_requests(&self) -> usize {
        self.unanswered_requests
    }

    /// Returns the number of connections that were cut during the drain, with streams or without. A connection counts if
    /// [`Shutdown::connection`] wraps it.
    pub fn connections_cut(&self) -> usize {
        self.connections_cut
    }
}
