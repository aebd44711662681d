use axum::{Router, http::StatusCode, routing::get};
use std::{future::IntoFuture, io, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Notify};
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

    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.draining());
    let hooks = axum::serve(hooks, Router::new().route("/drain", get(begin)));
    let hooks = hooks.with_graceful_shutdown(shutdown.closed());
    let (_, _, drained) = tokio::join!(server.into_future(), hooks.into_future(), drain);
    Ok(drained)
}
