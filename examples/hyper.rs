//! Event streams that end on purpose, without a framework: hyper, over HTTP/1.1 and HTTP/2.
//!
//! ```text
//! cargo run --features signal --example hyper [-- --port 3000]
//! curl -N http://127.0.0.1:3000/events
//! curl -N --http2-prior-knowledge http://127.0.0.1:3000/events
//! ```
//!
//! Press Ctrl-C while both streams are open: both end with a close event, and the graceful shutdown of the server returns once the
//! clients have read the event. `support/server.rs` has the server.

use std::{convert::Infallible, error::Error, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::CONTENT_TYPE,
};
use tokio::{net::TcpListener, time};
use tower::{ServiceBuilder, service_fn};
use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};

#[path = "support/listen.rs"]
mod listen;
#[path = "support/server.rs"]
mod server;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Time for streams to finish. One second later, the connections of clients that do not read are cut.
const GRACE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = listen::listen(&["curl -N /events"]).await?;
    let shutdown = Shutdown::new();
    let drain = shutdown.drain(GRACE).after(stop_signal()?);
    tokio::join!(serve(listener, &shutdown), drain);
    Ok(())
}

pub(crate) async fn serve(listener: TcpListener, shutdown: &Shutdown) {
    let service = ServiceBuilder::new()
        .layer(SseCompletionLayer::new().shutdown(shutdown))
        .service(service_fn(respond));
    server::serve(listener, service, shutdown).await;
}

async fn respond(request: Request<Incoming>) -> http::Result<Response<Body>> {
    match request.uri().path() {
        "/events" => Response::builder()
            .header(CONTENT_TYPE, "text/event-stream")
            .body(events()),
        _ => Response::builder()
            .status(StatusCode::NOT_FOUND)
            .body(Full::from("try /events\n").boxed_unsync()),
    }
}

fn events() -> Body {
    let events = stream::iter(1..).then(async |number: u32| {
        time::sleep(Duration::from_millis(500)).await;
        Ok(Frame::data(Bytes::from(format!("data: {number}\n\n"))))
    });
    StreamBody::new(events).boxed_unsync()
}
