//! Connections that are cut while a task polls them.

use std::{
    future::poll_fn,
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use loom::{
    future::block_on,
    sync::{Arc, Mutex},
    thread,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{drain, explore};
use crate::shutdown::{Connection, Shutdown, phase::StreamGuard};

/// A connection whose reads are ready, whose task then waits for something else: a body that nobody reads, for example.
struct Busy;

impl AsyncRead for Busy {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A connection on which nothing arrives, and which accepts nothing.
struct Stalled;

impl AsyncRead for Stalled {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Stalled {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

fn poll_read(connection: &mut Connection<Stalled>, cx: &mut Context<'_>) -> Poll<ErrorKind> {
    let read = Pin::new(connection).poll_read(cx, &mut ReadBuf::new(&mut [0]));
    read.map(|read| read.expect_err("nothing arrives").kind())
}

fn poll_write(connection: &mut Connection<Stalled>, cx: &mut Context<'_>) -> Poll<ErrorKind> {
    let written = Pin::new(connection).poll_write(cx, b"data: 1\n\n");
    written.map(|written| written.expect_err("nothing is accepted").kind())
}

#[test]
fn c24_write_that_is_pending_during_the_cut_fails() {
    explore(|| {
        let shutdown = Shutdown::new();
        let mut connection = shutdown.connection(Stalled);
        let server = thread::spawn(move || block_on(poll_fn(|cx| poll_write(&mut connection, cx))));
        assert_eq!(shutdown.shared.cut(), Some(1));
        let error = server.join().expect("no panic");
        assert_eq!(error, ErrorKind::ConnectionAborted);
    });
}

#[test]
fn c24_task_whose_read_is_ready_during_the_cut_sees_the_cut() {
    explore(|| {
        let shutdown = Shutdown::new();
        let mut connection = shutdown.connection(Busy);
        let server = thread::spawn(move || {
            // The task reads once, and is polled again only after a wake-up.
            block_on(poll_fn(|cx| {
                let read = Pin::new(&mut connection).poll_read(cx, &mut ReadBuf::new(&mut [0]));
                match read {
                    Poll::Ready(Err(error)) => Poll::Ready(error.kind()),
                    _ => Poll::Pending,
                }
            }))
        });
        assert_eq!(shutdown.shared.cut(), Some(1));
        let error = server.join().expect("no panic");
        assert_eq!(error, ErrorKind::ConnectionAborted);
    });
}

#[test]
fn c24_reader_and_writer_in_tasks_of_their_own_fail() {
    explore(|| {
        let shutdown = Shutdown::new();
        let connection = Arc::new(Mutex::new(shutdown.connection(Stalled)));
        let server = [poll_read, poll_write].map(|poll| {
            let connection = Arc::clone(&connection);
            thread::spawn(move || {
                let call = poll_fn(|cx| poll(&mut connection.lock().expect("no panic"), cx));
                assert_eq!(block_on(call), ErrorKind::ConnectionAborted);
            })
        });
        assert_eq!(shutdown.shared.cut(), Some(1));
        for task in server {
            task.join().expect("no panic");
        }
    });
}

#[test]
fn c24_drain_returns_when_the_last_stream_and_the_last_connection_are_dropped() {
    explore(|| {
        let shutdown = Shutdown::new();
        let stream = StreamGuard::new(&shutdown.shared, false);
        let connection = shutdown.connection(Stalled);
        let stream = thread::spawn(move || drop(stream));
        let connection = thread::spawn(move || drop(connection));
        drain(&shutdown);
        assert_eq!(shutdown.shared.counts().streams(), (1, 0));
        assert_eq!(shutdown.shared.counts().connections(), 0);
        stream.join().expect("no panic");
        connection.join().expect("no panic");
    });
}

#[test]
fn c24_connection_that_starts_during_the_cut_is_counted_or_fails_at_once() {
    explore(|| {
        let shutdown = Shutdown::new();
        let starts = shutdown.clone();
        let server = thread::spawn(move || {
            let mut connection = starts.connection(Stalled);
            let read = poll_read(&mut connection, &mut Context::from_waker(Waker::noop()));
            (connection, read)
        });
        let cut = shutdown.shared.cut();
        let (connection, read) = server.join().expect("no panic");
        match read {
            Poll::Pending => assert_eq!(cut, Some(1)),
            Poll::Ready(error) => assert_eq!(error, ErrorKind::ConnectionAborted),
        }
        drop(connection);
    });
}
