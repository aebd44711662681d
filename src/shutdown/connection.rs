//! A connection that a shutdown can cut.

use std::{
    io::{self, Error, ErrorKind, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop,
    time::{Sleep, sleep},
};

use super::{
    Shutdown,
    phase::{Phase, Shared, Waiter},
};
use crate::{coop::poll_unconstrained, sync::Arc};

pin_project! {
    /// A connection that a [`Shutdown`] can cut. Returned by [`Shutdown::connection`].
    #[derive(Debug)]
    pub struct Connection<T> {
        // Dropped first, so that the connection is closed before the drain is woken.
        #[pin]
        io: T,
        link: Link,
    }
}

/// Counts a connection, and decides when it fails.
///
/// The reader and the writer may be two tasks, so each has a waiter.
#[derive(Debug)]
struct Link {
    reader: Waiter,
    writer: Waiter,
    write_timeout: Option<Duration>,
    stall: Stall,
}

/// The state of the write timeout.
#[derive(Debug)]
enum Stall {
    /// No write is pending, or there is no timeout.
    None,
    /// A write is pending. `operation` was pending when the timer started.
    Pending {
        operation: Operation,
        timer: Pin<Box<Sleep>>,
    },
    /// A write was pending for too long.
    TimedOut,
}

/// Kinds of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    /// Accepts bytes.
    Write,
    /// A flush or a shutdown, which sends bytes that have been accepted.
    Flush,
}

impl Shutdown {
    /// Wraps a connection, so that a [`drain`](Self::drain) can cut it.
    ///
    /// A server does not poll the body of a connection whose client has stopped reading. Therefore no layer can end that
    /// stream, and the server waits for that client. A wrapped connection is transparent until the drain is over. From then
    /// on, every read and write fails with [`ConnectionAborted`](io::ErrorKind::ConnectionAborted), the tasks that have polled
    /// the connection last are woken, and the server drops the connection. The drain waits for all wrapped connections,
    /// including idle connections and connections without a stream.
    ///
    /// Wrap the connections where the server accepts them, below TLS. With axum, in a listener, around a `TcpListener`, a
    /// `UnixListener` or a listener of your own:
    ///
    /// ```
    /// use std::{io, time::Duration};
    /// use axum::serve::Listener;
    /// use tower_sse_completion::{Connection, Shutdown};
    ///
    /// /// A listener whose connections a drain can cut.
    /// struct CutListener<L> {
    ///     listener: L,
    ///     shutdown: Shutdown,
    /// }
    ///
    /// impl<L: Listener> Listener for CutListener<L> {
    ///     type Io = Connection<L::Io>;
    ///     type Addr = L::Addr;
    ///
    ///     async fn accept(&mut self) -> (Self::Io, Self::Addr) {
    ///         let (io, address) = self.listener.accept().await;
    ///         let connection = self.shutdown.connection(io);
    ///         // Disconnects a client that does not read while the server runs.
    ///         (connection.write_timeout(Duration::from_secs(30)), address)
    ///     }
    ///
    ///     fn local_addr(&self) -> io::Result<Self::Addr> {
    ///         self.listener.local_addr()
    ///     }
    /// }
    /// ```
    ///
    /// For `into_make_service_with_connect_info::<SocketAddr>()`, add `.tap_io(|_| ())` of axum's `ListenerExt` to the listener. axum
    /// implements `Connected` for `SocketAddr` with its own listeners only, and `tap_io` is one of them. A type of your own
    /// implements `Connected<IncomingStream<'_, CutListener<TcpListener>>>`.
    ///
    /// A call costs one atomic load more than a call of the connection itself. A connection that is wrapped after the
    /// drain fails at once.
    pub fn connection<T>(&self, io: T) -> Connection<T> {
        Connection {
            io,
            link: Link::new(&self.shared),
        }
    }
}

impl<T> Connection<T> {
    /// Fails the connection if a pending write makes no progress for this long. There is no limit by default.
    ///
    /// The connection fails with [`TimedOut`](io::ErrorKind::TimedOut). A write makes progress when it accepts bytes; a flush
    /// and a shutdown make progress when they complete. The limit ends clients that have stopped reading while the server
    /// runs. It does not end a client that reads slowly, or one of several HTTP/2 streams that is not read while the client
    /// reads from the connection.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tokio::net::TcpStream;
    /// use tower_sse_completion::{Connection, Shutdown};
    ///
    /// fn wrap(stream: TcpStream, shutdown: &Shutdown) -> Connection<TcpStream> {
    ///     shutdown.connection(stream).write_timeout(Duration::from_secs(30))
    /// }
    /// # let _ = wrap;
    /// ```
    ///
    /// # Panics
    ///
    /// With a limit, a write that is pending panics outside of a tokio runtime, or if the runtime's timer is disabled.
    #[must_use]
    pub fn write_timeout(mut self, limit: Duration) -> Self {
        self.link.write_timeout = Some(limit);
        self
    }

