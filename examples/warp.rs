//! Event streams that end on purpose, in a warp app.
//!
//! ```text
//! cargo run --features signal --example warp [-- --port 3000]
//! curl -N http://127.0.0.1:3000/events
//! curl http://127.0.0.1:3000/hello
//! ```
//!
//! Press Ctrl-C while a stream is open: the stream ends with a close event, and the process ends as soon as the client has
//! read the event. `warp::serve` takes no layers, so the filters become a service, which hyper-util serves
//! (`support/server.rs`).

use std::{convert::Infallible, error::Error, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::{net::TcpListener, time};
use tower::Layer;
use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};
use warp::{Filter, Rejection, Reply, sse::Event};

#[path = "support/listen.rs"]
mod listen;
#[path = "support/server.rs"]
mod server;

/// Time for streams to finish. One second later, the connections of clients that do not read are cut.
const GRACE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = listen::listen(&["curl -N /events", "curl /hello"]).await?;
    let shutdown = Shutdown::new();
    let drain = shutdown.drain(GRACE).after(stop_signal()?);
    tokio::join!(serve(listener, &shutdown), drain);
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
    server::serve(
        listener,
        completion.layer(warp::service(routes())),
        shutdown,
    )
    .await;
}

fn ticks() -> impl Stream<Item = Result<Event, Infallible>> {
    stream::iter(1..).then(async |number: u32| {
        time::sleep(Duration::from_millis(500)).await;
        Ok(Event::default().data(number.to_string()))
    })
}
