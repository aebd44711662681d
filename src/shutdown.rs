//! The ready-made cancellation of many streams at once, and the count of those that are open.

pub(crate) mod waiters;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    shutdown::waiters::{CLOSED, DRAINING, Shared, StreamWatch, Watch},
    wire::close_event::CloseEvent,
};

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
    /// The last close events are handed to the server then, which may still have to write them: wait for it too.
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
            watch: Watch::new(Arc::clone(&self.shared)),
        }
    }

    /// How many streams are open of which the layer or the response has this shutdown: from the response until the
    /// stream has ended, or its body was dropped. Only event streams that the layer completes count, each once.
    pub fn open_streams(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Whether the other one is a clone of this.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// For a stream that starts now.
    pub(crate) fn watch_stream(&self) -> StreamWatch {
        StreamWatch::new(Arc::clone(&self.shared))
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
            .field("open_streams", &self.open_streams())
            .finish_non_exhaustive()
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
