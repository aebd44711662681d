//! The deadlines and the keep-alive of one stream, which share one timer.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};

use super::after;
use crate::{coop::poll_unconstrained, stop::Stop};

#[derive(Debug)]
pub(crate) struct DeadlineTimer {
    expires_at: Option<Instant>,
    idle: Option<Timeout>,
    keep_alive: Option<(Timeout, Bytes)>,
    timer: Pin<Box<Sleep>>,
    /// The waker of the task that the timer wakes.
    waker: Option<Waker>,
}

/// A timeout measured from the last activity.
#[derive(Debug)]
pub(crate) struct Timeout {
    timeout: Duration,
    last_activity: Instant,
}

/// A signal that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signal {
    /// A deadline has passed.
    Stop(Stop),
    /// The stream has been silent. This comment is sent if the client is at a boundary.
    KeepAlive(Bytes),
}

impl DeadlineTimer {
    /// Returns `None` if there is nothing to time.
    pub(crate) fn start(
        expires_at: Option<Instant>,
        idle: Option<Timeout>,
        keep_alive: Option<(Timeout, Bytes)>,
    ) -> Option<Self> {
        let first = earliest(expires_at, idle.as_ref(), keep_alive.as_ref())?;
        Some(Self {
            expires_at,
            idle,
            keep_alive,
            timer: Box::pin(sleep_until(first)),
            waker: None,
        })
    }

    /// Returns `true` if the timer needs a call for each delivered event.
    pub(crate) fn counts_events(&self) -> bool {
        self.idle.is_some()
    }

    /// Notes that data is forwarded, and whether it delivers an event.
    pub(crate) fn forwarded(&mut self, delivered: bool) {
        if self.idle.is_none() && self.keep_alive.is_none() {
            return;
        }
        let now = Instant::now();
        if let Some((keep_alive, _)) = &mut self.keep_alive {
            keep_alive.last_activity = now;
        }
        if let Some(idle) = self.idle.as_mut().filter(|_| delivered) {
            idle.last_activity = now;
        }
    }

    /// Returns the deadline that has passed.
    pub(crate) fn passed(&self) -> Option<Stop> {
        let now = Instant::now();
        if self.expires_at.is_some_and(|at| at <= now) {
            return Some(Stop::Expired);
        }
        let is_idle = self.idle.as_ref().is_some_and(|idle| idle.at() <= now);
        is_idle.then_some(Stop::Idle)
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        loop {
            if let Some(stop) = self.passed() {
                return Poll::Ready(Signal::Stop(stop));
            }
            if let Some((keep_alive, comment)) = &mut self.keep_alive {
                let now = Instant::now();
                if keep_alive.at() <= now {
                    keep_alive.last_activity = now;
                    return Poll::Ready(Signal::KeepAlive(comment.clone()));
                }
            }
            // Deadlines only move later, so the timer may fire early. That costs one spurious wake-up; the timer is then reset.
            if self.timer.is_elapsed() {
                let (idle, keep_alive) = (self.idle.as_ref(), self.keep_alive.as_ref());
                if let Some(next) = earliest(self.expires_at, idle, keep_alive) {
                    self.timer.as_mut().reset(next);
                }
            }
            // With the budget exhausted, the timer would not register this task.
            if poll_unconstrained(self.timer.as_mut(), cx).is_pending() {
                if !self.wakes(cx) {
                    self.waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
        }
    }

    /// Returns `true` if nothing is due, and the timer wakes this task when something is.
    pub(crate) fn is_waiting(&self, cx: &Context<'_>) -> bool {
        self.wakes(cx) && !self.timer.is_elapsed()
    }

    fn wakes(&self, cx: &Context<'_>) -> bool {
        let waker = self.waker.as_ref();
        waker.is_some_and(|waker| waker.will_wake(cx.waker()))
    }
}

impl Timeout {
    pub(crate) fn new(timeout: Duration, now: Instant) -> Self {
        Self {
            timeout,
            last_activity: now,
        }
    }

    fn at(&self) -> Instant {
        after(self.last_activity, self.timeout)
    }
}

fn earliest(
    expires_at: Option<Instant>,
    idle: Option<&Timeout>,
    keep_alive: Option<&(Timeout, Bytes)>,
) -> Option<Instant> {
    let idle = idle.map(Timeout::at);
    let keep_alive = keep_alive.map(|(keep_alive, _)| keep_alive.at());
    [expires_at, idle, keep_alive].into_iter().flatten().min()
}
