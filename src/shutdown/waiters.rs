//! The phase of a shutdown, and the tasks that wait for one.

use std::{
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker},
};

use slab::Slab;

use super::{
    streams::Streams,
    wake::{lock, wake_all},
};
use crate::wire::close_event::CloseEvent;

/// Phases of a shutdown, which only ever advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Streams run.
    Open,
    /// Streams may finish. Those that watch `draining()` end.
    Draining,
    /// Streams end.
    Closed,
}

pub(crate) const DRAINING: u8 = Phase::Draining as u8;
pub(crate) const CLOSED: u8 = Phase::Closed as u8;

/// State that the clones of a shutdown, its streams and its futures share.
pub(crate) struct Shared {
    phase: Padded<AtomicU8>,
    streams: Padded<Streams>,
    close_event: OnceLock<CloseEvent>,
    /// The wakers of the tasks that wait for `Draining`, and of those that wait for `Closed`.
    waiters: [Mutex<Slab<Waker>>; 2],
}

/// A value on a cache line of its own: every poll reads the phase, and every stream changes the counts.
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// A future that completes when the shutdown has reached this phase.
pub(crate) struct Waiter<const PHASE: u8> {
    shared: Arc<Shared>,
    registration: Option<Registration>,
}

/// Position of a waker in its slab, and a clone that tells without the lock whether the task is still the same.
struct Registration {
    key: usize,
    waker: Waker,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            phase: Padded(AtomicU8::new(Phase::Open as u8)),
            streams: Padded::default(),
            close_event: OnceLock::new(),
            waiters: Default::default(),
        }
    }
}

impl Shared {
    #[inline]
    pub(crate) fn has_reached(&self, phase: u8) -> bool {
        self.phase.0.load(Ordering::SeqCst) >= phase
    }

    /// Advances to this phase, and wakes the tasks that wait for it.
    ///
    /// # Panics
    ///
    /// Passes on the first panic of a waker, after every other task has been woken.
    pub(crate) fn enter(&self, phase: Phase) {
        let before = self.phase.0.fetch_max(phase as u8, Ordering::SeqCst);
        let wakers = |reached| mem::take(&mut *self.wakers(reached)).into_iter();
        let reached = before + 1..=phase as u8;
        wake_all(reached.flat_map(wakers).map(|(_, waker)| waker));
    }

    #[inline]
    pub(super) fn streams(&self) -> &Streams {
        &self.streams.0
    }

    /// Sets the close event of the streams that this shutdown ends. The first one stays.
    pub(crate) fn set_close_event(&self, event: CloseEvent) {
        // A later event is dropped, as `close_with` documents.
        let _ = self.close_event.set(event);
    }

    pub(super) fn close_event(&self) -> Option<&CloseEvent> {
        self.close_event.get()
    }

    fn wakers(&self, phase: u8) -> MutexGuard<'_, Slab<Waker>> {
        lock(&self.waiters[usize::from(phase - DRAINING)])
    }
}

impl<const PHASE: u8> Waiter<PHASE> {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            registration: None,
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    #[inline]
    pub(crate) fn has_reached(&self) -> bool {
        self.shared.has_reached(PHASE)
    }

    /// Returns `true` if this task is woken when the phase is reached.
    #[inline(always)]
    pub(crate) fn is_registered(&self, cx: &Context<'_>) -> bool {
        let registration = self.registration.as_ref();
        registration.is_some_and(|registration| registration.waker.will_wake(cx.waker()))
    }

    /// Costs an atomic load as long as the task stays the same.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_reached() {
            return Poll::Ready(());
        }
        if self.is_registered(cx) {
            return Poll::Pending;
        }
        self.register(cx)
    }

    #[cold]
    fn register(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Cloned and dropped without the lock: the last waker of a task may drop that task, and a stream with it.
        let (waker, registered) = (cx.waker().clone(), cx.waker().clone());
        let mut wakers = self.shared.wakers(PHASE);
        // A phase is entered before its wakers are taken. Therefore either it is seen here, or this waker is among them.
        if self.shared.has_reached(PHASE) {
            return Poll::Ready(());
        }
        let (key, previous) = match self.registration.take() {
            Some(Registration { key, waker: copy }) => {
                let previous = wakers.get_mut(key);
                (
                    key,
                    previous.map(|slot| (mem::replace(slot, registered), copy)),
                )
            }
            None => (wakers.insert(registered), None),
        };
        drop(wakers);
        drop(previous);
        self.registration = Some(Registration { key, waker });
        Poll::Pending
    }
}

impl<const PHASE: u8> Drop for Waiter<PHASE> {
    fn drop(&mut self) {
        if let Some(Registration { key, .. }) = self.registration.take() {
            // Once the phase is reached, the wakers are taken.
            if !self.has_reached() {
                let mut wakers = self.shared.wakers(PHASE);
                let waker = wakers.try_remove(key);
                drop(wakers);
                drop(waker);
            }
        }
    }
}

impl<const PHASE: u8> fmt::Debug for Waiter<PHASE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").finish_non_exhaustive()
    }
}
