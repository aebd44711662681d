//! A server that shuts down on time, with both kinds of streams on one router.
//!
//! ```text
//! cargo run --example graceful_shutdown
//! curl -N http://127.0.0.1:3000/subscribe          # ends when the shutdown begins
//! curl -N -X POST http://127.0.0.1:3000/answer     # has ten seconds to finish
//! ```
//!
//! Then press Ctrl-C, or send SIGTERM. Subscriptions end at once, answers may finish until the grace is over, and then
//! they end too. A client that does not read keeps its connection, so what is left after that is cut.

use std::{convert::Infallible, error::Error, future::IntoFuture, io, time::Duration};

use axum::{
    Router,
    http::Method,
    response::sse::{Event, Sse},
    routing::{get, post},
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{net::TcpListener, time};
use tokio_util::sync::CancellationToken;
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer};

const GRACE: Duration = Duration::from_secs(10);

/// For what is left of the connections when their streams have ended.
const HARD_STOP: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://127.0.0.1:3000, process {}", std::process::id());
    serve(listener, stop_signal()).await
}

pub(crate) async fn serve(
    listener: TcpListener,
    stop_signal: impl Future<Output = io::Result<()>>,
) -> Result<(), Box<dyn Error>> {
    let shutdown = Shutdown::new();
    let stop = CancellationToken::new();
    let server = axum::serve(listener, app(&shutdown)?)
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    let server = tokio::spawn(server);

    stop_signal.await?;
    // No new connections from here on; those that are open have the grace.
    stop.cancel();
    let drained = shutdown.drain(GRACE).await;
    println!(
        "{} streams ended, {} still open",
        drained.ended(),
        drained.still_open()
    );
    match time::timeout(HARD_STOP, server).await {
        Ok(served) => served??,
        Err(_) => println!("cut the connections of clients that do not read"),
    }
    Ok(())
}

fn app(shutdown: &Shutdown) -> Result<Router, Box<dyn Error>> {
    let retry = Duration::from_secs(1)..=Duration::from_secs(5);
    let completion = SseCompletionLayer::new()
        .shutdown(shutdown)
        .end_on_drain(|request| request.method == Method::GET)
        .close_event(CloseEvent::new().retry_between(retry)?);
    Ok(Router::new()
        .route("/subscribe", get(async || Sse::new(words("tick"))))
        .route("/answer", post(async || Sse::new(words("word").take(20))))
        .layer(completion))
}

fn words(word: &'static str) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::iter(1..).then(move |number: u32| async move {
        time::sleep(Duration::from_millis(500)).await;
        Ok(Event::default().id(number.to_string()).data(word))
    })
}

/// Ctrl-C, or on Unix SIGTERM.
async fn stop_signal() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};

        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            pressed = tokio::signal::ctrl_c() => pressed,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
