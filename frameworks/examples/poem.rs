//! Event streams that end on purpose, in a poem app.
//!
//! ```text
//! cargo run -p frameworks --example poem
//! curl -N http://127.0.0.1:3000/events
//! curl -N http://127.0.0.1:3000/empty
//! ```
//!
//! The body of a poem response is a stream of bytes, which the handler passes to the layer. Ctrl-C ends every stream with
//! a close event, and then the server.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use poem::{
    Body, EndpointExt, Request, Response, Route, Server, get, handler,
    listener::{Acceptor, Listener, TcpListener},
    web::Data,
};
use tokio::time;
use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};

#[tokio::main]
async fn main() -> io::Result<()> {
    let acceptor = TcpListener::bind("127.0.0.1:3000").into_acceptor().await?;
    println!("http://127.0.0.1:3000/events");

    let shutdown = Shutdown::new();
    serve(acceptor, &shutdown, stop_signal()?).await
}

pub async fn serve(
    acceptor: impl Acceptor + 'static,
    shutdown: &Shutdown,
    signal: impl Future + Send + 'static,
) -> io::Result<()> {
    let completion = SseCompletionLayer::new().shutdown(shutdown);
    let app = Route::new()
        .at("/events", get(events))
        .at("/empty", get(empty))
        .data(completion);
    Server::new_with_acceptor(acceptor)
        .run_with_graceful_shutdown(app, shutdown.after(signal), None)
        .await
}

#[handler]
fn events(request: &Request, completion: Data<&SseCompletionLayer>) -> Response {
    event_stream(completion.byte_stream(&head(request), ticks()))
}

#[handler]
fn empty(request: &Request, completion: Data<&SseCompletionLayer>) -> Response {
    event_stream(completion.byte_stream(&head(request), ticks().take(0)))
}

/// Returns the head that the closures of `cancel_when` receive.
fn head(request: &Request) -> http::request::Parts {
    let mut head = http::Request::new(()).into_parts().0;
    head.method = request.method().clone();
    head.uri = request.uri().clone();
    head.headers = request.headers().clone();
    head
}

fn event_stream(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response {
    Response::builder()
        .content_type("text/event-stream")
        .body(Body::from_bytes_stream(stream))
}

fn ticks() -> impl Stream<Item = io::Result<Bytes>> {
    stream::iter(1..).then(async |number| {
        time::sleep(Duration::from_millis(500)).await;
        Ok(frameworks::event(number, "tick"))
    })
}
