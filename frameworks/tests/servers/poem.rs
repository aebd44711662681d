//! The poem example.

#[allow(dead_code, reason = "the test has a main of its own")]
#[path = "../../examples/poem.rs"]
mod example;

use poem::listener::TcpAcceptor;

use crate::support::{Server, assert_empty_is_closed};

async fn start() -> Server {
    Server::start(|listener, shutdown, signal| async move {
        let acceptor = TcpAcceptor::from_tokio(listener)?;
        example::serve(acceptor, &shutdown, signal).await
    })
    .await
}

#[tokio::test]
async fn stream_and_server_end_after_a_signal() {
    start().await.assert_ends().await;
}

#[tokio::test]
async fn empty_stream_is_closed() {
    let server = start().await;
    assert_empty_is_closed(server.address).await;
}
