//! Tasks that wait for a phase.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use loom::{future::block_on, thread};

use super::{Task, explore};
use crate::{
    shutdown::{
        Shutdown,
        phase::{END, Phase, StreamGuard},
    },
    wire::close_event::CloseEvent,
};

#[test]
fn c10_task_that_registers_during_a_close_is_woken() {
    explore(|| {
        let shutdown = Shutdown::new();
        let closed = shutdown.closed();
        let task = thread::spawn(move || block_on(closed));
        shutdown.close();
        task.join().expect("no panic");
    });
}

#[test]
fn c18_tasks_that_register_during_a_drain_and_a_close_are_woken() {
    explore(|| {
        let shutdown = Shutdown::new();
        let (draining, closed) = (shutdown.draining(), shutdown.closed());
        let first = thread::spawn(move || block_on(draining));
        let second = thread::spawn(move || block_on(closed));
        shutdown.shared.enter(Phase::Draining);
        shutdown.close();
        first.join().expect("no panic");
        second.join().expect("no panic");
    });
}

#[test]
fn c18_drain_and_close_in_two_threads_wake_the_tasks_of_both_phases() {
    explore(|| {
        let shutdown = Shutdown::new();
        let (mut draining, mut closed) = (shutdown.draining(), shutdown.closed());
        let (drains, closes) = (shutdown.clone(), shutdown);
        let drain = thread::spawn(move || drains.shared.enter(Phase::Draining));
        let close = thread::spawn(move || closes.close());
        block_on(&mut draining);
        block_on(poll_fn(|cx| {
            let polled = Pin::new(&mut closed).poll(cx);
            assert!(Pin::new(&mut draining).poll(cx).is_ready());
            polled
        }));
        drain.join().expect("no panic");
        close.join().expect("no panic");
    });
}

#[test]
fn c10_task_to_which_a_stream_moves_during_a_close_is_woken() {
    explore(|| {
        let shutdown = Shutdown::new();
        let mut closed = shutdown.closed();
        let first = Task::waiting(|cx| Pin::new(&mut closed).poll(cx));
        let closing = thread::spawn(move || shutdown.close());
        block_on(closed);
        closing.join().expect("no panic");
        assert!(first.wakes() <= 1);
        first.assert_forgotten();
    });
}

#[test]
fn c10_stream_that_is_dropped_during_a_close_takes_its_waker_and_no_other() {
    explore(|| {
        let shutdown = Shutdown::new();
        let tasks = [(); 2].map(|()| {
            let mut closed = shutdown.closed();
            let task = Task::waiting(|cx| Pin::new(&mut closed).poll(cx));
            (task, closed)
        });
        let [(dropped, first), (other, mut second)] = tasks;
        let dropping = thread::spawn(move || drop(first));
        shutdown.close();
        dropping.join().expect("no panic");
        assert!(dropped.wakes() <= 1);
        dropped.assert_forgotten();
        assert_eq!(other.wakes(), 1);
        let polled = Pin::new(&mut second).poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_ready());
    });
}

#[test]
fn c10_task_that_registers_while_a_stream_is_dropped_is_woken() {
    explore(|| {
        let shutdown = Shutdown::new();
        let mut dropped = shutdown.closed();
        let task = Task::waiting(|cx| Pin::new(&mut dropped).poll(cx));
        let closed = shutdown.closed();
        let dropping = thread::spawn(move || drop(dropped));
        let waiting = thread::spawn(move || block_on(closed));
        shutdown.close();
        dropping.join().expect("no panic");
        waiting.join().expect("no panic");
        task.assert_forgotten();
    });
}

#[test]
fn c15_streams_that_two_calls_close_get_the_close_event_of_the_first() {
    explore(|| {
        let shutdown = Shutdown::new();
        let mut stream = StreamGuard::new(&shutdown.shared, false);
        let closing = ["first", "second"].map(|name| {
            let shutdown = shutdown.clone();
            thread::spawn(move || shutdown.close_with(CloseEvent::from_static(name)))
        });
        block_on(poll_fn(|cx| stream.poll_fired(cx)));
        let event = stream.close_event();
        assert!(event.is_some(), "the event is set before the streams end");
        for closing in closing {
            closing.join().expect("no panic");
        }
        assert_eq!(stream.close_event(), event);
    });
}

#[test]
fn c18_stream_that_starts_during_a_close_ends() {
    explore(|| {
        let shutdown = Shutdown::new();
        let starts = shutdown.clone();
        let stream = thread::spawn(move || {
            let mut stream = StreamGuard::new(&starts.shared, false);
            block_on(poll_fn(|cx| stream.poll_fired(cx)));
        });
        shutdown.close();
        let mut late = StreamGuard::new(&shutdown.shared, false);
        let fired = late.poll_fired(&mut Context::from_waker(Waker::noop()));
        assert_eq!(fired, Poll::Ready(()));
        drop(late);
        stream.join().expect("no panic");
        assert_eq!(shutdown.open_streams(), 0);
    });
}

