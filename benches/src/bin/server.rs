//! An axum server for one client and one event stream: `server VARIANT EVENTS`. Run under callgrind.
//!
//! Every event is delivered by itself: the next one is not there before the body has been polled in vain.

use std::{convert::Infallible, io, sync::Arc};

use axum::{Router, body::Body, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use benchmarks::subjects::{do_nothing, hand_written};
use bytes::Bytes;
use futures_util::Stream;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    task,
};
use tokio_stream::wrappers::ReceiverStream;
use tower_http::map_response_body::MapResponseBodyLayer;
use tower_sse_completion::{Shutdown, SseCompletionLayer};

type Item = Result<Bytes, Infallible>;

/// What is around the event stream.
#[derive(Clone, Copy)]
enum Variant {
    Bare,
    /// In the handler, where its type is known.
    HandWritten,
    /// In the handler, around a body that is boxed already, as it is for a layer.
    HandWrittenBoxed,
    /// A layer with a body of its own, and no more.
    DoNothing,
    Layer,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [variant, events] = &arguments[..] else {
        panic!("usage: server VARIANT EVENTS");
    };
    let variant = match &variant[..] {
        "bare" => Variant::Bare,
        "hand_written" => Variant::HandWritten,
        "hand_written_boxed" => Variant::HandWrittenBoxed,
        "do_nothing" => Variant::DoNothing,
        "layer" => Variant::Layer,
        other => panic!("there is no variant {other:?}"),
    };
    let events = events.parse().expect("a number of events");

    let sent = Arc::new(Notify::new());
    let all_sent = Arc::clone(&sent);
    let handler = async move || response(variant, deliveries(events, all_sent));
    let mut app = Router::new().route("/", get(handler));
    app = match variant {
        Variant::DoNothing => app.layer(MapResponseBodyLayer::new(do_nothing::<Body>)),
        Variant::Layer => app.layer(SseCompletionLayer::new().shutdown(&Shutdown::new())),
        _ => app,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async move { sent.notified().await })
        .await
}

fn response(
    variant: Variant,
    events: impl Stream<Item = Item> + Send + 'static,
) -> impl IntoResponse {
    let close_event = Bytes::from_static(b"event: close\ndata:\n\n");
    let body = match variant {
        Variant::Bare | Variant::DoNothing | Variant::Layer => Body::from_stream(events),
        Variant::HandWritten => Body::from_stream(hand_written(events, Ok(close_event))),
        Variant::HandWrittenBoxed => {
            let boxed = Body::from_stream(events).into_data_stream();
            Body::from_stream(hand_written(boxed, Ok(close_event)))
        }
    };
    ([(CONTENT_TYPE, "text/event-stream")], body)
}

/// A task gives one event after the other, each when the connection has written the one before.
fn deliveries(events: usize, sent: Arc<Notify>) -> impl Stream<Item = Item> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let event = Bytes::from(benchmarks::upstream::event(100));
        for _ in 0..events {
            // Nobody receives when the client has left.
            let _ = sender.send(Ok(event.clone())).await;
            for _ in 0..4 {
                task::yield_now().await;
            }
        }
        sent.notify_one();
    });
    ReceiverStream::new(receiver)
}
