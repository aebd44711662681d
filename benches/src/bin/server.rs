//! An axum server with one event stream for one client: `server VARIANT SHAPE`. Run under callgrind.
//!
//! Every event is delivered in a separate write: the next event is sent after a poll in which the body was pending.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::Router;
use benchmarks::{
    callgrind::mark,
    subjects::UNITS,
    tables::name,
    upstream::Shape,
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
    let [variant_name, shape_name] = &arguments[..] else {
        panic!("usage: server VARIANT SHAPE");
    };
    let variant = Variant::named(variant_name);
    let shape = Shape::all()
        .into_iter()
        .find(|shape| shape.name == shape_name);
    let event = shape.expect("a known shape").frame();

    let (stop, sent) = (Stop::default(), Arc::new(Notify::new()));
    let (handler_stop, all_sent) = (stop.clone(), Arc::clone(&sent));
    let handler = async move || variant.respond(&handler_stop, deliveries(event, all_sent));
    let app = Router::new().route("/", variant.route(&stop, handler));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let all_sent = async move { sent.notified().await };
    if variant == Variant::LayerAndConnection {
        let timeout = Duration::from_secs(30);
        let listener = MapSocket::new(listener, move |stream| {
            stop.shutdown.connection(stream).write_timeout(timeout)
        });
        axum::serve(listener, app)
            .with_graceful_shutdown(all_sent)
            .await?;
    } else {
        axum::serve(listener, app)
            .with_graceful_shutdown(all_sent)
            .await?;
    }
    println!("{}", name("delivery", shape_name, variant_name));
    Ok(())
}

/// Returns a stream whose task sends each event after the connection has written the previous one.
fn deliveries(event: Bytes, sent: Arc<Notify>) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let send = async |events| {
            for _ in 0..events {
                // An error means that the client has left.
                let _ = sender.send(Ok(event.clone())).await;
                for _ in 0..4 {
                    task::yield_now().await;
                }
            }
            mark();
        };
        send(UNITS / 8).await;
        send(UNITS).await;
        drop(sender);
        sent.notify_one();
    });
    ReceiverStream::new(receiver)
}
