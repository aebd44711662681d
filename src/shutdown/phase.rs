//! The phases of a shutdown, the tasks that wait for them, and the counts of what a drain waits for.
//!
//! Every phase has a position, which only grows: from 0, before the phase has begun, to [`END`]. Every waiter has a place, and has
//! fired once the position of its phase has passed the place. A phase begins with position 1, which passes the place 0 of all
//! waiters except for streams. A phase that is spread advances step by step, and each step fires the streams whose places it
//! passes. Without a spread the first step is the last.
//!
//! - A position is advanced before the wakers that are due are taken under the lock. A waiter reads the position under the lock
//!   before it stores or removes its waker. Therefore either the waiter sees that it has fired, or its waker is taken.
//! - The key of a waker that has been taken may be used again. A waiter that has fired no longer uses its key.
//! - No task is woken, and no waker of a stream is cloned or dropped, while a lock is held: the last waker of a task may drop that
//!   task, and a stream with it.

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
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    wire::close_event::CloseEvent,
};

/// Phases of a shutdown, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Streams that end on drain end. Others may finish.
    Draining,
    /// All streams end.
    Closed,
    /// Connections fail.
    Cut,
}

/// Position of a phase that is complete: above every place.
pub(super) const END: u32 = 1 << 31;

/// State that the clones of a shutdown, its streams and its futures share.
#[derive(Default)]
pub(crate) struct Shared {
    positions: Padded<[AtomicU32; Phase::ALL.len()]>,
    counts: Padded<Counts>,
    close_event: OnceLock<CloseEvent>,
    /// Number of connections that were open when the last phase was entered. Locked when a connection starts.
    #[cfg(feature = "tokio")]
    cut: Mutex<Option<usize>>,
    waiters: [Mutex<Waiters>; Phase::ALL.len()],
}

/// A value on a cache line of its own: every poll reads a position, and every stream changes the counts.
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// The tasks that wait for a phase.
#[derive(Default)]
struct Waiters {
    tasks: Slab<Task>,
    /// Exists from the first step of a spread to the last one.
    order: Option<Order>,
}

/// The places and keys of tasks in buckets, in the order of their places. An entry stays when its waiter is dropped.
struct Order {
    buckets: Vec<Vec<(u32, usize)>>,
    /// The buckets before this one are empty.
    first: usize,
}

struct Task {
    place: u32,
    waker: Waker,
}

/// Waits until the position of a phase passes a place.
pub(crate) struct Waiter {
    shared: Arc<Shared>,
    phase: Phase,
    place: u32,
    registration: Option<Registration>,
}

/// Key of a waker in its slab, and a clone that identifies the task without the lock.
struct Registration {
    key: usize,
    waker: Waker,
}

/// Counts of the streams, the requests and the connections of a shutdown.
#[derive(Default)]
pub(crate) struct Counts {
    started: AtomicUsize,
    ended: AtomicUsize,
    /// Open streams that end on drain.
    ending_on_drain: AtomicUsize,
    /// Requests whose responses are pending.
    requests: AtomicUsize,
    /// Connections that have not been dropped.
    #[cfg(feature = "tokio")]
    connections: AtomicUsize,
    /// Number of holds: pending requests, streams that have not been reported, and open connections. A drain waits until the
    /// number is zero. They share one counter, so that a drain sees a hold while a stream replaces its request.
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

/// One stream's registration with a shutdown, which counts the stream.
///
/// Dropping the guard lets a waiting drain return, so the report of the stream is made first.
pub(crate) struct StreamGuard {
    waiter: Waiter,
    is_open: bool,
}

/// The shutdowns that are attached to a response.
#[derive(Clone, Default)]
pub(crate) struct Attached(pub(crate) Vec<Arc<Shared>>);

impl Phase {
    const ALL: [Self; 3] = [Self::Draining, Self::Closed, Self::Cut];

    /// Returns the phases up to this one.
    fn and_earlier(self) -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .take_while(move |phase| *phase <= self)
    }
}

impl Shared {
    /// Returns `true` once the phase has begun.
    #[inline]
    pub(crate) fn has_begun(&self, phase: Phase) -> bool {
        self.position(phase) > 0
    }

    #[inline]
    pub(super) fn position(&self, phase: Phase) -> u32 {
        self.positions.0[phase as usize].load(Ordering::SeqCst)
    }

    /// Completes this phase and the phases before, and wakes the tasks that wait for them.
    ///
    /// # Panics
    ///
    /// If a waker panics, the remaining tasks are woken before the panic resumes.
    pub(crate) fn enter(&self, phase: Phase) {
        self.complete(phase);
        self.wake(phase);
    }

    fn complete(&self, phase: Phase) {
        for phase in phase.and_earlier() {
            self.positions.0[phase as usize].fetch_max(END, Ordering::SeqCst);
        }
    }

    /// Wakes the tasks that wait for this phase or for one before, which are complete.
    fn wake(&self, phase: Phase) {
        let phases = phase.and_earlier();
        wake_all(phases.flat_map(|phase| self.waiters(phase).take_due(END)));
    }

