//! The ready-made cancellation of many streams at once, and the count of those that are open.

use std::{
    fmt,
    future::Future,
    mem,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use slab::Slab;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::close_event::CloseEvent;

/// Ends event streams, all at once or after a grace, and knows how many are open.
///
/// Give it to one layer or to many with [`shutdown`](crate::SseCompletionLayer::shutdown); clones are the same
/// shutdown. In an axum app that is all there is to it:
///
/// ```no_run
/// use axum::Router;
/// use tower_sse_completion::{Shutdown, SseCompletionLayer};
///
/// # async fn serve(routes: Router, listener: tokio::net::TcpListener) -> std::io::Result<()> {
/// let shutdown = Shutdown::new();
/// let app = routes.layer(SseCompletionLayer::new().shutdown(&shutdown));
///
/// axum::serve(listener, app)
///     .with_graceful_shutdown(shutdown.after(tokio::signal::ctrl_c()))
///     .await
/// # }
/// ```
///
/// When every clone is dropped and none was closed, no stream is ended: dropping means "never".
///
/// # One stream, or those of one user
///
/// A handler that puts a `Shutdown` into the extensions of its response has its stream ended by that one too. Keep one
/// for each session, and [`close_with`](Self::close_with) ends the streams of that session, with an event that says why:
///
/// ```
/// use axum::{Extension, response::{IntoResponse, Sse, sse::Event}};
/// use tower_sse_completion::{CloseEvent, Shutdown};
///
/// async fn events(session: Shutdown) -> impl IntoResponse {
///     let events = futures_util::stream::pending::<Result<Event, std::convert::Infallible>>();
///     (Extension(session), Sse::new(events))
/// }
///
/// # fn main() -> Result<(), tower_sse_completion::InvalidCloseEvent> {
/// # let session = Shutdown::new();
/// session.close_with(CloseEvent::named("logged-out")?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

/// What a [`drain`](Shutdown::drain) has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    ended: usize,
    still_open: usize,
}

/// Ready when a [`Shutdown`] begins to drain, or closes. Made by [`Shutdown::draining`].
#[derive(Debug)]
pub struct Draining {
    watch: Watch<DRAINING>,
}

/// A stream that waits for the end, and is counted as open until it is dropped.
#[derive(Debug)]
pub(crate) struct StreamWatch {
    watch: Watch<CLOSED>,
}

/// A waiter for this phase of a shutdown.
struct Watch<const PHASE: u8> {
    shared: Arc<Shared>,
    registration: Option<Registration>,
}

/// Where the waker of a waiter is, and a clone to tell without the lock whether the task is still the same.
struct Registration {
    key: usize,
    waker: Waker,
}

#[derive(Default)]
struct Shared {
    phase: Padded<AtomicU8>,
    open: AtomicUsize,
    ended: AtomicUsize,
    none_open: Notify,
    close_event: OnceLock<CloseEvent>,
    /// The wakers of those that wait for `DRAINING`, and of those that wait for `CLOSED`.
    waiters: [Mutex<Slab<Waker>>; 2],
}

/// On a cache line of its own: every poll reads the phase, and every stream changes the counts.
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

const DRAINING: u8 = 1;
const CLOSED: u8 = 2;

/// A client that reads has its close event long before this.
const AFTER_CLOSE: Duration = Duration::from_secs(1);

impl Shutdown {
    /// A shutdown that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every stream now, and every one that starts later as soon as it has started.
    pub fn close(&self) {
        self.shared.enter(CLOSED);
    }

    /// Ends every stream now with this event, unless its response brought its own.
    ///
    /// The event of the first call stands.
    pub fn close_with(&self, event: CloseEvent) {
        // A later event is dropped, as documented.
        let _ = self.shared.close_event.set(event);
        self.close();
    }

    /// Lets streams finish until the grace is over, and then ends those that are left.
    ///
    /// It returns as soon as no stream is open, and at most one second after the grace: a client that has stopped
    /// reading keeps its stream open, because the server does not poll its body. [`Drained`] tells how many those are.
    /// A stream that starts meanwhile is ended at once. With a grace of zero all streams are ended at once.
    ///
    /// Streams that will never finish, such as subscriptions, need not use up the grace: see
    /// [`draining`](Self::draining).
    ///
    /// # Cancellation safety
    ///
    /// The drain begins when this is first polled. If it is dropped before its end, streams that finish go on, and new ones
    /// are still ended at once; [`close`](Self::close) ends the rest.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with its timer enabled.
    pub async fn drain(&self, grace: Duration) -> Drained {
        let ended_before = self.shared.ended.load(Ordering::SeqCst);
        self.shared.enter(DRAINING);
        let now = Instant::now();
        // A grace that has no end on the clock has none.
        match now.checked_add(grace) {
            Some(end) => self.shared.none_open_until(end).await,
            None => self.shared.none_open().await,
        }
        self.close();
        self.shared
            .none_open_until(Instant::now() + AFTER_CLOSE)
            .await;
        Drained {
            ended: self.shared.ended.load(Ordering::SeqCst) - ended_before,
            still_open: self.open_streams(),
        }
    }

