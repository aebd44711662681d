//! Event streams that end on purpose, in an actix-web app.
//!
//! ```text
//! cargo run -p frameworks --example actix_web
//! curl -N http://127.0.0.1:3000/events
//! curl -N http://127.0.0.1:3000/empty
//! ```
//!
//! actix-web has a service trait and a body of its own, so that Tower layers do not apply. A handler passes its stream of
//! bytes to the layer instead. Ctrl-C ends every stream with a close event, and then the server.

use std::{convert::Infallible, io, net::TcpListener, time::Duration};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::Server, web};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::time;
use tower_sse_completion::{CloseEvent, Shutdown, SseCompletionLayer, stop_signal};

#[actix_web::main]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:3000")?;
    println!("http://127.0.0.1:3000/events");

    let shutdown = Shutdown::new();
    let server = serve(listener, &shutdown)?;
    let handle = server.handle();
    let signal = stop_signal()?;
    actix_web::rt::spawn(async move {
        shutdown.after(signal).await;
        handle.stop(true).await;
    });
    server.await
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
    event_stream(completion.byte_stream(&head(&request), ticks()))
}

async fn empty(request: HttpRequest, completion: web::Data<SseCompletionLayer>) -> HttpResponse {
    event_stream(completion.byte_stream(&head(&request), ticks().take(0)))
}

/// Returns a stream with its own close event: options of a single stream are set on a clone of the layer.
async fn own_close_event(
    request: HttpRequest,
    completion: web::Data<SseCompletionLayer>,
) -> HttpResponse {
    let close_event = CloseEvent::new().data(r#"{"reason":"restart"}"#);
    let completion = completion.as_ref().clone().close_event(close_event);
    event_stream(completion.byte_stream(&head(&request), ticks()))
}

/// Returns the head that the closures of `cancel_when` receive. actix-web has older types for it, so each part is converted.
fn head(request: &HttpRequest) -> http::request::Parts {
    let mut builder = http::Request::builder()
        .method(request.method().as_str())
        .uri(request.uri().to_string());
    for (name, value) in request.headers() {
        builder = builder.header(name.as_str(), value.as_bytes());
    }
    // What one HTTP library has parsed, another accepts. If it does not, the closures see an empty request.
    builder.body(()).unwrap_or_default().into_parts().0
}

fn event_stream(stream: impl Stream<Item = Result<Bytes, Infallible>> + 'static) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .streaming(stream)
}

fn ticks() -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::iter(1..).then(async |number| {
        time::sleep(Duration::from_millis(500)).await;
        Ok(frameworks::event(number, "tick"))
    })
}
