//! Connections of a shutdown, in any order of calls, stalls, closes, drains and drops, judged call by call by the model of the
//! contract (C24).

use std::{
    future::Future,
    io::ErrorKind,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use arbitrary::{Arbitrary, Result, Unstructured};
use testkit::{
    connection::{Scripted, Task},
    model::{CALLS, Call, ConnectionModel, Returned},
};
use tokio::{
    task::yield_now,
    time::{Instant, advance},
};
use tower_sse_completion::{Connection, Drain as DrainFuture, Shutdown};

#[derive(Debug)]
pub struct Input {
    /// The write timeouts of the connections, in turn.
    write_timeouts: [Option<Duration>; 2],
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Call {
        connection: usize,
        task: usize,
        call: Call,
        inner: Returned,
    },
    Advance(Duration),
    Connect,
    Drop(usize),
    Unwrap(usize),
    Close,
    Drain(Duration),
}

/// A connection, two tasks that call it, and the model of the connection.
struct Judged {
    connection: Connection<Scripted>,
    tasks: [Task; 2],
    model: ConnectionModel,
    /// The tasks that have made the last read and the last write, and their wake-ups by then.
    reader: (usize, usize),
    writer: (usize, usize),
}

/// A drain, and what it waits for.
struct Drain {
    future: DrainFuture,
    stage: Stage,
    /// The number of connections that are cut while the drain runs.
    cut: usize,
}

/// The stages of a drain. Each ends early if no connection is open.
enum Stage {
    /// Waits until the grace period is over, at this time.
    Grace(Duration),
    /// Waits until the connections are cut.
    Linger(Count),
    /// Waits until the connections that have been cut are dropped.
    Cut(Count),
}

/// A second, counted in steps. A step in which the clock jumps counts at most twice its length.
struct Count {
    left: Duration,
    step_began: Duration,
}

struct Run<'a> {
    input: &'a Input,
    shutdown: Shutdown,
    start: Instant,
    connected: usize,
    connections: Vec<Judged>,
    is_cut: bool,
    drain: Option<Drain>,
}

/// The number of bytes before the steps.
const OPTIONS: usize = 2;
const MAX_CONNECTIONS: usize = 4;
/// From the end of the grace period to the cut, and from there to the end of the drain.
const SECOND: Duration = Duration::from_secs(1);
/// The steps in which that time is counted.
const STEP: Duration = Duration::from_millis(100);

const RESULTS: [Returned; 4] = [
    Poll::Pending,
    Poll::Ready(Ok(5)),
    Poll::Ready(Ok(0)),
    Poll::Ready(Err(ErrorKind::ConnectionReset)),
];

/// In milliseconds, the resolution of tokio's timers.
const ADVANCES: [u64; 8] = [1, 10, 99, 100, 101, 450, 999, 1000];
const GRACES: [u64; 4] = [0, 100, 300, 1500];

/// The log entries of the [`CALLS`].
const LOGGED: [&str; 5] = [
    "read",
    "write bytes",
    "write [by, tes]",
    "flush",
    "shutdown",
];

impl Input {
    /// Returns the bytes from which these options and steps are read.
    pub fn encode(write_timeouts: [u8; OPTIONS], steps: &[u8]) -> Vec<u8> {
        [&write_timeouts, steps].concat()
    }

    pub fn check(&self) {
        crate::RUNTIME.with(|runtime| runtime.block_on(self.run()));
    }

    async fn run(&self) {
        let mut run = Run {
            input: self,
            shutdown: Shutdown::new(),
            start: Instant::now(),
            connected: 0,
            connections: Vec::new(),
            is_cut: false,
            drain: None,
        };
        run.connect();
        for &step in &self.steps {
            run.take(step).await;
            run.poll_drain();
            for judged in &run.connections {
                judged.assert_woken(run.start.elapsed());
            }
        }
        run.connections.drain(..).for_each(Judged::close);
        run.poll_drain();
        assert!(run.drain.is_none(), "no connection is left");
    }
}

