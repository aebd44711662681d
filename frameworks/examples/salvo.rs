//! Event streams that end on purpose, in a salvo app.
//!
//! ```text
//! cargo run -p frameworks --example salvo [-- --port 3000]
//! curl -N http://127.0.0.1:3000/events
//! curl -N http://127.0.0.1:3000/empty
//! ```
//!
//! With the feature `tower-compat`, salvo accepts a Tower layer as middleware, and handlers need no change. Ctrl-C ends
//! every stream with a close event, and then the server.

use std::{convert::Infallible, error::Error, io};

use futures_util::{Stream, StreamExt, stream};
use salvo::{
    Response, Router, Server,
    conn::tcp::TcpAcceptor,
    handler,
    http::ReqBody,
    prelude::TowerLayerCompat,
    sse::{self, SseEvent},
};
use tokio::{
    net::TcpListener,
    time::{self, Duration},
};
use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};

#[path = "../../examples/support/listen.rs"]
mod listen;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = listen::listen(&["curl -N /events", "curl -N /empty"]).await?;
    Ok(serve(listener, &Shutdown::new(), stop_signal()?).await?)
}

pub async fn serve(
    listener: TcpListener,
    shutdown: &Shutdown,
    signal: impl Future + Send + 'static,
) -> io::Result<()> {
    let completion = SseCompletionLayer::new().shutdown(shutdown);
    let router = Router::new()
        .hoop(completion.compat::<ReqBody>())
        .push(Router::with_path("events").get(events))
        .push(Router::with_path("empty").get(empty));
    let server = Server::new(TcpAcceptor::try_from(listener)?);
    let (closed, handle) = (shutdown.after(signal), server.handle());
    tokio::spawn(async move {
        closed.await;
        handle.stop_graceful(None);
    });
    server.try_serve(router).await
}

#[handler]
async fn events(response: &mut Response) {
    sse::stream(response, ticks());
}

#[handler]
async fn empty(response: &mut Response) {
    sse::stream(response, ticks().take(0));
}

fn ticks() -> impl Stream<Item = Result<SseEvent, Infallible>> {
    stream::iter(1..).then(async |number: u32| {
        time::sleep(Duration::from_millis(500)).await;
        Ok(SseEvent::default().id(number.to_string()).text("tick"))
    })
}
