//! Ends many streams at once, and counts those that are open.

#[cfg(feature = "tokio")]
mod connection;
#[cfg(feature = "tokio")]
mod drain;
#[cfg(all(test, loom))]
mod models;
pub(crate) mod phase;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::Extensions;

use self::phase::{Attached, Phase, Shared, Waiter};
#[cfg(feature = "tokio")]
pub use self::{
    connection::Connection,
    drain::{Drain, Drained},
};
use crate::{slot::Slot, sync::Arc, wire::close_event::CloseEvent};

/// Ends event streams, all at once or after a grace period, and counts those that are open.
///
/// Pass it to one or more layers with [`shutdown`](crate::SseCompletionLayer::shutdown). Clones are handles of the same
/// shutdown:
///
/// ```no_run
/// use axum::Router;
/// use tower_sse_completion::{Shutdown, SseCompletionLayer};
/// # fn stop_signal() -> std::io::Result<std::future::Pending<()>> { Ok(std::future::pending()) }
///
/// # async fn serve(routes: Router, listener: tokio::net::TcpListener) -> std::io::Result<()> {
/// let shutdown = Shutdown::new();
/// let app = routes.layer(SseCompletionLayer::new().shutdown(&shutdown));
///
/// axum::serve(listener, app)
///     .with_graceful_shutdown(shutdown.after(stop_signal()?))
///     .await
/// # }
/// ```
///
/// Dropping every clone ends no stream.
///
/// # Streams of one user
///
/// [`attach`](Self::attach) a `Shutdown` to a response to end its stream too. Keep one `Shutdown` for each session, and
/// [`close_with`](Self::close_with) ends the streams of that session with an event that states the reason. A shutdown that has closed
/// stays closed: the next session of the user needs a new one.
///
/// ```
/// use axum::response::{IntoResponse, Response, Sse, sse::Event};
/// use tower_sse_completion::{CloseEvent, Shutdown};
///
/// async fn events(session: Shutdown) -> Response {
///     let events = futures_util::stream::pending::<Result<Event, std::convert::Infallible>>();
///     let mut response = Sse::new(events).into_response();
///     session.attach(response.extensions_mut());
///     response
/// }
///
/// # let session = Shutdown::new();
/// session.close_with(CloseEvent::from_static("logged-out"));
/// ```
#[doc(alias = "graceful")]
#[derive(Clone, Default)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

/// Future that completes when a [`Shutdown`](Shutdown) begins to drain or closes. Returned by [`Shutdown::draining`](Shutdown::draining).
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Draining {
    waiter: Waiter,
}

/// Future that completes when a [`Shutdown`](Shutdown) closes. Returned by [`Shutdown::closed`](Shutdown::closed).
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Closed {
    waiter: Waiter,
}

impl Shutdown {
    /// Returns a shutdown that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every stream now, and every later stream as soon as it starts.
    ///
    /// No connection is cut: to cut the connections of clients that do not read, [`drain`](Self::drain) with a grace period of
    /// zero afterwards.
    ///
    /// # Panics
    ///
    /// If a waker panics, the remaining tasks are woken before the panic resumes. The wakers of tokio do not panic.
    pub fn close(&self) {
        self.shared.enter(Phase::Closed);
    }

    /// Ends every stream now, with this close event unless the response has a [`CloseEvent`] in its extensions.
    ///
    /// Later calls do not replace the event.
    ///
    /// # Panics
    ///
    /// Panics as [`close`](Self::close) does.
    pub fn close_with(&self, event: CloseEvent) {
        self.shared.set_close_event(event);
        self.close();
    }

    /// Attaches this shutdown to a response: it ends that stream, beside the shutdowns of the layer and any other that is
    /// attached.
    ///
    /// The stream ends with the close event of the shutdown that ends it. Attaching a shutdown twice is the same as once. A
    /// `Shutdown` that is inserted into the extensions without this method has no effect.
    ///
    /// ```
    /// use http::Response;
    /// use tower_sse_completion::Shutdown;
    ///
    /// let (session, room) = (Shutdown::new(), Shutdown::new());
    /// let mut response = Response::new(());
    /// session.attach(response.extensions_mut());
    /// room.attach(response.extensions_mut());
    /// ```
    pub fn attach(&self, response: &mut Extensions) {
        if let Some(slot) = response.get::<Slot>() {
            // A layer has wrapped the stream already.
            slot.update(|stream| stream.attach(&self.shared));
        }
        // For a layer around the response, whose stream may have another body.
        let Attached(shutdowns) = response.get_or_insert_default();
        if !shutdowns
            .iter()
            .any(|known| Arc::ptr_eq(known, &self.shared))
        {
            shutdowns.push(Arc::clone(&self.shared));
        }
    }

    /// Returns `true` once a drain has begun or the shutdown has closed.
    pub fn is_draining(&self) -> bool {
        self.shared.has_begun(Phase::Draining)
    }

    /// Returns `true` once the shutdown has closed. From then on, a stream that starts ends at once.
    ///
    /// A drain whose streams end [over a window](Drain::spread_over) closes at the start of that window.
    pub fn is_closed(&self) -> bool {
        self.shared.has_begun(Phase::Closed)
    }

    /// Returns a future that completes when a drain begins or the shutdown closes.
    ///
    /// Use it for code of your own, such as a handler that ends its stream with an event of its own, or the signal at which a server
    /// stops accepting connections. The drain itself ends no stream before its grace period is over, except for those that
    /// [end on drain](crate::SseCompletionLayer::end_on_drain).
    pub fn draining(&self) -> Draining {
        Draining {
            waiter: Waiter::new(&self.shared, Phase::Draining),
        }
    }

    /// Returns a future that completes when the shutdown [closes](Self::is_closed).
    pub fn closed(&self) -> Closed {
        Closed {
            waiter: Waiter::new(&self.shared, Phase::Closed),
        }
    }

    /// Returns the number of open streams: from the response until the last frame of the stream has been returned, or its
    /// body has been dropped.
    ///
    /// A stream is counted if its layer or its response has this shutdown. Only event streams that the layer wraps are counted,
    /// each once, even if several layers share the shutdown. Inside [`on_end`](crate::SseCompletionLayer::on_end), the stream
    /// that ends is no longer counted. The count requires that the middleware between the layers keeps the extensions of the
    /// response.
    pub fn open_streams(&self) -> usize {
        self.shared.counts().streams().1
    }

    /// Returns a future that waits for the signal, discards its output, and closes. For the graceful shutdown of a server.
    ///
    /// # Cancellation safety
    ///
    /// If the future is dropped before the signal arrives, nothing is closed.
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

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown")
            .field("is_draining", &self.is_draining())
            .field("is_closed", &self.is_closed())
            .field("open_streams", &self.open_streams())
            .finish_non_exhaustive()
    }
}

impl Future for Draining {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.waiter.poll(cx)
    }
}

impl Future for Closed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.waiter.poll(cx)
    }
}
