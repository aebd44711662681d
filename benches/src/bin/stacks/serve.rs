//! The axum server, which sends endless numbered events.

use std::{collections::HashMap, convert::Infallible, io, time::Duration};

use axum::{Router, extract::Query, serve::ListenerExt};
use benchmarks::variants::{Stop, Variant};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task, time,
};
use tokio_stream::wrappers::IntervalStream;

/// Serves until SIGTERM.
///
/// # Errors
///
/// Fails if the server cannot listen.
pub async fn serve(variant: &str) -> io::Result<()> {
    let variant = Variant::named(variant);
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);

    let stop = Stop::default();
    let handler_stop = stop.clone();
    let handler = async move |Query(parameters): Query<HashMap<String, u64>>| {
        variant.respond(&handler_stop, events(parameters["interval_ms"]))
    };
    let app = Router::new().route("/events", variant.route(&stop, handler));
    // uvicorn sets this option too.
    let listener = listener.tap_io(|socket| socket.set_nodelay(true).expect("a connection"));
    let signal = stop.shutdown.after(async move {
        terminate.recv().await;
        stop.token.cancel();
    });
    axum::serve(listener, app)
        .with_graceful_shutdown(signal)
        .await
}

/// Returns events with this pause between them. Without a pause, each event lets the other streams run.
fn events(interval_ms: u64) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let numbers = stream::iter(1_u64..);
    let numbers = match interval_ms {
        0 => numbers
            .then(async |number| {
                task::yield_now().await;
                number
            })
            .left_stream(),
        interval => IntervalStream::new(time::interval(Duration::from_millis(interval)))
            .zip(numbers)
            .map(|(_, number)| number)
            .right_stream(),
    };
    numbers.map(|number| Ok(format!("id: {number}\ndata: event {number}\n\n").into()))
}
