//! The server: a subscription that gets an event each second, and ends with a drain.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{broadcast, oneshot},
    time,
};
use tokio_stream::wrappers::BroadcastStream;
use tower_sse_completion::{Shutdown, SseCompletionLayer};

use crate::{Result, measure::allow_files};

/// Prints its address, and serves until SIGTERM. Without the layer it serves until its clients have left.
pub async fn run(layer: bool, streams: usize) -> Result<()> {
    allow_files(streams)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);

    let shutdown = Shutdown::new();
    let (stop, stopped) = oneshot::channel::<()>();
    let drain = shutdown.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        // The server is there to hear it.
        let _ = stop.send(());
        drain.drain(Duration::ZERO).await;
    });
    axum::serve(listener, app(layer, &shutdown))
        .with_graceful_shutdown(async { stopped.await.unwrap_or_default() })
        .await?;
    Ok(())
}

pub fn app(layer: bool, shutdown: &Shutdown) -> Router {
    let (news, _) = broadcast::channel(16);
    let sender = news.clone();
    tokio::spawn(async move {
        let mut seconds = time::interval(Duration::from_secs(1));
        for number in 1_u32.. {
            seconds.tick().await;
            // Nobody may be listening yet.
            let _ = sender.send(number);
        }
    });
    let app = Router::new().route("/", get(async move || Sse::new(events(&news))));
    match layer {
        true => app.layer(SseCompletionLayer::new().shutdown(shutdown)),
        false => app,
    }
}

fn events(
    news: &broadcast::Sender<u32>,
) -> impl Stream<Item = std::result::Result<Event, Infallible>> + Send + use<> {
    // A client that is too slow misses some.
    let news = BroadcastStream::new(news.subscribe()).filter_map(async |number| number.ok());
    stream::iter([0])
        .chain(news.boxed())
        .map(|number| Ok(Event::default().id(number.to_string()).data("news")))
}
