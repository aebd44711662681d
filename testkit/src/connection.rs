//! A connection whose calls return scripted results, and tasks that call the connection.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::model::{Call, Returned};

/// A connection whose calls return a scripted result, and are logged.
#[derive(Debug)]
pub struct Scripted {
    /// The result of the next calls: a number of bytes, which a flush and a shutdown ignore, or an error.
    pub result: Returned,
    /// The calls so far.
    pub log: Vec<String>,
    /// The result of `is_write_vectored`.
    pub is_vectored: bool,
}

impl Scripted {
    /// Returns a connection whose calls have this result.
    pub fn returning(result: Returned) -> Self {
        Self {
            result,
            log: Vec::new(),
            is_vectored: false,
        }
    }

    /// Returns a connection whose calls are pending.
    pub fn pending() -> Self {
        Self::returning(Poll::Pending)
    }

    fn call(&mut self, call: String) -> Poll<io::Result<usize>> {
        self.log.push(call);
        self.result.map(|result| result.map_err(io::Error::from))
    }
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.call("read".into());
        read.map_ok(|length| buffer.put_slice(&b"data: 1\n\n"[..length]))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.call(format!("write {}", bytes.escape_ascii()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let slices = slices.iter().map(|slice| slice.escape_ascii().to_string());
        let slices = slices.collect::<Vec<_>>().join(", ");
        self.call(format!("write [{slices}]"))
    }

    fn is_write_vectored(&self) -> bool {
        self.is_vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.call("flush".into()).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.call("shutdown".into()).map_ok(drop)
    }
}

/// A waker that counts.
#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A task that polls connections.
#[derive(Debug)]
pub struct Task {
    wakes: Arc<Wakes>,
    /// The waker of the task.
    pub waker: Waker,
}

impl Default for Task {
    fn default() -> Self {
        let wakes = Arc::<Wakes>::default();
        Self {
            waker: Waker::from(Arc::clone(&wakes)),
            wakes,
        }
    }
}

impl Task {
    /// Returns a task that has not been woken.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of wake-ups so far.
    pub fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::SeqCst)
    }

    /// Returns the number of references to the waker, that of the task included.
    pub fn references(&self) -> usize {
        Arc::strong_count(&self.wakes)
    }

    /// Makes a call, and returns the kind of an error.
    pub fn call<T>(&self, connection: &mut T, call: Call) -> Returned
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let connection = Pin::new(connection);
        let cx = &mut Context::from_waker(&self.waker);
        let polled = match call {
            Call::Read => {
                let mut bytes = [0; 16];
                let mut buffer = ReadBuf::new(&mut bytes);
                let polled = connection.poll_read(cx, &mut buffer);
                polled.map_ok(|()| buffer.filled().len())
            }
            Call::Write => connection.poll_write(cx, b"bytes"),
            Call::WriteVectored => {
                let slices = [IoSlice::new(b"by"), IoSlice::new(b"tes")];
                connection.poll_write_vectored(cx, &slices)
            }
            Call::Flush => connection.poll_flush(cx).map_ok(|()| 0),
            Call::Shutdown => connection.poll_shutdown(cx).map_ok(|()| 0),
        };
        polled.map_err(|error| error.kind())
    }
}
