use axum::{Router, http::StatusCode, routing::get};
use std::{future::IntoFuture, io, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Notify, time::timeout};
use tower_sse_completion::{Drained, Shutdown, SseCompletionLayer, stop_signal};

async fn serve(listener: TcpListener, hooks: TcpListener, routes: Router) -> io::Result<Drained> {
    let shutdown = Shutdown::new();
    let app = routes.layer(SseCompletionLayer::new().shutdown(&shutdown));

    let begun = Arc::new(Notify::new());
    let begin = Arc::clone(&begun);
    let begin = async move || {
        begin.notify_one();
        StatusCode::ACCEPTED
    };
    let stop = stop_signal()?;
    let drain = shutdown.drain(Duration::from_secs(10)).after(async move {
        tokio::select! {
            () = stop => {}
            () = begun.notified() => {}
        }
    });

    let hooks = axum::serve(hooks, Router::new().route("/drain", get(begin)));
    tokio::spawn(hooks.with_graceful_shutdown(shutdown.closed()).into_future());
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.draining());
    let server = tokio::spawn(server.into_future());
    let drained = drain.await;
    // The server may still have to write the last close events. It does not return if a client does not read.
    let _ = timeout(Duration::from_secs(1), server).await;
    Ok(drained)
}
