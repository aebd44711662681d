use axum::{Router, http::Method};
use std::{future::IntoFuture, io, time::Duration};
use tokio::{net::TcpListener, time::timeout};
use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};

async fn serve(listener: TcpListener, routes: Router) -> io::Result<()> {
    let shutdown = Shutdown::new();
    let completion = SseCompletionLayer::new().shutdown(&shutdown);
    // In this app, a GET is a subscription, and the response to a POST finishes.
    let app = routes.layer(completion.end_on_drain(|request| request.method == Method::GET));

    let drain = shutdown.drain(Duration::from_secs(10)).after(stop_signal()?);
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.draining());
    let mut server = server.into_future();
    tokio::select! {
        result = &mut server => result,
        // The server may still have to write the last close events. It does not return if a client does not read.
        _ = drain => timeout(Duration::from_secs(1), server).await.unwrap_or(Ok(())),
    }
}
