//! A gRPC service and event streams on one port, and a shutdown that ends both.
//!
//! ```text
//! cargo run --features signal --example tonic [-- --port 3000]
//! curl -N http://127.0.0.1:3000/events
//! printf '\0\0\0\0\0' | curl -sv --http2-prior-knowledge --data-binary @- -H 'te: trailers' \
//!     -H 'content-type: application/grpc' http://127.0.0.1:3000/grpc.health.v1.Health/Check | xxd
//! ```
//!
//! The last command is a hand-written gRPC call: the response is `08 01` (serving) after five bytes, and its trailer
//! `grpc-status: 0`. One layer wraps all routes, and forwards gRPC unchanged.

use std::{convert::Infallible, error::Error, io, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{net::TcpListener, time};
use tonic::service::Routes;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::{HealthReporter, health_reporter},
};
use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};

#[path = "support/listen.rs"]
mod listen;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = listen::listen(&["curl -N /events"]).await?;
    let shutdown = Shutdown::new();
    tokio::spawn(shutdown.after(stop_signal()?));
    serve(listener, &shutdown).await?;
    Ok(())
}

pub(crate) async fn serve(listener: TcpListener, shutdown: &Shutdown) -> io::Result<()> {
    let (reporter, health) = health_reporter();
    let app = routes(health).layer(SseCompletionLayer::new().shutdown(shutdown));
    let stopping = shutdown.draining();
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            stopping.await;
            end_health_watches(reporter).await;
        })
        .await
}

/// Returns the routes of tonic, an axum router that responds to unknown gRPC calls with `UNIMPLEMENTED`, and `/events`.
pub(crate) fn routes(health: HealthServer<impl Health>) -> Router {
    Routes::new(health)
        .into_axum_router()
        .route("/events", get(async || Sse::new(ticks())))
}

/// Ends the streaming gRPC calls, which the layer does not wrap. The service ends each call with a status.
async fn end_health_watches(mut reporter: HealthReporter) {
    reporter
        .set_service_status("", ServingStatus::NotServing)
        .await;
    reporter.clear_service_status("").await;
}

fn ticks() -> impl Stream<Item = Result<Event, Infallible>> {
    stream::iter(1..).then(async |number: u32| {
        time::sleep(Duration::from_millis(500)).await;
        Ok(Event::default().data(number.to_string()))
    })
}
