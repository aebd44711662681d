//! The phase of a shutdown, the tasks that wait for a phase, and the counts of what a drain waits for.

use std::{
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::PoisonError,
    task::{Context, Poll, Waker},
};

use slab::Slab;

use crate::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU8, AtomicUsize, Ordering},
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
    counts: Padded<Counts>,
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

/// Counts of the streams, the requests and the connections of a shutdown.
#[derive(Default)]
pub(crate) struct Counts {
    started: AtomicUsize,
    ended: AtomicUsize,
    /// Requests whose responses are pending.
    requests: AtomicUsize,
    /// Connections that have not been dropped.
    #[cfg(feature = "tokio")]
    connections: AtomicUsize,
    /// Number of holds: pending requests, streams that have not been reported, and open connections. A drain waits until the
    /// number is zero. One counter, because a stream that takes the place of its request must be seen by a drain at any moment.
    holds: AtomicUsize,
    /// The wakers of the drains. Each is removed by its drain alone.
    drains: Mutex<Slab<Waker>>,
}

/// Waits until a shutdown has no hold.
#[cfg(feature = "tokio")]
pub(super) struct Idle<'a> {
    counts: &'a Counts,
    registration: Option<Registration>,
}

/// A stream that watches a shutdown and, unless an inner layer does so, is counted by it.
///
/// Dropping the guard lets a waiting drain return, so the report of the stream is made first.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    waiter: Waiter,
    is_counted: bool,
    is_open: bool,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            phase: Padded(AtomicU8::new(Phase::Open as u8)),
            counts: Padded::default(),
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
    pub(super) fn counts(&self) -> &Counts {
        &self.counts.0
    }

    /// Counts a request whose response is pending.
    pub(super) fn count_request(&self) {
        self.counts().hold();
        self.counts().requests.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts out a request that has its response, or that has been dropped. The stream of the response is counted before.
    pub(super) fn release_request(&self) {
        self.counts().requests.fetch_sub(1, Ordering::SeqCst);
        self.release();
    }

    /// Removes a hold, and wakes the drains if it was the last one.
    fn release(&self) {
        let is_last = self.counts().holds.fetch_sub(1, Ordering::SeqCst) == 1;
        // A drain enters its phase before it reads the number of holds. Therefore the phase is seen here, or zero is seen there.
        if is_last && self.has_reached(Phase::Draining) {
            self.counts().wake_drains();
        }
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

#[cfg(feature = "tokio")]
impl Shared {
    /// Counts a connection that starts now.
    pub(super) fn connect(&self) {
        // Therefore the connection is among those that are cut, or the last phase has been entered.
        let _cut = lock(&self.cut);
        self.counts().hold();
        self.counts().connections.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts out a connection that has been dropped.
    pub(super) fn disconnect(&self) {
        self.counts().connections.fetch_sub(1, Ordering::SeqCst);
        self.release();
    }

    /// Enters the last phase. Returns the number of connections, or `None` if the phase had been entered before.
    pub(super) fn cut(&self) -> Option<usize> {
        let mut cut = lock(&self.cut);
        let is_first = cut.is_none();
        // The number is set before the first connection fails, so that a drain that waits for that connection sees the number.
        let open = *cut.get_or_insert_with(|| self.counts().connections());
        let before = self.advance(Phase::Cut);
        drop(cut);
        self.wake(before, Phase::Cut);
        is_first.then_some(open)
    }

    /// Returns the number of connections that have been cut, or `None` until the last phase is entered.
    pub(super) fn connections_cut(&self) -> Option<usize> {
        *lock(&self.cut)
    }
}

impl Counts {
    /// Returns the number of streams that have ended, and of those that are open, at one moment.
    pub(super) fn streams(&self) -> (usize, usize) {
        let mut ended = self.ended.load(Ordering::SeqCst);
        loop {
            let started = self.started.load(Ordering::SeqCst);
            // If no stream has ended in the meantime, both numbers are those of the moment of the second load.
            match self.ended.load(Ordering::SeqCst) {
                now if now == ended => return (ended, started.wrapping_sub(ended)),
                now => ended = now,
            }
        }
    }

    fn hold(&self) {
        self.holds.fetch_add(1, Ordering::SeqCst);
    }

    fn wake_drains(&self) {
        // Cloned, because a drain that is woken may have to wait again.
        let drains: Vec<_> = lock(&self.drains)
            .iter()
            .map(|(_, waker)| waker.clone())
            .collect();
        wake_all(drains.into_iter());
    }
}

#[cfg(feature = "tokio")]
impl Counts {
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn has_hold(&self) -> bool {
        self.holds.load(Ordering::SeqCst) > 0
    }

    /// Waits until there is no hold.
    pub(super) fn idle(&self) -> Idle<'_> {
        Idle {
            counts: self,
            registration: None,
        }
    }
}

#[cfg(feature = "tokio")]
impl Idle<'_> {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.counts.has_hold() {
            return Poll::Ready(());
        }
        let registration = self.registration.as_ref();
        if registration.is_some_and(|registration| registration.waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        self.deregister();
        let (waker, registered) = (cx.waker().clone(), cx.waker().clone());
        let key = lock(&self.counts.drains).insert(registered);
        self.registration = Some(Registration { key, waker });
        // The last hold is removed before the wakers are read. Therefore either zero is seen here, or this waker is seen there.
        match self.counts.has_hold() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    fn deregister(&mut self) {
        if let Some(Registration { key, .. }) = self.registration.take() {
            let waker = lock(&self.counts.drains).try_remove(key);
            drop(waker);
        }
    }
}

#[cfg(feature = "tokio")]
impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.deregister();
    }
}

impl StreamGuard {
    /// Counts a stream that starts now, and that this phase of the shutdown ends.
    pub(crate) fn new(shared: &Arc<Shared>, phase: Phase) -> Self {
        shared.counts().hold();
        shared.counts().started.fetch_add(1, Ordering::SeqCst);
        Self {
            waiter: Waiter::new(shared, phase),
            is_counted: true,
            is_open: true,
        }
    }

    /// Watches the shutdown for a stream that an inner layer counts.
    pub(crate) fn uncounted(shared: &Arc<Shared>, phase: Phase) -> Self {
        Self {
            waiter: Waiter::new(shared, phase),
            is_counted: false,
            is_open: false,
        }
    }

    /// Returns `true` if the shutdown ends the stream.
    #[inline]
    pub(crate) fn has_fired(&self) -> bool {
        self.waiter.has_reached()
    }

    #[inline(always)]
    pub(crate) fn is_registered(&self, cx: &Context<'_>) -> bool {
        self.waiter.is_registered(cx)
    }

    #[inline]
    pub(crate) fn poll_fired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.waiter.poll(cx)
    }

    /// Returns the event with which the shutdown was closed or drained.
    pub(crate) fn close_event(&self) -> Option<CloseEvent> {
        self.waiter.shared().close_event().cloned()
    }

    /// Removes the stream from the count of open streams.
    pub(crate) fn count_out(&mut self) {
        if mem::take(&mut self.is_open) {
            let counts = self.waiter.shared().counts();
            counts.ended.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.count_out();
        if self.is_counted {
            self.waiter.shared().release();
        }
    }
}

/// Wakes every task, and passes on the first panic of a waker after that. No lock may be held, because a waker may poll its task
/// at once.
pub(super) fn wake_all(wakers: impl Iterator<Item = Waker>) {
    let mut panic = None;
    for waker in wakers {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
            panic.get_or_insert(payload);
        }
    }
    if let Some(payload) = panic {
        resume_unwind(payload);
    }
}

/// Locks regardless of poisoning.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs while the lock is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
