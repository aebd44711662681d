//! A connection that a shutdown can cut (C24).

use std::{task::Poll, time::Duration};

/// A call of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A read.
    Read,
    /// A write of at least one byte, vectored or not.
    Write,
    /// A flush.
    Flush,
    /// A shutdown of the writing side.
    Shutdown,
}

/// All calls of a connection.
pub const CALLS: [Call; 4] = [Call::Read, Call::Write, Call::Flush, Call::Shutdown];

/// What a call of a wrapped connection returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returned {
    /// The result of the inner connection.
    Forwarded(Poll<()>),
    /// An error, because the shutdown has cut the connection.
    Aborted,
    /// An error, because a write was pending for too long.
    TimedOut,
}

/// Predicts the calls of one connection.
#[derive(Debug, Clone, Default)]
pub struct ConnectionModel {
    write_timeout: Option<Duration>,
    is_cut: bool,
    has_timed_out: bool,
    reads: Side,
    writes: Side,
    /// The write or flush that has made no progress, and since when.
    stalled: Option<(Call, Duration)>,
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Side {
    /// The last call was ready.
    #[default]
    Ready,
    /// The last call was pending. The task that made the call waits.
    Waiting,
}

impl ConnectionModel {
    /// Returns the model of a connection that has this write timeout.
    pub fn new(write_timeout: Option<Duration>) -> Self {
        Self {
            write_timeout,
            ..Self::default()
        }
    }

    /// The drain is over.
    pub fn cut(&mut self) {
        self.is_cut = true;
    }

    /// Returns `true` if the inner connection is called.
    pub fn forwards(&self) -> bool {
        !self.is_cut && !self.has_timed_out
    }

    /// Predicts a call for which the inner connection has this result.
    pub fn call(&mut self, call: Call, inner: Poll<()>, now: Duration) -> Returned {
        let returned = self.returned(call, inner, now);
        let side = match call {
            Call::Read => &mut self.reads,
            Call::Write | Call::Flush | Call::Shutdown => &mut self.writes,
        };
        *side = match returned {
            Returned::Forwarded(Poll::Pending) => Side::Waiting,
            _ => Side::Ready,
        };
        returned
    }

    fn returned(&mut self, call: Call, inner: Poll<()>, now: Duration) -> Returned {
        if self.has_timed_out {
            return Returned::TimedOut;
        }
        if self.is_cut {
            return Returned::Aborted;
        }
        match (call, inner) {
            (Call::Read, _) => {}
            (_, Poll::Pending) => {
                self.stalled.get_or_insert((call, now));
                if self.is_over(now) {
                    self.has_timed_out = true;
                    return Returned::TimedOut;
                }
            }
            (Call::Write, Poll::Ready(())) => self.stalled = None,
            // A flush that completes says nothing about a write that is pending.
            (Call::Flush | Call::Shutdown, Poll::Ready(())) => {
                if self.stalled.is_some_and(|(call, _)| call != Call::Write) {
                    self.stalled = None;
                }
            }
        }
        Returned::Forwarded(inner)
    }

    /// Returns `true` if a task that waits for a read must have been woken by now.
    pub fn wakes_reader(&self) -> bool {
        self.reads == Side::Waiting && !self.forwards()
    }

    /// Returns `true` if a task that waits for a write must have been woken by now.
    pub fn wakes_writer(&self, now: Duration) -> bool {
        self.writes == Side::Waiting && (self.is_cut || self.is_over(now))
    }

    /// A write has been pending for the timeout.
    fn is_over(&self, now: Duration) -> bool {
        match (self.write_timeout, self.stalled) {
            (Some(limit), Some((_, since))) => now - since >= limit,
            _ => false,
        }
    }
}
