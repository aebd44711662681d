//! A server in a pod. It leaves the load balancer before its streams end, and it ends within the grace period of the pod.
//!
//! ```text
//! cargo run --features signal --example kubernetes [-- --host 0.0.0.0 --port 3000]
//! curl -N http://127.0.0.1:3000/events
//! curl -i http://127.0.0.1:3000/ready     # 200, and 503 once the pod stops
//! ```
//!
//! Then press Ctrl-C, or send SIGTERM as the kubelet does. The server takes four steps:
//!
//! 1. `/ready` responds with 503. All other requests are still served, because the load balancer still sends requests.
//! 2. [`NOTICE`] later, every load balancer has removed the pod. The drain begins: the server stops accepting connections,
//!    subscriptions end with a close event, and their clients reconnect to another pod.
//! 3. Other streams have [`GRACE`] to finish. The rest then ends with a close event too.
//! 4. One second after the grace, the connections of clients that do not read are cut. The process ends as soon as the
//!    server has dropped them, and at most one second later.
//!
//! `docs/shutdown.md` has the manifest of the pod. Its `terminationGracePeriodSeconds` is 30: [`NOTICE`], [`GRACE`], two seconds
//! for clients that do not read, and a margin for a busy node. The readiness probe fails within less than [`NOTICE`].

use std::{
    convert::Infallible,
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    http::{Method, StatusCode},
    response::sse::{Event, Sse},
    routing::{get, post},
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{net::TcpListener, time};
use tower_sse_completion::{
    CloseEvent, Drained, InvalidCloseEvent, Shutdown, SseCompletionLayer, stop_signal,
};

#[path = "support/cut_listener.rs"]
mod cut_listener;
#[path = "support/listen.rs"]
mod listen;

/// Time from the signal until every load balancer sends its requests elsewhere.
pub(crate) const NOTICE: Duration = Duration::from_secs(5);

/// Time for streams that can finish.
pub(crate) const GRACE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = listen::listen(&["curl -N /events", "curl -i /ready"]).await?;
    // A second signal ends the process at once.
    let signal = stop_signal()?;
    let drained = serve(listener, signal, time::sleep(NOTICE), GRACE).await?;
    println!(
        "{} streams ended, {} connections cut",
        drained.ended(),
        drained.connections_cut()
    );
    Ok(())
}

/// Serves until the signal, and then until every stream and every connection has ended.
pub(crate) async fn serve(
    listener: TcpListener,
    signal: impl Future<Output = ()>,
    notice: impl Future<Output = ()>,
    grace: Duration,
) -> Result<Drained, InvalidCloseEvent> {
    let shutdown = Shutdown::new();
    let is_stopping = Arc::<AtomicBool>::default();
    let app = app(&shutdown, &is_stopping)?;
    let listener = cut_listener::CutListener {
        listener,
        shutdown: shutdown.clone(),
    };
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.draining());
    let stop = async {
        signal.await;
        is_stopping.store(true, Ordering::SeqCst);
        notice.await;
        shutdown.drain(grace).await
    };
    // The server returns after the drain, once no connection is left. The server of axum does not fail.
    let (_, drained) = tokio::join!(server.into_future(), stop);
    Ok(drained)
}

fn app(shutdown: &Shutdown, is_stopping: &Arc<AtomicBool>) -> Result<Router, InvalidCloseEvent> {
    // The clients of a pod reconnect at different times.
    let retry = Duration::from_secs(1)..=Duration::from_secs(5);
    let completion = SseCompletionLayer::new()
        .shutdown(shutdown)
        .end_on_drain(|request| request.method == Method::GET)
        .close_event(CloseEvent::new().retry_between(retry)?);
    let is_stopping = Arc::clone(is_stopping);
    // `Shutdown::is_draining` is not enough here: the drain begins after the notice.
    let ready = async move || match is_stopping.load(Ordering::SeqCst) {
        true => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        false => (StatusCode::OK, "ready\n"),
    };
    Ok(Router::new()
        .route("/events", get(async || Sse::new(words("tick"))))
        .route("/words", post(async || Sse::new(words("word").take(20))))
        .layer(completion)
        .route("/ready", get(ready)))
}

fn words(word: &'static str) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::iter(1..).then(move |number: u32| async move {
        time::sleep(Duration::from_millis(500)).await;
        Ok(Event::default().id(number.to_string()).data(word))
    })
}
