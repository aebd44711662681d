//! The poem example.

#[allow(dead_code, reason = "the test has a main of its own")]
#[path = "../../examples/poem.rs"]
mod example;

use poem::listener::TcpAcceptor;

use crate::support::Server;

#[tokio::test]
async fn streams_and_server_end() {
    let server = Server::start(|listener, shutdown, signal| async move {
        let acceptor = TcpAcceptor::from_tokio(listener)?;
        example::serve(acceptor, &shutdown, signal).await
    });
    server.await.assert_closes_and_ends().await;
}
