//! Calls a connection that is always writable and never readable: `connections SUBJECT write|flush|read CALLS`. Run under
//! callgrind.

use std::{
    hint::black_box,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_sse_completion::Shutdown;

/// The connection that is wrapped.
struct Idle;

trait Connection: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite> Connection for T {}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [subject, call, calls] = &arguments[..] else {
        panic!("usage: connections SUBJECT write|flush|read CALLS");
    };
    let calls = calls.parse().expect("a number of calls");
    let shutdown = Shutdown::new();
    let limit = Duration::from_secs(30);
    match &subject[..] {
        "bare" => run(pin!(Idle), call, calls),
        "wrapped" => run(pin!(shutdown.connection(Idle)), call, calls),
        "write_timeout" => {
            let connection = shutdown.connection(Idle).write_timeout(limit);
            run(pin!(connection), call, calls);
        }
        other => panic!("unknown subject {other:?}"),
    }
}

/// Calls through a virtual call, so that the connection is not inlined into the loop.
fn run(mut connection: Pin<&mut dyn Connection>, call: &str, calls: usize) {
    let mut cx = Context::from_waker(Waker::noop());
    let event = [b'x'; 100];
    let mut bytes = [0; 100];
    for _ in 0..calls {
        let connection = black_box(connection.as_mut());
        match call {
            "write" => {
                let written = connection.poll_write(&mut cx, &event);
                assert!(matches!(written, Poll::Ready(Ok(100))));
            }
            "flush" => assert!(matches!(
                connection.poll_flush(&mut cx),
                Poll::Ready(Ok(()))
            )),
            "read" => {
                let mut buffer = ReadBuf::new(&mut bytes);
                assert!(connection.poll_read(&mut cx, &mut buffer).is_pending());
            }
            other => panic!("unknown call {other:?}"),
        }
    }
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
