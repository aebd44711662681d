//! A connection that a shutdown can cut (C24).

use std::{io::ErrorKind, task::Poll, time::Duration};

/// A call of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A read.
    Read,
    /// A write of at least one byte.
    Write,
    /// A write of several slices.
    WriteVectored,
    /// A flush.
    Flush,
    /// A shutdown of the writing side.
    Shutdown,
}

/// All calls of a connection.
pub const CALLS: [Call; 5] = [
    Call::Read,
    Call::Write,
    Call::WriteVectored,
    Call::Flush,
    Call::Shutdown,
];

/// The result of a call of a connection: a number of bytes, which is zero for a flush and a shutdown, or the kind of an error.
pub type Returned = Poll<Result<usize, ErrorKind>>;

/// The error of a call whose connection a shutdown has cut.
pub const ABORTED: Returned = Poll::Ready(Err(ErrorKind::ConnectionAborted));

/// The error of a call whose connection had a write that was pending for too long.
pub const TIMED_OUT: Returned = Poll::Ready(Err(ErrorKind::TimedOut));

/// Predicts the calls of one connection.
#[derive(Debug, Clone, Default)]
pub struct ConnectionModel {
    write_timeout: Option<Duration>,
    is_cut: bool,
    has_timed_out: bool,
    reads: Side,
    writes: Side,
    /// Time since which a write or a flush has made no progress, and whether the first pending call is a flush.
    stalled: Option<(bool, Duration)>,
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Side {
    /// There was no call, or the last one failed because the connection had been cut or had timed out.
    #[default]
    Idle,
    /// The last call was ready. The task that made the call may wait for something else.
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

    /// Cuts the connection, at the end of the drain.
    pub fn cut(&mut self) {
        self.is_cut = true;
    }

    /// Returns `true` if the inner connection is called.
    pub fn forwards(&self) -> bool {
        !self.is_cut && !self.has_timed_out
    }

    /// Predicts a call for which the inner connection has this result.
    pub fn call(&mut self, call: Call, inner: Returned, now: Duration) -> Returned {
        let returned = self.returned(call, inner, now);
        let side = match returned {
            Poll::Pending => Side::Waiting,
            Poll::Ready(_) if self.forwards() => Side::Ready,
            Poll::Ready(_) => Side::Idle,
        };
        match call {
            Call::Read => self.reads = side,
            _ => self.writes = side,
        }
        returned
    }

    fn returned(&mut self, call: Call, inner: Returned, now: Duration) -> Returned {
        if self.has_timed_out {
            return TIMED_OUT;
        }
        if self.is_cut {
            return ABORTED;
        }
        let is_flush = matches!(call, Call::Flush | Call::Shutdown);
        match inner {
            _ if call == Call::Read => {}
            Poll::Pending => {
                self.stalled.get_or_insert((is_flush, now));
                if self.is_over(now) {
                    self.has_timed_out = true;
                    return TIMED_OUT;
                }
            }
            // A flush that completes is no progress of a write that is pending.
            Poll::Ready(Ok(_)) if is_flush => {
                self.stalled = self.stalled.filter(|(is_flush, _)| !is_flush);
            }
            Poll::Ready(Ok(1..)) => self.stalled = None,
            // An error and an empty write are not progress.
            Poll::Ready(_) => {}
        }
        match is_flush {
            true => inner.map_ok(|_| 0),
            false => inner,
        }
    }

    /// Returns `true` if the task of the last read must have been woken since.
    pub fn wakes_reader(&self) -> bool {
        match self.reads {
            Side::Idle => false,
            Side::Ready => self.is_cut,
            Side::Waiting => !self.forwards(),
        }
    }

    /// Returns `true` if the task of the last write must have been woken since.
    pub fn wakes_writer(&self, now: Duration) -> bool {
        match self.writes {
            Side::Idle => false,
            Side::Ready => self.is_cut,
            Side::Waiting => self.is_cut || self.is_over(now),
        }
    }

    /// Returns `true` if a write has been pending for the timeout.
    fn is_over(&self, now: Duration) -> bool {
        match (self.write_timeout, self.stalled) {
            (Some(limit), Some((_, since))) => now - since >= limit,
            _ => false,
        }
    }
}