impl Run<'_> {
    async fn take(&mut self, step: Step) {
        match step {
            Step::Advance(time) => {
                advance(time).await;
                // The timers wake their tasks.
                yield_now().await;
            }
            Step::Connect => self.connect(),
            Step::Close => self.shutdown.close(),
            Step::Drain(grace) => self.drain(grace),
            Step::Call {
                connection,
                task,
                call,
                inner,
            } => {
                let now = self.start.elapsed();
                if let Some(judged) = self.connections.get_mut(connection) {
                    judged.call(task, call, inner, now);
                }
            }
            Step::Drop(connection) if connection < self.connections.len() => {
                self.connections.swap_remove(connection).close();
            }
            Step::Unwrap(connection) if connection < self.connections.len() => {
                let judged = self.connections.swap_remove(connection);
                let mut inner = judged.connection.into_inner();
                inner.result = Poll::Ready(Ok(5));
                let read = judged.tasks[0].call(&mut inner, Call::Read);
                assert_eq!(
                    read, inner.result,
                    "C24: an unwrapped connection is not cut"
                );
            }
            Step::Drop(_) | Step::Unwrap(_) => {}
        }
    }

    fn connect(&mut self) {
        if self.connections.len() == MAX_CONNECTIONS {
            return;
        }
        let limit = self.input.write_timeouts[self.connected % self.input.write_timeouts.len()];
        self.connected += 1;
        let mut connection = self.shutdown.connection(Scripted::pending());
        if let Some(limit) = limit {
            connection = connection.write_timeout(limit);
        }
        let mut model = ConnectionModel::new(limit);
        if self.is_cut {
            model.cut();
        }
        self.connections.push(Judged {
            connection,
            tasks: [Task::new(), Task::new()],
            model,
            reader: (0, 0),
            writer: (0, 0),
        });
    }

    fn drain(&mut self, grace: Duration) {
        if self.drain.is_none() {
            self.drain = Some(Drain {
                future: self.shutdown.drain(grace),
                stage: Stage::Grace(self.start.elapsed() + grace),
                cut: 0,
            });
        }
    }

    /// Polls the drain, and compares its result with that of the contract for this moment.
    fn poll_drain(&mut self) {
        let now = self.start.elapsed();
        let Some(drain) = &mut self.drain else {
            return;
        };
        let polled = Pin::new(&mut drain.future).poll(&mut Context::from_waker(Waker::noop()));
        let is_idle = self.connections.is_empty();
        if let Stage::Grace(end) = drain.stage
            && (is_idle || now >= end)
        {
            drain.stage = Stage::Linger(Count::from(now));
        }
        if let Stage::Linger(count) = &mut drain.stage
            && (count.is_over(now) || is_idle)
        {
            drain.stage = Stage::Cut(Count::from(now));
            if !self.is_cut {
                self.is_cut = true;
                drain.cut = self.connections.len();
                for judged in &mut self.connections {
                    judged.model.cut();
                }
            }
        }
        let must_return = match &mut drain.stage {
            Stage::Cut(count) => count.is_over(now) || is_idle,
            _ => false,
        };
        match polled {
            Poll::Pending => assert!(!must_return, "C24: the drain returns"),
            Poll::Ready(drained) => {
                assert!(must_return, "C24: the drain waits");
                assert_eq!(drained.connections_cut(), drain.cut, "C24: connections cut");
                assert_eq!((drained.ended(), drained.still_open()), (0, 0));
                self.drain = None;
            }
        }
    }
}

impl Count {
    fn from(now: Duration) -> Self {
        Self {
            left: SECOND,
            step_began: now,
        }
    }

    /// Counts the step that is over, if there is one, and returns `true` if none is left.
    fn is_over(&mut self, now: Duration) -> bool {
        let step = now - self.step_began;
        if step >= STEP.min(self.left) {
            self.left = self.left.saturating_sub(step.min(2 * STEP));
            self.step_began = now;
        }
        self.left.is_zero()
    }
}

impl Judged {
    fn call(&mut self, number: usize, call: Call, inner: Returned, now: Duration) {
        self.connection.get_mut().result = inner;
        self.connection.get_mut().log.clear();
        let forwards = self.model.forwards();
        let expected = self.model.call(call, inner, now);
        let task = &self.tasks[number];
        let returned = task.call(&mut self.connection, call);
        assert_eq!(returned, expected, "C24: {call:?}");
        let logged = CALLS
            .iter()
            .zip(LOGGED)
            .filter(|&(of, _)| forwards && *of == call);
        assert!(
            logged
                .map(|(_, logged)| logged)
                .eq(&self.connection.get_ref().log),
            "C24: the number of calls of the inner connection"
        );
        let side = match call {
            Call::Read => &mut self.reader,
            _ => &mut self.writer,
        };
        *side = (number, task.wakes());
    }

    fn assert_woken(&self, now: Duration) {
        let is_woken = |(task, before): (usize, usize)| self.tasks[task].wakes() > before;
        assert!(
            !self.model.wakes_reader() || is_woken(self.reader),
            "C24: wakes the reader"
        );
        assert!(
            !self.model.wakes_writer(now) || is_woken(self.writer),
            "C24: wakes the writer"
        );
    }

    /// Drops the connection, which leaves no waker.
    fn close(self) {
        drop(self.connection);
        for task in &self.tasks {
            assert_eq!(task.references(), Task::new().references());
        }
    }
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let write_timeouts = u.arbitrary::<[u8; OPTIONS]>()?;
        let steps = u.bytes(u.len())?.iter().copied().map(step).collect();
        Ok(Self {
            write_timeouts: write_timeouts.map(|limit| match limit {
                0 => None,
                255 => Some(Duration::MAX),
                _ => Some(Duration::from_millis(u64::from(limit) * 10)),
            }),
            steps,
        })
    }

    fn size_hint(_depth: usize) -> (usize, Option<usize>) {
        (OPTIONS, None)
    }
}

/// Reads a step: its kind, two or three bits for its details, and the connection.
fn step(byte: u8) -> Step {
    let details = usize::from(byte >> 3 & 7);
    let connection = usize::from(byte >> 6);
    match byte & 7 {
        call @ 0..=4 => Step::Call {
            connection,
            task: details >> 2,
            call: CALLS[usize::from(call)],
            inner: RESULTS[details & 3],
        },
        5 | 6 => Step::Advance(Duration::from_millis(ADVANCES[details])),
        _ => match details {
            0 => Step::Connect,
            1 => Step::Drop(connection),
            2 => Step::Unwrap(connection),
            3 => Step::Close,
            _ => Step::Drain(Duration::from_millis(GRACES[details & 3])),
        },
    }
}
