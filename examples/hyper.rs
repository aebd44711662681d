//! Event streams that end on purpose with no framework: hyper, over HTTP/1.1 and HTTP/2.
//!
//! ```text
//! cargo run --features signal --example hyper
//! curl -N http://127.0.0.1:3000/events
//! curl -N --http2-prior-knowledge http://127.0.0.1:3000/events
//! ```
//!
//! Press Ctrl-C while both are open: they end with a close event, and then the server's own graceful shutdown has
//! nothing left to wait for.

use std::{convert::Infallible, io, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::CONTENT_TYPE,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time};
use tower::{ServiceBuilder, service_fn};
use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Time for streams to finish. One second later, the connections of clients that do not read are cut.
const GRACE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://127.0.0.1:3000/events");
    let shutdown = Shutdown::new();
    tokio::spawn(shutdown.drain_after(stop_signal()?, GRACE));
    serve(listener, &shutdown).await;
    Ok(())
}

/// Serves until the shutdown begins, and every connection has ended.
pub(crate) async fn serve(listener: TcpListener, shutdown: &Shutdown) {
    let service = ServiceBuilder::new()
        .layer(SseCompletionLayer::new().shutdown(shutdown))
        .service(service_fn(answer));
    let service = TowerToHyperService::new(service);
    let server = auto::Builder::new(TokioExecutor::new());
    let connections = GracefulShutdown::new();

    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.draining() => break,
        };
        let Ok((stream, _address)) = accepted else {
            // There may be too many open files. Some are closed soon.
            time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let stream = TokioIo::new(shutdown.connection(stream));
        let connection = server.serve_connection(stream, service.clone());
        let connection = connections.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection has failed: {error}");
            }
        });
    }

    drop(listener);
    connections.shutdown().await;
}

async fn answer(request: Request<Incoming>) -> http::Result<Response<Body>> {
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
