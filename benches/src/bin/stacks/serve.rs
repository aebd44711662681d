//! The axum server: numbered events for ever, with a pause in between, or none but for the other streams.

use std::{collections::HashMap, convert::Infallible, io, time::Duration};

use axum::{
    Router,
    extract::Query,
    response::sse::{Event, Sse},
    routing::get,
    serve::ListenerExt,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task, time,
};
use tokio_stream::wrappers::IntervalStream;
use tower_sse_completion::{Shutdown, SseCompletionLayer};

/// With the layer where the side is `layer`, until SIGTERM.
///
/// # Errors
///
/// Where it cannot listen.
pub async fn serve(side: &str) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);

    let shutdown = Shutdown::new();
    let mut app = Router::new().route("/events", get(events));
    if side == "layer" {
        app = app.layer(SseCompletionLayer::new().shutdown(&shutdown));
    }
    // As uvicorn does.
    let listener = listener.tap_io(|socket| {
        socket.set_nodelay(true).expect("a connection");
    });
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.after(async move { terminate.recv().await }))
        .await
}

async fn events(
    Query(parameters): Query<HashMap<String, u64>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let numbers = stream::iter(1_u64..);
    Sse::new(match parameters["interval_ms"] {
        0 => numbers
            .then(async |number| {
                task::yield_now().await;
                numbered(number)
            })
            .left_stream(),
        interval => IntervalStream::new(time::interval(Duration::from_millis(interval)))
            .zip(numbers)
            .map(|(_, number)| numbered(number))
            .right_stream(),
    })
}

fn numbered(number: u64) -> Result<Event, Infallible> {
    let event = Event::default().id(number.to_string());
    Ok(event.data(format!("event {number}")))
}