    /// Ready when a drain begins, or everything is closed. For [`cancel_when`], to end a stream that will never finish at
    /// the start of a drain, while others have the grace:
    ///
    /// ```
    /// use std::future;
    /// use http::Method;
    /// use tower_sse_completion::{Shutdown, SseCompletionLayer};
    ///
    /// let shutdown = Shutdown::new();
    /// let layer = SseCompletionLayer::new().shutdown(&shutdown).cancel_when({
    ///     let shutdown = shutdown.clone();
    ///     move |request| {
    ///         // A GET subscribes; a POST is answered, and the answer comes to an end.
    ///         let subscribes = request.method == Method::GET;
    ///         let draining = shutdown.draining();
    ///         async move {
    ///             match subscribes {
    ///                 true => draining.await,
    ///                 false => future::pending().await,
    ///             }
    ///         }
    ///     }
    /// });
    /// # let _ = layer;
    /// ```
    ///
    /// [`cancel_when`]: crate::SseCompletionLayer::cancel_when
    pub fn draining(&self) -> Draining {
        Draining {
            watch: Watch::new(self),
        }
    }

    /// How many streams of the layers that have this shutdown are open: from the response until the stream has ended, or
    /// its body was dropped. Only event streams that the layer completes count.
    pub fn open_streams(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Waits for the signal, whatever its output, and then closes. For a server's graceful shutdown.
    ///
    /// # Cancellation safety
    ///
    /// Dropped before the signal came, it does nothing.
    pub fn after<F>(&self, signal: F) -> impl Future<Output = ()> + use<F>
    where
        F: Future,
    {
        let shutdown = self.clone();
        async move {
            signal.await;
            shutdown.close();
        }
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown")
            .field("phase", &self.shared.phase.0)
            .field("open_streams", &self.open_streams())
            .finish()
    }
}

impl Drained {
    /// How many streams ended during the drain.
    pub fn ended(&self) -> usize {
        self.ended
    }

    /// How many streams are open although they were told to end: their clients do not read.
    pub fn still_open(&self) -> usize {
        self.still_open
    }
}

impl Future for Draining {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.watch.poll(cx)
    }
}

impl StreamWatch {
    /// For a stream that starts now.
    pub(crate) fn new(shutdown: &Shutdown) -> Self {
        let watch = Watch::new(shutdown);
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
    fn new(shutdown: &Shutdown) -> Self {
        Self {
            shared: Arc::clone(&shutdown.shared),
            registration: None,
        }
    }

    /// An atomic load, while the task stays the same.
    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.has_reached(PHASE) {
            return Poll::Ready(());
        }
        match &self.registration {
            Some(registration) if registration.waker.will_wake(cx.waker()) => Poll::Pending,
            _ => self.register(cx),
        }
    }

    #[cold]
    fn register(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        match &mut self.registration {
            Some(registration) => {
                if let Some(registered) = self.shared.wakers(PHASE).get_mut(registration.key) {
                    registered.clone_from(&waker);
                }
                registration.waker = waker;
            }
            None => {
                let key = self.shared.wakers(PHASE).insert(waker.clone());
                self.registration = Some(Registration { key, waker });
            }
        }
        // The phase is entered before its waiters are woken: one of the two sees the other.
        if self.shared.has_reached(PHASE) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl<const PHASE: u8> Drop for Watch<PHASE> {
    fn drop(&mut self) {
        if let Some(Registration { key, .. }) = self.registration.take() {
            // Once the phase is reached, the wakers are gone.
            if !self.shared.has_reached(PHASE) {
                self.shared.wakers(PHASE).try_remove(key);
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

    fn enter(&self, phase: u8) {
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

    async fn none_open(&self) {
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

    async fn none_open_until(&self, end: Instant) {
        // Too late is an answer too: the caller counts what is open.
        let _ = timeout_at(end, self.none_open()).await;
    }
}
