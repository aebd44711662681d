//! Calls of a connection that is always writable and never readable.

use std::{
    hint::black_box,
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use benchmarks::{callgrind::measure, subjects::UNITS, tables::name};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_sse_completion::Shutdown;

/// The connection that is wrapped.
struct Idle;

type Call = fn(Pin<&mut dyn Connection>);

trait Connection: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite> Connection for T {}

pub fn count() {
    let shutdown = Shutdown::new();
    let calls: [(&str, Call); 3] = [("write", write), ("flush", flush), ("pending read", read)];
    for (row, call) in calls {
        let wrapped = || shutdown.connection(Idle);
        let limited = wrapped().write_timeout(Duration::from_secs(30));
        count_calls(&name("connection", row, "bare"), call, Box::pin(Idle));
        count_calls(
            &name("connection", row, "wrapped"),
            call,
            Box::pin(wrapped()),
        );
        count_calls(
            &name("connection", row, "write timeout"),
            call,
            Box::pin(limited),
        );
    }
}

/// Calls through a virtual call, so that the connection is not inlined into the loop.
fn count_calls(name: &str, call: Call, mut connection: Pin<Box<dyn Connection + '_>>) {
    measure(name, || {
        for _ in 0..UNITS {
            call(black_box(connection.as_mut()));
        }
    });
}

fn write(connection: Pin<&mut dyn Connection>) {
    let written = connection.poll_write(&mut Context::from_waker(Waker::noop()), &[b'x'; 100]);
    assert!(matches!(written, Poll::Ready(Ok(100))));
}

fn flush(connection: Pin<&mut dyn Connection>) {
    let flushed = connection.poll_flush(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(flushed, Poll::Ready(Ok(()))));
}

fn read(connection: Pin<&mut dyn Connection>) {
    let mut bytes = [0; 100];
    let mut buffer = ReadBuf::new(&mut bytes);
    let read = connection.poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
    assert!(read.is_pending());
}

impl AsyncRead for Idle {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Idle {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
