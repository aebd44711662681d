//! The deadlines of one stream, and its keep-alive. One timer serves them all.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::{coop::poll_unconstrained, event_stream::signals::Tick, report::ending::Ending};

/// Why a deadline was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidDeadline {
    reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reason {
    ZeroDuration,
    JitterOutOfRange,
}

/// What a layer was told of time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deadlines {
    max_age: Option<Duration>,
    max_age_jitter: f64,
    idle_timeout: Option<Duration>,
    keep_alive: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Clock {
    expires_at: Option<Instant>,
    idle: Option<Timeout>,
    keep_alive: Option<Timeout>,
    timer: Pin<Box<Sleep>>,
    /// Whom the timer wakes.
    waker: Option<Waker>,
}

/// So long after the last time that something happened.
#[derive(Debug)]
struct Timeout {
    after: Duration,
    since: Instant,
}

/// As exact as tokio's timers are. A shorter interval would always be over.
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_millis(1);

/// As far off as makes no difference, for durations that the clock cannot add.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

impl Deadlines {
    pub(crate) fn set_max_age(&mut self, age: Duration) -> Result<(), InvalidDeadline> {
        self.max_age = Some(not_zero(age)?);
        Ok(())
    }

    pub(crate) fn set_max_age_jitter(&mut self, fraction: f64) -> Result<(), InvalidDeadline> {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(InvalidDeadline {
                reason: Reason::JitterOutOfRange,
            });
        }
        self.max_age_jitter = fraction;
        Ok(())
    }

    pub(crate) fn set_idle_timeout(&mut self, timeout: Duration) -> Result<(), InvalidDeadline> {
        self.idle_timeout = Some(not_zero(timeout)?);
        Ok(())
    }

    pub(crate) fn set_keep_alive(&mut self, interval: Duration) -> Result<(), InvalidDeadline> {
        self.keep_alive = Some(not_zero(interval)?.max(SHORTEST_KEEP_ALIVE));
        Ok(())
    }

    /// Starts the clock of a stream, if it needs one.
    pub(crate) fn start(&self) -> Option<Clock> {
        // Without a deadline not even the time is asked for.
        self.max_age.or(self.idle_timeout).or(self.keep_alive)?;
        let now = Instant::now();
        let expires_at = self.max_age.map(|age| after(now, self.drawn(age)));
        let idle = self.idle_timeout.map(|after| Timeout::new(after, now));
        let keep_alive = self.keep_alive.map(|after| Timeout::new(after, now));
        let first = earliest(expires_at, idle.as_ref(), keep_alive.as_ref())?;
        Some(Clock {
            expires_at,
            idle,
            keep_alive,
            timer: Box::pin(sleep_until(first)),
            waker: None,
        })
    }

    fn drawn(&self, age: Duration) -> Duration {
        let early = age.as_secs_f64() * self.max_age_jitter * fastrand::f64();
        // The longest durations have no exact `f64`, and then nothing is taken off.
        age.saturating_sub(Duration::try_from_secs_f64(early).unwrap_or_default())
    }
}

impl Clock {
    /// Whether it matters which frames deliver an event.
    pub(crate) fn needs_every_event(&self) -> bool {
        self.idle.is_some()
    }

    /// Notes that something went out, and whether it ended an event.
    pub(crate) fn sent(&mut self, delivered: bool) {
        if self.idle.is_none() && self.keep_alive.is_none() {
            return;
        }
        let now = Instant::now();
        if let Some(keep_alive) = &mut self.keep_alive {
            keep_alive.since = now;
        }
        if let Some(idle) = self.idle.as_mut().filter(|_| delivered) {
            idle.since = now;
        }
    }

    /// The ending of a stream whose time is over.
    pub(crate) fn deadline_passed(&self) -> Option<Ending> {
        let now = Instant::now();
        if self.expires_at.is_some_and(|at| at <= now) {
            return Some(Ending::Expired);
        }
        let is_idle = self.idle.as_ref().is_some_and(|idle| idle.at() <= now);
        is_idle.then_some(Ending::Idle)
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Tick> {
        loop {
            if let Some(ending) = self.deadline_passed() {
                return Poll::Ready(Tick::End(ending));
            }
            let now = Instant::now();
            if let Some(keep_alive) = self.keep_alive.as_mut().filter(|it| it.at() <= now) {
                keep_alive.since = now;
                return Poll::Ready(Tick::KeepAlive);
            }
            // A deadline only ever moves on. The timer is left too early then, which costs one wake-up and no more.
            if self.timer.is_elapsed() {
                let (idle, keep_alive) = (self.idle.as_ref(), self.keep_alive.as_ref());
                if let Some(next) = earliest(self.expires_at, idle, keep_alive) {
                    self.timer.as_mut().reset(next);
                }
            }
            // With the budget spent it would not know this task, whom it has to wake.
            if poll_unconstrained(self.timer.as_mut(), cx).is_pending() {
                if !self.wakes(cx) {
                    self.waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
        }
    }

    /// Whether the timer wakes this task when there is something to do, and there is nothing yet.
    pub(crate) fn is_waiting(&self, cx: &Context<'_>) -> bool {
        self.wakes(cx) && !self.timer.is_elapsed()
    }

    fn wakes(&self, cx: &Context<'_>) -> bool {
        let waker = self.waker.as_ref();
        waker.is_some_and(|waker| waker.will_wake(cx.waker()))
    }
}

impl Timeout {
    fn new(after: Duration, now: Instant) -> Self {
        Self { after, since: now }
    }

    fn at(&self) -> Instant {
        after(self.since, self.after)
    }
}

impl fmt::Display for InvalidDeadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reason {
            Reason::ZeroDuration => "a deadline of an event stream is zero",
            Reason::JitterOutOfRange => {
                "the jitter of the greatest age of an event stream is not between 0 and 1"
            }
        })
    }
}

impl std::error::Error for InvalidDeadline {}

fn earliest(
    expires_at: Option<Instant>,
    idle: Option<&Timeout>,
    keep_alive: Option<&Timeout>,
) -> Option<Instant> {
    let timeouts = [idle, keep_alive].into_iter().flatten().map(Timeout::at);
    timeouts.chain(expires_at).min()
}

fn not_zero(duration: Duration) -> Result<Duration, InvalidDeadline> {
    if duration.is_zero() {
        return Err(InvalidDeadline {
            reason: Reason::ZeroDuration,
        });
    }
    Ok(duration)
}

fn after(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration).unwrap_or_else(|| now + NEVER)
}
