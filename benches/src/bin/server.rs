//! An axum server with one event stream for one client: `server VARIANT bare|wrapped EVENTS`. Run under callgrind.
//!
//! Every event is delivered in a separate write: the next event is sent after a poll in which the body was pending.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::Router;
use benchmarks::{
    upstream::event,
    variants::{Stop, Variant},
};
use bytes::Bytes;
use futures_util::Stream;
use testkit::listener::MapSocket;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    task,
};
use tokio_stream::wrappers::ReceiverStream;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [variant, connection, events] = &arguments[..] else {
        panic!("usage: server VARIANT bare|wrapped EVENTS");
    };
    let variant = Variant::named(variant);
    let events = events.parse().expect("a number of events");

    let (stop, sent) = (Stop::default(), Arc::new(Notify::new()));
    let (handler_stop, all_sent) = (stop.clone(), Arc::clone(&sent));
    let handler = async move || variant.respond(&handler_stop, deliveries(events, all_sent));
    let app = Router::new().route("/", variant.route(&stop, handler));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let all_sent = async move { sent.notified().await };
    match &connection[..] {
        "bare" => {
            axum::serve(listener, app)
                .with_graceful_shutdown(all_sent)
                .await
        }
        "wrapped" => {
            let shutdown = stop.shutdown.clone();
            let listener = MapSocket::new(listener, move |stream| {
                shutdown
                    .connection(stream)
                    .write_timeout(Duration::from_secs(30))
            });
            axum::serve(listener, app)
                .with_graceful_shutdown(all_sent)
                .await
        }
        other => panic!("unknown connection {other:?}"),
    }
}

/// Returns a stream whose task sends each event after the connection has written the previous one.
fn deliveries(events: usize, sent: Arc<Notify>) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let event = Bytes::from(event(100));
        for _ in 0..events {
            // An error means that the client has left.
            let _ = sender.send(Ok(event.clone())).await;
            for _ in 0..4 {
                task::yield_now().await;
            }
        }
        sent.notify_one();
    });
    ReceiverStream::new(receiver)
}
