//! Event streams that end on purpose, in a warp app.
//!
//! ```text
//! cargo run --features signal --example warp
//! curl -N http://127.0.0.1:3000/events
//! curl http://127.0.0.1:3000/hello
//! ```
//!
//! Press Ctrl-C while a stream is open: it ends with a close event, and the process is gone at once. `warp::serve`
//! takes no layers, so the filters become a service, and hyper-util serves that.

use std::{convert::Infallible, io, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time};
use tower::Layer;
use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};
use warp::{Filter, Rejection, Reply, sse::Event};

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

fn routes() -> impl Filter<Extract: Reply + Send, Error = Rejection> + Clone + Send + Sync + 'static
{
    let events = warp::path!("events")
        .and(warp::get())
        .map(|| warp::sse::reply(ticks()));
    let hello = warp::path!("hello").and(warp::get()).map(|| "hello\n");
    events.or(hello)
}

/// Serves until the shutdown begins, and every connection has ended.
pub(crate) async fn serve(listener: TcpListener, shutdown: &Shutdown) {
    let completion = SseCompletionLayer::new().shutdown(shutdown);
    let service = TowerToHyperService::new(completion.layer(warp::service(routes())));
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

fn ticks() -> impl Stream<Item = Result<Event, Infallible>> {
    stream::iter(1..).then(async |number: u32| {
        time::sleep(Duration::from_millis(500)).await;
        Ok(Event::default().data(number.to_string()))
    })
}
