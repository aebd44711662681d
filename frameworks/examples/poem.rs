//! Event streams that end on purpose, in a poem app.
//!
//! ```text
//! cargo run -p frameworks --example poem [-- --port 3000]
//! curl -N http://127.0.0.1:3000/events
//! curl -N http://127.0.0.1:3000/empty
//! ```
//!
//! The body of a poem response is a stream of bytes, which the handler passes to the layer. Ctrl-C ends every stream with
//! a close event, and then the server.

use std::{error::Error, io};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use poem::{
    Body, EndpointExt, Request, Response, Route, Server, get, handler,
    listener::{Acceptor, TcpAcceptor},
    web::Data,
};
use tower_sse_completion::{Shutdown, SseCompletionLayer, stop_signal};

#[path = "../../examples/support/listen.rs"]
mod listen;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = listen::listen(&["curl -N /events", "curl -N /empty"]).await?;
    let acceptor = TcpAcceptor::from_tokio(listener)?;
    Ok(serve(acceptor, &Shutdown::new(), stop_signal()?).await?)
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
    event_stream(completion.byte_stream(&head(request), frameworks::ticks()))
}

#[handler]
fn empty(request: &Request, completion: Data<&SseCompletionLayer>) -> Response {
    event_stream(completion.byte_stream(&head(request), frameworks::ticks().take(0)))
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
