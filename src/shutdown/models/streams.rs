//! Streams that end while a drain waits for them.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;
use loom::{future::block_on, thread};

use super::{Task, drain, explore};
use crate::{
    SseCompletionLayer,
    shutdown::{Shutdown, phase::StreamGuard},
};

#[test]
fn c18_drain_returns_when_the_last_of_two_streams_is_dropped() {
    explore(|| {
        let shutdown = Shutdown::new();
        let dropping = [(); 2].map(|()| {
            let stream = StreamGuard::new(&shutdown.shared, false);
            thread::spawn(move || drop(stream))
        });
        drain(&shutdown);
        assert_eq!(shutdown.shared.counts().streams(), (2, 0));
        for dropping in dropping {
            dropping.join().expect("no panic");
        }
    });
}

#[test]
fn c18_two_drains_return_when_the_last_stream_is_dropped() {
    explore(|| {
        let shutdown = Shutdown::new();
        let stream = StreamGuard::new(&shutdown.shared, false);
        let dropping = thread::spawn(move || drop(stream));
        let drains = [(); 2].map(|()| {
            let shutdown = shutdown.clone();
            thread::spawn(move || drain(&shutdown))
        });
        for drain in drains {
            drain.join().expect("no panic");
        }
        dropping.join().expect("no panic");
    });
}

#[test]
fn c18_drain_that_is_dropped_takes_its_waker_and_no_other() {
    explore(|| {
        let shutdown = Shutdown::new();
        let stream = StreamGuard::new(&shutdown.shared, false);
        let (task, waker) = Task::new();
        let drops = shutdown.clone();
        let dropped = thread::spawn(move || {
            let mut idle = drops.shared.counts().idle();
            let _ = idle.poll(&mut Context::from_waker(&waker));
        });
        let dropping = thread::spawn(move || drop(stream));
        drain(&shutdown);
        dropped.join().expect("no panic");
        dropping.join().expect("no panic");
        task.assert_forgotten();
    });
}

#[test]
fn c19_drain_waits_for_the_stream_that_follows_a_request() {
    explore(|| {
        let shutdown = Shutdown::new();
        shutdown.shared.count_request();
        let (responds, is_reported) = (shutdown.clone(), Arc::<AtomicUsize>::default());
        let reports = Arc::clone(&is_reported);
        let server = thread::spawn(move || {
            let stream = StreamGuard::new(&responds.shared, false);
            responds.shared.release_request();
            reports.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        });
        drain(&shutdown);
        assert_eq!(is_reported.load(Ordering::SeqCst), 1);
        assert_eq!(shutdown.shared.counts().requests(), 0);
        assert_eq!(shutdown.shared.counts().streams(), (1, 0));
        server.join().expect("no panic");
    });
}

#[test]
fn c18_stream_that_ends_while_a_drain_counts_is_counted_once() {
    explore(|| {
        let shutdown = Shutdown::new();
        let streams = [(); 2].map(|()| StreamGuard::new(&shutdown.shared, false));
        let dropping = streams.map(|stream| thread::spawn(move || drop(stream)));
        let (ended, still_open) = shutdown.shared.counts().streams();
        assert_eq!(ended + still_open, 2);
        for dropping in dropping {
            dropping.join().expect("no panic");
        }
    });
}

#[test]
fn c18_streams_that_follow_each_other_are_not_open_at_once() {
    explore(|| {
        let shutdown = Shutdown::new();
        let starts = shutdown.clone();
        let streams = thread::spawn(move || {
            for _ in 0..2 {
                drop(StreamGuard::new(&starts.shared, false));
            }
        });
        assert!(shutdown.open_streams() <= 1);
        streams.join().expect("no panic");
        assert_eq!(shutdown.open_streams(), 0);
    });
}

/// An upstream that never has anything.
struct Silent;

impl Stream for Silent {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Pending
    }
}

#[test]
fn c19_stream_leaves_the_count_then_is_reported_and_then_a_drain_returns() {
    explore(|| {
        let shutdown = Shutdown::new();
        let (reports, counted) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let layer = SseCompletionLayer::new().shutdown(&shutdown).on_end({
            let (shutdown, reports, counted) = (shutdown.clone(), reports.clone(), counted.clone());
            move |_| {
                counted.fetch_add(shutdown.open_streams(), Ordering::SeqCst);
                reports.fetch_add(1, Ordering::SeqCst);
            }
        });
        let (head, ()) = http::Request::new(()).into_parts();
        let mut stream = layer.byte_stream(&head, Silent);
        drop(layer);
        let server = thread::spawn(move || {
            let next = poll_fn(|cx| Pin::new(&mut stream).poll_next(cx));
            assert_eq!(block_on(next), Some(Ok("event: close\ndata:\n\n".into())));
        });
        shutdown.close();
        drain(&shutdown);
        assert_eq!(
            reports.load(Ordering::SeqCst),
            1,
            "reported before the drain returns"
        );
        assert_eq!(
            counted.load(Ordering::SeqCst),
            0,
            "not counted in its report"
        );
        assert_eq!(shutdown.open_streams(), 0);
        server.join().expect("no panic");
    });
}
