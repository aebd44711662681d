//! Event streams that end on purpose, in an actix-web app.
//!
//! ```text
//! cargo run -p frameworks --example actix_web [-- --port 3000]
//! curl -N http://127.0.0.1:3000/events
//! curl -N http://127.0.0.1:3000/empty
//! ```
//!
//! actix-web has its own traits for services and bodies, so Tower layers do not apply. A handler passes its stream of bytes
//! to the layer instead. Ctrl-C ends every stream with a close event, and then the server.

use std::{convert::Infallible, error::Error, io, net::TcpListener};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::Server, web};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer, stop_signal};

#[path = "../../examples/support/listen.rs"]
mod listen;

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = listen::listen(&["curl -N /events", "curl -N /empty"]).await?;
    let shutdown = Shutdown::new();
    let server = serve(listener.into_std()?, &shutdown)?;
    let handle = server.handle();
    let signal = stop_signal()?;
    actix_web::rt::spawn(async move {
        shutdown.after(signal).await;
        handle.stop(true).await;
    });
    Ok(server.await?)
}

pub fn serve(listener: TcpListener, shutdown: &Shutdown) -> io::Result<Server> {
    let completion = web::Data::new(SseCompletionLayer::new().shutdown(shutdown));
    let app = move || {
        App::new()
            .app_data(completion.clone())
            .route("/events", web::get().to(events))
            .route("/empty", web::get().to(empty))
            .route("/own", web::get().to(own_close_event))
    };
    let server = HttpServer::new(app).workers(1).disable_signals();
    Ok(server.listen(listener)?.run())
}

async fn events(request: HttpRequest, completion: web::Data<SseCompletionLayer>) -> HttpResponse {
    event_stream(completion.byte_stream(&head(&request), frameworks::ticks()))
}

async fn empty(request: HttpRequest, completion: web::Data<SseCompletionLayer>) -> HttpResponse {
    event_stream(completion.byte_stream(&head(&request), frameworks::ticks().take(0)))
}

/// Returns a stream with its own close event: options of a single stream are set on a clone of the layer.
async fn own_close_event(
    request: HttpRequest,
    completion: web::Data<SseCompletionLayer>,
) -> HttpResponse {
    let close_event = CloseEvent::new().data(r#"{"reason":"restart"}"#);
    let completion = completion.as_ref().clone().close_event(close_event);
    event_stream(completion.byte_stream(&head(&request), frameworks::ticks()))
}

/// Returns the head that the closures of `cancel_when` receive. actix-web 4 uses the types of http 0.2.
fn head(request: &HttpRequest) -> http::request::Parts {
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
    frameworks::head(
        request.method().as_str(),
        &request.uri().to_string(),
        headers,
    )
}

fn event_stream(stream: impl Stream<Item = Result<Bytes, Infallible>> + 'static) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .streaming(stream)
}
