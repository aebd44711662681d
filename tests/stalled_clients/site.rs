//! A server of quiet streams and of floods, whose connections the shutdown can cut.

use std::{
    cell::Cell,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use testkit::{listener::MapSocket, reports::Reports, wait::until};
use tokio::net::{TcpListener, TcpSocket};
use tower_sse_completion::{Connection, Shutdown, SseCompletionLayer};

/// The last event of a stream that the shutdown ends.
pub(crate) const CLOSE: &str = "event: close\ndata:\n\n";

/// The shutdown, the reports and the limits of a server.
#[derive(Clone, Default)]
pub(crate) struct Site {
    pub(crate) shutdown: Shutdown,
    pub(crate) reports: Reports,
    /// Limit of a pending write of a connection.
    pub(crate) write_timeout: Option<Duration>,
    floods: Arc<AtomicUsize>,
}

impl Site {
    /// Returns the layer of all streams. Quiet streams end as soon as a drain begins.
    pub(crate) fn layer(&self) -> SseCompletionLayer {
        SseCompletionLayer::new()
            .shutdown(&self.shutdown)
            .end_on_drain(|request| request.uri.path() == "/events")
            .on_end(self.reports.observer())
    }

    /// Returns the data of a stream that sends one event and is then silent.
    pub(crate) fn quiet(&self) -> impl Stream<Item = &'static str> + Send + 'static + use<> {
        stream::iter(["hello"]).chain(stream::pending())
    }

    /// Returns the data of a stream that always has more.
    pub(crate) fn flood(&self) -> impl Stream<Item = String> + Send + 'static + use<> {
        let floods = Arc::clone(&self.floods);
        stream::repeat_with(move || {
            floods.fetch_add(1, Ordering::SeqCst);
            "x".repeat(8 * 1024)
        })
    }

    /// Returns the app as a router of axum.
    pub(crate) fn router(&self) -> Router {
        self.routes().layer(self.layer())
    }

    /// Returns the app without its layer.
    pub(crate) fn routes(&self) -> Router {
        let (quiet, flood) = (self.clone(), self.clone());
        let quiet = async move || Sse::new(quiet.quiet().map(event));
        let flood = async move || Sse::new(flood.flood().map(event));
        Router::new()
            .route("/events", get(quiet))
            .route("/flood", get(flood))
    }

    /// Wraps an accepted socket.
    pub(crate) fn connection<T>(&self, io: T) -> Connection<T> {
        let connection = self.shutdown.connection(io);
        match self.write_timeout {
            Some(limit) => connection.write_timeout(limit),
            None => connection,
        }
    }

    /// Returns once all buffers between the server and its clients are full, so that the server stops polling floods.
    pub(crate) async fn until_blocked(&self) {
        let (before, unchanged) = (Cell::new(0), Cell::new(0));
        until(|| {
            let floods = self.floods.load(Ordering::SeqCst);
            let is_same = floods > 0 && before.replace(floods) == floods;
            unchanged.set(if is_same { unchanged.get() + 1 } else { 0 });
            unchanged.get() == 200
        })
        .await;
    }

    /// Returns the number of streams that have been reported with this ending.
    #[allow(dead_code, reason = "not every program needs it")]
    pub(crate) fn ended(&self, ending: &str) -> usize {
        let reports = self.reports.all().into_iter();
        reports
            .filter(|report| report.ending().as_str() == ending)
            .count()
    }

    /// Serves with axum until the shutdown begins and every connection has ended.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let router = self.router();
        let signal = self.shutdown.draining();
        let listener = MapSocket::new(listener, move |stream| self.connection(stream));
        axum::serve(listener, router)
            .with_graceful_shutdown(signal)
            .await
            .expect("the server does not fail");
    }
}

fn event(data: impl AsRef<str>) -> Result<Event, Infallible> {
    Ok(Event::default().data(data))
}

/// Binds an address. The buffers of the connections are small, and therefore soon full.
pub(crate) fn bind(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_send_buffer_size(16 * 1024).expect("an option");
    socket.set_reuseaddr(true).expect("an option");
    socket.bind(address).expect("a port");
    socket.listen(4096).expect("a listener")
}

/// Binds a free port as [`bind`] does.
pub(crate) fn listen() -> (TcpListener, SocketAddr) {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)));
    let address = listener.local_addr().expect("an address");
    (listener, address)
}
