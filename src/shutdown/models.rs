//! Models of this module. loom runs each in every interleaving of its threads, and with every value that an atomic may return.
//!
//! `.ci/loom` runs them, with a limit for the number of preemptions.

mod connections;
mod phases;
mod streams;

use std::{
    any,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use loom::{future::block_on, model::Builder};

use super::{Shutdown, phase::Phase};

/// Runs a model in every interleaving, and prints their number.
fn explore<M: Fn() + Send + Sync + 'static>(model: M) {
    let interleavings = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&interleavings);
    Builder::new().check(move || {
        count.fetch_add(1, Ordering::SeqCst);
        model();
    });
    let name = any::type_name::<M>().trim_end_matches("::{{closure}}");
    let (_, name) = name.rsplit_once("::").expect("a path");
    println!(
        "model {name}: {} interleavings",
        interleavings.load(Ordering::SeqCst)
    );
}

/// Waits as a drain without an end of its grace does. A drain has a timer, which a model does not have.
fn drain(shutdown: &Shutdown) {
    shutdown.shared.enter(Phase::Draining);
    let mut idle = shutdown.shared.counts().idle();
    block_on(poll_fn(|cx| idle.poll(cx)));
}

/// A task that counts its wake-ups. Its counts are no part of a model, so loom does not switch threads there.
#[derive(Default)]
struct Task(AtomicUsize);

impl Task {
    fn new() -> (Arc<Self>, Waker) {
        let task = Arc::<Self>::default();
        (Arc::clone(&task), Waker::from(task))
    }

    /// Returns a task whose waker this poll registers.
    fn waiting(poll: impl FnOnce(&mut Context<'_>) -> Poll<()>) -> Arc<Self> {
        let (task, waker) = Self::new();
        assert!(poll(&mut Context::from_waker(&waker)).is_pending());
        task
    }

    /// Asserts that no waker of the task is left.
    fn assert_forgotten(self: &Arc<Self>) {
        assert_eq!(Arc::strong_count(self), 1, "no waker is left");
    }

    fn wakes(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