/// Advances a phase in three steps, as a spread does.
fn spread(shutdown: &Shutdown, phase: Phase) {
    shutdown.shared.advance(phase, 1);
    shutdown.shared.advance(phase, END / 5 * 2);
    shutdown.shared.advance(phase, END);
}

#[test]
fn c18_stream_that_registers_during_a_spread_is_woken() {
    explore(|| {
        let shutdown = Shutdown::new();
        // The places of the first three streams are 0, 0.62 and 0.24.
        let _first = StreamGuard::new(&shutdown.shared, false);
        let streams = [(); 2].map(|()| StreamGuard::new(&shutdown.shared, false));
        let tasks = streams
            .map(|mut stream| thread::spawn(move || block_on(poll_fn(|cx| stream.poll_fired(cx)))));
        spread(&shutdown, Phase::Closed);
        for task in tasks {
            task.join().expect("no panic");
        }
    });
}

#[test]
fn c18_stream_that_is_dropped_during_a_spread_takes_its_waker_and_no_other() {
    explore(|| {
        let shutdown = Shutdown::new();
        let _first = StreamGuard::new(&shutdown.shared, false);
        let [mut other, mut dropped] = [(); 2].map(|()| StreamGuard::new(&shutdown.shared, false));
        let task = Task::waiting(|cx| dropped.poll_fired(cx));
        let spreads = shutdown.clone();
        let spreading = thread::spawn(move || spread(&spreads, Phase::Closed));
        // This stream may register with the key of the other one.
        let waiting = thread::spawn(move || block_on(poll_fn(|cx| other.poll_fired(cx))));
        drop(dropped);
        spreading.join().expect("no panic");
        waiting.join().expect("no panic");
        assert!(task.wakes() <= 1);
        task.assert_forgotten();
    });
}

#[test]
fn c18_two_spreads_at_once_wake_every_stream_once() {
    explore(|| {
        let shutdown = Shutdown::new();
        let _first = StreamGuard::new(&shutdown.shared, false);
        let tasks = [(); 2].map(|()| {
            let mut stream = StreamGuard::new(&shutdown.shared, false);
            let task = Task::waiting(|cx| stream.poll_fired(cx));
            (task, stream)
        });
        let second = shutdown.clone();
        let second = thread::spawn(move || spread(&second, Phase::Closed));
        spread(&shutdown, Phase::Closed);
        second.join().expect("no panic");
        for (task, mut stream) in tasks {
            assert_eq!(task.wakes(), 1);
            let fired = stream.poll_fired(&mut Context::from_waker(Waker::noop()));
            assert!(fired.is_ready());
        }
    });
}

#[test]
fn c18_spread_goes_on_although_another_drain_is_dropped() {
    explore(|| {
        let shutdown = Shutdown::new();
        let _first = StreamGuard::new(&shutdown.shared, false);
        let mut stream = StreamGuard::new(&shutdown.shared, false);
        let other = shutdown.clone();
        let task = thread::spawn(move || block_on(poll_fn(|cx| stream.poll_fired(cx))));
        let dropped = thread::spawn(move || {
            other.shared.advance(Phase::Closed, 1);
            other.shared.forget_order(Phase::Closed);
        });
        spread(&shutdown, Phase::Closed);
        dropped.join().expect("no panic");
        task.join().expect("no panic");
    });
}

#[test]
fn c18_stream_that_starts_as_a_spread_begins_ends_with_it() {
    explore(|| {
        let shutdown = Shutdown::new();
        let _first = StreamGuard::new(&shutdown.shared, false);
        let starts = shutdown.clone();
        let stream = thread::spawn(move || {
            let mut stream = StreamGuard::new(&starts.shared, false);
            block_on(poll_fn(|cx| stream.poll_fired(cx)));
        });
        spread(&shutdown, Phase::Closed);
        stream.join().expect("no panic");
    });
}

#[test]
fn c18_close_during_a_spread_wakes_every_stream() {
    explore(|| {
        let shutdown = Shutdown::new();
        let _first = StreamGuard::new(&shutdown.shared, true);
        let streams =
            [true, false].map(|ends_on_drain| StreamGuard::new(&shutdown.shared, ends_on_drain));
        let tasks = streams
            .map(|mut stream| thread::spawn(move || block_on(poll_fn(|cx| stream.poll_fired(cx)))));
        shutdown.shared.advance(Phase::Draining, 1);
        shutdown.close();
        // The drain has not seen the close.
        shutdown.shared.advance(Phase::Draining, END / 2);
        for task in tasks {
            task.join().expect("no panic");
        }
    });
}

#[test]
fn c18_stream_that_becomes_one_that_ends_on_drain_ends_with_the_drain() {
    explore(|| {
        let shutdown = Shutdown::new();
        let mut stream = StreamGuard::new(&shutdown.shared, false);
        let joins = thread::spawn(move || {
            stream.end_on_drain();
            block_on(poll_fn(|cx| stream.poll_fired(cx)));
        });
        shutdown.shared.enter(Phase::Draining);
        joins.join().expect("no panic");
        assert_eq!(shutdown.shared.counts().open_in(Phase::Draining), 0);
    });
}
