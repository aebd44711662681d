//! The phase of a shutdown, and the tasks that wait for one.

#[cfg(feature = "tokio")]
mod cut;

use std::{
    fmt, mem,
    task::{Context, Poll, Waker},
};

use slab::Slab;

use super::{
    streams::Streams,
    wake::{lock, wake_all},
};
use crate::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    wire::close_event::CloseEvent,
};

/// Phases of a shutdown, which only ever advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Streams run.
    Open,
    /// Streams may finish. Those that end on drain do so.
    Draining,
    /// Streams end.
    Closed,
    /// Connections fail.
    #[cfg_attr(
        not(feature = "tokio"),
        allow(dead_code, reason = "a drain needs a timer")
    )]
    Cut,
}

/// Number of phases that a task can wait for: all but the first.
const AWAITED: usize = Phase::Cut as usize;

/// State that the clones of a shutdown, its streams and its futures share.
pub(crate) struct Shared {
    phase: Padded<AtomicU8>,
    streams: Padded<Streams>,
    close_event: OnceLock<CloseEvent>,
    /// Number of connections that were open when the last phase was entered. Locked when a connection starts.
    #[cfg(feature = "tokio")]
    cut: Mutex<Option<usize>>,
    /// The wakers of the tasks that wait for each phase after `Open`.
    waiters: [Mutex<Slab<Waker>>; AWAITED],
}

/// A value on a cache line of its own: every poll reads the phase, and every stream changes the counts.
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// A future that completes when the shutdown has reached a phase.
pub(crate) struct Waiter {
    shared: Arc<Shared>,
    phase: Phase,
    registration: Option<Registration>,
}

/// Position of a waker in its slab, and a clone that identifies the task without the lock.
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
            #[cfg(feature = "tokio")]
            cut: Mutex::default(),
            waiters: Default::default(),
        }
    }
}

impl Shared {
    #[inline]
    pub(crate) fn has_reached(&self, phase: Phase) -> bool {
        self.phase.0.load(Ordering::SeqCst) >= phase as u8
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.0.load(Ordering::SeqCst) {
            0 => Phase::Open,
            1 => Phase::Draining,
            2 => Phase::Closed,
            _ => Phase::Cut,
        }
    }

    /// Advances to this phase, and wakes the tasks that wait for it.
    ///
    /// # Panics
    ///
    /// Passes on the first panic of a waker, after every other task has been woken.
    pub(crate) fn enter(&self, phase: Phase) {
        let before = self.advance(phase);
        self.wake(before, phase);
    }

    /// Advances to this phase, and returns the number of the phase before.
    fn advance(&self, phase: Phase) -> u8 {
        self.phase.0.fetch_max(phase as u8, Ordering::SeqCst)
    }

    /// Wakes the tasks that wait for the phases after the first of these two.
    fn wake(&self, before: u8, phase: Phase) {
        let wakers = |passed: u8| mem::take(&mut *lock(&self.waiters[usize::from(passed)]));
        let wakers = (before..phase as u8).flat_map(wakers);
        wake_all(wakers.map(|(_, waker)| waker));
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

    /// Returns the wakers of the tasks that wait for this phase, which is not the first.
    fn wakers(&self, phase: Phase) -> MutexGuard<'_, Slab<Waker>> {
        lock(&self.waiters[phase as usize - 1])
    }
}

impl Waiter {
    pub(crate) fn new(shared: &Arc<Shared>, phase: Phase) -> Self {
        Self {
            shared: Arc::clone(shared),
            phase,
            registration: None,
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    #[inline]
    pub(crate) fn has_reached(&self) -> bool {
        self.shared.has_reached(self.phase)
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

    /// Registers this task, unless the phase is reached. For a caller that has just seen that the phase is not reached.
    #[cfg(feature = "tokio")]
    #[inline]
    pub(super) fn poll_registered(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A waker that is registered is woken, also if the phase has been reached in the meantime.
        if self.is_registered(cx) {
            return Poll::Pending;
        }
        self.register(cx)
    }

    /// Wakes the task that is registered.
    #[cfg(feature = "tokio")]
    pub(super) fn wake(&self) {
        if let Some(registration) = &self.registration {
            registration.waker.wake_by_ref();
        }
    }

    #[cold]
    fn register(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Cloned and dropped without the lock: the last waker of a task may drop that task, and a stream with it.
        let (waker, registered) = (cx.waker().clone(), cx.waker().clone());
        let mut wakers = self.shared.wakers(self.phase);
        // A phase is entered before its wakers are taken. Therefore either it is seen here, or this waker is among them.
        if self.has_reached() {
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

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(Registration { key, .. }) = self.registration.take() {
            // Once the phase is reached, the wakers are taken.
            if !self.has_reached() {
                let mut wakers = self.shared.wakers(self.phase);
                let waker = wakers.try_remove(key);
                drop(wakers);
                drop(waker);
            }
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").finish_non_exhaustive()
    }
}