    /// Returns the wrapped connection.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// Returns the wrapped connection. Reads and writes of the wrapped connection itself are not cut.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.io
    }

    /// Returns the wrapped connection, which the shutdown no longer counts and cannot cut.
    pub fn into_inner(self) -> T {
        self.io
    }
}

impl<T: AsyncRead> AsyncRead for Connection<T> {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        this.link.check()?;
        let polled = this.io.poll_read(cx, buffer);
        this.link.register_reader(cx)?;
        polled
    }
}

impl<T> Connection<T> {
    /// Polls the inner connection. `is_progress` returns `true` for a result that is progress.
    #[inline]
    fn poll_output<R>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        operation: Operation,
        is_progress: impl FnOnce(&R) -> bool,
        poll: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        let this = self.project();
        this.link.check()?;
        let polled = poll(this.io, cx);
        this.link.register_writer(cx)?;
        match &polled {
            Poll::Pending => return this.link.poll_timeout(cx, operation).map(Err),
            Poll::Ready(Ok(result)) if is_progress(result) => this.link.record_progress(operation),
            Poll::Ready(_) => {}
        }
        polled
    }
}

impl<T: AsyncWrite> AsyncWrite for Connection<T> {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_output(cx, Operation::Write, accepts_bytes, |io, cx| {
            io.poll_write(cx, bytes)
        })
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_output(cx, Operation::Write, accepts_bytes, |io, cx| {
            io.poll_write_vectored(cx, slices)
        })
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_output(cx, Operation::Flush, |()| true, T::poll_flush)
    }

    #[inline]
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_output(cx, Operation::Flush, |()| true, T::poll_shutdown)
    }
}

impl Link {
    /// Counts a connection that starts now.
    fn new(shared: &Arc<Shared>) -> Self {
        shared.connect();
        Self {
            reader: Waiter::new(shared, Phase::Cut),
            writer: Waiter::new(shared, Phase::Cut),
            write_timeout: None,
            stall: Stall::None,
        }
    }

    /// Returns an error once the connection is cut or has timed out.
    #[inline]
    fn check(&self) -> Result<(), Error> {
        let has_timed_out = matches!(self.stall, Stall::TimedOut);
        match has_timed_out || self.reader.shared().has_begun(Phase::Cut) {
            true => Err(self.error()),
            false => Ok(()),
        }
    }

    #[cold]
    fn error(&self) -> Error {
        match self.stall {
            Stall::TimedOut => Error::new(
                ErrorKind::TimedOut,
                "the client does not read: the connection has made no progress within its write timeout",
            ),
            _ => Error::new(
                ErrorKind::ConnectionAborted,
                "the connection was cut by the shutdown of the server",
            ),
        }
    }

    /// Registers the task of a read, even if the read is ready: the task may next wait for something other than the connection,
    /// such as a handler. Fails if the connection has been cut in the meantime.
    #[inline]
    fn register_reader(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        match self.reader.poll_registered(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(self.error()),
        }
    }

    /// Registers the task of a write as [`register_reader`](Self::register_reader) does that of a read.
    #[inline]
    fn register_writer(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        match self.writer.poll_registered(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(self.error()),
        }
    }

    /// Completes with an error when a write has been pending for too long.
    #[cold]
    fn poll_timeout(&mut self, cx: &mut Context<'_>, operation: Operation) -> Poll<Error> {
        let Some(limit) = self.write_timeout else {
            return Poll::Pending;
        };
        if matches!(self.stall, Stall::None) {
            let timer = Box::pin(sleep(limit));
            self.stall = Stall::Pending { operation, timer };
        }
        if let Stall::Pending { timer, .. } = &mut self.stall {
            // With the budget exhausted, the timer would not register this task.
            if poll_unconstrained(timer.as_mut(), cx).is_pending() {
                return Poll::Pending;
            }
            if !coop::has_budget_remaining() {
                // The write may be pending because of the budget alone. It is polled again with a new one.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.stall = Stall::TimedOut;
            self.reader.wake();
        }
        Poll::Ready(self.error())
    }

    /// Records that a write has accepted bytes, or that a flush has completed.
    #[inline]
    fn record_progress(&mut self, progress: Operation) {
        if let Stall::Pending { operation, .. } = self.stall {
            // The flush of a socket completes at once, and is no progress of a pending write.
            if progress == Operation::Write || progress == operation {
                self.stall = Stall::None;
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.shared().disconnect();
    }
}

/// Returns `true` if a write has accepted bytes.
fn accepts_bytes(written: &usize) -> bool {
    *written > 0
}
