//! The poem example.

#[allow(dead_code, reason = "the test has a main of its own")]
#[path = "../../examples/poem.rs"]
mod example;

use std::{future::pending, io, net::SocketAddr};

use poem::listener::TcpAcceptor;
use testkit::{server::listen, wait::within};
use tokio::{sync::oneshot, task::JoinHandle};
use tower_sse_completion::Shutdown;

use crate::support::{CLOSE, assert_closed, assert_empty_is_closed, open};

async fn serve(
    signal: impl Future + Send + 'static,
) -> (SocketAddr, Shutdown, JoinHandle<io::Result<()>>) {
    let (listener, address) = listen().await;
    let acceptor = TcpAcceptor::from_tokio(listener).expect("an address");
    let shutdown = Shutdown::new();
    let of_server = shutdown.clone();
    let server = async move { example::serve(acceptor, &of_server, signal).await };
    (address, shutdown, tokio::spawn(server))
}

#[tokio::test]
async fn stream_and_server_end_after_a_signal() {
    let (signal, signalled) = oneshot::channel::<()>();
    let (address, shutdown, server) = serve(signalled).await;
    let stream = open(address, "/events").await;
    assert_eq!(shutdown.open_streams(), 1);

    signal.send(()).expect("the server waits for the signal");
    assert_closed(stream, CLOSE).await;
    within(server).await.expect("no panic").expect("no error");
    assert_eq!(shutdown.open_streams(), 0);
}

#[tokio::test]
async fn empty_stream_is_closed() {
    let (address, _, _) = serve(pending::<()>()).await;
    assert_empty_is_closed(address).await;
}