    fn waiters(&self, phase: Phase) -> MutexGuard<'_, Waiters> {
        lock(&self.waiters[phase as usize])
    }

    #[inline]
    pub(super) fn counts(&self) -> &Counts {
        &self.counts.0
    }

    /// Counts a request whose response is pending.
    pub(crate) fn count_request(&self) {
        self.counts().hold();
        self.counts().requests.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts out a request that has its response, or that has been dropped. The stream of the response is counted before.
    pub(crate) fn release_request(&self) {
        self.counts().requests.fetch_sub(1, Ordering::SeqCst);
        self.release();
    }

    /// Removes a hold, and wakes the drains if it was the last one.
    fn release(&self) {
        let is_last = self.counts().holds.fetch_sub(1, Ordering::SeqCst) == 1;
        // A drain begins its phase before it reads the number of holds. Therefore the phase is seen here, or zero is seen there.
        if is_last && self.has_begun(Phase::Draining) {
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
}

#[cfg(feature = "tokio")]
impl Shared {
    /// Advances a phase to this position, unless the phase is further on, and wakes the tasks whose places are passed. A phase that
    /// is spread begins with position 1.
    ///
    /// # Panics
    ///
    /// Panics as [`enter`](Self::enter) does.
    pub(super) fn advance(&self, phase: Phase, position: u32) {
        self.positions.0[phase as usize].fetch_max(position, Ordering::SeqCst);
        let due = self.waiters(phase).take_due(position);
        wake_all(due);
    }

    /// Forgets the order of the places, because no further step is expected. Another step makes the order anew.
    pub(super) fn forget_order(&self, phase: Phase) {
        let order = self.waiters(phase).order.take();
        drop(order);
    }

    /// Counts a connection that starts now.
    pub(super) fn connect(&self) {
        // The lock orders this with `cut`: either `cut` counts this connection, or the connection sees `Phase::Cut`.
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
        self.complete(Phase::Cut);
        drop(cut);
        self.wake(Phase::Cut);
        is_first.then_some(open)
    }

    /// Returns the number of connections that have been cut, or `None` until the last phase is entered.
    pub(super) fn connections_cut(&self) -> Option<usize> {
        *lock(&self.cut)
    }
}

impl Waiters {
    fn insert(&mut self, place: u32, waker: Waker) -> usize {
        let key = self.tasks.insert(Task { place, waker });
        if let Some(order) = &mut self.order {
            order.insert(place, key);
        }
        key
    }

    /// Removes and returns the wakers whose places this position has passed.
    fn take_due(&mut self, position: u32) -> impl Iterator<Item = Waker> + use<> {
        let (tasks, mut due, mut rest) = (&mut self.tasks, Vec::new(), Slab::new());
        if position >= END {
            self.order = None;
            rest = mem::take(tasks);
        } else if !tasks.is_empty() {
            let order = self.order.get_or_insert_with(|| Order::from_tasks(tasks));
            order.take_below(position, |key| {
                // The waiter may have been dropped, and another waiter may have its key.
                if tasks.get(key).is_some_and(|task| task.place < position) {
                    due.push(tasks.remove(key).waker);
                }
            });
        }
        due.into_iter()
            .chain(rest.into_iter().map(|(_, task)| task.waker))
    }
}

impl Order {
    /// A power of two. A step of a spread reads the places of one bucket or of a few.
    const BUCKETS: u32 = 1024;

    fn from_tasks(tasks: &Slab<Task>) -> Self {
        let mut order = Self {
            buckets: vec![Vec::new(); Self::BUCKETS as usize],
            first: 0,
        };
        for (key, task) in tasks {
            order.insert(task.place, key);
        }
        order
    }

    fn insert(&mut self, place: u32, key: usize) {
        self.buckets[Self::bucket(place)].push((place, key));
    }

    /// Removes the places below this position, which is not [`END`].
    fn take_below(&mut self, position: u32, mut take: impl FnMut(usize)) {
        let last = Self::bucket(position);
        // Another drain may be further on.
        for bucket in self.buckets.iter_mut().take(last + 1).skip(self.first) {
            bucket.retain(|&(place, key)| {
                let is_below = place < position;
                if is_below {
                    take(key);
                }
                !is_below
            });
        }
        self.first = self.first.max(last);
    }

    fn bucket(place: u32) -> usize {
        (place / (END / Self::BUCKETS)) as usize
    }
}

impl Waiter {
    /// Returns a waiter that fires when the phase begins.
    pub(crate) fn new(shared: &Arc<Shared>, phase: Phase) -> Self {
        Self {
            shared: Arc::clone(shared),
            phase,
            place: 0,
            registration: None,
        }
    }

    /// Returns a waiter of the stream with this number, which fires at its place in the phase, or at once if the phase has begun.
    fn of_stream(shared: &Arc<Shared>, phase: Phase, number: usize) -> Self {
        let mut waiter = Self::new(shared, phase);
        if !shared.has_begun(phase) {
            waiter.place = place(number);
        }
        waiter
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Returns `true` once the position has passed the place. Costs an atomic load.
    #[inline]
    pub(crate) fn has_fired(&self) -> bool {
        self.shared.position(self.phase) > self.place
    }

    /// Returns `true` if this task is woken when the waiter fires.
    #[inline(always)]
    pub(crate) fn is_registered(&self, cx: &Context<'_>) -> bool {
        let registration = self.registration.as_ref();
        registration.is_some_and(|registration| registration.waker.will_wake(cx.waker()))
    }

    /// Completes once the waiter has fired. Costs an atomic load while the task stays the same.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_fired() {
            return Poll::Ready(());
        }
        if self.is_registered(cx) {
            return Poll::Pending;
        }
        self.register(cx.waker())
    }

    /// Registers this task, unless the waiter has fired. The caller has checked [`has_fired`](Self::has_fired).
    #[cfg(feature = "tokio")]
    #[inline]
    pub(super) fn poll_registered(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A waker that is registered is woken, even if the waiter has fired in the meantime.
        if self.is_registered(cx) {
            return Poll::Pending;
        }
        self.register(cx.waker())
    }

    /// Wakes the task that is registered.
    #[cfg(feature = "tokio")]
    pub(super) fn wake(&self) {
        if let Some(registration) = &self.registration {
            registration.waker.wake_by_ref();
        }
    }

    #[cold]
    fn register(&mut self, waker: &Waker) -> Poll<()> {
        let (waker, registered) = (waker.clone(), waker.clone());
        let mut waiters = self.shared.waiters(self.phase);
        if self.has_fired() {
            return Poll::Ready(());
        }
        let (key, previous) = match self.registration.take() {
            Some(Registration { key, waker: copy }) => {
                let task = waiters.tasks.get_mut(key);
                let previous = task.map(|task| mem::replace(&mut task.waker, registered));
                (key, previous.map(|previous| (previous, copy)))
            }
            None => (waiters.insert(self.place, registered), None),
        };
        drop(waiters);
        drop(previous);
        self.registration = Some(Registration { key, waker });
        Poll::Pending
    }

    /// Moves the waiter, for which no task is registered yet, to another phase. If that phase has begun, the waiter fires at once.
    fn move_to(&mut self, phase: Phase) {
        debug_assert!(self.registration.is_none());
        self.phase = phase;
        if self.shared.has_begun(phase) {
            self.place = 0;
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // A waiter that has fired no longer has its key.
        let registration = self.registration.take().filter(|_| !self.has_fired());
        if let Some(Registration { key, .. }) = registration {
            let mut waiters = self.shared.waiters(self.phase);
            let removed = match self.has_fired() {
                true => None,
                false => waiters.tasks.try_remove(key),
            };
            drop(waiters);
            drop(removed);
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").finish_non_exhaustive()
    }
}

impl Counts {
    /// Returns the number of ended and of open streams, consistent with each other.
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

    /// Returns the number of open streams that this phase ends.
    pub(super) fn open_in(&self, phase: Phase) -> usize {
        let ending_on_drain = self.ending_on_drain.load(Ordering::SeqCst);
        match phase {
            Phase::Draining => ending_on_drain,
            _ => self.streams().1.saturating_sub(ending_on_drain),
        }
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
    /// Counts a stream that starts now.
    pub(crate) fn new(shared: &Arc<Shared>, ends_on_drain: bool) -> Self {
        let counts = shared.counts();
        counts.hold();
        let number = counts.started.fetch_add(1, Ordering::SeqCst);
        let phase = match ends_on_drain {
            true => Phase::Draining,
            false => Phase::Closed,
        };
        if ends_on_drain {
            counts.ending_on_drain.fetch_add(1, Ordering::SeqCst);
        }
        Self {
            waiter: Waiter::of_stream(shared, phase, number),
            is_open: true,
        }
    }

    /// Returns `true` if this is the shutdown of the guard.
    pub(crate) fn watches(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.waiter.shared, shared)
    }

    /// Returns `true` if the shutdown ends the stream. Costs an atomic load.
    #[inline]
    pub(crate) fn has_fired(&self) -> bool {
        self.waiter.has_fired()
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

    /// Moves the stream, which has not been polled, to the draining phase.
    pub(crate) fn end_on_drain(&mut self) {
        if self.waiter.phase != Phase::Draining {
            let counts = self.waiter.shared().counts();
            counts.ending_on_drain.fetch_add(1, Ordering::SeqCst);
            self.waiter.move_to(Phase::Draining);
        }
    }

    /// Removes the stream from the count of open streams.
    pub(crate) fn count_out(&mut self) {
        if mem::take(&mut self.is_open) {
            let counts = self.waiter.shared().counts();
            if self.waiter.phase == Phase::Draining {
                counts.ending_on_drain.fetch_sub(1, Ordering::SeqCst);
            }
            counts.ended.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.count_out();
        self.waiter.shared().release();
    }
}

/// Returns the place of the stream with this number. The multiples of the golden ratio are spread evenly, regardless of which streams
/// have ended.
fn place(number: usize) -> u32 {
    (number as u32).wrapping_mul(0x9E37_79B9) >> 1
}

/// Wakes every task. If a waker panics, the remaining tasks are woken before the panic resumes. No lock may be held, because a
/// waker may poll its task at once.
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
