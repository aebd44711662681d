//! The poem example, over loopback sockets.

#[allow(dead_code, reason = "the test has a main of its own")]
#[path = "../examples/poem.rs"]
mod example;

use std::{future, net::SocketAddr};

use poem::listener::{Acceptor, Listener, TcpListener};
use testkit::{chunked::ChunkedResponse, wait::within};
use tokio::sync::oneshot;
use tower_sse_completion::Shutdown;

const CLOSE: &str = "event: close\ndata:\n\n";

async fn bind() -> (impl Acceptor + 'static, SocketAddr) {
    let acceptor = TcpListener::bind("127.0.0.1:0")
        .into_acceptor()
        .await
        .expect("a port");
    let address = acceptor.local_addr()[0].as_socket_addr().copied();
    (acceptor, address.expect("an address"))
}

#[tokio::test]
async fn stream_and_server_end_after_a_signal() {
    let (acceptor, address) = bind().await;
    let shutdown = Shutdown::new();
    let (signal, signalled) = oneshot::channel::<()>();
    let server = tokio::spawn(async move { example::serve(acceptor, &shutdown, signalled).await });

    let mut response = ChunkedResponse::get(address, "/events").await;
    assert!(response.head.contains("content-type: text/event-stream"));
    assert_eq!(response.chunk().await, "id: 1\ndata: tick\n\n");

    signal.send(()).expect("the server waits for the signal");
    // The servers may have sent more ticks in the meantime.
    let rest = response.rest().await;
    assert!(rest.ends_with(CLOSE), "{rest:?}");
    within(server).await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn empty_stream_is_closed() {
    let (acceptor, address) = bind().await;
    tokio::spawn(async {
        example::serve(acceptor, &Shutdown::new(), future::pending::<()>()).await
    });

    let mut response = ChunkedResponse::get(address, "/empty").await;
    assert_eq!(response.rest().await, CLOSE);
}
