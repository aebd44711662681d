//! Those who wait for a shutdown: what they share, and how they are woken.

use std::{
    fmt, mem,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use slab::Slab;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::wire::close_event::CloseEvent;

/// A stream that waits for the end, and is counted as open until it is dropped.
#[derive(Debug)]
pub(crate) struct StreamWatch {
    watch: Watch<CLOSED>,
}

/// A waiter for this phase of a shutdown.
pub(crate) struct Watch<const PHASE: u8> {
    shared: Arc<Shared>,
    registration: Option<Registration>,
}

#[derive(Default)]
pub(crate) struct Shared {
    phase: Padded<AtomicU8>,
    pub(crate) open: AtomicUsize,
    pub(crate) ended: AtomicUsize,
    none_open: Notify,
    pub(crate) close_event: OnceLock<CloseEvent>,
    /// The wakers of those that wait for `DRAINING`, and of those that wait for `CLOSED`.
    waiters: [Mutex<Slab<Waker>>; 2],
}

/// On a cache line of its own: every poll reads the phase, and every stream changes the counts.
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// Where the waker of a waiter is, and a clone to tell without the lock whether the task is still the same.
struct Registration {
    key: usize,
    waker: Waker,
}

pub(crate) const DRAINING: u8 = 1;
pub(crate) const CLOSED: u8 = 2;

impl StreamWatch {
    /// For a stream that starts now.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let watch = Watch::new(shared);
        watch.shared.open.fetch_add(1, Ordering::SeqCst);
        Self { watch }
    }

    /// Whether a drain has begun, so that no stream may start any more.
    pub(crate) fn is_draining(&self) -> bool {
        self.watch.shared.has_reached(DRAINING)
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.watch.shared.has_reached(CLOSED)
    }

    /// The event that the shutdown was closed with.
    pub(crate) fn close_event(&self) -> Option<CloseEvent> {
        self.watch.shared.close_event.get().cloned()
    }

    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.watch.poll(cx)
    }

    /// Whether a close wakes this task.
    #[inline]
    pub(crate) fn is_waiting(&self, cx: &Context<'_>) -> bool {
        self.watch.is_waiting(cx)
    }
}

impl Drop for StreamWatch {
    fn drop(&mut self) {
        let shared = &self.watch.shared;
        shared.ended.fetch_add(1, Ordering::SeqCst);
        let last = shared.open.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && shared.has_reached(DRAINING) {
            shared.none_open.notify_waiters();
        }
    }
}

impl<const PHASE: u8> Watch<PHASE> {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            registration: None,
        }
    }

    /// An atomic load, while the task stays the same.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.has_reached(PHASE) {
            return Poll::Ready(());
        }
        if self.is_waiting(cx) {
            Poll::Pending
        } else {
            self.register(cx)
        }
    }

    #[inline]
    fn is_waiting(&self, cx: &Context<'_>) -> bool {
        let registration = self.registration.as_ref();
        registration.is_some_and(|registration| registration.waker.will_wake(cx.waker()))
    }

    #[cold]
    fn register(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut wakers = self.shared.wakers(PHASE);
        // A phase is entered before its wakers are taken. So either it is seen here, or this one is among them.
        if self.shared.has_reached(PHASE) {
            return Poll::Ready(());
        }
        match &mut self.registration {
            Some(registration) => {
                let registered = wakers.get_mut(registration.key);
                let old = registered.map(|registered| mem::replace(registered, waker.clone()));
                // Without the lock, because the last waker of a task may drop that task, and a stream with it.
                drop(wakers);
                drop(old);
                registration.waker = waker;
            }
            None => {
                let key = wakers.insert(waker.clone());
                self.registration = Some(Registration { key, waker });
            }
        }
        Poll::Pending
    }
}

impl<const PHASE: u8> Drop for Watch<PHASE> {
    fn drop(&mut self) {
        if let Some(Registration { key, .. }) = self.registration.take() {
            // Once the phase is reached, the wakers are gone.
            if !self.shared.has_reached(PHASE) {
                // Dropped without the lock, as above.
                let _waker = { self.shared.wakers(PHASE).try_remove(key) };
            }
        }
    }
}

impl<const PHASE: u8> fmt::Debug for Watch<PHASE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Shared {
    #[inline]
    fn has_reached(&self, phase: u8) -> bool {
        self.phase.0.load(Ordering::SeqCst) >= phase
    }

    pub(crate) fn enter(&self, phase: u8) {
        let before = self.phase.0.fetch_max(phase, Ordering::SeqCst);
        for reached in before + 1..=phase {
            // Woken without the lock, because a waker may poll at once.
            let wakers: Vec<Waker> = self
                .wakers(reached)
                .iter_mut()
                .map(|(_, waker)| mem::replace(waker, Waker::noop().clone()))
                .collect();
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    fn wakers(&self, phase: u8) -> MutexGuard<'_, Slab<Waker>> {
        // Nothing panics while it is held; a poisoned lock would be as good as any.
        self.waiters[usize::from(phase - DRAINING)]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn none_open(&self) {
        loop {
            let mut notified = pin!(self.none_open.notified());
            // Before the look at the count, so that no notification is missed.
            notified.as_mut().enable();
            if self.open.load(Ordering::SeqCst) == 0 {
                return;
            }
            notified.await;
        }
    }

    pub(crate) async fn none_open_until(&self, end: Instant) {
        // Too late is an answer too: the caller counts what is open.
        let _ = timeout_at(end, self.none_open()).await;
    }
}
