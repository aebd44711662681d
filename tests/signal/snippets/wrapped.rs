use axum::{Router, http::Method, serve::Listener};
use std::{future::IntoFuture, io, time::Duration};
use tokio::net::TcpListener;
use tower_sse_completion::{Connection, Drained, Shutdown, SseCompletionLayer, stop_signal};

/// A listener whose connections a drain can cut.
struct CutListener<L> {
    listener: L,
    shutdown: Shutdown,
}

impl<L: Listener> Listener for CutListener<L> {
    type Io = Connection<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (io, address) = self.listener.accept().await;
        let connection = self.shutdown.connection(io);
        // Disconnects a client that does not read while the server runs.
        (connection.write_timeout(Duration::from_secs(30)), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

async fn serve(listener: TcpListener, routes: Router) -> io::Result<Drained> {
    let shutdown = Shutdown::new();
    let completion = SseCompletionLayer::new().shutdown(&shutdown);
    let app = routes.layer(completion.end_on_drain(|request| request.method == Method::GET));

    let drain = shutdown.drain(Duration::from_secs(10)).after(stop_signal()?);
    let draining = shutdown.draining();
    let listener = CutListener { listener, shutdown };
    let server = axum::serve(listener, app).with_graceful_shutdown(draining);
    let (_, drained) = tokio::join!(server.into_future(), drain);
    Ok(drained)
}
