//! A server whose shutdown always ends: with both kinds of streams on one router, and clients that do not read.
//!
//! ```text
//! cargo run --features signal --example graceful_shutdown
//! curl -N http://127.0.0.1:3000/subscribe          # ends when the shutdown begins
//! curl -N -X POST http://127.0.0.1:3000/answer     # has ten seconds to finish
//! ```
//!
//! Then press Ctrl-C, or send SIGTERM. The server stops accepting connections, subscriptions end at once, and answers
//! have ten seconds. One second later, the connections of clients that do not read are cut. A second signal ends the
//! process at once.

use std::{
    convert::Infallible, error::Error, future::IntoFuture, io, net::SocketAddr, time::Duration,
};

use axum::{
    Router,
    http::Method,
    response::sse::{Event, Sse},
    routing::{get, post},
    serve::Listener,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    net::{TcpListener, TcpStream},
    time,
};
use tower_sse_completion::{
    CloseEvent, Connection, Drained, InvalidCloseEvent, Shutdown, SseCompletionLayer, stop_signal,
};

const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://127.0.0.1:3000, process {}", std::process::id());
    let drained = serve(listener, stop_signal()?).await?;
    println!(
        "{} streams ended, {} connections cut",
        drained.ended(),
        drained.connections_cut()
    );
    Ok(())
}

pub(crate) async fn serve(
    listener: TcpListener,
    signal: impl Future,
) -> Result<Drained, InvalidCloseEvent> {
    let shutdown = Shutdown::new();
    let app = app(&shutdown)?;
    let listener = CutListener {
        listener,
        shutdown: shutdown.clone(),
    };
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.draining());
    // axum's server does not fail.
    let (_, drained) = tokio::join!(server.into_future(), shutdown.drain_after(signal, GRACE));
    Ok(drained)
}

fn app(shutdown: &Shutdown) -> Result<Router, InvalidCloseEvent> {
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

/// A listener whose connections the drain can cut.
struct CutListener {
    listener: TcpListener,
    shutdown: Shutdown,
}

impl Listener for CutListener {
    type Io = Connection<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The method of the trait waits and tries again if there are too many open files.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (self.shutdown.connection(stream), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
