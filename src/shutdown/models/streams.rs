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
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use loom::{future::block_on, thread};

use super::explore;
use crate::{
    SseCompletionLayer,
    shutdown::{Shutdown, phase::Phase},
};

#[test]
fn c18_drain_returns_when_the_last_of_two_streams_is_dropped() {
    explore(|| {
        let shutdown = Shutdown::new();
        let dropping = [(); 2].map(|()| {
            let stream = shutdown.count_stream(false);
            thread::spawn(move || drop(stream))
        });
        let drained = block_on(shutdown.drain(Duration::MAX));
        assert!(drained.ended() <= 2);
        assert_eq!(drained.still_open(), 0);
        assert_eq!(shutdown.shared.streams().counts(), (2, 0));
        for dropping in dropping {
            dropping.join().expect("no panic");
        }
    });
}

#[test]
fn c18_two_drains_return_when_the_last_stream_is_dropped() {
    explore(|| {
        let shutdown = Shutdown::new();
        let stream = shutdown.count_stream(false);
        let dropping = thread::spawn(move || drop(stream));
        shutdown.shared.enter(Phase::Draining);
        let drains = [(); 2].map(|()| {
            let shutdown = shutdown.clone();
            thread::spawn(move || {
                let streams = shutdown.shared.streams();
                block_on(poll_fn(|cx| streams.poll_all_reported(cx)));
            })
        });
        for drain in drains {
            drain.join().expect("no panic");
        }
        dropping.join().expect("no panic");
    });
}

#[test]
fn c18_stream_that_ends_while_a_drain_counts_is_counted_once() {
    explore(|| {
        let shutdown = Shutdown::new();
        let streams = [(); 2].map(|()| shutdown.count_stream(false));
        let dropping = streams.map(|stream| thread::spawn(move || drop(stream)));
        let (ended, still_open) = shutdown.shared.streams().counts();
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
                drop(starts.count_stream(false));
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
        let drained = block_on(shutdown.drain(Duration::MAX));
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
        assert!(drained.ended() <= 1);
        assert_eq!(drained.still_open(), 0);
        server.join().expect("no panic");
    });
}
